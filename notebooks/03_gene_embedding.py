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
# # 3. Gene embedding
#
# **Question.** A cell is a list of a hundred or two noisy numbers, one for each gene that [chapter 2](02_data_preparation.ipynb) kept, and most of their noise comes from counting few molecules.
# Both twins of this book work on a shorter list, the *latent cell*, made by a network in which genes listen to other genes (*graph attention*).
# What is the listening good for?
#
# **Answer.** For next to nothing: without neighbours the same network is not measurably worse, and when all neighbours count the same, or when attention was never trained, the difference is so small that only runs paired by their seed show it.
# None of these networks tells perturbed cells from controls measurably better than another, and principal components (PCA, the best linear code) tell them apart better than all of these networks.
# What the network brings back beyond PCA is little and belongs to its nonlinear part; the figure has every seed, and the sentence below it the numbers.

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
# @title The network with its parts taken away, over seeds { display-mode: "form" }
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from twinlib.data.sources import choose
from twinlib.page import plots, record
from twinlib.results.tables import read_table

plots.style()
dataset = choose("papalexi2021", "waddington")
RECORDED = "papalexi2021"  # so that the figure needs no cells
quality = read_table("embedding", RECORDED, "quality")
votes = [column for column in quality.columns if column.startswith("recovery_")]
quality["recovery"] = quality[votes].mean(axis=1)
order = ["learned", "uniform", "none", "random", "known", "pca", "expression"]
order = [model for model in order if model in set(quality["model"])]


def interval(values):
    """Mean and half-width of the 95 % t interval."""
    values = np.asarray(values, dtype=float)
    half = (
        stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        if len(values) > 1
        else np.nan
    )
    return values.mean(), half


MODELS = {
    "learned": ("attention", "insilico"), "uniform": ("equal ears", "additive"), "none": ("no neighbours", "control"),
    "random": ("untrained attention", "perturbed"), "known": ("true network", "TRPO"), "pca": ("PCA", "linear"),
    "expression": ("no code at all", "real"),
}  # fmt: skip
by_seed = quality.pivot(index="seed", columns="model", values=["test_r2", "recovery"])


def paired(column, model, other):
    """Mean and half-width of the difference of two models, paired by seed."""
    return interval((by_seed[column][model] - by_seed[column][other]).dropna())


def draw(ax, y, values, model):
    """The mean of a row with its interval, and below it the single seeds."""
    mean, half = interval(values)
    colour = plots.COLOURS[MODELS[model][1]]
    ax.errorbar(mean, y, xerr=half, fmt="o", color=colour, capsize=3)
    ax.plot(values, np.full(len(values), y + 0.22), "|", color=colour, markersize=7)


fig, axes = plt.subplots(2, 2, figsize=(9.5, 6), height_ratios=[5, 3])
titles = [
    ("test_r2", "share of the variation of\nunseen cells that comes back"),
    ("recovery", "share of cells rightly told\nperturbed or control"),
]
ABLATED = ["uniform", "none", "random"]
for (top, bottom), (column, title) in zip(axes.T, titles, strict=True):
    for y, model in enumerate(order):
        if model != "expression" or column != "test_r2":  # 1 by definition
            draw(top, y, quality.loc[quality["model"] == model, column], model)
    for y, model in enumerate(ABLATED):
        adds = by_seed[column]["learned"] - by_seed[column][model]
        draw(bottom, y, adds.dropna(), model)
    bottom.axvline(0, color=plots.COLOURS["insilico"], lw=1)
    for ax, rows in ((top, order), (bottom, ABLATED)):
        names = [MODELS[model][0] for model in rows]
        ax.set(yticks=range(len(rows)), yticklabels=names, xlabel=title)
        ax.set_ylim(len(rows) - 0.4, -0.5)
    bottom.set_xlabel("what attention adds to each, paired by seed")
    bottom.locator_params(axis="x", nbins=4)
for ax in axes[:, 1]:
    ax.tick_params(labelleft=False)
plots.show(
    fig,
    "ablations",
    "Dots with 95 % intervals, one row a model: the share of the variation of test cells that comes back on the "
    "left, the share of cells that their five nearest neighbours call rightly on the right. Above, the four networks lie "
    "on each other; PCA brings back less and tells slightly better. Below, the network with attention less each of three "
    "without it, paired by seed, with a line at zero. Small ticks below each dot are the single seeds.",
)
gain, half = paired("test_r2", "learned", "none")
keep, keep_half = paired("recovery", "learned", "none")
over_pca, pca_half = paired("test_r2", "learned", "pca")
told_pca, told_half = paired("recovery", "learned", "pca")
otherwise = "the answer above says otherwise"
for model in ["learned", *ABLATED]:
    assert sum(paired("recovery", model, "pca")) < 0, otherwise
    assert np.subtract(*paired("test_r2", model, "pca")) > 0, otherwise
record.glue("attention_gain_r2", round(gain, 4))
record.say(
    f"**On `{RECORDED}` attention adds {gain:+.4f} ± {half:.4f} to the share that comes back, against the same network without "
    f"neighbours, and {keep:+.4f} ± {keep_half:.4f} to the share of cells called rightly. Against PCA the network has "
    f"{over_pca:+.4f} ± {pca_half:.4f} of the first and {told_pca:+.4f} ± {told_half:.4f} of the second.** "
    f"(± is half a 95 % interval over {len(by_seed)} seeds.)"
)

# %% [markdown]
# *How to read it.*
# The share that comes back is $R^2$ on cells that no network saw: one less the error of code and back, over the variation of the cells.
# No code can bring back the noise of counting, so that the share is far below one for every model; PCA's row, the best linear code of the same length, is the measure.
# The share rightly told is a vote of the five nearest cells, one half by chance; both are defined below.
# In the lower panels a dot right of the line says that attention is worth something.
# The runs were made once by `python -m experiments embedding`.
#
# This chapter builds the network from four genes and a pencil, checks it against another library, trains it on cells, and comes back to this figure.
#
# ## Objectives
#
# After this chapter you can
#
# - compute graph attention by hand on four genes, and get the same numbers from two programs (20 minutes);
# - say why one graph for all cells allows a much cheaper program than one graph a cell (10 minutes);
# - train an encoder and a decoder, stop them in time, and judge them on cells that they never saw (15 minutes);
# - read an ablation: what is left of the gain when attention is uniform, absent or random (15 minutes);
# - say what attention weights and gene effects do not mean (15 minutes).

