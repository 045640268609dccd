"""Studies: each file answers one question about training or evaluation by running commands."""
