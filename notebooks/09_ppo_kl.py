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
# # 9. Proximal policy optimization: clip, penalty, or both
#
# **Question.** Collecting data is the expensive part, in a laboratory even more than in a simulator.
# A trust-region update uses a batch once; how often can one batch be used before it says nothing about the policy any more?
#
# **Answer.** With bare minibatch steps once, hardly twice; in the run of this page a clip keeps part of the batch for longer, a penalty of weight 1 on the KL divergence hardly any, and both together most, as the figure and the counts below it show.
# The clip cuts the *ratio*, how much more probable an action has become than it was when it was tried; the penalty charges for the mean KL divergence, how far the policy's distribution has moved.
# Neither is a bound, and where an action has many parts they do not see the same thing: a penalty watches the mean, a clip watches single ratios.

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
# @title Use one batch twelve times, four ways { display-mode: "form" }
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import torch

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.packaged import packaged_world
from twinlib.environment.units import mean_return
from twinlib.page import plots, record
from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.proximal import ProximalConfig, proximal_update
from twinlib.policy.rollout import Buffer, Collector
from twinlib.policy.training import TrainingConfig, make_generators, train

plots.style()
torch.set_num_threads(1)
world = packaged_world()
dynamics = Dynamics(world, EnvironmentConfig(), replicas=1, n_cells=64)


def fresh_policy(seed=0):
    return ActorCritic(
        dynamics.observation_dim,
        dynamics.action_dim,
        1,
        make_generators([seed], "weights"),
        log_std=-1.0,
    )


policy = fresh_policy()
collector = Collector(
    dynamics,
    make_generators([0], "environment"),
    make_generators([0], "actions"),
    torch.float32,
)
buffer = collector.collect(policy, steps=30, gamma=0.99, gae_lambda=0.95)


@torch.no_grad()
def state_of(policy):
    """KL from the collecting policy, effective share of the samples, and mean return."""
    now = policy.distribution(buffer.obs)
    ratio = torch.exp(now.log_prob(buffer.action) - buffer.log_prob)
    share = ratio.sum() ** 2 / (ratio**2).sum() / buffer.rows
    earned = mean_return(policy, world, EnvironmentConfig())
    return float(buffer.behaviour.kl(now).mean()), float(share), float(earned)


def epochs_of(config, epochs=12):
    """What `state_of` says after each pass over the batch, from one start."""
    learner = fresh_policy()
    adam, order = (
        Adam(learner.theta, config.learning_rate),
        make_generators([0], "order"),
    )
    rows = [state_of(learner)]
    for _ in range(epochs):
        proximal_update(
            learner, adam, buffer, dataclasses.replace(config, epochs=1), order
        )
        rows.append(state_of(learner))
    return np.array(rows)


settings = {
    "nothing": ProximalConfig(clip_range=None),
    "clip 0.2": ProximalConfig(clip_range=0.2),
    "penalty 1": ProximalConfig(clip_range=None, beta=1.0),
    "clip and penalty": ProximalConfig(clip_range=0.2, beta=1.0),
}
curves = {name: epochs_of(config) for name, config in settings.items()}
#: One look a restraint on the whole page; a penalty alone is dashed, the heavier the darker.
LOOK = {
    "nothing": ("#9ca3af", "-"),
    "clip": (plots.COLOURS["PPO"], "-"),
    "penalty 0.1": ("#e69138", "--"),
    "penalty 1": ("#c25a12", "--"),
    "penalty 3": ("#7c2d12", "--"),
    "clip and penalty": (plots.COLOURS["two_stage"], "-"),
}


def look(name):
    """Colour and line of a restraint; the strength of a clip does not change them."""
    known = name if name in LOOK else name.rstrip(" .0123456789")
    return dict(zip(("color", "linestyle"), LOOK[known], strict=True))


fig, axes = plt.subplots(1, 3, figsize=(12, 4.0))
MEASURED = (
    "KL from the collecting policy",
    "effective share of the samples",
    "mean return, without noise",
)
for axis, column, measured in zip(axes, range(3), MEASURED, strict=True):
    for name, curve in curves.items():
        axis.plot(curve[:, column], **look(name), label=name)
    axis.set(xlabel="passes over the batch", ylabel=measured)
plots.legend_outside(fig, columns=4)
plots.show(
    fig,
    "one-batch",
    "Left: KL divergence from the collecting policy against the number of passes "
    "over one batch, for no restraint, clip, penalty, and both. Middle: effective "
    "share of the samples, which falls as the divergence grows. Right: mean return of "
    "the policy in the environment.",
    "How fast one batch is used up.",
)
end = {name: curve[-1] for name, curve in curves.items()}
TENTH = 0.1
used_up = {
    name: next((k for k, share in enumerate(curve[:, 1]) if share < TENTH), None)
    for name, curve in curves.items()
}
assert used_up["nothing"] == used_up["penalty 1"] == 2  # the answer above says so
record.say(
    "**Passes until less than a tenth of the batch counts: "
    + ", ".join(
        f"{used_up[name] or f'more than {len(curve) - 1}'} with {name}"
        for name, curve in curves.items()
    )
    + ".**"
)
record.say(
    "After the last pass: "
    + "; ".join(
        f"{name}: KL {kl:.2f}, effective share {share:.2f}, return {earned:+.3f}"
        for name, (kl, share, earned) in end.items()
    )
    + f". Before it the return was {curves['nothing'][0, 2]:+.3f} (0: doing nothing, "
    "1: the best constant action)."
)
shares = {name: share for name, (_, share, _) in end.items()}
assert shares["nothing"] < shares["clip 0.2"] < shares["clip and penalty"]
assert end["nothing"][0] > max(end["clip 0.2"][0], end["penalty 1"][0])

# %% [markdown]
# *How to read it.*
# One batch, one policy whose actions have a part for each gene of the packaged simulated world, and minibatch steps on the *surrogate*, the mean over the batch of ratio times advantage ([chapter 6](06_policy_gradient.ipynb), step 3).
# After each pass over the batch: first the KL divergence from the collecting policy; then the effective share of the samples, $(\sum r)^2 / (n \sum r^2)$ ([chapter 6](06_policy_gradient.ipynb), step 4), which is how much of the batch still counts; last, what the policy earns in the environment.
# One batch and one seed say nothing about which restraint earns more in the end; many updates are compared [further down](#step-6-penalty-alone-clip-alone-both), with the weaker penalty that the second stage of chapter 10 has, and a stronger one.
# 'Nothing' is the plain baseline: the bare surrogate.
#
# ## Objectives
#
# After this chapter you can
#
# - say for which samples the clip removes the gradient, and verify it sample by sample (10 minutes);
# - show that the KL penalty has no effect on the first minibatch and becomes a natural gradient step in the limit (15 minutes);
# - tell three estimators of the KL divergence apart by bias and variance (10 minutes);
# - put value and entropy terms together into Eq. 9 and check every term (10 minutes);
# - show what an update does without a clip where an action has many parts, and why (15 minutes);

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import pandas as pd

