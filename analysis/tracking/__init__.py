"""MLflow's copy of a study: where it is, how the driver writes it, how its runs are read back."""
