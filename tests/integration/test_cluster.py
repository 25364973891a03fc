"""Studies on a cluster of two nodes, and with a storage of their own: real nodes that die, or see less than others."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
import torch
from pyarrow.fs import FileSelector, FileSystem
from ray.cluster_utils import Cluster

from analysis.schema import RECORDS_FOLDER, TrialRecord
from moe_models.errors import ConfigError
from sweeps.engine.cli import main
from sweeps.engine.cluster import cluster_resources, joined, require_nodes
from sweeps.engine.lease import LEASE_FILE
from sweeps.engine.memory import Footprint, free_bytes
from sweeps.engine.storage import Storage
from sweeps.engine.suggestions import Queue
from sweeps.engine.trials import TrialObserver, run_trials
from sweeps.exp6_grid import STUDY
from tests import fakes_ray
from tests.drivers import children_of, comparable, driver, processes_of, records_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RAY = Path(sys.executable).parent / "ray"
RECORDS = f"{RECORDS_FOLDER}/*.json"


@pytest.fixture(scope="module")
def records(undisturbed: Path) -> dict[str, dict[str, Any]]:
    """The records of the same command on this machine alone when nothing goes wrong."""
    return records_in(undisturbed / "results")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster whose head has one core; a test adds the other node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def records_in(results: Path) -> dict[str, dict[str, Any]]:
    """Return all that the records under a results folder say, times, memory and throughput apart."""
    read = [TrialRecord.read(path) for path in records_of(results)]
    return {it.config_hash: {**dataclasses.asdict(it), "rows": comparable(it)["rows"]} for it in read}


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a driver to succeed and return what it printed."""
    output, errors = process.communicate(timeout=500)
    assert (process.returncode, errors) == (0, ""), output
    return output


def test_a_node_that_dies_costs_nothing_and_the_cluster_survives_the_study(
    small_study: list[str], records: dict[str, dict[str, Any]], cluster: Cluster
) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    (raylet,) = (info.process.pid for info in node.all_processes["raylet"])
    process = driver([*small_study, "--ray-address", cluster.address])
    wait_for(lambda: any("Trainable.train" in line for line in children_of(raylet).values()), process)
    cluster.remove_node(node, allow_graceful=False)
    output = finished(process)
    assert "its worker died; it goes on from its checkpoint" in output
    assert records_in(Path("results")) == records
    assert cluster.head_node.dead_processes() == []


