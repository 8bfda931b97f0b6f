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
# # 13. Escaping local optima: the title's claim, where the answer is known
#
# The paper's title says that a two-stage algorithm escapes local optima of the Waddington landscape.
# To test that, one needs a landscape whose valleys, barriers and best policy are known.
# This chapter takes such a landscape, fixes an experiment before it is run, and reads the answer from its table: does a trust-region warm start help proximal policy optimization to escape, where, by how much, and through what.

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - say below which strength of control no policy can escape, and how long the shortest escape takes (15 minutes);
# - draw the return of a policy as a surface, find its local optima, and follow a learner across it (15 minutes);
# - tell an error that fell from a fate that changed (10 minutes);
# - compare algorithms by tuning curves and by arrivals with intervals and pairs of seeds, and say what the first stage does (20 minutes);
# - find a bug that turns a failed escape into a success (10 minutes).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("twinlib") is None:
    raise ModuleNotFoundError(
        "twinlib is not installed: run `pip install -r requirements.txt` in a copy of this book, "
        "or set its address once with `make home URL=...` so that this cell can install it."
    )
import twinlib

# %%
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from twinlib.page import plots, record, surface
from twinlib.landscapes.potential import quasi_potential
from twinlib.landscapes.myeloid import FATES, GENES, gene_vector, minimal_clamps
from twinlib.landscapes.optimal_control import best_return, shortest_pulse, value_iteration
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.environment.known_answers import (
    ConstantToggle,
    MyeloidConfig,
    MyeloidDynamics,
    ToggleConfig,
    ToggleDynamics,
)
from twinlib.errors import ResultsError
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.random_settings import draw, training_config
from twinlib.policy.training import make_generators, train
from twinlib.results.escape_curves import LANDSCAPES, Escapes, crossing_paths
from twinlib.results.judged import in_words
from twinlib.results.tuning_curves import BUDGETS, diverged

plots.style()
torch.set_num_threads(1)
#: Self-activation a of the three landscapes, the bound on a push, and its price.
BARRIERS, STRENGTH, PRICE = {"low": 1.0, "middle": 1.1, "high": 1.2}, 0.3, 0.05
escapes = {}
for name in LANDSCAPES:
    try:
        escapes[name] = Escapes.of(name)
    except ResultsError as error:
        record.say(f"{name} is left out. {error}")
toggles = {name: known for name, known in escapes.items() if name.startswith("toggle")}

# %% [markdown]
# ## The question
#
# [Chapter 1](01_waddington_landscape.ipynb) kept three meanings of 'escape' apart: a cell leaves a basin, an intervention removes the basin, and a learner leaves a poor policy.
# The paper's claim is about the third, and its evidence is about none of them: its landscape is not known, so that nobody can say what there was to escape from, and its second stage hardly trained ([chapter 12](12_replication.ipynb)).
#
# Here a cell of the two-gene toggle switch starts in A and should end in B.
# Between them lies the progenitor, a third stable state, which is nearer to B than A is.
# The policy sees the cell and the time and pushes both genes, each by a bounded amount, 40 times.
# It is rewarded as in the paper, by the fall of the squared error to the target, and it pays for its pushes, as in the released code.
# Success is not the error.
# Success is the basin in which the cell stands at the end: let go there, it would settle in B.
#
# Two things are recorded for every run, because they differ: did the cells *leave A*, and did they *reach B*.

# %% [markdown]
# ## The ground: what no algorithm can beat
#
# Without noise the switch is a set of two differential equations, and the questions have exact answers.
# A constant push of strength $u$, gene 1 down and gene 2 up, removes the attractor A when $u$ passes a threshold $u^*$: there the attractor and the saddle beside it merge, so that the drift and the determinant of its Jacobian vanish together.
# The switch is monotone: a stronger push in that direction keeps every path ahead of a weaker one, so that below $u^*$ no schedule of pushes, however clever, gets out.

