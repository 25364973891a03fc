"""The report's tables as text, made once: report.md, report.html and ranking.tex lay the same cells out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import text
from analysis.comparing import marks
from analysis.comparing.pareto import COSTS, Cost
from analysis.comparing.unpaired import UNPAIRED
from analysis.schema import CELL, ERROR, FINISHED, FLAWS, INVALID, SEED, STATUS, STEPS, VAL_ACCURACY
from analysis.statistics.significance import ALPHA
from analysis.study.results import AUDIT_MARK, Results
from analysis.study.runs import records
from analysis.summary import COLUMNS, Analysis

LOST = ("diverged", "failed", INVALID, "missing")
"""Counts that are worth a column only where one of them is not 0."""


@dataclass(frozen=True)
class Table:
    """A table ready to be laid out."""

    name: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[bool, ...]
    """For each column, whether it holds words (left) rather than numbers (right)."""
    meaning: tuple[tuple[str, str], ...] = ()
    """Header -> what the column holds, where it needs saying."""
    caption: str = ""
    """Explains the mark; empty where no row has one. A marked row's name ends in marks.MARK."""


@dataclass(frozen=True)
class _Column:
    header: str
    source: str
    """Column of the analysis' table whose documentation is this column's."""
    show: Callable[[Any], str]
    words: bool = False


def _word(source: str, header: str | None = None) -> _Column:
    return _Column(header or source, source, lambda row: str(row[source]), words=True)


def _name(source: str) -> _Column:
    """Return the column that a row is known by: it carries the row's mark."""
    return _Column(source, source, lambda row: marks.marked(str(row[source]), row[FLAWS]), words=True)


def _count(source: str, header: str | None = None) -> _Column:
    return _Column(header or source, source, lambda row: text.whole(row[source]))


def _survivors() -> _Column:
    """Return why a row's figures are of survivors alone; left out where nothing diverged."""
    return _Column("survivors alone", "survivors", lambda row: row["survivors"] or text.NOTHING, words=True)


def _tested() -> _Column:
    """Return the seeds that tests rest on; left out where they are those of the estimates."""
    return _Column(
        "n tested", "n_tested",
        lambda row: text.NOTHING if row["n_tested"] == row["n"] else text.whole(row["n_tested"]),
    )  # fmt: skip


def _plan() -> _Column:
    """Return what the plan says of a row; left out where no plan was registered."""
    return _Column("plan", "plan", lambda row: row["plan"] or text.NOTHING, words=True)


def _estimate(source: str, header: str, decimals: int, low: str, high: str, sign: bool = True) -> _Column:
    return _Column(
        header, source, lambda row: text.estimate(row[source], row[low], row[high], decimals=decimals, sign=sign)
    )


def _signed(source: str, header: str, decimals: int) -> _Column:
    return _estimate(source, header, decimals, f"{source}_low", f"{source}_high")


def _interval(source: str, header: str) -> _Column:
    return _Column(
        header, f"{source}_low",
        lambda row: text.interval(row[f"{source}_low"], row[f"{source}_high"], sign=True) or text.NOTHING,
    )  # fmt: skip


def _p(source: str, header: str) -> _Column:
    return _Column(header, source, lambda row: text.probability(row[source]))


def _score(source: str, header: str, formula: str) -> _Column:
    return _Column(f"{header} = {formula}", source, lambda row: text.significant(row[source]))


def _ranks(row: dict[str, Any]) -> str:
    """Return the ranks that a cell may have, `2` or `1 to 3`."""
    return " to ".join(dict.fromkeys((text.whole(row["rank_low"]), text.whole(row["rank_high"]))))


def _improved(row: dict[str, Any]) -> str:
    """Return in how many seeds a cell is better, `4 of 5 [0.28, 0.99]`."""
    if pd.isna(row["improved"]):
        return text.NOTHING
    ends = text.interval(row["improvement_low"], row["improvement_high"], 2)
    return f"{text.whole(row['improved'])} of {text.whole(row['n'])} {ends}".rstrip()


def _exact(row: dict[str, Any]) -> str:
    """Return the max-t p where sign flips can reject at all: a dash elsewhere is explained by a note."""
    return text.probability(row["p_max_t"]) if row["sign_flip_floor"] <= ALPHA else text.NOTHING


def _median(row: dict[str, Any]) -> str:
    return "diverged" if pd.isna(row["median"]) else text.number(row["median"])


def _diverged(row: dict[str, Any]) -> str:
    """Return how many runs diverged, `2 of 5 [0.05, 0.85]`."""
    if not row["diverged"]:
        return "0"
    ends = text.interval(row["diverged_low"], row["diverged_high"], 2)
    return f"{text.whole(row['diverged'])} of {text.whole(row['n'] + row['diverged'])} {ends}"


