"""The training state and the training step, as pure functions."""