# %%
still = ToggleSwitch(noise=0.0)
places = still.attractors
threshold = still.escape_threshold(places["A"], (-1, 1))
one_gene = still.escape_threshold(places["A"], (0, 1))
second = still.escape_threshold(places["progenitor"], (0, 1))
ends = str(still.basin(still.settle(places["A"], np.array([0.0, 0.3]), time=200.0)))
assert ends == "progenitor" and np.isinf(second)
record.glue("escape-threshold", round(threshold, 4))
record.say(
    f"Leaving A needs a push of **u\\* = {threshold:.4f}** on both genes. Activating the target gene alone needs "
    f"{one_gene:.4f}, and with 0.3 the cell then ends in the **{ends}**; from there activation alone never reaches B, "
    "however strong."
)

# %% [markdown]
# The plainest policy is chance.
# Below the threshold 400 random schedules, each push at its bound in one direction or the other, should all fail.


# %%
@torch.no_grad()
def chance(strength, n=400):
    """Share of random schedules at full strength that end outside A, and in B, without noise."""
    dynamics = ToggleDynamics(ToggleConfig(switch=still, strength=strength), 1, n)
    dynamics.reset(make_generators([0], "environment"))
    dice = torch.Generator().manual_seed(1)
    for _ in range(dynamics.horizon):
        dynamics.step(torch.randint(0, 2, (1, n, 2), generator=dice) * 2.0 - 1)
    end = dynamics.final_latent
    return float((dynamics.basin(end) != dynamics.basin(dynamics.start)).float().mean()), float(
        dynamics.success(end).float().mean()
    )


below = chance(0.99 * threshold)
assert below == (0.0, 0.0)
record.say(
    f"At 0.99 u\\* random schedules leave A in {below[0]:.0%} of 400 tries and reach B in {below[1]:.0%}."
)

# %% [markdown]
# ### Value iteration against the differential equation
#
# Above the threshold there is a shortest pulse.
# One way to it integrates the equations under a constant push at a relative tolerance of $10^{-8}$ and bisects for the moment at which the path enters B's basin.
# Another way knows nothing of pulses: value iteration tries nine controls in every state of a grid, and finds the least time from each.
# The two must agree within one time step and the time in which the path crosses one grid cell.

# %%
rows = []
for barrier, a in BARRIERS.items():
    circuit = ToggleSwitch(a=a, noise=0.0)
    pulse = shortest_pulse(circuit, STRENGTH)
    values = value_iteration(circuit, STRENGTH, size=161, dt=0.1, longest=30.0)
    start = circuit.attractors["A"]
    # The slowest stretch of the path decides how long one grid cell takes.
    tilt, x, slowest = STRENGTH * np.array([-1.0, 1.0]), start, np.inf
    for _ in range(round(pulse / 0.05)):
        x = circuit.advance(x, tilt, None, 0.05)
        slowest = min(slowest, np.linalg.norm(circuit.drift(x, tilt)))
    allowed = 0.1 + values.grid[1] * np.sqrt(2) / slowest
    found = float(values.at(start))
    assert abs(found - pulse) <= allowed
    rows.append(
        (
            barrier,
            a,
            circuit.escape_threshold(start, (-1, 1)),
            circuit.escape_threshold(circuit.attractors["progenitor"], (-1, 1)),
            pulse,
            found,
            allowed,
        )
    )
pd.DataFrame(
    rows,
    columns=[
        "barrier",
        "self-activation a",
        "u* out of A",
        "u* progenitor to B",
        "shortest pulse (ODE)",
        "value iteration",
        "allowed difference",
    ],
).set_index("barrier").round(3)

# %% [markdown]
# These are the three landscapes of the experiment.
# All have the same bound on the control, 0.3.
# The tilt $a$ deepens the progenitor: on the high barrier the way from there to B needs more push than the way out of A, and nearly the whole bound.

# %% [markdown]
# ## The trap
#
# An optimiser does not move on the landscape of cells.
# It moves on the return as a function of the policy's parameters.
# The smallest policy that can be drawn has two parameters: constant pushes on gene 1 and gene 2.
# Its return is computed on a grid, once without any noise and once as a learner meets it, with noise in the cell and in the action.

# %%
axis = torch.linspace(-1, 1, 41)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
START_NOISE = -1.0  # log standard deviation
config = ToggleConfig(
    switch=ToggleSwitch(a=BARRIERS["middle"], noise=0.005), strength=STRENGTH, dt=0.25, l1=PRICE
)


