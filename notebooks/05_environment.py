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
# A policy learns by acting, and a cell cannot be acted on a million times.
# This chapter builds the place where it can: an environment in which a state is an encoded cell, an action adjusts the genes of a panel, and the reward is the fall of the error to what real perturbed cells look like.
# Every piece is checked in numbers, two other libraries' checkers are run over it, and another library's agent trains in it unchanged.

# %% [markdown]
# **After this chapter you can**
#
# - name the state, the action, the reward and the end of an episode, and compute each by hand (15 minutes);
# - say what the stochastic kick at the start of an episode stands for, and where it is absent (10 minutes);
# - say in which units observations and rewards are measured, and what a reward for single cells pays for (15 minutes);
# - explain why the end of this horizon is a termination and not a truncation (10 minutes);
# - put a policy between the yardsticks: nothing, random, greedy, pathwise (10 minutes);
# - run any gymnasium agent in the environment (10 minutes);
# - measure what the linear step loses, and say why there is little in this landscape to escape from (15 minutes).

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
import warnings

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch

from twinlib.data.pairing import pair
from twinlib.data.preparation import standard
from twinlib.data.sources import available, choose
from twinlib.page import plots, record
from twinlib.embedding.train import pretrained
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.assembly import make_world
from twinlib.environment.greedy import GreedyLinear
from twinlib.environment.units import blur_share, mean_return
from twinlib.environment.yardsticks import yardstick_policies

plots.style()
dataset = choose("papalexi2021", "waddington")

# %% [markdown]
# ## The question, and what is in a world
#
# Chapter 4 asked a model for the perturbed profile at once.
# The paper's in-silico system asks for a path: a policy looks at a control cell and a perturbation, adjusts genes a little, looks again, and is paid for every bit by which the predicted profile comes nearer to an observed one.
# To pose that as a task we need control cells, a target profile for each, an embedding of the perturbation, and the effect of an action on a latent cell.
# Together they are called a *world*: frozen tensors, made once from prepared cells and a trained embedding.
#
# Optimal transport inside the training split (chapter 2) matches each perturbed cell to one control.
# From the matches come two targets.
# The *population* target, the default, is the control plus the mean change of its perturbation within its cell context.
# The *cell* target is the matched cell itself.
# Neither is ever shown to the policy, and test cells take no part.
# This page keeps at most 4,000 of the matches, so that it runs in a minute; the tables of chapter 12 use all of them.

# %%
prepared = standard(dataset)
embedding = pretrained(dataset)

# %%
pairs = pair(prepared, split="train", method="ot")

# %%
world = make_world(prepared, embedding, pairs=pairs, n_pairs=4000, density=True)
record.say(
    f"The world of `{dataset}`: **{len(world):,}** matched pairs under **{len(world.labels)}** perturbations, "
    f"**{len(world.genes)}** genes, latent cells of **{world.latent_dim}** numbers, "
    f"**{len(world.action_names)}** possible adjustments."
)

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

