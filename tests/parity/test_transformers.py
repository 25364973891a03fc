"""Our DeepSeek and GLM4 parts against Hugging Face transformers', weights copied over: outputs and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DeepseekV3Config, Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as theirs
from transformers.models.glm4_moe import modeling_glm4_moe as glm4

from moe_models.attention.glm4 import Glm4Attention
from moe_models.attention.mla import MultiHeadLatentAttention
from moe_models.feed_forward.dense import Dense
from moe_models.feed_forward.moe import MixtureOfExperts
from moe_models.feed_forward.unused_glm4 import unused_glm4
from moe_models.norms.deepseek_rmsnorm import DeepSeekRMSNorm
from moe_models.positions.rope import Rope
from moe_models.positions.rope_dynamic import RopeDynamic
from moe_models.positions.rope_linear import RopeLinear
from moe_models.positions.rope_yarn import RopeYarn
from moe_models.routers.deepseek import DeepSeekRouting
from moe_models.size import Size

D_MODEL = 32


def randomise(module: torch.nn.Module, stream: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.3, generator=stream)


def gradients(output: Tensor, probe: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((output * probe).sum(), inputs))


def assert_gradients_agree(ours: list[Tensor], others: list[Tensor]) -> None:
    """To 1e-5 of the largest gradient.

    A gradient that is small, or zero, because large terms cancel (the query's at one token, say) has the rounding of
    those terms: its own size says nothing about it.
    """
    scale = max(1.0, *(other.abs().max().item() for other in others))
    for mine, other in zip(ours, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * scale)


ROPES = {
    "default": (Rope(), {"rope_type": "default", "rope_theta": 10_000.0}),
    "linear": (RopeLinear(factor=2.0), {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}),
    "dynamic": (
        RopeDynamic(original_max_seq_len=8, factor=2.0),
        {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
    ),
    "yarn": (
        RopeYarn(original_max_seq_len=8, factor=4.0, mscale=1.0, mscale_all_dim=0.8),
        {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
        },
    ),
}


@settings(max_examples=40, derandomize=True)
@given(
    heads=st.integers(1, 4),
    q_rank=st.integers(2, 24),
    kv_rank=st.integers(2, 24),
    rope_dim=st.sampled_from([4, 8, 16]),
    nope_dim=st.sampled_from([0, 3, 8]),
    v_dim=st.integers(1, 16),
    bias=st.booleans(),
    rope=st.sampled_from(sorted(ROPES)),
    length=st.integers(1, 24),
    seed=st.integers(0, 2**31),
)
def test_mla(
    heads: int, q_rank: int, kv_rank: int, rope_dim: int, nope_dim: int, v_dim: int, bias: bool, rope: str,
    length: int, seed: int,
) -> None:  # fmt: skip
    position, rope_parameters = ROPES[rope]
    config = DeepseekV3Config(
        hidden_size=D_MODEL,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        q_lora_rank=q_rank,
        kv_lora_rank=kv_rank,
        qk_rope_head_dim=rope_dim,
        qk_nope_head_dim=nope_dim,
        v_head_dim=v_dim,
        attention_bias=bias,
        max_position_embeddings=32 if rope == "yarn" else 8,
        rope_parameters=dict(rope_parameters),
        attn_implementation="eager",
    )
    reference = theirs.DeepseekV3Attention(config, layer_idx=0)
    stream = torch.Generator().manual_seed(seed)
    randomise(reference, stream)
    mine = MultiHeadLatentAttention(
        n_heads=heads, q_rank=q_rank, kv_rank=kv_rank, rope_dim=rope_dim, nope_dim=nope_dim, v_dim=v_dim, bias=bias,
        position=position,
    ).build(D_MODEL, dropout=0.0, role="attention")  # fmt: skip
    names = {
        "q_a_proj": "q_down", "q_a_layernorm": "q_norm", "q_b_proj": "q_up", "kv_a_proj_with_mqa": "kv_down",
        "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up", "o_proj": "out",
    }  # fmt: skip
    renamed = {
        ".".join([names[name.split(".")[0]], *name.split(".")[1:]]): value
        for name, value in reference.state_dict().items()
    }
    mine.load_state_dict(renamed)

    x = torch.randn(2, length, D_MODEL, generator=stream, requires_grad=True)
    probe = torch.randn(2, length, D_MODEL, generator=stream)
    rotary = theirs.DeepseekV3RotaryEmbedding(config)
    cos_sin = rotary(x, torch.arange(length).unsqueeze(0))
    mask = torch.full((length, length), float("-inf")).triu(1)
    expected, _ = reference(x, cos_sin, attention_mask=mask)
    actual = mine(x, None)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, expected.abs().max().item()))
    order = [dict(mine.named_parameters())[name] for name in renamed]
    assert_gradients_agree(
        gradients(actual, probe, [x, *order]), gradients(expected, probe, [x, *reference.parameters()])
    )


def in_neighbouring_pairs(rows: Tensor, heads: int, rope_dim: int) -> Tensor:
    """Reorder the rows of GLM's query or key projection: it turns pairs (i, i + rope_dim / 2), we (2i, 2i + 1)."""
    pairs = torch.arange(rope_dim).view(2, -1).T.flatten()
    by_head = rows.unflatten(0, (heads, -1))
    order = torch.cat([pairs, torch.arange(rope_dim, by_head.shape[1])])
    return by_head[:, order].flatten(0, 1)


@settings(max_examples=40, derandomize=True)
@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([4, 6, 8, 16]),
    rotary_fraction=st.sampled_from([0.5, 1.0]),
    bias=st.booleans(),
    qk_norm=st.booleans(),
    length=st.integers(1, 24),
    seed=st.integers(0, 2**31),
)
def test_glm4_attention(
    kv_heads: int, group: int, head_dim: int, rotary_fraction: float, bias: bool, qk_norm: bool, length: int, seed: int
) -> None:
    heads, rope_dim = kv_heads * group, int(head_dim * rotary_fraction)
    assume(rope_dim % 2 == 0)
    config = Glm4MoeConfig(
        hidden_size=D_MODEL, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        attention_bias=bias, use_qk_norm=qk_norm, attn_implementation="eager",
        rope_parameters={
            "rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": rotary_fraction,
        },
    )  # fmt: skip
    reference = glm4.Glm4MoeAttention(config, layer_idx=0)
    stream = torch.Generator().manual_seed(seed)
    randomise(reference, stream)
    mine = Glm4Attention(
        n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim, rope_dim=rope_dim, bias=bias, qk_norm=qk_norm
    ).build(D_MODEL, dropout=0.0, role="attention")
    names = {
        "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out", "q_norm": "query_norm",
        "k_norm": "key_norm",
    }  # fmt: skip
    reordered = {"q_proj": heads, "k_proj": kv_heads, "q_norm": 1, "k_norm": 1}

    def translate(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        layer, kind = name.split(".")
        if layer in reordered:
            tensor = in_neighbouring_pairs(tensor, reordered[layer], rope_dim)
        return f"{names[layer]}.{kind}", tensor

    mine.load_state_dict(dict(translate(name, value) for name, value in reference.state_dict().items()))

    x = torch.randn(2, length, D_MODEL, generator=stream, requires_grad=True)
    probe = torch.randn(2, length, D_MODEL, generator=stream)
    cos_sin = glm4.Glm4MoeRotaryEmbedding(config)(x, torch.arange(length).unsqueeze(0))
    mask = torch.full((length, length), float("-inf")).triu(1)
    expected, _ = reference(x, cos_sin, attention_mask=mask)
    actual = mine(x, None)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, expected.abs().max().item()))
    parameters = dict(mine.named_parameters())
    x_grad, *their_grads = gradients(expected, probe, [x, *reference.parameters()])
    translated = dict(translate(n, g) for (n, _), g in zip(reference.named_parameters(), their_grads, strict=True))
    my_grads = gradients(actual, probe, [x, *(parameters[name] for name in translated)])
    assert_gradients_agree(my_grads, [x_grad, *translated.values()])


