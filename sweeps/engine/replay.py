"""One run of a study trained once more, in this process and without Ray: whether its record can be had again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from analysis.schema import (
    DEVICE,
    FAILED,
    NONDETERMINISTIC_COLUMNS,
    REPLAYS_FOLDER,
    STEP,
    TrialRecord,
    read_replays,
    write_json,
)
from analysis.text import counted
from moe_models.errors import require, unknown_name
from sweeps.engine.studies import StudyFolder
from trainables.config import TrialConfig
from trainables.data import prepare_corpus
from trainables.environment import describe_environment, this_process
from trainables.loop import Divergence, Trainer


def replay(study: StudyFolder, cell: str, seed: int, corpus: str | None = None) -> tuple[bool, str]:
    """Train a run that has ended as its record says, and compare the curves.

    Where a CPU gives every bit of it again, the study's folder keeps with which code and packages: that they change
    nothing.

    Args:
        study: whose run.
        cell: its cell.
        seed: its seed.
        corpus: as `--corpus`; by default the record's own name of it, which of a file is no path.

    Returns:
        Whether every row is the record's to the last bit, times and memory apart, and a line that says so.

    Raises:
        ConfigError: there is no such run, or this machine has not what it was trained with. What ended a failed run
            is raised as it is.
    """
    record = _find(study, cell, seed)
    config = TrialConfig.from_dict(record.config)
    name = corpus or config.data.corpus
    tokens = prepare_corpus(name, vocab_size=config.model.vocab_size, seq_len=config.training.seq_len)
    require(
        tokens.content_hash == config.data.content_hash,
        f"the corpus '{name}' has not the tokens that {cell} was trained on ({config.data.corpus}): give that one",
    )
    seen = "cuda" if torch.cuda.is_available() else "cpu"
    device = record.environment.get(DEVICE, seen)
    require(device in ("cpu", seen), f"{cell} was trained on a GPU, and this machine has none")
    torch.set_num_threads(study.plan["choices"]["threads"])
    trainer = Trainer(config, seed, tokens, torch.device(device))
    try:
        for _ in trainer.run():
            pass
    except Divergence:
        pass  # the last row shows it
    same, line = _compare(record, trainer.rows)
    if same and device == "cpu":
        kept = read_replays(study.folder).get(record.config_hash, [])
        here = dict(this_process(False))
        if here not in kept:
            write_json(study.folder / REPLAYS_FOLDER / f"{record.config_hash}.json", [*kept, here])
    return same, line


def _find(study: StudyFolder, cell: str, seed: int) -> TrialRecord:
    runs = {(record.cell, record.seed): record for record in (*study.failures, *study.records)}
    cells = {*(planned["name"] for planned in study.plan["cells"]), *(name for name, _ in runs)}
    if cell not in cells:
        raise unknown_name("cell", cell, cells)
    seeds = sorted(one for name, one in runs if name == cell)
    require(bool(seeds), f"of {cell} no run has ended in {study.name}")
    require(seed in seeds, f"{cell} has no run of seed {seed} that has ended, but of {', '.join(map(str, seeds))}")
    return runs[cell, seed]


def _compare(record: TrialRecord, rows: list[dict[str, Any]]) -> tuple[bool, str]:
    run = f"{record.cell}, seed {record.seed}"
    for then, now in zip(record.rows, rows, strict=False):
        for name in then:
            if name not in NONDETERMINISTIC_COLUMNS and then[name] != now.get(name):
                line = f"differs from update {then[STEP]} on: {name} was {then[name]} and is {now.get(name)}"
                return False, f"{run}: {line}{_elsewhere(record.environment)}"
    if record.status == FAILED:
        return False, f"{run}: failed in the study ({record.error}), and came to its end here"
    if len(record.rows) != len(rows):
        return False, f"{run}: its record has {len(record.rows)} rows, here there are {len(rows)}"
    return True, f"{run}: {record.status} as before; the record's curve to the last bit ({counted(len(rows), 'row')})"


def _elsewhere(before: Mapping[str, str]) -> str:
    """Return what of the place where results are made has changed, in words."""
    now = describe_environment()
    changed: Iterable[str] = (f"{name} was {before[name]}" for name in now if before.get(name, now[name]) != now[name])
    said = "; ".join(changed)
    return f" ({said})" if said else ""
