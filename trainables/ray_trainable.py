"""The bridge to Ray Tune: a trial is a configuration and a list of seeds, trained one after the other.

It can be dropped into any `tune.Tuner`: its configuration needs `config` (TrialConfig.to_dict(), search spaces allowed
inside), `seeds` and `corpus_directory`. With `study_directory` it also writes a record when a seed ends, and keeps a
checkpoint of its own by the run's hash, from which any later trial of that hash goes on.

On a cluster the nodes need not have the tokens: `tune.with_parameters(AblationTrainable, corpora={directory: corpus})`
sends them through Ray's object store, whose copy all trials of a node read in place.
"""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune

from analysis import schema
from analysis.schema import TrialRecord
from moe_models.errors import ConfigError, require
from trainables.audits import Auditor
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.data import TokenizedCorpus, open_corpus
from trainables.environment import merged, require_same, this_process
from trainables.loop import Divergence, Trainer
from trainables.memory import breaks_process, lacks_memory, limit_to_share, out_of_memory, settle_process
from trainables.store import Store, open_store

REPORT_SECONDS = 2.0
"""Least time between two reports to Tune."""
CHECKPOINT_SECONDS = 10.0
"""Least time between two checkpoints by the run's hash: what an interruption can cost."""
CHECKPOINT_SHARE = 0.05
"""Most of a run's time that goes into checkpoints: large ones are written less often."""
OUT_OF_MEMORY = "out_of_memory"
"""A report's status: the trial's share of a GPU was too small, which a whole one may not be. Never a record's."""
REFUSED = "refused"
"""A report's status: this process has other code or packages than the driver, or lacks the GPU that it was given. Never
a record's."""


