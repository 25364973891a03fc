"""Do the statistics hold what they promise? Simulated studies, analysed by the functions that make the reports.

    python benchmarks/calibration.py                 # all parts, as Markdown
    python benchmarks/calibration.py error coverage  # some of: error, coverage, power, racing, saved, added, stopped,
                                                     # beyond, unpaired_error, unpaired_coverage, factorial,
                                                     # pairs, documents, bootstrap

10,000 studies a setting from fixed random numbers: a setting's figures do not depend on which others run. Rates have a
standard error of 0.22 points at 5 %, 0.4 at 80 %. Coverage has 40,000 (0.11 points): with 10,000 an exact interval is
outside the band of 94.4 to 95.6 % in 1 of 170 settings, by chance alone. Exits with 1 where a promise is not held.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.comparing.evaluation_noise import crossed_errors
from analysis.comparing.unpaired import UnpairedMoments, games_howell, independent_interval, welch_interval, welch_test
from analysis.seeds import seeds_needed
from analysis.statistics import effects, significance
from analysis.statistics.joint import dunnett_critical, many_to_one_critical, pooled_residual
from analysis.statistics.looks import levels, repeated_t_interval, repeated_t_test
from analysis.statistics.significance import ALPHA, Array
from analysis.statistics.stopping import median_unbiased
from benchmarks.command import Words, chosen, run

STUDIES = 10_000
STUDIES_OF_COVERAGE = 40_000
STUDIES_OF_G = 2_000
"""Its interval is integrated: 0.5 points of standard error must do."""
STUDIES_OF_RANGES = 300
"""Their p are integrals over the studentised range: 1.3 points of standard error."""
SEEDS = (3, 5, 10)
CORRELATIONS = (0.0, 0.5, 0.9)
"""Of two cells over seeds: the share of a run's variance that comes from the seed."""
COMPARISONS = (1, 5, 15)
UNEQUAL_ARMS = ((3, 10), (3, 20), (5, 20))
"""Runs of two arms without a common seed."""
EFFECTS = (1.0, 3.0)
"""True differences, in sds of a run. At 0 the intervals of the difference and of d_z hold it in the same studies."""
STUDIES_OF_DOCUMENTS = 4_000
"""Each is analysed by itself: 0.35 points of standard error."""
GROUPS = {
    "15 unequal": np.array(
        [534, 804, 1236, 1767, 1886, 2204, 2645, 2853, 3659, 3742, 4382, 4648, 5658, 5662, 6199], dtype=float
    ),
    "60 equal": np.full(60, 800.0),
}
"""Tokens of the groups of documents; the first are the books that `web` validates on."""
CROSSED_SDS = ((1.0, 0.5, 0.5), (1.0, 2.0, 2.0), (1.0, 5.0, 1.0), (0.2, 0.2, 5.0))
"""Of a difference: between seeds, between groups of documents, and between pairs of both."""
SEEDS_OF_BOOTSTRAP = (3, 5, 10, 20)
RESAMPLES = 1_000
CHUNK = 250
"""Studies resampled at once, to bound memory."""
LOOKS = (3, 5, 7, 10)
CONTENDERS = (1, 3, 15)
EVERY_SEED = tuple(range(3, 11))
MARGIN = 1.5
"""Of futility, in sds of a difference."""
STUDIES_OF_FUTILITY = 1_000
"""Each has an estimate that is integrated for it alone: a share of one half has a standard error of 1.6 points."""
SIZES = np.linspace(0, 12, 121)
"""Mean differences in sds between which adjusted ones are interpolated."""
HALF_TOLERANCE = 0.02
"""Of the share of adjusted estimates that are too large; its standard error is half a point."""
ERROR_LIMIT = 0.058
COVERAGE = (0.944, 0.956)
POWER_TOLERANCE = 0.02

Noise = Callable[[np.random.Generator, int, int, int], Array]
"""(random numbers, studies, cells, seeds) -> losses (studies, cells, seeds); the first cell is the baseline."""


def generator(*setting: float) -> np.random.Generator:
    """Return the random numbers of a setting."""
    return np.random.default_rng([round(100 * part) for part in setting])


def normal(correlation: float) -> Noise:
    """Equal variances of 1, all cells correlated over seeds: what the promises are made for."""

    def draw(rng: np.random.Generator, studies: int, cells: int, seeds: int) -> Array:
        shared = np.sqrt(correlation) * rng.standard_normal((studies, 1, seeds))
        return shared + np.sqrt(1 - correlation) * rng.standard_normal((studies, cells, seeds))

    return draw


