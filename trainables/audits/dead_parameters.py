"""`dead_parameters`: parameters that no gradient, or no optimizer, reached in the whole run.

Shapes: R rows of a parameter (last dimension), elements of a vector; E experts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.schema import NOTE, WARNING, Audit
from moe_models.feed_forward.moe import Experts
from moe_models.model import MoETransformer
from trainables.witness import Witness, sample

NAME = "dead_parameters"
NOTHING = 1e-5
"""A row's largest average of gradients is nothing below this share of the median row's of its module."""
WORTH_A_WARNING = 0.01
"""Share of dead parameters from which on a figure per parameter misleads."""
INNOCENT = {
    "attention.qkv.bias": "a key's bias moves all scores of a query alike where nothing turns it by its position",
    "attention.key.bias": "a key's bias moves all scores of a query alike where nothing turns it by its position",
}
"""Endings of the names of parameters that can be dead in a sound model, and why."""
SHOWN = 3
"""Modules that the evidence names."""


@dataclass(frozen=True)
class _Rows:
    """The rows of one parameter."""

    dead_R: Tensor
    """Whether each row is dead, bool, on the CPU."""
    width: int
    """Parameters a row."""

    @property
    def count(self) -> int:
        """Dead parameters."""
        return int(self.dead_R.sum()) * self.width

    @property
    def all(self) -> bool:
        """Whether the whole parameter is dead."""
        return bool(self.dead_R.all())


@dataclass(frozen=True)
class Dead:
    """What is dead in a model."""

    count: int
    """Dead parameters; known innocents and experts that were never chosen are none."""
    audit: Audit | None
    """What is to be said of them."""


def find(model: MoETransformer, witness: Witness, trained: Collection[Tensor]) -> Dead:
    """Count the parameters without a gradient over the run, or out of reach of every optimizer.

    A row is dead where the largest average of its gradients over the run is absent, or nothing against the median of
    its module's rows, and where its parameter is what it was before the first update. A gradient at any single update
    is in the averages, so that what trains seldom is alive. Experts that no token was ever sent to are a note, as is a
    small share of dead rows; a whole dead tensor is a warning.

    Args:
        model: as trained.
        witness: what it saw of the gradients.
        trained: the parameters that some optimizer holds.
    """
    rows = _rows(model, witness, {id(parameter) for parameter in trained})
    unchosen = _take_unchosen_experts(model, rows, witness.loads)
    guilty = {name: r for name, r in rows.items() if r.count and not _is_innocent(name, witness)}
    if not guilty and not unchosen:
        return Dead(0, None)
    total = sum(parameter.numel() for parameter in model.parameters())
    dead = sum(r.count for r in guilty.values())
    evidence = []
    if guilty:
        places = _places(guilty, rows)
        shown = ", ".join(f"{place} ({count:,})" for place, count in list(places.items())[:SHOWN])
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        evidence.append(
            f"{dead:,} of {total:,} parameters ({dead / total:.1%}) got no gradient or no update in "
            f"{witness.updates:,} updates: {shown}{more}"
        )
    if unchosen:
        shown = ", ".join(f"{len(experts)} in {name}" for name, experts in list(unchosen.items())[:SHOWN])
        evidence.append(f"experts never chosen in {witness.updates:,} updates: {shown}")
    is_warning = any(r.all for r in guilty.values()) or dead >= WORTH_A_WARNING * total
    severity = WARNING if is_warning else NOTE
    return Dead(dead, Audit(name=NAME, severity=severity, evidence="; ".join(evidence)))


def _rows(model: MoETransformer, witness: Witness, trained: Collection[int]) -> dict[str, _Rows]:
    """Judge each row of each parameter against the median row of its module: a block's attention, its norm, ..."""
    largest: dict[str, Tensor] = {}
    by_module: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        row_count = parameter.numel() // _width(parameter)
        is_trained = id(parameter) in trained and not torch.equal(sample(parameter), witness.initial[name])
        seen_R = witness.largest.get(name) if is_trained else None
        largest[name] = torch.zeros(row_count) if seen_R is None else seen_R.cpu()
        by_module.setdefault(_module(name), []).append(largest[name])
    limit = {module: NOTHING * torch.cat(parts).median().item() for module, parts in by_module.items()}
    return {
        name: _Rows(largest[name] <= limit[_module(name)], _width(parameter))
        for name, parameter in model.named_parameters()
    }


def _is_innocent(name: str, witness: Witness) -> bool:
    """Return whether a dead parameter is a known one; without any gradient, not even rounding's, none is."""
    return name in witness.largest and name.endswith(tuple(INNOCENT))


def _width(parameter: Tensor) -> int:
    return parameter.shape[-1] if parameter.ndim > 1 else 1


def _module(name: str) -> str:
    """Return the part of the model that a parameter belongs to: `layers.0.attention`, `embedding`."""
    return ".".join(name.split(".")[: 3 if name.startswith("layers.") else 1])


def _take_unchosen_experts(
    model: MoETransformer, rows: dict[str, _Rows], loads: Mapping[str, Tensor]
) -> dict[str, list[int]]:
    """Return the experts that got no token, so that all their rows are dead, and count these rows as living."""
    unchosen: dict[str, list[int]] = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, Experts):
            continue
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        dead_ER = torch.cat([rows[name].dead_R.view(module.n_experts, -1) for name in names], dim=1)
        load_E = loads[f"{prefix.rpartition('.')[0]}.router"].cpu()
        experts = dead_ER.all(dim=1) & (load_E == 0)
        if not experts.any() or experts.all():
            continue
        unchosen[prefix] = experts.nonzero().flatten().tolist()
        for name in names:
            dead_R = (rows[name].dead_R.view(module.n_experts, -1) & ~experts.unsqueeze(1)).flatten()
            rows[name] = _Rows(dead_R, rows[name].width)
    return unchosen


def _places(guilty: Mapping[str, _Rows], rows: Mapping[str, _Rows]) -> dict[str, int]:
    """Return dead parameters by place, most first: the largest module that is dead as a whole, or the parameter."""
    places: dict[str, int] = {}
    for name, r in guilty.items():
        place = _dead_module(name, rows) if r.all else f"rows of {name}"
        places[place] = places.get(place, 0) + r.count
    return dict(sorted(places.items(), key=lambda item: -item[1]))


def _dead_module(name: str, rows: Mapping[str, _Rows]) -> str:
    parts = name.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth])
        if all(r.all for other, r in rows.items() if other.startswith(f"{prefix}.")):
            return prefix
    return name