from twinlib.evaluation.statistics import paired_difference
from twinlib.policy.distributions import Gaussian
from twinlib.policy.proximal import (
    Minibatch,
    adapted,
    clipped_objective,
    proximal_losses,
)
from twinlib.policy.trust_region import normalized
from twinlib.results import tables

# %% [markdown]
# ## Quick facts
#
# | | |
# |---|---|
# | kind of method | on-policy, first order, many minibatch steps per batch |
# | settings | clip range, penalty weight $\beta$ (fixed or adaptive), KL target, epochs, minibatch size, learning rate |
# | optimizer | Adam, one for actor and critic together |
# | code | `proximal_losses`, `proximal_update` in `twinlib.policy.proximal` |
# | equations of the paper | 7, 8, 9 |
#
# ## Key equations
#
# $$r_\theta = \frac{\pi_\theta(a_t \mid s_t)}{\pi_{\theta'}(a_t \mid s_t)}, \qquad \mathcal L^{KL} = -\mathbb E_t[r_\theta \hat A_t] + \beta\, \mathbb E_t[D_{KL}(\pi_{\theta'} \,\|\, \pi_\theta)], \qquad \mathcal L = \mathcal L^{KL} + c_v\, \mathbb E_t[\tfrac12 (V_\theta - \hat R_t)^2] - c_e\, \mathbb E_t[\mathcal H(\pi_\theta)] .$$
#
# With a clip the first term becomes $-\mathbb E_t[\min(r_\theta \hat A_t,\; \operatorname{clip}(r_\theta, 1-\varepsilon, 1+\varepsilon) \hat A_t)]$.
#
# ## The whole loop
#
# ```text
# theta: parameters of actor and critic together; Adam with empty memory
# repeat until the environment steps are used up
#     run pi_theta for T steps in N cells
#     keep s, a (not clipped), r, log pi_old(a|s), mean and spread of pi_old, V(s)
#     advantages A and returns R as in chapter 8, but A is not scaled yet
#     old = theta                                           # theta' of Eq. 7 and 8
#     for each of ten passes, in a new order
#         for each minibatch of 64 rows
#             A     = (A - mean A) / sd A                   # of this minibatch
#             ratio = exp(log pi_theta(a|s) - log pi_old(a|s))                  # Eq. 7
#             KL    = mean KL(pi_old || pi_theta)                               # Eq. 8
#             if KL > 1.5 target and this is not the first minibatch: end the update
#             loss  = - mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)
#                     + beta KL + c_v mean (V - R)^2 / 2 - c_e mean entropy     # Eq. 9
#             g     = gradient of loss, scaled down to a norm of 0.5
#             theta = theta - Adam(g)
#     adaptive penalty: double beta if KL > 1.5 target, halve it if KL < target / 1.5
#     log return, KL, clip fraction, minibatch steps, entropy, explained variance, losses
# ```
#
# Without a clip the first term is $-\text{mean}(r A)$; without a penalty $\beta$ is zero; without a target nothing stops.
#
# ## Step 1: what the clip does, sample by sample
#
# The minimum in the clipped objective is a pessimist.
# If an action was good, a ratio above $1+\varepsilon$ earns nothing more; if it was bad, a ratio below $1-\varepsilon$ earns nothing more.
# In the other two corners the objective is left alone, so that a policy that went the wrong way can come back.
# Its derivative with respect to the ratio is therefore $\hat A$ or zero, and we can write down when.

# %%
grid = torch.linspace(0.5, 1.5, 201)
for advantage in (1.0, -1.0):
    ratio = grid.clone().requires_grad_()
    value = torch.stack(
        [
            clipped_objective(
                r.view(1, 1), torch.full((1, 1), advantage), 0.2
            ).squeeze()
            for r in ratio
        ]
    )
    (slope,) = torch.autograd.grad(value.sum(), ratio)
    blocked = grid > 1.2 if advantage > 0 else grid < 0.8
    edge = ((grid - 1.2).abs() < 1e-3) | ((grid - 0.8).abs() < 1e-3)
    expected = torch.where(blocked, 0.0, advantage)
    assert torch.equal(slope[~edge], expected[~edge])
    print(
        f"advantage {advantage:+.0f}: no gradient for "
        f"{float((slope == 0).float().mean()):.0%} of the ratios in [0.5, 1.5]"
    )

# %% [markdown]
# Note what the clip is **not**: a bound.
# It takes the gradient away from samples that have gone too far, but nothing pulls them back, and the other samples of the minibatch, together with Adam's momentum, keep moving them.
#
# ## Step 2: the penalty, first minibatch and last
#
# The penalty is $\beta$ times the KL divergence from $\theta'$.
# At $\theta'$ its gradient is zero ([chapter 7](07_natural_gradient.ipynb), step 2), so the first minibatch does not feel it, however large $\beta$ is.

# %%
batch = Minibatch(
    buffer.obs,
    buffer.action,
    buffer.log_prob,
    buffer.advantage,
    buffer.return_,
    buffer.behaviour,
)


def gradient_of(theta, config, beta):
    theta = theta.detach().requires_grad_()
    losses = proximal_losses(policy, theta, batch, config, torch.tensor([beta]))
    return torch.autograd.grad(losses.total.sum(), theta)[0]


penalty = ProximalConfig(clip_range=None, beta=1.0)
small, large = (gradient_of(policy.theta, penalty, beta) for beta in (0.01, 100.0))
print(
    "at theta', relative difference between beta 0.01 and beta 100:",
    f"{float((small - large).norm() / small.norm()):.1e}",
)
assert float((small - large).norm() / small.norm()) < 1e-3
moved = policy.theta + 0.01
small, large = (gradient_of(moved, penalty, beta) for beta in (0.01, 100.0))
print("a little away from it:", f"{float((small - large).norm() / small.norm()):.1e}")
assert float((small - large).norm() / small.norm()) > 1.0

