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
# # 7. The natural gradient: measuring steps by what they change
#
# **Question.** A *policy* is a rule that draws actions at random, and its parameters say how. A gradient says which parameters to move, and silently assumes that all of them are measured on the same scale, like a walker who takes a map's inches for miles in every direction, though the map is stretched.
# What does that cost?
#
# **Answer.** The plain gradient takes a different step, and one that gains less, whenever somebody writes the same policy with other parameters.
# The natural gradient takes the same step however the policy is written, as far as small steps go, and no other step that changes the policy as much gains more; the figure has both, with their numbers.
# How much a policy changes is told by the *KL divergence*, which says how easily the actions of two policies are told apart.
# It has a price: each step solves a linear system with the *Fisher matrix*, which says how much the policy changes with each parameter; here that is done without ever writing the matrix down.

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
# @title Two labels, one policy: plain and natural step { display-mode: "form" }
import matplotlib.pyplot as plt
import numpy as np

from twinlib.page import plots, record

plots.style()
START, SPREAD, GOAL, RADIUS = 0.0, 1.5, 2.0, 0.1


def kl_from_start(mu, sigma):
    """KL(start || new) of two normal distributions."""
    return (
        np.log(sigma / SPREAD) + (SPREAD**2 + (START - mu) ** 2) / (2 * sigma**2) - 0.5
    )


def mean_reward(mu, sigma):
    """Expectation of -(a - GOAL)^2."""
    return -((mu - GOAL) ** 2 + sigma**2)


def as_far_as_allowed(direction, sigma_of, label):
    """Follow a direction in (mu, label) until the KL divergence is RADIUS."""
    short, long = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (short + long)
        mu, sigma = (
            START + middle * direction[0],
            sigma_of(label + middle * direction[1]),
        )
        short, long = (
            (middle, long) if kl_from_start(mu, sigma) < RADIUS else (short, middle)
        )
    return START + short * direction[0], sigma_of(label + short * direction[1])


slope = np.array([-2 * (START - GOAL), -2 * SPREAD])  # with respect to (mu, sigma)
labels = {
    "log sigma": (np.log(SPREAD), np.exp, np.log, SPREAD, 2.0),
    "sigma": (SPREAD, lambda s: s, lambda s: s, 1.0, 2 / SPREAD**2),
}
ends = {}
for name, (label, sigma_of, _, factor, curvature) in labels.items():
    gradient = slope * np.array([1.0, factor])  # the chain rule
    natural = gradient / np.array([1 / SPREAD**2, curvature])
    ends[name] = {
        "plain": as_far_as_allowed(
            gradient / np.linalg.norm(gradient), sigma_of, label
        ),
        "natural": as_far_as_allowed(
            natural / np.linalg.norm(natural), sigma_of, label
        ),
    }

fig, axes = plt.subplots(1, 2, figsize=(11, 4.6))
mus, sigmas = np.meshgrid(np.linspace(-0.75, 0.95, 200), np.linspace(0.85, 2.5, 200))
for axis, (name, (_, _, label_of, _, _)) in zip(axes, labels.items(), strict=True):
    height = label_of(sigmas)
    axis.contour(
        mus, height, mean_reward(mus, sigmas), 12, colors="#d1d5db", linewidths=1
    )
    axis.contour(mus, height, kl_from_start(mus, sigmas), [RADIUS], colors="#2b3648")
    axis.plot([], [], color="#d1d5db", label="equal mean reward")
    axis.plot([], [], color="#2b3648", label=f"KL divergence {RADIUS}")
    for step, colour in (("natural", "insilico"), ("plain", "perturbed")):
        mu, sigma = ends[name][step]
        axis.annotate(
            "", (mu, label_of(sigma)), (START, label_of(SPREAD)),
            arrowprops={"arrowstyle": "->", "color": plots.COLOURS[colour], "lw": 2},
        )  # fmt: skip
        axis.plot([], [], color=plots.COLOURS[colour], lw=2.4, label=f"{step} step")
    axis.set(
        xlabel="mean mu of the action",
        ylabel=name,
        title=f"parameters: mu and {name}",
    )
axes[0].legend(loc="lower left", fontsize=9, ncols=2)
plots.show(
    fig,
    "plain-and-natural",
    "The same normal policy drawn in mu and log sigma on the left, in mu and sigma "
    "on the right, with lines of equal mean reward, the closed curve of policies at "
    "a KL divergence of 0.1, and the plain and the natural step to that curve. The "
    "natural step ends at nearly the same policy in both; the plain step does not.",
    "One policy, two ways to label it: the natural step ends at the same policy, the "
    "plain one does not.",
)
gain = {
    (name, step): mean_reward(*end) - mean_reward(START, SPREAD)
    for name, steps in ends.items()
    for step, end in steps.items()
}
record.say(
    "The reward is minus the squared distance of the action from 2. "
    f"At a KL divergence of {RADIUS} the natural step gains in mean reward "
    f"{gain['log sigma', 'natural']:.2f} in log sigma and "
    f"{gain['sigma', 'natural']:.2f} in sigma; the plain one gains "
    f"{gain['log sigma', 'plain']:.2f} and {gain['sigma', 'plain']:.2f}, and ends at "
    f"a spread of {ends['log sigma']['plain'][1]:.2f} or "
    f"{ends['sigma']['plain'][1]:.2f}, depending on the label alone."
)
apart = abs(ends["log sigma"]["natural"][1] - ends["sigma"]["natural"][1])
assert apart < 0.03 and gain["sigma", "natural"] > gain["sigma", "plain"]
assert abs(ends["log sigma"]["plain"][1] - ends["sigma"]["plain"][1]) > 3 * apart

