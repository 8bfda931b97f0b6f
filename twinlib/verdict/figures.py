"""The figures and tables of a report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.evaluation.summaries import MIN_TOTAL
from twinlib.page import plots, record
from twinlib.verdict.judged_file import TWIN
from twinlib.verdict.parts import SHAM
from twinlib.verdict.sentences import CALLED, MEASURED, called

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

    from twinlib.verdict.judged_file import JudgedFile

#: Names that an axis can hold.
NAMED = 40
#: Genes that a figure names.
GENES = 8
#: Rows that figures leave out.
BESIDE = ("replicate", "ceiling", "no_change")


def table_html(table: pd.DataFrame, label: str) -> str:
    """Return a table as HTML that scrolls sideways on a phone, with a caption for those who cannot see it."""
    shown = table.to_html(index=False, border=0, float_format="{:.2f}".format, na_rep="n/a")
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
    ax.set(ylabel="cells", yscale="log")
    if 1 < len(sizes.columns) <= 12:
        ax.legend(fontsize=7, ncols=2)
    low, high = int(sizes.min().min()), int(sizes.max().max())
    plots.show(
        fig,
        "cells",
        alt=f"Number of cells of each of {len(sizes)} perturbations in each of {len(sizes.columns)} cell "
        f"types, from {low} to {high} on a logarithmic axis; a dashed line at {MIN_TOTAL} cells.",
        caption=f"Cells by perturbation and cell type. A perturbation with under {MIN_TOTAL} cells in all "
        "enters no average.",
    )


def cells_by_context(cells: AnnData) -> pd.DataFrame:
    """Return the number of cells by perturbation (rows, largest first) and context (columns)."""
    import pandas as pd

    sizes = pd.crosstab(*(cells.obs[name].astype(str) for name in ("perturbation", "cell_context")))
    return sizes.loc[sizes.sum(axis=1).sort_values(ascending=False).index].replace(0, np.nan)


def name_axis(ax: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the x axis, or say how many there are."""
    if len(names) <= NAMED:
        ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=7)
    else:
        ax.set_xlabel(f"{len(names)} perturbations, sorted")


def show_effects(judged: JudgedFile) -> None:
    """Draw effect size against detectability."""
    import matplotlib.pyplot as plt

    table = effects_and_halves(judged)
    fig, ax = plt.subplots(figsize=(7, 4))
    for told, marker in ((True, "o"), (False, "x")):
        part = table[table["has_effect"] == told]
        colour = plots.COLOURS["perturbed" if told else "control"]
        label = "has an effect" if told else "cannot be told"
        ax.plot(part["distance"], part["agreement"], marker, color=colour, label=label, ms=6)
    for name, row in table[table["has_effect"]].nlargest(GENES, "distance").iterrows():
        ax.annotate(str(name), (row["distance"], row["agreement"]), fontsize=7, xytext=(4, 3),
                    textcoords="offset points")  # fmt: skip
    ax.axhline(0, color="0.7", lw=1)
    ax.set(xlabel="effect: energy distance to the controls", ylabel="two halves agree: correlation")
    ax.set_xscale("symlog", linthresh=0.01)
    ax.legend(fontsize=8)
    plots.show(
        fig,
        "effects",
        alt=f"Effect size of {len(table)} perturbations against the correlation of two halves of their "
        "cells; "
        f"{int(table['has_effect'].sum())} have an effect that the cells show.",
        caption="Effect against detectability. A dot: the energy test calls the perturbation in most folds.",
    )


def effects_and_halves(judged: JudgedFile) -> pd.DataFrame:
    """Return distance, p and agreement of halves of each unit."""
    tests = judged.tests
    names = tests["perturbation"] + (" | " + tests["cell_context"] if judged.pairs else "")
    means = tests.assign(unit=names).groupby("unit").agg(distance=("distance", "mean"), p=("p", "median"))
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
    for row in top.itertuples():
        ax.annotate(
            str(row.gene), (row.change, row.height), fontsize=7, xytext=(4, 2), textcoords="offset points"
        )
    ax.axvline(0, color="0.7", lw=1)
    ax.set(xlabel="change within cell type (log1p)", ylabel="-log10 p", title=perturbation)
    named = ", ".join(top["gene"]) or "none"
    plots.show(
        fig,
        "volcano",
        alt=f"Volcano of {perturbation}: change against -log10 p of {len(tests)} genes; {int(sure.sum())} "
        "change at "
        f"5 % false discoveries. The surest are {named}.",
        caption=f"{perturbation}: {int(sure.sum())} of {len(tests)} genes change at 5 % false discoveries "
        "(Welch's test within cell types, all cells).",
    )


def show_predicted(genes: pd.DataFrame, perturbation: str, own: str = TWIN) -> None:
    """Draw predicted against observed change, one dot a gene."""
    import matplotlib.pyplot as plt

    mine = genes[genes["perturbation"] == perturbation]
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
        alt=f"Predicted against observed change of {len(mine)} genes under {perturbation} in cells that "
        "no model "
        f"saw: {told}; the line is a perfect prediction.",
        caption=f"{perturbation}, test cells of the first fold: {told}.",
    )


