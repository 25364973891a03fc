"""Measures what each published flaw is worth, and writes docs/what-was-wrong.md.

For every flaw four conditions: the published protocol, the same with the flaw undone, all flaws undone, and the flaw
alone. A run that several conditions share is trained once; running the command again continues where it stopped.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe_models.errors import require
from sweeps.engine import cli
from sweeps.engine.flaws import (
    ATTENTION_BIASES,
    BALANCE_LOSS,
    DEAD_PARAMETERS,
    DEFAULT_INIT,
    DENSE_LAYER,
    EXPERTS_BESIDE,
    FIRST_BATCHES,
    FLAWS,
    HIDDEN_WIDTH,
    HORIZON,
    LAYERNORM,
    NO_CAUSAL_MASK,
    NO_HIDDEN_DROPOUT,
    NO_POSITIONS,
    NO_ROUTER_NOISE,
    NORM_EPS,
    ONE_SEED,
    OVERLAPPING_WINDOWS,
    POST_NORM,
    TRAINED_INSTEAD,
)

if TYPE_CHECKING:
    from analysis.reporting.what_was_wrong import Demonstration
    from analysis.schema import TrialRecord
    from sweeps.engine.study import Study

LONG, SHORT = 400, 50
"""Updates: the published length, which the leak and memorising need, and an eighth of it."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A flaw, and where it is measured."""

    flaw: str
    quantity: str
    """Name of a quantity in analysis.reporting.what_was_wrong."""
    cell: str
    script: str = "exp6_grid"
    updates: int = SHORT
    reference: str = "baseline"

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that the quantity needs."""
        return (self.reference, self.cell) if self.quantity in ("DIFFERENCE", "SPREAD") else (self.cell,)


SHOWN = (
    Shown(flaw=NO_CAUSAL_MASK, quantity="DIFFERENCE", cell="attention", updates=LONG),
    Shown(flaw=OVERLAPPING_WINDOWS, quantity="LOSS", cell="baseline", updates=LONG),
    Shown(flaw=HORIZON, quantity="LOSS", cell="baseline"),
    Shown(flaw=FIRST_BATCHES, quantity="LOSS", cell="baseline"),
    Shown(flaw=ONE_SEED, quantity="SPREAD", cell="rmsnorm"),
    Shown(flaw=TRAINED_INSTEAD, quantity="DIFFERENCE", cell="moe"),
    Shown(flaw=DEFAULT_INIT, quantity="DIFFERENCE", cell="attention"),
    Shown(flaw=NORM_EPS, quantity="DIFFERENCE", cell="rmsnorm"),
    Shown(flaw=DEAD_PARAMETERS, quantity="SCORE", cell="moe_8e_2k_512d", script="exp1_components_512d"),
    *(
        Shown(flaw=flaw, quantity="DIFFERENCE", cell="moe_8e_2k_512d", script="exp1_components_512d")
        for flaw in (DENSE_LAYER, HIDDEN_WIDTH, NO_HIDDEN_DROPOUT)
    ),
    *(
        Shown(flaw=flaw, quantity="DIFFERENCE", cell="deepseek_moe", script="exp5_moe")
        for flaw in (NO_POSITIONS, ATTENTION_BIASES, LAYERNORM, POST_NORM, NO_ROUTER_NOISE, BALANCE_LOSS)
    ),
    Shown(flaw=EXPERTS_BESIDE, quantity="DIFFERENCE", cell="deepseek_mlp", script="exp4_mlp"),
)
DUPLICATES = ("baseline", "moe", "mlp_moe")
"""One model under three published names."""


class Bench:
    """Trains what is missing and hands out the runs of a condition."""

    def __init__(self, output: Path, seeds: int) -> None:
        self.output = output
        self.seeds = seeds
        self._known: dict[str, TrialRecord] = {}

    def runs(
        self, script: str, updates: int, flaws: Iterable[str], cells: Sequence[str]
    ) -> dict[str, list[TrialRecord]]:
        """Return each cell's runs with these flaws in force at the published budget; those missing are trained."""
        from analysis.schema import read_records
        from sweeps.engine.options import parse
        from sweeps.engine.planning import make_plan
        from sweeps.engine.resources import find_resources

        study: Study = importlib.import_module(f"sweeps.{script}").STUDY
        argv = self._arguments(study, updates, set(flaws), cells)
        options = parse(study, argv)
        plan = make_plan(study, options, find_resources(options.max_concurrent, options.gpus_per_trial))
        hashes = {cell.name: [cell.config.hash(seed) for seed in plan.seeds] for cell in plan.cells}
        self._learn(read_records(plan.folder))
        missing = [name for name in cells if any(address not in self._known for address in hashes[name])]
        if missing:
            argv = self._arguments(study, updates, set(flaws), missing)
            print(shlex.join(["python", f"sweeps/{script}.py", *argv]), flush=True)
            code = cli.main(study, argv)
            if code:
                sys.exit(code)
            self._learn(read_records(plan.folder))
        return {name: [self._known[address] for address in hashes[name]] for name in cells}

    def _learn(self, records: Iterable[TrialRecord]) -> None:
        self._known |= {record.config_hash: record for record in records}

    def _arguments(self, study: Study, updates: int, flaws: set[str], cells: Sequence[str]) -> list[str]:
        assert study.published is not None
        undone = [flaw for flaw in study.published.all_flaws if flaw not in flaws]
        return [
            *("--scale", "cpu", "--precision", "fp32", "--steps", str(updates), "--seeds", str(self.seeds)),
            *("--variants", ",".join(cells), "--output", str(self.output), "--protocol", "published"),
            *(("--undo", ",".join(undone) if flaws else "all") if undone else ()),
        ]


