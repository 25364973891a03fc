"""Counting a model: parameters, those that one token meets, and training FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moe_models.config import ModelConfig
from moe_models.feed_forward.moe import Experts
from moe_models.model import MoETransformer


@dataclass(frozen=True)
class Counts:
    """Sizes of a model."""

    params_total: int
    """Trainable parameters, the tied head counted once."""
    params_active: int
    """Those that one token meets: of each stack of experts, only top_k."""
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
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = sum(parameter.numel() for parameter in trainable)
    idle = sum(
        parameter.numel() * (module.n_experts - module.top_k) // module.n_experts
        for module in model.modules()
        if isinstance(module, Experts)
        for parameter in module.parameters()
    )
    # Every matrix is one product of 2 FLOPs a weight for each token it serves; the embedding serves as the head.
    matrices = sum(parameter.numel() for parameter in trainable if parameter.ndim >= 2)
    attention = config.n_layers * config.attention.flops_per_token(config.max_seq_len, config.d_model)
    return Counts(total, total - idle, 3 * (2 * (matrices - idle) + attention))