def show_contexts(judged: JudgedFile) -> None:
    """Draw the scores of the twin and of the plain mean in each context, left out of the training or not."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    names, own = judged.contexts or [""], judged.own
    tables = {name: judged.rows("cells", name) for name in names}
    left_out = left_out_scores(judged, own)
    fig, ax = plt.subplots(figsize=(7, 0.4 * len(names) + 1.6))
    for shift, row in ((0.15, judged.plain_row("cells")), (-0.15, own)):
        for place, name in enumerate(names):
            draw_row(ax, tables[name], row, place + shift)
    for place, name in enumerate(names):
        if name in left_out:
            ax.plot(left_out[name], place - 0.3, "x", color=plots.COLOURS["real"], ms=6)
    ax.set_yticks(np.arange(len(names)), [name or "all cells" for name in names])
    ax.axvline(0, color="0.7", lw=1)
    ax.set_xlabel(judged.metric)
    handles = [Line2D([], [], marker="o", ls="", color=colour_of(r), label=called(r)) for r in
               (judged.plain_row("cells"), own)]  # fmt: skip
    handles += [Line2D([], [], marker="|", ls="", color="k", label=CALLED["ceiling"])]
    if left_out:
        cross = Line2D([], [], marker="x", ls="", color="k", label="the twin, type left out of the training")
        handles.append(cross)
    ax.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    told = "; ".join(
        f"{n or 'all cells'} {float(t['mean'].loc[own]):.2f}" for n, t in tables.items() if own in t.index
    )
    plots.show(
        fig,
        "contexts",
        alt=f"Scores by cell type, {called(own)} beside the plain mean, with the ceiling as a tick: {told}.",
        caption="Scores within each cell type over the perturbations with an effect; no interval where these "
        "are fewer than six.",
    )


def left_out_scores(judged: JudgedFile, own: str) -> dict[str, float]:
    """Return the mean score in each context that was left out of the training."""
    if "contexts" not in judged.splits:
        return {}
    tables = {name: judged.rows("contexts", name) for name in judged.contexts}
    return {name: float(t["mean"].loc[own]) for name, t in tables.items() if own in t.index}


def colour_of(row: str) -> str:
    """Return the colour of a row; one from elsewhere has that of the twin in silico."""
    return plots.COLOURS.get(row, plots.COLOURS["insilico"])


def draw_row(ax: Axes, table: pd.DataFrame, row: str, place: float) -> None:
    """Draw the mean of a row with its interval, and the ceiling as a tick."""
    if row not in table.index:
        return
    values = table.loc[row]
    ax.plot(values["mean"], place, "o", color=colour_of(row), ms=5)
    if np.isfinite(values["low"]):
        ax.plot([values["low"], values["high"]], [place, place], color=colour_of(row), lw=1.5)
    ax.plot(values["ceiling"], place, "|", color=plots.COLOURS["ceiling"], ms=9, mew=2)


def show_null(judged: JudgedFile) -> None:
    """Draw every row beside itself on labels that mean nothing."""
    import matplotlib.pyplot as plt

    real, sham = judged.rows(), judged.rows(SHAM)
    names = [name for name in real.index if name not in BESIDE]
    fig, ax = plt.subplots(figsize=(7, 0.35 * len(names) + 1.4))
    for place, name in enumerate(names):
        draw_row(ax, real, name, place)
        if name in sham.index:
            low, high = sham.loc[name, "low"], sham.loc[name, "high"]
            ax.plot(sham.loc[name, "mean"], place - 0.25, "o", fillstyle="none", color="0.5", ms=5)
            ax.plot([low, high], [place - 0.25] * 2, color="0.5", lw=1)
    ax.set_yticks(np.arange(len(names)), [called(name) for name in names])
    ax.axvline(0, color="0.7", lw=1)
    ax.set_xlabel(judged.metric)
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
    kept = rows[~rows.index.isin(["ceiling"])]
    interval = [
        f"{low:.2f} to {high:.2f}" if np.isfinite(low) else "n/a"
        for low, high in zip(kept["low"], kept["high"], strict=True)
    ]
    more = {"scaled": kept["scaled"].to_numpy()} if scaled else {}
    return pd.DataFrame(
        {
            "row": [called(name) for name in kept.index],
            judged.metric: kept["mean"].to_numpy(),
            "95 % interval": interval,
            "ceiling": kept["ceiling"].to_numpy(),
            "skill in squared error": skill.reindex(kept.index).to_numpy(),
            "units": kept["units"].to_numpy(),
            **more,
        }
    )


def unit_table(judged: JudgedFile) -> pd.DataFrame:
    """Return one row a perturbation for the page: effect, p, scores, ceiling, reliability."""
    import pandas as pd

    tests, units, sure = effects_and_halves(judged), judged.units, judged.sureness()
    plain, own = judged.plain_row("cells"), judged.own
    return pd.DataFrame(
        {
            "perturbation": units.index,
            "effect": np.where(tests["has_effect"], "yes", "cannot be told"),
            "p, median": tests["p"].to_numpy(),
            called(plain): units[plain].to_numpy(),
            called(own): units[own].to_numpy(),
            "ceiling": np.where(units["resolvable"], units["ceiling"], np.nan),
            "reliability": sure["1 x"].to_numpy(),
            "with 2 x the cells": sure["2 x"].to_numpy(),
            "with 4 x": sure["4 x"].to_numpy(),
        }
    )
