"""Counting a model: parameters, those that one token meets, and training FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moe_models.config import ModelConfig
from moe_models.feed_forward.moe import Experts
from moe_models.model import MoETransformer
from moe_models.parameters import Unused, is_matrix


@dataclass(frozen=True)
class Counts:
    """Sizes of a model."""

    params_total: int
    """Trainable parameters, the tied head counted once; those that nothing uses included."""
    params_active: int
    """Those that one token meets: of each stack of experts, only top_k; of what nothing uses, none."""
    flops_per_token: int
    """Training FLOPs of one token: three times the forward matrix products (Kaplan et al., section 2.1 of
    https://arxiv.org/abs/2001.08361), attention at full sequence length included, elementwise work not."""


def count(config: ModelConfig) -> Counts:
    """Count the model that `config` builds; it is built on the meta device and costs no memory."""
    with torch.device("meta"):
        return count_model(MoETransformer(config))


def count_model(model: MoETransformer) -> Counts:
    """Count a model as it is."""
    config = model.config
    active = active_by_name(model)
    # Every matrix is one product of 2 FLOPs a weight for each token it serves; the embedding serves as the head.
    matrices = sum(active[name] for name, parameter in model.named_parameters() if is_matrix(name, parameter))
    attention = config.n_layers * config.attention.flops_per_token(config.max_seq_len, config.d_model)
    total = sum(parameter.numel() for parameter in model.parameters())
    return Counts(total, sum(active.values()), 3 * (2 * matrices + attention))


def active_by_name(model: MoETransformer) -> dict[str, int]:
    """Return how many elements of each parameter one token meets."""
    active = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix):
            if isinstance(module, Experts):
                active[name] = parameter.numel() * module.top_k // module.n_experts
            elif isinstance(module, Unused):
                active[name] = 0
    return active
