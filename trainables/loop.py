"""The training loop: one model, one seed, a generator of curve rows. No Ray, no MLflow.

Rows are made at fixed updates (`row_every`, `evaluate_every`, the last one), so a curve does not depend on the
machine's speed. All noise comes from counter-based streams, so a resumed run continues exactly: on a CPU its rows
equal an uninterrupted run's, times and memory aside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from analysis import schema
from moe_models.accounting import count
from moe_models.model import build_model
from moe_models.streams import Noise
from trainables.batches import EvaluationBatches, evaluation_batches, test_batches, training_batches
from trainables.config import TrialConfig
from trainables.data import TokenizedCorpus
from trainables.memory import PeakMemory
from trainables.optim import build_optimizers, learning_rate_factor
from trainables.witness import Witness, updates_between_looks


class Divergence(ArithmeticError):
    """A loss became NaN or infinite: the run is over, and that is its result."""


class Trainer:
    """Trains one (configuration, seed) and evaluates it on the whole validation split, or what a flaw makes of it.

    The test split is read by `evaluate_test` alone, which nothing here calls.

    Attributes:
        update: optimizer updates made.
        rows: the curve so far: mappings of schema.CURVE_COLUMNS.
        train_seconds: time spent training, before an interruption included; start-up and evaluation apart.
        evaluation_seconds: time spent evaluating.
        witness: what the audits will want to know of the run.
        evaluate_at: updates after which a row is made and evaluated beside those that are due anyway. Training does not
            depend on them.
    """

    def __init__(self, config: TrialConfig, seed: int, corpus: TokenizedCorpus, device: torch.device) -> None:
        assert corpus.content_hash == config.data.content_hash, "the corpus is not the one the configuration names"
        self.config = config
        self.seed = seed
        self.device = device
        self.memory = PeakMemory(device)
        self.model = build_model(config.model, config.stream_seed(seed), device)
        self.optimizers = build_optimizers(self.model, config.training)
        self.base_learning_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.counts = count(config.counted_model)
        self.batches = training_batches(config, corpus, seed)
        self.validation = evaluation_batches(config, corpus)
        self.test = test_batches(config, corpus)
        self.update = 0
        self.rows: list[dict[str, Any]] = []
        self.witness = Witness()
        self._look_every = updates_between_looks(config.training.muon_momentum)
        self.train_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.evaluate_at: frozenset[int] = frozenset()
        self._start_window()

    def _start_window(self) -> None:
        """Forget what has been gathered for the last row."""
        self._window_losses: list[Tensor] = []
        self._window_loads = [torch.zeros(router.n_experts, device=self.device) for router in self.model.routers()]
        self._window_start = (self.update, self.train_seconds)

    @property
    def finished(self) -> bool:
        """Whether the last scheduled update was made."""
        return self.update >= self.config.training.updates

    def run(self) -> Iterator[dict[str, Any] | None]:
        """Train to the end, yielding after every update: the new row where one is due, else None.

        Raises:
            Divergence: a loss became NaN or infinite; the row that shows it has been appended, with nulls.
        """
        training = self.config.training
        while not self.finished:
            started = time.perf_counter()
            self._train_update()
            due = self.finished or self.update % training.evaluate_every == 0 or self.update in self.evaluate_at
            if due or self.update % training.row_every == 0:
                self._synchronise()
                self.train_seconds += time.perf_counter() - started
                yield self._append_row(evaluate=due)
            else:
                self.train_seconds += time.perf_counter() - started
                yield None

    def _train_update(self) -> None:
        """Make one optimizer update from `accumulation` micro-batches."""
        training = self.config.training
        if self.update == 0:
            self.witness.begins(self.model)
        self.model.train()
        for micro_step in range(training.accumulation):
            inputs_BT, targets_BT = self._to_device(self.batches.batch(self.update, micro_step))
            with self.autocast():
                output = self.model(inputs_BT, Noise(self.config.stream_seed(self.seed), self.update, micro_step))
                loss = self.model.loss(output, targets_BT)
            self.witness.batch(inputs_BT, targets_BT, loss)
            ((loss + output.auxiliary_loss) / training.accumulation).backward()
            self._window_losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
        self._set_learning_rates(learning_rate_factor(self.update, training))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for load_E, router in zip(self._window_loads, self.model.routers(), strict=True):
            load_E += router.after_update()
        self.update += 1
        if self.update == 1 or self.update % self._look_every == 0 or self.finished:
            self.witness.gradients(self.model, self.optimizers)
        rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.witness.update_made(self.model, rates)

    def _set_learning_rates(self, factor: float) -> None:
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        for base, group in zip(self.base_learning_rates, groups, strict=True):
            group["lr"] = base * factor

    def _append_row(self, *, evaluate: bool) -> dict[str, Any]:
        first_update, first_seconds = self._window_start
        tokens_per_update = self.config.training.tokens_per_update
        train_loss = torch.stack(self._window_losses).double().mean().item()
        validation: dict[str, float | None] = dict.fromkeys(
            (schema.VAL_LOSS, schema.VAL_ACCURACY, schema.VAL_PERPLEXITY)
        )
        if evaluate and math.isfinite(train_loss):
            validation |= self.evaluate()
        row = {
            schema.STEP: self.update,
            schema.TOKENS: self.update * tokens_per_update,
            schema.TRAIN_LOSS: _finite(train_loss),
            **{name: _finite(value) for name, value in validation.items()},
            schema.LEARNING_RATE: self.optimizers[0].param_groups[0]["lr"],
            schema.TOKENS_PER_SECOND: (self.update - first_update)
            * tokens_per_update
            / (self.train_seconds - first_seconds),
            schema.TRAIN_SECONDS: self.train_seconds,
            schema.EVALUATION_SECONDS: self.evaluation_seconds,
            schema.PEAK_MEMORY_BYTES: self.memory.read(),
            schema.PARAMS_TOTAL: self.counts.params_total,
            schema.PARAMS_ACTIVE: self.counts.params_active,
            schema.FLOPS_PER_TOKEN: self.counts.flops_per_token,
            schema.LOAD_IMBALANCE: self._load_imbalance(),
        }
        self.rows.append(row)
        self.witness.row_made(self.model, self._window_loads)
        self._start_window()
        for name, value in ((schema.TRAIN_LOSS, train_loss), *validation.items()):
            if value is not None and not math.isfinite(value):
                raise Divergence(f"{name} became {value} by update {self.update}")
        return row

    def _load_imbalance(self) -> float | None:
        if not self._window_loads:
            return None
        return max((load_E.max() / load_E.mean()).item() for load_E in self._window_loads)

    def evaluate(self) -> dict[str, float | None]:
        """Return loss, accuracy and perplexity over the whole validation split; the model is left as it was."""
        self.witness.evaluation_begins()
        loss, accuracy = self._score(self.validation, self.witness.scored)
        return {
            schema.VAL_LOSS: loss,
            schema.VAL_ACCURACY: accuracy,
            schema.VAL_PERPLEXITY: math.exp(loss) if loss < 700 else math.inf,
        }

    def evaluate_test(self) -> dict[str, float | None]:
        """Return loss and accuracy over the whole test split: for a finished run's record, once.

        Nothing of it enters rows or the run's state, and audits but compare; null where it is not finite.
        """
        self.witness.test_begins()
        loss, accuracy = self._score(self.test, self.witness.test_scored)
        return {schema.TEST_LOSS: _finite(loss), schema.TEST_ACCURACY: _finite(accuracy)}

    @torch.no_grad()
    def _score(
        self, batches: EvaluationBatches, seen: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    ) -> tuple[float, float]:
        """Return loss and accuracy over all scored tokens of these batches, each of which is shown to `seen`."""
        started = time.perf_counter()
        self.model.eval()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for batch in batches:
            inputs_BT, targets_BT = self._to_device(batch)
            with self.autocast():
                losses_N, correct_N = self.model.token_losses(self.model(inputs_BT), targets_BT)
            seen(inputs_BT, targets_BT, losses_N, correct_N)
            loss_sum += losses_N.double().sum()
            correct += correct_N.sum()
        loss, accuracy = loss_sum.item() / batches.scored_tokens, correct.item() / batches.scored_tokens
        self.evaluation_seconds += time.perf_counter() - started
        return loss, accuracy

    def _to_device(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0].to(self.device, non_blocking=True), batch[1].to(self.device, non_blocking=True)

    def autocast(self) -> torch.autocast:
        """Return the context that forward passes run in: bf16 autocast, or nothing."""
        enabled = self.config.training.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def settle(self) -> None:
        """Wait for what was asked of the device: time of training, whoever else would wait for it."""
        started = time.perf_counter()
        self._synchronise()
        self.train_seconds += time.perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to continue exactly, as tensors and plain data.

        The random streams and the data position are functions of (seed, update) and need nothing more.
        """
        self.settle()
        return {
            "hash": self.config.hash(self.seed),
            "seed": self.seed,
            "update": self.update,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rows": self.rows,
            "witness": self.witness.state_dict(),
            "train_seconds": self.train_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "window_losses": self._window_losses,
            "window_loads": self._window_loads,
            "window_start": self._window_start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s output; a state of another run raises ValueError."""
        if state["hash"] != self.config.hash(self.seed):
            raise ValueError(f"the checkpoint belongs to run {state['hash']}, not {self.config.hash(self.seed)}")
        self.model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.update = state["update"]
        self.rows = list(state["rows"])
        self.witness.load_state_dict(state["witness"], self.device)
        self.train_seconds = state["train_seconds"]
        self.evaluation_seconds = state["evaluation_seconds"]
        self._window_losses = [loss.to(self.device) for loss in state["window_losses"]]
        self._window_loads = [load_E.to(self.device) for load_E in state["window_loads"]]
        first_update, first_seconds = state["window_start"]
        self._window_start = (first_update, first_seconds)


def _finite(value: float | None) -> float | None:
    """Return the value, or None where it is NaN or infinite (JSON has neither)."""
    return value if value is not None and math.isfinite(value) else None
