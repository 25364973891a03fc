"""Initial values, configuration errors, streams."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moe_models.attention.glm4 import Glm4Attention
from moe_models.attention.mha import MultiHeadAttention
from moe_models.config import ModelConfig
from moe_models.dropout import dropout
from moe_models.errors import ConfigError
from moe_models.feed_forward import FeedForwardConfig
from moe_models.feed_forward.dense import Dense
from moe_models.feed_forward.moe import moe_softmax_biased_relu
from moe_models.feed_forward.parallel import Parallel
from moe_models.feed_forward.unused_glm4 import UnusedGlm4
from moe_models.grouped import arrange_by_expert
from moe_models.model import build_model
from moe_models.streams import Noise, derive_seed, generator
from trainables.scales import SCALES

CONFIG = SCALES["cpu"].model(attention="mla_rope_only", norm="rmsnorm", feed_forward="moe_deepseek_gated")


def glm4_with(**changes: int) -> Glm4Attention:
    return Glm4Attention(**({"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "rope_dim": 8} | changes))


@pytest.mark.parametrize("feed_forward", [CONFIG.feed_forward, moe_softmax_biased_relu(SCALES["cpu"].size)])
def test_initial_values(feed_forward: FeedForwardConfig) -> None:
    model = build_model(dataclasses.replace(CONFIG, feed_forward=feed_forward), seed=3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(parameter.mean().item()) < 0.002, name
    experts = model.layers[0].feed_forward.experts.up
    assert not torch.equal(experts[0], experts[1])
    assert not torch.equal(experts, model.layers[1].feed_forward.experts.up)


def test_an_experts_values_do_not_depend_on_how_many_there_are() -> None:
    moe = CONFIG.feed_forward
    more = dataclasses.replace(CONFIG, feed_forward=dataclasses.replace(moe, n_experts=12))
    one, other = build_model(CONFIG, seed=3), build_model(more, seed=3)
    assert torch.equal(one.layers[0].feed_forward.experts.up, other.layers[0].feed_forward.experts.up[:8])


def test_seeds_differ_and_repeat() -> None:
    first, again, other = (build_model(CONFIG, seed=seed).embedding for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be 1 or more but got 0"),
        ({"d_model": -1}, "d_model must be 1 or more but got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\) but got 1.0"),
        ({"init_std": 0.0}, "init_std must be positive"),
        ({"placement": "middle"}, "placement must be one of pre, post but got 'middle'"),
        ({"attention": MultiHeadAttention(n_heads=5)}, r"n_heads \(5\) must divide d_model \(64\)"),
        ({"attention": MultiHeadAttention(n_heads=64)}, "even head dimensions"),
        ({"attention": glm4_with(n_kv_heads=3)}, r"n_kv_heads must divide n_heads \(4\) but got 3"),
        ({"attention": glm4_with(rope_dim=18)}, r"rope_dim must be even and from 2 to head_dim \(16\) but got 18"),
        ({"attention": glm4_with(rope_dim=7)}, "rope_dim must be even"),
        ({"feed_forward": Parallel(dense=Dense(d_ff=8), moe=Dense(d_ff=8))}, "parallel.moe must be a moe layer"),
        ({"feed_forward": UnusedGlm4(vocab_size=0, n_heads=4, used=Dense(d_ff=8))}, "vocab_size must be 1 or more"),
        ({"feed_forward": UnusedGlm4(vocab_size=9, n_heads=4, used=Dense(d_ff=0))}, "dense.d_ff must be 1 or more"),
    ],
)
def test_bad_configurations_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_unknown_names_come_with_the_nearest() -> None:
    data = CONFIG.to_dict()
    with pytest.raises(ConfigError, match="unknown field of model 'dmodel': did you mean 'd_model'"):
        ModelConfig.from_dict({**data, "dmodel": 3})
    with pytest.raises(ConfigError, match="unknown attention 'mlaa': did you mean 'mla'"):
        ModelConfig.from_dict({**data, "attention": {**data["attention"], "kind": "mlaa"}})
    with pytest.raises(ConfigError, match="missing n_heads"):
        ModelConfig.from_dict({**data, "attention": {"kind": "mha"}})
    with pytest.raises(ConfigError, match="did you mean 'mla_rope_only'"):
        SCALES["cpu"].model(attention="mla_rope", norm="rmsnorm", feed_forward="dense_gated")


def test_streams_are_stable_and_distinct() -> None:
    # A changed derivation would silently change every result ever recorded.
    assert derive_seed(0, "init", "embedding") == 7300598856045699588
    seeds = {derive_seed(seed, *keys) for seed in range(5) for keys in (("a",), ("b",), ("a", 1), ("a", 2), ())}
    assert len(seeds) == 25
    first = torch.rand(4, generator=generator(0, "a"))
    assert torch.equal(first, torch.rand(4, generator=generator(0, "a")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_dropout_keeps_the_mean_in_every_precision(rate: float, dtype: torch.dtype) -> None:
    x = torch.rand(400_000, generator=torch.Generator().manual_seed(0)).add(0.5).to(dtype)
    dropped = dropout(x, rate, Noise(0, 0, 0), "here")
    kept = dropped != 0
    assert dropped.dtype == dtype
    assert (dropped[kept].double() / x[kept].double()).mean().item() * (1 - rate) == pytest.approx(1.0, abs=1e-4)


def test_dropout_rate_scale_and_mask() -> None:
    x = torch.ones(200, 100)
    noise = Noise(0, 0, 0)
    dropped = dropout(x, 0.25, noise, "here")
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.max().item() == pytest.approx(1 / 0.75)
    assert torch.equal(dropped, dropout(x, 0.25, noise, "here"))
    assert not torch.equal(dropped, dropout(x, 0.25, noise, "there"))
    assert dropout(x, 0.25, None, "here") is x
    experts = torch.randint(0, 5, (100, 2), generator=torch.Generator().manual_seed(0))
    for multiple in (1, 32):
        rows = arrange_by_expert(experts, 5, multiple)
        sorted_x = torch.ones(len(rows.sources_M), 100)
        assert torch.equal(dropout(sorted_x, 0.25, noise, "here", rows=rows)[rows.places_A], dropped)