# %%
quiet = EnvironmentConfig().quiet()  # process noise and kick off
dynamics = Dynamics(world, quiet, replicas=1, n_cells=256)
dynamics.reset([torch.Generator().manual_seed(0)])
rewards = torch.stack([dynamics.step(torch.zeros(1, 256, dynamics.action_dim)).reward for _ in range(15)])
print("largest reward of doing nothing:", float(rewards.abs().max()))
assert float(rewards.abs().max()) == 0.0

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
observation = dynamics.reset([torch.Generator().manual_seed(0)], cells=cells)[0]
D, C = world.latent_dim, world.conditions.shape[1]
print("observation:", tuple(observation.shape), "=", D, "latent +", C, "perturbation + 1 time")
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
action = torch.rand(1, 256, dynamics.action_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1
by_hand = world.z0[cells] + dynamics.action_scale * action[0] @ world.effects
dynamics.step(action)
print("largest difference to z + s a E:", float((dynamics.latent[0] - by_hand).abs().max()))
assert torch.allclose(dynamics.latent[0], by_hand, atol=1e-5)

# %% [markdown]
# **How long is a step?**
# The scale $s$ decides how fast anything can be learned.
# If it is too large, the noise of exploration alone throws a cell past every goal; if it is too small, the horizon ends before the cell has moved.
# The default takes the mean latent distance $d$ between a control and its match, and sets $s$ so that an action drawn uniformly from its box moves the cell by $d/H$, root mean square.
# A policy that moves all genes in one consistent direction goes further than random steps do, so the goal is within reach; a random walk of $H$ such steps stays well inside $d$.
# The scale is a property of the environment: every algorithm meets the same one, and none of them has it tuned.

# %%
uniform = torch.rand(20_000, dynamics.action_dim, generator=torch.Generator().manual_seed(2)) * 2 - 1
length = (dynamics.action_scale * uniform @ world.effects).square().sum(-1).mean().sqrt()
record.say(
    f"Mean distance to the match: {dynamics.distance:.3f} latent units. "
    f"Action scale: **s = {dynamics.action_scale:.4f}** at H = {dynamics.horizon}. "
    f"A uniform action moves the cell by {float(length):.4f}, and d/H is {dynamics.distance / 15:.4f}."
)
assert abs(float(length) / (dynamics.distance / 15) - 1) < 0.02

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
free = dataclasses.replace(quiet, l1=0.0, l2=0.0)
dynamics = Dynamics(world, free, n_cells=256)
dynamics.reset([torch.Generator().manual_seed(0)], cells=cells)
first, total = dynamics.error.clone(), torch.zeros(1, 256)
for _ in range(14):
    total += dynamics.step(action).reward
print(
    "largest difference between return and fall of the error over q:",
    float((total - (first - dynamics.error) / dynamics.unit).abs().max()),
)
assert torch.allclose(total, (first - dynamics.error) / dynamics.unit, atol=1e-3)

# %% [markdown]
# ## The unit, and what single cells pay for
#
# How large a return is good?
# The unit $q$ answers before anything is learned.
# When a world is made, the best constant action of each perturbation is found by gradient, through the dynamics and the decoder, and $q$ is the error that it takes away, averaged over the training cells.
# So doing nothing returns 0 and the best constant action returns 1, on every data set; more than 1 is possible for a policy that looks at the cell.
#
# How much that is depends on the target.

# %%
starting = {}
for target in ("population", "cell"):
    at_start = Dynamics(world, dataclasses.replace(quiet, target=target), n_cells=len(world))
    at_start.reset([torch.Generator()], cells=torch.arange(len(world)))
    starting[target] = float(at_start.error.mean())
gain = world.units.gain
record.say(
    f"Error of doing nothing, in squared z-scores: {starting['population']:.4f} to the population target and "
    f"{starting['cell']:.4f} to the matched cell. The best constant action of each perturbation takes away "
    f"**{gain['population']:.4f}** and **{gain['cell']:.4f}**: {gain['population'] / starting['population']:.0%} of the "
    f"first and {gain['cell'] / starting['cell']:.1%} of the second."
)

# %% [markdown]
# A constant action shifts all cells alike.
# A policy that sees the cell can do something else with the cell target: move each cell towards the mean of all cells, because a matched cell has other noise than the control, and the mean has none.
# That is the *blur* again, and it has nothing to do with the perturbation.
# How much of the return is it?
# Take every perturbation's mean change out of the matched cells, so that on average nothing is left to be learned about it, train the same network by the exact gradient on both, and divide.

# %%
blur = blur_share(world)
record.say(
    f"Share of the cell target's attainable return that is still there without any perturbation's mean change: "
    f"**{blur:.0%}**. By construction the population target has no such part: its y and x share their noise."
)

# %% [markdown]
# So a policy that is paid for single cells is paid mostly for taking noise away where this share is large.
# The book trains on the population target, and runs the cell target beside it where the paper's words can be read so.
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
label = kicked[0]
rows = torch.nonzero(world.label == label)[0].expand(4000)
noisy = Dynamics(world, dataclasses.replace(EnvironmentConfig(), process_noise=0.0), n_cells=4000)
noisy.reset([torch.Generator().manual_seed(0)], cells=rows)
moved = noisy.latent[0] - world.z0[rows[0]]
efficacy = (moved @ world.kicks[label] / world.kicks[label].square().sum()).numpy()
record.say(
    f"{len(kicked)} of {len(world.labels)} perturbations have a measured target and a kick. "
    f"For `{world.labels[label]}` the mean efficacy of 4,000 episodes is {efficacy.mean():.3f}; "
    f"Beta(4, 2) has mean {4 / 6:.3f}. The mean kick is {float(moved.norm(dim=-1).mean()):.2f} latent units long, "
    f"{float(moved.norm(dim=-1).mean()) / noisy.distance:.0%} of the mean distance to a match."
)
assert abs(efficacy.mean() - 4 / 6) < 0.02

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
grid = np.linspace(0, 1, 200)
left.hist(efficacy, bins=40, density=True, color=plots.COLOURS["perturbed"], alpha=0.6, label="episodes")
left.plot(grid, 20 * grid**3 * (1 - grid), color=plots.COLOURS["real"], label="Beta(4, 2)")
left.set(xlabel="efficacy of the kick", ylabel="density")
left.legend()
noise = Dynamics(world, EnvironmentConfig(), n_cells=60)
noise.reset([torch.Generator().manual_seed(0)], cells=rows[:60])
paths = [noise.latent[0]]
for _ in range(14):
    noise.step(torch.zeros(1, 60, noise.action_dim))
    paths.append(noise.latent[0])
away = (torch.stack(paths) - world.z0[rows[0]]).norm(dim=-1).numpy()
right.plot(away, color=plots.COLOURS["do_nothing"], linewidth=0.7, alpha=0.7)
right.plot(away.mean(1), color=plots.COLOURS["real"], label="mean of 60 episodes")
right.axhline(noise.distance, color=plots.COLOURS["perturbed"], linestyle="--", label="distance to a match")
right.set(xlabel="step", ylabel="latent distance from the control")
right.legend()
plots.show(
    fig,
    "kick-and-noise",
    alt="Left: histogram of kick efficacies on the Beta(4, 2) curve. "
    "Right: distance from the control over 15 steps of doing nothing, starting at the kick and growing slowly by noise, "
    "far below the distance to a matched cell.",
    caption="Left: how strong the kick was in each episode. Right: doing nothing for an episode; the kick sets the start, "
    "process noise does the rest, and neither comes near a match.",
)

# %% [markdown]
# The right panel does nothing for a whole episode with kick and process noise on.
# The lines start where the kick put them and spread with the square root of time.
# Process noise is given as a share of the step length $d/H$, so that it means the same on every data set.
#
# A perturbation whose target is not on the panel has no kick.
# For it the policy is told which perturbation is meant and sees an unchanged control, so it has to supply the guide's own effect, too.
# Where there is a kick, it is a small part of the way.
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
# Take a reward of 1 in each of 15 steps and a discount of 0.99.
# The true value at step $t$ is the discounted sum of what is left.
# An agent that takes the end for a truncation adds the discounted value of the last observation to the last reward.
# If nothing else marks the end, its value must satisfy $V = 1 + \gamma V$ at every step.
# That gives $V = 1 / (1 - \gamma)$, the value of a task that never ends.

# %%
gamma, H = 0.99, 15
true_value = np.array([sum(gamma**k for k in range(H - t)) for t in range(H + 1)])
endless = 1 / (1 - gamma)
record.say(
    f"Value at the start: **{true_value[0]:.2f}** if the end is a termination, "
    f"**{endless:.0f}** if it is taken for a truncation. At the end: {true_value[-1]:.0f} against {endless:.0f}."
)
step = None
dynamics.reset([torch.Generator().manual_seed(0)])
for _ in range(15):
    step = dynamics.step(action)
assert bool(step.terminated.all()) and not bool(step.truncated.any())
assert torch.all(step.final_obs[..., -1] > step.obs[..., -1])
assert torch.all(step.obs[..., -1] == observation[0, -1])

# %% [markdown]
# Finished cells are replaced in the same step.
# `final_obs` holds the observation with which the old episode ended, `obs` the start of the new one.
#
# Take away everything else, and this is all that an agent does: look, act, be paid.

# %%
obs = dynamics.reset([torch.Generator().manual_seed(0)])
earned = torch.zeros(1, 256)
for _ in range(dynamics.horizon):
    action = torch.zeros(1, 256, dynamics.action_dim)  # a policy would choose it from obs
    step = dynamics.step(action)
    obs, earned = step.obs, earned + step.reward
print("what doing nothing earns:", float(earned.abs().max()))

# %% [markdown]
# ## Yardsticks
#
# Four policies need no reinforcement learning, and every table of this book shows them.
#
# - `do_nothing`: every action is 0.
# - `random`: every action is drawn uniformly from its box.
# - `greedy`: one constant action a perturbation, from least squares with decoder and dynamics taken as linear.
# - `pathwise`: the policies' own network, trained by the exact derivative of the return in its parameters. The environment is differentiable, so the derivative passes through all $H$ moves and the decoder; nothing is explored, and no value is learned. It takes as many environment steps as an algorithm beside it.
#
# An algorithm's score is told as it is, and as a share of `pathwise`: what the same network can reach here.

# %%
policies = yardstick_policies(world, EnvironmentConfig(), seeds=[0], timesteps=50_000)
yard_returns = {name: float(mean_return(policy, world, quiet).mean()) for name, policy in policies.items()}
record.say(
    "Mean return over all training cells, noise and kick off, pathwise after 50,000 steps: "
    + "; ".join(f"`{name}` **{value:+.3f}**" for name, value in yard_returns.items())
    + "."
)
assert yard_returns["do_nothing"] == 0.0 < yard_returns["greedy"] and yard_returns["random"] < 0.1

# %% [markdown]
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
single = gymnasium.make("twinlib/GeneScreen-v0", world=world, config=quiet)
many = gymnasium.make_vec("twinlib/GeneScreen-v0", num_envs=4, world=world, config=quiet)
one_obs, _ = single.reset(seed=0, options={"cell": 3})
four_obs, _ = many.reset(seed=0, options={"cell": [3, 3, 5, 7]})
move = single.action_space.sample() * 0 + 0.5
one, four = single.step(move), many.step(np.tile(move, (4, 1)))
print("rewards, single:", round(one[1], 6), " vector:", four[1].round(6))
assert np.allclose(one_obs, four_obs[0], atol=1e-5) and np.isclose(one[1], four[1][0], atol=1e-5)

# %%
from gymnasium.utils.env_checker import check_env

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns that a latent axis has no bound, which is true
    check_env(single.unwrapped, skip_render_check=True)
print("gymnasium's checker: passed")

# %% [markdown]
# The vector environment keeps gymnasium's convention `SAME_STEP`: a finished cell is replaced in the same step, `info["final_obs"]` holds what it ended with (`None` for a cell that goes on), and `info["final_info"]` what there was to say about it.

# %%
for _ in range(H - 1):
    told = many.step(np.tile(move, (4, 1)))[-1]
print(
    "final_obs:", told["final_obs"].shape, told["final_obs"].dtype, " final_info:", sorted(told["final_info"])
)
assert told["_final_obs"].all()

# %% [markdown]
# Now the test that matters to a user: an agent of another library, written without knowledge of ours, trains in the environment.
# Stable-Baselines3 has a vector interface of its own; `stable_baselines3_vec_env` puts ours into its form.
# That one file of `twinlib` imports the library, and only if asked.

# %%
if importlib.util.find_spec("stable_baselines3") is None:
    print("Stable-Baselines3 is not installed here (pip install stable-baselines3): its PPO run is left out.")
else:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env as check_for_baselines
    from stable_baselines3.common.evaluation import evaluate_policy
    from twinlib.environment.stable_baselines3 import stable_baselines3_vec_env

    torch.manual_seed(0)
    check_for_baselines(gymnasium.make("twinlib/GeneScreen-v0", world=world).unwrapped)
    cells_of_sb3 = stable_baselines3_vec_env("twinlib/GeneScreen-v0", 64, world=world)
    agent = PPO("MlpPolicy", cells_of_sb3, seed=0, device="cpu", n_steps=32, gamma=0.0)
    marks = []
    for steps_more in (0, 8192):
        if steps_more:
            agent.learn(steps_more)
        returns = evaluate_policy(
            agent, cells_of_sb3, n_eval_episodes=640, warn=False, return_episode_rewards=True
        )[0]
        marks.append((np.mean(returns), np.std(returns, ddof=1) / len(returns) ** 0.5))
    (before, before_se), (after, after_se) = marks
    better = after - before > 2 * np.hypot(before_se, after_se)
    record.say(
        "Stable-Baselines3's checker passed. Its PPO in 64 cells, deterministic action, mean return of 640 episodes "
        f"with noise and kick: {before:+.3f} (standard error {before_se:.3f}) before and {after:+.3f} (standard error "
        f"{after_se:.3f}) after 8,192 steps. The agent has {'' if better else 'not '}improved by more than two standard "
        "errors."
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
def walk(config, action, cells):
    """Latent paths [N, H+1, D] and returns [N] under constant actions [N, A]."""
    dynamics = Dynamics(world, config, n_cells=len(cells))
    obs = dynamics.reset([torch.Generator().manual_seed(0)], cells=cells)
    path, total = [obs[0, :, :D]], 0.0
    for _ in range(dynamics.horizon):
        step = dynamics.step(action.unsqueeze(0))
        path.append(step.final_obs[0, :, :D])
        total = total + step.reward[0]
    return torch.stack(path, dim=1), total


some = torch.randperm(len(world), generator=torch.Generator().manual_seed(0))[:128]
greedy = GreedyLinear(world, quiet)
actions = {
    "random": torch.rand(128, dynamics.action_dim, generator=torch.Generator().manual_seed(3)) * 2 - 1,
    "greedy": greedy.actions[world.label[some]],
}
gap, returns = {}, {}
for name, chosen in actions.items():
    linear, gained = walk(quiet, chosen, some)
    exact, gained_exact = walk(dataclasses.replace(quiet, mode="exact"), chosen, some)
    way = (linear - linear[:, :1]).norm(dim=-1)
    gap[name] = ((exact - linear).norm(dim=-1).mean(0)[1:] / way.mean(0)[1:]).numpy()
    returns[name] = (float(gained.mean()), float(gained_exact.mean()))
record.say(
    f"Distance between the ends of linear and exact paths, as a share of the linear path's length from start to end: "
    f"greedy action **{gap['greedy'][0]:.0%}** after one step and **{gap['greedy'][-1]:.0%}** after {H}; "
    f"random actions {gap['random'][0]:.0%} and {gap['random'][-1]:.0%}. "
    f"Return of the greedy action on these cells: {returns['greedy'][0]:+.3f} linear, {returns['greedy'][1]:+.3f} exact."
)

# %% [markdown]
# This is a large loss, and it should be kept in mind wherever this book speaks of a policy's return: it is a return in a model that is linear in the latent cell.
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
sample = torch.randperm(len(world), generator=torch.Generator().manual_seed(5))[:128]
directions = torch.randn(2, dynamics.action_dim, generator=torch.Generator().manual_seed(6))
directions = directions / directions.abs().amax(1, keepdim=True)
ticks = torch.linspace(-1, 1, 11)


def sampled_return(config, action):
    """Mean return of the sampled cells under one constant action [A] for all of them."""
    return float(walk(config, action.expand(len(sample), -1), sample)[1].mean())


drifting = dataclasses.replace(quiet, drift="density")
surfaces = {}
for name, config in (("no drift", quiet), ("density drift", drifting)):
    surfaces[name] = np.array(
        [[sampled_return(config, (a * directions[0] + b * directions[1]) / 2) for a in ticks] for b in ticks]
    )

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.8, 4.2))
for axis, (name, surface) in zip(axes, surfaces.items(), strict=True):
    drawn = axis.contourf(ticks, ticks, surface, levels=14, cmap="cividis")
    fig.colorbar(drawn, ax=axis, label="mean return")
    axis.plot(0, 0, "s", color=plots.COLOURS["perturbed"], label="do nothing")
    axis.set(title=name, xlabel="random direction 1", ylabel="random direction 2")
    axis.legend(loc="lower left")