# %% tags=["hide-input"]
# @title Imports and the prepared cells { display-mode: "form" }
import pandas as pd
import seaborn as sns
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve

from twinlib.data.preparation import prepare
from twinlib.data.sources import load
from twinlib.errors import DataError
from twinlib.data.preparation import standard
from twinlib.data.sources import DATASETS
from twinlib.embedding.attention import Embedding, EmbeddingConfig
from twinlib.embedding.effects import gene_effects
from twinlib.embedding.gene_graph import knn_graph
from twinlib.embedding.perturbations import PerturbationTable
from twinlib.embedding.train import pretrained, train_embedding
from twinlib.embedding.attention import GraphAttention
from twinlib.embedding.gene_graph import correlation, edge_index
from twinlib.embedding.quality import (
    PrincipalComponents,
    attention_matrix,
    clamped,
    explained,
    neighbour_recovery,
    regulator_matrix,
)

prepared = standard(dataset)

# %% [markdown]
# ## The question, and the plain baseline
#
# We look for two functions: an *encoder* that turns the $G$ z-scores of a cell into $D$ numbers, and a *decoder* that turns them back,
#
# $$g: \mathbb{R}^G \to \mathbb{R}^D, \qquad h: \mathbb{R}^D \to \mathbb{R}^G, \qquad h(g(x)) \approx x.$$
#
# The genes are the panel of chapter 2: those that vary most within context and batch among the training cells, and the measured targets.
#
# Two things make such a pair good.
# Cells that were never seen should come back with little error.
# And the code should keep what a perturbation does, because whatever the encoder drops, no later chapter can find again.
#
# The plain baseline is principal component analysis, which is the best *linear* pair in squared error on the cells it was fitted to.
# We fit it on training cells and score it on test cells, by the share of the variation that comes back,
#
# $$R^2 = 1 - \frac{\sum_{ig} (x_{ig} - \hat x_{ig})^2}{\sum_{ig} (x_{ig} - \bar x_g)^2},$$
#
# with $\bar x_g$ the mean over *training* cells, so that this number, too, uses nothing of the test cells but the cells that are scored.

# %%
train_x, test_x, all_x = (clamped(prepared, part) for part in ("train", "test", None))
latent_dim = EmbeddingConfig().latent_dim
pca = PrincipalComponents(train_x, latent_dim)
centre = train_x.mean(axis=0)
pca_r2 = explained(test_x, pca.decode(pca.encode(test_x)), centre)
assert abs(explained(test_x, np.broadcast_to(centre, test_x.shape), centre)) < 1e-12

# %% tags=["hide-input"]
# @title What principal components bring back { display-mode: "form" }
record.say(
    f"`{dataset}`: {len(train_x):,} training and {len(test_x):,} test cells, G = {len(prepared.genes)} genes. "
    f"{latent_dim} principal components bring back {pca_r2:.1%} of the variation of test cells; the mean brings back nothing, as it must."
)
record.glue("pca_r2", round(pca_r2, 4))

# %% [markdown]
# A value far below one is no scandal.
# Counting noise is independent from gene to gene, so no short code can hold it, and a code that did hold it would have learned noise.
#
# The second score is a vote.
# For a perturbation with a known strong effect, we ask the five nearest training cells of each test cell whether it is perturbed or a control.
# The vote is taken among equally many of both, and the score is the mean of the two hit rates, so that guessing gives one half.

# %% tags=["hide-input"]
# @title The vote on PCA's codes { display-mode: "form" }
strong = DATASETS[dataset].strong
pca_codes = pca.encode(all_x)
baseline = {name: neighbour_recovery(pca_codes, prepared, name) for name in strong}
shuffled = pca_codes[np.random.default_rng(0).permutation(len(pca_codes))]
nothing = np.mean([neighbour_recovery(shuffled, prepared, name) for name in strong])
assert abs(nothing - 0.5) < 0.06
print(f"codes dealt out at random: {nothing:.3f}")
print("PCA:", ", ".join(f"{name} {value:.3f}" for name, value in baseline.items()))

# %% [markdown]
# ## A graph of genes
#
# Genes of one pathway rise and fall together, so the level of one says something about another.
# We write this down as a graph: the nodes are the genes of the panel, and each gene is linked to the $k$ genes whose expression correlates most with its own, positively or negatively, over the *training controls*.
# Perturbed cells are left out, so that the graph describes the cell's usual wiring, and test cells are left out, as always.

# %%
controls = prepared.scale(prepared.expression("train", "control"))
neighbours = knn_graph(controls, 8)
strength = correlation(torch.as_tensor(controls, dtype=torch.float64)).numpy()
assert (neighbours[:, 0] == torch.arange(len(neighbours))).all()
shown = [prepared.genes.index(name) for name in prepared.measured[:4]]
for i in shown:
    listed = [
        f"{prepared.genes[j]} {strength[i, j]:+.2f}"
        for j in neighbours[i, 1:5].tolist()
    ]
    print(f"{prepared.genes[i]:>8} listens to", ", ".join(listed), "...")

# %% [markdown]
# The table has one row a gene and the gene itself in its first column: a gene always hears its own level.
# The relation need not be mutual, because a gene can be among the nearest of another without returning the favour.

# %% [markdown]
# ## Attention by hand, on four genes
#
# Take the four genes just listed and let them be a graph of their own, each linked to the three others and to itself.
# Each gene $i$ carries a short vector $h_i$.
# One head of graph attention (GATv2) makes a new vector for each gene in four steps.
#
# **Step 1, project.** Every gene is seen in two roles, as a source that speaks and as a target that listens: $s_j = W_s h_j$ and $t_i = W_t h_i$.
#
# **Step 2, score.** How much should $i$ listen to $j$?
#
# $$e_{ij} = a \cdot \mathrm{LeakyReLU}(t_i + s_j), \qquad \mathrm{LeakyReLU}(u) = \max(u, 0.2\,u).$$
#
# **Step 3, compare.** A softmax over the neighbours of $i$ turns scores into weights that are positive and sum to one: $\alpha_{ij} = e^{e_{ij}} / \sum_{m} e^{e_{im}}$.
#
# **Step 4, mix.** The new vector is the weighted mean of what the sources say: $h_i' = \sum_j \alpha_{ij}\, s_j$.
#
# Here are the four steps in plain numbers, for one cell; nothing is hidden.

