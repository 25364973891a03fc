"""The trainable of a search: the driver keeps its record, because the driver decides how far it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainables.data import TokenizedCorpus
from trainables.ray_trainable import AblationTrainable


class TuningTrainable(AblationTrainable):
    """Trains as AblationTrainable does and writes no record: each report holds all that one is made of.

    Beside what AblationTrainable reports: the whole `curve` so far, and once the seed has ended its `error` and the
    `findings` of the audits. The test split is never touched.
    """

    def setup(self, config: dict[str, Any], corpora: Mapping[str, TokenizedCorpus] | None = None) -> None:
        """Check the configuration and start its seed."""
        self.ended: dict[str, Any] = {"error": None, "findings": []}
        super().setup(config, corpora)

    def step(self) -> dict[str, Any]:
        """Train to the next pause or report."""
        report = super().step()
        return {**self.ended, **report, "curve": [] if self.unstarted else list(self.trainer.rows)}

    def _end_seed(self, status: str, error: str | None) -> None:
        """Keep for the report what the end showed."""
        self.ended = {"error": error, "findings": [dataclasses.asdict(audit) for audit in self.auditor.end()]}
