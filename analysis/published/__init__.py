"""The published tables as data: every figure as it was printed, and what was really trained under its name.

One CSV a study, named after the script that trains it soundly (`exp6_grid.csv` for `sweeps/exp6_grid.py`), and
`claims.csv`: what the reports say in words. Figures stay texts until they are needed: "0.50" is a rounded number.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.text import listing

FOLDER = Path(__file__).parent
CLAIMS = "claims"

Interval = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True)
class Printed:
    """A number as it was printed."""

    text: str

    @property
    def value(self) -> float:
        """The number itself."""
        return float(self.text)

    @property
    def interval(self) -> Interval:
        """All numbers that are printed so: half a unit of the last decimal to either side."""
        number = Decimal(self.text)
        half = Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
        return float(number - half), float(number + half)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of a published table; figures that the table does not have are None."""

    rank: int
    """By validation loss, 1 is best."""
    variant: str
    """The published name."""
    cell: str
    """The cell of this project's study that trains what the name says."""
    really: str | None
    """The cell whose architecture was trained under the name, apart from `remark`; None where no cell is that."""
    remark: str
    """What else was not as the name says, apart from what all studies share (data, schedule, evaluation, seed)."""
    val_loss: Printed
    """Nats per token."""
    val_accuracy: Printed
    """Share of tokens, 0 to 1."""
    val_perplexity: Printed
    """Said to be exp(val_loss)."""
    train_minutes: Printed
    params_total: int
    """Trainable parameters, exact."""
    peak_memory_gb: Printed | None
    final_step_train_loss: Printed | None
    """Nats per token, of the last step alone."""
    efficiency_score: Printed | None
    """Said to be 1 / (minutes x loss x million parameters)."""
    loss_per_million_params: Printed | None
    """Said to be loss / million parameters."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison of two variants' losses that a report states in words."""

    variant: str
    against: str
    """The variant that it is compared with."""
    figure: str
    """A key of `analysis.published.derived.FORMULAS` (`change, %` of the loss, `times lower`), or `effect size`."""
    value: Printed
    remark: str


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """All that was printed of one study."""

    study: str
    """Name of the script that trains it soundly."""
    rows: tuple[PublishedRow, ...]
    """By rank."""
    claims: tuple[Claim, ...]

    @cached_property
    def by_variant(self) -> dict[str, PublishedRow]:
        """Rows by their published name."""
        return {row.variant: row for row in self.rows}


def published_studies() -> list[str]:
    """Return the names of the studies that have a table."""
    return sorted(path.stem for path in FOLDER.glob("*.csv") if path.stem != CLAIMS)


def load_published(name: str) -> PublishedTable:
    """Return a study's published table.

    Args:
        name: its script's name, or as much of its beginning as says which it is: `exp6` is `exp6_grid`.

    Raises:
        AnalysisError: no study with a table is called so, or several are.
    """
    known = published_studies()
    found = [name] if name in known else [study for study in known if name and study.startswith(name)]
    if not found:
        near = difflib.get_close_matches(name, [*known, *(study.partition("_")[0] for study in known)], n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise AnalysisError(f"there is no published table of '{name}': {hint}there are those of {listing(known)}")
    if len(found) > 1:
        raise AnalysisError(f"'{name}' may be {' or '.join(found)}: name one")
    study = found[0]
    return PublishedTable(
        study=study,
        rows=tuple(_row(raw) for raw in _read(study)),
        claims=tuple(
            Claim(
                variant=raw["variant"],
                against=raw["against"],
                figure=raw["figure"],
                value=Printed(raw["value"]),
                remark=raw["remark"],
            )
            for raw in _read(CLAIMS)
            if raw["study"] == study
        ),
    )


def _read(stem: str) -> list[dict[str, str]]:
    with (FOLDER / f"{stem}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _row(raw: dict[str, str]) -> PublishedRow:
    def optional(name: str) -> Printed | None:
        return Printed(raw[name]) if raw[name] else None

    return PublishedRow(
        rank=int(raw["rank"]),
        variant=raw["variant"],
        cell=raw["cell"],
        really=raw["really"] or None,
        remark=raw["remark"],
        val_loss=Printed(raw["val_loss"]),
        val_accuracy=Printed(raw["val_accuracy"]),
        val_perplexity=Printed(raw["val_perplexity"]),
        train_minutes=Printed(raw["train_minutes"]),
        params_total=int(raw["params_total"]),
        peak_memory_gb=optional("peak_memory_gb"),
        final_step_train_loss=optional("final_step_train_loss"),
        efficiency_score=optional("efficiency_score"),
        loss_per_million_params=optional("loss_per_million_params"),
    )
