"""Studies: one question about training or judging a file, answered by runs of the commands."""
