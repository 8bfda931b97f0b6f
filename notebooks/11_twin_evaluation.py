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
# # 11. The twin's verdict: how similar is similar?
#
# **Question.** Somebody shows you the trajectory that a twin gives a perturbed cell, and states its distance to the experiment.
# Is that near?
#
# **Answer.** A distance is near or far only beside those of rivals that are given less: the same twin asked for another perturbation, a straight line between two averages, and doing nothing.
# Beside all three the experimental twin is shown to be similar to the experiment on none of the datasets below: nowhere is it shown to be nearer than the straight line from the mean of the controls to the mean of the perturbed training cells, which needs no twin.

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
# @title Nearer than what? { display-mode: "form" }
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from twinlib.errors import ResultsError
from twinlib.page import plots, record
from twinlib.results import tables
from twinlib.results import trajectory_tables as paths_of

plots.style()
recorded = {}
for name in ("papalexi2021", "kang2018", "a549_dex", "waddington"):
    try:
        kinds = ("scores", "groups")
        recorded[name] = [
            tables.read_table("trajectories", name, kind) for kind in kinds
        ]
    except ResultsError as error:
        record.say(f"Not shown: {error}")
effects = {
    name: paths_of.units_with_effect(groups) for name, (_, groups) in recorded.items()
}
verdicts = {}
for name, (scores, _) in recorded.items():
    for clock in ("pseudotime", "measured"):
        judged = paths_of.verdict(scores, effects[name], clock)
        if judged is not None:
            verdicts[name, clock] = judged
WORDS = {
    "experimental_shuffled": "the twin with shuffled labels",
    "straight_line": "the straight line",
    "do_nothing": "doing nothing",
}

fig, axis = plt.subplots(figsize=(9.4, 4.6))
ticks = []
for row, ((name, clock), judged) in enumerate(verdicts.items()):
    ticks.append(f"{name},\n{clock} ({judged.margins['do_nothing'].units})")
    for k, (reference, words) in enumerate(WORDS.items()):
        margin, place = judged.margins[reference], row + 0.22 * (k - 1)
        colour = plots.COLOURS[reference]
        axis.plot([margin.low, margin.high], [place, place], color=colour, lw=2.2)
        axis.plot(
            margin.mean, place, "o", color=colour, label=words if not row else None
        )
axis.axvline(0, color="#2b3648", lw=1)
axis.set_xscale("symlog", linthresh=0.1)
axis.set_xlim(-2, 4)
axis.set_xticks([-1, 0, 1], ["-1", "0", "1"])
axis.set_yticks(range(len(ticks)), ticks)
axis.invert_yaxis()
axis.set_xlabel(
    "DTW by which the twin is nearer to the real cells than ...\n"
    "(logarithmic axis beyond 0.1 on either side, linear between)"
)
plots.legend_outside(fig, columns=3)
plots.show(
    fig,
    "nearer-than-what",
    "One row a dataset and clock: by how much the experimental twin is nearer to the "
    "real trajectory than the same twin with shuffled labels, than a straight line "
    "and than doing nothing, with 95 % intervals. Most margins on the straight line "
    "lie at zero or below.",
    "A twin is similar where all three margins lie above zero; in brackets the "
    "number of perturbations.",
)
similar = sum(str(judged).startswith("similar") for judged in verdicts.values())
line = sum("straight_line" in str(judged) for judged in verdicts.values())
nearer = sum(bool(v.margins["straight_line"].high < 0) for v in verdicts.values())
assert similar == 0 and line == len(verdicts), "the answer above says otherwise"
record.say(
    f"Similar by this rule: {similar} of {len(verdicts)}. The straight line is nearer "
    f"to the real cells than the twin with its whole interval on {nearer}, and not "
    f"told apart from it on {line - nearer}. The run: `python -m experiments "
    "trajectories --dataset DATASET --out DIR`."
)

# %% [markdown]
# *How to read it.*
# DTW is a distance of two trajectories that allows for another pace (derived below).
# A margin is the distance of something simple less the distance of the twin, paired over five folds and all perturbations with an effect.
# The first margin says that the twin knows *which* perturbation it is asked for; the last that it knows there *was* one; the middle one that it knows more than two averages.
# *Pseudotime* orders cells that were measured once; *measured* is a clock, which two of the datasets have.
#
# ## Objectives
#
# After this chapter you can
#
# - fill the table of Eq. 10 by hand, read the alignment from it, and say why two points leave nothing to align (20 minutes);
# - tell Eq. 12 from the Wasserstein distance, and name a trajectory that one of them cannot see (10 minutes);
# - turn held-out cells, which are measured once and destroyed, into a trajectory, and list what that costs (15 minutes);
# - judge a twin between real halves and do-nothing, with an interval, and a prediction between floor, null and ceiling (20 minutes);
# - set an alarm with a known rate of false alarms, and hold pseudotime against a clock (20 minutes);
# - find a bug that makes every twin look a little better (10 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import seaborn as sns
import torch

from twinlib.data import sources
from twinlib.data.pairing import pair
from twinlib.data.preparation import prepare
from twinlib.data.sources import choose
from twinlib.embedding.train import pretrained
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.prediction import rollout_cells
from twinlib.evaluation import similarity, trajectories
from twinlib.experimental.perturbation_model import (
    PerturbationModelConfig,
    fit_perturbation_model,
)
from twinlib.policy.training import TrainingConfig, train

torch.set_num_threads(1)
rng = np.random.default_rng(0)
dataset = choose("papalexi2021", "waddington")

# %% [markdown]
# ## What the paper prints
#
# The paper closes its digital twin with two numbers: a dynamic-time-warping distance (Eq. 10-11) and a distance it calls Wasserstein (Eq. 12) between a simulated and a measured trajectory.
# They have the units of the latent space, grow with the number of steps, and depend on how far the perturbation moves cells at all: a perturbation without effect is matched by a simulator that does nothing.
# Here are its Tables 3, 6 and 9 as printed, with one column more.

# %% tags=["hide-input"]
# @title The paper's six rows { display-mode: "form" }
printed = []
for number in (3, 6, 9):
    for _, row in tables.paper_table(number).iterrows():
        ratio = float(row["DTW"]) / float(row["Wasserstein"])
        printed.append((number, row["System"], row["DTW"], row["Wasserstein"], ratio))
printed = pd.DataFrame(
    printed, columns=["Table", "System", "DTW", "Wasserstein", "DTW / Wasserstein"]
)
assert (printed.iloc[:, 4] >= 2).all()
record.say(tables.markdown(printed.round(3)))

# %% [markdown]
# ## The plain baseline: two points
#
# The released code of the paper runs its environment for a single step, so each series in its Tables 3, 6 and 9 has two points, a start and an end.
# Eq. 10 and Eq. 11 define
#
# $$D[i, j] = |a_i - b_j| + \min\bigl(D[i-1, j],\; D[i, j-1],\; D[i-1, j-1]\bigr).$$
#
# For two points the diagonal path costs $|a_0 - b_0| + |a_1 - b_1|$.
# Every other path visits these two corners *and* one more cell of the table, whose cost is not negative, so the diagonal is always among the cheapest.
# Eq. 12 is the mean of the same two terms, hence
#
# $$\mathrm{DTW}(a, b) = 2\,\cdot\,\text{Eq. 12}(a, b) \quad\text{whenever the series have two points.}$$
#
# The next cell checks it on ten thousand random pairs.

# %%
a, b = rng.normal(size=(2, 10_000, 2))
gap = np.abs(
    similarity.dtw_distances(a, b) - 2 * similarity.mean_absolute_difference(a, b)
).max()
assert gap < 1e-12
print(
    f"largest difference between DTW and twice Eq. 12 over {len(a):,} pairs of two "
    f"points: {gap:.1e}"
)

