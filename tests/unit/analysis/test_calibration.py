"""A small part of benchmarks/calibration.py: the promised error rates, coverage and power, within binomial bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.significance import detectable_effect
from benchmarks import calibration
from benchmarks.calibration import (
    LOOKS,
    coverages,
    covered,
    effects_of_grid,
    factorial_figures,
    false_discoveries,
    family_wise_errors,
    generator,
    normal,
    percentile_interval,
    power,
    race,
    repeated,
    unpaired_errors,
    whole_factor_by_seed,
)

STUDIES = 2_000


def bounds(share: float, studies: int = STUDIES) -> tuple[float, float]:
    """Shares between which 99.9 % of counts lie."""
    low, high = stats.binom.interval(0.999, studies, share)
    return low / studies, high / studies


@pytest.mark.parametrize(("seeds", "correlation", "comparisons"), [(3, 0.0, 15), (5, 0.9, 5), (10, 0.5, 2)])
def test_family_wise_error(seeds: int, correlation: float, comparisons: int) -> None:
    errors = family_wise_errors(normal(correlation)(generator(seeds), STUDIES, comparisons + 1, seeds))
    low, high = bounds(0.05)
    assert low <= errors["joint"] <= high  # exact, not only below
    assert errors["Holm"] <= high
    assert np.isnan(errors["sign flips"]) == (seeds < 10)
    assert not errors["sign flips"] > high
    assert np.isnan(errors["max-t"]) == (seeds < 10)
    assert not errors["max-t"] > high


@pytest.mark.parametrize(("seeds", "correlation", "effect"), [(3, 0.5, 1.0), (10, 0.9, 3.0)])
def test_coverage(monkeypatch: pytest.MonkeyPatch, seeds: int, correlation: float, effect: float) -> None:
    monkeypatch.setattr(calibration, "STUDIES_OF_G", 500)
    found = coverages(generator(seeds), seeds, correlation, effect, STUDIES)
    low, high = bounds(0.95)
    assert low <= found["difference"] <= high
    assert low <= found["d_z"] <= high
    assert found["g"] >= bounds(0.94, 500)[0]


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (5, 15)])
def test_power(seeds: int, comparisons: int) -> None:
    effect = float(detectable_effect(seeds, comparisons))
    low, high = bounds(0.8)
    assert low <= power(generator(seeds), seeds, comparisons, effect, STUDIES) <= high


@pytest.mark.parametrize("noisy", [0, 1])
def test_unequal_variances_break_the_joint_analysis_and_not_the_paired_tests(noisy: int) -> None:
    """What "depends on equal variances" rests on."""
    errors = family_wise_errors(calibration.unequal(noisy)(generator(1), STUDIES, 6, 5))
    assert errors["joint"] > 0.08
    assert errors["Holm"] <= bounds(0.05)[1]


@pytest.mark.parametrize("noise", calibration.BEYOND.values())
def test_no_noise_favours_a_cell(noise: calibration.Noise) -> None:
    losses = noise(generator(2), 4_000, 3, 4)
    assert losses.shape == (4_000, 3, 4)
    assert np.abs(losses.mean(axis=(0, 2))).max() < 0.1


def test_disjoint_seeds_hold_their_error_rate_and_dunnetts_needs_equal_variances() -> None:
    losses = normal(0.0)(generator(5), STUDIES, 6, 5)
    errors = unpaired_errors(losses[:, 1:], losses[:, :1])
    low, high = bounds(0.05)
    assert low <= errors["Dunnett"] <= high
    assert errors["Welch"] <= high
    losses = calibration.unequal(0)(generator(6), STUDIES, 6, 5)
    noisy = unpaired_errors(losses[:, 1:], losses[:, :1])
    assert noisy["Dunnett"] > 0.08
    assert noisy["Welch"] <= high


@pytest.mark.parametrize("comparisons", [1, 15])
def test_disjoint_seeds_hold_their_error_rate_with_unequal_arms(comparisons: int) -> None:
    rng = generator(7, comparisons)
    errors = unpaired_errors(
        rng.standard_normal((STUDIES, comparisons, 3)), rng.standard_normal((STUDIES, 1, 20))
    )  # Welch's own degrees of freedom: 7 and 24 %
    low, high = bounds(0.05)
    assert errors["Welch"] <= high
    if comparisons > 1:
        assert low <= errors["Dunnett"] <= high


@pytest.mark.parametrize(("contenders", "correlation"), [(1, 0.5), (3, 0.0), (15, 0.9)])
def test_family_wise_error_of_a_race(contenders: int, correlation: float) -> None:
    losses = normal(correlation)(generator(3, contenders), STUDIES, contenders + 1, LOOKS[-1])
    high = bounds(0.05)[1]
    assert race(losses, LOOKS, repeated(LOOKS))[0].any(axis=1).mean() <= high
    for wrong in (calibration.plain, calibration.normal_theory(LOOKS)):
        assert race(losses, LOOKS, wrong)[0].any(axis=1).mean() > high


def test_a_race_saves_runs_and_futility_costs_no_error() -> None:
    losses = normal(0.5)(generator(4), STUDIES, 4, LOOKS[-1])
    found, used, _ = race(losses, LOOKS, repeated(LOOKS), margin=1.5)
    assert found.any(axis=1).mean() <= bounds(0.05)[1]
    assert used.mean() < 8
    losses[:, 1:] += 6
    found, used, _ = race(losses, LOOKS, repeated(LOOKS))
    assert found.all()
    assert used.mean() < 6
    assert set(used.ravel()) <= set(LOOKS)


def test_whole_factors() -> None:
    error, own, pooled = factorial_figures(normal(0.5)(generator(21), STUDIES, 8, 5))
    low, high = bounds(0.95)
    assert error <= bounds(0.05)[1]
    assert low <= own <= high
    assert low <= pooled <= high
    error, own, pooled = factorial_figures(whole_factor_by_seed(generator(22), STUDIES, 8, 5))
    assert error <= bounds(0.05)[1]
    assert low <= own <= high
    assert pooled < bounds(0.85)[1]  # what it assumes is broken


def test_effects_of_a_grid_are_what_was_put_in() -> None:
    on = np.arange(8)[:, None] >> np.arange(3) & 1
    losses = on @ [1.0, 2.0, 4.0] + 8.0 * on[:, 0] * on[:, 1]
    effects = effects_of_grid(losses[None, :, None])[0, :, 0]
    # A pair's effect is the difference of differences; half of it is in either whole factor.
    assert effects == pytest.approx([1 + 4, 2 + 4, 4, 8, 0, 0])


def test_false_discoveries() -> None:
    false, found = false_discoveries(generator(23), 5, 3, 6, STUDIES)
    assert false <= 0.05 + 0.02
    assert found > 0.9


def test_the_percentile_bootstrap_is_too_narrow_at_few_seeds() -> None:
    """Of three losses its interval is at most as wide as they lie: it cannot hold 95 %."""
    rng = generator(13)
    values = rng.standard_normal((500, 3))
    low, high = percentile_interval(rng, values)
    assert np.all((values.min(axis=1) - 1e-12 <= low) & (high <= values.max(axis=1) + 1e-12))
    assert covered((low, high), 0.0) < 0.85
    many = rng.standard_normal((200, 200))
    assert covered(percentile_interval(rng, many), 0.0) >= bounds(0.94, 200)[0]


@pytest.mark.parametrize(("limit", "code"), [(0.1, 0), (0.0, 1)])
def test_a_promise_that_is_not_held_is_the_exit_code(
    limit: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "STUDIES_OF_RANGES", 2)
    monkeypatch.setattr(calibration, "ERROR_LIMIT", limit)
    monkeypatch.setattr(calibration, "STUDIES", 500)
    assert calibration.main(["pairs"]) == code
    assert ("**NO**" in capsys.readouterr().out) == bool(code)
