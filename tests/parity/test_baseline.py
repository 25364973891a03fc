"""The baseline's parts against slow, literal references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moe_models.activations import ACTIVATIONS
from moe_models.attention.mha import MultiHeadAttention
from moe_models.config import PLACEMENTS, ModelConfig
from moe_models.feed_forward.dense import Dense
from moe_models.feed_forward.moe import MixtureOfExperts
from moe_models.feed_forward.parallel import Parallel
from moe_models.loss import IGNORED_TARGET, linear_cross_entropy, token_losses
from moe_models.model import MoETransformer
from moe_models.norms.deepseek_rmsnorm import DeepSeekRMSNorm
from moe_models.norms.layernorm import LayerNorm
from moe_models.norms.rmsnorm import RMSNorm
from moe_models.positions.none import NoPosition
from moe_models.routers.softmax_topk import SoftmaxTopK


def randomise(module: torch.nn.Module, stream: torch.Generator, std: float = 0.3) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, std, generator=stream)


def rotate(vector: Tensor, position: int) -> Tensor:
    """Turn each pair (x_2i, x_2i+1) by position · 10000^(-2i/dim), one pair at a time."""
    rotated = vector.clone()
    dim = len(vector)
    for pair in range(dim // 2):
        angle = position * 10_000.0 ** (-2 * pair / dim)
        x, y = vector[2 * pair], vector[2 * pair + 1]
        rotated[2 * pair] = x * math.cos(angle) - y * math.sin(angle)
        rotated[2 * pair + 1] = x * math.sin(angle) + y * math.cos(angle)
    return rotated


def test_mha_is_softmax_attention_with_rope_position_by_position() -> None:
    d_model, heads, length = 24, 3, 6
    head_dim = d_model // heads
    module = MultiHeadAttention(n_heads=heads).build(d_model, dropout=0.0, role="attention")
    stream = torch.Generator().manual_seed(0)
    randomise(module, stream)
    x = torch.randn(1, length, d_model, generator=stream)
    query, key, value = module.qkv(x[0]).chunk(3, dim=-1)
    expected = torch.zeros(length, d_model)
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        for t in range(length):
            q = rotate(query[t, part], t)
            scores = torch.stack([q @ rotate(key[s, part], s) / math.sqrt(head_dim) for s in range(t + 1)])
            expected[t, part] = scores.softmax(0) @ value[: t + 1, part]
    torch.testing.assert_close(module(x, None)[0], module.out(expected), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, derandomize=True)
@given(
    experts=st.integers(1, 6),
    data=st.data(),
    gated=st.booleans(),
    bias=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    tokens=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_moe_is_each_token_through_its_experts(
    experts: int, data: st.DataObject, gated: bool, bias: bool, activation: str, tokens: int, seed: int
) -> None:
    top_k = data.draw(st.integers(1, experts))
    config = MixtureOfExperts(
        n_experts=experts, top_k=top_k, d_ff=10, gated=gated, activation=activation, bias=bias,
        router=SoftmaxTopK(bias=bias),
    )  # fmt: skip
    module = config.build(16, dropout=0.0, role="feed_forward")
    stream = torch.Generator().manual_seed(seed)
    randomise(module, stream)
    x = torch.randn(1, tokens, 16, generator=stream, dtype=torch.float32, requires_grad=True)
    act = ACTIVATIONS[activation].value

    def linear(name: str, e: int, x_I: Tensor) -> Tensor:
        y_O = getattr(module.experts, name)[e] @ x_I
        return y_O + getattr(module.experts, f"{name}_bias")[e] if bias else y_O

    rows = []
    for token in x[0]:
        logits = module.router.weight @ token + (module.router.bias if bias else 0)
        chosen = sorted(range(experts), key=lambda e: -logits[e].item())[:top_k]
        weights = torch.stack([logits[e] for e in chosen]).softmax(0)
        total = torch.zeros(16)
        for weight, e in zip(weights, chosen, strict=True):
            hidden = linear("up", e, token)
            hidden = act(linear("gate", e, token)) * hidden if gated else act(hidden)
            total = total + weight * linear("down", e, hidden)
        rows.append(total)
    expected = torch.stack(rows)
    actual = module(x, None)[0][0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    probe = torch.randn(expected.shape, generator=stream)
    inputs = [x, *module.parameters()]
    for ours, slow in zip(
        torch.autograd.grad((actual * probe).sum(), inputs),
        torch.autograd.grad((expected * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-5 * max(1.0, slow.abs().max().item()))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_block_is_torchs_transformer_layer(placement: str, activation: str) -> None:
    """Biases, attention without positions, LayerNorm and both placements at once, against torch's own layer."""
    d_model, length = 24, 7
    config = ModelConfig(
        vocab_size=5,
        d_model=d_model,
        n_layers=1,
        max_seq_len=length,
        attention=MultiHeadAttention(n_heads=3, bias=True, position=NoPosition()),
        feed_forward=Dense(d_ff=40, gated=False, activation=activation, bias=True),
        block_norm=LayerNorm(),
        final_norm=RMSNorm(),
        placement=placement,
    )
    block = MoETransformer(config).layers[0]
    theirs = torch.nn.TransformerEncoderLayer(
        d_model, 3, 40, dropout=0.0, activation=activation, batch_first=True, norm_first=placement == "pre"
    )
    stream = torch.Generator().manual_seed(0)
    randomise(theirs, stream)
    names = {
        "attention.qkv.weight": "self_attn.in_proj_weight", "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.out.weight": "self_attn.out_proj.weight", "attention.out.bias": "self_attn.out_proj.bias",
        "feed_forward.up": "linear1.weight", "feed_forward.up_bias": "linear1.bias",
        "feed_forward.down": "linear2.weight", "feed_forward.down_bias": "linear2.bias",
        "attention_norm.weight": "norm1.weight", "attention_norm.bias": "norm1.bias",
        "feed_forward_norm.weight": "norm2.weight", "feed_forward_norm.bias": "norm2.bias",
    }  # fmt: skip
    block.load_state_dict({mine: theirs.state_dict()[name] for mine, name in names.items()})
    x = torch.randn(2, length, d_model, generator=stream, requires_grad=True)
    probe = torch.randn(2, length, d_model, generator=stream)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
    expected, actual = theirs(x, src_mask=mask, is_causal=True), block(x, None)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    mine = dict(block.named_parameters())
    other = dict(theirs.named_parameters())
    for ours, reference in zip(
        torch.autograd.grad((actual * probe).sum(), [x, *(mine[name] for name in names)]),
        torch.autograd.grad((expected * probe).sum(), [x, *(other[name] for name in names.values())]),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_parallel_is_the_mean_of_its_branches() -> None:
    dense = Dense(d_ff=12)
    moe = MixtureOfExperts(n_experts=4, top_k=2, d_ff=12, activation="relu", bias=True, router=SoftmaxTopK(bias=True))
    module = Parallel(dense=dense, moe=moe).build(8, dropout=0.0, role="feed_forward")
    stream = torch.Generator().manual_seed(0)
    randomise(module, stream)
    x = torch.randn(2, 5, 8, generator=stream)
    actual, auxiliary_loss = module(x, None)
    expected, expected_loss = module.moe(x, None)
    torch.testing.assert_close(actual, 0.5 * expected + 0.5 * module.dense(x, None)[0])
    assert torch.equal(auxiliary_loss, expected_loss)


def test_balance_loss_is_one_weight_when_balanced_and_experts_weights_when_collapsed() -> None:
    config = SoftmaxTopK(noise_std=0.0, balance_weight=0.01)
    router = config.build(4, 4, 1, role="router")
    collapsed = torch.tensor([100.0, 0, 0, 0]).expand(1, 8, 4)
    balanced = 100 * torch.eye(4).repeat(2, 1).unsqueeze(0)
    torch.testing.assert_close(router.route(balanced, None).auxiliary_loss, torch.tensor(0.01))
    torch.testing.assert_close(router.route(collapsed, None).auxiliary_loss, torch.tensor(0.04))


def test_the_two_rmsnorms_agree_up_to_rounding() -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=stream) * torch.logspace(-3, 3, 64).unsqueeze(1)
    one, other = RMSNorm().build(32), DeepSeekRMSNorm().build(32)
    torch.testing.assert_close(one(x), other(x), rtol=1e-6, atol=1e-6)
    expected = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(one(x), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, derandomize=True)
