"""The plan: a study's cells, scales and seeds as full configurations with their hashes; `planning.py` makes it.

What was registered when it was first written stays as it is (`registration.py`); what is added later stands under
`amendments`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.schema import FAILURES_FOLDER, PLAN_FILE, RECORDS_FOLDER, SCALE, SCHEMA_VERSION, VAL_LOSS, write_json
from analysis.study.registered import HASH, REGISTERED
from analysis.tracking.names import flatten
from analysis.tuning_records import TUNING_FOLDER
from moe_models.accounting import Counts
from sweeps.engine.flaws import FLAWS
from sweeps.engine.plan_file import read_plan
from sweeps.engine.protocol import Protocol
from sweeps.engine.storage import Storage
from sweeps.engine.study import Study
from trainables.batches import epochs
from trainables.config import TrialConfig, stable_hash
from trainables.data import TokenizedCorpus

THREADS_PER_TRIAL = 1
MANY_EPOCHS = 8
"""Beyond this a report says how often the training text was seen."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell at one scale, resolved."""

    name: str
    factors: Mapping[str, Any]
    scale: str
    config: TrialConfig
    counts: Counts
    declared: Mapping[str, Any]
    """What the parts of the configuration that factors may change are meant to be, by dotted name."""

    @property
    def cost(self) -> float:
        """Training FLOPs of one run."""
        training = self.config.training
        return float(self.counts.flops_per_token) * training.updates * training.tokens_per_update

    def to_json(self, seeds: Sequence[int]) -> dict[str, Any]:
        """Return the cell's entry in `plan.json`."""
        return {
            "name": self.name,
            "factors": dict(self.factors),
            "scale": self.scale,
            "updates": self.config.training.updates,
            "params_total": self.counts.params_total,
            "params_active": self.counts.params_active,
            "flops_per_token": self.counts.flops_per_token,
            "declared": dict(self.declared),
            "hashes": {str(seed): self.config.hash(seed) for seed in seeds},
        }


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One (cell, seed)."""

    cell: PlannedCell
    seed: int

    @cached_property
    def config_hash(self) -> str:
        """The run's address."""
        return self.cell.config.hash(self.seed)


