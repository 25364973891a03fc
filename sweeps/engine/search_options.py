"""What a search is asked for, and how it may fail: nothing that is slow to load."""

from __future__ import annotations

from dataclasses import dataclass

from moe_models.errors import ConfigError, require
from sweeps.engine.options import Options, flag_of
from sweeps.engine.space import DEFAULT_SPACE, parse_space
from sweeps.engine.study import Study


class FailedTrialsError(ConfigError):
    """An error ended some trials: an unequal search compares nothing."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """What the user asked for; `--seeds` are those of the confirmation."""

    study: str = "exp6_grid"
    """The study whose cells are tuned: a script's name under sweeps/."""
    trials: int = 16
    """Trials of each cell's search."""
    space: str = DEFAULT_SPACE
    """What is searched: name=lowest:highest, separated by commas. Learning rates and weight_decay are drawn on a log
    scale, warmup_fraction on a linear one."""
    rungs: int = 2
    """Points at which poor trials are stopped; 0 trains all to the end."""
    reduction: int = 3
    """At a rung one trial of so many goes on, so many times as far as before."""
    max_tokens: int | None = None
    """Most training tokens of a cell's search; by default as many as its trials take."""
    random: int = 0
    """Independent draws besides, all trained to the end: from these the best loss is estimated against the budget, and
    the importance of the hyperparameters."""
    sweep: int = 5
    """Learning rates, from end to end of each one's range and all else at the cell's best, from which the sensitivity
    to it is measured; 0 for none."""
    search_seed: int = 1000
    """Seed of all draws and of all trials of the search; the confirmation's seeds are others."""
    optuna_storage: str | None = None
    """Where the searches are copied for optuna-dashboard: a database URL; by default a SQLite file in the study's
    folder. A URL with a password belongs into the environment variable ABLATUNE_OPTUNA_STORAGE."""

    def check(self, study: Study) -> None:
        """Refuse, before anything slow is imported, what can be seen to be wrong."""
        super().check(study)
        require(self.protocol == "sound", "a published protocol has its own learning rates: leave --protocol out")
        for name in ("random", "search_seed"):
            require(getattr(self, name) >= 0, f"{flag_of(name)} must be 0 or more but got {getattr(self, name)}")
        require(self.sweep == 0 or self.sweep >= 3, f"--sweep must be 0, or 3 or more, but got {self.sweep}")
        require(
            self.search_seed >= self.seeds,
            f"--search-seed {self.search_seed} is one of the confirmation's seeds (0 to {self.seeds - 1}), which must "
            "be fresh",
        )
        require(
            all(cell.data_seed is None for cell in study.designs[self.design].cells),
            f"--study {self.study} trains a model on several orders of the data: each searched for itself, they would "
            "differ by more than these",
        )
        parse_space(self.space)