def demonstrate(bench: Bench, shown: Shown) -> Demonstration:
    """Return a flaw with the runs of its four conditions."""
    from analysis.reporting import what_was_wrong as page

    published = importlib.import_module(f"sweeps.{shown.script}").STUDY.published
    known = set(published.all_flaws)
    conditions = {
        page.PUBLISHED: known,
        page.UNDONE: known - {shown.flaw},
        page.SOUND: set(),
        page.ALONE: {shown.flaw},
    }
    return page.Demonstration(
        flaw=shown.flaw,
        explanation=FLAWS[shown.flaw].explanation,
        study=shown.script,
        quantity=getattr(page, shown.quantity),
        cell=shown.cell,
        reference=shown.reference,
        updates=shown.updates,
        runs={name: bench.runs(shown.script, shown.updates, flaws, shown.cells) for name, flaws in conditions.items()},
    )


def main(output: Path = Path("results"), seeds: int = 5, page: Path = Path("docs")) -> None:
    """Train what is missing and write the page.

    Args:
        output: Folder that holds the studies' folders.
        seeds: Seeds of each condition, 2 or more.
        page: Folder that the page is written to.
    """
    require(seeds >= 2, f"--seeds must be 2 or more, since every figure is given with its spread, but got {seeds}")
    from analysis.reporting.what_was_wrong import write_page
    from sweeps.engine.ray_session import ray_session
    from sweeps.engine.resources import find_resources

    bench = Bench(output, seeds)
    with ray_session(find_resources(None, None)):
        demonstrations = [demonstrate(bench, shown) for shown in SHOWN]
        published = importlib.import_module("sweeps.exp6_grid").STUDY.published.all_flaws
        duplicates = bench.runs("exp6_grid", SHORT, published, DUPLICATES)
    environment = duplicates["baseline"][0].environment
    hardware = environment.get("hardware") or environment.get("cpu") or "an unnamed machine"
    command = "python sweeps/what_was_wrong.py" + ("" if seeds == 5 else f" --seeds {seeds}")
    print(write_page(demonstrations, duplicates, command, page, hardware))


def _command(arguments: list[str]) -> int:
    import tyro

    from analysis.help_page import paragraphs

    with paragraphs(arguments):
        tyro.cli(main, args=arguments, prog="python sweeps/what_was_wrong.py", description=__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(sys.argv[1:], _command))