# %% [markdown]
# *How to read it.*
# The policy draws one number, the action, from a normal distribution; the reward is largest where the action is 2.
# Every point of the closed curve is a policy that differs from the start by the same KL divergence, so all of them are equally far away in what they *do*.
# A plain step points across the lines of equal reward as they happen to be drawn, and another label draws them differently.
#
# ## Objectives
#
# After this chapter you can
#
# - show with two parametrisations of one policy that the plain gradient depends on the choice, and the natural gradient does not (10 minutes);
# - derive that the KL divergence has neither value nor slope at the old policy, so that its curvature is all that is left (10 minutes);
# - write a Fisher-vector product in three ways and check each against the dense matrix (25 minutes);
# - solve a linear system with conjugate gradients and say what makes them need more iterations (15 minutes);
# - say what damping does, and when it turns the natural gradient back into the plain one (10 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import pandas as pd
import torch

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.packaged import packaged_world
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.distributions import Gaussian
from twinlib.policy.rollout import Collector
from twinlib.policy.trust_region import (
    conjugate_gradient,
    fisher_vector_product,
    mean_kl,
    normalized,
    policy_gradient,
    surrogate,
)
from twinlib.policy.training import make_generators

torch.set_num_threads(1)
world = packaged_world().to(dtype=torch.float64)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## Quick facts
#
# | | |
# |---|---|
# | what it is | steepest ascent when the length of a step is the KL divergence it causes |
# | needs | products of the Fisher matrix with vectors; the matrix itself is never formed |
# | cost of a product | a few gradients at most (counted below in multiplications, not in seconds) |
# | code | `fisher_vector_product`, `conjugate_gradient` in `twinlib.policy.trust_region` |
# | equations of the paper | 4, 5 |
#
# ## Key equations
#
# $$\bar D_{KL}(\theta_{old} \,\|\, \theta) = \frac1T \sum_t D_{KL}(\pi_{\theta_{old}}(\cdot \mid s_t) \,\|\, \pi_\theta(\cdot \mid s_t)), \qquad H = \nabla^2_\theta \bar D_{KL}\big|_{\theta_{old}}, \qquad (H + \lambda) v = \nabla_\theta (\nabla_\theta \bar D_{KL} \cdot v) + \lambda v, \qquad (H + \lambda) d = \vartheta .$$
#
# Here $\lambda$ is the damping; the paper writes $H$ both for the Hessian and for the damped matrix.
#
# ## Pseudocode
#
# 1. Compute the policy gradient $\vartheta$ ([chapter 6](06_policy_gradient.ipynb)).
# 2. Build a function that multiplies a vector by $H + \lambda$.
# 3. Hand both to conjugate gradients; get $d$.
# 4. Decide how far to go along $d$ ([chapter 8](08_trpo.ipynb)).

# %% [markdown]
# ## Labels on the dials
#
# Our policy is a normal distribution with a mean and a log standard deviation ([chapter 6](06_policy_gradient.ipynb) describes the network behind them).
# We could as well have chosen the standard deviation itself, or the variance.
# The set of policies is the same; only the labels on the dials differ.
# Should an algorithm care about labels?
#
# ## The plain baseline: the gradient and its labels
#
# Take the one-action problem of the last chapter, reward $-(a-2)^2$, and follow the gradient for a tiny step with either label.
# Then compare the policies that result, not the numbers on the dials.

# %%
mu, sigma = 0.5, 0.4
gradient_log = np.array(
    [-2 * (mu - 2), -2 * sigma**2]
)  # with respect to (mu, log sigma)
gradient_std = np.array([-2 * (mu - 2), -2 * sigma])  # with respect to (mu, sigma)
eta = 1e-4
plain_log = np.array([mu, np.log(sigma)]) + eta * gradient_log
plain_std = np.array([mu, sigma]) + eta * gradient_std
change = {
    "log sigma": np.exp(plain_log[1]) / sigma - 1,
    "sigma": plain_std[1] / sigma - 1,
}
for name, value in change.items():
    print(f"plain gradient, label {name}: sigma changes by {value:.3e} of its value")

# %% [markdown]
# The same algorithm, the same problem, and the spread shrinks at rates that differ by a factor of $\sigma^2$.
# Now the natural gradient: divide by the curvature of the KL divergence.
# For a normal distribution that curvature is $1/\sigma^2$ for the mean; for the spread it is $2$ with the label $\log\sigma$ and $2/\sigma^2$ with the label $\sigma$.

# %%
natural_log = np.array([mu, np.log(sigma)]) + eta * gradient_log / np.array(
    [1 / sigma**2, 2.0]
)
natural_std = np.array([mu, sigma]) + eta * gradient_std / np.array(
    [1 / sigma**2, 2 / sigma**2]
)
natural = {
    "log sigma": np.exp(natural_log[1]) / sigma - 1,
    "sigma": natural_std[1] / sigma - 1,
}
for name, value in natural.items():
    print(f"natural gradient, label {name}: sigma changes by {value:.6e} of its value")
assert abs(change["sigma"] / change["log sigma"] - 1 / sigma**2) < 1e-2
assert abs(natural["sigma"] / natural["log sigma"] - 1) < 1e-3

