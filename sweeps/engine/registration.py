"""What a study registers before its first trial, out of its declaration and of what was asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.schema import VAL_LOSS
from analysis.study.registered import (
    AGAINST_BASELINE,
    AMENDMENTS,
    CELLS,
    HASH,
    INVALID_LEFT_OUT,
    INVALID_TAKEN_IN,
    REGISTERED,
    SCALE_CHANGES,
    SEEDS,
    WHOLE_FACTORS,
    Comparison,
    Family,
    Registered,
    registration,
    sha256,
)
from analysis.text import at_seeds, counted
from moe_models.errors import require
from sweeps.engine.plan import Plan

DIVERGENCE_MARGIN = 1.0
"""Nats above log(vocabulary), the loss of a uniform guess, beyond which a run has diverged. A model that has learned
nothing yet is near it: logits of unit variance cost half a nat. Beyond a nat, e times the perplexity of guessing, a
model is worse than before it was trained."""
EXCLUSIONS = (
    "runs that an error ended are in no number, counted, and tried again by the same command",
    "a cell with a diverged run has no rank and no t test; diverged runs count as worst in a sign test",
    "a seed that one of two compared cells lacks is left out of their comparison, and counted",
    "no run is left out for its result",
)
"""Beside what is done with runs that an audit finds invalid."""


def register(plan: Plan) -> Registered:
    """Return what is registered of a plan that is new."""
    study, protocol = plan.study, plan.protocol
    sound = protocol.published is None
    names = [cell.name for cell in plan.cells]
    pairs = [
        Comparison(cell=name, baseline=baseline)
        for name, baseline in plan.baselines().items()
        if {name, baseline} <= set(names) and baseline != name
    ]
    # With several scales the first one has the primary comparison: there is one.
    wanted = plan.scaled(study.primary, plan.scales[0]) if study.primary and sound else None
    primary = next((pair for pair in pairs if pair.cell == wanted), None)
    others = tuple(pair for pair in pairs if pair != primary)
    families = [Family(name=AGAINST_BASELINE, metric=VAL_LOSS, comparisons=others, size=len(others))]
    effects = _effects(plan) * len(plan.scales)
    if effects:
        families.append(Family(name=WHOLE_FACTORS, metric=VAL_LOSS, size=effects))
    changes = _changes(plan, pairs)
    if changes:
        families.append(Family(name=SCALE_CHANGES, metric=VAL_LOSS, size=changes))
    looks = study.looks or (len(plan.seeds),)
    return Registered(
        metric=VAL_LOSS,
        direction="min",
        primary=primary,
        families=tuple(family for family in families if family.size),
        cells=tuple(names),
        n=looks[-1],
        first_seed=study.first_seed,
        looks=looks,
        equivalence_margin=study.equivalence_margin if sound else None,
        divergence_limit=divergence_limits(plan) if sound else None,
        exclusions=(INVALID_TAKEN_IN if plan.protocol.flaws else INVALID_LEFT_OUT, *EXCLUSIONS),
        tuned=study.tuned,
        final_test=sound,
    )


def divergence_limits(plan: Plan) -> dict[str, float]:
    """Return the loss above which a run has diverged, nats, by scale."""
    vocabularies = {cell.scale: cell.config.model.vocab_size for cell in plan.cells}
    return {scale: round(math.log(size) + DIVERGENCE_MARGIN, 4) for scale, size in vocabularies.items()}


def _effects(plan: Plan) -> int:
    """Return how many contrasts of whole factors the analysis makes of one scale's complete grid; else 0."""
    design = plan.study.designs[plan.protocol.design]
    if plan.protocol.published is not None or len(plan.cells) < len(design.cells) * len(plan.scales):
        return 0
    alone = len(plan.study.factors) - len(design.feed_forward_levels)
    if design.feed_forward_levels:
        return alone + 2 ** len(design.feed_forward_levels) - 1
    if design.fraction:
        return alone + len(design.fraction.aliased_pairs())
    return alone * (alone + 1) // 2 if design.factorial else 0


