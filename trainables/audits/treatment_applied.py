"""`treatment_applied`: the modules of the model that was trained are those that the configuration declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from analysis.schema import FLOPS_PER_TOKEN, INVALID, PARAMS_ACTIVE, PARAMS_TOTAL, Audit
from moe_models.accounting import count_model
from moe_models.config import ModelConfig
from moe_models.model import MoETransformer
from moe_models.parameters import is_bias, is_matrix, matrix_of
from moe_models.streams import generator
from trainables.witness import Witness, sample

NAME = "treatment_applied"
LARGEST_DRAWN = 2**22
"""Elements of a parameter that is drawn again, at most: an audit must cost less than a run."""


def audit(model: MoETransformer, declared: ModelConfig, row: Mapping[str, Any]) -> Audit | None:
    """Compare the trained model, module by module, with one built from the declared configuration.

    Types, shapes and settings of the modules are compared, never the configuration that the model says it has.

    Args:
        model: the one that was trained.
        declared: what the cell names.
        row: the last row of the curve, which says how many parameters and FLOPs a token there are.
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
    counted_by = {
        PARAMS_TOTAL: counts.params_total,
        PARAMS_ACTIVE: counts.params_active,
        FLOPS_PER_TOKEN: counts.flops_per_token,
    }
    for column, counted in counted_by.items():
        if row[column] != counted:
            evidence.append(f"{column} is reported as {row[column]:,}, and the trained model has {counted:,}")
    return Audit(name=NAME, severity=INVALID, evidence="; ".join(evidence)) if evidence else None


def initial(model: MoETransformer, seed: int, witness: Witness) -> Audit | None:
    """Compare what the parameters were before the first update with what the seed draws for their names.

    Matrices are normal, gains 1, biases 0; the slots of `default_init` are uniform. Drawn again is each parameter of at
    most LARGEST_DRAWN elements, and of a larger stack as many experts.

    Args:
        model: as trained.
        seed: of the run's streams.
        witness: of the whole run.
    """
    parameters = dict(model.named_parameters())
    others = [
        name
        for name, parameter in parameters.items()
        if (due := _drawn(model.config, seed, name, parameter, parameters[matrix_of(name)])) is not None
        and not torch.allclose(witness.initial[name][: len(due)].cpu(), due, rtol=1e-4, atol=1e-7)
    ]
    if not others:
        return None
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    evidence = f"the initial values of {others[0]}{more} are not those that the configuration and the seed give"
    return Audit(name=NAME, severity=INVALID, evidence=evidence)


def _drawn(config: ModelConfig, seed: int, name: str, parameter: Tensor, matrix: Tensor) -> Tensor | None:
    """Return what a witness samples of a parameter, or of its first experts, as drawn; None where it is too large."""
    is_uniform = name.startswith("layers.") and name.split(".")[2] in config.default_init
    if not is_matrix(name, parameter) and not (is_uniform and is_bias(name)):
        return sample(torch.full(parameter.shape, 0.0 if is_bias(name) else 1.0))
    is_stack = matrix.ndim == 3
    one = parameter[0] if is_stack else parameter
    count = min(len(parameter) if is_stack else 1, LARGEST_DRAWN // one.numel())
    if count == 0:
        return None
    drawn = torch.empty(count, *one.shape)
    bound = matrix.shape[-1] ** -0.5
    for index, part in enumerate(drawn):
        stream = generator(seed, "init", name, *([index] if is_stack else []))
        if is_uniform:
            part.uniform_(-bound, bound, generator=stream)
        else:
            part.normal_(0.0, config.init_std, generator=stream)
    return sample(drawn, parameter.numel())


Description = dict[str, Any]
"""What one module is: its type, the shapes of its own tensors, and its plain settings."""


def _describe(model: MoETransformer) -> dict[str, Description]:
    """Return what each module is, by name."""
    return {name: _description(module) for name, module in model.named_modules()}


def _description(module: nn.Module) -> Description:
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {
        "type": type(module).__qualname__,
        **{name: (str(tensor.dtype), *tensor.shape) for name, tensor in tensors.items()},
        **{f"{name}": _plain(value) for name, value in vars(module).items() if _is_setting(module, name)},
    }


def _is_setting(module: nn.Module, name: str) -> bool:
    says_what_it_is = isinstance(module, MoETransformer) and name == "config"
    return not name.startswith("_") and name != "training" and not says_what_it_is


def _plain(value: Any) -> Any:
    """Return a setting as something that equals another one built alike."""
    if value is None or isinstance(value, (bool, int, float, str)) or dataclasses.is_dataclass(value):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    if not hasattr(value, "__dict__"):  # torch's types of numbers, sets
        return repr(value)
    return (type(value).__qualname__, {k: _plain(v) for k, v in vars(value).items() if not k.startswith("_")})


def _difference(named: Description | None, trained: Description | None) -> str:
    if named is None or trained is None:
        return f"{_type(named)} is declared, {_type(trained)} was trained"
    name = next(key for key in {**named, **trained} if named.get(key) != trained.get(key))
    return f"{name} is declared as {named.get(name)}, and {trained.get(name)} was trained"


def _type(description: Description | None) -> str:
    return "nothing" if description is None else description["type"]
