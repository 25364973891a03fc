"""The command line of every study: options, plan, run, report. Slow imports wait until they are needed."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from analysis.text import counted
from moe_models.errors import ConfigError
from sweeps.engine.options import Options, parse
from sweeps.engine.shown import console_of, measured, saying, show_dry_run, show_end, show_plan
from sweeps.engine.study import Study

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.tracking.tracker import MlflowTracker
    from sweeps.engine.plan import Plan, PlannedRun
    from sweeps.engine.resources import Resources
EXIT_FAILURES = 1
"""Some runs failed; the rest of the study is there."""
EXIT_DEFECT = 1
"""An error that is no user's, as where Python itself ends with one."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(study: Study, argv: Sequence[str] | None = None) -> int:
    """Run a study's command line; return the process's exit code.

    Bad input is one line on standard error and leaves nothing half done; `--debug` adds the traceback.
    """
    return guarded(sys.argv[1:] if argv is None else argv, lambda arguments: run(study, parse(study, arguments)))


def guarded(argv: Sequence[str], command: Callable[[list[str]], int]) -> int:
    """Run a command with its arguments; return the process's exit code. What a user did wrong is one line."""
    arguments = list(argv)
    try:
        return command(arguments)
    except KeyboardInterrupt:
        print("interrupted: the same command continues the study", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        return failed(error, "--debug" in arguments)


def failed(error: Exception, debug: bool) -> int:
    """Print on standard error what ended a command: a line where it is for users; return the process's exit code."""
    if type(error) is BrokenPipeError:  # of a `print`: who reads has seen enough, as `| head` has
        from analysis.terminal import EXIT_UNREAD, print_nothing_more

        print_nothing_more(sys.stdout)
        return EXIT_UNREAD
    if debug or not for_users(error):
        from analysis.tracking.uris import print_traceback

        print_traceback(error)
    if not for_users(error):
        return EXIT_DEFECT
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def for_users(error: Exception) -> bool:
    """Return whether an error's message is written for users; any other is a defect, and its traceback is shown."""
    from analysis.errors import AnalysisError
    from analysis.terminal import UnreadError

    return isinstance(error, (ConfigError, AnalysisError, UnreadError, OSError))


def run(study: Study, options: Options, facts: Mapping[str, Any] | None = None) -> int:
    """Plan a study and run it, or print its plan; return the process's exit code.

    Args:
        study: what is studied.
        options: checked.
        facts: stand beside the engine's own in what `--json` prints.
    """
    from sweeps.engine.planning import make_plan

    console = console_of(options)
    with workplace(options) as resources:
        plan = planned(lambda: make_plan(study, options, resources))
        if options.dry_run:
            show_dry_run(plan, pack(plan, resources, options, console), options, console, facts or {})
            return 0
        with driving(plan, resources, options, console) as resources:
            plan = renewed(plan, lambda: make_plan(study, options, resources))
            return train(plan, resources, options, console, facts or {})


def planned(make: Callable[[], Plan]) -> Plan:
    """Return the plan of a study, or of a search, once there is a place to track its runs.

    One that has records goes on while its MLflow server is down: what is there of MLflow is a copy, made later.

    Args:
        make: the plan.

    Raises:
        AnalysisError: MLflow cannot be used, or its server is down and the study is new.
    """
    from analysis.tracking.store import NoAnswerError, require_tracking
    from analysis.tracking.uris import tracking_uri

    try:
        require_tracking(tracking_uri())
    except NoAnswerError:
        plan = make()
        if plan.has_begun:
            return plan
        raise
    return make()


@contextmanager
def workplace(options: Options) -> Iterator[Resources]:
    """Join the cluster that was asked for, if any, and say what there is to train on.

    Raises:
        ConfigError: there is no such cluster, or less than was asked for.
    """
    if options.ray_address is None:
        from sweeps.engine.resources import find_resources

        yield find_resources(options.max_concurrent, options.gpus_per_trial)
        return
    from sweeps.engine.cluster import cluster_resources, joined

    share = options.gpus_per_trial
    assert not isinstance(share, str), "auto and a cluster are refused together"
    with joined(options.ray_address):
        yield cluster_resources(options.max_concurrent, share)


@contextmanager
def driving(
    plan: Plan, resources: Resources, options: Options, console: Console, runs: Sequence[PlannedRun] | None = None
) -> Iterator[Resources]:
    """Be the one driver of a study, once it is certain that its runs can be trained and can keep what they reach.

    Yields the resources as `pack` lays runs over them, with what is known of a cluster's machines.

    Args:
        plan: of the study.
        resources: what there is, and a run's share of it.
        options: checked.
        console: where to talk to people.
        runs: those to be trained; None: the plan's open ones.

    Raises:
        ConfigError: another process is the study's driver, its runs need more memory than there is, or a node of the
            cluster does not see the storage or lacks what it needs.
    """
    from sweeps.engine.lease import LEASE_SECONDS, lease
    from sweeps.engine.lock import study_lock
    from sweeps.engine.memory import footprint, require_memory
    from sweeps.engine.race import open_runs

    storage = plan.storage
    runs = open_runs(plan) if runs is None else runs
    with (
        study_lock(plan.folder),
        lease(storage.store, storage.place, saying(console)) if storage.apart else nullcontext(),
    ):
        storage.sweep(LEASE_SECONDS)  # a process that lives writes on within that time
        if resources.cluster:
            from sweeps.engine.cluster import require_nodes

            need = footprint(runs, resources) if runs else None
            resources = dataclasses.replace(resources, hardware=require_nodes(storage, resources, need))
        else:
            # Measured by the one driver alone: two that measure at once would each find a slower machine.
            resources = pack(plan, resources, options, console, runs)
            require_memory(runs, resources)
        yield resources
        storage.sweep(LEASE_SECONDS)


def renewed(plan: Plan, make: Callable[[], Plan]) -> Plan:
    """Return a plan as its study is now that nobody else drives it.

    Args:
        plan: made before that.
        make: makes it anew, where the storage or another driver had brought more by then.
    """
    return make() if plan.storage.exchange() or plan.is_stale else plan


def pack(
    plan: Plan, resources: Resources, options: Options, console: Console, runs: Sequence[PlannedRun] | None = None
) -> Resources:
    """Return the resources as measurement lays runs (as for `driving`) over them, where `auto` was asked for."""
    from sweeps.engine.options import AUTO

    if options.gpus_per_trial != AUTO:
        return resources
    from sweeps.engine.measure import packed
    from sweeps.engine.race import open_runs

    runs = open_runs(plan) if runs is None else runs
    return packed(plan, runs, resources, options.max_concurrent, saying(console))


def train(
    plan: Plan, resources: Resources, options: Options, console: Console, facts: Mapping[str, Any] | None = None
) -> int:
    """Run what a plan lacks, write its report, and return the process's exit code. `facts` as of `run`."""
    from analysis.schema import FAILURES_FOLDER, TrialRecord, read_records
    from analysis.tracking.tracker import MlflowTracker
    from analysis.tracking.uris import tracking_uri
    from sweeps.engine.progress import Progress
    from sweeps.engine.race import open_runs, standing
    from sweeps.engine.ray_session import ray_session
    from sweeps.engine.runner import run_plan
    from trainables.environment import describe_environment
    from trainables.ray_trainable import AblationTrainable

    started = time.monotonic()
    try:
        records = read_records(plan.folder)
    except ValueError as error:
        raise ConfigError(f"{error}; delete it to train that run again") from error
    show_plan(plan, resources, console)
    environment = {**describe_environment(resources.hardware), **plan.evidence}
    failures = plan.folder / FAILURES_FOLDER
    unretried = [] if plan.rerun_failed else plan.failed_runs()
    ended = [*records, *(TrialRecord.read(failures / f"{run.config_hash}.json") for run in unretried)]
    progress = Progress(plan.name, ended, open_runs(plan), resources.slots, console, plan.protocol.under)
    complete = False
    with ThreadPoolExecutor(1) as background:
        # The database is made while Ray starts: both take seconds. Ray's workers never touch it.
        opening = background.submit(
            MlflowTracker, plan.to_json(), environment, tracking_uri(), warn=progress.say, required=not plan.has_begun
        )
        try:
            with ray_session(resources, progress.say) if open_runs(plan) else nullcontext():
                tracker = opening.result()
                plan.write()
                tracker.copy_records(plan.folder)
                with progress:
                    outcome = run_plan(
                        plan,
                        resources,
                        environment=environment,
                        tracker=tracker,
                        progress=progress,
                        trainable=AblationTrainable,
                    )
            complete = not outcome.interrupted
            report = _write_report(plan, progress.say) if complete else None
        finally:
            close(opening.result(), plan, complete)
    if outcome.interrupted:
        left = f"{'at most ' if plan.is_race else ''}{counted(len(open_runs(plan)), 'run')}"
        print(f"interrupted with {left} left: the same command continues the study", file=sys.stderr)
        return EXIT_INTERRUPTED
    summary = {
        "study": plan.name,
        "protocol": plan.protocol.name,
        "flaws": list(plan.protocol.flaws),
        "folder": str(plan.folder),
        "scale": ",".join(plan.scales),
        "seeds": list(plan.seeds),
        "cells": [cell.name for cell in plan.cells],
        "runs": {status: progress.counts[status] for status in ("finished", "diverged", "failed")},
        "report": report,
        "wall_seconds": time.monotonic() - started,
        **progress.usage.to_json(resources.cost_unit),
        "utilisation": progress.utilisation(),
        **measured(resources),
        **(facts or {}),
        **({"race": standing(plan).to_json()} if plan.is_race else {}),
    }
    spent = progress.usage.line(resources.cost_unit, "run")
    show_end(plan, summary, spent, options, console, tracker.experiment_id)
    return EXIT_FAILURES if plan.failed_runs() or outcome.failures else 0


def close(tracker: MlflowTracker, plan: Plan, complete: bool) -> None:
    """End a study's runs in MLflow, unless another driver has taken the study over: they are that one's then."""
    from sweeps.engine.lease import lost

    if not (plan.storage.apart and lost(plan.storage.store, plan.storage.place)):
        tracker.close(plan.folder, complete=complete)


def _write_report(plan: Plan, say: Callable[[str], None]) -> str | None:
    """Write the report and return its path; None where too little has ended, which is said."""
    from analysis.errors import AnalysisError
    from analysis.loading.load import load_results
    from analysis.reporting.report import write_report

    try:
        return str(write_report(load_results(plan.folder).as_reported(), plan.folder).html)
    except AnalysisError as error:
        say(f"no report: {error}")
        return None
