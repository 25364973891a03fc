"""Attention: one variant a file."""

from __future__ import annotations

from moe_models.attention.base import ATTENTION, AttentionConfig
from moe_models.registry import import_submodules

import_submodules(__name__)

__all__ = ["ATTENTION", "AttentionConfig"]
