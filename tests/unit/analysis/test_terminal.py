"""Tables in a terminal lose nothing where space is short."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from analysis.terminal import plain_table


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_figure_and_no_name_is_cut(width: int) -> None:
    factors = ("attention", "norm", "final_norm", "placement", "gating", "routing")
    names = ("baseline", "attention_norm_final_norm_placement_gating_routing")
    table = plain_table(["cell", *factors], ["parameters", "active"])
    for name in names:
        table.add_row(name, *"101010", "1,885,112", "295,112")
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    said = out.getvalue()
    assert max(map(len, said.splitlines())) <= width
    assert said.count("1,885,112") == said.count("295,112") == len(names)
    first_column = "".join(line.split("  ")[0].strip() for line in said.splitlines())
    assert all(name in first_column for name in names)
