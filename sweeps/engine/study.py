"""What a study is: a declaration of cells, and what may be said about them. Nothing here imports torch.

A study's file is short: it names its factors and gives every cell its levels and a function from a scale to a model.
Everything else (options, plan, running, tracking, report) is the engine's.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.statistics.design import Fraction, standard_fraction
from moe_models.errors import unknown_name
from moe_models.size import Size

if TYPE_CHECKING:  # torch takes a second to import, which `--help` need not wait for
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

DEFAULT_DESIGN = "default"
EQUIVALENCE_MARGIN = 0.01
"""Nats, 1 % of perplexity: what a study that declares nothing else takes for no difference."""
BASELINE = {"attention": "mha", "norm": "rmsnorm", "feed_forward": "moe_softmax_plain"}
"""The presets of the published studies' common baseline."""


def variant(**changes: str) -> Callable[[Scale], ModelConfig]:
    """Return the function from a scale to the baseline's model, its presets changed as in `Scale.model`."""
    presets = {**BASELINE, **changes}
    return lambda scale: scale.model(**presets)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model of a study, at any scale."""

    name: str
    factors: Mapping[str, Any]
    """Level of each of the study's factors: 0 or 1, or a name."""
    build: Callable[[Scale], ModelConfig]
    """The model at a scale."""
    data_seed: int | None = None
    """The order of the data, where a study varies it apart from the seed; None: the seed's."""
    baseline: str | None = None
    """The cell that it is compared with, its own name for none; None: the study's."""


@dataclass(frozen=True, kw_only=True)
class NegativeControl:
    """A factor that must change nothing: its two levels compute the same function, up to rounding."""

    factor: str
    tolerance_nats: float | None
    """Paired differences of validation loss beyond this are an alarm; None: none is, since cells are trained apart."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """One set of cells, with what their layout allows to be computed."""

    cells: tuple[Cell, ...]
    factorial: bool = False
    """Whether main effects over the cells mean something: only the named factors differ between any two."""
    feed_forward_levels: tuple[str, ...] = ()
    """Factors that together are one factor with a level for each combination; none where empty."""
    fraction: Fraction | None = None
    """Which part of the 2^k grid the cells are, where they are not all of it."""
    notes: tuple[str, ...] = ()
    """Lines that the report prints."""


def fractional_design(factors: Sequence[str], build: Callable[..., ModelConfig], notes: tuple[str, ...] = ()) -> Design:
    """Return the standard fraction of the 2^k grid for 6 to 11 factors: 16 or 32 cells, of resolution IV.

    Args:
        factors: their names; each is off (0) or on (1).
        build: the function from a scale and every factor's level, by name, to a model.
        notes: lines that the report prints, beside those on what the fraction cannot tell apart.
    """
    fraction = standard_fraction(factors)
    cells = tuple(
        Cell(
            name="_".join(factor for factor, on in levels.items() if on) or "baseline",
            factors=levels,
            build=partial(build, **levels),
        )
        for levels in fraction.cells()
    )
    return Design(cells=cells, factorial=True, fraction=fraction, notes=notes)


@dataclass(frozen=True, kw_only=True)
class PublishedCell:
    """A cell of the default design as it was really trained."""

    name: str
    """The published one."""
    cell: str | None = None
    """The cell that trains what the name says, where it is called otherwise here."""
    flaws: tuple[str, ...] = ()
    """Those of its model, beside the study's own."""
    trained: str | None = None
    """The published cell whose model was trained under this name; its own where none is named."""

    @property
    def sound(self) -> str:
        """The cell that trains what the name says."""
        return self.cell or self.name


