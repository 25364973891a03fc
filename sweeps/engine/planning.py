"""Making a plan: everything that was asked for, resolved and checked as a whole before anything trains.

It trains and writes nothing, except that a corpus's tokens are kept in the cache. A study is its script, design,
protocol, scales, corpus, length and data: they make the name of its folder. A plan found there is extended: what was
chosen by measurement is kept, cells and seeds are added, none is dropped.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.schema import CONFIG_HASH, FAILURES_FOLDER, PLAN_FILE, RECORDS_FOLDER, SCALE, TrialRecord
from moe_models.accounting import count
from moe_models.errors import ConfigError, require
from sweeps.engine.apart import NoMemoryError
from sweeps.engine.options import AUTO, Options, names
from sweeps.engine.plan import (
    THREADS_PER_TRIAL,
    Plan,
    PlannedCell,
    PlannedRun,
    data_hash,
    ended_runs,
    scaled_name,
    what_changed,
)
from sweeps.engine.probe import faster_precision
from sweeps.engine.protocol import Protocol
from sweeps.engine.race import require_same_looks
from sweeps.engine.registration import amendments, require_same_margin, sections
from sweeps.engine.resources import Resources
from sweeps.engine.storage import Storage
from sweeps.engine.study import DEFAULT_DESIGN, Cell, Study
from sweeps.engine.where import where_runs_train
from trainables.config import stable_hash
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.scales import Scale, scale_named

CPU_SCALE = "cpu"


def make_plan(study: Study, options: Options, resources: Resources) -> Plan:
    """Resolve and check everything that was asked for.

    Raises:
        ConfigError: something in it cannot work.
    """
    plan = resolve(study, options, resources)
    require_same_configurations(plan)
    require_same_looks(plan)
    return plan


def resolve(
    study: Study, options: Options, resources: Resources, kept: Callable[[Path], Mapping[str, Any]] | None = None
) -> Plan:
    """Resolve and check everything but whether it agrees with a plan that is there already.

    Args:
        study: what is planned.
        options: what was asked for.
        resources: the machine.
        kept: returns what was chosen for a study's folder before it had a plan; empty where nothing was.

    Raises:
        ConfigError: something in it cannot work.
    """
    if options.equivalence_margin is not None:
        study = replace(study, equivalence_margin=options.equivalence_margin)
    scales, why = choose_scales(study, options.scale, resources)
    require_writable(options.output)
    corpora = {
        scale.name: prepare_corpus(options.corpus, vocab_size=scale.vocab_size, seq_len=scale.training.seq_len)
        for scale in scales
    }
    protocol = options.find_protocol(study)
    folder = options.output.resolve() / study_name(protocol, options, scales, corpora)
    storage = Storage(folder, options.storage)
    existing = storage.plan()
    require_same_margin(existing, options.equivalence_margin, folder)
    wanted = options.cells(study)
    cells = [cell for cell in protocol.cells if cell.name in wanted]
    choices = (
        existing.get("choices")
        or (kept and kept(folder))
        or choose(protocol, cells[0], options, scales, corpora, resources)
    )
    scale_names = tuple(scale.name for scale in scales)
    planned = tuple(
        _plan_cell(protocol, cell, scale, scale_names, options.steps, choices, corpora[scale.name])
        for scale in scales
        for cell in cells
    )
    require_different_models(study, planned)
    looks = study.looks
    require(
        bool(existing) or not looks or options.seeds <= looks[-1],
        f"--seeds must be {looks[-1] if looks else 0} or less at first, the study's last look, but got {options.seeds}",
    )
    seeds = tuple(range(study.first_seed, study.first_seed + options.seeds))
    ended = ended_runs(folder) + sum(Path(name).parent.name == RECORDS_FOLDER for name in storage.missing())
    plan = Plan(
        study=study,
        protocol=protocol,
        scales=scale_names,
        why_scale=why,
        folder=folder,
        seeds=seeds,
        cells=planned,
        corpora=corpora,
        choices=choices,
        existing=existing,
        ended=ended,
        amendments=amendments(
            existing,
            [cell.name for cell in planned],
            seeds,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            ended=ended,
        ),
        rerun_failed=options.rerun == "failed",
        storage=storage,
    )
    return replace(plan, registration=sections(plan))


def choose_scales(study: Study, option: str, resources: Resources) -> tuple[list[Scale], str]:
    """Return the scales that `--scale` names, as the study has them, and why they were taken."""
    if option == AUTO and study.ladder:
        return [scale_of(study, name) for name in study.ladder], "--scale auto took the study's ladder"
    if option == AUTO:
        name = study.paper_scale if resources.gpus_per_trial else CPU_SCALE
        return [scale_of(study, name)], f"--scale auto took {name}: {resources.reason}"
    return [scale_of(study, name) for name in names(option, "--scale")], f"--scale {option}"


def scale_of(study: Study, name: str) -> Scale:
    """Return the scale of that name at the size that the study gives it; an unknown name raises ConfigError."""
    scale = scale_named(name)
    if name not in study.sizes:
        return scale
    return replace(scale, size=study.sizes[name], description=f"{name} at the size that {study.script} lists")


def require_writable(folder: Path) -> None:
    """Refuse an output folder that could not be made or written, without making it."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if os.path.lexists(place):
            require(place.is_dir(), f"--output {folder}: {place} is not a folder")
            require(os.access(place, os.W_OK | os.X_OK), f"--output {folder}: {place} cannot be written")
            return


