"""What the columns of anybody's table hold, told by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.schema import FLAWS, INVALID
from analysis.table_audit.plus_minus import UNNAMED, without_spread

NAME = "name"
"""What was trained: a variant, cell, model."""
CONTEXT = "context"
"""Columns within whose values rows are compared: study, scale, data set."""
SEED = "seed"
N = "n"
"""Runs that a row is the mean of."""
MODEL = "model trained"
"""What was really trained under the name."""
LOSS = "loss"
"""What all rules compare by: the validation loss in nats per token, or what the table is said to be compared by."""
SD = "sd"
"""Standard deviation over runs, of what rules compare by."""
MINUTES = "training time"
MILLION = "parameters"
"""10^6 parameters."""
PERPLEXITY = "perplexity"
EFFICIENCY = "efficiency"
LOSS_PER_MILLION = "loss per million parameters"
COMPARED = "against the baseline"
"""Change, improvement or difference of the loss against the baseline."""
EFFECT = "effect size"
P = "p"
"""Uncorrected p values."""
REPLICATED = "spread or test"
"""Other figures that exist only over several runs: standard errors, intervals, corrected p values."""
MARKS = "marks"
"""What this project's results.csv says against a run: `flaws` and `invalid`, names by spaces."""
RANK = "rank"
MEASURED = "measured"
"""Other losses and accuracies, compared between rows only."""

COUNT = 1e-6
"""Unit of a column that counts parameters."""
_SPREADS = ("sd", "std", "stdev", "stddev", "std_dev", "standard_deviation")
_UNITS = {"seconds": 1 / 60, "secs": 1 / 60, "sec": 1 / 60, "s": 1 / 60, "minutes": 1.0, "mins": 1.0, "min": 1.0}
_UNITS |= {"hours": 60.0, "hrs": 60.0, "h": 60.0}
_TIME = re.compile(rf"(?:(?:train|training|wall|wall_clock|total|run)_)?(?:time_)?(?:in_)?({'|'.join(_UNITS)})")
_COUNTS = re.compile(r"(?:(?:n|num|total|trainable)_)?(?:params|parameters)(?:_total|_count)?|parameter_count")
_MILLIONS = re.compile(r"(?:(?:n|num|total)_)?(?:params|parameters)_(?:in_)?m(?:illions?)?|millions?_(?:of_)?param\w*")
_PERCENT = re.compile(r"(?:^|_)(percent|percentage|pct|improvement|reduction|gain|change|vs_baseline|relative)(?:_|$)")
_DIFFERENCE = re.compile(
    r"(?:(?:val|validation|test)_)?(?:loss_)?(?:difference|diff|delta)(?:_(?:loss|nats|val_loss))?"
)
_TIMES = re.compile(r"times_(?:lower|better)|x_lower|improvement_factor|fold_improvement")
_OF_SOMETHING_ELSE = re.compile(r"acc|memory|time(?!s_)|minute|second|param|speed|throughput|flop|token")
_OF_A_LOSS = re.compile(r"loss|nll|cross_entropy|perplexity|ppl|err|reduc")
"""What is of a loss or an error rate, not of a metric in a loss's place."""
_UNIT = re.compile(r"(?<=[a-z0-9])_(?:in_)?nats(?:_(?:per_)?token)?$")
_EFFECT = re.compile(r"(?:^|_)(?:cohen(?:_?s)?_d|hedges?(?:_s)?_g|glass(?:_s)?_delta|effect_size|d_z)(?:_|$)|^[dg]$")
_D_OR_G = re.compile(
    r"(?:(?:val_)?loss_)?(?:cohen(?:_?s)?_d|hedges?(?:_s)?_g|glass(?:_s)?_delta|[dg])(?:_s|_av|_pooled)?"
)
_D_Z = re.compile(r"(?:(?:val_)?loss_)?(?:cohen(?:_?s)?_)?d_z")
_ENDS = {"low": "low", "lower": "low", "high": "high", "upper": "high"}
_UNNAMED = re.compile(rf".*_{UNNAMED.replace(' ', '_')}")
_ERROR = re.compile(rf"(?:.*_)?(?:se|sem|stderr|std_err|standard_error|margin_of_error)|{_UNNAMED.pattern}")
_REPLICATED = re.compile(
    r"(?:.*_)?(?:se|sem|stderr|std_err|standard_error|margin_of_error|ci_?\d*(?:_(?:low|lower|high|upper)(?:_\d+)?)?"
    r"|(?:low|lower|high|upper)_ci_?\d*)"
    r"|(?:percent|difference|change|improvement|mean|(?:val_)?loss)_(?:low|lower|high|upper)"
    r"|p_(?:holm|adj|adjusted|corrected|bonferroni|bh|fdr|sign_flip)"
    rf"|{_UNNAMED.pattern}"
)
_MEASURED = re.compile(r"(?:.*_)?(?:loss|nll|(?:accuracy|acc)(?:_percent|_pct)?)")
_ACCURACY = re.compile(
    r"(?:(?:val|validation|eval|test|train|training|final|best|mean|token|next|top_?\d+)_)*(?:accuracy|acc)(?:_percent|_pct)?"
)
_IMPROVES = re.compile(r"improve|reduc|gain|better")

