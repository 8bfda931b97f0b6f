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
# # 6. The policy gradient: learning from actions that were tried
#
# **Question.** A *policy* is a rule that draws an action at random, here from a normal distribution whose mean and spread are its parameters.
# It is told how well each action went (the *reward*), and nobody hands it a derivative of that.
# Which way should its parameters move, and how far before the actions that it tried no longer tell?
#
# **Answer.** They should move so that actions which paid become more probable: along the average of *score* times reward (Eq. 1 to 3 of the paper), which one batch of tried actions gives for all parameters at once, and not far: where an action has two hundred parts, one for each gene that may be pushed, half of a batch is lost at less than a tenth of the distance that an action of one part allows, as the figure shows.
# This is why the next chapters keep their steps short.
#
# The *score* of an action is the derivative of the logarithm of its probability with respect to the policy's parameters; the *likelihood ratio* is how much more probable the action has become since it was tried, and the *effective share* says, from these ratios, how many of the tried actions still count after the policy has moved.
# An *action* is one draw; the numbers that it holds are its *parts*, or dimensions.

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
# @title Two estimates of one gradient, and what is left of a batch after a move { display-mode: "form" }
import matplotlib.pyplot as plt
import numpy as np

from twinlib.page import plots, record

plots.style()
rng = np.random.default_rng(0)
MEAN, LOG_SPREAD, BATCH, REPEATS = 0.5, -0.4, 2000, 200
SPREAD = np.exp(LOG_SPREAD)
exact = np.array(
    [-2 * (MEAN - 2), -2 * SPREAD**2]
)  # of E[-(a - 2)^2], for the mean and the log spread


def rewards(mean, spread, number):
    return -((mean + spread * rng.normal(size=number) - 2.0) ** 2)


def both_sides(step=0.1):
    """Finite differences [2]: a batch up and a batch down for each parameter."""
    mean = (
        rewards(MEAN + step, SPREAD, BATCH).mean()
        - rewards(MEAN - step, SPREAD, BATCH).mean()
    )
    up, down = (
        rewards(MEAN, np.exp(LOG_SPREAD + sign * step), BATCH).mean()
        for sign in (1, -1)
    )
    return np.array([mean, up - down]) / (2 * step)


def score_times_reward():
    """Average [2] of score times (reward - mean reward), over as many actions in one batch."""
    noise = rng.normal(size=4 * BATCH)
    gain = -((MEAN + SPREAD * noise - 2.0) ** 2)
    return (np.stack([noise / SPREAD, noise**2 - 1]) * (gain - gain.mean())).mean(1)


estimates = {
    "finite differences": (np.array([both_sides() for _ in range(REPEATS)]), "control"),
    "score times reward": (
        np.array([score_times_reward() for _ in range(REPEATS)]),
        "insilico",
    ),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4))
for name, (found, colour) in estimates.items():
    left.plot(*found.T, ".", ms=4, alpha=0.7, color=plots.COLOURS[colour], label=name)
left.plot(
    *exact,
    "X",
    ms=12,
    mec="white",
    color=plots.COLOURS["perturbed"],
    label="exact gradient",
)
left.set(
    xlabel="with respect to the mean",
    ylabel="with respect to the log spread",
    title="one gradient, 200 estimates each",
)
shifts = np.linspace(0, 0.9, 90)
for A, colour in {
    1: "control",
    10: "experimental",
    50: "insilico",
    200: "perturbed",
}.items():
    right.plot(
        shifts,
        np.exp(-A * shifts**2),
        color=plots.COLOURS[colour],
        label=f"{A} part{'s' * (A > 1)} an action",
    )