@torch.no_grad()
def returns_of(controls, config, log_std=None, draws=1):
    """Mean return [m] and end state [m, draws, 2] of constant controls [m, 2], with Gaussian actions or without."""
    dynamics = ToggleDynamics(config, 1, len(controls) * draws)
    dynamics.reset(make_generators([0], "environment"))
    dice, mean = torch.Generator().manual_seed(2), controls.repeat_interleave(draws, 0)
    total = torch.zeros(len(mean))
    for _ in range(dynamics.horizon):
        noise = 0 if log_std is None else np.exp(log_std) * torch.randn(mean.shape, generator=dice)
        total += dynamics.step((mean + noise).unsqueeze(0)).reward[0]
    end = dynamics.final_latent[0]
    return total.view(-1, draws).mean(1), dynamics.basin(end).view(-1, draws)


quiet = dataclasses.replace(config, switch=dataclasses.replace(config.switch, noise=0.0))
plain, basin = returns_of(grid, quiet)
noisy, _ = returns_of(grid, config, START_NOISE, draws=16)
plain, noisy, basin = plain.view(41, 41).numpy(), noisy.view(41, 41).numpy(), basin.view(41, 41).numpy()


def local_optima(height):
    """Indices of grid points that no neighbour exceeds, and that exceed at least one."""
    padded = np.pad(height, 1, constant_values=-np.inf)
    around = np.stack(
        [
            padded[1 + i : 1 + i + len(height), 1 + j : 1 + j + len(height)]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if i or j
        ]
    )
    return np.argwhere((height >= around.max(0)) & (height > around.min(0)))


names = list(config.switch.attractors)
tops = pd.DataFrame(
    [
        (round(float(axis[i]), 2), round(float(axis[j]), 2), names[basin[i, j]], plain[i, j])
        for i, j in local_optima(plain)
    ],
    columns=["push on gene 1", "push on gene 2", "ends in", "return"],
).sort_values("return", ascending=False, ignore_index=True)
values = best_return(config.switch, STRENGTH, config.horizon * config.interval, PRICE, config.target)
greatest = float(values.at(config.switch.attractors[config.start]))
record.say(
    f"The surface has **{len(tops)}** local optima; their cells end in {', '.join(sorted(set(tops['ends in'])))}. "
    f"The best constant push earns {plain.max():.2f}, the best policy of all, by value iteration, "
    f"{greatest:.2f}: it stops pushing when the cell is across."
)
tops.round(3)

# %% [markdown]
# Doing nothing is a local optimum: a weak push costs more than it gains while the cell stays in A.
# Activating gene 2 alone is another one, and its cells end in the progenitor.
# Without the cost of a push neither would be one, because more push is then never worse; the paper's trap needs a price on action, which its released code has and its text leaves out.
#
# Now each algorithm learns such a policy, three seeds each, with the setting that its tuning chose below, and leaves its path on the surface: the mean push that it applied in each iteration.

# %%
walkers = ("PPO", "TRPO", "two_stage", "alternating")
walks, final_basins = {}, {}
chosen = toggles["toggle_middle"].facts["chosen"] if "toggle_middle" in toggles else {}


def setting_of(name):
    """The training of an algorithm at its tuned setting on the middle barrier, or at draw 0 without one."""
    number = chosen.get(name, "s00").removeprefix("s")
    plain = training_config(name, draw(int(number) if number.isdigit() else 0), 30_000)
    return dataclasses.replace(plain, steps_per_iteration=1000, hidden=(16, 16))


for name in walkers:
    blind = ConstantToggle(config, 3, 1000 // config.horizon)
    train(blind, setting_of(name), [0, 1, 2])
    walks[name] = torch.stack(blind.pushes).numpy()
    last = torch.from_numpy(walks[name][-3:].mean(0)).float()
    final_basins[name] = [names[int(b)] for b in returns_of(last, quiet)[1][:, 0]]

fig, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True)
ticks = axis.numpy()
for panel, height, title in ((axes[0], plain, "no noise"), (axes[1], noisy, "as a learner meets it")):
    drawn = panel.pcolormesh(ticks, ticks, height.T, cmap="cividis", shading="nearest", vmin=-2, vmax=3)
    panel.set(xlabel="push on gene 1 (share of the bound)", title=f"Return of a constant push: {title}")
