"""What a run is: model, training and data, and the hash that addresses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from moe_models.config import ModelConfig
from moe_models.errors import require
from moe_models.registry import dataclass_from_dict, published_setting, to_dict
from moe_models.streams import derive_seed

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
    horizon_in_micro_steps: bool = published_setting(False)
    """Rebuilds a published flaw: warm-up and cosine are laid over updates x accumulation updates, of which `updates`
    are made, so that training stops part of the way."""
    evaluation_batches: int | None = published_setting(None)
    """Rebuilds a published flaw: only so many batches are evaluated, the first ones."""

    def __post_init__(self) -> None:
        for name in (
            "updates", "batch_size", "seq_len", "accumulation", "row_every", "evaluate_every", "evaluation_batch_size",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"{name} must be 1 or more but got {getattr(self, name)}")
        for name in ("muon_learning_rate", "adamw_learning_rate", "gradient_clip"):
            require(getattr(self, name) > 0, f"{name} must be positive but got {getattr(self, name)}")
        for name in ("warmup_fraction", "final_learning_rate_fraction", "muon_momentum"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1] but got {getattr(self, name)}")
        first = self.evaluation_batches
        require(first is None or first >= 1, f"evaluation_batches must be 1 or more but got {first}")
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

    @property
    def horizon(self) -> int:
        """Updates over which the learning rate is laid: all that are made, unless a flaw says otherwise."""
        return self.updates * (self.accumulation if self.horizon_in_micro_steps else 1)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens: the corpus by name and, decisively, by content."""

    corpus: str
    content_hash: str
    """Hash of the tokens of all splits (see trainables.data)."""
    first_tokens: int | None = published_setting(None)
    """Only so many tokens are trained on, the corpus's first training tokens (all where it has fewer): a setting of the
    published studies, no flaw."""
    overlapping_windows: bool = published_setting(False)
    """Rebuilds a published flaw: windows at every token of what is trained on, a random tenth of them to validate."""

    def __post_init__(self) -> None:
        first = self.first_tokens
        require(first is None or first >= 2, f"first_tokens must be 2 or more but got {first}")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that decides a result but the seed."""

    model: ModelConfig
    training: TrainingConfig
    data: DataConfig
    place: int | None = published_setting(None)
    """Rebuilds a published flaw: all random streams are drawn from the seed and this place in the order of training, as
    one random state that runs on through all variants would. None: cells share the seed's streams."""
    data_seed: int | None = published_setting(None)
    """The seed that the order of the training data is drawn from, in a study that varies it apart from the initial
    values; None: the run's own seed, which all other streams have."""
    declared_model: ModelConfig | None = published_setting(None)
    """Rebuilds a published flaw: what the name says, where `model` was trained instead of it."""
    counts_declared: bool = published_setting(False)
    """Whether the parameters given are those of `declared_model`, as one published table printed them."""

    def __post_init__(self) -> None:
        require(
            self.training.seq_len <= self.model.max_seq_len,
            f"seq_len ({self.training.seq_len}) must be <= max_seq_len ({self.model.max_seq_len})",
        )
        require(
            not self.counts_declared or self.declared_model is not None,
            "counts_declared needs a declared_model to count",
        )

    @property
    def counted_model(self) -> ModelConfig:
        """The model whose parameters are given: the one that is trained, unless a flaw says otherwise."""
        return self.declared_model if self.counts_declared and self.declared_model is not None else self.model

    def stream_seed(self, seed: int) -> int:
        """Return the seed of a run's random streams: the seed itself, unless a flaw says otherwise."""
        return seed if self.place is None else derive_seed(seed, "place", self.place)

    def data_stream_seed(self, seed: int) -> int:
        """Return the seed of the order in which a run sees its training data."""
        return self.stream_seed(seed if self.data_seed is None else self.data_seed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` rebuilds this configuration."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialConfig:
        """Rebuild a configuration from `to_dict`'s output."""
        parts: dict[str, Callable[[Any], Any]] = {
            "model": ModelConfig.from_dict,
            "training": lambda part: dataclass_from_dict(TrainingConfig, part, "training"),
            "data": lambda part: dataclass_from_dict(DataConfig, part, "data"),
            "declared_model": ModelConfig.from_dict,
        }
        rebuilt = {name: parts[name](part) if name in parts else part for name, part in data.items()}
        return cast(TrialConfig, dataclass_from_dict(cls, rebuilt, "trial"))

    def hash(self, seed: int) -> str:
        """Return the address of this configuration's run with the given seed: 16 hex digits of SHA-256."""
        return stable_hash({**self.to_dict(), "seed": seed})


def stable_hash(data: Mapping[str, Any]) -> str:
    """Return 16 hex digits of the SHA-256 of the data's canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