# %% [markdown]
# With the natural gradient the labels no longer matter (up to terms of second order in the step).
# That is its defining property (Amari 1998).
#
# ## Step 1: a distance between policies
#
# Eq. 4 measures how much a policy has changed by the KL divergence, averaged over the states that were visited.
# For independent normal actions it is a sum over action dimensions,
#
# $$D_{KL} = \sum_i \left[\log\frac{\sigma_i}{\sigma^{old}_i} + \frac{(\sigma^{old}_i)^2 + (\mu^{old}_i - \mu_i)^2}{2\sigma_i^2} - \frac12\right].$$
#
# We check the formula against its definition, an expectation of the log-ratio (the logarithm of the old probability of an action over the new one), by drawing from the old policy.

# %% tags=["hide-input"]
# @title Formula against sampling { display-mode: "form" }
generator = torch.Generator().manual_seed(0)
old = Gaussian(
    torch.randn(1, 1, 3, generator=generator), torch.tensor([[-0.3, 0.1, 0.4]])
)
new = Gaussian(old.mean + 0.3, old.log_std - 0.2)
draws = 400_000
many = Gaussian(old.mean.expand(1, draws, 3), old.log_std)
action = many.sample([generator])
terms = many.log_prob(action) - Gaussian(
    new.mean.expand(1, draws, 3), new.log_std
).log_prob(action)
formula, sampled = float(old.kl(new)), float(terms.mean())
error = float(terms.std()) / draws**0.5
print(
    f"formula {formula:.4f}, sampled {sampled:.4f} +- {error:.4f}; the other way "
    f"round {float(new.kl(old)):.4f}"
)
assert abs(formula - sampled) < 4 * error

# %% [markdown]
# The two directions differ, so a comparison of KL divergences must say which one it means.
# The paper's Eq. 4, and everything in this book unless stated otherwise, is KL(old || new).
#
# ## Step 2: no value, no slope, only curvature
#
# At $\theta = \theta_{old}$ the divergence is zero, and since it is never negative, that is a minimum: its gradient vanishes, too.
# The first term of its Taylor series that is left is the second one,
#
# $$\bar D_{KL}(\theta_{old} \,\|\, \theta_{old} + \Delta) = \tfrac12 \Delta^\top H \Delta + O(\|\Delta\|^3).$$
#
# To check this we need a policy small enough for its dense $H$: two replicas (seeds) with one hidden layer, six genes to adjust, and states from the simulated world.

# %% tags=["hide-input"]
# @title A small policy and its batch { display-mode: "form" }
dynamics = Dynamics(
    world.only(list(world.action_names[:6])),
    EnvironmentConfig(),
    replicas=2,
    n_cells=16,
)
policy = ActorCritic(
    dynamics.observation_dim,
    6,
    2,
    make_generators([0, 1], "weights"),
    hidden=(6,),
    log_std=-0.5,
    dtype=torch.float64,
)
collector = Collector(
    dynamics,
    make_generators([0, 1], "environment"),
    make_generators([0, 1], "actions"),
    torch.float64,
)
buffer = collector.collect(policy, steps=15, gamma=0.99, gae_lambda=0.95)


# %%
def kl_from(actor, replica, states=buffer.obs):
    """Mean KL(old || actor) of one replica, from its parameter vector [P]."""
    alone = policy.replica(replica)
    at = states[replica : replica + 1]
    return mean_kl(
        alone.distribution(at).detach(), alone.distribution(at, actor.unsqueeze(0))
    ).sum()


# %%
here = policy.actor[0].clone()
slope = torch.func.grad(lambda a: kl_from(a, 0))(here)
print(
    "value:",
    f"{float(kl_from(here, 0)):.1e}",
    "  largest slope:",
    f"{float(slope.abs().max()):.1e}",
)
assert float(kl_from(here, 0)) < 1e-14 and float(slope.abs().max()) < 1e-14

# %%
fisher = torch.stack(
    [
        torch.autograd.functional.hessian(
            lambda a, r=r: kl_from(a, r), policy.actor[r].clone()
        )
        for r in range(2)
    ]
)

# %% tags=["hide-input"]
# @title How fast the error of the quadratic model grows { display-mode: "form" }
direction = torch.randn(here.shape, generator=generator)
direction = direction / torch.sqrt(direction @ fisher[0] @ direction)
sizes = np.logspace(-3, 0, 13)
true = np.array([float(kl_from(here + s * direction, 0)) for s in sizes])
relative = np.abs(true / (0.5 * sizes**2) - 1)
slope = np.polyfit(np.log(sizes[:8]), np.log(relative[:8]), 1)[0]
print(
    "the relative error of the quadratic model grows as the step to the power "
    f"{slope:.2f}"
)
assert 0.8 < slope < 1.2

