"""The routing rules: groups, the bias and when it moves."""

from __future__ import annotations

import pytest
import torch

from moe_models.errors import ConfigError
from moe_models.feed_forward.moe import MixtureOfExperts
from moe_models.routers.deepseek import DeepSeekRouting
from moe_models.routers.softmax_topk import SoftmaxTopK
from moe_models.streams import Noise


def deepseek(experts: int = 4, top_k: int = 1, **settings: float) -> torch.nn.Module:
    return DeepSeekRouting(**settings).build(8, experts, top_k, role="router")  # type: ignore[arg-type]


def test_bias_moves_one_step_against_the_load_of_all_micro_batches() -> None:
    router = deepseek(bias_step=0.01).train()
    logits = torch.full((1, 4, 4), -5.0)
    logits[..., 0] = 5.0
    router.load_E += torch.bincount(router.route(logits, None).experts_BTK.flatten(), minlength=4)
    logits[..., 1] = 9.0
    router.load_E += torch.bincount(router.route(logits, None).experts_BTK.flatten(), minlength=4)
    assert torch.equal(router.bias_E, torch.zeros(4)), "the bias moved before the update"
    assert router.after_update().tolist() == [4, 4, 0, 0]
    torch.testing.assert_close(router.bias_E, torch.tensor([-0.01, -0.01, 0.01, 0.01]))
    router.after_update()
    torch.testing.assert_close(router.bias_E, torch.tensor([-0.01, -0.01, 0.01, 0.01]))  # no load: balanced


def test_bias_decides_who_is_chosen_but_not_the_weight() -> None:
    router = deepseek(normalise=False)
    logits = torch.tensor([[[2.0, 1.0, 0.0, -1.0]]])
    router.bias_E += torch.tensor([0.0, 0.0, 0.0, 5.0])
    routing = router.route(logits, None)
    assert routing.experts_BTK.item() == 3
    torch.testing.assert_close(routing.weights_BTK.squeeze(), torch.tensor(-1.0).sigmoid())


def test_bias_is_a_checkpointed_buffer_and_no_parameter() -> None:
    router = deepseek()
    assert "bias_E" in router.state_dict()
    assert "load_E" not in router.state_dict()
    assert [name for name, _ in router.named_parameters()] == ["weight"]


def test_bias_balances_a_skewed_router_over_training() -> None:
    router = deepseek(experts=8, top_k=2, bias_step=0.02).train()
    stream = torch.Generator().manual_seed(0)
    skew = torch.linspace(-1, 1, 8)
    imbalance = []
    for _ in range(300):
        logits = torch.randn(1, 256, 8, generator=stream) * 0.5 + skew
        router.load_E += torch.bincount(router.route(logits, None).experts_BTK.flatten(), minlength=8)
        load = router.after_update()
        imbalance.append((load.max() / load.mean()).item())
    assert imbalance[0] > 3
    assert sum(imbalance[-20:]) / 20 < 1.5


def test_groups_limit_the_choice() -> None:
    router = deepseek(experts=6, top_k=2, n_groups=3, top_groups=1)
    # The single best expert sits in group 0, but group 2 has the best two together.
    logits = torch.tensor([[[3.0, -9.0, 0.0, 0.0, 2.5, 2.4]]])
    assert set(router.route(logits, None).experts_BTK.flatten().tolist()) == {4, 5}


def test_sequence_balance_loss_is_its_weight_when_balanced() -> None:
    router = deepseek(sequence_balance_weight=0.5)
    balanced = 40 * torch.eye(4).unsqueeze(0) - 20
    torch.testing.assert_close(router.route(balanced, None).auxiliary_loss, torch.tensor(0.5))
    collapsed = torch.tensor([20.0, -20, -20, -20]).expand(1, 8, 4)
    torch.testing.assert_close(router.route(collapsed, None).auxiliary_loss, torch.tensor(2.0))


def test_router_noise_moves_the_choice_in_training_only() -> None:
    router = SoftmaxTopK(noise_std=3.0).build(8, 4, 1, role="router")
    logits = torch.zeros(1, 64, 4)
    chosen = {tuple(router.route(logits, Noise(0, u, 0)).experts_BTK.flatten().tolist()) for u in range(3)}
    assert len(chosen) == 3
    assert len({tuple(router.route(logits, None).experts_BTK.flatten().tolist()) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("experts", "top_k", "settings", "message"),
    [
        (4, 5, {}, r"top_k must be between 1 and n_experts \(4\) but got 5"),
        (4, 0, {}, "top_k must be between 1"),
        (4, 1, {"n_groups": 4}, "groups of two or more but got 4"),
        (8, 1, {"n_groups": 3}, "must divide n_experts"),
        (8, 1, {"n_groups": 2, "top_groups": 3}, "top_groups must be between 1 and n_groups"),
        (8, 4, {"n_groups": 4, "top_groups": 1}, "top_k must be <= the 2 experts of top_groups"),
    ],
)
def test_impossible_routing_is_refused(experts: int, top_k: int, settings: dict[str, int], message: str) -> None:
    config = MixtureOfExperts(n_experts=experts, top_k=top_k, d_ff=8, router=DeepSeekRouting(**settings))
    with pytest.raises(ConfigError, match=message):
        config.validate(16)
