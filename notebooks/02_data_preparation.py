# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Data preparation
#
# **Question.** A perturbation experiment measures two crowds of cells: some were left alone (*controls*), some had a gene changed (*perturbed*).
# What may be done to these numbers before a model sees them, so that the effect of the perturbation is still there and no test cell has influenced the model?
#
# **Answer.** One logarithm of the counts of molecules (counts that are logged twice no longer mean what models assume), one split before anything is fitted, one choice of genes, with a number that says how much of the response these genes keep, and one scaler for both crowds.
# With a scaler of its own for each crowd, as in the code that the paper released, the effect is gone from every gene of every perturbation; the figure shows it on one gene, and the sentence below it has the numbers.
#
# A *z-score* is the value of a gene less its mean, in units of its standard deviation; scaling means to compute it.

# %% tags=["setup", "hide-input"]
# @title Install the package where it is missing { display-mode: "form" }
import importlib.util
import pathlib
import subprocess
import sys

if importlib.util.find_spec("twinlib") is None:
    copies = sorted(pathlib.Path().glob("twin-book*.zip"))
    if not copies:
        raise ModuleNotFoundError(
            "twinlib is not installed: run `make environment` in a copy of the book, "
            "or `make zip`, and upload twin-book.zip to the folder of this notebook."
        )
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, str(copies[-1])], check=True)
    importlib.invalidate_caches()
import twinlib

# %% tags=["hide-input"]
# @title One scaler against a scaler for each crowd { display-mode: "form" }
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from twinlib.data.preparation import standard
from twinlib.data.sources import choose
from twinlib.page import plots, record

plots.style()
dataset = choose("papalexi2021", "waddington")
prepared = standard(dataset)
perturbation, gene = (
    ("JAK2", "STAT1") if dataset == "papalexi2021" else ("Gata1", "Fog1")
)
column = prepared.genes.index(gene)
control, perturbed = (
    prepared.expression("train", "control"),
    prepared.expression("train", perturbation),
)


def own_scale(x):
    """Standardise a crowd with its own mean and deviation: the mistake."""
    deviation = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(deviation == 0, 1, deviation)


together = prepared.scale(control), prepared.scale(perturbed)
apart = own_scale(control.astype(float)), own_scale(perturbed.astype(float))
shift = {
    name: sets[1][:, column].mean() - sets[0][:, column].mean()
    for name, sets in (("together", together), ("apart", apart))
}
assert abs(shift["together"]) > 0.3 and abs(shift["apart"]) < 1e-6
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True)
for ax, sets, title in zip(
    axes, (together, apart), ("One scaler", "One scaler each"), strict=True
):
    for values, name in zip(sets, ("control", "perturbed"), strict=True):
        sns.ecdfplot(x=values[:, column], ax=ax, color=plots.COLOURS[name], label=name)
        ax.axvline(
            values[:, column].mean(),
            color=plots.COLOURS[name],
            linestyle=":",
            linewidth=1.5,
        )
    ax.set(title=title, xlabel=f"{gene}, z-score", ylabel="share of cells below")
plots.legend_outside(fig)
plots.show(
    fig,
    "leak",
    f"Two panels of the cumulative distributions of {gene} in control cells and in cells with {perturbation} perturbed. "
    "With one scaler the means, "
    "dotted lines, lie apart; with a scaler for each crowd both dotted lines stand at zero.",
)
everywhere = np.abs(apart[1].mean(axis=0) - apart[0].mean(axis=0)).max()
real = np.abs(together[1].mean(axis=0) - together[0].mean(axis=0)).max()
assert everywhere < 1e-6 < real
record.say(
    f"**Mean shift of {gene} in cells with {perturbation} perturbed: {shift['together']:+.2f} standard deviations with "
    f"one scaler, {abs(shift['apart']):.2f} with one each. Largest mean shift over all {len(prepared.genes)} genes: {real:.2f} "
    f"and {everywhere:.6f}.** "
    + (
        "JAK2 passes the interferon-gamma signal on to STAT1, so this shift is known biology."
        if dataset == "papalexi2021"
        else "In the simulated network Gata1 switches Fog1 on, so this shift is true."
    )
)
record.glue("shift_together", round(float(shift["together"]), 3))

# %% [markdown]
# *How to read it.*
# A curve says which share of the cells lies below a value; a dotted line is the mean of a crowd.
# In the first panel both crowds were scaled together and the means lie apart; in the second each was scaled on its own and both means are zero.
# A vertical step is the share of cells in which the gene was not seen at all: they all have the same value.
#
# Two more mistakes are made on this page on purpose, because each of them is easy to make, gives better-looking numbers, and cannot be noticed from the final table alone: [genes chosen by a rule that drops the response](#choose-genes-then-scale-on-training-cells), and [a partner chosen by looking at the answer](#pairing-never-sees-the-test-outcome).
#
# ## Objectives
#
# After this chapter you can
#
# - say what is in a cell-by-gene matrix and whether it was logged, from its numbers (10 minutes);
# - split cells into folds before anything is fitted, and prove that test cells changed no fitted number (15 minutes);
# - say how much of a response a panel of genes keeps, and which perturbations did anything at all (15 minutes);
# - explain why scaling controls and perturbed cells separately erases the effect under study (10 minutes);
# - match perturbed cells to controls by optimal transport, and say what such a match may be used for (15 minutes);
# - find the traps of the paper's three files from their numbers (10 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import itertools
import warnings

import pandas as pd
from scipy import sparse

from twinlib.data import folds, panel, scale, schema, traps
from twinlib.data.effect_tests import called, energy_test
from twinlib.data.pairing import match_space, pair, transport_plan
from twinlib.data.preparation import SPLITS, WeakPanel, prepare
from twinlib.data.sources import DATASETS, available, load
from twinlib.errors import DataError

dataset = choose("papalexi2021", "waddington")

# %% [markdown]
# The code above takes real cells when their file can be had (a folder named by `TWINLIB_DATA_DIR`, or the network) and otherwise cells simulated inside the package.
# It never swaps one for the other in silence: the printed line says which one this page used, and sentences that speak of particular genes are printed by code that knows.
# The sections on molecules need counts, so the stand-in is simulated; the real cells that everybody has, `chi11`, hold proteins and no counts, and [get a section of their own](#proteins-on-another-scale).

# %% [markdown]
# ## The question
#
# A gene is a stretch of DNA; a cell that uses it copies it into RNA molecules, and their number is the gene's *expression*.
# Each cell is shut into a droplet, its RNA molecules are read and counted, and the cell is destroyed, so nobody ever sees the same cell before and after.
# A *guide* is a short RNA that leads a CRISPR protein to one gene, the *target*.
# A knock-out (CRISPRko) cuts the gene, a knock-down (CRISPRi) lowers its expression, an activation (CRISPRa) raises it.
# In a *pooled* screen all guides are given to one dish, and each cell's guide is read together with its RNA.
#
# For a perturbation $p$ and a gene $g$ we want the change
#
# $$\delta_{pg} = \mathbb{E}[x_g \mid p] - \mathbb{E}[x_g \mid \text{control}],$$
#
# and later a model that predicts it.
# Before any model there is a plain baseline: the difference of two sample means.
# Everything that this chapter does to the data must leave that difference intact.

# %%
cells = load(dataset)
labels = cells.obs["perturbation"].astype(str)
sizes = labels.value_counts()

