"""Lays a report's text and tables out as Markdown, HTML and LaTeX."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import text
from analysis.audits.found import audited_runs
from analysis.comparing import final_test, marks
from analysis.figures.style import inches
from analysis.reporting import narrative
from analysis.reporting.tables import JOINT_P, Table, tables
from analysis.schema import CELL
from analysis.study import learning_rates
from analysis.study.results import Results
from analysis.summary import Analysis

SECTIONS = {
    "ranking": ("Ranking", ""),
    "comparisons": (
        "Against the baseline",
        "Differences are cell minus baseline, paired by seed where they share any. Brackets: 95 % intervals, each on "
        "its own. Holm p is corrected for the number of comparisons; verdicts follow it.",
    ),
    "evaluation_noise": (
        "Evaluation noise",
        "Standard errors of each difference, nats: over seeds, over the documents that were evaluated, and over both. "
        "The interval is for other seeds on other documents, of one comparison: what a claim beyond this validation "
        "set rests on.",
    ),
    "race": (
        "The race",
        "At each look that the plan declares, what is decided stops and what is open gets more seeds. Intervals and p "
        "of the differences hold at all looks at once; differences from the baseline are adjusted for the looks.",
    ),
    "negative_control": (
        "Negative control",
        "Each cell here is the same model as its partner, up to rounding. A difference beyond the tolerance would mean "
        "that something other than the components differs between runs.",
    ),
    "contributions": (
        "Components, one at a time",
        "The cells that differ from their baseline in exactly one factor.",
    ),
    "main_effects": (
        "Components, averaged over the others",
        "Each component's effect averaged over all levels of the others: one contrast a seed, tested over seeds.",
    ),
    "shapley": (
        "Components, in every order",
        "Shapley values: what switching a component on changes, averaged over all orders in which the components can "
        "be switched on. They add up to the difference between all components and none. One value a seed; brackets: "
        "95 % t intervals over seeds, each on its own. Where no three components interact they equal the main effects.",
    ),
    "all_pairs": (
        "All pairs, exploratory",
        "Every model against every other, the pairs with q <= 5 % alone: p adjusted by Benjamini and Hochberg, so that "
        "about one in twenty of these lines may be nothing. To look around, not to conclude from.",
    ),
    "curves": ("While training", ""),
    "scaling": (
        "Scaling",
        "A power law, loss = a x^-b, fitted to each seed's losses over all scales.",
    ),
    "growth": (
        "As models grow",
        "How each cell's difference from its baseline changes from the smallest to the largest scale, paired by seed.",
    ),
    "efficiency": (
        "Efficiency",
        "Means over seeds of each run's own figure. Loss is the validation loss in nats per token; minutes are of "
        "training alone; live parameters are all but those that training never reached. A high score is a good one. "
        "Loss per size, time or memory is low for a good loss and for a high cost alike, so it ranks nothing: for that "
        "see What it costs.",
    ),
    "pareto": (
        "What it costs",
        "A cell is on the front of a cost where none has a result as good and a cost as low, one of them better. P: "
        "probability that this holds of the true values; where it is not near 0 or 1, the seeds do not tell. "
        "Exploratory: no plan registers a front.",
    ),
    "variance": (
        "Where the spread between runs comes from",
        "Seeds draw the initial values, and each cell has its own order of the data: the variance of the result, split "
        "into what each of them brings. A share counts what is negative by chance as 0.",
    ),
    "divergence": (
        "Runs that diverged",
        "A diverged run is an outcome: its result is worse than any other's. Seeds are compared by that alone, in an "
        "exact sign test against the baseline; the survivors' mean flatters the cell.",
    ),
    "final_test": ("Final test", ""),
    "plan_check": (
        "Plan and analysis",
        "What was registered before the first trial, and what this analysis does. Whatever the plan does not name is "
        "labelled exploratory: it suggests what to register next, and settles nothing.",
    ),
    "audits": ("Audits", ""),
    "left_out": (
        "Runs left out",
        "An audit found these runs invalid: they are in no other number here. --include-invalid takes them in.",
    ),
    "ended_early": ("Runs that did not finish", "A diverged run is an outcome, not a gap: its cell has no rank."),
}
"""Title and lead of each section, in the report's order; most are named after the table that they show.

