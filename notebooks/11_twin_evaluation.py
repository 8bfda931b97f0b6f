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
# The paper closes its digital twin with two numbers: a dynamic-time-warping distance (Eq. 10-11) and a distance it calls Wasserstein (Eq. 12) between a simulated and a measured trajectory.
# A distance alone says nothing.
# This chapter derives both, shows what each can and cannot see, and then puts every distance between two marks, what two halves of the real cells reach against one another and what doing nothing reaches, so that a reader can tell a twin from a coincidence.

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - fill the table of Eq. 10 by hand, read the alignment from it, and say why two points leave nothing to align (20 minutes);
# - tell Eq. 12 from the Wasserstein distance, and name a trajectory that one of them cannot see (10 minutes);
# - turn held-out cells, which are measured once and destroyed, into a trajectory, and list what that costs (15 minutes);
# - judge a twin between real halves and do-nothing, with an interval (20 minutes);
# - find a bug that makes every twin look a little better (10 minutes).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("twinlib") is None:
    raise ModuleNotFoundError(
        "twinlib is not installed: run `pip install -r requirements.txt` in a copy of this book, "
        "or set its address once with `make home URL=...` so that this cell can install it."
    )
import twinlib

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch

from twinlib.data.pairing import pair
from twinlib.data.preparation import standard
from twinlib.data.sources import choose
from twinlib.page import plots, record
from twinlib.embedding.train import pretrained
from twinlib.experimental.perturbation_model import fit_perturbation_model
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.assembly import make_world
from twinlib.policy.training import TrainingConfig, train
from twinlib.environment.prediction import rollout_cells
from twinlib.errors import ResultsError
from twinlib.results import tables
from twinlib.evaluation import similarity, trajectories

plots.style()
torch.set_num_threads(1)
rng = np.random.default_rng(0)
dataset = choose("papalexi2021", "waddington")

# %% [markdown]
# ## The question
#
# Somebody shows you a simulated trajectory of a perturbed cell and states its distance to the experiment.
# The paper's Table 3 does so, with the two rows of the next cell.
# Is that near?
# The number has the units of the latent space, grows with the number of steps, and depends on how far the perturbation moves cells at all: a perturbation without effect is matched by a simulator that does nothing.
# So the question of this chapter is not how large the distance is, but **what it must be compared with**.

# %%
record.say("The paper's Table 3, as printed:")
record.say(tables.markdown(tables.paper_table(3)))

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
gap = np.abs(similarity.dtw_distances(a, b) - 2 * similarity.mean_absolute_difference(a, b)).max()
assert gap < 1e-12
print(f"largest difference between DTW and twice Eq. 12 over {len(a):,} pairs of two points: {gap:.1e}")

# %% [markdown]
# At horizon 1 a column of DTW and a column of Eq. 12 would therefore be one column, printed twice.
# The printed numbers allow a check of what the second column holds.
# If it were Eq. 12, the ratio of the columns would be exactly 2.
# The true Wasserstein-1 distance of two samples never exceeds Eq. 12 (pairing the sorted values is the cheapest pairing), so with the true distance the ratio would be 2 or more.

# %%
ratios = []
for number in (3, 6, 9):
    for _, row in tables.paper_table(number).iterrows():
        ratios.append((number, row["System"], float(row["DTW"]) / float(row["Wasserstein"])))
ratios = pd.DataFrame(ratios, columns=["Table", "System", "DTW / Wasserstein, as printed"])
assert (ratios.iloc[:, 2] >= 2).all()
record.say(tables.markdown(ratios.round(3)))

# %% [markdown]
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
        table[i, j] = cost + min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])  # Eq. 10
distance, path = similarity.dtw(late, early)
assert distance == table[-1, -1] == 0.0
assert np.array_equal(table[1:, 1:], similarity.dtw_matrix(late, early))
print(pd.DataFrame(table[1:, 1:], index=late, columns=early))
print("alignment:", [tuple(int(v) for v in step) for step in path])
print(f"DTW {distance:.1f}, Eq. 12 {float(similarity.mean_absolute_difference(late, early)):.2f}")

