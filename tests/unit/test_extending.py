"""docs/extending.md keeps its word: its code, in one new file, is picked up by the contract tests and passes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_variant_is_one_new_file(tmp_path: Path) -> None:
    for folder in ("moe_models", "tests/contracts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "extending.md").read_text()
    example = re.search(r"`(moe_models/attention/\w+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL)
    assert example is not None, "the page holds no example"
    file, code = example.groups()
    (tmp_path / file).write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts", "-k", "mqa"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 12, done.stdout
