"""The command of a search: what it declares, and what it refuses in one line before anything trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from analysis.schema import DIVERGED
from analysis.sync import sync_mlflow
from analysis.tracking.uris import tracking_uri
from analysis.tuning_records import RUNNING, TUNING_FILE, TuningRecord
from moe_models.errors import ConfigError
from sweeps import tune
from sweeps.engine import memory, planning, ray_session, searches
from sweeps.engine.plan import Plan
from sweeps.engine.search import Arm
from sweeps.engine.space import DEFAULT_SPACE, parse_space
from sweeps.engine.studies import export_study, find_plan, find_studies
from sweeps.exp6_grid import STUDY


@pytest.fixture
def fixed(corpus_file: Path) -> list[str]:
    return ["--variants", "baseline,mlp", "--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--study", "exp6_gird"], "unknown study 'exp6_gird': did you mean 'exp6_grid'?"),
        (["--variants", "baseline,atention"], "unknown cell 'atention': did you mean 'attention'?"),
        (["--protocol", "published"], "a published protocol has its own learning rates"),
        (["--search-seed", "3"], "--search-seed 3 is one of the confirmation's seeds (0 to 4), which must be fresh"),
        (["--seeds", "2000"], "which must be fresh"),
        (["--sweep", "2"], "--sweep must be 0, or 3 or more"),
        (["--random", "-1"], "--random must be 0 or more"),
        (["--space", "muon_learning_rate=1:0.1"], "has no range"),
        (["--space", "muon_learning_rate"], "has no range"),
        (["--space", "dropout=0.1:0.2"], "unknown hyperparameter 'dropout'"),
        (["--steps", "8"], "2 rungs at a reduction of 3 need 9 updates or more, but a trial has 8"),
        (["--steps", "9", "--max-tokens", "9000"], "too small to finish one trial, which takes 9,216 tokens"),
        (["--trials", "0"], "--trials must be 1 or more"),
        (["--scale", "cpu,paper_256d"], "a search has one scale"),
        (["--gpus-per-trial", "0.5"], "asks for more than this machine has"),
        (["--optuna-storage", "postgresql://me:secret@host/db"], "put the URL into the environment variable"),
        (["--trails", "3"], "--trials"),
        (["--study", "variance", "--variants", "all"], "trains a model on several orders of the data"),
    ],
)
def test_bad_input_is_one_line_before_anything_trains(
    arguments: list[str], complaint: str, fixed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag for flag in arguments if flag.startswith("--")]
    kept = [
        word for flag, value in zip(fixed[::2], fixed[1::2], strict=True) if flag not in given for word in (flag, value)
    ]
    if "--scale" in given:
        kept += ["--steps", "9"]
    assert tune.main([*kept, *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "secret" not in error
    assert error.count("\n") == 1
    assert not list(Path().glob("results/*/tuning"))


def test_a_dry_run_writes_nothing(fixed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([*fixed, "--steps", "9", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "rungs at updates 1, 3: 1 trial of 3 goes on" in said
    assert "at most 147,456 tokens for a cell's search" in said
    assert "and 92,160 for 0 independent draws and 5 points a learning rate" in said
    assert "search and confirmation, were no trial stopped: 62 runs to train: about " in said  # 2 x (16 + 10 + 5)
    assert not Path("results").exists()


def test_memory_is_asked_for_as_many_trials_as_train_at_a_time(
    fixed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2**30)
    few = ["--variants", "baseline", "--seeds", "1", "--sweep", "0"]  # one run confirms
    assert tune.main([*fixed[2:], *few, "--steps", "9", "--trials", "6", "--max-concurrent", "4"]) == 2
    assert "('baseline' needs most) times 4 at a time" in capsys.readouterr().err


@pytest.fixture
def declarations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Searches end as soon as they are declared; what the folder then held of each."""
    found: list[dict[str, Any]] = []

    class Declared(searches.Search):
        def run(self) -> bool:
            self._write_declared()
            found.append(json.loads((self.plan.folder / TUNING_FILE).read_text()))
            return False

    monkeypatch.setattr(searches, "Search", Declared)
    monkeypatch.setattr(ray_session, "ray_session", lambda resources: nullcontext())
    return found


def test_a_search_that_was_declared_otherwise_is_not_continued(
    fixed: list[str], capsys: pytest.CaptureFixture[str], declarations: list[dict[str, Any]]
) -> None:
    assert tune.main([*fixed, "--steps", "9"]) == 130
    assert tune.main([*fixed, "--steps", "9", "--variants", "baseline,moe"]) == 130, "more cells get the same search"
    assert declarations[-1]["cells"] == ["baseline", "mlp", "moe"]
    capsys.readouterr()
    for change, name in ((["--trials", "20"], "trials 16, now it is 20"), (["--search-seed", "77"], "seed 1000")):
        assert tune.main([*fixed, "--steps", "9", *change]) == 2
        assert f"was declared with {name}" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_search_whose_trials_were_of_another_configuration_is_not_continued(
    fixed: list[str], capsys: pytest.CaptureFixture[str], declarations: list[dict[str, Any]], more: list[str]
) -> None:
    assert tune.main([*fixed, "--steps", "9"]) == 130
    rates = dict.fromkeys(declarations[-1]["space"], 0.01)
    TuningRecord(
        study="study", cell="mlp", arm="search", number=0, hyperparameters=rates, seed=1000, config_hash="another"
    ).write(next(Path("results").iterdir()))
    capsys.readouterr()
    assert tune.main([*fixed, "--steps", "9", *more]) == 2
    assert "cell 'mlp' is configured differently from its trials in the search study" in capsys.readouterr().err


