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
# # 10. Two stages: a natural gradient first, proximal steps after
#
# The paper's method has two parts that chapters 7 to 9 derive one by one: a trust-region step, computed with Fisher-vector products and conjugate gradients, and proximal policy optimization that starts from where that step ended.
# This chapter puts them together as Algorithm 1, checks each line of it against an answer that needs no cleverness, trains it beside its baselines, and reads the paper's claims as questions that such a run can answer.

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - take one line of Algorithm 1 after another on real data and check it in numbers (25 minutes);
# - say what 'two stages' can mean, and why the two meanings are different algorithms (10 minutes);
# - explain what the first stage hands to the second, and what a small handed-over KL target does to it (10 minutes);
# - compare a warm start with a cold one, and name the controls that the comparison needs (15 minutes);
# - read a tuning curve, and say what a budget of settings buys each algorithm (15 minutes);
# - find a bug that leaves every curve looking plausible (10 minutes).

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
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from twinlib.data.preparation import standard
from twinlib.data.sources import choose
from twinlib.page import plots, record
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.assembly import make_world
from twinlib.environment.packaged import packaged_world
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.rollout import Collector
from twinlib.policy.trust_region import (
    TrustRegionConfig,
    backtracking_line_search,
    conjugate_gradient,
    fisher_vector_product,
    mean_kl,
    normalized,
    step_length,
    surrogate,
)
from twinlib.policy.training import (
    HISTORY_COLUMNS,
    TrainingConfig,
    make_generators,
    train,
)

plots.style()
torch.set_num_threads(1)
dataset = choose("papalexi2021", "waddington")


# %%
def world_of(name):
    """Training cells of a dataset with their matched profiles; the simulated ones come ready-made."""
    if name == "waddington":
        return packaged_world()
    from twinlib.embedding.train import pretrained

    return make_world(
        standard(name), pretrained(name), n_pairs=4000
    )  # a part, for speed


world = world_of(dataset)
record.say(
    f"`{dataset}`: {len(world)} control cells, each with the profile it was matched to; "
    f"{len(world.action_names)} actions (one a gene), {world.latent_dim} latent dimensions, "
    f"{len(world.labels)} perturbation labels."
)

# %% [markdown]
# ## The question
#
# An episode is one cell.
# It starts as a control, the policy adjusts genes for a fixed number of steps, and the reward of a step is the fall of the squared error between the predicted profile and the perturbed profile that the cell was matched to.
# The policy never sees that profile; it sees the latent cell, which perturbation is asked for, and the time.
# The [environment's chapter](05_environment.ipynb) explains each of these choices.
#
# The paper claims that starting proximal policy optimization (PPO) from parameters that trust-region policy optimization (TRPO) has learned helps it to a better solution, in fewer updates, with better generalisation.
# Written as questions:
#
# 1. Is the first stage a natural gradient step, that is, does what we compute equal what the formulas say?
# 2. At the same number of environment steps, is the reward after a warm start higher than after a cold one?
# 3. Does the warm start need fewer optimizer steps?
# 4. If there is a difference, is it the warm start, or is it something that comes along with it: a fresh optimizer, the KL penalty, or the KL target?
#
# The first has a yes-or-no answer, and this page gives it.
# The other three are about random outcomes, so a short run with few seeds can only show how they are asked; the stored runs at the end of this page, with ten seeds and an equal budget of tuning, say what came out, and the [replication chapter](12_replication.ipynb) sets them beside the paper's tables.

# %% [markdown]
# ## The plain baseline: do nothing
#
# Before any learning there is a policy that costs nothing: leave every gene alone.
# Its prediction is the control cell itself, so with noise and knock-down kick switched off its reward must be zero, exactly.
# A learned policy is worth something only if the error that its mean action removes lies above that line.

# %%
quiet = Dynamics(world, EnvironmentConfig().quiet(), replicas=1, n_cells=64)
quiet.reset(make_generators([0], "environment"))
idle = torch.zeros(1, 64, quiet.action_dim)
idle_return = sum(quiet.step(idle).reward for _ in range(quiet.horizon))
record.say(
    f"Largest return of a cell left alone: {float(idle_return.abs().max()):.1g}."
)
assert float(idle_return.abs().max()) == 0.0

# %% [markdown]
# ## Algorithm 1 in this book's words
#
# Write $\theta_k$ for the parameters at the start of iteration $k$; chapters 6 to 9 called them $\theta_{old}$.
#
# - Lines 1 and 2: take start parameters and settings, and repeat what follows.
# - Lines 3 and 4: run the policy $\pi_{\theta_k}$, keep the trajectories, estimate advantages and returns.
# - Line 5: estimate the policy gradient $\vartheta$.
# - Line 6: define the product of the damped Fisher matrix with a vector.
# - Line 7: solve for the direction $d$ by conjugate gradients.
# - Lines 8 and 9: choose the length $\alpha$, and step to $\theta' = \theta_k + \alpha d$.
# - Lines 10 to 12: start from $\theta'$, and go through epochs and their minibatches.
# - Line 13: form the ratio $\pi_\theta / \pi_{\theta'}$.
# - Lines 14 and 15: form the penalised objective (Eq. 8) and the loss with value and entropy (Eq. 9).
# - Lines 16 to 18: take a step of a first-order optimizer, for every minibatch of every epoch.
# - Lines 19 and 20: call the result $\theta_{k+1}$, and start again.
#
# ## One iteration of Algorithm 1, line by line
#
# The checks below compare fast algorithms with slow, certain ones, and the slow ones need a matrix with as many rows as the policy has parameters.
# So this section uses a small policy: one hidden layer, six actions, double precision.
# Nothing else about it is special, and the tests of the package repeat the same checks on other sizes.

# %%
few = Dynamics(
    world.to(dtype=torch.float64).only(list(world.action_names[:6])),
    EnvironmentConfig(),
    replicas=2,
    n_cells=16,
)
policy = ActorCritic(
    few.observation_dim,
    few.action_dim,
    2,
    make_generators([0, 1], "weights"),
    hidden=(6,),
    log_std=-0.5,
    dtype=torch.float64,
)
collector = Collector(
    few,
    make_generators([0, 1], "environment"),
    make_generators([0, 1], "actions"),
    torch.float64,
)
buffer = collector.collect(policy, steps=15, gamma=0.99, gae_lambda=0.95)
record.say(
    f"Two replicas (seeds) side by side, each with {buffer.rows} state-action pairs and "
    f"{policy.actor_size} actor parameters. Every array below has the replica as its first axis."
)

# %% [markdown]
# ### Lines 3 and 4: trajectories and advantages
#
# The batch was collected by the policy we are about to change, $\pi_{\theta_k}$.
# At that very moment the likelihood ratio of Eq. 1,
#
# $$r_\theta(s_t, a_t) = \frac{\pi_\theta(a_t \mid s_t)}{\pi_{\theta_k}(a_t \mid s_t)},$$
#
# is one for every pair.
# If it is not, the stored log-probabilities belong to other actions (clipped ones, for instance) or to another policy, and everything after is wrong.

