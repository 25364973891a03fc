"""Is the difference significant? A comparison over many seeds, planned by power; or a race.

    python sweeps/significance.py --variants baseline,attention --seeds 10
    python sweeps/significance.py --variants baseline,attention,mlp --until-decided
    python sweeps/significance.py --variants baseline,attention --difference 0.01 --pilot results/exp6_grid-...

The variants are cells of a study (`--study`, exp6_grid unless told), and the first one named is what the others are
compared with. Seeds start at 1000: other studies count from 0, so whatever was seen there, these runs are fresh. In a
race (`--until-decided`) every contender starts with a few seeds; at declared looks, what is decided stops and what is
open goes on, up to `--seeds`. The error over all contenders and looks stays at 5 %.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.schema import VAL_LOSS
from moe_models.errors import require, unknown_name
from sweeps.engine.cli import guarded, run
from sweeps.engine.options import AUTO, Options, names, read
from sweeps.engine.shown import console_of, saying
from sweeps.engine.study import DEFAULT_DESIGN, find_study

FIRST_SEED = 1000
SEEDS = 10
"""Where no power was asked for."""
FIRST_LOOK = 3
"""Fewer pairs are not tested."""
GROWTH = 1.4
"""From look to look: 3, 5, 7, 10, 14, ..."""
LAST_GAP = 0.8
"""A look at more than this share of the last one's seeds is left out: it would save little."""


@dataclass(frozen=True, kw_only=True)
class SignificanceOptions(Options):
    """What the user asked for."""

    variants: str = "all"
    """Cells of the study, separated by commas: the first is what the others are compared with. `all`: every cell with
    the study's own baseline."""
    study: str = "exp6_grid"
    """The study whose cells are compared: a script's name under sweeps/."""
    seeds: int | None = None  # type: ignore[assignment]
    """Seeds of every cell; of a race, the most. By default what --difference needs by the --pilot, otherwise 10."""
    until_decided: bool = False
    """Race: start with 3 seeds of each, and give further ones only to comparisons that are not decided."""
    difference: float | None = None
    """Smallest difference that matters, nats. Smaller ones count as none: "no difference" can then be a finding, and
    a race stops a contender that cannot reach it."""
    equivalence_margin: float | None = None
    """Not taken here: --difference is the margin."""
    pilot: Path | None = None
    """Folder of a study that has the same cells: how its differences vary from seed to seed says what can be found.
    Planned on the upper 80 % bound of their sd."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the process's exit code."""
    return guarded(sys.argv[1:] if argv is None else argv, _run)


def _run(argv: Sequence[str]) -> int:
    options = read(SignificanceOptions, argv, "significance", __doc__ or "")
    source = find_study(options.study)
    design = source.designs.get(options.design)
    if design is None:
        raise unknown_name("design", options.design, source.designs)
    known = [cell.name for cell in design.cells]
    asked = known if options.variants == "all" else names(options.variants, "--variants")
    for name in asked:
        if name not in known:
            raise unknown_name("cell", name, known)
    require(len(asked) > 1, f"--variants names '{asked[0]}' alone: name two or more, the first to compare with")
    baseline = source.baseline if options.variants == "all" else asked[0]
    for cell in design.cells:
        other = "no other cell" if cell.baseline == cell.name else f"'{cell.baseline}'"
        require(
            cell.name not in asked or cell.baseline in (None, baseline),
            f"'{cell.name}' of {options.study} is compared with {other}, not with '{baseline}': name other --variants",
        )
    contenders = [name for name in asked if name != baseline]
    for name in ("seeds", "difference"):
        value = getattr(options, name)
        require(value is None or 0 < value < math.inf, f"--{name} must be positive but got {value}")
    require(options.protocol == "sound", "--protocol published has one seed: compare sound cells")
    require(options.equivalence_margin is None, "--equivalence-margin is --difference here: give that")

    scales = source.ladder if options.scale == AUTO and source.ladder else names(options.scale, "--scale")
    comparisons = len(contenders) * len(scales)
    spread = None if options.pilot is None else pilot_spread(options.pilot, baseline, contenders)
    seeds = options.seeds or planned_seeds(options, spread, comparisons)
    require(seeds >= FIRST_LOOK, f"--seeds must be {FIRST_LOOK} or more, since fewer are not tested, but got {seeds}")
    looks = looks_to(seeds) if options.until_decided else ()
    power = power_of(seeds, looks, comparisons, options.difference, spread)
    study = dataclasses.replace(
        source,
        script="significance",
        label=f"{source.script}-{baseline}",
        title=f"{'A race' if looks else 'Significance'}: {', '.join(contenders)} against {baseline} ({source.script})",
        designs={DEFAULT_DESIGN: design, options.design: design},
        baseline=baseline,
        # Of several none comes first, and a race tests each at several looks.
        primary=contenders[0] if comparisons == 1 and not looks else None,
        looks=looks,
        # Without a wanted difference a race stops nothing as futile.
        equivalence_margin=options.difference if looks else source.equivalence_margin,
        first_seed=FIRST_SEED,
        published=None,
    )
    planned = dataclasses.replace(options, seeds=seeds, equivalence_margin=options.difference)
    planned.check(study)
    say = saying(console_of(options))
    for line in lines_of(power):
        say(line)
    return run(study, planned, {"power": power})


