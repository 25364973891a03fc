"""Work in processes of its own, which end with it: what they take of a GPU is free again for the runs."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import torch

from analysis.schema import error_line
from moe_models.errors import ConfigError
from trainables.data import TokenizedCorpus, open_corpus
from trainables.memory import lacks_memory, out_of_memory

T = TypeVar("T")

CONTEXT = multiprocessing.get_context("spawn")
"""How the processes start: one that has seen CUDA cannot be forked."""

# A process of this machine opens a corpus where it lies; only Ray copies its tokens to where they may not be.
ForkingPickler.register(TokenizedCorpus, lambda corpus: (open_corpus, (corpus.directory,)))


class NoMemoryError(ConfigError):
    """Something was tried, and memory ended: the message says what was asked for, and what there was."""


def in_processes(doing: str, count: int, work: Callable[..., T], *arguments: Any) -> list[T]:
    """Call a function in so many processes at a time; return what each of them returns.

    Args:
        doing: what they do, in words.
        count: of processes.
        work: can be imported.
        arguments: of each call.

    Raises:
        NoMemoryError: memory ended in one of them, or the system killed it.
        ConfigError: one failed or died otherwise.
    """
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(count)]
    waiting: dict[Connection, SpawnProcess] = {}
    try:
        for receiving, sending in pipes:
            process = CONTEXT.Process(target=_send, args=(sending, work, arguments), daemon=True)
            process.start()
            waiting[receiving] = process
        return _results(waiting, f"{doing} failed")
    finally:
        for process in waiting.values():
            process.terminate()
            process.join()


def in_one_line(work: Callable[..., T], *arguments: Any) -> T:
    """Call a function in this process; return what it returns.

    Raises:
        NoMemoryError: memory ended.
    """
    try:
        return work(*arguments)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        on_gpu = torch.cuda.is_initialized()
        raise NoMemoryError(out_of_memory(error, float(on_gpu), torch.device("cuda" if on_gpu else "cpu"))) from error


def _send(sending: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Do what one process does, and send what came of it, or why nothing did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's to hear
    try:
        sending.send(in_one_line(work, *arguments))
    except NoMemoryError as error:
        sending.send(error)
    except Exception as error:
        sending.send(ConfigError(error_line(error)))


def _results(waiting: Mapping[Connection, SpawnProcess], failed: str) -> list[Any]:
    """Return what each process sends; where one sends an error, or dies, raise it at once: others may wait for it."""
    left, found = dict(waiting), []
    while left:
        wait([*left, *(process.sentinel for process in left.values())])
        for receiving, process in list(left.items()):
            if receiving.poll():
                result = receiving.recv()
                if isinstance(result, NoMemoryError):
                    raise result
                if isinstance(result, ConfigError):
                    raise ConfigError(f"{failed}: {result}")
                found.append(result)
                del left[receiving]
            elif process.exitcode is not None and not receiving.poll():
                if process.exitcode == -signal.SIGKILL:
                    raise NoMemoryError("a process was killed, as the system kills one where memory ends")
                raise ConfigError(f"{failed}: a process died, with exit code {process.exitcode}")
    return found
