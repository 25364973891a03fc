"""Feed-forward layers: one variant a file."""

from __future__ import annotations

from moe_models.feed_forward.base import FEED_FORWARD, FeedForwardConfig
from moe_models.registry import import_submodules

import_submodules(__name__)

__all__ = ["FEED_FORWARD", "FeedForwardConfig"]
