"""The training state, the optimiser and the training step: pure functions."""