# %%
four = [prepared.genes[i] for i in shown]
# the z-score in one control, and one made-up property
h = np.c_[controls[0, shown], [1.0, -1.0, 0.5, 0.0]]
w_source = np.array([[0.8, 0.3], [-0.4, 0.9]])
w_target = np.array([[1.0, -2.0], [-1.5, 1.0]])
a = np.array([1.0, -1.5])

source, target = h @ w_source.T, h @ w_target.T  # step 1
score = np.empty((4, 4))
for i in range(4):  # step 2
    for j in range(4):
        u = target[i] + source[j]
        score[i, j] = a @ np.maximum(u, 0.2 * u)
alpha = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)  # step 3
by_hand = alpha @ source  # step 4
assert np.allclose(alpha.sum(axis=1), 1) and (alpha > 0).all()
pd.DataFrame(alpha, index=[f"{g} listens to" for g in four], columns=four).round(3)

# %% [markdown]
# Each row sums to one.
# The rows differ, so who is heard depends on who listens.
# That is the difference between GATv2 (Brody 2022) and the first graph attention (Veličković 2018), which puts the nonlinearity *outside* the product, $\mathrm{LeakyReLU}(a \cdot [t_i, s_j])$.
# There the score is a rising function of (something of $i$) + (something of $j$), so every listener ranks the speakers in the same order.
# The next cell shows it with the same numbers; GATv2 *may* rank alike, the first version *must*.

# %%
first_version = target @ a[:, None] + (source @ a)[None, :]
first_version = np.maximum(first_version, 0.2 * first_version)
order_1, order_2 = np.argsort(-first_version, axis=1), np.argsort(-score, axis=1)
assert (order_1 == order_1[0]).all(), "the first version ranks alike for all listeners"
for name, ranks in {"first version": order_1, "GATv2": order_2}.items():
    print(name, [" > ".join(four[j] for j in row) for row in ranks[:2]])

# %% [markdown]
# ### The same numbers from twinlib
#
# `GraphAttention` holds the same two matrices and the vector $a$, for several heads at once.
# We hand it our numbers and ask for the difference.
# Arrays are laid out as genes, channels, cells; here there is one cell.

# %%
table = torch.tensor([[i, *[j for j in range(4) if j != i]] for i in range(4)])
layer = GraphAttention(table, in_channels=2, heads=1, channels=2).double()
with torch.no_grad():
    layer.source.copy_(torch.as_tensor(w_source))
    layer.target.copy_(torch.as_tensor(w_target))
    layer.score.copy_(torch.as_tensor(a).reshape(1, 2))
    ours = layer(torch.as_tensor(h).unsqueeze(-1))[..., 0].numpy()
    weights = layer.weights(torch.as_tensor(h).unsqueeze(-1))[:, :, 0, 0].numpy()
assert np.abs(ours - by_hand).max() < 1e-12
assert np.abs(weights - np.take_along_axis(alpha, table.numpy(), axis=1)).max() < 1e-12
print(
    f"largest difference between pencil and twinlib: {np.abs(ours - by_hand).max():.1e}"
)

# %% [markdown]
# ### The same numbers from PyTorch Geometric
#
# PyTorch Geometric (PyG) is the library that most people use for graphs.
# `twinlib` does not depend on it; this page uses it as a second opinion where it is installed.

# %% tags=["hide-input"]
# @title PyTorch Geometric on the same numbers { display-mode: "form" }
try:
    from torch_geometric.nn import GATv2Conv
except ImportError:
    GATv2Conv = None
    print(
        "PyTorch Geometric is not installed here: `pip install torch_geometric` shows this comparison."
    )


def in_pyg(layer, edges, nodes):
    """The same layer in PyG; nodes [n, F] of one big graph with the given edges [2, E]."""
    conv = GATv2Conv(
        nodes.shape[1], layer.channels, heads=layer.heads, add_self_loops=False
    ).to(nodes.dtype)
    with torch.no_grad():
        conv.lin_l.weight.copy_(layer.source)
        conv.lin_l.bias.copy_(layer.source_bias)
        conv.lin_r.weight.copy_(layer.target)
        conv.lin_r.bias.copy_(layer.target_bias)
        conv.att.copy_(layer.score.unsqueeze(0))
        conv.bias.copy_(layer.bias)
        return conv(nodes, edges)


if GATv2Conv is not None:
    theirs = in_pyg(layer, edge_index(table), torch.as_tensor(h)).numpy()
    assert np.abs(theirs - by_hand).max() < 1e-6
    print(
        f"largest difference between pencil and PyG: {np.abs(theirs - by_hand).max():.1e}"
    )

# %% tags=["hide-input"]
# @title Draw who listens to whom { display-mode: "form" }
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
angle = np.linspace(np.pi / 2, 5 * np.pi / 2, 5)[:4]
xy = np.c_[np.cos(angle), np.sin(angle)]
for i in range(4):
    for j in range(4):
        if i != j:
            axes[0].annotate(
                "",
                xy[i] * 0.86 + 0.05 * (xy[j] - xy[i])[::-1] * [1, -1],
                xy[j] * 0.86 + 0.05 * (xy[j] - xy[i])[::-1] * [1, -1],
                arrowprops={
                    "arrowstyle": "-|>",
                    "lw": 0.5 + 5 * alpha[i, j],
                    "color": plots.COLOURS["control"],
                },
            )
for name, (x, y) in zip(four, xy, strict=True):
    axes[0].text(
        x * 1.1,
        y * 1.1,
        name,
        ha="center",
        va="center",
        color=plots.COLOURS["perturbed"],
    )