# %% [markdown]
# At the other end, suppose the minibatch steps run until the penalised surrogate has its minimum.
# Near $\theta'$ that is the minimum of $-\vartheta^\top \Delta + \tfrac{\beta}{2} \Delta^\top H \Delta$, which is
#
# $$\Delta = \tfrac1\beta H^{-1} \vartheta :$$
#
# the natural gradient, with $1/\beta$ in place of a step length.
# The penalty is a soft trust region, and Adam is a slow solver for it.
# We check it on a policy with a dense $H$: gradient descent on the penalised surrogate against the direct solution.

# %%
generator = torch.Generator().manual_seed(0)
obs = torch.randn(1, 200, 3, generator=generator, dtype=torch.float64)
weights = torch.randn(1, 3, 2, generator=generator, dtype=torch.float64)
log_std = torch.tensor([[-0.5, 0.3]], dtype=torch.float64)
old = Gaussian(obs @ weights, log_std)
action = old.sample([generator])
gain = normalized(
    torch.randn(1, 200, generator=generator, dtype=torch.float64) + 0.5 * action.sum(-1)
)
old_log_prob = old.log_prob(action)


def penalised(flat, beta):
    new = Gaussian(obs @ flat[:6].view(1, 3, 2), flat[6:].view(1, 2))
    ratio = torch.exp(new.log_prob(action) - old_log_prob)
    return -(ratio * gain).mean() + beta * old.kl(new).mean()


# %% tags=["hide-input"]
# @title Descend on the penalised surrogate and compare { display-mode: "form" }
start = torch.cat([weights.reshape(-1), log_std.reshape(-1)])
slope = -torch.func.grad(lambda x: penalised(x, 0.0))(start)
curvature = torch.func.hessian(lambda x: penalised(x, 1.0) - penalised(x, 0.0))(start)
for beta in (10.0, 100.0, 1000.0):
    flat = start.clone()
    for _ in range(4000):
        flat = flat - 0.2 / beta * torch.func.grad(lambda x, b=beta: penalised(x, b))(
            flat
        )
    direct = torch.linalg.solve(curvature, slope) / beta
    gap = float((flat - start - direct).norm() / direct.norm())
    print(
        f"beta {beta:6.0f}: relative distance between minimiser and natural gradient "
        f"step {gap:.3f}"
    )
assert gap < 0.01

# %% [markdown]
# The larger $\beta$, the shorter the step, and the better the agreement.
#
# ## Step 3: which KL divergence is logged?
#
# Eq. 8 uses the exact divergence between two normal distributions.
# Where that is not at hand, it is estimated from the log-ratios $\ell = \log r$ of the sampled actions.
# Three estimators are common: $-\ell$, $\ell^2/2$, and $r - 1 - \ell$ (known as k1, k2 and k3).
# We draw many batches of 64 and compare.

# %% tags=["hide-input"]
# @title Three estimators on many batches { display-mode: "form" }
shift, draws = 0.05, 3000
A = dynamics.action_dim
generator = torch.Generator().manual_seed(1)
z = torch.randn(draws, 64, A, generator=generator)
log_ratio = (shift * z - 0.5 * shift**2).sum(-1)
exact = 0.5 * A * shift**2
estimators = {
    "k1: -log r": -log_ratio,
    "k2: (log r)^2 / 2": 0.5 * log_ratio**2,
    "k3: r - 1 - log r": torch.expm1(log_ratio) - log_ratio,
}
table = pd.DataFrame(
    {
        name: {
            "mean over batches": float(value.mean()),
            "relative bias": float(value.mean() / exact - 1),
            "standard deviation of a batch": float(value.mean(1).std()),
        }
        for name, value in estimators.items()
    }
).T
record.say(
    f"Exact KL divergence of a shift by {shift} standard deviations in each of {A} "
    f"dimensions: {exact:.4f}."
)
assert (
    abs(table.loc["k1: -log r", "relative bias"]) < 0.05
    and abs(table.loc["k3: r - 1 - log r", "relative bias"]) < 0.05
)
assert (
    table.iloc[2]["standard deviation of a batch"]
    < table.iloc[0]["standard deviation of a batch"]
)
table.round(4)

# %% [markdown]
# k1 and k3 have no bias, k3 never becomes negative and varies less, and k2 is biased.
# `twinlib` stops on the exact divergence by default and offers k3 (`stop_estimate="k3"`), because Stable-Baselines3 and with it the released code use that.
#
# ## Step 4: stop and adapt
#
# Two more ways to hold an update near a KL target; neither promises to.
# The **stop** looks at each minibatch before its step, and ends the update when the divergence exceeds one and a half times the target.
# The **adaptive penalty** doubles $\beta$ after an update that ended above one and a half times the target, and halves it after one that ended below two thirds of it.

# %%
target = 0.05
stopped = fresh_policy()
config = ProximalConfig(clip_range=0.2, target_kl=target)
outcome = proximal_update(
    stopped, Adam(stopped.theta, 3e-4), buffer, config, make_generators([0], "order")
)
possible = config.epochs * -(-buffer.rows // config.minibatch_size)
record.say(
    f"With a target of {target} the update took {int(outcome.steps)} of {possible} "
    f"minibatch steps and ended at a KL divergence of {float(outcome.kl):.3f} over "
    f"the whole batch, {float(outcome.kl) / target:.2f} times the target."
)
assert outcome.steps < possible

# %% [markdown]
# The stop looks at one minibatch, before a step; the printed figure is for the whole batch, after the last step.
# So the stop holds the KL divergence near one and a half times the target, and an update may end a little above it.
#
# Now the adaptive penalty, over several batches:

# %%
betas, beta = [], torch.ones(1)
learner = fresh_policy()
adam, order = Adam(learner.theta, 3e-4), make_generators([0], "order")
adaptive = ProximalConfig(clip_range=None, beta=1.0, adaptive_beta=True, target_kl=1e9)
collector_2 = Collector(
    Dynamics(world, EnvironmentConfig(), replicas=1, n_cells=64),
    make_generators([1], "environment"),
    make_generators([1], "actions"),
    torch.float32,
)
for _ in range(12):
    data = collector_2.collect(learner, steps=15, gamma=0.99, gae_lambda=0.95)
    result = proximal_update(learner, adam, data, adaptive, order, beta)
    betas.append((float(beta), float(result.kl)))
    beta = adapted(beta, result.kl, torch.tensor([target]))
betas = np.array(betas)


# %% tags=["hide-input"]
# @title Draw the search for the target { display-mode: "form" }
assert float(adapted(torch.ones(1), torch.tensor([0.2]), torch.tensor([0.1]))) == 2.0
assert float(adapted(torch.ones(1), torch.tensor([0.01]), torch.tensor([0.1]))) == 0.5
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8))
axes[0].semilogy(betas[:, 0], marker="o", color=plots.COLOURS["PPO_KL"])
axes[0].set_ylabel("penalty weight beta")
axes[1].semilogy(
    betas[:, 1],
    marker="o",
    color=plots.COLOURS["PPO_KL"],
    label="KL divergence of the update",
)
axes[1].axhspan(
    target / 1.5, 1.5 * target, color="#e5e7eb", label="band around the target"
)
axes[1].set_ylabel("KL divergence (Eq. 4)")
axes[1].legend()
for axis in axes:
    axis.set_xlabel("update")
