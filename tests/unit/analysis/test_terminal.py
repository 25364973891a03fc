"""Tables and sentences in a terminal lose nothing where space is short."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from analysis.terminal import fits, plain_table, print_table, say


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


PATH = "/results/significance-exp6_grid-baseline-cpu-web-20-fp32-cb646464/report_of_the_study.html"
LINE = (
    f"  protocol published: trained under two flaws, [init.one_seed_for_all] and another; these are {PATH} no findings"
)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_sentence_is_broken_between_words_and_a_path_stays_whole(width: int) -> None:
    out = io.StringIO()
    say(Console(file=out, width=width, force_terminal=True), LINE, "bold red")
    lines = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()
    assert " ".join(" ".join(lines).split()) == LINE.strip()
    assert all(len(line) <= width for line in lines if PATH not in line)
    assert all(line.startswith("  ") for line in lines)
    assert any(PATH in line for line in lines)


def test_a_sentence_is_one_line_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    say(Console(file=out, width=40), LINE)
    assert out.getvalue() == f"{LINE}\n"


def test_numbers_that_do_not_fit_beside_others_follow_below() -> None:
    headers = [f"measured {place}" for place in range(9)]
    table = plain_table(["variant"], headers)
    for name in ("deepseek_rmsnorm", "baseline"):
        table.add_row(name, *(f"25,960,19{place}" for place in range(9)))
    out = io.StringIO()
    print_table(Console(file=out, width=80), table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(lines)
    assert all(said.count(header) == 1 for header in headers)
    assert all(said.count(f"25,960,19{place}") == 2 for place in range(9))
    assert said.count("deepseek_rmsnorm") == sum(line.startswith("variant") for line in lines) == 2
    assert not fits(Console(file=out, width=80), table)
    assert fits(Console(file=out, width=150), table)