class AblationTrainable(tune.Trainable):
    """Trains a configuration for each of its seeds. Actors can be reused: `reset_config` starts afresh.

    Configuration: `config`, `seeds`, `corpus_directory`; optionally `study_directory` (a path or URL, see
    `trainables.store`), `labels` (study, cell, scale, factors, flaws: for the record), `environment` (the driver's, for
    the record; a process with other code or packages trains nothing), `threads` (of torch, 1 by default), `gpus` (that
    the trial was given: with 0 it trains on the CPU, below 1 it is kept to that share of a GPU's memory, and where
    torch can use no GPU it trains nothing; by default it has one where there is one), `pauses`
    (updates after which the run is evaluated and reported at once, for a scheduler to decide on), `divergence_limit`
    (final validation loss, nats, above which a run has diverged) and `final_test` (whether a finished run's record is
    to hold its result on the test split, which no report of the trial does).

    Each report holds the latest row, the latest validation figures, all `rows` since the last report (each with its
    `seed`; the first after an interruption has those from before it, too), the `status` of the seed last trained,
    `seconds_busy`, time spent training or evaluating since then, and `remarks`, lines on what went wrong and changes no
    result.
    """

    def setup(self, config: dict[str, Any], corpora: Mapping[str, TokenizedCorpus] | None = None) -> None:
        """Check the configuration and start its first seed; `corpora` are by `corpus_directory`."""
        torch.set_num_threads(config.get("threads", 1))
        settle_process()
        self.unstarted: dict[str, Any] | None = None
        """The report of a trial that could not be set up, or that must not be trained here."""
        self.status = REFUSED
        self.remarks: list[str] = []
        """Of the next report."""
        self.remarked: set[str] = set()
        self.store: Store | None = None
        self.gpus: float = config.get("gpus", 1.0)
        self.device = torch.device("cuda" if self.gpus and torch.cuda.is_available() else "cpu")
        try:
            self._begin(config, corpora)
        except Exception as error:
            if not config.get("study_directory") or breaks_process(error):
                raise
            self.unstarted = self._failure(error)

    def _begin(self, config: Mapping[str, Any], corpora: Mapping[str, TokenizedCorpus] | None) -> None:
        self.environment = config.get("environment", {})
        self.store = open_store(config["study_directory"]) if config.get("study_directory") else None
        try:  # before all else: other code may not even know the configuration
            here = f"a process on {platform.node()}"
            require_same(this_process(False), self.environment, here)
            require(
                self.device.type == "cuda" or not config.get("gpus"),
                f"{here} was given {self.gpus:g} GPU, and torch {torch.__version__} can use none there: install a "
                "driver that it can use, or take that machine away",
            )
        except ConfigError as error:
            if self.store is None:
                raise
            self.unstarted = {"status": REFUSED, "error": str(error), "rows": [], tune.result.DONE: True}
            return
        self.trial_config = TrialConfig.from_dict(config["config"])
        self.pending_seeds = list(config["seeds"])
        self.labels = config.get("labels", {})
        self.divergence_limit: float | None = config.get("divergence_limit")
        self.final_test: bool = config.get("final_test", False)
        directory = config["corpus_directory"]
        self.corpus: TokenizedCorpus = corpora[directory] if corpora else open_corpus(Path(directory))
        self.latest: dict[str, Any] = {}
        self.pauses = frozenset(config.get("pauses", ()))
        limit_to_share(self.gpus, self.device)
        self._start_seed(self.pending_seeds.pop(0))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Replace everything of the trial before (Tune calls this when it reuses the actor)."""
        for name in ("trainer", "progress", "auditor"):
            self.__dict__.pop(name, None)  # of a trial that could not be set up they may be missing
        self.setup(new_config)
        return True

    def _start_seed(self, seed: int) -> None:
        self.trainer = Trainer(self.trial_config, seed, self.corpus, self.device)
        self.made_with = [dict(this_process(self.device.type == "cuda"))]
        """What the seed was trained with so far: more than one where a checkpoint came from elsewhere."""
        self.checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS
        if self.store is not None:
            try:
                state = load_checkpoint(self.store, self._checkpoint_name)
                if state is not None:
                    self._continue(state)
            except Exception as error:
                if isinstance(error, OSError) or lacks_memory(error) or breaks_process(error):
                    raise  # the checkpoint may be whole: training from the start would write over what it holds
                # It is damaged, or of another version: training from the start gives the same result.
                self._remark(f"its checkpoint is ignored, it trains from the start: {schema.error_line(error)}")
                self.trainer = Trainer(self.trial_config, seed, self.corpus, self.device)
        self.trainer.evaluate_at = self.pauses
        self.auditor = Auditor(self.trainer, self.corpus)
        self.progress = self.trainer.run()
        self.status = schema.FINISHED if self._is_recorded() else "running"
        self.started_at = self.trainer.update
        self.rows_reported = 0
        """Rows of the curve that reports have held. A worker that goes on from a checkpoint begins anew: the one before
        may have died with a row that it had kept and not reported."""

    def _state(self) -> dict[str, Any]:
        """Return all that is needed to continue the seed."""
        return {**self.trainer.state_dict(), "made_with": self.made_with}

    def _continue(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state)
        here = self.made_with[-1]
        self.made_with = [*(before for before in state.get("made_with", ()) if before != here), here]

    def _is_recorded(self) -> bool:
        """Return whether the seed has ended: a worker that dies just then is tried again."""
        return self.store is not None and self.store.exists(self._record_name)

    @property
    def _record_name(self) -> str:
        return f"{schema.RECORDS_FOLDER}/{self.trial_config.hash(self.trainer.seed)}.json"

    @property
    def _checkpoint_name(self) -> str:
        return f"{schema.CHECKPOINTS_FOLDER}/{self.trial_config.hash(self.trainer.seed)}.pt"

    def step(self) -> dict[str, Any]:
        """Train for about REPORT_SECONDS, to a pause, or to the end of the trial.

        An error of a study's trial is its outcome: reported, with status `failed`, `error` and `traceback`, and not
        raised, since Tune would try again what fails every time. Only a lost worker is worth another try, and a share
        of a GPU that was too small a whole one: that is reported with status OUT_OF_MEMORY. Raised is what breaks the
        process: after an error of CUDA's own each further call of it fails, and Tune reuses none that raised.
        """
        if self.unstarted is not None:
            return self.unstarted
        try:
            return self._step()
        except Exception as error:
            if self.store is None:
                raise
            report = self._failure(error)
            if breaks_process(error):
                raise
            return report

    def _failure(self, error: Exception) -> dict[str, Any]:
        """Return the report of a trial that an error ended."""
        self.status = schema.FAILED  # an update may be half made: its state is not worth keeping
        line, status = schema.error_line(error), self.status
        if lacks_memory(error):
            line = out_of_memory(error, self.gpus, self.device)
            status = OUT_OF_MEMORY if 0 < self.gpus < 1 else status
        return {
            "rows": [],
            "status": status,
            "error": line,
            "traceback": traceback.format_exc(),
            "seconds_busy": 0.0,
            tune.result.DONE: True,
        }

    def _step(self) -> dict[str, Any]:
        started = time.monotonic()
        busy = -self._busy_seconds()
        rows: list[dict[str, Any]] = []
        while time.monotonic() - started < REPORT_SECONDS and self.status == "running":
            self.status, error = self._advance()
            rows += [{**row, schema.SEED: self.trainer.seed} for row in self.trainer.rows[self.rows_reported :]]
            self.rows_reported = len(self.trainer.rows)
            if self.status != "running":
                self._end_seed(self.status, error)
            if self.trainer.update in self.pauses:
                break
        status = self.status
        busy += self._busy_seconds()
        done = status != "running" and not self.pending_seeds
        for row in rows:
            self.latest |= {name: value for name, value in row.items() if value is not None}
        remarks, self.remarks = self.remarks, []
        report = {
            **self.latest,
            "rows": rows,
            "status": status,
            "seconds_busy": busy,
            "remarks": remarks,
            tune.result.DONE: done,
        }
        if status != "running" and self.pending_seeds:
            self._start_seed(self.pending_seeds.pop(0))
        return report

    def _busy_seconds(self) -> float:
        return self.trainer.train_seconds + self.trainer.evaluation_seconds

    def _advance(self) -> tuple[str, str | None]:
        """Make one update; return the status it leads to and, if the run diverged, how."""
        self.auditor.before_update()
        try:
            next(self.progress, None)
        except Divergence as error:
            return schema.DIVERGED, str(error)
        if self.trainer.finished:
            return self._judge()
        if self.store is not None and time.monotonic() > self.checkpoint_at:
            self._save(self.store)
        return "running", None

    def _save(self, store: Store) -> None:
        """Keep what the seed has reached. Where that fails for now, it is only what an interruption would cost."""
        started = time.monotonic()
        try:
            save_checkpoint(store, self._checkpoint_name, self._state())
        except OSError as error:
            self._remark(f"its checkpoint cannot be written, it trains on: {schema.error_line(error)}")
        ended = time.monotonic()
        self.checkpoint_at = ended + max(CHECKPOINT_SECONDS, (ended - started) / CHECKPOINT_SHARE)

    def _remark(self, line: str) -> None:
        """Put a line into the next report, once a trial."""
        if line not in self.remarked:
            self.remarked.add(line)
            self.remarks.append(line)

    def _judge(self) -> tuple[str, str | None]:
        """Return how a run ended that was trained through its last update, by the loss after it."""
        loss, limit = self.trainer.rows[-1][schema.VAL_LOSS], self.divergence_limit
        if loss is None:
            return schema.DIVERGED, f"{schema.VAL_LOSS} is not finite after the last update"
        if limit is not None and loss > limit:
            above = f"{schema.VAL_LOSS} after the last update is {loss:.4f} nats"
            return schema.DIVERGED, f"{above}, above the plan's divergence limit of {limit:g}"
        return schema.FINISHED, None

    def _end_seed(self, status: str, error: str | None) -> None:
        """Write the record, then drop the checkpoint: at every moment one of the two is there."""
        if self.store is None:
            return
        is_tested = self.final_test and status == schema.FINISHED
        test = self.trainer.evaluate_test() if is_tested else {}
        audits = self.auditor.end(test)
        record = TrialRecord(
            study=self.labels["study"],
            cell=self.labels["cell"],
            scale=self.labels["scale"],
            factors=self.labels["factors"],
            seed=self.trainer.seed,
            config_hash=self.trial_config.hash(self.trainer.seed),
            status=status,
            error=error,
            rows=self.trainer.rows,
            config=self.trial_config.to_dict(),
            environment={
                **self.environment,
                **merged(self.made_with),
                schema.DEVICE: self.trainer.device.type,
                schema.AUDITS_RUN: ",".join(self.auditor.ran),
            },
            audits=audits,
            digest=self.trainer.witness.digest,
            scores=self.auditor.scores,
            params_dead=self.auditor.params_dead,
            test=test,
            flaws=self.labels.get("flaws", []),
        )
        with self.store.writing(self._record_name) as file:
            file.write(record.to_bytes())
        self.store.delete(self._checkpoint_name)

    def cleanup(self) -> None:
        """Keep what an interrupted seed has reached (Tune calls this when it stops the actor).

        Tune also sets actors up that it then never runs: those have nothing to keep.
        """
        if self.store is not None and self.status == "running" and self.trainer.update > self.started_at:
            save_checkpoint(self.store, self._checkpoint_name, self._state())

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the whole trial for Tune."""
        state = {"trainer": self._state(), "pending_seeds": self.pending_seeds, "latest": self.latest}
        save_checkpoint(open_store(checkpoint_dir), "trial.pt", state)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue a trial that Tune saved."""
        state = load_checkpoint(open_store(checkpoint_dir), "trial.pt")
        assert state is not None, "Tune gives back the folder that it was given"
        self.pending_seeds = list(state["pending_seeds"])
        self.latest = dict(state["latest"])
        self._start_seed(state["trainer"]["seed"])
        self._continue(state["trainer"])
        self.rows_reported = len(self.trainer.rows)