_NAMES: Mapping[str, Sequence[str]] = {
    NAME: ("variant", "cell", "name", "model", "method", "configuration", "config", "experiment", "ablation", "run"),
    SEED: ("seed", "random_seed", "rng_seed"),
    N: ("n", "n_seeds", "num_seeds", "seeds", "n_runs", "num_runs", "runs", "replicates", "n_replicates"),
    MODEL: ("really", "really_trained", "config_hash", "model_hash"),
    EFFICIENCY: ("efficiency_score", "efficiency"),
    LOSS_PER_MILLION: ("loss_per_million_params", "loss_per_million_parameters", "loss_per_million"),
    RANK: ("rank", "ranking"),
}
"""Known names by role, the most telling first; a role that is not here is told by a pattern."""
_LOSSES = tuple(
    form.format(f"{stem}{word}")
    for stem in ("val_", "validation_", "eval_", "", "test_")
    for word in ("loss", "nll", "cross_entropy")
    for form in ("{}", "mean_{}", "{}_mean", "final_{}")
)
_P = ("p", "p_value", "pvalue", "p_val")
_P_UNPAIRED = tuple(
    form.format(test)
    for test in ("welch", "unpaired", "two_sample", "independent")
    for form in ("p_{}", "p_value_{}", "{}_p", "{}_p_value")
)
_AGAINST = re.compile(r"_(?:vs|against|to)_(?:the_)?(?:baseline|control)$")
_A_SEED = re.compile(r"(?:.*_)?(?:seed|run)_?\d+(?:_.*)?")
_CONTEXTS = ("study", "scale", "dataset", "corpus", "benchmark", "task", "split")


def normal(name: str) -> str:
    """Return a name in lower case with single underscores: `Val. Loss` is `val_loss`.

    Left out at its end are `_printed`, what it says of a spread in its fields, and nats per token, which losses are in.
    """
    plain = re.sub("[\u03b4\u2206]", " delta ", without_spread(name.lower()).replace("%", " percent "))
    words = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    return _UNIT.sub("", re.sub(r"_(?:as_)?(?:printed|reported)$", "", words))


def better(where: Path, column: str, direction: str | None) -> str:
    """Return which figures of a column are better, `min` or `max`: as its name says, else as wanted.

    Raises:
        AnalysisError: neither says it.
    """
    told = "min" if is_loss(column) or normal(column) in _perplexities(LOSS) else None
    found = "max" if is_accuracy(column) else told or direction
    if found is None:
        raise AnalysisError(
            f"{where}: nothing says which '{column}' is better: add --direction min (a lower one) or --direction max "
            "(a higher one); a column called val_loss, loss or nll is the validation loss in nats per token"
        )
    return found


def is_loss(column: str) -> bool:
    """Whether a column's name is one of the validation loss in nats per token."""
    return normal(column) in _LOSSES