plots.show(
    fig,
    "adaptive-penalty",
    "Left: the penalty weight over twelve updates, doubling and halving. Right: the "
    "KL divergence of these updates on a logarithmic axis, beside a grey band around "
    "the target.",
    "An adaptive penalty in search of its KL target.",
)
inside = int(((betas[:, 1] >= target / 1.5) & (betas[:, 1] <= 1.5 * target)).sum())
above = int((betas[:, 1] > 1.5 * target).sum())
record.say(
    f"Of {len(betas)} updates with the adaptive penalty {inside} ended inside the "
    f"band around the target and {above} above it; the weight went from "
    f"{betas[0, 0]:g} to {betas[-1, 0]:g}."
)

# %% [markdown]
# ## Step 5: value and entropy
#
# Eq. 9 adds half the squared error of the critic and subtracts the entropy of the policy.
# Entropy measures how widely a policy spreads its actions.
# Subtracting it from the loss rewards a policy that keeps on exploring.
#
# Two details change numbers.
# Eq. 9 has $c_v$ times one half of the squared error, and we set $c_v = 1$; line 15 of Algorithm 1 leaves the one half out.
# Stable-Baselines3 has no one half and sets its coefficient to one half, which is the same loss.
# For a normal policy the entropy is a sum over the parts of an action, so it grows with the number of genes.
# It becomes negative when the standard deviations are small, so only its changes mean something.
# The same holds for the total below: zero is no mark on its scale.

# %%
losses = proximal_losses(
    policy,
    policy.theta,
    batch,
    ProximalConfig(beta=0.5, entropy_coefficient=0.01),
    torch.tensor([0.5]),
)
with torch.no_grad():
    now = policy.distribution(buffer.obs)
    by_hand = {
        "objective": normalized(buffer.advantage).mean(),
        "value": 0.5 * (policy.value(buffer.obs) - buffer.return_).square().mean(),
        "entropy": torch.distributions.Normal(now.mean, now.log_std.exp().unsqueeze(1))
        .entropy()
        .sum(-1)
        .mean(),
        "kl": buffer.behaviour.kl(now).mean(),
    }

# %% tags=["hide-input"]
# @title Every term against its definition { display-mode: "form" }
for name, value in by_hand.items():
    assert abs(float(getattr(losses, name)) - float(value)) < 1e-4 * max(
        1.0, abs(float(value))
    ), name
total = (
    -by_hand["objective"]
    + 0.5 * by_hand["kl"]
    + by_hand["value"]
    - 0.01 * by_hand["entropy"]
)
assert abs(float(losses.total) - float(total)) < 1e-4
print(
    {name: round(float(value), 4) for name, value in by_hand.items()},
    "total",
    round(float(losses.total), 4),
)

# %% [markdown]
# ## Step 6: penalty alone, clip alone, both
#
# The paper prints the penalty alone (Eq. 8) and speaks of 'penalty and clipped surrogate' in its introduction.
# Here are the readings side by side, same seeds, same environment steps, an action with a part for each gene.
# The curves start below zero because exploration costs return ([chapter 8](08_trpo.ipynb), step 6, has the number); a curve that rises has learned something.

# %%
base = TrainingConfig(
    algorithm="PPO", timesteps=16_384, steps_per_iteration=1_024, log_std=-1.0
)
shared = ProximalConfig(learning_rate=1e-3, minibatch_size=256)
variants = {
    "clip": dataclasses.replace(shared, clip_range=0.2),
    "penalty 0.1": dataclasses.replace(shared, clip_range=None, beta=0.1),
    "penalty 3": dataclasses.replace(shared, clip_range=None, beta=3.0),
    "clip and penalty 0.1": dataclasses.replace(shared, clip_range=0.2, beta=0.1),
}
histories = {}
for name, proximal in variants.items():
    run = dataclasses.replace(base, proximal=proximal)
    histories[name] = train(
        Dynamics(world, EnvironmentConfig(), replicas=3, n_cells=64), run, [0, 1, 2]
    ).history


# %% tags=["hide-input"]
# @title Draw the four settings { display-mode: "form" }
fig, axes = plt.subplots(1, 2, figsize=(11, 4.2))
for name, h in histories.items():
    mean = h.groupby("environment_steps")[["episode_return", "kl"]].mean()
    axes[0].plot(mean.episode_return, **look(name), label=name)
    axes[1].plot(mean.kl, **look(name))
axes[0].axhline(0.0, color=plots.COLOURS["do_nothing"], linestyle="--", linewidth=1.0)
axes[0].set_ylabel("return of an episode (noisy actions)")
axes[1].set_ylabel("KL divergence of an update (Eq. 4)")
axes[1].set_yscale("log")
for axis in axes:
    axis.set_xlabel("environment steps")
