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
# # 8. Trust region policy optimization: how far to go, and what a bound does not promise
#
# **Question.** A gradient step needs a length, and in policy optimization a bad one is not repaired by the next batch: a policy that has become bad collects bad data.
# How far may an update go?
#
# **Answer.** TRPO bounds how much the policy may change, by the *KL divergence* (how easily the actions of two policies are told apart), and a line search checks the bound: in the runs below every update kept it; which bound earns most was not decided.
# Every accepted update raised its *surrogate*, what its batch promises for the new policy (the mean of likelihood ratio times advantage, [chapter 6](06_policy_gradient.ipynb)); neither is a promise about the return, so that the size of the bound is still a choice: the sentence below the figure says what the policies of three bounds earned in a run that is far too short to be good (1 would be the best constant action).

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
# @title Train with three sizes of the trust region { display-mode: "form" }
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import torch

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.packaged import packaged_world
from twinlib.evaluation.statistics import paired_difference
from twinlib.page import plots, record
from twinlib.policy.training import TrainingConfig, make_generators, train
from twinlib.policy.trust_region import TrustRegionConfig

plots.style()
torch.set_num_threads(1)
world = packaged_world()
base = TrainingConfig(
    algorithm="TRPO", timesteps=16_384, steps_per_iteration=1_024, log_std=-1.0
)
histories = {}
for delta in (0.01, 0.1, 1.0):
    trust_region = TrustRegionConfig(delta=delta, cg_iterations=10)
    run = dataclasses.replace(base, trust_region=trust_region)
    task = Dynamics(world, EnvironmentConfig(), replicas=3, n_cells=64)
    histories[delta] = train(task, run, [0, 1, 2]).history
colours = dict(zip(histories, ("#9ca3af", "#c77700", "#7c2d12"), strict=True))

fig, axes = plt.subplots(1, 2, figsize=(11, 4.0))
for delta, h in histories.items():
    mean = h.groupby("environment_steps")[["episode_return", "kl"]].mean()
    axes[0].plot(mean.episode_return, color=colours[delta], label=f"delta {delta}")
    axes[1].plot(mean.kl, color=colours[delta])
    axes[1].axhline(delta, color=colours[delta], linestyle=":", linewidth=1.2)
axes[0].axhline(0.0, color=plots.COLOURS["do_nothing"], linestyle="--", linewidth=1.0)
axes[0].set_ylabel("return of an episode (noisy actions)")
axes[1].set_ylabel("KL divergence of an update (Eq. 4)")
axes[1].set_yscale("log")
for axis in axes:
    axis.set_xlabel("environment steps")
axes[0].legend()
plots.show(
    fig,
    "three-deltas",
    "Left: return of an episode against environment steps for three values of delta. "
    "Right: the KL divergence of every update, which stays at or below its delta, "
    "drawn as dotted lines.",
    "TRPO with three sizes of the trust region.",
)
shares = [(h.kl / delta).max() for delta, h in histories.items()]
accepted = sum(int(h.accepted.sum()) for h in histories.values())
for delta, h in histories.items():
    assert (h.kl <= delta * (1 + 1e-5)).all(), "an update left the trust region"
    assert (h.surrogate_gain[h.accepted == 1] > 0).all(), "a step lost surrogate"
change = {
    delta: (
        h[h.iteration <= 3].episode_return.mean(),
        h[h.iteration > h.iteration.max() - 3].episode_return.mean(),
    )
    for delta, h in histories.items()
}
ends = {
    delta: h[h.iteration > h.iteration.max() - 3].groupby("seed").episode_return.mean()
    for delta, h in histories.items()
}
first, second = sorted(ends, key=lambda delta: -ends[delta].mean())[:2]
apart = paired_difference(ends[first], ends[second])
record.say(
    f"Of {sum(map(len, histories.values()))} updates none used more than "
    f"{max(shares):.0%} of its bound, and all {accepted} accepted ones raised their "
    "surrogate. Return in the first and in the last three iterations, mean over "
    "three seeds: "
    + ", ".join(
        f"{first:+.3f} and {last:+.3f} with delta {delta}"
        for delta, (first, last) in change.items()
    )
    + f". Paired by seed, delta {first} ends {apart.mean:+.3f} above delta {second}, with "
    f"a 95 % interval from {apart.low:+.3f} to {apart.high:+.3f}: "
    + (
        f"delta {first} earns the most of the three in these short runs."
        if apart.low > 0
        else f"which earns the most cannot be told from {apart.n} seeds."
    )
)

# %% [markdown]
# *How to read it.*
# First panel: what the policy earns while it still acts with noise; the dashed line is doing nothing, without noise.
# Second panel: how far each update moved the policy, and the dotted line that it must not cross.
# This is the packaged simulated world; an action has a part for each of its genes.
#
# ## Objectives
#
# After this chapter you can
#
# - derive Eq. 6 as the solution of a constrained problem, and check that no other step of the same KL divergence gains more (15 minutes);
# - measure how good the quadratic model of the KL divergence is, and how its error shrinks (10 minutes);
# - read a line search as a contract with two clauses, and test both (10 minutes);
# - state the bound of Schulman 2015 and verify it on a decision problem small enough to solve exactly (20 minutes);
# - explain what averaging the KL divergence over the parts of an action does to the step (10 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import pandas as pd

from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.rollout import Collector
from twinlib.policy.trust_region import (
    backtracking_line_search,
    fisher_vector_product,
    mean_kl,
    natural_gradient,
    normalized,
    policy_gradient,
    step_length,
    surrogate,
    trust_region_update,
)
from twinlib.results import tables

# small KL divergences need more digits than single precision has
double = world.to(dtype=torch.float64)

