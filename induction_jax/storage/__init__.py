"""A run on disk: checkpoints, history, results and the run directory."""
