"""What Tune is to run next, decided by this project: Tune's own variant generator would start trials in any order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from trainables.ray_trainable import OUT_OF_MEMORY


class Suggestions(Searcher):
    """A subclass has `suggest`: the configuration of a trial, None to wait for others, or Searcher.FINISHED."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn from results."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records say what is left."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into snapshots, which nobody reads here."""
        return {}


class Queue(Suggestions):
    """Hands Tune the runs one by one, in order."""

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._configs = list(configs)
        self._next = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the next run's configuration."""
        if self._next == len(self._configs):
            return Searcher.FINISHED
        self._next += 1
        return dict(self._configs[self._next - 1])


class OnGpus(Suggestions):
    """Gives each trial that another suggests its share of a GPU; what needs more is tried once more, alone.

    Alone is with a whole GPU, which Ray hands out when nothing else is left on it: after all others, whose GPU would
    otherwise have to be emptied for it. The other hears of a trial's end only when it has really ended.

    Args:
        inner: suggests.
        gpus: of each trial; 0 where there is none.
        say: where to say that a trial ran out of memory.
    """

    def __init__(self, inner: Suggestions, gpus: float, say: Callable[[str], None]) -> None:
        super().__init__()
        self._inner = inner
        self._gpus = gpus
        self._say = say
        self._running: dict[str, tuple[dict[str, Any], str]] = {}
        """By Tune's name of a trial: what was suggested, and the name that `inner` knows it by."""
        self._again: list[tuple[dict[str, Any], str]] = []

    def suggest(self, trial_id: str) -> Any:
        """Return what is suggested, with its GPUs."""
        gpus, name = self._gpus, trial_id
        config = self._inner.suggest(trial_id)
        if config is None or config == Searcher.FINISHED:
            if not self._again:
                return None if self._running and 0 < gpus < 1 else config
            (config, name), gpus = self._again.pop(0), 1.0
        self._running[trial_id] = config, name
        return {**config, "gpus": gpus}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, or is to be tried again."""
        config, name = self._running.pop(trial_id)
        if result is None or result.get("status") != OUT_OF_MEMORY:
            self._inner.on_trial_complete(name, result, error)
            return
        self._again.append((config, name))
        seeds = ", ".join(map(str, config["seeds"]))
        self._say(f"{config['labels']['cell']}, seed {seeds}: {result['error']}; it is tried once more, alone")
