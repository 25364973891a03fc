"""Models: a configurable mixture-of-experts transformer. Knows torch alone."""
