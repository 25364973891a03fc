"""Audits: whether what was really trained can be believed. They run at the start, at one update and at the end.

One file an audit, each with its `NAME` and a function `audit` that returns what it found, or None. They judge the real
model, batches, gradients and optimizers, never what a configuration says of itself, and change nothing of the run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from analysis.schema import SEVERITIES, VAL_LOSS, Audit, DocumentScores
from moe_models.streams import Noise, generator
from trainables.audits import (
    budget,
    causality,
    dead_parameters,
    evaluation,
    split_overlap,
    targets,
    too_good,
    treatment_applied,
    update,
)
from trainables.batches import Windows
from trainables.data import TokenizedCorpus
from trainables.loop import Trainer
from trainables.witness import Batch

__all__ = ["Auditor"]


class Auditor:
    """Audits one run of this process.

    What it finds in all updates, rows and evaluations depends on the run alone, not on how often it was interrupted;
    which update is made a second time, and from which places a leak is looked for, also on where its process began.

    Attributes:
        ran: names of the audits that ran so far, in order.
        scores: the last evaluation by document, once the end was audited.
        params_dead: parameters that were never trained, likewise.
    """

    def __init__(self, trainer: Trainer, corpus: TokenizedCorpus) -> None:
        self.trainer = trainer
        self.corpus = corpus
        self.ran: list[str] = []
        self.scores: DocumentScores | None = None
        self.params_dead: int | None = None
        self._worst: dict[str, Audit] = {}
        self._update_looked_at = -1
        self._begun: update.Begun | None = None

    def before_update(self) -> None:
        """Audit what is due before an update.

        Before this process's first that is the model, as initialised or as a checkpoint left it. A later one, which
        chance picks, is made a second time beside it; if there is no later one, the first.
        """
        trainer = self.trainer
        self._judge_update()
        if not self.ran:
            self._note(causality.NAME, self._causality())
            self._update_looked_at = self._drawn_update()
        if trainer.update == self._update_looked_at and not trainer.finished:
            trainer.settle()
            self._begun = update.begin(trainer, self._autocast())

    def end(self, test: Mapping[str, float | None] | None = None) -> list[Audit]:
        """Audit what was trained, and what its final test reports if there was one; return all that was found.

        A run that diverged has no weights and no schedule left to judge: what depends on these is not looked at. Nor
        is it where this process only restored a finished run.
        """
        trainer, witness, config = self.trainer, self.trainer.witness, self.trainer.config
        is_whole = trainer.finished and bool(witness.trained) and trainer.rows[-1][VAL_LOSS] is not None
        if is_whole:
            self._judge_update()
            self._note(update.NAME, update.counted(trainer))
            self._note(causality.NAME, self._causality())
            read = self.batches_read()
            self._note(targets.NAME, targets.audit(trainer.model, read))
            trained, held = trainer.batches.drawn(trainer.update), trainer.validation.scored()
            self._note(split_overlap.NAME, split_overlap.audit(self.corpus, trained, held, read))
            found = split_overlap.every_batch(config, trainer.seed, self.corpus.train, witness)
            self._note(split_overlap.NAME, found)
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            parameters = [parameter for group in groups for parameter in group["params"]]
            dead = dead_parameters.find(trainer.model, witness, parameters)
            self.params_dead = dead.count
            self._note(dead_parameters.NAME, dead.audit)
            self.scores = evaluation.by_document(trainer.validation, witness)
            self._note(evaluation.NAME, evaluation.audit(self.corpus.validation, self.scores, witness))
            found = evaluation.documents(self.corpus.validation, self.corpus.end_of_document)
            self._note(evaluation.NAME, found)
            self._note(evaluation.NAME, evaluation.scored(trainer.validation, witness))
            self._note(evaluation.NAME, evaluation.read(config.training, held, witness))
            found = evaluation.final_test(config.training, self.corpus.test, trainer.test.scored(), witness, test or {})
            self._note(evaluation.NAME, found)
            due = trainer.validation.scored_tokens
            self._note(evaluation.NAME, evaluation.curve(config.training, witness, trainer.rows, due))
            precision = config.training.precision
            found = evaluation.reported(trainer.model, precision, witness, trainer.rows[-1], self._autocast())
            self._note(evaluation.NAME, found)
            self._note(too_good.NAME, too_good.audit(self.corpus, trainer.validation, self.scores))
            drawn = len(trained.starts), trainer.batches.windows
            found = budget.audit(config.training, witness, trainer.base_learning_rates, trainer.rows, *drawn)
            self._note(budget.NAME, found)
            self._note(budget.NAME, budget.routed(trainer.model, witness))
        declared = config.declared_model or config.model
        self._note(treatment_applied.NAME, treatment_applied.audit(trainer.model, declared, trainer.rows[-1]))
        if is_whole:
            found = treatment_applied.initial(trainer.model, config.stream_seed(trainer.seed), witness)
            self._note(treatment_applied.NAME, found)
        return self.found

    @property
    def found(self) -> list[Audit]:
        """What was found so far: of each name the worst, and the worst first."""
        return sorted(self._worst.values(), key=lambda audit: SEVERITIES.index(audit.severity))

    def _note(self, name: str, found: Audit | None) -> None:
        if name not in self.ran:
            self.ran.append(name)
        if found is None:
            return
        before = self._worst.setdefault(name, found)
        if SEVERITIES.index(found.severity) < SEVERITIES.index(before.severity):
            self._worst[name] = found

    def _autocast(self) -> torch.autocast:
        """Return what the configured precision is, whatever the run made of it."""
        is_bf16 = self.trainer.config.training.precision == "bf16"
        return torch.autocast(self.trainer.device.type, dtype=torch.bfloat16, enabled=is_bf16)

    def _drawn_update(self) -> int:
        """Return the update that is made a second time: any but this process's first, where there are others."""
        first, last = self.trainer.update, self.trainer.config.training.updates - 1
        if first >= last:
            return first
        stream = generator(self.trainer.config.stream_seed(self.trainer.seed), "audit", update.NAME, first)
        return first + 1 + int(torch.randint(last - first, (1,), generator=stream))

    def _judge_update(self) -> None:
        if self._begun is not None:
            assert self.trainer.update == self._begun.update + 1, "an update is judged before the next one is made"
            self.trainer.settle()
            self._note(update.NAME, update.judge(self.trainer, self._begun))
            self._begun = None

    def batches_read(self) -> dict[str, tuple[Windows, Batch]]:
        """Return the batches that the witness holds by what was done with them, each with the windows it has to be."""
        trainer, witness = self.trainer, self.trainer.witness
        last = trainer.config.training.accumulation - 1
        trained = {
            f"{targets.TRAINED} {update + 1}": (trainer.batches.windows_of(update, last), batch)
            for update, batch in witness.trained.items()
        }
        places = {"evaluated first": 0, "evaluated last": len(trainer.validation) - 1}
        evaluated = {
            what: (trainer.validation.windows_of(place), batch)
            for (what, place), batch in zip(places.items(), witness.evaluated, strict=False)
        }
        return {**trained, **evaluated}

    def _causality(self) -> Audit | None:
        """Audit causality on the next batch of the data order: its first sequences, two or more."""
        trainer = self.trainer
        tokens_BT = trainer.batches.batch(trainer.update, 0)[0][: causality.SEQUENCES].to(trainer.device)
        if len(tokens_BT) == 1:
            tokens_BT = torch.cat((tokens_BT, tokens_BT.flip(1)))
        noise = Noise(trainer.config.stream_seed(trainer.seed), trainer.update, 0)
        return causality.audit(trainer.model, tokens_BT, self.corpus.end_of_document, noise, self._autocast())