# %% [markdown]
# The error of a quadratic model of a function with a cubic term is, relative to the quadratic one, proportional to the step.
# The KL divergence itself is proportional to the step squared, so the relative error falls as the square root of the KL divergence: a number we meet again in the next chapter.
#
# ## Step 3: the same matrix, seen as a covariance
#
# Statistics defines the Fisher matrix differently, as the covariance of the score:
#
# $$F = \mathbb{E}[\nabla \log \pi_\theta(a \mid s)\, \nabla \log \pi_\theta(a \mid s)^\top] .$$
#
# It equals $H$.
# Densities integrate to one, so $\int \pi\, \nabla \log \pi = 0$.
# Differentiate once more:
#
# $$\int \pi\, \nabla \log \pi\, \nabla \log \pi^\top + \int \pi\, \nabla^2 \log \pi = 0 .$$
#
# The first term is $F$.
# The second is the Hessian of $\mathbb{E}_{\pi_{old}}[\log \pi]$ at the old policy.
# The KL divergence is $\mathbb{E}_{\pi_{old}}[\log \pi_{old} - \log \pi]$, so that second term is $-H$, and $F = H$.
#
# A parameter on which the log-probability depends strongly changes the policy much, so the natural gradient moves it little.
# We check with many actions drawn in a few states.

# %% tags=["hide-input"]
# @title Covariance of many scores against the Hessian { display-mode: "form" }
few = buffer.obs[:1, :4]
repeats = 10_000
states = few.repeat_interleave(repeats, dim=1)
one = policy.replica(0)
drawn = one.act(states, [torch.Generator().manual_seed(2)])


def one_log_prob(actor, state, act):
    return (
        one.distribution(state[None, None], actor[None])
        .log_prob(act[None, None])
        .squeeze()
    )


score = torch.func.vmap(torch.func.grad(one_log_prob), (None, 0, 0), chunk_size=4096)(
    here, states[0], drawn[0]
)
covariance = score.T @ score / len(score)
dense_few = torch.autograd.functional.hessian(
    lambda a: kl_from(a, 0, buffer.obs[:, :4]), here
)
gap = float((covariance - dense_few).norm() / dense_few.norm())
print(
    f"relative distance between covariance of {len(score):,} scores and Hessian: "
    f"{gap:.3f}"
)
assert gap < 0.05

# %% [markdown]
# ## Step 4: products without the matrix, by two backward passes
#
# A policy with a hundred thousand parameters would need a matrix of ten billion entries.
# But conjugate gradients only ask for products $Hv$, and Eq. 5 gives one as the gradient of a number: the inner product of the KL divergence's gradient with $v$.
# The detail that matters is in the second line below: the old policy is a constant.


# %%
def product_by_double_backward(v):
    actor = policy.actor.detach().requires_grad_()
    new = policy.distribution(buffer.obs, actor)
    kl = mean_kl(new.detach(), new).sum()
    (gradient,) = torch.autograd.grad(kl, actor, create_graph=True)
    return torch.autograd.grad((gradient * v).sum(), actor)[0]


v = torch.randn(policy.actor.shape, generator=generator)
exact = (fisher @ v.unsqueeze(-1)).squeeze(-1)
relative = float((product_by_double_backward(v) - exact).norm() / exact.norm())
print(f"two backward passes against the dense matrix: relative error {relative:.1e}")
assert relative < 1e-8

# %% [markdown]
# ## Step 5: products by tangents
#
# The policy turns parameters into the numbers $(\mu, \log\sigma)$ in each state; let $J$ be the derivative of that map.
# At the old policy the KL divergence has no slope with respect to $(\mu, \log\sigma)$, so the chain rule leaves one term only:
#
# $$H = J^\top M J, \qquad M = \operatorname{diag}(1/\sigma^2,\, 2) \text{ averaged over states.}$$
#
# A product is therefore a forward sweep ($Jv$: how do mean and spread move when the parameters move along $v$?), a division by $\sigma^2$, and a backward sweep ($J^\top$).
# In statistics this is the Gauss-Newton form (Martens 2020).


# %%
def product_by_tangents(v):
    actor = policy.actor.detach().requires_grad_()
    outputs = policy.distribution(buffer.obs, actor)
    forward = torch.func.jvp(
        lambda a: tuple(policy.distribution(buffer.obs, a)), (actor.detach(),), (v,)
    )[1]
    mean_tangent, log_std_tangent = forward
    weighted = (
        mean_tangent
        * torch.exp(-2 * outputs.log_std).detach().unsqueeze(1)
        / buffer.rows
    )
    return torch.autograd.grad(tuple(outputs), actor, (weighted, 2 * log_std_tangent))[
        0
    ]


# %% tags=["hide-input"]
# @title Three ways against the dense matrix { display-mode: "form" }
errors = {
    "tangents, on this page": product_by_tangents(v),
    "twinlib, tangents": fisher_vector_product(policy, buffer.obs, product="jvp")(v),
    "twinlib, two backward passes": fisher_vector_product(
        policy, buffer.obs, product="double_backward"
    )(v),
}
for name, value in errors.items():
    relative = float((value - exact).norm() / exact.norm())
    print(f"{name:30s} relative error {relative:.1e}")
    assert relative < 1e-8