def _ranking(results: Results) -> list[_Column]:
    return [
        _count("rank"),
        _name("cell"),
        _count("n"),
        _estimate("mean", f"{results.metric} [95 %]", 4, "ci_low", "ci_high", sign=False),
        _Column("sd", "sd", lambda row: text.spread(row["sd"])),
        _Column("P(best)", "p_best", lambda row: text.number(row["p_best"], 2)),
        _Column("likely ranks", "rank_low", _ranks),
        _Column("groups", "groups", lambda row: row["groups"] if isinstance(row["groups"], str) else text.NOTHING),
        *([] if results.metric == VAL_ACCURACY else [_accuracy()]),
        _count("params_total", "parameters"),
        _Column("diverged [95 % of rate]", "diverged", _diverged),
        _count("failed"),
        _count(INVALID),
        _count("missing"),
    ]


def _accuracy() -> _Column:
    return _Column("accuracy", VAL_ACCURACY, lambda row: text.number(row[VAL_ACCURACY]))


def _differences(results: Results) -> list[_Column]:
    """Return the columns of a difference from the baseline: where it could have stopped early, the adjusted one too."""
    if not results.looks:
        return [_signed("difference", "difference [95 %]", 4)]
    return [
        _estimate(
            "adjusted_difference", "difference, adjusted for its looks [95 %]", 4, "difference_low", "difference_high"
        ),
        _Column("mean difference", "difference", lambda row: text.number(row["difference"], sign=True)),
    ]


JOINT_P = "joint p"
"""Column of the comparisons where there is a joint analysis."""


def _comparisons(results: Results) -> list[_Column]:
    return [
        _name("cell"),
        _plan(),
        _word("verdict"),
        _Column("pairing", "pairing", lambda row: UNPAIRED if row["pairing"] == UNPAIRED else text.NOTHING, words=True),
        _count("n"),
        _tested(),
        *_differences(results),
        _signed("percent", "% of perplexity [95 %]", 2),
        _Column("Cohen's d", "cohens_d", lambda row: text.number(row["cohens_d"], 2, sign=True)),
        _signed("hedges_g", "Hedges' g [95 %]", 2),
        _signed("d_z", "d_z [95 %], depends on the pairing", 2),
        _p("p", "p"),
        _p("p_holm", "Holm p"),
        _count("family"),
        _Column("seeds improved" + ("" if results.looks else " [95 % of probability]"), "improved", _improved),
        _Column("exact p (max-t)", "p_max_t", _exact),
        _p("p_joint", JOINT_P),
        _count("joint_family", "joint family"),
        _interval("joint", "joint interval [95 %, all together]"),
    ]


EVALUATION_NOISE = [
    _name("cell"),
    _survivors(),
    _count("n"),
    _Column("difference", "difference", lambda row: text.number(row["difference"], sign=True)),
    _Column("error over seeds", "seed_error", lambda row: text.spread(row["seed_error"])),
    _Column("error over documents", "document_error", lambda row: text.spread(row["document_error"])),
    _Column("error over both", "both_error", lambda row: text.spread(row["both_error"])),
    _interval("both", "difference [95 %, both]"),
    _count("documents"),
    _count("clusters"),
]  # fmt: skip
RACE = [
    _name("cell"),
    _count("n", "seeds"),
    _word("look"),
    _word("decision"),
]
CONTROL = [
    _name("cell"),
    _word("partner"),
    _count("n"),
    _Column("largest difference", "largest", lambda row: text.tiny(row["largest"])),
    _Column("tolerance", "tolerance", lambda row: text.tiny(row["tolerance"])),
    _word("verdict"),
]


def _contributions(results: Results) -> list[_Column]:
    return [
        _word("factor", "component"),
        _name("cell"),
        _count("n"),
        *_differences(results),
        _signed("percent", "% of perplexity [95 %]", 2),
        _Column("accuracy", "accuracy_change", lambda row: text.number(row["accuracy_change"], sign=True)),
        _plan(),
        _word("verdict"),
    ]


MAIN_EFFECTS = [
    _name("effect"),
    _word("kind"),
    _plan(),
    _word("verdict"),
    _count("n"),
    _tested(),
    _signed("difference", "difference [95 %]", 4),
    _signed("percent", "% of perplexity [95 %]", 2),
    _p("p", "p"),
    _p("p_holm", "Holm p"),
    _count("family"),
    _interval("simultaneous", "interval [95 %, all together]"),
    _interval("pooled", "pooled [95 %], assumes no factor x seed interaction"),
]
SHAPLEY = [
    _name("factor"),
    _plan(),
    _count("n"),
    _signed("shapley", "Shapley value [95 %]", 4),
    _Column("main effect", "main_effect", lambda row: text.number(row["main_effect"], sign=True)),
]
ALL_PAIRS = [
    _name("cell"),
    _word("partner", "against"),
    _Column("pairing", "pairing", lambda row: UNPAIRED if row["pairing"] == UNPAIRED else text.NOTHING, words=True),
    _count("n"),
    _tested(),
    _signed("difference", "difference [95 %]", 4),
    _p("p", "p"),
    _p("q", "q"),
    _count("family", "pairs tested"),
    _p("p_games_howell", "Games-Howell p"),
]
EFFICIENCY = [
    _name("cell"),
    _survivors(),
    _count("n"),
    _score("score", "score", COLUMNS["efficiency"]["score"]),
    _score("loss_per_million_parameters", "per size", COLUMNS["efficiency"]["loss_per_million_parameters"]),
    _score("loss_per_minute", "per time", COLUMNS["efficiency"]["loss_per_minute"]),
    _score("loss_per_gb", "per memory", COLUMNS["efficiency"]["loss_per_gb"]),
]


