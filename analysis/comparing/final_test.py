"""The final test: results on the test split, which is opened once, when the study is complete as registered.

Every finished run scores the test split after its last scheduled update and keeps the result in its record, where no
table, curve or report shows it. When all registered runs have ended, the report opens it and writes so into the study's
folder (`TEST_OPENED_FILE`), before anything of it is shown. Runs that end later make a further opening, said as such:
they were added with the results in view.

It is no second test: estimates alone. The registered tests are on the validation split, and a p here would let a
reader pick the one that suits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import schema, text
from analysis.comparing.divergence import SURVIVORS_COLUMN, survivors
from analysis.comparing.racing import race
from analysis.errors import AnalysisError
from analysis.statistics.significance import t_interval
from analysis.study import plan_check
from analysis.study.registered import Registration, registration
from analysis.study.results import Results

FINAL_TEST_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "baseline": "the cell it is compared with",
    "n": "finished runs with a result on the test split",
    "test_loss": "mean cross-entropy over the whole test split after the last scheduled update, nats per token",
    "test_loss_low": "95 % t interval over seeds, lower end",
    "test_loss_high": "upper end",
    "difference": "mean paired difference of the test loss, cell - baseline, nats",
    "difference_low": "95 % t interval of one comparison, lower end",
    "difference_high": "upper end",
    "validation_difference": "the same difference on the validation split, of the same runs",
} | SURVIVORS_COLUMN
PURPOSE = (
    "The registered tests are on the validation split; here are estimates alone, a check on text that nothing was "
    "chosen by."
)


def open_test(results: Results) -> Results:
    """Return the results with the test split open, where the study is complete: this is written to its folder first.

    Results that may not be opened come back as they were.
    """
    if why_closed(results):
        return results
    assert results.folder is not None
    addresses = _addresses(results)
    if results.test_openings and set(results.test_openings[-1]["runs"]) == set(addresses):
        return results
    opening = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "runs": addresses}
    openings = (*results.test_openings, opening)
    try:
        schema.write_json(results.folder / schema.TEST_OPENED_FILE, {"openings": list(openings)})
    except OSError:
        return results
    return dataclasses.replace(results, test_openings=openings)


def read_openings(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Return when the test split of a study was opened, and with which runs; empty where it never was.

    Raises:
        AnalysisError: the file is there and cannot be read.
    """
    path = folder / schema.TEST_OPENED_FILE
    try:
        openings = json.loads(path.read_text())["openings"]
        return tuple({"when": str(entry["when"]), "runs": list(entry["runs"])} for entry in openings)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{path}, the log of the test split's openings, cannot be read: {error}") from error


def _addresses(results: Results) -> list[str]:
    """Return the addresses of the counted runs that have a result on the test split, sorted."""
    runs = results.counted[[schema.CELL, schema.SEED, schema.CONFIG_HASH]].itertuples(index=False)
    return sorted(address for cell, seed, address in runs if (cell, seed) in results.test)


def why_closed(results: Results) -> str:
    """Return why the test split may not be opened, or empty text."""
    found = registration(results.plan)
    if found is None or not found.registered.final_test:
        return "the plan has no final test"
    if results.folder is None:
        return "its results are in the study's folder alone, and this report is of another source"
    if not plan_check.intact(results, found):
        return "the registered plan was changed"
    left = _left(results, found)
    if left:
        return f"of the registered runs {left:,} have not ended, or failed and are to be tried again"
    if not _addresses(results):
        return "no finished run has a result on it"
    return ""


def _left(results: Results, found: Registration) -> int:
    """Return how many registered runs have neither finished nor diverged; of a race, of those that it asks for."""
    ended = results.runs[results.runs[schema.STATUS] != schema.FAILED]
    done = set(zip(ended[schema.CELL], ended[schema.SEED], strict=True))
    seeds, raced = sorted(plan_check.planned_seeds(found)), race(results)
    asked = raced.asked() if raced else {}
    return sum(
        (cell, seed) not in done for cell in found.registered.cells for seed in seeds[: asked.get(cell, len(seeds))]
    )


def is_open(results: Results) -> bool:
    """Return whether the test split may be shown: complete, and its opening written."""
    if why_closed(results) or not results.test_openings:
        return False
    return set(results.test_openings[-1]["runs"]) == set(_addresses(results))


def lead(results: Results) -> str:
    """Return the section's first lines: whether the split is open, since when; empty where there is no such test."""
    found = registration(results.plan)
    if found is None or not found.registered.final_test:
        return ""
    if not is_open(results):
        why = why_closed(results) or "its opening cannot be written into the study's folder"
        return f"The test split stays closed: {why}."
    first, *later = results.test_openings
    runs = text.counted(len(first["runs"]), "run")
    words = (
        f"Opened on {first['when'][:10]} with {runs}, when the study was complete as registered. "
        f"Each result is the last scheduled update's. {PURPOSE}"
    )
    for opening in later:
        runs = text.counted(len(set(opening["runs"]) - set(first["runs"])), "run")
        words += (
            f" Opened again on {opening['when'][:10]} with {runs} that the first opening did not have: what they "
            "change was added with the test's results in view."
        )
    return words


def final_test(results: Results, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Describe cells and their differences on the test split; nothing is tested.

    Args:
        results: the study.
        comparisons: `comparisons.compare`, with its column `plan`: the primary one is on the registered seeds.

    Returns:
        FINAL_TEST_COLUMNS, of each scale the best first and cells with diverged runs last, as in the ranking; empty
        while the split is closed.
    """
    if not is_open(results):
        return pd.DataFrame(columns=list(FINAL_TEST_COLUMNS))
    values = results.test_losses()
    table = pd.DataFrame({"scale": results.scales, "cell": values.index}, index=values.index)
    table["baseline"] = [results.baselines.get(cell, cell) for cell in values.index]
    plan = comparisons.set_index("cell")["plan"].reindex(values.index).fillna("")
    n, mean, sd = values.count(axis=1), values.mean(axis=1), values.std(axis=1)
    table["n"], table["test_loss"] = n, mean
    table["test_loss_low"], table["test_loss_high"] = t_interval(mean, sd, n)
    is_baseline = table["cell"] == table["baseline"]
    difference = plan_check.of_registered_seeds(_against(values, table, is_baseline), plan, results)
    moments = difference.mean(axis=1), difference.std(axis=1), difference.count(axis=1)
    table["difference"] = moments[0]
    table["difference_low"], table["difference_high"] = t_interval(*moments)
    validation = _against(results.finished(schema.VAL_LOSS), table, is_baseline)
    table["validation_difference"] = validation.where(difference.notna()).mean(axis=1)
    table["survivors"] = survivors(results, dict(zip(table["cell"], table["baseline"], strict=True)))
    diverged = results.count(schema.DIVERGED) > 0
    place = {scale: place for place, scale in enumerate(results.scales.unique())}
    table = table.assign(place=table["scale"].map(place), diverged=diverged)[(n > 0) | diverged]
    table = table.sort_values(["place", "diverged", "test_loss"], kind="stable")
    return table[list(FINAL_TEST_COLUMNS)].reset_index(drop=True)


def _against(values: pd.DataFrame, table: pd.DataFrame, is_baseline: pd.Series) -> pd.DataFrame:
    bases = values.loc[table["baseline"]].set_axis(values.index)
    return (values - bases).mask(is_baseline)
