"""Trainables for the tests and timings of the engine: real Ray, real records, no training or a planned fault."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from analysis.schema import FINISHED, RECORDS_FOLDER, STEP, TOKENS, TRAIN_LOSS, VAL_LOSS, TrialRecord
from trainables.config import TrialConfig
from trainables.data import TokenizedCorpus
from trainables.ray_trainable import OUT_OF_MEMORY, AblationTrainable
from trainables.tuning_trainable import TuningTrainable


def process_of(fault: str = "") -> int:
    """Return the process that this runs in, or raise a planned fault."""
    if fault:
        raise RuntimeError(fault)
    return os.getpid()


class TrivialTrainable(tune.Trainable):
    """Ends at its first step with a real record: what a trial costs beside its training."""

    SECONDS = 0.0

    def setup(self, config: dict[str, Any]) -> None:
        self.settings = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self.SECONDS)
        seed, updates = self.settings["seeds"][0], self.settings["config"]["training"]["updates"]
        row = {STEP: updates, TRAIN_LOSS: 3.0, VAL_LOSS: self.loss(seed), "train_seconds": self.SECONDS}
        TrialRecord(
            **self.settings["labels"],
            seed=seed,
            config_hash=TrialConfig.from_dict(self.settings["config"]).hash(seed),
            status=FINISHED,
            rows=[row],
            config=self.settings["config"],
            environment=self.settings["environment"],
        ).write(Path(self.settings["study_directory"]) / RECORDS_FOLDER)
        rows = [{**row, "seed": seed}]
        return {"rows": rows, "status": FINISHED, "seconds_busy": self.SECONDS, tune.result.DONE: True}

    def loss(self, seed: int) -> float:
        """Return the validation loss."""
        return 3.0


class NothingTrainable(TrivialTrainable):
    """Ends at its first step, with no record: it notes which process it had."""

    def step(self) -> dict[str, Any]:
        with Path(self.settings["processes"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"status": FINISHED, tune.result.DONE: True}


class UnbornTrainable(TrivialTrainable):
    """Cannot be set up."""

    def setup(self, config: dict[str, Any]) -> None:
        raise FileNotFoundError("no tokens\nthere")


class NotingTrainable(TrivialTrainable):
    """Notes in the study's folder which process had which cell."""

    def step(self) -> dict[str, Any]:
        with Path(self.settings["study_directory"], "processes.txt").open("a") as file:
            file.write(f"{os.getpid()} {self.settings['labels']['cell']}\n")
        return super().step()


class ChattyTrainable(TrivialTrainable):
    """Reports a row at every step, as fast as it can, before it ends."""

    REPORTS = 200

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        self.reports = 0

    def step(self) -> dict[str, Any]:
        self.reports += 1
        if self.reports == self.REPORTS:
            return super().step()
        row = {STEP: self.reports, TRAIN_LOSS: 3.0, "seed": self.settings["seeds"][0]}
        return {"rows": [row], "status": "running", "seconds_busy": 0.0, tune.result.DONE: False}


class RacingTrainable(TrivialTrainable):
    """The cell `mlp` is a nat worse than the others, which differ by noise."""

    SECONDS = 0.1

    def loss(self, seed: int) -> float:
        """Return the validation loss, from the cell and the seed alone."""
        cell = self.settings["labels"]["cell"]
        return 3.0 + (cell == "mlp") + random.Random(f"{cell} {seed}").gauss(0, 0.01)


class FaultyTrainable(AblationTrainable):
    """The real trainable, with faults that files in the study's folder ask for.

    `other code`: its driver had other code. `raise`, `unreadable`: the cell `mlp` raises with seed 1, or its record is
    none.
    """

    def setup(self, config: dict[str, Any], corpora: Mapping[str, TokenizedCorpus] | None = None) -> None:
        if (Path(config["study_directory"]) / "other code").exists():
            config = {**config, "environment": {**config["environment"], "code": "newer"}}
        super().setup(config, corpora)

    def _asked(self, fault: str) -> bool:
        assert self.store is not None
        return self.labels["cell"] == "mlp" and self.trainer.seed == 1 and self.store.exists(fault)

    def _step(self) -> dict[str, Any]:
        if self._asked("raise"):
            raise RuntimeError("planned\nfault")
        return super()._step()

    def _end_seed(self, status: str, error: str | None) -> None:
        super()._end_seed(status, error)
        assert self.store is not None
        if self._asked("unreadable"):
            with self.store.writing(self._record_name) as file:
                file.write(b"no record")


