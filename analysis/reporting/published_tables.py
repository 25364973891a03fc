"""How a comparison with a published table looks: in the terminal, and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from analysis.comparing import marks
from analysis.published.derived import CHANGE, EFFICIENCY, FORMULAS, PERPLEXITY, Derived
from analysis.reporting.compare_published import MIN_COMMON_ROWS, SOUND, Comparison
from analysis.schema import FLAWS, INVALID
from analysis.study.runs import records
from analysis.terminal import plain_table, print_table, say
from analysis.text import MINUS, NOTHING, estimate, listing, number, probability, significant, whole

WRONG = "✗"
"""Ends a printed figure that does not follow its own formula."""
PUBLISHED_CORPUS = "smollm"
"""Begins the names of the corpora that are documents of the published one, with its vocabulary."""
MEASURED = "measured figures, perplexity too, are by their formula from the means over seeds above"
MEASURED_EFFICIENCY = "; a report's efficiency is the mean of each run's, and of live parameters alone"


@dataclass(frozen=True)
class Section:
    """One table of texts, and the lines under it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int
    """So many columns from the left hold words; the others hold numbers."""
    lines: tuple[str, ...] = ()


def sections(comparison: Comparison) -> list[Section]:
    """Return the comparison as tables; measured figures that are no results end in the mark, which a line explains."""
    flaws = [*comparison.rows[FLAWS], *(comparison.beside.rows[FLAWS] if comparison.beside else ())]
    made = [_losses(comparison), _other_figures(comparison), _derived_figures(comparison)]
    return [
        dataclasses.replace(section, lines=(*section.lines, marks.caption(flaws)))
        if any(marks.is_marked(cell) for row in section.rows for cell in row)
        else section
        for section in made
    ]


def show(comparison: Comparison, console: Console) -> None:
    """Print the comparison; figures that do not follow their formula, and those that are no results, are red."""
    for section in sections(comparison):
        say(console, section.title, "bold")
        table = plain_table(section.columns[: section.words], section.columns[section.words :])
        for row in section.rows:
            table.add_row(*(Text(cell, style="bold red" if _is_red(cell) else "") for cell in row))
        print_table(console, table)
        for line in section.lines:
            say(console, line, "bold red" if line.startswith(marks.MARK) else "")
        console.print()


def _is_red(cell: str) -> bool:
    return cell.endswith(WRONG) or marks.is_marked(cell)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons as Markdown."""
    parts = []
    for section in (section for comparison in comparisons for section in sections(comparison)):
        rule = ["---" if place < section.words else "---:" for place in range(len(section.columns))]
        lines = [f"| {' | '.join(row)} |" for row in (section.columns, rule, *section.rows)]
        parts += [f"## {section.title}", "\n".join(lines), *section.lines]
    return marks.in_markdown("\n\n".join(parts) + "\n")


def _losses(comparison: Comparison) -> Section:
    beside = comparison.beside
    flawed = records(beside.rows) if beside else [None] * len(comparison.rows)
    rows, common = [], comparison.common
    for published, row, other in zip(comparison.table.rows, records(comparison.rows), flawed, strict=True):
        really = "; ".join(part for part in (published.really, published.remark) if part)
        rows.append(
            (
                published.variant,
                row["cell"].partition("@")[0],
                really,
                published.val_loss.text,
                *([_loss(other)] if other else []),
                _loss(row),
                str(row["n"]),
                str(published.rank) if common == len(flawed) else _rank(row["rank_printed"]),
                _measured(row, _rank(row["rank"])),
            )
        )
    where = f", scale {comparison.scale}" if comparison.scale else ""
    how = "" if comparison.protocol == SOUND else f", protocol {comparison.protocol}"
    title = f"{comparison.table.study}: loss as printed, and as measured in {comparison.study}{where}{how}"
    columns = ["variant", "cell", "really trained", "loss", "measured [95 %]", "n", "rank", "measured"]
    if beside:
        title += f"; under the published protocol in {beside.study}"
        columns[4:6] = ["published protocol [95 %]", "sound [95 %]", "n (sound)"]
    lines = [_agreement(comparison), *_corpora(comparison)]
    diverged = comparison.rows.loc[comparison.rows["diverged"] > 0, "variant"]
    if len(diverged):
        rule = "no rank where runs diverged, and all figures, here and below, of the runs that finished"
        lines.append(f"{rule}: {listing(list(diverged))}")
    if 1 < common < len(flawed):
        lines.append(f"both ranks are among the {common} rows that have a measured one")
    invalid = int(comparison.rows[INVALID].sum())
    if invalid:
        lines.append(f"runs left out because an audit found them invalid: {invalid}")
    return Section(title=title, columns=tuple(columns), rows=rows, words=3, lines=tuple(lines))


def _rank(rank: Any) -> str:
    return NOTHING if pd.isna(rank) else whole(rank)


def _corpora(comparison: Comparison) -> list[str]:
    """Say what was trained on where that is not what the reports' losses are of."""
    measured = [comparison.corpus, *([comparison.beside.corpus] if comparison.beside else ())]
    others = [name for name in dict.fromkeys(measured) if name and not name.startswith(PUBLISHED_CORPUS)]
    if not others:
        return []
    return [
        f"measured on {listing(others)}, printed of cosmopedia-v2 with a vocabulary of 49,152: losses and "
        "perplexities of two corpora or vocabularies are not comparable, at most the order of the cells"
    ]


