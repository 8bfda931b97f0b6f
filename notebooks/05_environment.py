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
# # 5. The environment
#
# **Question.** A policy learns by acting, and a cell cannot be acted on a million times.
# What simulated place can a policy act in, what is it paid for there, and how much can be earned without any reinforcement learning?
#
# **Answer.** A state is an encoded cell, an action adjusts the genes that were kept ([chapter 2](02_data_preparation.ipynb)) and moves the encoded cell, and the pay is the fall of the error to what real perturbed cells look like.
# Returns are in units of what the best constant action of each perturbation takes away, so that 1 is a good return and doing nothing earns 0; the figure and the sentence below it say what four plain policies earn on this scale.
# Without basins the return has nearly one peak (it is close to concave), and there is little to escape from; [the last third of the page](#is-there-anything-to-escape-from) measures how little, with and without basins.

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
# @title The loop, and what four policies earn in it { display-mode: "form" }
import dataclasses
import warnings

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch

from twinlib.data.pairing import pair
from twinlib.data.preparation import standard
from twinlib.data.sources import available, choose
from twinlib.embedding.train import pretrained
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.units import mean_return
from twinlib.environment.yardsticks import yardstick_policies
from twinlib.page import plots, record

plots.style()
dataset = choose("papalexi2021", "waddington")
prepared = standard(dataset)
pairs = pair(prepared, split="train", method="ot")
world = make_world(
    prepared, pretrained(dataset), pairs=pairs, n_pairs=4000, density=True
)
G, D, A = len(world.genes), world.latent_dim, len(world.action_names)
C, H = world.conditions.shape[1], EnvironmentConfig().horizon
policies = yardstick_policies(world, EnvironmentConfig(), seeds=[0], timesteps=50_000)
quiet = EnvironmentConfig().quiet()  # process noise and kick off
earned = {
    name: float(mean_return(policy, world, quiet).mean())
    for name, policy in policies.items()
}

fig, (loop, bars) = plt.subplots(
    1, 2, figsize=(10, 4.6), gridspec_kw={"width_ratios": [1.4, 1]}
)
SEEN = f"observation\nlatent z: {D}\nperturbation: {C}\ntime: 1"
PREDICTED = "prediction\nx + decode(z)\n- decode(start)"
BOXES = {  # place, text and colour of each station
    "cell": ((0, 2), f"control cell x\n{G} genes", "control"),
    "seen": ((1, 2), SEEN, "real"),
    "action": ((1, 1), f"action a\n{A} numbers\nin [-1, 1]", "insilico"),
    "step": ((1, 0), "latent step\nz + move(a) + noise", "insilico"),
    "profile": ((0, 0), PREDICTED, "real"),
    "reward": ((0, 1), "reward\nfall of the error\nto the target", "perturbed"),
}
ARROWS = (
    ("cell", "seen", "encode"), ("seen", "action", "policy"), ("action", "step", ""),
    ("step", "profile", "decode"), ("profile", "reward", "target"),
)  # fmt: skip
edge = {"boxstyle": "round,pad=0.5", "fc": "white", "lw": 1.6}
stations = {
    name: loop.text(
        *place,
        text,
        ha="center",
        va="center",
        fontsize=10,
        bbox=edge | {"ec": plots.COLOURS[colour]},
    ).get_bbox_patch()
    for name, (place, text, colour) in BOXES.items()
}
line = {"arrowstyle": "-|>", "lw": 1.6, "color": "0.3", "shrinkA": 2, "shrinkB": 2}
for start, end, label in ARROWS:
    (x0, y0), (x1, y1) = BOXES[start][0], BOXES[end][0]
    ends = {"patchA": stations[start], "patchB": stations[end]}
    loop.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=line | ends)
    level, x, y = y0 == y1, (x0 + x1) / 2, (y0 + y1) / 2
    at, align = ((x, y + 0.12), "center") if level else ((x + 0.05, y), "left")
    loop.text(*at, label, ha=align, va="center", fontsize=10)
loop.plot([1, 1.5, 1.5], [0, 0, 2], color="0.3", lw=1.6, zorder=0)
back = line | {"patchB": stations["seen"], "shrinkA": 0}
loop.annotate("", xy=(1, 2), xytext=(1.5, 2), arrowprops=back)
loop.text(1.55, 1, f"{H} times", fontsize=10, rotation=90, va="center")
loop.set(xlim=(-0.38, 1.65), ylim=(-0.4, 2.4))
loop.axis("off")
names = list(earned)[::-1]
shades = [plots.COLOURS[name] for name in names]
bars.barh(names, [earned[name] for name in names], color=shades)
bars.axvline(1, color="0.5", lw=1, ls="--")
bars.axvline(0, color="0.5", lw=1)
bars.set_xlabel("mean return\n(dashed: best constant action)")
plots.show(
    fig,
    "loop",
    "Left: the environment's loop. A control cell is encoded; the observation holds the "
    "latent cell, the perturbation and the time; a policy answers with an action; the "
    "latent cell moves; it is decoded into a prediction, and the fall of its error to the "
    "target is the reward; the moved cell is observed again. Right: mean returns of "
    "doing nothing, random, greedy and pathwise, with a dashed line at 1.",
    "One step of an episode, and what four policies earn in an episode.",
)
record.say(
    f"**On `{dataset}`, without process noise and without a kick at the start, over {len(world):,} training cells: "
    + "; ".join(f"`{name}` {value:+.3f}" for name, value in earned.items())
    + ".** `pathwise` trained for 50,000 steps."
)
assert earned["do_nothing"] == 0.0 < earned["greedy"] and earned["random"] < 0.1

# %% [markdown]
# *How to read it.*
# One round of the loop is a step, and an episode is as many as the arrow says.
# The move is linear in the action, each gene's share along one latent direction; the noise is that of the process, and a *kick* is a random shove at the start of an episode, for how well a perturbation took in a cell.
# `random` draws every action, `greedy` is linear algebra, and `pathwise` is the policies' own network, trained by the exact derivative of the return; [a section below](#yardsticks) tells what each of them is.
#
# *Why learn, if one line of linear algebra earns nearly all?*
# `greedy` is handed the model of a step and every target; a learner sees rewards alone, as it would where nobody has such a model.
# Here the answer is known, so that a learner can be judged by it: this environment tests learners, and is not the shortest way to a prediction.
#
# ## Objectives
#
# After this chapter you can
#
# - name the state, the action, the reward and the end of an episode, and compute each by hand (15 minutes);
# - say what the stochastic kick at the start of an episode stands for, and where it is absent (10 minutes);
# - say in which units observations and rewards are measured, and what a reward for single cells pays for (15 minutes);
# - explain why the end of this horizon is a termination and not a truncation (10 minutes);
# - put a policy between the yardsticks: nothing, random, greedy, pathwise (10 minutes);
# - run any gymnasium agent in the environment (10 minutes);
# - measure what the linear step loses, and say why there is little in this landscape to escape from (15 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
from gymnasium.utils.env_checker import check_env