axes[0].legend()
plots.show(
    fig,
    "clip-and-penalty",
    "Left: return of an episode against environment steps for clip alone, two "
    "weights of the penalty alone, and both together. Right: the KL divergence of "
    "each update on a logarithmic axis.",
    "Four ways to hold an update back.",
)
last = {
    n: h[h.iteration > h.iteration.max() - 3].groupby("seed").episode_return.mean()
    for n, h in histories.items()
}
summary = pd.DataFrame(
    {
        "return at the end": {n: x.mean() for n, x in last.items()},
        "sd over seeds": {n: x.std(ddof=1) for n, x in last.items()},
    }
)
lengths = {n: h.kl.mean() for n, h in histories.items()}
ends, deviations = summary["return at the end"], summary["sd over seeds"]
held = [
    name for name, settings_of in variants.items() if settings_of.clip_range is not None
]
free = [name for name in variants if name not in held]
record.say(
    f"The settings with a clip end at {ends[held].min():+.3f} to "
    f"{ends[held].max():+.3f}, those without one at {ends[free].min():+.3f} to "
    f"{ends[free].max():+.3f}. The two with a clip differ by "
    f"{np.ptp(ends[held]):.3f}, with a standard deviation over seeds of up to "
    f"{deviations[held].max():.3f}. Mean KL of an update: "
    + ", ".join(f"{n} {kl:.2f}" for n, kl in lengths.items())
    + "."
)
weights = [settings_of.beta for settings_of in variants.values()]
assert betas[:, 0].max() > 5 * max(weights)  # the text below says so
if ends[held].min() > ends[free].max():
    record.say("Both settings with a clip end above both settings without one.")
else:
    record.say("The settings with a clip do not all end above those without one.")
apart = paired_difference(last[held[0]], last[held[1]])
record.say(
    f"Paired by seed, '{held[0]}' less '{held[1]}' is {apart.mean:+.3f} "
    f"[{apart.low:+.3f}, {apart.high:+.3f}] over {apart.n} seeds: "
    + (
        "they can be told apart."
        if apart.low * apart.high > 0
        else "no order can be told."
    )
)

# %% [markdown]
# The right panel belongs to the left one: look at the curve with the largest KL divergence in both.
# Chapter 6 offers a reason: with that many dimensions the likelihood ratio of a fixed batch turns to noise after a few steps, and so does the gradient of the surrogate.
# A penalty of these weights is too weak to hold the mean divergence, as the KL divergence of its updates says; step 4 had to go far above them, and whether such a weight earns more was not run.
# A clip acts on each ratio.
# The next step looks at that.
#
# The same runs have logged more.

# %% tags=["hide-input"]
# @title Draw every logged quantity { display-mode: "form" }
logged = {
    "clip_fraction": "clip fraction",
    "optimizer_steps": "minibatch steps so far",
    "entropy": "entropy of the policy (nats)",
    "explained_variance": "explained variance of the critic",
    "value_loss": "loss of the critic",
    "reward": "mean reward of a step",
}
fig, axes = plt.subplots(2, 3, figsize=(11, 6.2), sharex=True)
for axis, (column, label) in zip(axes.flat, logged.items(), strict=True):
    for name, h in histories.items():
        curve = h.groupby("environment_steps")[column].mean()
        axis.plot(curve, **look(name), label=name)
    axis.set_ylabel(label)
for axis in axes[1]:
    axis.set_xlabel("environment steps")
axes[0, 0].legend(fontsize=8)
plots.show(
    fig,
    "what-is-logged",
    "Six panels against environment steps, four settings in each: clip fraction, "
    "minibatch steps, entropy, explained variance and loss of the critic, mean "
    "reward of a step.",
    "What every update of these runs has logged.",
)

# %% [markdown]
# - **Return of an episode** (figure above): undiscounted, of episodes that ended in this batch, with noisy actions, before the update.
# - **KL divergence** (figure above): Eq. 4 from the collecting to the updated policy, exact, over the whole batch; other libraries log an estimate on the last minibatches (step 3).
# - **Clip fraction**: share of ratios outside the clip range, a mean over the minibatches; it is zero where there is no clip, and step 7 says what it measures where an action has many parts.
# - **Minibatch steps so far**: a straight line as long as no stop on the KL divergence ends an update early.
# - **Entropy**: it falls as the spread of the actions does.
# - **Explained variance**: one less the variance of (return minus value) over that of the return, with the critic from before the update.
# - **Loss of the critic**: half the squared error, a mean over minibatches.
# - **Reward of a step**: what the return is made of.
# - **Penalty weight and KL target** are logged, too; here the first is constant and there is none of the second.

# %% [markdown]
# ## Step 7: what the clip sees where an action has two hundred parts
#
# The reason that chapter 6 offers can be looked at in isolation.
# The task is as plain as can be: one step, a random state of 58 numbers, an action whose $A$ parts push the state along fixed directions, and the squared distance to a target as the cost.
# One update with the default settings is made on 2,048 samples.
# Then the same new policy is judged twice: on the actions it was trained on, and on fresh actions, drawn by the same old policy in the same states.
#
# For fresh actions theory says what to expect.
# Let the mean move by $m$ standard deviations (a vector with $A$ entries) while the spread stays, and let $z$ be the standardised noise of an action.
# Then $\log r = m^\top z - \tfrac12 |m|^2$ and the KL divergence is $\tfrac12 |m|^2$.
# If $z$ was not used to choose $m$, $\log r$ is normal with mean $-KL$ and variance $2\,KL$, whatever $A$ is.
# The share of ratios outside the clip range then follows from the KL divergence alone.


# %%
def outside_by_theory(kl, clip=0.2):
    """Share of ratios outside the clip range if log r is normal(-KL, 2 KL)."""
    normal = torch.distributions.Normal(-kl, (2 * kl) ** 0.5)
    inside = normal.cdf(torch.tensor(np.log1p(clip))) - normal.cdf(
        torch.tensor(np.log1p(-clip))
    )
    return 1 - float(inside)


# %% tags=["hide-input"]
# @title One update, judged on seen and on fresh actions { display-mode: "form" }
def judged(parts, samples=2048, observations=58):
    """One PPO update on a one-step task, judged on its own and on fresh actions."""
    draw = torch.Generator().manual_seed(0)
    push = torch.nn.functional.normalize(
        torch.randn(parts, observations, generator=draw), dim=1
    )
    obs = torch.randn(1, samples, observations, generator=draw)
    learner = ActorCritic(observations, parts, 1, make_generators([0], "weights"))
    with torch.no_grad():
        old = learner.distribution(obs).detach()

    def experience():
        action = old.sample([draw])
        reward = -(obs - 1 + 0.5 * action @ push).square().sum(-1)
        return action, old.log_prob(action), reward

    seen, fresh = experience(), experience()
    zero = torch.zeros(1)
    gain = {
        name: normalized(reward)
        for name, (_, _, reward) in (("seen", seen), ("fresh", fresh))
    }
    target = seen[2] - seen[2].mean()
    data = Buffer(
        obs,
        *seen[:2],
        gain["seen"],
        target,
        torch.zeros_like(target),
        old,
        zero,
        zero,
    )
    adam = Adam(learner.theta, 3e-4)
    outcome = proximal_update(
        learner, adam, data, ProximalConfig(), make_generators([0], "order")
    )
    with torch.no_grad():
        new = learner.distribution(obs)
    drawn = {"seen": seen, "fresh": fresh}
    logs = {
        name: new.log_prob(action) - old_log
        for name, (action, old_log, _) in drawn.items()
    }
    surrogates = {name: float((logs[name].exp() * gain[name]).mean()) for name in drawn}
    return float(outcome.kl), float(outcome.clip_fraction), logs, surrogates


