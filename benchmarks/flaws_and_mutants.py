"""Do the audits find what is wrong? The published flaws rebuilt, and mutants of the code that trains.

    python benchmarks/flaws_and_mutants.py            # both tables, as Markdown
    python benchmarks/flaws_and_mutants.py mutants    # one of them: flaws, mutants

Everything is trained for real, a few updates each, in this process; nobody tells the audits what to look for. Exits
with 1 where something was not found, or not by the audit and with the severity expected.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.published import published_studies
from analysis.schema import INVALID, SEVERITIES, WARNING, Audit
from analysis.summary import analyse
from analysis.table_audit import audit_table
from benchmarks.command import Words, chosen, run
from benchmarks.in_process import ONE_CORE, audited, part_of, trained
from benchmarks.mutants import MUTANTS, Mutant, mutated
from sweeps import exp1_attention_768d, exp1_components_512d, exp3_rmsnorm, exp4_mlp, exp5_moe, exp6_grid
from sweeps.engine.flaws import (
    BALANCE_LOSS,
    DEAD_PARAMETERS,
    DEFAULT_INIT,
    DENSE_LAYER,
    EXPERTS_BESIDE,
    FIRST_BATCHES,
    HORIZON,
    LAYERNORM,
    NO_CAUSAL_MASK,
    NO_POSITIONS,
    ONE_SEED,
    OVERLAPPING_WINDOWS,
    TRAINED_INSTEAD,
)
from sweeps.engine.options import Options
from sweeps.engine.planning import make_plan
from sweeps.engine.study import Study
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.scales import SCALES

SLOTS = {"attention": "mha", "norm": "rmsnorm", "feed_forward": "moe_softmax_plain", "placement": "pre"}
TRAINING = {"updates": 12, "batch_size": 8, "row_every": 3, "evaluate_every": 12}
UPDATES_OF_A_FLAW = 8


# --- The published flaws --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """A published flaw as it is rebuilt: one flaw of a study alone, in one of its cells."""

    number: int
    """As the list of the published flaws counts."""
    what: str
    study: Study
    cell: str
    flaw: str
    audit: str
    severity: str
    beside: tuple[str, ...] = ()
    """Further cells of the study that the audit has to see."""


FLAWS = (
    Case(number=1, what="future tokens visible", study=exp6_grid.STUDY, cell="attention", flaw=NO_CAUSAL_MASK,
         audit="causality", severity=INVALID),
    Case(number=1, what="future tokens visible", study=exp1_components_512d.STUDY, cell="attention_mlp_512d",
         flaw=NO_CAUSAL_MASK, audit="causality", severity=INVALID),
    Case(number=1, what="future tokens visible", study=exp4_mlp.STUDY, cell="deepseek_mlp", flaw=NO_CAUSAL_MASK,
         audit="causality", severity=INVALID),
    Case(number=1, what="future tokens visible", study=exp5_moe.STUDY, cell="deepseek_moe", flaw=NO_CAUSAL_MASK,
         audit="causality", severity=INVALID),
    Case(number=2, what="another model trained", study=exp1_attention_768d.STUDY, cell="lora", flaw=TRAINED_INSTEAD,
         audit="treatment_applied", severity=INVALID),
    Case(number=2, what="another model trained", study=exp6_grid.STUDY, cell="moe", flaw=TRAINED_INSTEAD,
         audit="treatment_applied", severity=INVALID),
    Case(number=2, what="one model under two names", study=exp1_attention_768d.STUDY, cell="lora",
         flaw=TRAINED_INSTEAD, audit="same_model", severity=INVALID, beside=("baseline",)),
    Case(number=2, what="one model under two names", study=exp6_grid.STUDY, cell="mlp_moe", flaw=TRAINED_INSTEAD,
         audit="same_model", severity=INVALID, beside=("baseline",)),
    Case(number=3, what="training and validation overlap", study=exp3_rmsnorm.STUDY, cell="baseline",
         flaw=OVERLAPPING_WINDOWS, audit="split_overlap", severity=INVALID),
    Case(number=4, what="more than the dense layer changed", study=exp4_mlp.STUDY, cell="deepseek_mlp",
         flaw=NO_POSITIONS, audit="confound", severity=WARNING, beside=("baseline",)),
    Case(number=4, what="more than the dense layer changed", study=exp4_mlp.STUDY, cell="deepseek_mlp",
         flaw=EXPERTS_BESIDE, audit="confound", severity=WARNING, beside=("baseline",)),
    Case(number=4, what="more than the experts changed", study=exp5_moe.STUDY, cell="deepseek_moe",
         flaw=LAYERNORM, audit="confound", severity=WARNING, beside=("baseline",)),
    Case(number=4, what="more than the experts changed", study=exp5_moe.STUDY, cell="deepseek_moe",
         flaw=BALANCE_LOSS, audit="confound", severity=WARNING, beside=("baseline",)),
    Case(number=4, what="initialised in another way", study=exp6_grid.STUDY, cell="attention",
         flaw=DEFAULT_INIT, audit="confound", severity=WARNING, beside=("baseline",)),
    Case(number=4, what="one dense layer for the experts", study=exp1_components_512d.STUDY, cell="moe_8e_2k_512d",
         flaw=DENSE_LAYER, audit="confound", severity=WARNING, beside=("baseline",)),
    Case(number=5, what="parameters without a use", study=exp1_components_512d.STUDY, cell="moe_8e_2k_512d",
         flaw=DEAD_PARAMETERS, audit="dead_parameters", severity=WARNING),
    Case(number=6, what="the schedule never finished", study=exp6_grid.STUDY, cell="baseline", flaw=HORIZON,
         audit="budget", severity=WARNING),
    Case(number=7, what="five batches evaluated", study=exp6_grid.STUDY, cell="baseline", flaw=FIRST_BATCHES,
         audit="evaluation", severity=WARNING),
    Case(number=7, what="three batches evaluated", study=exp1_components_512d.STUDY, cell="baseline",
         flaw=FIRST_BATCHES, audit="evaluation", severity=WARNING),
    Case(number=8, what="one seed", study=exp6_grid.STUDY, cell="attention", flaw=ONE_SEED, audit="replication",
         severity=WARNING, beside=("baseline",)),
)  # fmt: skip

TABLES = (
    (8, "an effect size of zero, from one seed", "exp1_attention_768d", "effect_size", INVALID),
    *((8, "one seed", study, "replication", WARNING) for study in published_studies()),
    (9, "an efficiency that is not its formula", "exp6_grid", "derived_column", INVALID),
    (2, "one model under two names", "exp6_grid", "same_model", INVALID),
)
"""Number, what, the printed table (as `python -m analysis audit` calls it), audit, severity."""


def rebuild(case: Case, *, alone: bool) -> Audit | None:
    """Train a case and return what its audit found in its cell: the flaw alone, or with all others of its study."""
    assert case.study.published is not None
    others = ",".join(flaw for flaw in case.study.published.all_flaws if flaw != case.flaw)
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            variants=",".join((case.cell, *case.beside)), seeds=1, scale="cpu", steps=UPDATES_OF_A_FLAW,
            precision="fp32", protocol="published", undo=others if alone and others else None, output=Path(folder),
        )  # fmt: skip
        results = replace(trained(make_plan(case.study, options, ONE_CORE)), include_invalid=True)
    own = results.audits[results.audits["cell"] == case.cell][["audit", "severity", "evidence"]]
    found = [Audit(name=name, severity=severity, evidence=said) for name, severity, said in own.itertuples(index=False)]
    found += [item.audit for item in analyse(results).study_audits if case.cell in item.cells]
    of_name = [audit for audit in found if audit.name == case.audit]
    return min(of_name, key=lambda audit: SEVERITIES.index(audit.severity), default=None)


def flaws_part() -> Iterator[list[str]]:
    """Each flaw alone, then as published: with all others of its study."""
    yield ["flaw", "what", "rebuilt from", "audit", "severity", "alone", "as published", "evidence, alone"]
    for case in FLAWS:
        found = [rebuild(case, alone=alone) for alone in (True, False)]
        caught = [yes(audit is not None and audit.severity == case.severity) for audit in found]
        where = f"{case.study.script}, {case.cell}"
        yield [f"{case.number}", case.what, where, case.audit, case.severity, *caught, evidence(found[0])]
    for number, what, table, rule, severity in TABLES:
        hits = [finding for finding in audit_table(table).findings if finding.name == rule]
        printed = yes(bool(hits) and hits[0].severity == severity)
        told = evidence(hits[0] if hits else None)
        yield [f"{number}", what, f"the printed table of {table}", rule, severity, "–", printed, told]


# --- Mutants --------------------------------------------------------------------------------------------------------


def short_run(corpus: TokenizedCorpus, setting: dict[str, Any]) -> TrialConfig:
    """Return a run of a small model with dropout; the setting names slots of the model or fields of its training."""
    scale = replace(SCALES["cpu"], vocab_size=corpus.vocab_size, dropout=0.1)
    size = replace(scale.size, d_model=32, d_ff=64, latent_rank=16)
    model = replace(scale, size=size).model(**{name: setting.get(name, SLOTS[name]) for name in SLOTS})
    training = {name: value for name, value in setting.items() if name not in SLOTS}
    return TrialConfig(
        model=model,
        training=scale.with_training(**{**TRAINING, **training}),
        data=DataConfig(corpus=corpus.name, content_hash=corpus.content_hash),
    )


def find(mutant: Mutant, corpus: TokenizedCorpus) -> Audit | None:
    """Train a mutant; return what its audit found."""
    with mutated(mutant.patch):
        _, auditor = audited(short_run(corpus, dict(mutant.setting)), mutant.corpus(corpus))
    return next((audit for audit in auditor.found if audit.name == mutant.audit), None)


def mutants_part() -> Iterator[list[str]]:
    """Each mutant in a small model on a part of the embedded corpus."""
    corpus = part_of(prepare_corpus("web", vocab_size=1_024, seq_len=64), 100, 20)
    yield ["mutant", "audit", "severity", "caught", "evidence"]
    for mutant in MUTANTS:
        found = find(mutant, corpus)
        caught = found is not None and found.severity == mutant.severity
        yield [mutant.name, mutant.audit, mutant.severity, yes(caught), evidence(found)]


PARTS = {"flaws": flaws_part, "mutants": mutants_part}


def yes(caught: bool) -> str:
    """Return whether something was caught, in words."""
    return "yes" if caught else "**NO**"


def evidence(found: Audit | None) -> str:
    """Return an audit's sentence for a table's cell."""
    return "nothing found" if found is None else found.evidence.replace("|", "\\|")


def main(parts: Words = ()) -> int:
    """Print the parts' tables as Markdown; 1 where something was not found as expected.

    Args:
        parts: Some of them; by default all.
    """
    torch.set_num_threads(1)
    missed = 0
    for part in chosen(parts, PARTS):
        rows = PARTS[part]()
        header = next(rows)
        print(f"### {part.capitalize()}\n\n| {' | '.join(header)} |\n|{' -- |' * len(header)}", flush=True)
        count = 0
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)
            count += 1
            missed += yes(False) in row
        print(f"\n{count} {part}, {missed} not caught.\n")
    return int(missed > 0)


if __name__ == "__main__":
    run(main)
