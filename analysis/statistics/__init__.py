"""Arrays in, numbers out: tests, intervals, effect sizes, boundaries and designs. Know nothing of studies."""
