"""What a study's folder and its storage have of one another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.schema import FAILURES_FOLDER, FINISHED, PLAN_FILE, RECORDS_FOLDER, TrialRecord
from moe_models.errors import ConfigError
from sweeps.engine.storage import Storage
from tests.fakes import make_study

ROOTS: dict[str, Callable[[Path], str]] = {"path": str, "url": Path.as_uri}


@pytest.fixture(params=ROOTS)
def local(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage whose files lie in `tmp_path / "shared"`."""
    return ROOTS[request.param](tmp_path / "shared")


@pytest.fixture(params=[*ROOTS, "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    return ROOTS[request.param](tmp_path / "shared")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two cells and two seeds, one of which failed."""
    return make_study(tmp_path / "a" / "study", cells=("baseline", "mlp"), seeds=2, failed=[("mlp", 1)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_plan(folder: Path, **changes: object) -> None:
    path = folder / PLAN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_without_a_storage_nothing_happens(study: Path) -> None:
    before, storage = files(study), Storage(study, None)
    assert storage.place == str(study)
    assert (storage.apart, storage.exchange(), storage.missing()) == (False, False, [])
    name = next(name for name in before if name.startswith(RECORDS_FOLDER))
    assert storage.fetch(name)
    assert not storage.fetch(f"{RECORDS_FOLDER}/other.json")
    storage.keep(name)
    assert files(study) == before


def test_a_place_for_each_study_whatever_the_current_folder(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage(study, "b").place == str(tmp_path / "b" / "study")
    assert Storage(study, "file:///b/").place == "file:///b/study"
    assert Storage(study, "s3://bucket/b?region=eu-west-1").place == "s3://bucket/b/study?region=eu-west-1"


def test_a_folder_that_is_gone_comes_back_from_the_storage(study: Path, root: str) -> None:
    before = files(study)
    storage = Storage(study, root)
    assert not storage.exchange(), "the folder lacked nothing"
    assert {name: storage.store.read(name) for name in before} == before
    shutil.rmtree(study)
    storage = Storage(study, root)
    assert len(storage.missing()) == 4
    assert storage.exchange()
    assert files(study) == before
    assert not storage.exchange()


def test_what_one_lacks_the_other_gives(study: Path, root: str) -> None:
    whole = files(study)
    Storage(study, root).exchange()
    first, *others = sorted(name for name in whole if name.startswith(RECORDS_FOLDER))
    storage = Storage(study, root)
    (study / first).unlink()
    storage.store.delete(others[0])
    assert storage.fetch(first)
    assert storage.missing() == []
    storage.exchange()
    assert files(study) == whole
    assert storage.store.read(others[0]) == whole[others[0]]


def test_a_failure_is_forgotten_in_both(study: Path, root: str) -> None:
    storage = Storage(study, root)
    storage.exchange()
    (name,) = (name for name in files(study) if name.startswith(FAILURES_FOLDER))
    storage.forget(name)
    assert not storage.exchange()
    assert not (study / name).exists()


def test_a_failure_that_another_driver_overcame_goes_from_both(study: Path, root: str, tmp_path: Path) -> None:
    storage, here = Storage(study, root), Storage(tmp_path / "elsewhere" / "study", root)
    storage.exchange()
    here.exchange()
    (name,) = storage.names(FAILURES_FOLDER)
    record = dataclasses.replace(
        TrialRecord.read(study / name), status=FINISHED, error=None, rows=[{"step": 4, "val_loss": 3.0}]
    )
    storage.forget(name)
    record.write(study / RECORDS_FOLDER)
    storage.exchange()
    here.exchange()  # it knows the failure alone, and gives it back
    here.sweep(60)
    assert here.names(FAILURES_FOLDER) == []
    assert record.config_hash in {Path(one).stem for one in here.names(RECORDS_FOLDER)}


def test_what_killed_writers_left_is_swept_from_both(study: Path, local: str, tmp_path: Path) -> None:
    storage = Storage(study, local)
    storage.exchange()
    for folder in (study, tmp_path / "shared" / "study"):
        left = folder / RECORDS_FOLDER / ".a.json.here.7.tmp"
        left.write_bytes(b"half")
        os.utime(left, (0, 0))
    storage.sweep(60)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("apart", [False, True], ids=["folder", "storage"])
def test_a_checkpoint_goes_once_its_run_has_a_record(study: Path, root: str, apart: bool) -> None:
    storage = Storage(study, root if apart else None)
    storage.exchange()
    ended, failed = (Path(storage.names(folder)[0]).stem for folder in (RECORDS_FOLDER, FAILURES_FOLDER))
    for config_hash in (ended, failed, "half"):
        with storage.store.writing(f"checkpoints/{config_hash}.pt") as file:
            file.write(b"state")
    storage.sweep(60)
    assert storage.store.list("checkpoints") == sorted(f"checkpoints/{left}.pt" for left in (failed, "half"))


def test_of_two_plans_the_extended_one_stands(study: Path, local: str, tmp_path: Path) -> None:
    storage = Storage(study, local)
    storage.exchange()
    change_plan(study, seeds=[0, 1, 2])
    assert not storage.exchange()
    theirs = tmp_path / "shared" / "study"
    assert json.loads((theirs / PLAN_FILE).read_text())["seeds"] == [0, 1, 2]
    change_plan(theirs, seeds=[0, 1, 2, 3])
    assert storage.exchange()
    assert json.loads((study / PLAN_FILE).read_text())["seeds"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "changes", [{"seeds": [0, 7]}, {"registered_sha256": "another"}, {"seeds": [0], "amendments": ["a"]}]
)
def test_plans_that_were_extended_apart_are_refused(
    changes: dict[str, object], study: Path, local: str, tmp_path: Path
) -> None:
    storage = Storage(study, local)
    storage.exchange()
    change_plan(study, seeds=[0, 1, 2])
    theirs = tmp_path / "shared" / "study"
    change_plan(theirs, **changes)
    before = files(study), files(theirs)
    with pytest.raises(ConfigError, match="were extended apart from one another: give another --output"):
        storage.exchange()
    assert (files(study), files(theirs)) == before


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": [{}]}'])
@pytest.mark.parametrize("where", ["folder", "storage"])
def test_a_damaged_plan_is_named(where: str, content: str, study: Path, local: str, tmp_path: Path) -> None:
    storage = Storage(study, local)
    storage.exchange()
    ((study if where == "folder" else tmp_path / "shared" / "study") / PLAN_FILE).write_text(content)
    with pytest.raises(ConfigError, match=r"study/plan\.json is not a study's plan.*move its folder away"):
        storage.exchange()


def test_a_damaged_record_in_the_storage_is_named(study: Path, root: str) -> None:
    storage = Storage(study, root)
    storage.exchange()
    with storage.store.writing(f"{RECORDS_FOLDER}/bad.json") as file:
        file.write(b"{")
    with pytest.raises(ConfigError, match=r"study/records/bad\.json(\?\S+)? is not a trial record.*delete it"):
        storage.exchange()