def exponential(rng: np.random.Generator, studies: int, cells: int, seeds: int) -> Array:
    """Skewness 2."""
    return rng.exponential(size=(studies, cells, seeds)) - 1


def lognormal(rng: np.random.Generator, studies: int, cells: int, seeds: int) -> Array:
    """Sigma 1: skewness 6.2."""
    return rng.lognormal(0, 1, (studies, cells, seeds)) - np.exp(0.5)


def unequal(noisy: int) -> Noise:
    """One cell has three times the sd of the others; 0 is the baseline."""

    def draw(rng: np.random.Generator, studies: int, cells: int, seeds: int) -> Array:
        return rng.standard_normal((studies, cells, seeds)) * np.where(np.arange(cells) == noisy, 3.0, 1.0)[:, None]

    return draw


def interaction(rng: np.random.Generator, studies: int, cells: int, seeds: int) -> Array:
    """Half of the cells, not the baseline, share a factor whose effect differs by seed, with twice a run's sd."""
    factor = 2 * rng.standard_normal((studies, 1, seeds)) * (np.arange(cells) % 2)[:, None]
    return factor + rng.standard_normal((studies, cells, seeds))


BEYOND: dict[str, Noise] = {
    "normal, for comparison": normal(0.0),
    "exponential": exponential,
    "lognormal, sigma 1": lognormal,
    "sds 1:3, the baseline's is 3": unequal(0),
    "sds 1:3, one cell's is 3": unequal(1),
    "factor x seed interaction": interaction,
}
NO_DISJOINT = ("normal, for comparison", "factor x seed interaction")
"""Of BEYOND what means nothing, or is there already, where arms share no seed."""


def moments(differences: Array) -> tuple[Array, Array, Array]:
    """Return mean, sd and n of differences, shape (..., seeds)."""
    return (
        differences.mean(axis=-1),
        differences.std(axis=-1, ddof=1),
        np.full(differences.shape[:-1], differences.shape[-1]),
    )


def family_wise_errors(losses: Array) -> dict[str, float]:
    """Return for each method the share of studies in which it rejects something, although nothing is there.

    NaN where a method does not apply: the joint analysis and max-t to one comparison, both kinds of sign flips where n
    is too small to reject.
    """
    seeds, comparisons = losses.shape[2], losses.shape[1] - 1
    differences = losses[:, 1:] - losses[:, :1]
    p = significance.t_test(*moments(differences))
    corrected = np.array([significance.holm(row) for row in p])
    variance, df = pooled_residual(losses)
    t = differences.mean(axis=2) / np.sqrt(2 * variance / seeds)[:, None]
    joint = np.abs(t).max(axis=1) > dunnett_critical(comparisons, df)
    flips = np.full(1, np.nan)
    if comparisons * float(significance.sign_flip_floor(seeds)) <= ALPHA:
        rows = np.array([significance.sign_flip(row) for row in differences.reshape(-1, seeds)])
        flips = comparisons * rows.reshape(-1, comparisons).min(axis=1) <= ALPHA  # Holm's first step
    max_t = np.full(1, np.nan)
    if comparisons > 1 and float(significance.sign_flip_floor(seeds)) <= ALPHA:
        max_t = np.array([significance.sign_flip_max_t(study).min() for study in differences]) <= ALPHA
    return {
        "Holm": float((corrected <= ALPHA).any(axis=1).mean()),
        "joint": float(joint.mean()) if comparisons > 1 else float("nan"),
        "sign flips": float(flips.mean()),
        "max-t": float(max_t.mean()),
    }


Test = Callable[[Array, int], Array]
"""(differences so far (..., pairs), their number) -> p."""


def repeated(looks: tuple[int, ...]) -> Test:
    """What a race tests by."""
    return lambda differences, n: repeated_t_test(*moments(differences), looks)


def plain(differences: Array, n: int) -> Array:
    """Return the p of the t test, as if this were the only look."""
    return significance.t_test(*moments(differences))


def normal_theory(looks: tuple[int, ...]) -> Test:
    """Boundaries of the same looks by normal theory: the error of the t statistic taken for a normal one."""
    steps = dict(zip(looks, levels(looks), strict=True))

    def test(differences: Array, n: int) -> Array:
        mean, sd, pairs = moments(differences)
        return 2 * stats.norm.sf(np.abs(mean) / sd * np.sqrt(pairs)) * ALPHA / steps[n]

    return test