# %% tags=["hide-input"]
# @title What the file holds { display-mode: "form" }
record.say(
    f"`{dataset}`: {cells.n_obs:,} cells x {cells.n_vars} genes, {len(sizes) - 1} perturbations, "
    f"{sizes['control']:,} controls. About the counts: {cells.uns['twinlib']['counts']}."
)
record.glue("n_cells", cells.n_obs)

# %% [markdown]
# Every source is brought to one form, the *canonical* AnnData: the usual container for single cells, a matrix with a table beside its rows and one beside its columns.
# Rows are cells, columns are genes, `X` holds the logarithm described below, and `layers["counts"]` the molecules that were counted.
# `obs` says for each cell which perturbation it got (`control` for none), of which kind, at which dose, in which cell context and batch.
# The column `target_measured` deserves a second look: it is true when the perturbed gene itself is among the measured genes.
# A model that represents a perturbation by its target gene can only do so for those.
#
# The paper's Figure 2 is a drawing of such a data set, perturbed cells beside unperturbed ones.
# Here is the same figure from the cells themselves: forty cells of each of four groups, one row a cell.

# %% tags=["hide-input"]
# @title Figure 2 of the paper, from the cells themselves { display-mode: "form" }
groups = ["control", *sizes.drop("control").index[:3]]
shown = np.concatenate([np.flatnonzero(labels == name)[:40] for name in groups])
means = np.asarray(cells.X.mean(axis=0)).ravel()
most = np.sort(np.argsort(-means)[:30])
block = sparse.csr_matrix(cells.X)[shown][:, most].toarray()
fig, (ax, bar) = plt.subplots(1, 2, figsize=(10, 4.6), width_ratios=(3, 1))
picture = ax.imshow(block, aspect="auto", cmap="cividis", interpolation="nearest")
edges = np.cumsum([0, *(min(40, sizes[name]) for name in groups)])
for edge in edges[1:-1]:
    ax.axhline(edge - 0.5, color="white", lw=3)
ax.set_yticks((edges[1:] + edges[:-1]) / 2, groups)
ax.set_xticks(range(len(most)), cells.var_names[most], rotation=90, fontsize=9)
ax.grid(False)
fig.colorbar(picture, ax=ax, label="expression, log1p")
bar.barh(sizes.index[::-1], sizes.to_numpy()[::-1], color=plots.COLOURS["perturbed"])
bar.barh(["control"], [sizes["control"]], color=plots.COLOURS["control"])
bar.set(xlabel="cells", yticks=[], title=f"{len(sizes)} groups")
plots.show(
    fig,
    "dataset",
    f"Left: heat map of the thirty most expressed genes in forty cells each of {', '.join(groups)}, one row a cell; the "
    "groups look alike at first sight. Right: number of cells of every group, the controls in grey among the others.",
    "Figure 2 of the paper redone from the cells of this page.",
)

# %% [markdown]
# By eye the four groups can hardly be told apart, and most entries are zero.
# A perturbation shows in averages over many cells, which is why everything below asks what happens to a mean.

# %% tags=["hide-input"]
# @title Which perturbed genes are measured { display-mode: "form" }
single = sorted({part for label in sizes.index for part in schema.parts(label)})
measured = sorted(set(single) & set(cells.var_names))
record.say(
    f"Of {len(single)} perturbed genes, {len(measured)} are measured here: {', '.join(measured)}. "
    "Only these can be reached by a model that has never seen them perturbed."
)
assert set(measured) <= set(cells.var_names)

# %% [markdown]
# ## Quality control
#
# Three numbers tell most of what can be wrong with a cell.
# The *library size* is the number of molecules counted in it; very low values come from empty or broken droplets, very high ones from two cells in one droplet.
# The *number of detected genes* falls with the library size, and a cell that leaves this curve is suspicious.
# In a pooled CRISPR screen all cells share one dish, and a *guide* in each cell, a short RNA that leads the cutting protein to one gene, decides which gene it loses.
# The guide is read from the same droplet as the cell; the *share* of the leading guide among all guide molecules says how sure the call is.

# %%
counts = sparse.csr_matrix(schema.counts_of(cells))
library = np.asarray(counts.sum(axis=1)).ravel()
detected = np.asarray((counts > 0).sum(axis=1)).ravel()

# %% tags=["hide-input"]
# @title Draw the three numbers { display-mode: "form" }
fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.6))
sns.histplot(
    x=library, bins=60, log_scale=True, ax=axes[0], color=plots.COLOURS["control"]
)
axes[0].set(xlabel="molecules a cell", ylabel="cells", title="Library size")
axes[1].scatter(
    library[::7], detected[::7], s=3, alpha=0.3, color=plots.COLOURS["real"]
)
axes[1].set(
    xscale="log", xlabel="molecules a cell", ylabel="detected genes", title="Detection"
)
if "guide_share" in cells.obs:
    sns.histplot(
        x=cells.obs["guide_share"],
        bins=50,
        ax=axes[2],
        color=plots.COLOURS["perturbed"],
    )
    axes[2].set(xlabel="share of the leading guide", ylabel="cells", title="Guide call")
else:
    sns.histplot(
        x=sizes.to_numpy(), bins=20, ax=axes[2], color=plots.COLOURS["perturbed"]
    )
    axes[2].set(
        xlabel="cells of a perturbation", ylabel="perturbations", title="Group sizes"
    )
plots.show(
    fig,
    "quality",
    "Three panels: histogram of molecules a cell on a log axis; detected genes rising with molecules; "
    "the share of the leading guide, or group sizes where there are no guides.",
)

# %% tags=["hide-input"]
# @title The three numbers in words { display-mode: "form" }
low, middle, high = np.percentile(library, [5, 50, 95])
smallest = sizes.idxmin()
clean = (
    f"{(cells.obs['guide_share'] > 0.8).mean():.0%} of the cells have a leading guide with over 80 % of the guide "
    "molecules; the rest keep their call, and their share stands in `obs`. "
    if "guide_share" in cells.obs
    else "The simulator knows each cell's treatment, so there is no guide to call. "
)
record.say(
    f"Half of the cells have under {middle:.0f} molecules among these genes (5 % to 95 %: {low:.0f} to {high:.0f}). "
    + clean
    + f"The smallest group is {smallest} with {sizes.min()} cells. "
    "Groups under ten cells would have been marked as small at the door: their scores say little."
)

# %% [markdown]
# ## From counts to X: one logarithm, exactly once
#
# Two cells in the same state can differ tenfold in library size, for reasons that have nothing to do with biology.
# The usual first step divides by it:
#
# $$x_{cg} = \log\!\left(1 + 10^4\,\frac{k_{cg}}{\sum_{g'} k_{cg'}}\right).$$
#
# The division happens inside one cell, so nothing leaks from one cell to another, and it can be done before the split.
# Written out, it is two lines; the cell checks them against the matrix that `load` gave.

# %%
some = counts[:200].toarray()
by_hand = np.log1p(1e4 * some / some.sum(axis=1, keepdims=True))
loaded = cells.X[:200]
loaded = loaded.toarray() if hasattr(loaded, "toarray") else np.asarray(loaded)
assert np.abs(by_hand - loaded).max() < 1e-4
print(f"largest difference to X: {np.abs(by_hand - loaded).max():.1e}")