def _value(cost: Cost) -> _Column:
    def show(row: dict[str, Any]) -> str:
        value, low, high = (row[cost.name + end] / cost.scale for end in ("", "_low", "_high"))
        if pd.isna(low):
            return text.significant(value)
        digits = next((few for few in range(4, 16) if text.significant(low, few) != text.significant(high, few)), 4)
        return "{} [{}, {}]".format(*(text.significant(figure, digits) for figure in (value, low, high)))

    return _Column(f"{cost.name.replace('_', ' ').removesuffix(' bytes')}, {cost.unit} [95 %]", cost.name, show)


def _front(cost: Cost) -> _Column:
    """Return the column that says whether a cell is on the front: `yes, P 0.98` or `P 0.02, behind mlp`."""

    def show(row: dict[str, Any]) -> str:
        on, p = row[f"{cost.name}_front"], text.number(row[f"{cost.name}_p_front"], 2)
        sure = [] if p == text.NOTHING else [f"P {p}"]
        if pd.isna(on):
            return text.NOTHING
        return ", ".join(["yes", *sure] if on else [*sure, f"behind {row[f'{cost.name}_dominated_by']}"])

    return _Column(f"front of {cost.name.replace('_', ' ').removesuffix(' bytes')}", f"{cost.name}_front", show, True)


def _pareto(results: Results) -> list[_Column]:
    return [
        _name("cell"),
        _survivors(),
        _count("n"),
        _estimate("mean", f"{results.metric} [95 %]", 4, "ci_low", "ci_high", sign=False),
        *(column(cost) for cost in COSTS for column in (_value, _front)),
    ]


SCALING = [
    _name("cell"),
    _plan(),
    _word("against"),
    _count("scales"),
    _count("n"),
    _signed("exponent", "exponent [95 %]", 3),
    _Column("loss at the end", "loss_at_end", lambda row: text.number(row["loss_at_end"], 3)),
    _signed("curvature", "curvature [95 %]", 3),
    _word("verdict"),
]
GROWTH = [
    _name("cell"),
    _plan(),
    _word("from_scale", "from"),
    _word("to_scale", "to"),
    _count("n"),
    _tested(),
    _Column("difference at first", "at_first", lambda row: text.number(row["at_first"], sign=True)),
    _Column("at last", "at_last", lambda row: text.number(row["at_last"], sign=True)),
    _signed("difference", "change [95 %]", 4),
    _p("p", "p"),
    _p("p_holm", "Holm p"),
    _count("family"),
    _interval("simultaneous", "interval [95 %, all together]"),
    _word("crossings", "changes sign between"),
    _word("verdict"),
]
VARIANCE = [
    _name("cell"),
    _word("source"),
    _count("seeds"),
    _count("orders"),
    _estimate("sd", "sd [95 %]", 4, "sd_low", "sd_high", sign=False),
    _Column("share of variance", "share", lambda row: text.number(row["share"], 2)),
    _Column("df", "df", lambda row: text.number(row["df"], 1)),
]
DIVERGENCE = [
    _name("cell"),
    _Column("rate", "rate", lambda row: f"{text.whole(row['diverged'])} of {text.whole(row['runs'])}"),
    _Column("its interval [95 %]", "rate_low", lambda row: text.interval(row["rate_low"], row["rate_high"], 2)),
    _estimate("mean", "mean of survivors [95 %]", 4, "mean_low", "mean_high", sign=False),
    _Column("median, diverged as worst", "median", _median),
    _plan(),
    _Column(
        "better / worse / tied", "better",
        lambda row: text.NOTHING
        if row["cell"] == row["baseline"]
        else f"{row['better']} / {row['worse']} / {row['tied']}",
    ),
    _p("p_sign", "sign test p"),
    _p("p_holm", "Holm p"),
    _word("verdict"),
]  # fmt: skip
FINAL_TEST = [
    _name("cell"),
    _survivors(),
    _count("n"),
    _estimate("test_loss", "test loss [95 %]", 4, "test_loss_low", "test_loss_high", sign=False),
    _signed("difference", "difference [95 %]", 4),
    _Column("on validation", "validation_difference", lambda row: text.number(row["validation_difference"], sign=True)),
]
PLAN_CHECK = [_word("item"), _word("planned"), _word("done"), _word("agrees")]
AUDITS = [
    _word("audit"),
    _word("severity"),
    _count("runs"),
    _name("cells"),
    _word("evidence"),
]