# %%
advantage = normalized(buffer.advantage)
with torch.no_grad():
    ratio = torch.exp(
        policy.distribution(buffer.obs).log_prob(buffer.action) - buffer.log_prob
    )
print("largest distance of a ratio from 1:", f"{float((ratio - 1).abs().max()):.1e}")
assert float((ratio - 1).abs().max()) < 1e-10

# %% [markdown]
# ### Line 5: the policy gradient
#
# The surrogate $L(\theta) = \mathbb{E}_t[r_\theta \hat A_t]$ has, at $\theta_k$, the gradient
#
# $$\vartheta = \frac{1}{T} \sum_t \nabla_\theta \log \pi_\theta(a_t \mid s_t) \, \hat A_t .$$
#
# The two sides are different computations: the left one differentiates a ratio, the right one a logarithm.
# They agree because the derivative of a logarithm is the derivative divided by the value, and the ratio's denominator is that value.

# %%
actor = policy.actor.detach().requires_grad_()
(by_ratio,) = torch.autograd.grad(
    surrogate(policy.distribution(buffer.obs, actor), buffer, advantage).sum(), actor
)
score = (
    policy.distribution(buffer.obs, actor).log_prob(buffer.action) * advantage
).mean(-1)
(gradient,) = torch.autograd.grad(score.sum(), actor)
print("largest difference:", f"{float((by_ratio - gradient).abs().max()):.1e}")
assert torch.allclose(by_ratio, gradient, atol=1e-12)

# %% [markdown]
# ### Line 6: the Fisher-vector product
#
# The natural gradient measures steps by how much they change the policy, not by how much they change its parameters.
# To second order that change is $\tfrac12 \Delta^\top H \Delta$ with $H$ the Hessian of the mean KL divergence (Eq. 4).
# $H$ has a row for each parameter and is never formed; Eq. 5 multiplies it by a vector with two backward passes.
# Written out in its plainest form:


# %%
def plain_product(v, damping=0.0):
    """Eq. 5: the gradient of (the gradient of the mean KL, times v)."""
    actor = policy.actor.detach().requires_grad_()
    new = policy.distribution(buffer.obs, actor)
    kl = mean_kl(new.detach(), new)
    (first,) = torch.autograd.grad(kl.sum(), actor, create_graph=True)
    (second,) = torch.autograd.grad((first * v).sum(), actor)
    return second + damping * v


# %% [markdown]
# And here is the slow, certain answer: all second derivatives, one replica at a time, as one dense matrix.


# %%
def dense_fisher(replica):
    """The Hessian of the mean KL of one replica, every entry of it."""
    alone, states = policy.replica(replica), buffer.obs[replica : replica + 1]
    old = alone.distribution(states).detach()
    return torch.autograd.functional.hessian(
        lambda a: mean_kl(old, alone.distribution(states, a.unsqueeze(0))).sum(),
        alone.actor[0].clone(),
    )


