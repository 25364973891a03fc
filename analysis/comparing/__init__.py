"""What a study's cells come to: differences with tests and verdicts, ranks, costs, growth, sources of spread."""