axes[0].set(xlim=(-1.6, 1.6), ylim=(-1.3, 1.3), title="Who listens to whom")
axes[0].axis("off")
sns.heatmap(
    pd.DataFrame(alpha, four, four),
    annot=True,
    fmt=".2f",
    cmap="Blues",
    vmin=0,
    cbar=False,
    ax=axes[1],
)
axes[1].set(title="The weights", xlabel="speaker", ylabel="listener")
plots.show(
    fig,
    "four-genes",
    "Left: four genes on a circle with arrows from speaker to listener, thicker where the attention weight is larger. "
    "Right: the four by four matrix of weights; each row sums to one and the rows differ.",
)

# %% [markdown]
# ## Many cells, one graph
#
# In most uses of graph networks every example has its own graph, so libraries join the examples into one big graph without links between them, a *disjoint union*.
# Here the graph is the same for all cells; only the numbers on its nodes differ.
# A union then copies the same edges once a cell, and must find the neighbours of each copy again.
#
# With one graph a neighbour is a *column of a table*: take the rows `source[table[:, k]]` for all cells at once, and nothing has to be looked up for the single cell.
# That is the whole difference, and it must not change a number.

# %% tags=["hide-input"]
# @title One table against a disjoint union { display-mode: "form" }
generator = torch.Generator().manual_seed(0)
wide = GraphAttention(
    neighbours, in_channels=5, heads=4, channels=8, generator=generator
)
n_genes, n_cells = len(neighbours), 12
nodes = torch.randn(n_cells, n_genes, 5, generator=generator)
with torch.no_grad():
    batched = wide(nodes.permute(1, 2, 0)).permute(2, 0, 1)
if GATv2Conv is not None:
    offsets = n_genes * torch.arange(n_cells).view(1, -1, 1)
    union = (edge_index(neighbours).unsqueeze(1) + offsets).reshape(2, -1)
    joined = in_pyg(wide, union, nodes.reshape(-1, 5)).reshape(batched.shape)
    gap = float((joined - batched).abs().max())
    assert gap < 1e-5
    print(
        f"{union.shape[1]:,} edges in the union, {len(neighbours)} x {neighbours.shape[1]} entries in our table"
    )
    print(f"largest difference: {gap:.1e}")

# %% [markdown]
# How much cheaper this is depends on the machine; `python benchmarks/attention.py` measures it on yours, beside a loop over nodes in plain Python.
# One more thing had to be written by hand.
# Automatic differentiation would keep an array of genes x neighbours x channels x cells for the way back, which does not fit a processor's cache, so `twinlib` computes the output and its derivative itself, one neighbour at a time, in loops that numba turns into machine code.
# The plain definition stays in the package: it is what a GPU runs, and what the loops are tested against.
# A hand-written derivative is a place for mistakes, so we compare it with a difference quotient.

# %% tags=["hide-input"]
# @title The hand-written derivative against a difference quotient { display-mode: "form" }
tiny = GraphAttention(table, 2, heads=2, channels=3, generator=generator).double()
point = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
direction = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
leaf = point.clone().requires_grad_(True)
(slope,) = torch.autograd.grad(tiny(leaf).square().sum(), leaf)
step = 1e-6
with torch.no_grad():
    up, down = (tiny(point + s * step * direction).square().sum() for s in (1, -1))
quotient = float((up - down) / (2 * step))
assert abs(quotient - float((slope * direction).sum())) < 1e-6 * abs(quotient)
print(
    f"derivative {float((slope * direction).sum()):.8f}, difference quotient {quotient:.8f}"
)

# %% [markdown]
# ## Encoder and decoder
#
# The encoder stacks these pieces.
# A gene's first vector holds the cell's z-score $x_i$ and a learned *gene vector* $v_i$ that says which gene this is, $h_i^{(0)} = x_i\,u + U v_i$.
# Two attention layers follow, each added to what was there before, $h^{(l+1)} = h^{(l)} + \mathrm{ELU}(\text{attention}(h^{(l)}))$, with four heads of eight channels.
# The read-out is one linear map from a few channels of every gene, and from the z-scores themselves, to the $D$ latent numbers.
#
# The decoder runs at every step of the environment of chapter 5, so it has to be cheap: one small network a cell, without a graph,
#
# $$h(z) = V z + B\,\mathrm{ReLU}(A z + a_0) + b,$$
#
# where the rows of $V$ are the gene vectors again.
# So a gene vector has two jobs: it names the gene to the encoder, and it says how the gene answers to the latent cell.
#
# Because $z$-scores reach the read-out directly and $V$ is linear, a PCA is inside the reach of this network.
# Training *starts* there, in a random rotation that gives all latent numbers about the same spread.
# Whatever the network gains over its start is then gained by its nonlinear part.

# %%
seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
start = Embedding(prepared.genes, neighbours, EmbeddingConfig(), seeded[0])
start.start_at_principal_components(torch.as_tensor(train_x), seeded[1])
with torch.no_grad():
    at_start = explained(test_x, start(torch.as_tensor(test_x)).numpy(), centre)
assert abs(at_start - pca_r2) < 1e-4
print(f"test R2 of PCA {pca_r2:.5f}, of the network before training {at_start:.5f}")

# %% [markdown]
# ## Training, shortened
#
# The loss is the squared error of z-scores.
# The validation cells, 15 % that are set aside in every fold, are scored after each pass, and the weights of the best pass are kept.
# On this page a few passes over a part of the cells must do; the packaged network, made by `python -m twinlib.embedding.train` followed by the name of the dataset, saw all training cells of the first fold.

# %%
part = prepare(load(dataset, n_cells=2500), DATASETS[dataset].panel)
short = EmbeddingConfig(epochs=5, batch_size=64, learning_rate=5e-3)
live, history = train_embedding(part, short, seed=0)

# %% tags=["hide-input"]
# @title Score the live and the packaged network { display-mode: "form" }
part_train, part_test = clamped(part, "train"), clamped(part, "test")
part_pca = PrincipalComponents(part_train, latent_dim)
part_centre = part_train.mean(axis=0)
with torch.no_grad():
    live_r2 = explained(
        part_test, live(torch.as_tensor(part_test)).numpy(), part_centre
    )