fisher = torch.stack([dense_fisher(0), dense_fisher(1)])
v = torch.randn(
    policy.actor.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
exact = (fisher @ v.unsqueeze(-1)).squeeze(-1)
errors = {
    "two backward passes, on this page": plain_product(v),
    "twinlib, two backward passes": fisher_vector_product(
        policy, buffer.obs, product="double_backward"
    )(v),
    "twinlib, forward tangents": fisher_vector_product(
        policy, buffer.obs, product="jvp"
    )(v),
    "twinlib, multiplied out": fisher_vector_product(
        policy, buffer.obs, product="analytic"
    )(v),
}
for name, product in errors.items():
    relative = float((product - exact).norm() / exact.norm())
    print(f"{name:36s} relative error {relative:.1e}")
    assert relative < 1e-8

# %% [markdown]
# The last row is the default; [chapter 7](07_natural_gradient.ipynb) derives it and compares the costs.
# At $\theta_k$ the Hessian of the KL divergence equals $J^\top M J$, with $J$ the derivative of the policy's mean and log standard deviation and $M$ their own Fisher matrix, which is diagonal; so a product costs one forward sweep of tangents and one backward sweep, and in the last row what these have in common for all states and all actions is multiplied out beforehand.

# %%
asymmetry = float((fisher - fisher.transpose(1, 2)).abs().max() / fisher.abs().max())
lowest = [float(torch.linalg.eigvalsh(f).min()) for f in fisher]
print(
    f"relative asymmetry {asymmetry:.1e}; smallest eigenvalues {lowest[0]:.1e}, {lowest[1]:.1e}"
)
assert asymmetry < 1e-10 and min(lowest) > -1e-10

# %% [markdown]
# The matrix is symmetric and has no negative eigenvalue, as a Fisher matrix must, but its smallest eigenvalues are as good as zero: some directions in parameter space do not change the policy at all in these states.
# That is what the damping $\lambda v$ in Eq. 5 is for.
#
# ### Line 7: conjugate gradients
#
# We want $d$ with $(H + \lambda) d = \vartheta$.
# The direct answer factorises the dense matrix; conjugate gradients only ever ask for products.

# %%
settings = TrustRegionConfig(
    delta=0.05, damping=0.1, cg_iterations=200, cg_tolerance=1e-24
)
d = conjugate_gradient(
    fisher_vector_product(policy, buffer.obs, settings.damping),
    gradient,
    settings.cg_iterations,
    settings.cg_tolerance,
)
direct = torch.linalg.solve(
    fisher + settings.damping * torch.eye(policy.actor_size, dtype=torch.float64),
    gradient,
)
relative = float((d - direct).norm() / direct.norm())
print(f"relative distance to the direct solution: {relative:.1e}")
assert relative < 1e-8

# %% [markdown]
# ### Lines 8 and 9: how far to go
#
# Along $d$ the quadratic model of the KL divergence reaches $\delta$ after
#
# $$\alpha = \sqrt{\frac{2\delta}{\vartheta^\top d + \varepsilon}} .$$
#
# The model is a model: the true KL divergence of that step may exceed $\delta$, and the surrogate may fall.
# The line search shortens the step until neither is the case, and puts the old parameters back if no try is good enough.
# Algorithm 1 as printed leaves it out; the text of the paper calls it optional.
# It is what turns 'about $\delta$' into 'at most $\delta$', so it is always on here.

# %%
alpha = step_length(gradient, d, settings.delta, settings.epsilon)


@torch.no_grad()
def evaluate(actor):
    new = policy.distribution(buffer.obs, actor)
    return surrogate(new, buffer, advantage), mean_kl(buffer.behaviour, new)


theta_prime, search = backtracking_line_search(
    evaluate, policy.actor, alpha.unsqueeze(-1) * d, settings.delta
)
_, unshortened = evaluate(policy.actor + alpha.unsqueeze(-1) * d)
pd.DataFrame(
    {
        "KL of the full step": unshortened,
        "accepted": search.accepted,
        "fraction taken": search.fraction,
        "KL of the accepted step": search.kl,
        "surrogate gain": search.improvement,
    },
    index=pd.Index(["replica 0", "replica 1"]),
).round(5)

# %%
assert bool((search.kl <= settings.delta).all()), (
    "an accepted step must respect the constraint"
)
assert bool((search.improvement[search.accepted] > 0).all()), (
    "an accepted step must improve the surrogate"
)
record.say(
    f"Every accepted step has a KL divergence of at most delta = {settings.delta}: "
    f"{', '.join(f'{k:.4f}' for k in search.kl.tolist())}."
)

# %% [markdown]
# ### Lines 10 to 18: proximal fine-tuning, and a question about its denominator
#
# From $\theta'$ on, minibatch steps follow the gradient of
#
# $$\mathcal{L}(\theta) = -\mathbb{E}_t[r_\theta \hat A_t] + \beta\, \mathbb{E}_t[D_{KL}(\pi_{\theta'} \,\|\, \pi_\theta)] + c_v\, \mathbb{E}_t[\tfrac12 (V_\theta - \hat R_t)^2] - c_e\, \mathbb{E}_t[\mathcal{H}(\pi_\theta)] .$$
#
# Algorithm 1 divides by $\pi_{\theta'}$ (line 13), though the data came from $\pi_{\theta_k}$.
# Importance sampling divides by the policy that drew the actions.
# Both readings are in `twinlib` (`alternating_printed` and `alternating`), because a reader of the paper may want either.
# At $\theta = \theta'$ their gradients are
#
# $$\text{printed: } \mathbb{E}_t[\nabla \log \pi_\theta \, \hat A_t], \qquad \text{behaviour: } \mathbb{E}_t\!\left[\frac{\pi_{\theta'}}{\pi_{\theta_k}} \nabla \log \pi_\theta \, \hat A_t\right],$$
#
# so the printed form is the one without the correction for the step just taken.
# How far apart are they?


# %%
def gradient_at(actor, denominator):
    """Gradient of mean(ratio x advantage) at the given parameters."""
    actor = actor.detach().requires_grad_()
    log_prob = policy.distribution(buffer.obs, actor).log_prob(buffer.action)
    (result,) = torch.autograd.grad(
        (torch.exp(log_prob - denominator) * advantage).mean(-1).sum(), actor
    )
    return result


with torch.no_grad():
    log_prob_prime = policy.distribution(buffer.obs, theta_prime).log_prob(
        buffer.action
    )
printed = gradient_at(theta_prime, log_prob_prime)
behaviour = gradient_at(theta_prime, buffer.log_prob)
cosine = torch.nn.functional.cosine_similarity(printed, behaviour, dim=-1)
length = printed.norm(dim=-1) / behaviour.norm(dim=-1)
print("cosine between the two gradients:", [round(c, 4) for c in cosine.tolist()])
print("ratio of their lengths:          ", [round(x, 4) for x in length.tolist()])
assert bool((printed - behaviour).norm() > 0)

# %% [markdown]
# The KL divergence of the step was within $\delta$, and still the two gradients differ in direction and in length.
# A possible reason: $\theta'$ has moved to where the surrogate is larger, so less gradient is left there, and any correction is large beside it.
# With two replicas the size of the difference is an example and not a measurement.
# This page does not show whether the choice changes what is learned.
# `alternating` is the second one, whose gradient is that of the surrogate; the printed form is an arm of its own.

# %% [markdown]
# ## What 'two stages' means: two schedules
#
# The paper's Algorithm 1 takes one TRPO step **and** PPO epochs in every iteration.
# Its experiments run TRPO for the first ten thousand environment steps and PPO for the rest.
# These are different algorithms, so both are here.
#
# | schedule | first stage | second stage | what passes between them |
# |---|---|---|---|
# | `two_stage` | TRPO until `warm_start_steps` | PPO with clip and penalty | parameters, and the mean KL of the accepted TRPO updates as PPO's KL target (Remark 3.1) |
# | `alternating` | one TRPO step in each iteration | PPO with clip and penalty on the same data | the parameters of the step, and the mean KL of the accepted TRPO updates so far as KL target |
# | `PPO_restart` | the second stage of `two_stage`, until `warm_start_steps` | the same with a fresh optimizer | parameters only: the control for 'a fresh start helps' |
# | `second_stage_after_plain` | plain gradient steps, each as long in KL as the natural step on its data | as in `two_stage` | parameters, and the mean KL of the steps: the control for 'short steps help, whatever their direction' |
# | `second_stage_alone` | none | the second stage of `two_stage` from the start | the control for 'the second stage does it all' |
#
# The controls matter.
# Starting the second stage gives PPO a new Adam optimizer with empty memory, and that alone can change a learning curve.
# If `two_stage` beats PPO but a control does so too, the natural gradient has shown nothing.
#
# The last three are a matched ablation.
# Each differs from `two_stage` in its first stage alone: learning rate, penalty, clip and minibatches of the second stage are the same, and each takes the settings that were tuned for `two_stage`.
# An arm without steps that could be observed takes $\delta$ as its KL target, unless it is told the one that `two_stage` handed over.
# `second_stage_after_plain` fits its critic as TRPO does, by itself and on the same data; what is left between the two is the direction of the actor's steps.

# %%
proximal = ProximalConfig(learning_rate=1e-3, minibatch_size=256)
base = TrainingConfig(
    timesteps=16_384,
    warm_start_steps=4_096,
    steps_per_iteration=1_024,
    log_std=-1.0,
    proximal=proximal,
    fine_tuning=dataclasses.replace(proximal, beta=0.1),
    trust_region=TrustRegionConfig(delta=0.05, cg_iterations=10),
)
seeds = [0, 1, 2]
arena = packaged_world()
record.say(
    f"Every algorithm: {base.timesteps:,} environment steps, {base.steps_per_iteration:,} an iteration, "
    f"{len(seeds)} seeds trained side by side, the same networks, discount and learning rate."
)
with pd.option_context("display.max_colwidth", None):
    display(
        pd.DataFrame(HISTORY_COLUMNS.items(), columns=["logged quantity", "what it is"])
    )

# %% [markdown]
# The run is short and its settings were not tuned, so that the page finishes in a minute; minibatches are larger than the customary 64 for the same reason.
# It takes place in the packaged world of simulated cells, whichever dataset was chosen above.
# There the perturbations are strong, so that a minute of training has something to learn.
# On the real cells one perturbed cell differs from the next far more than from a control, and a run of this length ends within its own noise; the [replication chapter](12_replication.ipynb) trains there for longer, with tuned settings, and states its number of steps.


# %%
def run(algorithm, **changes):
    """Train the seeds side by side; the history gets the algorithm's name."""
    config = dataclasses.replace(base, algorithm=algorithm, **changes)
    dynamics = Dynamics(arena, EnvironmentConfig(), replicas=len(seeds), n_cells=64)
    policy, history = train(dynamics, config, seeds)
    return policy, history.assign(algorithm=algorithm)


trained = {
    name: run(name)
    for name in ("PPO", "PPO_restart", "TRPO", "two_stage", "alternating")
}
history = pd.concat([h for _, h in trained.values()], ignore_index=True)
assert (history.groupby("algorithm").environment_steps.max() == base.timesteps).all()

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
for name in trained:
    part = history[history.algorithm == name]
    for axis, x in zip(axes, ("environment_steps", "optimizer_steps"), strict=True):
        mean = part.groupby("iteration")[[x, "episode_return"]].mean()
        axis.plot(
            mean[x], mean["episode_return"], color=plots.COLOURS[name], label=name
        )
        for _, one in part.groupby("seed"):
            axis.plot(
                one[x],
                one["episode_return"],
                color=plots.COLOURS[name],
                alpha=0.25,
                linewidth=0.8,
            )
for axis, label in zip(
    axes, ("environment steps", "optimizer steps of the actor"), strict=True
):
    axis.axhline(0.0, color=plots.COLOURS["do_nothing"], linewidth=1.0, linestyle="--")
    axis.set_xlabel(label)
axes[0].axvline(base.warm_start_steps, color="#9ca3af", linewidth=1.0, linestyle=":")
axes[0].set_ylabel("return of an episode")
axes[0].legend()
axes[1].set_xscale("log")
plots.show(
    fig,
    "two-stage-learning-curves",
    "Two panels of learning curves, return of an episode against environment steps and against optimizer "
    "steps, one colour for each of five algorithms, thin lines for single seeds; a dashed line at zero marks "
    "doing nothing, a dotted line the end of the first stage.",
    "Returns while learning (noisy actions). Thick: mean over seeds; thin: each seed; dotted: hand-over.",
)

# %% [markdown]
# The two panels order the algorithms differently, and both orders are honest answers to different questions.
# Against environment steps the axis counts simulated experiments.
# Against optimizer steps it counts parameter updates: a TRPO update is one step, and its conjugate gradient iterations are hidden inside it, so the right panel flatters whatever does more work per step.
#
# The curves start below zero, because a policy that is learning acts with noise and noise costs return ([chapter 8](08_trpo.ipynb), step 6, has the number).
# A curve that rises has learned something, even where it ends below the dashed line; 'Does it predict better cells?' below asks again without noise.

# %%
last = history[history.iteration > history.iteration.max() - 3]
table = last.groupby(["algorithm", "seed"]).episode_return.mean().unstack("algorithm")
summary = pd.DataFrame(
    {
        "return, last three iterations": table.mean(),
        "standard deviation over seeds": table.std(ddof=1),
        "minus PPO, paired by seed": table.sub(table["PPO"], axis=0).mean(),
        "optimizer steps": history.groupby("algorithm").optimizer_steps.max(),
    }
)
record.glue("two_stage_minus_ppo", round(float(summary.loc["two_stage"].iloc[2]), 4))
summary.round(4)

# %% [markdown]
# `two_stage` and `alternating` take far fewer optimizer steps than PPO, because the KL target stops their updates early.

# %%
best, gap = table.mean().idxmax(), table["two_stage"] - table["PPO"]
record.say(
    f"In this run the highest mean return belongs to `{best}`. "
    f"The warm start minus PPO is {gap.mean():+.4f} on average, with {int((gap > 0).sum())} of {len(gap)} "
    "seeds above zero. With this few seeds no sign test can reach the usual five percent, whatever the numbers."
)

# %% [markdown]
# How much of that survives rounding?
# Single precision keeps seven digits, and two ways to compute the same sum differ in the last one.
# Over hundreds of updates such differences grow, as a butterfly's would.
# Here are the same seeds again with every derivative from autograd (`compute="reference"`), where the runs above took those written out by hand: the same algorithm, the same random numbers, another rounding.

# %%
rounded = pd.concat(
    [run(name, compute="reference")[1] for name in trained], ignore_index=True
)
late = rounded[rounded.iteration > rounded.iteration.max() - 3]
again = late.groupby(["algorithm", "seed"]).episode_return.mean().unstack("algorithm")
differences = pd.DataFrame(
    {
        "minus PPO, by hand": table.sub(table["PPO"], axis=0).mean(),
        "minus PPO, by autograd": again.sub(again["PPO"], axis=0).mean(),
        "largest change of a seed": (table - again).abs().max(),
    }
).drop("PPO")
turned = differences.index[differences.iloc[:, 0] * differences.iloc[:, 1] < 0]
record.say(
    f"Another rounding changes the return of a seed by up to {differences.iloc[:, 2].max():.4f}. "
    + (
        f"The sign of the difference to PPO turns for {', '.join(f'`{name}`' for name in turned)}: it says nothing."
        if len(turned)
        else "No sign of a difference to PPO turns in this run."
    )
)
differences.round(4)

# %% [markdown]
# A difference no larger than the last column is no difference, whatever its sign.
#
# ## The hand-over, looked at closely
#
# Remark 3.1 initialises PPO's KL target with the KL divergence that TRPO was seen to take.
# TRPO's steps respect $\delta$, so the target is at most $\delta$; and an update stops as soon as a minibatch shows a KL divergence above one and a half times the target.
# The stop looks at one minibatch before a step, so the KL divergence of a whole update can end above that ([chapter 9](09_ppo_kl.ipynb), step 4).
# A policy with many action dimensions adds up the KL of all of them, so PPO left to itself takes steps much longer than a customary $\delta$.
# The smaller the target, the earlier each update stops.

# %%
wide = dataclasses.replace(base.trust_region, delta=0.5)
runs = {
    "delta 0.05, handed over": trained["two_stage"][1],
    "delta 0.5, handed over": run("two_stage", trust_region=wide)[1],
    "delta 0.05, no KL target": run("two_stage", hand_over=False)[1],
}
minibatches = proximal.epochs * base.steps_per_iteration // proximal.minibatch_size
fig, axes = plt.subplots(1, 2, figsize=(11, 4.0))
rows = []
for (name, h), colour, line in zip(
    runs.items(), ("#009e73", "#0072b2", "#d55e00"), ("-", "--", "-."), strict=True
):
    second = h[h.stage == "PPO"]
    steps = h.groupby("seed").optimizer_steps.diff().loc[second.index]
    axes[0].plot(
        second.groupby("iteration").kl.mean(), color=colour, linestyle=line, label=name
    )
    axes[1].plot(
        steps.groupby(second.iteration).mean(), color=colour, linestyle=line, label=name
    )
    rows.append(
        (
            name,
            second.target_kl.mean(),
            second.kl.mean(),
            steps.mean(),
            h[h.iteration > h.iteration.max() - 3].episode_return.mean(),
        )
    )
axes[1].axhline(minibatches, color="#9ca3af", linewidth=1.0)
axes[0].set_yscale("log")
axes[0].set_ylabel("KL of a PPO update (Eq. 4)")
axes[1].set_ylabel("minibatch steps of an update")
for axis in axes:
    axis.set_xlabel("iteration")
axes[0].legend()
plots.show(
    fig,
    "hand-over",
    "Left: KL divergence of each proximal update in the second stage on a logarithmic axis for three settings; "
    "right: how many minibatch steps each update took before it stopped, with a grey line at the largest number "
    "possible. The smaller handed-over target stops the updates earliest.",
    "What the handed-over KL target does to the second stage.",
)
columns = [
    "setting",
    "KL target",
    "KL of an update",
    "minibatch steps of an update",
    "return, last three iterations",
]
pd.DataFrame(rows, columns=columns).set_index("setting").round(4)

# %%
taken = [row[3] for row in rows]
assert taken[0] < taken[1] <= minibatches and taken[0] < taken[2]
record.say(
    f"With the smaller target an update takes {taken[0]:.1f} of {minibatches} minibatch steps on average; "
    f"with the larger one {taken[1]:.1f}; without a target {taken[2]:.1f}. "
    f"It takes {taken[0] / minibatches:.0%} of the steps and ends at a return of {rows[0][4]:+.4f}; "
    f"the other two end at {rows[1][4]:+.4f} and {rows[2][4]:+.4f}, "
    f"where the standard deviation over seeds was {summary.loc['two_stage'].iloc[1]:.4f} in the table above."
)

# %% [markdown]
# The first row is the `two_stage` run of the table above.
# Where an update takes all of its minibatch steps the target has stopped nothing.
# The KL divergence of such a setting still differs from that without a target, because a wider first stage left a different policy.
# Three seeds cannot say which setting has the higher return.
#
# So $\delta$ is not only a setting of the first stage.
# Through the hand-over it decides how much of the second stage takes place, and a comparison of 'two stages' with PPO is to a large part a comparison of stopping rules.
# In the code that was released with the paper the target became zero through a look-up of a quantity that was never logged, and the second stage then takes one minibatch step in each update; the [replication chapter](12_replication.ipynb) reproduces that and two mended versions beside it.

# %% [markdown]
# ## Does it predict better cells?
#
# Returns while learning are returns of noisy actions.
# A prediction uses the mean action with noise and kick switched off, so we score that: the share of the squared error to the matched profile which the policy removes, on the simulated cells it was trained on.


# %%
@torch.no_grad()
def error_removed(policy):
    """1 - final error / initial error of the mean action, one number a seed."""
    dynamics = Dynamics(
        arena, EnvironmentConfig().quiet(), replicas=len(seeds), n_cells=256
    )
    obs = dynamics.reset(make_generators([10] * len(seeds), "environment"))
    before = dynamics.error.mean(1)
    total = torch.zeros(len(seeds), 256)
    for _ in range(dynamics.horizon):
        step = dynamics.step(policy.act(obs).clamp(-1, 1))
        total, obs = total + step.reward, step.obs
    return (total.mean(1) / before).numpy()


removed = pd.DataFrame(
    {name: error_removed(policy) for name, (policy, _) in trained.items()}, index=seeds
)
removed.index.name = "seed"
record.say(
    "Share of the squared error removed by the mean action (costs of the actions included):"
)
removed.round(4)

# %% [markdown]
# Most of the error to a single matched cell is that cell's own noise, which nothing can predict, so small shares are expected here; the [evaluation chapter](11_twin_evaluation.ipynb) measures what share could be removed at best, and uses mean responses in place of single cells.

# %% [markdown]
# ## What tuning says: the best of k settings
#
# A comparison at one shared setting favours the algorithm that the setting happens to suit, and a comparison of best settings favours the one that was searched more.
# So four algorithms get the same random settings: learning rate of every PPO stage, $\delta$, minibatch, clip range, start noise and discount, from one published distribution, the same draw for all of them where they have the setting.
# Each setting is trained with three seeds for the paper's number of steps on the first fold; the environment, its action scale included, is the same for all.
# A setting is chosen by its score on validation cells, among those that earn more there than doing nothing, and then scored on test cells.
#
# What the budget buys is drawn as **the expected test score of the best of k settings**: k settings are drawn from those tried, the best by validation is taken, and its test score is averaged over all draws of k.
# At k = 1 the curve says how an algorithm does at a setting taken blindly; where it is flat, more tuning buys nothing.
# (The runs are stored: `python -m experiments tuning --dataset NAME --out DIR`.)

# %%
from twinlib.errors import ResultsError
from twinlib.policy.random_settings import DISTRIBUTION
from twinlib.results.judged import in_words, judged_splits
from twinlib.results.policy_claims import OURS, RIVAL, TUNED_DATASETS
from twinlib.results.policy_tables import (
    below_nothing,
    mean_curves,
    policy_table,
    shares,
)
from twinlib.results.tables import results_folder
from twinlib.results.tuning_curves import BUDGETS, Tuned
from twinlib.results.verdicts import TOLD_AT, primary

pd.DataFrame(
    {
        name: {"drawn": rule, "from": values}
        for name, (rule, values) in DISTRIBUTION.items()
    }
).T

# %%
tuned = {}
for name in TUNED_DATASETS:
    try:
        tuned[name] = Tuned.of(name)
    except ResultsError as error:
        record.say(f"{name} is left out. {error}")
for name, known in tuned.items():
    record.say(
        f"**{name}**: {len(known.settings)} settings of {len(known.algorithms)} algorithms and "
        f"{known.runs[known.runs.setting != ''].seed.nunique()} seeds each; score: {known.metric}."
    )

# %%
if tuned:
    fig, axes = plt.subplots(
        1, len(tuned), figsize=(4.0 * len(tuned), 4.0), squeeze=False
    )
    for axis, (name, known) in zip(axes[0], tuned.items(), strict=True):
        curves = known.curves(BUDGETS)
        for model, rows in curves.groupby("model", sort=False):
            axis.plot(rows.k, rows["mean"], color=plots.COLOURS[model], label=model)
            axis.fill_between(
                rows.k, rows.low, rows.high, color=plots.COLOURS[model], alpha=0.12
            )
        axis.axhline(
            0.0, color=plots.COLOURS["do_nothing"], linestyle="--", linewidth=1.0
        )
        axis.set_title(name)
        axis.set_xlabel("settings tried, k")
    axes[0, 0].set_ylabel("test score of the best of k")
    axes[0, 0].legend()
    plots.show(
        fig,
        "tuning-curves",
        "Expected test score of the best of k random settings against k, one panel a dataset, one line with a band "
        "for each of four algorithms, and a dashed line at zero for doing nothing.",
        "What a budget of tuning buys; the bands hold the chance of perturbations and of the drawn settings.",
    )

# %% [markdown]
# A setting **diverges** when the mean KL divergence of its updates exceeds 1 or when it ends below doing nothing.
# An algorithm that works at few settings can win at k = 12 and be a poor choice for whoever has time for one.

# %%
for name, known in tuned.items():
    record.say(f"**{name}**, settings that diverge:")
    display(known.divergence().set_index("model").round(3))

# %% [markdown]
# ### The primary claim
#
# The claim was named before the runs: two_stage scores higher than PPO.
# It *holds* if the interval of the difference at k = 10 lies above zero and the one at k = 1 does not lie below; *does not hold* is the mirror image; everything else *cannot be told*, and the smallest difference that four of five such experiments would have seen says what that means.

# %%
for name, known in tuned.items():
    gaps = known.gaps(OURS, RIVAL, TOLD_AT)
    told = "; ".join(f"k = {k}: {in_words(gap)}" for k, gap in gaps.items())
    record.say(
        f"**{name}**, {OURS} - {RIVAL}, {known.metric}: {told}. Verdict: *{primary(gaps)}*."
    )

# %% [markdown]
# ## Every arm with ten fresh seeds
#
# Now each algorithm takes its best setting to all five folds, with seeds that the tuning did not use, and the other arms take the setting of the algorithm that they control for:
#
# - `PPO_restart` begins anew where `two_stage` switches;
# - `second_stage_after_plain` has the same second stage, after plain gradient steps of the same KL divergence in place of natural ones;
# - `second_stage_alone` has no first stage, and is told the KL target that `two_stage` measured;
# - `alternating_printed` is Algorithm 1 as printed, with the ratio to a policy that did not collect the data.
#
# The two arms in the middle decide what the first stage does, if anything.
# Beside them stand the yardsticks of [chapter 5](05_environment.ipynb): `greedy`, one line of linear algebra, and `pathwise`, the same network trained by the exact gradient through the environment.
# An arm's score is printed as a share of `pathwise`, with the interval of the ratio over folds and perturbations.

# %%
splits, learned, ran = {}, {}, {}
for name in TUNED_DATASETS:
    try:
        learned[name], ran[name] = (
            policy_table(name, "curves"),
            policy_table(name, "runs"),
        )
        splits[name] = judged_splits("policies", name)["cells"]
    except ResultsError as error:
        record.say(f"{name} is left out. {error}")
for name, split in splits.items():
    arms = [model for model in plots.COLOURS if model in set(split.scores.model)]
    arms = [
        model for model in arms if model not in ("no_change", "replicate", "do_nothing")
    ]
    table = shares(split, arms).set_index("model")
    counts = below_nothing(ran[name]).set_index("model")
    table = table.join(
        counts.rename(
            columns={"below": "runs below doing nothing", "lost": "runs lost"}
        )
    )
    record.say(
        f"**{name}**, {split.metric} as a share of `pathwise`, over {split.over}:"
    )
    display(table.drop(columns="runs").round(3))

# %% [markdown]
# ### What the first stage does

# %%
AGAINST = ("TRPO", "second_stage_after_plain", "second_stage_alone", "PPO_restart")
for name, split in splits.items():
    lines = [f"less {rival}: {in_words(split.gap(OURS, rival))}" for rival in AGAINST]
    record.say(f"**{name}**, {OURS} " + "; ".join(lines) + ".")

# %% [markdown]
# ### How they learn
#
# The return of noisy actions while training, in units of what can be attained, against both kinds of step.

# %%
SHOWN = (
    "PPO",
    "TRPO",
    "two_stage",
    "alternating",
    "second_stage_after_plain",
    "second_stage_alone",
)
if learned:
    fig, axes = plt.subplots(
        len(learned), 2, figsize=(11, 3.6 * len(learned)), squeeze=False, sharey="row"
    )
    for row, (name, curves) in zip(axes, learned.items(), strict=True):
        for model, part in mean_curves(curves, SHOWN).groupby("model", sort=False):
            row[0].plot(
                part.environment_steps / 1000,
                part.episode_return,
                color=plots.COLOURS[model],
                label=model,
            )
            row[0].fill_between(
                part.environment_steps / 1000,
                part.low,
                part.high,
                color=plots.COLOURS[model],
                alpha=0.1,
            )
            row[1].plot(
                part.optimizer_steps.clip(lower=1),
                part.episode_return,
                color=plots.COLOURS[model],
            )
        row[0].set_ylabel(f"{name}\nreturn")
        row[1].set_xscale("log")
        for axis in row:
            axis.axhline(
                0.0, color=plots.COLOURS["do_nothing"], linestyle="--", linewidth=1.0
            )
    axes[-1, 0].set_xlabel("environment steps (thousands)")
    axes[-1, 1].set_xlabel("optimizer steps of the actor")
    axes[0, 0].legend()
    plots.show(
        fig,
        "tuned-learning-curves",
        "Learning curves of six arms, one row a dataset: return against environment steps on the left, with bands "
        "between the quartiles, and against optimizer steps on a logarithmic axis on the right; a dashed line at "
        "zero marks doing nothing.",
        "Return of noisy actions while training, mean over folds and seeds; 1 is the best constant action.",
    )

# %% [markdown]
# How much faster one of them is, in return and in optimizer steps, stands with its interval on the page [Claims](../book/claims.md).

# %% [markdown]
# ## Held against other libraries: returns and speed
#
# The comparison above is among our own algorithms, so a mistake that all of them share would not show.
# The package's tests hold one update against Stable-Baselines3 and sb3-contrib, parameter by parameter.
# Whole training runs cannot be compared that way, because the two libraries draw different random numbers.
# So their returns are compared on two tasks of gymnasium, one with discrete and one with continuous actions, with the same settings and the same number of seeds (`python -m experiments peers --out DIR`).
# The question asked before the runs: does the lower end of the 90 % interval of ours minus theirs lie above minus a tenth of what they gain over a random policy?
# Ten seeds each were planned.
# On CartPole a single run that fails moves the mean of ten by more than that bound, so both libraries got twenty seeds more there; the column of the first ten seeds shows what the plan alone would have said.


# %%
def ninety(a, b, draws=10_000):
    """Bootstrap interval of mean(a) - mean(b); the seeds of two libraries are not paired."""
    rng = np.random.default_rng(0)
    means = [x[rng.integers(len(x), size=(draws, len(x)))].mean(1) for x in (a, b)]
    return np.quantile(means[0] - means[1], [0.05, 0.95])


peers = results_folder() / "peers" / "returns.csv"
if peers.is_file():
    lines = {}
    for task, rows in pd.read_csv(peers).groupby("task"):
        of = {
            library: part["return"].to_numpy()
            for library, part in rows.groupby("library")
        }
        gain = of["stable_baselines3"].mean() - of["random"].mean()
        low, high = ninety(of["twinlib"], of["stable_baselines3"])
        first = ninety(of["twinlib"][:10], of["stable_baselines3"][:10])[0]
        lines[task] = {
            "seeds": len(of["twinlib"]),
            "random": of["random"].mean(),
            "Stable-Baselines3": of["stable_baselines3"].mean(),
            "twinlib": of["twinlib"].mean(),
            "difference, low end / gain": low / gain,
            "difference, high end / gain": high / gain,
            "first ten seeds, low end / gain": first
            / (of["stable_baselines3"][:10].mean() - of["random"].mean()),
        }
    peer_table = pd.DataFrame(lines).T
    held = peer_table.index[peer_table["difference, low end / gain"] > -0.1]
    record.say(
        f"The bound holds on {len(held)} of {len(peer_table)} tasks"
        + (f" ({', '.join(held)})." if len(held) else ".")
    )
    display(peer_table.round(3))
else:
    record.say("No stored returns: `python -m experiments peers --out DIR` makes them.")

# %% [markdown]
# The speed of training is measured on the environment of the released code, with the default settings of both libraries, in turns on one machine (`benchmarks/ppo_speed.py`).
# Ten seeds are trained as replicas in two processes of one thread; the peer runs one seed a process.
# It is given two environments: one cell at a time, which is how it is usually run, and 64 cells in one numpy expression, which is the fastest that its user could write.
# A ratio above one means that `twinlib` takes less processor time.

# %%
folder = results_folder() / "speed"


def stored_speed(name):
    """A table of results/speed, or None where it is not there."""
    return (
        pd.read_csv(folder / f"{name}.csv")
        if (folder / f"{name}.csv").is_file()
        else None
    )


training, scaling, fisher_costs = (
    stored_speed(name) for name in ("training", "scaling", "fisher")
)
if training is None or scaling is None or fisher_costs is None:
    record.say(
        "Stored speeds are missing: `python benchmarks/ppo_speed.py`, `speed_scaling.py` and "
        "`fisher_vector_product.py` make them."
    )
else:
    against = training[training.name.str.contains("SB3|update alone")].iloc[::-1]
    fig, axes = plt.subplots(
        1, 2, figsize=(12, 5.0), gridspec_kw={"width_ratios": (1.1, 1)}
    )
    colour = [plots.COLOURS[name.split(",")[0].split(":")[0]] for name in against.name]
    axes[0].barh(against.name, against.ratio, color=colour)
    axes[0].axvline(1.0, color="#6b7280", linestyle=":")
    axes[0].set_xlabel("processor time of the peer / of twinlib")
    axes[0].tick_params(axis="y", labelsize=8)
    peers = scaling[scaling.name.str.endswith("SB3")]
    autograd = scaling[scaling.name.str.endswith("autograd")]
    varied = ["observation", "width", "minibatch", "cells"]
    usual = peers[varied].mode().iloc[0]
    for quantity in varied:
        others = [name for name in varied if name != quantity]
        rows = peers[(peers[others] == usual[others]).all(axis=1)].sort_values(quantity)
        axes[1].plot(np.log2(rows[quantity]), rows.ratio, marker="o", label=quantity)
    axes[1].axhline(1.0, color="#6b7280", linestyle=":")
    axes[1].set_yscale("log")
    axes[1].set_xlabel("size, as a power of two")
    axes[1].set_ylabel("time of Stable-Baselines3 / of twinlib, PPO, one seed")
    axes[1].legend()
    plots.show(
        fig,
        "training-speed",
        "Left: bars, how many times the processor time of twinlib the peer takes, for PPO and TRPO, one and ten "
        "seeds, against one environment and against 64, and for the updates alone. Right: the same ratio for PPO "
        "with one seed on a logarithmic axis against the size of the observation, the width of the network, the "
        "minibatch and the number of cells.",
        "Training speed beside Stable-Baselines3 and sb3-contrib.",
    )
    ratio = training.set_index("name").ratio
    record.say(
        f"Ten seeds of PPO train {ratio['PPO, ten seeds; SB3 one environment']:.1f} times as fast as the peer with "
        f"one environment and {ratio['PPO, ten seeds; SB3 64 environments']:.1f} times as fast as with 64; TRPO "
        f"{ratio['TRPO, ten seeds; SB3 one environment']:.1f} and "
        f"{ratio['TRPO, ten seeds; SB3 64 environments']:.1f} times, and with the peer's own KL divergence "
        f"{ratio['TRPO, ten seeds, equal KL; SB3 64 environments']:.1f} times against 64. "
        f"Over all sizes the smallest ratio is {peers.ratio.min():.2f} against Stable-Baselines3 and "
        f"{autograd.ratio.min():.2f} against autograd. A Fisher-vector product costs "
        + ", ".join(f"{row.in_gradients:.2f}" for row in fisher_costs.itertuples())
        + " gradients by autograd ("
        + ", ".join(name.split(", ")[1].split(";")[0] for name in fisher_costs.name)
        + ")."
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    if any(entry["machine_was_shared"] for entry in manifest["tables"].values()):
        record.say(
            "Other work ran on the machine meanwhile; the ratios, taken in turns, hold better than the times."
        )
    display(training.set_index("name"))

# %% [markdown]
# What a sceptic would say:
#
# - A good part of the ratios for one environment is the peer stepping one environment, and is gone when a user writes a vectorised one. Compare the bars in pairs.
# - sb3-contrib averages the KL divergence over actions. Its damped matrix is then nearly the damping alone, conjugate gradients stop after fewer products, and its update has less to do. Only the rows with equal KL compare the same update.
# - Stable-Baselines3 takes any network and any observation. The derivatives written by hand are for one: a tanh network with a Gaussian head.
# - The ratio falls with the width of the network and with the minibatch: where matrix products are large they take most of the time on both sides, and no one can make them faster.
# - The last line but one of the table is the floor, the time of the matrix products alone at the speed of a large one. Products of 64 rows do not run at that speed, and between them stand a tanh, the loss and Adam.

# %% [markdown]
# ## What can be repeated, and how exactly
#
# The same machine, threads and block of seeds give the same bits; what else does, and what does not, stands on the [notation page](../book/notation.md#what-can-be-repeated-and-how-exactly).
#
# ## Limitations
#
# - The runs made live on this page: three seeds, short, on simulated cells, with shared and untuned settings. They show that the pieces work together and do not rank algorithms.
# - The stored runs: all tuning was done on the first fold, with three seeds a setting; the distribution of settings is ours, and another one would give other curves.
# - The described environment without drift is linear in the latent cell, and its return is close to concave; there is little to escape from, so this page says nothing about escaping.
# - A natural gradient is invariant to how the policy is parametrised only in the limit of small steps and small damping; with $\lambda = 0.1$ the directions of low curvature are mostly plain gradient.
#
# ## What this does not show
#
# It does not show that a warm start helps or hurts in general.
# The train-test gap is that of unseen cells under perturbations that were trained on; it says nothing about unseen perturbations.
# The speeds above are those of one machine.
#
# ## Key takeaways
#
# - Each line of the first stage has an exact counterpart to be held against: dense Fisher matrix, direct solution, measured KL divergence.
# - 'Two stages' names two different algorithms, and line 13 of Algorithm 1 divides by a policy that did not collect the data.
# - Through Remark 3.1 the trust region's $\delta$ becomes the second stage's stopping rule; watch the number of minibatch steps actually taken.
# - A warm start must be compared with a restart, and learning curves must be shown against both kinds of step.
# - Every algorithm gets the same random settings, and the whole curve over budgets is shown, not its best point.
# - A combination must beat its parts, and a first stage the same second stage without it.

# %% [markdown]
# ## Exercises
#
# ### Exercise 10.1. The step length
#
# Write `step(gradient, d, delta)` for one replica: the vector $\alpha d$ of Eq. 6 (take $\varepsilon = 10^{-8}$), with a zero vector when $d$ does not go uphill, that is when $\vartheta^\top d \le 0$.

# %% tags=["exercise-1"]
import torch


def step(gradient, d, delta):
    return d


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def step(gradient, d, delta):
#     ascent = gradient @ d
#     if ascent <= 0:
#         return torch.zeros_like(d)
#     return torch.sqrt(2 * delta / (ascent + 1e-8)) * d
# ```
#
# </details>

# %% tags=["check-1"]
from twinlib.page.record import attempt


def check_1(step):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    fisher = root @ root.T + torch.eye(5, dtype=torch.float64)
    gradient = torch.randn(5, generator=generator, dtype=torch.float64)
    d = torch.linalg.solve(fisher, gradient)
    moved = step(gradient, d, 0.02)
    model = float(0.5 * moved @ fisher @ moved)
    assert abs(model - 0.02) < 1e-6, (
        f"the quadratic model of the KL is {model:.4f} after the step, not 0.02"
    )
    assert not step(gradient, -d, 0.02).any(), (
        "a direction that goes downhill must give no step"
    )


attempt("10.1", check_1, step)

# %% [markdown]
# ### Exercise 10.2. The hand-over
#
# Write `target_kl(history, delta)`: from the history of one seed (columns `stage`, `accepted`, `kl`) return the KL target of the second stage, the mean KL of the accepted TRPO updates, and $\delta$ when none was accepted.


# %% tags=["exercise-2"]
def target_kl(history, delta):
    return history["kl"].mean()


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def target_kl(history, delta):
#     accepted = history[(history["stage"] == "TRPO") & (history["accepted"] == 1)]
#     return accepted["kl"].mean() if len(accepted) else delta
# ```
#
# </details>

# %% tags=["check-2"]
import pandas as pd

from twinlib.page.record import attempt


def check_2(target_kl):
    table = pd.DataFrame(
        {
            "stage": ["TRPO"] * 3 + ["PPO"],
            "accepted": [1, 0, 1, None],
            "kl": [0.02, 0.0, 0.04, 0.5],
        }
    )
    found = target_kl(table, 0.1)
    assert abs(found - 0.03) < 1e-12, f"expected the mean of 0.02 and 0.04, got {found}"
    none = table.assign(accepted=[0, 0, 0, None])
    assert target_kl(none, 0.1) == 0.1, "without an accepted step the target is delta"


attempt("10.2", check_2, target_kl)

# %% [markdown]
# ### Exercise 10.3. Find the silent bug
#
# Ten replicas are trained side by side, and each has to stop its update when **its own** KL divergence exceeds the target.
# Somebody implements the stop by masking the loss: a stopped replica's loss is multiplied by zero, so its gradient is zero, so it stands still.
# All curves look plausible.
# Yet replica 3 of the batch no longer equals seed 3 trained alone.
# Mend `masked_steps` so that a stopped replica really stands still.
# A replica that has stopped must keep its parameters, both running means of Adam and its own count of steps ([chapter 9](09_ppo_kl.ipynb), 'You should know').

# %% tags=["exercise-3"]
import torch


def masked_steps(theta, gradients, active):
    """Adam on theta [R, P]; gradients [K, R, P]; active [K, R] says who still moves at step k."""
    theta = theta.clone()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for k, (gradient, on) in enumerate(zip(gradients, active, strict=True), start=1):
        gradient = gradient * on.unsqueeze(1)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        theta = theta - 0.01 * (first / (1 - 0.9**k)) / (
            (second / (1 - 0.999**k)).sqrt() + 1e-5
        )
    return theta


# %% [markdown]
# <details><summary>Solution</summary>
#
# With a zero gradient Adam still moves along its remembered first moment, and forgets it while doing so.
# The moments, the parameters and the count of steps of a stopped replica must all be left alone.
#
# ```python
# import torch
#
#
# def masked_steps(theta, gradients, active):
#     theta = theta.clone()
#     first, second = torch.zeros_like(theta), torch.zeros_like(theta)
#     steps = torch.zeros(len(theta), 1, dtype=theta.dtype)
#     for gradient, on in zip(gradients, active, strict=True):
#         on = on.unsqueeze(1)
#         steps = steps + on
#         k = steps.clamp(min=1)
#         first = torch.where(on, 0.9 * first + 0.1 * gradient, first)
#         second = torch.where(on, 0.999 * second + 0.001 * gradient**2, second)
#         move = 0.01 * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-5)
#         theta = torch.where(on, theta - move, theta)
#     return theta
# ```
#
# </details>

# %% tags=["check-3"]
from twinlib.page.record import attempt


def check_3(masked_steps):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    everyone = torch.ones(6, 2, dtype=torch.bool)
    stops = everyone.clone()
    stops[3:, 1] = False
    free, stopped = (
        masked_steps(start, gradients, everyone),
        masked_steps(start, gradients, stops),
    )
    short = masked_steps(start, gradients[:3], everyone[:3])
    assert torch.allclose(free[0], stopped[0]), (
        "the replica that did not stop must not notice"
    )
    assert torch.allclose(stopped[1], short[1], atol=1e-12), (
        "the stopped replica still moved after its stop"
    )


attempt("10.3", check_3, masked_steps)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): Eq. 1-9, Algorithm 1, Remark 3.1.
# - Schulman, Levine, Moritz, Jordan and Abbeel, *Trust region policy optimization* (ICML 2015).
# - Schulman, Wolski, Dhariwal, Radford and Klimov, *Proximal policy optimization algorithms* (arXiv 1707.06347).
# - Kakade, *A natural policy gradient* (NeurIPS 2001).
# - Martens, *New insights and perspectives on the natural gradient method* (JMLR 2020).

# %%
print(record.stamp_line())
