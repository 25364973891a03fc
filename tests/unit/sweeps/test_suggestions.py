"""What Tune is handed, and when: without Ray."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray.tune.search import Searcher

from sweeps.engine.suggestions import OnGpus, Queue, Suggestions
from trainables.ray_trainable import OUT_OF_MEMORY

LACKED = {"status": OUT_OF_MEMORY, "error": "OutOfMemoryError: asked for 2.00 GiB, with 0.5 GPU"}


def config(name: str) -> dict[str, Any]:
    return {"labels": {"cell": name}, "seeds": [7]}


class Heard(Queue):
    """A queue that notes which trials it has heard to have ended."""

    def __init__(self, *names: str) -> None:
        super().__init__([config(name) for name in names])
        self.ended: list[tuple[str, bool]] = []

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.ended.append((trial_id, error))


def on_gpus(inner: Suggestions, gpus: float) -> tuple[OnGpus, list[str]]:
    said: list[str] = []
    return OnGpus(inner, gpus, said.append), said


def test_what_lacked_memory_comes_again_with_a_whole_gpu_after_all_others() -> None:
    inner = Heard("a", "b", "c")
    trials, said = on_gpus(inner, 0.5)
    assert trials.suggest("1") == {**config("a"), "gpus": 0.5}
    assert trials.suggest("2") == {**config("b"), "gpus": 0.5}
    trials.on_trial_complete("1", LACKED)
    assert trials.suggest("3") == {**config("c"), "gpus": 0.5}
    assert trials.suggest("4") == {**config("a"), "gpus": 1.0}
    assert trials.suggest("5") is None, "b and c may lack memory yet"
    trials.on_trial_complete("3", {"status": "finished"})
    trials.on_trial_complete("2", LACKED)
    assert trials.suggest("5") == {**config("b"), "gpus": 1.0}
    trials.on_trial_complete("5", {"status": "failed"})
    trials.on_trial_complete("4", error=True)
    assert trials.suggest("6") == Searcher.FINISHED
    assert inner.ended == [("3", False), ("2", False), ("1", True)], "under the names that it gave, once each"
    assert said == [
        f"{cell}, seed 7: OutOfMemoryError: asked for 2.00 GiB, with 0.5 GPU; it is tried once more, alone"
        for cell in "ab"
    ]


@pytest.mark.parametrize("gpus", [0.0, 1.0, 2.0])
def test_where_nothing_is_shared_nothing_is_waited_for(gpus: float) -> None:
    trials, _ = on_gpus(Heard("a"), gpus)
    assert trials.suggest("1")["gpus"] == gpus
    assert trials.suggest("2") == Searcher.FINISHED


def test_a_suggestion_that_waits_is_waited_for() -> None:
    class Waiting(Suggestions):
        def suggest(self, trial_id: str) -> Any:
            return None

    assert on_gpus(Waiting(), 0.5)[0].suggest("1") is None


def test_tune_can_pickle_what_it_is_given() -> None:
    trials, _ = on_gpus(Heard("a"), 0.5)
    assert isinstance(pickle.loads(pickle.dumps(trials)), OnGpus)


def test_what_tune_pickles_does_not_grow_with_the_study() -> None:
    sizes = {len(pickle.dumps(on_gpus(Heard(*map(str, range(number))), 0.5)[0])) for number in (1, 10_000)}
    assert len(sizes) == 1