axes[0].contour(ticks, ticks, basin.T, levels=[0.5, 1.5], colors="white", linewidths=1)
for _, top in tops.iterrows():
    axes[0].plot(top.iloc[0], top.iloc[1], "o", color="white", mec="black", ms=9)
for name, walk in walks.items():
    for r in range(3):
        axes[1].plot(
            *walk[:, r].T, color=plots.COLOURS[name], linewidth=1.4, label=name if r == 0 else None, zorder=3
        )
        axes[1].plot(*walk[-1, r], "o", color=plots.COLOURS[name], mec="white", ms=8, zorder=4)
axes[0].set_ylabel("push on gene 2 (share of the bound)")
legend = axes[1].legend(loc="lower left", frameon=True, facecolor="white")
fig.colorbar(drawn, ax=axes, label="return")
plots.show(
    fig,
    "return-surface-paths",
    "Two maps of the return over constant pushes on gene 1 and gene 2. Left, without noise: white lines part the "
    "regions whose cells end in A, in the progenitor and in B, and circles mark the local optima, one in each "
    "region at least. Right, with noise: paths of four learners, three seeds each, from no push towards the upper "
    "left, with a dot at each end.",
    "The trap as a picture: local optima of the return (circles) and each learner's path.",
)
record.say(
    "Where the pushes that were learned last would take a noiseless cell: "
    + "; ".join(f"{name}: {', '.join(ends)}" for name, ends in final_basins.items())
    + "."
)

# %% [markdown]
# This picture has two parameters and the experiment has a network, which may push by state and time.
# The picture says why there is something to escape from; the experiment says who escapes.

# %% [markdown]
# ## The design, fixed before the run
#
# The rules are those of every other comparison in this book ([chapter 10](10_two_stage.ipynb)): PPO, TRPO, two_stage and alternating get the same random settings on each landscape by itself, three seeds each, and the start noise of the actions is one of the settings, because a first version of this experiment found that it decides more than the algorithm does.
# A setting is chosen by its return, not by its success, since the return is what a user of an algorithm sees, on noise that no training saw; then every arm runs with twenty fresh seeds.
# Restarts are one of the arms: PPO from three fresh starts, each as long as twice the median time in which PPO first arrives, and the start with the best return is kept.
# One command runs a landscape: `python -m experiments escape_tuned --dataset toggle_middle --out DIR`.
#
# The best policy of all, by value iteration, stands beside them on the toggle switch: it knows the circuit and earns the most that any policy can.

# %%
for name, known in escapes.items():
    facts, tuning = known.facts, known.runs[known.runs.experiment == "tuning"]
    best = facts.get("optimum", {})
    record.say(
        f"**{name}**: {tuning.setting.nunique()} settings of {tuning.model.nunique()} algorithms, {facts['steps']:,} "
        f"environment steps a seed; settings that diverge or earn less than nothing: "
        + ", ".join(
            f"{model} {int(told.sum())}"
            for model, told in diverged(tuning).groupby(level="model", sort=False)
        )
        + (
            f". Greatest return {best['return']:.2f}, greatest success {best['success']:.3f}."
            if best
            else "."
        )
    )

# %% [markdown]
# ## Results: what tuning buys
#
# The curves show the share of cells that arrive under the best of k settings: k are drawn, the one with the best return is taken, and its success is averaged over all draws.
# The bands hold the chance of the drawn settings and of seeds.

# %%
if escapes:
    fig, axes = plt.subplots(1, len(escapes), figsize=(3.4 * len(escapes), 3.8), squeeze=False, sharey=True)
    for panel, (name, known) in zip(axes[0], escapes.items(), strict=True):
        for model, rows in known.curves(BUDGETS).groupby("model", sort=False):
            panel.plot(rows.k, rows["mean"], color=plots.COLOURS[model], label=model)
            panel.fill_between(rows.k, rows.low, rows.high, color=plots.COLOURS[model], alpha=0.12)
        panel.set(title=name, xlabel="settings tried, k")
    axes[0, 0].set(ylabel="share of cells that arrive", ylim=(-0.03, 1.03))
    axes[0, 0].legend(fontsize=8)
    plots.show(
        fig,
        "escape-tuning-curves",
        "Share of cells that arrive under the best of k random settings against k, one panel a landscape, one line with "
        "a band for each of four algorithms.",
        "What a budget of tuning buys for the escape.",
    )

