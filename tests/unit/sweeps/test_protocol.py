"""The published protocol of every study: what it builds, flaw by flaw, and that undoing flaws leads back."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.published import load_published
from analysis.schema import PLAN_FILE
from moe_models.accounting import count
from moe_models.errors import ConfigError
from sweeps.engine.cli import main
from sweeps.engine.flaws import FLAWS
from sweeps.engine.options import parse
from sweeps.engine.plan import Plan
from sweeps.engine.planning import scale_of
from sweeps.engine.protocol import Protocol, find_protocol
from sweeps.engine.runner import labels_of
from sweeps.engine.study import Published, Study
from trainables.config import TrialConfig

NAMES = [
    "exp1_attention_768d", "exp1_components_512d", "exp3_rmsnorm", "exp4_mlp", "exp5_moe", "exp6_grid",
]  # fmt: skip
STUDIES: dict[str, Study] = {name: importlib.import_module(f"sweeps.{name}").STUDY for name in NAMES}


def published_of(study: Study) -> Published:
    assert study.published is not None
    return study.published


EVERY_FLAW = [(name, flaw) for name in NAMES for flaw in published_of(STUDIES[name]).all_flaws]


def protocol(name: str, *undo: str) -> Protocol:
    return find_protocol(STUDIES[name], "default", "published", list(undo) or None)


def configurations(found: Protocol, scale: str | None = None) -> dict[str, TrialConfig]:
    """Return each published cell's configuration at its own scale, by default the published one."""
    corpus: Any = SimpleNamespace(name="corpus", content_hash="0")
    size = scale_of(found.study, scale or found.study.paper_scale)
    return {cell.name: found.configure(cell, size, None, "fp32", corpus) for cell in found.cells}


@pytest.mark.parametrize("name", NAMES)
def test_every_published_count_to_the_last_digit(name: str) -> None:
    table = load_published(name).by_variant
    built = configurations(protocol(name))
    assert set(built) == set(table)
    counted = {variant: count(config.counted_model).params_total for variant, config in built.items()}
    assert counted == {variant: row.params_total for variant, row in table.items()}


@pytest.mark.parametrize("name", NAMES)
def test_with_all_flaws_undone_a_name_is_the_sound_cell(name: str) -> None:
    study, table = STUDIES[name], load_published(name).by_variant
    found = protocol(name, "all")
    assert found.flaws == ()
    sound = {cell.name: cell for cell in study.designs["default"].cells}
    for scale in ("cpu", study.paper_scale):
        for variant, config in configurations(found, scale).items():
            cell = sound[table[variant].cell]
            assert config.model == cell.build(scale_of(study, scale))
            plain = config.to_dict()
            assert set(plain) == {"model", "training", "data"}
            assert set(plain["data"]) == {"corpus", "content_hash", "first_tokens"}  # a setting, not a flaw
            assert not {"horizon_in_micro_steps", "evaluation_batches"} & set(plain["training"])
            assert {c.name: c.factors for c in found.cells}[variant] == cell.factors


@pytest.mark.parametrize(("name", "flaw"), EVERY_FLAW)
def test_undoing_one_flaw_changes_something_and_keeps_all_names_apart(name: str, flaw: str) -> None:
    whole, without = configurations(protocol(name)), configurations(protocol(name, flaw))
    assert any(whole[cell] != without[cell] for cell in whole)
    assert len({config.hash(0) for config in without.values()}) == len(without)
    for config in without.values():
        assert TrialConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("name", "flaw"), EVERY_FLAW)
def test_every_study_can_be_planned_without_each_flaw(plan_for: Callable[..., Plan], name: str, flaw: str) -> None:
    plan = plan_for(study=STUDIES[name], protocol="published", undo=flaw)
    assert [cell.name for cell in plan.cells] == [cell.name for cell in published_of(STUDIES[name]).cells]
    data = plan.to_json()
    assert flaw not in data["flaws"]
    assert {*data["flaws"], flaw} == set(published_of(STUDIES[name]).all_flaws)


