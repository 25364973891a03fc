"""What a search for hyperparameters showed, with a report and figures of its own."""
