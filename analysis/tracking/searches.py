"""MLflow's copy of a search: one nested run a trial, `ablatune.kind = tuning`, beside the runs of the confirmation.

A trial is written as a whole when it has ended, so that none is ever left open or written twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from analysis.schema import CURVE_COLUMNS, FAILED, STEP
from analysis.tracking.names import BATCH, KIND_TAG, PARAMS_A_CALL, PARENT_TAG, PREFIX, TUNING, batches, flatten
from analysis.tracking.tracker import MlflowTracker
from analysis.tuning_records import RUNNING, TuningRecord


class TuningTracker:
    """Writes the trials of a study's searches into its MLflow experiment, under its parent run."""

    def __init__(self, tracker: MlflowTracker) -> None:
        self.tracker = tracker
        self._ids: dict[str, str] = {}
        """MLflow run of each ended trial, by arm and hash."""
        self._statuses: dict[str, str] = {}
        """How it ended, as that run has it."""
        self._behind: set[str] = set()
        """Arm and hash of each trial that has ended and could not be written as it did."""
        self._known = False
        """Whether what the store has of the searches is known."""

    def _look(self) -> None:
        """Know the runs that are there; one that was left half written goes."""
        self._ids, self._statuses = {}, {}
        for run in self.tracker.children():
            if run.data.tags.get(KIND_TAG) != TUNING:
                continue
            if run.info.status in ("FINISHED", "FAILED"):
                key = run.data.tags[f"{PREFIX}arm"] + run.data.tags[f"{PREFIX}config_hash"]
                self._ids[key] = run.info.run_id
                self._statuses[key] = run.data.tags[f"{PREFIX}status"]
            else:
                self.tracker.client.delete_run(run.info.run_id)
        self._known = True

    def ended(self, record: TuningRecord) -> None:
        """Write a trial that has just ended, anew where it was there; of a store that rests `copy` takes care."""
        self._behind.add(_key(record))
        if self.tracker.is_there():
            with self.tracker.tolerant():
                if not self._known:
                    self._look()
                self._replace(record)

    def copy(self, records: Iterable[TuningRecord]) -> None:
        """Write the trials that have ended and are not there as they did."""
        if not self.tracker.is_there(again=True):
            return
        with self.tracker.tolerant():
            if self._behind or not self._known:
                self._look()
            for record in records:
                key = _key(record)
                copied = self._statuses.get(key) == record.status and key not in self._behind
                if record.status != RUNNING and not copied:
                    self._replace(record)

    def _replace(self, record: TuningRecord) -> None:
        key = _key(record)
        if key in self._ids:
            self.tracker.client.delete_run(self._ids[key])
            del self._ids[key], self._statuses[key]
        self._ids[key] = self._write(record)
        self._statuses[key] = record.status
        self._behind.discard(key)

    def _write(self, record: TuningRecord) -> str:
        from mlflow.entities import Metric, Param

        client = self.tracker.client
        tags = {
            PARENT_TAG: self.tracker.parent_id,
            KIND_TAG: TUNING,
            # `variant`, not `cell`: a study's own runs are found by that tag, and these are none of them
            **{f"{PREFIX}{name}": str(getattr(record, name)) for name in ("study", "arm", "number", "seed", "status")},
            f"{PREFIX}variant": record.cell,
            f"{PREFIX}config_hash": record.config_hash,
            f"{PREFIX}hyperparameters": json.dumps(record.hyperparameters),
            **({f"{PREFIX}error": record.error} if record.error else {}),
            **{PREFIX + name: value for name, value in record.environment.items()},
        }
        name = f"{record.cell}, {record.arm} {record.number}"
        run_id: str = client.create_run(self.tracker.experiment_id, tags=tags, run_name=name).info.run_id
        params = [Param(key, value) for key, value in flatten({**record.config, "seed": record.seed}).items()]
        now = int(time.time() * 1000)
        metrics = [
            Metric(column, float(row[column]), now, row[STEP])
            for row in record.rows
            for column in CURVE_COLUMNS
            if row.get(column) is not None
        ]
        for some in batches(params, PARAMS_A_CALL):
            client.log_batch(run_id, params=list(some))
        for some in batches(metrics, BATCH):
            client.log_batch(run_id, metrics=list(some))
        client.set_terminated(run_id, status="FAILED" if record.status == FAILED else "FINISHED")
        return run_id


def _key(record: TuningRecord) -> str:
    return record.arm + record.config_hash