# %% [markdown]
# At horizon 1 a column of DTW and a column of Eq. 12 would therefore be one column, printed twice.
# The printed numbers allow a check of what the second column holds.
# If it were Eq. 12, the ratio of the columns (the last one of the table above) would be exactly 2.
# The true Wasserstein-1 distance of two samples never exceeds Eq. 12 (pairing the sorted values is the cheapest pairing), so with the true distance the ratio would be 2 or more.
# All six ratios lie above 2, which fits the true Wasserstein distance and excludes Eq. 12.
# Chapter 12 reads the released code and finds the same: it calls a library's Wasserstein distance of two samples of size two.
# From here on the book gives each quantity its own name: **DTW** for Eq. 10-11, **Eq. 12** for the mean absolute difference, **W1** for the Wasserstein-1 distance of the values.
#
# ## Dynamic time warping, step by step
#
# With more than two points warping begins to matter.
# Take a series that rises late and one that rises early.
# Filled by hand, row by row, the table of Eq. 10 is as follows; each cell is its own cost plus the cheapest of its three predecessors.

# %%
late, early = np.array([0.0, 0.0, 1.0, 3.0]), np.array([0.0, 1.0, 3.0, 3.0])
table = np.full((5, 5), np.inf)
table[0, 0] = 0.0
for i in range(1, 5):
    for j in range(1, 5):
        cost = abs(late[i - 1] - early[j - 1])  # Eq. 11
        table[i, j] = cost + min(
            table[i - 1, j], table[i, j - 1], table[i - 1, j - 1]
        )  # Eq. 10
distance, path = similarity.dtw(late, early)
assert distance == table[-1, -1] == 0.0
assert np.array_equal(table[1:, 1:], similarity.dtw_matrix(late, early))
print(pd.DataFrame(table[1:, 1:], index=late, columns=early))
print("alignment:", [tuple(int(v) for v in step) for step in path])
print(
    f"DTW {distance:.1f}, Eq. 12 "
    f"{float(similarity.mean_absolute_difference(late, early)):.2f}"
)

# %% [markdown]
# DTW is zero: the same values in the same order, only at another pace.
# Eq. 12 is not, because it compares step with step.
# Which of the two you want depends on whether the pace is part of the claim.
#
# The package fills one anti-diagonal of the table at a time, for all pairs of series at once.
# An independent C library gives the same figures; note its argument, without which it would return the square root of summed squares.

# %% tags=["hide-input"]
# @title Ours beside an independent C library { display-mode: "form" }
from dtaidistance import dtw as c_library

a, b = rng.normal(size=(2, 60, 16)).cumsum(axis=-1)
ours = similarity.dtw_distances(a, b)
theirs = [
    c_library.distance(x, y, inner_dist="euclidean", use_c=True)
    for x, y in zip(a, b, strict=True)
]
assert np.abs(ours - theirs).max() < 1e-12
print(
    f"largest difference to dtaidistance over {len(a)} pairs: "
    f"{np.abs(ours - theirs).max():.1e}"
)

# %% [markdown]
# ## Three distances and a reversed ramp
#
# A ramp and its mirror image in time hold the same values.
# W1 forgets time, so it sees no difference at all; DTW and Eq. 12 do.

# %%
ramp = np.arange(16) / 15
found = {name: float(d(ramp, ramp[::-1])) for name, d in trajectories.DISTANCES.items()}
assert (
    found["w1"] < 1e-12
    and found["dtw"] > 1
    and abs(found["mean_absolute_difference"] - 0.533) < 1e-3
)
print({name: round(value, 3) for name, value in found.items()})

# %% [markdown]
# This is why a reversed trajectory stands among the references below, and why W1 alone must never be the verdict on a *trajectory*.
#
# ## A trajectory out of cells that were measured once
#
# A sequenced cell is destroyed: no cell has a trajectory.
# What can be had is an order of many cells.
# We take held-out controls and held-out cells of one perturbation, encode them with the encoder that saw training cells only, compute diffusion pseudotime from the medoid of the controls (the cell with the least summed distance to all others; the pseudotime of a cell is how far a random walk over neighbouring cells lies from it), cut the order into $H + 1 = 16$ bins of equal count, and average each bin.
# The chapter works with the perturbation whose training cells move furthest from the controls, because a comparison that fails there will fail everywhere.

# %% tags=["hide-input"]
# @title Held-out cells of one perturbation { display-mode: "form" }
whole, panel_size = sources.load(dataset), sources.dataset(dataset).panel
prepared, embedding = prepare(whole, panel_size), pretrained(dataset)
controls = prepared.expression("test", "control")
train_control = trajectories.encode(
    prepared, embedding, prepared.expression("train", "control")
).mean(0)
train_means = {
    p: trajectories.encode(prepared, embedding, prepared.expression("train", p)).mean(0)
    for p in prepared.train_perturbations
    if len(prepared.expression("test", p)) >= 10
}
moved = {p: float(np.linalg.norm(m - train_control)) for p, m in train_means.items()}
perturbation = max(moved, key=moved.get)
cells = trajectories.real_cells(prepared, embedding, perturbation)
real = cells.trajectory
record.say(
    f"On **{dataset}** the perturbation that moves its training cells furthest is "
    f"**{perturbation}** (latent shift {moved[perturbation]:.2f}; the median over "
    f"{len(moved)} perturbations is {np.median(list(moved.values())):.2f}). Held out "
    f"are {int((~cells.perturbed).sum())} controls and {int(cells.perturbed.sum())} "
    "perturbed cells."
)

# %% tags=["hide-input"]
# @title Draw the real trajectory { display-mode: "form" }
centre = cells.latent.mean(0)
axes = np.linalg.svd(cells.latent - centre, full_matrices=False)[2][:2]
flat, line = (cells.latent - centre) @ axes.T, (real - centre) @ axes.T
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
for kind, name in ((False, "control"), (True, "perturbed")):
    rows = cells.perturbed == kind
    left.scatter(*flat[rows].T, s=8, alpha=0.5, color=plots.COLOURS[name], label=name)
left.plot(*line.T, "-o", ms=4, color=plots.COLOURS["real"], label="mean of each bin")
left.set(xlabel="first principal axis of the latent cells", ylabel="second")
left.legend()
share = trajectories.binned(cells.perturbed[:, None].astype(float), cells.time)[:, 0]
right.bar(np.arange(16), share, color=plots.COLOURS["perturbed"])
right.axhline(
    cells.perturbed.mean(),
    color=plots.COLOURS["control"],
    ls="--",
    label="share among all cells",
)
right.set(xlabel="pseudotime bin", ylabel="share of perturbed cells")
right.legend()
plots.show(
    fig,
    "real-trajectory",
    "Left: held-out cells in the two main latent axes with the path of the sixteen "
    "bin means drawn through them. Right: share of perturbed cells in each "
    "pseudotime bin beside their share among all cells.",
)
corr = np.corrcoef(np.arange(16), share)[0, 1]
record.say(
    "If pseudotime ordered cells by the perturbation, the bars would stay at 0 and "
    f"jump to 1 in the last bins. The correlation of bin and share is {corr:.2f}, "
    f"and the last bin holds {share[-1]:.0%} perturbed cells against "
    f"{cells.perturbed.mean():.0%} overall."
)

