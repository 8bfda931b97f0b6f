"""Numerics: inputs of public threads, named repository#number."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from twinlib.data import pairing
from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding
from twinlib.environment.known_answers import ToggleDynamics
from twinlib.environment.packaged import packaged_world
from twinlib.errors import DataError, InputError, RunError
from twinlib.evaluation import metrics
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.gymnasium_tasks import gymnasium_task
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig, TrainingResult, train


# -- metrics
@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e-30, 1e30])
def test_the_correlation_of_small_numbers_is_that_of_large_ones(scale):
    """Lightning-AI/torchmetrics#3150: NaN at a scale of 1e-4."""
    rng = np.random.default_rng(42)
    guess = rng.random(1000)
    truth = guess + 0.1 * rng.normal(size=1000)
    expected = np.corrcoef(guess, truth)[0, 1]
    assert metrics.pearson(scale * guess, scale * truth) == pytest.approx(expected, rel=1e-9)
    columns = metrics.regression_metrics(scale * truth[:, None], scale * guess[:, None])
    assert columns["Pearson"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-6])
def test_the_distance_of_near_cells_keeps_its_digits(step):
    """scikit-learn/scikit-learn#9354: 1.000 beside 1.001 in 1,000 genes of float32 came out as NaN or 0."""
    first = np.full((4, 1000), 1.0, dtype=np.float32)
    second = np.full((4, 1000), 1.0 + step, dtype=np.float32)
    apart = 2 * cdist(first.astype(float), second.astype(float)).mean()
    assert metrics.e_distance(first, second) == pytest.approx(apart, rel=1e-6)


# -- optimal transport
@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
def test_clouds_far_from_zero_are_matched_as_at_zero(offset):
    """scikit-learn/scikit-learn#9354 in ot.dist: squares of 1e16 leave nothing of distances of 1."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 3))
    plan, _ = pairing.transport_plan(first + offset, second + offset)
    cost = cdist(first, second, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    assert (plan * cost).sum() == pytest.approx(cost[rows, columns].mean(), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
@pytest.mark.parametrize("entries", [0, 25_000_000], ids=["entropic", "exact"])
def test_the_plan_does_not_depend_on_the_unit(scale, entries, monkeypatch):
    """PythonOT/POT#54: a strength of 0.01 that was too small for a cost in other units."""
    monkeypatch.setattr(pairing, "EXACT_ENTRIES", entries)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    plan, _ = pairing.transport_plan(first, second)
    other, _ = pairing.transport_plan(scale * first, scale * second)
    np.testing.assert_allclose(other, plan, atol=1e-9)


@pytest.mark.parametrize("far", [1e8, 1e16, 1e50])
@pytest.mark.parametrize("entries", [0, 25_000_000], ids=["entropic", "exact"])
def test_cells_too_far_for_any_plan_are_refused(far, entries, monkeypatch):
    """PythonOT/POT#229: beside a cost of 1e32 the exact solver matches all others at random, in silence."""
    monkeypatch.setattr(pairing, "EXACT_ENTRIES", entries)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, 3))
    second[3] = far
    with pytest.raises(DataError, match="leave out cells that lie far"):
        pairing.transport_plan(first, second)


# -- policies
class Paid(ToggleDynamics):
    """Cells whose every step is paid with the same reward, from the second iteration on."""

    paid = 0.0
    observed = 0.0

    def step(self, action):
        step = super().step(action)
        return step._replace(reward=torch.full_like(step.reward, self.paid), obs=step.obs + self.observed)


def trained(task: Paid, algorithm: str, **settings: object) -> TrainingResult:
    config = TrainingConfig(
        algorithm=algorithm,
        timesteps=4 * 64,
        steps_per_iteration=64,
        warm_start_steps=64,
        hidden=(8, 8),
        critic_epochs=2,
        fine_tuning=ProximalConfig(beta=0.1, adaptive_beta=True, minibatch_size=32, epochs=2),
    )
    return train(task, dataclasses.replace(config, **settings), [0, 1])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("compute", ["auto", "reference"])
@pytest.mark.parametrize("paid", [0.0, 1.0])
def test_a_reward_that_never_changes_leaves_the_policy_usable(algorithm, compute, paid):
    """hill-a/stable-baselines#722: without any advantage its standard deviation is 0."""
    task = Paid(replicas=2, n_cells=8)
    task.paid = paid
    policy = trained(task, algorithm, compute=compute).policy
    assert bool(policy.theta.isfinite().all()) and bool(policy.critic.isfinite().all())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("compute", ["auto", "reference"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_reward_or_observation_that_is_not_finite_stops_the_run(algorithm, compute, wrong):
    """hill-a/stable-baselines#279 and #693, openai/baselines#258: networks of NaN, in silence."""
    for name, where in (("reward", "paid"), ("observation", "observed")):
        task = Paid(replicas=2, n_cells=8)
        setattr(task, where, wrong)
        with pytest.raises(RunError, match=f"Iteration 1, seed 0: the {name} of replica 0 is not finite"):
            trained(task, algorithm, compute=compute)


class Broken(gymnasium.Env):
    """A choice of two, whose second observation is NaN."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.full(2, np.nan, np.float32), 0.0, False, False, {}


def test_a_gymnasium_observation_of_nan_stops_the_run():
    """DLR-RM/stable-baselines3#265: 'invalid multinomial distribution' is all that a choice says of NaN."""
    env = SyncVectorEnv([Broken] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    config = TrainingConfig("PPO", timesteps=8, steps_per_iteration=8)
    with pytest.raises(RunError, match="Iteration 1, seed 0: the observation of replica 0 is not"):
        train(gymnasium_task(env), config, [0])


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_an_update_that_diverges_stops_the_run(compute):
    """hill-a/stable-baselines#36: PPO2 diverges, and its outputs become NaN."""
    wild = ProximalConfig(learning_rate=1e38, minibatch_size=32)
    with (
        np.errstate(all="ignore"),
        pytest.raises(RunError, match="Iteration 1, seed 0: the .* of replica 0 is not finite"),
    ):
        trained(Paid(replicas=2, n_cells=8), "PPO", proximal=wild, compute=compute)


def test_a_single_step_an_update_is_refused():
    """DLR-RM/stable-baselines3#265: one step of one environment has no spread of advantages."""
    with pytest.raises(InputError, match="steps_per_iteration"):
        TrainingConfig(steps_per_iteration=1)


# -- embeddings
def test_batches_of_one_cell_are_trained_on():
    """scverse/scvi-tools#426 and #3035: 57,345 cells in batches of 128 leave a last one of a single cell."""
    prepared = prepare(simulate_waddington(300, seed=1, perturbations=("Gata1", "Pu1")), 40)
    config = EmbeddingConfig(epochs=1, latent_dim=8, batch_size=1)
    _, history = train_embedding(prepared, config, seed=0)
    assert np.isfinite(history[["train_mse", "validation_mse"]].to_numpy()).all()


def test_the_number_of_threads_moves_a_state_by_rounding_alone():
    """pytorch/pytorch#88718: a linear layer differs by 6e-8 between one and six threads."""
    world, before, states = packaged_world(), torch.get_num_threads(), []
    scaled = world.scale(torch.ones(64, len(world.mean)))
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            states.append(world.embedding.encode(scaled).detach())
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*states, atol=1e-5)
