"""The registered plan: what a study said that it would test, and how, before it trained anything.

`plan.json` holds it as `registered` with a hash beside it, both written once, before the first trial. Whatever comes
later stands under `amendments`. A leaf: the standard library alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.errors import AnalysisError

REGISTERED = "registered"
HASH = "registered_sha256"
"""Key of the plan, and of what a run records of its making: the hash of `registered`."""
AMENDMENTS = "amendments"
AGAINST_BASELINE = "against the baseline"
WHOLE_FACTORS = "effects of whole factors"
SCALE_CHANGES = "changes from the smallest to the largest scale"
"""Names of families."""
SEEDS, CELLS = "seeds", "cells"
"""What an amendment adds."""
INVALID_LEFT_OUT = "runs that an audit finds invalid are in no number, and counted"
INVALID_TAKEN_IN = "runs that an audit finds invalid are in the numbers, and marked: the study is to show what flaws do"
"""The exclusion that a plan registers of them: the second one where it trains under flaws."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell against the one it is compared with."""

    cell: str
    baseline: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tests that share one error rate of 5 % (Holm)."""

    name: str
    metric: str
    comparisons: tuple[Comparison, ...] = ()
    """Empty for contrasts of whole factors and for changes with scale, which have no one cell."""
    size: int
    """Tests planned; fewer are made where cells turn out to be one model or to have diverged."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The frozen part of a plan."""

    metric: str
    direction: str
    """`min` where lower is better, `max` where higher is."""
    primary: Comparison | None
    """The one comparison that is tested alone at 5 %; null where the study declares none."""
    families: tuple[Family, ...]
    """All further tests."""
    cells: tuple[str, ...]
    n: int
    """Seeds planned a cell."""
    first_seed: int = 0
    """The first of them; they go up one by one."""
    looks: tuple[int, ...]
    """Numbers of seeds at which tests may be made, rising; the last is n."""
    equivalence_margin: float | None
    """Largest difference, nats, that is as good as none; null: "no difference" cannot be a finding."""
    divergence_limit: Mapping[str, float] | None
    """By scale: final validation loss, nats, above which a run has diverged; null: NaN and infinity alone."""
    exclusions: tuple[str, ...]
    """What is left out of the numbers, in words."""
    tuned: bool
    """Whether each cell's learning rate was tuned: only then is a difference a claim about a component."""
    final_test: bool
    """Whether the test split is evaluated, to be opened once all of this has ended."""

    @property
    def seeds(self) -> range:
        """The seeds planned."""
        return range(self.first_seed, self.first_seed + self.n)

    @property
    def takes_invalid(self) -> bool:
        """Whether runs that an audit finds invalid are to be in the numbers."""
        return INVALID_TAKEN_IN in self.exclusions

    def to_json(self) -> dict[str, Any]:
        """Return the section as `plan.json` holds it.

        A first seed of 0 is left out: plans from before it was registered (`_first_seed`) keep their hash.
        """
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        if not self.first_seed:
            del plain["first_seed"]
        return plain


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The registered section, whether it is still the one that was hashed, and what came after."""

    registered: Registered
    sha256: str
    """The hash written beside it."""
    intact: bool
    """Whether the section still has this hash."""
    amendments: tuple[Mapping[str, Any], ...] = field(default=())
    """In order: `when` (UTC), `what` (SEEDS or CELLS), `added`, `count`, and `ended`: runs with a record by then."""


def sha256(section: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a registered section's canonical JSON."""
    text = json.dumps(section, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def registration(plan: Mapping[str, Any]) -> Registration | None:
    """Return what a plan registered; None for a plan from before there was registration, or no plan.

    Raises:
        AnalysisError: the section is not one.
    """
    section = plan.get(REGISTERED)
    if section is None:
        return None
    try:
        registered = Registered(
            **{
                **({} if "first_seed" in section else {"first_seed": _first_seed(plan, section)}),
                **section,
                "primary": None if section["primary"] is None else Comparison(**section["primary"]),
                "families": tuple(map(_family, section["families"])),
                **{name: tuple(section[name]) for name in ("cells", "looks", "exclusions")},
            }
        )
        hashed = str(plan[HASH])
    except (TypeError, KeyError, AttributeError) as error:
        raise AnalysisError(f"the plan's '{REGISTERED}' section cannot be read: {error}") from error
    return Registration(
        registered=registered,
        sha256=hashed,
        intact=sha256(section) == hashed,
        amendments=tuple(plan.get(AMENDMENTS, ())),
    )


def _first_seed(plan: Mapping[str, Any], section: Mapping[str, Any]) -> int:
    """Return the first seed of a section that does not say it: the lowest of the plan's.

    Such plans are of seeds from 0, or from before the first seed was registered. Seeds go up one by one from it, so
    what was added to the plan later lies above.

    Raises:
        AnalysisError: without what was added, the plan's seeds are none that go up so.
    """
    later = {seed for entry in plan.get(AMENDMENTS, ()) if entry["what"] == SEEDS for seed in entry["added"]}
    seeds = {*plan.get("seeds", ())} - later
    first = min(seeds, default=0)
    if first and not seeds <= {*range(first, first + section["n"])}:
        raise AnalysisError(
            f"the plan registers {section['n']} seeds, and not which: its seeds {', '.join(map(str, sorted(seeds)))} "
            "are more than these and none is said to have been added later"
        )
    return first


def _family(data: Mapping[str, Any]) -> Family:
    pairs: Sequence[Mapping[str, Any]] = data["comparisons"]
    return Family(**{**data, "comparisons": tuple(Comparison(**pair) for pair in pairs)})
