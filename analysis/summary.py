"""All numbers of a report in one place: `analyse(results)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import schema, text
from analysis.audits import replication
from analysis.audits.found import AUDIT_COLUMNS, audit_findings
from analysis.comparing import comparisons as pairs
from analysis.comparing import equivalence, marks
from analysis.comparing import evaluation_noise as noise
from analysis.comparing.all_pairs import ALL_PAIRS_COLUMNS, all_pairs
from analysis.comparing.divergence import DIVERGENCE_COLUMNS, divergence
from analysis.comparing.efficiency import EFFICIENCY_COLUMNS, efficiency
from analysis.comparing.final_test import FINAL_TEST_COLUMNS, final_test
from analysis.comparing.groups import GROUP_COLUMNS, MeanRanks, groups, mean_ranks
from analysis.comparing.paired import rounding
from analysis.comparing.pareto import PARETO_COLUMNS, pareto
from analysis.comparing.racing import RACE_COLUMNS, adjust, race, race_notes, race_table
from analysis.comparing.rank_probabilities import RANK_PROBABILITY_COLUMNS, rank_probabilities
from analysis.comparing.ranking import RANKING_COLUMNS, has_orders, level, rank_cells
from analysis.comparing.scaling import GROWTH_COLUMNS, SCALING_COLUMNS, at_ends, scaling
from analysis.comparing.unpaired import PAIRED, UNPAIRED
from analysis.comparing.variance_sources import VARIANCE_COLUMNS, variance_sources, why_not
from analysis.factors.factorial import MAIN_EFFECT_COLUMNS, disagreements, main_effects
from analysis.factors.interactions import INTERACTION_COLUMNS, interactions
from analysis.factors.shapley import SHAPLEY_COLUMNS, shapley
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.joint import one_model
from analysis.statistics.looks import detectable
from analysis.statistics.significance import ALPHA, detectable_effect, sign_flip_floor
from analysis.study import plan_check
from analysis.study.registered import SCALE_CHANGES, WHOLE_FACTORS
from analysis.study.results import NATS, Results, StudyAudit
from analysis.study.runs import records


@dataclass(frozen=True)
class Analysis:
    """The numbers of a report. Every table is empty (with its columns) where it does not apply.

    The columns and what they hold are `COLUMNS[table]`, in order; a number that does not exist is null.
    """

    ranking: pd.DataFrame
    """Rows in order of rank within each scale; cells without a rank last."""
    comparisons: pd.DataFrame
    """One row a cell that is not a baseline, in the ranking's order."""
    evaluation_noise: pd.DataFrame
    """One row a cell with losses by document, in the ranking's order."""
    race: pd.DataFrame
    """One row a comparison: the look at which it stopped, and why, where the plan declares several looks."""
    negative_control: pd.DataFrame
    """One row a cell with the control factor on."""
    contributions: pd.DataFrame
    """One at a time: cells with exactly one factor on, against their baseline."""
    main_effects: pd.DataFrame
    """Factor-level contrasts over the complete grid, where the design allows them."""
    scaling: pd.DataFrame
    """One row a cell and what grows, where the study has scales enough."""
    growth: pd.DataFrame
    """How each cell's difference from its baseline changes over the scales."""
    interactions: pd.DataFrame
    """Means at each combination of two factors, for interaction plots."""
    shapley: pd.DataFrame
    """Shapley values of the factors over a full 2^k grid."""
    all_pairs: pd.DataFrame
    """Exploratory: every model against every other."""
    efficiency: pd.DataFrame
    """Rows in the ranking's order."""
    pareto: pd.DataFrame
    """Which cells are on the fronts of the metric and a cost; rows in the ranking's order."""
    variance: pd.DataFrame
    """Where the spread between runs comes from, in a study that varies the sources apart."""
    divergence: pd.DataFrame
    """One row a cell that has diverged runs, or whose baseline has."""
    final_test: pd.DataFrame
    """One row a cell, the best first; empty while the test split is closed."""
    plan_check: pd.DataFrame
    """What was registered beside what was done; empty where no plan was registered."""
    audits: pd.DataFrame
    """What the audits found, the severest first."""
    mean_ranks: tuple[MeanRanks, ...]
    """Of each scale with enough seeds: for the critical-difference diagram."""
    study_audits: tuple[StudyAudit, ...]
    """Those of them that compare runs."""
    notes: tuple[str, ...]
    """Warnings in words. Those of loading (`Results.notes`) and of the plan are not repeated here."""