# %% [markdown]
# ## Results: who arrives
#
# A final policy acts by its mean, on fresh noise, for 200 cells.
# A run *arrived* if at least half of its cells end in the target's basin (of the myeloid network: have the target's fate after release).
# Rates over seeds carry Wilson's interval.

# %%
arrivals = {name: known.arrivals().set_index("model") for name, known in escapes.items()}
if arrivals:
    display(pd.concat(arrivals, names=["landscape"]).round(3))

# %% [markdown]
# ### The answer in one figure

# %%
if arrivals:
    fig, axes = plt.subplots(1, len(arrivals), figsize=(3.2 * len(arrivals), 4.6), squeeze=False, sharey=True)
    for panel, (name, table) in zip(axes[0], arrivals.items(), strict=True):
        for k, (model, row) in enumerate(table.iterrows()):
            rate = row["arrived"] / row["seeds"]
            low, high = max(0.0, rate - row["low"]), max(0.0, row["high"] - rate)
            panel.errorbar(k, rate, [[low], [high]], color=plots.COLOURS[model], fmt="o", ms=6, capsize=3)
        panel.set_xticks(range(len(table)), table.index, rotation=90, fontsize=8)
        panel.set(title=name)
    axes[0, 0].set(ylabel="share of seeds that arrive", ylim=(-0.03, 1.03))
    plots.show(
        fig,
        "escape-answer",
        "Share of twenty seeds whose final policy arrives, with Wilson intervals, one panel a landscape and one dot an "
        "arm, doing nothing and the best policy of all among them.",
        "Who escapes, every arm tuned by the same settings.",
    )

# %% [markdown]
# ### The answer in one paragraph

# %%
RIVALS = ("PPO", "TRPO", "second_stage_after_plain", "second_stage_alone", "PPO_random_restarts")


def told(gap):
    """What an interval says about more or less escape."""
    if gap.low > 0:
        return "more cells arrive with the two stages"
    return "fewer cells arrive with the two stages" if gap.high < 0 else "no difference can be told"


for rival in RIVALS:
    here = {n: known.gap("two_stage", rival) for n, known in escapes.items() if rival in arrivals[n].index}
    said = "; ".join(f"{name}: {told(gap)} ({in_words(gap)})" for name, gap in here.items())
    record.say(f"**two_stage less {rival}**, share of cells, paired by seed: {said or 'not run'}.")

# %% [markdown]
# The second row asks whether the combination beats its first part alone, and the third and fourth what the first stage does: they have the same second stage, after plain gradient steps of the same KL divergence, or after none.
# The verdicts, corrected for their number, stand on the page [Claims](../book/claims.md).
#
# ### Steps to the first arrival
#
# A run arrives for the first time when half of an iteration's cells, with their noisy actions, end in the target.
# Some runs never do, so a mean would be wrong; the share of runs that have arrived by a step is right whatever the others do.

# %%
watched = {n: known for n, known in escapes.items() if known.runs.first_reach.notna().any()}
if watched:
    fig, axes = plt.subplots(1, len(watched), figsize=(3.6 * len(watched), 4.0), squeeze=False, sharey=True)
    for panel, (name, known) in zip(axes[0], watched.items(), strict=True):
        for model in (*ALGORITHMS,):
            first = known.arm(model)["first_reach"].sort_values()
            n, first = len(first), first.dropna()
            x = np.r_[0, first, known.facts["steps"]] / 1000
            y = np.r_[0, np.arange(1, len(first) + 1), len(first)] / n
            panel.step(x, y, where="post", color=plots.COLOURS[model], label=model, linewidth=1.6)
        panel.set(title=name, xlabel="environment steps (thousands)")
    axes[0, 0].set(ylabel="share of seeds that have arrived", ylim=(-0.02, 1.02))
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    plots.show(
        fig,
        "first-arrival",
        "Share of seeds that have arrived for the first time by a number of environment steps, one step curve an arm, "
        "one panel a landscape.",
        "Steps to the first arrival while learning.",
    )