# %% [markdown]
# ## Why a length is the whole problem
#
# A gradient step needs a step size, and the size that is right today is wrong after the next update, because the policy, its data and its gradient have changed.
# In supervised learning a step that was too long costs one step back.
# Here it costs the data: the next batch is drawn by the policy that has just become bad.
#
# ## The plain baseline: a fixed step size
#
# We look at one update from the same start with plain gradient steps of several sizes.
# The world is the packaged simulated one, with a part of the action for each of its genes; two replicas (seeds) side by side.

# %%
dynamics = Dynamics(double, EnvironmentConfig(), replicas=2, n_cells=64)
seeds = [0, 1]


def same_start(compute="auto"):
    """The untrained policy of both seeds, in double precision."""
    weights = make_generators(seeds, "weights")
    sizes = dynamics.observation_dim, dynamics.action_dim, 2
    return ActorCritic(
        *sizes, weights, log_std=-1.0, dtype=torch.float64, compute=compute
    )


policy = same_start()
collector = Collector(
    dynamics,
    make_generators(seeds, "environment"),
    make_generators(seeds, "actions"),
    torch.float64,
)
buffer = collector.collect(policy, steps=30, gamma=0.99, gae_lambda=0.95)
advantage = normalized(buffer.advantage)
gradient = policy_gradient(policy, buffer, advantage)


@torch.no_grad()
def evaluate(actor):
    """Surrogate and mean KL of a parameter matrix [R, P], each [R]."""
    new = policy.distribution(buffer.obs, actor)
    return surrogate(new, buffer, advantage), mean_kl(buffer.behaviour, new)


rows = []
for size in (1e-3, 1e-2, 1e-1, 1.0):
    value, kl = evaluate(policy.actor + size * gradient)
    rows.append((size, float(value.mean()), float(kl.mean())))
pd.DataFrame(rows, columns=["step size", "surrogate", "KL (Eq. 4)"]).set_index(
    "step size"
).map("{:.2e}".format)

# %% [markdown]
# The surrogate column is a warning.
# Advantages were scaled to a standard deviation of one, so a surrogate far above what the smallest steps promise is not real.
# A few samples with a huge ratio of new to old probability make it ([chapter 6](06_policy_gradient.ipynb), step 4).
# At the largest step the new policy finds all sampled actions so unlikely that every ratio, and with it the surrogate, is nearly zero.
#
# The KL divergence grows with the square of the step size, over many orders of magnitude, and nothing about the step size itself says where 'too far' begins.
# It depends on the network, on the spread of the actions and on the number of their parts.
#
# ## Quick facts
#
# | | |
# |---|---|
# | kind of method | on-policy, second order, one actor update per batch |
# | settings | $\delta$ (largest mean KL of an update), damping, conjugate gradient iterations, line search |
# | the critic | is fitted separately, by minibatch regression |
# | code | `trust_region_update` in `twinlib.policy.trust_region` |
# | equation of the paper | 6 |
#
# ## Key equations
#
# $$\max_\Delta\; \vartheta^\top \Delta \quad \text{subject to} \quad \tfrac12 \Delta^\top H \Delta \le \delta, \qquad \alpha = \sqrt{\frac{2\delta}{\vartheta^\top d + \epsilon}}, \quad H d = \vartheta, \quad \theta' = \theta_{old} + \alpha d .$$
#
# ## The whole loop
#
# ```text
# theta, w: parameters of actor and critic
# repeat until the environment steps are used up
#     run pi_theta for T steps in N cells; keep s, a, r, log pi_theta(a|s), V_w(s)
#     from the last step to the first                                      # chapter 6
#         error  = r + gamma V_w(next s) (0 if terminated) - V_w(s)
#         A      = error + gamma lambda A(next)  (0 where an episode ends)
#         R      = A + V_w(s)
#     A      = (A - mean A) / sd A                        # over the whole batch
#     g      = gradient of mean(ratio A) at theta                          # Eq. 3
#     d      = conjugate gradients for (H + damping) d = g, from zero      # Eq. 5
#     alpha  = sqrt(2 delta / (g d + epsilon))                             # Eq. 6
#     for k = 0 .. 9
#         new = theta + 0.8^k alpha d
#         if mean KL(pi_theta || pi_new) <= delta and mean(ratio A) has risen
#             theta = new; leave the loop
#     (no try was good enough: theta stays as it is, bit for bit)
#     ten passes in minibatches: w = w - Adam(gradient of mean (V_w(s) - R)^2)
#     log return, KL, surrogate gain, accepted, entropy, explained variance, value loss
# ```
#
# ## Step 1: the constrained problem has a closed solution
#
# Close to the old policy the surrogate is linear and the KL divergence quadratic.
# Setting the derivative of $\vartheta^\top \Delta - \eta(\tfrac12 \Delta^\top H \Delta - \delta)$ to zero gives $\Delta = H^{-1}\vartheta / \eta$, and the constraint fixes the multiplier:
#
# $$\tfrac12 \frac{\vartheta^\top H^{-1} \vartheta}{\eta^2} = \delta \;\Rightarrow\; \frac1\eta = \sqrt{\frac{2\delta}{\vartheta^\top d}} = \alpha .$$
#
# We check optimality without calculus: among ten thousand random steps scaled to the same quadratic KL, none has a larger linear gain.

