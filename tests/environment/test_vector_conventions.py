"""The vector environment keeps gymnasium's conventions: SAME_STEP restarts, infos, every vector wrapper."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_world import toy_world

from twinlib.environment.dynamics import EnvironmentConfig
from twinlib.environment.gymnasium_api import CellEnv, CellVectorEnv

N = 3
QUIET = EnvironmentConfig(process_noise=0.0, kick=False, horizon=4)


def ours() -> CellVectorEnv:
    return CellVectorEnv("GeneScreen", N, world=toy_world(), config=QUIET)


def gymnasiums() -> SyncVectorEnv:
    makers = [lambda: CellEnv("GeneScreen", world=toy_world(), config=QUIET)] * N
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def shape_of(info: dict) -> dict:
    """What an info consists of: names, types and shapes, down to the bottom."""
    return {
        name: shape_of(value) if isinstance(value, dict) else (value.dtype, value.shape)
        for name, value in info.items()
    }


def test_infos_have_the_form_of_gymnasium_s_own_vector_environment() -> None:
    mine, theirs = ours(), gymnasiums()
    options = {"cell": 2}
    first, second = mine.reset(seed=0, options=options), theirs.reset(seed=0, options=options)
    assert shape_of(first[1]) == shape_of(second[1]) and np.allclose(first[0], second[0])
    action = np.full((N, 6), 0.3, np.float32)
    for step in range(QUIET.horizon):
        left, right = mine.step(action), theirs.step(action)
        assert shape_of(left[4]) == shape_of(right[4])
        assert ("final_obs" in left[4]) == (step == QUIET.horizon - 1)
        assert [part.dtype for part in left[:4]] == [part.dtype for part in right[:4]]
    assert left[4]["final_obs"].dtype == object
    assert np.allclose(np.stack(left[4]["final_obs"]), np.stack(right[4]["final_obs"]), atol=1e-6)
    assert np.allclose(left[4]["final_info"]["error"], right[4]["final_info"]["error"])
    assert np.allclose(left[1], right[1], atol=1e-6) and left[2].all()


WRAPPERS = {
    "RecordEpisodeStatistics": {},
    "NumpyToTorch": {},
    "ArrayConversion": {"env_xp": np, "target_xp": np},
    "DictInfoToList": {},
    "NormalizeReward": {},
    "NormalizeObservation": {},
    "ClipReward": {"min_reward": -1, "max_reward": 1},
    "ClipAction": {},
    "RescaleAction": {"min_action": -2.0, "max_action": 2.0},
    "FlattenObservation": {},
    "FlattenAction": {},
    "RescaleObservation": {"min_obs": -1.0, "max_obs": 1.0},
    "DtypeObservation": {"dtype": np.float64},
    "TransformReward": {"func": lambda reward: 2 * reward},
    "TransformObservation": {"func": lambda obs: 2 * obs},
    "TransformAction": {"func": lambda action: action / 2},
    "VectorizeTransformObservation": {
        "wrapper": wrappers.TransformObservation,
        "func": lambda obs: obs,
        "observation_space": None,
    },
}


def outcome(name: str, envs: gymnasium.vector.VectorEnv) -> str:
    """What a wrapper does over two episodes: nothing to tell, or the words with which it refuses."""
    try:
        wrapped = getattr(wrappers.vector, name)(envs, **WRAPPERS[name])
        wrapped.reset(seed=0)
        for _ in range(2 * QUIET.horizon):
            action = wrapped.action_space.sample()
            last = wrapped.step(torch.as_tensor(action) if name == "NumpyToTorch" else action)
        assert len(last[1]) == N
    except Exception as refused:
        return type(refused).__name__
    return "runs"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_a_wrapper_does_what_it_does_to_gymnasium_s_own(name: str) -> None:
    assert outcome(name, ours()) == outcome(name, gymnasiums())


def test_most_wrappers_run_and_one_is_refused_by_gymnasium() -> None:
    assert outcome("RecordEpisodeStatistics", ours()) == "runs"
    with pytest.raises(ValueError, match="Expected autoreset_mode to be NEXT_STEP"):
        wrappers.vector.NormalizeObservation(ours())


def test_an_episode_s_statistics_are_its_return() -> None:
    envs = wrappers.vector.RecordEpisodeStatistics(ours())
    envs.reset(seed=0)
    rewards = [envs.step(np.full((N, 6), 0.3, np.float32)) for _ in range(QUIET.horizon)]
    told = rewards[-1][4]["final_info"] if "episode" not in rewards[-1][4] else rewards[-1][4]
    assert np.allclose(told["episode"]["r"], sum(step[1] for step in rewards))