# %% [markdown]
# Files in circulation hold counts, or `X`, or `X` logged a second time, and the flag that should say so is often wrong.
# The numbers know better.
# Counts are whole.
# Undo one logarithm of `X`, divide each cell by its smallest non-zero value, and whole numbers come back, because that smallest value was one molecule.
# Undo one logarithm of a twice-logged matrix and they do not; undo two and they do.

# %%
versions = {
    "counts": counts,
    "X": cells.X,
    "X logged again": np.log1p(cells.X),
    "X without its logarithm": np.expm1(cells.X),
}
found = {name: scale.kind_of_values(values) for name, values in versions.items()}
assert list(found.values()) == ["counts", "log1p", "log1p_twice", "normalised"]
print(*(f"{name:24s} taken for {kind}" for name, kind in found.items()), sep="\n")

# %% [markdown]
# A second logarithm is not a detail.
# It squeezes large values, so that genes with strong expression lose most of their variance, and the difference of means changes its unit.
# The public code of the paper normalises and logs a file that was logged before; chapter 12 prints the rows of its tables for one and for two logarithms.
# `twinlib` refuses such a matrix in one sentence:


# %%
def refusal(check, candidate):
    """The sentence by which a check refuses some cells; empty where it takes them."""
    try:
        check(candidate)
    except DataError as error:
        return str(error)
    return ""


twice = cells.copy()
twice.X = np.log1p(cells.X)
print(refusal(schema.check, twice))
assert "twice" in refusal(schema.check, twice)

# %% [markdown]
# ## Split first
#
# Whatever is fitted (which genes vary, how they are scaled, a principal component, a network) must be fitted on training cells only.
# Otherwise the test cells have already told the model something about themselves.
# The order is therefore: split, then choose genes, then scale.
# Controls must be split too: a control that was used in training and serves again as a starting point in the test carries its noise from one to the other.
#
# One split gives one number, and nobody knows how far another split would have moved it.
# The obvious mend, several random splits, is a trap.
# Their test cells overlap: some cells are tested again and again, others never, and scores that share cells resemble each other more than scores on new cells would.
# Their spread then promises more certainty than there is.
# *Folds* are disjoint test sets: every cell is tested once.
# Here are both on the simplest score, a mean, over many made-up data sets whose true spread is known.

# %% tags=["hide-input"]
# @title Random splits against disjoint folds on made-up scores { display-mode: "form" }
rng = np.random.default_rng(0)
data = rng.normal(size=(4000, 200))  # data sets x cells
disjoint = data.reshape(len(data), folds.FOLDS, -1).mean(axis=2)
size = data.shape[1] // folds.FOLDS
drawn = np.stack(
    [rng.permuted(data, axis=1)[:, :size].mean(axis=1) for _ in range(folds.FOLDS)],
    axis=1,
)
rows = []
for title, scores, tested in (
    ("random splits", drawn, 1 - (1 - 1 / folds.FOLDS) ** folds.FOLDS),
    ("disjoint folds", disjoint, 1.0),
):
    promised = np.sqrt(scores.var(axis=1, ddof=1).mean() / folds.FOLDS)
    rows.append(
        {
            f"{folds.FOLDS} test sets": title,
            "cells tested": tested,
            "true s.d. of the average": scores.mean(axis=1).std(),
            "s.d. that their spread promises": promised,
        }
    )
spread = pd.DataFrame(rows).set_index(f"{folds.FOLDS} test sets")
ratio = spread.iloc[:, 2] / spread.iloc[:, 1]
assert ratio["random splits"] < 0.8 and abs(ratio["disjoint folds"] - 1) < 0.1
record.say(
    f"Random splits promise {ratio['random splits']:.2f} of the true standard deviation, disjoint folds "
    f"{ratio['disjoint folds']:.2f}; and {1 - spread.iloc[0, 0]:.0%} of the cells are in none of the random test sets."
)

# %% [markdown]
# So every dataset of this book is cut once, by perturbation, dose, cell context and batch.
# A fixed share is set aside as *validation* cells, for choosing settings; the rest falls into disjoint folds.
# Whatever serves fold $k$ (panel, scaler, embedding, model) sees neither the validation cells nor fold $k$.
# All tuning happens on fold 1.

# %%
part = prepared.cells.obs["split"]
fold_of = folds.assign_folds(cells.obs, np.random.default_rng(prepared.seed))
assert ((fold_of == 0) == (part == "test").to_numpy()).all()
assert ((fold_of == folds.SET_ASIDE) == (part == "validation").to_numpy()).all()

# %% tags=["hide-input"]
# @title Every group has test cells in every fold { display-mode: "form" }
tested = pd.crosstab(labels.to_numpy(), fold_of)
assert (tested.drop(columns=folds.SET_ASIDE) > 0).all(axis=None), (
    "every group has test cells in every fold"
)
share = (
    (part == "test").groupby(prepared.cells.obs["perturbation"], observed=True).mean()
)
assert share.between(0.1, 0.3).all()
record.say(
    f"Fold {prepared.fold}: {(part == 'train').sum():,} training, {(part == 'validation').sum():,} validation and "
    f"{(part == 'test').sum():,} test cells; the share of test cells lies between {share.min():.3f} and "
    f"{share.max():.3f} in every group, controls among them. Over the {folds.FOLDS} folds each of the "
    f"{(fold_of >= 0).sum():,} cells that are not set aside is tested once."
)

# %% [markdown]
# Other questions need other splits, and `prepare(split=...)` has them: whole perturbations, combinations whose parts were seen, doses, cell contexts, times, or batches.
# A split that the data cannot give is refused.

# %%
for split in SPLITS[1:]:
    try:
        one = prepare(cells, DATASETS[dataset].panel, split=split)
        print(f"{split}: {len(one.rows('test')):,} test cells", *one.held_out)
    except DataError as error:
        print(f"{split}: {error}")

# %% [markdown]
# ## Choose genes, then scale, on training cells
#
# Most genes hardly vary, and a model of all of them would spend itself on noise.
# The *panel* is the few hundred genes that are kept, and a response outside it is lost to everything that follows.
#
# The usual rule is the *dispersion*, variance over mean, compared with genes of similar mean.
# On small files it picks rare genes: where two cells show one molecule each, the mean is tiny and the ratio large.
# This book takes the plain variance *within* groups $k$ of one cell context and batch, perturbed and control cells together, among genes that at least a hundredth of the training cells show:
#
# $$v_g = \frac1n \sum_k \sum_{c \in k} (x_{cg} - \bar x_{kg})^2.$$
#
# A gene that only tells one cell type from another varies between groups and not within them.
# A gene that answers a perturbation varies within them, because both arms stand in one group.
# Measured targets are kept beside the chosen genes whatever their rank.

# %%
rows = prepared.rows("train")
values = sparse.csr_matrix(cells.X)[rows].toarray().astype(float)
columns = cells.obs.iloc[rows][["cell_context", "batch"]].astype(str)
group = columns.agg(" / ".join, axis=1).to_numpy()
centre = pd.DataFrame(values).groupby(group).transform("mean").to_numpy()
within = ((values - centre) ** 2).mean(axis=0)
within[(values > 0).mean(axis=0) < panel.DETECTED] = 0
ranked = np.argsort(-within)[: DATASETS[dataset].panel]
best = [column for column in ranked if within[column] > 0]
by_hand = set(cells.var_names[best]) | set(prepared.measured)
assert by_hand == set(prepared.genes)
print(f"the formula chooses the panel of prepare: {len(prepared.genes)} genes")