# %% [markdown]
# ### What the settings do
#
# Over all settings that were tried, how does each of them go with the share of cells that arrive?
# A rank correlation of random draws is no proof of a cause, but the draws were made without looking at the outcome.

# %%
lines = []
for name, known in escapes.items():
    tuning = known.runs[known.runs.experiment == "tuning"]
    values = pd.DataFrame(
        {s: dataclasses.asdict(draw(int(s.removeprefix("s")))) for s in tuning.setting.unique()}
    ).T
    for model, own in tuning.groupby("model", sort=False):
        success = own.groupby("setting")["success"].mean()
        used = draw(0).used_by(model)
        relation = {k: success.corr(values[k].astype(float), method="spearman") for k in used}
        lines.append({"landscape": name, "algorithm": model} | relation)
if lines:
    display(pd.DataFrame(lines).set_index(["landscape", "algorithm"]).round(2))

# %% [markdown]
# ## Cells crossing, under each policy
#
# The map below plays the final policies of the experiment on the middle barrier.
# Dark is where uncontrolled cells gather.
# Choose a policy, then play it or move the time by hand.

# %%
if "toggle_middle" in toggles:
    paths, upper = crossing_paths("toggle_middle")
    potential = quasi_potential(ToggleSwitch(a=BARRIERS["middle"], noise=0.02), size=60, upper=upper)
    colour_of = np.minimum(potential.u, 10) / 10
    judge_by = ToggleDynamics(config, 1, 1)
    shown, texts = {}, {}
    for name, whole in paths.items():
        path = whole[:, ::2]
        inside = judge_by.basin(torch.from_numpy(path.copy()).float()).numpy()
        counts = [[int((step == k).sum()) for k in range(len(names))] for step in inside]
        shown[name] = path
        texts[name] = [
            f"time {t * config.interval:.1f}: "
            + ", ".join(f"{n} in {place}" for n, place in zip(count, names, strict=True))
            for t, count in enumerate(counts)
        ]
    surface.show_crossing(
        colour_of,
        shown,
        texts,
        "policies",
        "Map of the toggle switch with three dark wells, A at the lower right, the progenitor in the middle and B at the "
        "upper left; dots are cells that start in A and move under the chosen policy for 20 time units.",
        upper=upper,
        markers=[(*place, name) for name, place in config.switch.attractors.items()],
    )

# %% [markdown]
# ## Many genes: a small error and the wrong fate
#
# The myeloid network has eleven genes and four fates, and enumeration gives the smallest sets of genes that carry one fate into another.
# The next cell prints what it takes from the erythrocyte to the monocyte.
# It also prints $R^2$ over genes of the spurious state, into which Pu1 alone leads: most of the way is done by that measure, and the fate is wrong.

# %%
clamps = minimal_clamps("erythrocyte", "monocyte")
fates_of = MyeloidDynamics(MyeloidConfig(), 1, 1)
patterns = {name: fates_of._pattern(name).numpy() for name in FATES}
goal = patterns["monocyte"]
r2 = {name: 1 - ((p - goal) ** 2).sum() / ((goal - goal.mean()) ** 2).sum() for name, p in patterns.items()}
record.say(
    f"Smallest clamps: {'; '.join(' '.join(f'{g}{chr(43) if v else chr(45)}' for g, v in c.items()) for c in clamps)}. "
    f"R2 over genes against the monocyte: erythrocyte {r2['erythrocyte']:.2f}, spurious state {r2['spurious']:.2f}, "
    f"monocyte {r2['monocyte']:.2f}."
)

# %% [markdown]
# The tables above have the myeloid network as a landscape of its own: every gene may be pushed by the full range of its clamp, nothing is charged for it, so that there is no trap of the kind above, and success is the fate after release.
# Does the share of the error that a policy removes say whether its cells have the fate?

# %%
if "myeloid" in escapes:
    own = escapes["myeloid"].runs
    own = own[own.success.notna() & (own.model != "do_nothing")]
    rank = own[["return", "success"]].corr(method="spearman").iloc[0, 1]
    close = own[own["return"] > 0.9 * own["return"].max()]
    record.say(
        f"Over {len(own)} policies the rank correlation of return and success is {rank:+.2f}. Of the {len(close)} that "
        f"earn nine tenths of the best return or more, the share of cells with the fate lies between "
        f"{close.success.min():.0%} and {close.success.max():.0%}."
    )

