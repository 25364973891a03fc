"""Every registered study against the audit `confound`: sound cells are left alone, each published confound is found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.audits.confound import audit
from analysis.schema import NOTE, WARNING, TrialRecord
from moe_models.accounting import count
from sweeps.engine.flaws import FLAWS
from sweeps.engine.planning import declared_slots, scale_of
from sweeps.engine.protocol import Protocol
from sweeps.engine.study import Study, find_study, study_names

PUBLISHED = (
    "exp1_attention_768d", "exp1_components_512d", "exp3_rmsnorm", "exp4_mlp", "exp5_moe", "exp6_grid",
)  # fmt: skip
NAMES = study_names()
STUDIES: dict[str, Study] = {name: find_study(name) for name in NAMES}
CONFOUNDS = {
    "confound.default_init": "model.default_init",
    "confound.norm_eps": "norm.eps",
    "confound.no_hidden_dropout": "hidden_dropout",
    "confound.no_router_noise": "noise_std",
    "confound.balance_loss": "balance",
    "confound.attention_biases": "model.attention.bias",
    "confound.no_positions": "model.attention.position",
    "confound.layernorm": "model.block_norm",
    "confound.post_norm": "model.placement",
    "confound.experts_beside": "model.feed_forward is parallel",
    "confound.dense_layer_for_experts": "model.feed_forward is dense",
    "confound.hidden_width": "model.feed_forward",
    "init.one_seed_for_all": "place",
}
"""Flaw -> what the evidence names."""
NEEDS = {"confound.hidden_width": ("confound.dense_layer_for_experts",)}
"""Flaws without which another changes nothing."""
INSIDE = (("exp4_mlp", "confound.no_router_noise"), ("exp4_mlp", "confound.balance_loss"))
"""These act inside the experts of `confound.experts_beside`, which are a difference as a whole."""


def found(study: Study, design: str, scale_name: str, flaws: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return severity and evidence of what is found about the cells of a study as they would be recorded."""
    protocol = Protocol(study=study, design=design, published=study.published if flaws else None, flaws=flaws)
    corpus: Any = SimpleNamespace(name="corpus", content_hash="0")
    scale = scale_of(study, scale_name)
    records, entries = [], []
    for cell in protocol.cells:
        config = protocol.configure(cell, scale, None, "fp32", corpus)
        counts = count(config.counted_model)
        row = {"params_total": counts.params_total, "flops_per_token": counts.flops_per_token, "val_loss": 3.0}
        records.append(
            TrialRecord(
                study="s",
                cell=cell.name,
                scale=scale_name,
                factors=dict(cell.factors),
                seed=0,
                status="finished",
                config_hash=config.hash(0),
                rows=[row],
                config=config.to_dict(),
            )
        )
        entry = {"name": cell.name, "factors": dict(cell.factors), "baseline": study.baseline}
        entries.append({**entry, "declared": declared_slots(study, cell, scale)})
    audits = audit(records, {"cells": entries, "slots": study.slots})
    return [(item.audit.severity, item.audit.evidence) for item in audits]


@pytest.mark.parametrize(("name", "design"), [(name, design) for name in NAMES for design in STUDIES[name].designs])
@pytest.mark.parametrize("scale", ["cpu", "paper_256d", "paper_512d"])
def test_sound_cells_differ_by_their_factors_alone(name: str, design: str, scale: str) -> None:
    assert STUDIES[name].slots
    severities = {severity for severity, _ in found(STUDIES[name], design, scale)}
    assert severities <= {NOTE}
    if (name, design) in (("gating", "matched"), ("exp3_rmsnorm", "default")):
        assert severities == set(), "their cells are matched"


def test_every_published_confound_is_listed() -> None:
    assert {flaw for flaw in FLAWS if flaw.startswith("confound.")} <= CONFOUNDS.keys()


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        (name, flaw)
        for name in PUBLISHED
        for flaw in CONFOUNDS
        if (published := STUDIES[name].published) and flaw in published.all_flaws and (name, flaw) not in INSIDE
    ],
)
def test_each_published_confound_is_a_warning(name: str, flaw: str) -> None:
    study = STUDIES[name]
    assert study.published is not None
    for scale in ("cpu", study.paper_scale):
        alone = found(study, "default", scale, (flaw, *NEEDS.get(flaw, ())))
        warnings = [evidence for severity, evidence in alone if severity == WARNING]
        assert warnings
        assert all(CONFOUNDS[flaw] in evidence for evidence in warnings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_flaws_that_all_cells_share_confound_nothing(name: str) -> None:
    published = STUDIES[name].published
    assert published is not None
    shared = tuple(flaw for flaw in published.flaws if flaw.split(".")[0] in ("split", "schedule", "eval"))
    assert {severity for severity, _ in found(STUDIES[name], "default", "cpu", shared)} <= {NOTE}