plots.show(
    fig,
    "return-surface",
    alt="Mean return over two random directions in action space as filled contours, without drift and with the "
    "density drift. In both panels the contours are nested ovals around one highest point.",
    caption="Mean return of constant actions. Every point is one action, a mixture of two random directions (at 1, half of "
    "a direction whose largest entry is one); the square is doing nothing. Each panel has its own colour scale.",
)


# %%
def violations(config, spread):
    """Share of cells and segments (an action, and it plus `spread` of another) with a middle below the ends' mean."""
    generator = torch.Generator().manual_seed(7)
    below = []
    for _ in range(10):
        ends = torch.rand(2, len(sample), dynamics.action_dim, generator=generator) * 2 - 1
        ends[1] = (ends[0] + spread * ends[1]).clamp(-1, 1)
        first, middle, last = (walk(config, end, sample)[1] for end in (ends[0], ends.mean(0), ends[1]))
        below.append((middle < (first + last) / 2 - 1e-5).float().mean())
    return float(torch.stack(below).mean())


greedy_return = float(walk(quiet, actions["greedy"], some)[1].mean())
at_rest = Dynamics(world, quiet, n_cells=len(some))
at_rest.reset([torch.Generator().manual_seed(0)], cells=some)
some_error = float(at_rest.error.mean())
top = np.unravel_index(surfaces["no drift"].argmax(), surfaces["no drift"].shape)
where = "doing nothing" if all(abs(float(ticks[k])) < 1e-6 for k in top) else "another action"
record.say(
    f"Segments that violate concavity without drift: **{violations(quiet, 1.0):.1%}** of long ones and "
    f"**{violations(quiet, 0.3):.1%}** of short ones. "
    f"Best point of the drawn surface without drift: {round(surfaces['no drift'].max(), 4) + 0.0:+.4f}, which is {where}; "
    f"greedy linear optimum, one constant action a perturbation: **{greedy_return:+.4f}**, "
    f"{greedy_return * at_rest.unit / some_error:.1%} of the squared error at the start ({some_error:.4f})."
)

