"""Training: optimizer, state, step, checkpoints, metrics."""