def compared_by(header: Sequence[str]) -> str | None:
    """Return the column that a table is compared by: the best-known loss, else perplexity, else accuracy."""
    found = roles(header, None)
    known = [*found.get(LOSS, ()), *found.get(PERPLEXITY, ()), *filter(is_accuracy, header)]
    return known[0] if known else None


def by_seed(header: Sequence[str]) -> list[str]:
    """Return columns that look like one figure a seed each; none where less than two do."""
    found = [column for column in header if _A_SEED.fullmatch(normal(column))]
    return found if len(found) > 1 else []


def roles(header: Sequence[str], metric: str | None) -> dict[str, tuple[str, ...]]:
    """Return the columns of each role that the header has.

    Args:
        header: the columns' names; each column gets one role or none.
        metric: the column that rules compare by; None takes the best-known name of a loss.
    """
    free = {column: normal(column) for column in header}
    taken: dict[str, tuple[str, ...]] = {}

    def take(role: str, columns: Sequence[str]) -> None:
        if columns:
            taken[role] = tuple(columns)
            for column in columns:
                del free[column]

    def first(names: Sequence[str]) -> list[str]:
        return [column for name in names for column in free if free[column] == name][:1]

    def matching(pattern: re.Pattern[str]) -> list[str]:
        return [column for column, name in free.items() if pattern.fullmatch(name)]

    take(LOSS, [metric] if metric is not None else first(_LOSSES))
    loss = normal(taken[LOSS][0]) if LOSS in taken else "loss"
    other = "" if metric is None or is_loss(metric) else re.sub(r"_(?:percent|pct|mean|avg)$|^mean_", "", loss)
    for role, names in _NAMES.items():
        take(role, first(names))
    take(MARKS, [column for column, name in free.items() if name in (FLAWS, INVALID)])
    take(CONTEXT, [column for column, name in free.items() if name in _CONTEXTS])
    take(PERPLEXITY, first(_perplexities(loss)))
    bases = (loss, loss.removesuffix("_mean").removeprefix("mean_"), other or "loss")
    take(SD, first([*_SPREADS, *(form for base in bases for s in _SPREADS for form in (f"{base}_{s}", f"{s}_{base}"))]))
    take(MINUTES, [column for column in matching(_TIME) if len(free[column]) > 4][:1])
    take(MILLION, (matching(_MILLIONS) or matching(_COUNTS))[:1])
    tests = {column: _AGAINST.sub("", name) for column, name in free.items()}
    take(P, [column for known in (*_P, *_P_UNPAIRED) for column, name in tests.items() if name == known])
    take(EFFECT, [column for column, name in free.items() if _EFFECT.search(name) and not _is_of_a_loss(name, other)])
    take(REPLICATED, matching(_REPLICATED))
    take(COMPARED, [column for column, name in free.items() if _is_compared(name, other)])
    take(MEASURED, matching(_MEASURED))
    return taken


def unit(role: str, column: str) -> float:
    """Return what a figure of the column is multiplied by to be in its role's unit (minutes, 10^6 parameters)."""
    name = normal(column)
    if role == MINUTES and (found := _TIME.fullmatch(name)):
        return _UNITS[found.group(1)]
    return COUNT if role == MILLION and _COUNTS.fullmatch(name) else 1.0


def is_times(column: str) -> bool:
    """Whether a compared column says how many times lower the loss is."""
    return _TIMES.fullmatch(normal(column)) is not None


def is_difference(column: str) -> bool:
    """Whether a compared column is a difference of losses."""
    return _DIFFERENCE.fullmatch(normal(column)) is not None


def says_difference(column: str) -> bool:
    """Whether a compared column's name says that it is a difference, of whatever metric."""
    return re.search(r"(?:^|_)(?:difference|diff|delta|points|pp)(?:_|$)", normal(column)) is not None


def is_percent(column: str) -> bool:
    """Whether a column's name says that it is in percent."""
    return re.search(r"percent|pct", normal(column)) is not None


def is_accuracy(column: str) -> bool:
    """Whether a column holds shares of what was predicted rightly, not what becomes of them."""
    return _ACCURACY.fullmatch(normal(column)) is not None


