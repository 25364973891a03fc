"""Norms: one variant a file."""

from __future__ import annotations

from moe_models.norms.base import NORM, NormConfig
from moe_models.registry import import_submodules

import_submodules(__name__)

__all__ = ["NORM", "NormConfig"]
