"""What a run is: model, training and data, and the hash that addresses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_models.config import ModelConfig
from moe_models.errors import require
from moe_models.registry import dataclass_from_dict, to_dict

PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained and evaluated."""

    updates: int
    """Optimizer updates in all."""
    batch_size: int
    """Sequences a micro-batch."""
    seq_len: int
    """Tokens a sequence."""
    accumulation: int = 1
    """Micro-batches an update."""
    optimizer: str = "muon"
    """`muon`: Muon on the blocks' matrices and AdamW on the rest; `adamw`: AdamW on everything."""
    muon_learning_rate: float = 0.01
    muon_momentum: float = 0.95
    adamw_learning_rate: float = 0.001
    weight_decay: float = 0.1
    """Of AdamW, decoupled."""
    warmup_fraction: float = 0.05
    """Share of the updates over which the learning rate rises linearly from 0."""
    final_learning_rate_fraction: float = 0.1
    """Where the cosine ends, at the last update."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient."""
    precision: str = "fp32"
    """`fp32`, or `bf16` for bf16 autocast with fp32 weights."""
    row_every: int = 25
    """Updates between two rows of the curve."""
    evaluate_every: int = 100
    """Updates between two evaluations of the validation split; the last update is always evaluated."""
    evaluation_batch_size: int = 64
    """Sequences a forward pass in evaluation."""

    def __post_init__(self) -> None:
        for name in (
            "updates", "batch_size", "seq_len", "accumulation", "row_every", "evaluate_every", "evaluation_batch_size",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"{name} must be 1 or more but got {getattr(self, name)}")
        for name in ("muon_learning_rate", "adamw_learning_rate", "gradient_clip"):
            require(getattr(self, name) > 0, f"{name} must be positive but got {getattr(self, name)}")
        for name in ("warmup_fraction", "final_learning_rate_fraction", "muon_momentum"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1] but got {getattr(self, name)}")
        require(self.weight_decay >= 0, f"weight_decay must be 0 or more but got {self.weight_decay}")
        for name, allowed in (
            ("precision", PRECISIONS),
            ("optimizer", OPTIMIZERS),
        ):
            value = getattr(self, name)
            require(value in allowed, f"{name} must be one of {', '.join(allowed)} but got '{value}'")

    @property
    def tokens_per_update(self) -> int:
        """Training tokens that one optimizer update sees."""
        return self.batch_size * self.seq_len * self.accumulation


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens: the corpus by name and, decisively, by content."""

    corpus: str
    content_hash: str
    """Hash of the tokens of all splits (see trainables.data)."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that decides a result but the seed."""

    model: ModelConfig
    training: TrainingConfig
    data: DataConfig = field()

    def __post_init__(self) -> None:
        require(
            self.training.seq_len <= self.model.max_seq_len,
            f"seq_len ({self.training.seq_len}) must be <= max_seq_len ({self.model.max_seq_len})",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` rebuilds this configuration."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialConfig:
        """Rebuild a configuration from `to_dict`'s output."""
        return cls(
            model=ModelConfig.from_dict(data["model"]),
            training=dataclass_from_dict(TrainingConfig, data["training"], "training"),
            data=dataclass_from_dict(DataConfig, data["data"], "data"),
        )

    def hash(self, seed: int) -> str:
        """Return the address of this configuration's run with the given seed: 16 hex digits of SHA-256."""
        return stable_hash({**self.to_dict(), "seed": seed})


def stable_hash(data: Mapping[str, Any]) -> str:
    """Return 16 hex digits of the SHA-256 of the data's canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