def _loss(row: Mapping[str, Any]) -> str:
    loss = estimate(row["val_loss"], row["ci_low"], row["ci_high"])
    return _measured(row, f"{loss}, {row['diverged']} diverged" if row["diverged"] else loss)


def _measured(row: Mapping[str, Any], words: str) -> str:
    """Return a measured figure, marked where the row is no result; what was not measured needs no mark."""
    return words if words == NOTHING else marks.marked(words, row[FLAWS])


def _agreement(comparison: Comparison) -> str:
    if comparison.tau is None:
        why = "fewer than" if comparison.common < MIN_COMMON_ROWS else "they tie in all of"
        return f"no Kendall's tau between the two rankings: {why} {max(comparison.common, MIN_COMMON_ROWS)} rows"
    tau, p = number(comparison.tau, 2), probability(comparison.tau_p)
    return f"Kendall's tau between the two rankings: {tau} ({comparison.common} rows, p {p})"


def _other_figures(comparison: Comparison) -> Section:
    perplexities = {figure.variant: figure for figure in comparison.derived if figure.figure == PERPLEXITY}
    rows = [
        (
            published.variant,
            published.val_accuracy.text,
            _measured(row, number(row["val_accuracy"])),
            _printed(perplexities[published.variant]),
            _measured(row, significant(comparison.measured(perplexities[published.variant]), 5)),
            published.train_minutes.text,
            _measured(row, significant(row["train_minutes"], 3)),
            f"{published.params_total:,}",
            _measured(row, whole(row["params_total"])),
        )
        for published, row in zip(comparison.table.rows, records(comparison.rows), strict=True)
    ]
    names = ("accuracy", "perplexity", "minutes", "parameters")
    columns = ("variant", *(column for name in names for column in (name, "measured")))
    return Section("other figures as printed, and as measured", columns, rows, words=1)


def _derived_figures(comparison: Comparison) -> Section:
    figures = [figure for figure in comparison.derived if figure.figure != PERPLEXITY]
    flaws = dict(zip(comparison.rows["variant"], comparison.rows[FLAWS], strict=True))
    rows = [
        (
            figure.variant,
            figure.figure,
            figure.against or "",
            figure.remark,
            _printed(figure),
            f"{_shown(figure, figure.value)} [{', '.join(_shown(figure, end) for end in figure.interval)}]",
            _measured(
                {FLAWS: flaws[figure.variant] or flaws.get(figure.against, "")},
                _shown(figure, comparison.measured(figure)),
            ),
        )
        for figure in figures
    ]
    wrong = [figure for figure in comparison.derived if not figure.follows]
    words = {figure.figure: f"{figure.figure} = {FORMULAS[figure.figure].words}" for figure in comparison.derived}
    measured = MEASURED + (MEASURED_EFFICIENCY if EFFICIENCY in words else "")
    return Section(
        title="derived figures as printed, by their formula from printed inputs [range by rounding], and as measured",
        columns=("variant", "figure", "against", "remark", "printed", "by its formula", "measured"),
        rows=rows,
        words=4,
        lines=("; ".join(words.values()), measured, _verdict(wrong)),
    )


def _verdict(wrong: Sequence[Derived]) -> str:
    if not wrong:
        return "every printed figure follows its formula"
    names = ", ".join(f"{figure.variant} ({figure.figure})" for figure in wrong)
    count = "1 printed figure does" if len(wrong) == 1 else f"{len(wrong)} printed figures do"
    return f"{WRONG} {count} not follow the formula: {names}"


def _shown(figure: Derived, value: float) -> str:
    return number(value, 3, sign=True) if figure.figure == CHANGE else significant(value)


def _printed(figure: Derived) -> str:
    if figure.printed is None:
        return NOTHING
    text = figure.printed.text.replace("-", MINUS)
    return text if figure.follows else f"{text} {WRONG}"