from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding
from twinlib.environment.greedy import GreedyLinear, best_dose
from twinlib.environment.packaged import packaged_world
from twinlib.environment.rendering import landscape, main_axes
from twinlib.environment.units import blur_share


def seeded(seed):
    """A generator of torch, as every reset takes one."""
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## What is in a world
#
# Chapter 4 asked a model for the perturbed profile at once.
# The paper's in-silico system asks for a path: a policy looks at a control cell and a perturbation, adjusts genes a little, looks again, and is paid for every bit by which the predicted profile comes nearer to an observed one.
# To pose that as a task we need control cells, a target profile for each, an embedding of the perturbation, and the effect of an action on a latent cell.
# Together they are called a *world*: frozen tensors, made once from prepared cells and a trained embedding (`make_world`, in the folded cell above).
#
# Optimal transport inside the training split (chapter 2) matches each perturbed cell to one control.
# From the matches come two targets.
# The *population* target, the default, is the control plus the mean change of its perturbation within its cell context.
# The *cell* target is the matched cell itself.
# Neither is ever shown to the policy, and test cells take no part.
# This page keeps at most 4,000 of the matches, so that it runs in a minute; the tables of chapter 12 use all of them.

# %%
print(f"{len(world):,} matched pairs under {len(world.labels)} perturbations")
print(
    "control and matched cell, genes:     ", tuple(world.x.shape), tuple(world.y.shape)
)
print("control, encoded:                    ", tuple(world.z0.shape))
print("embedding of each perturbation:      ", tuple(world.conditions.shape))
print("latent move for a unit of an action: ", tuple(world.effects.shape))

# %% [markdown]
# ## The plain baseline: doing nothing
#
# Before any action is taken the prediction has to be right about something simple.
# The predicted profile after $t$ steps is
#
# $$\hat y_t = x + \mathrm{decode}(z_t) - \mathrm{decode}(z_0),$$
#
# where $x$ is the observed control and $z_0$ its encoding.
# The decoder contributes changes only; what it cannot reconstruct of $x$ is carried along untouched.
# So a policy that does nothing predicts the control itself, and with noise and kick switched off its reward is zero.
# Not nearly zero: the same numbers are subtracted from themselves.
# The cell below is also all that an agent does: look, act, be paid.

# %%
dynamics = Dynamics(world, quiet, replicas=1, n_cells=256)
obs, total = dynamics.reset([seeded(0)]), torch.zeros(1, 256)
for _ in range(dynamics.horizon):
    action = torch.zeros(1, 256, dynamics.action_dim)  # a policy chooses it from obs
    step = dynamics.step(action)
    obs, total = step.obs, total + step.reward
print("what doing nothing earns:", float(total.abs().max()))
assert float(total.abs().max()) == 0.0

# %% [markdown]
# A prediction of $\mathrm{decode}(z_t)$ alone would have made doing nothing look like a blurred copy of the control.
# Blurring removes the noise of single cells, which lowers the squared error to any other cell.
# The difference form keeps doing nothing from being credited with that, and nothing more.
# A policy that looks at the cell can still move it towards the mean of all cells, and the cell target pays for it; a number for that follows below.
#
# ## State and observation
#
# The state holds the latent cell, the start, the goal and the time.
# The observation is the part of it that the policy may see: the latent cell $z_t$, the embedding of the perturbation, and the step $t$ out of a horizon of $H$.
# Each of its numbers has a mean and a standard deviation that were taken once from the training world, and is shown in those units.
# A network learns slowly from columns a tenth as wide as their neighbours, and the columns of a rare perturbation are just that.

# %%
cells = torch.arange(256)
observation = dynamics.reset([seeded(0)], cells=cells)[0]
print("observation:", tuple(observation.shape), "=", D, "+", C, "+ 1")
plain = observation[:, :-1] * world.units.std + world.units.mean
assert torch.allclose(plain[:, :D], world.z0[cells], atol=1e-4)
assert torch.allclose(plain[:, D : D + C], world.condition[cells], atol=1e-4)
assert torch.all(observation[:, -1] == observation[0, -1])

# %% [markdown]
# The goal is not in it.
# Two cells with the same latent, the same perturbation and different targets look alike to the policy, and the best it can do is the mean of what is to come.
#
# ## The action
#
# An action has one entry in $[-1, 1]$ for each gene of the panel; larger values are cut.
# The latent cell moves by
#
# $$z_{t+1} = z_t + s\, a_t E + \text{noise},$$
#
# where row $g$ of $E$ is the mean, over training controls, of the encoder's Jacobian $\partial z / \partial x_g$.
# One unit of $E$ is one training standard deviation of the gene.
# $E$ says where the encoder would put the cell if this gene had been *measured* one standard deviation higher.
# It does not say what a change of this gene would cause in a living cell: no regulation stands in it.

# %%
action = torch.rand(1, 256, A, generator=seeded(1)) * 2 - 1
by_hand = world.z0[cells] + dynamics.action_scale * action[0] @ world.effects
dynamics.step(action)
difference = float((dynamics.latent[0] - by_hand).abs().max())
print("largest difference to z + s a E:", difference)
assert difference < 1e-5

# %% [markdown]
# **How long is a step?**
# The scale $s$ decides how fast anything can be learned.
# If it is too large, the noise of exploration alone throws a cell past every goal; if it is too small, the horizon ends before the cell has moved.
# The default takes the mean latent distance $d$ between a control and its match, and sets $s$ so that an action drawn uniformly from its box moves the cell by $d/H$, root mean square.
# A policy that moves all genes in one consistent direction goes further than random steps do, so the goal is within reach; a random walk of $H$ such steps stays well inside $d$.
# The scale is a property of the environment: every algorithm meets the same one, and none of them has it tuned.

# %% tags=["hide-input"]
# @title How long is a step here? { display-mode: "form" }
uniform = torch.rand(20_000, A, generator=seeded(2)) * 2 - 1
moves = dynamics.action_scale * uniform @ world.effects
length = float(moves.square().sum(-1).mean().sqrt())
record.say(
    f"Mean distance to the match: {dynamics.distance:.3f} latent units. "
    f"Action scale: **s = {dynamics.action_scale:.4f}** at H = {H}. "
    f"A uniform action moves the cell by {length:.4f}, and d/H is "
    f"{dynamics.distance / H:.4f}."
)
assert abs(length / (dynamics.distance / H) - 1) < 0.02

# %% [markdown]
# ## The reward
#
# The reward of a step is the fall of the squared error in z-scores, in units of $q$, minus a small cost of the action:
#
# $$r_t = \frac{\mathrm{MSE}(\hat y_t, y) - \mathrm{MSE}(\hat y_{t+1}, y)}{q} - \lambda_1 \overline{|a_t|} - \lambda_2 \overline{a_t^2}.$$
#
# Bars are means over the genes, so that the cost of an action does not depend on the size of the panel.
# Without costs the rewards of an episode add up to the error at its start minus the error at its end, over $q$: intermediate errors cancel.
# A policy therefore cannot collect reward by going back and forth, and the return has a meaning outside of reinforcement learning.