The lead of the audits says how much was audited."""
JOINT_LEAD = (
    " Joint p and interval are of all comparisons together, variances pooled: where its verdict differs, it depends on "
    "equal variances."
)
"""Follows the comparisons' lead where they have a joint analysis."""
UNRANKED = "Means"
"""Title of the ranking where no cell has a rank."""
LEADS = ("audits", "final_test")
"""Sections that stand even without a table: their lead is made for each study."""
OF_COMPONENTS = ("comparisons", "contributions", "main_effects", "shapley")
"""Sections and figures that are easily read as claims about components: they say whether they are."""
FIGURES = {
    "ranking": ("ranking", "Ranking of the cells with intervals and every seed"),
    "mean_ranks": ("ranking", "Mean rank of each cell over seeds, with bars over cells that cannot be told apart"),
    "differences": ("comparisons", "Difference of each cell from the baseline with intervals"),
    "estimation": ("comparisons", "Every seed of each cell and of the baseline, with the mean paired difference"),
    "power": ("comparisons", "Probability of finding a difference against its size, for several numbers of seeds"),
    "contributions": ("contributions", "Contribution of each component with intervals"),
    "scaling": ("scaling", "Loss against parameters, active parameters, training FLOPs and time, with power laws"),
    "interactions": ("main_effects", "Mean at each combination of two components with intervals"),
    "shapley": ("shapley", "Shapley value of each component with intervals"),
    "loss_tokens": ("curves", "Validation loss against training tokens"),
    "loss_seconds": ("curves", "Validation loss against training time"),
    "difference_tokens": ("curves", "Difference from the baseline against training tokens"),
    "variance": ("variance", "Standard deviation that each source gives one run, with intervals"),
    "pareto": ("pareto", "The metric against each cost, with the cells that no other beats in both"),
}
"""Section of each figure, and what it shows for those who cannot see it."""
PIXELS = 103
"""Width on the page of an inch of a figure, where there is room: the widest ones, of 11.6 inches, fill it."""
RANKING_TEX = ("scale", "rank", "cell", "n", "diverged [95 % of rate]")
COMPARISONS_TEX = ("difference [95 %]", "% of perplexity [95 %]", "Holm p", "plan")
"""Columns of ranking.tex, with the mean and its interval between these two."""
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    text.MINUS: "$-$", text.NOTHING: "--", marks.MARK: r"$\dagger$",
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """Everything a report says, before it is laid out."""

    title: str
    byline: str
    banner: narrative.Banner | None
    warning: str
    """Goes with everything that shows all cells; empty where no cell is marked."""
    audited: str
    final_test: str
    """Whether the test split is open; empty where there is none."""
    rates: str
    """What the learning rates were, and what differences are therefore claims about; empty where nobody knows."""
    claim: str
    verdict: dict[str, list[narrative.Finding]]
    facts: list[tuple[str, str]]
    remarks: list[str]
    tables: dict[str, Table]


@dataclass(frozen=True)
class Picture:
    """A figure on its page."""

    source: str
    words: str
    """What it shows."""
    width: int
    """Pixels at most, so that letters are of one size in all figures; 0 where the page does not say."""


@dataclass(frozen=True)
class Section:
    """One part of a report: a table, figures or both."""

    name: str
    title: str
    lead: str
    table: Table | None
    figures: list[Picture]


def content(results: Results, analysis: Analysis) -> Content:
    """Return what the report of these results says."""
    facts = narrative.facts(results)
    shown = dict(facts)
    parts = [text.counted(results.runs[CELL].nunique(), "cell"), f"seeds: {shown['seeds']}", f"runs: {shown['runs']}"]
    return Content(
        title=str(results.plan.get("title") or results.study),
        byline=" \u00b7 ".join([results.study, *parts]),
        banner=narrative.banner(results),
        warning=marks.warning(results),
        audited=audited_runs(results, analysis.audits),
        final_test=final_test.lead(results),
        rates=learning_rates.rates(results),
        claim=learning_rates.sentence(results),
        verdict=narrative.verdict(results, analysis),
        facts=facts,
        remarks=narrative.remarks(results, analysis),
        tables=tables(results, analysis),
    )


def markdown(made: Content, figures: Iterable[str]) -> str:
    """Return report.md; its pictures are the PNG files of these names beside it."""
    return _render("report.md.j2", made, {name: (f"{name}.png", 0) for name in figures}, autoescape=False)


