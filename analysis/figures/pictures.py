"""The figures of a report as PNG files, drawn by several processes at a time where that is safe."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from analysis.figures.plots import FIGURES
from analysis.figures.style import png, style
from analysis.study.results import Results
from analysis.summary import Analysis

MOST = 2
"""Processes that draw: two halve the time, and each takes memory of its own."""
_drawing: Callable[[str], bytes | None]
"""In a forked process: draws a figure of the study, by its name."""


def draw(results: Results, analysis: Analysis, processes: int = 1) -> dict[str, bytes]:
    """Draw all figures that apply.

    Args:
        results: the study.
        analysis: its numbers.
        processes: how many may draw. They are forks of this one, which have results and analysis without a copy. A
            fork of a process with other threads may hang, and only Linux's libraries bear one: elsewhere this process
            draws alone.

    Returns:
        PNGs by the name of their file (without .png), in the report's order.
    """
    count = min(processes, MOST) if sys.platform == "linux" and threading.active_count() == 1 else 1
    if count > 1:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(count, fork, initializer=_inherit, initargs=(results, analysis)) as pool:
            drawn = list(pool.map(_draw_inherited, FIGURES))
    else:
        drawn = [_picture(results, analysis, name) for name in FIGURES]
    return {name: picture for name, picture in zip(FIGURES, drawn, strict=True) if picture is not None}


def _inherit(results: Results, analysis: Analysis) -> None:
    """Keep in a forked process what it draws: its arguments are inherited, never sent."""
    global _drawing
    _drawing = partial(_picture, results, analysis)


def _draw_inherited(name: str) -> bytes | None:
    return _drawing(name)


def _picture(results: Results, analysis: Analysis, name: str) -> bytes | None:
    with style():
        figure = FIGURES[name](results, analysis)
        return None if figure is None else png(figure)
