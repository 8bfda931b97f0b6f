"""The figures and tables of a report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.schema import CONTROL
from twinlib.evaluation.summaries import CEILING, MIN_TOTAL, dose_labels
from twinlib.page import plots, record
from twinlib.verdict.judged_file import TWIN
from twinlib.verdict.parts import SHAM
from twinlib.verdict.sentences import CALLED, MEASURED, NO_INTERVAL, called, of_row, plain_unit, rounded

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from twinlib.verdict.judged_file import JudgedFile

#: Names of the primary metrics in tables and on axes.
SHORT = {
    "pearson_delta": "correlation of changes",
    "skill_pseudobulk_mse": "share of the change predicted",
}
#: Names that an axis can hold.
NAMED = 40
#: Names that stand upright below an axis.
UPRIGHT = 6
#: Genes that a figure names.
GENES = 8
#: Dots that a figure names.
DOTS = 16
#: Energy distance up to which its axis is linear.
LINEAR = 0.01
#: Rows that figures leave out.
BESIDE = ("replicate", "ceiling", "no_change")


def table_html(table: pd.DataFrame, label: str) -> str:
    """Return a table as HTML that scrolls sideways on a phone, with a caption for those who cannot see it."""
    shown = table.to_html(index=False, border=0, float_format=rounded, na_rep="n/a")
    caption = f"<caption>{html.escape(label)}</caption>"
    head, body = shown.split(">", 1)
    region = (
        f'class="wide" style="overflow-x:auto" tabindex="0" role="region" aria-label="{html.escape(label)}"'
    )
    return f"<div {region}>{head}>{caption}{body}</div>"


def show_table(table: pd.DataFrame, label: str) -> None:
    """Put a table on the page."""
    record.say(table_html(table, label))


def show_cells(cells: AnnData) -> None:
    """Draw the cells by perturbation and context."""
    import matplotlib.pyplot as plt

    sizes = cells_by_context(cells)
    fig, ax = plt.subplots(figsize=(8, 3.6))
    for i, context in enumerate(sizes.columns):
        marker = "osD^vP*X"[i % 8]
        ax.plot(np.arange(len(sizes)), sizes[context], marker, label=str(context), ms=5, alpha=0.8)
    ax.axhline(MIN_TOTAL, color="0.6", lw=1, ls="--")
    name_axis(ax, list(sizes.index))
    ax.set(ylabel="cells", xlim=(-0.6, len(sizes) - 0.4))
    plain_log_axis(ax)
    if 1 < len(sizes.columns) <= 12:
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    low, high = int(sizes.min().min()), int(sizes.max().max())
    plots.show(
        fig,
        "cells",
        alt=f"Number of cells of each of {len(sizes)} perturbations in each of {len(sizes.columns)} cell "
        f"types, from {low} to {high} on a logarithmic axis; a dashed line at {MIN_TOTAL} cells.",
        caption=f"Cells by perturbation and cell type. A perturbation with under {MIN_TOTAL} cells in all "
        "enters no average.",
    )


def plain_log_axis(ax: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())


def cells_by_context(cells: AnnData) -> pd.DataFrame:
    """Return the number of cells by perturbation (rows, largest first) and context (columns)."""
    import pandas as pd

    sizes = pd.crosstab(*(cells.obs[name].astype(str) for name in ("perturbation", "cell_context")))
    return sizes.loc[sizes.sum(axis=1).sort_values(ascending=False).index].replace(0, np.nan)


def name_axis(ax: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the x axis, or say how many there are."""
    if len(names) <= NAMED:
        turned = 90 if len(names) > UPRIGHT else 0
        ax.set_xticks(np.arange(len(names)), names, rotation=turned, fontsize=7 if turned else 9)
    else:
        perturbed = [name for name in names if name != CONTROL]
        beside = "the controls and " if len(perturbed) < len(names) else ""
        ax.set_xlabel(f"{beside}{len(perturbed)} perturbations, sorted")