right.axhline(0.5, color="#6b7280", linewidth=1.0, linestyle=":")
right.set(
    xlabel="shift of the mean of each part (standard deviations)",
    ylabel="effective share of the batch",
    title="what is left of a batch",
)
left.legend(loc="upper left", frameon=True)
right.legend(loc="upper right", frameon=True)
plots.show(
    fig,
    "score-and-share",
    "Left: two hundred estimates of the gradient for mean and log spread of a policy whose action has one part, by trying both sides and by "
    "score times reward, around the exact value; the second cloud is the smaller one. Right: the effective share of a batch "
    "against the shift of each part's mean falls, the faster the more parts an action has.",
)
reach = {A: float(np.sqrt(np.log(2) / A)) for A in (1, 200)}
noise_of = {name: found.std(0) for name, (found, _) in estimates.items()}
record.say(
    f"Half of a batch is effectively lost at a shift of {reach[1]:.2f} standard deviations where an action has one part, and of {reach[200]:.3f} "
    f"in each part where it has 200. At {4 * BATCH:,} tried actions the estimates of the gradient scatter by {noise_of['finite differences'].mean():.2f} "
    f"(finite differences) and {noise_of['score times reward'].mean():.2f} (score times reward), on average over the two parameters."
)
assert noise_of["score times reward"].mean() < noise_of["finite differences"].mean()
assert np.allclose(estimates["score times reward"][0].mean(0), exact, atol=0.05)

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - derive the score-function estimator and check it against a closed form (15 minutes);
# - say why a baseline changes the variance and not the mean of that estimator, and find the best one (10 minutes);
# - show that the surrogate of Eq. 2, the mean of likelihood ratio times advantage, has the policy gradient of Eq. 3 at the collecting policy, and nowhere else (10 minutes);
# - predict how noisy the likelihood ratio becomes with the number of parts of an action (10 minutes);
# - compute advantages by hand, and treat the end of an episode and the end of patience differently (15 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import pandas as pd
import torch

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.packaged import packaged_world
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.distributions import Gaussian
from twinlib.policy.rollout import Collector, generalized_advantage
from twinlib.policy.trust_region import normalized, surrogate
from twinlib.policy.training import make_generators

torch.set_num_threads(1)
world = packaged_world().to(dtype=torch.float64)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## Quick facts
#
# | | |
# |---|---|
# | kind of method | on-policy: the data must come from the policy that is changed |
# | actions | continuous (normal distribution) here; any distribution with a differentiable log-probability |
# | needs | sampled actions and their returns; no derivative of the environment |
# | code | `twinlib.policy.rollout`, `twinlib.policy.actor_critic` |
# | equations of the paper | 1, 2, 3 |
#
# ## Key equations
#
# $$r_\theta(s, a) = \frac{\pi_\theta(a \mid s)}{\pi_{\theta_{old}}(a \mid s)}, \qquad L(\theta) = \mathbb{E}_t[r_\theta \hat A_t], \qquad \vartheta = \frac1T \sum_t \nabla_\theta \log \pi_\theta(a_t \mid s_t)\big|_{\theta_{old}} \hat A_t .$$
#
# ## Pseudocode
#
# 1. Run the present policy; keep states, the actions **as drawn**, and their log-probabilities.
# 2. Estimate for each action how much better it was than the policy's average there (the advantage).
# 3. Move the parameters along the mean of score times advantage.
# 4. Throw the data away and start again.

# %% [markdown]
# ## The question
#
# In our [environment](05_environment.ipynb) an action changes genes, and the reward says how much closer the cell came to the profile it was matched to.
# Between the two lies a simulator: a decoder, noise, a random kick.
# Suppose we may not look inside.
# Can we still say in which direction the policy's parameters should move?
#
# We start with a problem so small that the answer is known.
# One state, an action of one part $a \sim \mathcal N(\mu, \sigma^2)$, reward $R(a) = -(a - 2)^2$.
# The expected reward and its gradient are
#
# $$J(\mu, \log\sigma) = -(\mu - 2)^2 - \sigma^2, \qquad \frac{\partial J}{\partial \mu} = -2(\mu - 2), \qquad \frac{\partial J}{\partial \log \sigma} = -2\sigma^2 .$$

# %%
mu, log_sigma = torch.tensor(0.5), torch.tensor(-0.4)
sigma = log_sigma.exp()
exact = torch.stack([-2 * (mu - 2), -2 * sigma**2])


def reward(a):
    return -((a - 2.0) ** 2)


print("exact gradient (mu, log sigma):", exact.numpy().round(4))

# %% [markdown]
# ## The plain baseline: finite differences, try both sides
#
# Without any theory one can nudge a parameter up and down and compare average rewards.
# This finite difference needs two batches **for each parameter**, and the difference of two noisy averages is noisier than either.

# %%
generator = torch.Generator().manual_seed(0)
n = 4000


def finite_difference(step=0.1):
    """Central differences of the average reward, a fresh batch on each side."""
    estimates = []
    for which in range(2):
        sides = []
        for sign in (1, -1):
            m = mu + sign * step * (which == 0)
            s = torch.exp(log_sigma + sign * step * (which == 1))
            sides.append(reward(m + s * torch.randn(n, generator=generator)).mean())
        estimates.append((sides[0] - sides[1]) / (2 * step))
    return torch.stack(estimates)