@given(
    tokens=st.integers(1, 40),
    vocabulary=st.integers(2, 50),
    ignored=st.integers(0, 5),
    size=st.sampled_from([1.0, 30.0]),
    chunk=st.sampled_from([1, 64, 10_000]),
    seed=st.integers(0, 2**31),
)
def test_fused_loss_is_torchs(tokens: int, vocabulary: int, ignored: int, size: float, chunk: int, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 8, generator=stream).mul_(size).requires_grad_()
    weight = torch.randn(vocabulary, 8, generator=stream, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,), generator=stream)
    targets[: min(ignored, tokens - 1)] = IGNORED_TARGET
    from moe_models import loss as module

    previous = module.CHUNK_ELEMENTS["cpu"]
    module.CHUNK_ELEMENTS["cpu"] = chunk
    try:
        actual = linear_cross_entropy(hidden, weight, targets)
        losses, correct = token_losses(hidden, weight, targets)
    finally:
        module.CHUNK_ELEMENTS["cpu"] = previous
    logits = F.linear(hidden, weight)
    expected = F.cross_entropy(logits, targets)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-4)
    assert torch.equal(correct, logits.argmax(1) == targets)
    for ours, theirs in zip(
        torch.autograd.grad(actual * 3, [hidden, weight]),
        torch.autograd.grad(expected * 3, [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, theirs.abs().max().item()))


def test_the_head_multiplies_in_the_dtype_of_autocast() -> None:
    """As `F.linear` does under it, with softmax and loss in fp32; what is scored is fp32 all the same."""
    stream = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=stream).requires_grad_() for shape in ((40, 64), (96, 64)))
    targets = torch.randint(0, 96, (40,), generator=stream)

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [hidden, weight]))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = linear_cross_entropy(hidden, weight, targets)
        expected = F.cross_entropy(F.linear(hidden, weight).float(), targets)
        scored, _ = token_losses(hidden, weight, targets)
    exact = F.cross_entropy(F.linear(hidden, weight), targets)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(scored.mean(), exact, rtol=1e-6, atol=0)
    assert abs(actual - exact) > 1e-5
    for ours, theirs, precise in zip(*map(gradients, (actual, expected, exact)), strict=True):
        size = torch.linalg.vector_norm
        assert size(ours - theirs) < 1e-2 * size(theirs)
        assert size(ours - precise) > 1e-3 * size(precise)
