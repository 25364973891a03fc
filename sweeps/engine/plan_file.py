"""What `plan.json` of an earlier driver holds: whether it is a study's plan, and which of two came later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.schema import require_version
from analysis.study.registered import AMENDMENTS, HASH, REGISTERED
from moe_models.errors import ConfigError


def read_plan(path: Path) -> dict[str, Any]:
    """Return the plan in a study's folder; empty where there is none.

    Raises:
        ConfigError: it is not one, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _no_plan(str(path), error) from error
    return plan_of(content, str(path))


def plan_of(content: bytes, place: str) -> dict[str, Any]:
    """Return the plan that a file holds.

    Args:
        content: of the file.
        place: where it is, for the error.

    Raises:
        ConfigError: it is not one.
    """
    try:
        plan: dict[str, Any] = json.loads(content)
        require_version(plan)
        for cell in plan["cells"]:
            _ = cell["name"], cell["hashes"].items()
        _ = [plan["choices"]["precision"][scale] for scale in plan["scales"]], plan["choices"]["threads"], plan["seeds"]
        if REGISTERED in plan:
            _ = plan[REGISTERED]["n"], plan[HASH]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_plan(place, error) from error
    return plan


def _no_plan(place: str, error: Exception) -> ConfigError:
    return ConfigError(f"{place} is not a study's plan ({error}): move its folder away, or use another --output")


def follows(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Return whether a plan is another one, extended or not."""
    known = list(earlier.get(AMENDMENTS, ()))
    return (
        later.get(HASH) == earlier.get(HASH)
        and list(later.get(AMENDMENTS, ()))[: len(known)] == known
        and {cell["name"] for cell in earlier["cells"]} <= {cell["name"] for cell in later["cells"]}
        and {*earlier["seeds"]} <= {*later["seeds"]}
    )