def names_its_formula(column: str) -> bool:
    """Whether an effect size's column says which: Cohen's d, Hedges' g or Glass's delta, of the loss."""
    return _D_OR_G.fullmatch(normal(column)) is not None


def is_standardised(column: str) -> bool:
    """Whether an effect size's column holds differences of the loss over an sd: a named one, or `effect_size`."""
    return names_its_formula(column) or normal(column) == "effect_size"


def is_of_the_loss(column: str) -> bool:
    """Whether an effect size's column holds those of the loss themselves: not of an accuracy, and no interval's end."""
    return is_standardised(column) or is_paired_effect(column)


def is_paired_effect(column: str) -> bool:
    """Whether an effect size's column holds mean differences by seed over their own sd: d_z of the loss."""
    return _D_Z.fullmatch(normal(column)) is not None


def improves(column: str) -> bool:
    """Whether a compared column's name says that more is better."""
    return _IMPROVES.search(normal(column)) is not None


def is_probability(column: str) -> bool:
    """Whether a column of tests holds p values."""
    return re.match(r"p(?:_|$)|pvalue", normal(column)) is not None


def says_unpaired(column: str) -> bool:
    """Whether a column of p values is named after a t test of runs that are not paired."""
    return _AGAINST.sub("", normal(column)) in _P_UNPAIRED


def is_error(column: str) -> bool:
    """Whether a column of spreads and tests holds standard errors or half an interval's length."""
    return _ERROR.fullmatch(normal(column)) is not None


def is_unnamed_spread(column: str) -> bool:
    """Whether a column holds what stood after the ± of another's fields, and nothing says what that is."""
    return _UNNAMED.fullmatch(normal(column)) is not None


def interval_of(column: str) -> tuple[str, str, str]:
    """Return of what figure a column of intervals is, their level in percent, and which end it holds (low or high).

    Each is empty where the name does not say it.
    """
    words = re.sub(r"(\d+)_percent", r"\1", normal(column)).split("_")
    levels = [word.removeprefix("ci") for word in words if word.removeprefix("ci").isdigit()]
    ends = [_ENDS[word] for word in words if word in _ENDS]
    of = [word for word in words if word not in _ENDS and word != "ci" and not word.removeprefix("ci").isdigit()]
    return "_".join(of), "".join(levels[:1]), "".join(ends[:1])


def judges_a_difference(column: str) -> bool:
    """Whether a column of spreads and tests holds a p, or the interval of a difference rather than of a mean."""
    return re.search(r"^p_|(?:^|_)(?:difference|diff|delta|percent|change|improvement)_", normal(column)) is not None


def says_mean(column: str) -> bool:
    """Whether a column's name says that it holds means over runs."""
    return re.search(r"(?:^|_)(?:mean|average|avg)(?:_|$)", normal(column)) is not None


def _perplexities(loss: str) -> list[str]:
    """Return the names of the perplexity that belongs to a loss of this name, the most telling first."""
    own = [re.sub("loss|nll|cross_entropy", word, loss) for word in ("perplexity", "ppl")]
    stems = ("",) if loss.startswith("test") else ("val_", "validation_", "eval_", "")
    forms = ("{}", "mean_{}", "{}_mean")
    return own + [form.format(f"{stem}{word}") for stem in stems for word in ("perplexity", "ppl") for form in forms]


def _is_compared(name: str, other: str) -> bool:
    """Whether a column compares by what rules compare by: by a loss, or by another metric of this name."""
    rest = _without(name, other)
    if _OF_SOMETHING_ELSE.search(rest) or _is_of_a_loss(name, other) or is_probability(name):
        return False
    return any(pattern.fullmatch(rest) for pattern in (_DIFFERENCE, _TIMES)) or _PERCENT.search(rest) is not None


def _is_of_a_loss(name: str, other: str) -> bool:
    """Whether a column is of a loss, where rules compare by another metric."""
    return other != "" and _OF_A_LOSS.search(_without(name, other)) is not None


def _without(name: str, other: str) -> str:
    return "_".join(word for word in name.replace(other, "").split("_") if word)
