"""Positions: rotary embeddings, one scaling rule a file."""

from __future__ import annotations

from moe_models.positions.base import POSITION, PositionConfig, Rotary
from moe_models.registry import import_submodules

import_submodules(__name__)

__all__ = ["POSITION", "PositionConfig", "Rotary"]