MARK_COLUMN = {schema.FLAWS: marks.MARK_MEANING}
PLAN_COLUMN = {"plan": plan_check.PLAN_MEANING}
COLUMNS: dict[str, dict[str, str]] = {
    "ranking": RANKING_COLUMNS | RANK_PROBABILITY_COLUMNS | GROUP_COLUMNS | MARK_COLUMN,
    "comparisons": pairs.COMPARISON_COLUMNS | MARK_COLUMN,
    "evaluation_noise": noise.EVALUATION_NOISE_COLUMNS | MARK_COLUMN,
    "race": RACE_COLUMNS | MARK_COLUMN,
    "negative_control": pairs.CONTROL_COLUMNS | MARK_COLUMN,
    "contributions": pairs.CONTRIBUTION_COLUMNS | MARK_COLUMN,
    "main_effects": MAIN_EFFECT_COLUMNS | PLAN_COLUMN | MARK_COLUMN,
    "scaling": SCALING_COLUMNS | PLAN_COLUMN | MARK_COLUMN,
    "growth": GROWTH_COLUMNS | PLAN_COLUMN | MARK_COLUMN,
    "interactions": INTERACTION_COLUMNS | PLAN_COLUMN | MARK_COLUMN,
    "shapley": SHAPLEY_COLUMNS | PLAN_COLUMN | MARK_COLUMN,
    "all_pairs": ALL_PAIRS_COLUMNS | MARK_COLUMN,
    "efficiency": EFFICIENCY_COLUMNS | MARK_COLUMN,
    "pareto": PARETO_COLUMNS | MARK_COLUMN,
    "variance": VARIANCE_COLUMNS | MARK_COLUMN,
    "divergence": DIVERGENCE_COLUMNS | MARK_COLUMN,
    "final_test": FINAL_TEST_COLUMNS | MARK_COLUMN,
    "plan_check": plan_check.PLAN_CHECK_COLUMNS | MARK_COLUMN,
    "audits": AUDIT_COLUMNS,
}
"""Table -> column -> what it holds, in the tables' order; fit for a table's header."""


def analyse(results: Results) -> Analysis:
    """Compute all numbers of the report; those of 10,000 runs take a few seconds.

    Raises:
        AnalysisError: never here: `Results` refuses what cannot be analysed when it is made.
    """
    raced = race(results)
    ranking = rank_cells(results, raced)
    order = list(ranking["cell"])
    control = pairs.negative_control(results)
    models = one_model(results.finished(results.metric), control)
    ranking = ranking.join([rank_probabilities(results, ranking, models), groups(results, ranking, models)])
    comparisons = adjust(results, raced, pairs.compare(results, order, control, models))
    alone = pairs.contributions(results, comparisons)
    effects, effect_notes = main_effects(results)
    at_scale = {scale: list(results.scales.index[results.scales == scale]) for scale in results.scales.unique()}
    of_effects = [at_scale[scale] for scale in effects["scale"]]
    effects = effects.assign(plan=plan_check.standing_of(results, WHOLE_FACTORS, of_effects))
    beyond = plan_check.standing_beyond(results)
    laws, growth = scaling(results, control)
    laws = laws.assign(plan=beyond)
    of_growth = [at_ends(row) for row in records(growth)]
    growth = growth.assign(plan=plan_check.standing_of(results, SCALE_CHANGES, of_growth))
    errors = noise.evaluation_noise(results, order)
    found = (*noise.audit(errors), *replication.audit(comparisons))
    names = {item.audit.name for item in found}
    # A source that keeps no documents may know what was found when they were there.
    study = (*(item for item in results.study_audits if item.audit.name not in names), *found)
    explored, explored_notes = all_pairs(results, order, models)
    notes = (
        *plan_check.notes(results, comparisons),
        *_run_notes(ranking),
        *_gap_notes(results),
        *_spread_notes(results, ranking),
        *_order_notes(results),
        *_tie_notes(results, ranking),
        *_unequal_notes(results, ranking),
        *race_notes(raced),
        *([] if results.looks else pairs.left_out(results, comparisons)),
        *_unpaired_notes(comparisons),
        *_percent_notes(results, comparisons),
        *_power_notes(comparisons, results.looks),
        *equivalence.notes(comparisons, equivalence.margin(results)),
        *([] if results.looks else _joint_notes(comparisons)),
        *(noise.notes(errors, comparisons) if results.metric == schema.VAL_LOSS else []),
        *_identity_notes(results, comparisons),
        *_control_notes(control),
        *effect_notes,
        *why_not(results),
        *disagreements(comparisons, alone, effects),
        *explored_notes,
    )
    return Analysis(
        ranking=marks.mark_rows(results, ranking),
        comparisons=marks.mark_rows(results, comparisons),
        evaluation_noise=marks.mark_rows(results, errors),
        race=marks.mark_rows(results, race_table(results, raced)),
        negative_control=marks.mark_rows(results, control),
        contributions=marks.mark_rows(results, alone),
        main_effects=marks.mark_rows(results, effects),
        scaling=_mark_families(results, laws),
        growth=_mark_families(results, growth),
        interactions=marks.mark_rows(results, interactions(results).assign(plan=beyond)),
        shapley=marks.mark_rows(results, shapley(results).assign(plan=beyond)),
        all_pairs=marks.mark_rows(results, explored),
        efficiency=marks.mark_rows(results, efficiency(results, order)),
        pareto=marks.mark_rows(results, pareto(results, ranking, models)),
        variance=marks.mark_rows(results, variance_sources(results)),
        divergence=marks.mark_rows(results, divergence(results)),
        final_test=marks.mark_rows(results, final_test(results, comparisons)),
        plan_check=plan_check.check_plan(results, comparisons, effects, growth).assign(**{schema.FLAWS: ""}),
        audits=audit_findings(results, study),
        mean_ranks=tuple(mean_ranks(results, ranking, models)),
        study_audits=study,
        notes=notes,
    )