plain = torch.stack([finite_difference() for _ in range(200)])
print("mean over 200 repetitions:", plain.mean(0).numpy().round(3))
print("standard deviation:       ", plain.std(0).numpy().round(3))

# %% [markdown]
# ## Step 1: the derivative moves inside, onto the logarithm
#
# The expectation is an integral over actions, and only the density depends on the parameters:
#
# $$\nabla J = \nabla \int \pi_\theta(a) R(a)\, da = \int \pi_\theta(a) \frac{\nabla \pi_\theta(a)}{\pi_\theta(a)} R(a)\, da = \mathbb{E}[\nabla \log \pi_\theta(a)\, R(a)].$$
#
# $\nabla \log \pi_\theta$ is the **score**.
# For a normal distribution it is $(a - \mu)/\sigma^2$ for the mean and $((a - \mu)/\sigma)^2 - 1$ for $\log\sigma$.
# First check: these formulas are the derivatives of our log-probability.

# %%
action = mu + sigma * torch.randn(5, generator=generator)
by_hand = torch.stack([(action - mu) / sigma**2, ((action - mu) / sigma) ** 2 - 1], -1)


def log_prob(parameters, a):
    policy = Gaussian(parameters[0].view(1, 1, 1), parameters[1].view(1, 1))
    return policy.log_prob(a.view(1, 1, 1)).squeeze()


parameters = torch.stack([mu, log_sigma])
gradient_of = torch.func.vmap(torch.func.grad(log_prob), (None, 0))
by_autograd = gradient_of(parameters, action)
print("largest difference:", f"{float((by_hand - by_autograd).abs().max()):.1e}")
assert torch.allclose(by_hand, by_autograd, atol=1e-12)

# %% [markdown]
# Second check: the average of score times reward is the gradient of the closed form, within its own standard error.
# One batch serves all parameters.


# %%
def scores(a):
    return torch.stack([(a - mu) / sigma**2, ((a - mu) / sigma) ** 2 - 1], -1)


draws = mu + sigma * torch.randn(400_000, generator=generator)
terms = scores(draws) * reward(draws).unsqueeze(-1)
mean, error = terms.mean(0), terms.std(0) / len(terms) ** 0.5
for name, e, m, s in zip(("mu", "log sigma"), exact, mean, error, strict=True):
    print(
        f"{name:10s} exact {float(e):+.4f}   estimate {float(m):+.4f} +- {float(s):.4f}"
    )
assert bool(((mean - exact).abs() < 4 * error).all())

# %% [markdown]
# ## Step 2: the score has mean zero, so a baseline is free
#
# Since densities integrate to one, $\mathbb{E}[\nabla \log \pi_\theta] = \nabla 1 = 0$.
# A constant $b$ subtracted from the reward therefore changes the mean of the estimator by $b \cdot 0$, and its variance by a lot.
# For one parameter with score $g$ the variance of $g (R - b)$ is smallest at
#
# $$b^* = \frac{\mathbb{E}[g^2 R]}{\mathbb{E}[g^2]},$$
#
# which is near, but not equal to, the mean reward.

# %%
score_mean = scores(draws).mean(0)
chance = scores(draws).std(0) / len(draws) ** 0.5
assert bool((score_mean.abs() < 4 * chance).all())
g, R = scores(draws)[:, 0], reward(draws)
best = float((g**2 * R).mean() / (g**2).mean())
levels = np.linspace(best - 8, best + 8, 41)
variance = np.array([float((g * (R - b)).var()) for b in levels])
means = np.array([float((g * (R - b)).mean()) for b in levels])
assert abs(levels[variance.argmin()] - best) <= (levels[1] - levels[0])

# %% tags=["hide-input"]
# @title Draw variance and mean of the estimator against the baseline { display-mode: "form" }
fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
axes[0].plot(levels, variance, color=plots.COLOURS["insilico"])
axes[0].axvline(best, color="#6b7280", linestyle=":", label="best baseline")
axes[0].axvline(
    float(R.mean()),
    color=plots.COLOURS["perturbed"],
    linestyle="--",
    label="mean reward",
)
axes[0].axvline(0.0, color="#9ca3af", linewidth=1.0, label="no baseline")
axes[0].set_ylabel("variance of one term")
axes[1].plot(levels, means, color=plots.COLOURS["insilico"])
axes[1].axhline(
    float(exact[0]), color="#1f2937", linestyle="--", label="exact gradient"
)
axes[1].set_ylim(float(exact[0]) - 0.5, float(exact[0]) + 0.5)
axes[1].set_ylabel("mean of the estimator")
for axis in axes:
    axis.set_xlabel("baseline b")