# %%
rng = np.random.default_rng(0)
root = rng.normal(size=(12, 12))
H, g, delta = root @ root.T + 0.5 * np.eye(12), rng.normal(size=12), 0.01
d = np.linalg.solve(H, g)
best = np.sqrt(2 * delta / (g @ d)) * d
others = rng.normal(size=(10_000, 12))
others *= np.sqrt(2 * delta / np.einsum("ij,jk,ik->i", others, H, others))[:, None]
assert np.isclose(0.5 * best @ H @ best, delta)
assert (others @ g).max() <= g @ best + 1e-12
plain = np.sqrt(2 * delta / (g @ H @ g)) * g
print(
    f"linear gain of the natural step {g @ best:.4f}, of the plain gradient at the "
    f"same KL {g @ plain:.4f},"
)
print(f"of the best of {len(others):,} random steps {(others @ g).max():.4f}")

# %% [markdown]
# ## Step 2: the model is a model
#
# Now the real policy.
# We take the natural direction, scale it so that its quadratic KL is exactly $\delta$, and measure the true KL divergence.

# %%
config = TrustRegionConfig(delta=0.01, damping=0.1, cg_iterations=30)
direction = natural_gradient(policy, buffer, gradient, config)
curvature = fisher_vector_product(policy, buffer.obs)(direction)
deltas = np.logspace(-5, 0, 11)
relative = []
for value in deltas:
    alpha = step_length(curvature, direction, float(value), epsilon=0.0).unsqueeze(-1)
    _, kl = evaluate(policy.actor + alpha * direction)
    relative.append((kl / value - 1).abs().numpy())
relative = np.array(relative)


# %% tags=["hide-input"]
# @title Draw the error of the quadratic model { display-mode: "form" }
fig, axis = plt.subplots(figsize=(6.8, 4.2))
for r in range(2):
    axis.loglog(
        deltas,
        relative[:, r],
        marker="o",
        color=plots.COLOURS["TRPO"],
        alpha=1 - 0.4 * r,
        label=f"seed {r}",
    )
axis.loglog(
    deltas,
    relative[-1].mean() * np.sqrt(deltas),
    color="#6b7280",
    linestyle=":",
    label="slope one half",
)
axis.set_xlabel("delta: KL divergence that the quadratic model predicts")
axis.set_ylabel("relative error of the model")
axis.legend()
plots.show(
    fig,
    "quadratic-model",
    "Relative difference between the true KL divergence of a step and the value that "
    "the quadratic model predicts, against that value, on logarithmic axes, for two "
    "seeds; the error falls with delta.",
    "How good the quadratic model of the KL divergence is.",
)
middle = (deltas > 3e-5) & (deltas < 0.3)
slope = np.polyfit(np.log(deltas[middle]), np.log(relative[middle].mean(1)), 1)[0]
at = {x: float(relative[np.isclose(deltas, x)].mean()) for x in (1e-4, 1e-2)}
record.say(
    f"At delta = 0.0001 the model is off by {at[1e-4]:.1e} of its value, at delta = "
    f"0.01 by {at[1e-2]:.1e} (mean over seeds); the fitted slope of that mean is "
    f"{slope:.2f}, those of the seeds are "
    + " and ".join(
        f"{np.polyfit(np.log(deltas[middle]), np.log(one[middle]), 1)[0]:.2f}"
        for one in relative.T
    )
    + "."
)
assert at[1e-4] < 0.01
small = deltas <= 0.01
for one in relative.T:  # the text below says so
    gentle = np.polyfit(np.log(deltas[small]), np.log(one[small]), 1)[0]
    steep = np.polyfit(np.log(deltas[-3:]), np.log(one[-3:]), 1)[0]
    assert abs(gentle - 0.5) < 0.1 < steep - gentle

# %% [markdown]
# The third-order term is what is left out, so the relative error should fall as the square root of $\delta$ ([chapter 7](07_natural_gradient.ipynb), step 2).
# For both seeds it does where the step is small; near a KL divergence of one the error grows faster.
#
# In this policy the model is good, and the step of Eq. 6 lies inside the region, because the damping in $d$ shortens it (the next figure shows both).
# The line search is needed for the steps where the model is bad, and nobody knows beforehand which these are.
# Eq. 6 alone does not guarantee the constraint.
#
# ## Step 3: the line search makes it true
#
# The search shortens the step until both clauses hold: the surrogate, computed anew, is above its old value, and the KL divergence, computed anew, is at most $\delta$.
# In its plainest form, for one replica:


# %%
def plain_line_search(evaluate_one, start, step, delta, shrink=0.8, tries=10):
    before, _ = evaluate_one(start)
    for k in range(tries):
        candidate = start + shrink**k * step
        value, kl = evaluate_one(candidate)
        if kl <= delta and value > before:
            return candidate, shrink**k
    return start, 0.0


# %% tags=["hide-input"]
# @title The plain search beside the batched one { display-mode: "form" }
config = dataclasses.replace(config, delta=0.05)
alpha = step_length(gradient, direction, config.delta).unsqueeze(-1)
step = 3.0 * alpha * direction  # too long on purpose
found, search = backtracking_line_search(evaluate, policy.actor, step, config.delta)
for r in range(2):

    def evaluate_one(actor, r=r):
        full = policy.actor.clone()
        full[r] = actor
        value, kl = evaluate(full)
        return float(value[r]), float(kl[r])

    plain, fraction = plain_line_search(
        evaluate_one, policy.actor[r], step[r], config.delta
    )
    assert (
        torch.equal(plain, found[r])
        and abs(fraction - float(search.fraction[r])) < 1e-6
    )
    print(
        f"seed {r}: fraction of the step taken {fraction:.3f}, KL "
        f"{float(search.kl[r]):.4f} <= {config.delta}"
    )
assert bool((search.kl <= config.delta).all()) and bool(
    (search.improvement[search.accepted] > 0).all()
)