def _mark_families(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the marks of each cell at all its scales; what is made of a marked one is no finding."""
    of_family: dict[str, set[str]] = {}
    for cell, names in results.marks.items():
        of_family.setdefault(cell.rpartition("@")[0], set()).update(names)
    flaws = [" ".join(sorted(of_family.get(cell, ()))) for cell in table["cell"]]
    table = table.assign(**{schema.FLAWS: pd.Series(flaws, index=table.index, dtype=object)})
    table["verdict"] = table["verdict"].mask(table[schema.FLAWS] != "", marks.NO_FINDING)
    return table


def _run_notes(ranking: pd.DataFrame) -> list[str]:
    """Say which runs are not in the means, and where n is 1 or differs."""
    notes = []
    meanings = {
        schema.DIVERGED: "diverged: an outcome, so these cells have no rank and no test; their means are of survivors",
        schema.FAILED: "failed and in no number",
        schema.INVALID: "found invalid by an audit and in no number, unless included (--include-invalid)",
        "missing": "planned but without a record",
    }
    for column, meaning in meanings.items():
        affected = ranking[ranking[column] > 0]
        if len(affected):
            cells = ", ".join(
                f"{cell} ({count})" for cell, count in zip(affected["cell"], affected[column], strict=True)
            )
            notes.append(f"{text.counted(int(affected[column].sum()), 'run')} {meaning}: {cells}")
    emptied = ranking.loc[(ranking[schema.INVALID] > 0) & (ranking["n"] == 0), "cell"]
    if len(emptied):
        notes.append(f"nothing is left of cells whose finished runs are all invalid: {', '.join(emptied)}")
    if (ranking["n"] == 1).all():
        notes.append("n = 1: no interval, no effect size and no test exists; more seeds are needed to compare anything")
    elif ranking["n"].max() == 2:
        notes.append("n = 2: intervals are wide, and no effect size and no test exists: both need 3 pairs of seeds")
    if ranking["n"].max() >= MIN_PAIRS:
        notes.append(
            "intervals of means assume roughly normal runs: of strongly skewed ones fewer than 95 % hold (82 to 90 % "
            "in simulations), while differences keep theirs; compare by differences"
        )
    if ranking["n"].nunique() > 1:
        notes.append(f"cells have between {ranking['n'].min()} and {ranking['n'].max()} finished seeds")
    return notes


def _gap_notes(results: Results) -> list[str]:
    """Count the (cell, seed) pairs without a run where no plan says what there should be."""
    if results.plan.get("seeds"):
        return []
    lacking = results.statuses.isna().sum(axis=1)
    lacking = lacking[lacking > 0]
    if lacking.empty:
        return []
    which = ", ".join(f"{cell} ({count})" for cell, count in lacking.items())
    cells, seeds = results.statuses.shape
    return [f"of {cells} cells x {seeds} seeds = {cells * seeds} runs {lacking.sum()} are not there: {which}"]


def _spread_notes(results: Results, ranking: pd.DataFrame) -> list[str]:
    """Name the cells whose seeds all gave one figure, from which nothing can be estimated."""
    still = ranking.loc[(ranking["n"] > 1) & (ranking["sd"] == 0), "cell"]
    if still.empty:
        return []
    return [
        f"no spread: all seeds gave the same {results.metric} in {', '.join(still)}; there is no interval of such a "
        "mean (were runs copied, or seeds not used?)"
    ]


def _order_notes(results: Results) -> list[str]:
    """Say why cells that are one model in several orders of the data have no ranks."""
    why = "some cells are one model in several orders of the data, of which one is always the best"
    return [f"no ranks: {why}; cells stand in the plan's order"] if has_orders(results) else []


def _tie_notes(results: Results, ranking: pd.DataFrame) -> list[str]:
    """Name the cells that share a rank."""
    levels = ranking.assign(level=level(ranking["mean"], rounding(results)))
    ranked = levels[levels["rank"].notna()].groupby(["scale", "rank", "level"], sort=False)["cell"]
    ties = [" = ".join(cells) for _, cells in ranked if len(cells) > 1]
    return [f"ties: these have the same mean up to rounding and share a rank: {'; '.join(ties)}"] if ties else []


def _unequal_notes(results: Results, ranking: pd.DataFrame) -> list[str]:
    """Name the cells for whose missing seeds a scale has none of the figures that need equal seeds of all cells."""
    notes = []
    values = results.finished(results.metric)
    ranked = ranking[ranking["rank"].notna() & ~ranking["cell"].isin(results.marks)]
    for scale, rows in ranked.groupby("scale", sort=False):
        lacking = values.loc[rows["cell"]].dropna(axis=1, how="all").isna().any(axis=1)
        if lacking.any() and rows["p_best"].isna().all() and rows["n"].max() >= MIN_PAIRS:
            where = f" at scale {rows['scale'].iloc[0]}" if scale else ""
            notes.append(
                f"no P(best), likely ranks, groups and probabilities of fronts{where}: they need equal seeds of all "
                f"cells, and there are seeds without {', '.join(lacking.index[lacking])}"
            )
    return notes


def _unpaired_notes(comparisons: pd.DataFrame) -> list[str]:
    """Name the comparisons without a common seed, and say how they are made."""
    cells = ", ".join(comparisons.loc[comparisons["pairing"] == UNPAIRED, "cell"])
    how = (
        "compared as independent runs (Welch's t test, with the smaller arm's degrees of freedom where sizes are "
        "unequal; Dunnett's, which assumes equal variances, beside it where all arms are disjoint): running equal "
        "seeds would find smaller differences"
    )
    return [f"unpaired: {cells} and the baseline have no seed in common, so they are {how}"] if cells else []


def _percent_notes(results: Results, comparisons: pd.DataFrame) -> list[str]:
    """Name the comparisons whose differences are too large for a percentage of perplexity."""
    ends = ("", "_low", "_high")
    differences, percents = (comparisons[[name + end for end in ends]] for name in ("difference", "percent"))
    lacking = (differences.notna().to_numpy() & percents.isna().to_numpy()).any(axis=1)
    if results.metric not in NATS or not lacking.any():
        return []
    return [
        f"percent of perplexity, or their interval, are left out of {', '.join(comparisons.loc[lacking, 'cell'])}: "
        f"differences of hundreds of nats have none; is {results.metric} really a loss in nats per token?"
    ]


def _power_notes(comparisons: pd.DataFrame, looks: Sequence[int]) -> list[str]:
    """Say for the smallest n that is tested what its tests cannot do: of the family, without the primary comparison."""
    tested = comparisons[comparisons["p"].notna()]
    further = tested[tested["plan"] != plan_check.PRIMARY]
    tested = further if len(further) else tested
    family = int(tested["family"].max()) if len(tested) else 0
    together = f", Holm over {family} comparisons" if family > 1 else ""
    rarely = "what is smaller is rarely resolved, and 'not resolved' does not mean 'no difference'"
    paired, apart = (tested.loc[tested["pairing"] == pairing, "n_tested"] for pairing in (PAIRED, UNPAIRED))
    notes = []
    if len(paired):
        effect = float(detectable([int(paired.min())], family, looks)[0])
        notes.append(
            f"n = {paired.min()}{together}: 80 % power needs a true difference of {effect:.1f} sd of the paired "
            f"differences; {rarely}"
        )
    if len(apart):
        effect = _detectable_apart(int(apart.min()), family)
        notes.append(
            f"n = {apart.min()} runs an arm, no common seeds{together}: 80 % power needs a true difference of "
            f"{effect:.1f} sd of a run or more, where both arms have as many runs and one sd; {rarely}"
        )
    if family > 1:
        notes.append(
            "the 95 % intervals are of one comparison each, the verdicts of the whole family: an interval may leave "
            "out 0 where the verdict is 'not resolved'; those 'of all together' hold for all comparisons at once"
        )
    return [*notes, *(_sign_flip_notes(int(paired.min()), family) if len(paired) else [])]


def _detectable_apart(n: int, family: int) -> float:
    """Return the smallest true difference, in sds of a run, that two arms of n runs and one sd find with 80 % power.

    Their difference has 2 n - 2 degrees of freedom and a standard error of sqrt(2 / n) sds.
    """
    return float(detectable_effect([2 * n - 1], family)[0]) * math.sqrt((2 * n - 1) * 2 / n)


def _sign_flip_notes(n: int, family: int) -> list[str]:
    """Say where exact sign flips cannot reject whatever the data."""
    notes = []
    floor = float(sign_flip_floor(n))
    if floor > ALPHA:
        corrected = f"; {text.times(floor, family)}" if family > 1 else ""
        notes.append(
            f"n = {n}: exact sign flips cannot reject at this n, whatever the data (smallest p {floor:.3g}{corrected})"
            "; the t test rests on normal differences"
        )
    elif floor * family > ALPHA:
        notes.append(
            f"n = {n}: exact sign flips with Holm's correction cannot reject at this n (smallest p {floor:.3g}, "
            f"{text.times(floor, family)}); max-t can (smallest adjusted p {floor:.3g})"
        )
    return notes


def _joint_notes(comparisons: pd.DataFrame) -> list[str]:
    """Say what the joint analysis rests on, and which tested comparisons are not in it."""
    tested = comparisons[comparisons["p"].notna() & (comparisons["pairing"] == PAIRED)]
    notes = []
    if tested["p_joint"].notna().any():
        notes.append(
            "the joint analysis (one model of cells and seeds, Dunnett's critical values) pools the residual over all "
            "cells and so assumes equal variances; paired t with Holm does not; where they disagree the verdict says so"
        )
    tested = tested[tested["plan"] != plan_check.PRIMARY]
    alone = tested.loc[tested["p_joint"].isna(), "cell"]
    if len(alone) and len(tested) > 1:
        notes.append(
            f"no joint analysis of {', '.join(alone)}: it needs two or more models beside their baseline, all with the "
            "same seeds; their verdicts rest on the paired t test with Holm's correction alone"
        )
    return notes


def _identity_notes(results: Results, comparisons: pd.DataFrame) -> list[str]:
    """Warn of cells whose losses equal their baseline's in every seed although more than the control factor differs."""
    control = (results.plan.get("negative_control") or {}).get("factor")
    notes = []
    columns = (comparisons["cell"], comparisons["baseline"], comparisons["verdict"])
    for cell, baseline, verdict in zip(*columns, strict=True):
        changed = pairs.changed_factors(results, cell, baseline)
        if verdict.startswith("identical") and changed != [control]:
            what = ", ".join(changed) or "name alone"
            declared = "" if results.plan.get("cells") else ", or a negative control, which a table cannot declare"
            notes.append(
                f"WARNING: {cell} equals {baseline} in every seed though they differ in {what}: one model{declared}?"
            )
    return notes


def _control_notes(control: pd.DataFrame) -> list[str]:
    """Repeat the alarms of the negative control."""
    columns = (control["cell"], control["partner"], control["verdict"])
    return [
        f"negative control, {cell} against {partner}: {verdict}"
        for cell, partner, verdict in zip(*columns, strict=True)
        if verdict.startswith("ALARM")
    ]
