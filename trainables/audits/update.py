"""`update`: an update that the run makes is the one that its configuration and its seed declare.

It is made a second time beside it. The gradient is that of the loss and the auxiliary loss on the batches due, under
the noise due, clipped; the step is what the definition of its optimizer, written down a second time, makes of it. The
training loss and the balancing biases of routers are looked at alike. Compared are parts of each parameter: one matrix,
which chance picks, of what Muon trains, some elements of what AdamW does. Updates that optimizers count are at the end
all that were made.

Shapes: R rows and C columns of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from analysis.schema import INVALID, Audit
from moe_models.parameters import is_matrix
from moe_models.routers.deepseek import DeepSeekRouter
from moe_models.streams import Noise, derive_seed
from trainables.audits.undisturbed import undisturbed
from trainables.loop import Trainer
from trainables.optim import Muon, full_precision
from trainables.witness import sample

NAME = "update"
ADAMW_BETAS, ADAMW_EPS = (0.9, 0.999), 1e-8
"""As in Loshchilov and Hutter, https://arxiv.org/abs/1711.05101; no configuration has others."""
MUON_STEPS, MUON_COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
CPU_TOLERANCE = 1e-4
"""Largest difference of two passes that can be rounding, as a share of a parameter's gradient: on a CPU they are equal,
whatever the precision."""
GRADIENT_TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2}
"""Likewise elsewhere, by precision: sums may be made in another order each time."""
STEP_TOLERANCES = {"muon": 5e-3, "adamw": 1e-3}
"""Likewise of a step: Muon's iteration makes small singular values, and their rounding, up to 500 times larger. Of
matrices of few and of many of these, up to 768 x 2304, its two forms were 6e-4 apart at most."""
CPU = torch.device("cpu")
NEARLY_MEAN = 0.01
"""Share of the mean load within which an expert may be above or below it by rounding."""
ROUNDING = 1e-6
"""Share of what a difference is formed of that can be rounding."""


@dataclass(frozen=True)
class Remembered:
    """What is known of a parameter's part at one time."""

    weight: Tensor
    average: Tensor
    """Of its gradients, as its optimizer has it; 0 before the first."""
    squares: Tensor
    """Likewise of their squares, of AdamW; else 0."""
    steps: int
    """Updates that its optimizer has made of it."""

    def to(self, device: torch.device) -> Remembered:
        """Return the same on a device."""
        weight, average, squares = (part.to(device) for part in (self.weight, self.average, self.squares))
        return Remembered(weight, average, squares, self.steps)


@dataclass(frozen=True)
class Begun:
    """An update that is about to be made. Parts of parameters wait on the CPU: a run's peak memory is its own."""

    update: int
    gradients: dict[str, Tensor]
    """Of each parameter's part, clipped; none of parameters without one."""
    norm: float
    """Of the whole gradient, clipped."""
    before: dict[str, Remembered]
    loss: float
    """Mean of its micro-batches' losses."""
    loss_sum: Tensor
    """Of all updates before it, as the run noted them."""
    biases: dict[str, Tensor]
    """What the biases of DeepSeek's routers have to be after it (E,); not a number where rounding decides."""


@dataclass
class _Passes:
    """What the passes of an update gave."""

    gradients: dict[str, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    biases: dict[str, Tensor] = field(default_factory=dict)


def begin(trainer: Trainer, autocast: torch.autocast) -> Begun:
    """Form the gradient of the next update; the model is left as it was.

    Args:
        trainer: before the update.
        autocast: what the configuration's precision is.
    """
    with undisturbed(trainer.model):
        trainer.model.train()
        made = _passes(trainer, autocast)
    gradients = made.gradients
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])).item()
    clip = trainer.config.training.gradient_clip
    share = min(1.0, clip / norm) if norm > 0 else 1.0
    parts = {name: (share * _part(trainer, name, gradient)).cpu() for name, gradient in gradients.items()}
    before = {name: _remembered(trainer, name).to(CPU) for name in parts}
    loss = torch.stack(made.losses).double().mean().item()
    return Begun(trainer.update, parts, share * norm, before, loss, trainer.witness.loss_sum, made.biases)


def judge(trainer: Trainer, begun: Begun) -> Audit | None:
    """Compare the update that was made with the one that was due."""
    after = {name: _remembered(trainer, name) for name in begun.before}
    begun = replace(
        begun,
        gradients={name: part.to(trainer.device) for name, part in begun.gradients.items()},
        before={name: remembered.to(trainer.device) for name, remembered in begun.before.items()},
    )
    for told in (_optimizers, _gradients_used, _steps, _biases_moved, _loss_noted):
        evidence = list(told(trainer, begun, after))
        if evidence:
            more = f", and {len(evidence) - 1} more alike" if len(evidence) > 1 else ""
            said = f"update {begun.update + 1} is not the configured one: {evidence[0]}{more}"
            return Audit(name=NAME, severity=INVALID, evidence=said)
    return None


