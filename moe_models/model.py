"""The transformer: embedding, blocks, final norm, tied head.

Shapes: B batch, T positions, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_models.config import ModelConfig
from moe_models.dropout import dropout
from moe_models.loss import linear_cross_entropy, token_losses
from moe_models.parameters import is_bias, is_matrix, matrix_of
from moe_models.routers import Router
from moe_models.streams import Noise, generator


@dataclass(frozen=True)
class ModelOutput:
    """What a forward pass returns."""

    hidden_BTD: Tensor
    """Input of the head, after the final norm: head and loss can be fused."""
    auxiliary_loss: Tensor
    """Scalar: the sum of the routers' losses over the layers, 0 where there is none."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); or, with post placement, norm(x + sublayer(x)) each."""

    def __init__(self, config: ModelConfig, role: str) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.is_pre_norm = config.placement == "pre"
        self.role = role
        self.attention_norm = config.block_norm.build(config.d_model)
        self.attention = config.attention.build(config.d_model, dropout=config.dropout, role=f"{role}.attention")
        self.feed_forward_norm = config.block_norm.build(config.d_model)
        self.feed_forward = config.feed_forward.build(
            config.d_model, dropout=config.dropout, role=f"{role}.feed_forward"
        )

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        """Map (B, T, D) to (B, T, D) and the auxiliary loss."""
        y_BTD = self.attention(self.attention_norm(x_BTD) if self.is_pre_norm else x_BTD, noise)
        x_BTD = x_BTD + dropout(y_BTD, self.dropout, noise, f"{self.role}.attention.after")
        if not self.is_pre_norm:
            x_BTD = self.attention_norm(x_BTD)
        y_BTD, auxiliary_loss = self.feed_forward(self.feed_forward_norm(x_BTD) if self.is_pre_norm else x_BTD, noise)
        x_BTD = x_BTD + dropout(y_BTD, self.dropout, noise, f"{self.role}.feed_forward.after")
        return x_BTD if self.is_pre_norm else self.feed_forward_norm(x_BTD), auxiliary_loss


class MoETransformer(nn.Module):
    """A decoder-only language model built from a `ModelConfig`. Weights are undefined until `initialise`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.layers = nn.ModuleList(Block(config, f"layers.{index}") for index in range(config.n_layers))
        self.final_norm = config.final_norm.build(config.d_model)

    def forward(self, tokens_BT: Tensor, noise: Noise | None = None) -> ModelOutput:
        """Run the model up to its head.

        Args:
            tokens_BT: int64 tokens; T at most `max_seq_len`.
            noise: source of dropout and router noise; None (evaluation) draws nothing.
        """
        assert tokens_BT.shape[1] <= self.config.max_seq_len, "sequence longer than max_seq_len"
        x_BTD = F.embedding(tokens_BT, self.embedding) * self.config.d_model**0.5
        x_BTD = dropout(x_BTD, self.config.dropout, noise, "embedding.after")
        auxiliary_loss = x_BTD.new_zeros((), dtype=torch.float32)
        for layer in self.layers:
            x_BTD, layer_loss = layer(x_BTD, noise)
            if layer_loss is not None:
                auxiliary_loss = auxiliary_loss + layer_loss
        hidden_BTD = dropout(self.final_norm(x_BTD), self.config.dropout, noise, "head.before")
        return ModelOutput(hidden_BTD, auxiliary_loss)

    def loss(self, output: ModelOutput, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats over the scored targets; head and loss are fused."""
        return linear_cross_entropy(output.hidden_BTD.flatten(0, 1), self.embedding, targets_BT.flatten())

    def token_losses(self, output: ModelOutput, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return each token's cross-entropy in nats and whether it is predicted right, both (B·T,); no gradient."""
        return token_losses(output.hidden_BTD.flatten(0, 1), self.embedding, targets_BT.flatten())

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Apply the tied head: (B, T, D) to (B, T, V)."""
        return F.linear(hidden_BTD, self.embedding)

    def routers(self) -> list[Router]:
        """Return the routers, first layer first; empty for a dense model."""
        return [module for module in self.modules() if isinstance(module, Router)]


def build_model(config: ModelConfig, seed: int, device: torch.device | str = "cpu") -> MoETransformer:
    """Build a model on `device` with initial values drawn from `seed`, equal on every device."""
    with torch.device("meta"):
        model = MoETransformer(config)
    model.to_empty(device="cpu")
    initialise(model, seed)
    return model.to(device)


@torch.no_grad()
def initialise(model: MoETransformer, seed: int) -> None:
    """Draw initial values: matrices N(0, init_std), gains 1, biases and buffers 0.

    Each matrix draws from the stream (seed, its dotted name), each expert of a stack from (seed, name, expert):
    tensors of equal role and shape start equal in every cell of a study, whatever else differs. The slots of
    `default_init` draw from the same streams what `nn.Linear` draws: weights and biases uniform in ±1/sqrt(inputs).
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        is_uniform = _slot(name) in model.config.default_init
        if not is_matrix(name, parameter) and not (is_uniform and is_bias(name)):
            parameter.fill_(0.0 if is_bias(name) else 1.0)
            continue
        matrix = parameters[matrix_of(name)]
        bound = matrix.shape[-1] ** -0.5
        for part, stream in _draws(parameter, seed, name, is_stack=matrix.ndim == 3):
            if is_uniform:
                part.uniform_(-bound, bound, generator=stream)
            else:
                part.normal_(0.0, model.config.init_std, generator=stream)
    for buffer in model.buffers():
        buffer.zero_()


def _draws(parameter: Tensor, seed: int, name: str, *, is_stack: bool) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Yield what is drawn at once, with its stream: the parameter, or each expert of a stack."""
    if is_stack:
        for index, expert in enumerate(parameter):
            yield expert, generator(seed, "init", name, index)
    else:
        yield parameter, generator(seed, "init", name)


def _slot(name: str) -> str:
    """Return the slot of a block's parameter (`layers.0.attention.out.weight`: attention); of any other, nothing."""
    return name.split(".")[2] if name.startswith("layers.") else ""