# %%
dynamics = Dynamics(world, dataclasses.replace(quiet, l1=0.0, l2=0.0), n_cells=256)
dynamics.reset([seeded(0)], cells=cells)
at_start, total = dynamics.error.clone(), torch.zeros(1, 256)
for _ in range(H - 1):
    total += dynamics.step(action).reward
fall = (at_start - dynamics.error) / dynamics.unit
print("largest |return - fall of the error|:", float((total - fall).abs().max()))
assert torch.allclose(total, fall, atol=1e-3)

# %% [markdown]
# ## The unit, and what single cells pay for
#
# How large a return is good?
# The unit $q$ answers before anything is learned.
# When a world is made, the best constant action of each perturbation is found by gradient, through the dynamics and the decoder, and $q$ is the error that it takes away, averaged over the training cells.
# So doing nothing returns 0 and the best constant action returns 1, on every data set; more than 1 is possible for a policy that looks at the cell.
#
# How much that is depends on the target.

# %% tags=["hide-input"]
# @title How much of the error can be taken away? { display-mode: "form" }
starting = {}
for target in ("population", "cell"):
    aimed = dataclasses.replace(quiet, target=target)
    at_rest = Dynamics(world, aimed, n_cells=len(world))
    at_rest.reset([torch.Generator()], cells=torch.arange(len(world)))
    starting[target] = float(at_rest.error.mean())
gain = world.units.gain
shares = {target: gain[target] / starting[target] for target in gain}
record.say(
    f"Error of doing nothing, in squared z-scores: {starting['population']:.4f} to the "
    f"population target and {starting['cell']:.4f} to the matched cell. The best constant "
    f"action of each perturbation takes away **{gain['population']:.4f}** and "
    f"**{gain['cell']:.4f}**: {shares['population']:.0%} of the first and "
    f"{shares['cell']:.1%} of the second."
)

# %% [markdown]
# A constant action shifts all cells alike.
# A policy that sees the cell can do something else with the cell target: move each cell towards the mean of all cells, because a matched cell has other noise than the control, and the mean has none.
# That is the *blur* again, and it has nothing to do with the perturbation.
# How much of the return is it?
# Take every perturbation's mean change out of the matched cells, so that on average nothing is left to be learned about it, train the same network by the exact gradient on both, and divide.

# %% tags=["hide-input"]
# @title How much of a cell's reward is blur? { display-mode: "form" }
blur_steps = 25_000  # for each of the two networks
blur = blur_share(world, timesteps=blur_steps)
record.say(
    "Share of the cell target's attainable return that is still there without any "
    f"perturbation's mean change, {blur_steps:,} steps on both: **{blur:.0%}**. A policy that is paid for single cells "
    f"is paid {'mostly' if blur > 0.5 else 'in part'} for taking noise away here."
)

# %% [markdown]
# The population target has no such part: by construction its $y$ and $x$ share their noise.
# The book trains on it, and runs the cell target beside it where the paper's words can be read so.
#
# ## The stochastic perturbation
#
# A CRISPR knock-down never works equally well in two cells.
# At the start of an episode the perturbed gene is kicked: the latent cell moves along that gene's row of $E$, downwards for a knock-out or an interference and upwards for an activation.
# The length is that of one training standard deviation of the gene, times an efficacy drawn from Beta(4, 2).
# A complete knock-out may be more than that; one standard deviation is a choice.
# A gene that is not on the panel has no row, and the cell starts where the control was measured.
# The policy sees the kicked cell, and its task is what follows downstream of the kick.

# %%
kicked = [i for i in range(len(world.labels)) if world.kicks[i].abs().sum() > 0]
rows = torch.nonzero(world.label == kicked[0])[0].expand(
    4000
)  # one cell, many episodes
config = dataclasses.replace(EnvironmentConfig(), process_noise=0.0)
noisy = Dynamics(world, config, n_cells=4000)
noisy.reset([seeded(0)], cells=rows)
moved, kick = noisy.latent[0] - world.z0[rows[0]], world.kicks[kicked[0]]
efficacy = (moved @ kick / kick.square().sum()).numpy()
assert abs(efficacy.mean() - 4 / 6) < 0.02  # the mean of Beta(4, 2)

# %% tags=["hide-input"]
# @title Efficacies of the kick, and an episode of doing nothing { display-mode: "form" }
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
grid = np.linspace(0, 1, 200)
left.hist(
    efficacy,
    bins=40,
    density=True,
    color=plots.COLOURS["perturbed"],
    alpha=0.6,
    label="episodes",
)
left.plot(
    grid, 20 * grid**3 * (1 - grid), color=plots.COLOURS["real"], label="Beta(4, 2)"
)
left.set(xlabel="efficacy of the kick", ylabel="density")
left.legend()
noise = Dynamics(world, EnvironmentConfig(), n_cells=60)
noise.reset([seeded(0)], cells=rows[:60])
paths = [noise.latent[0]]
for _ in range(H - 1):
    noise.step(torch.zeros(1, 60, A))
    paths.append(noise.latent[0])
away = (torch.stack(paths) - world.z0[rows[0]]).norm(dim=-1).numpy()
right.plot(away, color=plots.COLOURS["do_nothing"], linewidth=0.7, alpha=0.7)
right.plot(away.mean(1), color=plots.COLOURS["real"], label="mean of 60 episodes")
right.axhline(
    noise.distance,
    color=plots.COLOURS["perturbed"],
    linestyle="--",
    label="distance to a match",
)
right.set(xlabel="step", ylabel="latent distance from the control")
right.legend()
plots.show(
    fig,
    "kick-and-noise",
    alt="Left: histogram of kick efficacies on the Beta(4, 2) curve. Right: distance from "
    "the control over an episode of doing nothing, one line an episode, starting at the "
    "kick and changing by noise; a dashed line marks the mean distance to a matched cell.",
    caption="How strong the kick was in each episode, and doing nothing for an "
    "episode; the kick sets the start, process noise does the rest.",
)
long = float(moved.norm(dim=-1).mean())
record.say(
    f"{len(kicked)} of {len(world.labels)} perturbations have a measured target and a "
    f"kick. For `{world.labels[kicked[0]]}` the mean efficacy of {len(efficacy):,} "
    f"episodes is {efficacy.mean():.3f}; Beta(4, 2) has mean {4 / 6:.3f}. The mean kick is "
    f"{long:.2f} latent units long, {long / noisy.distance:.0%} of the mean distance to a "
    f"match; an episode of doing nothing ends {away[-1].mean():.2f} away from its control."
)

