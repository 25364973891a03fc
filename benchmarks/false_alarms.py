"""Are sound studies left alone? `python benchmarks/false_alarms.py [PART ...]` trains more than 1,000 runs to find out.

Parts, each with the audits of its runs and those between them, as a report has:

- `studies`: every study of `sweeps/` in each of its designs, at three scales, with two seeds;
- `components`: every registered preset of every slot in the baseline's place, norms before and after the block, and
  every registered position, at `cpu`;
- `corpora`: exp6's baseline and `attention` on every generated corpus;
- `seeds`: a significance study with twenty fresh seeds, through Ray;
- `tuning`: a search over learning rates and its confirmation, through Ray.

Runs are short: what depends on length, such as a loss that a leak would make too good, is not tried by it. Prints one
line a part and study, then everything that was found, by audit and severity. Exits with 1 above one `invalid` run.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.loading.load import load_results
from analysis.schema import FINISHED, INVALID, SEVERITIES
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import analyse
from analysis.tuning_records import read_tuning_records
from benchmarks.command import Words, chosen, run
from benchmarks.in_process import ONE_CORE, trained
from moe_models.attention import ATTENTION
from moe_models.config import ModelConfig
from moe_models.feed_forward import FEED_FORWARD
from moe_models.norms import NORM
from moe_models.positions import POSITION
from moe_models.registry import Registry
from sweeps import exp6_grid, significance, tune
from sweeps.engine.options import Options
from sweeps.engine.planning import make_plan
from sweeps.engine.study import BASELINE, Cell, Design, Study, find_study, study_names, variant
from trainables.environment import cpu_cores
from trainables.scales import Scale
from trainables.synthetic import LANGUAGES

SCALES = ("ladder_1", "ladder_2", "cpu")
UPDATES = 12
SLOTS: dict[str, tuple[Registry[Any], str]] = {
    "attention": (ATTENTION, "model.attention"),
    "norm": (NORM, "model.block_norm"),
    "feed_forward": (FEED_FORWARD, "model.feed_forward"),
}
"""What is registered for each, and the part of a configuration that it is."""
TWINS = ("deepseek_rmsnorm",)
"""One model with another preset under another name: exp6 declares it, and no other study is sound with both."""
MOST_INVALID = 1

Build = Callable[[Scale], ModelConfig]
Task = tuple[str, Study, Options]
"""A part's name for it, a study and what is asked of it."""


def options(**asked: object) -> Options:
    """Return the options of a short study of two seeds."""
    return Options(**{"seeds": 2, "scale": "cpu", "steps": UPDATES, "precision": "fp32", **asked})  # type: ignore[arg-type]


def studies() -> Iterator[Task]:
    """Every study and design, a task for each scale."""
    for study in map(find_study, study_names()):
        for design in study.designs:
            for scale in SCALES:
                yield f"{study.script}, {design}, {scale}", study, options(design=design, scale=scale)


def components() -> Iterator[Task]:
    """Every preset in the place of the baseline's, as a study of its own a slot and placement."""
    for placement in ("pre", "post"):
        for slot, (registry, part) in SLOTS.items():
            builds = {preset: variant(**{slot: preset, "placement": placement}) for preset in registry.presets()}
            yield f"{slot}, placement {placement}", every(slot, part, placement, BASELINE[slot], builds), options()
    positions = {preset: at_position(preset) for preset in POSITION.presets()}
    yield "position", every("position", "model.attention.position", "pre", "rope", positions), options()


def every(slot: str, part: str, placement: str, baseline: str, builds: Mapping[str, Build]) -> Study:
    """Return the study whose one factor is a slot, a part of the configuration."""
    cells = [Cell(name=name, factors={slot: name}, build=build) for name, build in builds.items() if name not in TWINS]
    return Study(
        script=f"every_{slot}_{placement}",
        title=f"Every {slot}",
        factors=(slot,),
        slots={slot: (part,)},
        designs={"default": Design(cells=tuple(cells))},
        baseline=baseline,
    )


def at_position(preset: str) -> Build:
    """Return the function from a scale to the baseline's model with this position."""

    def build(scale: Scale) -> ModelConfig:
        model = scale.model(**BASELINE)
        attention: Any = model.attention
        return replace(model, attention=replace(attention, position=POSITION.configure(preset, scale.size)))

    return build