# %% [markdown]
# What did the panel cost?
# Take the change $\delta_{pg}$ of all measured genes in the training cells, within cell contexts, and ask which share of its square lies in the panel:
#
# $$\text{kept} = \operatorname*{mean}_p \; \frac{\sum_{g \in \text{panel}} \delta_{pg}^2}{\sum_g \delta_{pg}^2}.$$
#
# Changes are noisy, so the number needs a companion.
# Permute the labels among the cells of each context, so that nothing happened, and ask again: that is the share a panel keeps of noise.
# Where both are near one the file holds few genes that vary at all, and the number says little; where they lie apart it says much.
# The mean runs over perturbations whose change exceeds that of every permutation; a proper test follows below.

# %% tags=["hide-input"]
# @title What the panel of every dataset keeps { display-mode: "form" }
at_hand = [
    name
    for name in (
        "kang2018",
        "cross_study",
        "a549_dex",
        "vcc_h1",
        "chi11",
        "waddington",
        "papalexi2021",
        "norman2019",
    )
    if available(name)
]
rows, panels = [], {}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", WeakPanel)  # the figure tells it
    for name in at_hand:
        whole = cells if name == dataset else load(name)
        for rule in ("variance", "seurat"):
            one = prepare(whole, DATASETS[name].panel, panel=rule)
            kept = one.kept_response()
            panels[name, rule] = set(one.genes)
            rows.append(
                {
                    "dataset": name,
                    "rule": rule,
                    "kept": kept.share,
                    "permuted": kept.permuted,
                }
            )
kept = pd.DataFrame(rows).pivot(index="dataset", columns="rule").loc[at_hand]
bars = {
    "variance within groups": (kept["kept", "variance"], plots.COLOURS["real"]),
    "the same, labels permuted": (
        kept["permuted", "variance"],
        plots.COLOURS["random"],
    ),
    "dispersion": (kept["kept", "seurat"], plots.COLOURS["perturbed"]),
}
fig, ax = plt.subplots(figsize=(6.4, 4.4))
for i, (title, (heights, colour)) in enumerate(bars.items()):
    ax.bar(
        np.arange(len(at_hand)) + 0.27 * (i - 1),
        heights,
        0.25,
        label=title,
        color=colour,
    )
ax.set_xticks(range(len(at_hand)), at_hand, rotation=35, ha="right")
ax.set(ylim=(0, 1.02), ylabel="share of the squared response")
plots.legend_outside(fig)
worst = kept["kept", "seurat"].idxmin()
plots.show(
    fig,
    "panel",
    "Bars of the share of the squared response that the panel keeps, three for each of "
    + ", ".join(at_hand)
    + ": variance within groups, the same under permuted labels, and dispersion. "
    + f"Dispersion keeps least on {worst}, {kept.loc[worst, ('kept', 'seurat')]:.1%}, where variance keeps "
    + f"{kept.loc[worst, ('kept', 'variance')]:.0%}.",
    "What the panel keeps, fold 1 of every dataset at hand; panels of the same size.",
)

# %% tags=["hide-input"]
# @title The panels in words { display-mode: "form" }
by_variance = kept["kept", "variance"]
spare = (by_variance - kept["permuted", "variance"]).sort_values()
record.say(
    f"The panel by variance keeps between {by_variance.min():.0%} ({by_variance.idxmin()}) and {by_variance.max():.0%} "
    f"({by_variance.idxmax()}). That exceeds what it keeps of noise by {spare.iloc[0]:.2f} on {spare.index[0]}, where the "
    f"share says least, and by {spare.iloc[-1]:.2f} on {spare.index[-1]}, where it says most."
)
assert (by_variance > 0.5).all()
interferon = {"ISG15", "IFI6", "IFIT1", "IFIT3", "ISG20", "CXCL10"}
if "kang2018" in at_hand:
    lost = len(interferon - panels["kang2018", "seurat"])
    assert interferon <= panels["kang2018", "variance"]
    record.say(
        f"On kang2018 the cells were given interferon-beta. Of {len(interferon)} genes that are known to answer it, the "
        f"dispersion leaves out {lost} and the variance none: everything said about that response on a panel by "
        "dispersion would be about something else."
    )

# %% [markdown]
# A panel that keeps less than half of the response is used if you ask for it, and `prepare` warns in one sentence.
# The number stands in every table of this book that came from a panel.
#
# The last step is the scale: one mean and one standard deviation for each gene, over all training cells, controls and perturbed together:
#
# $$z_{cg} = (x_{cg} - \mu_g) / \sigma_g.$$

# %%
train = prepared.expression("train").astype(float)
mu, sigma = train.mean(axis=0), train.std(axis=0)
assert np.allclose(mu, prepared.mean, atol=1e-4)
assert np.allclose(np.where(sigma == 0, 1, sigma), prepared.std, atol=1e-4)

unseen = (part != "train").to_numpy()
disturbed = cells.copy()
x = sparse.csr_matrix(disturbed.X).toarray()
x[unseen] = np.random.default_rng(0).permutation(x[unseen].T).T
disturbed.X = x
again = prepare(disturbed, DATASETS[dataset].panel, seed=prepared.seed)
assert again.genes == prepared.genes
assert np.array_equal(again.mean, prepared.mean)
assert np.array_equal(again.std, prepared.std)
print(
    f"{unseen.sum():,} cells shuffled; panel, means and deviations unchanged to the bit"
)

# %% [markdown]
# That last check is worth copying into any project: change the test data, run the preparation again, and compare every fitted number.
# It needs no argument about the code, and it finds leaks that nobody thought of.

# %% [markdown]
# ## The leak, made on purpose
#
# Now the mistake of the first figure.
# Suppose controls and perturbed cells are stored in two files, and each is standardised on its own.
# This is what the paper's released notebooks do.
# It looks harmless: every column gets mean 0 and variance 1, as a network likes it.
# But *both* crowds get mean 0, and the difference of means, the very thing under study, is set to zero before any model sees it.


# %%
def own_scale_again(x):
    """What the first figure did to each crowd."""
    return (x - x.mean(axis=0)) / np.where(x.std(axis=0) == 0, 1, x.std(axis=0))


wrong = [own_scale_again(x.astype(float)) for x in (control, perturbed)]
right = [prepared.scale(x) for x in (control, perturbed)]
for name, (first_crowd, second_crowd) in {"each its own": wrong, "one": right}.items():
    moved = np.abs(second_crowd.mean(axis=0) - first_crowd.mean(axis=0)).max()
    print(f"{name} scaler: largest mean shift of a gene {moved:.6f}")

# %% [markdown]
# The shift is not only gone for this gene.
# A scaler of its own gives every gene of every group mean zero, so it is gone for every gene and every perturbation at once, to rounding error, and so is the reason to have a model.
# A model evaluated on such data is compared with a truth that equals its input, and *doing nothing* becomes the best possible prediction.

# %% [markdown]
# ## Did anything happen? The effect test
#
# Many perturbations do nothing that this many cells could show.
# An average over all of them mixes the score of a model with the share of idle perturbations, and hides both.
# So before any model there is a test, on cells outside the test fold.
# The *energy distance* of a crowd $X$ of perturbed cells and a crowd $Y$ of controls compares distances between the crowds with distances inside them:
#
# $$E = 2\,\mathbb{E}\lVert x - y\rVert - \mathbb{E}\lVert x - x'\rVert - \mathbb{E}\lVert y - y'\rVert.$$
#
# It is zero exactly when both crowds follow one distribution, whatever its shape.
# A cell is never compared with itself, so that the estimate averages zero where nothing happened and may fall below.
# How large must it be?
# Permute the labels inside each cell context and batch and compute it again: the p-value is the share of permutations that reach it.

