"""A whole search on real Ray with a real MLflow and a real Optuna storage: made-up trials, a real confirmation."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import ray.cloudpickle
from mlflow import MlflowClient

from analysis.loading.load import load_results
from analysis.schema import FINISHED, read_records
from analysis.tuning_records import SEARCH, TuningRecord, best_of, of_arm, read_tuning_records
from sweeps import tune
from sweeps.engine import ray_session
from tests import fakes_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CELLS = ("baseline", "mlp")
TRIALS, RANDOM, SEEDS = 7, 3, 2


def records_by_hash(folder: Path) -> dict[tuple[str, str], TuningRecord]:
    return {(record.arm, record.config_hash): record for record in read_tuning_records(folder)}


def told(trial: TuningRecord) -> tuple[Any, ...]:
    return trial.hyperparameters, trial.status, trial.rungs, trial.rows


def test_a_search_resumes_confirms_and_is_copied_once(
    corpus_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests
    arguments = [
        "--variants", ",".join(CELLS), "--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32",
        "--steps", "9", "--seeds", str(SEEDS), "--trials", str(TRIALS), "--random", str(RANDOM), "--sweep", "0",
        "--max-concurrent", "2",
    ]  # fmt: skip
    assert tune.main([*arguments, "--dry-run"]) == 0
    name = capsys.readouterr().out.split()[1]
    folder = Path("results").absolute() / name
    folder.mkdir(parents=True)
    (folder / "fault").touch()
    assert tune.main([*arguments, "--max-concurrent", "1"], fakes_ray.MadeUpTuningTrainable) == 1
    said = capsys.readouterr()
    assert "2 trials failed (baseline, search 2: RuntimeError: planned fault)" in said.err
    before = {key: record for key, record in records_by_hash(folder).items() if record.status != "failed"}
    assert not (folder / "plan.json").exists(), "nothing is confirmed before the search is complete"

    (folder / "fault").unlink()
    (folder / "kill worker").touch()
    (folder / "kill raylet").touch()
    with monkeypatch.context() as down:  # its tracking server
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert tune.main(arguments, fakes_ray.MadeUpTuningTrainable) == 0
    said = capsys.readouterr()
    after = records_by_hash(folder)
    assert {key: after[key] for key in before} == before, "what had ended is not trained again"
    assert "mlp, trial 2: its worker died; it goes on from its checkpoint" in said.out
    assert said.out.count("Ray died and is started anew") == 1
    assert list(folder.glob("kill *")) == []
    seconds = [of_arm(after.values(), cell, SEARCH)[2] for cell in CELLS]
    assert told(seconds[0]) == told(seconds[1]), "both cells' losses are made up alike"
    assert "\nsearch: " in said.out, "what it really took"
    require_equal_searches(folder)
    require_confirmation(folder)
    assert f"optuna-dashboard sqlite:///{folder / 'optuna.db'}" in said.out
    assert "tokens spent" in said.out

    monkeypatch.setattr(ray_session, "start_ray", lambda *_: pytest.fail("nothing was left to train"))
    assert tune.main(arguments, fakes_ray.MadeUpTuningTrainable) == 0
    assert records_by_hash(folder) == after
    require_copies(folder)


def require_equal_searches(folder: Path) -> None:
    records = read_tuning_records(folder)
    for cell in CELLS:
        found = [record for record in records if record.cell == cell]
        assert Counter(record.arm for record in found) == {"search": TRIALS, "random": RANDOM}
        for record in found:
            assert record.status == FINISHED or (record.status, record.arm) == ("stopped", SEARCH)
            assert record.updates in ((9,) if record.status == FINISHED else (1, 3))
            assert record.seed == 1000
    first, second = (of_arm(records, cell, SEARCH) for cell in CELLS)
    pairs = list(zip(first, second, strict=True))
    assert [a.hyperparameters for a, _ in pairs] == [b.hyperparameters for _, b in pairs], "random draws are shared"
    report = (folder / "tuning.md").read_text()
    assert "expected best" in report


def require_confirmation(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    results = load_results(folder)
    assert sorted(set(results.runs["seed"])) == list(range(SEEDS))
    for record in read_records(folder):
        best = best_of(of_arm(read_tuning_records(folder), record.cell, SEARCH))
        assert best is not None
        entry = plan["tuning"][record.cell]
        assert entry["best"] == best.hyperparameters
        assert (entry["trials"], entry["rungs"], entry["trial_tokens"]) == (TRIALS, [1, 3], 9 * 1024)
        assert entry["tokens"] == sum(r.tokens for r in of_arm(read_tuning_records(folder), record.cell, SEARCH))
        training = record.config["training"]
        assert {key: training[key] for key in best.hyperparameters} == best.hyperparameters
        assert training["evaluate_every"] == 100, "rungs belong to the search alone"
        assert math.isfinite(record.rows[-1]["val_loss"])
    assert plan["registered"]["tuned"]


def require_copies(folder: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{Path('mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("tune_exp6_grid")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    kinds = Counter(run.data.tags.get("ablatune.kind", "run") for run in runs)
    assert kinds == {"study": 1, "tuning": 2 * (TRIALS + RANDOM), "run": 2 * SEEDS}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for cell in CELLS:
        study = optuna.load_study(study_name=f"{folder.name}/{cell}", storage=f"sqlite:///{folder / 'optuna.db'}")
        assert len(study.trials) == TRIALS
