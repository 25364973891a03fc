"""What training runs will presumably take: time, cost and memory, before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.text import counted, duration
from moe_models.errors import ConfigError
from sweeps.engine.apart import NoMemoryError
from sweeps.engine.memory import footprint, gib
from sweeps.engine.packing import Schedule, schedule
from sweeps.engine.plan import Plan, PlannedRun, by_cell
from sweeps.engine.probe import estimate_runs
from sweeps.engine.race import open_runs
from sweeps.engine.resources import Resources
from sweeps.engine.where import where_runs_train


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of training and evaluation; start-up and report apart."""

    runs: int
    seconds: float
    """From the first start to the last end."""
    busy_seconds: float
    """Of all runs together."""
    memory_bytes: int
    """Of the runs that train at a time: on each GPU, or in all."""
    method: str
    """How the times were found, in words."""
    resources: Resources

    def to_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints of it."""
        return {
            "estimate_seconds": self.seconds,
            "estimate_cost": self.cost,
            "cost_unit": self.resources.cost_unit,
            "estimate_memory_bytes": self.memory_bytes,
            "estimate_method": self.method,
        }

    @property
    def cost(self) -> float:
        """In the resources' unit."""
        return self.resources.cost(self.busy_seconds)

    def line(self) -> str:
        """Say it in words."""
        if self.runs == 0:
            return self.method
        where = " on each GPU" if self.resources.gpus > 1 else ""
        return (
            f"{counted(self.runs, 'run')} to train: about {duration(self.seconds)} and {self.cost:.2g} "
            f"{self.resources.cost_unit}, with up to {gib(self.memory_bytes)} of memory{where} ({self.method})"
        )


def forecast(plan: Plan, resources: Resources, runs: Sequence[PlannedRun] | None = None) -> Forecast:
    """Lay runs, each as long as its cell is estimated to take, over the slots in the order they will have.

    Args:
        plan: of the study.
        resources: what there is, and a run's share of it.
        runs: those to be trained; None: the plan's open ones.

    Raises:
        ConfigError: there is no memory to measure with.
    """
    runs = open_runs(plan) if runs is None else runs
    if not runs:
        nothing = "nothing is left to train"
        return Forecast(runs=0, seconds=0.0, busy_seconds=0.0, memory_bytes=0, method=nothing, resources=resources)
    laid, method = _laid(plan, runs, resources)
    return Forecast(
        runs=len(runs),
        seconds=laid.seconds,
        busy_seconds=laid.busy_seconds,
        memory_bytes=footprint(runs, resources).bytes,
        method=method,
        resources=resources,
    )


def _laid(plan: Plan, runs: Sequence[PlannedRun], resources: Resources) -> tuple[Schedule, str]:
    """Return how the runs lie on the slots, and how their times were found."""
    if resources.packing is not None:
        return resources.packing.schedule, f"from updates measured with {resources.packing.together} at a time"
    cells, order = by_cell(runs)
    models = [(cell.config, plan.corpora[cell.scale]) for cell in cells]
    try:
        estimate = where_runs_train(resources, estimate_runs, models, resources.device)
    except NoMemoryError as error:
        raise ConfigError(
            f"no memory to measure how long runs take ({error}): take a smaller --scale, or end what else takes memory "
            "there"
        ) from error
    method, together = estimate.method, footprint(runs, resources).together
    if resources.gpus and together > 1:
        method += f", each alone on a GPU: {together} at a time there may take up to {together} times as long"
    return schedule(order, [estimate.run_seconds] * resources.slots), method
