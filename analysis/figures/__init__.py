"""The figures of a report, one look for all."""