# %% [markdown]
# The decoder is curved, so a few segments without drift may violate concavity; the share above says how many.
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

# %%
from twinlib.environment.rendering import landscape, main_axes

axes_2d = main_axes(world)
a, b, U = landscape(world, axes_2d)
flat = (world.z0 @ axes_2d).numpy()
fig, axis = plt.subplots(figsize=(6.6, 4.6))
drawn = axis.contourf(a, b, np.minimum(U, U.min() + 8), levels=16, cmap="cividis_r")
fig.colorbar(drawn, ax=axis, label="U = -log density (nats, cut at 8 above the lowest)")
axis.scatter(*flat[::4].T, s=3, color=plots.COLOURS["control"], alpha=0.5, linewidths=0)
path = walk(drifting, actions["greedy"], some)[0][:12] @ axes_2d
for line in path.numpy():
    axis.plot(*line.T, color=plots.COLOURS["insilico"], linewidth=1)
    axis.plot(*line[0], "o", color=plots.COLOURS["insilico"], markersize=4)
    axis.plot(*line[-1], "x", color=plots.COLOURS["perturbed"], markersize=7)
axis.set(xlabel="latent axis 1", ylabel="latent axis 2")
plots.show(
    fig,
    "density-landscape",
    alt="The landscape U over the two main latent axes, with control cells as points and twelve paths of the "
    "greedy action, each from a dot to a cross.",
    caption="U of the density projected on the first two principal components of the control cells. Points: control cells. "
    "Lines: greedy actions under the drift, from the dot (start) to the cross (end).",
)