plots.legend_outside(fig, columns=4)
plots.show(
    fig,
    "baseline",
    "Left: the variance of the gradient estimator as a function of the baseline is a parabola with its minimum "
    "near the mean reward. Right: the mean of the estimator hardly depends on the baseline and lies close to the "
    "exact gradient.",
    "A baseline changes the variance (left) and leaves the mean alone (right). "
    "The line on the right is slightly tilted: the scores of a finite sample do not average to exactly zero.",
)
record.say(
    f"Variance of a term without baseline {variance[np.abs(levels).argmin()]:.1f}, "
    f"with the mean reward {float((g * (R - R.mean())).var()):.1f}, with the best constant {variance.min():.1f}."
)

# %% [markdown]
# With states, the baseline may depend on the state, because the argument holds in each state separately.
# The natural choice is the value function, the expected return from that state; what is left is the **advantage**, how much better an action was than the policy's average there.
# A baseline that depends on the *action* is no baseline: the score no longer averages to zero against it.
#
# ## The policy of this book
#
# From here on the policy is a small neural network, the **actor**.
# It reads an observation and puts out one mean for each gene.
# An action is drawn from a normal distribution around these means.
# The standard deviation is one parameter for each gene, the same in every state.
# $\theta$ stands for all weights of the network together with these standard deviations.
# A second network, the **critic**, reads the same observation and guesses the return that will follow.
# It is the value function.
# Where both networks are trained by one optimizer ([chapter 9](09_ppo_kl.ipynb)), $\theta$ holds the critic's weights, too.
#
# ## Step 3: the ratio, and why its gradient is the same
#
# The policy that drew the actions is the **collecting policy**; its parameters are $\theta_{old}$.
# The actions that it drew, with their states and rewards, are a **batch**.
# Collecting a batch is called a **rollout**.
# A method is **on-policy** if every batch has to come from the policy that is to be changed.
#
# Eq. 1 writes the objective with a likelihood ratio, so that data from an old policy can judge a new one:
#
# $$J(\theta) = \mathbb{E}_{a \sim \pi_{old}}\!\left[\frac{\pi_\theta(a)}{\pi_{old}(a)} R(a)\right].$$
#
# With the advantage in place of the reward, the mean of ratio times advantage over a batch is $L(\theta)$ of Eq. 2.
# It is called the **surrogate**, because it stands in for the return of a policy that has not been run.
# At $\theta = \theta_{old}$ the ratio is one, and the gradient of the ratio is $\nabla\pi_\theta/\pi_{old} = \nabla \log\pi_\theta$.
# So the gradient of the surrogate *there* is the policy gradient.
# We check this on trajectories of the packaged simulated world, with a policy that has six genes to adjust.

# %% tags=["hide-input"]
# @title The packaged world, six of its genes, and a policy { display-mode: "form" }
record.say(
    f"The packaged world: {len(world):,} control cells of a simulated blood-development network, each matched to a "
    f"perturbed cell; {len(world.genes)} genes, {len(world.labels)} perturbations of one or two regulators."
)
small = Dynamics(
    world.only(list(world.action_names[:6])),
    EnvironmentConfig(),
    replicas=1,
    n_cells=64,
)
policy = ActorCritic(
    small.observation_dim,
    6,
    1,
    make_generators([0], "weights"),
    hidden=(16,),
    dtype=torch.float64,
)
collector = Collector(
    small,
    make_generators([0], "environment"),
    make_generators([0], "actions"),
    torch.float64,
)

# %%
buffer = collector.collect(policy, steps=30, gamma=0.99, gae_lambda=0.95)
advantage = normalized(buffer.advantage)


def gradients(actor):
    """Gradient of the surrogate (ratio) and of log-probability times advantage."""
    policy_there = policy.distribution(buffer.obs, actor)
    by_ratio = surrogate(policy_there, buffer, advantage).sum()
    by_score = (policy_there.log_prob(buffer.action) * advantage).mean()
    return [
        torch.autograd.grad(objective, actor, retain_graph=True)[0]
        for objective in (by_ratio, by_score)
    ]


