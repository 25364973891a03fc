"""What a real GPU shows: components train there as on a CPU, and runs share one. Skipped where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from analysis.loading.load import load_results
from analysis.schema import FINISHED, INVALID, PEAK_MEMORY_BYTES, STATUS, TRAIN_LOSS, VAL_LOSS, Audit
from benchmarks.in_process import audited
from moe_models.attention import ATTENTION
from moe_models.feed_forward import FEED_FORWARD
from moe_models.grouped import grouped_linear
from moe_models.norms import NORM
from tests.drivers import driver
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.loop import Trainer
from trainables.scales import SCALES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = "cuda"
SEQ_LEN = 64
SLOTS = {"attention": "mha", "norm": "rmsnorm", "feed_forward": "moe_softmax_plain"}
PRESETS = [
    (slot, preset)
    for slot, kind in zip(SLOTS, (ATTENTION, NORM, FEED_FORWARD), strict=True)
    for preset in kind.presets()
]
TOLERANCES = {"fp32": 1e-3, "bf16": 2e-2}
"""Largest difference of losses of a few updates, as a share, that other kernels can make."""


@pytest.fixture(scope="module")
def corpus(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    cache = tmp_path_factory.mktemp("cache")
    return prepare_corpus(str(corpus_file), vocab_size=300, seq_len=SEQ_LEN, cache_dir=cache)


def trained(
    corpus: TokenizedCorpus, device: str, precision: str, slot: str, preset: str
) -> tuple[Trainer, list[Audit]]:
    """Train and audit a run of four updates."""
    scale = dataclasses.replace(SCALES["cpu"], vocab_size=300, dropout=0.0)
    settings = {"updates": 4, "batch_size": 4, "seq_len": SEQ_LEN, "row_every": 2, "evaluate_every": 4}
    config = TrialConfig(
        model=dataclasses.replace(scale.model(**SLOTS | {slot: preset}), max_seq_len=SEQ_LEN),
        training=scale.with_training(**settings, precision=precision),
        data=DataConfig(corpus=corpus.name, content_hash=corpus.content_hash),
    )
    trainer, auditor = audited(config, corpus, device=torch.device(device))
    return trainer, auditor.found


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(("slot", "preset"), PRESETS)
def test_every_component_trains_as_on_a_cpu_and_no_audit_objects(
    corpus: TokenizedCorpus, slot: str, preset: str, precision: str
) -> None:
    there, found = trained(corpus, GPU, precision, slot, preset)
    here, _ = trained(corpus, "cpu", precision, slot, preset)
    assert [audit for audit in found if audit.severity == INVALID] == []
    for a, b in zip(there.rows, here.rows, strict=True):
        assert a[TRAIN_LOSS] == pytest.approx(b[TRAIN_LOSS], rel=TOLERANCES[precision])
    assert there.rows[-1][VAL_LOSS] == pytest.approx(here.rows[-1][VAL_LOSS], rel=TOLERANCES[precision])


def test_experts_without_tokens_get_no_gradient() -> None:
    counts, x = [5, 0, 3, 0], torch.randint(-4, 5, (8, 64), device=GPU).float()  # sums are exact in bf16
    weight = torch.randn(4, 32, 64, device=GPU, requires_grad=True)
    torch.full((4, 32, 64), float("nan"), dtype=torch.bfloat16, device=GPU)  # for the next that takes memory to find
    with torch.autocast(GPU, dtype=torch.bfloat16):
        y = grouped_linear(x, weight, None, torch.tensor(counts, device=GPU))
    (gradient,) = torch.autograd.grad(y.float().sum(), weight)
    for part, rows in zip(gradient, x.split(counts), strict=True):
        assert torch.equal(part, rows.sum(0).expand_as(part))


def test_runs_share_a_gpu(corpus_file: Path, own_place: Path) -> None:
    fixed = ["--variants", "baseline,attention", "--seeds", "2", "--steps", "10", "--corpus", str(corpus_file)]
    process = driver([*fixed, "--scale", "cpu", "--precision", "fp32", "--gpus-per-trial", "0.5"], own_place)
    output, errors = process.communicate(timeout=500)
    assert (process.returncode, errors) == (0, ""), output
    (folder,) = (own_place / "results").iterdir()
    results = load_results(folder)
    assert (results.runs[STATUS] == FINISHED).all()
    assert not results.left_out.any()
    assert (results.runs[PEAK_MEMORY_BYTES] > 0).all()
