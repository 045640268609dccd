"""Training: samplers (``batches``), settings (``config``), the training loop, checkpoints."""
