"""What every registered component must do. A new component is picked up here from its registry."""

from __future__ import annotations

import itertools

import pytest
import torch

from moe_models.accounting import count, count_model
from moe_models.attention import ATTENTION
from moe_models.config import PLACEMENTS, ModelConfig
from moe_models.feed_forward import FEED_FORWARD
from moe_models.model import MoETransformer, build_model
from moe_models.norms import NORM
from moe_models.positions import POSITION, Rotary
from moe_models.registry import Registry, to_dict
from moe_models.routers import ROUTER
from moe_models.size import Size
from moe_models.streams import Noise

SIZE = Size(d_model=32, n_layers=2, n_heads=2, d_ff=48, n_experts=4, top_k=2, latent_rank=12)
VOCABULARY, LENGTH, BATCH = 50, 16, 3

REGISTRIES: list[Registry] = [ATTENTION, FEED_FORWARD, NORM, POSITION, ROUTER]
ALL = [(registry, preset) for registry in REGISTRIES for preset in registry.presets()]
MODELS = [
    *(("attention", preset) for preset in ATTENTION.presets()),
    *(("feed_forward", preset) for preset in FEED_FORWARD.presets()),
    *(("norm", preset) for preset in NORM.presets()),
    *(("placement", placement) for placement in PLACEMENTS),
]
KNOWN_DEAD = {"unused_glm4": ".feed_forward.unused."}
"""Presets that declare parameters without a use, and where in the model these are."""


def model_config(slot: str = "norm", preset: str = "rmsnorm", dropout: float = 0.0) -> ModelConfig:
    chosen = {"attention": "mha", "feed_forward": "moe_softmax_plain", "norm": "rmsnorm", "placement": "pre"} | {
        slot: preset
    }
    return ModelConfig(
        vocab_size=VOCABULARY,
        d_model=SIZE.d_model,
        n_layers=SIZE.n_layers,
        max_seq_len=LENGTH,
        dropout=dropout,
        init_std=0.2,  # large, so that every part moves the output visibly
        attention=ATTENTION.configure(chosen["attention"], SIZE),
        feed_forward=FEED_FORWARD.configure(chosen["feed_forward"], SIZE),
        block_norm=NORM.configure(chosen["norm"], SIZE),
        final_norm=NORM.configure(chosen["norm"], SIZE),
        placement=chosen["placement"],
    )