# %% [markdown]
# The right panel does nothing for a whole episode with kick and process noise on.
# The lines start where the kick put them and spread with the square root of time.
# Process noise is given as a share of the step length $d/H$, so that it means the same on every data set.
#
# A perturbation whose target is not on the panel has no kick.
# For it the policy is told which perturbation is meant and sees an unchanged control, so it has to supply the guide's own effect, too.
#
# ## Terminated or truncated?
#
# Some words first.
# The *return* from a step on is the sum of the rewards that follow.
# Often a reward that comes one step later is multiplied by a *discount* $\gamma$ a little below one, a reward two steps later by $\gamma^2$, and so on.
# The *value* of an observation is the mean return from there on.
# An agent learns a *value function* that guesses it, because a guess now is cheaper than waiting for the end.
# Using the guess at the next observation in place of the rewards that follow it is called *bootstrapping*; it has nothing to do with resampling.
#
# Gymnasium distinguishes two ways in which an episode ends.
# *Terminated*: the task is over, and nothing that comes later counts.
# *Truncated*: somebody stopped the clock from outside; the task would have gone on, and the discounted value of the last observation has to be added to the last reward.
# Our episode ends after $H$ steps because the task is to reach a profile in $H$ steps, and the observation carries $t/H$, so that the policy knows how much is left.
# That is a termination.
# Had we hidden the time and cut the episode for convenience, it would have been a truncation.
# Mistaking one for the other is a common bug in published code, and it moves the value function by an amount that can be computed.
#
# Take a reward of 1 in each of $H$ steps and a discount of 0.99.
# The true value at step $t$ is the discounted sum of what is left.
# An agent that takes the end for a truncation adds the discounted value of the last observation to the last reward.
# If nothing else marks the end, its value must satisfy $V = 1 + \gamma V$ at every step.
# That gives $V = 1 / (1 - \gamma)$, the value of a task that never ends.

# %%
gamma = 0.99
true_value = sum(gamma**k for k in range(H))
print(
    f"at the start: {true_value:.2f} if terminated, {1 / (1 - gamma):.0f} if truncated"
)
dynamics.reset([seeded(0)])
for _ in range(H):
    step = dynamics.step(action)
assert bool(step.terminated.all()) and not bool(step.truncated.any())
assert torch.all(step.final_obs[..., -1] > step.obs[..., -1])

# %% [markdown]
# Finished cells are replaced in the same step.
# `final_obs` holds the observation with which the old episode ended, `obs` the start of the new one.
#
# ## Yardsticks
#
# Four policies need no reinforcement learning, and every table of this book shows them; the first figure has their returns.
#
# - `do_nothing`: every action is 0.
# - `random`: every action is drawn uniformly from its box.
# - `greedy`: one constant action a perturbation, from least squares with decoder and dynamics taken as linear.
# - `pathwise`: the policies' own network, trained by the exact derivative of the return in its parameters. The environment is differentiable, so the derivative passes through all $H$ moves and the decoder; nothing is explored, and no value is learned. It takes as many environment steps as an algorithm beside it.
#
# An algorithm's score is told as it is, and as a share of `pathwise`: what the same network can reach here.
#
# ## One dynamics, two interfaces
#
# Gymnasium is the interface that most reinforcement learning libraries speak.
# An environment has two functions.
# `reset` starts an episode and returns an observation.
# `step` takes an action and returns the next observation, the reward, and whether the episode has ended.
#
# `gymnasium.make` gives the single environment, `make_vec` the vector environment, and both call the same batched code.
# Without arguments they run on a small simulated world that comes with the package, the one of chapters 6 to 9; `world=` takes any other.
# A world of your own cells is made as at the top of this page, once they are prepared; [chapter 14](14_your_perturbation.ipynb) reads a file of yours.

# %%
NAME, given = "twinlib/GeneScreen-v0", {"world": world, "config": quiet}
single = gymnasium.make(NAME, **given)
many = gymnasium.make_vec(NAME, num_envs=4, **given)
one_obs, _ = single.reset(seed=0, options={"cell": 3})
four_obs, _ = many.reset(seed=0, options={"cell": [3, 3, 5, 7]})
move = np.full(A, 0.5, dtype=np.float32)
one, four = single.step(move), many.step(np.tile(move, (4, 1)))
print("rewards, single:", round(one[1], 6), " vector:", four[1].round(6))
assert np.allclose(one_obs, four_obs[0], atol=1e-5)
assert np.isclose(one[1], four[1][0], atol=1e-5)

# %% tags=["hide-input"]
# @title Gymnasium's own checker { display-mode: "form" }
with warnings.catch_warnings():
    # It warns that a latent axis has no bound, which is true.
    warnings.simplefilter("ignore")
    check_env(single.unwrapped, skip_render_check=True)
print("gymnasium's checker: passed")

# %% [markdown]
# The vector environment keeps gymnasium's convention `SAME_STEP`: a finished cell is replaced in the same step, `info["final_obs"]` holds what it ended with (`None` for a cell that goes on), and `info["final_info"]` what there was to say about it.

# %%
for _ in range(H - 1):
    info = many.step(np.tile(move, (4, 1)))[-1]
print("final_obs:", info["final_obs"].shape, info["final_obs"].dtype)
print("final_info:", sorted(info["final_info"]))
assert info["_final_obs"].all()

# %% [markdown]
# Now the test that matters to a user: an agent of another library, written without knowledge of ours, trains in the environment.
# Stable-Baselines3 has a vector interface of its own; `stable_baselines3_vec_env` puts ours into its form.
# That one file of `twinlib` imports the library, and only if asked.


# %%
def agent_of_another_library():
    """Stable-Baselines3's PPO, untrained, and 64 of our cells in the form it takes."""
    from stable_baselines3 import PPO
    from twinlib.environment.stable_baselines3 import stable_baselines3_vec_env

    torch.manual_seed(0)
    env = stable_baselines3_vec_env("twinlib/GeneScreen-v0", 64, world=world)
    return PPO("MlpPolicy", env, seed=0, device="cpu", n_steps=32, gamma=0.0)


# %% tags=["hide-input"]
# @title Check it, train it a little, and measure before and after { display-mode: "form" }
if importlib.util.find_spec("stable_baselines3") is None:
    record.say(
        "Stable-Baselines3 is not installed here (`pip install stable-baselines3`): its "
        "PPO run is left out."
    )
else:
    from stable_baselines3.common.env_checker import check_env as check_for_baselines
    from stable_baselines3.common.evaluation import evaluate_policy

    check_for_baselines(gymnasium.make(NAME, world=world).unwrapped)
    agent, marks, more_steps = agent_of_another_library(), [], 8192
    for steps in (0, more_steps):
        if steps:
            agent.learn(steps)
        returns, _ = evaluate_policy(
            agent,
            agent.get_env(),
            n_eval_episodes=640,
            warn=False,
            return_episode_rewards=True,
        )
        marks.append((np.mean(returns), np.std(returns, ddof=1) / len(returns) ** 0.5))
    (before, before_se), (after, after_se) = marks
    better = after - before > 2 * np.hypot(before_se, after_se)
    record.say(
        "Stable-Baselines3's checker passed. Its PPO in 64 cells, deterministic action, "
        f"mean return of {len(returns)} episodes with noise and kick: {before:+.3f} "
        f"(standard error {before_se:.3f}) before and {after:+.3f} (standard error "
        f"{after_se:.3f}) after {more_steps:,} steps. The agent has "
        f"{'' if better else 'not '}improved by more than two standard errors."
    )