def race(losses: Array, looks: tuple[int, ...], test: Test, margin: float = 0.0) -> tuple[Array, Array, Array]:
    """Race all cells against the first as a study does: at each look Holm over the p of all, those stopped included.

    Args:
        losses: shape (studies, 1 + contenders, seeds of the last look).
        looks: seeds at each look.
        test: gives the p of a look.
        margin: where the plain 95 % interval of a difference lies within it, the contender stops for futility.

    Returns:
        Which contenders a difference was found of, and the seeds that each used, shape (studies, contenders); and the
        error by which a difference would have stopped each at each look, shape (studies, contenders, looks).
    """
    differences = losses[:, 1:] - losses[:, :1]
    running, found = np.full(differences.shape[:2], True), np.full(differences.shape[:2], False)
    p, used = np.ones(running.shape), np.zeros(running.shape)
    alphas = np.zeros((*running.shape, len(looks)))
    for place, n in enumerate(looks):
        so_far = differences[:, :, :n]
        p = np.where(running, test(so_far, n), p)
        used = np.where(running, n, used)
        found |= running & (np.array([significance.holm(row) for row in p]) <= ALPHA)
        others = found.sum(axis=1, keepdims=True) - found
        # What has stopped keeps the error of its last look.
        error = np.where(running, ALPHA / (differences.shape[1] - others), alphas[:, :, place])
        alphas[:, :, place:] = error[:, :, np.newaxis]
        low, high = significance.t_interval(*moments(so_far))
        running &= ~found & ~((low > -margin) & (high < margin))
    return found, used, alphas


def covered(interval: tuple[Array, Array], truth: float) -> float:
    """Return the share of intervals that hold the truth."""
    low, high = interval
    return float(((low <= truth) & (truth <= high)).mean())


def coverages(
    rng: np.random.Generator, seeds: int, correlation: float, effect: float, studies: int
) -> dict[str, float]:
    """Return how often the 95 % intervals of the mean difference, of d_z and of g hold the true value."""
    losses = normal(correlation)(rng, studies, 2, seeds)
    losses[:, 1] += effect
    mean, sd, n = moments(losses[:, 1] - losses[:, 0])
    paired = effects.PairedMoments(
        n.astype(float), mean, sd, losses[:, 1].std(axis=1, ddof=1), losses[:, 0].std(axis=1, ddof=1)
    )
    few = effects.PairedMoments(*(part[:STUDIES_OF_G] for part in vars(paired).values()))
    return {
        "difference": covered(significance.t_interval(mean, sd, n), effect),
        "d_z": covered(effects.d_z_interval(paired), effect / np.sqrt(2 * (1 - correlation))),
        "g": covered(effects.pooled_interval(few), effect),
    }


def power(rng: np.random.Generator, seeds: int, comparisons: int, effect: float, studies: int) -> float:
    """Return how often Holm finds one true difference (in sds of the difference) among others that are none."""
    losses = normal(0.5)(rng, studies, comparisons + 1, seeds)  # differences then have an sd of 1
    losses[:, 1] += effect
    p = significance.t_test(*moments(losses[:, 1:] - losses[:, :1]))
    return float(np.mean([significance.holm(row)[0] <= ALPHA for row in p]))


def error_part() -> list[list[str]]:
    """Promised: at most 5.8 % at 5 %."""
    rows = [["seeds", "seed correlation", "comparisons", "Holm", "joint", "sign flips", "max-t", "held"]]
    for seeds, correlation, comparisons in product(SEEDS, CORRELATIONS, COMPARISONS):
        rng = generator(1, seeds, correlation, comparisons)
        errors = family_wise_errors(normal(correlation)(rng, STUDIES, comparisons + 1, seeds))
        held = all(not error > ERROR_LIMIT for error in errors.values())
        rows.append([f"{seeds}", f"{correlation:g}", f"{comparisons}", *map(percent, errors.values()), yes(held)])
    return rows


def coverage_part() -> list[list[str]]:
    """Promised for the difference and d_z: 94.4 to 95.6 %."""
    rows = [["seeds", "seed correlation", "true difference", "difference", "d_z", "held", "g (no promise)"]]
    for seeds, correlation, effect in product(SEEDS, CORRELATIONS, EFFECTS):
        found = coverages(generator(2, seeds, correlation, effect), seeds, correlation, effect, STUDIES_OF_COVERAGE)
        held = all(COVERAGE[0] <= found[name] <= COVERAGE[1] for name in ("difference", "d_z"))
        figures = [percent(found["difference"]), percent(found["d_z"]), yes(held), percent(found["g"])]
        rows.append([f"{seeds}", f"{correlation:g}", f"{effect:g}", *figures])
    return rows


