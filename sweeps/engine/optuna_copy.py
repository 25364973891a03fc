"""A copy of searches in an Optuna storage, for optuna-dashboard and whatever else reads one.

The records are the truth. A storage that fails costs no result: it is said once, and the next run of the same command
copies what is missing. A URL may hold a password: it is shown through `public` alone and written nowhere.
"""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.schema import DIVERGED, FINISHED, STEP, VAL_LOSS
from analysis.tracking.uris import holds_secret, public, split_credentials
from analysis.tuning_records import SEARCH, STOPPED, TuningRecord
from moe_models.errors import ConfigError, require
from sweeps.engine.declaration import CHOICES, DECLARED
from sweeps.engine.search import distributions
from sweeps.engine.space import Space
from trainables.config import stable_hash

if TYPE_CHECKING:
    import optuna

STORAGE_VARIABLE = "ABLATUNE_OPTUNA_STORAGE"
STORAGE_FILE = "optuna.db"
DECLARATION = "declaration"
"""The attribute of a study that holds a hash of its search's declaration."""


def storage_url(option: str | None, folder: Path) -> str:
    """Return where searches are copied: the option, ABLATUNE_OPTUNA_STORAGE, or a SQLite file in the study's folder.

    Raises:
        ConfigError: the option holds a password, or what may be one: anybody on the machine can read a command line.
    """
    require(
        option is None or not holds_secret(option),
        f"--optuna-storage {public(option or '')}: a password on a command line can be read by everybody on the "
        f"machine; put the URL into the environment variable {STORAGE_VARIABLE}",
    )
    return option or os.environ.get(STORAGE_VARIABLE) or f"sqlite:///{folder / STORAGE_FILE}"


def frozen_trial(record: TuningRecord, space: Space) -> optuna.trial.FrozenTrial:
    """Return a trial that has ended as Optuna has it; `user_attrs` hold its address and its number."""
    import optuna

    state = optuna.trial.TrialState.COMPLETE if record.status == FINISHED else optuna.trial.TrialState.PRUNED
    evaluated = {row[STEP]: row[VAL_LOSS] for row in record.rows if row.get(VAL_LOSS) is not None}
    return optuna.trial.create_trial(
        state=state,
        value=record.loss,
        params=record.hyperparameters,
        distributions=distributions(space),
        intermediate_values={**{int(step): loss for step, loss in record.rungs.items()}, **evaluated},
        user_attrs={"number": record.number, "config_hash": record.config_hash, "status": record.status},
    )


class OptunaCopy:
    """Writes ended trials into a storage, each once.

    Args:
        url: of the storage, as Optuna and SQLAlchemy take it.
        space: what is searched.
        declared: the search's declaration.
        warn: where to say that the storage fails.

    Raises:
        ConfigError: the storage cannot be opened, or has a search of this name that was declared otherwise: it has
            them by name alone, and would show both as one.
    """

    def __init__(self, url: str, space: Space, declared: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        import optuna

        logging.getLogger("optuna").setLevel(logging.WARNING)
        self.url = url
        self.space = space
        self._declaration = stable_hash({name: declared.get(name) for name in (*DECLARED, CHOICES)})
        self._warn = warn
        self._failing = False
        self._studies: dict[str, tuple[optuna.Study, set[str]]] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._storage = optuna.storages.RDBStorage(url)
                found = optuna.get_all_study_summaries(self._storage, include_best_trial=False)
        except Exception as error:  # whatever a driver raises, an ImportError where there is none
            raise ConfigError(f"the Optuna storage {public(url)} cannot be used: {self._reason(error)}") from None
        others = [
            study.study_name
            for study in found
            if study.study_name.startswith(f"{declared['study']}/")
            and study.user_attrs.get(DECLARATION, self._declaration) != self._declaration
        ]
        require(
            not others,
            f"the Optuna storage {public(url)} has a search of this name that was declared otherwise "
            f"({', '.join(others)}): give another --optuna-storage",
        )

    def copy(self, records: Iterable[TuningRecord]) -> None:
        """Add the trials that have ended and are not there yet."""
        try:
            for record in records:
                if record.status not in (FINISHED, STOPPED, DIVERGED):
                    continue
                study, known = self._study(record)
                if record.config_hash not in known:
                    study.add_trial(frozen_trial(record, self.space))
                    known.add(record.config_hash)
        except Exception as error:  # whatever a driver raises: a copy must not end a search
            if not self._failing:
                self._warn(
                    f"the Optuna storage cannot be written ({self._reason(error)}); the search goes on and keeps its "
                    "records: run the same command again to copy them"
                )
            self._failing = True

    def _study(self, record: TuningRecord) -> tuple[optuna.Study, set[str]]:
        """Return the study of a cell's arm, and the addresses of the trials that it holds."""
        import optuna

        name = f"{record.study}/{record.cell}" + ("" if record.arm == SEARCH else f"/{record.arm}")
        if name not in self._studies:
            study = optuna.create_study(
                study_name=name, storage=self._storage, direction="minimize", load_if_exists=True
            )
            study.set_user_attr(DECLARATION, self._declaration)
            self._studies[name] = study, {trial.user_attrs["config_hash"] for trial in study.get_trials(deepcopy=False)}
        return self._studies[name]

    def _reason(self, error: Exception) -> str:
        """Return an error's first line without what the URL keeps secret."""
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        password = split_credentials(self.url)[0].partition(":")[2]
        return public(text.replace(password, "...") if password else text)

    def dashboard_command(self) -> str:
        """Return how to look at the searches in a browser."""
        return shlex.join(["optuna-dashboard", public(self.url)])
