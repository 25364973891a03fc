"""What every part of the analysis is about: the runs of a study, checked, and what its plan said beforehand."""
