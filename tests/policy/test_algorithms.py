"""The registry: a new algorithm is one entry, and what the entries say is what a run does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_two_stage import small
from toy import Quadratic

from twinlib.errors import InputError
from twinlib.policy.algorithms import ALGORITHMS, TUNED, Algorithm, Stage, tuned_as
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig, train


@pytest.fixture
def registered(monkeypatch):
    """Put one more algorithm into the registry for a test."""

    def register(*stages: Stage) -> str:
        monkeypatch.setitem(ALGORITHMS, "new", Algorithm("a new one", stages))
        return "new"

    return register


def test_an_entry_is_all_that_a_new_algorithm_needs(registered):
    name = registered(Stage(("PPO",), until="warm_start_steps"), Stage(("TRPO",)))
    history = train(Quadratic(2, 8), small(name), seeds=[0, 1]).history
    assert history[history.seed == 0].stage.tolist() == ["PPO", "PPO", "TRPO", "TRPO", "TRPO"]


def test_a_stage_changes_the_settings_that_it_names(registered):
    name = registered(Stage(("PPO",), changes={"clip_range": None, "beta": 0.7}))
    settings = ProximalConfig(learning_rate=1e-2)
    ours = train(Quadratic(1, 8), small(name, proximal=settings), seeds=[0])
    by_hand = dataclasses.replace(settings, clip_range=None, beta=0.7)
    same = train(Quadratic(1, 8), small("PPO", proximal=by_hand), seeds=[0])
    other = train(Quadratic(1, 8), small("PPO", proximal=settings), seeds=[0])
    assert torch.equal(ours.policy.theta, same.policy.theta)
    assert not torch.equal(ours.policy.theta, other.policy.theta)


def test_each_stage_begins_with_an_empty_optimizer_of_its_own_settings(registered, tmp_path):
    name = registered(Stage(("PPO",), until="warm_start_steps"), Stage(("PPO",), "fine_tuning"))
    still = dataclasses.replace(small(name), fine_tuning=ProximalConfig(learning_rate=0.0, beta=0.3))
    whole = train(Quadratic(1, 8), still, seeds=[0])
    first = train(Quadratic(1, 8), dataclasses.replace(still, timesteps=256), seeds=[0])
    assert torch.equal(whole.policy.theta, first.policy.theta)  # a learning rate of 0 moves nothing
    assert whole.history.beta.tolist() == [0.0, 0.0, 0.3, 0.3, 0.3]
    path = tmp_path / "run.pt"
    train(Quadratic(1, 8), dataclasses.replace(still, timesteps=384), seeds=[0], checkpoint=path)
    assert torch.equal(train(Quadratic(1, 8), still, [0], checkpoint=path).policy.theta, whole.policy.theta)


def test_every_arm_is_tuned_or_takes_the_settings_of_a_tuned_one():
    assert TUNED == ("PPO", "TRPO", "two_stage", "alternating")
    taken = {name: tuned_as(name) for name in ALGORITHMS if name not in TUNED}
    assert taken == {
        "PPO_KL": "PPO",
        "alternating_printed": "alternating",
        "PPO_restart": "two_stage",
        "second_stage_after_plain": "two_stage",
        "second_stage_alone": "two_stage",
    }
    assert all(tuned_as(name) == name for name in TUNED)


def test_the_matched_arms_share_their_second_stage():
    last = {name: ALGORITHMS[name].stages[-1] for name in ALGORITHMS if tuned_as(name) == "two_stage"}
    assert list(last.values()) == 4 * [Stage(("PPO",), "fine_tuning")]
    first = {name: ALGORITHMS[name].stages[0] for name in last}
    assert {name: stage.updates for name, stage in first.items()} == {
        "two_stage": ("TRPO",),
        "PPO_restart": ("PPO",),
        "second_stage_after_plain": ("plain",),
        "second_stage_alone": ("PPO",),
    }


def test_a_stage_may_take_every_kind_of_update():
    assert Stage(updates=("TRPO", "plain", "PPO")).updates == ("TRPO", "plain", "PPO")


def test_an_unknown_update_or_algorithm_is_refused():
    with pytest.raises(InputError, match="use 'TRPO', 'plain', 'PPO'"):
        Stage(("SAC",))
    with pytest.raises(InputError, match="use 'behaviour' or 'printed'"):
        Stage(("TRPO", "PPO"), ratio="new")
    with pytest.raises(InputError, match=f"use {', '.join(ALGORITHMS)}"):
        TrainingConfig(algorithm="SAC")
