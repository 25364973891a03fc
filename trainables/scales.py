"""Named scales: how large a model is and how long it trains. A study says which parts, a scale how big they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from moe_models.attention import ATTENTION
from moe_models.config import ModelConfig
from moe_models.errors import unknown_name
from moe_models.feed_forward import FEED_FORWARD
from moe_models.norms import NORM
from moe_models.size import Size
from trainables.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of every part, and the training budget."""

    name: str
    description: str
    size: Size
    vocab_size: int
    dropout: float
    training: TrainingConfig

    def model(
        self, *, attention: str, norm: str, feed_forward: str, final_norm: str = "rmsnorm", placement: str = "pre"
    ) -> ModelConfig:
        """Return a model of this size from presets. `norm` is the blocks'; `placement` is where these stand."""
        return ModelConfig(
            vocab_size=self.vocab_size,
            d_model=self.size.d_model,
            n_layers=self.size.n_layers,
            max_seq_len=self.training.seq_len,
            dropout=self.dropout,
            attention=ATTENTION.configure(attention, self.size),
            feed_forward=FEED_FORWARD.configure(feed_forward, self.size),
            block_norm=NORM.configure(norm, self.size),
            final_norm=NORM.configure(final_norm, self.size),
            placement=placement,
        )

    def with_training(self, *, updates: int | None = None, **choices: Any) -> TrainingConfig:
        """Return the training budget; `updates` overrides its length, `choices` further fields."""
        return replace(self.training, updates=self.training.updates if updates is None else updates, **choices)


def _rung(name: str, d_model: int, n_layers: int, n_experts: int, updates: int) -> Scale:
    """Return one rung of the ladder: heads 16 wide, experts four times the width, two of them a token."""
    return Scale(
        name=name,
        description=f"{n_layers} layer{'s' if n_layers > 1 else ''}, {d_model} wide, {n_experts} experts: a rung of "
        "sweeps/scaling.py's ladder",
        size=Size(
            d_model=d_model,
            n_layers=n_layers,
            n_heads=d_model // 16,
            d_ff=4 * d_model,
            n_experts=n_experts,
            top_k=2,
            latent_rank=d_model // 2,
        ),
        vocab_size=1_024,
        dropout=0.0,
        training=TrainingConfig(
            updates=updates, batch_size=16, seq_len=64, row_every=25, evaluate_every=150, evaluation_batch_size=64
        ),
    )


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        _rung("ladder_1", 32, 1, 4, 150),
        _rung("ladder_2", 48, 2, 4, 225),
        _rung("ladder_3", 64, 2, 8, 300),
        _rung("ladder_4", 96, 3, 8, 450),
        Scale(
            name="cpu",
            description="2 layers, 64 wide, vocabulary 1,024: a study of 80 runs in minutes on two cores",
            size=Size(d_model=64, n_layers=2, n_heads=4, d_ff=256, n_experts=8, top_k=2, latent_rank=32),
            vocab_size=1_024,
            dropout=0.0,
            training=TrainingConfig(
                updates=300,
                batch_size=16,
                seq_len=64,
                row_every=25,
                evaluate_every=100,
                evaluation_batch_size=64,
            ),
        ),
        Scale(
            name="paper_256d",
            description="3 layers, 256 wide, vocabulary 49,152: the published size of exp3 to exp6",
            size=Size(d_model=256, n_layers=3, n_heads=4, d_ff=1_024, n_experts=8, top_k=2, latent_rank=128),
            vocab_size=49_152,
            dropout=0.1,
            training=TrainingConfig(
                updates=250,
                batch_size=16,
                seq_len=256,
                accumulation=4,
                row_every=5,
                evaluate_every=50,
                evaluation_batch_size=16,
            ),
        ),
        Scale(
            name="paper_512d",
            description="3 layers, 512 wide, vocabulary 49,152: the published size of exp1's components",
            size=Size(d_model=512, n_layers=3, n_heads=8, d_ff=1_024, n_experts=8, top_k=2, latent_rank=128),
            vocab_size=49_152,
            dropout=0.1,
            training=TrainingConfig(
                updates=375,
                batch_size=16,
                seq_len=256,
                accumulation=4,
                row_every=5,
                evaluate_every=75,
                evaluation_batch_size=16,
            ),
        ),
        Scale(
            name="paper_768d",
            description="10 layers, 768 wide, vocabulary 49,152: the published size of exp1's attention",
            size=Size(d_model=768, n_layers=10, n_heads=12, d_ff=3_072, n_experts=8, top_k=2, latent_rank=128),
            vocab_size=49_152,
            dropout=0.1,
            training=TrainingConfig(
                updates=25,
                batch_size=16,
                seq_len=512,
                accumulation=4,
                row_every=1,
                evaluate_every=5,
                evaluation_batch_size=16,
            ),
        ),
    )
}
"""By name. The paper scales' updates, of 4 micro-batches each, make the published 1,000, 1,500 and 100 micro-steps."""


def scale_named(name: str) -> Scale:
    """Return a scale; an unknown name raises ConfigError with the nearest one."""
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return SCALES[name]
