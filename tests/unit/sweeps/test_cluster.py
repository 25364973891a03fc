"""What a cluster offers, and what is refused before one is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from moe_models.errors import ConfigError
from sweeps.engine import cluster
from sweeps.engine.cluster import cluster_resources, node_view
from sweeps.engine.forecast import forecast
from sweeps.engine.options import parse
from sweeps.engine.plan import Plan
from sweeps.engine.resources import Resources
from sweeps.exp6_grid import STUDY
from trainables.environment import describe_environment


def nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    monkeypatch.setattr(cluster, "_alive", lambda: [{"Resources": each} for each in resources])


@pytest.mark.parametrize(
    ("asked", "given", "slots"),
    [
        ([{"CPU": 2}, {"CPU": 3}, {}], None, 5),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8}], None, 4),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8}], 0.0, 16),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 3, "GPU": 1}], 0.25, 11),  # the cores are too few for 16 and for 4
        ([{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 3}], 2.0, 2),  # three GPUs to a node are one pair
    ],
)
def test_runs_fit_on_nodes_and_not_across_them(
    asked: list[dict[str, float]], given: float | None, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, *asked)
    found = cluster_resources(None, given)
    assert found.slots == slots
    assert found.cluster
    assert cluster_resources(64, given).slots == 64, "a cluster may grow"


def test_a_run_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, {"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1})
    with pytest.raises(ConfigError, match="no node of a cluster of 2 nodes with 8 CPU cores and 2 GPUs has room"):
        cluster_resources(None, 2.0)


def test_precision_and_times_are_measured_where_runs_train(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def on_a_node(measure: Callable[..., Any], arguments: Sequence[Any], gpus: float) -> Any:
        asked.append((measure.__name__, gpus))
        return measure(*arguments)

    monkeypatch.setattr(cluster, "on_a_node", on_a_node)
    nodes = Resources(slots=2, gpus=0, gpus_per_trial=0.0, reason="", cluster=True)
    plan = plan_for(resources=nodes, variants="baseline", precision="auto")
    assert forecast(plan, nodes).seconds > 0
    assert asked == [("faster_precision", 0.0), ("estimate_runs", 0.0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray-address", "ray://head:10001"], "must be auto or HOST:PORT"),
        (["--ray-address", "head"], "must be auto or HOST:PORT"),
        (["--ray-address", "me:hunter2@head:6379"], "must be auto or HOST:PORT"),
        (["--ray-address", "auto", "--gpus-per-trial", "auto"], "with --ray-address give a share"),
        (["--storage", "s3://me:hunter2@bucket/a"], "its URL holds a password"),
        (["--storage", ""], "--storage is empty"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_one_line_without_secrets(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(STUDY, arguments)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_node_says_what_it_has(tmp_path: Any) -> None:
    (tmp_path / "asked").write_text("token")
    view = node_view(str(tmp_path), "asked", "reply")
    assert (tmp_path / "reply").read_text() == view["token"] == "token"
    assert view["versions"] == describe_environment()["versions"]
    assert len(view["code"]) == 16
    blind = node_view(str(tmp_path / "elsewhere"), "asked", "reply")
    assert (blind["token"], blind["problem"]) == ("", "")
    assert not (tmp_path / "elsewhere").exists(), "a node that sees another place leaves nothing there"
    (tmp_path / "file").write_text("")
    assert "Error" in node_view(str(tmp_path / "file"), "asked", "reply")["problem"]