# %% [markdown]
# The right panel is the first honest limit of the method.
# Pseudotime orders cells by distance from the middle of the controls, along whatever varies most; cell cycle and quality vary, too.
# The perturbation is one direction among several, so the 'real trajectory' mixes its effect with others.
# Nothing in Eq. 10-12 can repair that, and therefore the references below are computed from the same bins and suffer from the same mixture.
#
# ## The references
#
# - **real halves**: two random halves of the same cells, binned separately. Each half is noisier than the whole, so a smooth path can come nearer than this: it is a yardstick of noise and not a bound.
# - **do-nothing**: stays at the mean control. This is the distance that needs no model.
# - **straight line**: from the mean control to the mean of the *training* cells of this perturbation in equal steps. It needs no simulator, only an average.
# - **reversed**: the real trajectory run backwards.
#
# ## The two twins
#
# The experimental twin is the supervised model of chapter 4, without its cell network, which moves single cells and not the mean; its path is the latent path along the dose $h/H$.
# The in-silico twin is a policy trained in the environment of chapter 5 with the two-stage algorithm of chapter 10, here for few steps so that the page runs in a minute; the recorded runs of full length follow below.
# For each, the path is the mean over all held-out controls, with the mean action, process noise off and the kick at reset off.

# %%
pairs = pair(prepared)
model = fit_perturbation_model(
    prepared, embedding, config=PerturbationModelConfig(cell_network=False)
)
world = make_world(prepared, embedding, pairs=pairs, n_pairs=1000)  # for speed
config = EnvironmentConfig()
settings = TrainingConfig(
    algorithm="two_stage", timesteps=12_288, warm_start_steps=4_096
)
policy = train(
    Dynamics(world, config, replicas=1, n_cells=64), settings, seeds=[0]
).policy
labels = [perturbation] * len(controls)
experimental = model.trajectory(controls, labels, 15).mean(axis=0)
insilico = rollout_cells(policy, world, config, controls, labels)[0].mean(dim=0).numpy()
assert np.allclose(experimental[0], cells.start, atol=1e-3) and np.allclose(
    insilico[0], cells.start, atol=1e-3
)
print("both twins start at the mean control; paths have shape", experimental.shape)

# %%
paths = {
    "do_nothing": trajectories.do_nothing(cells.start),
    "straight_line": trajectories.straight_line(cells.start, train_means[perturbation]),
    "reversed": trajectories.reversed_time(real),
    "experimental": experimental,
    "insilico": insilico,
}
halves = [trajectories.halves(cells, rng) for _ in range(50)]

# %% tags=["hide-input"]
# @title The table of distances { display-mode: "form" }
rows = {}
for name in trajectories.DISTANCES:
    rows[name] = {
        k: trajectories.trajectory_distance(p, real, name) for k, p in paths.items()
    }
    rows[name]["real halves"] = np.mean(
        [trajectories.trajectory_distance(*h, name) for h in halves]
    )
comparison = pd.DataFrame(rows).sort_values("dtw")
comparison.columns = ["DTW", "Eq. 12", "W1"]
assert abs(comparison.loc["reversed", "W1"]) < 1e-9
stick = trajectories.yardstick(cells, rng)
scores = {k: stick.score(p) for k, p in paths.items()}
comparison = comparison.round(3).reset_index(names="trajectory")
comparison["twin score, DTW [95 % interval]"] = [
    str(scores.get(name, "")) for name in comparison["trajectory"]
]
record.say(tables.markdown(comparison))
comparison = comparison.set_index("trajectory")
for column in ("DTW", "Eq. 12"):
    still, noise = (
        comparison.loc["do_nothing", column],
        comparison.loc["real halves", column],
    )
    record.say(
        f"By {column}, do-nothing is {'nearer' if still < noise else 'farther'} than "
        "two halves are from each other"
        + (
            ", so that distance cannot tell a good twin from none on these cells."
            if still < noise
            else "."
        )
    )
lengths = {
    k: np.linalg.norm(p[-1] - p[0])
    / np.linalg.norm(train_means[perturbation] - cells.start)
    for k, p in paths.items()
}
record.say(
    "From first to last step the in-silico twin of this page moves the mean cell by "
    f"{lengths['insilico']:.0%} of the distance from the mean control to the "
    "training mean of the perturbation, and the experimental twin by "
    f"{lengths['experimental']:.0%}."
)

# %% [markdown]
# Read the table by columns and from the top.
# A twin that is nearer than do-nothing knows something, where two halves are nearer than do-nothing, too; a twin below the straight line knows more than an average.
# The reversed trajectory has a W1 of zero, as promised, which disqualifies W1 as the only judge.
# The last column is the twin score, which a later section derives.
#
# ## Which dimensions carry the distance
#
# The paper's Figures 4 to 6 show a heat map of the warping distance per latent dimension.
# A single map of one twin has no scale; here the real halves and do-nothing stand beside both twins.
# Dark is far from the real cells.

# %% tags=["hide-input"]
# @title Draw the distance of each dimension { display-mode: "form" }
order = np.argsort(-trajectories.per_dimension(paths["do_nothing"], real))
maps = {
    "real halves": np.mean([trajectories.per_dimension(*h) for h in halves], axis=0)
}
maps |= {
    k: trajectories.per_dimension(paths[k], real)
    for k in ("experimental", "insilico", "straight_line", "do_nothing")
}
fig, ax = plt.subplots(figsize=(10, 2.8))
sns.heatmap(
    pd.DataFrame(maps).T.iloc[:, order],
    ax=ax,
    cmap="viridis_r",
    cbar_kws={"label": "DTW"},
    xticklabels=order,
)
ax.set(xlabel="latent dimension, furthest moved first", ylabel="")
ax.tick_params(axis="x", labelsize=8)
plots.show(
    fig,
    "dtw-per-dimension",
    "Heat map of the DTW distance to the real trajectory: one column a latent "
    "dimension, one row each for the two real halves, the experimental twin, the "
    "in-silico twin, the straight line and do-nothing.",
)

# %% [markdown]
# ## The alignment itself
#
# Eq. 10 not only scores, it aligns.
# The figure draws the two series of the dimension that moves most, with a grey thread for each pair on the cheapest path.
# Threads that stand upright mean that the twin keeps the pace of the experiment; fans mean that one step of one series answers many of the other.
# Upright threads beside a flat line say nothing about pace: where a twin stands still, every alignment costs much the same.
# The real path begins with the cells nearest to the medoid and both twins begin at the mean control, so that even a perfect twin pays for the first step.

# %% tags=["hide-input"]
# @title Draw the alignment { display-mode: "form" }
dimension = int(order[0])
fig, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, name in zip(panels, ("experimental", "insilico"), strict=True):
    twin, truth = paths[name][:, dimension], real[:, dimension]
    d, path = similarity.dtw(twin, truth)
    for i, j in path:
        ax.plot([i, j], [twin[i], truth[j]], color="#d1d5db", lw=0.8, zorder=0)
    ax.plot(truth, "-o", ms=4, color=plots.COLOURS["real"], label="real cells")
    ax.plot(twin, "-o", ms=4, color=plots.COLOURS[name], label=f"{name} twin")
    ax.set(xlabel="step", title=f"dimension {dimension}, DTW {d:.2f}")
    ax.legend()
panels[0].set_ylabel("latent value")
plots.show(
    fig,
    "dtw-alignment",
    "Two panels, one a twin: the latent dimension that moves most over sixteen "
    "steps, the real trajectory and the twin's, with grey threads joining the steps "
    "that dynamic time warping aligns.",
)