def study_name(
    protocol: Protocol, options: Options, scales: Sequence[Scale], corpora: Mapping[str, TokenizedCorpus]
) -> str:
    """Return the name of a study's folder: what it is in words, and a hash over the same and the data."""
    study = protocol.study
    updates = [protocol.training(scale, options.steps).updates for scale in scales]
    precision = None if options.precision == AUTO else options.precision
    scale_names = [scale.name for scale in scales]
    corpus = corpora[scale_names[0]].name
    identity = {
        "script": study.script,
        "design": options.design,
        "scales": scale_names,
        "corpus": corpus,
        "updates": updates,
        "data": data_hash(corpora),
        "precision": precision,
        # The address of a sound study does not depend on what else can be rebuilt.
        **({"label": study.label} if study.label else {}),
        **({"protocol": protocol.name, "flaws": list(protocol.flaws)} if protocol.published else {}),
    }
    words = [
        study.script,
        *([study.label] if study.label else []),
        *([options.design] if options.design != DEFAULT_DESIGN else []),
        *protocol.words(),
        "+".join(scale_names),
        re.sub(r"[^A-Za-z0-9._]+", "_", corpus),
        "+".join(str(number) for number in dict.fromkeys(updates)),
        *([precision] if precision else []),
    ]
    return "-".join([*words, stable_hash(identity)[:8]])


def choose(
    protocol: Protocol,
    cell: Cell,
    options: Options,
    scales: Sequence[Scale],
    corpora: Mapping[str, TokenizedCorpus],
    resources: Resources,
) -> dict[str, Any]:
    """Return what a study chooses once and keeps: the precision at each scale, and the threads of a run.

    Raises:
        ConfigError: there is no memory to measure with.
    """
    precision = {}
    for scale in scales:
        corpus = corpora[scale.name]
        if options.precision == AUTO and protocol.published is not None:
            precision[scale.name] = protocol.published.precision
        elif options.precision == AUTO:
            config = protocol.configure(cell, scale, options.steps, "fp32", corpus)
            try:
                faster = where_runs_train(resources, faster_precision, config, corpus, resources.device)
            except NoMemoryError as error:
                raise ConfigError(
                    f"no memory to measure which precision is faster at --scale {scale.name} ({error}): take a smaller "
                    "--scale, end what else takes memory there, or, to go without this measurement, take --precision "
                    "fp32 or bf16"
                ) from error
            precision[scale.name] = faster
        else:
            precision[scale.name] = options.precision
    return {"precision": precision, "threads": THREADS_PER_TRIAL}


def require_different_models(study: Study, cells: Sequence[PlannedCell]) -> None:
    """Refuse two cells that build the same model under two names.

    Exceptions are a negative control's pair, and names under which a declared flaw trains another one's model.
    """
    seen: dict[str, PlannedCell] = {}
    for cell in cells:
        if cell.config.declared_model is not None:
            continue
        address = stable_hash(replace(cell.config, place=None).to_dict())
        other = seen.setdefault(address, cell)
        if other is cell:
            continue
        differing = {name for name in cell.factors if cell.factors[name] != other.factors[name]}
        control = study.negative_control
        require(
            control is not None and differing == {control.factor},
            f"cells '{other.name}' and '{cell.name}' build the same model: a difference between them would be noise",
        )


def _plan_cell(
    protocol: Protocol,
    cell: Cell,
    scale: Scale,
    scales: Sequence[str],
    updates: int | None,
    choices: Mapping[str, Any],
    corpus: TokenizedCorpus,
) -> PlannedCell:
    config = protocol.configure(cell, scale, updates, choices["precision"][scale.name], corpus)
    return PlannedCell(
        name=scaled_name(cell.name, scale.name, scales),
        factors={**cell.factors, **({SCALE: scale.name} if len(scales) > 1 else {})},
        scale=scale.name,
        config=config,
        counts=count(config.counted_model),
        declared=declared_slots(protocol.study, cell, scale),
    )


def declared_slots(study: Study, cell: Cell, scale: Scale) -> dict[str, Any]:
    """Return what a cell makes of the parts that the study's factors may change; None where it has no such part."""
    whole = {"model": cell.build(scale).to_dict(), "data_seed": cell.data_seed}
    declared: dict[str, Any] = {}
    for slot in sorted({slot for slots in study.slots.values() for slot in slots}):
        part: Any = whole
        for name in slot.split("."):
            part = part.get(name) if isinstance(part, Mapping) else None
        declared[slot] = part
    return declared


def require_same_configurations(plan: Plan) -> None:
    """Refuse to extend a plan whose runs were something else: their records would not be comparable."""
    old = {cell["name"]: cell["hashes"] for cell in plan.existing.get("cells", ())}
    known = plan.known_cells()
    for name in old:
        require(
            name in known, f"{plan.folder / PLAN_FILE} has a cell '{name}' that the study lacks; use another --output"
        )
    for run in plan.runs():
        before = old.get(run.cell.name, {}).get(str(run.seed), run.config_hash)
        if before != run.config_hash:
            raise ConfigError(
                f"cell '{run.cell.name}' is configured differently from the study in {plan.folder}: "
                f"{_what_changed(plan.folder, old[run.cell.name], run)}; take --output elsewhere for a new study, or "
                "the code that the study was begun with to extend it"
            )


def _what_changed(folder: Path, planned: Mapping[str, str], run: PlannedRun) -> str:
    """Return the fields in which a run differs from its cell as it was planned, by seed: of which any record tells."""
    now = run.cell.config.to_dict()
    changes = (what_changed(then, now) for then in _configs(folder, planned.values()))
    return next(filter(None, changes), f"{CONFIG_HASH} {run.config_hash}, there {planned[str(run.seed)]}")


def _configs(folder: Path, addresses: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the configurations that the records, and the failures, of some runs hold."""
    for address, place in itertools.product(addresses, (RECORDS_FOLDER, FAILURES_FOLDER)):
        with suppress(OSError, ValueError):
            yield TrialRecord.read(folder / place / f"{address}.json").config