# %% [markdown]
# On this plane the components of the mixture overlap, so the picture need not show one basin for each.
# The projection hides the other latent axes; the counts below use all of them.
#
# What does the drift change?
# The question is one of single cells, so this part takes the cell target.
# Random segments show how much of the return stops being concave.
# The basins show on the way that matters: for each cell take the constant action that, without drift, leads straight to the encoded match, and ask in which basin the cell ends.

# %%
with torch.no_grad():
    goal = torch.cat([embedding.encode(world.scale(part)) for part in torch.split(world.y[some], 64)])
way = (goal - world.z0[some]).T / H
straight = torch.linalg.lstsq(dynamics.action_scale * world.effects.T, way).solution.T
matched = {
    name: dataclasses.replace(config, target="cell")
    for name, config in (("without", quiet), ("with", drifting))
}
cell_unit = world.units.gain["cell"]
basin = world.density.component  # the component of the mixture most responsible for a latent cell
crossing = basin(goal) != basin(world.z0[some])
arrived = {}
for name, config in matched.items():
    end = walk(config, straight, some)[0][:, -1]
    arrived[name] = int((basin(end) == basin(goal))[crossing].sum())
steps, threshold = torch.linspace(0, 2, 9), 0.005  # in squared z-scores
barrier = {}
for name, config in matched.items():
    line = torch.stack([walk(config, k * straight, some)[1] for k in steps])[:, crossing]
    bend = line[2:] - 2 * line[1:-1] + line[:-2]
    barrier[name] = float((bend.amax(0) > threshold / cell_unit).float().mean())