@dataclass(frozen=True, kw_only=True)
class Published:
    """How a study was really run: what `--protocol published` rebuilds. Flaws are names of `sweeps.engine.flaws`."""

    cells: tuple[PublishedCell, ...]
    """In the order in which they were trained."""
    flaws: tuple[str, ...]
    """Those of every cell."""
    first_tokens: int = 100_000
    """Training tokens: the corpus's first ones."""
    evaluation_batches: int = 5
    """Batches that an evaluation took."""
    warmup_fraction: float = 0.05
    """Share of the schedule over which the learning rate rose."""
    precision: str = "fp32"
    """Arithmetic of the matrix products."""
    balance_weight: float = 0.01
    """Of a balance loss that was not the baseline's."""
    counts_declared: bool = False
    """Whether parameters were counted on the model that a name says, where another one was trained."""

    @property
    def all_flaws(self) -> tuple[str, ...]:
        """All flaws of the study, sorted."""
        of_cells = {flaw for cell in self.cells for flaw in cell.flaws}
        return tuple(sorted({*self.flaws, *of_cells}))


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as its author declares it."""

    script: str
    """Name of its file, without the suffix."""
    title: str
    factors: tuple[str, ...]
    designs: Mapping[str, Design]
    """By the names that `--design` takes; one of them is `default`."""
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Factor -> the parts of a configuration that it may change (`model.attention`): a cell that differs from its
    baseline elsewhere is confounded. Where empty, nothing is said of that."""
    baseline: str = "baseline"
    """The cell that all others are compared with."""
    primary: str | None = None
    """The cell whose comparison with the baseline is the primary one: tested alone at 5 %."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which tests may be made, rising; where empty once, at the number that is asked for first.
    With several the study is a race: what is decided at a look stops."""
    label: str = ""
    """What tells it apart from other studies of the same script."""
    first_seed: int = 0
    """Seeds are counted from here."""
    equivalence_margin: float | None = EQUIVALENCE_MARGIN
    """Largest difference, nats, that is as good as none; None where "no difference" is not to be a finding."""
    tuned: bool = False
    """Whether each cell trains at a learning rate that was tuned for it."""
    paper_scale: str = "paper_256d"
    """The published size, which `--scale auto` takes where there is a GPU."""
    ladder: tuple[str, ...] = ()
    """Scales that `--scale auto` takes instead, all of them, where the study is about scale."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """By scale's name: the size of the study's models there, where it is not the scale's own."""
    negative_control: NegativeControl | None = None
    notes: tuple[str, ...] = field(default=())
    """Lines that the report prints, whatever the design."""
    published: Published | None = None
    """How it was really run, where it was published."""

    def __post_init__(self) -> None:
        assert DEFAULT_DESIGN in self.designs, f"{self.script} has no design '{DEFAULT_DESIGN}'"
        for name, design in self.designs.items():
            names = [cell.name for cell in design.cells]
            assert len(set(names)) == len(names), f"{self.script}, design {name}: a cell's name occurs twice"
            assert self.baseline in names, f"{self.script}, design {name}: there is no cell '{self.baseline}'"
            for cell in design.cells:
                assert set(cell.factors) == set(self.factors), f"{self.script}: factors of cell '{cell.name}'"
                assert cell.baseline in (None, *names), f"{self.script}: baseline of cell '{cell.name}'"
            if design.fraction:
                levels = [tuple(cell.factors[factor] for factor in design.fraction.factors) for cell in design.cells]
                wanted = [tuple(level.values()) for level in design.fraction.cells()]
                assert sorted(levels) == sorted(wanted), f"{self.script}, design {name}: cells of the fraction"
        assert not self.slots or set(self.slots) == set(self.factors), f"{self.script}: slots are given for each factor"
        default = [cell.name for cell in self.designs[DEFAULT_DESIGN].cells if cell.name != self.baseline]
        assert self.primary is None or self.primary in default, f"{self.script}: there is no cell '{self.primary}'"
        rising = all(low < high for low, high in itertools.pairwise((0, *self.looks)))
        assert rising, f"{self.script}: looks must be rising numbers of seeds"
        margin = self.equivalence_margin
        assert margin is None or 0 < margin < math.inf, f"{self.script}: equivalence_margin must be positive"
        for published in self.published.cells if self.published else ():
            known = [cell.name for cell in self.designs[DEFAULT_DESIGN].cells]
            assert published.sound in known, f"{self.script}: published cell '{published.name}' is no cell"


def study_names() -> list[str]:
    """Return the names of the scripts under sweeps/ that declare a study, sorted."""
    scripts = Path(__file__).parents[1].glob("*.py")
    return sorted(script.stem for script in scripts if "\nSTUDY = Study(" in script.read_text())


def find_study(name: str) -> Study:
    """Return the study that a script under sweeps/ declares; an unknown name raises ConfigError."""
    known = study_names()
    if name not in known:
        raise unknown_name("study", name, known)
    study = importlib.import_module(f"sweeps.{name}").STUDY
    assert isinstance(study, Study)
    return study