# %% tags=["hide-input"]
# @title Draw surrogate and KL divergence along the ray { display-mode: "form" }
factors = np.linspace(0, 4, 41)
along = np.array(
    [
        [x.numpy() for x in evaluate(policy.actor + f * alpha * direction)]
        for f in factors
    ]
)  # [step, (surrogate, kl), seed]
fig, axes = plt.subplots(1, 2, figsize=(11, 4.0))
linear = float((gradient[0] * (alpha * direction)[0]).sum())
axes[0].plot(
    factors,
    along[:, 0, 0] - along[0, 0, 0],
    color=plots.COLOURS["TRPO"],
    label="surrogate",
)
axes[0].plot(
    factors, factors * linear, color="#6b7280", linestyle=":", label="linear model"
)
axes[1].plot(
    factors, along[:, 1, 0], color=plots.COLOURS["TRPO"], label="KL divergence"
)
axes[1].plot(
    factors,
    factors**2 * along[10, 1, 0],
    color="#6b7280",
    linestyle=":",
    label="quadratic model",
)
axes[1].axhline(
    config.delta, color=plots.COLOURS["perturbed"], linestyle="--", label="delta"
)
for axis in axes:
    axis.set_xlabel("length of the step, in units of Eq. 6")
    axis.legend()
axes[0].set_ylabel("surrogate gain")
axes[1].set_ylabel("mean KL divergence (Eq. 4)")
plots.show(
    fig,
    "along-the-ray",
    "Left: surrogate gain along the natural direction with its linear model. Right: "
    "KL divergence along the same direction with its quadratic model and a dashed "
    "line at delta.",
    "Along one direction: the KL divergence follows its quadratic model; the "
    "surrogate leaves its linear model, because single large ratios take over "
    "(chapter 6, step 4).",
)

# %% [markdown]
# When no try is good enough the parameters are put back, bit for bit.
# To see it we ask for the impossible: walk downhill.

# %%
back, failed = backtracking_line_search(
    evaluate, policy.actor, -alpha * direction, config.delta
)
print(
    "accepted:",
    failed.accepted.tolist(),
    " parameters unchanged:",
    torch.equal(back, policy.actor),
)
assert not failed.accepted.any() and torch.equal(back, policy.actor)

# %% [markdown]
# ## Step 4: why a bound on the KL divergence protects the return
#
# The surrogate judges the new policy on states that the old one visited.
# Schulman and others (2015, Theorem 1) bound what that leaves out.
# $J(\pi)$ is the true return of the policy $\pi$, and $\pi'$ is the policy after the step.
# In this step $L(\pi') = J(\pi) + \mathbb{E}[r A]$ is the surrogate of chapter 6, summed over discounted visits, plus the return of the old policy, so that $L(\pi) = J(\pi)$.
# $\max|A|$ is the largest advantage, whatever its sign:
#
# $$J(\pi') \;\ge\; L(\pi') - C \max_s D_{KL}(\pi(\cdot \mid s) \,\|\, \pi'(\cdot \mid s)), \qquad C = \frac{4 \gamma \max|A|}{(1-\gamma)^2} .$$
#
# So a policy that improves the right-hand side improves the true return.
# Six states and three actions make a world that can be solved without sampling: values by one linear system, visits by another.
# *Visits* are how often, discounted, each state is reached.
# In this world a policy is a table of probabilities.
# Its parameters are one number for each of the eighteen pairs of state and action, the *logits*, and a softmax turns them into probabilities.
# In the code `A` is the number of actions and `advantages` are the advantages.

# %%
S, A, gamma = 6, 3, 0.6
rng = np.random.default_rng(3)
P = rng.dirichlet(
    0.4 * np.ones(S), size=(S, A)
)  # P[s, a] is the distribution of the next state
reward = rng.normal(size=(S, A))
start = np.ones(S) / S


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def solve(pi):
    """Exact return, values, advantages and visits of a tabular policy pi [S, A]."""
    move = np.einsum("sa,sat->st", pi, P)
    V = np.linalg.solve(np.eye(S) - gamma * move, (pi * reward).sum(1))
    Q = reward + gamma * P @ V
    visits = np.linalg.solve(np.eye(S) - gamma * move.T, start)
    return start @ V, V, Q - V[:, None], visits


logits = rng.normal(size=(S, A))
pi = softmax(logits)
J, _, advantages, visits = solve(pi)
towards = visits[:, None] * pi * advantages
towards /= np.linalg.norm(towards)
lengths = np.linspace(0, 6, 61)
C = 4 * gamma * np.abs(advantages).max() / (1 - gamma) ** 2
curve = []
for length in lengths:
    new = softmax(logits + length * towards)
    L = J + (visits[:, None] * new * advantages).sum()
    kl = (pi * np.log(pi / new)).sum(1).max()
    curve.append((solve(new)[0], L, L - C * kl))
curve = np.array(curve)
assert (curve[:, 0] >= curve[:, 2] - 1e-12).all(), "the bound must hold everywhere"
assert np.allclose(curve[0], J)


# %% tags=["hide-input"]
# @title Draw return, surrogate and bound { display-mode: "form" }
fig, axis = plt.subplots(figsize=(6.8, 4.2))
for k, (name, colour, line) in enumerate(
    (
        ("true return", "#1f2937", "-"),
        ("surrogate", plots.COLOURS["TRPO"], "--"),
        ("lower bound", "#6b7280", ":"),
    )
):
    axis.plot(lengths, curve[:, k], color=colour, linestyle=line, label=name)
