"""Replicas equal lone runs; a killed run resumes and ends in the same bits."""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import subprocess
import sys

import pytest
import torch
from toy import Quadratic

from twinlib.errors import InputError
from twinlib.policy import training
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig, make_generators, train

HERE = pathlib.Path(__file__).parent


def config(algorithm: str, iterations: int = 40) -> TrainingConfig:
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=iterations * 64,
        steps_per_iteration=64,
        warm_start_steps=20 * 64 if iterations > 3 else 64,
        hidden=(16, 16),
        critic_epochs=2,
        fine_tuning=ProximalConfig(beta=0.1, adaptive_beta=True, minibatch_size=32, epochs=2),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_replica_equals_the_same_seed_alone(algorithm):
    settings = dataclasses.replace(config(algorithm, 3), dtype="float64")
    together = train(Quadratic(3, 8), settings, seeds=[5, 6, 7])
    for r, seed in enumerate((5, 6, 7)):
        alone = train(Quadratic(1, 8), settings, seeds=[seed])
        assert (alone.policy.theta[0] - together.policy.theta[r]).abs().max() < 1e-12
        rows = together.history[together.history.seed == seed]
        assert rows.reward.to_numpy() == pytest.approx(alone.history.reward.to_numpy(), abs=1e-12)
    assert (together.policy.theta[0] - together.policy.theta[1]).abs().max() > 1e-3


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_a_replica_that_stops_early_equals_the_same_seed_alone(compute):
    """A stopped replica draws no more orders; else its next update would hang on its neighbours' stops."""
    stopping = ProximalConfig(target_kl=2e-3, learning_rate=3e-3, minibatch_size=16)
    settings = dataclasses.replace(config("PPO", 3), dtype="float64", proximal=stopping, compute=compute)
    together = train(Quadratic(3, 8), settings, seeds=[5, 6, 7])
    first = together.history[together.history.iteration == 1].optimizer_steps
    assert first.nunique() > 1 and first.max() < 10 * 4  # they stopped, and not together
    for r, seed in enumerate((5, 6, 7)):
        alone = train(Quadratic(1, 8), settings, seeds=[seed])
        assert (alone.policy.theta[0] - together.policy.theta[r]).abs().max() < 1e-12


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_a_last_minibatch_of_one_row_is_used_unscaled(compute):
    """One advantage has no standard deviation; Stable-Baselines3 leaves it as it is, too."""
    settings = dataclasses.replace(
        config("PPO", 3), proximal=ProximalConfig(minibatch_size=21), compute=compute
    )
    assert torch.isfinite(train(Quadratic(1, 8), settings, seeds=[0]).policy.theta).all()


@pytest.mark.parametrize("algorithm", ["two_stage", "alternating"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, algorithm):
    whole = train(Quadratic(2, 8), config(algorithm), seeds=[0, 1])
    path = tmp_path / "run.pt"
    command = [sys.executable, HERE / "killed_run.py", algorithm, path, str(23 * 8 + 3)]
    assert subprocess.run(command, cwd=HERE.parents[1]).returncode == -signal.SIGKILL
    assert torch.load(path, weights_only=True)["iteration"] == 23
    resumed = train(Quadratic(2, 8), config(algorithm), seeds=[0, 1], checkpoint=path)
    assert torch.equal(resumed.policy.theta, whole.policy.theta)
    assert resumed.history.equals(whole.history)


def test_resume_is_exact_across_the_hand_over_and_in_mid_episode(tmp_path):
    path = tmp_path / "run.pt"
    whole = train(Quadratic(2, 8, horizon=7), config("two_stage"), seeds=[0, 1])
    for stop in (10, 20, 33):  # 8 steps an iteration: never at the end of an episode of 7
        part = dataclasses.replace(config("two_stage"), timesteps=stop * 64)
        train(Quadratic(2, 8, horizon=7), part, seeds=[0, 1], checkpoint=path)
    resumed = train(Quadratic(2, 8, horizon=7), config("two_stage"), seeds=[0, 1], checkpoint=path)
    assert torch.equal(resumed.policy.theta, whole.policy.theta)
    assert resumed.history.equals(whole.history)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_replicas_train_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    from twinlib.environment.dynamics import Dynamics
    from twinlib.environment.packaged import packaged_world

    settings = dataclasses.replace(config("two_stage", 3), device="cuda")
    result = train(Dynamics(packaged_world().to("cuda"), replicas=2, n_cells=8), settings, seeds=[0, 1])
    assert result.policy.theta.is_cuda and bool(torch.isfinite(result.policy.theta).all())


def test_the_chance_of_the_recorded_runs_stays_as_it_was():
    """Seeds of the four streams: another formula would be another run under the same name."""
    streams = {name: make_generators([0, 3], name) for name in training.STREAMS}
    seeds = {name: [g.initial_seed() for g in made] for name, made in streams.items()}
    assert seeds == {
        "weights": [1, 23758],
        "actions": [104730, 128487],
        "order": [209459, 233216],
        "environment": [314188, 337945],
    }


def test_a_checkpoint_is_written_every_few_iterations_and_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(training, "write_atomic", lambda path, write: written.append(path))
    done = train(Quadratic(1, 8), config("PPO", 5), [0], checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    assert done.history["iteration"].max() == 5 and len(written) == 3  # after 2, 4 and 5
    with pytest.raises(InputError, match="without checkpoint="):
        train(
            unsaved := Quadratic(1, 8), config("PPO", 1), [0], checkpoint=_without_saving(unsaved, tmp_path)
        )
    assert len(train(unsaved, config("PPO", 1), [0]).history)


def _without_saving(task, folder):
    """A path for a task that can no longer be saved."""
    task.resumable = False
    return folder / "other.pt"


def test_a_finished_run_is_read_back_without_training(tmp_path):
    path = tmp_path / "run.pt"
    first = train(Quadratic(1, 8), config("PPO", 3), seeds=[0], checkpoint=path)
    again = train(Quadratic(1, 8), config("PPO", 3), seeds=[0], checkpoint=path)
    assert torch.equal(first.policy.theta, again.policy.theta) and first.history.equals(again.history)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(Quadratic(1, 8), config("PPO", 3), seeds=[0], checkpoint=path)
    with pytest.raises(ValueError, match="name another file"):
        train(Quadratic(1, 8), config("TRPO", 3), seeds=[0], checkpoint=path)
    with pytest.raises(ValueError, match="name another file"):
        train(Quadratic(1, 8), config("PPO", 3), seeds=[1], checkpoint=path)
