"""What a study could have found: the probability of finding a difference against its size, and with more seeds."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis import text
from analysis.comparing import marks
from analysis.comparing.unpaired import UNPAIRED
from analysis.figures.style import BETTER, COLOURS, MUTED, metric_label, new_figure
from analysis.schema import FLAWS
from analysis.seeds import BOUND, sd_bound
from analysis.statistics.significance import ALPHA, POWER, detectable_effect, power
from analysis.study.results import NATS, Results
from analysis.summary import Analysis

SEEDS = (3, 5, 10, 20, 40)
"""Numbers of pairs that are drawn beside the study's own."""
POINTS = 200


def power_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw the power of the study's comparisons; None for a race, whose power is another, and where none was tested.

    All for the family's level, on the median of the comparisons' sds. A band shows what the study itself can find if
    the true sd lies between that and its upper 80 % bound.
    """
    table = analysis.comparisons
    table = table[table["p"].notna() & (table[FLAWS] == "")]
    if table.empty or results.looks:
        return None
    own, family = int(table["n_tested"].median()), int(table["family"].max())
    sd = float(table["sd_difference"].median())
    bound = float(sd_bound(np.array(sd), np.array(own - 1.0), BOUND))
    numbers = sorted({own, *SEEDS})
    found = [sd * float(detectable_effect(n, family)) for n in numbers]
    differences = np.geomspace(found[-1] / 4, found[numbers.index(own)] * 2, POINTS)
    unit = " nats" if results.metric in NATS else ""
    paired = "" if (table["pairing"] == UNPAIRED).any() else "paired "
    together = f" ({family} comparisons share {100 * ALPHA:g} %)" if family > 1 else ""
    figure = new_figure(
        9,
        4.4,
        "What could be found",
        f"Power at {100 * ALPHA / family:.2g} %{together}, for the median sd of their {paired}differences, "
        f"{text.significant(sd, 2)}{unit}. Band: "
        f"this study, up to the upper {100 * BOUND:g} % bound of that sd. Dots: the difference found with "
        f"{100 * POWER:g} % probability.",
        marks.warning(results),
    )
    axes = figure.subplots()
    axes.axhline(POWER, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    others = [n for n in numbers if n != own]
    for n, difference in zip(numbers, found, strict=True):
        colour = BETTER if n == own else COLOURS[1:][others.index(n) % (len(COLOURS) - 1)]
        width = 2.6 if n == own else 1.3
        label = f"{n} seeds{' (this study)' if n == own else ''}: {text.significant(difference, 2)}"
        axes.plot(differences, power(differences / sd, n, family), color=colour, linewidth=width, label=label)
        axes.plot([difference], [POWER], "o", color=colour, markersize=5, markeredgecolor="white")
    low, high = power(differences / bound, own, family), power(differences / sd, own, family)
    axes.fill_between(differences, low, high, color=BETTER, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(differences[0], differences[-1])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"true difference in {metric_label(results)}")
    axes.set_ylabel("probability of finding it")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8.5, alignment="left",
        title=f"found with {100 * POWER:g} % probability", title_fontsize=8.5,
    )  # fmt: skip
    return figure