def power_part() -> list[list[str]]:
    """Promised: what was predicted, within two points."""
    rows = [["seeds", "comparisons", "true difference, sds of it", "predicted", "found", "held"]]
    for seeds, comparisons in product(SEEDS, COMPARISONS):
        effect = float(significance.detectable_effect(seeds, comparisons))
        rows.append(_power_row(seeds, comparisons, effect))
    for effect, comparisons in product((0.7, 1.5), COMPARISONS):
        rows.append(_power_row(int(seeds_needed(np.array(effect), comparisons)), comparisons, effect, planned=True))
    return rows


def _power_row(seeds: int, comparisons: int, effect: float, planned: bool = False) -> list[str]:
    """Return a line of the table; a plan promises 80 % and may, by whole seeds, give more."""
    found = power(generator(3, seeds, comparisons, effect), seeds, comparisons, effect, STUDIES)
    promise = significance.POWER
    held = found >= promise - POWER_TOLERANCE and (planned or found <= promise + POWER_TOLERANCE)
    predicted = ("at least " if planned else "") + percent(promise)
    return [f"{seeds}", f"{comparisons}", f"{effect:.2f}", predicted, percent(found), yes(held)]


def racing_part() -> list[list[str]]:
    """Promised of a race at its own looks: at most 5.8 %."""
    rows = [["contenders", "seed correlation", "race", "held", "normal boundaries", "5 % at each look"]]
    for contenders, correlation in product(CONTENDERS, CORRELATIONS):
        losses = normal(correlation)(generator(5, contenders, correlation), STUDIES, contenders + 1, LOOKS[-1])
        errors = [
            float(race(losses, LOOKS, test)[0].any(axis=1).mean())
            for test in (repeated(LOOKS), normal_theory(LOOKS), plain)
        ]
        figures = [percent(errors[0]), yes(errors[0] <= ERROR_LIMIT), *map(percent, errors[1:])]
        rows.append([f"{contenders}", f"{correlation:g}", *figures])
    return rows


def saved_part() -> list[list[str]]:
    """Measured: what a race saves and what it finds, beside ten seeds of every cell."""
    rows = [
        ["contenders", "that differ", "by, sds of it", "futility", "runs of", "saved", "found", "of the fixed design"]
    ]
    for contenders, (share, effect), margin in product(
        CONTENDERS, ((0, 0.0), (1, 1.0), (1, 3.0), (1, 6.0), (3, 3.0)), (0.0, MARGIN)
    ):
        differing = contenders if share == 1 else contenders // 3 if share else 0
        if share == 3 and contenders == 1:
            continue
        rng = generator(6, contenders, share, effect)
        losses = normal(0.5)(rng, STUDIES, contenders + 1, LOOKS[-1])  # differences then have an sd of 1
        losses[:, 1 : differing + 1] += effect
        found, used, _ = race(losses, LOOKS, repeated(LOOKS), margin)
        fixed = race(losses, LOOKS[-1:], plain)[0]
        runs = used.sum(axis=1) + used.max(axis=1)
        planned = (contenders + 1) * LOOKS[-1]
        rates = [float(which[:, :differing].mean()) if differing else float("nan") for which in (found, fixed)]
        futility = f"within {margin:g}" if margin else "no"
        figures = [f"{planned}", percent(1 - float(runs.mean()) / planned), *map(percent, rates)]
        rows.append([f"{contenders}", f"{differing}", f"{effect:g}" if differing else "", futility, *figures])
    return rows


def added_part() -> list[list[str]]:
    """Why added seeds count as looks: the error where nothing differs, and estimates of a difference of one sd."""
    rows = [["rule", "error", "difference of 1: mean estimate", "its interval covers"]]
    for name, looks, test, stopped in (
        ("10 seeds, one look", (10,), plain, ()),
        ("a seed more from 3 to 10 until p <= 5 %", EVERY_SEED, plain, ()),
        ("the same, declared as looks", EVERY_SEED, repeated(EVERY_SEED), EVERY_SEED),
        ("5 more after 5 if p > 5 %", (5, 10), plain, ()),
        ("the same, both counted as looks", (5, 10), repeated((5, 10)), (5, 10)),
    ):
        losses = normal(0.5)(generator(7), STUDIES_OF_COVERAGE, 2, 10)
        error = float(race(losses, looks, test)[0].mean())
        losses[:, 1] += 1
        used = race(losses, looks, test)[1][:, 0]
        parts = [losses[used == n, 1, :n] - losses[used == n, 0, :n] for n in looks]
        inside = [covered(repeated_t_interval(*moments(part), stopped), 1) * len(part) for part in parts if len(part)]
        estimate = sum(float(part.mean(axis=1).sum()) for part in parts) / len(losses)
        rows.append([name, percent(error), f"{estimate:.2f}", percent(sum(inside) / len(losses))])
    return rows