def counted(trainer: Trainer) -> Audit | None:
    """Say which optimizer has counted other updates than a finished run has made."""
    due = trainer.update
    for optimizer in trainer.optimizers:
        steps = [int(state["step"]) for state in optimizer.state.values()]
        if max(steps, default=due) != due:
            evidence = f"{type(optimizer).__name__} has counted {max(steps):,} updates where {due:,} were made"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    return None


def _passes(trainer: Trainer, autocast: torch.autocast) -> _Passes:
    """Go through all micro-batches: the gradient is of their mean loss, by parameter."""
    config, model, made = trainer.config, trainer.model, _Passes()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = made.gradients
    routers = {name: module for name, module in model.named_modules() if isinstance(module, DeepSeekRouter)}
    loads = {name: router.load_E.clone() for name, router in routers.items()}
    for micro_step in range(config.training.accumulation):
        inputs_BT, targets_BT = (part.to(trainer.device) for part in trainer.batches.batch(trainer.update, micro_step))
        with autocast:
            output = model(inputs_BT, Noise(config.stream_seed(trainer.seed), trainer.update, micro_step))
            loss = model.loss(output, targets_BT)
        mean = (loss + output.auxiliary_loss) / config.training.accumulation
        found = torch.autograd.grad(mean, list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                total[name] = total[name] + gradient if name in total else gradient
        made.losses.append(loss.detach())
    for name, router in routers.items():
        made.biases[name] = _balanced(router, router.load_E - loads[name])
    return made


def _balanced(router: DeepSeekRouter, load_E: Tensor) -> Tensor:
    """Return what the bias becomes, by Algorithm 1 of https://arxiv.org/abs/2408.15664."""
    short_E = load_E.mean() - load_E
    moved_E = router.bias_E + router.config.bias_step * torch.where(short_E > 0, 1.0, -1.0)
    return moved_E.masked_fill(short_E.abs() <= NEARLY_MEAN * load_E.mean(), float("nan"))


def _optimizers(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say which parameters another optimizer trains than the configured one, or several; or one that began anew."""
    due = begun.update + 1
    for is_muon, kind in ((True, "Muon"), (False, "AdamW")):
        counts = [now.steps for name, now in after.items() if _is_muon(trainer, name) == is_muon]
        if max(counts, default=due) != due:
            yield f"{kind} has counted {max(counts):,} updates where {due:,} were made"
    for name in begun.before:
        holders = _holders(trainer, name)
        if holders and ([isinstance(holder, Muon) for holder in holders] != [_is_muon(trainer, name)]):
            kinds = " and ".join(type(holder).__name__ for holder in holders)
            yield f"{name} is trained by {kinds}, not by {'Muon' if _is_muon(trainer, name) else 'AdamW'} alone"


def _gradients_used(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say which parameters' optimizers used another gradient than that of the loss."""
    tolerance = _tolerance(trainer)
    for name, due in begun.gradients.items():
        used = _used(_momentum(trainer, name), begun.before[name], after[name])
        if used is not None:
            rounding = ROUNDING * (begun.norm + _norm(begun.before[name].average) / (1 - _momentum(trainer, name)))
            apart = _norm(used - due)
            if apart > tolerance * _norm(due) + rounding:
                yield f"the gradient used for {name} is {_share(apart, due)} away from that of the batches' loss"


def _steps(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say which parameters made another step than their optimizer's definition gives."""
    for name, before in begun.before.items():
        now, is_muon = after[name], _is_muon(trainer, name)
        used = _used(_momentum(trainer, name), before, now)
        if used is None:
            continue
        due = _muon(trainer, name, now, used) if is_muon else _adamw(trainer, name, before, now, used)
        made = now.weight - before.weight
        allowed = STEP_TOLERANCES["muon" if is_muon else "adamw"] * _norm(due) + ROUNDING * _norm(before.weight)
        if _norm(made - due) > allowed:
            yield f"the step of {name} is {_share(_norm(made - due), due)} away from the one due"


def _biases_moved(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say which routers' balancing biases are not what their rule makes of the load."""
    del after
    for name, due_E in begun.biases.items():
        router = trainer.model.get_submodule(name)
        assert isinstance(router, DeepSeekRouter)
        rounding = 0.01 * router.config.bias_step + ROUNDING * _norm(router.bias_E)
        wrong = int(((router.bias_E - due_E).abs() > rounding).sum())
        if wrong:
            yield f"{wrong} of {len(due_E)} balancing biases of {name} did not move as the load would have them"


def _loss_noted(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say where the run noted another training loss."""
    del after
    noted = (trainer.witness.loss_sum - begun.loss_sum).item() / trainer.config.training.accumulation
    is_same = math.isclose(noted, begun.loss, rel_tol=_tolerance(trainer), abs_tol=ROUNDING)
    if math.isfinite(begun.loss) and not is_same:
        yield f"its training loss was noted as {noted:.4f} where that of its batches is {begun.loss:.4f}"


def _muon(trainer: Trainer, name: str, now: Remembered, used: Tensor) -> Tensor:
    """Return Muon's step, by https://kellerjordan.github.io/posts/muon/."""
    a, b, c = MUON_COEFFICIENTS
    x_RC = torch.lerp(used, now.average, trainer.config.training.muon_momentum)
    rows, columns = x_RC.shape
    x_RC = x_RC / x_RC.norm().clamp(min=1e-7)
    with full_precision():
        for _ in range(MUON_STEPS):  # by the smaller of the two Gram matrices: on either side it is the same polynomial
            gram = x_RC @ x_RC.T if rows <= columns else x_RC.T @ x_RC
            polynomial = b * gram + c * gram @ gram
            x_RC = a * x_RC + (polynomial @ x_RC if rows <= columns else x_RC @ polynomial)
    rate = trainer.config.training.muon_learning_rate * _schedule(trainer, name)
    return -rate * math.sqrt(max(1.0, rows / columns)) * x_RC


def _adamw(trainer: Trainer, name: str, before: Remembered, now: Remembered, used: Tensor) -> Tensor:
    """Return AdamW's step, decoupled weight decay included."""
    first, second = ADAMW_BETAS
    squares = second * before.squares + (1 - second) * used.square()
    spread = (squares / (1 - second**now.steps)).sqrt() + ADAMW_EPS
    rate = trainer.config.training.adamw_learning_rate * _schedule(trainer, name)
    decay = trainer.config.training.weight_decay * before.weight
    return -rate * (now.average / (1 - first**now.steps) / spread + decay)


def _used(momentum: float, before: Remembered, now: Remembered) -> Tensor | None:
    """Return the gradient that the optimizer's average was moved by; None where it has none, or none of it shows."""
    if now.steps == 0 or momentum == 1:
        return None
    return (now.average - momentum * before.average) / (1 - momentum)


def _remembered(trainer: Trainer, name: str) -> Remembered:
    parameter = trainer.model.get_parameter(name)
    weight = _part(trainer, name, parameter)
    for holder in _holders(trainer, name):
        state = holder.state[parameter]
        if isinstance(holder, Muon):
            average = _part(trainer, name, state["momentum"])
            return Remembered(weight, average, torch.zeros_like(weight), state["step"])
        average, squares = (_part(trainer, name, state[key]) for key in ("exp_avg", "exp_avg_sq"))
        return Remembered(weight, average, squares, int(state["step"]))
    return Remembered(weight, torch.zeros_like(weight), torch.zeros_like(weight), 0)


def _holders(trainer: Trainer, name: str) -> list[torch.optim.Optimizer]:
    """Return the optimizers that have updated a parameter."""
    parameter = trainer.model.get_parameter(name)
    return [optimizer for optimizer in trainer.optimizers if optimizer.state.get(parameter)]


def _is_muon(trainer: Trainer, name: str) -> bool:
    """Return whether Muon is to train a parameter: the matrices of the blocks."""
    is_blocks = name.startswith("layers.") and is_matrix(name, trainer.model.get_parameter(name))
    return is_blocks and trainer.config.training.optimizer == "muon"


def _momentum(trainer: Trainer, name: str) -> float:
    return trainer.config.training.muon_momentum if _is_muon(trainer, name) else ADAMW_BETAS[0]


def _schedule(trainer: Trainer, name: str) -> float:
    """Return the share of its base that a parameter's learning rate had; `budget` holds it to the schedule."""
    parameter = trainer.model.get_parameter(name)
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    for group, base, rate in zip(groups, trainer.base_learning_rates, trainer.witness.rates[-1], strict=True):
        if any(parameter is other for other in group["params"]):
            return rate / base if base else 0.0
    return 0.0


def _part(trainer: Trainer, name: str, values: Tensor) -> Tensor:
    """Return what is looked at of a tensor of a parameter's shape, as it is now: of a stack one matrix, by the seed."""
    if _is_muon(trainer, name):
        stack = values.detach().reshape(-1, *values.shape[-2:])
        return stack[derive_seed(trainer.seed, "audit", NAME, name) % len(stack)].clone()
    return sample(values).clone()


def _tolerance(trainer: Trainer) -> float:
    """Return the largest difference of two passes that can be rounding, as a share."""
    is_repeatable = trainer.device.type == "cpu"
    return CPU_TOLERANCE if is_repeatable else GRADIENT_TOLERANCES[trainer.config.training.precision]


def _norm(values: Tensor) -> float:
    return torch.linalg.vector_norm(values).item()


def _share(apart: float, due: Tensor) -> str:
    norm = _norm(due)
    return f"{apart / norm:.2g} of its size" if norm > 0 else "not the zero that is due, and"
