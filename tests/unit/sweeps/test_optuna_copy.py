"""What an Optuna storage's URL keeps secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_models.errors import ConfigError
from sweeps.engine.optuna_copy import STORAGE_VARIABLE, OptunaCopy, storage_url
from sweeps.engine.space import parse_space


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hun/ter2@host/db",
        "postgresql://me:hun#ter2@host/db",
        "postgresql://host/db?password=hunter2",
        "mysql://host/db?passwd=hunter2",
        "postgresql://me:hunter2@[::1",
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--optuna-storage .*{STORAGE_VARIABLE}$") as error:
        storage_url(url, tmp_path)
    assert not any(part in str(error.value) for part in ("hun", "ter2"))


@pytest.mark.parametrize("url", ["sqlite:///a@b.db", "postgresql://me@host/db?sslmode=require"])
def test_what_is_no_secret_passes(url: str, tmp_path: Path) -> None:
    assert storage_url(url, tmp_path) == url


@pytest.mark.parametrize(
    "url", ["nosuch://me:hun/ter2@127.0.0.1:1/db", "sqlite://me:hunter2@127.0.0.1:port/db", "postgresql://me:hun@[::1"]
)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_secret(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, url)
    space = parse_space("muon_learning_rate=0.001:0.1")
    with pytest.raises(ConfigError, match=r"the Optuna storage .* cannot be used") as error:
        OptunaCopy(storage_url(None, tmp_path), space, {"study": "s"}, print)
    assert not any(part in str(error.value) for part in ("hun", "ter2", "\n"))
