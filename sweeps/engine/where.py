"""Where something of a run is measured: where runs train, which need not be the driver's process or machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sweeps.engine.apart import in_one_line, in_processes
from sweeps.engine.resources import Resources

T = TypeVar("T")


def where_runs_train(resources: Resources, measure: Callable[..., T], *arguments: Any) -> T:
    """Return what a measurement finds on this machine or, of a cluster, on a node that has room for a run.

    On a GPU of this machine it is found in a process that ends: the driver lasts as long as the study, and would
    keep memory that runs were promised.

    Raises:
        NoMemoryError: memory ended there.
        ConfigError: there is no such node for now, or it cannot measure.
    """
    if resources.cluster:
        from sweeps.engine.cluster import on_a_node

        return on_a_node(measure, arguments, resources.gpus_per_trial)
    if resources.device.type == "cpu":
        return in_one_line(measure, *arguments)
    (found,) = in_processes("measuring on a GPU", 1, measure, *arguments)
    return found
