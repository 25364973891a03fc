"""Trains a plan's runs in this process, as trials do but without Ray, and on parts of a corpus."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import numpy as np
import torch

from analysis.loading.load import load_results
from analysis.schema import AUDITS_RUN, DIVERGED, FINISHED, RECORDS_FOLDER, TrialRecord
from analysis.study.results import Results
from sweeps.engine.plan import Plan
from sweeps.engine.resources import Resources
from sweeps.engine.runner import labels_of
from trainables.audits import Auditor
from trainables.config import TrialConfig
from trainables.data import Split, TokenizedCorpus
from trainables.loop import Divergence, Trainer

CPU = torch.device("cpu")
ONE_CORE = Resources(slots=1, gpus=0, gpus_per_trial=0.0, reason="one core")


def audited(
    config: TrialConfig, corpus: TokenizedCorpus, seed: int = 0, device: torch.device = CPU
) -> tuple[Trainer, Auditor]:
    """Train, test and audit a run as a trial does."""
    trainer = Trainer(config, seed, corpus, device)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    with suppress(Divergence):
        for _ in trainer.run():
            auditor.before_update()
    auditor.end(trainer.evaluate_test() if trainer.finished else None)
    return trainer, auditor


def trained(plan: Plan) -> Results:
    """Train a plan's runs, write their records, and return its results with what all audits found."""
    for run in plan.runs():
        config = run.cell.config
        trainer, auditor = audited(config, plan.corpora[run.cell.scale], run.seed)
        record = TrialRecord(
            **labels_of(plan, run),
            seed=run.seed,
            config_hash=run.config_hash,
            status=FINISHED if trainer.finished else DIVERGED,
            rows=trainer.rows,
            config=config.to_dict(),
            environment={**plan.evidence, AUDITS_RUN: ",".join(auditor.ran)},
            audits=auditor.found,
            digest=trainer.witness.digest,
            scores=auditor.scores,
            params_dead=auditor.params_dead,
        )
        record.write(plan.folder / RECORDS_FOLDER)
    plan.write()
    return load_results(plan.folder)


def part_of(corpus: TokenizedCorpus, training: int, validation: int) -> TokenizedCorpus:
    """Return the corpus with so many of its training documents, and of those of each other split, evenly spread."""
    train, held_out = _documents(corpus.train, training), (corpus.validation, corpus.test)
    validation_split, test = (_documents(split, min(validation, len(split.documents))) for split in held_out)
    return dataclasses.replace(corpus, train=train, validation=validation_split, test=test)


def _documents(split: Split, count: int) -> Split:
    places = np.linspace(0, len(split.documents) - 1, count).round().astype(int)
    texts = np.split(split.tokens, split.document_starts[1:])
    starts = np.cumsum([0, *(len(texts[place]) for place in places)])[:-1]
    names, groups = (tuple(part[place] for place in places) for part in (split.documents, split.groups))
    return Split(np.concatenate([texts[place] for place in places]), starts, names, groups, split.characters)
