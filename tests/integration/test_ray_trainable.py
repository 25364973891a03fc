"""The trainable in a Tuner of the user's own, on real Ray."""

from __future__ import annotations

import dataclasses
import errno
import gc
import itertools
import platform
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import tune

from analysis import schema
from analysis.schema import TrialRecord
from moe_models.errors import ConfigError
from sweeps.engine.ray_session import start_ray
from tests import fakes_ray
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.environment import this_process
from trainables.loop import Trainer
from trainables.ray_trainable import OUT_OF_MEMORY, REFUSED, AblationTrainable
from trainables.scales import SCALES
from trainables.store import Folder
from trainables.tuning_trainable import TuningTrainable

LABELS = {"study": "s", "cell": "c", "scale": "cpu", "factors": {"attention": 0}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    paragraphs = [f"in the beginning was paragraph {i} and it said {i * i} words " * 6 for i in range(40)]
    (folder / "text.txt").write_text("\n\n".join(paragraphs))
    return prepare_corpus(str(folder / "text.txt"), vocab_size=300, seq_len=16, cache_dir=folder / "cache")


def set_name(patch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Set what a name means in the trainable's methods: in some that Ray unpickled here it is not the module's."""
    for method in vars(AblationTrainable).values():
        if name in getattr(method, "__globals__", {}):
            patch.setitem(method.__globals__, name, value)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start_ray(2)
    yield
    ray.shutdown()


def config(corpus: TokenizedCorpus, **training: Any) -> TrialConfig:
    scale = SCALES["cpu"]
    model = scale.model(attention="mha", norm="rmsnorm", feed_forward="moe_deepseek_plain")
    settings = {"updates": 6, "batch_size": 4, "seq_len": 16, "row_every": 2, "evaluate_every": 3} | training
    return TrialConfig(
        model=dataclasses.replace(model, vocab_size=300),
        training=scale.with_training(**settings),
        data=DataConfig(corpus=corpus.name, content_hash=corpus.content_hash),
    )


def trial(corpus: TokenizedCorpus, folder: Path, seeds: list[int], **training: Any) -> dict[str, Any]:
    return {
        "config": config(corpus, **training).to_dict(),
        "seeds": seeds,
        "labels": LABELS,
        "corpus_directory": str(corpus.directory),
        "study_directory": str(folder),
    }


def deterministic(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in schema.NONDETERMINISTIC_COLUMNS} for row in rows]


def expected_rows(setting: TrialConfig, seed: int, corpus: TokenizedCorpus) -> list[dict[str, Any]]:
    trainer = Trainer(setting, seed, corpus, torch.device("cpu"))
    for _ in trainer.run():
        pass
    return deterministic(trainer.rows)


def test_reused_actors_leave_nothing_behind(corpus: TokenizedCorpus, cluster: None, tmp_path: Path) -> None:
    """Six trials on one or two actors: each record equals that of the plain loop, one a (configuration, seed)."""
    space = {
        **trial(corpus, tmp_path / "study", [0]),
        "config": {
            **config(corpus).to_dict(),
            "training": {
                **dataclasses.asdict(config(corpus).training),
                "muon_learning_rate": tune.grid_search([0.01, 0.02]),
            },
        },
        "seeds": tune.grid_search([[0], [1], [2, 3]]),
    }
    results = tune.Tuner(
        AblationTrainable,
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True),  # no metric: on a slow machine a report may have no loss yet
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    ).fit()
    assert not results.errors
    assert results.get_best_result("val_loss", "min").metrics["val_loss"] > 0
    records = {record.config_hash: record for record in schema.read_records(tmp_path / "study")}
    assert len(records) == 8
    for rate in (0.01, 0.02):
        setting = config(corpus, muon_learning_rate=rate)
        for seed in range(4):
            record = records[setting.hash(seed)]
            assert (record.status, record.seed, record.cell) == ("finished", seed, "c")
            assert deterministic(record.rows) == expected_rows(setting, seed, corpus)
            assert TrialConfig.from_dict(record.config) == setting
            assert (len(record.digest), record.environment["device"]) == (16, "cpu")
            assert record.scores is not None
            loss = sum(record.scores.losses) / sum(record.scores.tokens)
            assert loss == pytest.approx(record.rows[-1]["val_loss"], rel=1e-12)
    assert not list((tmp_path / "study" / "checkpoints").glob("*"))


def test_a_trial_reads_the_tokens_where_they_lie(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    """All trials of a machine share one memory map: none has a copy."""
    actor = AblationTrainable(trial(corpus, tmp_path, [0]))
    trainer = actor.trainer
    read = {
        "train": trainer.batches.drawn(1),
        "validation": trainer.validation.scored(),
        "test": trainer.test.scored(),
    }
    for split, windows in read.items():
        tokens = getattr(actor.corpus, split).tokens
        assert isinstance(tokens.base, np.memmap)
        assert np.shares_memory(tokens, windows.tokens)


def test_a_trial_without_a_gpu_trains_on_the_cpu_where_there_is_one(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    actor = AblationTrainable({**trial(corpus, tmp_path, [0]), "gpus": 0})
    assert actor.trainer.device.type == "cpu"


def test_a_half_trained_run_goes_on_from_its_own_checkpoint(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    setting = config(corpus)
    half = Trainer(setting, 0, corpus, torch.device("cpu"))
    progress = half.run()
    for _ in range(4):
        next(progress)
    half.train_seconds = 1000.0
    path = tmp_path / "checkpoints" / f"{setting.hash(0)}.pt"
    save_checkpoint(Folder(tmp_path), f"checkpoints/{path.name}", half.state_dict())
    actor = AblationTrainable(trial(corpus, tmp_path, [0]))
    assert actor.trainer.update == 4
    reports = [actor.train()]
    while not reports[-1]["done"]:
        reports.append(actor.train())
    record = TrialRecord.read(tmp_path / "records" / f"{setting.hash(0)}.json")
    assert deterministic(record.rows) == expected_rows(setting, 0, corpus)
    reported = [{**row, "seed": 0} for row in record.rows]
    assert half.rows
    assert [row for report in reports for row in report["rows"]] == reported, "those from before it may never have been"
    assert record.rows[-1]["train_seconds"] > 1000, "the time before the interruption is part of the run's"
    assert not path.exists()


def test_a_record_has_what_the_audits_found(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    """A layer is frozen before training: the run goes on, and its record says so and names the audits that ran."""
    actor = AblationTrainable({**trial(corpus, tmp_path, [0, 1]), "environment": {"git_commit": "abc"}})
    actor.trainer.model.layers[1].attention.requires_grad_(False)
    while not actor.train()["done"]:
        pass
    setting = config(corpus)
    frozen, sound = (TrialRecord.read(tmp_path / "records" / f"{setting.hash(seed)}.json") for seed in (0, 1))
    found = {audit.name: audit for audit in frozen.audits}
    assert found["dead_parameters"].severity == schema.WARNING
    assert "layers.1.attention (" in found["dead_parameters"].evidence
    assert "dead_parameters" not in {audit.name for audit in sound.audits}
    assert deterministic(sound.rows) == expected_rows(setting, 1, corpus)
    assert frozen.environment == {
        "git_commit": "abc",
        **this_process(False),
        "device": "cpu",
        "audits": "causality,update,targets,split_overlap,dead_parameters,evaluation,too_good,budget,treatment_applied",
    }


@pytest.mark.parametrize("kind", [AblationTrainable, TuningTrainable])
def test_a_process_with_other_code_than_its_driver_trains_nothing(
    kind: type[AblationTrainable], corpus: TokenizedCorpus, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    settings = trial(corpus, study, [0])
    elsewhere = {**settings, "environment": {**this_process(), "code": "newer"}}
    newer = {"config": {**settings["config"], "model": {"kind": "not known here"}}}
    actor = kind({**elsewhere, **newer})
    report = actor.train()
    assert (report["status"], report["done"]) == (REFUSED, True)
    assert "has other code than the driver" in report["error"]
    assert list(study.iterdir()) == []
    with pytest.raises(ConfigError, match="has other code than the driver"):
        kind({name: value for name, value in elsewhere.items() if name != "study_directory"})
    assert actor.reset_config({**settings, "environment": this_process()})
    assert actor.train()["status"] == schema.FINISHED
    actor.stop()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("gpus", [0.25, 1.0])
def test_a_process_that_lacks_the_gpu_it_was_given_trains_nothing(
    gpus: float, corpus: TokenizedCorpus, tmp_path: Path
) -> None:
    """As on a node whose driver is too old: a study would take what a CPU trained for what a GPU did."""
    study = tmp_path / "study"
    study.mkdir()
    settings = trial(corpus, study, [0])
    actor = AblationTrainable({**settings, "gpus": gpus})
    report = actor.train()
    assert (report["status"], report["done"]) == (REFUSED, True)
    assert report["error"] == (
        f"a process on {platform.node()} was given {gpus:g} GPU, and torch {torch.__version__} can use none there: "
        "install a driver that it can use, or take that machine away"
    )
    assert list(study.iterdir()) == []
    alone = {name: value for name, value in settings.items() if name != "study_directory"}
    with pytest.raises(ConfigError, match=f"was given {gpus:g} GPU"):
        AblationTrainable({**alone, "gpus": gpus})
    assert actor.reset_config(settings), "without a word on GPUs it trains on what is there"
    assert actor.train()["status"] == schema.FINISHED
    actor.stop()


def test_a_run_that_went_on_elsewhere_names_both_places(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = config(corpus)
    begun = AblationTrainable(trial(corpus, tmp_path, [0]))
    next(begun.progress)
    monkeypatch.setitem(begun.made_with[0], "code", "older")
    begun.stop()
    going_on = AblationTrainable(trial(corpus, tmp_path, [0]))
    assert going_on.trainer.update > 0
    while not going_on.train()["done"]:
        pass
    record = TrialRecord.read(tmp_path / "records" / f"{setting.hash(0)}.json")
    here = this_process(False)
    assert record.environment["code"] == f"older; {here['code']}"
    assert record.environment["hardware"] == here["hardware"]


def test_a_reused_actor_frees_a_model_before_it_builds_the_next(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its memory would count as the next trial's."""
    actor = AblationTrainable(trial(corpus, tmp_path, [0]))
    while not actor.train()["done"]:
        pass
    before, alive = weakref.ref(actor.trainer.model), []

    def build(*arguments: Any) -> Trainer:
        gc.collect()
        alive.append(before() is not None)
        return Trainer(*arguments)

    set_name(monkeypatch, "Trainer", build)
    actor.reset_config(trial(corpus, tmp_path, [1]))
    assert alive == [False]


def test_a_stopped_trial_keeps_what_it_reached(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    actor = AblationTrainable(trial(corpus, tmp_path, [0], updates=2_000, row_every=500, evaluate_every=2_000))
    actor.train()
    reached = actor.trainer.update
    assert 0 < reached < 2_000
    actor.stop()
    (path,) = (tmp_path / "checkpoints").glob("*.pt")
    kept = load_checkpoint(Folder(path.parent), path.name)
    assert kept is not None
    assert kept["update"] == reached
    finished = AblationTrainable(trial(corpus, tmp_path / "other", [0]))
    while not finished.train()["done"]:
        pass
    finished.stop()
    assert not list((tmp_path / "other" / "checkpoints").glob("*.pt")), "a finished run needs no checkpoint"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "all but its beginning": lambda whole: whole[:20_000],
    "garbage": lambda _: b"x" * 500,
    "empty": lambda _: b"",
    "a flipped bit": lambda whole: whole[:-200_000] + bytes([whole[-200_000] ^ 16]) + whole[-199_999:],
    "a page of zeros": lambda whole: whole[:400_000] + bytes(4096) + whole[404_096:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_time_and_nothing_else(corpus: TokenizedCorpus, tmp_path: Path, damage: str) -> None:
    setting = config(corpus)
    path = tmp_path / "checkpoints" / f"{setting.hash(0)}.pt"
    half = Trainer(setting, 0, corpus, torch.device("cpu"))
    progress = half.run()
    for _ in range(4):
        next(progress)
    save_checkpoint(Folder(tmp_path), f"checkpoints/{path.name}", half.state_dict())
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    assert path.read_bytes() != whole
    actor = AblationTrainable(trial(corpus, tmp_path, [0]))
    report = actor.train()
    assert report["remarks"] == [
        f"its checkpoint is ignored, it trains from the start: DamagedError: checkpoints/{path.name} is not what was "
        "written"
    ]
    while not report["done"]:
        report = actor.train()
        assert report["remarks"] == []
    record = TrialRecord.read(tmp_path / "records" / f"{setting.hash(0)}.json")
    assert deterministic(record.rows) == expected_rows(setting, 0, corpus)


def test_tunes_own_checkpoint_restores_the_whole_trial(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    first = AblationTrainable(trial(corpus, tmp_path / "a", [0, 1]))
    first.train()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    first.save_checkpoint(str(folder))
    second = AblationTrainable(trial(corpus, tmp_path / "b", [0, 1]))
    second.load_checkpoint(str(folder))
    assert second.trainer.state_dict()["update"] == first.trainer.state_dict()["update"]
    assert second.pending_seeds == first.pending_seeds
    saved = load_checkpoint(Folder(folder), "trial.pt")
    assert saved is not None
    assert saved["latest"] == first.latest


def test_a_divergence_is_a_result(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    setting = config(corpus, optimizer="adamw", adamw_learning_rate=1e30, weight_decay=0.0)
    actor = AblationTrainable(
        trial(corpus, tmp_path, [0], optimizer="adamw", adamw_learning_rate=1e30, weight_decay=0.0)
    )
    while not (report := actor.train())["done"]:
        pass
    assert report["status"] == "diverged"
    record = TrialRecord.read(tmp_path / "records" / f"{setting.hash(0)}.json")
    assert record.status == "diverged"
    assert record.error is not None
    assert "became" in record.error
    assert record.result_row()["val_loss"] is None


def ended(corpus: TokenizedCorpus, folder: Path, **settings: Any) -> tuple[TrialRecord, list[dict[str, Any]]]:
    """Train one seed to its end, without a cluster; return its record and the trial's reports."""
    actor = AblationTrainable({**trial(corpus, folder, [0]), **settings})
    reports = [actor.train()]
    while not reports[-1]["done"]:
        reports.append(actor.train())
    return TrialRecord.read(folder / "records" / f"{config(corpus).hash(0)}.json"), reports


def test_the_test_split_is_opened_once_and_stands_in_the_record_alone(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    record, reports = ended(corpus, tmp_path / "a", final_test=True)
    assert record.status == "finished"
    assert set(record.test) == {schema.TEST_LOSS, schema.TEST_ACCURACY}
    assert record.test[schema.TEST_LOSS] != record.rows[-1][schema.VAL_LOSS]
    texts = [str(reports), str(record.rows), str(record.result_row())]
    assert not any("test_loss" in text or "test_accuracy" in text for text in texts)
    without, _ = ended(corpus, tmp_path / "b")
    assert without.test == {}
    assert deterministic(without.rows) == deterministic(record.rows)


def test_a_run_that_ends_above_the_limit_has_diverged(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    loss = ended(corpus, tmp_path / "free")[0].rows[-1][schema.VAL_LOSS]
    kept, _ = ended(corpus, tmp_path / "kept", divergence_limit=loss, final_test=True)
    assert kept.status == "finished"  # at the limit, not above it
    record, reports = ended(corpus, tmp_path / "above", divergence_limit=loss - 0.01, final_test=True)
    assert (record.status, reports[-1]["status"]) == ("diverged", "diverged")
    assert record.error == (
        f"val_loss after the last update is {loss:.4f} nats, above the plan's divergence limit of {loss - 0.01:g}"
    )
    assert record.test == {}
    assert record.rows[-1][schema.VAL_LOSS] == loss  # it is kept, and is no result
    assert record.result_row()["val_loss"] is None
    assert {audit.name for audit in record.audits} == {audit.name for audit in kept.audits}


@pytest.mark.parametrize(("gpus", "status"), [(0.5, OUT_OF_MEMORY), (1.0, schema.FAILED)])
@pytest.mark.parametrize("kind", [AblationTrainable, TuningTrainable])
def test_a_model_that_does_not_fit_is_a_report_and_its_actor_can_be_reused(
    kind: type[AblationTrainable],
    gpus: float,
    status: str,
    corpus: TokenizedCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(*_: Any) -> Trainer:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    settings = {**trial(corpus, tmp_path, [0]), "gpus": gpus}
    monkeypatch.setattr(AblationTrainable, "_begin", fakes_ray.begin_without_a_gpu)
    with monkeypatch.context() as patch:
        set_name(patch, "Trainer", too_large)
        actor = kind(settings)
        report = actor.train()
        with pytest.raises(torch.OutOfMemoryError):
            kind({name: value for name, value in settings.items() if name != "study_directory"})
    assert (report["status"], report["done"]) == (status, True)
    assert report["error"] == f"OutOfMemoryError: asked for 2.00 GiB, with {gpus:g} GPU"
    assert actor.reset_config(settings)
    while not (report := actor.train())["done"]:
        pass
    assert report["status"] == schema.FINISHED
    actor.reset_config(settings)
    actor.stop()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"corpus_directory": "/nowhere"}, "/nowhere"),
        ({"config": {"model": {"kind": "not known here"}}}, "ConfigError: unknown field of model 'kind'"),
        ({"study_directory": "s3://"}, "ConfigError: the storage s3:// cannot be used"),
    ],
    ids=["tokens", "configuration", "storage"],
)
@pytest.mark.parametrize("kind", [AblationTrainable, TuningTrainable])
def test_what_cannot_be_set_up_is_a_report_and_its_actor_can_be_reused(
    kind: type[AblationTrainable], what: dict[str, Any], error: str, corpus: TokenizedCorpus, tmp_path: Path
) -> None:
    settings = trial(corpus, tmp_path, [0])
    actor = kind({**settings, **what})
    report = actor.train()
    assert (report["status"], report["done"]) == (schema.FAILED, True)
    assert error in report["error"]
    assert "\n" not in report["error"]
    assert "Traceback" in report["traceback"]
    assert actor.reset_config(settings)
    while not (report := actor.train())["done"]:
        pass
    assert report["status"] == schema.FINISHED
    actor.stop()
    if "study_directory" not in what:
        with pytest.raises(Exception, match=error.removeprefix("ConfigError: ")):
            kind({name: value for name, value in {**settings, **what}.items() if name != "study_directory"})


def test_a_checkpoint_that_cannot_be_read_for_now_is_kept(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = trial(corpus, tmp_path, [0])
    begun = AblationTrainable(settings)
    next(begun.progress)
    begun.stop()
    (path,) = (tmp_path / "checkpoints").glob("*.pt")
    kept = path.read_bytes()

    def unreachable(*_: Any) -> None:
        raise OSError("the network is down")

    with monkeypatch.context() as patch:
        set_name(patch, "load_checkpoint", unreachable)
        actor = AblationTrainable(settings)
        report = actor.train()
    assert (report["status"], report["error"]) == (schema.FAILED, "OSError: the network is down")
    actor.stop()
    assert path.read_bytes() == kept
    assert AblationTrainable(settings).trainer.update == begun.trainer.update > 0


def test_a_checkpoint_that_cannot_be_written_costs_no_run(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    set_name(monkeypatch, "CHECKPOINT_SECONDS", 0.0)
    set_name(monkeypatch, "save_checkpoint", full)
    setting, reports = config(corpus), []
    actor = AblationTrainable(trial(corpus, tmp_path, [0]))
    while not reports or not reports[-1]["done"]:
        reports.append(actor.train())
    assert reports[-1]["status"] == schema.FINISHED
    said = [remark for report in reports for remark in report["remarks"]]
    assert len(said) == 1
    assert said[0].startswith("its checkpoint cannot be written, it trains on: OSError: ")
    record = TrialRecord.read(tmp_path / "records" / f"{setting.hash(0)}.json")
    assert deterministic(record.rows) == expected_rows(setting, 0, corpus)


def test_checkpoints_take_a_small_part_of_the_time(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, perf_counter=lambda: clock.now)
    written: list[float] = []

    def slow(*_: Any) -> None:
        clock.now += 3.0
        written.append(clock.now)

    set_name(monkeypatch, "time", clock)
    set_name(monkeypatch, "save_checkpoint", slow)
    actor = AblationTrainable(trial(corpus, tmp_path, [0], updates=200, row_every=200, evaluate_every=200))
    while clock.now < 200:
        actor._advance()
        clock.now += 1.0
    assert written[0] == 14.0  # after ten seconds
    assert [later - earlier for earlier, later in itertools.pairwise(written)] == [64.0] * (len(written) - 1)
    actor.status = schema.FINISHED  # nothing to keep


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "cublas"],
)
def test_memory_that_ends_outside_torch_is_reported_as_such(
    error: Exception, corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a share of a GPU it is usual, and leaves the process whole."""

    def full(_: AblationTrainable) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(AblationTrainable, "_step", full)
    actor = AblationTrainable(trial(corpus, tmp_path, [0]))
    for gpus, status in ((0.5, OUT_OF_MEMORY), (1.0, schema.FAILED)):
        actor.gpus = gpus
        report = actor.train()
        assert (report["status"], report["done"]) == (status, True)
        assert report["error"] == f"{schema.error_line(error)}, with {gpus:g} GPU"


def test_only_an_error_that_breaks_the_process_is_raised(
    corpus: TokenizedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune reuses the process of a trial that reports, and never that of one that raises."""
    errors: list[Exception] = [RuntimeError("planned"), torch.AcceleratorError("CUDA error: device-side assert")]

    def broken(_: AblationTrainable) -> dict[str, Any]:
        raise errors.pop(0)

    monkeypatch.setattr(AblationTrainable, "_step", broken)
    reported, raised = (AblationTrainable(trial(corpus, tmp_path, [seed])) for seed in (0, 1))
    report = reported.train()
    assert (report["status"], report["error"], report["done"]) == (schema.FAILED, "RuntimeError: planned", True)
    next(raised.progress)
    with pytest.raises(torch.AcceleratorError):
        raised.train()
    raised.stop()
    assert not list(tmp_path.glob("checkpoints/*")), "an update may be half made"
