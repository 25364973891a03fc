"""Random streams: every draw in the project comes from a generator derived from (seed, keys).

Streams are counter-based: a draw at update 17 depends on (seed, what it is for, where, 17) and on nothing that was
drawn before. Therefore two cells of a study share every draw that has equal keys (common random numbers), and a
resumed run needs no generator state to continue exactly. torch's global generator is never used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


def derive_seed(seed: int, *keys: str | int) -> int:
    """Return a 63-bit seed for the stream named by `keys` (SHA-256 of their text; stable across versions)."""
    text = "/".join(str(key) for key in (seed, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *keys: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator at the start of the stream named by `keys`.

    On a CPU torch keeps the lower 32 bits of a seed: of 50,000 streams two are equal with a probability of 25 %, at
    places that chance picks.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *keys))


@dataclass(frozen=True)
class Noise:
    """The source of all noise in one training forward pass; evaluation passes `None` instead.

    Attributes:
        seed: the run's seed.
        update: optimizer update, counted from 0.
        micro_step: micro-batch within the update, counted from 0.
    """

    seed: int
    update: int
    micro_step: int

    def generator(self, purpose: str, role: str, device: torch.device) -> torch.Generator:
        """Return the stream for one purpose ("dropout", "router_noise") at one place of the model (its role)."""
        return generator(self.seed, purpose, role, self.update, self.micro_step, device=device)