# %% tags=["hide-input"]
# @title Draw the ratios of seen and fresh actions { display-mode: "form" }
looks = {parts: judged(parts) for parts in (10, 200)}
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
rows = {}
for axis, (parts, (kl, logged, logs, gains)) in zip(axes, looks.items(), strict=True):
    share = {
        name: float(((x.exp() - 1).abs() > 0.2).float().mean())
        for name, x in logs.items()
    }
    rows[parts] = {
        "KL (Eq. 4)": kl,
        "clip fraction logged": logged,
        "outside, actions seen": share["seen"],
        "outside, fresh actions": share["fresh"],
        "outside, by theory": outside_by_theory(kl),
        "surrogate, actions seen": gains["seen"],
        "surrogate, fresh actions": gains["fresh"],
    }
    bins = np.linspace(-3, 3, 61)
    axis.axvspan(
        np.log(0.8), np.log(1.2), color="#e5e7eb", label="inside the clip range"
    )
    for name, colour in (("seen", plots.COLOURS["PPO"]), ("fresh", "#6b7280")):
        axis.hist(
            logs[name][0].numpy(),
            bins,
            density=True,
            histtype="step",
            color=colour,
            label=f"{name} actions",
        )
    axis.set_xlabel("log ratio after one update")
    axis.set_title(f"{parts} parts an action")
axes[0].set_ylabel("density")
axes[0].legend()
plots.show(
    fig,
    "ratios-seen-and-fresh",
    "Two histograms of log ratios after one update, for actions of ten and of two "
    "hundred parts, each with a grey band for the clip range. Fresh actions make one hump "
    "around zero in both. With two hundred parts the actions that were trained on "
    "lie in two humps far outside the band.",
    "The same update seen by the actions it was trained on and by fresh ones.",
)
looked = pd.DataFrame(rows).T
looked.index.name = "parts of an action"
many, ten = looked.loc[200], looked.loc[10]
record.say(
    "With actions of 200 parts the update ended at a KL divergence of "
    f"{many['KL (Eq. 4)']:.3f}, and logged a clip fraction of "
    f"{many['clip fraction logged']:.2f}. Of the ratios of the actions it had seen "
    f"{many['outside, actions seen']:.0%} lie outside the clip range, of fresh ones "
    f"{many['outside, fresh actions']:.0%} (theory: "
    f"{many['outside, by theory']:.0%}). With 10 parts the KL divergence is "
    f"{ten['KL (Eq. 4)']:.3f}, the logged clip fraction "
    f"{ten['clip fraction logged']:.2f}, and the shares are "
    f"{ten['outside, actions seen']:.0%} and {ten['outside, fresh actions']:.0%} "
    f"(theory: {ten['outside, by theory']:.0%})."
)
record.say(
    "The surrogate of the seen actions promises "
    f"{many['surrogate, actions seen']:.2f} with 200 parts, that of fresh actions "
    f"{many['surrogate, fresh actions']:.2f}; with 10 parts "
    f"{ten['surrogate, actions seen']:.2f} and {ten['surrogate, fresh actions']:.2f}."
)
assert abs(many["outside, fresh actions"] - many["outside, by theory"]) < 0.1
gap = looked["outside, actions seen"] - looked["outside, fresh actions"]
assert gap[200] > 3 * abs(gap[10])
looked.round(3)

# %% [markdown]
# The policy has fitted the noise that it drew.
# A sample's gradient moves the mean of its own state along its own noise $z$, towards it if the advantage was positive, away from it if not.
# What that adds to its own log-ratio is proportional to $|z|^2$, which is about $A$; what the steps of other samples add has changing signs and grows with $\sqrt A$ only.
# A shift of a fifth of a standard deviation is a KL divergence of 0.02 in any direction.
# Along $z$ it changes the log-ratio by a fifth of $|z| \approx \sqrt{A}$, which for 200 parts is almost three; in a random direction by about a fifth.
#
# What does that say about the clip?
# Where an action has many parts its ratios measure how far the batch's own noise has been learned by heart, and hardly how far the policy has moved.
# It takes the gradient away from a sample once that sample is used up, so it works like an early stop against overfitting, and it holds an update back where the penalties of this page did not.
# It is not a trust region: the KL divergence it allows depends on the number of parts, and a `clip_range` that was tuned on ten of them means something else on two hundred.
# The same numbers warn of the surrogate: on the batch that was trained on it is no estimate of what the update is worth.
# With ten parts seen and fresh ratios lie much closer together, and the clip fraction is nearly what it is usually taken for.

# %% [markdown]
# ## The same update, by hand and by autograd
#
# The updates above came from derivatives written out by hand (`twinlib.policy.gaussian_mlp`), which is what `twinlib` uses on a CPU.
# Autograd on `proximal_losses` is the reference.
# Both ways on the same batch, with clip, penalty, stop and minibatches in the same order, in double precision:

# %% tags=["hide-input"]
# @title One update by hand and by autograd { display-mode: "form" }
exact_buffer = dataclasses.replace(
    buffer,
    **{
        name: getattr(buffer, name).double()
        for name in ("obs", "action", "log_prob", "advantage", "return_")
    },
    behaviour=Gaussian(*(x.double() for x in buffer.behaviour)),
)
both = {}
for compute in ("auto", "reference"):
    learner = fresh_policy()
    learner.compute, learner.theta = compute, learner.theta.double()
    before, config = learner.theta.clone(), ProximalConfig(beta=0.5, target_kl=0.05)
    outcome = proximal_update(
        learner,
        Adam(learner.theta, 3e-4),
        exact_buffer,
        config,
        make_generators([0], "order"),
    )
    both[compute] = (learner.theta, outcome)
