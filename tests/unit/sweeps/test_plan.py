from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.schema import FAILURES_FOLDER, PLAN_FILE, RECORDS_FOLDER
from moe_models.accounting import count
from moe_models.errors import ConfigError
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.race import open_runs
from sweeps.engine.resources import Resources
from sweeps.engine.study import Cell, Design, Study
from sweeps.exp6_grid import STUDY
from sweeps.scaling import STUDY as SCALING
from tests.fakes_plan import ended
from trainables.batches import training_batches
from trainables.config import TrialConfig

GPU = Resources(slots=4, gpus=1, gpus_per_trial=0.25, reason="1 GPU seen")


def test_the_plan_holds_what_analysis_reads(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_for()
    plan.write()
    data = json.loads((plan.folder / PLAN_FILE).read_text())
    assert plan.folder == tmp_path / "results" / data["study"]
    assert data["study"].startswith("exp6_grid-cpu-small.jsonl-4-")
    assert data["script"] == "exp6_grid"
    assert (data["design"], data["scales"], data["seeds"], data["updates"]) == ("default", ["cpu"], [0, 1], 4)
    assert data["factors"] == ["attention", "rmsnorm", "mlp", "moe"]
    assert (data["metric"], data["direction"], data["factorial"]) == ("val_loss", "min", False)
    assert data["feed_forward_levels"] == {"factors": ["mlp", "moe"]}
    assert data["negative_control"]["factor"] == "rmsnorm"
    assert data["data_hash"] == plan.corpora["cpu"].content_hash
    assert data["choices"] == {"precision": {"cpu": "fp32"}, "threads": 1}
    assert len(data["cells"]) == 16
    for entry, cell in zip(data["cells"], plan.cells, strict=True):
        counts = count(cell.config.model)
        assert entry["params_total"] == counts.params_total
        assert entry["params_active"] == counts.params_active
        assert entry["flops_per_token"] == counts.flops_per_token
        assert entry["baseline"] == "baseline"
        rebuilt = TrialConfig.from_dict(cell.config.to_dict())
        assert entry["hashes"] == {"0": rebuilt.hash(0), "1": rebuilt.hash(1)}


def test_planning_writes_nothing_but_the_token_cache(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    plan_for()
    assert list(tmp_path.iterdir()) == []


def test_more_seeds_and_cells_extend_the_same_study(plan_for: Callable[..., Plan]) -> None:
    first = plan_for(variants="baseline,moe", seeds=2)
    first.write()
    second = plan_for(variants="baseline,mlp", seeds=3)
    assert second.folder == first.folder
    second.write()
    data = json.loads((second.folder / PLAN_FILE).read_text())
    assert data["seeds"] == [0, 1, 2]
    assert {cell["name"]: list(cell["hashes"]) for cell in data["cells"]} == {
        "baseline": ["0", "1", "2"],
        "mlp": ["0", "1", "2"],
        "moe": ["0", "1"],
    }
    smaller = plan_for(variants="mlp", seeds=1)
    smaller.write()
    assert json.loads((second.folder / PLAN_FILE).read_text()) == data
    assert [run.cell.name for run in smaller.runs()] == ["mlp"]


def test_without_the_baseline_every_cell_is_its_own_until_it_comes(plan_for: Callable[..., Plan]) -> None:
    alone = plan_for(variants="mlp,moe")
    assert [cell["baseline"] for cell in alone.to_json()["cells"]] == ["mlp", "moe"]
    alone.write()
    assert [cell["baseline"] for cell in plan_for(variants="baseline").to_json()["cells"]] == ["baseline"] * 3


@pytest.mark.parametrize(
    "other",
    [{"steps": 5}, {"design": "orthogonal"}, {"precision": "bf16"}, {"scale": "cpu,paper_256d"}],
)
def test_anything_else_is_another_study(plan_for: Callable[..., Plan], other: dict[str, Any]) -> None:
    assert plan_for().name != plan_for(**other).name


def test_other_data_is_another_study(plan_for: Callable[..., Plan], corpus_file: Path, tmp_path: Path) -> None:
    text = corpus_file.read_text().replace("winter", "summer")
    other = tmp_path / corpus_file.name
    other.write_text(text)
    assert plan_for().name != plan_for(corpus=str(other)).name


def test_the_design_is_in_the_name(plan_for: Callable[..., Plan]) -> None:
    assert plan_for(design="orthogonal").name.startswith("exp6_grid-orthogonal-cpu-")


def test_a_choice_is_kept_on_resume(plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.engine.planning.faster_precision", lambda *_: "bf16")
    first = plan_for(precision="auto", variants="baseline")
    assert first.choices["precision"] == {"cpu": "bf16"}
    first.write()
    monkeypatch.setattr("sweeps.engine.planning.faster_precision", lambda *_: "fp32")
    again = plan_for(precision="auto", variants="baseline,mlp")
    assert again.choices == first.choices
    assert {cell.config.training.precision for cell in again.cells} == {"bf16"}


def test_the_longest_runs_go_first_and_equal_ones_seed_by_seed(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for()
    runs = plan.runs()
    costs = [run.cell.cost for run in runs]
    assert costs == sorted(costs, reverse=True)
    assert len({run.config_hash for run in runs}) == 32
    names = [cell.name for cell in plan.cells]
    for cost in set(costs):
        equal = [(run.seed, names.index(run.cell.name)) for run in runs if run.cell.cost == cost]
        assert equal == sorted(equal)


def test_runs_with_a_record_are_not_open(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(variants="baseline,mlp")
    done = plan.runs()[0]
    ended(plan, done).write(plan.folder / RECORDS_FOLDER)
    assert done.config_hash not in {run.config_hash for run in open_runs(plan)}
    assert len(open_runs(plan)) == 3


def test_several_scales_make_a_factor(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(scale="cpu,paper_256d", variants="baseline,attention")
    data = plan.to_json()
    assert data["factors"][-1] == "scale"
    assert [cell["name"] for cell in data["cells"]] == [
        "baseline@cpu", "attention@cpu", "baseline@paper_256d", "attention@paper_256d",
    ]  # fmt: skip
    assert [cell["baseline"] for cell in data["cells"]] == ["baseline@cpu"] * 2 + ["baseline@paper_256d"] * 2
    assert data["cells"][2]["factors"]["scale"] == "paper_256d"
    assert data["cells"][2]["params_total"] == 25_960_192
    assert plan.corpora["cpu"].vocab_size == 1024


def test_auto_takes_the_published_scale_where_there_is_a_gpu_and_says_why(plan_for: Callable[..., Plan]) -> None:
    assert plan_for(GPU, variants="baseline").scales == ("paper_256d",)
    plan = plan_for(variants="baseline")
    assert plan.scales == ("cpu",)
    assert "no GPU was seen" in plan.why_scale


def twins(factor: str) -> Study:
    """A study whose cell `twin` builds the baseline."""
    cells = STUDY.designs["default"].cells
    baseline, named = cells[0], {cell.name: cell for cell in cells}
    twin = Cell(name="twin", factors=named[factor].factors, build=baseline.build)
    return replace(STUDY, designs={"default": Design(cells=(baseline, twin))}, primary=None, published=None)


def test_one_model_under_two_names_is_refused(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'baseline' and 'twin' build the same model"):
        plan_for(study=twins("moe"))
    assert list(tmp_path.iterdir()) == []
    assert len(plan_for(study=twins("rmsnorm")).cells) == 2  # the declared negative control


def test_changed_code_cannot_extend_a_study(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(variants="baseline")
    plan.write()
    path = plan.folder / PLAN_FILE
    data = json.loads(path.read_text())
    data["cells"][0]["hashes"]["0"] = "0123456789abcdef"
    path.write_text(json.dumps(data))
    run = plan.runs()[1]
    ended(plan, run).write(plan.folder / RECORDS_FOLDER)
    with pytest.raises(ConfigError, match=r"cell 'baseline' is configured differently.* there 0123456789abcdef; take"):
        plan_for(variants="baseline")


@pytest.mark.parametrize("place", [RECORDS_FOLDER, FAILURES_FOLDER])
def test_what_changed_is_said_by_any_record_of_the_cell(plan_for: Callable[..., Plan], place: str) -> None:
    plan = plan_for(variants="baseline", seeds=3)
    cell = plan.cells[0]
    before = replace(cell, config=replace(cell.config, training=replace(cell.config.training, batch_size=7)))
    replace(plan, cells=(before,)).write()
    ended(plan, PlannedRun(cell=before, seed=2)).write(plan.folder / place)
    size = cell.config.training.batch_size
    with pytest.raises(ConfigError, match=rf"training\.batch_size is {size}, there 7; take --output elsewhere"):
        plan_for(variants="baseline", seeds=3)


def test_a_plan_is_stale_when_another_driver_has_extended_its_study_or_ended_runs(
    plan_for: Callable[..., Plan],
) -> None:
    new = plan_for(variants="baseline")
    assert not new.is_stale
    new.write()
    assert new.is_stale
    second = plan_for(variants="mlp")
    assert not second.is_stale
    run = new.runs()[0]
    ended(new, run).write(new.folder / RECORDS_FOLDER)
    assert second.is_stale


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"cells": [1]}',
        '{"cells": [], "choices": {}, "seeds": []}',
        '{"cells": [], "choices": {"precision": {}, "threads": 1}, "scales": [], "seeds": [], "schema_version": 2}',
        '{"cells": [], "choices": {"precision": {}, "threads": 1}, "scales": ["cpu"], "seeds": []}',
        '{"cells": [], "choices": {"precision": {"cpu": "fp32"}}, "scales": ["cpu"], "seeds": []}',
    ],
)
def test_a_broken_plan_is_said(plan_for: Callable[..., Plan], text: str) -> None:
    plan = plan_for(variants="baseline")
    plan.folder.mkdir(parents=True)
    (plan.folder / PLAN_FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.json is not a study's plan"):
        plan_for(variants="baseline")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": "cup"}, "unknown scale 'cup': did you mean 'cpu'"),
        ({"scale": "cpu,cpu"}, "--scale names 'cpu' twice"),
        ({"corpus": "wep"}, "unknown corpus 'wep'"),
        ({"corpus": "/nowhere/text.txt"}, "does not exist"),
    ],
)
def test_bad_values(plan_for: Callable[..., Plan], option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_for(**option)


def test_an_output_inside_a_file_is_refused(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--output .*file is not a folder"):
        plan_for(output=tmp_path / "file" / "results")


def test_the_name_does_not_depend_on_where_results_go(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    assert plan_for(output=tmp_path / "elsewhere").name == plan_for().name


def test_how_often_the_training_text_is_seen_is_said_where_it_is_often(plan_for: Callable[..., Plan]) -> None:
    for steps in (4, 4_000):
        plan = plan_for(steps=steps)
        config = plan.cells[0].config
        batches = training_batches(config, plan.corpora["cpu"], seed=0)
        sequences = config.training.updates * config.training.batch_size * config.training.accumulation
        seen = sequences / batches.windows
        assert plan.epochs() == {"cpu": pytest.approx(seen)}
        notes = [note for note in plan.to_json()["notes"] if "is seen" in note]
        words = f"the training text is seen {seen:.1f} times at scale cpu: losses are those of a small corpus"
        assert notes == ([words] if steps == 4_000 else [])


def test_overlapping_windows_do_not_make_the_training_text_longer(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(protocol="published", steps=400)
    training, text = plan.cells[0].config.training, plan.corpora["cpu"].train.tokens
    seen = training.updates * training.accumulation * training.batch_size * training.seq_len / len(text)
    assert plan.epochs() == {"cpu": pytest.approx(seen, rel=0.01)}
    assert any("the training text is seen" in note for note in plan.to_json()["notes"])


def test_a_study_about_scale_takes_its_ladder(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(study=SCALING, variants="baseline,mlp", seeds=1)
    assert plan.scales == ("ladder_1", "ladder_2", "ladder_3", "ladder_4")
    sizes = [cell.counts.params_total for cell in plan.cells if cell.name.startswith("baseline@")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert {cell["baseline"] for cell in plan.to_json()["cells"]} == {f"baseline@{scale}" for scale in plan.scales}
    assert plan_for(study=SCALING, scale="cpu", variants="mlp", seeds=1).scales == ("cpu",)
