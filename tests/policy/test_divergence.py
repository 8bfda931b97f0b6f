"""A number that is not finite stops a training, with one sentence that says which, whose and when."""

from __future__ import annotations

import dataclasses
import pickle
import warnings

import pytest
import torch
from test_two_stage import small
from toy import Quadratic

from twinlib.errors import Divergence
from twinlib.policy import training
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.contracts import Discrete
from twinlib.policy.rollout import require_finite
from twinlib.policy.training import train


class Damaged(Quadratic):
    """From its 40th step on replica 1 is paid or sees `value` in a tenth of its cells."""

    calls = 0

    def __init__(self, name: str, value: float) -> None:
        super().__init__(2, 10)
        self.name, self.value = name, value

    def step(self, action):
        step = super().step(action)
        self.calls += 1
        if self.calls >= 40:
            getattr(step, self.name)[1, 0] = self.value
        return step


@pytest.mark.parametrize("name", ["reward", "obs"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_sentence_names_iteration_seed_quantity_and_replica(algorithm, name, value):
    """12 steps of 10 cells an iteration: the 40th step is in the fourth."""
    quantity = {"reward": "reward", "obs": "observation"}[name]
    with pytest.raises(Divergence) as lost:
        train(Damaged(name, value), small(algorithm), seeds=[3, 8])
    assert str(lost.value) == (
        f"Iteration 4, seed 8: the {quantity} of replica 1 is not finite; mend the task, or scale it down."
    )
    assert lost.value.replicas == (1,) and lost.value.__suppress_context__


def test_finite_numbers_whose_sum_overflows_are_finite():
    require_finite("mend it", reward=torch.full((2, 10), 3e38))
    with pytest.raises(Divergence, match="the reward of replica 1 is not finite; mend it"):
        require_finite("mend it", reward=torch.tensor([[3e38, 3e38], [0.0, torch.inf]]))


class Choice(Quadratic):
    """The same with two choices, up and down; it sees NaN from the start."""

    def __init__(self) -> None:
        super().__init__(1, 4, action_dim=1)
        self.action = Discrete(2)

    def obs(self):
        return super().obs() * torch.nan


def test_a_choice_is_not_drawn_from_an_observation_of_nan():
    with pytest.raises(Divergence, match="Iteration 1, seed 3: the observation of replica 0 is not finite"):
        train(Choice(), small("PPO"), seeds=[3])


def test_an_action_that_is_not_finite_stops_the_run():
    wide = [small("PPO", log_std=start) for start in (0.0, 800.0)]
    with pytest.raises(Divergence, match="Iteration 1, seed 8: the action of replica 1 is not finite; lower"):
        train(Quadratic(2, 8), wide, seeds=[3, 8])


@pytest.mark.parametrize("compute", ["auto", "reference"])
@pytest.mark.parametrize("algorithm", ["PPO", "TRPO", "second_stage_after_plain", "two_stage"])
def test_an_advantage_of_nan_does_not_pass_as_a_refused_step(monkeypatch, algorithm, compute):
    """The line search takes a step to NaN for one more that does not help; the gradient tells."""
    collect = training.Collector.collect

    def damaged(*given):
        buffer = collect(*given)
        buffer.advantage[0, 3] = torch.nan
        return buffer

    monkeypatch.setattr(training.Collector, "collect", damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(
            Divergence, match="Iteration 1, seed 3: the .*gradient of replica 0 is not"
        ) as lost:
            train(Quadratic(2, 8), small(algorithm, compute=compute), seeds=[3, 8])
    assert lost.value.replicas == (0,)


def test_a_critic_whose_gradient_overflows_is_not_frozen_in_silence():
    """Adam divides by the root of the mean square: with an infinite one it stands still, and looks fine."""
    huge = Quadratic(1, 8)
    step = huge.step
    huge.step = lambda action: step(action)._replace(reward=torch.full((1, 8), 1e25))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(Divergence, match="Iteration 1, seed 0: the .* of replica 0 is not finite"):
            train(huge, small("TRPO", dtype="float32"), seeds=[0])


def test_the_other_replicas_can_go_on_without_the_lost_one():
    settings = small("PPO")
    alone = train(Quadratic(1, 10), settings, seeds=[3]).policy.theta
    with pytest.raises(Divergence) as lost:
        train(Damaged("reward", torch.nan), settings, seeds=[3, 8])
    left = [seed for r, seed in enumerate((3, 8)) if r not in lost.value.replicas]
    assert (train(Quadratic(1, 10), settings, seeds=left).policy.theta - alone).abs().max() == 0


def test_the_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(Divergence("the reward", [2, 5])))
    assert str(error) == "the reward" and error.replicas == (2, 5)


def test_large_finite_numbers_are_no_divergence():
    task = Damaged("reward", 1e4)
    assert torch.isfinite(train(task, dataclasses.replace(small("PPO")), seeds=[3, 8]).policy.theta).all()
