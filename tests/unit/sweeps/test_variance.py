"""The study of the sources of variance varies them apart: an order of the data, and everything else by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.schema import DATA_ORDER
from moe_models.model import build_model
from sweeps.exp6_grid import STUDY as EXP6
from sweeps.variance import ORDERS, STUDY
from trainables.batches import training_batches
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.scales import scale_named


@pytest.fixture(scope="module")
def corpus(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    return prepare_corpus(str(corpus_file), vocab_size=300, seq_len=64, cache_dir=tmp_path_factory.mktemp("cache"))


def config(corpus: TokenizedCorpus, data_seed: int | None) -> TrialConfig:
    scale = scale_named("cpu")
    model = STUDY.designs["default"].cells[0].build(scale)
    data = DataConfig(corpus=corpus.name, content_hash=corpus.content_hash)
    return TrialConfig(model=model, training=scale.with_training(updates=3), data=data, data_seed=data_seed)


def first(config: TrialConfig, corpus: TokenizedCorpus, seed: int) -> np.ndarray:
    return training_batches(config, corpus, seed).batch(0, 0)[0].numpy()


def test_an_order_is_that_of_its_seed_whatever_the_run_is(corpus: TokenizedCorpus) -> None:
    own = config(corpus, None)
    assert (first(replace(own, data_seed=7), corpus, 0) == first(own, corpus, 7)).all()
    assert (first(replace(own, data_seed=7), corpus, 1) == first(own, corpus, 7)).all()
    assert (first(own, corpus, 0) != first(own, corpus, 7)).any()


def test_initial_values_are_the_seeds_whatever_the_order(corpus: TokenizedCorpus) -> None:
    cpu = torch.device("cpu")
    models = [build_model(made.model, made.stream_seed(3), cpu) for made in (config(corpus, None), config(corpus, 7))]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_the_address_of_a_run_without_an_order_of_its_own_is_what_it_was(corpus: TokenizedCorpus) -> None:
    own = config(corpus, None)
    assert "data_seed" not in own.to_dict()
    assert own.hash(0) != replace(own, data_seed=0).hash(0)
    assert TrialConfig.from_dict(replace(own, data_seed=0).to_dict()).data_seed == 0


@pytest.mark.parametrize("design", list(STUDY.designs))
def test_cells_of_a_model_differ_in_the_order_alone(design: str) -> None:
    scale = scale_named("cpu")
    models: dict[str, list] = {}
    for cell in STUDY.designs[design].cells:
        entry = (cell.factors[DATA_ORDER], cell.data_seed, cell.build(scale))
        models.setdefault(cell.factors["model"], []).append(entry)
    for cells in models.values():
        assert [order for order, _, _ in cells] == [seed for _, seed, _ in cells] == list(range(ORDERS))
        assert len({model for _, _, model in cells}) == 1


def test_the_models_are_those_of_the_component_grid() -> None:
    scale = scale_named("cpu")
    grid = {cell.name: cell.build(scale) for cell in EXP6.designs["default"].cells}
    for cell in STUDY.designs["components"].cells:
        assert cell.build(scale) == grid[str(cell.factors["model"])]


def test_what_a_comparison_between_models_rests_on_is_said() -> None:
    (_, between) = STUDY.designs["components"].notes
    order = {cell.name: cell.factors["data_order"] for cell in STUDY.designs["components"].cells}
    assert order["baseline"] == order["all_components"] == 0 != order["all_components_1"]
    assert all(f"'{name}'" in between for name in ("baseline", "all_components", "all_components_1"))