plain_r2 = explained(
    part_test, part_pca.decode(part_pca.encode(part_test)), part_centre
)
packaged = pretrained(dataset)
packaged.require(prepared)
with torch.no_grad():
    codes = packaged.encode(torch.as_tensor(all_x)).numpy()
    is_test = prepared.cells.obs["split"].to_numpy() == "test"
    back = packaged.decode(torch.as_tensor(codes[is_test])).numpy()
packaged_r2 = explained(test_x, back, centre)
record.glue("packaged_r2", round(packaged_r2, 4))
record.say(
    f"Test R2 on the part of the cells: PCA {plain_r2:.3f}, network after {len(history)} short passes {live_r2:.3f}. "
    f"On all cells: PCA {pca_r2:.3f}, packaged network {packaged_r2:.3f}."
)

# %% tags=["hide-input"]
# @title Draw the live run, and both codes gene by gene { display-mode: "form" }
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
for column, colour in (("train_mse", "control"), ("validation_mse", "perturbed")):
    axes[0].plot(
        history["epoch"],
        history[column],
        "o-",
        color=plots.COLOURS[colour],
        label=column[:-4],
    )
axes[0].set(
    xlabel="pass over the cells",
    ylabel="mean squared error, z-scores",
    title="The live run",
)
per_gene = {
    "PCA": 1
    - np.square(test_x - pca.decode(pca.encode(test_x))).sum(0)
    / np.square(test_x - centre).sum(0),
    "network": 1 - np.square(test_x - back).sum(0) / np.square(test_x - centre).sum(0),
}
axes[1].axline((0, 0), slope=1, color=plots.COLOURS["no_change"], linewidth=1)
axes[1].scatter(
    per_gene["PCA"],
    per_gene["network"],
    s=12,
    color=plots.COLOURS["insilico"],
    alpha=0.7,
)
axes[1].set(
    xlabel="PCA, R2 of a gene",
    ylabel="packaged network",
    title="Gene by gene, test cells",
)
plots.legend_outside(fig)
plots.show(
    fig,
    "training",
    "Left: training and validation error falling over the passes of the live run. Right: one dot a gene, the share of its "
    "test variation that PCA brings back against the packaged network; dots above the diagonal favour the network.",
)

# %% [markdown]
# ### Where the gain comes from
#
# One number went up, so we ask which genes carried it.
# For each gene we know the share of training cells that show it at all, and a gene seen in one cell of fifty is mostly counting noise: its z-scores are zero-ish almost everywhere and very large in a few cells.

# %% tags=["hide-input"]
# @title Which genes gain { display-mode: "form" }
seen = (prepared.expression("train") > 0).mean(axis=0)
common = seen >= 0.2
gain_of = per_gene["network"] - per_gene["PCA"]
top = np.argsort(-gain_of)[:6]
by_kind = pd.DataFrame(
    {
        name: {
            "genes seen in under 20 % of cells": values[~common].mean()
            if (~common).any()
            else np.nan,
            "genes seen in 20 % or more": values[common].mean(),
        }
        for name, values in per_gene.items()
    }
)
by_kind["genes"] = [int((~common).sum()), int(common.sum())]
gained = int((gain_of > 0).sum())
rare_wins = (
    by_kind["network"].iloc[0] - by_kind["PCA"].iloc[0]
    > by_kind["network"].iloc[1] - by_kind["PCA"].iloc[1]
)
record.say(
    f"The network brings back more than PCA for {gained} of {len(prepared.genes)} genes. The largest gains: "
    + ", ".join(f"{prepared.genes[i]} (seen in {seen[i]:.0%} of cells)" for i in top)
    + ". "
    + (
        "The gain sits in rare genes: a nonlinear code has found room to note which of them a cell happened to show. "
        "That is a better reconstruction and not a better description of the cell."
        if rare_wins
        else "The gain is not a matter of rare genes here."
    )
)
record.say(
    "R2 of "
    + "; of ".join(
        f"{kind} ({row['genes']:.0f}): PCA {row['PCA']:.3f}, network {row['network']:.3f}"
        for kind, row in by_kind.iterrows()
    )
    + "."
)

# %% [markdown]
# This is why a second and a third score are needed: one that asks about perturbations, and one that asks about mean changes.

# %% [markdown]
# ## Does the code keep the perturbations?
#
# Reconstruction rewards large variation, and perturbations may be small.
# So we let the same five neighbours vote in the new code.
# Beside it stands the question that the twins will ask: if the mean change of a perturbation goes through the code and back, is it still the same change?

# %%
recovered = {name: neighbour_recovery(codes, prepared, name) for name in strong}
frame = pd.DataFrame({"PCA": baseline, "packaged network": recovered})


def change_kept(decode, found, name):
    """Correlation over genes of a mean change, and of the same coded and decoded."""
    p, c = prepared.rows("test", name), prepared.rows("test", "control")
    true = all_x[p].mean(0) - all_x[c].mean(0)
    return np.corrcoef(true, decode(found[p]).mean(0) - decode(found[c]).mean(0))[0, 1]


def network_decode(z):
    with torch.no_grad():
        return packaged.decode(torch.as_tensor(z)).numpy()


frame["change kept, PCA"] = [
    change_kept(pca.decode, pca_codes, name) for name in strong
]
frame["change kept, network"] = [
    change_kept(network_decode, codes, name) for name in strong
]
frame.round(3)

# %% tags=["hide-input"]
# @title Both scores in words { display-mode: "form" }
change = (frame["packaged network"] - frame["PCA"]).mean()
record.say(
    f"Averaged over these perturbations the vote is right for {frame['PCA'].mean():.1%} with PCA and "
    f"{frame['packaged network'].mean():.1%} with the network, a difference of {change:+.1%}. "
    f"The mean change of a perturbation, sent through the code and back, correlates with itself at "
    f"{frame['change kept, PCA'].mean():.2f} (PCA) and {frame['change kept, network'].mean():.2f} (network). "
    + (
        "So the effect is in the code, and its nearest neighbours see it less well than those of PCA: "
        "distances in the code are spent on other things, too. "
        if change < -0.02
        else ""
    )
    + "One network is one draw: the next section repeats it over seeds before anything is concluded."
)

