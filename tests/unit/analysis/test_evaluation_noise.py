from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from analysis.comparing.evaluation_noise import (
    EVALUATION_NOISE_COLUMNS,
    NAME,
    audit,
    crossed_errors,
    evaluation_noise,
    notes,
)
from analysis.loading.load import load_results
from analysis.reporting.report import write_report
from analysis.schema import WARNING, read_records
from analysis.summary import analyse
from tests.fakes import make_study

BOOKS = np.array([534, 804, 1236, 1767, 1886, 2204, 2645, 2853, 3659, 3742, 4382, 4648, 5658, 5662, 6199], dtype=float)
"""Tokens of the groups of the embedded corpus's validation split."""


def crossed(
    rng: np.random.Generator, tokens_G: np.ndarray, seeds: int, sds: tuple[float, float, float], mean: float = 0.0
) -> np.ndarray:
    """Draw differences of seeds crossed with clusters, summed over tokens; sds of seeds, clusters and their pairs."""
    clusters = len(tokens_G)
    of_seeds, of_clusters, of_pairs = (
        rng.normal(0, sd, shape) for sd, shape in zip(sds, ((seeds, 1), clusters, (seeds, clusters)), strict=True)
    )
    return (mean + of_seeds + of_clusters + of_pairs) * tokens_G


def test_errors_over_seeds_and_over_documents_equal_the_cluster_robust_ones_of_statsmodels() -> None:
    sums_SG = crossed(np.random.default_rng(1), BOOKS, 5, (0.01, 0.02, 0.03), mean=0.1)
    found = crossed_errors(sums_SG, BOOKS)
    seed, cluster = np.indices(sums_SG.shape)
    data = pd.DataFrame({"y": (sums_SG / BOOKS).ravel(), "w": np.tile(BOOKS, 5)})
    fit = smf.wls("y ~ 1", data, weights=data["w"]).fit()
    _, over_seeds, over_clusters = cov_cluster_2groups(fit, seed.ravel(), cluster.ravel())
    assert found.difference == pytest.approx(fit.params.iloc[0], rel=1e-12)
    assert found.seed_error == pytest.approx(math.sqrt(over_seeds[0, 0]), rel=1e-10)
    assert found.document_error == pytest.approx(math.sqrt(over_clusters[0, 0]), rel=1e-10)


def test_the_error_over_both_is_that_of_a_two_way_analysis_of_variance() -> None:
    tokens_G = np.full(12, 700.0)
    sums_SG = crossed(np.random.default_rng(2), tokens_G, 4, (0.02, 0.03, 0.01))
    found = crossed_errors(sums_SG, tokens_G)
    seed, cluster = np.indices(sums_SG.shape)
    data = pd.DataFrame({"y": (sums_SG / tokens_G).ravel(), "s": seed.ravel(), "g": cluster.ravel()})
    squares = anova_lm(smf.ols("y ~ C(s) + C(g)", data).fit())
    mean_squares, df = squares["mean_sq"], squares["df"]
    of_seeds, of_clusters, rest = mean_squares["C(s)"], mean_squares["C(g)"], mean_squares["Residual"]
    variance = (of_seeds + of_clusters - rest) / sums_SG.size
    assert variance > max(of_seeds, of_clusters) / sums_SG.size, "the floor is not what is tested here"
    assert found.both_error == pytest.approx(math.sqrt(variance), rel=1e-10)
    parts = sum(square**2 / d for square, d in zip((of_seeds, of_clusters, rest), df, strict=True))
    assert found.both_df == pytest.approx((variance * sums_SG.size) ** 2 / parts, rel=1e-10)
    half = stats.t.isf(0.025, found.both_df) * found.both_error
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))


def test_the_error_over_documents_is_the_jackknife_s() -> None:
    """Left-out clusters, no formula: equal for equal clusters, near for unequal ones."""
    for tokens_G, tolerance in ((np.full(20, 300.0), 1e-10), (BOOKS, 0.1)):
        sums_SG = crossed(np.random.default_rng(3), tokens_G, 3, (0.01, 0.05, 0.01))
        keep = ~np.eye(len(tokens_G), dtype=bool)
        without = np.array([sums_SG[:, kept].sum() / 3 / tokens_G[kept].sum() for kept in keep])
        jackknife = math.sqrt((len(keep) - 1) / len(keep) * ((without - without.mean()) ** 2).sum())
        assert crossed_errors(sums_SG, tokens_G).document_error == pytest.approx(jackknife, rel=tolerance)


def test_never_below_the_larger_error() -> None:
    """Pure pair noise: seeds and documents each show the same noise, which both together must not fall below."""
    found = [crossed_errors(crossed(np.random.default_rng(seed), BOOKS, 3, (0, 0, 0.05)), BOOKS) for seed in range(200)]
    assert all(f.both_error >= max(f.seed_error, f.document_error) for f in found)
    assert any(f.both_error == f.document_error for f in found)
    assert any(f.both_error == f.seed_error for f in found)
    assert all(f.both_df >= 2 for f in found)


@pytest.mark.parametrize(("tokens_G", "seeds"), [(BOOKS, 5), (BOOKS, 10), (np.full(60, 800.0), 5)])
@pytest.mark.parametrize("sds", [(0.01, 0.02, 0.02), (0.01, 0.005, 0.005), (0.01, 0.05, 0.01)])
def test_coverage(tokens_G: np.ndarray, seeds: int, sds: tuple[float, float, float]) -> None:
    rng = np.random.default_rng([5, seeds, len(tokens_G)])
    studies = [crossed_errors(crossed(rng, tokens_G, seeds, sds), tokens_G) for _ in range(2000)]
    covered = np.mean([low <= 0 <= high for low, high in (study.interval for study in studies)])
    assert 0.93 <= covered <= 0.98
    if sds[1] > 2 * sds[0]:  # what an interval over seeds alone promises for other documents
        over_seeds = [abs(s.difference) <= stats.t.isf(0.025, seeds - 1) * s.seed_error for s in studies]
        assert np.mean(over_seeds) < 0.85