# %% [markdown]
# ## The twin score
#
# One number that has a scale is
#
# $$\text{score} = \frac{d(\text{do-nothing}) - d(\text{twin})}{d(\text{do-nothing}) - d(\text{real halves})},$$
#
# 0 for doing nothing and 1 for being as near as half of the experiment is to its other half.
# Each bootstrap round draws the real cells anew, and two fresh halves.
# A redrawn trajectory is noisier than the real one, because some cells are drawn twice and others not at all, so every bootstrapped distance is a little too large.
# Each distance is therefore moved back by its mean excess: the draws give the width of the interval, the real cells its place.
# When the interval of the denominator holds zero, the cells cannot resolve the perturbation, and the score is withheld.
# The last column of the table above holds it for each path.

# %% tags=["hide-input"]
# @title Say what the score says { display-mode: "form" }
assert abs(scores["do_nothing"].score) < 1e-12
assert all(s.low <= s.score <= s.high for s in scores.values() if s.resolvable)
best = max(("experimental", "insilico"), key=lambda k: scores[k].score)
beats = scores[best].distance < scores["straight_line"].distance
above = scores[best].resolvable and scores[best].low > 0
record.say(
    f"On **{dataset}**, {perturbation}: the better twin is the {best} one "
    f"({scores[best]}); the straight line has {scores['straight_line']}. Its "
    "interval "
    + ("lies above 0" if above else "does not lie above 0")
    + ", and it "
    + ("is" if beats else "is not")
    + " nearer than the straight line: by both tests together it "
    + ("**has**" if above and beats else "has **no**")
    + " skill on this trajectory."
)

# %% [markdown]
# ## Floor, ceiling and null in one picture
#
# The same three marks belong beside every score of a prediction, not only beside a distance of trajectories.
# Take the correlation of predicted and observed change over the genes of the panel (the book's primary metric, chapter 4), on five disjoint test folds.
#
# - The **floor** is doing nothing: no change is predicted, and the score is 0 by definition.
# - The **null** is the same prediction held against controls that are called perturbed. Whatever it scores is a fault of the metric or chance.
# - The **ceiling** is what a perfect predictor without noise would score against cells that are few. It comes from halves of the test cells that share nothing, neither perturbed cells nor controls, and whose two changes correlate by $r$.
#
# Truth and prediction subtract the same test controls, and a prediction that does not carry its control along one to one would agree with the truth by the error of their mean alone; the judge takes the expected product of the two errors off (chapter 4).
#
# Three ceilings are in use and differ: cell-eval2 takes $r$ itself (another experiment of half the size), cell-eval $2r/(1+r)$ (another experiment of full size, by Spearman and Brown), and this book $\sqrt{2r/(1+r)}$ (a predictor without noise).
# The predictor of this picture has learned nothing: it is the perturbation's own mean change in the training cells.

# %%
from twinlib.evaluation import calibration
from twinlib.evaluation.metrics import pearson


