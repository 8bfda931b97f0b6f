"""Which update comes when, what is handed over, and what the two readings of Algorithm 1 do."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import tqdm
from toy import Quadratic

from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import HISTORY_COLUMNS, TrainingConfig, _Run, train

SMALL = TrainingConfig(
    timesteps=5 * 128,
    steps_per_iteration=128,
    warm_start_steps=256,
    hidden=(8, 8),
    dtype="float64",
    critic_epochs=2,
)


def small(algorithm, **options):
    return dataclasses.replace(SMALL, algorithm=algorithm, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_writes_the_same_history(algorithm):
    result = train(Quadratic(2, 8), small(algorithm), seeds=[3, 4])
    history = result.history
    assert list(history.columns) == list(HISTORY_COLUMNS)
    assert len(history) == 2 * 5 and set(history.seed) == {3, 4}
    assert history.environment_steps.max() == 5 * 128
    assert torch.isfinite(result.policy.theta).all()
    assert history[["reward", "kl", "entropy", "value_loss"]].notna().all(axis=None)


def test_two_stage_hands_the_mean_accepted_kl_over():
    history = train(Quadratic(2, 8), small("two_stage"), seeds=[0, 1]).history
    for _, rows in history.groupby("seed"):
        first, second = rows[rows.stage == "TRPO"], rows[rows.stage == "PPO"]
        assert first.environment_steps.tolist() == [128, 256] and len(second) == 3
        observed = first.kl[first.accepted == 1].mean()
        assert second.target_kl.to_numpy() == pytest.approx(observed, rel=1e-12)
        assert bool((first.kl[first.accepted == 1] <= 0.01).all())


def test_hand_over_can_be_switched_off_or_replaced():
    off = train(Quadratic(1, 8), small("two_stage", hand_over=False), seeds=[0]).history
    assert off.target_kl.isna().all()
    fixed = ProximalConfig(beta=0.1, target_kl=0.5)
    given = train(Quadratic(1, 8), small("two_stage", fine_tuning=fixed), seeds=[0]).history
    assert (given.target_kl.dropna() == 0.5).all()


def test_a_stage_without_an_accepted_step_hands_over_delta():
    run = _Run(Quadratic(2, 8), [small("two_stage")] * 2, [0, 1])
    run.environment_steps = SMALL.warm_start_steps
    run.kl_sum[0], run.kl_count[0] = 0.02, 4
    assert run.target_kl().tolist() == [0.005, 0.01]


def test_restart_differs_from_the_second_stage_alone_only_after_the_switch():
    plain = train(Quadratic(1, 8), small("second_stage_alone"), seeds=[0]).history
    restarted = train(Quadratic(1, 8), small("PPO_restart"), seeds=[0]).history
    # The switch comes after the second update; the third differs, which the fourth batch shows.
    assert plain.reward[:3].tolist() == restarted.reward[:3].tolist()
    assert plain.reward[4] != restarted.reward[4]


def test_both_readings_of_algorithm_one_run_and_differ():
    behaviour, printed = (
        train(Quadratic(1, 8), small(name), seeds=[0]) for name in ("alternating", "alternating_printed")
    )
    assert (behaviour.policy.theta - printed.policy.theta).abs().max() > 1e-6
    assert (behaviour.history.stage == "TRPO+PPO").all()


def test_training_improves_the_policy():
    config = dataclasses.replace(SMALL, algorithm="two_stage", timesteps=30 * 256, steps_per_iteration=256)
    history = train(Quadratic(3, 16), config, seeds=[0, 1, 2]).history
    ends = ((1, 2), (29, 30))
    first, last = (history[history.iteration.isin(i)].groupby("seed").reward.mean() for i in ends)
    assert bool((last > first + 0.05).all())


def test_no_progress_bar_unless_asked(capsys, monkeypatch):
    # the bar draws at most ten times a second, and a quick machine is done before that
    monkeypatch.setattr("tqdm.tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    train(Quadratic(1, 8), small("TRPO"), seeds=[0])
    assert capsys.readouterr().err == ""
    train(Quadratic(1, 8), small("TRPO"), seeds=[0], progress=True)
    assert "explained_variance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"algorithm": "SAC"}, "use PPO"),
        ({"timesteps": 0}, "too small"),
        ({"dtype": "int8"}, "float32"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**bad)