def html(made: Content, figures: Mapping[str, bytes]) -> str:
    """Return report.html, which holds its pictures (PNG bytes by name) and needs nothing else."""
    pictures = {
        name: (f"data:image/png;base64,{base64.b64encode(png).decode()}", round(PIXELS * inches(png)))
        for name, png in figures.items()
    }
    return _render("report.html.j2", made, pictures, autoescape=True)


def latex(made: Content) -> str:
    """Return ranking.tex: a tabular in booktabs' style, to be \\input into a table; marked rows are red."""
    ranking, comparisons = made.tables["ranking"], made.tables.get("comparisons")
    columns = [i for i, header in enumerate(ranking.headers) if header in RANKING_TEX or header.endswith("[95 %]")]
    headers = [ranking.headers[i] for i in columns]
    rows = [[row[i] for i in columns] for row in ranking.rows]
    if comparisons is not None:
        columns = [i for i, header in enumerate(comparisons.headers) if header in COMPARISONS_TEX]
        place = comparisons.headers.index("cell")
        joined = {marks.bare(row[place]): (row[place], [row[i] for i in columns]) for row in comparisons.rows}
        name = headers.index("cell")
        for row in rows:
            # A sound cell's difference from a marked baseline has a mark, so the comparison's name is the one to take.
            row[name], figures = joined.get(marks.bare(row[name]), (row[name], [text.NOTHING] * len(columns)))
            row += figures
        headers += [comparisons.headers[i] for i in columns]
    alignment = "".join("l" if header in ("cell", "scale", "plan") else "r" for header in headers)
    inked = [_ink(row) for row in rows]
    template = _environment(autoescape=False).get_template("ranking.tex.j2")
    return template.render(headers=headers, rows=inked, alignment=alignment, caption=_tex(made.warning))


def _ink(row: list[str]) -> list[str]:
    """Return a row's texts as LaTeX, red where the row has a mark."""
    flawed = any(map(marks.is_marked, row))
    return [rf"\textcolor{{red}}{{{_tex(value)}}}" if flawed else _tex(value) for value in row]


def _render(template: str, made: Content, pictures: Mapping[str, tuple[str, int]], autoescape: bool) -> str:
    warning = f". {made.warning}" if made.warning else ""
    rates = f", {made.rates}" if made.rates else ""
    places = {figure: where for figure, (where, _) in FIGURES.items()}
    if "contributions" not in made.tables:  # of a fraction without a cell of one component it shows the averages alone
        places["contributions"] = "main_effects"
    placed = {
        name: [
            Picture(pictures[f][0], words + (rates if f in OF_COMPONENTS else "") + warning, pictures[f][1])
            for f, (_, words) in FIGURES.items()
            if places[f] == name and f in pictures
        ]
        for name in SECTIONS
    }
    leads = {
        name: f"{lead} {made.claim}".rstrip() if name in OF_COMPONENTS else lead for name, (_, lead) in SECTIONS.items()
    } | {
        "audits": made.audited,
        "final_test": made.final_test,
    }
    compared = made.tables.get("comparisons")
    if compared is not None and JOINT_P in compared.headers:
        leads["comparisons"] += JOINT_LEAD
    titles = {name: title for name, (title, _) in SECTIONS.items()}
    if "rank" not in made.tables["ranking"].headers:
        titles["ranking"] = UNRANKED
    sections = [Section(name, titles[name], leads[name], made.tables.get(name), placed[name]) for name in SECTIONS]
    said = [part for part in sections if part.table or part.figures or (part.name in LEADS and part.lead)]
    return _environment(autoescape).get_template(template).render(content=made, sections=said)


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("analysis.reporting"), undefined=StrictUndefined, autoescape=autoescape, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"md": _markdown, "tex": _tex}
    environment.tests["marked"] = marks.is_marked
    return environment


def _markdown(words: str) -> str:
    """Return the text fit for Markdown and cells of its tables: one line, nothing that ends a cell or starts markup."""
    return re.sub(r"([|<*\\`])", r"\\\1", marks.in_markdown(" ".join(words.split())))


def _tex(words: str) -> str:
    return "".join(LATEX.get(character, character) for character in words)
