"""What models reach on a corpus, and what `too_good` says of it: `python benchmarks/too_good.py [CORPUS ...]`.

On each corpus (by default `synthetic`) it trains exp6's `baseline` and `attention` soundly at the scale `cpu`, and
`attention` without its mask, and prints their losses beside the generator's on the same tokens and those of counted
tokens and pairs of tokens; on text beside what bzip2 needs.

Exits with 1 where a sound run is called anything, or the one without a mask is not called invalid (noted, on text).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import Words, run
from sweeps.exp6_grid import STUDY
from trainables.audits import Auditor, too_good
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.loop import Trainer
from trainables.scales import SCALES

SCALE = SCALES["cpu"]
SMOOTHING = 50.0
"""Weight of single tokens' shares in those of pairs, in tokens."""


def counted(corpus: TokenizedCorpus) -> tuple[float, float]:
    """Return the validation loss of counted training tokens, and of counted pairs of them."""
    train, held = corpus.train.tokens.astype(np.int64), corpus.validation.tokens.astype(np.int64)
    single_V = np.bincount(train, minlength=corpus.vocab_used) + 1.0
    single_V /= single_V.sum()
    pairs_VV = np.zeros((corpus.vocab_used,) * 2)
    np.add.at(pairs_VV, (train[:-1], train[1:]), 1.0)
    pairs_VV = (pairs_VV + SMOOTHING * single_V) / (pairs_VV.sum(axis=1, keepdims=True) + SMOOTHING)
    return float(-np.log(single_V[held[1:]]).mean()), float(-np.log(pairs_VV[held[:-1], held[1:]]).mean())


def train(corpus: TokenizedCorpus, cell: str, causal: bool) -> tuple[float, str, str]:
    """Train a cell; return its loss, and the severity and evidence of `too_good`, empty where it found nothing."""
    model = next(c for c in STUDY.designs["default"].cells if c.name == cell).build(SCALE)
    if not causal:
        attention: Any = model.attention
        model = dataclasses.replace(model, attention=dataclasses.replace(attention, causal=False))
    data = DataConfig(corpus=corpus.name, content_hash=corpus.content_hash)
    trainer = Trainer(TrialConfig(model=model, training=SCALE.training, data=data), 0, corpus, torch.device("cpu"))
    auditor = Auditor(trainer, corpus)
    for row in trainer.run():
        loss = (row or {}).get("val_loss")
    found = [(audit.severity, audit.evidence) for audit in auditor.end() if audit.name == too_good.NAME]
    assert loss is not None
    return loss, *(found[0] if found else ("", ""))


def main(corpora: Words = ("synthetic",)) -> int:
    """Train and print; 1 where a finding is wrong or missing.

    Args:
        corpora: As --corpus of a study.
    """
    torch.set_num_threads(1)
    console, wrong = Console(width=120), False
    for name in corpora:
        corpus = prepare_corpus(name, vocab_size=SCALE.vocab_size, seq_len=SCALE.training.seq_len)
        table = Table("what", "loss", "too_good", title=name, title_justify="left")
        single, pairs = counted(corpus)
        table.add_row("counted tokens", f"{single:.4f}")
        table.add_row("counted pairs", f"{pairs:.4f}")
        logs = corpus.validation.log_probabilities
        if logs is None:
            table.add_row("bzip2", f"{corpus.compressor_loss:.4f}")
        else:
            table.add_row("the generator", f"{-logs[1:].mean():.4f}")
            table.add_row("the generator, on average", f"{corpus.entropy:.4f}")
        evidences = []
        for cell, causal in (("baseline", True), ("attention", True), ("attention", False)):
            loss, severity, evidence = train(corpus, cell, causal)
            wrong |= severity != ("" if causal else "note" if logs is None else "invalid")
            table.add_row(cell if causal else f"{cell}, no mask", f"{loss:.4f}", severity)
            evidences += [evidence] if evidence else []
        console.print(table)
        for evidence in evidences:
            console.print(evidence)
    return int(wrong)


if __name__ == "__main__":
    run(main)