def test_a_plan_asks_the_nodes_for_cores_speed_and_memory(
    small_study: list[str], cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node(num_cpus=3)
    cluster.wait_for_nodes()
    limit = small_study.index("--max-concurrent")
    unlimited = [*small_study[:limit], *small_study[limit + 2 :], "--ray-address", cluster.address]
    assert main(STUDY, [*unlimited, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["slots"] == 4, "as many as the nodes have cores"
    assert plan["estimate_seconds"] > 0, "as measured on a node"

    free = free_bytes(torch.device("cpu"))
    assert free is not None
    storage = Storage(tmp_path, None)
    with joined(cluster.address):
        resources = cluster_resources(None, None)
        fits, too_large = (Footprint(cell="mlp", run_bytes=free // part, together=4) for part in (10, 2))
        assert "cores of" in require_nodes(storage, resources, fits)
        assert "cores of" in require_nodes(storage, resources, None)
        with pytest.raises(ConfigError) as caught:
            require_nodes(storage, resources, too_large)
        assert "cores of" in require_nodes(storage, dataclasses.replace(resources, slots=1), too_large)
    assert re.search(
        r"GiB a run \('mlp' needs most\) times 3 at a time are .* are free on the node \S+ \(\w{8}\): "
        r"take ray start --num-cpus=[12] there, or a smaller --scale$",
        str(caught.value),
    )


class CountingQueue(Queue):
    """A queue that knows how many trials are out at a time."""

    out, most = 0, 0

    def suggest(self, trial_id: str) -> Any:
        suggested = super().suggest(trial_id)
        self.out += isinstance(suggested, dict)
        self.most = max(self.most, self.out)
        return suggested

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.out -= 1


def test_a_cluster_trains_no_more_at_a_time_than_was_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests
    processes = tmp_path / "processes.txt"
    queue = CountingQueue([{"processes": str(processes), "seeds": [number]} for number in range(8)])
    with joined(cluster.address):
        resources = cluster_resources(2, None)
        run_trials(
            fakes_ray.NothingTrainable,
            resources,
            tmp_path / "study",
            lambda: queue,
            most=8,
            observer=TrialObserver(),
            say=print,
        )
    trained = processes.read_text().splitlines()
    assert (len(trained), queue.out, queue.most) == (8, 0, 2)
    assert len({*trained}) <= 2, "a process trains one run after the other"


@pytest.fixture
def blind_node(cluster: Cluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A node that sees neither the token cache nor any study, but the folder that is given."""
    shared, elsewhere = tmp_path_factory.mktemp("shared"), tmp_path_factory.getbasetemp() / "token-cache"
    elsewhere.mkdir(exist_ok=True)
    hide = f"mount -t tmpfs tmpfs {elsewhere} && mount -t tmpfs tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", hide], check=False).returncode:
        pytest.skip("what a process sees of the file system can only be changed by root")
    start = f"cd / && {hide} && exec {RAY} start --address={cluster.address} --num-cpus=1 --block"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # as in a shell
    said = tmp_path_factory.mktemp("node") / "log"
    with said.open("w") as log:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", start], stdout=log, stderr=log, start_new_session=True, env=environment
        )
    while "Ray runtime started" not in said.read_text():
        assert process.poll() is None, said.read_text()
        time.sleep(0.1)
    yield shared
    for pid in processes_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def test_a_node_that_sees_neither_tokens_nor_folder(
    small_study: list[str], records: dict[str, dict[str, Any]], cluster: Cluster, blind_node: Path
) -> None:
    address = ["--ray-address", cluster.address]
    process = driver([*small_study, *address])
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 2, output
    assert "does not see" in errors
    assert "give --storage" in errors
    assert len(errors.splitlines()) == 1
    assert records_of(Path("results")) == []
    process = driver([*small_study, *address, "--storage", blind_node.as_uri()])
    assert "died" not in finished(process)
    assert records_in(Path("results")) == records_in(blind_node) == records
    (study,) = blind_node.iterdir()
    assert {path.name for path in study.iterdir() if any(path.iterdir() if path.is_dir() else [path])} == {
        "plan.json",
        "records",
    }


def test_a_driver_that_is_killed_and_whose_folder_is_gone_loses_nothing(
    one_by_one: list[str], records: dict[str, dict[str, Any]], bucket: str
) -> None:
    files, root = FileSystem.from_uri(bucket)

    def stored(pattern: str) -> dict[str, bytes]:
        """Return the files in the bucket that have such a name in the study's place."""
        found = files.get_file_info(FileSelector(root, recursive=True))
        return {
            info.path: files.open_input_file(info.path).read() for info in found if fnmatch(info.path, f"*/{pattern}")
        }

    command = [*one_by_one, "--storage", bucket]
    process = driver(command)
    wait_for(lambda: bool(stored(RECORDS)), process)
    for pid, line in processes_of(process.pid).items():
        if "Trainable" in line:
            os.kill(pid, signal.SIGSTOP)  # so that the study lasts until the other was refused
    other = driver([*command, "--output", "elsewhere"])
    _, errors = other.communicate(timeout=100)
    assert other.returncode == 2
    assert f"(process {process.pid}) is running this study" in errors
    assert len(errors.splitlines()) == 1
    for pid in processes_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    kept = stored(RECORDS)
    ((lease, held),) = stored(LEASE_FILE).items()
    with files.open_output_stream(lease) as file:
        file.write(json.dumps({**json.loads(held), "time": json.loads(held)["time"] - 100}).encode())
    output = finished(driver([*command, "--output", "elsewhere"]))
    assert f"(process {process.pid}) has not renewed its lease" in output
    assert records_in(Path("elsewhere")) == records
    ended = {Path(name).name: content for name, content in stored(RECORDS).items()}
    assert ended == {path.name: path.read_bytes() for path in records_of(Path("elsewhere"))}
    assert kept.items() <= stored(RECORDS).items(), "what had ended was not trained again"
    assert not stored(LEASE_FILE)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_one_line(address: str, small_study: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    process = driver([*small_study, "--ray-address", address], RAY_ADDRESS="127.0.0.1:1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith(f"error: --ray-address {address}: no Ray cluster can be joined there")
    assert len(errors.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