# %% [markdown]
# ## Step 6: the same product, multiplied out
#
# Two properties of our policy make the tangents shorter.
# The last layer of the network is linear, and the spread $\sigma$ is the same in every state, so that $M$ is, too.
#
# Let $h_t$ be the activations of the last hidden layer in state $s_t$, with a one at the end for the bias, as rows of $H_1$, and let $W$ be the last layer with its bias as the last row: the means of all $T$ states are $H_1 W$.
# (We write $H_1$ because $H$ is the Hessian.)
# Move the parameters along $v$, and let $V$ be the part of $v$ that belongs to $W$.
# The hidden activations move by $t_t$, the rows of $T_1$, and the means move by
#
# $$\dot\mu = T_1 \bar W + H_1 V,$$
#
# with $\bar W$ the weights without the bias.
# The backward sweep multiplies $\dot\mu M$ by $H_1^\top$ for the last layer, and by $\bar W^\top$ for what goes on to the hidden layers:
#
# $$H_1^\top \dot\mu M = (H_1^\top T_1)\, \bar W M + (H_1^\top H_1)\, V M, \qquad \dot\mu M \bar W^\top = T_1\, (\bar W M \bar W^\top) + H_1\, (V M \bar W^\top) .$$
#
# Read the brackets.
# No term holds a row for each state **and** a column for each action: the actions are summed inside $\bar W M \bar W^\top$ and $V M \bar W^\top$, whose size is that of the hidden layer, and the states inside $H_1^\top H_1$ and $H_1^\top T_1$.
# $\bar W M \bar W^\top$ and $H_1^\top H_1$ do not depend on $v$ and are computed once.
# With two hundred actions and thousands of states that leaves little of the last layer's cost.
#
# For a network with one hidden layer and one replica it fits into a few lines; the tangent through the hidden layer is a product of $v$'s first layer with the observations, times the slope of tanh.


# %%
def product_multiplied_out(vector, states):
    """v -> Hv of one replica with one hidden layer: vector [P], states [T, O]."""
    observations, hidden, actions = policy.actor_widths
    cuts = ((observations + 1) * hidden, (hidden + 1) * actions, actions)

    def layers(flat):
        first, last, log_std = torch.split(flat, cuts)
        return first.view(-1, hidden), last.view(-1, actions), log_std

    def with_one(x):
        return torch.cat([x, torch.ones(len(x), 1)], 1)

    W0, W, log_std = layers(vector)
    X = with_one(states)
    H1 = with_one(torch.tanh(X @ W0))
    slope = 1 - H1[:, :-1] ** 2
    M = torch.diag(torch.exp(-2 * log_std)) / len(states)
    gram, inner = H1.T @ H1, W[:-1] @ M @ W[:-1].T

    def multiply(v):
        V0, V, v_log_std = layers(v)
        T1 = slope * (X @ V0)
        for_last = (H1.T @ T1) @ (W[:-1] @ M) + gram @ (V @ M)
        for_hidden = slope * (T1 @ inner + H1 @ (V @ M @ W[:-1].T))
        return torch.cat(
            [(X.T @ for_hidden).reshape(-1), for_last.reshape(-1), 2 * v_log_std]
        )

    return multiply


# %% tags=["hide-input"]
# @title The product multiplied out against the dense matrix { display-mode: "form" }
on_this_page = torch.stack(
    [product_multiplied_out(policy.actor[r], buffer.obs[r])(v[r]) for r in range(2)]
)
errors = {
    "multiplied out, on this page": on_this_page,
    "twinlib, analytic": fisher_vector_product(policy, buffer.obs, product="analytic")(
        v
    ),
}
for name, value in errors.items():
    relative = float((value - exact).norm() / exact.norm())
    against = float((value - product_by_double_backward(v)).norm() / exact.norm())
    print(
        f"{name:28s} relative error {relative:.1e}, to two backward passes "
        f"{against:.1e}"
    )
    assert relative < 1e-8 and against < 1e-12
assert float((errors["twinlib, analytic"] - on_this_page).norm() / exact.norm()) < 1e-12

# %% [markdown]
# This is not an approximation: the numbers are those of the two backward passes up to rounding.
# It holds for a Gaussian policy whose spread does not depend on the state; for discrete actions `twinlib` keeps to the tangents.
#
# What does a product cost?
# Clock times differ between machines, so we count the multiplications of the matrix products that each way performs, with the profiler's own counter.

# %% tags=["hide-input"]
# @title Count the multiplications { display-mode: "form" }
from torch.utils.flop_counter import FlopCounterMode