axis.set_ylim(curve[:, :2].min() - 0.5, curve[:, :2].max() + 0.2)
axis.set_xlabel("length of the step in the logits")
axis.set_ylabel("return")
axis.legend()
plots.show(
    fig,
    "monotonic-improvement",
    "True return, surrogate and lower bound of a six-state decision problem along "
    "the policy gradient; the bound lies below the true return everywhere and "
    "touches it at length zero.",
    "The bound of Schulman 2015 on a problem that can be solved exactly.",
)
peak = int(curve[:, 2].argmax())
record.say(
    f"The bound is largest at a step of {lengths[peak]:.1f}, where it promises a "
    f"gain of {curve[peak, 2] - J:.4f}; within this range the true return is largest "
    f"at {lengths[curve[:, 0].argmax()]:.1f}."
)

# %% [markdown]
# The bound holds, touches at zero, and is very pessimistic: the step that it recommends is tiny.
# TRPO keeps its form and drops its constants: a constraint in place of the penalty, a mean in place of the maximum over states, and a $\delta$ chosen by hand.
# What remains guaranteed after that is exactly what the line search checks, on the batch at hand, and no more.
#
# ## The same update, by hand and by autograd
#
# `twinlib` has every derivative of a Gaussian policy twice.
# Autograd is the reference, and the code of these chapters.
# On a CPU the training itself takes the derivatives written out by hand (`twinlib.policy.gaussian_mlp`, and for the curvature the product of [chapter 7](07_natural_gradient.ipynb), step 6), which are several times faster.
# A fast way is worth something only if it gives the same numbers, so here are both, from the same start and on the same batch.


# %% tags=["hide-input"]
# @title One update by hand and by autograd { display-mode: "form" }
updates = {}
for compute in ("auto", "reference"):
    learner = same_start(compute)
    before = learner.theta.clone()
    outcome = trust_region_update(learner, buffer, TrustRegionConfig(delta=0.01))
    updates[compute] = (learner.theta, outcome)
(hand, by_hand), (autograd, by_autograd) = updates.values()
apart, moved = (
    float((hand - autograd).abs().max()),
    float((autograd - before).abs().max()),
)
record.say(
    "After one TRPO update by hand and by autograd the parameters differ by "
    f"{apart:.0e} at most; the update moved them by up to {moved:.2f}. The KL "
    f"divergences differ by {float((by_hand.kl - by_autograd.kl).abs().max()):.0e}."
)
assert apart < 1e-9 * moved and torch.equal(
    by_hand.search.accepted, by_autograd.search.accepted
)

# %% [markdown]
# The difference is rounding, made larger by conjugate gradients: each iteration divides by numbers that rounding has touched.
#
# ## Step 5: which KL divergence?
#
# Eq. 4 sums over action dimensions.
# A widely used implementation averages over them, which with $A$ dimensions makes its number smaller by that factor, so that its '$\delta = 0.01$' allows an $A$ times larger divergence of Eq. 4.
# At the same damping its direction is also closer to the plain gradient.
# Both settings, from the same start:

# %% tags=["hide-input"]
# @title One update under the sum and under the average { display-mode: "form" }
rows = {}
for reduction in ("sum", "mean_over_actions"):
    copy = same_start()
    settings = TrustRegionConfig(delta=0.01, kl_reduction=reduction)
    outcome = trust_region_update(copy, buffer, settings)
    d = natural_gradient(policy, buffer, gradient, settings)
    rows[reduction] = {
        "KL that was bounded": float(outcome.search.kl.mean()),
        "share of the bound": float(outcome.search.kl.mean()) / settings.delta,
        "what damping leaves": float(
            (1 - settings.damping * (d * d).sum(-1) / (gradient * d).sum(-1)).mean()
        ),
        "KL of Eq. 4": float(outcome.kl.mean()),
        "cosine with the plain gradient": float(
            torch.nn.functional.cosine_similarity(d, gradient, dim=-1).mean()
        ),
    }
comparison = pd.DataFrame(rows).T
factor = comparison["KL of Eq. 4"].iloc[1] / comparison["KL of Eq. 4"].iloc[0]
used = comparison["share of the bound"]
record.say(
    f"With {dynamics.action_dim} dimensions the update under the averaged KL has "
    f"{factor:.0f} times the KL divergence of Eq. 4. It used "
    f"{used['mean_over_actions']:.0%} of its bound, the update under the sum "
    f"{used['sum']:.0%}."
)
assert factor > 10
assert abs(used - comparison["what damping leaves"]).max() < 0.05
comparison.round(4)

# %% [markdown]
# The bound alone would allow a factor of $A$.
# The measured factor is smaller.
# Eq. 6 sets the length so that $\tfrac12 \alpha^2 d^\top (H + \lambda) d = \delta$, and the part of this that belongs to $\lambda$ is not KL divergence.
# The column 'what damping leaves' is the other part, computed from $d$ alone, and it agrees with the share of the bound that was used.
# In the averaged form $H$ is $A$ times smaller and $\lambda$ is not, so damping takes more.
# The length of a step goes with the square root of its KL divergence.

# %% [markdown]
# ## Step 6: what a run logs, and what it says
#
# The figure at the top of the page shows two of the quantities that every update leaves behind.
# Here are the others, from the same runs.

# %% tags=["hide-input"]
# @title Draw every logged quantity { display-mode: "form" }
logged = {
    "surrogate_gain": "surrogate gain",
    "accepted": "share of steps accepted",
    "entropy": "entropy of the policy (nats)",
    "explained_variance": "explained variance of the critic",
    "value_loss": "loss of the critic",
    "reward": "mean reward of a step",
}
fig, axes = plt.subplots(2, 3, figsize=(11, 6.2), sharex=True)
for axis, (column, label) in zip(axes.flat, logged.items(), strict=True):
    for delta, h in histories.items():
        curve = h.groupby("environment_steps")[column].mean()
        axis.plot(curve, color=colours[delta], label=f"delta {delta}")
    axis.set_ylabel(label)