# %% tags=["hide-input"]
# @title The cells outside the test fold { display-mode: "form" }
outside = np.flatnonzero(part != "test")
x_outside = np.asarray(prepared.cells.X)[outside].astype(float)
obs = prepared.cells.obs.iloc[outside]
label, context, batch = (
    obs[name].to_numpy(str) for name in ("perturbation", "cell_context", "batch")
)


# %%
def distance_by_hand(x, y):
    """Energy distance of crowds [n, G] and [m, G]; no cell meets itself."""
    across, first, second = (
        np.linalg.norm(a[:, None] - b[None], axis=-1)
        for a, b in ((x, y), (x, x), (y, y))
    )
    n, m = len(x), len(y)
    return (
        2 * across.mean() - first.sum() / (n * (n - 1)) - second.sum() / (m * (m - 1))
    )


# %% tags=["hide-input"]
# @title By hand against the package, and six perturbations tested { display-mode: "form" }
some_label = prepared.perturbations[0]
few = np.concatenate(
    [np.flatnonzero(label == name)[:40] for name in (some_label, "control")]
)
one = np.full(len(few), "one")  # one context, one batch
small = energy_test(
    x_outside[few], label[few] != "control", one, one, 99, np.random.default_rng(0)
)
assert np.isclose(
    small.distance, distance_by_hand(x_outside[few[:40]], x_outside[few[40:]])
)


def change_size(name):
    """Squared change of a perturbation: what the six are picked by."""
    return float(
        (
            (
                x_outside[label == name].mean(axis=0)
                - x_outside[label == "control"].mean(axis=0)
            )
            ** 2
        ).sum()
    )


PERMUTATIONS = 999
order = sorted(prepared.perturbations, key=change_size, reverse=True)
rows = []
for name in (*order[:3], *order[-3:]):
    both = np.isin(label, [name, "control"])
    test = energy_test(
        x_outside[both],
        label[both] == name,
        context[both],
        batch[both],
        PERMUTATIONS,
        np.random.default_rng(0),
    )
    rows.append(
        {
            "perturbation": name,
            "cells": test.n_cells,
            "energy distance": test.distance,
            "p": test.p_value,
        }
    )
effects = pd.DataFrame(rows).set_index("perturbation")
effects["called"] = called(effects["p"].to_numpy())
assert (
    effects["called"].iloc[:3].all()
    and effects["energy distance"].iloc[:3].min()
    > effects["energy distance"].iloc[3:].max()
)
effects.round(4)

# %% tags=["hide-input"]
# @title How many are called { display-mode: "form" }
record.say(
    f"The three largest changes ({', '.join(order[:3])}) are called, of the three smallest "
    f"{int(effects['called'].iloc[3:].sum())}. With {PERMUTATIONS} permutations no p-value lies below "
    f"{1 / (PERMUTATIONS + 1):g}, however strong the effect."
)

# %% [markdown]
# These six were picked after looking, so their p-values serve as an illustration only.
# The real rule tests every perturbation of a dataset in every fold, controls the rate of false calls with Benjamini and Hochberg's rule, and says `has_effect` where at least three of the five folds call it: one set for all tables.
# It is a column and never a filter.
# The others are 'undetected', which is not 'without effect': more cells might find it.
# Chapter 4 sets the size of each effect against what can be known of it.

# %% [markdown]
# ## Pairing: who would this cell have been?
#
# Some methods want pairs: for each perturbed cell $y$ a control $x$ that it might have been.
# There is no such pair in the data.
# *Optimal transport* makes the most careful guess: move the crowd of controls onto the crowd of perturbed cells with the least total squared distance,
#
# $$\min_{\Pi \ge 0} \sum_{ij} \Pi_{ij}\,\lVert x_i - y_j\rVert^2 \quad\text{with}\quad \sum_j \Pi_{ij} = \tfrac1n,\ \sum_i \Pi_{ij} = \tfrac1m.$$
#
# The plan $\Pi$ says how much of each control's mass goes to each perturbed cell, and the partner of $y_j$ is the control with the largest share of column $j$.
# With four cells on each side the best plan is one of the $4! = 24$ assignments, so it can be found by trying them all.

# %%
rng = np.random.default_rng(0)
x4, y4 = rng.normal(size=(4, 2)), rng.normal(size=(4, 2)) + [2, 0]
cost = ((x4[:, None] - y4[None]) ** 2).sum(axis=-1)
orders = itertools.permutations(range(4))
best = min(orders, key=lambda order: cost[range(4), order].sum())
plan, exact = transport_plan(x4, y4)
assert exact and tuple(plan.argmax(axis=1)) == best
assert np.isclose((plan * cost).sum(), cost[range(4), best].mean())
print(f"best of 24: {best}, cost {(plan * cost).sum():.3f}; the same by the package")

# %% [markdown]
# On real cells the cost is measured in the first 32 principal components of the training cells, for every perturbation and cell context separately.
# Pairs are made *inside* the training cells and *inside* the test cells, never across.

# %% tags=["hide-input"]
# @title Draw distance and share of the partners { display-mode: "form" }
matched, random = pair(prepared, "test"), pair(prepared, "test", method="random")
space = match_space(prepared)


def squared_distance(pairs):
    return ((space[pairs.control] - space[pairs.perturbed]) ** 2).sum(axis=1)


fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for pairs, name in ((matched, "matched by transport"), (random, "random")):
    colour = plots.COLOURS["perturbed" if pairs is matched else "random"]
    sns.kdeplot(
        x=np.sqrt(squared_distance(pairs)), ax=axes[0], label=name, color=colour
    )
axes[0].set(
    xlabel="distance between partners",
    ylabel="density",
    title="How close are partners?",
)

sns.histplot(
    x=matched.share,
    bins=40,
    binrange=(0, 1),
    ax=axes[1],
    color=plots.COLOURS["perturbed"],
)
axes[1].set(
    xlabel="share of the partner",
    ylabel="perturbed cells",
    title="How clear is the match?",
)
plots.legend_outside(fig)
plots.show(
    fig,
    "pairing",
    "Left: density of the distance between partners, smaller for transport than for random pairs. "
    "Right: histogram of the share of a perturbed cell's mass that comes from its partner.",
)

# %% [markdown]
# The right panel needs reading with care.
# A control holds the mass $1/n$ and a perturbed cell takes in $1/m$, so a partner's share cannot exceed $m/n$: with twice as many controls as perturbed cells every perturbed cell is met by at least two controls.
# The peaks are these limits, one for each group size.
# A low share is therefore no sign of a bad match, and the share is comparable inside a group only.

# %% [markdown]
# ### Pairing never sees the test outcome
#
# The second mistake is to forget how the partner was chosen.
# It was chosen *with* $y$: the transport looked at the perturbed cell and picked a control that resembles it.
# On test cells this means that the input of the prediction was selected by the answer.
# Take the laziest prediction, do nothing ($\hat y = x$), and let only the choice of $x$ change.

# %%
z = prepared.scale(np.asarray(prepared.cells.X))


def error(rows, others):
    """Mean squared difference over cells and genes, z-scores."""
    return float(((z[rows] - z[others]) ** 2).mean())