def _changes(plan: Plan, pairs: Sequence[Comparison]) -> int:
    """Return how many cells' differences the analysis follows from scale to scale."""
    from analysis.comparing.scaling import FEWEST_SCALES

    if plan.protocol.published is not None or len(plan.scales) < FEWEST_SCALES:
        return 0
    scales = Counter(pair.cell.rpartition("@")[0] for pair in pairs)
    return sum(count >= FEWEST_SCALES for count in scales.values())


def sections(plan: Plan) -> dict[str, Any]:
    """Return the sections of `plan.json` on registration.

    What an earlier plan registered stays to the letter. A plan that was begun without registration has none: what was
    chosen after the first trial is no plan.
    """
    existing = plan.existing
    if existing and REGISTERED not in existing:
        return {}
    if not existing:
        section = register(plan).to_json()
        return {REGISTERED: section, HASH: sha256(section), AMENDMENTS: []}
    return {
        REGISTERED: existing[REGISTERED],
        HASH: existing[HASH],
        AMENDMENTS: [*existing.get(AMENDMENTS, ()), *plan.amendments],
    }


def amendments(
    existing: Mapping[str, Any], cells: Sequence[str], seeds: Sequence[int], *, when: str, ended: int
) -> tuple[dict[str, Any], ...]:
    """Return what is asked for beyond the plan that was registered and its amendments so far.

    Args:
        existing: the plan in the study's folder.
        cells: names of those asked for now.
        seeds: those asked for now.
        when: the time, UTC.
        ended: runs that have a record: what could be known of the results.
    """
    found = registration(existing)
    if found is None:
        return ()
    known = {entry["name"] for entry in existing["cells"]}
    planned = {*existing["seeds"], *found.registered.seeds}
    added: dict[str, list[Any]] = {
        CELLS: [name for name in cells if name not in known],
        SEEDS: [seed for seed in seeds if seed not in planned],
    }
    return tuple(
        {"when": when, "what": what, "added": new, "count": len(new), "ended": ended}
        for what, new in added.items()
        if new
    )


def lines(plan: Plan) -> list[str]:
    """Return what is to be said of the registration before training."""
    if not plan.registration:
        return ["no plan was registered when this study began: its tests are exploratory"]
    section, said = plan.registration[REGISTERED], []
    further = sum(family["size"] for family in section["families"])
    if primary := section["primary"]:
        said.append(f"primary comparison: {primary['cell']} against {primary['baseline']}, tested alone at 5 %")
    if further:
        said.append(f"further tests planned: {further}; " + _looks(section["looks"]))
    if (primary or further) and plan.protocol.published is None:
        said.append(f"equivalence margin: {_margin(section['equivalence_margin'])}")
    said += [
        f"beyond the registered plan, after {counted(amendment['ended'], 'run')}: "
        f"{counted(amendment['count'], 'more ' + amendment['what'].removesuffix('s'))}; "
        "what they change is exploratory"
        for amendment in plan.amendments
        if amendment["ended"]
    ]
    return said


def require_same_margin(existing: Mapping[str, Any], wanted: float | None, folder: Path) -> None:
    """Refuse another equivalence margin than a study's registered one: none can be chosen once runs have begun.

    Args:
        existing: the plan in the study's folder; empty where there is none.
        wanted: the margin asked for, nats; None where none was: then the registered one stays.
        folder: of the study.
    """
    if not existing or wanted is None:
        return
    found = existing.get(REGISTERED, {}).get("equivalence_margin")
    began, remedy = (
        ("no equivalence margin", "leave it out") if found is None else (f"the margin {found:g}", "keep that")
    )
    require(
        found == wanted,
        f"the study in {folder} began with {began}, and {wanted:g} cannot be chosen now: {remedy}, or use another "
        "--output",
    )


def _margin(margin: float | None) -> str:
    return "none, so that 'no difference' is no finding" if margin is None else f"{margin:g} nats"


def _looks(looks: Sequence[int]) -> str:
    return f"tests at {at_seeds(looks)}"
