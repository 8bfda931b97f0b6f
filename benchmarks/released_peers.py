"""What the speed benchmarks share: the released environment in three forms, turns, and where figures go."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.vec_env import VecEnv

from experiments.folder import versions
from experiments.released_world import ReleasedDynamics, ReleasedWorld
from twinlib.files import write_json, write_table
from twinlib.policy.training import TrainingConfig, _Run

OBSERVATION, ACTIONS, STEPS = 58, 200, 2048
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "results" / "speed"
#: processes waiting for a core (mean of a minute) above which a machine is not quiet
QUIET = 1.5


def world(observation: int = OBSERVATION) -> ReleasedWorld:
    """A stand-in of the released size: random starts, unit effects."""
    g = torch.Generator().manual_seed(0)
    starts = torch.randn(2000, observation, generator=g)
    effects = torch.nn.functional.normalize(torch.randn(ACTIONS, observation, generator=g), dim=1)
    return ReleasedWorld(starts, torch.ones(2000), starts.mean(0) - starts.std(0), effects, action_scale=0.5)


def reward(x: np.ndarray, target: np.ndarray, action: np.ndarray) -> np.ndarray:
    cost = 0.01 * (action**2).sum(-1) + 0.05 * np.abs(action).sum(-1)
    return -(((x - target) ** 2).sum(-1) + cost)


class OneCell(gymnasium.Env):
    """One cell at a time in numpy: what an SB3 user would write."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)

    def __init__(self) -> None:
        w = world()
        self.starts, self.effects, self.target = w.starts.numpy(), w.effects.numpy(), w.target.numpy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.starts[self.np_random.integers(len(self.starts))]
        return self.x, {}

    def step(self, action: np.ndarray) -> Any:
        self.x = self.x + 0.5 * action @ self.effects
        return self.x, float(reward(self.x, self.target, action)), True, False, {}


class ManyCells(VecEnv):
    """All cells in one numpy expression: the fastest environment an SB3 user could write."""

    def __init__(self, cells: int, observation: int = OBSERVATION) -> None:
        w, box = world(observation), gymnasium.spaces.Box
        self.starts, self.effects, self.target = w.starts.numpy(), w.effects.numpy(), w.target.numpy()
        self.rng = np.random.default_rng(0)
        spaces = box(-np.inf, np.inf, (observation,), np.float32), box(-1.0, 1.0, (ACTIONS,), np.float32)
        super().__init__(cells, *spaces)

    def reset(self) -> np.ndarray:
        self.x = self.starts[self.rng.integers(len(self.starts), size=self.num_envs)]
        return self.x

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        x = self.x + 0.5 * self.actions @ self.effects
        infos = [{"terminal_observation": o, "TimeLimit.truncated": False} for o in x]
        rewards = reward(x, self.target, self.actions)
        return self.reset(), rewards, np.ones(self.num_envs, bool), infos

    def close(self) -> None: ...

    def get_attr(self, name: str, indices: Any = None) -> list[None]:
        return [None] * self.num_envs

    def set_attr(self, *_: Any, **__: Any) -> None: ...

    def env_method(self, *_: Any, **__: Any) -> None: ...

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def ours(
    algorithm: str, replicas: int, cells: int = 64, observation: int = OBSERVATION, **options: Any
) -> _Run:
    """A run that trains for ever; each `iterate` is 2,048 steps of every replica."""
    config = TrainingConfig(algorithm=algorithm, timesteps=10**9, **options)
    return _Run(ReleasedDynamics(world(observation), replicas, cells), config, range(replicas))


def peer(algorithm: str, cells: int | None, observation: int = OBSERVATION, **options: Any) -> Any:
    """A model of Stable-Baselines3 or sb3-contrib, 2,048 steps an iteration; None is one gymnasium cell."""
    import sb3_contrib
    import stable_baselines3

    kind = stable_baselines3.PPO if algorithm == "PPO" else sb3_contrib.TRPO
    env = OneCell() if cells is None else ManyCells(cells, observation)
    return kind("MlpPolicy", env, device="cpu", seed=0, n_steps=STEPS // (cells or 1), **options)


def turns(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each case, measured A B C A B C after one turn that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for k in range(rounds + 1):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if k:
                seconds[name].append(time.process_time() - start)
    return seconds


def compared(name: str, ours: list[float], peer: list[float], unit: str) -> dict[str, Any]:
    """One line of a table: median of both sides in turns, and the ratio of medians and of the best turns.

    With unit "steps/s" larger is better, with any other smaller; a ratio above 1 always means that ours is
    faster.
    """
    rate = unit == "steps/s"
    best = max if rate else min
    typical, peers = statistics.median(ours), statistics.median(peer)
    ratios = (
        (typical / peers, best(ours) / best(peer)) if rate else (peers / typical, best(peer) / best(ours))
    )
    line = {"name": name, "unit": unit, "ours": typical, "peer": peers, "ratio": ratios[0]}
    return {
        k: float(f"{v:.4g}") if isinstance(v, float) else v
        for k, v in (line | {"ratio_best": ratios[1]}).items()
    }


def load() -> float:
    """Processes that wait for a core, mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def publish(lines: list[dict[str, Any]], name: str, command: str, before: float) -> None:
    """Print one JSON line a figure and write results/speed/NAME.csv with its entry in the manifest."""
    for line in lines:
        print(json.dumps(line), flush=True)
    write_table(FOLDER / f"{name}.csv", pd.DataFrame(lines))
    path = FOLDER / "manifest.json"
    manifest = json.loads(path.read_text()) if path.is_file() else {}
    tables = manifest.get("tables", {})
    entry = {"command": command, "load_before": before, "machine_was_shared": before > QUIET}
    write_json(path, {"tables": {**tables, name: entry}, "versions": versions()})