test_controls = np.random.default_rng(0).permutation(prepared.rows("test", "control"))
first, second = np.array_split(test_controls, 2)
control_plan, _ = transport_plan(space[first], space[second])
drawn = np.random.default_rng(1).choice(second, len(first))
errors = {
    "random control": error(random.control, random.perturbed),
    "control matched by transport": error(matched.control, matched.perturbed),
    "random controls against other controls": error(first, drawn),
    "controls matched to other controls": error(first[control_plan.argmax(0)], second),
}
assert errors["control matched by transport"] < errors["random control"]
pd.Series(errors, name="do-nothing, cell MSE").to_frame().round(3)

# %% tags=["hide-input"]
# @title The price of the choice, in words { display-mode: "form" }
for name, value in errors.items():
    record.glue("error_" + name.replace(" ", "_"), round(value, 4))
gain = 1 - errors["control matched by transport"] / errors["random control"]
record.say(
    f"Nothing was predicted, and the error fell by {gain:.0%} because of the choice of the partner. "
    f"The last two rows have no perturbation in them at all: random controls differ by "
    f"{errors['random controls against other controls']:.2f}, which is "
    f"{errors['random controls against other controls'] / errors['random control']:.0%} of the first row, and matched ones by "
    f"{errors['controls matched to other controls']:.2f}."
)

# %% [markdown]
# Two unrelated draws of variance one differ by two in mean square, whatever they are.
# The share that random controls have of the first row is spread among cells of one kind, and a match removes part of it for free.
#
# So this book keeps pairs in their place.
# Training may use them, because a training outcome may be looked at.
# On test cells they serve only the per-cell columns, headed 'against the OT match', always beside a column with random pairs.
# The headline metrics (correlation of the mean change, error of the mean profile, distances between distributions) need no pairs.

# %% [markdown]
# ### A second dataset, where the true partner is known
#
# Is the match at least better than chance?
# Real cells cannot say.
# The simulator can: it runs each perturbed cell a second time with the same noise and without the perturbation, and that *counterpart* is who the cell would have been.

# %% tags=["hide-input"]
# @title Transport against chance, on cells whose counterpart is known { display-mode: "form" }
from twinlib.data.simulated import simulate_waddington

simulated = simulate_waddington(
    3000,
    seed=1,
    perturbations=["Gata1", "Pu1", "EKLF", "Gfi1", "Cebpa"],
    counterparts=True,
)
known = prepare(simulated, 100)
truth = np.asarray(simulated.layers["counterpart"], dtype=float)
expected = np.asarray(simulated.layers["expected"], dtype=float)
fates = (
    simulated.obs["fate"].to_numpy(str),
    simulated.obs["counterpart_fate"].to_numpy(str),
)
rows = []
for method in ("ot", "random"):
    pairs = pair(known, "train", method)
    distance = np.sqrt(
        ((expected[pairs.control] - truth[pairs.perturbed]) ** 2).sum(axis=1)
    ).mean()
    same = (fates[0][pairs.control] == fates[1][pairs.perturbed]).mean()
    rows.append(
        {
            "pairs": method,
            "distance to the counterpart": distance,
            "same fate as the counterpart": same,
        }
    )
quality = pd.DataFrame(rows).set_index("pairs")
assert (
    quality.iloc[0, 0] < quality.iloc[1, 0] and quality.iloc[0, 1] > quality.iloc[1, 1]
)
record.say(
    f"Transport finds a control with the counterpart's fate for {quality.iloc[0, 1]:.0%} of the cells, chance for "
    f"{quality.iloc[1, 1]:.0%}; the distance to the true counterpart falls from {quality.iloc[1, 0]:.1f} to "
    f"{quality.iloc[0, 0]:.1f}. Better than chance, and far from the truth: where a perturbation moves cells from one "
    "fate to another, the nearest control is by construction a cell of the new fate."
)

# %% [markdown]
# ## Proteins on another scale
#
# The package carries one set of real cells, so that everybody has some without a file or a network.
# `chi11` is blood of one donor: a part was left alone and others were stimulated, each way named by a letter, and the cells were sorted into types by what they carry.
# It was measured by *mass cytometry*: antibodies that carry metal atoms stick to proteins, and the metal of each cell is weighed.
# A few dozen proteins are measured in place of thousands of genes, with far less noise in each.

# %% tags=["hide-input"]
# @title What chi11 holds { display-mode: "form" }
blood = load("chi11")
proteins = standard("chi11")
assert set(proteins.genes) == set(blood.var_names[blood.var["state"]])
record.say(
    f"`chi11`: {blood.n_obs:,} cells x {blood.n_vars} proteins, scale `{blood.uns['twinlib']['scale']}`, "
    f"{blood.obs['cell_context'].nunique()} cell types; letters {', '.join(proteins.perturbations)} beside the control. "
    f"The panel: {', '.join(proteins.genes)}."
)
print(refusal(schema.counts_of, blood))
assert "no counts" in refusal(schema.counts_of, blood)

# %% [markdown]
# Three things differ from RNA.
# Intensities $I$ are not counts, and their usual transformation is $x = \operatorname{arcsinh}(I/c)$ with a constant $c$: straight near zero, a logarithm far from it.
# The canonical AnnData says its scale, whatever needs counts says in one sentence that there are none, and the bound on log1p values is asked of log1p values alone.
# And most of the proteins are *type markers*, by which the cell types were told apart; only the *state markers*, which carry signals, may enter the panel.
# A column of `var`, `panel_candidate`, says so for any data.
#
# The change of each state marker, within each cell type:

# %% tags=["hide-input"]
# @title The change of each state marker { display-mode: "form" }
contexts = sorted(blood.obs["cell_context"].unique())
change = {
    stimulus: pd.DataFrame(
        {
            context: proteins.expression("train", stimulus, context).mean(axis=0)
            - proteins.expression("train", "control", context).mean(axis=0)
            for context in contexts
        },
        index=list(proteins.genes),
    ).T
    for stimulus in proteins.perturbations
}
limit = max(float(table.abs().max(axis=None)) for table in change.values())
fig, axes = plt.subplots(1, len(change), figsize=(12, 4.2), sharey=True)
for ax, (stimulus, table) in zip(axes, change.items(), strict=True):
    picture = ax.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_xticks(range(len(table.columns)), table.columns, rotation=90, fontsize=9)
    ax.set_yticks(range(len(contexts)), contexts, fontsize=9)
    ax.set_title(stimulus)
    ax.grid(False)
fig.colorbar(picture, ax=axes, label="change, arcsinh units")
top = {stimulus: table.stack().idxmax() for stimulus, table in change.items()}
plots.show(
    fig,
    "stimuli",
    "Four heat maps, one a stimulus: cell types in rows, state markers in columns, change against control in colour. "
    + " ".join(
        f"{stimulus} raises {marker} most, in {context}."
        for stimulus, (context, marker) in top.items()
    ),
    f"Response of {len(contexts)} cell types to {len(change)} stimuli, training cells of fold 1.",
)

