"""What a study's command prints: its plan, a dry run, how it ended. Slow imports wait until they are needed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.study.registered import REGISTERED
from analysis.text import counted
from sweeps.engine.options import Options

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.engine.packing import Packing
    from sweeps.engine.plan import Plan
    from sweeps.engine.resources import Resources

PIPE_WIDTH = 120
"""Characters a line where there is no terminal to say."""


def console_of(options: Options) -> Console:
    """Return where a command talks to people: standard error where standard output is for machines."""
    from rich.console import Console

    from analysis.terminal import LastingConsole

    kind = Console if options.dry_run else LastingConsole
    console = kind(stderr=options.json, highlight=False)
    return console if console.is_terminal else kind(stderr=options.json, highlight=False, width=PIPE_WIDTH)


def saying(console: Console) -> Callable[[str], None]:
    """Return what prints a sentence on a console."""
    from analysis.terminal import say

    return lambda line: say(console, line)


def show_dry_run(
    plan: Plan, resources: Resources, options: Options, console: Console, facts: Mapping[str, Any]
) -> None:
    """Print what a study would train, and what that is expected to take. `facts` as of `cli.run`."""
    from sweeps.engine.forecast import forecast
    from sweeps.engine.race import open_runs

    there = len(plan.ended_in_storage() & {run.config_hash for run in open_runs(plan)})
    expected = forecast(plan, resources)
    if options.json:
        asked = {cell.name for cell in plan.cells}
        cells = [cell for cell in plan.to_json()["cells"] if cell["name"] in asked]
        print(
            json.dumps(
                {
                    "study": plan.name,
                    "protocol": plan.protocol.name,
                    "flaws": list(plan.protocol.flaws),
                    "scale": ",".join(plan.scales),
                    "seeds": list(plan.seeds),
                    "equivalence_margin": plan.registration.get(REGISTERED, {}).get("equivalence_margin"),
                    "cells": cells,
                    "runs": len(plan.runs()),
                    "runs_left": expected.runs,
                    "runs_in_storage": there,
                    "slots": resources.slots,
                    "gpus_per_trial": resources.gpus_per_trial,
                    **measured(resources),
                    "folder": str(plan.folder),
                    "choices": dict(plan.choices),
                    **expected.to_json(),
                    **facts,
                }
            )
        )
        return
    show_plan(plan, resources, console)
    _print_cells(plan, console)
    saying(console)(("at most " if plan.is_race and expected.runs else "") + expected.line())
    if there:
        saying(console)(
            f"{there} of them have ended in {plan.storage.place}: the start brings what they reached from there"
        )
    console.print("dry run: nothing was trained")


def show_plan(plan: Plan, resources: Resources, console: Console) -> None:
    """Print what a study is about to train."""
    from sweeps.engine.registration import lines as registration_lines

    done = sum(map(plan.has_record, plan.runs()))
    corpus, first = plan.corpora[plan.scales[0]], plan.cells[0].config.data.first_tokens
    tokens = len(corpus.train.tokens)
    trained = f"{tokens:,} training tokens" if first is None else f"its first {min(first, tokens):,} training tokens"
    seen = ", ".join(dict.fromkeys(f"{number:.2g}" for number in plan.epochs().values()))
    optimum = "" if corpus.entropy is None else f"; its entropy is {corpus.entropy:.4f} nats a token"
    share = f" and {resources.gpus_per_trial:g} GPU" if resources.gpus_per_trial else ""
    say = saying(console)
    for line in (
        f"study {plan.name}",
        *([f"  {plan.protocol.sentence()}"] if plan.protocol.published else []),
        f"  {plan.why_scale}",
        f"  corpus {corpus.name}: {trained}, seen {seen} times{optimum}",
        f"  {counted(len(plan.cells), 'cell')} x {counted(len(plan.seeds), 'seed')}: {counted(len(plan.runs()), 'run')}"
        + (f" at most, a race with looks at {', '.join(map(str, plan.looks))} seeds" if plan.is_race else "")
        + (f", {done} of them done before" if done else ""),
        f"  {resources.slots} at a time, one CPU core{share} each; precision {_precision(plan)}",
        *([f"  {_packing(resources.packing)}"] if resources.packing else []),
        *(f"  {line}" for line in registration_lines(plan)),
    ):
        say(line)
    if all(cell["baseline"] == cell["name"] for cell in plan.to_json()["cells"]):
        alone = f"without another cell beside '{plan.study.baseline}' the report has no comparisons"
        line = f"  note: {alone if len(plan.cells) == 1 else 'these cells are compared with none of the others'}"
        say(line)


def measured(resources: Resources) -> dict[str, Any]:
    """Return what `--json` says of a packing that was measured."""
    return {"packing": resources.packing.to_json()} if resources.packing else {}


def _packing(packing: Packing) -> str:
    from analysis.text import duration
    from sweeps.engine.memory import gib

    ends = ", ".join(f"{duration(laid.seconds)} with {together}" for together, laid in packing.schedules.items())
    return f"as measured: {ends} at a time on a device; a run takes up to {gib(packing.run_bytes)}, margin included"


def _precision(plan: Plan) -> str:
    chosen = plan.choices["precision"]
    if len(set(chosen.values())) == 1:
        return str(chosen[plan.scales[0]])
    return ", ".join(f"{chosen[scale]} at {scale}" for scale in plan.scales)


def _print_cells(plan: Plan, console: Console) -> None:
    from analysis.terminal import plain_table, print_table

    table = plain_table(["cell", *plan.cells[0].factors], ["parameters", "active", "MFLOP\na token", "updates"])
    for cell in plan.cells:
        table.add_row(
            cell.name,
            *(str(level) for level in cell.factors.values()),
            f"{cell.counts.params_total:,}",
            f"{cell.counts.params_active:,}",
            f"{cell.counts.flops_per_token / 1e6:.2f}",
            f"{cell.config.training.updates:,}",
        )
    print_table(console, table)


def show_end(
    plan: Plan, summary: dict[str, Any], spent: str, options: Options, console: Console, experiment_id: str
) -> None:
    """Print how a study ended, and where its report and its runs are.

    Args:
        plan: of the study.
        summary: what `--json` prints.
        spent: what its runs took, in words.
        options: checked.
        console: where to talk to people.
        experiment_id: MLflow's; empty where its store never answered.
    """
    from analysis.schema import FAILURES_FOLDER
    from analysis.text import duration
    from analysis.tracking.store import ui_command
    from analysis.tracking.uris import public, tracking_uri

    uri = tracking_uri()
    later = f"python -m analysis sync-mlflow {shlex.quote(summary['folder'])}, once MLflow's server answers"
    if options.json:
        print(json.dumps({**summary, "mlflow": public(uri)}))
        return
    counts = ", ".join(f"{count} {status}" for status, count in summary["runs"].items() if count)
    used, race = summary["utilisation"], summary.get("race")
    lines = [
        f"{counts or 'nothing to train'}; {duration(summary['wall_seconds'])} in all"
        + ("" if used is None else f", {100 * used:.0f} % of the slots' time in training and evaluation"),
        *([f"training: {spent}"] if used is not None else []),
        *([plan.protocol.sentence()] if plan.protocol.published else []),
        *([f"race: {race['runs']} runs, {race['fixed_runs']} without looks"] if race and not race["next_look"] else []),
    ]
    if summary["runs"]["failed"]:
        lines.append(f"failed runs are in {summary['folder']}/{FAILURES_FOLDER}; --rerun failed tries them again")
    to_copy = [
        *([f"report: {summary['report']}"] if summary["report"] else []),
        f"runs:   {ui_command(uri, experiment_id) if experiment_id else later}",
    ]
    say = saying(console)
    for line in lines:
        say(line)
    for line in to_copy:
        console.print(line, soft_wrap=True, markup=False)
