"""The protocol of a study: soundly, or as it was published, flaw by flaw.

Under the published protocol a cell is the sound cell that trains what its name says, with the published settings (which
are no flaws: the number of training tokens, the length, the warm-up) and with the changes of all flaws in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moe_models.errors import ConfigError, require, unknown_name
from sweeps.engine.flaws import FLAWS, Case
from sweeps.engine.study import DEFAULT_DESIGN, Cell, Published, Study

if TYPE_CHECKING:  # torch takes a second to import, which `--help` need not wait for
    from moe_models.config import ModelConfig
    from trainables.config import TrainingConfig, TrialConfig
    from trainables.data import TokenizedCorpus
    from trainables.scales import Scale

SOUND = "sound"
PUBLISHED = "published"
ALL = "all"
CPU_BUDGET = {"accumulation": 4, "updates": 400, "evaluate_every": 50}
"""The published budget at `cpu`: 1,600 micro-steps, 4 to an update, evaluated 8 times. Paper scales have their own."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the cells of a study are trained."""

    study: Study
    design: str
    published: Published | None
    """What is rebuilt; None under the sound protocol."""
    flaws: tuple[str, ...]
    """Names of the flaws in force, sorted; none under the sound protocol."""

    @property
    def name(self) -> str:
        """What `--protocol` calls it."""
        return PUBLISHED if self.published else SOUND

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The study's cells under this protocol; a published one has its published name."""
        cells = self.study.designs[self.design].cells
        if self.published is None:
            return cells
        sound = {cell.name: cell for cell in cells}
        return tuple(replace(sound[cell.sound], name=cell.name) for cell in self.published.cells)

    def words(self) -> list[str]:
        """Return how a study's name says this protocol: nothing under the sound one."""
        if self.published is None:
            return []
        known = self.published.all_flaws
        undone = [flaw for flaw in known if flaw not in self.flaws]
        if not undone:
            return [PUBLISHED]
        what = ALL if not self.flaws else undone[0] if len(undone) == 1 else f"{len(undone)}_of_{len(known)}"
        return [PUBLISHED, f"undo_{what}"]

    @property
    def under(self) -> str:
        """What is to be said beside every number: `under 6 flaws`; nothing where none is in force."""
        if not self.flaws:
            return ""
        return "under 1 flaw" if len(self.flaws) == 1 else f"under {len(self.flaws)} flaws"

    def sentence(self) -> str:
        """Return in one line under what cells are trained."""
        if not self.flaws:
            return f"protocol {self.name}" + (": all flaws undone" if self.published else "")
        return f"protocol {self.name}: trained {self.under}: {', '.join(self.flaws)}; these numbers are no findings"

    def training(self, scale: Scale, updates: int | None, **choices: Any) -> TrainingConfig:
        """Return the budget at a scale, before any flaw; `updates` overrides its length."""
        if self.published is None:
            return scale.with_training(updates=updates, **choices)
        budget: dict[str, Any] = CPU_BUDGET if scale.name == "cpu" else {}
        budget = {**budget, "warmup_fraction": self.published.warmup_fraction}
        return scale.with_training(**{**budget, **({"updates": updates} if updates else {}), **choices})

    def configure(
        self, cell: Cell, scale: Scale, updates: int | None, precision: str, corpus: TokenizedCorpus
    ) -> TrialConfig:
        """Return the full configuration of one of `cells` at a scale."""
        from trainables.config import DataConfig, TrialConfig

        config = TrialConfig(
            model=cell.build(scale),
            training=self.training(scale, updates, precision=precision),
            data=DataConfig(
                corpus=corpus.name,
                content_hash=corpus.content_hash,
                first_tokens=self.published.first_tokens if self.published else None,
            ),
            data_seed=cell.data_seed,
        )
        return self._flawed(config, cell.name, scale) if self.published else config

    def _flawed(self, config: TrialConfig, name: str, scale: Scale) -> TrialConfig:
        """Put all flaws in force that act on a published cell into its configuration, in the order of FLAWS."""
        assert self.published is not None
        (place,) = (place for place, cell in enumerate(self.published.cells) if cell.name == name)
        cell = self.published.cells[place]
        case = Case(
            size=scale.size,
            place=place,
            evaluation_batches=self.published.evaluation_batches,
            balance_weight=self.published.balance_weight,
            trained=self._model(cell.trained, config, scale) if cell.trained else None,
            counts_declared=self.published.counts_declared,
        )
        acting = {*self.published.flaws, *cell.flaws} & set(self.flaws)
        for flaw in FLAWS.values():
            if flaw.name in acting:
                config = flaw.change(config, case)
        return config

    def _model(self, name: str, config: TrialConfig, scale: Scale) -> ModelConfig:
        """Return the model of another published cell, its own flaws included."""
        (cell,) = (cell for cell in self.cells if cell.name == name)
        return self._flawed(replace(config, model=cell.build(scale)), name, scale).model


def find_protocol(study: Study, design: str, name: str, undo: Sequence[str] | None) -> Protocol:
    """Return the protocol that `--protocol` and `--undo` name.

    Raises:
        ConfigError: the study has no such protocol, or no such flaw.
    """
    if name == SOUND:
        require(undo is None, "--undo takes flaws out of the published protocol: add --protocol published")
        return Protocol(study=study, design=design, published=None, flaws=())
    published = study.published
    if published is None:
        raise ConfigError(f"{study.script} was not published: leave --protocol out")
    require(
        design == DEFAULT_DESIGN,
        f"--design {design} was not published: with --protocol published leave --design out",
    )
    known = published.all_flaws
    undone = known if list(undo or ()) == [ALL] else undo or ()
    for flaw in undone:
        if flaw in FLAWS and flaw not in known:
            raise ConfigError(f"{study.script} does not have the flaw '{flaw}'; it has: {', '.join(known)}")
        if flaw not in known:
            raise unknown_name("flaw", flaw, known)
    return Protocol(
        study=study, design=design, published=published, flaws=tuple(flaw for flaw in known if flaw not in undone)
    )