def changes_of_fold(prepared, rng):
    """Yield perturbation, half correlation, own score, and score of sham labels."""
    obs, x = prepared.cells.obs, np.asarray(prepared.cells.X)
    label, part, context = (
        obs[c].astype(str).to_numpy() for c in ("perturbation", "split", "cell_context")
    )
    for name in prepared.perturbations:
        arms = {}
        for which in ("train", "test"):
            use = np.flatnonzero(
                (part == which) & ((label == name) | (label == "control"))
            )
            called = label[use] == name
            arms[which] = calibration.arms(x[use], called, ~called, context[use])
        if None in arms.values():  # a group that is too small leaves
            continue
        own, observed = (
            calibration.observed_change(arms[which]) for which in ("train", "test")
        )
        controls = np.flatnonzero((part == "test") & (label == "control"))
        called = rng.permutation(len(controls)) < min(called.sum(), len(controls) // 2)
        sham = calibration.arms(x[controls], called, ~called, context[controls])
        half = calibration.half_correlation(arms["test"], rng, halvings=20)
        yield (
            name,
            half,
            pearson(own, observed),
            pearson(own, calibration.observed_change(sham)),
        )


lines = []
for fold in range(1, 6):
    cut = prepared if fold == 1 else prepare(whole, panel_size, fold=fold)
    lines += [(name, fold, *values) for name, *values in changes_of_fold(cut, rng)]
marks = pd.DataFrame(
    lines, columns=["perturbation", "fold", "half", "training change", "null"]
)
tops = {
    name: calibration.ceiling(rows["half"])
    for name, rows in marks.groupby("perturbation")
}
tops = {name: top for name, top in tops.items() if np.isfinite(top.value)}

# %% tags=["hide-input"]
# @title Draw floor, ceiling and null { display-mode: "form" }
ordered = sorted(tops, key=lambda name: (tops[name].value, tops[name].replicate))
means = marks.groupby("perturbation")[["training change", "null"]].mean().loc[ordered]
fig, ax = plt.subplots(figsize=(10, 4.4))
places = np.arange(len(ordered))
spread = 2 * marks["null"].std()
ax.axhspan(
    -spread,
    spread,
    color=plots.COLOURS["random"],
    alpha=0.25,
    lw=0,
    label="null: 2 sd of a fold",
)
ax.axhline(0, color=plots.COLOURS["do_nothing"], ls="--", label="floor: do-nothing")
for label, colour, marker, values in (
    ("ceiling, this book", "ceiling", "_", [tops[name].value for name in ordered]),
    (
        "2r/(1+r), cell-eval",
        "real_halves",
        "^",
        [tops[name].duplicate for name in ordered],
    ),
    ("r, cell-eval2", "real", "v", [tops[name].replicate for name in ordered]),
    ("own training change", "matching_mean", "o", means["training change"]),
    ("null: sham labels", "random", "x", means["null"]),
):
    ax.scatter(
        places, values, s=44, color=plots.COLOURS[colour], marker=marker, label=label
    )
ax.set_xticks(places, ordered, rotation=90, fontsize=8 if len(ordered) < 40 else 5)
ax.set_ylabel("correlation of changes")
ax.legend(fontsize=8, ncols=2)
plots.show(
    fig,
    "floor-ceiling-null",
    "One column a perturbation in rising order of its ceiling: the correlation of "
    "the training change with the test change, the three ceilings made from halves "
    "of the test cells, the scores of sham labels, and the floor at zero.",
)

# %% tags=["hide-input"]
# @title Say where ceiling and null lie { display-mode: "form" }
told = [name for name in ordered if tops[name].resolvable]
three = {"r": "replicate", "2r/(1+r)": "duplicate", "sqrt(2r/(1+r))": "value"}
mean_tops = {
    label: np.mean([getattr(tops[name], field) for name in told])
    for label, field in three.items()
}
own_scores = (
    marks[marks["perturbation"].isin(told)]
    .groupby("perturbation")["training change"]
    .mean()
)
floor_null = calibration.estimate(
    marks.pivot(index="fold", columns="perturbation", values="null").dropna(axis=1)
)
record.say(
    f"The halves of {len(told)} of {len(ordered)} perturbations agree in all folds "
    "together (the interval of r leaves out 0). Their mean ceilings are "
    + ", ".join(f"{value:.2f} ({label})" for label, value in mean_tops.items())
    + f"; their own training change scores {own_scores.mean():.2f}. Sham labels "
    f"score {floor_null.mean:.3f} [{floor_null.low:.3f}, {floor_null.high:.3f}] on "
    "average, "
    + (
        "as a null must."
        if floor_null.low <= 0 <= floor_null.high
        else "which is not 0: look for a shared cell."
    )
)
beyond = calibration.estimate(
    np.stack(
        [
            marks[marks["perturbation"] == n]["training change"] - tops[n].value
            for n in told
        ],
        axis=1,
    )
)
record.say(
    "Single perturbations may lie above their ceiling by chance. Together the "
    f"training change lies {beyond.mean:+.3f} [{beyond.low:+.3f}, "
    f"{beyond.high:+.3f}] from it: "
    + (
        "a fault, since nothing may score above a perfect predictor."
        if beyond.low > 0
        else "no fault."
    )
)

# %% [markdown]
# Look at the left end of the picture.
# Where the ceiling itself lies in the null, the cells cannot tell a good predictor from none, and an average over all perturbations mostly counts how many of those there are.
# So the tables of this book average over the perturbations with an effect, and print the others apart.
#
# ## What the twin is for: a failed experiment
#
# The paper names one use of the comparison (its Section 2): to tell whether an experiment was done properly.
# That can be tested.
# Spoil the experiment on purpose, by putting controls in the place of a share of the perturbed cells, as when a guide does not cut, and ask how often the twin notices.
# An alarm has a threshold, and the threshold has to come from cells that neither the twin nor the judged experiment has seen: here the validation cells of the same perturbation.
# Both experiments are finite, so the threshold allows for the noise of both, and is meant to flag one in twenty sound experiments; how many it does flag is printed below.
# Two measures of agreement compete: what the trajectory's DTW gains on doing nothing (the numerator of the twin score), and the share of the twin's predicted shift that the perturbed cells show, which uses no pseudotime at all.

# %% tags=["hide-input"]
# @title The alarm on one perturbation { display-mode: "form" }
from twinlib.evaluation import alarm

sound = trajectories.real_cells(prepared, embedding, perturbation, split="validation")
rates = {
    name: alarm.alarm_rates(experimental, sound, cells, rng, agreement, rounds=rounds)
    for name, agreement, rounds in (
        ("share of the shift", alarm.realised, 50),
        ("DTW gain", alarm.gain, 20),
    )
}
for name, rows in rates.items():
    flagged = rows.set_index("share")["flagged"]
    record.say(
        f"{perturbation}, {name}: flagged are {flagged[0.0]:.0%} of draws of the "
        f"sound experiment, {flagged[0.5]:.0%} with half of the perturbed cells "
        f"replaced and {flagged[1.0]:.0%} with all of them. A sound experiment "
        f"agrees by {rows['agreement'].iloc[0]:.2f}, a failed one by "
        f"{rows['agreement'].iloc[-1]:.2f}; the threshold is "
        f"{rows['threshold'].iloc[0]:.2f}."
    )

# %% [markdown]
# This is one perturbation, the one that moves furthest.
# The command `python -m experiments trajectories` asks the same of every perturbation on five folds of four datasets, in the space of the principal components of each fold's training cells.
# Beside the twin stands the straight line, which is the mean change of the training cells; and the whole alarm runs once more on **sham labels**: sets of controls that are called perturbed in training, validation and test cells alike.
# There a failed experiment and a sound one are the same thing, so that every flag is a false alarm.

# %% tags=["hide-input"]
# @title Draw the alarm on every perturbation { display-mode: "form" }
alarms = (
    ("twin, shift", "shift", "experimental"),
    ("straight line, shift", "shift", "straight_line"),
)
alarms += (("twin, DTW gain", "dtw_gain", "experimental"),)
fig, panels = plt.subplots(
    1,
    max(len(recorded), 1),
    figsize=(3.2 * max(len(recorded), 1), 3.8),
    sharey=True,
    squeeze=False,
)
for ax, (name, (scores, _)) in zip(panels[0], recorded.items(), strict=False):
    for (label, setting, model), colour in zip(
        alarms, ("experimental", "straight_line", "insilico"), strict=True
    ):
        rows = paths_of.alarms(scores, effects[name], setting, model)
        ax.plot(
            rows["share"],
            rows["mean"],
            "-o",
            ms=4,
            color=plots.COLOURS[colour],
            label=label,
        )
        ax.fill_between(
            rows["share"],
            rows["low"],
            rows["high"],
            color=plots.COLOURS[colour],
            alpha=0.15,
            lw=0,
        )
    sham = paths_of.sham_alarms(scores, "shift", "experimental")
    below = sham.mean - max(sham.low, 0)
    ax.errorbar(
        [1.06],
        [sham.mean],
        [[below], [sham.high - sham.mean]],
        fmt="x",
        color="#6b7280",
        label="twin, sham labels",
    )
    ax.axhline(0.05, color=plots.COLOURS["control"], ls=":")
    ax.set(title=name, xlabel="share replaced", ylim=(-0.03, 1.03))
panels[0, 0].set_ylabel("experiments flagged")
panels[0, 0].legend(fontsize=8)
plots.show(
    fig,
    "alarm-all-perturbations",
    "One panel a dataset: share of experiments flagged against the share of "
    "perturbed cells that were replaced by controls, over all perturbations with an "
    "effect, for the twin's predicted shift, the straight line and the gain in DTW, "
    "with 95 % bands, a dotted line at the intended 5 % and the flags of sham labels "
    "at the right.",
)

# %% tags=["hide-input"]
# @title Say what the alarms notice { display-mode: "form" }
twin_ahead, dtw_loose, sham_holds = [], [], []
for name, (scores, _) in recorded.items():
    rate = {
        label: paths_of.alarms(scores, effects[name], setting, model).set_index("share")
        for label, setting, model in alarms
    }
    null = paths_of.sham_alarms(scores, "shift", "experimental")
    twin, line, dtw = (rate[label] for label, _, _ in alarms)
    sham_holds.append(null.low <= 0.05 <= null.high)
    twin_ahead.append(twin.loc[1.0, "mean"] - line.loc[1.0, "mean"])
    dtw_loose.append(dtw.loc[0.0, "low"] > 0.05)
    half, whole = twin.loc[0.5, "mean"], twin.loc[1.0, "mean"]
    record.say(
        f"**{name}** (units {int(twin['units'].max())}): the twin flags "
        f"{twin.loc[0.0, 'mean']:.0%} of sound experiments, {half:.0%} with half of "
        f"the cells replaced, {whole:.0%} with all of them; on sham labels "
        f"{paths_of.in_words(null)}."
    )
if recorded:
    record.say(
        "At a threshold meant for 5 % false alarms the lead of the twin over the "
        "straight line, with all cells replaced, lies between "
        f"{min(twin_ahead):+.2f} and {max(twin_ahead):+.2f}. The alarm on DTW keeps "
        "no such promise: its false alarms lie above 5 % beyond their interval on "
        f"{sum(dtw_loose)} of {len(dtw_loose)} datasets. On sham labels the interval "
        f"of the twin's flags holds 5 % on {sum(sham_holds)} of {len(sham_holds)} "
        "datasets."
    )

# %% [markdown]
# So the alarm is a test of the mean change, and it can do what a mean change can do.
# It notices a failed experiment where the perturbation moves its cells, and stays silent where a sound experiment looks like a failed one.
# Where the straight line notices as much, the average is enough and no twin is needed for it.
# DTW gains nothing for this use: pseudotime is computed anew on each set of cells, so the trajectories of two sound experiments differ by more than their cells do, and a threshold from one does not fit the other.
# Intervals cover folds and perturbations; with fewer than six units they cover the folds alone and say nothing of further perturbations.
# The threshold is exact for the noise of cells and not for the rest: where sound experiments are flagged in more than 5 %, something moved between the two sets that is not sampling, or the cells are too few.
#
# ## Where time was measured
#
# One of the datasets was harvested three times: lung cells before dexamethasone, and one and three hours after it (Cao et al. 2018).
# So the order by pseudotime can be held against the clock, and the twin's path against the means at the measured times.
# **Time is confounded with the barcode of reverse transcription in these cells**: no barcode occurs at two times, so a difference between times may be one between barcodes, and nothing in the data can separate them; the plates are balanced.
# Where that file cannot be had, cells of the network of chapter 1 take its place, harvested at known times after a knock-down; the line that the next cell prints says which cells these are.
# Principal components of the training cells serve as the latent space here, since these cells have no trained encoder.

# %% tags=["hide-input"]
# @title Pseudotime against the clock { display-mode: "form" }
from scipy.stats import spearmanr

from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.components import Components

clock = choose("a549_dex", "waddington")
if clock == "a549_dex":
    harvested, shown = (
        sources.load(clock),
        ("FKBP5", "TSC22D3", "PER1", "ANGPTL4", "PDK4"),
    )
else:
    snapshots = (1, 2, 4, 8, 16, 28, 40)
    harvested = simulate_waddington(
        3_000, perturbations=("EKLF", "Gata1", "Pu1"), snapshots=snapshots, onset=20.0
    )
    shown = ("EKLF", "Gata1", "Pu1", "Fli1", "Cebpa")
timed = prepare(harvested, sources.dataset(clock).panel, keep_genes=shown)
space = Components(timed)
treatment = timed.perturbations[-1]
guessed = trajectories.real_cells(timed, space, treatment)
known = trajectories.real_cells(timed, space, treatment, measured=True)
treated = spearmanr(
    guessed.time[known.perturbed], known.time[known.perturbed]
).statistic
record.say(
    f"On **{clock}**, fold 1, {treatment}: {len(known.time)} test cells at the times "
    f"{', '.join(f'{t:g}' for t in np.unique(known.time))}. Rank correlation of "
    f"pseudotime and time: {spearmanr(guessed.time, known.time).statistic:+.2f} over "
    f"all cells, {treated:+.2f} over the treated ones."
)

# %% tags=["hide-input"]
# @title Paths at the measured times { display-mode: "form" }
timed_twin = fit_perturbation_model(
    timed, space, config=PerturbationModelConfig(cell_network=False)
)
starts = timed.expression("test", "control")
own_path = timed_twin.trajectory(starts, [treatment] * len(starts), 15).mean(axis=0)
trained = trajectories.encode(timed, space, timed.expression("train", treatment)).mean(
    axis=0
)
at = {
    "do_nothing": trajectories.do_nothing(known.start),
    "straight_line": trajectories.straight_line(known.start, trained),
    "experimental": own_path,
}
at = {
    name: trajectories.at_positions(path, known.positions) for name, path in at.items()
}
assert np.allclose(at["experimental"][0], known.trajectory[0], atol=1e-3)

# %% tags=["hide-input"]
# @title Draw expression and path in measured time { display-mode: "form" }
hours = np.unique(known.time)
test_rows = np.concatenate(
    [timed.rows("test", kind) for kind in ("control", treatment)]
)
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2))
for gene in shown:
    level = np.asarray(timed.cells[:, gene].X)[test_rows].ravel()
    when = timed.cells.obs["time"].to_numpy(dtype=float)[test_rows]
    centre = np.array([level[when == t].mean() for t in hours])
    error = np.array(
        [level[when == t].std(ddof=1) / (when == t).sum() ** 0.5 for t in hours]
    )
    left.errorbar(hours, centre, 2 * error, fmt="-o", ms=4, capsize=3, label=gene)