# %% tags=["hide-input"]
# @title The responses in words { display-mode: "form" }
stat1, (monocyte, signal) = change["A"]["pSTAT1"], top["L"]
assert (stat1 > 0.3).sum() >= 7 and signal == "pP38"
record.say(
    f"A raises pSTAT1 by over 0.3 in {(stat1 > 0.3).sum()} of {len(contexts)} cell types, as interferon-alpha does. L raises "
    f"pP38 by {change['L'].loc[monocyte, 'pP38']:.2f} in the cells with {monocyte} and changes their IkBa by "
    f"{change['L'].loc[monocyte, 'IkBa']:+.2f}; in no other cell type does pP38 rise by more than "
    f"{change['L']['pP38'].drop(monocyte).max():.2f}. That is what lipopolysaccharide does to monocytes."
)
record.say(
    f"A profile of {len(proteins.genes)} numbers is short: two unrelated ones correlate with a standard deviation of "
    f"{1 / np.sqrt(len(proteins.genes) - 1):.2f}, so correlations of changes say little on these cells and errors say more."
)

# %% [markdown]
# The file does not spell its letters; the two sentences above are an inference from what the cells did.
# Each stimulus has wells of its own, so a difference between wells would look like a response, and one donor tells nothing about donors.

# %% [markdown]
# ## What the paper's three sources hold
#
# The paper trains on three public sources, each too large for this page.
# `load("vcc")`, `load("parse_cytokines")` and `load("ips2_perturbome")` fetch them, resume an interrupted download, check size and hash, and read only the cells that are drawn.
# The table is printed from the registry; the [page of sources](../book/data.md) says more about each.

# %% tags=["hide-input"]
# @title The registry's entries { display-mode: "form" }
papers = [DATASETS[name] for name in ("vcc", "parse_cytokines", "ips2_perturbome")]
pd.DataFrame(
    {
        "name": [entry.name for entry in papers],
        "what": [entry.measured for entry in papers],
        "control label": [entry.columns.control for entry in papers],
        "GB": [
            round(sum(file.size for file in entry.files) / 1e9, 1)
            or "asked at run time"
            for entry in papers
        ],
    }
).set_index("name")

# %% [markdown]
# Each of the three has a trap that its flags do not tell, and each trap can be found from the numbers.
# This page cannot show the original files, so it makes each trap out of the cells it has and lets the same detectors look at them that the loaders use.
#
# **Logged already.**
# In the Virtual Cell Challenge file (which the paper calls 'Replogle') `X` is logged, and a program that normalises and logs by habit logs it twice.
#
# **Counts under a flag.**
# The Parse file most likely holds counts, and its flag says that they are logged; a program that trusts the flag trains on raw counts.

# %% tags=["hide-input"]
# @title Three flags against the numbers { display-mode: "form" }
logged = cells[:2000]
stale = sparse.csr_matrix(counts[:2000])
print(
    "challenge-like:",
    traps.flag_sentence({"log1p": {"base": None}}, scale.kind_of_values(logged.X)),
)
print(
    "Parse-like:    ",
    traps.flag_sentence({"log1p": {"base": None}}, scale.kind_of_values(stale)),
)
print("forgotten flag:", traps.flag_sentence({}, scale.kind_of_values(logged.X)))
assert "is stale" in traps.flag_sentence({"log1p": {}}, scale.kind_of_values(stale))

# %% [markdown]
# **Controls that are called perturbed.**
# The challenge also ships a *validation template*: a table of cells with perturbation labels, whose expression is that of controls, drawn again.
# It is a form to be filled in, and nothing in the file says so.
# Two numbers give it away.
# Profiles of perturbed cells equal profiles of controls to the last bit, which never happens between two measured cells with a few dozen molecules.
# And the perturbed genes themselves stand at the level of the controls: a share of one means that the target is as in controls.
# A knock-out breaks the gene's product and may leave much of its RNA, so the share need not be near zero; it has to be below that of the template.

# %% tags=["hide-input"]
# @title Cells that are copies of controls { display-mode: "form" }
control_rows = np.flatnonzero(labels == "control")
source = np.arange(cells.n_obs)
perturbed_rows = np.flatnonzero(labels != "control")
source[perturbed_rows] = np.random.default_rng(0).choice(
    control_rows, len(perturbed_rows)
)
expression = sparse.csr_matrix(cells.X)
names = labels.to_numpy(str)
rows = []
for title, x in (
    ("measured cells", expression),
    ("template made of controls", expression[source]),
):
    copied, response = (
        traps.copied_controls(x, names),
        traps.target_response(x, names, cells.var_names),
    )
    rows.append(
        {
            "cells": title,
            "equal to a control": copied,
            "own target, share of control": response,
        }
    )
template = pd.DataFrame(rows).set_index("cells")
assert template.iloc[0, 0] < 0.01 and template.iloc[1, 0] == 1
assert template.iloc[0, 1] < template.iloc[1, 1]
template.round(2)

# %% [markdown]
# The paper reports 12,367 'perturbed validation' cells for this source.
# It does not say from which file they come.
# If they come from the template they are resampled controls; this book cannot tell, and says so wherever it matters.
#
# **Several samples in one matrix.**
# The iPS2-seq file aggregates three samples: a knock-down of SMAD2, its control, and a second control.
# Nothing but the suffix of the barcode tells them apart, and a separate table says which suffix is which.

# %% tags=["hide-input"]
# @title Three suffixes { display-mode: "form" }
barcodes = [
    f"{name}-{1 + i % 3}"
    for i, name in enumerate(["ACGT", "CGTA", "GTAC", "TACG", "AACC", "GGTT"])
]
print(barcodes[:3], "->", traps.barcode_suffixes(barcodes))
assert len(traps.barcode_suffixes(barcodes)) == 3

# %% [markdown]
# **Controls from another study.**
# In the paper's SMAD2 run the controls are those of the first source: another laboratory, another protocol, another cell line.
# Then every difference between the studies looks like an effect of the perturbation, and no preparation can undo it, because study and perturbation change together.
# The dataset `cross_study` is a small stand-in with the same flaw; chapter 12 uses it and says so.

# %% [markdown]
# ## Limitations
#
# - The panel of a few hundred genes is small. A real screen measures thousands, and counts a cell are correspondingly higher.
# - Library-size division treats a cell's total as a nuisance. Perturbations that change the total itself (cell size, growth) are partly divided away.
# - The test of whole numbers needs cells in which at least one gene was counted once. Values after ambient-RNA removal or batch correction are answered with 'unknown', and taken with that remark.
# - Variance is one of several ways to rank genes. It favours genes with much expression, and a response of rare genes can hide below the cut; the share that the panel keeps says how much.
# - The test of an effect asks whether two crowds differ, on the panel. A difference between wells or batches that hold one arm only would pass it.
#
# ## What this does not show
#
# - That a match by transport is the cell's past. It is a guess that minimises distance; on simulated cells we saw how often it is wrong.
# - That a split by cells measures generalisation to new perturbations. It measures new cells of known perturbations, and no more.
# - That an undetected perturbation does nothing. A hundred cells see large effects only.
# - That batches are balanced. Replicates are kept in `obs`, and nothing here removes their differences.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A file's flag says 'raw counts'. How do its numbers tell whether that is so?</summary>
#
# Counts are whole.
# If they are not, undo one logarithm and divide each cell by its smallest non-zero value: whole numbers say that it was logged once; if it takes two, it was logged twice.
#
# </details>
#
# <details><summary>Controls and perturbed cells are each scaled to mean 0 and variance 1. Which genes keep the mean effect of the perturbation?</summary>
#
# None: both crowds have mean 0 in every gene, so their difference is 0 whatever happened.
# One scaler, fitted on the training cells of both, keeps it.
#
# </details>
#
# <details><summary>A panel keeps nine tenths of the training response. Is that a good panel?</summary>
#
# That depends on what it keeps of permuted labels.
# Where this companion is as high, the file holds few genes that vary at all, and the number says little.
#
# </details>
#
# ## Key takeaways
#
# - Ask the numbers whether a matrix was logged; flags go stale. See [From counts to X](#from-counts-to-x-one-logarithm-exactly-once).
# - Split first, into folds that share no cell. Then change the test cells and see that no fitted number moves. See [Split first](#split-first).
# - Ask a panel how much of the response it keeps, and how much of noise. See [Choose genes](#choose-genes-then-scale-on-training-cells).
# - Ask which perturbations did anything before a model is scored on them. See [The effect test](#did-anything-happen-the-effect-test).
# - One scaler for controls and perturbed cells; two erase the effect. See [The leak](#the-leak-made-on-purpose).
# - A partner chosen with the outcome lowers every per-cell error. See [Pairing](#pairing-never-sees-the-test-outcome).