def stopped_part() -> list[list[str]]:
    """Promised without futility: one half of a race's adjusted estimates too large, within two points."""
    shares_of, middles_of = ["too large: mean", "adjusted", "held"], ["median: mean", "adjusted"]
    averages_of = ["average: mean", "adjusted"]
    rows = [["contenders", "futility", "true difference, sds of it", *shares_of, *middles_of, *averages_of]]
    for (contenders, margin), effect in product(((1, 0.0), (3, 0.0), (1, MARGIN)), (0.5, 1.0, 1.5, 2.0, 3.0)):
        studies = STUDIES_OF_FUTILITY if margin else STUDIES
        losses = normal(0.5)(generator(14, contenders, margin, effect), studies, contenders + 1, LOOKS[-1])
        losses[:, 1:] += effect  # differences then have an sd of 1
        found = [part.ravel() for part in estimates(losses, margin)]
        shares = [float((part > effect).mean()) for part in found]
        held = "not promised" if margin else yes(abs(shares[1] - 0.5) <= HALF_TOLERANCE)
        figures = [f"{middle(part):.3f}" for middle in (np.median, np.mean) for part in found]
        futility = f"within {margin:g}" if margin else "no"
        rows.append([f"{contenders}", futility, f"{effect:g}", *map(percent, shares), held, *figures])
    return rows


def estimates(losses: Array, margin: float) -> tuple[Array, Array]:
    """Return the mean difference of each contender where its race stopped, and the adjusted one.

    Without futility the adjusted one, in sds, depends on the mean in sds alone: it is interpolated.

    Args:
        losses: as of `race`.
        margin: of futility; 0 for none.
    """
    _, used, alphas = race(losses, LOOKS, repeated(LOOKS), margin)
    seen = np.arange(LOOKS[-1]) < used[:, :, None]
    differences = np.where(seen, losses[:, 1:] - losses[:, :1], np.nan)
    mean, sd = np.nanmean(differences, axis=2), np.nanstd(differences, axis=2, ddof=1)
    adjusted = np.empty(mean.shape)
    if margin:
        for place in np.ndindex(mean.shape):
            adjusted[place] = median_unbiased(mean[place], sd[place], LOOKS, alphas[place][:-1].tolist(), margin)
        return mean, adjusted
    for rule in np.unique(alphas.reshape(-1, len(LOOKS)), axis=0):
        here = (alphas == rule).all(axis=2)
        table = [median_unbiased(size, 1.0, LOOKS, rule[:-1].tolist()) for size in SIZES]
        size = np.abs(mean[here]) / sd[here]
        adjusted[here] = np.sign(mean[here]) * sd[here] * np.interp(size, SIZES, table)
        beyond = here & (np.abs(mean) > SIZES[-1] * sd)
        adjusted[beyond] = mean[beyond]  # of such differences the first look stops all
    return mean, adjusted


def beyond_part() -> list[list[str]]:
    """Not promised, measured: five comparisons, coverage of the first one's difference and of the baseline's mean."""
    rows = [["residuals", "seeds", "Holm", "joint", "sign flips", "max-t", "coverage: difference", "coverage: mean"]]
    for (place, (name, noise)), seeds in product(enumerate(BEYOND.items()), SEEDS):
        losses = noise(generator(4, seeds, place), STUDIES, 6, seeds)
        difference = covered(significance.t_interval(*moments(losses[:, 1] - losses[:, 0])), 0)
        mean = covered(significance.t_interval(*moments(losses[:, 0])), 0)
        errors = family_wise_errors(losses).values()
        rows.append([name, f"{seeds}", *map(percent, errors), percent(difference), percent(mean)])
    return rows