def corpora() -> Iterator[Task]:
    """Every generated corpus."""
    for language in LANGUAGES:
        yield language, exp6_grid.STUDY, options(variants="baseline,attention", corpus=language)


Found = tuple[str, int, list[dict[str, Any]]]
"""Of a task: its name, its runs, and what its report would list as found: audit, severity, runs, cells, evidence."""


def in_process(part: str, place: int) -> Found:
    """Train a part's task in this process: a worker makes it anew, since a study's functions do not travel."""
    torch.set_num_threads(1)
    name, study, asked = list(PARTS[part]())[place]
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(study, replace(asked, output=Path(folder)), ONE_CORE)
        return found_in(name, trained(plan))


def found_in(name: str, results: Results) -> Found:
    """Return what a report of these results would list."""
    return name, len(results.runs), records(analyse(results).audits)


def through_ray(name: str, command: Callable[[list[str]], int], arguments: str) -> Iterator[Found]:
    """Run a command of `sweeps/` as a user does; its searches' trials count as runs of their own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = command([*arguments.split(), "--precision", "fp32", "--output", f"{folder}/results"])
        if code:
            sys.exit(said.getvalue())
        (study,) = Path(folder, "results").iterdir()
        yield found_in(name, load_results(study))
        trials = [record for record in read_tuning_records(study) if record.status == FINISHED]
        if trials:
            rows = [{**vars(audit), "runs": 1, "cells": trial.cell} for trial in trials for audit in trial.audits]
            yield f"{name}: its trials", len(trials), [{**row, "audit": row["name"]} for row in rows]


PARTS: dict[str, Callable[[], Iterator[Task]]] = {"studies": studies, "components": components, "corpora": corpora}
COMMANDS = {
    "seeds": (significance.main, "--variants baseline,attention --seeds 20 --scale ladder_1 --steps 12"),
    "tuning": (tune.main, "--variants baseline,attention --seeds 5 --scale ladder_1 --steps 24 --trials 16 --random 8"),
}


def found(parts: list[str]) -> Iterator[Found]:
    """Train the parts and yield what was found, task by task."""
    for part in (name for name in parts if name in COMMANDS):
        yield from through_ray(part, *COMMANDS[part])
    tasks = [(part, place) for part in parts if part in PARTS for place, _ in enumerate(PARTS[part]())]
    with ProcessPoolExecutor(cpu_cores(), get_context("spawn")) as pool:
        yield from pool.map(in_process, *zip(*tasks, strict=True))


def main(parts: Words = ()) -> int:
    """Print the tables, as Markdown; 1 where more than MOST_INVALID runs were called invalid.

    Args:
        parts: Some of them; by default all.
    """
    counts: Counter[str] = Counter()
    rows: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    print("| study | runs | invalid | warning | note |\n|:-- | --: | --: | --: | --: |", flush=True)
    for name, runs, findings in found(chosen(parts, [*COMMANDS, *PARTS])):
        own = Counter(dict.fromkeys(SEVERITIES, 0))
        for row in findings:
            own[row["severity"]] += row["runs"]
            rows[row["audit"], row["severity"]].append((name, row))
        counts += own
        counts["runs"] += runs
        print(f"| {name} | {runs} | {' | '.join(str(own[severity]) for severity in SEVERITIES)} |", flush=True)
    print(f"| all | {counts['runs']:,} | {' | '.join(str(counts[severity]) for severity in SEVERITIES)} |")
    print("\n| audit | severity | runs | studies | such as | evidence |\n|:-- |:-- | --: | --: |:-- |:-- |")
    for (audit, severity), seen in sorted(rows.items(), key=lambda item: SEVERITIES.index(item[0][1])):
        name, first = seen[0]
        total = sum(row["runs"] for _, row in seen)
        where = f"{name}: {first['cells']}"
        print(f"| {audit} | {severity} | {total} | {len({name for name, _ in seen})} | {where} | {first['evidence']} |")
    return int(counts[INVALID] > MOST_INVALID)


if __name__ == "__main__":
    run(main)
