"""What all tests share."""

from __future__ import annotations

import torch

# As in a trial on a CPU: another number of threads splits sums otherwise, and exact comparisons would fail.
torch.set_num_threads(1)