def multiplications(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 2


def one_gradient():
    actor = policy.actor.detach().requires_grad_()
    new = policy.distribution(buffer.obs, actor)
    return torch.autograd.grad(
        surrogate(new, buffer, normalized(buffer.advantage)).sum(), actor
    )[0]


tangents = fisher_vector_product(policy, buffer.obs, product="jvp")
double = fisher_vector_product(policy, buffer.obs, product="double_backward")
analytic = fisher_vector_product(policy, buffer.obs, product="analytic")
cost = pd.Series(
    {
        "one gradient": multiplications(one_gradient),
        "product by tangents (graph kept)": multiplications(lambda: tangents(v)),
        "product by two backward passes (graph kept)": multiplications(
            lambda: double(v)
        ),
        "product multiplied out": multiplications(lambda: analytic(v)),
    },
    name="multiplications",
).to_frame()
cost["in gradients"] = (cost.multiplications / cost.multiplications.iloc[0]).round(2)
assert (cost["in gradients"] <= 3).all()
policy.compute = "auto"
cost

# %% [markdown]
# 'Graph kept' means that what does not depend on $v$ is computed once for all products of a solve and is not counted here; the same holds for $\bar W M \bar W^\top$ and $H_1^\top H_1$.
# Two backward passes keep the whole first backward pass and pay for the second one alone.
# Tangents run the forward pass anew for each product, so in this small network they count more multiplications.
# Multiplications are not seconds: a second backward pass has many element-wise steps that the counter does not see.
# How much the product multiplied out saves depends on the number of actions: here there are six, no more than hidden units.
# On a policy of full size, with two hundred actions, `benchmarks/fisher_vector_product.py` measures processor time ([chapter 10](10_two_stage.ipynb) shows the figures).
# `twinlib` multiplies out by default where it can.
#
# ## Step 7: conjugate gradients
#
# $H$ is symmetric and, with damping, positive definite, so $Hd = \vartheta$ is the minimum of $\tfrac12 d^\top H d - \vartheta^\top d$.
# Conjugate gradients walk to that minimum along directions that do not undo each other.
# In exact arithmetic $k$ distinct eigenvalues take $k$ iterations, and each iteration costs one product.
# Here it is in its plainest form, for one replica:


# %%
def plain_conjugate_gradient(multiply, target, iterations):
    """Return the solution after each iteration."""
    x = torch.zeros_like(target)
    residual, direction, path = target.clone(), target.clone(), []
    for _ in range(iterations):
        image = multiply(direction)
        step = (residual @ residual) / (direction @ image)
        x = x + step * direction
        fresh = residual - step * image
        direction = fresh + (fresh @ fresh) / (residual @ residual) * direction
        residual = fresh
        path.append(x)
        if residual @ residual < 1e-28:
            break
    return path


# %% tags=["hide-input"]
# @title Compare with the direct solution at three dampings { display-mode: "form" }
gradient = one_gradient()
assert torch.allclose(
    gradient,
    policy_gradient(policy, buffer, normalized(buffer.advantage)),
    atol=1e-14,
)
dampings = (1e-3, 1e-2, 1e-1)
curves, needed = {}, {}
for damping in dampings:
    damped = fisher[0] + damping * torch.eye(len(here))
    direct = torch.linalg.solve(damped, gradient[0])
    path = plain_conjugate_gradient(lambda x, m=damped: m @ x, gradient[0], 120)
    curves[damping] = [float((x - direct).norm() / direct.norm()) for x in path]
    needed[damping] = 1 + next(
        k for k, distance in enumerate(curves[damping]) if distance < 1e-6
    )
    ours = conjugate_gradient(
        fisher_vector_product(policy, buffer.obs, damping), gradient, 200, 1e-26
    )[0]
    assert (
        curves[damping][-1] < 1e-6
        and float((ours - direct).norm() / direct.norm()) < 1e-6
    )
    print(
        f"damping {damping}: direct solution reached to "
        f"{float((ours - direct).norm() / direct.norm()):.1e}"
    )

# %% tags=["hide-input"]
# @title Draw the spectrum and the convergence { display-mode: "form" }
eigenvalues = torch.linalg.eigvalsh(fisher[0]).numpy()
fig, axes = plt.subplots(1, 2, figsize=(11, 4.0))
axes[0].plot(
    np.sort(np.clip(eigenvalues, 1e-8, None))[::-1], color=plots.COLOURS["insilico"]
)
for damping in dampings:
    axes[0].axhline(damping, color="#9ca3af", linestyle=":", linewidth=1.2)
axes[0].set_yscale("log")
axes[0].set_xlabel("number of the eigenvalue")
axes[0].set_ylabel("eigenvalue of the Fisher matrix (floor 1e-8)")
for (damping, curve), colour in zip(
    curves.items(), ("#d55e00", "#0072b2", "#009e73"), strict=True
):
    axes[1].semilogy(
        range(1, len(curve) + 1), curve, color=colour, label=f"damping {damping}"
    )
axes[1].set_xlabel("conjugate gradient iteration")
axes[1].set_ylabel("relative distance to the direct solution")
axes[1].legend()
plots.show(
    fig,
    "conjugate-gradients",
    "Left: the eigenvalues of the Fisher matrix in falling order on a logarithmic "
    "axis, most of them tiny, with dotted lines at three damping values. Right: "
    "distance of conjugate gradients to the direct solution, which falls the faster "
    "the larger the damping.",
    "The spectrum decides how fast conjugate gradients converge.",
)
above = {damping: int((eigenvalues > damping).sum()) for damping in dampings}
quotient = {
    damping: (eigenvalues.max() + damping) / (eigenvalues.min() + damping)
    for damping in dampings
}
record.say(
    f"Of {len(eigenvalues)} eigenvalues "
    + ", ".join(f"{count} lie above {damping}" for damping, count in above.items())
    + ". Iterations until the relative distance is below one in a million: "
    + ", ".join(f"{n} at damping {damping}" for damping, n in needed.items())
    + ". Largest eigenvalue over smallest, with the damping added to both: "
    + ", ".join(f"{q:,.0f} at damping {damping}" for damping, q in quotient.items())
    + "."
)
assert needed[1e-3] >= needed[1e-2] >= needed[1e-1]

# %% [markdown]
# The count of large eigenvalues is a rule of thumb and not the answer.
# It can take more iterations than the count, because the eigenvalues below the damping still differ a little.
# It can take fewer, because eigenvalues that lie close together count almost as one.
# A better guide is the largest eigenvalue divided by the smallest one, after damping: the larger that quotient, the more iterations.
# Raising the damping shrinks the quotient, which is why the curves fall faster.
#
# `twinlib`'s version differs from the plain one in three ways: it solves all replicas at once, each replica stops by its own residual, and a direction along which the curvature is not positive ends the iterations of that replica (on paper that cannot happen; in single precision it can).
#
# ## Step 8: what damping does to the direction
#
# Damping adds $\lambda$ to every eigenvalue.
# Where the curvature is larger than $\lambda$ the natural gradient is left alone; where it is smaller, the direction becomes the plain gradient's.
# The scale of $H$ therefore matters: average the KL divergence over action dimensions, as one widely used implementation does, and $H$ shrinks by the number of dimensions while $\lambda$ stays.


# %%
def cosine_with_plain(damping, scale=1.0):
    damped = scale * fisher + damping * torch.eye(len(here))
    d = torch.linalg.solve(damped, gradient)
    return float(torch.nn.functional.cosine_similarity(d, gradient, dim=-1).mean())


# %% tags=["hide-input"]
# @title Draw the effect of damping { display-mode: "form" }
grid = np.logspace(-4, 2, 25)
summed = [cosine_with_plain(x) for x in grid]
averaged = [cosine_with_plain(x, 1 / 6) for x in grid]
fig, axis = plt.subplots(figsize=(6.8, 4.0))
axis.semilogx(
    grid,
    summed,
    color=plots.COLOURS["insilico"],
    label="KL summed over actions (Eq. 4)",
)
axis.semilogx(
    grid,
    averaged,
    color=plots.COLOURS["perturbed"],
    linestyle="--",
    label="KL averaged over 6 actions",
)
axis.axvline(0.1, color="#9ca3af", linestyle=":")
axis.set_xlabel("damping")
axis.set_ylabel("cosine with the plain gradient")
axis.legend()
plots.show(
    fig,
    "damping",
    "Cosine between the damped natural gradient and the plain gradient against the "
    "damping, rising to one; the curve for a KL divergence averaged over actions "
    "lies above the one for the sum.",
    "With growing damping the natural gradient turns into the plain one.",
)
undamped = fisher + 1e-6 * torch.eye(len(here))
natural_step = torch.linalg.solve(undamped, gradient)


def gain_at_equal_kl(step):
    """Linear gain of each replica's step, at a quadratic KL of one half."""
    return (gradient * step).sum(1) / torch.sqrt(
        torch.einsum("ri,rij,rj->r", step, fisher, step)
    )


times = gain_at_equal_kl(natural_step) / gain_at_equal_kl(gradient)
record.say(
    "At a damping of 0.1 the cosine with the plain gradient is "
    f"{cosine_with_plain(0.1):.3f} for the sum and "
    f"{cosine_with_plain(0.1, 1 / 6):.3f} for the average over six actions. Without "
    f"damping the natural step of this policy of {len(here)} parameters promises "
    f"{float(times[0]):.1f} and {float(times[1]):.1f} times (two seeds) what the "
    "plain step of equal KL divergence does."
)
assert bool((times > 1).all())
assert averaged[0] <= averaged[-1] and all(
    a >= s - 1e-9 for a, s in zip(averaged, summed, strict=True)
)

# %% [markdown]
# With two hundred actions in place of six the averaged form is almost pure damping; the [replication chapter](12_replication.ipynb) shows what that means for the released code's first stage.
#
# ## You should know
#
# - The Fisher matrix needs no rewards and no actions, only states: it describes the policy, not the task.
# - The 'empirical Fisher' (outer products of the gradients actually used) is another matrix and not a curvature.
# - A subset of states is enough for the products; the gradient needs all the data.
#
# ## Limitations
#
# - Dense checks are possible for small networks only; the tests of the package repeat them on other seeds and sizes, but not at full size.
# - Invariance to labels holds for infinitely small steps and without damping.
#
# ## What this does not show
#
# It does not show that natural gradients learn faster, per update or per second.
# It does not use real cells: the states come from the packaged simulation, since a Fisher matrix needs states and nothing more.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>You halve the unit of one parameter, so that its number doubles. What happens to the plain step, and to the natural one?</summary>
#
# The derivative halves, and so does the plain step in the doubled number, which in the old unit is a quarter.
# The Fisher matrix has the unit twice and takes it out again: the natural step changes the policy as before.
#
# </details>
#
# <details><summary>Why is the slope of the KL divergence no use for choosing a direction?</summary>
#
# At the old policy it is zero in every direction, because the divergence has its minimum there.
# The first thing that tells directions apart is the curvature.
#
# </details>
#
# <details><summary>A policy has ten thousand parameters. How large is its Fisher matrix, and what is stored here in its place?</summary>
#
# A hundred million entries.
# Conjugate gradients keep a few vectors of ten thousand numbers and ask for one product an iteration.
#
# </details>
#
# ## Key takeaways
#
# - Steps are measured by the KL divergence they cause; near the old policy that is a quadratic form with the Fisher matrix.
# - Hessian of the KL, covariance of the score and Gauss-Newton form are one matrix, checked here against each other.
# - Conjugate gradients need products only, and a product costs no more than a few gradients.
# - Damping decides how much of the natural gradient is left; its meaning depends on how the KL is averaged.

# %% [markdown]
# ## Exercises
#
# ### Exercise 7.1. The Fisher matrix of a normal distribution
#
# Write `natural(gradient_mean, gradient_log_std, log_std)`: the natural gradient, without damping, of a normal policy's mean and log standard deviation (arrays of equal shape).

# %% tags=["exercise-1"]
import numpy as np


def natural(gradient_mean, gradient_log_std, log_std):
    return gradient_mean, gradient_log_std


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def natural(gradient_mean, gradient_log_std, log_std):
#     return gradient_mean * np.exp(2 * log_std), gradient_log_std / 2
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 7.1 { display-mode: "form" }
from twinlib.page.record import attempt


def check_1(natural):
    log_std = np.array([-1.0, 0.5])
    mean, spread = natural(np.array([1.0, 1.0]), np.array([3.0, -2.0]), log_std)
    assert np.allclose(mean, np.exp(2 * log_std)), (
        "the curvature of the mean is one over the variance"
    )
    assert np.allclose(spread, [1.5, -1.0]), (
        "the curvature of log sigma is 2, whatever sigma is"
    )


attempt("7.1", check_1, natural)

# %% [markdown]
# ### Exercise 7.2. Conjugate gradients
#
# Write `solve(multiply, target, iterations)`: conjugate gradients from zero for a symmetric positive definite matrix that is only given as a function.
# Stop early when the squared residual is below $10^{-20}$.

# %% tags=["exercise-2"]
import numpy as np


def solve(multiply, target, iterations):
    return np.zeros_like(target)


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def solve(multiply, target, iterations):
#     x, residual = np.zeros_like(target), target.copy()
#     direction = residual.copy()
#     for _ in range(iterations):
#         if residual @ residual < 1e-20:
#             break
#         image = multiply(direction)
#         step = (residual @ residual) / (direction @ image)
#         x = x + step * direction
#         fresh = residual - step * image
#         direction = fresh + (fresh @ fresh) / (residual @ residual) * direction
#         residual = fresh
#     return x
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 7.2 { display-mode: "form" }
from twinlib.page.record import attempt


def check_2(solve):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    matrix, target, calls = root @ root.T + np.eye(8), rng.normal(size=8), []

    def multiply(x):
        calls.append(1)
        return matrix @ x

    found = solve(multiply, target, 30)
    assert np.allclose(found, np.linalg.solve(matrix, target), atol=1e-6), (
        "not the solution of the system"
    )
    assert len(calls) <= 30, "one product an iteration"
    assert np.allclose(solve(lambda x: 3 * x, target, 1), target / 3), (
        "a multiple of the identity takes one iteration"
    )


attempt("7.2", check_2, solve)

# %% [markdown]
# ### Exercise 7.3. Find the silent bug
#
# This Fisher-vector product runs, gives finite numbers, and training with it improves the policy.
# In fact it returns damping times the vector and nothing else, so that the 'natural' gradient is the plain one.
# Find out why, and mend it.

# %% tags=["exercise-3"]
import torch


def product(distribution, parameters, v, damping):
    """distribution(parameters) -> (mean [B, A], log_std [A]); v is a vector [P]."""
    parameters = parameters.detach().requires_grad_()
    mean, log_std = distribution(parameters)
    old_mean, old_log_std = distribution(parameters)
    kl = (
        log_std
        - old_log_std
        + (torch.exp(2 * old_log_std) + (old_mean - mean) ** 2)
        / (2 * torch.exp(2 * log_std))
    )
    (first,) = torch.autograd.grad(kl.sum(-1).mean(), parameters, create_graph=True)
    (second,) = torch.autograd.grad((first * v).sum(), parameters)
    return second + damping * v


# %% [markdown]
# <details><summary>Solution</summary>
#
# Both policies depend on the parameters, so the KL divergence is zero for *all* parameters and so are its derivatives.
# The old policy must be a constant.
#
# ```python
# import torch
#
#
# def product(distribution, parameters, v, damping):
#     parameters = parameters.detach().requires_grad_()
#     mean, log_std = distribution(parameters)
#     old_mean, old_log_std = mean.detach(), log_std.detach()
#     kl = log_std - old_log_std + (torch.exp(2 * old_log_std) + (old_mean - mean) ** 2) / (
#         2 * torch.exp(2 * log_std)
#     )
#     (first,) = torch.autograd.grad(kl.sum(-1).mean(), parameters, create_graph=True)
#     (second,) = torch.autograd.grad((first * v).sum(), parameters)
#     return second + damping * v
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 7.3 { display-mode: "form" }
from twinlib.page.record import attempt


def check_3(product):
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(20, 3, generator=generator, dtype=torch.float64)

    def distribution(p):
        return obs @ p[:6].view(3, 2), p[6:]

    p = torch.randn(8, generator=generator, dtype=torch.float64)
    v = torch.randn(8, generator=generator, dtype=torch.float64)
    precision = torch.exp(-2 * p[6:])
    mean_part = (obs.T @ obs / 20) @ v[:6].view(3, 2) * precision
    exact = torch.cat([mean_part.reshape(-1), 2 * v[6:]])
    found = product(distribution, p, v, 0.1)
    assert not torch.allclose(found, 0.1 * v), (
        "this is the damping alone: the Fisher matrix came out as zero"
    )
    assert torch.allclose(found, exact + 0.1 * v, atol=1e-10), (
        "not the Fisher matrix of this policy times v"
    )


attempt("7.3", check_3, product)

# %% [markdown]
# ## References
#
# - Amari, *Natural gradient works efficiently in learning* (Neural Computation 1998).
# - Kakade, *A natural policy gradient* (NeurIPS 2001).
# - Pearlmutter, *Fast exact multiplication by the Hessian* (Neural Computation 1994).
# - Hestenes and Stiefel, *Methods of conjugate gradients for solving linear systems* (1952).
# - Martens, *New insights and perspectives on the natural gradient method* (JMLR 2020).
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018), Eq. 4-5.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