@pytest.mark.parametrize("where", [str, Path.as_uri])
def test_on_another_machine_a_search_is_the_one_that_the_storage_declares(
    fixed: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    declarations: list[dict[str, Any]],
    tmp_path: Path,
    where: Callable[[Path], str],
) -> None:
    asked = [*fixed[:-2], "--steps", "9", "--storage", where(tmp_path / "shared")]  # the precision is measured
    measured = iter(("bf16", "fp32", "fp32"))
    monkeypatch.setattr(planning, "faster_precision", lambda *_: next(measured))
    assert tune.main([*asked, "--output", "here"]) == 130
    assert tune.main([*asked, "--variants", "baseline,moe", "--output", "there"]) == 130
    assert [found["choices"]["precision"] for found in declarations] == [{"cpu": "bf16"}] * 2
    assert declarations[-1]["cells"] == ["baseline", "mlp", "moe"]
    assert tune.main([*asked, "--output", "here"]) == 130
    assert declarations[-1]["cells"] == ["baseline", "mlp", "moe"], "what was behind is brought up to date"
    capsys.readouterr()
    assert tune.main([*asked, "--trials", "3", "--output", "elsewhere"]) == 2
    error = capsys.readouterr().err
    assert "was declared with trials 16, now it is 3: repeat the earlier command" in error
    assert error.count("\n") == 1
    (kept,) = (tmp_path / "shared").glob("*/tuning.json")
    kept.write_text(json.dumps({**declarations[-1], "space": {}}))
    assert tune.main([*asked, "--output", "here"]) == 2
    assert f"the one in {where(kept.parent)} with {{}}: give another --output" in capsys.readouterr().err


def test_an_interrupted_search_keeps_what_goes_on_and_is_known_to_other_commands(
    fixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Path] = []

    def train_one_each(plan: Plan, arms: Sequence[Arm], *_: Any, **__: Any) -> bool:
        for arm in arms[:2]:
            for status in (DIVERGED, RUNNING):
                record = arm.ask()
                assert record is not None
                if status == DIVERGED:
                    arm.end(record.number, DIVERGED, [])
                kept.append(plan.folder / "checkpoints" / f"{record.config_hash}.pt")
                kept[-1].parent.mkdir(exist_ok=True)
                kept[-1].touch()
        return True

    monkeypatch.setattr(searches, "run_arms", train_one_each)
    monkeypatch.setattr(ray_session, "ray_session", lambda resources: nullcontext())
    assert tune.main([*fixed, "--steps", "9"]) == 130
    assert [path.exists() for path in kept] == [False, True] * 2
    folder = kept[0].parents[1]
    (search,) = find_studies(Path("results"))
    assert (search.name, search.state) == (folder.name, "search, 2 of 52 trials, interrupted")  # 2 x (16 + 2 x 5)
    assert (search.counts[DIVERGED], search.left) == (2, "50 trials")
    with pytest.raises(ConfigError, match="has no runs yet: it is a search, 2 of 52 trials, interrupted"):
        find_plan(folder)
    assert export_study(search, Path("search.zip")) == 5, "the declaration and four trials"
    assert sync_mlflow(folder, tracking_uri())[0].endswith(f" has 2 trials of {folder.name}")


def test_a_search_with_records_goes_on_while_its_tracking_server_is_down(
    fixed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[str] = []

    def train_one(plan: Plan, arms: Sequence[Arm], *_: Any, **told: Any) -> bool:
        record = arms[0].ask()
        assert record is not None
        arms[0].end(record.number, DIVERGED, [])
        ended.append(record.config_hash)
        told["ended"](arms[0], arms[0].records[record.number])
        return True

    monkeypatch.setattr(searches, "run_arms", train_one)
    monkeypatch.setattr(searches, "line_of", lambda record: "diverged")
    monkeypatch.setattr(ray_session, "ray_session", lambda resources: nullcontext())
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert tune.main([*fixed, "--steps", "9"]) == 2
        assert "the tracking server http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert tune.main([*fixed, "--steps", "9"]) == 130
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert tune.main([*fixed, "--steps", "9"]) == 130
        assert capsys.readouterr().out.count("MLflow cannot be written (the tracking server") == 1
    assert tune.main([*fixed, "--steps", "9"]) == 130
    client = MlflowClient(tracking_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'tune_exp6_grid'")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags.get("ablatune.config_hash", "") for run in runs) == sorted(["", *ended])


def test_a_search_that_lacks_trials_is_not_confirmed(
    fixed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(searches, "run_arms", lambda *_, **__: False)
    monkeypatch.setattr(ray_session, "ray_session", lambda resources: nullcontext())
    assert tune.main([*fixed, "--steps", "9", "--trials", "3"]) == 1
    assert "error: trials have not ended: 3 (baseline, search), 3 (mlp, search); the same" in capsys.readouterr().err


def test_the_confirming_study_has_the_same_cells_and_is_tuned() -> None:
    study = tune.tuned_study(STUDY, parse_space(DEFAULT_SPACE))
    assert study.designs == STUDY.designs
    assert study.tuned
    for some in ("weight_decay=0.01:1", "muon_learning_rate=0.001:0.1"):
        assert not tune.tuned_study(STUDY, parse_space(some)).tuned, "not every learning rate was"
    assert study.script == "tune_exp6_grid"
    assert study.negative_control is not None, "levels that are tuned alike are one model, which is no error"
    assert study.negative_control.tolerance_nats is None, "and levels that are tuned apart may differ"
