"""The engine of all studies: options, plan, running, tracking, progress."""