def looks_to(seeds: int) -> tuple[int, ...]:
    """Return the looks of a race with so many seeds at most; too few for two looks raise ConfigError."""
    require(
        seeds > FIRST_LOOK,
        f"--until-decided takes its first look at {FIRST_LOOK} seeds: --seeds must be {FIRST_LOOK + 1} or more but got "
        f"{seeds}",
    )
    from analysis.statistics.looks import check_looks

    looks, n = [], float(FIRST_LOOK)
    while round(n) <= LAST_GAP * seeds:
        looks.append(round(n))
        n = max(n * GROWTH, n + 2)
    return check_looks((*looks, seeds))


def pilot_spread(folder: Path, baseline: str, contenders: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each contender what a pilot says of its differences from the baseline, as plain data."""
    from analysis.loading.load import load_results
    from analysis.seeds import spread

    table = spread(load_results(folder, metric=VAL_LOSS), baseline, contenders)
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def planned_seeds(options: SignificanceOptions, spread: list[dict[str, Any]] | None, comparisons: int) -> int:
    """Return the seeds that the wanted difference needs by the pilot; SEEDS where one of the two is not given."""
    if spread is None or options.difference is None:
        return SEEDS
    needed = max(seeds_for(row["sd_planned"], options.difference, comparisons, options.until_decided) for row in spread)
    require(
        needed <= most(options.until_decided),
        f"a difference of {options.difference:g} nats needs more than {most(options.until_decided):,} seeds by the "
        f"pilot: name a larger --difference, or --seeds",
    )
    return int(needed)


def most(race: bool) -> int:
    """Return the most seeds that are planned."""
    from analysis.seeds import MOST
    from analysis.statistics.looks import MOST as MOST_OF_A_RACE

    return MOST_OF_A_RACE if race else MOST


def seeds_for(sd: float, difference: float, comparisons: int, race: bool) -> float:
    """Return the fewest seeds that find a difference with 80 % power at 5 % / comparisons; infinite beyond `most`.

    A race must be able to find it at its last look alone; what it finds earlier comes on top.
    """
    import numpy as np

    from analysis.seeds import seeds_needed

    effect = difference / sd
    seeds = float(seeds_needed(np.array(effect), comparisons))
    if race:
        seeds = max(seeds, FIRST_LOOK + 1)
        while seeds <= most(race) and detectable_sds(int(seeds), looks_to(int(seeds)), comparisons) > effect:
            seeds += 1
    return seeds if seeds <= most(race) else math.inf


def detectable_sds(seeds: int, looks: Sequence[int], comparisons: int) -> float:
    """Return the true difference, in sds of a seed's difference, that so many seeds find with 80 % power."""
    from analysis.statistics.looks import detectable

    return float(detectable([seeds], comparisons, looks)[0])


def power_of(
    seeds: int,
    looks: Sequence[int],
    comparisons: int,
    difference: float | None,
    spread: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """Return what these seeds can find, as plain data."""
    from analysis.statistics.significance import ALPHA, POWER

    sds = detectable_sds(seeds, looks, comparisons)
    contenders = [{**row, "detectable": sds * row["sd_planned"]} for row in spread or ()]
    if difference is not None:
        for row in contenders:
            needed = seeds_for(row["sd_planned"], difference, comparisons, bool(looks))
            row["seeds_needed"] = None if math.isinf(needed) else int(needed)
    return {
        "seeds": seeds,
        "looks": list(looks),
        "comparisons": comparisons,
        "alpha": ALPHA / comparisons,
        "power": POWER,
        "difference": difference,
        "detectable_sds": sds,
        "contenders": contenders,
    }


def lines_of(power: dict[str, Any]) -> list[str]:
    """Say in words what these seeds can find."""
    looks = ", ".join(map(str, power["looks"]))
    several = f", one of {power['comparisons']} that share 5 %" if power["comparisons"] > 1 else ""
    by = f"; by the last of the looks at {looks} seeds alone" if looks else ""
    lines = [
        f"power: with {100 * power['power']:g} % probability {power['seeds']} seeds find a true difference of "
        f"{power['detectable_sds']:.2f} sds of a seed's difference "
        f"(paired t test at {100 * power['alpha']:.3g} %{several}{by})"
    ]
    if not power["contenders"]:
        lines.append("  no pilot: what that is in nats is not known; --pilot FOLDER takes the sd from another study")
    for row in power["contenders"]:
        line = (
            f"  {row['cell']}: sd {row['sd_difference']:.2g} nats over the pilot's {row['n']} seeds, upper 80 % bound "
            f"{row['sd_planned']:.2g}: finds {row['detectable']:.2g} nats"
        )
        if power["difference"] is not None:
            needed = row["seeds_needed"]
            seeds = "more seeds than can be planned" if needed is None else f"{needed} seeds"
            line += f"; {power['difference']:g} nats need {seeds}"
        lines.append(line)
    return lines


if __name__ == "__main__":
    sys.exit(main())