BEGIN = AblationTrainable._begin


def begin_without_a_gpu(
    self: AblationTrainable, config: Mapping[str, Any], corpora: Mapping[str, TokenizedCorpus] | None
) -> None:
    """Begin a trial on the CPU, whatever share it has of a GPU that need not be there."""
    BEGIN(self, {name: value for name, value in config.items() if name != "gpus"}, corpora)


class HungryTrainable(AblationTrainable):
    """The real trainable, except for memory: `mlp` needs a whole GPU, and `moe` more than that.

    `mlp` lacks it after its first update, `moe` before it has a model. What each trial had is noted in the study's
    folder.
    """

    _begin = begin_without_a_gpu

    def _start_seed(self, seed: int) -> None:
        self.seed, self.noted = seed, False
        if self.labels["cell"] == "moe":
            raise self._error("3.00 GiB")
        super()._start_seed(seed)

    def step(self) -> dict[str, Any]:
        if not self.noted:  # a slow machine makes several steps of a run
            self.noted = True
            had = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
            with Path(self.config["study_directory"], "had.txt").open("a") as file:
                file.write(f"{self.labels['cell']} {self.seed} {had:g}\n")
        return super().step()

    def _step(self) -> dict[str, Any]:
        if self.labels["cell"] == "mlp" and self.gpus < 1:
            next(self.progress)
            raise self._error("2.00 GiB")
        return super()._step()

    def _error(self, size: str) -> torch.OutOfMemoryError:
        return torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size}. GPU 0 has\na total capacity of")


class MadeUpTuningTrainable(TuningTrainable):
    """Reports as TuningTrainable does, without training: a loss that falls with the updates, best at rates of 0.01.

    Trial 2 of each search raises while `fault` lies in the study's folder. Where `kill worker` lies there, the process
    of the search of `mlp` is killed in its trial 2, once; where `kill raylet` does, its raylet, the next time.
    """

    def setup(self, config: dict[str, Any], corpora: Mapping[str, TokenizedCorpus] | None = None) -> None:
        self.settings = config
        self.curve: list[dict[str, Any]] = []

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        training, labels = self.settings["config"]["training"], self.settings["labels"]
        folder = Path(self.settings["study_directory"])
        if (labels["arm"], labels["number"]) == ("search", 2):
            if (folder / "fault").exists():
                raise RuntimeError("planned\nfault")
            for victim, process in (("worker", os.getpid()), ("raylet", os.getppid())):
                if labels["cell"] == "mlp" and (folder / f"kill {victim}").exists():
                    (folder / f"kill {victim}").unlink()
                    os.kill(process, signal.SIGKILL)
                    time.sleep(60)  # one whose raylet is dead ends soon
        rates = [math.log10(training[f"{name}_learning_rate"]) for name in ("muon", "adamw")]
        while len(self.curve) < training["updates"]:
            update = len(self.curve) + 1
            loss = 3 + sum(0.1 * (rate + 2) ** 2 for rate in rates) + 1 / update
            self.curve.append({STEP: update, TOKENS: 1024 * update, VAL_LOSS: loss})
            if update in self.settings["pauses"]:
                break
        done = len(self.curve) == training["updates"]
        status = FINISHED if done else "running"
        ended: dict[str, Any] = {"error": None, "findings": []}
        return {"rows": [], "curve": list(self.curve), "status": status, **ended, tune.result.DONE: done}

    def cleanup(self) -> None:
        """Nothing is kept."""


class HungryTuningTrainable(MadeUpTuningTrainable):
    """Trial 1 of the search of `mlp` needs a whole GPU."""

    def step(self) -> dict[str, Any]:
        labels = self.settings["labels"]
        if (labels["cell"], labels["number"]) == ("mlp", 1) and self.settings["gpus"] < 1:
            report = {"rows": [], "curve": [], "status": OUT_OF_MEMORY, "error": "OutOfMemoryError: planned"}
            return {**report, "findings": [], tune.result.DONE: True}
        return super().step()
