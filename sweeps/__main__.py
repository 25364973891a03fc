"""What there is beside running a study: `python -m sweeps status`, `cancel`, `export`, `replay`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from analysis.help_page import CONFIG, Place, Word, one_line_an_argument, paragraphs
from analysis.terminal import say
from moe_models.errors import ConfigError
from sweeps.engine.cli import failed
from sweeps.engine.lock import cancel as stop_driver

PIPE_WIDTH = 160
"""Characters a line where there is no terminal to say."""
EXIT_DIFFERENT = 1
"""A run trained again was not its record."""

app = tyro.extras.SubcommandApp()


@app.command(name="status")
@one_line_an_argument
def status(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("results"),
) -> int:
    """Show how far studies are, and which of them are running.

    Exits with 0, or with 2 where one of them cannot be read.

    Args:
        folder: A study's folder, or one that holds several.
    """
    from sweeps.engine.studies import UnreadFolder, find_studies, show_status

    console = Console(highlight=False)
    studies = find_studies(folder)
    show_status(studies, console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH))
    unread = [study.error for study in studies if isinstance(study, UnreadFolder) and study.error]
    return max((failed(ConfigError(error), debug=False) for error in unread), default=0)


@app.command(name="cancel")
@one_line_an_argument
def cancel(folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]) -> None:
    """Stop a running study in order: runs keep what they have reached, and the same command continues it.

    Args:
        folder: The study's folder.
    """
    from sweeps.engine.studies import find_study, is_study

    if not is_study(folder) and stop_driver(folder):
        print(f"{folder.name}: stopped before it had a plan")
        return
    study = find_study(folder)
    stopped = stop_driver(folder)
    left = find_study(folder).left
    print(f"{study.name}: {'stopped' if stopped else 'was not running'}, {left} left")


@app.command(name="export")
@one_line_an_argument
def export(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")],
    output: Annotated[tyro.conf.Positional[Place], tyro.conf.arg(metavar="[FILE.zip]")] = None,
) -> None:
    """Pack plan, records and report of a study into one file, from which all of it can be analysed anew elsewhere.

    Args:
        folder: The study's folder.
        output: The file; by default the study's name with .zip, in the current folder.
    """
    from sweeps.engine.studies import export_study, find_study

    study = find_study(folder)
    path = output or Path(f"{study.name}.zip")
    say(Console(), f"{path}: {export_study(study, path)} files; unpacked, python -m analysis report reads it")


@app.command(name="replay")
@one_line_an_argument
def replay(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")],
    cell: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CELL")],
    seed: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="SEED")],
    corpus: Word = None,
) -> int:
    """Train a run that has ended once more, in this process and without Ray, and compare it with its record.

    Exits with 0 where every row of the curve is the record's to the last bit, else with 1. On a CPU the former is kept
    in the folder: the report then warns no longer that cells were made by this code and by that of the record. A run
    that failed fails here with its whole traceback.

    Args:
        folder: The study's folder.
        cell: Its cell.
        seed: Its seed.
        corpus: As the study's --corpus; needed where that was the path of a file.
    """
    from sweeps.engine.replay import replay as train_again
    from sweeps.engine.studies import find_plan

    study = find_plan(folder)
    same, line = train_again(study, cell, seed, corpus)
    print(line)
    return 0 if same else EXIT_DIFFERENT


def main() -> int:
    """Run the command line; bad input is one line on standard error."""
    try:
        with paragraphs(sys.argv[1:]):
            return app.cli(prog="python -m sweeps", description=__doc__, config=CONFIG) or 0
    except Exception as error:
        return failed(error, debug=False)


if __name__ == "__main__":
    sys.exit(main())