axes[0, 0].set_yscale("log")
axes[0, 1].set_ylim(0, 1.05)
for axis in axes[1]:
    axis.set_xlabel("environment steps")
axes[0, 0].legend(fontsize=9)
plots.show(
    fig,
    "what-is-logged",
    "Six panels against environment steps, three values of delta in each: surrogate "
    "gain, share of accepted steps, entropy, explained variance and loss of the "
    "critic, mean reward of a step.",
    "What every update of the runs above has logged.",
)

# %% [markdown]
# - **Return of an episode** (top figure): undiscounted, of episodes that ended in this batch, with noisy actions, before the update.
# - **KL divergence** (top figure): Eq. 4 from the collecting policy to the updated one, on the states of the batch, summed over the parts of an action.
# - **Surrogate gain**: the surrogate after the update less that before it, on the batch that chose the step.
#   It is a promise and always positive where a step was accepted; advantages have a standard deviation of one, so that a gain far above one is a single huge ratio (chapter 6, step 4), and no gain at all.
# - **Accepted**: one if the line search found a step, else zero; a long run of zeros means a damping that is too small, or a batch that is.
# - **Entropy**: it falls when the policy narrows its actions, a nat for each part whose standard deviation shrinks by a factor of $e$.
# - **Explained variance**: one less the variance of (return minus value) over that of the return, with the critic from before its fit.
#   Zero is a critic that knows the mean only; far below zero it makes the advantages worse than none.
# - **Loss of the critic**: mean over its minibatches, after the update of the actor; its unit is the squared unit of the return.
# - **Reward of a step**: what the return is made of; the two differ where episodes are cut by the border of a batch.
#
# While learning, a policy acts with noise in order to explore.
# Noise in that many genes moves the cell at random, and a random move costs return.
# How much, before anything is learned?


# %% tags=["hide-input"]
# @title What exploration costs before anything is learned { display-mode: "form" }
def untrained(spread):
    """Mean return and its standard error, for actions of mean zero."""
    cells = Dynamics(world, EnvironmentConfig(), replicas=1, n_cells=2000)
    cells.reset(make_generators([0], "environment"))
    total, draw = torch.zeros(1, 2000), torch.Generator().manual_seed(0)
    for _ in range(cells.horizon):
        noise = torch.randn(1, 2000, cells.action_dim, generator=draw)
        total += cells.step(spread * noise).reward
    return float(total.mean()), float(total.std()) / 2000**0.5


idle, idle_error = untrained(0.0)
noise, noise_error = untrained(float(np.exp(base.log_std)))
record.say(
    f"Return of doing nothing, with kick and process noise on: {idle:+.4f} +- "
    f"{idle_error:.4f}. Return of exploration noise alone, with the starting "
    f"standard deviation and a mean action of zero: {noise:+.4f} +- "
    f"{noise_error:.4f}."
)
assert noise < idle

# %% [markdown]
# The curves therefore start below doing nothing, although the mean action of an untrained policy is almost nothing.
# A curve that rises has learned something, even where it ends below the dashed line.
# Whether a policy is better than doing nothing is asked without noise, at the end of [chapter 10](10_two_stage.ipynb).
# The dashed line is doing nothing with kick and noise off; with them on it earns the number above.

# %% tags=["hide-input"]
# @title Two promises and the return { display-mode: "form" }
widest = max(change)
if change[widest][1] < change[widest][0]:
    verdict = "ends below its start in this run, so the two promises were not enough"
else:
    verdict = "ends no lower than its start in this run"
record.say(
    f"With the largest $\\delta$ the return {verdict}. Effective share of a batch "
    "(chapter 6, step 4) after a shift of the means that uses all of the bound, "
    "$e^{-2\\delta}$: "
    + ", ".join(f"{np.exp(-2 * delta):.2f} for {delta}" for delta in change)
    + "."
)

# %% [markdown]
# The promises are about the batch at hand.
# For a shift of the means the KL divergence is $A\epsilon^2/2$ in the letters of chapter 6, so a batch keeps an effective share of $e^{-2\delta}$ at the border.
# Inside a wide region few samples decide the surrogate, and it can rise on noise alone.
# So the line search guarantees the constraint and the surrogate, and it does not guarantee the return.
# A $\delta$ that is small enough is still a choice that has to be tested.
#
# ## Implementation details that matter
#
# None of these stands in the paper; each changes the numbers of an update.
# For every detail: our line, sb3-contrib's line, and what happens when it is the other way.
# The numbers of 1, 2, 4, 5 and 6 come from one update of both libraries from the same weights on the same batch, with one detail changed at a time; those of 3, 7 and 8 from the batch of this page.
#
# ```
# python benchmarks/implementation_details.py
# ```

# %% tags=["hide-input"]
# @title Eight details and their numbers { display-mode: "form" }
peer = tables.read_table("details", "", "trpo").set_index("detail")
same, moved = peer.loc["as theirs"], peer.loc["as theirs", "moved"]


def off(name):
    return f"{peer.loc[name, 'apart']:.1e}"


config = TrustRegionConfig(delta=0.01)
d = natural_gradient(policy, buffer, gradient, config)
damped = fisher_vector_product(policy, buffer.obs, config.damping)(d)
lengths = [(config.delta * 2 / (x * d).sum(-1)).sqrt() for x in (gradient, damped)]
cosine = torch.nn.functional.cosine_similarity(d, gradient, dim=-1).mean()
alpha_d = step_length(gradient, d, config.delta).unsqueeze(-1) * d
with torch.no_grad():
    stepped = policy.distribution(buffer.obs, policy.actor + alpha_d)
    forth, back = (
        mean_kl(buffer.behaviour, stepped),
        mean_kl(stepped, buffer.behaviour),
    )