by_ratio, by_score = gradients(policy.actor.detach().requires_grad_())
largest = float((by_ratio - by_score).abs().max())
print(f"at the collecting policy, largest difference: {largest:.1e}")
assert torch.allclose(by_ratio, by_score, atol=1e-12)

moved = (policy.actor + 0.3 * by_score / by_score.norm()).detach().requires_grad_()
ratio_moved, score_moved = gradients(moved)
angle = float(torch.nn.functional.cosine_similarity(ratio_moved, score_moved))
assert angle < 1.0 - 1e-6

# %% tags=["hide-input"]
# @title How far the policy was moved { display-mode: "form" }
with torch.no_grad():
    now, then = policy.distribution(buffer.obs, moved), policy.distribution(buffer.obs)
    by = float(
        ((now.mean - then.mean) * torch.exp(-then.log_std).unsqueeze(1))
        .square()
        .mean()
        .sqrt()
    )
print(
    f"after a step that shifts the means by {by:.2f} standard deviations (root mean square), "
    f"cosine between the two: {angle:.3f}"
)

# %% [markdown]
# Away from the collecting policy the two part.
# Which of them is right there?
# The problem of one part knows the answer: we keep the draws of the old policy and ask for the gradient at a moved mean.

# %% tags=["hide-input"]
# @title Ratio form and score form at a moved mean, against the exact gradient { display-mode: "form" }
apart = 0.5  # the new mean, in standard deviations from the old one
new_mu = mu + apart * sigma
there = (draws - new_mu) / sigma**2  # the score of the mean, at the new policy
weight = torch.exp(((draws - mu) ** 2 - (draws - new_mu) ** 2) / (2 * sigma**2))
truth = float(-2 * (new_mu - 2))
forms = {
    "ratio form": weight * there * reward(draws),
    "score form": there * reward(draws),
}
errors = {name: float(terms.std()) / len(draws) ** 0.5 for name, terms in forms.items()}
record.say(
    f"Gradient at a mean that has moved by {apart} standard deviations: exact {truth:+.3f}, "
    + ", ".join(
        f"{name} {float(terms.mean()):+.3f} +- {errors[name]:.3f}"
        for name, terms in forms.items()
    )
    + "."
)
assert abs(float(forms["ratio form"].mean()) - truth) < 4 * errors["ratio form"]
assert abs(float(forms["score form"].mean()) - truth) > 4 * errors["score form"]

# %% [markdown]
# The ratio form keeps the right mean; the score form forgets that the actions were drawn by somebody else.
# With several steps in an episode even the ratio form is only close, because the states were still visited by the old policy.
#
# ## Step 4: how far can the ratio be trusted?
#
# The ratio always has mean one under the old policy.
# Its spread is another matter.
# Shift the mean of each of the $A$ independent parts of an action, its dimensions, by $\epsilon$ standard deviations; then the log-ratio is normal, and
#
# $$\operatorname{Var}[r] = e^{A \epsilon^2} - 1 .$$
#
# The spread grows exponentially with the number of parts.
# The **effective share** of a batch of $n$ samples is $(\sum r)^2 / (n \sum r^2)$.
# It is one if all samples count alike, and $1/n$ if one of them counts alone.
# For the shift above it is $1 / (1 + \operatorname{Var}[r]) = e^{-A\epsilon^2}$.
# With two hundred genes a shift of a tenth of a standard deviation in each, which nobody would notice in a histogram, already costs most of the batch:

