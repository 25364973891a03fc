"""The flaws of the published studies: each a change of a run's configuration, that can be made or left out by itself.

`--protocol published` makes all changes of a study's flaws to its sound cells; `--undo` leaves some out. A flaw is
nothing but such a change: what was trained can be read from the configuration, and has an address of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moe_models.size import Size

if TYPE_CHECKING:  # torch takes a second to import, which `--help` need not wait for
    from moe_models.config import ModelConfig
    from trainables.config import TrialConfig

TORCH_NORM_EPS = 2.0**-23
"""What `nn.RMSNorm` adds in fp32 where nothing is said: 1.2e-7."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a flaw may need to know of the cell that it acts on."""

    size: Size
    """Of the models at the scale."""
    place: int
    """Of the cell in the published order of training."""
    evaluation_batches: int
    """How many the study evaluated."""
    balance_weight: float
    """Of the study's own balance loss."""
    trained: ModelConfig | None
    """The model that was trained under the cell's name instead of its own; None where it was its own."""
    counts_declared: bool
    """Whether the study's table counts what the name says, and not what was trained."""


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """One thing that was wrong."""

    name: str
    explanation: str
    """One sentence: what was done, and what it does to the numbers."""
    change: Callable[[TrialConfig, Case], TrialConfig]
    """Puts the flaw into a configuration."""


def _model(config: TrialConfig, **changes: Any) -> TrialConfig:
    return replace(config, model=replace(config.model, **changes))


def _attention(config: TrialConfig, **changes: Any) -> TrialConfig:
    attention: Any = config.model.attention
    return _model(config, attention=replace(attention, **changes))


def _experts(layer: Any, change: Callable[[Any], Any]) -> Any:
    """Change the mixture of experts of a feed-forward layer, wherever in it that is; a layer without stays."""
    if layer.kind == "parallel":
        return replace(layer, moe=_experts(layer.moe, change))
    return change(layer) if layer.kind == "moe" else layer


def _without_hidden_dropout(layer: Any) -> Any:
    if layer.kind == "parallel":
        branches = {name: _without_hidden_dropout(getattr(layer, name)) for name in ("dense", "moe")}
        return replace(layer, **branches)
    return replace(layer, hidden_dropout=False)


def _router(config: TrialConfig, **changes: Any) -> TrialConfig:
    layer = _experts(config.model.feed_forward, lambda moe: replace(moe, router=replace(moe.router, **changes)))
    return _model(config, feed_forward=layer)


def _overlapping_windows(config: TrialConfig, case: Case) -> TrialConfig:
    return replace(config, data=replace(config.data, overlapping_windows=True))


def _horizon(config: TrialConfig, case: Case) -> TrialConfig:
    return replace(config, training=replace(config.training, horizon_in_micro_steps=True))


def _first_batches(config: TrialConfig, case: Case) -> TrialConfig:
    training = replace(
        config.training,
        evaluation_batches=case.evaluation_batches,
        evaluation_batch_size=config.training.batch_size,  # the published loaders had one size
    )
    return replace(config, training=training)


def _one_seed(config: TrialConfig, case: Case) -> TrialConfig:
    return replace(config, place=case.place)


def _no_mask(config: TrialConfig, case: Case) -> TrialConfig:
    return _attention(config, causal=False)


def _no_positions(config: TrialConfig, case: Case) -> TrialConfig:
    from moe_models.positions.none import NoPosition

    return _attention(config, position=NoPosition())


def _layernorm(config: TrialConfig, case: Case) -> TrialConfig:
    from moe_models.norms.layernorm import LayerNorm

    return _model(config, block_norm=LayerNorm())


def _norm_eps(config: TrialConfig, case: Case) -> TrialConfig:
    norms: dict[str, Any] = {slot: getattr(config.model, slot) for slot in ("block_norm", "final_norm")}
    of_torch = {slot: replace(norm, eps=TORCH_NORM_EPS) for slot, norm in norms.items() if norm.kind == "rmsnorm"}
    return _model(config, **of_torch)


def _default_init(config: TrialConfig, case: Case) -> TrialConfig:
    model = config.model
    swapped_in = {"attention": model.attention.kind == "mla", "feed_forward": model.feed_forward.kind == "dense"}
    return _model(config, default_init=tuple(slot for slot, swapped in swapped_in.items() if swapped))


def _experts_beside(config: TrialConfig, case: Case) -> TrialConfig:
    from moe_models.feed_forward.moe import moe_softmax_biased_relu
    from moe_models.feed_forward.parallel import Parallel

    beside = Parallel(dense=config.model.feed_forward, moe=moe_softmax_biased_relu(case.size))
    return _model(config, feed_forward=beside)


def _dense_layer(config: TrialConfig, case: Case) -> TrialConfig:
    from moe_models.feed_forward.dense import dense_gated_double

    return _model(config, feed_forward=dense_gated_double(case.size))


def _hidden_width(config: TrialConfig, case: Case) -> TrialConfig:
    from moe_models.feed_forward.dense import dense_gated_glm4

    is_dense = config.model.feed_forward.kind == "dense"  # GLM4's experts have no such width
    return _model(config, feed_forward=dense_gated_glm4(case.size)) if is_dense else config