def by_cell(runs: Sequence[PlannedRun]) -> tuple[list[PlannedCell], list[int]]:
    """Return the cells of runs, each once, and for each run the place of its own among them."""
    cells = {run.cell.name: run.cell for run in runs}
    places = {name: place for place, name in enumerate(cells)}
    return list(cells.values()), [places[run.cell.name] for run in runs]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study, ready to run."""

    study: Study
    protocol: Protocol
    scales: tuple[str, ...]
    why_scale: str
    folder: Path
    """Absolute; its name is the study's."""
    storage: Storage
    """Where runs keep their records and checkpoints."""
    seeds: tuple[int, ...]
    """Those asked for now."""
    cells: tuple[PlannedCell, ...]
    """Those asked for now."""
    corpora: Mapping[str, TokenizedCorpus]
    """By scale."""
    choices: Mapping[str, Any]
    """What is chosen once and kept: `planning.choose`."""
    existing: Mapping[str, Any]
    """The plan found in the folder, or else in the storage; empty where there was none."""
    ended: int
    """Runs that had a record when this was planned, in the folder or in the storage."""
    amendments: tuple[Mapping[str, Any], ...]
    """What is asked for now beyond what was planned before."""
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """By cell whose hyperparameters a search chose: the search's budget and space, its tokens, and what it chose."""
    rerun_failed: bool = False
    """Whether runs that an error ended are tried again."""
    registration: Mapping[str, Any] = field(default_factory=dict)
    """The sections of `plan.json` on registration; empty for a plan that was begun without."""

    @property
    def is_stale(self) -> bool:
        """Whether another driver has extended the study, or ended runs of it, since this was planned."""
        return read_plan(self.folder / PLAN_FILE) != self.existing or ended_runs(self.folder) != self.ended

    @property
    def has_begun(self) -> bool:
        """Whether there are records of the study, or of the search that it confirms."""
        return self.ended > 0 or any((self.folder / TUNING_FOLDER).glob("*/*.json"))

    @property
    def name(self) -> str:
        """The study's name, which is its folder's."""
        return self.folder.name

    def runs(self) -> list[PlannedRun]:
        """Return the runs asked for, the longest first, so that no slot waits long at the end; else seed by seed."""
        runs = [PlannedRun(cell=cell, seed=seed) for seed in self.seeds for cell in self.cells]
        return sorted(runs, key=lambda run: -run.cell.cost)

    def has_record(self, run: PlannedRun) -> bool:
        """Return whether a run has ended."""
        return self._has(RECORDS_FOLDER, run)

    def is_open(self, run: PlannedRun) -> bool:
        """Return whether a run has no record yet; one that failed is open only where it is to be tried again."""
        return not any(self._has(folder, run) for folder in self._ends)

    def ended_in_storage(self) -> set[str]:
        """Return the hashes of the runs of which the storage alone has how they ended: a start brings that.

        Raises:
            ConfigError: the storage cannot be read.
        """
        names = map(Path, self.storage.missing())
        return {name.stem for name in names if name.parent.name in self._ends}

    @property
    def _ends(self) -> tuple[str, ...]:
        """Folders in which a run that is not open has a file."""
        return (RECORDS_FOLDER,) if self.rerun_failed else (RECORDS_FOLDER, FAILURES_FOLDER)

    def failed_runs(self) -> list[PlannedRun]:
        """Return the runs that an error ended."""
        return [run for run in self.runs() if self._has(FAILURES_FOLDER, run) and not self._has(RECORDS_FOLDER, run)]

    def _has(self, folder: str, run: PlannedRun) -> bool:
        return (self.folder / folder / f"{run.config_hash}.json").exists()

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which tests may be made; of a plan that was begun without registration, none."""
        return tuple(self.registration[REGISTERED]["looks"]) if self.registration else ()

    @property
    def is_race(self) -> bool:
        """Whether what is decided at a look stops."""
        return len(self.looks) > 1

    def to_json(self) -> dict[str, Any]:
        """Return what `plan.json` holds: this plan, and all cells and seeds that were planned before."""
        design = self.study.designs[self.protocol.design]
        flaws = self.protocol.flaws
        control = None if flaws else self.study.negative_control  # flaws may tell its two levels apart
        corpus = self.corpora[self.scales[0]]
        updates = [cell.config.training.updates for cell in self.cells]
        of_cells = () if flaws else design.notes  # under flaws a cell may not be what its name says
        notes = [*self.study.notes, *of_cells, *itertools.chain(*(c.notes for c in self.corpora.values()))]
        cells = self._all_cells()
        if design.fraction and len(cells) == len(self.known_cells()):  # of some of its cells it says nothing
            notes += design.fraction.describe()
        notes += self._epoch_notes()
        return {
            "schema_version": SCHEMA_VERSION,
            "study": self.name,
            "title": self.study.title,
            "script": self.study.script,
            "design": self.protocol.design,
            "protocol": self.protocol.name,
            "flaws": list(flaws),
            "flaw_explanations": {name: FLAWS[name].explanation for name in flaws},
            "scales": list(self.scales),
            "corpus": corpus.name,
            "data_hash": data_hash(self.corpora),
            "updates": max(updates),
            "seeds": sorted({*self.seeds, *self.existing.get("seeds", ())}),
            "factors": [*self.study.factors, *([SCALE] if len(self.scales) > 1 else [])],
            "slots": {factor: list(slots) for factor, slots in self.study.slots.items()},
            "metric": VAL_LOSS,
            "direction": "min",
            "negative_control": None
            if control is None
            else {"factor": control.factor, "tolerance_nats": control.tolerance_nats},
            "factorial": design.factorial and self.protocol.published is None,
            "feed_forward_levels": {"factors": list(design.feed_forward_levels)}
            if design.feed_forward_levels
            else None,
            **({"fraction": design.fraction.to_json()} if design.fraction else {}),
            "notes": list(dict.fromkeys(notes)),
            "choices": dict(self.choices),
            **self.registration,
            **({"tuning": tuning} if (tuning := {**self.existing.get("tuning", {}), **self.tuning}) else {}),
            "cells": cells,
        }

    @property
    def evidence(self) -> dict[str, str]:
        """What every run records of the plan that it was trained under: the hash of what was registered."""
        return {HASH: self.registration[HASH]} if self.registration else {}

    def divergence_limit(self, scale: str) -> float | None:
        """Return the registered final validation loss, nats, above which a run has diverged."""
        limits = self.registration[REGISTERED]["divergence_limit"] if self.registration else None
        return limits.get(scale) if limits else None

    @property
    def final_test(self) -> bool:
        """Whether runs are evaluated on the test split at their end."""
        return bool(self.registration and self.registration[REGISTERED]["final_test"])

    def epochs(self) -> dict[str, float]:
        """Return how often a run sees its training text, by scale."""
        return {cell.scale: epochs(cell.config, self.corpora[cell.scale]) for cell in self.cells}

    def _epoch_notes(self) -> list[str]:
        return [
            f"the training text is seen {number:.1f} times at scale {scale}: losses are those of a small corpus"
            for scale, number in self.epochs().items()
            if number > MANY_EPOCHS
        ]

    def _all_cells(self) -> list[dict[str, Any]]:
        """Return the entries of all cells ever planned, in the study's order, each with the one it is compared with.

        Where the baseline was never asked for there are no comparisons: every cell is then its own.
        """
        entries = {cell.name: cell.to_json(self.seeds) for cell in self.cells}
        for old in self.existing.get("cells", ()):
            new = entries.setdefault(old["name"], {**old, "hashes": {}})
            hashes = {**old["hashes"], **new["hashes"]}
            new["hashes"] = dict(sorted(hashes.items(), key=lambda item: int(item[0])))
        baselines = self.baselines()
        for entry in entries.values():
            baseline = baselines[entry["name"]]
            entry["baseline"] = baseline if baseline in entries else entry["name"]
        order = self.known_cells()
        return sorted(entries.values(), key=lambda entry: order.index(entry["name"]))

    def known_cells(self) -> list[str]:
        """Return the names of all cells that the study can have at its scales, in its order."""
        return [self.scaled(cell.name, scale) for scale in self.scales for cell in self.protocol.cells]

    def baselines(self) -> dict[str, str]:
        """Return for each of `known_cells` the one that it is compared with: at its scale."""
        cells = [(cell.name, cell.baseline or self.study.baseline) for cell in self.protocol.cells]
        return {self.scaled(a, scale): self.scaled(b, scale) for scale in self.scales for a, b in cells}

    def scaled(self, name: str, scale: str) -> str:
        """Return a cell's name at a scale, which says the scale where there are several."""
        return scaled_name(name, scale, self.scales)

    def write(self) -> None:
        """Write `plan.json`, atomically."""
        write_json(self.folder / PLAN_FILE, self.to_json())
        self.storage.keep(PLAN_FILE)


def data_hash(corpora: Mapping[str, TokenizedCorpus]) -> str:
    """Return the hash of the tokens: of one corpus its own, of several (scales differ in vocabulary) one over all."""
    hashes = {scale: corpus.content_hash for scale, corpus in corpora.items()}
    return next(iter(hashes.values())) if len(hashes) == 1 else stable_hash(hashes)


def ended_runs(folder: Path) -> int:
    """Return how many runs of a study have a record."""
    return len(list((folder / RECORDS_FOLDER).glob("*.json")))


def scaled_name(name: str, scale: str, scales: Sequence[str]) -> str:
    """Return a cell's name at a scale, which says the scale where there are several."""
    return f"{name}@{scale}" if len(scales) > 1 else name


def what_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the fields in which a configuration differs from an earlier one, in words; empty text where in none."""
    then, now = flatten(then), flatten(now)
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    shown = [f"{name} is {now.get(name, 'absent')}, there {then.get(name, 'absent')}" for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more fields" if names[3:] else "")