def show_effects(judged: JudgedFile) -> None:
    """Draw effect size against detectability."""
    import matplotlib.pyplot as plt

    table = effects_and_halves(judged)
    fig, ax = plt.subplots(figsize=(7, 4))
    for told, marker in ((True, "o"), (False, "x")):
        part = table[table["has_effect"] == told]
        if part.empty:
            continue
        colour = plots.COLOURS["perturbed" if told else "control"]
        label = "has an effect" if told else "cannot be told"
        ax.plot(part["distance"], part["agreement"], marker, color=colour, label=label, ms=6)
        small = part["distance"][part["agreement"].isna()]
        ax.plot(small, 0.0 * small, marker, color=colour, fillstyle="none", ms=6)
    ax.axhline(0, color="0.7", lw=1)
    ax.margins(0.12)
    ax.set_xscale("symlog", linthresh=LINEAR)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(
        xlabel=f"effect: energy distance to the controls\n(logarithmic above {LINEAR:g})",
        ylabel="two halves agree: correlation",
    )
    ax.legend(fontsize=8, loc="upper left")
    acting = table[table["has_effect"]].fillna(0.0).nlargest(DOTS, "distance")
    names = [plain_unit(str(name)) for name in acting.index]
    where = ["distance", "agreement"]
    plots.name_dots(ax, acting[where], names, others=table.loc[~table["has_effect"], where].fillna(0.0))
    unknown = int(table["agreement"].isna().sum())
    empty = f"; empty, at 0: too few cells for halves ({unknown})"
    plots.show(
        fig,
        "effects",
        alt=f"Effect size of {len(table)} perturbations against the correlation of two halves of their "
        f"cells; {int(table['has_effect'].sum())} have an effect.",
        caption="Effect against detectability. A dot: the energy test finds the perturbation in most parts "
        f"of the cells; a cross: it does not{empty if unknown else ''}.",
    )


def effects_and_halves(judged: JudgedFile) -> pd.DataFrame:
    """Return distance, p and agreement of halves of each unit."""
    tests = judged.tests.assign(unit=judged.unit_names(judged.tests))
    means = tests.groupby("unit").agg(distance=("distance", "mean"), p=("p", "median"))
    agreement = {unit: top.replicate for unit, top in judged.halves.items()}
    table = judged.units[["has_effect", "resolvable", "ceiling"]].join(means)
    return table.assign(agreement=[agreement.get(unit, np.nan) for unit in table.index])