left.set(xlabel="measured time", ylabel="mean log1p expression, test cells")
left.legend(fontsize=8)
axis = known.trajectory[-1] - known.trajectory[0]
axis /= np.linalg.norm(axis)
right.plot(
    hours,
    (known.trajectory - known.start) @ axis,
    "-o",
    color=plots.COLOURS["real"],
    label="real cells",
)
for name, path in at.items():
    right.plot(
        hours,
        (path - known.start) @ axis,
        "--o",
        ms=4,
        color=plots.COLOURS[name],
        label=name,
    )
right.set(xlabel="measured time", ylabel="latent shift along the real change")
right.legend(fontsize=8)
plots.show(
    fig,
    "measured-time",
    "Left: mean expression of five genes at each measured time with two standard "
    "errors. Right: shift along the real change from first to last time, at each "
    "measured time, of the real cells, the experimental twin, the straight line and "
    "do-nothing.",
)
progress = (known.trajectory - known.start) @ axis
middle = (
    1 + int(np.argmin(np.abs(hours[1:-1] - hours[-1] / 3))) if len(hours) > 2 else 1
)
record.say(
    f"At time {hours[middle]:g} the real cells have gone "
    f"{progress[middle] / progress[-1]:.0%} of their way, where a path in equal "
    f"steps has gone {known.positions[middle]:.0%}: "
    + (
        "the response is quick and levels off, and neither the twin nor the line, "
        "which know no clock, can say so."
        if progress[middle] / progress[-1] > known.positions[middle] + 0.1
        else "the response keeps the pace of a straight line here."
    )
)

# %% [markdown]
# One fold and one treatment are an example.
# The recorded run has five folds: how far pseudotime and measured time agree, and the twin score in both clocks.
# In measured time the trajectory has one point for each time, and the paths are read at the same times; the row `training_times` of the table further down is the mean of the training cells at each time, which is what a path that knows the clock could be.
# The score is withheld where two real halves are no nearer to one another than do-nothing is to the real cells.

# %% tags=["hide-input"]
# @title Both clocks over five folds { display-mode: "form" }
lines = []
for name, (scores, _) in recorded.items():
    if not (scores["setting"] == "measured").any():
        continue
    row = [name, str(len(effects[name]))]
    for metric in ("spearman_all", "spearman_treated"):
        agreement = paths_of.over_folds(
            paths_of.fold_table(scores, effects[name], part="test", metric=metric)
        )
        row.append(paths_of.in_words(agreement))
    for kind in ("pseudotime", "measured"):
        for model in ("experimental", "straight_line"):
            score = paths_of.twin_score(scores, effects[name], kind, model)
            row.append("not resolvable" if score is None else paths_of.in_words(score))
    lines.append(row)
columns = [
    "dataset",
    "units",
    "rank correlation, all cells",
    "treated cells",
    "twin score, pseudotime",
]
columns += [
    "straight line, pseudotime",
    "twin score, measured",
    "straight line, measured",
]
clocks = pd.DataFrame(lines, columns=columns)
record.say(tables.markdown(clocks))
for name in clocks["dataset"]:
    agreement = paths_of.over_folds(
        paths_of.fold_table(
            recorded[name][0], effects[name], part="test", metric="spearman_treated"
        )
    )
    record.say(
        f"**{name}**: among treated cells pseudotime and time "
        + (
            "have nothing to do with one another that these folds could show."
            if agreement.low <= 0 <= agreement.high
            else f"agree in part ({agreement.mean:.2f}; 1 would be the same order)."
        )
    )

# %% [markdown]
# Pseudotime that stood in for time would have a rank correlation near 1.
# Over all cells it is higher than over the treated ones, because a clock that only tells treated from untreated cells scores there already.
# In the simulated network the treated cells sit in one of four fates when the treatment begins, and what varies most among them is the fate, not the time since the treatment.
# Every number in pseudotime inherits an error of this kind from the order of the cells, whichever twin is judged.
#
# ## The verdict: nearer than what?
#
# A small distance is no similarity.
# A twin is similar to the experiment when it is nearer than everything that knows less: than the **same twin with shuffled labels** (asked for another perturbation; where there is one perturbation only, fitted to permuted labels; ten seeds), than the **straight line**, and than **do-nothing**.
# The figure at the top of the page shows the three margins; the verdict of a dataset names each one that is not above 0.
# Here are the distances that they come from.

