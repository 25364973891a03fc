from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _in_own_place(own_place: Path) -> None:
    """Every test here runs in a place of its own."""