before, _ = evaluate(policy.actor)
after, _ = evaluate(
    policy.actor - config.shrink ** (config.line_search_steps - 1) * alpha_d
)
record.say(
    "With sb3-contrib's choices in all of them our parameters end "
    f"{same['apart']:.0e} from its own, after an update that moved one of them by "
    f"{moved:.2f}.\n\n1. **The KL divergence is a sum over action dimensions.** Ours: "
    "`old.kl(new).mean(-1)`, summed inside. sb3-contrib: "
    "`kl_divergence(distribution, old_distribution).mean()`, whose mean runs over "
    "states *and* dimensions. With four dimensions and the same $\\delta$ the update has a "
    f"KL divergence of {same['kl']:.4f} (Eq. 4) in place of "
    f"{peer.loc['kl_sum', 'kl']:.4f}; step 5 has all genes.\n2. **Its direction is "
    "old to new.** Ours: `old.kl(new)`. sb3-contrib: the new policy stands first. "
    "The curvature at the old policy is the same for both, so the step is: the "
    f"parameters differ by {off('kl_direction')}, which is rounding. The number that "
    "is checked and logged differs: on this page's batch by "
    f"{float((back / forth - 1).abs().max()):.1e} of its value at the same step.\n3. "
    "**The old policy is a constant.** Ours: `mean_kl(new.detach(), new)`. "
    "sb3-contrib: `with th.no_grad(): old_distribution = ...`. Without it the "
    "product is the damping and nothing else, and the cosine of the direction with "
    f"the plain gradient is 1 in place of {float(cosine):.3f} (exercise 7.3).\n4. "
    "**Conjugate gradients begin at zero.** Ours: `torch.zeros_like(target)`. "
    "sb3-contrib: `1e-4 * th.randn_like(b)`. Both converge; the parameters differ by "
    f"{off('cg_start')}, which is rounding, too.\n5. **Fifteen iterations.** Ours: "
    "`cg_iterations=15`. sb3-contrib: `cg_max_steps=15`. With five the parameters "
    f"differ by {off('cg_iterations')}; with a damping of 0.001 in place of 0.1 by "
    f"{off('damping')}.\n6. **Advantages are centred over the whole batch.** Ours: "
    "`normalized(buffer.advantage)`. sb3-contrib: `(advantages - advantages.mean()) "
    "/ (advantages.std() + 1e-8)`. Their scale does not matter (times ten: "
    f"{off('advantage_scale')}), because Eq. 6 divides it out again; their mean does "
    f"(neither centred nor scaled: {off('advantage_raw')}).\n7. **The length takes "
    "the damped curvature.** Ours: `2 delta / (g d + epsilon)`, with $g = (H + "
    "\\lambda) d$. sb3-contrib: the product of $d$ with $(H + \\lambda) d$, one more "
    "product. They agree as far as the solver does: here to "
    f"{float((lengths[0] / lengths[1] - 1).abs().max()):.1e} of the length.\n8. **A "
    "failed search puts the old parameters back.** Ours: the result starts as "
    "`start.clone()`. sb3-contrib: `param.data = original_param.data.clone()`. "
    "Keeping the last try of a search downhill would change the surrogate of this "
    f"batch by {float((after - before).max()):+.4f} (exercise 8.3)."
)
assert same["apart"] < 1e-3 * moved
assert peer.loc["kl_sum", "kl"] < same["kl"] and float((after - before).max()) < 0

# %% [markdown]
# The speed of both libraries is measured on the environment of the released code, with the default settings of both, in turns on one machine (`python benchmarks/ppo_speed.py`).

# %% tags=["hide-input"]
# @title Ours beside theirs { display-mode: "form" }
speed = tables.read_table("speed", "", "training").set_index("name")
for case, rows in speed[speed.index.str.startswith("TRPO, ten seeds")].groupby("ours"):
    record.say(
        f"Environment steps a second of ours, all of ten seeds side by side together, {case:,.0f}"
        + (
            " with sb3-contrib's KL divergence. "
            if "equal KL" in rows.index[0]
            else ". "
        )
        + "; ".join(
            f"{name.rpartition('; ')[2].replace('SB3', 'sb3-contrib')} {row.peer:,.0f}"
            for name, row in rows.iterrows()
        )
        + "."
    )

# %% [markdown]
# ## You should know
#
# - One update of the actor per batch: TRPO is careful with policies and wasteful with data.
# - The gradient uses the whole batch; the Fisher-vector products may use a part of it.
# - An update whose line search fails is not an error. If it happens often, the damping is too small or the batch is.
# - The critic is outside the trust region; it is fitted by ordinary regression.
#
# ## Limitations
#
# - The constraint is checked on the states of the batch, in single precision, and in the mean over states: single states may change more.
# - The exact problem in step 4 has eighteen state-action pairs. The bound is a theorem, so it holds for larger ones too, but how pessimistic it is differs.
#
# ## What this does not show
#
# It does not show which $\delta$ is best: three seeds, a short run, one simulated world.
# It does not compare TRPO with PPO; [chapter 10](10_two_stage.ipynb) and the [replication](12_replication.ipynb) do.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>The same delta is used for actions of ten parts and of two hundred. What is the same afterwards?</summary>
#
# The KL divergence of the whole action, and with it the effective share of the batch.
# The divergence of a single part is twenty times smaller.
#
# </details>
#
# <details><summary>A line search accepts a step and the next batch earns less. Which promise was broken?</summary>
#
# None.
# It promised a larger surrogate on the old batch and a KL divergence within its bound.
#
# </details>
#
# <details><summary>Why does multiplying every advantage by ten leave the TRPO step as it is?</summary>
#
# The advantages are scaled to a standard deviation of one; and without that Eq. 6 divides the gradient's length out again.
# With every *reward* times ten it would be so only if the critic's values grew with it, which its own optimizer decides.
#
# </details>
#
# ## Key takeaways
#
# - Eq. 6 is the exact solution of the linear-quadratic problem, and approximate for the real one.
# - The line search turns 'about delta' into 'at most delta' and never accepts a loss of surrogate; neither is a promise about the return.
# - The theory behind it is a bound with large constants; the algorithm keeps the idea and not the constants.
# - A $\delta$ is only meaningful together with the definition of the KL divergence it bounds.

