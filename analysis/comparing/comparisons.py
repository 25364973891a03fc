"""Each cell against its baseline, paired by seed: differences, effect sizes, tests, and the negative control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import schema, text
from analysis.comparing import equivalence, outcomes
from analysis.comparing.divergence import survivors
from analysis.comparing.paired import NO_SEEDS, WITHIN_TOLERANCE, paired_table
from analysis.comparing.unpaired import PAIRED, dunnett_table, unpaired_rows
from analysis.errors import AnalysisError
from analysis.statistics import effects
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.joint import JOINT_COLUMNS, joint_table, primary_table
from analysis.statistics.looks import at_look
from analysis.statistics.significance import ALPHA, clopper_pearson
from analysis.study import plan_check
from analysis.study.results import Results
from analysis.study.runs import records

WITHOUT = "without "
"""Begins the name of a contribution where the cell lacks what its baseline has."""
OTHER_ORDER = "another order of the data alone: of several one is always the best"
COMPARISON_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "baseline": "the cell it is compared with",
    "pairing": "'paired' by seed; 'unpaired' where the two share no seed: then Welch's t test and interval stand for "
    "the paired ones (with the smaller arm's degrees of freedom where sizes are unequal: cautious, since Welch's own "
    "promise too much there), and classical Dunnett for the joint analysis",
    "n": "pairs: seeds that finished in both; unpaired: finished runs of the smaller of the two",
    "n_tested": "pairs that p and verdict rest on: n, save where seeds were added after results were known, by no look "
    "that the plan foresaw: then these alone, while estimates and intervals are of all",
    "difference": "mean paired difference of the metric, cell - baseline (nats for losses)",
    "adjusted_difference": "the difference adjusted for looks at which the comparison could have stopped: median-"
    "unbiased, so that half of such estimates are too large; null where the plan has one look, where nothing is "
    "estimated, and where seeds came after the stop",
    "difference_low": "95 % t interval of the difference, lower end; with several looks it holds at all of them; null "
    "for n = 1 or constant differences",
    "difference_high": "its upper end",
    "percent": "the difference (the adjusted one where there is one) in percent of perplexity, 100 (exp(difference) - "
    "1); null unless the metric is in nats",
    "percent_low": "lower end of its 95 % interval",
    "percent_high": "upper end",
    "sd_difference": "standard deviation of the paired differences (n - 1); null for n = 1; unpaired: of the "
    "difference of two runs, sqrt(sd_cell^2 + sd_baseline^2)",
    "cohens_d": "difference / sqrt((sd_cell^2 + sd_baseline^2) / 2), too large at small n; null where no test is made "
    "or the plan has several looks, as are all effect sizes: no estimate of them is adjusted for stopping; unpaired: "
    "variances weighted by n - 1",
    "hedges_g": "g_av: cohens_d without its small-sample bias (exact gamma correction)",
    "hedges_g_low": "lower end of the 95 % interval of what both cohens_d and hedges_g estimate (unpaired: noncentral "
    "t)",
    "hedges_g_high": "upper end",
    "d_z": "difference / sd_difference: depends on the pairing, not comparable with unpaired studies",
    "d_z_low": "lower end of its exact 95 % interval (noncentral t)",
    "d_z_high": "upper end",
    "improved": "seeds in which the cell is better than its baseline; null where no test is made",
    "improvement": "improved / n, the probability that the cell is better with a new seed; null where the plan has "
    "several looks",
    "improvement_low": "lower end of its exact 95 % interval (Clopper-Pearson)",
    "improvement_high": "upper end",
    "p": "paired (or Welch's) t test, two-sided; null below 3 pairs and where the verdict says why no test is made, or "
    "that the cell is the primary comparison's model and has its verdict",
    "p_holm": "p, Holm-corrected over the family; of the plan's primary comparison, which is tested alone, p itself",
    "family": "comparisons in the family, without the primary one (1): all that are tested in this table; those that "
    "diverged runs leave to a sign test; those of a registered plan that too few seeds have finished for so far; and "
    "those to which too few seeds for a test were added",
    "p_joint": "p of the joint analysis (cell + seed block, pooled residual; Dunnett), adjusted for all comparisons: "
    "assumes equal variances; of the plan's primary comparison by itself, with the residual of all cells; null with "
    "less than two models to compare, where one lacks a seed that others have under all its names, and for a name that "
    "does",
    "joint_low": "lower end of the simultaneous 95 % interval of the difference by the joint analysis; of the primary "
    "comparison, of it alone",
    "joint_high": "its upper end",
    "joint_family": "comparisons that p_joint is adjusted for: different models, however many names they have, and "
    "what the family has beside those tested",
    **equivalence.EQUIVALENCE_COLUMNS,
    "p_sign_flip": "exact two-sided sign-flip test of the mean, uncorrected: assumes symmetry only",
    "p_max_t": "exact sign flips of whole seeds, all paired comparisons together, largest t, stepping down: adjusted "
    "for all of these; assumes that differences are together symmetric; null above 20 seeds",
    "sign_flip_floor": "smallest p that either sign-flip test can give with this n, 2 / 2^n",
    "detectable": "smallest true |difference| found with 80 % power at this n, sd_difference and alpha = 5 % / family",
    "plan": plan_check.PLAN_MEANING,
    "verdict": "in words; 'by the paired t test alone' (or Welch's) where cells have unequal seeds, so that the second "
    "analysis, the joint one, is not there",
}

CONTROL_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "cell with the control factor on",
    "partner": "the cell equal in all other factors: the same model up to rounding",
    "n": "pairs: seeds that finished in both",
    "largest": "largest |paired difference| of the validation loss, nats; null for n = 0",
    "tolerance": "largest difference that rounding may make, nats, as declared in the plan",
    "verdict": "'identical in n of n seeds', 'within tolerance ...', 'ALARM: ...' or 'no common seeds'",
}

CONTRIBUTION_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "factor": "the one factor in whose level the cell differs from its baseline; 'without' one that the baseline has "
    "and the cell lacks",
    "cell": "name of the cell",
    "baseline": "the cell it is compared with",
    "n": "pairs: seeds that finished in both",
    "difference": "mean paired difference of the metric, cell - baseline (nats for losses)",
    "adjusted_difference": "adjusted for looks at which the comparison could have stopped; null where the plan has one",
    "difference_low": "95 % t interval, lower end",
    "difference_high": "upper end",
    "percent": "the difference in percent of perplexity",
    "percent_low": "lower end of its 95 % interval",
    "percent_high": "upper end",
    "accuracy_change": "mean paired difference of the validation accuracy, cell - baseline, 0 to 1, over the same "
    "seeds",
    "plan": plan_check.PLAN_MEANING,
    "verdict": "of the cell's comparison with its baseline",
}


def compare(results: Results, order: Sequence[str], control: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """Compare each cell with its baseline, paired by seed; seeds that finished in one of the two alone are left out.

    Two cells that share no seed at all are compared unpaired. The plan's primary comparison is tested alone, on the
    registered seeds, in both analyses; a cell that is its model under another name has its verdict and no test.

    Args:
        results: the study.
        order: all cells in the order of the rows.
        control: `negative_control(results)`; what it finds to be one model up to rounding is not tested.
        models: `joint.one_model`: of each cell the first that is the same model.

    Returns:
        COMPARISON_COLUMNS, one row a cell that is compared with another.
    """
    pairs = {cell: base for cell in order if (base := results.baselines.get(cell, cell)) != cell}
    values = results.finished(results.metric)
    cells = values.loc[list(pairs)]
    bases = values.loc[list(pairs.values())].set_axis(cells.index)
    plan = plan_check.standing(results, pairs)
    differences = plan_check.of_registered_seeds(at_look(cells - bases, results.looks), plan, results)
    unpaired = unpaired_rows(cells, bases, plan_check.additions(results, values.columns))
    blocked, primary = why_untested(results, pairs), plan == plan_check.PRIMARY
    blocked = blocked.mask(blocked == "", _same_up_to_rounding(pairs, control))
    twins = _twins(differences, pairs, models, primary) & (blocked == "")
    others = _tested_elsewhere(results, pairs, differences, plan)
    table = paired_table(differences, blocked, results, unpaired, primary, twins, others)
    by_seed = table["estimated"] & (table["pairing"] == PAIRED)
    table["adjusted_difference"] = np.nan  # of a race, by what is known of all its looks: racing.adjust
    sized = by_seed & (not results.looks)
    moments = effects.PairedMoments(
        n=table["n"].where(sized, 0).to_numpy(dtype=float),  # no effect size where nothing varies
        mean_difference=table["difference"].to_numpy(),
        sd_difference=table["sd_difference"].to_numpy(),
        sd_x=cells.where(differences.notna()).std(axis=1).to_numpy(),
        sd_y=bases.where(differences.notna()).std(axis=1).to_numpy(),
    )
    table["cohens_d"], table["hedges_g"] = effects.cohens_d(moments), effects.hedges_g(moments)
    table["hedges_g_low"], table["hedges_g_high"] = effects.pooled_interval(moments)
    table["d_z"] = effects.d_z(moments)
    table["d_z_low"], table["d_z_high"] = effects.d_z_interval(moments)
    apart = table.index[table["estimated"] & ~by_seed]
    sizes = ["cohens_d", "hedges_g", "hedges_g_low", "hedges_g_high"]
    table.loc[apart, sizes] = unpaired.loc[apart, sizes]
    own = table[~twins]
    table = table.join(_joint(own, values, pairs, models, results, primary[~twins], others))
    table["plan"] = plan
    table["alone"] = _lack_joint(table.loc[own.index], pairs, models, results).reindex(table.index, fill_value=False)
    table["verdict"] = [_beside_joint(row, results.direction) for row in records(table)]
    better = differences < 0 if results.direction == "min" else differences > 0
    table["improved"] = better.sum(axis=1).where(by_seed)
    certain = table["improved"].where(sized)
    table["improvement"] = certain / table["n"]
    table["improvement_low"], table["improvement_high"] = clopper_pearson(certain, table["n"])
    margin = equivalence.margin(results)
    table = table.join(equivalence.equivalence(table, margin, results.looks, others))
    table["verdict"] = [equivalence.verdict(row, margin) for row in records(table)]
    for name in table.index[primary]:  # one or none
        table.loc[twins, "verdict"] = f"{outcomes.SAME_AS_PRIMARY}'{name}': {table.loc[name, 'verdict']}"
    table["cell"], table["baseline"] = list(pairs), list(pairs.values())
    table["scale"] = results.scales.loc[list(pairs)]
    return table[list(COMPARISON_COLUMNS)].reset_index(drop=True)


def _twins(
    differences: pd.DataFrame, pairs: Mapping[str, str], models: Mapping[str, str], primary: pd.Series
) -> pd.Series:
    """Return for each cell whether it is the primary comparison's model, and no baseline's, under another name."""
    found = pd.Series(False, index=differences.index)
    for name in differences.index[primary]:
        if models[name] != models[pairs[name]]:
            same = [models[cell] == models[name] and base == pairs[name] for cell, base in pairs.items()]
            found |= pd.Series(same, index=found.index) & ~primary & differences.notna().any(axis=1)
    return found


def _tested_elsewhere(results: Results, pairs: Mapping[str, str], differences: pd.DataFrame, plan: pd.Series) -> int:
    """Return how many comparisons of the family, the primary one apart, have a share in its 5 % but no test here.

    Those of diverged runs have a sign test (a race has none that is planned), and what a plan registered is tested as
    soon as its seeds have ended, or its failed runs were tried again: were it left out until then, what was found could
    be lost again.
    """
    by_sign = survivors(results, pairs) != ""
    registered = (plan == plan_check.PLANNED) | plan.map(plan_check.is_early).astype(bool)
    to_come = ~by_sign & registered & (differences.count(axis=1) < MIN_PAIRS)
    shared = to_come if results.looks else to_come | by_sign
    return int((shared & (plan != plan_check.PRIMARY)).sum())


def _joint(
    table: pd.DataFrame,
    values: pd.DataFrame,
    pairs: Mapping[str, str],
    models: Mapping[str, str],
    results: Results,
    primary: pd.Series,
    others: int,
) -> pd.DataFrame:
    """Return JOINT_COLUMNS of a `paired_table` over all rows: of the family of Holm's, and of the primary by itself.

    All are NaN where the plan has several looks: the joint analysis is of one.
    """
    joint = pd.DataFrame(np.nan, index=table.index, columns=list(JOINT_COLUMNS))
    if results.looks:
        return joint
    late = plan_check.late_seeds(results)

    def family(rows: pd.Series, values: pd.DataFrame, others: int) -> pd.DataFrame:
        paired = table["pairing"] == PAIRED
        by_seed, apart = ({cell: pairs[cell] for cell in table.index[rows & kind]} for kind in (paired, ~paired))
        # Only one of the two is there, so that their promise is for all comparisons.
        return joint_table(values, by_seed, models, others) if by_seed else dunnett_table(values, apart, others)

    estimates = family(table["estimated"] & ~primary, values, others)
    joint.loc[estimates.index] = estimates
    if late:
        tested, awaiting = table["p"].notna() & ~primary, int(table["awaits"].sum())
        tests = family(tested, _of_added_seeds(values, pairs, results), others + awaiting)
        joint["p_joint"], joint["joint_family"] = tests["p_joint"], tests["joint_family"]
    compared = {cell: pairs[cell] for cell in table.index[table["estimated"] & (table["pairing"] == PAIRED)]}
    for name in table.index[primary & table["p"].notna()]:  # one or none
        if name in compared:
            joint.loc[[name]] = primary_table(values.drop(columns=late), name, compared, models)
    return joint


def _of_added_seeds(values: pd.DataFrame, pairs: Mapping[str, str], results: Results) -> pd.DataFrame:
    """Return values as joint tests take them: of all cells that share a baseline, the same `tested_seeds` alone."""
    values, added = values.copy(), plan_check.additions(results, values.columns)
    for baseline in set(pairs.values()):
        family = [baseline, *(cell for cell, base in pairs.items() if base == baseline)]
        ran = values.loc[family].notna().any().to_numpy()[None]
        values.loc[family, ~plan_check.tested_seeds(ran, added)[0]] = np.nan
    return values


def _lack_joint(
    table: pd.DataFrame, pairs: Mapping[str, str], models: Mapping[str, str], results: Results
) -> pd.Series:
    """Return for each row with JOINT_COLUMNS whether it is tested without the joint analysis because of unequal seeds.

    A race has none, nor has a comparison beside which no other model is compared: there they lack nothing.
    """
    baseline, model = (
        pd.Series({cell: names[cell] for cell in table.index}, dtype=object) for names in (pairs, models)
    )
    another = model != baseline.map(models)
    estimated = table["estimated"] & another
    primary = table["plan"] == plan_check.PRIMARY
    # The primary comparison's residual is that of all; the family is without it.
    beside, beside_primary = (
        baseline.map(model[rows].groupby(baseline[rows]).nunique()) > 1 for rows in (estimated & ~primary, estimated)
    )
    together = beside.mask(primary, beside_primary) & another & (not results.looks)
    return together & table["p"].notna() & table["p_joint"].isna()


def _beside_joint(row: Mapping[str, Any], direction: str) -> str:
    """Return the verdict after both analyses: where they disagree it depends on the joint one's assumption.

    What is found without the joint one, for want of equal seeds, says so.
    """
    if row["alone"] and row["p_holm"] <= ALPHA:
        test = "the paired" if row["pairing"] == PAIRED else "Welch's"
        return f"{row['verdict']} by {test} t test alone: no joint analysis of unequal seeds"
    if pd.isna(row["p_joint"]) or (row["p_holm"] <= ALPHA) == (row["p_joint"] <= ALPHA):
        return str(row["verdict"])
    which = "joint analysis" if row["p_joint"] <= ALPHA else "paired t test"
    better = outcomes.BETTER if (row["tested_difference"] < 0) == (direction == "min") else outcomes.WORSE
    return f"{outcomes.DEPENDS}: {better} by the {which} alone"


def left_out(results: Results, comparisons: pd.DataFrame) -> list[str]:
    """Return a line for each paired comparison from which finished runs were left out for want of a partner."""
    finished = results.count(schema.FINISHED)
    lines = []
    by_seed = comparisons[(comparisons["pairing"] == PAIRED) & (comparisons["plan"] != plan_check.PRIMARY)]
    for cell, baseline, n in zip(by_seed["cell"], by_seed["baseline"], by_seed["n"], strict=True):
        alone = (int(finished[cell] - n), int(finished[baseline] - n))
        if any(alone):
            lines.append(
                f"{cell} against {baseline}: paired over {text.counted(n, 'common seed')}; left out are "
                f"{text.counted(alone[0], 'finished seed')} of {cell} and {alone[1]} of {baseline} that the other does "
                "not have"
            )
    return lines


def contributions(results: Results, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons of cells in which exactly one factor (scale apart) differs from the baseline.

    Returns:
        CONTRIBUTION_COLUMNS, in the order of the comparisons.
    """
    compared = zip(comparisons["cell"], comparisons["baseline"], strict=True)
    changed = [changed_factors(results, cell, baseline) for cell, baseline in compared]
    single = comparisons.loc[[len(factors) == 1 for factors in changed]].copy()
    names = [_named(results, *pair) for pair in zip(single["cell"], single["baseline"], strict=True)]
    single["factor"] = pd.Series(names, index=single.index, dtype=object)
    accuracy = results.finished(schema.VAL_ACCURACY)
    change = accuracy.loc[single["cell"]].to_numpy() - accuracy.loc[single["baseline"]].to_numpy()
    by_seed = at_look(pd.DataFrame(change, single.index, accuracy.columns), results.looks)
    single["accuracy_change"] = plan_check.of_registered_seeds(by_seed, single["plan"], results).mean(axis=1)
    return single[list(CONTRIBUTION_COLUMNS)].reset_index(drop=True)