# %% tags=["hide-input"]
# @title The formula against samples { display-mode: "form" }
epsilon, dimensions = 0.1, [1, 5, 20, 50, 100, 200]
generator = torch.Generator().manual_seed(1)
rows = []
for A in dimensions:
    z = torch.randn(200_000 // max(1, A // 10), A, generator=generator)
    ratio = torch.exp((epsilon * z - 0.5 * epsilon**2).sum(-1))
    effective = float(ratio.sum() ** 2 / (ratio**2).sum() / len(ratio))
    rows.append((A, float(np.expm1(A * epsilon**2)), float(ratio.var()), effective))
spread = pd.DataFrame(
    rows,
    columns=[
        "action dimensions",
        "variance, formula",
        "variance, sampled",
        "effective share of samples",
    ],
).set_index("action dimensions")
gap = (spread["variance, sampled"] / spread["variance, formula"] - 1).abs()
assert (gap[gap.index <= 50] < 0.05).all()
widest = spread.index[-1]
record.say(
    f"With {widest} dimensions the effective share is {float(np.exp(-widest * epsilon**2)):.3f} by the formula and "
    f"{spread['effective share of samples'].iloc[-1]:.3f} in the sample; the variances differ by {gap.iloc[-1]:.0%}."
)
spread.round(3)

# %% [markdown]
# Where the ratio is very noisy, its sampled variance is noisy, too: see the last row.
# The right panel of the first figure draws the effective share, $e^{-A\epsilon^2}$.

# %% [markdown]
# This is the reason for everything in the next three chapters: steps must be kept short *in terms of the policy*, whether by a constraint ([chapter 8](08_trpo.ipynb)), by a clip or by a penalty ([chapter 9](09_ppo_kl.ipynb)).
#
# ## Step 5: advantages over time
#
# An action also changes the future, so its credit is the discounted sum of what follows.
# The discount $\gamma$ makes a reward that comes $k$ steps later count $\gamma^k$ times.
# With a value function $V$ one may cut that sum short: $\delta^V_t = R_t + \gamma V(s_{t+1}) - V(s_t)$ looks one step ahead.
# Generalized advantage estimation (Schulman 2016) mixes all horizons:
#
# $$\hat A_t = \sum_{k \ge 0} (\gamma\lambda)^k\, \delta^V_{t+k} .$$
#
# $\lambda = 1$ gives the Monte-Carlo return minus the value (no bias from $V$, much noise), $\lambda = 0$ the one-step error (little noise, all the bias of $V$).
# We write it out plainly and hold `twinlib`'s version against it.


# %%
def plain_advantage(reward, value, next_value, terminated, truncated, gamma, lam):
    """One cell, from the definition: the sum runs to the end of the episode."""
    steps = len(reward)
    future = [0.0 if terminated[t] else next_value[t] for t in range(steps)]
    delta = [reward[t] + gamma * future[t] - value[t] for t in range(steps)]
    out = []
    for t in range(steps):
        total, weight = 0.0, 1.0
        for k in range(t, steps):
            total += weight * delta[k]
            weight *= gamma * lam
            if terminated[k] or truncated[k]:
                break
        out.append(total)
    return out


# %% tags=["hide-input"]
# @title Against the package, with an end and a cut { display-mode: "form" }
rng = np.random.default_rng(0)
R, V, V1 = (torch.as_tensor(rng.normal(size=(1, 12, 1))) for _ in range(3))
ends, cuts = (
    torch.zeros(1, 12, 1, dtype=torch.bool),
    torch.zeros(1, 12, 1, dtype=torch.bool),
)
ends[0, 4], cuts[0, 8] = True, True
for lam in (0.0, 0.9, 1.0):
    fast, _ = generalized_advantage(R, V, V1, ends, cuts, 0.95, lam)
    slow = plain_advantage(
        *(x[0, :, 0].tolist() for x in (R, V, V1, ends, cuts)), 0.95, lam
    )
    assert np.allclose(fast[0, :, 0], slow, atol=1e-12)
    print(
        f"lambda {lam}: largest difference {np.abs(fast[0, :, 0].numpy() - slow).max():.1e}"
    )

# %% [markdown]
# Two flags, because an episode can stop for two reasons.
# When it **terminates** there is no future, and the next value counts for nothing.
# When it is **truncated**, because somebody ran out of patience, the future exists and merely was not watched: the next value counts, and it must be the value of the last state seen, not of the fresh start that follows.
# The horizon of our environment is a termination, since time is part of what the policy observes.
#
# ## Putting it together
#
# Vanilla policy gradient with a learned value baseline, six genes, a plain gradient step: no trust region, no clip, one step per batch.

# %% tags=["hide-input"]
# @title A policy and a critic for six genes { display-mode: "form" }
learner = ActorCritic(
    small.observation_dim,
    6,
    1,
    make_generators([3], "weights"),
    hidden=(32,),
    log_std=-0.7,
    dtype=torch.float64,
)
collector = Collector(
    small,
    make_generators([3], "environment"),
    make_generators([3], "actions"),
    torch.float64,
)

# %%
returns = []
for _ in range(60):
    batch = collector.collect(learner, steps=15, gamma=0.99, gae_lambda=0.95)
    returns.append(float(batch.episode_return))
    theta = learner.theta.detach().requires_grad_()
    actor, critic = theta[:, : learner.actor_size], theta[:, learner.actor_size :]
    there, advantage = (
        learner.distribution(batch.obs, actor),
        normalized(batch.advantage),
    )
    objective = surrogate(there, batch, advantage).sum()
    loss = (learner.value(batch.obs, critic) - batch.return_).square().mean()
    (step,) = torch.autograd.grad(objective - loss, theta)
    learner.theta += 0.1 * step

# %% tags=["hide-input"]
# @title Draw the returns { display-mode: "form" }
early, late = np.mean(returns[:10]), np.mean(returns[-10:])

fig, axis = plt.subplots(figsize=(6.4, 3.8))
axis.plot(returns, color=plots.COLOURS["insilico"], label="policy gradient")
axis.axhline(0.0, color=plots.COLOURS["do_nothing"], linestyle="--", label="do nothing")
axis.set_xlabel("update")
axis.set_ylabel("return of an episode (noisy actions)")
plots.legend_outside(fig)
plots.show(
    fig,
    "vanilla-policy-gradient",
    "Return of an episode against the number of policy gradient updates, beside a dashed line at zero for doing "
    "nothing; the curve rises from its start.",
    "Vanilla policy gradient with six genes.",
)
still = Dynamics(small.world, EnvironmentConfig().quiet(), replicas=1, n_cells=512)
still.reset(make_generators([3], "environment"))
start_error = float(still.error.mean())
record.say(
    f"Mean return of the first ten updates {early:+.4f}, of the last ten {late:+.4f}. "
    f"The squared error of a cell at its start is {start_error:.2f} on average, "
    f"so the last ten remove {late / start_error:.1%} of it."
)
assert late > early

# %% [markdown]
# Most of the error to a single matched cell is that cell's own noise, which nothing can predict.
# So even the best policy removes a small share, and returns are small numbers.

# %% [markdown]
# ## You should know
#
# - The surrogate is not a loss in the supervised sense.
#   Close to the collecting policy its rise estimates the rise of the return.
#   Far from it a few samples with a very large ratio decide its value, and the value says nothing about progress any more.
#   [Chapter 8](08_trpo.ipynb) therefore believes a rise of the surrogate only inside a bound on the KL divergence.
# - Advantages are usually scaled to mean zero and standard deviation one in each batch. That changes the length of the step, and the subtraction is a small bias, because the batch mean depends on the actions.
# - Log-probabilities belong to the actions **as drawn**. The environment may clip an action to its range; the policy must not be told.
#
# ## Limitations
#
# - The closed form belongs to one state and an action of one part; with trajectories the estimator is checked against another computation of the same quantity, not against the truth.
# - The variance formula assumes independent normal parts whose means all move by the same amount.
#
# ## What this does not show
#
# It does not show that the vanilla gradient is a good algorithm; the learning curve is one seed on six genes, there to show that the pieces fit.
# It says nothing about real cells: the world on this page is simulated, so that the page runs anywhere.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>You subtract the mean reward from every reward before you average score times reward. What changes, and what does not?</summary>
#
# The variance changes; the mean of the estimator does not, because the score averages to zero.
# A baseline that depends on the action would change the mean, too.
#
# </details>
#
# <details><summary>The means of a policy with two hundred actions move by as many standard deviations each as those of a policy with one action. Which batch is worth less afterwards?</summary>
#
# That of the two hundred actions: the log-ratios add up, and the effective share falls exponentially with the number of actions.
# For the same share each mean may move only by one over the square root of that number.
#
# </details>
#
# <details><summary>An episode stops because its horizon is over, another because somebody ran out of patience. Which value stands behind the last reward?</summary>
#
# In the first none: it has terminated, and there is no future.
# In the second the value of the last state that was seen, and not that of the fresh start that follows.
#
# </details>
#
# ## Key takeaways
#
# - Derivative of an average = average of score times reward. No derivative of the environment is needed.
# - A baseline is free in the mean and decisive in the variance.
# - Ratio form and score form agree at the collecting policy only.
# - The usable distance shrinks as one over the square root of the number of parts of an action.

# %% [markdown]
# ## Exercises
#
# ### Exercise 6.1. Returns to go
#
# Write `returns_to_go(reward, gamma)`: for a list of rewards of one episode, the discounted sum from each step to the end.


# %% tags=["exercise-1"]
def returns_to_go(reward, gamma):
    return [sum(reward)] * len(reward)


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def returns_to_go(reward, gamma):
#     out, running = [], 0.0
#     for r in reversed(reward):
#         running = r + gamma * running
#         out.append(running)
#     return out[::-1]
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 6.1 { display-mode: "form" }
from twinlib.page.record import attempt


def check_1(returns_to_go):
    found = returns_to_go([1.0, 0.0, 2.0], 0.5)
    assert len(found) == 3, "one number for each step"
    assert abs(found[2] - 2.0) < 1e-12, "the last step has only its own reward"
    assert abs(found[0] - 1.5) < 1e-12, f"1 + 0.5 * 0 + 0.25 * 2 = 1.5, got {found[0]}"
    assert abs(found[1] - 1.0) < 1e-12, (
        "a reward of the past must not be credited to a later action"
    )


attempt("6.1", check_1, returns_to_go)

# %% [markdown]
# ### Exercise 6.2. The best baseline
#
# Write `best_baseline(score, reward)`: for one parameter, from arrays of scores and rewards, the constant that makes the variance of `score * (reward - b)` smallest.


# %% tags=["exercise-2"]
def best_baseline(score, reward):
    return 0.0


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def best_baseline(score, reward):
#     return (score**2 * reward).mean() / (score**2).mean()
# ```
#
# Strictly this minimises the second moment; since the score has mean zero, the mean does not depend on b and the two agree.
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 6.2 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_2(best_baseline):
    rng = np.random.default_rng(0)
    a = 0.5 + 0.7 * rng.normal(size=200_000)
    score, reward = (a - 0.5) / 0.49, -((a - 2.0) ** 2)
    b = float(best_baseline(score, reward))
    at = np.var(score * (reward - b))
    for other in (b - 0.5, b + 0.5):
        assert at < np.var(score * (reward - other)), (
            f"a baseline of {other:.2f} has less variance than {b:.2f}"
        )
    assert at < np.var(score * (reward - reward.mean())), (
        "the mean reward is better than this"
    )


attempt("6.2", check_2, best_baseline)

# %% [markdown]
# ### Exercise 6.3. Find the silent bug
#
# The environment accepts actions in $[-1, 1]$ only.
# The function below collects one batch for a policy gradient.
# It runs, the rewards are right, and learning even works a little.
# But the average score is not zero any more, so every baseline now biases the gradient.
# Mend it.

# %% tags=["exercise-3"]
import numpy as np


def batch(mu, sigma, n, rng):
    """Return the actions sent to the environment, and the score of the mean of each."""
    action = np.clip(mu + sigma * rng.normal(size=n), -1.0, 1.0)
    score = (action - mu) / sigma**2
    return action, score


# %% [markdown]
# <details><summary>Solution</summary>
#
# The score must belong to the action that was drawn; only the copy that goes to the environment is clipped.
#
# ```python
# import numpy as np
#
#
# def batch(mu, sigma, n, rng):
#     drawn = mu + sigma * rng.normal(size=n)
#     score = (drawn - mu) / sigma**2
#     return np.clip(drawn, -1.0, 1.0), score
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 6.3 { display-mode: "form" }
from twinlib.page.record import attempt


def check_3(batch):
    action, score = batch(0.8, 0.5, 400_000, np.random.default_rng(0))
    assert np.abs(action).max() <= 1.0, (
        "the environment refuses actions outside [-1, 1]"
    )
    error = score.std() / len(score) ** 0.5
    assert abs(score.mean()) < 4 * error, (
        f"the average score is {score.mean():.3f}, not 0"
    )
    assert score.std() > 1.9, "the score must still vary as 1 / sigma"


attempt("6.3", check_3, batch)

# %% [markdown]
# ## References
#
# - Williams, *Simple statistical gradient-following algorithms for connectionist reinforcement learning* (Machine Learning 1992).
# - Sutton, McAllester, Singh and Mansour, *Policy gradient methods for reinforcement learning with function approximation* (NeurIPS 1999).
# - Greensmith, Bartlett and Baxter, *Variance reduction techniques for gradient estimates in reinforcement learning* (JMLR 2004).
# - Schulman, Moritz, Levine, Jordan and Abbeel, *High-dimensional continuous control using generalized advantage estimation* (ICLR 2016).
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018), Eq. 1-3.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