(hand, by_hand), (autograd, by_autograd) = both.values()
apart = float((hand - autograd).abs().max())
record.say(
    f"By hand {int(by_hand.steps)} steps, by autograd {int(by_autograd.steps)}; the "
    f"parameters moved by up to {float((autograd - before).abs().max()):.3f} and "
    f"differ by {apart:.0e} at most."
)
assert by_hand.steps == by_autograd.steps and apart < 1e-12

# %% [markdown]
# ## Implementation details that matter
#
# None of these is in the paper, and each changes the result.
# For every detail: our line, Stable-Baselines3's line, and what happens when it is the other way.
# The numbers come from one update of ten passes by both libraries, from the same weights on the same batch in the same order, with one detail changed at a time; those of 8 from the batch of this page.
# A test of the package holds the two together (`tests/policy/test_peers.py`).
#
# ```
# python benchmarks/implementation_details.py
# ```

# %% tags=["hide-input"]
# @title Eight details and their numbers { display-mode: "form" }
peer = tables.read_table("details", "", "ppo").set_index("detail")
same, moved = peer.loc["as it is", "apart"], peer.loc["as it is", "moved"]


def off(name):
    return f"{peer.loc[name, 'apart']:.1e}"


stops = {}
for goal in (0.05, 1e-12):
    learner = fresh_policy()
    config = ProximalConfig(clip_range=0.2, target_kl=goal)
    adam, order = Adam(learner.theta, 3e-4), make_generators([0], "order")
    stops[goal] = int(proximal_update(learner, adam, buffer, config, order).steps)
record.say(
    f"As it is, our parameters end {same:.0e} from Stable-Baselines3's, after an "
    f"update that moved one of them by {moved:.3f}. With the detail changed they end "
    "so far apart:\n\n1. **Adam's epsilon is 1e-5.** Ours: `Adam(..., eps=1e-5)`. "
    "SB3: "
    '`optimizer_kwargs["eps"] = 1e-5` in its policies; torch\'s own default is 1e-8. '
    f"Apart: {off('adam_eps')}.\n2. **One gradient norm for actor and critic.** "
    "Ours: `clip_rows(gradient, max_gradient_norm)` on all parameters. SB3: "
    "`clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)`. Each network "
    f"scaled by its own norm: {off('gradient_norm')}.\n3. **One half in the value "
    "loss.** Ours: `0.5 * (value - return_).square()` with a coefficient of 1. SB3: "
    "`F.mse_loss` with `vf_coef=0.5`. Line 15 of Algorithm 1 has no one half: "
    f"{off('value_half')}.\n4. **Advantages are scaled in each minibatch.** Ours: "
    "`normalized(batch.advantage)`. SB3: inside the loop over minibatches, too. "
    f"Scaled once for the whole batch: {off('advantage_batch')}; in each minibatch "
    f"but with the biased standard deviation: {off('advantage_ddof')}.\n5. "
    "**Log-probabilities are of unclipped actions.** Ours: the environment clips, "
    "the buffer keeps what was drawn. SB3: `clipped_actions` go to `env.step`, "
    "`actions` to the buffer. Clipped actions in the buffer: "
    f"{off('clipped_actions')}.\n6. **A new order in each pass.** Ours: "
    "`permuted(...)` once a pass. SB3: `np.random.permutation` in each `get`. The "
    f"first order in every pass: {off('minibatch_order')}.\n7. **The minimum is "
    "taken sample by sample.** Ours: `torch.minimum(plain, clipped).mean(-1)`. SB3: "
    "`th.min(policy_loss_1, policy_loss_2).mean()`. The minimum of two means "
    f"(exercise 9.3): {off('minimum_of_means')}.\n8. **The stop comes before the "
    "step.** Ours: the replica leaves before `optimizer.step`. SB3: `break` before "
    "`self.policy.optimizer.step()`. So a KL target of zero does not forbid every "
    f"step: it leaves {stops[1e-12]} minibatch step of the update, where a target of "
    f"0.05 leaves {stops[0.05]}. [Chapter 12](12_replication.ipynb) meets a target "
    "of zero."
)
assert same < 1e-3 * moved and stops[1e-12] == 1
assert (peer.drop("as it is").apart > 3 * same).all()

# %% [markdown]
# Equal updates are one thing, equal results another: returns on two tasks of gymnasium, the same settings for both libraries (`python -m experiments peers --out DIR`), and speed on the environment of the released code (`python benchmarks/ppo_speed.py`).

# %% tags=["hide-input"]
# @title Ours beside theirs { display-mode: "form" }
returns = tables.read_table("peers", "", "returns")
for task, rows in returns.groupby("task"):
    by = rows.groupby("library")["return"].agg(["mean", "sem", "count"])
    record.say(
        f"{task}, mean return +- standard error: "
        + "; ".join(
            f"{label} {by.loc[name, 'mean']:.1f} +- {by.loc[name, 'sem']:.1f} "
            f"({by.loc[name, 'count']:.0f} seeds)"
            for name, label in (("twinlib", "ours"), ("stable_baselines3", "SB3"))
        )
        + f"; random actions {by.loc['random', 'mean']:.1f}."
    )
speed = tables.read_table("speed", "", "training").set_index("name")
rows = speed[speed.index.str.startswith("PPO, ten seeds; SB3")]
record.say(
    "Environment steps a second of ours, all of ten seeds side by side together, "
    f"{rows.ours.iloc[0]:,.0f}; "
    + "; ".join(
        f"{name.rpartition('; ')[2]} {row.peer:,.0f}" for name, row in rows.iterrows()
    )
    + "."
)

