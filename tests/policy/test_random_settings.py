"""The published draws, and settings side by side: a replica with its own settings equals the lone run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy import Quadratic

from twinlib.errors import InputError
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.random_settings import (
    DISTRIBUTION,
    DRAWS,
    Settings,
    draw,
    side_by_side,
    training_config,
)
from twinlib.policy.training import TrainingConfig, train
from twinlib.policy.trust_region import TrustRegionConfig

GAMMAS, LEARNING_RATES, DELTAS = (0.0, 0.9, 0.99), (3e-3, 1e-4, 1e-3), (0.3, 0.003, 0.03)
CLIPS, BETAS, STARTS, TARGETS = (0.1, 0.2, 0.4), (0.03, 2.0, 0.3), (-1.0, 0.0, -0.4), (0.02, 1e-3, 5e-3)


def own_settings(algorithm: str, r: int, targets: bool = False, **options: object) -> TrainingConfig:
    """Settings of replica r, unlike its neighbours' in all that may differ."""
    proximal = ProximalConfig(LEARNING_RATES[r], minibatch_size=32, epochs=3, clip_range=CLIPS[r])
    target = TARGETS[r] if targets else None
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=3 * 64,
        steps_per_iteration=64,
        warm_start_steps=64,
        gamma=GAMMAS[r],
        log_std=STARTS[r],
        hidden=(8, 8),
        critic_epochs=2,
        critic_learning_rate=(1e-3, 1e-2, 3e-3)[r],
        proximal=dataclasses.replace(proximal, target_kl=target),
        fine_tuning=dataclasses.replace(proximal, beta=BETAS[r], adaptive_beta=True, target_kl=target),
        trust_region=TrustRegionConfig(delta=DELTAS[r], cg_iterations=4),  # each makes rounding larger
        dtype="float64",
        **options,
    )