def test_what_does_not_exist_is_null() -> None:
    one_seed = crossed_errors(np.array([[1.0, 2.0, 4.0]]), np.array([10.0, 10.0, 10.0]))
    assert (math.isnan(one_seed.seed_error), math.isnan(one_seed.both_error)) == (True, True)
    assert one_seed.document_error > 0
    assert all(map(math.isnan, one_seed.interval))
    one_cluster = crossed_errors(np.array([[1.0], [2.0]]), np.array([10.0]))
    assert one_cluster.seed_error == pytest.approx(0.05)
    assert (math.isnan(one_cluster.document_error), math.isnan(one_cluster.both_error)) == (True, True)
    nothing = crossed_errors(np.zeros((3, 4)), np.ones(4))
    assert nothing.both_error == 0
    assert all(map(math.isnan, nothing.interval)), "no width would claim certainty"


# --- Of a study -----------------------------------------------------------------------------------------------------


def noise_of(folder: Path) -> pd.DataFrame:
    results = load_results(folder)
    return evaluation_noise(results, list(results.cells.index))


def test_a_study_s_table_pairs_by_document_and_clusters_by_group(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp", "moe"), seeds=4, documents=30, diverged={("moe", 2)})
    table = noise_of(folder).set_index("cell")
    assert list(table.index) == ["mlp", "moe"]
    assert [*table.loc["mlp", ["n", "documents", "clusters"]]] == [4, 30, 10]
    assert table.loc["moe", "n"] == 3
    assert table["survivors"].to_dict() == {"mlp": "", "moe": "diverged in 1 of 4 seeds"}
    comparisons = analyse(load_results(folder)).comparisons.set_index("cell")
    assert table["difference"].to_numpy() == pytest.approx(comparisons["difference"].to_numpy(), abs=1e-12)
    assert table.loc["mlp", "seed_error"] == pytest.approx(comparisons.loc["mlp", "sd_difference"] / 2)
    records = {(r.cell, r.seed): r.scores for r in read_records(folder)}
    sums_SG = np.zeros((4, 10))
    tokens_G = np.zeros(10)
    for seed in range(4):
        here, there = records["mlp", seed], records["baseline", seed]
        assert here is not None
        assert there is not None
        for document in range(30):
            sums_SG[seed, document // 3] += here.losses[document] - there.losses[document]
            tokens_G[document // 3] += here.tokens[document] / 4
    expected = crossed_errors(sums_SG, tokens_G)
    assert table.loc["mlp", list(vars(expected))].to_dict() == pytest.approx(vars(expected), rel=1e-9)


def test_runs_without_the_same_documents_are_no_pairs(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp"), seeds=3, documents=6)
    for record in read_records(folder):
        if record.cell == "mlp" and record.seed > 0:
            assert record.scores is not None
            other = dataclasses.replace(record.scores, tokens=[t + 1 for t in record.scores.tokens])
            dataclasses.replace(record, scores=other if record.seed == 1 else None).write(folder / "records")
    assert list(noise_of(folder)["n"]) == [1]


def test_records_from_before_documents_were_kept_have_no_table(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp"))
    noise = noise_of(folder)
    assert noise.empty
    assert list(noise.columns) == list(EVALUATION_NOISE_COLUMNS)
    assert "Evaluation noise" not in write_report(load_results(folder), tmp_path / "r").markdown.read_text()


def test_few_clusters_are_a_warning_with_its_figures(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "few", cells=("baseline", "mlp", "moe"), documents=30)
    (found,) = audit(noise_of(folder))
    assert (found.audit.name, found.audit.severity, found.cells) == (NAME, WARNING, ("mlp", "moe"))
    largest = noise_of(folder)["document_error"].max()
    assert "rest on 10 groups of 30 documents" in found.audit.evidence
    assert f"is {largest:.4f} nats" in found.audit.evidence
    analysis = analyse(load_results(folder))
    assert (NAME, WARNING) in set(zip(analysis.audits["audit"], analysis.audits["severity"], strict=True))
    many = make_study(tmp_path / "many", cells=("baseline", "mlp"), documents=120)
    assert audit(noise_of(many)) == []
    assert analyse(load_results(many)).audits.empty


def test_a_verdict_that_other_documents_may_not_bear_out_is_said() -> None:
    noise = pd.DataFrame(
        {"cell": ["a", "b", "c"], "both_low": [-0.1, 0.01, math.nan], "both_high": [0.1, 0.2, math.nan]}
    )
    comparisons = pd.DataFrame({"cell": ["a", "b", "c"], "verdict": ["better", "worse", "better"]})
    (note,) = notes(noise, comparisons)
    assert "not shown for others: a (" in note
    assert notes(noise, comparisons.assign(verdict="not resolved (could detect 1 nats)")) == []


def test_errors_of_losses_say_nothing_of_another_metric(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp", "moe"), seeds=8, documents=6)
    said = "on these validation documents"
    notes_of = {metric: analyse(load_results(folder, metric=metric)).notes for metric in ("val_loss", "val_perplexity")}
    assert any(said in note for note in notes_of["val_loss"])
    assert not any(said in note for note in notes_of["val_perplexity"])


def test_the_report_shows_it(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp", "moe"), documents=30)
    report = write_report(load_results(folder), tmp_path / "r").markdown.read_text()
    assert "## Evaluation noise" in report
    assert "| cell | n | difference | error over seeds | error over documents |" in report
    assert "| evaluation_noise | warning |" in report
