"""Environment steps per second: our vector environment against Stable-Baselines3's DummyVecEnv.

Both run the described gene screen on the packaged world, one thread, in turns; a line is one figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from twinlib.environment.dynamics import EnvironmentConfig
from twinlib.environment.gymnasium_api import CellEnv, CellVectorEnv
from twinlib.environment.packaged import packaged_world


def rate(step: Callable[[], object], cells: int, seconds: float) -> float:
    """Steps of single cells per second, over about `seconds` of stepping."""
    step()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        done += cells
    return done / (time.perf_counter() - start)


def ours(n: int, config: EnvironmentConfig) -> Callable[[], object]:
    env = CellVectorEnv("GeneScreen", n, config=config)
    env.reset(seed=0)
    action = env.action_space.sample()
    return lambda: env.step(action)


def peer(n: int, config: EnvironmentConfig) -> Callable[[], object]:
    from stable_baselines3.common.vec_env import DummyVecEnv

    world = packaged_world()
    env = DummyVecEnv([lambda: CellEnv("GeneScreen", world=world, config=config)] * n)
    env.seed(0)
    env.reset()
    action = np.stack([env.action_space.sample() for _ in range(n)])
    return lambda: env.step(action)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="time a measurement takes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of ours and peer")
    parser.add_argument("--cells", type=int, default=1024, help="cells of our vector environment")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for mode in ("linear", "exact"):
        config = EnvironmentConfig(mode=mode)
        steps = ours(arguments.cells, config), peer(1, config), peer(8, config)
        sizes = arguments.cells, 1, 8
        found = [
            [rate(step, n, arguments.seconds) for step, n in zip(steps, sizes, strict=True)]
            for _ in range(arguments.rounds)
        ]
        mine, one, eight = (statistics.median(column) for column in zip(*found, strict=True))
        best = max(one, eight)
        name = f"environment steps per second, {mode} ({arguments.cells} cells against DummyVecEnv)"
        line = {"name": name, "ours": round(mine), "peer": round(best), "ratio": round(mine / best, 1)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