# %% [markdown]
# ## What is attention good for? Ablations
#
# That a network beats PCA proves nothing about *attention*: a nonlinear decoder might do the same.
# So the parts are taken away, one at a time, and the rest is trained again with the same cells, passes and start; this is the first figure.
#
# - **equal ears** (`uniform`): a gene listens to the same neighbours, to all of them equally.
# - **no neighbours** (`none`): a gene hears itself only; the graph is gone.
# - **untrained attention** (`random`): the attention layers keep their starting weights and only the rest is trained, which is the choice of the paper's released code.
# - **true network** (`known`, simulated cells only): the graph is the true network.
# - **PCA**, and **no code at all**, the z-scores themselves, as the two ends.
#
# Several seeds of each take longer than a page may, so `python -m experiments embedding --out DIR` ran them and stored every row; this page reads the rows.
# Seeds change the starting weights and the order of the cells, and not the split.
# These runs are shorter than that of the packaged network, on a draw of the training cells, and the same for all rows.

# %% tags=["hide-input"]
# @title How the runs were made, and every comparison paired by seed { display-mode: "form" }
trained = quality[quality["model"] == "learned"]
record.say(
    f"Each network: {trained['training_cells'].iloc[0]:,.0f} training cells, up to {trained['epochs'].max():.0f} passes, "
    f"{trained['seed'].nunique()} seeds. PCA was fitted to the same cells."
)
if read_table("embedding", RECORDED, "manifest")["fingerprint"] != prepared.fingerprint:
    record.say(
        "These recorded networks, and their PCA, know other cells or an earlier panel than the packaged network "
        "above: compare the rows with each other, not with the numbers above."
    )


def verdict(score, other, name):
    """One sentence about learned attention against an ablation, paired by seed."""
    mean, half = paired(score, "learned", other)
    if not np.isfinite(half):
        return f"{name}, against {other}: too few seeds."
    word = (
        "more"
        if mean - half > 0
        else "less"
        if mean + half < 0
        else "not measurably different"
    )
    return f"{name}, learned against {other}: {mean:+.4f} ± {half:.4f} ({word})."


for score, name in (("test_r2", "Test R2"), ("recovery", "5-NN recovery")):
    for other in ("uniform", "none", "random", "pca"):
        print(verdict(score, other, name))

# %% [markdown]
# Read the comparisons in this order.
# First *learned* against *none*: does hearing neighbours help at all?
# Then *learned* against *uniform*: does it matter *how much* a gene listens to each of them, or is their plain mean enough?
# Then *learned* against *random*: do the attention weights have to be trained?
# The seed of PCA changes only which controls vote, so its spread is that of the vote.
# With this few seeds the intervals show the order of magnitude and no more.
# A gain over PCA that is left when attention is gone belongs to the nonlinear read-out and decoder, and must not be told as a success of attention.

# %% [markdown]
# ## Does attention find the regulators?
#
# Attention weights are often shown as if they were a network of regulation.
# On simulated cells this can be checked, because the simulator knows which gene regulates which.
# We take all ordered pairs of the co-expression graph, score each by its learned weight (averaged over controls, heads and layers), and ask how well the score finds the true pairs.
# *Precision* is the share of true pairs among those above a threshold, *recall* the share of the true pairs that are found.
# Two references: *chance*, the share of true pairs among all pairs of the graph, and *plain correlation*, the number the graph was built from.

# %%
simulated = prepared if dataset == "waddington" else standard("waddington")
network = packaged if dataset == "waddington" else pretrained("waddington")
network.require(simulated)
quiet = np.clip(simulated.scale(simulated.expression("train", "control")), -10, 10)
truth = regulator_matrix(simulated)
heard = network.neighbours[:, 1:].numpy()
rows, speakers = np.repeat(np.arange(len(truth)), heard.shape[1]), heard.ravel()
is_true, chance = truth[rows, speakers], truth[rows, speakers].mean()
scores = {
    "attention": np.nan_to_num(attention_matrix(network, quiet[:512])[rows, speakers]),
    "correlation": np.nan_to_num(np.abs(np.corrcoef(quiet.T))[rows, speakers]),
}
precision = {name: average_precision_score(is_true, s) for name, s in scores.items()}

# %% tags=["hide-input"]
# @title Draw precision against recall { display-mode: "form" }
fig, ax = plt.subplots(figsize=(6.2, 4.2))
for name, colour in (("attention", "insilico"), ("correlation", "linear")):
    found, recall, _ = precision_recall_curve(is_true, scores[name])
    ax.plot(
        recall,
        found,
        color=plots.COLOURS[colour],
        label=f"{name} ({precision[name]:.2f})",
    )
ax.axhline(
    chance,
    color=plots.COLOURS["random"],
    linestyle="--",
    label=f"chance ({chance:.2f})",
)
ax.set(
    xlabel="recall",
    ylabel="precision",
    ylim=(0, 1.02),
    title="True regulators among the graph's pairs",
)
plots.legend_outside(fig, columns=3)
plots.show(
    fig,
    "regulators",
    "Precision against recall for finding true regulators among the pairs of the graph: one curve for learned attention, "
    "one for absolute correlation, a dashed line for chance; average precision stands in the legend.",
)


# %% tags=["hide-input"]
# @title Attention against chance and correlation, over seeds { display-mode: "form" }
def cell(values):
    mean, half = interval(values)
    return f"{mean:.4f} ± {half:.4f}"


seeds = read_table("embedding", "waddington", "regulators").pivot(
    index="seed", columns="score", values="average_precision"
)
versus = {
    other: interval(seeds["attention"] - seeds[other])
    for other in ("chance", "correlation")
}
record.say(
    f"Over {len(seeds)} seeds, the average precision of attention is {cell(seeds['attention'])}; "
    f"minus chance {versus['chance'][0]:+.3f} ± {versus['chance'][1]:.3f}, "
    f"minus correlation {versus['correlation'][0]:+.3f} ± {versus['correlation'][1]:.3f}. "
    + "Attention is "
    + " and ".join(
        (
            "better than "
            if mean - half > 0
            else "worse than "
            if mean + half < 0
            else "not told apart from "
        )
        + words
        for (mean, half), words in (
            (versus["chance"], "chance"),
            (versus["correlation"], "the correlation that chose the pairs"),
        )
    )
    + (
        "."
        if min(mean - half for mean, half in versus.values()) > 0
        else ": read a weight as what the network used for reconstruction, and not as regulation."
    )
)
record.glue("regulator_ap_attention", round(float(seeds["attention"].mean()), 3))