# %% tags=["hide-input"]
# @title Draw every reference { display-mode: "form" }
SHOWN = {
    "real_halves": "two real halves",
    "training_times": "training mean at each time",
    "experimental": "experimental twin",
    "straight_line": "straight line",
    "experimental_shuffled": "twin, shuffled labels",
    "random": "random path",
    "reversed": "reversed",
}
fig, panels = plt.subplots(2, 3, figsize=(11, 5.6), sharey=True)
for axis, (name, clock) in zip(panels.flat, verdicts, strict=False):
    scores = recorded[name][0]
    where = {"part": "test", "setting": clock, "metric": "dtw"}
    for place, model in enumerate([*SHOWN, "do_nothing"]):
        table = paths_of.fold_table(scores, effects[name], **where, model=model)
        mean = paths_of.over_folds(table)
        if mean is None:
            continue
        colour = plots.COLOURS.get(model, "#2b3648")
        if model == "do_nothing":
            axis.axvline(mean.mean, color=colour, ls="--")
            continue
        axis.plot([mean.low, mean.high], [place, place], color=colour, lw=2)
        axis.plot(mean.mean, place, "o", color=colour)
    axis.set_title(f"{name}, {clock}", fontsize=10)
    axis.set_xlim(left=0)
for axis in panels.flat[len(verdicts) :]:
    axis.set_visible(False)
panels[0, 0].set_yticks(range(len(SHOWN)), SHOWN.values())
panels[0, 0].invert_yaxis()
for axis in panels[1]:
    axis.set_xlabel("DTW to the real cells")
plots.show(
    fig,
    "every-reference",
    "One panel a dataset and clock: mean DTW to the real trajectory with 95 % "
    "interval, of two real halves, the training mean at each time, the experimental "
    "twin, the straight line, the twin with shuffled labels, a random path and the "
    "reversed one; a dashed line marks doing nothing.",
    "Distances to the real cells; the dashed line is doing nothing.",
)
for (name, clock), judged in verdicts.items():
    record.say(f"**{name}**, {clock}: {judged}.")

# %% [markdown]
# Two real halves are noisier than a mean path, since each bin or time holds half of the cells: where they lie above do-nothing, the cells are too few for the distance to tell anything, and the twin score is withheld.
# The same rows for Eq. 12 and W1 lie in the recorded scores; W1 of the reversed row is 0 by construction.
#
# ## All perturbations, long training
#
# The runs of [chapter 12](12_replication.ipynb) repeat this comparison for every perturbation with an effect, on five folds, with ten seeds of the tuned two-stage policy (`python -m experiments policies`).
# Their paths stand in the principal components in which the recorded folds judge the experimental twin, so the two can be compared.
# The references are those of the first figure; the shuffled labels are those of the same policy, asked for another perturbation.

# %% tags=["hide-input"]
# @title The in-silico twin beside its references { display-mode: "form" }
from twinlib.results.policy_claims import OURS, similar_paths
from twinlib.results.policy_tables import path_verdict, policy_table

LONG = ("papalexi2021", "norman2019", "waddington")
policy_paths, path_verdicts, absent = {}, {}, []
for name in LONG:
    try:
        policy_paths[name], groups = (
            policy_table(name, "paths"),
            policy_table(name, "groups"),
        )
    except ResultsError:
        absent.append(name)
        continue
    judged = path_verdict(policy_paths[name], groups, OURS)
    if judged is not None:
        path_verdicts[name] = judged
if absent:
    record.say(
        "Left out, because there is no recorded run (`python -m experiments policies "
        f"--dataset NAME --out DIR` makes it): {', '.join(absent)}."
    )
POLICY_WORDS = {
    f"{OURS}_shuffled": "the policy with shuffled labels",
    "straight_line": WORDS["straight_line"],
    "do_nothing": WORDS["do_nothing"],
}
if path_verdicts:
    fig, axis = plt.subplots(figsize=(9.4, 1.1 * len(path_verdicts) + 1.6))
    for row, judged in enumerate(path_verdicts.values()):
        for k, (reference, words) in enumerate(POLICY_WORDS.items()):
            margin, place = judged.margins[reference], row + 0.22 * (k - 1)
            colour = plots.COLOURS[reference]
            axis.plot([margin.low, margin.high], [place, place], color=colour, lw=2.2)
            label = None if row else words
            axis.plot(margin.mean, place, "o", color=colour, label=label)
    axis.axvline(0, color="#2b3648", lw=1)
    ticks = [
        f"{name} ({judged.margins['do_nothing'].units})"
        for name, judged in path_verdicts.items()
    ]
    axis.set_yticks(range(len(ticks)), ticks)
    axis.invert_yaxis()
    axis.set_xlabel("DTW by which the policy is nearer to the real cells than ...")
    plots.legend_outside(fig, columns=3)
    plots.show(
        fig,
        "policy-nearer-than-what",
        "One row a dataset: by how much the path of the two-stage policy is nearer to the "
        "real trajectory than the same policy with shuffled labels, than a straight line "
        "and than doing nothing, with 95 % intervals.",
        "The in-silico twin is similar where all three margins lie above zero.",
    )
    for name, judged in path_verdicts.items():
        record.say(f"**{name}**: {judged}. {similar_paths(name).number}.")

# %% [markdown]
# One number a row hides how the perturbations differ.
# The next figure shows them all: for each perturbation the mean over folds and seeds of what the path gains on doing nothing, as a share of do-nothing's distance.

# %% tags=["hide-input"]
# @title The gain of every perturbation { display-mode: "form" }
ROWS = ("straight_line", f"{OURS}_shuffled", OURS)
if policy_paths:
    size = (3.4 * len(policy_paths) + 1.0, 4.0)
    fig, panels = plt.subplots(1, len(policy_paths), figsize=size, squeeze=False)
    for ax, (name, rows) in zip(panels[0], policy_paths.items(), strict=True):
        units = ["perturbation", "cell_context"]
        distances = rows[rows["metric"] == "dtw"].groupby([*units, "model"])["value"]
        table = distances.mean().unstack("model")
        gain = (1 - table.div(table["do_nothing"], axis=0))[list(ROWS)]
        for i, row in enumerate(ROWS):
            values = np.sort(gain[row].to_numpy())
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else 0.0
            ax.scatter(i + spread, values, s=12, color=plots.COLOURS[row])
        ax.axhline(0, color=plots.COLOURS["do_nothing"], ls="--", lw=1.2)
        ax.set_xticks(range(len(ROWS)), ROWS, rotation=20, fontsize=9)
        ax.set(title=name)
        noisy = int((table["real_halves"] >= table["do_nothing"]).sum())
        record.say(
            f"**{name}**, {len(gain)} perturbations and contexts, with an effect or "
            f"without: the policy is nearer than doing nothing on "
            f"{int((gain[OURS] > 0).sum())} and nearer than the straight line on "
            f"{int((gain[OURS] > gain['straight_line']).sum())}; on {noisy} two real "
            "halves lie farther apart than doing nothing does."
        )
    panels[0, 0].set_ylabel("share of do-nothing's DTW gained")
    plots.show(
        fig,
        "gain-by-perturbation",
        "One panel a dataset: for the straight line, the policy with shuffled labels and "
        "the policy the share of do-nothing's DTW distance that it gains, one dot a "
        "perturbation in rising order, with a dashed line at zero.",
    )
else:
    record.say("Nothing to draw yet: no run of the policies is recorded.")

# %% [markdown]
# Where two real halves lie farther apart than doing nothing does, the cells themselves do not tell the perturbation from doing nothing, and no twin can be blamed or praised.
# Being nearer than do-nothing is the first test, being nearer than the straight line the second; a twin has skill on a perturbation if it passes both.
#
# The paper compares its two twins with one another, too.
# Their paths are smooth means that begin at the same point, so they can be near to one another without being near to the cells: agreement of two models is not agreement with an experiment, and no row of this page asks for it.

