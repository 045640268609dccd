"""Training: batches of chosen languages, settings (``config``), the loop, checkpoints."""