# %% [markdown]
# A few thousand steps are far too few for so many genes.
# The cell shows that the interface holds, and no more.
# Chapters 6 to 10 train on the batched dynamics, which steps many cells at a time.
#
# ## What the linear step loses
#
# The step $z + s\,aE$ replaces the encoder by its mean Jacobian.
# `mode="exact"` does the same in expression space: it adds $s\,a$ to the genes of the predicted cell $\hat y_t$ and encodes the result again.
# Doing nothing is still nothing, because the predicted cell of an untouched control is the control.
# Two things then differ from the linear step.
# The encoder is curved, and the round trip through decoder and encoder does not give back all of what had been moved: a change that the decoder writes into the profile is not read back in full.
#
# The action to test it with should be a sensible one.
# We take the greedy one from above.
# Random constant actions stand beside it.


# %%
@torch.no_grad()
def walk(config, action, cells):
    """Latent paths [N, H+1, D] under constant actions [N, A]."""
    dynamics = Dynamics(world, config, n_cells=len(cells))
    start = world.starts(cells.unsqueeze(0), config.target)
    return dynamics.path(lambda obs: action.unsqueeze(0), start)[0]


@torch.no_grad()
def earn(config, action, cells):
    """Returns [N] of an episode under constant actions [N, A]."""
    dynamics = Dynamics(world, config, n_cells=len(cells))
    dynamics.reset([seeded(0)], cells=cells)
    return dynamics.episode(lambda obs: action.unsqueeze(0))[0]


some = torch.randperm(len(world), generator=seeded(0))[:128]
random = torch.rand(128, A, generator=seeded(3)) * 2 - 1
greedy = GreedyLinear(world, quiet).actions[world.label[some]]

# %% tags=["hide-input"]
# @title Linear and exact paths beside each other { display-mode: "form" }
exactly = dataclasses.replace(quiet, mode="exact")
gap, returns = {}, {}
for name, chosen in (("random", random), ("greedy", greedy)):
    linear, exact = (walk(config, chosen, some) for config in (quiet, exactly))
    way = (linear - linear[:, :1]).norm(dim=-1)
    gap[name] = ((exact - linear).norm(dim=-1).mean(0)[1:] / way.mean(0)[1:]).numpy()
    returns[name] = [
        float(earn(config, chosen, some).mean()) for config in (quiet, exactly)
    ]
kept = returns["greedy"][1] / returns["greedy"][0]
record.say(
    "Distance between the ends of linear and exact paths, as a share of the linear path's "
    f"length from start to end: greedy action **{gap['greedy'][0]:.0%}** after one step "
    f"and **{gap['greedy'][-1]:.0%}** after {H}; random actions {gap['random'][0]:.0%} and "
    f"{gap['random'][-1]:.0%}. Return of the greedy action on these cells: "
    f"{returns['greedy'][0]:+.3f} linear, {returns['greedy'][1]:+.3f} exact. "
    + (
        "This is a large loss: less than half of the return is left."
        if kept < 0.5
        else f"With the exact step {kept:.0%} of the return is left."
    )
)

# %% [markdown]
# It should be kept in mind wherever this book speaks of a policy's return: it is a return in a model that is linear in the latent cell.
# The linear step is the default because it is the one the paper's description and code imply, because it is cheap, and because predictions are scored against held-out cells afterwards, in which no such assumption is made.

# %% [markdown]
# ## Is there anything to escape from?
#
# The title of the paper speaks of local optima.
# In this environment the latent cell is a linear function of the actions, the decoder is close to linear, and the return is minus a squared error.
# A squared error of a linear function is convex, so the return is close to concave in the sequence of actions, and a concave function has no local optimum other than the best one.
#
# Two checks follow.
# The first draws the mean return over two random directions in the space of constant actions.
# The second takes single cells and random segments through that space, and counts how often the return in the middle lies below the mean of the returns at the ends, which never happens to a concave function.
# A long segment joins a random action to the same action plus another random one, cut to the box; a short one adds three tenths of that other one.

# %%
sample = torch.randperm(len(world), generator=seeded(5))[:128]
drifting = dataclasses.replace(quiet, drift="density")  # explained further down


def violations(config, spread):
    """Share of random segments whose middle lies below the mean of the ends."""
    generator, below = seeded(7), []
    for _ in range(10):
        ends = torch.rand(2, len(sample), A, generator=generator) * 2 - 1
        ends[1] = (ends[0] + spread * ends[1]).clamp(-1, 1)
        on_the_way = (ends[0], ends.mean(0), ends[1])
        earned = earn(config, torch.cat(on_the_way), sample.repeat(3))
        first, middle, last = earned.split(len(sample))
        below.append((middle < (first + last) / 2 - 1e-5).float().mean())
    return float(torch.stack(below).mean())


# %% tags=["hide-input"]
# @title The return over two random directions, and segments that bend the wrong way { display-mode: "form" }
directions = torch.randn(2, A, generator=seeded(6))
directions = directions / directions.abs().amax(1, keepdim=True)
ticks = torch.linspace(-1, 1, 11)


def surface_of(config):
    """Mean return of the sampled cells [11, 11] under mixtures of the two directions."""
    rows = []
    for b in ticks:
        mixtures = torch.stack([ticks, b.expand(len(ticks))], dim=1) @ directions / 2
        actions = mixtures.repeat_interleave(len(sample), dim=0)
        returns = earn(config, actions, sample.repeat(len(ticks)))
        rows.append(returns.view(len(ticks), -1).mean(1))
    return torch.stack(rows).numpy()


surfaces = {
    name: surface_of(config)
    for name, config in (("no drift", quiet), ("density drift", drifting))
}
fig, axes = plt.subplots(1, 2, figsize=(9.8, 4.6))
for axis, (name, surface) in zip(axes, surfaces.items(), strict=True):
    drawn = axis.contourf(ticks, ticks, surface, levels=14, cmap="cividis")
    fig.colorbar(drawn, ax=axis, label="mean return")
    axis.plot(0, 0, "s", color=plots.COLOURS["perturbed"], label="do nothing")
    axis.set(title=name, xlabel="random direction 1", ylabel="random direction 2")