def show_volcano(tests: pd.DataFrame, perturbation: str) -> None:
    """Draw the volcano of a perturbation."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4))
    height = -np.log10(tests["p"].clip(lower=1e-300))
    sure = tests["q"] <= 0.05
    for rows, colour in ((~sure, "control"), (sure, "perturbed")):
        ax.plot(tests["change"][rows], height[rows], ".", color=plots.COLOURS[colour], ms=5)
    top = tests.assign(height=height)[sure].nlargest(GENES, "height")
    ax.axvline(0, color="0.7", lw=1)
    ax.set(xlabel="change within cell type (log1p)", ylabel="-log10 p", title=perturbation)
    plots.name_dots(ax, top[["change", "height"]], list(top["gene"].astype(str)))
    named = ", ".join(top["gene"]) or "none"
    plots.show(
        fig,
        "volcano",
        alt=f"Volcano of {perturbation}: change against -log10 p of {len(tests)} genes; {int(sure.sum())} "
        "change at "
        f"5 % false discoveries. The surest are {named}.",
        caption=f"{perturbation}: {int(sure.sum())} of {len(tests)} genes change at 5 % false discoveries "
        "(each gene by itself, Welch's test within cell types, all cells).",
    )


def show_predicted(genes: pd.DataFrame, label: str, own: str = TWIN) -> None:
    """Draw predicted against observed change under a perturbation and dose, one dot a gene."""
    import matplotlib.pyplot as plt

    mine = genes[dose_labels(genes["perturbation"], genes["dose"]) == label]
    rows = [name for name in ("matching_mean", own) if name in mine and mine[name].notna().all()]
    fig, axes = plt.subplots(
        1, len(rows), figsize=(4 * len(rows), 3.8), sharex=True, sharey=True, squeeze=False
    )
    agree = {}
    for ax, name in zip(axes[0], rows, strict=True):
        ax.plot(mine["measured"], mine[name], ".", color=colour_of(name), ms=5)
        span = [mine["measured"].min(), mine["measured"].max()]
        ax.plot(span, span, color="0.6", lw=1)
        ax.set(xlabel="observed change", title=called(name))
        agree[name] = np.corrcoef(mine["measured"], mine[name])[0, 1] if mine[name].std() > 0 else 0.0
    axes[0, 0].set_ylabel("predicted change")
    told = ", ".join(f"{called(name)} r = {r:.2f}" for name, r in agree.items())
    plots.show(
        fig,
        "predicted",
        alt=f"Predicted against observed change of {len(mine)} genes under {label} in cells that "
        "no model "
        f"saw: {told}; the line is a perfect prediction.",
        caption=f"{label}, cells of the first fold that no model saw, one dot a gene: {told}.",
    )


def show_contexts(judged: JudgedFile) -> None:
    """Draw the scores of the twin and of the plain mean in each context, left out of the training or not."""
    import matplotlib.pyplot as plt

    names = judged.contexts
    if not names:
        return
    kinds = [kind for kind in ("cells", "contexts") if kind in judged.splits]
    size = (3.6 * len(kinds) + 1, 0.45 * len(names) + 1.9)
    fig, axes = plt.subplots(1, len(kinds), figsize=size, sharex=True, sharey=True, squeeze=False)
    told = [draw_contexts(ax, judged, kind) for ax, kind in zip(axes[0], kinds, strict=True)]
    axes[0, 0].set_yticks(np.arange(len(names)), names)
    axes[0, 0].invert_yaxis()
    label_rows(fig, judged, kinds)
    plots.show(
        fig,
        "contexts",
        alt=f"Scores by cell type, {called(judged.own)} beside the plain mean, with what a perfect model "
        f"could reach as a tick: {'; '.join(told)}.",
        caption="Scores within each cell type over the perturbations with an effect, with 95 % intervals "
        f"where these are six or more ({MEASURED[judged.metric]}).",
    )


#: What was left out of the training in a panel of scores by cell type.
LEFT_OUT = {"cells": "a fifth of its cells left out", "contexts": "the cell type left out"}


def draw_contexts(ax: Axes, judged: JudgedFile, kind: str) -> str:
    """Draw two rows in each context under one split; return what the judged one reaches."""
    told = []
    for place, name in enumerate(judged.contexts):
        table = judged.rows(kind, name)
        for shift, row in ((-0.15, judged.plain_row(kind)), (0.15, judged.own)):
            draw_row(ax, table, row, place + shift, bool(judged.shown))
        told.append(f"{name} {of_row(table, judged.own)}")
    ax.axvline(0, color="0.7", lw=1)
    ax.set(xlabel=SHORT[judged.metric])
    ax.set_title(LEFT_OUT[kind], fontsize=9)
    return f"{LEFT_OUT[kind]}: {', '.join(told)}"


def label_rows(fig: Figure, judged: JudgedFile, kinds: Sequence[str]) -> None:
    """Say below the panels which row has which colour."""
    from matplotlib.lines import Line2D

    rows = dict.fromkeys([*(judged.plain_row(kind) for kind in kinds), judged.own])
    handles = [Line2D([], [], marker="o", ls="", color=colour_of(row), label=called(row)) for row in rows]
    top = Line2D([], [], marker="|", ls="", color=plots.COLOURS[CEILING], label=CALLED[CEILING])
    fig.legend(handles=[*handles, top], fontsize=8, ncols=2, loc="outside lower center")


def colour_of(row: str) -> str:
    """Return the colour of a row; one from elsewhere has that of the twin in silico."""
    return plots.COLOURS.get(row, plots.COLOURS["insilico"])


def draw_row(ax: Axes, table: pd.DataFrame, row: str, place: float, top: bool) -> None:
    """Draw the mean of a row with its interval, and the ceiling as a tick where it can be told."""
    if row not in table.index:
        return
    values = table.loc[row]
    ax.plot(values["mean"], place, "o", color=colour_of(row), ms=5)
    if np.isfinite(values["low"]):
        ax.plot([values["low"], values["high"]], [place, place], color=colour_of(row), lw=1.5)
    if top and values["resolvable"] != 0:
        ax.plot(values["ceiling"], place, "|", color=plots.COLOURS["ceiling"], ms=9, mew=2)


def show_null(judged: JudgedFile) -> None:
    """Draw every row beside itself on labels that mean nothing."""
    import matplotlib.pyplot as plt

    real, sham = judged.rows(), judged.rows(SHAM)
    names = [name for name in real.index if name not in BESIDE]
    fig, ax = plt.subplots(figsize=(7, 0.35 * len(names) + 1.4))
    for place, name in enumerate(names):
        draw_row(ax, real, name, place, bool(judged.shown))
        if name in sham.index:
            low, high = sham.loc[name, "low"], sham.loc[name, "high"]
            ax.plot(sham.loc[name, "mean"], place + 0.25, "o", fillstyle="none", color="0.5", ms=5)
            ax.plot([low, high], [place + 0.25] * 2, color="0.5", lw=1)
    ax.set_yticks(np.arange(len(names)), [called(name) for name in names])
    ax.invert_yaxis()
    ax.axvline(0, color="0.7", lw=1)
    ax.set_xlabel(SHORT[judged.metric])
    told = "; ".join(f"{called(name)} {sham.loc[name, 'mean']:.2f}" for name in names if name in sham.index)
    plots.show(
        fig,
        "null",
        alt=f"Every row with its interval, and in grey the same row on labels that mean nothing: {told}.",
        caption="All rows, and in grey the same on sham labels, where nothing is to be found "
        f"({MEASURED[judged.metric]}).",
    )


def summary_table(judged: JudgedFile, kind: str, scaled: bool = False) -> pd.DataFrame:
    """Return the rows of a split for the page: mean, interval, ceiling, skill, units."""
    import pandas as pd

    rows = judged.rows(kind)
    if rows.empty:
        return rows
    skill = judged.rows(kind, metric="skill_pseudobulk_mse")["mean"]
    kept = rows[~rows.index.isin([CEILING])]
    interval = [
        f"{rounded(low)} to {rounded(high)}" if np.isfinite(low) else "n/a"
        for low, high in zip(kept["low"], kept["high"], strict=True)
    ]
    told = judged.shows == "effects" and bool(judged.shown)
    more = {"scaled": kept["scaled"].to_numpy()} if scaled else {}
    return pd.DataFrame(
        {
            "row": [called(name) for name in kept.index],
            SHORT[judged.metric]: kept["mean"].to_numpy(),
            "95 % interval": interval,
            "a perfect model": kept["ceiling"].to_numpy() if told else np.nan,
            "skill in squared error": skill.reindex(kept.index).to_numpy(),
            "units": kept["units"].to_numpy(),
            **more,
        }
    )


def contexts_table(judged: JudgedFile) -> pd.DataFrame:
    """Return what each row scores within each cell type, with its interval."""
    import pandas as pd

    tables = {name: judged.rows("cells", name) for name in judged.contexts}
    names = [name for name in judged.rows().index if name not in ("no_change", "replicate")]
    columns = {
        place: [of_row(table, name).replace(NO_INTERVAL, "") for name in names]
        for place, table in tables.items()
    }
    return pd.DataFrame({"row": [called(name) for name in names], **columns})


def unit_table(judged: JudgedFile) -> pd.DataFrame:
    """Return one row a perturbation for the page: cells, effect, p, scores, ceiling, reliability."""
    import pandas as pd

    tests, units, sure = effects_and_halves(judged), judged.units, judged.sureness()
    plain, own = judged.plain_row("cells"), judged.own
    return pd.DataFrame(
        {
            "perturbation": [plain_unit(name) for name in units.index],
            "cells, about": units["cells"].map("{:.0f}".format).to_numpy(),
            "effect": np.where(tests["has_effect"], "yes", "cannot be told"),
            "p, median": tests["p"].map("{:.3f}".format).str.replace("nan", "n/a").to_numpy(),
            called(plain): units[plain].to_numpy(),
            called(own): units[own].to_numpy(),
            "a perfect model": np.where(units.index.isin(judged.shown), units["ceiling"], np.nan),
            "repeated": sure["1 x"].to_numpy(),
            "with 2 x the cells": sure["2 x"].to_numpy(),
            "with 4 x": sure["4 x"].to_numpy(),
        }
    )