def tokens(seed: int = 0, batch: int = BATCH, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: MoETransformer, tokens_BT: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
    return model.logits(model(tokens_BT, noise).hidden_BTD)


@pytest.mark.parametrize(("registry", "preset"), ALL, ids=lambda value: value if isinstance(value, str) else value.slot)
def test_configuration_survives_the_round_trip(registry: Registry, preset: str) -> None:
    config = registry.configure(preset, SIZE)
    assert registry.from_dict(to_dict(config)) == config
    assert config.kind in registry


def test_every_registered_kind_has_a_preset() -> None:
    for registry in REGISTRIES:
        covered = {registry.configure(preset, SIZE).kind for preset in registry.presets()}
        assert covered == set(registry), f"{registry.slot}: a kind without a preset is never tested"


@pytest.mark.parametrize(("slot", "preset"), MODELS)
class TestModel:
    def test_shapes_finite_and_every_parameter_trains(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset), seed=1)
        model.train()
        for step in range(4):  # several batches: an expert may miss one
            output = model(tokens(step), Noise(1, step, 0))
            assert output.hidden_BTD.shape == (BATCH, LENGTH, SIZE.d_model)
            (model.loss(output, tokens(step + 1)) + output.auxiliary_loss).backward()
        dead = KNOWN_DEAD.get(preset, "none")
        for name, parameter in model.named_parameters():
            if dead in name:
                assert parameter.grad is None, f"{name} is said to be dead but has a gradient"
                continue
            assert parameter.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, f"{name} never gets a gradient"

    @pytest.mark.parametrize("training", [False, True])
    def test_no_position_sees_the_future(self, slot: str, preset: str, training: bool) -> None:
        model = build_model(model_config(slot, preset, dropout=0.1), seed=1)
        model.train(training)
        noise = Noise(3, 0, 0) if training else None
        original = logits(model, tokens(0), noise)
        for position in (1, 7, LENGTH - 1):
            changed = tokens(0)
            changed[:, position:] = tokens(9)[:, position:]
            assert not torch.equal(changed, tokens(0))
            moved = logits(model, changed, noise)
            torch.testing.assert_close(moved[:, :position], original[:, :position], rtol=1e-5, atol=1e-5)
            assert (moved[:, position:] - original[:, position:]).abs().max() > 1e-3

    def test_gradient_of_a_logit_stops_at_its_position(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset), seed=1).eval()
        one_hot = torch.nn.functional.one_hot(tokens(0), VOCABULARY).float().requires_grad_()
        embedded = one_hot @ model.embedding * SIZE.d_model**0.5
        x_BTD = embedded
        for layer in model.layers:
            x_BTD, _ = layer(x_BTD, None)
        position = 5
        output = model.logits(model.final_norm(x_BTD))[:, position].sum()
        (gradient,) = torch.autograd.grad(output, one_hot)
        assert gradient[:, position + 1 :].abs().max() == 0
        assert gradient[:, : position + 1].abs().max() > 0

    def test_sequences_of_a_batch_do_not_see_each_other(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset), seed=1).eval()
        together = logits(model, tokens(0))
        alone = torch.cat([logits(model, tokens(0)[row : row + 1]) for row in range(BATCH)])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)

    def test_shorter_sequences_give_the_same_prefix(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset), seed=1).eval()
        whole = logits(model, tokens(0))
        for length in (1, 2, 11):
            part = logits(model, tokens(0)[:, :length])
            torch.testing.assert_close(part, whole[:, :length], rtol=1e-5, atol=1e-5)

    def test_draws_come_from_the_streams_alone(self, slot: str, preset: str) -> None:
        def run(global_seed: int, seed: int) -> torch.Tensor:
            torch.manual_seed(global_seed)
            model = build_model(model_config(slot, preset, dropout=0.2), seed=seed)
            model.train()
            return logits(model, tokens(0), Noise(seed, 0, 0))

        assert torch.equal(run(0, 1), run(99, 1))
        assert not torch.equal(run(0, 1), run(0, 2))

    def test_noise_differs_by_update_and_is_absent_in_evaluation(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset, dropout=0.2), seed=1)
        assert torch.equal(logits(model, tokens(0)), logits(model, tokens(0)))
        first, second = (logits(model, tokens(0), Noise(1, update, 0)) for update in (0, 1))
        assert not torch.equal(first, second)

    def test_bf16_autocast_is_close(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset), seed=1).eval()
        exact = logits(model, tokens(0))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = logits(model, tokens(0))
        # A flipped routing decision may move single tokens far: most must be close.
        assert ((rounded.float() - exact).abs() < 0.1 * exact.abs().max()).float().mean() > 0.9

    def test_state_survives_saving(self, slot: str, preset: str, tmp_path: object) -> None:
        model = build_model(model_config(slot, preset), seed=1)
        path = f"{tmp_path}/model.pt"
        torch.save(model.state_dict(), path)
        other = build_model(model_config(slot, preset), seed=2)
        assert not torch.equal(logits(other, tokens(0)), logits(model, tokens(0)))
        other.load_state_dict(torch.load(path, weights_only=True))
        assert torch.equal(logits(other, tokens(0)), logits(model, tokens(0)))

    def test_counts_are_the_built_models(self, slot: str, preset: str) -> None:
        config = model_config(slot, preset)
        built = build_model(config, seed=0)
        assert count(config) == count_model(built)
        assert count(config).params_total == sum(p.numel() for p in built.parameters())
        assert count(config).params_active <= count(config).params_total
        dead = sum(p.numel() for name, p in built.named_parameters() if KNOWN_DEAD.get(preset, "none") in name)
        assert (dead > 0) == (preset in KNOWN_DEAD)
        assert count(config).params_active <= count(config).params_total - dead

    def test_inference_mode_leaves_nothing_that_breaks_training(self, slot: str, preset: str) -> None:
        model = build_model(model_config(slot, preset), seed=1)
        with torch.inference_mode():
            model(tokens(0))
        model.loss(model(tokens(0), Noise(0, 0, 0)), tokens(1)).backward()


@pytest.mark.parametrize("preset", POSITION.presets())
def test_scores_depend_on_distance_alone(preset: str) -> None:
    config = POSITION.configure(preset, SIZE)
    rotary = Rotary(config, 8)
    stream = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=stream)
    queries, keys = (rotary(vector.expand(1, LENGTH, 1, 8))[0, :, 0] for vector in (query, key))
    scores = queries @ keys.T
    for distance in range(4):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    length = queries.norm(dim=-1) / query.norm()
    torch.testing.assert_close(length, torch.full_like(length, config.amplitude()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", ROUTER.presets())
def test_router_chooses_distinct_experts_and_counts_only_in_training(preset: str) -> None:
    router = ROUTER.configure(preset, SIZE).build(SIZE.d_model, SIZE.n_experts, SIZE.top_k, role="router")
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    x_BTD = torch.randn(BATCH, LENGTH, SIZE.d_model, generator=torch.Generator().manual_seed(1))
    router.eval()
    routing = router(x_BTD, None)
    assert router.load_E.sum() == 0
    assert all(len(set(chosen)) == SIZE.top_k for chosen in routing.experts_BTK.flatten(0, 1).tolist())
    torch.testing.assert_close(routing.weights_BTK.sum(-1), torch.ones(BATCH, LENGTH))
    router.train()
    router(x_BTD, None)
    router(x_BTD, None)
    assert router.after_update().sum() == 2 * BATCH * LENGTH * SIZE.top_k
    assert router.load_E.sum() == 0


def test_tensors_of_equal_role_and_shape_start_equal_in_all_models() -> None:
    models = [build_model(model_config(slot, preset), seed=5) for slot, preset in MODELS]
    shared = 0
    for one, other in itertools.combinations(models, 2):
        parameters = dict(other.named_parameters())
        for name, parameter in one.named_parameters():
            if name in parameters and parameters[name].shape == parameter.shape:
                assert torch.equal(parameter, parameters[name]), name
                shared += 1
    assert shared > 100