LOWER_END = "lower end of "
"""So begins what a column holds that stands for its whole interval here."""
ABOUT = {
    "efficiency": ("score", "loss_per_million_parameters", "loss_per_minute", "loss_per_gb"),
    "pareto": tuple(cost.name for cost in COSTS),
}
"""Tables whose rows say nothing without any of these figures, which anybody's table may lack."""


def tables(results: Results, analysis: Analysis) -> dict[str, Table]:
    """Return the tables that have rows, by their name in `summary.COLUMNS`, `left_out` (invalid) and `ended_early`."""
    layouts = {
        "ranking": _ranking(results),
        "comparisons": _comparisons(results),
        "evaluation_noise": EVALUATION_NOISE,
        "race": RACE,
        "negative_control": CONTROL,
        "contributions": _contributions(results),
        "main_effects": MAIN_EFFECTS,
        "scaling": SCALING,
        "growth": GROWTH,
        "shapley": SHAPLEY,
        "efficiency": EFFICIENCY,
        "pareto": _pareto(results),
        "variance": VARIANCE,
        "divergence": DIVERGENCE,
        "final_test": FINAL_TEST,
        "plan_check": PLAN_CHECK,
        "audits": AUDITS,
    }
    made = {
        name: _table(name, getattr(analysis, name), layout)
        for name, layout in layouts.items()
        if _says_something(name, getattr(analysis, name))
    }
    if results.has_one_factor:
        made.pop("contributions", None)  # they are the comparisons once more
    told_apart = analysis.all_pairs[analysis.all_pairs["q"] <= ALPHA]
    if len(told_apart):
        made["all_pairs"] = _table("all_pairs", told_apart, ALL_PAIRS)
    if results.left_out.any():
        columns = [
            _name(CELL),
            _count("n", "runs"),
            _Column("their " + results.metric, "mean", lambda row: text.number(row["mean"])),
            _word(INVALID, "found invalid by"),
        ]
        made["left_out"] = _table("left_out", _left_out(results), columns)
    early = results.runs[results.runs[STATUS] != FINISHED]
    if len(early):
        early = early.assign(**{FLAWS: [results.marks_of([cell]) for cell in early[CELL]]})
        columns = [_name(CELL), _count(SEED), _word(STATUS), _count(STEPS, "updates"), _word(ERROR, "what happened")]
        made["ended_early"] = _table("ended_early", early.fillna({ERROR: text.NOTHING}), columns)
    return made


def _says_something(name: str, data: pd.DataFrame) -> bool:
    """Whether a table has rows, and one that is about certain figures any of these."""
    return len(data) > 0 and (name not in ABOUT or bool(data[list(ABOUT[name])].notna().any(axis=None)))


def _left_out(results: Results) -> pd.DataFrame:
    """Return the cells of runs that are left out, with their mean: it is no result, and so has a mark."""
    runs = results.runs[results.left_out]
    return pd.DataFrame(
        [
            {
                CELL: str(cell),
                "n": len(found),
                "mean": found[results.metric].mean(),
                INVALID: ", ".join(names := sorted({name for text in found[INVALID] for name in text.split()})),
                FLAWS: " ".join([*(AUDIT_MARK + name for name in names), results.marks_of([str(cell)])]),
            }
            for cell, found in runs.groupby(CELL, sort=False)
        ]
    )


def _table(name: str, data: pd.DataFrame, layout: list[_Column]) -> Table:
    if "scale" in data and (data["scale"].astype(str) != "").any() and name != "ended_early":
        layout = [_word("scale"), *layout]
    rows = tuple(tuple(column.show(row) for column in layout) for row in records(data))
    meaning = COLUMNS.get(name, {})
    # Columns that say nothing: without a figure (peak memory where it cannot be measured), or nothing diverged.
    silent = ["0" if column.source in LOST else text.NOTHING for column in layout]
    kept = [i for i in range(len(layout)) if any(row[i] != silent[i] for row in rows)]
    return Table(
        name=name,
        headers=tuple(layout[i].header for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in rows),
        words=tuple(layout[i].words for i in kept),
        meaning=tuple(
            (layout[i].header, meaning[layout[i].source].removeprefix(LOWER_END))
            for i in kept
            if layout[i].source in meaning and meaning[layout[i].source] not in layout[i].header
        ),
        caption=marks.caption(data[FLAWS]),
    )