# %% [markdown]
# Nothing in the training asks for regulators.
# The loss asks for expression, and a gene's level is told just as well by a *sibling* that shares its regulator as by the regulator itself, often better, because the regulator's own messenger RNA is noisy.

# %% [markdown]
# ## Gene effects
#
# The environment of chapter 5 lets a policy push genes and watches the latent cell move.
# How far does $z$ move when gene $g$ is one standard deviation higher?
# To first order that is the encoder's derivative, averaged over controls,
#
# $$E_{g\cdot} = \frac1n \sum_{i=1}^{n} \frac{\partial\, g_\phi(x_i)}{\partial x_{ig}}.$$
#
# We check one row against a difference quotient.

# %%
some = torch.as_tensor(controls[:24])
effects = gene_effects(packaged, some)
gene = shown[0]
nudge = torch.zeros(len(prepared.genes))
nudge[gene] = 0.01
with torch.no_grad():
    up, down = (packaged.encode(some + sign * nudge) for sign in (1, -1))
error = float(
    ((up - down).mean(0) / 0.02 - effects[gene]).abs().max() / effects.abs().max()
)
assert effects.shape == (len(prepared.genes), latent_dim) and error < 1e-3
print(f"{prepared.genes[gene]}: largest deviation {error:.1e} of the largest effect")

# %% [markdown]
# $E$ answers 'what if this gene were *measured* one standard deviation higher, everything else as it is'.
# It does not answer 'what would its knock-down cause', because a knock-down changes the genes downstream, and $E$ holds them still.
# On simulated cells we can put both side by side: the direction $-E_g$, and the direction in which knock-down cells really lie.

# %% tags=["hide-input"]
# @title Gene effects against knock-down cells, on the simulated network { display-mode: "form" }
quiet_x = torch.as_tensor(quiet[:48])
simulated_effects = gene_effects(network, quiet_x).numpy()
with torch.no_grad():
    rest = network.encode(torch.as_tensor(quiet)).mean(0).numpy()
rows = []
for name in simulated.measured:
    cells = simulated.scale(simulated.expression("train", name))
    with torch.no_grad():
        shift = network.encode(torch.as_tensor(cells)).mean(0).numpy() - rest
    push = -simulated_effects[simulated.genes.index(name)]
    own = simulated.genes.index(name)
    pushes = {
        other: -simulated_effects[simulated.genes.index(other)]
        for other in simulated.measured
    }
    cosines = {
        k: shift @ p / (np.linalg.norm(shift) * np.linalg.norm(p))
        for k, p in pushes.items()
    }
    rows.append(
        {
            "knocked down": name,
            "cosine": cosines.pop(name),
            "cosine, another gene": np.median(list(cosines.values())),
            "change of target": abs(cells[:, own].mean() - quiet[:, own].mean()),
            "shift": np.linalg.norm(shift),
            "E": np.linalg.norm(push),
        }
    )
comparison = pd.DataFrame(rows).set_index("knocked down")
record.say(
    f"Between $-E_g$ and the true shift the cosine is {comparison['cosine'].median():.2f} in the median "
    f"(from {comparison['cosine'].min():.2f} to {comparison['cosine'].max():.2f}); "
    f"with the effect of another gene in its place it is {comparison['cosine, another gene'].median():.2f}. "
    f"Divided by the change of the target itself, so that both are per standard deviation, the true shifts are "
    f"{(comparison['shift'] / comparison['change of target'] / comparison['E']).median():.1f} times as long."
)
comparison.round(2)

# %% [markdown]
# ## A perturbation as numbers
#
# The other thing that later chapters take from here is a code for *labels*.
# A perturbation is written as its target's gene vector if the target is measured (zeros if not), a flag that says which, and a one-hot of the label; a combination is the sum of its parts, and a dose scales it.

# %%
perturbations = PerturbationTable(prepared, packaged)
one, two = prepared.measured[:2]
codes_of = perturbations.features([one, two, f"{one}+{two}", "control"])
assert (
    torch.allclose(codes_of[0] + codes_of[1], codes_of[2]) and (codes_of[3] == 0).all()
)
assert torch.allclose(perturbations.features([one], dose=[0.5])[0], 0.5 * codes_of[0])
try:
    perturbations.features(["NOSUCHGENE"])
except DataError as refusal:
    print(refusal)

# %% [markdown]
# The last line is on purpose.
# A label that no training cell carried and whose target is not measured has no code, and a silent row of zeros would be read as 'control' by everything downstream.

# %% [markdown]
# ## Limitations
#
# - The graph is made of correlations over controls. Pairs that only move together under a perturbation are not linked, and noisy genes get neighbours that mean little.
# - $R^2$ over all genes weighs every gene alike, and gives the same credit for technical variation (library size is in the data) as for biology.
# - The start at PCA makes short training possible. It also means that the linear part of the code is close to PCA in every ablation, so that the ablations compare what is added to it.
# - Seeds show the spread of starting weights and of the order of cells. They do not show the spread over splits or over experiments.
#
# ## What this does not show
#
# - That attention weights are regulation. The check on simulated cells says how far they are from it.
# - That a better code makes better predictions of unseen perturbations. Chapter 4 measures that, with baselines that use no network.
# - That the gain carries over to panels of thousands of genes. The panel here is small enough for every gene to have a read-out of its own.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>Two genes listen to the same neighbours. Under the first form of graph attention and under GATv2, may they rank these neighbours differently?</summary>
#
# Under GATv2 they may, because the nonlinearity stands inside the product.
# Under the first form they must rank them alike: the score is a rising function of a sum of a part of the listener and a part of the speaker.
#
# </details>
#
# <details><summary>The network's code is better than PCA. What has attention contributed?</summary>
#
# That comparison does not say: the decoder is nonlinear, too, and training starts at PCA.
# Hold the network against the same one without neighbours, with equal weights and with untrained attention, over seeds.
#
# </details>
#
# <details><summary>The row of E for a gene points along some latent direction. Will cells in which that gene is knocked out move the opposite way?</summary>
#
# Not necessarily: the row says where the encoder puts a cell in which this gene alone was measured higher.
# A knock-out changes the genes downstream as well, and E holds them still.
#
# </details>
#
# ## Key takeaways
#
# - Attention is four lines: project, score, softmax, mix. See [the four genes](#attention-by-hand-on-four-genes).
# - One shared graph turns neighbours into columns of a table, and the numbers stay those of PyG. See [Many cells, one graph](#many-cells-one-graph).
# - Compare a network with its own ablations and with PCA, over seeds, before you praise a part of it. See [the ablations](#what-is-attention-good-for-ablations).
# - A derivative of an encoder describes a measurement, and not an intervention. See [Gene effects](#gene-effects).