# %% [markdown]
# ## Real cells
#
# With `drift="density"` real cells slide towards where cells are dense, and the components of their density are basins ([chapter 5](05_environment.ipynb)).
# The same arms were tuned and trained there on three sets of cells: monocytes with and without interferon (`kang2018_monocytes`), the CRISPR screen (`papalexi2021`) and the blood cells under four stimuli (`chi11`).
# They are judged on cells whose target lies in another basin than their start: which share leaves its basin, and which share arrives in that of its target?
# No optimum is known, so only differences between algorithms say anything, and doing nothing is one of the rows, because the drift moves cells by itself.

# %%
for name in ("kang2018_monocytes", "papalexi2021", "chi11"):
    if name not in escapes:
        continue
    rows = escapes[name].runs.query("experiment == 'main'").groupby("model", sort=False)
    table = rows[["left", "success", "return"]].mean()
    for rival in ("do_nothing", "PPO"):
        gaps = {model: escapes[name].gap(model, rival) for model in table.index if model != rival}
        table[f"arrived, less {rival}"] = pd.Series({m: in_words(gap) for m, gap in gaps.items()})
    record.say(f"**{name}**, {escapes[name].arm('PPO').shape[0]} seeds:")
    display(table.rename(columns={"success": "arrived"}).round(3).fillna(""))

# %% [markdown]
# ## Limitations
#
# - The landscapes have two genes and three states; the high barrier is high for this control, not for cells.
# - One price of action and one horizon were used. Without the price the return has one optimum and nothing to escape from; with a much larger one the progenitor is the best place to stay.
# - All settings come from one published distribution; another one would give other curves. The choice is made by return: a tuning by success would tell another story where the two part.
# - A run counts as arrived when half of its cells arrive; the share of cells is printed beside it, because that cut is a choice.
# - Where PPO never arrives its restarts have no time of their own, and each start gets the whole budget.
#
# ## What this does not show
#
# It does not show what happens on the landscape of a real cell, which nobody knows.
# It does not show that the paper's runs met a local optimum, nor that they did not.
# It does not show that TRPO or PPO is better in general: an answer on three landscapes with one network and one noise is an answer there.
# The rows of real cells say which algorithm moves model cells across components of a fitted density, not that a cell would follow.
#
# ## Key takeaways
#
# - Escape has [an exact threshold](#the-ground-what-no-algorithm-can-beat): below it every algorithm fails, and must.
# - A learner's local optima lie on [the surface of returns](#the-trap), and here a price on action makes them.
# - Leaving A and reaching B are two results, and both are counted.
# - [The answer](#the-answer-in-one-paragraph) is printed from the table with its intervals; what the first stage does is told by the same second stage without it.
# - An error can fall while [the fate is wrong](#many-genes-a-small-error-and-the-wrong-fate).

# %% [markdown]
# ## Exercises
#
# ### Exercise 13.1. An interval for an escape rate
#
# Write `interval(k, n)`: the lower and upper end of Wilson's 95 % interval for `k` escapes in `n` runs (take $z = 1.96$).
# With $p = k/n$ its centre is $(p + z^2/2n)/(1 + z^2/n)$ and its half width $\frac{z}{1 + z^2/n}\sqrt{p(1-p)/n + z^2/4n^2}$.


# %% tags=["exercise-1"]
def interval(k, n):
    p = k / n
    half = 1.96 * (p * (1 - p) / n) ** 0.5
    return p - half, p + half


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def interval(k, n):
#     z, p = 1.96, k / n
#     centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
#     half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
#     return centre - half, centre + half
# ```
#
# The interval of the stub has no width at 0 or 20 escapes of 20: it claims to be certain after 20 runs.
#
# </details>

# %% tags=["check-1"]
from twinlib.page.record import attempt
from twinlib.evaluation.statistics import wilson_interval


def check_1(interval):
    for k, n in ((0, 20), (7, 20), (20, 20)):
        low, high = interval(k, n)
        expected = wilson_interval(k, n)
        assert abs(low - expected[0]) < 1e-3 and abs(high - expected[1]) < 1e-3, (
            f"{k} of {n}: expected {expected[0]:.3f} to {expected[1]:.3f}, got {low:.3f} to {high:.3f}"
        )


