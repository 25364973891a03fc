"""`treatment_applied`: the modules of the model that was trained are those that the configuration declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from analysis.schema import INVALID, PARAMS_ACTIVE, PARAMS_TOTAL, Audit
from moe_models.accounting import count_model
from moe_models.config import ModelConfig
from moe_models.model import MoETransformer

NAME = "treatment_applied"


def audit(model: MoETransformer, declared: ModelConfig, row: Mapping[str, Any]) -> Audit | None:
    """Compare the trained model, module by module, with one built from the declared configuration.

    Types, shapes and settings of the modules are compared, never the configuration that the model says it has.

    Args:
        model: the one that was trained.
        declared: what the cell names.
        row: the last row of the curve, which says how many parameters there are.
    """
    with torch.device("meta"):
        twin = MoETransformer(declared)
    trained, named = _describe(model), _describe(twin)
    differing = [name for name in {**named, **trained} if trained.get(name) != named.get(name)]
    evidence = []
    if differing:
        name = differing[0]
        evidence.append(
            f"{len(differing)} of {len(named)} modules are not the declared ones, such as {name or 'the model'}: "
            f"{_difference(named.get(name), trained.get(name))}"
        )
    counts = count_model(model)
    for column, counted in ((PARAMS_TOTAL, counts.params_total), (PARAMS_ACTIVE, counts.params_active)):
        if row[column] != counted:
            evidence.append(f"{column} is reported as {row[column]:,}, and the trained model has {counted:,}")
    return Audit(name=NAME, severity=INVALID, evidence="; ".join(evidence)) if evidence else None


Description = dict[str, Any]
"""What one module is: its type, the shapes of its own tensors, and its plain settings."""


def _describe(model: MoETransformer) -> dict[str, Description]:
    """Return what each module is, by name."""
    return {name: _description(module) for name, module in model.named_modules()}


def _description(module: nn.Module) -> Description:
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {
        "type": type(module).__qualname__,
        **{name: tuple(tensor.shape) for name, tensor in tensors.items()},
        **{f"{name}": _plain(value) for name, value in vars(module).items() if _is_setting(module, name)},
    }


def _is_setting(module: nn.Module, name: str) -> bool:
    says_what_it_is = isinstance(module, MoETransformer) and name == "config"
    return not name.startswith("_") and name != "training" and not says_what_it_is


def _plain(value: Any) -> Any:
    """Return a setting as something that equals another one built alike."""
    if value is None or isinstance(value, (bool, int, float, str, tuple)) or dataclasses.is_dataclass(value):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return (type(value).__qualname__, {k: _plain(v) for k, v in vars(value).items() if not k.startswith("_")})


def _difference(named: Description | None, trained: Description | None) -> str:
    if named is None or trained is None:
        return f"{_type(named)} is declared, {_type(trained)} was trained"
    name = next(key for key in {**named, **trained} if named.get(key) != trained.get(key))
    return f"{name} is declared as {named.get(name)}, and {trained.get(name)} was trained"


def _type(description: Description | None) -> str:
    return "nothing" if description is None else description["type"]