# %% [markdown]
# ## Exercises
#
# ### Exercise 2.1. Normalise by hand
#
# Write `log_cp10k(counts)`: counts [n, G] in, log1p of counts per 10,000 out, with cells without any molecule left at zero (and no warning).

# %% tags=["exercise-1"]
import numpy as np


def log_cp10k(counts): ...


answer_1 = log_cp10k

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def log_cp10k(counts):
#     totals = counts.sum(axis=1, keepdims=True)
#     return np.log1p(1e4 * counts / np.where(totals == 0, 1, totals))
#
#
# answer_1 = log_cp10k
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 2.1 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_1(answer):
    counts = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    got = answer(counts)
    assert got is not None, "return the matrix"
    assert np.isfinite(got).all(), "an empty cell must not be divided by zero"
    assert np.allclose(got[1], 0), "an empty cell stays at zero"
    assert np.allclose(got[0], np.log1p([2500, 7500, 0])), (
        "divide each cell by its own total, then log1p once"
    )


attempt("2.1", check_1, answer_1)

# %% [markdown]
# ### Exercise 2.2. Find the silent bug
#
# This function is meant to return z-scores whose scaler was fitted on training cells.
# It runs, its output has the right shape, and no test of shapes or of finite values will notice.
# Mend it.


# %% tags=["exercise-2"]
def standardise(x, train):
    """z-scores of all cells [n, G]; train is a boolean mask [n]."""
    mean = x[train].mean(axis=0)
    std = x.std(axis=0)
    return (x - mean) / std


answer_2 = standardise

# %% [markdown]
# <details><summary>Solution</summary>
#
# The mean is fitted on training cells and the deviation on all of them.
#
# ```python
# def standardise(x, train):
#     mean = x[train].mean(axis=0)
#     std = x[train].std(axis=0)
#     return (x - mean) / std
#
#
# answer_2 = standardise
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 2.2 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_2(answer):
    rng = np.random.default_rng(0)
    x, train = rng.normal(size=(50, 3)), np.arange(50) < 40
    changed = x.copy()
    changed[~train] *= 100
    before, after = answer(x, train), answer(changed, train)
    assert np.allclose(before[train], after[train]), (
        "changing test cells must not move the training z-scores"
    )
    assert np.allclose(before[train].std(axis=0), 1), "training cells have deviation 1"


attempt("2.2", check_2, answer_2)

# %% [markdown]
# ### Exercise 2.3. Who can be held out?
#
# In the split by perturbations only *single* perturbations whose target is measured can be held out.
# Write `reachable(labels, genes)`, which returns them as a sorted list; `control` is not a perturbation, and combinations are written `A+B`.


# %% tags=["exercise-3"]
def reachable(labels, genes): ...


answer_3 = reachable

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def reachable(labels, genes):
#     return sorted(label for label in set(labels) if label in set(genes) and label != "control")
#
#
# answer_3 = reachable
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 2.3 { display-mode: "form" }
from twinlib.page.record import attempt


def check_3(answer):
    got = answer(
        ["control", "B", "A", "A+B", "A", "unmeasured"], ["A", "B", "C", "control"]
    )
    assert got is not None, "return a list"
    assert "A+B" not in got, "combinations are not single perturbations"
    assert "C" not in got, "C was measured and never perturbed"
    assert list(got) == ["A", "B"], "each label once, sorted, without control"


attempt("2.3", check_3, answer_3)

# %% [markdown]
# ### Exercise 2.4. The price of choosing by the outcome
#
# Let controls and outcomes be independent noise, so that nothing can be predicted.
# Write `matched_error(x, y)`: for every outcome take the *nearest* control and return the mean squared difference over cells and genes.
# The check compares it with random partners, for which the expected value is 2.

# %% tags=["exercise-4"]
import numpy as np


def matched_error(x, y): ...


answer_4 = matched_error

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def matched_error(x, y):
#     squared = ((x[:, None] - y[None]) ** 2).mean(axis=-1)
#     return float(squared.min(axis=0).mean())
#
#
# answer_4 = matched_error
# ```
#
# The error is far below 2 although there is nothing to know: the partner was chosen with the answer.
#
# </details>

# %% tags=["check-4", "hide-input"]
# @title Check exercise 2.4 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_4(answer):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)), rng.normal(size=(100, 5))
    got = answer(x, y)
    assert got is not None, "return a number"
    expected = np.mean([((x - one) ** 2).mean(axis=1).min() for one in y])
    assert np.isclose(got, expected), (
        "nearest control of every outcome, mean over cells and genes"
    )
    assert got < 0.5 * ((x[:100] - y) ** 2).mean(), (
        "it must be far below the error of random partners"
    )


attempt("2.4", check_4, answer_4)

# %% [markdown]
# ## References
#
# - Papalexi et al. 2021, *Nature Genetics* 53:322, [10.1038/s41588-021-00778-2](https://doi.org/10.1038/s41588-021-00778-2): the CRISPR screen (GSE153056).
# - Krumsiek et al. 2011, *PLoS ONE* 6:e22649, [10.1371/journal.pone.0022649](https://doi.org/10.1371/journal.pone.0022649): the myeloid network behind the simulated cells.
# - Satija et al. 2015, *Nature Biotechnology* 33:495, [10.1038/nbt.3192](https://doi.org/10.1038/nbt.3192): the normalised dispersion.
# - Székely and Rizzo 2013, *Journal of Statistical Planning and Inference* 143:1249, [10.1016/j.jspi.2013.03.018](https://doi.org/10.1016/j.jspi.2013.03.018): the energy distance.
# - Benjamini and Hochberg 1995, *Journal of the Royal Statistical Society B* 57:289, [10.1111/j.2517-6161.1995.tb02031.x](https://doi.org/10.1111/j.2517-6161.1995.tb02031.x): the rate of false calls.
# - Kang et al. 2018, *Nature Biotechnology* 36:89, [10.1038/nbt.4042](https://doi.org/10.1038/nbt.4042): blood cells under interferon-beta.
# - Farmer, Apps and Tsang 2023, [HDStIM](https://github.com/niaid/HDStIM): the stimulated blood cells `chi11`.
# - Flamary et al. 2021, *JMLR* 22:78: POT, the transport solver.
# - Bunne et al. 2023, *Nature Methods* 20:1759, [10.1038/s41592-023-01969-x](https://doi.org/10.1038/s41592-023-01969-x): optimal transport between control and perturbed cells.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
