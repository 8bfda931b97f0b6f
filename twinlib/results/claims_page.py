"""The text of book/claims.md: claims by dataset at a glance, then each from its sentence to rows and command.

Nothing on the page is typed by hand but the statements, their tests and the paper's own sentences.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.results import claims, tables
from twinlib.results.claims import all_claims
from twinlib.results.verdicts import (
    ALONE,
    ALPHA,
    BUILT,
    FAILS,
    GLYPHS,
    HOLDS,
    OPEN,
    Claim,
    Evidence,
    Rows,
    alone,
)

if TYPE_CHECKING:
    import pandas as pd

#: Classes of the boxes, see book.css.
BOXES = {HOLDS: "holds", FAILS: "fails", OPEN: "open", BUILT: "built"}
#: The tables at a glance, and the experiments whose claims each holds; the last reads the paper alone.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "Policies": ("tuning", "policies"),
    "The released code, carried out again": ("released",),
    "The experimental twin": ("trajectories", "experimental"),
    "Escape from a valley": ("escape_tuned",),
    "The paper's own tables": (),
}
#: Datasets side by side in a table at a glance; more are set below each other.
WIDEST = 5
#: Commits that can be looked up: the primary claim's rule, and the first tuning that it judged.
RULE, FIRST_RUNS = "0ab8236 (2026-11-25 20:06 UTC)", "7fd99a3 (2026-11-26 04:20 UTC)"
#: What stands in the place of a claim's table while no experiment on it is packaged.
UNMEASURED = "No packaged result measures it yet: cannot be told here."
#: Experiments whose settings come from a tuning, and what makes both.
LEARNED, FROM_NOTHING = {"policies", "escape_tuned"}, "make learned"
#: Where the paper's own tables are kept, and what reads them.
PRINTED = ("{download}`Tables 1 to 9 as printed <../twinlib/results/paper_tables.csv>`", "claims")


def slug(heading: str) -> str:
    """Return the anchor of a heading.

    >>> slug("Step 3: the line search makes it true")
    'step-3-the-line-search-makes-it-true'
    """
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def glance(subject: str, table: pd.DataFrame) -> str:
    """Return rows of `evidence` as an HTML table of claims by dataset: glyph, number, link to the claim."""
    places = table["Dataset"].str.partition(", ")
    table = table.assign(column=places[0], part=places[2])
    columns = list(dict.fromkeys(table["column"]))
    head = "".join(f'<th scope="col">{name.replace("_", "_<wbr>")}</th>' for name in ("Claim", *columns))
    lines = ['<table class="glance">', f"<caption>{subject}</caption>", f"<thead><tr>{head}</tr></thead>"]
    lines.append("<tbody>")
    for number, rows in table.groupby("Claim"):
        told = {name: "".join(map(_box, part.itertuples())) for name, part in rows.groupby("column")}
        cells = "".join(f"<td>{told.get(name, '')}</td>" for name in columns)
        claim = all_claims()[int(str(number)) - 1]
        name = f'<a href="#claim-{number}">{html.escape(f"{number}. {claim.statement}")}</a>'
        unit = f"<small>{html.escape(claim.unit)}</small>"
        lines.append(f'<tr><th scope="row">{name} {unit}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody>", "</table>"])


def _box(row: tuple[object, ...]) -> str:
    """Return one box of the table at a glance."""
    kept = {name: str(getattr(row, name)) for name in ("Claim", "Verdict", "Number", "Cell", "part")}
    title = html.escape(f"{kept['Verdict']}: {kept['Number']}", quote=True)
    part = f" <small>{kept['part']}</small>" if kept["part"] else ""
    number = re.sub(r" ([\[(].*)$", r" <small>\1</small>", kept["Cell"])
    link = f'href="#claim-{kept["Claim"]}" title="{title}"'
    return f'<a class="box {BOXES[kept["Verdict"]]}" {link}>{number}{part}</a>'


def _opening(rows: Sequence[claims.Judged]) -> list[str]:
    """Return what the page says before its table."""
    legend = ", ".join(f"{glyph} {verdict}" for verdict, glyph in GLYPHS.items())
    return [
        "# Claims",
        "",
        "What {cite:t}`boabang2025` state, and what these data say of it: each box leads to the sentence, "
        "the test, the rows and the command.",
        "",
        f"{legend}; n/a: too few units for a verdict, or controls from another study. Brackets hold the "
        "95 % interval. Where several differences are told apart at once, each interval has to exclude zero "
        "by more than it would alone (Holm's rule): one that does so alone, and not here, is marked "
        f"{ALONE}. Where there is no box the comparison was not run.",
        "",
        _tally(rows),
    ]


def _tally(rows: Sequence[claims.Judged]) -> str:
    """Count the boxes by what they say."""
    known = [row for row in rows if row.told.gap is None or np.isfinite(row.told.gap.low)]
    counts = Counter(row.verdict for row in known)
    single = sum(alone(row.verdict, row.told) for row in known)
    beside = {OPEN: f" (of these {single} {ALONE})"}
    told = ", ".join(f"{counts[verdict]} {GLYPHS[verdict]}{beside.get(verdict, '')}" for verdict in GLYPHS)
    return f"Of {len(rows)} boxes: {told}, {len(rows) - len(known)} n/a. The primary claim is number 1."


def _reading() -> list[str]:
    """Return how the page is to be read."""
    return [
        "The number in a box is the difference that decides, where it is one; where a rule decides it is "
        "what the rule looks at. Small letters below a claim say what it counts; a difference above zero "
        "favours the claim. A narrow interval around zero says that there is little to tell, a wide one that "
        "these data cannot tell.",
        "`pearson_delta` is the correlation of the predicted with the observed change over genes; it, "
        "*ratio*, *KL* and the names of rows stand in the [glossary](glossary.md).",
        "This page is generated from the committed results by `python -m experiments claims`; none "
        "of its numbers is typed.",
        "A verdict of *holds* needs an interval that excludes zero on the right side, *does not hold* one on "
        "the wrong side; everything else *cannot be told here* (the introduction says *undecided*). Beside "
        "it stand U, how many perturbations, perturbations within a context, settings or seeds the interval "
        "rests on, and the smallest difference that 80 % power would have seen.",
        "The primary claim, number 1, was named before the runs: its rule stands in the repository since "
        f"commit {RULE}, the first runs that it judges since {FIRST_RUNS}. The other differences whose "
        f"interval runs over units are corrected together by Holm's rule at {ALPHA:.0%}; the "
        "[last section](#correction) has every p value. Claims 13 and 19, which need three intervals to lie "
        "above zero and are contradicted by one below, and 16 and 17, which need two preprocessings to "
        "agree, stand outside it: each is judged by its own intervals.",
        "Claims that are decided by a rule and not by an interval state the rule in their test; *holds by "
        "construction* marks what the code cannot break.",
        "Claim 16 counts what the released tables compare, the start of a rollout with its end: whoever does "
        "nothing has no error there, and no perturbed cell is predicted.",
        "The data are stand-ins (the [data page](data.md) says which stands for which of the paper's), so a "
        "verdict speaks of the method on these data, not of the paper's numbers.",
        "",
    ]


def _at_a_glance(table: pd.DataFrame) -> list[str]:
    """Return a table of claims by dataset for each subject, and which claims are not measured."""
    subjects = table["Claim"].map(lambda number: _subject(all_claims()[number - 1]))
    lines = []
    for subject in SUBJECTS:
        part = table[subjects == subject]
        for number, own in enumerate(_stacked(part) if len(part) else ()):
            lines += ["", glance(f"{subject}, continued" if number else subject, own)]
    missing = sorted(set(range(1, len(all_claims()) + 1)) - set(table["Claim"]))
    links = ", ".join(f"[{number}](#claim-{number})" for number in missing)
    return [*lines, "", *([f"No packaged result measures these claims yet: {links}.", ""] if missing else [])]


def _stacked(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return rows of `evidence` in parts of about as many datasets, none wider than a page."""
    names = table["Dataset"].str.partition(", ")[0]
    parts = np.array_split(names.unique(), -(-names.nunique() // WIDEST))
    return [table[names.isin(part)] for part in parts]


def _subject(claim: Claim) -> str:
    """Return the subject of a claim: that of the experiment that measures it."""
    (subject,) = (
        name
        for name, experiments in SUBJECTS.items()
        if (claim.rows[0].experiment in experiments if claim.rows else not experiments)
    )
    return subject


def made_by(experiment: str, datasets: Sequence[str]) -> list[str]:
    """Return the commands that make an experiment's tables; datasets with the same options share one."""
    by_options: dict[str, list[str]] = {}
    for name in datasets:
        command = f"python -m experiments {experiment} --dataset {name} --out DIR"
        if tables.table_path(experiment, name, "manifest"):
            command = tables.read_table(experiment, name, "manifest")["command"]
        by_options.setdefault(command.replace(f"--dataset {name}", "--dataset DATASET"), []).append(name)
    return [command.replace("DATASET", " ".join(names)) for command, names in by_options.items()]


def _downloads(rows: Rows, datasets: Sequence[str]) -> list[str]:
    """Return links to the packaged files of a table."""
    paths = {name: tables.table_path(rows.experiment, name, rows.table) for name in datasets}
    folder = f"../results/{rows.experiment}"
    return [
        f"{{download}}`{rows.table} of {name}, {rows.experiment} <{folder}/{name}/{path.name}>`"
        for name, path in paths.items()
        if path is not None
    ]


def _traced(claim: Claim, datasets: Sequence[str]) -> list[str]:
    """Return the links to a claim's rows, code and commands."""
    links = [link for rows in claim.rows for link in _downloads(rows, datasets)]
    experiments = list(dict.fromkeys(rows.experiment for rows in claim.rows))
    commands = [c for name in experiments for c in made_by(name, datasets)]
    if not claim.rows:
        links, commands = [PRINTED[0]], [f"python -m experiments {PRINTED[1]}"]
    measure: Callable[[str], Evidence] = claim.measure
    name = f"{measure.__module__}.{measure.__qualname__.partition('.')[0]}"
    return [
        *([f"- Rows: {', '.join(links)}"] if links else []),
        f"- Code: {{py:func}}`~{name}`",
        *(f"- Command: `{command}`" for command in commands),
        *(
            [f"- Command from nothing, tuning included: `{FROM_NOTHING}`"]
            if LEARNED & set(experiments)
            else []
        ),
    ]


def section(number: int, claim: Claim, rows: pd.DataFrame) -> str:
    """Return the section of one claim with its rows of `evidence`; without rows it says so."""
    told = rows["Dataset"] if len(rows) else claim.datasets
    datasets = list(dict.fromkeys(place.partition(", ")[0] for place in told))
    glyphs = rows["Cell"].where(rows["Cell"].str.startswith("n/a"), rows["Verdict"].map(GLYPHS))
    shown = rows.assign(Verdict=glyphs.str.split().str[0] + " " + rows["Verdict"])
    where = f"../notebooks/{claim.chapter}.ipynb#{slug(claim.section)}"
    lines = [
        f"(claim-{number})=",
        f"## {number}. {claim.statement}",
        "",
        f'> "{claim.sentence}" ({claim.place})',
        "",
        f"- Where: {claim.where}",
        f"- Test: {claim.test}",
        f"- Number in its boxes: {claim.unit}",
        f"- What would change it: {claim.change}",
        f"- Chapter: [{int(claim.chapter[:2])}, {claim.section}]({where})",
        *_traced(claim, datasets),
        "",
        tables.markdown(shown[["Dataset", "Number", "Verdict"]]) if len(rows) else UNMEASURED,
        "",
    ]
    return "\n".join(lines)


def _corrected(rows: Sequence[claims.Judged]) -> list[str]:
    """Return the section on Holm's rule: every p value beside what it has to be below."""
    table = claims.correction(rows)
    if table.empty:
        return []
    shown = table.assign(
        claim=[f"[{number}](#claim-{number})" for number in table["claim"]],
        verdict=table["verdict"].map(GLYPHS.get),
        **{name: [f"{value:.2g}" for value in table[name]] for name in ("p", "threshold")},
    )
    return [
        "(correction)=",
        "## Holm's rule, p value by p value",
        "",
        f"The {len(table)} differences in the order of their p values (two-sided, from the t of the "
        "interval). A claim is told apart if its p value and all above it are below the threshold: "
        f"{ALPHA:g} divided by the number of differences from this line to the last. The family is the "
        "whole page, real, simulated and toy data together, so that it asks more than each subject alone "
        "would.",
        "",
        "```{dropdown} All of them",
        tables.markdown(shown[["claim", "place", "p", "threshold", "verdict"]]),
        "```",
        "",
    ]


def page() -> str:
    """Return the text of book/claims.md."""
    rows = claims.judged()
    table = claims.evidence(rows)
    sections = [
        section(n, claim, table[table["Claim"] == n]) for n, claim in enumerate(all_claims(), start=1)
    ]
    return "\n".join([*_opening(rows), *_at_a_glance(table), *_reading(), *sections, *_corrected(rows)])