still, still_return = walk(matched["with"], 0 * straight, some)
shift_return = float(walk(matched["without"], actions["greedy"], some)[1].mean())
mixed = torch.randperm(len(world), generator=torch.Generator().manual_seed(8))
strangers = Dynamics(dataclasses.replace(world, y=world.y[mixed]), matched["with"], n_cells=len(some))
strangers.reset([torch.Generator().manual_seed(0)], cells=some)
mixed_return = sum(
    float(strangers.step(torch.zeros(1, len(some), dynamics.action_dim)).reward.mean()) for _ in range(H)
)
stayed = float((basin(still[:, -1]) == basin(world.z0[some])).float().mean())
record.say(
    f"The mixture has **{len(world.density.means)}** components. Left alone, **{stayed:.0%}** of the cells stay in "
    f"their basin. Of {int(crossing.sum())} cells whose match lies in another basin, the straight action brings "
    f"**{arrived['without']}** there without drift and **{arrived['with']}** with it. "
    f"Scaled from nothing to twice its length, that action's return bends upwards somewhere for "
    f"**{barrier['without']:.0%}** of these cells without drift and **{barrier['with']:.0%}** with it "
    f"(bent: a second difference above {threshold} squared z-scores, {threshold / cell_unit:.0%} of the unit). "
    f"Segments that violate concavity with the drift: {violations(drifting, 1.0):.1%} of long ones, "
    f"{violations(drifting, 0.3):.1%} of short ones. "
    f"Doing nothing now earns **{float(still_return.mean()):+.2f}**, because the drift moves the cell by itself; "
    f"the greedy action without drift earned {shift_return:+.2f}. "
    f"With the matched profiles shuffled over all cells and labels, doing nothing under the drift earns "
    f"{mixed_return:+.2f}, {mixed_return / float(still_return.mean()):.0%} of that."
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
from twinlib.environment.packaged import packaged_world
from twinlib.environment.greedy import best_dose

cytokines = packaged_world("cytokine")
rows = torch.nonzero(cytokines.label == cytokines.labels.index("G-CSF"))[:, 0]
one = cytokines.rows(rows).only(["G-CSF"])
doses = np.linspace(0, 1, 21)
setting = EnvironmentConfig(process_noise=0.0)


def mean_returns(world, n=2000):
    """Mean return over n cells at each of `doses`, the same cells and responses every time."""
    returns = []
    for dose in doses:
        scan = Dynamics(world, setting, n_cells=n)
        scan.reset([torch.Generator().manual_seed(0)], cells=torch.arange(n) % len(world))
        action = torch.full((1, n, 1), float(dose))
        returns.append(sum(float(scan.step(action).reward.mean()) for _ in range(H)))
    return returns


curve, optimum = mean_returns(one), best_dose(one, setting)
fig, axis = plt.subplots(figsize=(6.0, 3.6))
axis.plot(doses, curve, color=plots.COLOURS["insilico"], label="simulated mean return")
axis.axvline(optimum, color=plots.COLOURS["perturbed"], linestyle="--", label="closed form")
axis.set(xlabel="constant dose of G-CSF", ylabel="mean return")
axis.legend()
plots.show(
    fig,
    "best-dose",
    alt="Mean return against a constant dose of one cytokine, with the closed-form optimum as a dashed line.",
    caption="Mean return of a constant dose: too little leaves the cell short of its match, too much overshoots.",
)
record.say(
    f"Costs: lambda_1 = {setting.l1:g}, lambda_2 = {setting.l2:g}. Closed-form dose: **{optimum:.3f}**; best of the simulated doses: **{doses[int(np.argmax(curve))]:.2f}**. "
    "They differ by the curvature of the decoder, which the closed form leaves out, and by the grid."
)

# %% [markdown]
# The same environment on real cells: blood cells with and without interferon beta (`kang2018`).
# One cytokine was given, so that the action is one dose and the closed form applies.

# %%
if available("kang2018"):
    blood = standard("kang2018")
    treated = make_world(blood, pretrained("kang2018"), n_pairs=1000)
    assert treated.action_names == ("IFN-beta",)  # read from the perturbed cells: no gene was perturbed
    ward = gymnasium.make("twinlib/Cytokine-v0", world=treated)
    check_env(ward.unwrapped, skip_render_check=True)
    real_curve, real_optimum = mean_returns(treated), best_dose(treated, setting)
    best_found = doses[int(np.argmax(real_curve))]
    record.say(
        f"Actions: {', '.join(treated.action_names)}; {len(treated)} matched pairs. "
        f"Closed-form dose: **{real_optimum:.3f}**; best of the simulated doses: **{best_found:.2f}**. "
        f"Mean return there {max(real_curve):+.3f}, at dose 1 {real_curve[-1]:+.3f}, at dose 0 {real_curve[0]:+.3f}."
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

# %%
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding

stimulated = standard("chi11")
code, _ = train_embedding(stimulated, EmbeddingConfig(epochs=8))
four = make_world(stimulated, code)
dose_of = GreedyLinear(four, setting).actions
record.say(
    f"Greedy doses ({', '.join(four.action_names)}) of each stimulus: "
    + "; ".join(
        f"**{label}** ({', '.join(f'{dose:.2f}' for dose in dose_of[i])})"
        for i, label in enumerate(four.labels)
    )
    + f". Mean return of these constant doses in {stimulated.cells.obs['cell_context'].nunique()} cell types together: "
    f"{float(mean_return(GreedyLinear(four, setting), four, setting)):+.3f}."
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
# ## Key takeaways
#
# - Doing nothing is the control, exactly, and earns exactly zero with noise and kick off.
# - The reward telescopes: the return is the fall of the error, and 1 is what the best constant action of each perturbation earns.
# - Paid for single cells, a policy learns mostly to take noise away; paid for the population, it cannot.
# - The end of the horizon is a termination, because the task has $H$ steps and the observation says how many are left.
# - Without drift the return is close to concave; linear algebra finds what a constant action can gain.
# - The density drift turns cell states into basins, and moves cells by itself.
# - The linear step is a strong simplification, and its loss has been measured above.
#
# ## Exercises

# %% [markdown]
# ### Exercise 5.1. The return by hand
#
# Write `total_return(errors, costs)`: the return of an episode from the errors $\mathrm{MSE}(\hat y_0, y), \dots, \mathrm{MSE}(\hat y_H, y)$ and the costs of its $H$ actions.


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

# %% tags=["check-1"]
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

# %% tags=["check-2"]
import numpy as np

from twinlib.page.record import attempt


def check_2(answer):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2000))
    blurred, same = answer(x, 0.5)
    assert blurred is not None and same is not None, "return both predictions"
    assert np.allclose(same, x), "with the second convention doing nothing is the control"
    assert np.allclose(blurred, 0.5 * x), "the first convention is the shrunken profile"
    better = ((x - y) ** 2).mean() - ((blurred - y) ** 2).mean()
    assert better > 0.5, "y is unrelated to x here, and still the blurred prediction has the smaller error"


attempt("5.2", check_2, two_predictions)

# %% [markdown]
# ### Exercise 5.3. Find the silent bug
#
# This vectorised step ran without an error and trained a policy for weeks.
# The returns looked plausible and the value function never fitted the last steps.
# Return the corrected triple `(obs, terminated, final_obs)`.


# %% tags=["exercise-3"]
def step_and_replace(z, t, horizon, fresh):
    """z [N], t [N] -> observation of the next decision, end flags, observation at the end of the episode."""
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

# %% tags=["check-3"]
import numpy as np

from twinlib.page.record import attempt


def check_3(answer):
    z, t = np.array([1.0, 2.0]), np.array([14, 3])
    obs, terminated, final_obs = answer(z, t, 15, np.array([9.0, 9.0]))
    assert terminated.tolist() == [True, False], "only the first episode has had its 15 steps"
    assert obs.tolist() == [9.0, 2.0], "the next decision of the first cell is about its fresh start"
    assert final_obs.tolist() == [1.0, 2.0], "the episode ended at z, before it was replaced"


attempt("5.3", check_3, step_and_replace)

# %% [markdown]
# ## References
#
# - M. Towers and others, *Gymnasium: a standard interface for reinforcement learning environments*, 2024.
# - A. Raffin and others, *Stable-Baselines3: reliable reinforcement learning implementations*, JMLR 22, 2021.
# - F. Pardo and others, *Time limits in reinforcement learning*, ICML 2018: termination against truncation.
# - Y. Nesterov, *A method for solving the convex programming problem with convergence rate O(1/k^2)*, 1983: the solver of the greedy optimum.

# %%
print(record.stamp_line())
