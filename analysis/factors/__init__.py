"""Effects of whole factors over a complete grid: contrasts, interactions, Shapley values."""
