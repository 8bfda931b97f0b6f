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
# - compare algorithms by escape rates with intervals and pairs of seeds, and name a cause by adding one part at a time (20 minutes);
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

from twinlib.page import plots, record, surface
from twinlib.landscapes.potential import quasi_potential
from twinlib.landscapes.myeloid import FATES, GENES, gene_vector, minimal_clamps
from twinlib.landscapes.optimal_control import shortest_pulse, value_iteration
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.environment.known_answers import (
    ConstantToggle,
    MyeloidConfig,
    MyeloidDynamics,
    ToggleConfig,
    ToggleDynamics,
)
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.trust_region import TrustRegionConfig
from twinlib.policy.training import TrainingConfig, make_generators, train
from twinlib.results.escape import (
    BARRIERS,
    causes,
    changes,
    chosen_runs,
    compare,
    escape_claims,
    escape_results,
    interval_text,
    named_cause,
    one_at_a_time,
    rate,
    recorded_design,
    recorded_paths,
    recorded_settings,
    summary,
)
from twinlib.results.escape_design import training_config
from twinlib.evaluation.statistics import paired_difference

plots.style()
torch.set_num_threads(1)
runs, manifest = escape_results("runs"), escape_results("manifest")
DESIGN, settings = recorded_design(), recorded_settings()
CONTESTANTS = list(manifest["tuning"]["chosen_step"])

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
for barrier in DESIGN.barriers[:3]:
    circuit = ToggleSwitch(a=barrier.a, noise=0.0)
    pulse = shortest_pulse(circuit, barrier.strength)
    values = value_iteration(circuit, barrier.strength, size=161, dt=0.1, longest=30.0)
    start = circuit.attractors["A"]
    # The slowest stretch of the path decides how long one grid cell takes.
    tilt, x, slowest = barrier.strength * np.array([-1.0, 1.0]), start, np.inf
    for _ in range(round(pulse / 0.05)):
        x = circuit.advance(x, tilt, None, 0.05)
        slowest = min(slowest, np.linalg.norm(circuit.drift(x, tilt)))
    allowed = 0.1 + values.grid[1] * np.sqrt(2) / slowest
    found = float(values.at(start))
    assert abs(found - pulse) <= allowed
    rows.append(
        (
            barrier.name,
            barrier.a,
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
recorded = escape_results("settings")["toggle"]["middle"]
config = ToggleConfig(**recorded | {"switch": ToggleSwitch(**recorded["switch"])})


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
noisy, _ = returns_of(grid, config, DESIGN.log_std, draws=16)
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
best_by_end = tops.groupby("ends in")["return"].max()
record.say(
    f"The surface has **{len(tops)}** local optima; their cells end in {', '.join(sorted(set(tops['ends in'])))}. "
    f"The best constant push earns {plain.max():.2f}, the best policy of all, by value iteration, "
    f"{manifest['optimum']['middle']['return']:.2f}: it stops pushing when the cell is across."
)
tops.round(3)

# %% [markdown]
# Doing nothing is a local optimum: a weak push costs more than it gains while the cell stays in A.
# Activating gene 2 alone is another one, and its cells end in the progenitor.
# Without the cost of a push neither would be one, because more push is then never worse; the paper's trap needs a price on action, which its released code has and its text leaves out.
#
# Now each algorithm learns such a policy, three seeds each, with the step sizes of the experiment, and leaves its path on the surface: the mean push that it applied in each iteration.

# %%
walkers = ("PPO", "TRPO", "two_stage", "alternating")
walks, final_basins = {}, {}
for name in walkers:
    blind = ConstantToggle(config, 3, DESIGN.steps_per_iteration // 40)
    train(blind, training_config(DESIGN, settings[f"main-{name}-middle"], 30_000), [0, 1, 2])
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
# One frozen table in the package holds every setting of the experiment, and one command runs it: `python -m experiments escape --out DIR`.
# Every contestant has the same steps, networks, minibatches, discount and start noise.
# The price of a push and the start noise were chosen in pilots with PPO and TRPO on seeds of their own, so that neither always fails nor always arrives; without a price both arrived.
# So the design was fixed before this run, and not before every run.
# Every contestant that learns is tuned on one thing, its step size: small, medium or large, on seeds of its own on the middle barrier, and the step with the highest return is kept.
# The return, not the success, chooses, because the return is what a user of an algorithm sees.

# %%
steps = {name: ("small", "medium", "large")[k] for name, k in manifest["tuning"]["chosen_step"].items()}
design = manifest["design"]
record.say(
    f"**{manifest['runs']:,} runs** of {design['timesteps']:,} environment steps: {design['seeds']} seeds of each "
    f"setting, and {manifest['tuning']['runs']} runs of tuning that are counted and not judged. "
    f"A push costs {design['l1']} per step at the bound, the weight of the released reward; the noise is "
    f"D = {design['barriers'][0]['noise']}; the actions start at a standard deviation of exp({design['log_std']:g})."
)
labels = {name: algorithm.label for name, algorithm in ALGORITHMS.items()}
labels |= {
    "PPO_entropy": "PPO with an entropy bonus",
    "PPO_random_restarts": "PPO from three fresh starts that share the steps",
}
pd.DataFrame({"what it is": labels, "step size kept": steps}).rename_axis("contestant")

# %% [markdown]
# Two yardsticks stand beside them.
# Random search draws constant pushes and keeps the one with the best return, at the same number of steps: the cheapest honest rival.
# Value iteration knows the circuit and earns the most that any policy can.

# %% [markdown]
# ## Results: who leaves A, and who reaches B
#
# A final policy acts by its mean, on fresh noise, for 200 cells.
# A run *reached B* if at least half of its cells end in B's basin; it *left A* if at least half end outside A's.
# Rates over seeds carry Wilson's interval.

# %%
pd.concat({barrier: summary(runs, barrier) for barrier in BARRIERS}, names=["barrier"]).round(3)

# %% [markdown]
# Below the threshold the same contestants were run without noise, and the table must say zero for each of them.

# %%
under = runs[(runs["experiment"] == "main") & (runs["barrier"] == "below")]
assert under["success"].max() == 0 and under["left"].max() == 0
record.say(
    f"Below the threshold, {len(under)} runs of {under['contestant'].nunique()} contestants: the largest share of "
    f"cells that left A in any run is {under['left'].max():.0f}."
)

# %% [markdown]
# ### The answer in one figure


# %%
def error_bar(panel, x, found, colour, **style):
    """A rate with its Wilson interval."""
    panel.errorbar(
        x,
        found["rate"],
        [[max(0.0, found["rate"] - found["low"])], [max(0.0, found["high"] - found["rate"])]],
        color=colour,
        fmt="o",
        ms=7,
        capsize=3,
        **style,
    )


one = one_at_a_time(runs, DESIGN.ablation_barrier)
fig, axes = plt.subplots(2, 2, figsize=(11, 8.2), sharey=True)
everyone = [*CONTESTANTS, "random_search", "value_iteration"]
for k, name in enumerate(everyone):
    for b, barrier in enumerate(BARRIERS):
        error_bar(
            axes[0, 0],
            b + (k - 4.5) * 0.085,
            rate(chosen_runs(runs, name, barrier)),
            plots.COLOURS[name],
            label=name if b == 0 else None,
        )
axes[0, 0].set_xticks(range(3), [f"{b} barrier" for b in BARRIERS])
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
ppo = rate(chosen_runs(runs, "PPO", DESIGN.ablation_barrier))
for panel, varied, label in (
    (axes[0, 1], "warm_start", "steps of the warm start"),
    (axes[1, 0], "delta", "trust region delta"),
    (axes[1, 1], "beta", "weight of the KL penalty, beta"),
):
    part = one[one["varied"] == varied].reset_index(drop=True)
    panel.axhspan(ppo["low"], ppo["high"], color=plots.COLOURS["PPO"], alpha=0.12, linewidth=0)
    panel.axhline(ppo["rate"], color=plots.COLOURS["PPO"], linestyle="--", linewidth=1, label="PPO")
    for k, row in part.iterrows():
        error_bar(
            panel,
            k,
            row,
            plots.COLOURS["two_stage"],
            mec="black" if row["main"] else plots.COLOURS["two_stage"],
        )
    panel.set_xticks(range(len(part)), [f"{v:g}" for v in part["value"]])
    panel.set(xlabel=label, title=f"two_stage, {DESIGN.ablation_barrier} barrier")
    panel.legend(loc="lower left")
axes[0, 0].set(title="All contestants", ylim=(-0.03, 1.03))
for panel in axes[:, 0]:
    panel.set_ylabel("share of runs that reach B")
plots.show(
    fig,
    "escape-answer",
    "Four panels of escape rates with Wilson intervals. Top left: ten contestants on three barriers. The other "
    "three: two_stage on the middle barrier against the length of its warm start, delta and beta, with PPO as a "
    "dashed line and band; the main setting has a black rim.",
    "Does a warm start help PPO escape? Rates over 20 seeds; black rim: the main setting.",
)

# %% [markdown]
# ### The answer in one paragraph


# %%
def verdict(found):
    """What an interval says about more or less escape."""
    if found["low"] > 0:
        return "more cells reach B with the warm start"
    return "fewer cells reach B with the warm start" if found["high"] < 0 else "no difference can be told"


answer = {row["dataset"]: row for row in escape_claims(runs)}
against_restart = {row["dataset"]: row for row in escape_claims(runs, "two_stage", "PPO_restart")}
against_trpo = {row["dataset"]: row for row in escape_claims(runs, "two_stage", "TRPO")}
record.say(
    "**Does a TRPO warm start help PPO escape?** "
    + " ".join(f"On the {b} barrier: {verdict(row)} ({row['number']})." for b, row in answer.items())
    + " Against PPO with the same restart: "
    + "; ".join(f"{b}: {verdict(row)}" for b, row in against_restart.items())
    + ". Against TRPO that goes on to the end, with the second stage as the change: "
    + "; ".join(
        f"{b}: {verdict(row)}".replace("the warm start", "two stages") for b, row in against_trpo.items()
    )
    + f". Through what, on the {DESIGN.ablation_barrier} barrier? {named_cause(runs, DESIGN.ablation_barrier)} "
    + "In words: through the size of the steps and the noise at the start, and not through the KL target, the "
    + "penalty, the critic or the restart; the tables below show each."
)

# %% [markdown]
# Every other contestant against PPO, paired by seed: the difference in the share of cells that end in B.

# %%
pairs = []
for name in everyone[1:]:
    for barrier in BARRIERS:
        found = compare(runs, (name, ""), ("PPO", ""), barrier)
        pairs.append(
            (name, barrier, f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}], p {found.p_value:.3f}")
        )
pd.DataFrame(pairs, columns=["contestant", "barrier", "text"]).pivot(
    index="contestant", columns="barrier", values="text"
).loc[everyone[1:], list(BARRIERS)]

# %% [markdown]
# ### Steps to the first escape
#
# A run escapes for the first time when half of an iteration's cells, with their noisy actions, end in B.
# Some runs never do, so a mean would be wrong; the share of runs that have escaped by a step is right whatever the others do.

# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 4.0), sharey=True)
for panel, barrier in zip(axes, BARRIERS, strict=True):
    for name in [*CONTESTANTS, "random_search"]:
        first = chosen_runs(runs, name, barrier)["first_reach"].sort_values()
        n, first = len(first), first.dropna()
        x = np.r_[0, first, DESIGN.timesteps]
        y = np.r_[0, np.arange(1, len(first) + 1), len(first)] / n
        panel.step(x, y, where="post", color=plots.COLOURS[name], label=name, linewidth=1.6)
    panel.set(title=f"{barrier} barrier", xlabel="environment steps")
    panel.set_xticks([0, 20_000, 40_000, 60_000], ["0", "20k", "40k", "60k"])
axes[0].set(ylabel="share of runs that have reached B", ylim=(-0.02, 1.02))
axes[0].legend(fontsize=8)
plots.show(
    fig,
    "first-escape",
    "Share of runs that have reached B for the first time by a number of environment steps, one step curve for each "
    "of nine contestants, on three barriers.",
    "Steps to the first arrival in B while learning.",
)

# %% [markdown]
# ## Through what: one part at a time
#
# A warm start changes several things at once.
# Each row of the first table adds one of them to PPO and compares with PPO, paired by seed.
# *Policy of the natural gradient* is TRPO for the first stage and plain PPO for the second, without target and penalty.
# *Critic trained first* has a trust region so small that the policy stands still while the critic learns.
# *KL target* stops PPO's updates where two_stage's trust region would.
# *Exploration noise* starts PPO with the standard deviation that the warm start hands over.

# %%
table = causes(runs, DESIGN.ablation_barrier)
table.round(3)

# %% [markdown]
# The rows that are two_stage without something keep its tuned step sizes, which are larger than PPO's.
# So the second table stays inside two_stage: one thing is changed and all else kept, step sizes included.

# %%
changed = changes(runs, DESIGN.ablation_barrier)
changed.round(3)

# %%
ladder = changed["cells in B, minus two_stage"]
assert ladder["warm start 0"] < ladder["warm start 3000"] < ladder["warm start 30000"] < ladder["delta 0.01"]
assert changed.loc["critic warmed up alone", "high"] < 0 and changed.loc["warm start 0", "high"] < 0
assert changed.loc["delta 0.01", "low"] > 0 and changed.loc["noise exp(0)", "low"] > 0
for neutral in ("no KL target", "no KL target, no penalty", "beta 0.01", "beta 1"):
    assert changed.loc[neutral, "low"] < 0 < changed.loc[neutral, "high"]
wide = compare(runs, ("two_stage", "noise exp(0)"), ("PPO", "noise exp(0)"), DESIGN.ablation_barrier)
noisy_rates = {
    name: rate(chosen_runs(runs, name, DESIGN.ablation_barrier, "noise exp(0)"))
    for name in ("PPO", "two_stage")
}
record.say(
    f"At two_stage's own step sizes, taking the natural gradient steps away costs {-ladder['warm start 0']:.2f} of the "
    f"cells in B, and training only the critic in their place costs {-ladder['critic warmed up alone']:.2f}. "
    f"A trust region of 0.01 gains {ladder['delta 0.01']:.2f}, more noise at the start {ladder['noise exp(0)']:.2f}. "
    f"With that noise PPO reaches B in {interval_text(noisy_rates['PPO'])} of its runs and two_stage in "
    f"{interval_text(noisy_rates['two_stage'])}, a difference of {wide.mean:+.3f} in the cells."
)

# %% [markdown]
# So the cause has a name, and the cells above assert each part of it.
#
# - **Step size control.** The steps of the natural gradient help where the proximal steps are too large: at the same large learning rate, the longer the warm start, the more cells arrive. A small trust region does more than a long warm start; it is handed over as the KL target, so that it limits both stages.
# - **Exploration noise.** All of it can be had without a warm start: actions that start noisier carry PPO and two_stage across alike. Large steps shrink the noise, as the last table below shows, but the noise that is left at the end does not by itself tell who arrived.
# - **Not the KL target as tuned, not the penalty, not the critic, not the restart.** Leaving out target and penalty changes nothing that can be told, and a critic trained first, without the policy, does harm.

# %% [markdown]
# Step sizes were tuned for each contestant, so a row that takes two_stage's settings may also differ from PPO in its learning rate.
# The tuning's own runs show what the step size alone does.

# %%
tuning = runs[runs["experiment"] == "tuning"].groupby(["contestant", "setting"])
tuned = tuning[["success", "training_return", "final_log_std"]].mean().unstack("setting")
tuned.columns = [
    f"{ {'success': 'cells in B', 'training_return': 'return', 'final_log_std': 'last log s.d.'}[a] }, "
    f"{ {'step 0': 'small', 'step 1': 'medium', 'step 2': 'large'}[b] }"
    for a, b in tuned.columns
]
ranked = runs[(runs["barrier"] == DESIGN.ablation_barrier) & (runs["experiment"] != "tuning")]
learned = ranked[ranked["final_log_std"].notna()]
relation = learned[["final_log_std", "success", "return_share"]].corr(method="spearman")
record.say(
    f"Over all {len(learned)} trained policies on the {DESIGN.ablation_barrier} barrier, the rank correlation of the "
    f"last log standard deviation with the share of cells in B is {relation.iloc[0, 1]:+.2f}, and with the return "
    f"{relation.iloc[0, 2]:+.2f}."
)
tuned.loc[list(CONTESTANTS)].round(2)

# %% [markdown]
# ## Cells crossing, under each policy
#
# The map below plays the final policies of the experiment on the middle barrier.
# Dark is where uncontrolled cells gather.
# Choose a policy, then play it or move the time by hand.

# %%
paths, upper = recorded_paths(), escape_results("settings")["paths"]["upper"]
potential = quasi_potential(ToggleSwitch(a=DESIGN.barrier("middle").a, noise=0.02), size=60, upper=upper)
colour_of = np.minimum(potential.u, 10) / 10
judge_by = ToggleDynamics(config, 1, 1)
shown, texts = {}, {}
for name in everyone:
    path = paths[f"main-{name}-middle"][:, ::2]
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
# Four algorithms learn the way for a short time, three seeds each, with the error as their reward.
# Every gene may be pushed by the full range of its clamp, and nothing is charged for it, so that there is no trap of the kind above.
# Success is the fate after release.


# %%
@torch.no_grad()
def myeloid_run(algorithm, seeds=(0, 1, 2), steps=8_000):
    """Train on the network and judge the mean action: share of the error removed, and shares of fates."""
    settings = TrainingConfig(
        algorithm=algorithm,
        timesteps=steps,
        warm_start_steps=steps // 6,
        steps_per_iteration=1000,
        hidden=(32, 32),
        log_std=-0.5,
        proximal=ProximalConfig(learning_rate=1e-3, minibatch_size=250),
        fine_tuning=ProximalConfig(learning_rate=1e-3, minibatch_size=250, beta=0.1),
        trust_region=TrustRegionConfig(delta=0.05),
    )
    with torch.enable_grad():
        policy, _ = train(MyeloidDynamics(MyeloidConfig(), len(seeds), 50), settings, seeds)
    test = MyeloidDynamics(MyeloidConfig(), len(seeds), 100)
    obs, total = test.reset(make_generators([s + 500 for s in seeds], "environment")), 0
    for _ in range(test.horizon):
        step = test.step(policy.act(obs))
        obs, total = step.obs, total + step.reward
    ends = test.fates(test.final_latent)
    first = (test.start - test.target).square().mean()
    return {"share of the error removed": float((total / first).mean())} | {
        f"fate: {name}": float((ends == name).mean()) for name in ("monocyte", "spurious", "neutrophil")
    }


myeloid = pd.DataFrame({name: myeloid_run(name) for name in walkers}).T
myeloid["other fates"] = 1 - myeloid.iloc[:, 1:].sum(axis=1)
best = myeloid["share of the error removed"].idxmax()
record.say(
    f"The largest share of the error, {myeloid['share of the error removed'].max():.0%}, is removed by {best}, and "
    f"{myeloid.loc[best, 'fate: monocyte']:.0%} of its cells are monocytes after release. "
    f"Over all four, between {myeloid['fate: monocyte'].min():.0%} and {myeloid['fate: monocyte'].max():.0%} are."
)
myeloid.rename_axis("algorithm").round(3)

# %% [markdown]
# ## Real cells
#
# With `drift="density"` real cells slide towards where cells are dense, and the components of their density are basins ([chapter 5](05_environment.ipynb)).
# The same algorithms were trained there on the perturbations of one data set.
# They are judged on cells whose match lies in another basin than their start: which share leaves its basin, and which share arrives in the basin of its match?
# No optimum is known, so only differences between algorithms say anything, and doing nothing is one of the rows, because the drift moves cells by itself.

# %%
density = escape_results("density")
still_rows = density[density["algorithm"] == "do_nothing"].set_index("seed")
ppo_rows = density[density["algorithm"] == "PPO"].set_index("seed")
rows = {}
for name in dict.fromkeys(density["algorithm"]):
    own = density[density["algorithm"] == name].set_index("seed")
    rows[name] = own[["left", "arrived", "return"]].mean().to_dict()
    for label, other in (("do_nothing", still_rows), ("PPO", ppo_rows)):
        if name not in ("do_nothing", label):
            found = paired_difference(own["arrived"], other["arrived"])
            rows[name][f"arrived, minus {label}"] = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
record.say(
    f"`{density['dataset'].iloc[0]}`: {int(density['cells'].iloc[0])} cells whose match lies in another basin, "
    f"{density['seed'].nunique()} seeds."
)
pd.DataFrame(rows).T.astype(object).where(lambda t: t.notna(), "").rename_axis("algorithm")

# %% [markdown]
# ## Limitations
#
# - The landscapes have two genes and three states; the high barrier is high for this control, not for cells.
# - One price of action and one horizon were used. Without the price the return has one optimum and nothing to escape from; with a much larger one the progenitor is the best place to stay.
# - Step sizes were tuned among three, with few seeds, and everything else is a shared default. Another start noise changes every rate, as the table of parts shows.
# - The parts of the warm start were added on one barrier only; why the warm start helps on the high one is inferred from there, not tested there.
# - The step was tuned by return on the middle barrier. For two_stage that chose the largest step, and a smaller one would have escaped more often: a tuning by success would tell another story.
# - A run counts as arrived when half of its cells arrive; the share of cells is printed beside it, because that cut is a choice.
# - The myeloid runs on this page are short and few; they show what success must mean, and do not rank algorithms.
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
# - Leaving A and reaching B are two results; most contestants that fail do leave A.
# - [The answer](#the-answer-in-one-paragraph) is printed from the table with its intervals, and [the cause](#through-what-one-part-at-a-time) comes from adding one part at a time.
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