def unpaired_errors(cells: Array, baseline: Array) -> dict[str, float]:
    """Return for each method the share of studies of disjoint seeds in which it rejects something, although nothing is.

    NaN where a method does not apply: Dunnett's to one comparison.

    Args:
        cells: losses, shape (studies, comparisons, runs).
        baseline: losses, shape (studies, 1, runs).
    """
    (_, comparisons, n), of_baseline = cells.shape, baseline.shape[2]
    m = UnpairedMoments.of(cells, baseline)
    corrected = np.array([significance.holm(row) for row in welch_test(m)])
    df = comparisons * (n - 1) + of_baseline - 1
    squares = (n - 1) * m.sd_x**2
    variance = (squares.sum(axis=1) + (of_baseline - 1) * m.sd_y[:, 0] ** 2) / df
    error = np.sqrt(variance * (1 / n + 1 / of_baseline))
    critical = many_to_one_critical((np.sqrt(n / (n + of_baseline)),) * comparisons, df)
    dunnett = np.abs(m.difference / error[:, None]).max(axis=1) > critical
    return {
        "Welch": float((corrected <= ALPHA).any(axis=1).mean()),
        "Dunnett": float(dunnett.mean()) if comparisons > 1 else float("nan"),
    }


def unpaired_error_part() -> list[list[str]]:
    """Promised for normal losses of equal variance: at most 5.8 % at 5 %."""
    rows = [["residuals", "runs a cell", "of the baseline", "comparisons", "Welch, Holm", "Dunnett", "held"]]
    sizes = [*((n, n) for n in SEEDS), *UNEQUAL_ARMS, *((baseline, cell) for cell, baseline in UNEQUAL_ARMS)]
    for (cell, baseline), comparisons in product(sizes, COMPARISONS):
        if cell == baseline:
            losses = normal(0.0)(generator(5, cell, comparisons), STUDIES, comparisons + 1, cell)
            errors = unpaired_errors(losses[:, 1:], losses[:, :1])
        else:
            rng = generator(13, cell, baseline, comparisons)
            sizes_of = (STUDIES, comparisons, cell), (STUDIES, 1, baseline)
            errors = unpaired_errors(*map(rng.standard_normal, sizes_of))
        held = all(not error > ERROR_LIMIT for error in errors.values())
        figures = map(percent, errors.values())
        rows.append(["normal", f"{cell}", f"{baseline}", f"{comparisons}", *figures, yes(held)])
    beyond = [place for place, name in enumerate(BEYOND) if name not in NO_DISJOINT]
    for place, seeds in product(beyond, SEEDS):
        name, noise = list(BEYOND.items())[place]
        losses = noise(generator(6, seeds, place), STUDIES, 6, seeds)
        errors = unpaired_errors(losses[:, 1:], losses[:, :1])
        rows.append([name, f"{seeds}", f"{seeds}", "5", *map(percent, errors.values()), "not promised"])
    return rows


def unpaired_coverage_part() -> list[list[str]]:
    """Promised for g of independent groups: 94.4 to 95.6 %."""
    rows = [["runs of the cell", "runs of the baseline", "true difference", "g", "held", "difference (no promise)"]]
    for (cell, baseline), effect in product((*((n, n) for n in SEEDS), (3, 10)), (0.0, *EFFECTS)):
        rng = generator(7, cell, baseline, effect)
        sizes = (STUDIES_OF_COVERAGE, cell), (STUDIES_OF_COVERAGE, baseline)
        m = UnpairedMoments.of(rng.standard_normal(sizes[0]) + effect, rng.standard_normal(sizes[1]))
        g, difference = covered(independent_interval(m), effect), covered(welch_interval(m), effect)
        held = COVERAGE[0] <= g <= COVERAGE[1]
        rows.append([f"{cell}", f"{baseline}", f"{effect:g}", percent(g), yes(held), percent(difference)])
    return rows


def effects_of_grid(losses: Array) -> Array:
    """Return each study's six effects of a full 2^3 grid by seed: three whole factors, then their pairs.

    Args:
        losses: shape (studies, 8, seeds); cell i has factor j on where bit j of i is set.

    Returns:
        Shape (studies, 6, seeds).
    """
    signs = np.array([[1.0 if cell >> factor & 1 else -1.0 for cell in range(8)] for factor in range(3)])
    pairs = np.array([signs[a] * signs[b] for a, b in combinations(range(3), 2)])
    weights = np.concatenate([signs / 4, pairs / 2])
    return np.asarray(np.einsum("ec,kcs->kes", weights, losses))