def test_the_published_distribution():
    """A published fact of the book: whoever changes it has to run every tuning again."""
    assert DRAWS == 24 and DISTRIBUTION == {
        "learning_rate": ("log-uniform", (1e-5, 3e-3)),
        "delta": ("log-uniform", (0.003, 3.0)),
        "minibatch_size": ("one of", (64, 128, 256, 512)),
        "clip_range": ("log-uniform", (0.05, 0.5)),
        "log_std": ("uniform", (-2.0, 0.0)),
        "gamma": ("one of", (0.0, 0.9, 0.99)),
    }


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("compute", ["auto", "reference"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_replica_with_its_own_settings_equals_the_lone_run(algorithm, compute, targets):
    configs = [own_settings(algorithm, r, targets, compute=compute) for r in range(3)]
    together = train(Quadratic(3, 8), configs, seeds=[5, 6, 5])
    for r, seed in enumerate((5, 6, 5)):
        alone = train(Quadratic(1, 8), configs[r], seeds=[seed])
        assert (alone.policy.theta[0] - together.policy.theta[r]).abs().max() < 1e-12
        rows = together.history[together.history.replica == r].select_dtypes("number")
        theirs = alone.history.assign(replica=r).select_dtypes("number")
        assert rows.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-9, abs=1e-12, nan_ok=True)


CHANGES = {
    "gamma": {"gamma": 0.5},
    "log_std": {"log_std": -0.7},
    "delta": {"trust_region": TrustRegionConfig(delta=0.003, cg_iterations=4)},
    "critic_learning_rate": {"critic_learning_rate": 5e-3},
}


@pytest.mark.parametrize("name", [*CHANGES, "learning_rate", "clip_range", "beta", "target_kl"])
def test_each_setting_of_its_own_changes_that_replica_only(name):
    """A setting that were read from the first replica alone would change nothing here."""
    plain = own_settings("alternating", 0, targets=True)
    value = {"learning_rate": 1e-4, "clip_range": 0.01, "beta": 3.0, "target_kl": 1e-5}.get(name)
    change = CHANGES.get(name) or {"fine_tuning": dataclasses.replace(plain.fine_tuning, **{name: value})}
    both = [plain, dataclasses.replace(plain, **change)]
    same, changed = train(Quadratic(2, 8), both, seeds=[3, 3]).policy.theta
    alone = train(Quadratic(1, 8), plain, seeds=[3]).policy.theta[0]
    assert (same - alone).abs().max() < 1e-12 and (changed - alone).abs().max() > 1e-7


def test_settings_of_another_shape_are_refused():
    config = own_settings("PPO", 0)
    other = dataclasses.replace(config, proximal=dataclasses.replace(config.proximal, minibatch_size=16))
    with pytest.raises(InputError, match="replicas 0 and 1 differ in proximal, which replicas share"):
        train(Quadratic(2, 8), [config, other], seeds=[0, 1])
    off = dataclasses.replace(config, proximal=dataclasses.replace(config.proximal, clip_range=None))
    with pytest.raises(InputError, match="differ in proximal"):
        train(Quadratic(2, 8), [config, off], seeds=[0, 1])
    with pytest.raises(InputError, match="1 settings for 2 seeds"):
        train(Quadratic(2, 8), [config], seeds=[0, 1])
    with pytest.raises(InputError, match="0 settings for 0 seeds"):
        train(Quadratic(2, 8), config, seeds=[])


def test_what_an_algorithm_does_not_use_has_no_shape():
    config = own_settings("TRPO", 0)
    other = dataclasses.replace(config, proximal=ProximalConfig(minibatch_size=16, clip_range=None))
    assert side_by_side([config, other]) == [[0, 1]]
    assert side_by_side([dataclasses.replace(c, algorithm="PPO") for c in (config, other)]) == [[0], [1]]


def test_a_run_of_several_settings_resumes_to_the_same_bits(tmp_path):
    configs = [own_settings("two_stage", r) for r in range(3)]
    whole = train(Quadratic(3, 8), configs, seeds=[0, 0, 0])
    part = [dataclasses.replace(config, timesteps=128) for config in configs]
    path = tmp_path / "run.pt"
    train(Quadratic(3, 8), part, seeds=[0, 0, 0], checkpoint=path)
    resumed = train(Quadratic(3, 8), configs, seeds=[0, 0, 0], checkpoint=path)
    assert torch.equal(resumed.policy.theta, whole.policy.theta) and resumed.history.equals(whole.history)
    with pytest.raises(InputError, match="name another file"):
        train(Quadratic(3, 8), configs[::-1], seeds=[0, 0, 0], checkpoint=path)


# -- the published draws
def test_draws_follow_the_published_distribution():
    draws = [dataclasses.asdict(draw(k)) for k in range(400)]
    for name, (kind, values) in DISTRIBUTION.items():
        drawn = np.array([settings[name] for settings in draws])
        if kind == "one of":
            shares = np.array([(drawn == value).mean() for value in values])
            assert shares.sum() == pytest.approx(1) and shares == pytest.approx(1 / len(values), abs=0.07)
            continue
        low, high = np.log(values) if kind == "log-uniform" else values
        place = ((np.log(drawn) if kind == "log-uniform" else drawn) - low) / (high - low)
        assert -1e-3 <= place.min() < 0.02 and 0.98 < place.max() <= 1.001
        assert np.quantile(place, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.07)


def test_a_draw_is_always_the_same():
    assert draw(0) == Settings(0.00124, 0.00912, 128, 0.117, -1.57, 0.9)
    assert len({draw(k) for k in range(DRAWS)}) == DRAWS == 24
    with pytest.raises(InputError, match="count draws from 0"):
        draw(-1)


def test_drawn_settings_go_where_they_are_read():
    settings = Settings(2e-4, 0.07, 256, 0.3, -1.2, 0.9)
    config = training_config("two_stage", settings, 150_000)
    assert (config.timesteps, config.warm_start_steps) == (150_000, 10_000)
    assert (config.gamma, config.log_std, config.trust_region.delta) == (0.9, -1.2, 0.07)
    assert config.proximal == ProximalConfig(2e-4, minibatch_size=256, clip_range=0.3)
    assert config.fine_tuning == dataclasses.replace(config.proximal, beta=0.1)


def test_tables_name_only_what_an_algorithm_reads():
    used = {name: set(draw(0).used_by(name)) for name in ALGORITHMS}
    common, ppo = {"log_std", "gamma"}, {"learning_rate", "minibatch_size", "clip_range"}
    assert used["TRPO"] == common | {"delta"} and used["PPO"] == common | ppo
    assert used["PPO_KL"] == common | ppo - {"clip_range"}
    assert used["two_stage"] == used["second_stage_alone"] == common | ppo | {"delta"}
    assert draw(0).used_by("TRPO")["delta"] == draw(0).delta


def test_the_draws_of_an_algorithm_fall_into_groups_of_one_shape():
    for name in ("PPO", "two_stage", "TRPO"):
        configs = [training_config(name, draw(k), 3000) for k in range(DRAWS)]
        groups = side_by_side(configs)
        assert sorted(at for group in groups for at in group) == list(range(DRAWS))
        sizes = {len({draw(k).minibatch_size for k in group}) for group in groups}
        assert (len(groups) == 1) if name == "TRPO" else (sizes == {1} and len(groups) == 4)