def _dead_parameters(config: TrialConfig, case: Case) -> TrialConfig:
    from moe_models.feed_forward.unused_glm4 import unused_glm4

    whole: Any = unused_glm4(case.size)
    return _model(config, feed_forward=replace(whole, used=config.model.feed_forward))


def _trained_instead(config: TrialConfig, case: Case) -> TrialConfig:
    if case.trained is None:
        return config
    return replace(config, model=case.trained, declared_model=config.model, counts_declared=case.counts_declared)


NO_CAUSAL_MASK = "leak.no_causal_mask"
OVERLAPPING_WINDOWS = "split.overlapping_windows"
HORIZON = "schedule.horizon_in_micro_steps"
FIRST_BATCHES = "eval.first_batches"
ONE_SEED = "init.one_seed_for_all"
DEAD_PARAMETERS = "model.dead_glm_parameters"
TRAINED_INSTEAD = "model.baseline_trained_instead"
DEFAULT_INIT = "confound.default_init"
NORM_EPS = "confound.norm_eps"
NO_HIDDEN_DROPOUT = "confound.no_hidden_dropout"
NO_ROUTER_NOISE = "confound.no_router_noise"
BALANCE_LOSS = "confound.balance_loss"
ATTENTION_BIASES = "confound.attention_biases"
NO_POSITIONS = "confound.no_positions"
LAYERNORM = "confound.layernorm"
POST_NORM = "confound.post_norm"
EXPERTS_BESIDE = "confound.experts_beside"
DENSE_LAYER = "confound.dense_layer_for_experts"
HIDDEN_WIDTH = "confound.hidden_width"

FLAWS: dict[str, Flaw] = {
    flaw.name: flaw
    for flaw in (
        Flaw(
            name=OVERLAPPING_WINDOWS,
            explanation="Windows at every token were split at random: validation tokens had been trained on.",
            change=_overlapping_windows,
        ),
        Flaw(
            name=HORIZON,
            explanation="The learning rate was laid over micro-steps but moved by updates: training stopped a quarter "
            "of the way, and warming up took four times its share.",
            change=_horizon,
        ),
        Flaw(
            name=FIRST_BATCHES,
            explanation="Only the first few validation batches were evaluated: the loss has a large error of its own.",
            change=_first_batches,
        ),
        Flaw(
            name=ONE_SEED,
            explanation="One random state ran on through all variants: each had other initial values and other data, "
            "so that differences between them hold this noise too.",
            change=_one_seed,
        ),
        Flaw(
            name=NO_CAUSAL_MASK,
            explanation="The attention had no causal mask: the model saw the tokens that it was asked to predict.",
            change=_no_mask,
        ),
        Flaw(
            name=ATTENTION_BIASES,
            explanation="The attention's projections had biases, the baseline's had none.",
            change=lambda config, case: _attention(config, bias=True),
        ),
        Flaw(
            name=NO_POSITIONS,
            explanation="The attention had no positions, the baseline's had rotary ones.",
            change=_no_positions,
        ),
        Flaw(
            name=LAYERNORM,
            explanation="The blocks had LayerNorm, the baseline's RMSNorm.",
            change=_layernorm,
        ),
        Flaw(
            name=POST_NORM,
            explanation="Norms stood after each sublayer, the baseline's before it.",
            change=lambda config, case: _model(config, placement="post"),
        ),
        Flaw(
            name=NORM_EPS,
            explanation="torch's RMSNorm had an eps of 1.2e-7, DeepSeek's 1e-6.",
            change=_norm_eps,
        ),
        Flaw(
            name=DEFAULT_INIT,
            explanation="What was swapped in kept torch's own initial values, the rest had N(0, 0.02) and no biases.",
            change=_default_init,
        ),
        Flaw(
            name=EXPERTS_BESIDE,
            explanation="Beside the dense layer stood a mixture of ReLU experts with biases; the two were averaged.",
            change=_experts_beside,
        ),
        Flaw(
            name=DENSE_LAYER,
            explanation="Under the mixture's name a dense layer was trained, the first of the GLM4 model.",
            change=_dense_layer,
        ),
        Flaw(
            name=HIDDEN_WIDTH,
            explanation="The GLM4 model's dense layer was 10,944 wide, over five times what a token meets elsewhere.",
            change=_hidden_width,
        ),
        Flaw(
            name=NO_HIDDEN_DROPOUT,
            explanation="Hidden activations had no dropout, the baseline's had (nothing where the scale has none).",
            change=lambda config, case: _model(config, feed_forward=_without_hidden_dropout(config.model.feed_forward)),
        ),
        Flaw(
            name=NO_ROUTER_NOISE,
            explanation="The router had no noise while training, the baseline's had.",
            change=lambda config, case: _router(config, noise_std=0.0),
        ),
        Flaw(
            name=BALANCE_LOSS,
            explanation="The balance loss was a share of the variance of the experts' mean probabilities, not the "
            "baseline's.",
            change=lambda config, case: _router(config, balance="variance", balance_weight=case.balance_weight),
        ),
        Flaw(
            name=DEAD_PARAMETERS,
            explanation="Each layer brought a whole GLM4 model of which one part ran: the rest is counted, never used.",
            change=_dead_parameters,
        ),
        Flaw(
            name=TRAINED_INSTEAD,
            explanation="Under some names the model without the named change was trained.",
            change=_trained_instead,
        ),
    )
}
"""By name, in the order in which they change a configuration: what others look at comes first."""