def whole_factor_by_seed(rng: np.random.Generator, studies: int, cells: int, seeds: int) -> Array:
    """The first factor's effect differs by seed with a run's sd."""
    on = (np.arange(cells) & 1)[:, None]
    return rng.standard_normal((studies, cells, seeds)) + on * rng.standard_normal((studies, 1, seeds))


def factorial_figures(losses: Array) -> tuple[float, float, float]:
    """Return the family-wise error of six effects by seed with Holm, and the share of 95 % intervals that hold 0.

    Intervals of the first factor's effect: over seeds, and from the pooled residual of one model of cells and seeds.
    """
    by_seed = effects_of_grid(losses)
    p = significance.t_test(*moments(by_seed))
    error = float((np.array([significance.holm(row) for row in p]) <= ALPHA).any(axis=1).mean())
    mean, sd, n = moments(by_seed[:, 0])
    variance, df = pooled_residual(losses)
    half = stats.t.isf(ALPHA / 2, df) * np.sqrt(variance / 2 / losses.shape[2])  # 8 weights of 1/4
    low, high = significance.t_interval(mean, sd, n)
    return error, covered((low, high), 0.0), covered((mean - half, mean + half), 0.0)


def factorial_part() -> list[list[str]]:
    """Promised for the effects by seed: at most 5.8 % at 5 %, and coverage of 94.4 to 95.6 %."""
    rows = [["runs", "seeds", "six effects, Holm", "coverage, by seed", "held", "coverage, pooled (no promise)"]]
    for place, (name, noise) in enumerate((("normal", normal(0.5)), ("factor x seed", whole_factor_by_seed))):
        for seeds in SEEDS:
            losses = noise(generator(10, place, seeds), STUDIES_OF_COVERAGE, 8, seeds)
            error, own, pooled = factorial_figures(losses)
            held = error <= ERROR_LIMIT and COVERAGE[0] <= own <= COVERAGE[1]
            rows.append([name, f"{seeds}", percent(error), percent(own), yes(held), percent(pooled)])
    return rows


def false_discoveries(rng: np.random.Generator, seeds: int, moved: int, arms: int, studies: int) -> tuple[float, float]:
    """Return the mean share of false ones among all pairs with a q of 5 % or less, and the share of true ones found.

    Args:
        rng: random numbers.
        seeds: pairs of each comparison; normal losses, cells correlated by 0.5.
        moved: cells whose loss is three sds of a run away.
        arms: all cells.
        studies: simulated.
    """
    losses = normal(0.5)(rng, studies, arms, seeds)
    losses[:, :moved] += 3
    first, second = np.array(list(combinations(range(arms), 2))).T
    q = np.array([
        significance.benjamini_hochberg(row)
        for row in significance.t_test(*moments(losses[:, first] - losses[:, second]))
    ])  # fmt: skip
    real = (first < moved) != (second < moved)
    named = q <= ALPHA
    wrong = (named & ~real).sum(axis=1) / np.maximum(named.sum(axis=1), 1)
    return float(wrong.mean()), float(named[:, real].mean()) if real.any() else float("nan")


def pairs_part() -> list[list[str]]:
    """Promised: at most 5.8 % false ones among those with a q of 5 % or less (Benjamini-Hochberg, paired)."""
    rows = [["method", "seeds", "cells", "that differ", "error", "held", "found"]]
    for seeds, moved in product(SEEDS, (0, 3)):
        false, found = false_discoveries(generator(11, seeds, moved), seeds, moved, 8, STUDIES)
        held = yes(false <= ERROR_LIMIT)
        rows.append(["Benjamini-Hochberg", f"{seeds}", "8", f"{moved}", percent(false), held, percent(found)])
    for seeds, (name, noise) in product(SEEDS, (("normal", normal(0.0)), ("sds 1:3", unequal(0)))):
        losses = noise(generator(12, seeds, len(name)), STUDIES_OF_RANGES, 4, seeds)
        first, second = np.array(list(combinations(range(4), 2))).T
        p = games_howell(UnpairedMoments.of(losses[:, first], losses[:, second]), 4)
        error = float((p <= ALPHA).any(axis=1).mean())
        figures = percent(error), "not promised", percent(float("nan"))
        rows.append([f"Games-Howell, {name}", f"{seeds}", "4", "0", *figures])
    return rows