def test_unused_glm4_is_a_whole_glm4_model() -> None:
    """As the published study built it, counted parameter by parameter."""
    config = Glm4MoeConfig(
        vocab_size=49_152, hidden_size=512, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8,
        head_dim=64, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=1_024, n_shared_experts=1,
        tie_word_embeddings=False, pad_token_id=0, attention_bias=True,
    )  # fmt: skip
    size = Size(d_model=512, n_layers=3, n_heads=8, d_ff=1_024, n_experts=8, top_k=2, latent_rank=128)
    with torch.device("meta"):
        reference = Glm4MoeForCausalLM(config)
        mine = unused_glm4(size).build(512, dropout=0.0, role="feed_forward")
    shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (mine, reference)]
    assert shapes[0] == shapes[1]
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in mine.named_children()}
    assert counts == {"used": 16_809_984, "unused": 51_383_296}


FAMILIES = {"deepseek_v3": (DeepseekV3Config, theirs.DeepseekV3MoE), "glm4": (Glm4MoeConfig, glm4.Glm4MoeMoE)}


@settings(max_examples=80, derandomize=True)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    groups=st.integers(1, 4),
    group_size=st.integers(2, 4),
    data=st.data(),
    d_ff=st.integers(1, 24),
    shared=st.integers(1, 2),
    normalise=st.booleans(),
    scaling=st.sampled_from([1.0, 2.5]),
    length=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_moe(
    family: str, groups: int, group_size: int, data: st.DataObject, d_ff: int, shared: int, normalise: bool,
    scaling: float, length: int, seed: int,
) -> None:  # fmt: skip
    config_class, moe_class = FAMILIES[family]
    experts = groups * group_size
    top_groups = data.draw(st.integers(1, groups), label="top_groups")
    top_k = data.draw(st.integers(1, top_groups * group_size), label="top_k")
    config = config_class(
        hidden_size=D_MODEL, moe_intermediate_size=d_ff, n_routed_experts=experts, num_experts_per_tok=top_k,
        n_shared_experts=shared, n_group=groups, topk_group=top_groups, norm_topk_prob=normalise,
        routed_scaling_factor=scaling,
    )  # fmt: skip
    reference = moe_class(config)
    stream = torch.Generator().manual_seed(seed)
    randomise(reference, stream)
    bias_E = torch.rand(experts, generator=stream) - 0.5
    reference.gate.e_score_correction_bias.copy_(bias_E)
    router = DeepSeekRouting(n_groups=groups, top_groups=top_groups, normalise=normalise, scaling=scaling)
    mine = MixtureOfExperts(
        n_experts=experts, top_k=top_k, d_ff=d_ff, gated=True, n_shared=shared, router=router
    ).build(D_MODEL, dropout=0.0, role="feed_forward")
    gate, up = reference.experts.gate_up_proj.chunk(2, dim=1)
    pairs = {
        "router.weight": reference.gate.weight, "router.bias_E": bias_E, "experts.gate": gate, "experts.up": up,
        "experts.down": reference.experts.down_proj, "shared.gate": reference.shared_experts.gate_proj.weight,
        "shared.up": reference.shared_experts.up_proj.weight,
        "shared.down": reference.shared_experts.down_proj.weight,
    }  # fmt: skip
    mine.load_state_dict({name: value.detach() for name, value in pairs.items()})

    x = torch.randn(2, length, D_MODEL, generator=stream, requires_grad=True)
    probe = torch.randn(2, length, D_MODEL, generator=stream)
    expected = reference(x)
    actual, _ = mine(x, None)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, expected.abs().max().item()))
    ours = gradients(actual, probe, [x, mine.router.weight, mine.experts.up, mine.experts.gate, mine.experts.down])
    x_, router_, gate_up_, down_ = gradients(
        expected, probe, [x, reference.gate.weight, reference.experts.gate_up_proj, reference.experts.down_proj]
    )
    gate_, up_ = gate_up_.chunk(2, dim=1)
    assert_gradients_agree(ours, [x_, router_, up_, gate_, down_])


def test_dense_gated() -> None:
    config = DeepseekV3Config(hidden_size=D_MODEL, intermediate_size=48)
    reference = theirs.DeepseekV3MLP(config)
    mine = Dense(d_ff=48).build(D_MODEL, dropout=0.0, role="feed_forward")
    weights = reference.state_dict()
    mine.load_state_dict({name: weights[f"{name}_proj.weight"] for name in ("gate", "up", "down")})
    x = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine(x, None)[0], reference(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rmsnorm(dtype: torch.dtype) -> None:
    stream = torch.Generator().manual_seed(0)
    reference = theirs.DeepseekV3RMSNorm(D_MODEL, eps=1e-6).to(dtype)
    mine = DeepSeekRMSNorm().build(D_MODEL).to(dtype)
    randomise(reference, stream)
    mine.load_state_dict(reference.state_dict())
    x = torch.randn(7, D_MODEL, generator=stream).to(dtype)
    torch.testing.assert_close(mine(x), reference(x), rtol=0, atol=0)