# %% [markdown]
# DTW is zero: the same values in the same order, only at another pace.
# Eq. 12 is not, because it compares step with step.
# Which of the two you want depends on whether the pace is part of the claim.
#
# The package fills one anti-diagonal of the table at a time, for all pairs of series at once.
# An independent C library gives the same figures; note its argument, without which it would return the square root of summed squares.

# %%
from dtaidistance import dtw as c_library

a, b = rng.normal(size=(2, 60, 16)).cumsum(axis=-1)
ours = similarity.dtw_distances(a, b)
theirs = [c_library.distance(x, y, inner_dist="euclidean", use_c=True) for x, y in zip(a, b, strict=True)]
assert np.abs(ours - theirs).max() < 1e-12
print(f"largest difference to dtaidistance over {len(a)} pairs: {np.abs(ours - theirs).max():.1e}")

# %% [markdown]
# ## Three distances and a reversed ramp
#
# A ramp and its mirror image in time hold the same values.
# W1 forgets time, so it sees no difference at all; DTW and Eq. 12 do.

# %%
ramp = np.arange(16) / 15
found = {name: float(d(ramp, ramp[::-1])) for name, d in trajectories.DISTANCES.items()}
assert found["w1"] < 1e-12 and found["dtw"] > 1 and abs(found["mean_absolute_difference"] - 0.533) < 1e-3
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

# %%
prepared = standard(dataset)
embedding = pretrained(dataset)
controls = prepared.expression("test", "control")
train_control = trajectories.encode(prepared, embedding, prepared.expression("train", "control")).mean(0)
train_means = {
    p: trajectories.encode(prepared, embedding, prepared.expression("train", p)).mean(0)
    for p in prepared.train_perturbations
    if len(prepared.expression("test", p)) >= 20
}
moved = {p: float(np.linalg.norm(m - train_control)) for p, m in train_means.items()}
perturbation = max(moved, key=moved.get)
cells = trajectories.real_cells(prepared, embedding, perturbation)
real = cells.trajectory
record.say(
    f"On **{dataset}** the perturbation that moves its training cells furthest is **{perturbation}** "
    f"(latent shift {moved[perturbation]:.2f}; the median over {len(moved)} perturbations is "
    f"{np.median(list(moved.values())):.2f}). Held out are {int((~cells.perturbed).sum())} controls and "
    f"{int(cells.perturbed.sum())} perturbed cells."
)