plots.legend_outside(fig)
plots.show(
    fig,
    "return-surface",
    alt="Mean return over two random directions in action space as filled contours, "
    "without drift and with the density drift; a square marks doing nothing.",
    caption="Mean return of constant actions. Every point is one action, a mixture of two "
    "random directions (at 1, half of a direction whose largest entry is one). Each panel "
    "has its own colour scale.",
)
plain_surface = surfaces["no drift"]
top = np.unravel_index(plain_surface.argmax(), plain_surface.shape)
where = (
    "doing nothing"
    if all(abs(float(ticks[k])) < 1e-6 for k in top)
    else "another action"
)
greedy_return = float(earn(quiet, greedy, some).mean())
at_rest = Dynamics(world, quiet, n_cells=len(some))
at_rest.reset([seeded(0)], cells=some)
some_error = float(at_rest.error.mean())
bent = {
    (name, spread): violations(config, spread)
    for name, config in (("none", quiet), ("density", drifting))
    for spread in (1.0, 0.3)
}
assert max(bent["none", 1.0], bent["none", 0.3]) < 0.05  # close to concave
record.say(
    "Segments that violate concavity without drift: "
    f"**{bent['none', 1.0]:.1%}** of long ones and **{bent['none', 0.3]:.1%}** of short "
    f"ones. Best point of the drawn surface without drift: "
    f"{round(plain_surface.max(), 4) + 0.0:+.4f}, which is {where}; greedy linear optimum, "
    f"one constant action a perturbation: **{greedy_return:+.4f}**, "
    f"{greedy_return * at_rest.unit / some_error:.1%} of the squared error at the start "
    f"({some_error:.4f})."
)

# %% [markdown]
# What violations there are without drift come from the curvature of the decoder.
# In the left panel no mixture of two random directions has to come nearer to the target: a useful direction has to be looked for, and the greedy action is one.
#
# No policy gradient is needed for the greedy optimum.
# It was fitted to the same training targets that the environment pays for, as the policies are.
# Where it is better than they are, they have not yet learned what linear algebra gives at once.
# Where a policy is better, it uses what a constant action cannot: it looks at the cell.
#
# ## A landscape with basins
#
# With `drift="density"` the latent cell also slides towards where training cells are dense:
#
# $$z_{t+1} = z_t - \kappa \nabla U(z_t) + s\, a_t E + \text{noise}, \qquad U = -\log p(z),$$
#
# where $p$ is a Gaussian mixture fitted to the latents of the training cells, its number of components chosen by the Bayesian information criterion.
# Cell states become basins, and leaving one of them costs an effort that has to be kept up.
# The setting `drift_rate` is $\kappa$ times the largest curvature of $U$: the share of its offset that the steepest axis loses in one step.

# %% tags=["hide-input"]
# @title The landscape, and cells that are pushed across it { display-mode: "form" }
plane = main_axes(world)
a, b, U = landscape(world, plane)
flat = (world.z0 @ plane).numpy()
fig, axis = plt.subplots(figsize=(6.6, 5.0))
drawn = axis.contourf(a, b, np.minimum(U, U.min() + 8), levels=16, cmap="cividis_r")
fig.colorbar(drawn, ax=axis, label="U = -log density (nats, cut at 8 above the lowest)")
axis.scatter(
    *flat[::4].T,
    s=3,
    color=plots.COLOURS["control"],
    alpha=0.5,
    linewidths=0,
    label="control cells",
)
path = (walk(drifting, greedy, some)[:12] @ plane).numpy()
for k, line in enumerate(path):
    first = k == 0
    axis.plot(*line.T, color=plots.COLOURS["insilico"], linewidth=1)
    axis.plot(
        *line[0],
        "o",
        color=plots.COLOURS["insilico"],
        markersize=4,
        label="start" if first else None,
    )
    axis.plot(
        *line[-1],
        "x",
        color=plots.COLOURS["perturbed"],
        markersize=7,
        label="end" if first else None,
    )
axis.set(xlabel="latent axis 1", ylabel="latent axis 2")
plots.legend_outside(fig, 3)
plots.show(
    fig,
    "density-landscape",
    alt="The landscape U over the two main latent axes, with control cells as points and "
    "twelve paths of the greedy action, each from a dot to a cross.",
    caption="U of the density projected on the first two principal components of the "
    "control cells. Lines: greedy actions under the drift.",
)

# %% [markdown]
# On this plane the components of the mixture overlap, so the picture need not show one basin for each.
# The projection hides the other latent axes; the counts below use all of them.
#
# What does the drift change?
# The question is one of single cells, so this part takes the cell target.
# Random segments show how much of the return stops being concave.
# The basins show on the way that matters: for each cell take the constant action that, without drift, leads straight to the encoded match, and ask in which basin the cell ends.

# %% tags=["hide-input"]
# @title Who crosses, with and without drift, and what doing nothing earns { display-mode: "form" }
with torch.no_grad():
    goal = torch.cat(
        [
            world.embedding.encode(world.scale(part))
            for part in torch.split(world.y[some], 64)
        ]
    )
way = (goal - world.z0[some]).T / H
straight = torch.linalg.lstsq(dynamics.action_scale * world.effects.T, way).solution.T
matched = {
    name: dataclasses.replace(config, target="cell")
    for name, config in (("without", quiet), ("with", drifting))
}
cell_unit = world.units.gain["cell"]
basin = world.density.component  # the component most responsible for a latent cell
crossing = basin(goal) != basin(world.z0[some])
arrived = {}
for name, config in matched.items():
    end = walk(config, straight, some)[:, -1]
    arrived[name] = int((basin(end) == basin(goal))[crossing].sum())
steps, threshold = torch.linspace(0, 2, 9), 0.005  # in squared z-scores
barrier = {}
for name, config in matched.items():
    line = torch.stack([earn(config, k * straight, some) for k in steps])[:, crossing]
    bend = line[2:] - 2 * line[1:-1] + line[:-2]
    barrier[name] = float((bend.amax(0) > threshold / cell_unit).float().mean())
still = walk(matched["with"], 0 * straight, some)
idle = float(earn(matched["with"], 0 * straight, some).mean())
shift_return = float(earn(matched["without"], greedy, some).mean())
mixed = torch.randperm(len(world), generator=seeded(8))
strange = dataclasses.replace(world, y=world.y[mixed])
strangers = Dynamics(strange, matched["with"], n_cells=len(some))
strangers.reset([seeded(0)], cells=some)
mixed_return = sum(
    float(strangers.step(torch.zeros(1, len(some), A)).reward.mean()) for _ in range(H)
)
stayed = float((basin(still[:, -1]) == basin(world.z0[some])).float().mean())
record.say(
    f"The mixture has **{len(world.density.means)}** components. Left alone, "
    f"**{stayed:.0%}** of the cells stay in their basin. Of {int(crossing.sum())} cells "
    "whose match lies in another basin, the straight action brings "
    f"**{arrived['without']}** there without drift and **{arrived['with']}** with it. "
    "Scaled from nothing to twice its length, that action's return bends upwards somewhere "
    f"for **{barrier['without']:.0%}** of these cells without drift and "
    f"**{barrier['with']:.0%}** with it (bent: a second difference above {threshold} "
    f"squared z-scores, {threshold / cell_unit:.0%} of the unit). Segments that violate "
    f"concavity with the drift: {bent['density', 1.0]:.1%} of long ones, "
    f"{bent['density', 0.3]:.1%} of short ones."
)
record.say(
    f"Doing nothing now earns **{idle:+.2f}**, because the drift moves the cell by itself; "
    f"the greedy action without drift earned {shift_return:+.2f}. With the matched profiles "
    "shuffled over all cells and labels, doing nothing under the drift earns "
    f"{mixed_return:+.2f}, {mixed_return / idle:.0%} of that."
)

