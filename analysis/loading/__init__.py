"""Results from wherever they are: a study's folder, anyone's CSV, an MLflow store."""
