"""What a study shows while it runs: a live display on a terminal, one line for each ended run elsewhere."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.schema import (
    DATA_ORDER,
    DIVERGED,
    FAILED,
    FINISHED,
    INVALID,
    PEAK_MEMORY_BYTES,
    STEP,
    TRAIN_LOSS,
    VAL_LOSS,
    TrialRecord,
)
from analysis.terminal import say
from analysis.text import duration
from sweeps.engine.plan import PlannedRun
from sweeps.engine.usage import Usage

REFRESHES_A_SECOND = 2


class Progress:
    """Counts what happens to the runs of a study, and shows it. Use as a context manager.

    Args:
        study: its name.
        earlier: records that were there before.
        runs: those to be trained now.
        slots: runs at a time.
        console: where to show it; live only on a terminal.
        under: what is to be said beside every loss: `under 6 flaws`, or nothing.
    """

    def __init__(
        self,
        study: str,
        earlier: Iterable[TrialRecord],
        runs: Iterable[PlannedRun],
        slots: int,
        console: Console,
        under: str = "",
    ) -> None:
        self.study = study
        self.under = under
        self.console = console
        self.counts: Counter[str] = Counter()
        self.usage = Usage()
        self._busy_seconds = 0.0
        self._losses: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for record in earlier:
            self._count(record)
        self._earlier = self.counts.total()
        self._costs = {run.config_hash: int(run.cell.cost) for run in runs}
        # Kept up, in whole FLOPs: a sum over all runs whenever one ends would make large studies slow.
        self._cost_of_all, self._cost_of_ended = sum(self._costs.values()), 0
        self.slots = max(1, min(slots, len(self._costs)))
        self._share = dict.fromkeys(self._costs, 0.0)
        self._running: dict[str, tuple[PlannedRun, str]] = {}
        self._live = Live(
            get_renderable=self._display,
            console=console,
            refresh_per_second=REFRESHES_A_SECOND,
            transient=True,
        )

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line, above the display where there is one."""
        say(self.console, line)

    def started(self, run: PlannedRun) -> None:
        """A run begins to train."""
        self.usage.started()
        self._running[run.config_hash] = (run, "starting")

    def reported(
        self, run: PlannedRun, rows: Iterable[Mapping[str, Any]], busy_seconds: float, share: float = 1.0
    ) -> None:
        """A run has made rows, and was training or evaluating so long since it last said so, with a share of a GPU."""
        self._busy_seconds += busy_seconds
        self.usage.reported(busy_seconds, share, None)
        for row in rows:
            updates = run.cell.config.training.updates
            self._share[run.config_hash] = row[STEP] / updates
            loss = row.get(TRAIN_LOSS)
            what = f"update {row[STEP]} of {updates}" + ("" if loss is None else f", training loss {loss:.3f}")
            self._running[run.config_hash] = (run, what)

    def waits(self, run: PlannedRun) -> None:
        """A run has stopped and will be started again."""
        self._running.pop(run.config_hash, None)

    def limit_to(self, runs: Iterable[PlannedRun]) -> None:
        """Of the runs that have not ended, no others than these will be trained."""
        left = {run.config_hash for run in runs}
        for address in [address for address, share in self._share.items() if share < 1 and address not in left]:
            del self._share[address]
            self._cost_of_all -= self._costs.pop(address)

    def ended(self, run: PlannedRun, record: TrialRecord) -> None:
        """A run has a record, or has failed."""
        self.usage.reported(0.0, 1.0, record.result_row()[PEAK_MEMORY_BYTES])
        self._running.pop(run.config_hash, None)
        self._share[run.config_hash] = 1.0
        self._cost_of_ended += self._costs.get(run.config_hash, 0)
        self._count(record)
        if not self.console.is_terminal or record.status != FINISHED or record.result_row()[INVALID]:
            self.say(self._line(record))

    def utilisation(self) -> float | None:
        """Share of slots x (first start to last report) that was training or evaluation; None before any report."""
        span = self.usage.seconds
        return self._busy_seconds / (self.slots * span) if span else None

    def seconds_left(self) -> float | None:
        """Return the time left, by the FLOPs done so far; None before there are any."""
        running = (self._costs.get(address, 0) * self._share.get(address, 0.0) for address in self._running)
        done = self._cost_of_ended + sum(running)
        so_far = self.usage.seconds_so_far
        if so_far is None or done == 0:
            return None
        left = self._cost_of_all - done
        return so_far * left / done

    def best(self) -> list[tuple[str, str, float, int]]:
        """Return for each scale the cell with the lowest mean validation loss so far: (scale, cell, loss, seeds)."""
        best: dict[str, tuple[str, str, float, int]] = {}
        for (scale, cell), losses in self._losses.items():
            candidate = (scale, cell, statistics.fmean(losses), len(losses))
            if scale not in best or candidate[2] < best[scale][2]:
                best[scale] = candidate
        return list(best.values())

    def _count(self, record: TrialRecord) -> None:
        self.counts[record.status] += 1
        row = record.result_row()
        # Of several orders of the data one is always the best.
        if row[VAL_LOSS] is not None and not row[INVALID] and DATA_ORDER not in record.factors:
            self._losses[record.scale, record.cell].append(row[VAL_LOSS])

    @property
    def _total(self) -> int:
        return self._earlier + len(self._costs)

    def _line(self, record: TrialRecord) -> str:
        row = record.result_row()
        if record.status == FINISHED:
            outcome = f"{self._figure(row[VAL_LOSS])}, {duration(row['train_seconds'])} of training"
        else:
            outcome = f"{record.status}: {record.error}"
        if row[INVALID]:
            outcome += f", INVALID: {row[INVALID]}"
        left = self.seconds_left()
        eta = f", about {duration(left)} left" if left else ""
        return f"[{self.counts.total()}/{self._total}] {record.cell}, seed {record.seed}: {outcome}{eta}"

    def _figure(self, loss: float) -> str:
        return f"val_loss {loss:.4f}" + (f" {self.under}" if self.under else "")

    def _display(self) -> Group:
        left, used = self.seconds_left(), self.utilisation()
        counts = [f"{self.counts[FINISHED]} of {self._total} finished", f"{len(self._running)} running"]
        counts += [f"{self.counts[status]} {status}" for status in (DIVERGED, FAILED) if self.counts[status]]
        counts.append("no estimate yet" if left is None else f"about {duration(left)} left")
        if used is not None:
            counts.append(f"slots {100 * used:.0f} % used")
        table = Table.grid(padding=(0, 2))
        for run, what in sorted(self._running.values(), key=lambda item: item[0].config_hash):
            table.add_row(Text(f"{run.cell.name}, seed {run.seed}", style="cyan"), what)
        for scale, cell, loss, seeds in self.best():
            table.add_row(Text(f"best at {scale}", style="green"), f"{cell}: {self._figure(loss)} (n = {seeds})")
        bar = Table.grid()  # a bar alone does not end its line
        done = self.counts.total()
        bar.add_row(ProgressBar(max(1, self._total), done, width=60, complete_style="cyan", finished_style="green"))
        return Group(Text(self.study, style="bold"), bar, Text(", ".join(counts)), table)