# %% [markdown]
# A bend shows that the return is not concave there.
# It does not show a local optimum; that would need a rise on both sides.
#
# With the drift, doing nothing is no longer no change, and every comparison needs a row for it.
# What doing nothing earns against shuffled profiles cannot be knowledge about perturbations.
# A shuffled profile lies further from the cell than its match, so more can be earned against it.
# The drift carries a cell towards a dense region, where it looks more like an average cell.
# An average cell has less noise than a single one, and so a smaller squared error to any target.
# It is the blur once more: the difference form keeps it out of doing nothing only as long as nothing moves.
# So with the drift only a difference to doing nothing says what a policy has learned.
#
# Chapter 13 asks its question about local optima on this landscape and on others whose optimum is known.
#
# ## Doses instead of genes
#
# `twinlib/Cytokine-v0` has no kick and no genes: an action is a dose between 0 and 1 of each cytokine, and the row of $E$ is the mean latent shift that the cytokine caused in training cells.
# Cells respond differently, so a factor $\rho \sim \mathrm{Beta}(4, 2)$, drawn for each episode and not observed, multiplies all doses.
# Take a single cytokine and a linear decoder.
# After $H$ steps of the constant dose $u$ the profile has changed by $\rho u v$, with $v$ the change after a whole episode at dose 1 and response 1.
# Write $c$ for the mean change from the control to the target, $G$ for the number of genes, and $q$ for the unit.
# Up to a constant the expected loss is a parabola in $u$:
#
# $$\ell(u) = \frac1G\, \mathbb{E}\,|c - \rho u v|^2 + H q (\lambda_1 u + \lambda_2 u^2) .$$
#
# Setting its derivative to zero gives
#
# $$u^* = \frac{\mathbb{E}[\rho]\; c \cdot v / G - H q \lambda_1 / 2}{\mathbb{E}[\rho^2]\; |v|^2 / G + H q \lambda_2} .$$
#
# The first cells of this section are simulated, whatever the rest of the page uses.

# %%
cytokines = packaged_world("cytokine")
rows = torch.nonzero(cytokines.label == cytokines.labels.index("G-CSF"))[:, 0]
one = cytokines.rows(rows).only(["G-CSF"])
doses = np.linspace(0, 1, 21)
setting = EnvironmentConfig(process_noise=0.0)


def mean_returns(world, n=2000):
    """Mean return of n cells at each dose, with the same cells and responses."""
    returns = []
    for dose in doses:
        scan = Dynamics(world, setting, n_cells=n)
        scan.reset([seeded(0)], cells=torch.arange(n) % len(world))
        action = torch.full((1, n, 1), float(dose))
        returns.append(sum(float(scan.step(action).reward.mean()) for _ in range(H)))
    return returns


# %% tags=["hide-input"]
# @title The best dose by simulation and in closed form { display-mode: "form" }
curve, optimum = mean_returns(one), best_dose(one, setting)
fig, axis = plt.subplots(figsize=(6.0, 3.8))
axis.plot(doses, curve, color=plots.COLOURS["insilico"], label="simulated mean return")
axis.axvline(
    optimum, color=plots.COLOURS["perturbed"], linestyle="--", label="closed form"
)
axis.set(xlabel="constant dose of G-CSF", ylabel="mean return")
plots.legend_outside(fig)
plots.show(
    fig,
    "best-dose",
    alt="Mean return against a constant dose of one cytokine, with the closed-form optimum "
    "as a dashed line.",
    caption="Mean return of a constant dose: too little leaves the cell short of its "
    "match, too much overshoots.",
)
record.say(
    f"Costs: lambda_1 = {setting.l1:g}, lambda_2 = {setting.l2:g}. Closed-form dose: "
    f"**{optimum:.3f}**; best of the simulated doses: "
    f"**{doses[int(np.argmax(curve))]:.2f}**. They differ by the curvature of the decoder, "
    "which the closed form leaves out, and by the grid."
)

# %% [markdown]
# The same environment on real cells: blood cells with and without interferon beta (`kang2018`).
# One cytokine was given, so that the action is one dose and the closed form applies.

# %% tags=["hide-input"]
# @title The best dose of interferon beta { display-mode: "form" }
if available("kang2018"):
    blood = standard("kang2018")
    treated = make_world(blood, pretrained("kang2018"), n_pairs=1000)
    # Read from the perturbed cells: no gene was perturbed.
    assert treated.action_names == ("IFN-beta",)
    ward = gymnasium.make("twinlib/Cytokine-v0", world=treated)
    check_env(ward.unwrapped, skip_render_check=True)
    real_curve, real_optimum = mean_returns(treated), best_dose(treated, setting)
    best_found = doses[int(np.argmax(real_curve))]
    record.say(
        f"Actions: {', '.join(treated.action_names)}; {len(treated)} matched pairs. "
        f"Closed-form dose: **{real_optimum:.3f}**; best of the simulated doses: "
        f"**{best_found:.2f}**. Mean return there {max(real_curve):+.3f}, at dose 1 "
        f"{real_curve[-1]:+.3f}, at dose 0 {real_curve[0]:+.3f}."
    )
    assert real_curve[0] == 0.0 and abs(best_found - real_optimum) < 0.1
else:
    record.say(
        "The cells of Kang and others cannot be had here, so this part is left out; "
        "name their folder in TWINLIB_DATA_DIR to run it."
    )

# %% [markdown]
# A dose of 1 moves a cell of response 1 by twice the mean shift that the cytokine caused, spread over the horizon.
# The factor of two leaves room: the optimum lies inside of the range, and larger doses overshoot the match.
#
# Several real stimuli on the same kinds of cells come with the package: proteins of blood cells under four stimuli (`chi11`, chapter 2), in which the doses of all four are one action.

# %% tags=["hide-input"]
# @title Greedy doses of four stimuli { display-mode: "form" }
stimulated = standard("chi11")
code, _ = train_embedding(stimulated, EmbeddingConfig(epochs=8))
four_stimuli = make_world(stimulated, code)
four_greedy = GreedyLinear(four_stimuli, setting)
told = [
    f"**{label}** ({', '.join(f'{dose:.2f}' for dose in four_greedy.actions[i])})"
    for i, label in enumerate(four_stimuli.labels)
]
kinds = stimulated.cells.obs["cell_context"].nunique()
record.say(
    f"Greedy doses ({', '.join(four_stimuli.action_names)}) of each stimulus: "
    f"{'; '.join(told)}. Mean return of these constant doses in {kinds} cell types "
    f"together: {float(mean_return(four_greedy, four_stimuli, setting)):+.3f}."
)