def _named(results: Results, cell: str, baseline: str) -> str:
    """Return the one factor in which two cells differ; 'without' it where the baseline has it and the cell lacks it."""
    (factor,) = changed_factors(results, cell, baseline)
    off, levels = results.off_level(factor, results.scales[cell]), results.cells[factor]
    return f"{WITHOUT if levels[cell] == off and levels[baseline] != off else ''}{factor}"


def changed_factors(results: Results, cell: str, other: str) -> list[str]:
    """Return the factors, scale apart, in whose level two cells differ."""
    here, there = results.cells.loc[cell].to_dict(), results.cells.loc[other].to_dict()
    return [factor for factor in results.factors if factor != schema.SCALE and here[factor] != there[factor]]


def negative_control(results: Results) -> pd.DataFrame:
    """Compare each cell that has the control factor on with its partner, the same model up to rounding.

    Where one of the two diverged and the other did not, or their largest difference is beyond the plan's tolerance,
    something else than the factor changed: an ALARM.

    Returns:
        CONTROL_COLUMNS; empty where the plan declares no control, or no tolerance of one whose cells are tuned apart.
    """
    control = results.plan.get("negative_control")
    if not control or control["tolerance_nats"] is None:
        return pd.DataFrame(columns=list(CONTROL_COLUMNS))
    factor, tolerance = control["factor"], float(control["tolerance_nats"])
    if factor not in results.factors:
        raise AnalysisError(f"the negative control '{factor}' is no factor: factors: {', '.join(results.factors)}")
    levels = {tuple(row): cell for cell, row in zip(results.cells.index, results.cells.to_numpy(), strict=True)}
    place = results.factors.index(factor)
    off = {scale: results.off_level(factor, scale) for scale in results.scales.unique()}
    values = results.finished(schema.VAL_LOSS)
    rows = []
    for key, cell in levels.items():
        without = off[results.scales[cell]]
        partner = levels.get((*key[:place], without, *key[place + 1 :]))
        if key[place] == without or partner is None:
            continue
        gaps = (values.loc[cell] - values.loc[partner]).abs().dropna()
        largest = float(gaps.max()) if len(gaps) else float("nan")
        verdict = _control_verdict(results.statuses.loc[[cell, partner]], largest, len(gaps), tolerance)
        rows.append((results.scales[cell], cell, partner, len(gaps), largest, tolerance, verdict))
    return pd.DataFrame(rows, columns=list(CONTROL_COLUMNS))


