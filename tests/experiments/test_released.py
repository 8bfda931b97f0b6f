"""Pieces of the released pipeline against plain loops, and its settings against the specification."""

import numpy as np
import pytest

from experiments import released_pipeline as pipeline
from experiments.released import training_settings


def test_each_set_scaled_alone_loses_its_mean():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(200, 6)).astype(np.float32)
    z = pipeline._scaled(x)
    assert np.abs(z.mean(0)).max() < 1e-5 and np.abs(z.std(0, ddof=1) - 1).max() < 1e-4
    spike = np.zeros((400, 1), dtype=np.float32)
    spike[0] = 1000.0
    assert pipeline._scaled(spike).max() == 10.0


def test_logging_twice_is_what_happens_to_logged_data():
    x = np.random.default_rng(1).uniform(0, 4, size=(5, 7)).astype(np.float32)
    twice = pipeline._normalised(x, pipeline.PipelineConfig())
    np.testing.assert_allclose(np.expm1(twice).sum(1), 1e4, rtol=1e-4)
    assert pipeline._normalised(x, pipeline.PipelineConfig(log_twice=False)) is x


def test_successors_equal_the_plain_loop():
    rng = np.random.default_rng(2)
    x, time = rng.normal(size=(60, 3)).astype(np.float32), rng.uniform(size=60)
    rows, targets = pipeline.successors(x, time, k=5, block=16)
    for row, target in zip(rows, targets, strict=True):
        later = np.flatnonzero(time > time[row] + 1e-4)
        near = later[np.argsort(((x[later] - x[row]) ** 2).sum(1))[:5]]
        np.testing.assert_allclose(target, x[near].mean(0), atol=1e-5)
    assert time.argmax() not in rows


def test_the_split_keeps_the_order_of_the_file_and_every_row():
    train, test = pipeline._split(np.arange(50), 0.2, np.random.default_rng(3))
    assert len(test) == 10 and sorted([*train, *test]) == list(range(50)) and (np.diff(train) > 0).all()


@pytest.mark.parametrize(
    "algorithm", ["TRPO_PPO_zero_target", "TRPO_PPO_mended_logged", "TRPO_PPO_mended_kl"]
)
def test_second_stages_differ_in_their_target_alone(algorithm):
    found = training_settings(algorithm, 150_000, actions=200)
    assert (found.algorithm, found.warm_start_steps, found.fine_tuning.minibatch_size) == (
        "two_stage",
        10_000,
        256,
    )
    assert found.fine_tuning.stop_estimate == "k3" and found.fine_tuning.beta == 0
    assert found.trust_region.kl_reduction == "mean_over_actions"
    zero = algorithm.endswith("zero_target")
    assert found.fine_tuning.target_kl == (0.0 if zero else None)
    assert found.hand_over_scale == (1.5 / 200 if algorithm.endswith("logged") else 1.5)


def test_ppo_runs_at_the_defaults_of_stable_baselines3():
    found = training_settings("PPO", 150_000, actions=200)
    p = found.proximal
    assert (p.learning_rate, p.minibatch_size, p.epochs, p.clip_range) == (3e-4, 64, 10, 0.2)
    assert (found.gamma, found.gae_lambda, found.steps_per_iteration, found.log_std) == (
        0.99,
        0.95,
        2048,
        0.0,
    )


def test_a_zero_target_takes_one_optimizer_step_an_update():
    """The rule that decides the paper's tables, run on our own optimizer."""
    import torch

    from experiments.released_world import ReleasedDynamics, ReleasedWorld
    from twinlib.policy.training import train

    g = torch.Generator().manual_seed(0)
    effects = torch.nn.functional.normalize(torch.randn(6, 4, generator=g), dim=1)
    starts = torch.randn(50, 4, generator=g)
    world = ReleasedWorld(starts, torch.ones(50), torch.full((4,), -1.0), effects, action_scale=0.5)
    taken = {}
    for name in ("TRPO_PPO_zero_target", "TRPO_PPO_mended_kl"):
        settings = training_settings(name, 2048 * 8, actions=6)
        history = train(ReleasedDynamics(world, 2, 2048), settings, [0, 1]).history
        second = history[history["stage"] == "PPO"].groupby("seed")
        taken[name] = (
            second["optimizer_steps"].max() - history[history["stage"] == "TRPO"]["optimizer_steps"].max()
        ).mean()
    assert taken["TRPO_PPO_zero_target"] == 3  # three updates after five of TRPO
    assert taken["TRPO_PPO_mended_kl"] > 30