# %%
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
right.axhline(cells.perturbed.mean(), color=plots.COLOURS["control"], ls="--", label="share among all cells")
right.set(xlabel="pseudotime bin", ylabel="share of perturbed cells")
right.legend()
plots.show(
    fig,
    "real-trajectory",
    "Left: held-out cells in the two main latent axes with the path of the sixteen bin means drawn through them. "
    "Right: share of perturbed cells in each pseudotime bin beside their share among all cells.",
)
corr = np.corrcoef(np.arange(16), share)[0, 1]
record.say(
    f"If pseudotime ordered cells by the perturbation, the bars would stay at 0 and jump to 1 in the last bins. The correlation of bin and "
    f"share is {corr:.2f}, and the last bin holds {share[-1]:.0%} perturbed cells against "
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
# The experimental twin is the supervised model of chapter 4; its path is the latent path along the dose $h/H$.
# The in-silico twin is a policy trained in the environment of chapter 5 with the two-stage algorithm of chapter 10, here for few steps so that the page runs in a minute; the packaged runs of 150,000 steps follow below.
# For each, the path is the mean over all held-out controls, with the mean action, process noise off and the kick at reset off.

# %%
pairs = pair(prepared)
model = fit_perturbation_model(prepared, embedding, pairs=pairs)
world = make_world(prepared, embedding, pairs=pairs)
config = EnvironmentConfig()
settings = TrainingConfig(algorithm="two_stage", timesteps=12_288, warm_start_steps=4_096)
policy = train(Dynamics(world, config, replicas=1, n_cells=64), settings, seeds=[0]).policy
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
rows = {}
for name in trajectories.DISTANCES:
    rows[name] = {k: trajectories.trajectory_distance(p, real, name) for k, p in paths.items()}
    rows[name]["real halves"] = np.mean([trajectories.trajectory_distance(*h, name) for h in halves])
comparison = pd.DataFrame(rows).sort_values("dtw")
comparison.columns = ["DTW", "Eq. 12", "W1"]
assert abs(comparison.loc["reversed", "W1"]) < 1e-9
record.say(tables.markdown(comparison.round(3).reset_index(names="trajectory")))
for column in ("DTW", "Eq. 12"):
    still, noise = comparison.loc["do_nothing", column], comparison.loc["real halves", column]
    record.say(
        f"By {column}, do-nothing is {'nearer' if still < noise else 'farther'} than two halves are from each other"
        + (", so that distance cannot tell a good twin from none on these cells." if still < noise else ".")
    )
lengths = {
    k: np.linalg.norm(p[-1] - p[0]) / np.linalg.norm(train_means[perturbation] - cells.start)
    for k, p in paths.items()
}
record.say(
    f"From first to last step the in-silico twin of this page moves the mean cell by {lengths['insilico']:.0%} of the "
    f"distance from the mean control to the training mean of the perturbation, and the experimental twin by "
    f"{lengths['experimental']:.0%}."
)

# %% [markdown]
# Read the table by columns and from the top.
# A twin that is nearer than do-nothing knows something, where two halves are nearer than do-nothing, too; a twin below the straight line knows more than an average.
# The reversed trajectory has a W1 of zero, as promised, which disqualifies W1 as the only judge.
#
# ## Which dimensions carry the distance
#
# The paper's Figures 4 to 6 show a heat map of the warping distance per latent dimension.
# A single map of one twin has no scale; here the real halves and do-nothing stand beside both twins.
# Dark is far from the real cells.

# %%
order = np.argsort(-trajectories.per_dimension(paths["do_nothing"], real))
maps = {"real halves": np.mean([trajectories.per_dimension(*h) for h in halves], axis=0)}
maps |= {
    k: trajectories.per_dimension(paths[k], real)
    for k in ("experimental", "insilico", "straight_line", "do_nothing")
}
fig, ax = plt.subplots(figsize=(10, 2.8))
sns.heatmap(
    pd.DataFrame(maps).T.iloc[:, order], ax=ax, cmap="viridis_r", cbar_kws={"label": "DTW"}, xticklabels=order
)
ax.set(xlabel="latent dimension, furthest moved first", ylabel="")
ax.tick_params(axis="x", labelsize=8)
plots.show(
    fig,
    "dtw-per-dimension",
    "Heat map of the DTW distance to the real trajectory: one column a latent dimension, one row each for the two "
    "real halves, the experimental twin, the in-silico twin, the straight line and do-nothing.",
)

# %% [markdown]
# ## The alignment itself
#
# Eq. 10 not only scores, it aligns.
# The figure draws the two series of the dimension that moves most, with a grey thread for each pair on the cheapest path.
# Threads that stand upright mean that the twin keeps the pace of the experiment; fans mean that one step of one series answers many of the other.
# Upright threads beside a flat line say nothing about pace: where a twin stands still, every alignment costs much the same.
# The real path begins with the cells nearest to the medoid and both twins begin at the mean control, so that even a perfect twin pays for the first step.

# %%
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
    "Two panels, one a twin: the latent dimension that moves most over sixteen steps, the real trajectory and the "
    "twin's, with grey threads joining the steps that dynamic time warping aligns.",
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

# %%
stick = trajectories.yardstick(cells, rng)
scores = {k: stick.score(p) for k, p in paths.items()}
assert abs(scores["do_nothing"].score) < 1e-12
assert all(s.low <= s.score <= s.high for s in scores.values() if s.resolvable)
lines = pd.DataFrame(
    {"trajectory": scores.keys(), "twin score, DTW [95 % interval]": map(str, scores.values())}
)
record.say(tables.markdown(lines))
best = max(("experimental", "insilico"), key=lambda k: scores[k].score)
beats = scores[best].distance < scores["straight_line"].distance
above = scores[best].resolvable and scores[best].low > 0
record.say(
    f"On **{dataset}**, {perturbation}: the better twin is the {best} one ({scores[best]}); the straight line has "
    f"{scores['straight_line']}. Its interval "
    + ("lies above 0" if above else "does not lie above 0")
    + ", and it "
    + ("is" if beats else "is not")
    + " nearer than the straight line: by both tests together it "
    + ("**has**" if above and beats else "has **no**")
    + " skill on this trajectory."
)

# %% [markdown]
# ## What the twin is for: a failed experiment
#
# The paper names one use of the comparison (its Section 2): to tell whether an experiment was done properly.
# That can be tested.
# Spoil the experiment on purpose, by putting unperturbed cells in the place of a share of the perturbed ones, as when a guide does not cut, and ask how often the experimental twin notices.
# The threshold is set on sound experiments, so that one in twenty of them is flagged; each round draws the cells anew.
# Two measures of agreement compete: what the trajectory's DTW gains on doing nothing (the numerator of the twin score), and the share of the twin's predicted shift that the perturbed cells show, which uses no pseudotime at all.

# %%
from twinlib.evaluation import alarm

shares = (0.0, 0.25, 0.5, 0.75, 1.0)
other = trajectories.real_cells(prepared, embedding, min(moved, key=moved.get))
rates = {
    "share of the shift": alarm.alarm_rates(experimental, cells, rng, alarm.realised, shares, rounds=100),
    "DTW gain": alarm.alarm_rates(experimental, cells, rng, alarm.gain, shares, rounds=100),
}
rates["straight line, share of the shift"] = alarm.alarm_rates(
    paths["straight_line"], cells, rng, alarm.realised, shares, rounds=100
)
middle = sorted(moved, key=moved.get)[len(moved) // 2]
middle_cells = trajectories.real_cells(prepared, embedding, middle)
middle_path = model.trajectory(controls, [middle] * len(controls), 15).mean(axis=0)
rates[f"share of the shift, {middle}"] = alarm.alarm_rates(
    middle_path, middle_cells, rng, alarm.realised, shares, rounds=100
)
swapped = alarm.alarm_rates(experimental, cells, rng, alarm.realised, (1.0,), rounds=100, by=other)
fig, ax = plt.subplots(figsize=(7, 4))
for (name, found), colour in zip(
    rates.items(), ("experimental", "insilico", "straight_line", "control"), strict=True
):
    ax.plot(found["share"], found["flagged"], "-o", color=plots.COLOURS[colour], label=name)
    ax.fill_between(
        found["share"], found["low"], found["high"], color=plots.COLOURS[colour], alpha=0.15, lw=0
    )
ax.axhline(0.05, color=plots.COLOURS["control"], ls=":", label="intended false alarms")
ax.set(xlabel="share of perturbed cells that are really unperturbed", ylabel="experiments flagged")
ax.legend()
plots.show(
    fig,
    "failed-experiment",
    "Share of experiments flagged against the share of perturbed cells that were replaced by unperturbed ones, one "
    "curve for the share of the predicted shift, one for the gain in DTW, one for the straight line in the place of the "
    "twin, and one for a perturbation of middle strength, with 95 % bands.",
)
first, second, straight, median = (found["flagged"].to_numpy() for found in rates.values())
record.say(
    f"With half of the perturbed cells replaced the share of the shift flags {first[2]:.0%} of experiments and the DTW "
    f"gain {second[2]:.0%}; with all of them replaced {first[-1]:.0%} and {second[-1]:.0%}. False alarms were "
    f"{first[0]:.0%} and {second[0]:.0%}. A label swapped with the perturbation that moves least is flagged in "
    f"{swapped['flagged'].iloc[0]:.0%}."
)
record.say(
    f"The straight line, which is only an average, flags {straight[2]:.0%} with half of the cells replaced and "
    f"{straight[-1]:.0%} with all, at {straight[0]:.0%} false alarms. On {middle}, a perturbation of middle strength, the "
    f"twin flags {median[2]:.0%} and {median[-1]:.0%}, at {median[0]:.0%} false alarms."
)

# %% [markdown]
# The threshold comes from a limited number of draws, so the true rate of false alarms differs from the intended one.
# A twin serves this purpose as far as its *predicted shift* is right, and where the straight line flags as many the average is enough.
# The perturbation of this page moves furthest of all; what is noticed there may go unnoticed where the shift is small.
# Warping a mean trajectory can add power only where pseudotime follows the perturbation, which the bars of the first figure show or deny.
#
# ## Where time is known
#
# A simulator can harvest cells at several times after the treatment, and tell us when.
# The cells below come from the network of chapter 1: controls at time 0, knocked-down cells at seven times.
# So the order by pseudotime can be held against the truth, and the trajectory of one order against that of the other.
# Principal components of the training cells serve as the latent space here, since these cells have no trained encoder.

# %%
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington


class Components:
    """A latent space of ten principal components."""

    def __init__(self, scaled):
        self.axes = PCA(10, random_state=0).fit(scaled)

    def encode(self, x):
        return torch.from_numpy(self.axes.transform(x.numpy()))


names = ("EKLF", "Gata1", "Pu1")
timed = prepare(
    simulate_waddington(3_000, perturbations=names, snapshots=(1, 2, 4, 8, 16, 28, 40), onset=20.0), 100
)
components = Components(timed.scale(timed.expression("train")))
lines = []
for name in names:
    guessed = trajectories.real_cells(timed, components, name, split="train")
    known = trajectories.real_cells(timed, components, name, split="train", true_time=True)
    apart = trajectories.trajectory_distance(guessed.trajectory, known.trajectory)
    floor = np.mean([trajectories.trajectory_distance(*known.halves(rng)) for _ in range(20)])
    still = trajectories.trajectory_distance(trajectories.do_nothing(known.start), known.trajectory)
    rank = spearmanr(guessed.time[known.perturbed], known.time[known.perturbed])[0]
    lines.append((name, f"{rank:+.2f}", f"{apart:.2f}", f"{floor:.2f}", f"{still:.2f}"))
assert all(abs(float(line[1])) < 0.5 and float(line[2]) > float(line[3]) for line in lines)
columns = ["perturbation", "rank correlation with time, perturbed cells", "DTW of the two orders"]
columns += ["real halves, by time", "do-nothing, by time"]
record.say(tables.markdown(pd.DataFrame(lines, columns=columns)))

# %% [markdown]
# Pseudotime that stood in for time would have a rank correlation near 1 and a distance between the two orders near that of two real halves.
# Here it has neither.
# The treated cells of this network sit in one of four fates when the treatment begins, and what varies most among them is the fate, not the time since the treatment.
# Every number below inherits an error of this kind from the order of the cells, whichever twin is judged.
#
# ## All perturbations, long training, four datasets
#
# The command `python -m experiments described` repeats this comparison for every perturbation with at least ten test cells and for every algorithm.
# The cell below reads its packaged results and prints them in the shape of the paper's Tables 3, 6 and 9, with the references above the twins.
# Each column is a mean over perturbations, and the twin score is a mean of ratios, so its sign may differ from that of the mean distances.
# `DTW / path` is the DTW divided by the length of the real path.
# Brackets cover the training seeds; the figure below shows how much wider the perturbations spread.

# %%
packaged = {}
for name in ("papalexi2021", "cross_study", "kang2018", "waddington"):
    try:
        packaged[name] = tables.read_table("described", name, "similarity")
    except ResultsError as error:
        record.say(f"Not shown: {error}")
for name, rows in packaged.items():
    against = rows[rows["Against"] == "real"]
    record.say(f"**{name}**, {against['Perturbation'].nunique()} perturbations, against the real cells:")
    record.say(tables.markdown(tables.similarity_table(rows).drop(columns="System")))

# %% [markdown]
# One number a row hides how the perturbations differ.
# The figure shows them all: for each algorithm and perturbation the mean over seeds of what the twin gains on doing nothing, as a share of do-nothing's distance.

# %%
shown = ["straight_line", "experimental", "PPO", "PPO_restart", "TRPO", "two_stage", "alternating"]
fig, panels = plt.subplots(1, len(packaged), figsize=(3.6 * len(packaged), 4.2), squeeze=False)
gains = {}
for ax, (name, rows) in zip(panels[0], packaged.items(), strict=True):
    rows = rows[rows["Against"] == "real"]
    wide = rows.groupby(["Perturbation", "Algorithm"])["dtw"].mean().unstack()
    gains[name] = (1 - wide.div(wide["do_nothing"], axis=0))[shown]
    for i, algorithm in enumerate(shown):
        values = gains[name][algorithm].to_numpy()
        spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(i + spread, np.sort(values), s=12, color=plots.COLOURS[algorithm])
    ax.axhline(0, color=plots.COLOURS["do_nothing"], ls="--", lw=1.2)
    ax.set_xticks(range(len(shown)), shown, rotation=90, fontsize=9)
    ax.set(title=name)
panels[0, 0].set_ylabel("share of do-nothing's DTW gained")
plots.show(
    fig,
    "gain-by-perturbation",
    "One panel a dataset: for the straight line, the experimental twin and each policy the share of do-nothing's DTW "
    "distance that it gains, one dot a perturbation in rising order, with a dashed line at zero.",
)
lines = []
for name, gain in gains.items():
    rows = packaged[name][packaged[name]["Against"] == "real"]
    told = rows[rows["Algorithm"] == "two_stage"].groupby("Perturbation")["twin_score_dtw"].mean()
    for algorithm in shown[1:]:
        ahead = int((gain[algorithm] > gain["straight_line"]).sum())
        lines.append(
            (
                name,
                algorithm,
                f"{gain[algorithm].mean():+.1%}",
                f"{int((gain[algorithm] > 0).sum())} of {len(gain)}",
                f"{ahead} of {len(gain)}",
                f"{int(told.notna().sum())} of {len(told)}",
            )
        )
columns = [
    "dataset",
    "twin",
    "mean gain",
    "nearer than do-nothing",
    "nearer than the straight line",
    "scores that can be resolved",
]
record.say(tables.markdown(pd.DataFrame(lines, columns=columns)))

# %% [markdown]
# Where few scores can be resolved, the cells themselves do not tell the perturbation from doing nothing, and no twin can be blamed or praised.
# Being nearer than do-nothing is the first test, being nearer than the straight line the second; a twin has skill on a perturbation if it passes both.
#
# The paper compares its two twins with one another, too.
# The next table has the distance from the in-silico to the experimental twin beside the distance from each to the real cells.

# %%
lines = []
for name, rows in packaged.items():
    mean = rows.groupby(["Algorithm", "Against"])["dtw"].mean()
    for algorithm in ("PPO", "TRPO", "two_stage"):
        lines.append(
            (
                name,
                algorithm,
                f"{mean[algorithm, 'experimental']:.3f}",
                f"{mean[algorithm, 'real']:.3f}",
                f"{mean['experimental', 'real']:.3f}",
                f"{mean['do_nothing', 'real']:.3f}",
            )
        )
columns = ["dataset", "in-silico twin", "DTW to the experimental twin", "to the real cells"]
columns += ["experimental twin to the real cells", "do-nothing to the real cells"]
record.say(tables.markdown(pd.DataFrame(lines, columns=columns)))

# %% [markdown]
# Compare the third column with the fourth and fifth.
# The two twins' paths are smooth means that begin at the same point, so they are near to one another without being near to the cells; agreement of two models is not agreement with an experiment.

# %% [markdown]
# ## Limitations
#
# - A real trajectory is an order of cells that were measured once, not a time course. The packaged tables take pseudotime on every dataset, so that they can be compared.
# - The root is the control medoid, the middle of the controls. Distances to it grow in all directions, so early bins are 'typical controls', not 'early cells'.
# - Mean paths hide spread: two populations with the same mean path and different variance get the same DTW. Chapter 12 puts the E-distance and W1 of whole populations beside it.
# - The twin is held fixed in the bootstrap; the interval covers the sampling of real cells, not of training seeds. The brackets of the packaged table cover the seeds.
#
# ## What this does not show
#
# A high twin score says that a mean path in a learned latent space is near another.
# It does not say that the simulated mechanism is the biological one, that the perturbation acts through the genes that the policy adjusts, or that the policy would work on a perturbation it has not seen.
# The straight line, which knows no mechanism at all, makes that plain whenever it wins.
#
# ## Key takeaways
#
# - With two points DTW is twice Eq. 12, and there is nothing to warp.
# - The printed second column is not Eq. 12; its ratios to the first fit the true Wasserstein distance. A reversed trajectory has a Wasserstein distance of zero.
# - A distance needs two marks beside it, two real halves and do-nothing, and a twin has skill only if it also beats the straight line.
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

# %% tags=["check-1"]
import numpy as np

from twinlib.page.record import attempt
from twinlib.evaluation import similarity


def check_1(eq12_and_w1):
    a, b = np.random.default_rng(1).normal(size=(2, 20))
    eq12, w1 = eq12_and_w1(a, b)
    assert abs(eq12 - similarity.mean_absolute_difference(a, b)) < 1e-9, f"Eq. 12 should not be {eq12:.3f}"
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

# %% tags=["check-2"]
import numpy as np

from twinlib.page.record import attempt


def check_2(twin_score):
    rng = np.random.default_rng(2)
    floor, nothing = rng.normal(1.0, 0.1, 500), rng.normal(3.0, 0.1, 500)
    assert abs(twin_score(nothing.mean(), nothing, floor)) < 1e-9, "do-nothing must score 0"
    assert abs(twin_score(floor.mean(), nothing, floor) - 1) < 1e-9, "the floor must score 1"
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
            table[i, j] = cost + min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])
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

# %% tags=["check-3"]
import numpy as np

from twinlib.page.record import attempt
from twinlib.evaluation import similarity


def check_3(warp):
    late = warp([9.0, 0.0, 1.0], [0.0, 1.0])
    assert late > 0, (
        "the first point of the first series, 9, must be aligned with something and cost something"
    )
    a, b = np.random.default_rng(3).normal(size=(2, 12))
    expected = similarity.dtw(a, b)[0]
    assert abs(warp(a, b) - expected) < 1e-9, f"Eq. 10 gives {expected:.3f} here, not {warp(a, b):.3f}"


attempt("11.3", check_3, warp)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): Eq. 10-12, Figures 4-6, Tables 3, 6, 9.
# - Sakoe and Chiba, *Dynamic programming algorithm optimization for spoken word recognition* (IEEE Trans. ASSP 1978).
# - Haghverdi, Buettner, Wolf, Buettner and Theis, *Diffusion pseudotime robustly reconstructs lineage branching* (Nature Methods 2016).
# - Flamary et al., *POT: Python Optimal Transport* (JMLR 2021).
# - Meert et al., *dtaidistance* (software, KU Leuven).

# %%
print(record.stamp_line())
