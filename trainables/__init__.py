"""Training one (cell, seed): data, optimizers, loop, and the bridge to Ray Tune."""