# %% [markdown]
# ## Limitations
#
# - A real trajectory is an order of cells that were measured once, not a time course. The recorded paths of policies take pseudotime on every dataset, so that they can be compared. Measured time exists for one real dataset, and there it is confounded with a barcode.
# - The recorded folds judge both twins in the space of principal components, not in the learned latent space that the policies act in.
# - The root is the control medoid, the middle of the controls. Distances to it grow in all directions, so early bins are 'typical controls', not 'early cells'.
# - Mean paths hide spread: two populations with the same mean path and different variance get the same DTW. Chapter 12 puts the E-distance and W1 of whole populations beside it.
# - The twin is held fixed in the bootstrap; the interval covers the sampling of real cells, not of training seeds. The intervals of the recorded runs are over folds and perturbations.
#
# ## What this does not show
#
# A high twin score says that a mean path in a learned latent space is near another.
# It does not say that the simulated mechanism is the biological one, that the perturbation acts through the genes that the policy adjusts, or that the policy would work on a perturbation it has not seen.
# The straight line, which knows no mechanism at all, makes that plain whenever it wins.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A report says that a twin's DTW to the experiment is 0.4. What must you ask?</summary>
#
# What doing nothing has, what two halves of the experiment have, and what a straight line between the two averages has, on the same cells.
#
# </details>
#
# <details><summary>A trajectory and the same one run backwards: which of DTW, Eq. 12 and W1 tells them apart?</summary>
#
# DTW and Eq. 12.
# W1 forgets time and is zero.
#
# </details>
#
# <details><summary>The twin of a perturbation without effect lies very near to the real cells. Is it a good twin?</summary>
#
# Nothing can be said: doing nothing lies as near, and the score is withheld.
#
# </details>
#
# ## Key takeaways
#
# - With two points DTW is twice Eq. 12, and there is nothing to warp.
# - The printed second column is not Eq. 12; its ratios to the first fit the true Wasserstein distance. A reversed trajectory has a Wasserstein distance of zero.
# - A distance needs two marks beside it, two real halves and do-nothing, and a twin has skill only if it also beats the straight line.
# - An alarm needs a threshold from other cells and a rate of false alarms on sham labels; then it can be told what it notices. Compare it with the straight line.
# - Pseudotime in a mixture of cells orders by what varies most, which need not be the perturbation. Look at the share of perturbed cells per bin before you trust a trajectory.

# %% [markdown]
# ## Exercises
#
# ### Exercise 11.1. Eq. 12 and its name
#
# Write `eq12_and_w1(a, b)` for two series of equal length: return Eq. 12 and the Wasserstein-1 distance of their values, in plain numpy.

# %% tags=["exercise-1"]
import numpy as np


def eq12_and_w1(a, b):
    return 0.0, 0.0


# %% [markdown]
# <details><summary>Solution</summary>
#
# Sorting both samples gives the cheapest pairing of equally many points on a line.
#
# ```python
# import numpy as np
#
#
# def eq12_and_w1(a, b):
#     a, b = np.asarray(a), np.asarray(b)
#     return np.abs(a - b).mean(), np.abs(np.sort(a) - np.sort(b)).mean()
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 11.1 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt
from twinlib.evaluation import similarity


def check_1(eq12_and_w1):
    a, b = np.random.default_rng(1).normal(size=(2, 20))
    eq12, w1 = eq12_and_w1(a, b)
    assert abs(eq12 - similarity.mean_absolute_difference(a, b)) < 1e-9, (
        f"Eq. 12 should not be {eq12:.3f}"
    )
    assert abs(w1 - similarity.wasserstein_1(a, b)) < 1e-9, f"W1 should not be {w1:.3f}"
    assert abs(eq12_and_w1(a, a[::-1])[1]) < 1e-12, "W1 must not see the order of time"


attempt("11.1", check_1, eq12_and_w1)

# %% [markdown]
# ### Exercise 11.2. A score that knows when to be silent
#
# Write `twin_score(d_twin, d_nothing, d_halves)`: the last two are arrays of bootstrap draws, the first a number.
# Return the score at the means of the draws, or `None` when the 95 % percentile interval of `d_nothing - d_halves` holds zero.

# %% tags=["exercise-2"]
import numpy as np


def twin_score(d_twin, d_nothing, d_halves):
    return (np.mean(d_nothing) - d_twin) / (np.mean(d_nothing) - np.mean(d_halves))


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def twin_score(d_twin, d_nothing, d_halves):
#     low, high = np.quantile(d_nothing - d_halves, [0.025, 0.975])
#     if low <= 0 <= high:
#         return None
#     return (np.mean(d_nothing) - d_twin) / (np.mean(d_nothing) - np.mean(d_halves))
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 11.2 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_2(twin_score):
    rng = np.random.default_rng(2)
    floor, nothing = rng.normal(1.0, 0.1, 500), rng.normal(3.0, 0.1, 500)
    assert abs(twin_score(nothing.mean(), nothing, floor)) < 1e-9, (
        "do-nothing must score 0"
    )
    assert abs(twin_score(floor.mean(), nothing, floor) - 1) < 1e-9, (
        "the floor must score 1"
    )
    assert twin_score(2.0, floor + rng.normal(0, 0.1, 500), floor) is None, (
        "when do-nothing is as near as the halves are, nothing can be told: return None"
    )


attempt("11.2", check_2, twin_score)

# %% [markdown]
# ### Exercise 11.3. Find the silent bug
#
# A colleague's DTW runs, is symmetric, is zero for equal series, and makes every twin look a little better.
# Mend it.

# %% tags=["exercise-3"]
import numpy as np


def warp(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1))
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = abs(a[i - 1] - b[j - 1])
            table[i, j] = cost + min(
                table[i - 1, j], table[i, j - 1], table[i - 1, j - 1]
            )
    return table[-1, -1]


# %% [markdown]
# <details><summary>Solution</summary>
#
# The border of the table must be infinite except at its corner.
# With zeros an alignment may begin in the middle of either series and skip its beginning for free.
#
# ```python
# import numpy as np
#
#
# def warp(a, b):
#     table = np.full((len(a) + 1, len(b) + 1), np.inf)
#     table[0, 0] = 0.0
#     for i in range(1, len(a) + 1):
#         for j in range(1, len(b) + 1):
#             cost = abs(a[i - 1] - b[j - 1])
#             table[i, j] = cost + min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])
#     return table[-1, -1]
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 11.3 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt
from twinlib.evaluation import similarity


def check_3(warp):
    late = warp([9.0, 0.0, 1.0], [0.0, 1.0])
    assert late > 0, (
        "the first point of the first series, 9, must be aligned with something and "
        "cost something"
    )
    a, b = np.random.default_rng(3).normal(size=(2, 12))
    expected = similarity.dtw(a, b)[0]
    assert abs(warp(a, b) - expected) < 1e-9, (
        f"Eq. 10 gives {expected:.3f} here, not {warp(a, b):.3f}"
    )


attempt("11.3", check_3, warp)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): Eq. 10-12, Figures 4-6, Tables 3, 6, 9.
# - Sakoe and Chiba, *Dynamic programming algorithm optimization for spoken word recognition* (IEEE Trans. ASSP 1978).
# - Cao et al., *Joint profiling of chromatin accessibility and gene expression in thousands of single cells* (Science 2018): the cells with measured time.
# - Haghverdi, Buettner, Wolf, Buettner and Theis, *Diffusion pseudotime robustly reconstructs lineage branching* (Nature Methods 2016).
# - Flamary et al., *POT: Python Optimal Transport* (JMLR 2021).
# - Meert et al., *dtaidistance* (software, KU Leuven).

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