# %% [markdown]
# ## You should know
#
# - `clip_fraction` is the share of samples outside the clip range; near zero the clip is idle, and near a half the batch is used up.
# - A stop on KL and a learning rate do similar things; tune one with the other fixed.
# - Adam keeps two running means for every parameter: of the gradient, and of its square.
#   A step is the first, divided by the root of the second.
#   Both means start at zero, so after $k$ steps they are divided by $1 - 0.9^k$ and $1 - 0.999^k$.
#   When the gradient becomes zero, the first mean fades slowly, and the parameter keeps moving meanwhile.
# - Replicas that stop early must therefore have both running means and their count of steps frozen, too.
#
# ## Limitations
#
# - Untuned settings, one simulated world, three seeds.
# - The limit in step 2 was checked on a linear policy with exact gradients; minibatch Adam stops long before the minimum.
#
# ## What this does not show
#
# It does not show whether a penalty adds anything to the clip.
# The [replication](12_replication.ipynb) does not show it either: it compares whole algorithms, each with the settings that its own tuning chose.
# It does not show anything about real cells.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A good action has a ratio of 1.5, a bad one has a ratio of 1.5. Which of them still gets a gradient under a clip of 0.2?</summary>
#
# The bad one: it became likelier, and the minimum leaves the way back open.
#
# </details>
#
# <details><summary>How large must the penalty weight be for the first minibatch of an update to feel it?</summary>
#
# No weight is large enough: at the collecting policy the KL divergence has no slope.
#
# </details>
#
# <details><summary>An action has two hundred parts, and the clip fraction is near one after an update. Has the policy moved far?</summary>
#
# That cannot be read from it: the ratios of the actions seen say how far their own noise was learned.
# The KL divergence, or ratios of fresh actions, say how far the policy moved.
#
# </details>
#
# ## Key takeaways
#
# - The clip removes gradients and bounds nothing; the penalty bounds softly and is idle at the start.
# - In the limit the penalty is the natural gradient times one over beta.
# - Say which KL divergence is logged: exact or estimated, in which direction, summed or averaged.
# - Where an action has many parts the ratio is the weak point; step 6 shows what that does to the return.
# - Where an action has many parts an update fits the noise that it drew; the clip then works as an early stop, and its fraction says little about how far the policy has moved.

# %% [markdown]
# ## Exercises
#
# ### Exercise 9.1. The clipped objective
#
# Write `objective(ratio, advantage, clip_range)`: the mean clipped objective of arrays.

# %% tags=["exercise-1"]
import numpy as np


def objective(ratio, advantage, clip_range):
    return np.mean(ratio * advantage)


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def objective(ratio, advantage, clip_range):
#     clipped = np.clip(ratio, 1 - clip_range, 1 + clip_range)
#     return np.mean(np.minimum(ratio * advantage, clipped * advantage))
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 9.1 { display-mode: "form" }
from twinlib.page.record import attempt


def check_1(objective):
    one = np.ones(1)
    assert np.isclose(objective(1.5 * one, one, 0.2), 1.2), (
        "a good action earns nothing beyond 1 + clip_range"
    )
    assert np.isclose(objective(1.5 * one, -one, 0.2), -1.5), (
        "a bad action made likelier is punished in full"
    )
    assert np.isclose(objective(0.5 * one, -one, 0.2), -0.8), (
        "a bad action earns nothing below 1 - clip_range"
    )
    both = objective(np.array([1.5, 0.5]), np.array([1.0, -1.0]), 0.2)
    assert np.isclose(both, 0.2), (
        "the minimum is taken for each sample, before the mean"
    )


attempt("9.1", check_1, objective)

# %% [markdown]
# ### Exercise 9.2. The k3 estimator
#
# Write `k3(old_log_prob, new_log_prob)`: the estimate of KL(old || new) from the log-probabilities of actions drawn from the old policy.

# %% tags=["exercise-2"]
import numpy as np


def k3(old_log_prob, new_log_prob):
    return np.mean(new_log_prob - old_log_prob)


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def k3(old_log_prob, new_log_prob):
#     log_ratio = new_log_prob - old_log_prob
#     return np.mean(np.exp(log_ratio) - 1 - log_ratio)
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 9.2 { display-mode: "form" }
from twinlib.page.record import attempt


def check_2(k3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000)
    found = k3(-0.5 * x**2, -0.5 * (x - 0.3) ** 2)
    assert found >= 0, "k3 is a mean of non-negative terms"
    assert abs(found - 0.045) < 0.002, f"KL of a shift by 0.3 is 0.045, got {found:.4f}"
    single = k3(np.array([0.0]), np.array([0.5]))
    assert abs(single - (np.exp(0.5) - 1.5)) < 1e-12, "for one sample: r - 1 - log r"


attempt("9.2", check_2, k3)

# %% [markdown]
# ### Exercise 9.3. Find the silent bug
#
# This loss is meant to be the clipped objective.
# Training runs, the clip fraction is logged correctly, and yet the policy moves as if there were hardly a clip.
# Mend it.

# %% tags=["exercise-3"]
import torch


def loss(log_prob, old_log_prob, advantage, clip_range=0.2):
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min((ratio * advantage).mean(), (clipped * advantage).mean())


# %% [markdown]
# <details><summary>Solution</summary>
#
# The minimum of two means is not the mean of minima: here one of the two averages wins for the whole batch, and the samples lose their separate clips.
#
# ```python
# import torch
#
#
# def loss(log_prob, old_log_prob, advantage, clip_range=0.2):
#     ratio = torch.exp(log_prob - old_log_prob)
#     clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
#     return -torch.min(ratio * advantage, clipped * advantage).mean()
# ```
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 9.3 { display-mode: "form" }
from twinlib.page.record import attempt


def check_3(loss):
    log_prob = torch.tensor([0.5, -0.1, 0.5], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -3.0], dtype=torch.float64)
    value = loss(log_prob, torch.zeros(3, dtype=torch.float64), advantage)
    (slope,) = torch.autograd.grad(value, log_prob)
    assert slope[0] == 0, "a good action far above the range must get no gradient"
    assert slope[1] < 0, "a good action inside the range is still made likelier"
    assert slope[2] > 0, "a bad action that became likelier is still pushed back"
    expected = (
        -(
            1.2
            + float(torch.exp(torch.tensor(-0.1, dtype=torch.float64)))
            - 3 * 1.6487212707001282
        )
        / 3
    )
    assert abs(float(value) - expected) < 1e-9, "not the mean of the minima"


attempt("9.3", check_3, loss)

# %% [markdown]
# ## References
#
# - Schulman, Wolski, Dhariwal, Radford and Klimov, *Proximal policy optimization algorithms* (arXiv 1707.06347).
# - Engstrom, Ilyas, Santurkar, Tsipras, Janoos, Rudolph and Madry, *Implementation matters in deep policy gradients* (ICLR 2020).
# - Schulman, *Approximating KL divergence* (note, 2020): the estimators k1, k2, k3.
# - Kingma and Ba, *Adam* (ICLR 2015).
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018), Eq. 7-9, Remark 3.1.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
