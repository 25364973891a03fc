"""Studies on a Ray cluster that runs already (`--ray-address`): joining it, what it offers, whether its nodes agree."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from analysis.schema import HARDWARE, error_line
from analysis.text import counted
from moe_models.errors import ConfigError, require
from sweeps.engine.apart import NoMemoryError, in_one_line
from sweeps.engine.memory import Footprint, free_bytes, require_room
from sweeps.engine.resources import Resources, fitting
from sweeps.engine.storage import Storage
from trainables.environment import require_same, this_process
from trainables.store import open_store

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long the head of a cluster may take to answer."""
JOIN_SECONDS = 20.0
"""How long it may take to join a cluster, Python's own start included."""
JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
MEASURE_SECONDS = 120.0
"""How long a node may take to measure; the measurement itself takes seconds."""
LOOK_SECONDS = 120.0
"""How long the nodes may take to say what they see: each starts a process for it."""
MODE_VARIABLE = "RAY_AUTH_MODE"
MODES = ("disabled", "token")
CHECK_FOLDER = "check"


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of a running cluster, which goes on when the block ends.

    Args:
        address: `auto`, the cluster of this machine's node, or HOST:PORT of its head.

    Raises:
        ConfigError: there is none, or it does not take this process.
    """
    os.environ[MODE_VARIABLE] = _mode_of_cluster(address)  # before Ray is imported here
    from sweeps.engine.ray_session import ray_cluster

    with ray_cluster(address):
        yield


def _mode_of_cluster(address: str) -> str:
    """Join a cluster in another process, for a try; return whether it wants a token.

    Where nothing answers as a cluster should, Ray itself would wait for minutes. And who shows a token where none is
    wanted may join, but has its actors taken for dead.
    """
    why = ""
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        for mode in [os.environ[MODE_VARIABLE]] if MODE_VARIABLE in os.environ else MODES:
            environment = {**os.environ, MODE_VARIABLE: mode, "RAY_NUM_REDIS_GET_RETRIES": "3"}
            command = [sys.executable, "-c", JOIN, address]
            tried = subprocess.run(command, capture_output=True, text=True, timeout=JOIN_SECONDS, env=environment)
            if tried.returncode == 0:
                return mode
            why = why or (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        why = f"no answer within {JOIN_SECONDS:.0f} s"
    except OSError as error:
        why = error_line(error)
    raise ConfigError(
        f"--ray-address {address}: no Ray cluster can be joined there ({why}): start one with ray start, on this "
        "machine, too, or leave --ray-address out to use this machine alone"
    )


def cluster_resources(max_concurrent: int | None, gpus_per_trial: float | None) -> Resources:
    """Return what a study may use of the cluster that was joined, as it is now.

    Raises:
        ConfigError: not one run fits on a node.
    """
    nodes = [node["Resources"] for node in _alive()]
    cores, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    share = gpus_per_trial if gpus_per_trial is not None else float(gpus > 0)
    fit = sum(_fitting(node, share) for node in nodes)
    seen = f"a cluster of {counted(len(nodes), 'node')} with {counted(cores, 'CPU core')} and {counted(gpus, 'GPU')}"
    require(fit > 0, f"no node of {seen} has room for a run of 1 CPU core and --gpus-per-trial {share:g}")
    slots = max_concurrent or fit
    return Resources(slots=slots, gpus=gpus if share else 0, gpus_per_trial=share, reason=seen, cluster=True)


def on_a_node(measure: Callable[..., T], arguments: Sequence[Any], gpus: float) -> T:
    """Call a function in a process that has what a run has, on whichever node has room for one; return its result.

    Raises:
        NoMemoryError: memory ends there.
        ConfigError: no node has room for a while, or the function raises there.
    """
    import ray

    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(in_one_line).remote(measure, *arguments)
    try:
        return ray.get(task, timeout=MEASURE_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task, force=True)
        room = f"1 CPU core and {gpus:g} GPU" if gpus else "1 CPU core"
        raise ConfigError(
            f"no node of the cluster had {room} free for {MEASURE_SECONDS:.0f} s, to measure on: wait for what trains "
            "there; with --precision fp32 or bf16 a study starts without a measurement"
        ) from None
    except Exception as error:  # whatever a node without our packages raises
        cause = _cause(error)
        if isinstance(cause, NoMemoryError):
            raise NoMemoryError(str(cause)) from error
        raise ConfigError(f"a node of the cluster cannot run this code: {error_line(cause)}") from error


def _fitting(node: Mapping[str, float], share: float) -> int:
    """Return how many runs at a time fit on a node: a share of a GPU lies on one GPU."""
    cores, gpus = int(node.get("CPU", 0)), int(node.get("GPU", 0))
    if share == 0:
        return cores
    return min(cores, fitting(gpus, share))


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def require_nodes(storage: Storage, resources: Resources, need: Footprint | None) -> str:
    """Require that every node sees the storage, has the driver's code and packages, and memory for what it may train.

    Args:
        storage: of the study.
        resources: the cluster as the study uses it.
        need: of its largest run; None where none is left to train. Of runs on GPUs the memory is not looked at.

    Returns:
        The nodes' hardware in words.

    Raises:
        ConfigError: one does not; the line names it and what to do.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = secrets.token_hex(8)
    asked = f"{CHECK_FOLDER}/{token}-driver"
    alive = _alive()
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in alive}
    at_a_time = {
        node["NodeID"]: min(resources.slots, _fitting(node["Resources"], resources.gpus_per_trial)) for node in alive
    }
    replies = {node: f"{CHECK_FOLDER}/{token}-{node}" for node in nodes}
    here = this_process()
    try:
        with storage.store.writing(asked) as file:
            file.write(token.encode())
        look = ray.remote(num_cpus=0, max_retries=0)(node_view)
        views = {
            node: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                storage.place, asked, replies[node]
            )
            for node in nodes
        }
        done, _ = ray.wait(list(views.values()), num_returns=len(views), timeout=LOOK_SECONDS)
        found = set()
        for node, host in nodes.items():
            name = f"the node {host} ({node[:8]})"
            require(views[node] in done, f"{name} does not answer within {LOOK_SECONDS:.0f} s")
            try:
                view = ray.get(views[node])
            except Exception as error:  # whatever a node without our packages raises
                raise ConfigError(f"{name} cannot run this code: {error_line(_cause(error))}") from error
            require_same(view, here, name)
            seen = view["token"] == token and storage.store.read(replies[node]) == token.encode()
            reason = view["problem"] or "it is another place there"
            require(
                seen,
                f"{name} does not see {storage.place} ({reason}), where runs keep their records: give --storage a path "
                "or URL that all nodes share",
            )
            if need is not None and not resources.gpus_per_trial and view["free"] is not None:
                fewer = f"ray start --num-cpus={view['free'] // need.run_bytes} there"
                require_room(dataclasses.replace(need, together=at_a_time[node]), view["free"], f"on {name}", fewer)
            found.add(view[HARDWARE])
    finally:
        for name in (asked, *replies.values()):
            storage.store.delete(name)
    return " or ".join(sorted(found))


def node_view(place: str, asked: str, reply: str) -> dict[str, Any]:
    """Return what the node that this runs on has and sees: as `this_process`, `free` memory, `token`, `problem`.

    Args:
        place: the storage.
        asked: the file that holds the driver's token.
        reply: the file to write it to.
    """
    view = {**this_process(), "free": free_bytes(torch.device("cpu")), "token": "", "problem": ""}
    try:
        store = open_store(place)
        content = store.read(asked)
        if content is not None:
            view["token"] = content.decode()
            with store.writing(reply) as file:
                file.write(content)
    except (OSError, ConfigError) as error:
        view["problem"] = error_line(error)
    return view


def _cause(error: Exception) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
