"""Routers: which experts a token goes to, one rule a file."""

from __future__ import annotations

from moe_models.registry import import_submodules
from moe_models.routers.base import ROUTER, Router, RouterConfig, Routing

import_submodules(__name__)

__all__ = ["ROUTER", "Router", "RouterConfig", "Routing"]
