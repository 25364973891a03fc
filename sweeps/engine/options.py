"""The options that every study's command takes, and how a command line becomes them."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

from moe_models.errors import ConfigError, require, unknown_name
from sweeps.engine.protocol import Protocol, find_protocol
from sweeps.engine.study import DEFAULT_DESIGN, Study
from trainables.store import require_place

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for."""

    variants: str = "all"
    """Cells to train, separated by commas. Run the study again with more to extend it."""
    seeds: int = 5
    """Number of seeds: seeds 0 to N-1 of every cell. More seeds later extend the study."""
    scale: str = AUTO
    """Size of the models: `cpu`, `paper_256d`, `paper_512d`, `paper_768d`, or several separated by commas (scale is
    then a factor too). `auto` takes the study's published size where there is a GPU, otherwise `cpu`."""
    corpus: str = "web"
    """Text to train on: `web` (the World English Bible, comes with the package), `smollm` or `smollm:DOCUMENTS`
    (from the Hugging Face Hub), the path of a .txt, .jsonl or .parquet file, or a language whose best possible loss is
    known: `synthetic`, `recall`, `copy`, `modular` (docs/corpora.md)."""
    steps: int | None = None
    """Optimizer updates a run; by default the scale's own number. An update of the published protocol has 4
    micro-steps, which the reports call steps."""
    equivalence_margin: float | None = None
    """Largest difference, nats, that is as good as none: within it "no difference" can be a finding. By default what
    the study declares (0.01 unless it says otherwise, 1 % of perplexity). It is registered before the first run and
    then stays."""
    design: str = DEFAULT_DESIGN
    """Which cells there are, and what the factors mean, where a study has several designs (exp6_grid: `default` or
    `orthogonal`)."""
    protocol: Literal["sound", "published"] = "sound"
    """`published` rebuilds what was really run, under the published names: with every flaw of the study, each of which
    can be undone. Its numbers are no findings, and are marked wherever they are shown."""
    undo: str | None = None
    """Flaws to take out of the published protocol, separated by commas, or `all` (the dry run names those in force)."""
    precision: Literal["auto", "fp32", "bf16"] = AUTO
    """Arithmetic of the matrix products. `auto` measures once which is faster and keeps it in the study's
    plan; under the published protocol it is the published arithmetic."""
    output: Path = Path("results")
    """Folder that holds the studies' folders."""
    max_concurrent: int | None = None
    """Runs at a time; by default one for each CPU core, or as many as fit on the GPUs."""
    gpus_per_trial: Literal["auto"] | float | None = None
    """Share of a GPU for each run: 0.25 packs four on one. By default 1 where there is a GPU, otherwise 0. `auto`
    measures, for some seconds a model, how much memory a run takes and how many at a time end the study soonest; on a
    machine without a GPU it chooses how many runs share the cores."""
    ray_address: str | None = None
    """Ray cluster to train on, which goes on when the study ends: `auto` (the one that this machine is a node of) or
    HOST:PORT of its head (docs/cluster.md). By default a Ray of the study's own on this machine alone."""
    storage: str | None = None
    """Where runs keep their records and checkpoints, if the study's folder is not seen by all machines: a path that
    they share, or a URL (s3://bucket/folder, gs://, file://). The study's folder has a copy of all records."""
    rerun: Literal["failed"] | None = None
    """`failed` tries the runs again that an error ended; without it their failure stands."""
    dry_run: bool = False
    """Print the cells with their parameter counts, the resources and an estimate of the time. Trains nothing and
    writes nothing (only the tokens of a corpus are kept in the cache, for the real run)."""
    json: bool = False
    """Print one JSON object on standard output, for machines; progress goes to standard error."""
    debug: bool = False
    """Show the traceback of an error."""

    def check(self, study: Study) -> None:
        """Refuse, before anything slow is imported, what can be seen to be wrong."""
        for name in ("seeds", "steps", "max_concurrent"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{flag_of(name)} must be 1 or more but got {value}")
        margin = self.equivalence_margin
        require(margin is None or 0 < margin < math.inf, f"--equivalence-margin must be positive but got {margin}")
        require(
            margin is None or self.protocol == "sound",
            "--equivalence-margin has no use under --protocol published, whose numbers are no findings",
        )
        share = self.gpus_per_trial
        require(
            share is None or share == AUTO or share == 0 or 0.01 <= share <= 1 or (share > 1 and share % 1 == 0),
            f"--gpus-per-trial must be auto, 0, a share from 0.01 to 1, or a whole number, but got {share}",
        )
        if self.ray_address is not None:
            require(
                re.fullmatch(r"auto|[^\s/@:]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}", self.ray_address) is not None,
                f"--ray-address must be auto or HOST:PORT but got {self.ray_address.rpartition('@')[2]}",
            )
            require(
                share != AUTO,
                "--gpus-per-trial auto measures on this machine: with --ray-address give a share, such as 1 or 0.25",
            )
        if self.storage is not None:
            require_place(self.storage, "--storage")
        if self.design not in study.designs:
            raise unknown_name("design", self.design, study.designs)
        self.cells(study)

    def find_protocol(self, study: Study) -> Protocol:
        """Return the protocol asked for; ConfigError where the study has no such one."""
        undo = None if self.undo is None else names(self.undo, "--undo")
        return find_protocol(study, self.design, self.protocol, undo)

    def cells(self, study: Study) -> list[str]:
        """Return the names of the cells asked for, in the study's order."""
        known = [cell.name for cell in self.find_protocol(study).cells]
        asked = known if self.variants == "all" else names(self.variants, "--variants")
        for name in asked:
            if name not in known:
                raise unknown_name("cell", name, known)
        return [name for name in known if name in asked]


def names(text: str, flag: str) -> list[str]:
    """Split a list given on the command line; an empty or repeated name raises ConfigError."""
    found = [name.strip() for name in text.split(",")]
    require(all(found), f"{flag} has an empty name in '{text}'; separate names by single commas")
    for name in found:
        require(found.count(name) == 1, f"{flag} names '{name}' twice")
    return found


def parse(study: Study, argv: Sequence[str]) -> Options:
    """Turn a command line into checked options.

    Raises:
        ConfigError: an option is unknown or its value cannot be read; one line.
        SystemExit: after `--help` was printed.
    """
    options = read(Options, argv, study.script, _description(study))
    options.check(study)
    return options


Kind = TypeVar("Kind", bound=Options)


def read(kind: type[Kind], argv: Sequence[str], script: str, description: str) -> Kind:
    """Turn a command line into options of a kind, unchecked.

    Raises:
        ConfigError: an option is unknown or its value cannot be read; one line.
        SystemExit: after `--help` was printed.
    """
    import tyro

    from analysis import help_page

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), help_page.paragraphs(argv):
            return tyro.cli(
                help_page.described(kind) if help_page.is_asked(argv) else kind,
                prog=f"python sweeps/{script}.py",
                # What a quoted name or a bracket begins would be a paragraph of its own.
                description=re.sub(r"(?<=\S)\n(?=[`(])", " ", description),
                args=list(argv),
                config=help_page.CONFIG,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(_one_line(complaint.getvalue(), argv, kind)) from None


def _description(study: Study) -> str:
    cells = []
    for name, design in study.designs.items():
        of_design = "" if name == DEFAULT_DESIGN else f" of --design {name}"
        cells.append(f"Cells{of_design}: {', '.join(cell.name for cell in design.cells)}.")
    ladder = [f"Sizes of --scale auto: {', '.join(study.ladder)}."] if study.ladder else []
    above = (
        f"{study.title}.\n\nTrains every cell with every seed, ranks and compares them, and writes a report. Without "
        "options it runs the whole study at a size that suits this machine; the same command again continues an "
        "interrupted study, and trains nothing twice."
    )
    return "\n\n".join([above, *cells, *ladder])


def flag_of(name: str) -> str:
    """Return how an option is called on the command line."""
    return "--" + name.replace("_", "-")


def _one_line(box: str, argv: Sequence[str], kind: type[Options]) -> str:
    """Turn tyro's box into one line: its message up to the first rule, and the nearest option to an unknown one."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()[1:]]
    message: list[str] = []
    for line in lines:
        is_rule = re.fullmatch(r"[─-]{3,}", line) is not None
        if is_rule and message:
            break
        message += [] if is_rule else [line]  # without UTF-8 a rule stands above the message too
    text = " ".join(" ".join(message).split())
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"must be a whole number but got \1", text)
    text = re.sub(r"could not convert string to float: (.*)", r"must be a number but got \1", text)
    either = r"no type matching \{(\w+)\}\|FLOAT could be instantiated from \['(.*?)'\]\. Got errors: .*"
    text = re.sub(either, r"must be \1 or a number but got '\2'", text)
    if "nrecognized" in text:
        flags = ["--help", *(flag_of(field.name) for field in fields(kind))]
        unknown = [word.partition("=")[0] for word in argv if word.startswith("-")]
        for word in unknown:
            near = difflib.get_close_matches(word.replace("_", "-"), flags, n=1)
            if word.replace("_", "-") not in flags and near:
                text += f"; did you mean {near[0]}?"
    return f"{text} (all options: --help)"