# %% [markdown]
# A constant dose is the same for every cell type, and a policy that sees the cell can do better.
#
# `twinlib/Combination-v0` takes genes and doses in one action, and a cytokine that no training cell was given is refused with one sentence.
#
# ## The released configuration
#
# The paper's public code runs another environment.
# The state has 58 numbers (autoencoder, principal components and a graph attention layer with random weights), an episode has a single step, the target is one fixed point for all cells, and the reward is minus the squared distance to it after the step, not a difference.
# The experiments that fill chapter 12 build exactly that environment (`experiments/released_world.py`), and chapter 12 shows both side by side.
# In an episode of one step there is no path, so whatever a trajectory metric says about it is said about two points.

# %% [markdown]
# ## Limitations
#
# The dynamics has no biology in it beyond the encoder.
# There is no regulation, no time constant and no cell cycle; the steps have no unit of time.
# The kick and the efficacy are modelling choices, and the Beta distribution was not fitted to anything.
# The population target is one change a perturbation and cell context: what differs between the cells of one context is not asked for.
# Matched cells are not followed cells: optimal transport picks a partner that is near, and an error to such a partner is smaller than to a cell drawn at random (chapter 2).
#
# ## What this does not show
#
# A policy that earns reward here has learned to move a latent cell towards the mean profile of perturbed cells.
# It has not found the genes that a laboratory would have to adjust: several adjustments with the same sum $aE$ earn exactly the same reward up to the cost, and the environment cannot tell them apart.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A policy moves a cell to its target and back again within one episode. What does it earn, action costs aside?</summary>
#
# Nothing: the rewards add up to the error at the start less the error at the end, and both are the same.
#
# </details>
#
# <details><summary>Two policies are paid for single matched cells, and one of them earns more. Does it know more about the perturbation?</summary>
#
# Not necessarily: moving every cell towards the mean of all cells takes noise away, and the cell target pays for that, too.
# The population target does not.
#
# </details>
#
# <details><summary>The action says 'gene up by one standard deviation'. Is that what the cell would do if the gene were activated in a laboratory?</summary>
#
# No: the row of E is where the encoder would put a cell in which this one gene was measured higher.
# What regulation would do to all other genes does not stand in it.
#
# </details>
#
# ## Key takeaways
#
# - Doing nothing is the control, exactly, and earns exactly zero with noise and kick off.
# - The reward telescopes: the return is the fall of the error, and 1 is what the best constant action of each perturbation earns.
# - Paid for single cells, a policy is paid for taking noise away, too; paid for the population, it cannot be.
# - The end of the horizon is a termination, because the task has $H$ steps and the observation says how many are left.
# - Without drift the return is close to concave; linear algebra finds what a constant action can gain.
# - The density drift turns cell states into basins, and moves cells by itself.
# - The linear step is a strong simplification, and its loss has been measured above.
#
# ## Exercises

# %% [markdown]
# ### Exercise 5.1. The return by hand
#
# Write `total_return(errors, costs)`: the return of an episode from the errors $\mathrm{MSE}(\hat y_0, y), \dots, \mathrm{MSE}(\hat y_H, y)$, in units of $q$, and the costs of its $H$ actions.


# %% tags=["exercise-1"]
def total_return(errors, costs):
    return None


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def total_return(errors, costs):
#     return errors[0] - errors[-1] - sum(costs)
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 5.1 { display-mode: "form" }
from twinlib.page.record import attempt


def check_1(answer):
    got = answer([1.0, 0.7, 0.9, 0.4], [0.01, 0.02, 0.03])
    assert got is not None, "return a number"
    assert abs(got - 0.54) < 1e-9, "the errors in the middle cancel; the costs do not"


attempt("5.1", check_1, total_return)

# %% [markdown]
# ### Exercise 5.2. A blurred do-nothing
#
# Let `decode_encode(x)` be a decoder that shrinks a profile to half of itself.
# Write `two_predictions(x, shrink)` that returns the do-nothing prediction in both conventions: `decode(z)` alone, and `x + decode(z) - decode(z)`.


# %% tags=["exercise-2"]
def two_predictions(x, shrink):
    return None, None


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def two_predictions(x, shrink):
#     return shrink * x, x + shrink * x - shrink * x
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 5.2 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_2(answer):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2000))
    blurred, same = answer(x, 0.5)
    assert blurred is not None and same is not None, "return both predictions"
    assert np.allclose(same, x), (
        "with the second convention doing nothing is the control"
    )
    assert np.allclose(blurred, 0.5 * x), "the first convention is the shrunken profile"
    better = ((x - y) ** 2).mean() - ((blurred - y) ** 2).mean()
    assert better > 0.5, (
        "y is unrelated to x here, and still the blurred prediction has the smaller error"
    )


attempt("5.2", check_2, two_predictions)

# %% [markdown]
# ### Exercise 5.3. Find the silent bug
#
# This vectorised step ran without an error and trained a policy for weeks.
# The returns looked plausible and the value function never fitted the last steps.
# Return the corrected triple `(obs, terminated, final_obs)`.


# %% tags=["exercise-3"]
def step_and_replace(z, t, horizon, fresh):
    """z [N], t [N] -> next observation, end flags, observation at the end."""
    t = t + 1
    terminated = t >= horizon
    z = np.where(terminated, fresh, z)
    final_obs = z
    return z, terminated, final_obs


# %% [markdown]
# <details><summary>Solution</summary>
#
# The last observation was taken after the finished cells had been replaced, so every episode seemed to end at the start of another one.
#
# ```python
# import numpy as np
#
# def step_and_replace(z, t, horizon, fresh):
#     t = t + 1
#     terminated = t >= horizon
#     final_obs = z
#     obs = np.where(terminated, fresh, z)
#     return obs, terminated, final_obs
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 5.3 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_3(answer):
    z, t = np.array([1.0, 2.0]), np.array([14, 3])
    obs, terminated, final_obs = answer(z, t, 15, np.array([9.0, 9.0]))
    assert terminated.tolist() == [True, False], (
        "only the first episode has had its 15 steps"
    )
    assert obs.tolist() == [9.0, 2.0], (
        "the next decision of the first cell is about its fresh start"
    )
    assert final_obs.tolist() == [1.0, 2.0], (
        "the episode ended at z, before it was replaced"
    )


attempt("5.3", check_3, step_and_replace)

# %% [markdown]
# ## References
#
# - M. Towers and others, *Gymnasium: a standard interface for reinforcement learning environments*, 2024.
# - A. Raffin and others, *Stable-Baselines3: reliable reinforcement learning implementations*, JMLR 22, 2021.
# - F. Pardo and others, *Time limits in reinforcement learning*, ICML 2018: termination against truncation.
# - Y. Nesterov, *A method for solving the convex programming problem with convergence rate O(1/k^2)*, 1983: the solver of the greedy optimum.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
