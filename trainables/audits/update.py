"""`update`: an update that the run makes is the one that its configuration and its seed declare.

It is made a second time beside it. The gradient is that of the loss and the auxiliary loss on the batches due, under
the noise due, clipped; the step is what the definition of its optimizer, written down a second time, makes of it.
Compared are parts of each parameter: the first matrix of what Muon trains, some elements of what AdamW does.

Shapes: R rows and C columns of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.schema import INVALID, Audit
from moe_models.parameters import is_matrix
from moe_models.streams import Noise
from trainables.audits.undisturbed import undisturbed
from trainables.loop import Trainer
from trainables.optim import Muon
from trainables.witness import sample

NAME = "update"
ADAMW_BETAS, ADAMW_EPS = (0.9, 0.999), 1e-8
"""As in Loshchilov and Hutter, https://arxiv.org/abs/1711.05101; no configuration has others."""
MUON_STEPS, MUON_COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
GRADIENT_TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2}
"""Largest difference of two passes that can be rounding, as a share of a parameter's gradient, by precision."""
STEP_TOLERANCES = {"muon": 5e-2, "adamw": 1e-2}
"""Likewise of a step: Muon's iteration makes small singular values, and their rounding, up to 500 times larger."""
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
    """Updates that AdamW has made of it."""


@dataclass(frozen=True)
class Begun:
    """An update that is about to be made."""

    update: int
    gradients: dict[str, Tensor]
    """Of each parameter's part, clipped; none of parameters without one."""
    norm: float
    """Of the whole gradient, clipped."""
    before: dict[str, Remembered]


def begin(trainer: Trainer, autocast: torch.autocast) -> Begun:
    """Form the gradient of the next update; the model is left as it was.

    Args:
        trainer: before the update.
        autocast: what the configuration's precision is.
    """
    with undisturbed(trainer.model):
        trainer.model.train()
        gradients = _gradients(trainer, autocast)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])).item()
    clip = trainer.config.training.gradient_clip
    share = min(1.0, clip / norm) if norm > 0 else 1.0
    parts = {name: share * _part(trainer, name, gradient) for name, gradient in gradients.items()}
    return Begun(trainer.update, parts, share * norm, {name: _remembered(trainer, name) for name in parts})


def judge(trainer: Trainer, begun: Begun) -> Audit | None:
    """Compare the update that was made with the one that was due."""
    after = {name: _remembered(trainer, name) for name in begun.before}
    for told in (_optimizers, _gradients_used, _steps):
        evidence = list(told(trainer, begun, after))
        if evidence:
            more = f", and {len(evidence) - 1} more parameters alike" if len(evidence) > 1 else ""
            said = f"update {begun.update + 1} is not the configured one: {evidence[0]}{more}"
            return Audit(name=NAME, severity=INVALID, evidence=said)
    return None


def _gradients(trainer: Trainer, autocast: torch.autocast) -> dict[str, Tensor]:
    """Return the gradient of the mean loss of all micro-batches, by parameter."""
    config, model = trainer.config, trainer.model
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total: dict[str, Tensor] = {}
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
    return total


def _optimizers(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say which parameters another optimizer trains than the configured one, or several; or one that began anew."""
    due = begun.update + 1
    counts = [now.steps for name, now in after.items() if not _is_muon(trainer, name)]
    if max(counts, default=due) != due:
        yield f"AdamW has counted {max(counts):,} updates where {due:,} were made"
    for name in begun.before:
        holders = _holders(trainer, name)
        if holders and ([isinstance(holder, Muon) for holder in holders] != [_is_muon(trainer, name)]):
            kinds = " and ".join(type(holder).__name__ for holder in holders)
            yield f"{name} is trained by {kinds}, not by {'Muon' if _is_muon(trainer, name) else 'AdamW'} alone"


def _gradients_used(trainer: Trainer, begun: Begun, after: Mapping[str, Remembered]) -> Iterator[str]:
    """Say which parameters' optimizers used another gradient than that of the loss."""
    tolerance = GRADIENT_TOLERANCES[trainer.config.training.precision]
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


def _muon(trainer: Trainer, name: str, now: Remembered, used: Tensor) -> Tensor:
    """Return Muon's step, by https://kellerjordan.github.io/posts/muon/."""
    a, b, c = MUON_COEFFICIENTS
    x_RC = torch.lerp(used, now.average, trainer.config.training.muon_momentum)
    rows, columns = x_RC.shape
    x_RC = x_RC / x_RC.norm().clamp(min=1e-7)
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
            return Remembered(weight, _part(trainer, name, state["momentum"]), torch.zeros_like(weight), 1)
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
    """Return what is looked at of a tensor of a parameter's shape, as it is now."""
    if _is_muon(trainer, name):
        return values.detach().reshape(-1, *values.shape[-2:])[0].clone()
    return sample(values).clone()


def _norm(values: Tensor) -> float:
    return torch.linalg.vector_norm(values).item()


def _share(apart: float, due: Tensor) -> str:
    norm = _norm(due)
    return f"{apart / norm:.2g} of its size" if norm > 0 else "not the zero that is due, and"