# %% [markdown]
# ## Exercises
#
# ### Exercise 3.1. Attention with missing neighbours
#
# Real networks give genes different numbers of neighbours, so short rows of the table are filled up and a mask says which entries are filling.
# Write `masked_weights(score, mask)`: score [G, k] and mask [G, k] (true = filling) in, weights [G, k] out; filling gets exactly zero, each row sums to one.

# %% tags=["exercise-1"]
import numpy as np


def masked_weights(score, mask): ...


answer_1 = masked_weights

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def masked_weights(score, mask):
#     shifted = np.where(mask, -np.inf, score)
#     weight = np.exp(shifted - shifted.max(axis=1, keepdims=True))
#     return weight / weight.sum(axis=1, keepdims=True)
#
#
# answer_1 = masked_weights
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 3.1 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_1(answer):
    score = np.array([[1.0, 2.0, 3.0], [0.0, 900.0, 5.0]])
    mask = np.array([[False, False, True], [False, False, True]])
    got = answer(score, mask)
    assert got is not None, "return the weights"
    assert np.isfinite(got).all(), (
        "subtract the largest score of the row before the exponential"
    )
    assert (got[mask] == 0).all(), "filling gets exactly zero"
    assert np.allclose(got.sum(axis=1), 1), (
        "each row sums to one over the real neighbours"
    )
    assert np.isclose(got[0, 1] / got[0, 0], np.e), (
        "weights of one row have the ratio of their exponentials"
    )


attempt("3.1", check_1, answer_1)

# %% [markdown]
# ### Exercise 3.2. Find the silent bug
#
# This attention layer for many cells runs, gives finite numbers of the right shape, and trains.
# Scores are laid out [cells, genes, neighbours].
# Mend it.

# %% tags=["exercise-2"]
import torch


def mix(score, message):
    """score [n, G, k], message [n, G, k, C] -> [n, G, C]."""
    weight = torch.softmax(score, dim=1)
    return (weight.unsqueeze(-1) * message).sum(dim=2)


answer_2 = mix

# %% [markdown]
# <details><summary>Solution</summary>
#
# The softmax runs over the genes and not over the neighbours of a gene, so the weights of a listener do not sum to one and genes compete with each other for being a listener.
#
# ```python
# import torch
#
#
# def mix(score, message):
#     weight = torch.softmax(score, dim=2)
#     return (weight.unsqueeze(-1) * message).sum(dim=2)
#
#
# answer_2 = mix
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 3.2 { display-mode: "form" }
import torch

from twinlib.page.record import attempt


def check_2(answer):
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(2, 5, 3, generator=generator)
    same = torch.ones(2, 5, 3, 4)
    got = answer(score, same)
    assert got.shape == (2, 5, 4), "the result is [n, G, C]"
    assert torch.allclose(got, torch.ones(2, 5, 4)), (
        "if all neighbours say 1, a weighted mean of them is 1"
    )
    message = torch.randn(2, 5, 3, 4, generator=generator)
    alone = answer(score[:, :1], message[:, :1])
    assert torch.allclose(answer(score, message)[:, :1], alone), (
        "a listener must not depend on other listeners"
    )


attempt("3.2", check_2, answer_2)

# %% [markdown]
# ### Exercise 3.3. A gene effect by differences
#
# Write `effect(encode, x, gene, step)`, which returns the mean over cells of the change of the code per unit of one gene, by a central difference.
# `encode` maps [n, G] to [n, D]; `x` is not to be changed.

# %% tags=["exercise-3"]
import numpy as np


def effect(encode, x, gene, step=1e-3): ...


answer_3 = effect

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def effect(encode, x, gene, step=1e-3):
#     nudge = np.zeros(x.shape[1])
#     nudge[gene] = step
#     return (encode(x + nudge) - encode(x - nudge)).mean(axis=0) / (2 * step)
#
#
# answer_3 = effect
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 3.3 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_3(answer):
    x = np.random.default_rng(0).normal(size=(6, 3))
    kept = x.copy()
    got = answer(lambda v: np.c_[v[:, 0] ** 2, v.sum(axis=1)], x, 0, 1e-3)
    assert got is not None, "return the effect, one number a latent dimension"
    assert np.array_equal(x, kept), "leave x as it was"
    assert np.shape(got) == (2,), "average over the cells"
    assert np.allclose(got, [2 * x[:, 0].mean(), 1], atol=1e-6), (
        "divide the central difference by twice the step"
    )


attempt("3.3", check_3, answer_3)

# %% [markdown]
# ## References
#
# - Brody, Alon and Yahav 2022, ICLR, [arXiv 2105.14491](https://arxiv.org/abs/2105.14491): GATv2, and why the first version ranks speakers alike.
# - Veličković et al. 2018, ICLR, [arXiv 1710.10903](https://arxiv.org/abs/1710.10903): graph attention.
# - Fey and Lenssen 2019, [arXiv 1903.02428](https://arxiv.org/abs/1903.02428): PyTorch Geometric.
# - Papalexi et al. 2021, *Nature Genetics* 53:322, [10.1038/s41588-021-00778-2](https://doi.org/10.1038/s41588-021-00778-2): the CRISPR screen.
# - Krumsiek et al. 2011, *PLoS ONE* 6:e22649, [10.1371/journal.pone.0022649](https://doi.org/10.1371/journal.pone.0022649): the network behind the simulated cells.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
