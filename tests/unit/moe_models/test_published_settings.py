"""Each setting that rebuilds something published does what it says, and at its default leaves no trace."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from moe_models.attention import ATTENTION
from moe_models.config import ModelConfig
from moe_models.errors import ConfigError
from moe_models.feed_forward import FEED_FORWARD
from moe_models.feed_forward.dense import Dense
from moe_models.feed_forward.moe import MixtureOfExperts
from moe_models.model import MoETransformer, build_model
from moe_models.routers.softmax_topk import SoftmaxTopK
from moe_models.size import Size
from moe_models.streams import Noise
from trainables.scales import SCALES

SIZE = Size(d_model=64, n_layers=2, n_heads=4, d_ff=96, n_experts=4, top_k=2, latent_rank=16)


def model_config(attention: str = "mla_rope_only", feed_forward: str = "dense_gated", **changes: Any) -> ModelConfig:
    base = replace(SCALES["cpu"], size=SIZE, vocab_size=50).model(
        attention=attention, norm="rmsnorm", feed_forward=feed_forward
    )
    return replace(base, **{"init_std": 0.2, **changes})


def without_mask(preset: str) -> Any:
    attention: Any = ATTENTION.configure(preset, SIZE)
    return replace(attention, causal=False)


@pytest.mark.parametrize("preset", ["mha", "mha_biased_no_position", "mla", "mla_rope_only"])
@pytest.mark.parametrize("training", [False, True])
def test_without_a_causal_mask_the_future_is_seen(preset: str, training: bool) -> None:
    tokens_BT = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    changed_BT = tokens_BT.clone()
    changed_BT[:, -1] = (changed_BT[:, -1] + 1) % 50
    noise = Noise(3, 0, 0) if training else None
    moved = {}
    for causal in (True, False):
        attention = ATTENTION.configure(preset, SIZE) if causal else without_mask(preset)
        model = build_model(model_config(attention=preset, dropout=0.1), seed=1)
        model = build_model(replace(model.config, attention=attention), seed=1).train(training)
        one, other = (model.logits(model(x_BT, noise).hidden_BTD) for x_BT in (tokens_BT, changed_BT))
        moved[causal] = (one - other)[:, :-1].abs().max().item()
    assert moved[True] < 1e-5
    assert moved[False] > 1e-2


def parameters(model: MoETransformer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_default_initial_values_are_those_of_linear_layers() -> None:
    sound = parameters(build_model(model_config(), seed=4))
    config = model_config(default_init=("attention", "feed_forward"))
    flawed = parameters(build_model(config, seed=4))
    # torch itself, by name of the matrix: its shape and whether it has a bias
    swapped = {name for name in sound if ".attention." in name or ".feed_forward." in name}
    swapped = {name for name in swapped if "norm" not in name}
    assert {name for name in sound if not torch.equal(sound[name], flawed[name])} == swapped
    torch.manual_seed(0)
    for name in swapped:
        matrix = flawed[name.removesuffix("bias") + "weight" if name.endswith(".bias") else name]
        rows, columns = matrix.shape
        linear = torch.nn.Linear(columns, rows)
        expected = linear.bias if name.endswith("bias") else linear.weight
        bound = columns**-0.5
        assert expected.abs().max() <= bound  # that is what torch does
        assert flawed[name].abs().max() <= bound
        if expected.numel() > 500:
            assert flawed[name].std().item() == pytest.approx(expected.std().item(), rel=0.1), name
            assert flawed[name].abs().max() > 0.95 * bound
        else:
            assert flawed[name].abs().max() > 0.5 * bound
    again = parameters(build_model(config, seed=4))
    assert all(torch.equal(flawed[name], again[name]) for name in flawed)


def test_default_initial_values_reach_the_named_slot_alone_and_each_expert() -> None:
    sound = parameters(build_model(model_config(feed_forward="moe_softmax_biased_relu"), seed=4))
    for slot in ("attention", "feed_forward"):
        config = model_config(feed_forward="moe_softmax_biased_relu", default_init=(slot,))
        flawed = parameters(build_model(config, seed=4))
        differing = {name for name in sound if not torch.equal(sound[name], flawed[name])}
        assert differing
        assert all(f".{slot}." in name for name in differing)
    up_EHD, bias_EH = flawed["layers.0.feed_forward.experts.up"], flawed["layers.0.feed_forward.experts.up_bias"]
    assert up_EHD.abs().max() <= 64**-0.5
    assert bias_EH.abs().max() <= 64**-0.5
    assert len({tuple(row) for row in bias_EH.tolist()}) == SIZE.n_experts


@pytest.mark.parametrize("preset", ["dense_gated", "moe_softmax_plain", "moe_glm4"])
def test_without_hidden_dropout_training_is_evaluation(preset: str) -> None:
    layer: Any = FEED_FORWARD.configure(preset, SIZE)
    x_BTD = torch.randn(2, 8, SIZE.d_model, generator=torch.Generator().manual_seed(0))
    noise = Noise(0, 0, 0)
    for config in (layer, replace(layer, hidden_dropout=False)):
        if isinstance(config, MixtureOfExperts) and isinstance(config.router, SoftmaxTopK):
            config = replace(config, router=replace(config.router, noise_std=0.0))
        module = config.build(SIZE.d_model, dropout=0.5, role="layer")
        stream = torch.Generator().manual_seed(1)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.2, generator=stream)
        assert torch.equal(module(x_BTD, noise)[0], module(x_BTD, None)[0]) == (not config.hidden_dropout)


def test_the_variance_of_the_mean_probabilities_as_a_balance_loss() -> None:
    router = SoftmaxTopK(noise_std=0.0, balance="variance", balance_weight=0.1).build(8, 4, 2, role="router")
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    x_BTD = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    usage = [0.0] * 4
    for x_D in x_BTD.flatten(0, 1):
        for expert, probability in enumerate(torch.softmax(router.weight @ x_D, 0).tolist()):
            usage[expert] += probability / 15
    mean = sum(usage) / 4
    expected = 0.1 * sum((value - mean) ** 2 for value in usage) / 3
    assert router(x_BTD, None).auxiliary_loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_flawed_configuration_survives_json_and_a_sound_one_shows_no_flaw() -> None:
    sound = model_config()
    assert "default_init" not in sound.to_dict()
    assert "causal" not in sound.to_dict()["attention"]
    assert "hidden_dropout" not in sound.to_dict()["feed_forward"]
    flawed = replace(
        sound,
        attention=without_mask("mla_rope_only"),
        feed_forward=Dense(d_ff=8, hidden_dropout=False),
        default_init=("attention", "feed_forward"),
    )
    assert ModelConfig.from_dict(json.loads(json.dumps(flawed.to_dict()))) == flawed


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="unknown slot of default_init 'atention': did you mean 'attention'"):
        model_config(default_init=("atention",))
    moe = MixtureOfExperts(n_experts=4, top_k=2, d_ff=8, router=SoftmaxTopK(balance="varians"))
    with pytest.raises(ConfigError, match=r"router.balance must be one of load, variance but got 'varians'"):
        moe.validate(8)
