"""A search's declaration, `tuning.json`: what all its trials have in common, here and in the storage.

The first start writes it. A later one, on this machine or on another, has to agree with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.schema import write_json
from analysis.tuning_records import TUNING_FILE, parse_declaration, parse_tuning
from moe_models.errors import ConfigError, require
from sweeps.engine.plan import Plan
from sweeps.engine.search import Budget
from sweeps.engine.search_options import TuneOptions
from sweeps.engine.space import Space, space_to_json
from sweeps.engine.storage import Storage

DECLARED = ("space", "trials", "random", "sweep", "rungs", "reduction", "updates", "max_tokens", "seed")
"""What may not change while a search goes on: all cells have the same."""
CHOICES = "choices"
"""What was chosen once: `planning.choose`."""
IMPORTANCE = "importance"
"""What was found, by cell."""


def kept_choices(folder: Path) -> Mapping[str, Any]:
    """Return what an interrupted search had chosen, precision and threads: its trials must not differ in it."""
    chosen: Mapping[str, Any] = read_declared(folder).get(CHOICES, {})
    return chosen


def read_declared(folder: Path) -> Mapping[str, Any]:
    """Return the declaration in a study's folder; empty where there is none."""
    try:
        return parse_tuning(folder) if (folder / TUNING_FILE).exists() else {}
    except ValueError as error:
        raise ConfigError(f"{error}: move its folder away, or use another --output") from error


def declare(plan: Plan, space: Space, budget: Budget, options: TuneOptions) -> dict[str, Any]:
    """Return the search's declaration, which `tuning.json` holds.

    Raises:
        ConfigError: the folder has a search that was declared otherwise.
    """
    whole = plan.to_json()
    declared: dict[str, Any] = {
        **{name: whole[name] for name in ("study", "script", "title", "data_hash", "protocol", "flaws")},
        "cells": [cell.name for cell in plan.cells],
        "space": space_to_json(space),
        "trials": budget.trials,
        "random": options.random,
        "sweep": options.sweep,
        "rungs": list(budget.milestones),
        "reduction": budget.reduction,
        "updates": budget.updates,
        "trial_tokens": budget.trial_tokens,
        "max_tokens": budget.tokens,
        "seed": options.search_seed,
        "guess_loss": math.log(plan.cells[0].config.model.vocab_size),
        "choices": dict(plan.choices),
    }
    return continued(declared, plan.storage, plan.known_cells())


def continued(declared: Mapping[str, Any], storage: Storage, known: Sequence[str]) -> dict[str, Any]:
    """Return a declaration together with the one in the study's folder, if any: its cells and what was found for them.

    Args:
        declared: now.
        storage: of the study.
        known: all cells that the study can have, in its order.

    Raises:
        ConfigError: the folder has a search that was declared otherwise.
    """
    existing = read_declared(storage.folder)
    _require_equal(
        existing,
        declared,
        f"the search in {storage.folder} was declared with {{}}, now it is {{}}: repeat the earlier command, or begin "
        f"a new search with another --output{' and --storage' if storage.apart else ''}",
    )
    return _together(existing, declared, known)


def exchange(storage: Storage, known: Sequence[str]) -> bool:
    """Have one declaration in the folder and the storage; return whether the folder's has changed.

    Args:
        storage: of the study.
        known: all cells that the study can have, in its order.

    Raises:
        ConfigError: the two are of searches that were declared apart.
    """
    content = storage.store.read(TUNING_FILE) if storage.apart else None
    if content is None:
        storage.keep(TUNING_FILE)
        return False
    try:
        theirs = parse_declaration(content, f"{storage.place}/{TUNING_FILE}")
    except ValueError as error:
        raise ConfigError(f"{error}; use another --storage") from error
    ours = read_declared(storage.folder)
    _require_equal(
        ours,
        theirs,
        f"the search in {storage.folder} was declared with {{}}, the one in {storage.place} with {{}}: give another "
        "--output to go on with the one in the storage, or another --storage to go on with the other",
    )
    both = _together(ours, theirs, known)
    write(both, storage)
    return both != ours


def write(declared: Mapping[str, Any], storage: Storage) -> None:
    """Write a declaration into the folder and the storage, atomically."""
    write_json(storage.folder / TUNING_FILE, declared)
    storage.keep(TUNING_FILE)


def _require_equal(one: Mapping[str, Any], other: Mapping[str, Any], line: str) -> None:
    """Require that two declarations, the first of which may be empty, agree; `line` has places for what does not."""
    for name in (*DECLARED, CHOICES) if one else ():
        values = (json.dumps(each.get(name)) for each in (one, other))
        require(one.get(name) == other.get(name), line.format(f"{name} {next(values)}", next(values)))


def _together(earlier: Mapping[str, Any], later: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return two declarations that agree as one."""
    cells = {*earlier.get("cells", ()), *later["cells"]}
    found = {**earlier.get(IMPORTANCE, {}), **later.get(IMPORTANCE, {})}
    together = {**later, "cells": [cell for cell in known if cell in cells]}
    return {**together, IMPORTANCE: found} if found else together
