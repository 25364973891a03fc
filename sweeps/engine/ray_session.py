"""The Ray that a study runs in: one of its own on this machine alone, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from analysis.schema import error_line
from moe_models.errors import ConfigError
from sweeps.engine.resources import Resources

RAY_STARTS = 3
"""How often Ray is started where it is not up in time."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # nobody reads Tune's files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours stops the study and says how to go on
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tuner.restore is not used
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are recorded and shown once
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """The Ray of a cluster that is there already, and stays when the block ends."""
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def ray_session(resources: Resources, say: Callable[[str], None] = print) -> Iterator[None]:
    """A Ray of our own, on this machine alone, ended with the block; or the one that is there already."""
    if ray.is_initialized():
        yield
        return
    global _ours
    try:
        with quiet():
            start_ray(resources.slots, resources.gpus, say)
        _ours = True
        yield
    finally:
        _ours = False
        ray.shutdown()


_ours = False
"""Whether the Ray of this process was started by `ray_session`."""


def start_ray(slots: int, gpus: int = 0, say: Callable[[str], None] = print, starts: int = RAY_STARTS) -> None:
    """Start a Ray of our own on this machine, with room for runs on its cores and GPUs.

    Ray's patience, 30 s that no setting changes, is too short for a machine with much else to do: it is started again.

    Raises:
        ConfigError: it cannot be started.
    """
    try:
        ray.init(
            address="local",  # never join a cluster that happens to run
            num_cpus=slots,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # of many kinds, none of which is the study's
        if starts == 1 or "timed out" not in str(error):
            raise ConfigError(f"Ray cannot be started: {error_line(error)}") from error
        say("Ray was not up in time and is started once more")
        ray.shutdown()
        start_ray(slots, gpus, say, starts - 1)


def restart_ray(resources: Resources, say: Callable[[str], None], left: int) -> bool:
    """Start the Ray of a `ray_session` anew; False where it is another's, or has died too often."""
    if not _ours or left == 0:
        say("Ray died: the study stops here")
        return False
    say("Ray died and is started anew; runs go on from their checkpoints")
    ray.shutdown()
    start_ray(resources.slots, resources.gpus, say)
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Tune from talking: what matters is in the records and on the display."""
    before = {name: os.environ.get(name) for name in TUNE_ENVIRONMENT}
    os.environ.update(TUNE_ENVIRONMENT)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