def documents_part() -> list[list[str]]:
    """Cover differences whose seeds are crossed with groups of documents: for other seeds, other documents, both."""
    rows = [["groups", "seeds", "sd of seeds, groups, pairs", "over seeds", "over documents", "over both"]]
    for (groups, tokens), seeds, sds in product(GROUPS.items(), SEEDS, CROSSED_SDS):
        rng = generator(tokens.size, seeds, *sds)
        drawn = rng.normal(0, sds[0], (STUDIES_OF_DOCUMENTS, seeds, 1))
        drawn = drawn + rng.normal(0, sds[1], (STUDIES_OF_DOCUMENTS, 1, tokens.size))
        drawn = drawn + rng.normal(0, sds[2], (STUDIES_OF_DOCUMENTS, seeds, tokens.size))
        studies = [crossed_errors(study, tokens) for study in drawn * tokens]
        difference, by_seed, by_document = (
            np.array([getattr(study, name) for study in studies])
            for name in ("difference", "seed_error", "document_error")
        )
        over_seeds = np.abs(difference) <= stats.t.ppf(0.975, seeds - 1) * by_seed
        over_documents = np.abs(difference) <= stats.t.ppf(0.975, tokens.size - 1) * by_document
        over_both = [low <= 0 <= high for low, high in (study.interval for study in studies)]
        shares = [percent(float(np.mean(held))) for held in (over_seeds, over_documents, over_both)]
        rows.append([groups, str(seeds), ", ".join(f"{sd:g}" for sd in sds), *shares])
    return rows


def percentile_interval(rng: np.random.Generator, values: Array) -> tuple[Array, Array]:
    """Return the 95 % percentile bootstrap interval of each study's mean (Efron 1979); values (studies, seeds)."""
    ends = []
    for start in range(0, len(values), CHUNK):
        some = values[start : start + CHUNK]
        drawn = rng.integers(some.shape[1], size=(len(some), RESAMPLES, some.shape[1]))
        means = np.take_along_axis(some[:, None, :], drawn, axis=2).mean(axis=2)
        ends.append(np.percentile(means, (2.5, 97.5), axis=1))
    low, high = np.concatenate(ends, axis=1)
    return low, high


def bootstrap_part() -> list[list[str]]:
    """Measured: how often the percentile bootstrap's 95 % interval holds the truth, beside the t interval."""
    rows = [["losses", "seeds", "difference: bootstrap", "difference: t", "mean: bootstrap", "mean: t"]]
    noises = {"normal": normal(0.0), "exponential": exponential, "lognormal, sigma 1": lognormal}
    for (place, (name, noise)), seeds in product(enumerate(noises.items()), SEEDS_OF_BOOTSTRAP):
        rng = generator(13, place, seeds)
        losses = noise(rng, STUDIES, 2, seeds)
        shares = [
            percent(covered(interval, 0.0))
            for values in (losses[:, 1] - losses[:, 0], losses[:, 0])
            for interval in (percentile_interval(rng, values), significance.t_interval(*moments(values)))
        ]
        rows.append([name, f"{seeds}", *shares])
    return rows


PARTS = {
    "error": ("Family-wise error at 5 %", error_part),
    "coverage": ("Coverage of 95 % intervals", coverage_part),
    "power": ("Power", power_part),
    "racing": ("Family-wise error of a race at 5 %", racing_part),
    "saved": ("What a race saves", saved_part),
    "added": ("Added seeds", added_part),
    "stopped": ("Estimates of a race", stopped_part),
    "beyond": ("Outside the promise", beyond_part),
    "unpaired_error": ("Disjoint seeds: family-wise error at 5 %", unpaired_error_part),
    "unpaired_coverage": ("Disjoint seeds: coverage of 95 % intervals", unpaired_coverage_part),
    "factorial": ("Effects of whole factors", factorial_part),
    "pairs": ("All pairs", pairs_part),
    "documents": ("Other seeds, other documents: coverage of 95 % intervals", documents_part),
    "bootstrap": ("The percentile bootstrap", bootstrap_part),
}


def percent(share: float) -> str:
    """Return a share in percent; an en dash where there is none."""
    return "\u2013" if np.isnan(share) else f"{100 * share:.1f} %"


def yes(held: bool) -> str:
    """Return whether a promise is held, in words."""
    return "yes" if held else "**NO**"


def main(parts: Words = ()) -> int:
    """Print the parts' tables as Markdown; 1 where a promise is not held.

    Args:
        parts: Some of them; by default all.
    """
    broken = 0
    for part in chosen(parts, PARTS):
        title, make = PARTS[part]
        header, *rows = make()
        print(f"### {title}\n\n| {' | '.join(header)} |\n|{' --: |' * len(header)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
            broken += yes(False) in row
        print(flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    run(main)