@pytest.mark.parametrize("name", NAMES)
def test_dry_run(name: str, corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--scale", "cpu", "--corpus", str(corpus_file), "--protocol", "published", "--dry-run"]
    assert main(STUDIES[name], [*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["protocol"], said["flaws"]) == ("published", list(published_of(STUDIES[name]).all_flaws))
    assert said["study"].startswith(f"{name}-published-cpu-")
    assert main(STUDIES[name], arguments) == 0
    text = capsys.readouterr().out
    assert f"protocol published: trained under {len(said['flaws'])} flaws: {', '.join(said['flaws'])}" in text
    assert "no findings" in text
    assert re.search(r"corpus small.jsonl: its first [\d,]+ training tokens, seen [\d.e+]+ times", text)
    assert list(tmp_path.iterdir()) == []


def test_each_flaw_is_explained_and_had_by_a_study() -> None:
    assert {flaw for _, flaw in EVERY_FLAW} == set(FLAWS)
    for flaw in FLAWS.values():
        assert flaw.explanation.endswith(".")
        assert len(flaw.explanation) < 160


def test_which_study_has_which_flaws() -> None:
    shared = {"split.overlapping_windows", "schedule.horizon_in_micro_steps", "eval.first_batches"}
    has = {name: set(published_of(STUDIES[name]).all_flaws) for name in NAMES}
    assert all(shared <= flaws for flaws in has.values())
    for flaw, studies in {
        "leak.no_causal_mask": {"exp1_components_512d", "exp4_mlp", "exp5_moe", "exp6_grid"},
        "init.one_seed_for_all": set(NAMES) - {"exp1_attention_768d"},
        "model.baseline_trained_instead": {"exp1_attention_768d", "exp6_grid"},
        "model.dead_glm_parameters": {"exp1_components_512d"},
        "confound.default_init": {"exp1_components_512d", "exp6_grid"},
        "confound.norm_eps": {"exp3_rmsnorm", "exp6_grid"},
    }.items():
        assert {name for name in NAMES if flaw in has[name]} == studies, flaw


def test_the_mask_is_gone_where_it_was_gone() -> None:
    for name, cells in {
        "exp1_components_512d": {"attention_mlp_512d", "attention_moe_8e_2k_512d"},
        "exp4_mlp": {"deepseek_mlp"},
        "exp5_moe": {"deepseek_moe"},
        "exp6_grid": {
            "attention", "attention_mlp", "attention_moe", "attention_rmsnorm", "all_components",
        },
    }.items():  # fmt: skip
        built = configurations(protocol(name)).items()
        assert {cell for cell, config in built if "causal" in config.to_dict()["model"]["attention"]} == cells
        undone = configurations(protocol(name, "leak.no_causal_mask")).values()
        assert all("causal" not in config.to_dict()["model"]["attention"] for config in undone)


def test_twelve_names_were_seven_models() -> None:
    built = configurations(protocol("exp6_grid"))
    models = {json.dumps(config.model.to_dict(), sort_keys=True) for config in built.values()}
    assert len(models) == 7
    for name, trained in {
        "moe": "baseline", "mlp_moe": "baseline", "rmsnorm_moe": "rmsnorm", "attention_moe": "attention",
        "all_components": "attention_rmsnorm",
    }.items():  # fmt: skip
        assert built[name].model == built[trained].model
        assert built[name].declared_model != built[name].model
    assert sum(config.declared_model is not None for config in built.values()) == 5
    undone = configurations(protocol("exp6_grid", "model.baseline_trained_instead"))
    assert len({json.dumps(config.model.to_dict(), sort_keys=True) for config in undone.values()}) == 12


def test_the_768d_study_trained_one_model_from_one_seed() -> None:
    built = configurations(protocol("exp1_attention_768d"))
    assert len({json.dumps(config.model.to_dict()) for config in built.values()}) == 1
    assert {config.place for config in built.values()} == {None}
    assert {config.stream_seed(42) for config in built.values()} == {42}


def test_the_plan_counts_what_the_table_counted(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(study=STUDIES["exp1_attention_768d"], protocol="published", scale="paper_768d")
    printed = {row.variant: row.params_total for row in load_published("exp1_attention_768d").rows}
    assert {cell["name"]: cell["params_total"] for cell in plan.to_json()["cells"]} == printed


@pytest.mark.parametrize(
    ("name", "cell", "kind", "weight"),
    [("exp4_mlp", "deepseek_mlp", "parallel", 0.1), ("exp5_moe", "deepseek_moe", "moe", 0.01)],
)
def test_exp4_and_exp5_changed_the_whole_block(name: str, cell: str, kind: str, weight: float) -> None:
    model = configurations(protocol(name))[cell].to_dict()["model"]
    assert model["attention"]["bias"]
    assert model["attention"]["position"] == {"kind": "none"}
    assert (model["block_norm"]["kind"], model["placement"]) == ("layernorm", "post")
    assert model["feed_forward"]["kind"] == kind
    layer = model["feed_forward"].get("moe", model["feed_forward"])
    router = layer["router"]
    assert (router["noise_std"], router["balance"], router["balance_weight"]) == (0.0, "variance", weight)
    assert layer["hidden_dropout"] is False
    one_left = configurations(protocol(name, "confound.balance_loss"))[cell].to_dict()["model"]["feed_forward"]
    assert "balance" not in one_left.get("moe", one_left)["router"]


def test_glm4_undone_piece_by_piece() -> None:
    name, cell = "exp1_components_512d", "moe_8e_2k_512d"

    def layer(*undo: str) -> dict[str, Any]:
        return configurations(protocol(name, *undo))[cell].to_dict()["model"]["feed_forward"]

    dead, dense, width = "model.dead_glm_parameters", "confound.dense_layer_for_experts", "confound.hidden_width"
    assert (layer()["kind"], layer()["used"]["d_ff"]) == ("unused_glm4", 10_944)
    assert (layer(dead)["kind"], layer(dead)["d_ff"]) == ("dense", 10_944)
    assert layer(dead, width)["d_ff"] == 2_048
    assert (layer(dense)["kind"], layer(dense)["used"]["kind"]) == ("unused_glm4", "moe")
    assert layer(dead, dense, width)["kind"] == "moe"


def test_the_published_budget() -> None:
    for name in NAMES:
        config = next(iter(configurations(protocol(name), "cpu").values()))
        training = config.training
        assert (training.updates, training.accumulation, training.updates // training.evaluate_every) == (400, 4, 8)
        assert training.evaluation_batch_size == training.batch_size
    micro_steps = {name: next(iter(configurations(protocol(name)).values())).training for name in NAMES}
    assert {t.updates * t.accumulation for t in micro_steps.values()} == {100, 1_000, 1_500}
    assert micro_steps["exp1_components_512d"].warmup_fraction == 0.1
    batches = {name: training.evaluation_batches for name, training in micro_steps.items()}
    assert batches == dict.fromkeys(NAMES, 5) | {"exp1_attention_768d": 100, "exp1_components_512d": 3}
    tokens = {name: next(iter(configurations(protocol(name)).values())).data.first_tokens for name in NAMES}
    assert tokens == dict.fromkeys(NAMES, 100_000) | {"exp1_attention_768d": 2_000_000}


def test_the_plan_says_under_what_it_trains(plan_for: Callable[..., Plan]) -> None:
    sound, flawed = plan_for(), plan_for(protocol="published", undo="leak.no_causal_mask")
    flawed.write()
    data = json.loads((flawed.folder / PLAN_FILE).read_text())
    assert data["protocol"] == "published"
    assert data["flaws"] == sorted(set(published_of(STUDIES["exp6_grid"]).all_flaws) - {"leak.no_causal_mask"})
    assert data["flaw_explanations"] == {name: FLAWS[name].explanation for name in data["flaws"]}
    assert data["negative_control"] is None
    assert labels_of(flawed, flawed.runs()[0])["flaws"] == data["flaws"]
    data = sound.to_json()
    assert (data["protocol"], data["flaws"], data["flaw_explanations"]) == ("sound", [], {})
    assert data["negative_control"] is not None
    assert labels_of(sound, sound.runs()[0])["flaws"] == []


def test_what_a_design_says_of_its_cells_is_not_said_of_flawed_ones(plan_for: Callable[..., Plan]) -> None:
    study = STUDIES["exp4_mlp"]
    (note,) = study.designs["default"].notes
    assert note in plan_for(study=study).to_json()["notes"]
    assert note in plan_for(study=study, protocol="published", undo="all").to_json()["notes"]
    flawed = plan_for(study=study, protocol="published", undo="leak.no_causal_mask").to_json()
    assert note not in flawed["notes"], "'deepseek_mlp' had experts beside its dense layer"


def test_the_protocol_and_what_is_undone_are_in_the_name(plan_for: Callable[..., Plan]) -> None:
    def words(undo: str | None) -> str:
        return plan_for(protocol="published", undo=undo).name.partition("-cpu-")[0]

    assert words(None) == "exp6_grid-published"
    assert words("leak.no_causal_mask") == "exp6_grid-published-undo_leak.no_causal_mask"
    assert words("leak.no_causal_mask,confound.norm_eps") == "exp6_grid-published-undo_2_of_9"
    assert words("all") == "exp6_grid-published-undo_all"
    undone = [None, "all", "leak.no_causal_mask,confound.norm_eps", "leak.no_causal_mask,confound.default_init"]
    assert len({plan_for(protocol="published", undo=undo).name for undo in undone} | {plan_for().name}) == 5


def test_one_model_under_two_published_names_needs_a_declared_flaw(plan_for: Callable[..., Plan]) -> None:
    study = STUDIES["exp6_grid"]
    published = published_of(study)
    cells = tuple(
        replace(cell, cell="baseline") if cell.name in ("baseline", "mlp") else cell for cell in published.cells
    )
    cells = tuple(replace(cell, flaws=()) if cell.name == "mlp" else cell for cell in cells)
    with pytest.raises(ConfigError, match="'baseline' and 'mlp' build the same model"):
        plan_for(study=replace(study, published=replace(published, cells=cells)), protocol="published")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--undo", "leak.no_causal_mask"], ["--undo", "add --protocol published"]),
        (["--undo", "all", "--protocol", "sound"], ["--undo", "add --protocol published"]),
        (
            ["--protocol", "published", "--undo", "leak.no_causal_masc"],
            ["unknown flaw 'leak.no_causal_masc'", "did you mean 'leak.no_causal_mask'?", "confound.norm_eps"],
        ),
        (
            ["--protocol", "published", "--undo", "confound.layernorm"],
            ["exp6_grid does not have the flaw 'confound.layernorm'; it has: ", "leak.no_causal_mask"],
        ),
        (["--protocol", "published", "--undo", "all,all"], ["--undo names 'all' twice"]),
        (["--protocol", "published", "--undo", "all,eval.first_batches"], ["unknown flaw 'all'"]),
        (["--protocol", "published", "--undo", ""], ["--undo has an empty name"]),
        (["--protocol", "published", "--design", "orthogonal"], ["--design orthogonal was not published"]),
        (["--protocol", "publishd"], ["--protocol", "publishd", "published"]),
        (["--protocol", "published", "--variants", "rmsnorm_mlp_moe"], ["unknown cell 'rmsnorm_mlp_moe'"]),
    ],
)
def test_bad_options_give_one_line(argv: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(STUDIES["exp6_grid"], argv)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_study_that_was_not_published_says_so() -> None:
    with pytest.raises(ConfigError, match="exp3_rmsnorm was not published: leave --protocol out"):
        parse(replace(STUDIES["exp3_rmsnorm"], published=None), ["--protocol", "published"])
