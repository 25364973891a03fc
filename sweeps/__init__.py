"""Studies: which cells, seeds and scales; running, tracking and progress."""