attempt("13.1", check_1, interval)

# %% [markdown]
# ### Exercise 13.2. The median of a race that some never finish
#
# Write `median_steps(first)`: the number of steps by which half of the runs have escaped, from a list in which `None` stands for a run that never did.
# Return `None` when fewer than half did.
# With an even number of runs take the smallest number of steps by which at least half have escaped.


# %% tags=["exercise-2"]
def median_steps(first):
    escaped = sorted(x for x in first if x is not None)
    return escaped[len(escaped) // 2]


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def median_steps(first):
#     escaped = sorted(x for x in first if x is not None)
#     needed = (len(first) + 1) // 2
#     return escaped[needed - 1] if len(escaped) >= needed else None
# ```
#
# The stub takes the median of those that escaped, so an algorithm looks fast by failing often.
#
# </details>

# %% tags=["check-2"]
from twinlib.page.record import attempt


def check_2(median_steps):
    assert median_steps([3000, 1000, 2000]) == 2000, "with every run escaped it is the middle one"
    assert median_steps([1000, None, 5000, 9000]) == 5000, "half of four runs are two"
    assert median_steps([1000, None, None]) is None, "fewer than half escaped"


attempt("13.2", check_2, median_steps)

# %% [markdown]
# ### Exercise 13.3. Find the silent bug
#
# Somebody judges a policy by whether the cell is nearer to B than to A at the end.
# The function runs, the rates look plausible, and they favour algorithms that stop half-way.
# Mend `success` so that it says whether a cell would settle in B if it were let go.

# %% tags=["exercise-3"]
import numpy as np

from twinlib.landscapes.toggle_switch import ToggleSwitch

switch = ToggleSwitch(a=1.1, noise=0.0)


def success(x):
    """Whether cells in the states x [n, 2] count as arrived, boolean [n]."""
    a, b = switch.attractors["A"], switch.attractors["B"]
    return np.linalg.norm(x - b, axis=-1) < np.linalg.norm(x - a, axis=-1)


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
# from twinlib.landscapes.toggle_switch import ToggleSwitch
#
# switch = ToggleSwitch(a=1.1, noise=0.0)
#
#
# def success(x):
#     return switch.basin(x) == "B"
# ```
#
# A cell in the progenitor with gene 2 pushed up a little is nearer to B than to A, and falls back when let go.
# A distance to the target is an error, and an error does not know where a basin ends.
#
# </details>

# %% tags=["check-3"]
import numpy as np

from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.page.record import attempt


def check_3(success):
    switch = ToggleSwitch(a=1.1, noise=0.0)
    places = switch.attractors
    assert success(places["B"][None])[0] and not success(places["A"][None])[0], "A and B themselves"
    pushed = places["progenitor"] + np.array([-0.02, 0.05])
    assert not success(pushed[None])[0], "a pushed progenitor settles in the progenitor again"
    x = np.random.default_rng(0).uniform(0, 2.2, size=(50, 2))
    right = np.linalg.norm(switch.settle(x, time=200.0) - places["B"], axis=-1) < 0.1
    assert (np.asarray(success(x)) == right).all(), "let the cells settle, and compare"


attempt("13.3", check_3, success)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): the claim; Algorithm 1, Remark 3.1.
# - Wells, Kath and Motter 2015, *Physical Review X* 5:031036: control of noisy switches; the circuit's parameters.
# - Huang, Guo, May and Enver 2007, *Developmental Biology* 305:695: the switch of blood progenitors.
# - Falcone and Ferretti 2013, *Semi-Lagrangian approximation schemes for linear and Hamilton-Jacobi equations* (SIAM): value iteration on a grid.
# - Krumsiek, Marr, Schroeder and Theis 2011, *PLoS ONE* 6:e22649: the myeloid network.
# - Wilson 1927, *Journal of the American Statistical Association* 22:209: the interval of a rate.
# - Ahmed, Le Roux, Norouzi and Schuurmans 2019, *Understanding the impact of entropy on policy optimization* (ICML): noise in the action smooths the surface of returns.

# %%
print(record.stamp_line())