def _control_verdict(statuses: pd.DataFrame, largest: float, n: int, tolerance: float) -> str:
    both = statuses.loc[:, statuses.isin((schema.FINISHED, schema.DIVERGED)).all()]
    split = int((both.nunique() > 1).sum())
    if split:
        return f"ALARM: only one of the two diverged in {split} of {both.shape[1]} seeds"
    if n == 0:
        return NO_SEEDS
    if largest > tolerance:
        return f"ALARM: differs by {largest:.2g} nats, more than the {tolerance:g} that rounding may make"
    return f"identical in {n} of {n} seeds" if largest == 0 else WITHIN_TOLERANCE.format(tolerance)


def why_untested(results: Results, pairs: Mapping[str, str]) -> pd.Series:
    """Return for each cell why its runs allow no test against its baseline, or empty text."""
    runs, invalid = results.statuses.notna().sum(axis=1), results.count(schema.INVALID)
    nothing_left = (invalid > 0) & (results.count(schema.FINISHED) == 0)
    reasons = survivors(results, pairs)
    for cell, baseline in pairs.items():
        if reasons[cell]:
            continue
        if nothing_left[cell]:
            reasons[cell] = f"no valid run left: audits found {invalid[cell]} of {runs[cell]} invalid"
        elif nothing_left[baseline]:
            reasons[cell] = f"no valid run of the baseline left: audits found {invalid[baseline]} invalid"
        elif changed_factors(results, cell, baseline) == [schema.DATA_ORDER]:
            reasons[cell] = OTHER_ORDER
    return reasons


def _same_up_to_rounding(pairs: Mapping[str, str], control: pd.DataFrame) -> pd.Series:
    """Return the control's verdict for each cell that differs from its baseline by rounding alone, else empty text."""
    same = control[(control["largest"] > 0) & (control["largest"] <= control["tolerance"])]
    rounded = dict(zip(zip(same["cell"], same["partner"], strict=True), same["verdict"], strict=True))
    return pd.Series({cell: rounded.get((cell, base), "") for cell, base in pairs.items()}, dtype=object)