# %% [markdown]
# ## Exercises
#
# ### Exercise 8.1. The multiplier
#
# Write `step(gradient, fisher, delta)`: the solution of the constrained problem of step 1, from the dense matrix.

# %% tags=["exercise-1"]
import numpy as np


def step(gradient, fisher, delta):
    return np.sqrt(2 * delta) * gradient


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def step(gradient, fisher, delta):
#     d = np.linalg.solve(fisher, gradient)
#     return np.sqrt(2 * delta / (gradient @ d)) * d
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 8.1 { display-mode: "form" }
from twinlib.page.record import attempt


def check_1(step):
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6))
    fisher, gradient = root @ root.T + np.eye(6), rng.normal(size=6)
    found = step(gradient, fisher, 0.02)
    assert np.isclose(0.5 * found @ fisher @ found, 0.02), (
        "the quadratic KL of the step is not delta"
    )
    others = rng.normal(size=(2000, 6))
    others *= np.sqrt(0.04 / np.einsum("ij,jk,ik->i", others, fisher, others))[:, None]
    assert (others @ gradient).max() <= gradient @ found + 1e-12, (
        "another step of the same KL gains more"
    )


attempt("8.1", check_1, step)

# %% [markdown]
# ### Exercise 8.2. How many tries?
#
# A step has a KL divergence of `ratio` times $\delta$, and the KL divergence is quadratic in the length.
# Write `tries(ratio, shrink)`: how many evaluations a line search needs that starts with the full step and multiplies its length by `shrink` each time (the surrogate always improves).


# %% tags=["exercise-2"]
def tries(ratio, shrink):
    return 1


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def tries(ratio, shrink):
#     k = 0
#     while ratio * shrink ** (2 * k) > 1.0:
#         k += 1
#     return k + 1
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 8.2 { display-mode: "form" }
from twinlib.page.record import attempt


def check_2(tries):
    assert tries(0.9, 0.8) == 1, "a step inside the region is taken at the first try"
    assert tries(1.2, 0.8) == 2, "one shortening: 1.2 * 0.64 is below 1"
    assert tries(4.0, 0.5) == 2, (
        "0.25 * 4 is exactly 1, and the constraint allows equality"
    )
    assert tries(100.0, 0.8) == 12, "each try multiplies the KL by 0.64"


attempt("8.2", check_2, tries)

# %% [markdown]
# ### Exercise 8.3. Find the silent bug
#
# This line search respects the constraint whenever it says that it succeeded.
# Yet a training run with it drifts, and every now and then a policy breaks down.
# The tests of the accepted steps all pass.
# What happens in the other case?
# Mend it; return the parameters and whether a step was accepted.


# %% tags=["exercise-3"]
def line_search(evaluate, start, step, delta, shrink=0.5, tries=5):
    """evaluate(parameters) -> (surrogate, kl); start and step are arrays."""
    before, _ = evaluate(start)
    parameters = start
    for k in range(tries):
        parameters = start + shrink**k * step
        value, kl = evaluate(parameters)
        if kl <= delta and value > before:
            return parameters, True
    return parameters, False


# %% [markdown]
# <details><summary>Solution</summary>
#
# When every try fails, the last try is returned: a step that violates one of the two clauses.
# The old parameters must be put back.
#
# ```python
# def line_search(evaluate, start, step, delta, shrink=0.5, tries=5):
#     before, _ = evaluate(start)
#     for k in range(tries):
#         parameters = start + shrink**k * step
#         value, kl = evaluate(parameters)
#         if kl <= delta and value > before:
#             return parameters, True
#     return start, False
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 8.3 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_3(line_search):
    def evaluate(x):
        return float(x[0]), float(x[0] ** 2)

    start = np.zeros(1)
    good, accepted = line_search(evaluate, start, np.array([1.0]), 0.3)
    assert accepted and 0 < good[0] ** 2 <= 0.3, "a shorter step was possible here"
    bad, accepted = line_search(evaluate, start, np.array([-1.0]), 0.3)
    assert not accepted, "no step downhill may be accepted"
    assert np.array_equal(bad, start), (
        f"the search failed, but the parameters moved to {bad[0]:.3f}"
    )


attempt("8.3", check_3, line_search)

# %% [markdown]
# ## References
#
# - Schulman, Levine, Moritz, Jordan and Abbeel, *Trust region policy optimization* (ICML 2015): Theorem 1 and Appendix C.
# - Kakade and Langford, *Approximately optimal approximate reinforcement learning* (ICML 2002).
# - Achiam, Held, Tamar and Abbeel, *Constrained policy optimization* (ICML 2017), for tighter bounds in the mean KL.
# - Nocedal and Wright, *Numerical optimization* (2006), chapter 4.
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018), Eq. 6.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
