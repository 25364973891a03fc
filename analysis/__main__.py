"""Analysis from the command line: `python -m analysis report SOURCE`, `compare-published`, `audit`, `seeds`,
`sync-mlflow`, `variance`. Slow imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from analysis.errors import AnalysisError
from analysis.help_page import CONFIG, PLAIN, Flag, Place, Word, one_line_an_argument, paragraphs
from analysis.terminal import EXIT_UNREAD, print_nothing_more, say

PIPE_WIDTH = 160
"""Characters a line where there is no terminal to say."""
Direction = Literal["min", "max"]

app = tyro.extras.SubcommandApp()


@app.command(name="report")
@one_line_an_argument
def report(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")],
    output: Place = None,
    study: Word = None,
    baseline: Word = None,
    metric: Word = None,
    direction: Annotated[Direction | None, PLAIN] = None,
    include_invalid: Flag = False,
) -> None:
    """Write the report of a study: report.md, report.html, results.csv, results.json, ranking.tex and figures.

    Args:
        source: A study's folder, a CSV with one row a (cell, seed), or an MLflow tracking URI (sqlite:///mlflow.db,
            http://host:5000).
        output: Folder for the report; by default the study's folder, or report-<study> for other sources.
        study: Which study, where the source has several.
        baseline: Cell to compare with; by default the plan's, or "baseline".
        metric: What to compare cells by: val_loss, val_accuracy, val_perplexity, train_loss; of a CSV any column of
            figures.
        direction: Whether the least or the most of the metric is best, where its name does not say it.
        include_invalid: Take runs that an audit found invalid into the numbers, marked; those of a study that was to be
            flawed always are.
    """
    from analysis.comparing import marks
    from analysis.loading.load import load_results
    from analysis.reporting.report import write_report

    results = load_results(source, study, baseline, metric, direction).as_reported(include_invalid)
    folder = Path(source) if Path(source).is_dir() else Path(f"report-{results.study}")
    written = write_report(results, output or folder, os.cpu_count() or 1)
    print(f"report of {results.study}: {written.html}")
    for path in written.files[1:]:
        print(f"  {path.name}")
    if results.marks:
        say(Console(), marks.warning(results), "bold red")


@app.command(name="compare-published")
@one_line_an_argument
def compare(
    published: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PUBLISHED")],
    source: Annotated[tyro.conf.Positional[Word], tyro.conf.arg(metavar="[SOURCE]")] = None,
    study: Word = None,
    protocol: Annotated[Literal["sound", "published"] | None, PLAIN] = None,
    markdown: Place = None,
) -> None:
    """Set a published table beside what was measured here, and recompute every figure that it derives.

    Args:
        published: The published study: exp6_grid, or as much of its name as says which it is.
        source: A study's folder, a CSV with one row a (cell, seed), or an MLflow tracking URI; by default the newest
            sound study of that script under results/, and beside it the newest of the published protocol.
        study: Which study, where the source has several.
        protocol: Take the newest study of this protocol, where no source is named.
        markdown: File to write the tables to as well.
    """
    from analysis.reporting import published_tables
    from analysis.reporting.compare_published import compare_published

    comparisons = compare_published(published, source, study, protocol)
    console = _console()
    for comparison in comparisons:
        published_tables.show(comparison, console)
    if markdown is not None:
        try:
            markdown.write_text(published_tables.markdown(comparisons))
        except OSError as error:
            raise AnalysisError(f"{markdown} cannot be written: {error.strerror}") from error


@app.command(name="audit")
@one_line_an_argument
def audit(
    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")],
    baseline: Word = None,
    metric: Word = None,
    direction: Annotated[Direction | None, PLAIN] = None,
    json_: Annotated[Flag, tyro.conf.arg(name="json")] = False,
) -> int:
    """Look for figures in a table of results that cannot be right, or cannot mean what they seem to.

    Exits with 0 where nothing is invalid, 1 where something is, and 2 where the table cannot be read.

    Args:
        table: A CSV file with one row a variant or a run, or a published study (exp6, or another of its kind).
        baseline: Row that others are compared with; by default the one called baseline or control.
        metric: Column to compare rows by; by default the validation loss in nats per token (val_loss, loss and the
            like), else perplexity or accuracy.
        direction: Whether the least or the most of the metric is best, where its name does not say it.
        json_: Print the findings as JSON.
    """
    from analysis.table_audit import audit_table
    from analysis.table_audit.show import show

    found = audit_table(table, baseline, metric, direction)
    if json_:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show(found, _console())
    return 1 if found.is_invalid else 0


@app.command(name="seeds")
@one_line_an_argument
def seeds(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RESULTS")],
    difference: float,
    power: Annotated[float | None, PLAIN] = None,
    study: Word = None,
    baseline: Word = None,
    metric: Word = None,
    direction: Annotated[Direction | None, PLAIN] = None,
) -> None:
    """Say how many seeds a wanted difference needs, from the spread between the seeds of a pilot.

    Args:
        source: The pilot: a study's folder, a CSV with one row a (cell, seed), or an MLflow tracking URI.
        difference: True difference from the baseline that is to be found, in nats (or the metric's unit).
        power: Probability of finding it; by default 0.8, at which all detectable differences are stated.
        study: Which study, where the source has several.
        baseline: Cell to compare with; by default the plan's, or "baseline".
        metric: What to compare cells by, as in `report`.
        direction: As in `report`.
    """
    from analysis.loading.load import load_results
    from analysis.seeds import plan_seeds, show
    from analysis.statistics.significance import POWER

    results = load_results(source, study, baseline, metric, direction)
    show(plan_seeds(results, difference, POWER if power is None else power), _console())


@app.command(name="sync-mlflow")
@one_line_an_argument
def sync(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")], tracking_uri: Word = None
) -> None:
    """Bring MLflow up to date with a study's records: what is missing there is written, nothing twice.

    Args:
        folder: A study's folder (plan.json and records).
        tracking_uri: MLflow's store; by default $MLFLOW_TRACKING_URI, or mlflow.db in the current folder.
    """
    from analysis.sync import sync_mlflow
    from analysis.tracking import uris

    for line in sync_mlflow(folder, tracking_uri or uris.tracking_uri()):
        print(line)


@app.command(name="variance")
@one_line_an_argument
def variance(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RESULTS")],
    study: Word = None,
    baseline: Word = None,
    metric: Word = None,
    direction: Annotated[Direction | None, PLAIN] = None,
) -> None:
    """Say where the spread between runs comes from, in a study that varies its sources apart (sweeps/variance.py).

    Args:
        source: A study's folder, a CSV with one row a (cell, seed) and a column data_order between them, or an MLflow
            tracking URI.
        study: Which study, where the source has several.
        baseline: As in `report`; the shares do not depend on it.
        metric: What to split the variance of, as in `report`.
        direction: As in `report`.
    """
    from analysis.comparing.variance_sources import show
    from analysis.loading.load import load_results

    show(load_results(source, study, baseline, metric, direction), _console())


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return the exit status; an error of the user's is one line, with `--debug` a traceback.

    The status of an error is 1, of an audit's 2: there 1 says that something is invalid. Where what reads standard
    output has ended, so does the command, without a word.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with paragraphs(arguments):
            status = app.cli(
                args=arguments,
                prog="python -m analysis",
                description="Analysis of ablation studies. With --debug, errors come with a traceback.",
                config=CONFIG,
            )
    except BrokenPipeError:  # who reads has seen enough, as `| head` has
        print_nothing_more(sys.stdout)
        return EXIT_UNREAD
    except Exception as error:
        for_users = isinstance(error, AnalysisError)
        if debug or not for_users:
            from analysis.tracking.uris import print_traceback

            print_traceback(error)
        if for_users:
            print(f"error: {error}", file=sys.stderr)
        return 2 if arguments[0] == "audit" else 1
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
