"""Training steps per second on the released environment: ours with replicas against SB3 and sb3-contrib.

Both run their default hyper-parameters (networks 64-64, 2048 steps an iteration; PPO: minibatch 64, ten
epochs; TRPO: fifteen conjugate gradient iterations, ten critic passes of minibatch 128), each as it would be
used on a machine with two cores: two processes of one thread each, their steps added. Measured in turns; the
median is printed, with ours beside the speed of a plain matrix product on the same machine. The last line is
the peak memory of ten replicas of a long run in one process. With --store the lines are written to
results/speed/training.csv, which a chapter reads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pathlib
import queue
import resource
import statistics
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import torch

from experiments.folder import versions
from experiments.released_world import ReleasedDynamics, ReleasedWorld
from twinlib.files import write_json, write_table
from twinlib.policy.training import TrainingConfig, train

OBSERVATION, ACTIONS = 58, 200
COMMAND = "python benchmarks/ppo_speed.py --store"
STORE = pathlib.Path(__file__).resolve().parents[1] / "results" / "speed" / "training.csv"


def world() -> ReleasedWorld:
    """A stand-in of the released size: random starts, unit effects."""
    g = torch.Generator().manual_seed(0)
    starts = torch.randn(2000, OBSERVATION, generator=g)
    effects = torch.nn.functional.normalize(torch.randn(ACTIONS, OBSERVATION, generator=g), dim=1)
    return ReleasedWorld(starts, torch.ones(2000), starts.mean(0) - starts.std(0), effects, action_scale=0.5)


class OneCell(gymnasium.Env):
    """The same dynamics, one cell at a time in numpy: what an SB3 user would write."""

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
        cost = 0.01 * (action**2).sum() + 0.05 * np.abs(action).sum()
        return self.x, -float(((self.x - self.target) ** 2).sum() + cost), True, False, {}


def ours(algorithm: str, replicas: int, iterations: int, barrier: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    dynamics = ReleasedDynamics(world(), replicas, n_cells=64)
    train(dynamics, TrainingConfig(algorithm=algorithm, timesteps=2048), range(replicas))  # warm up
    barrier.wait()
    start = time.perf_counter()
    train(dynamics, TrainingConfig(algorithm=algorithm, timesteps=2048 * iterations), range(replicas))
    answers.put(replicas * iterations * 2048 / (time.perf_counter() - start))


def peer(algorithm: str, replicas: int, iterations: int, barrier: Any, answers: Any) -> None:
    import sb3_contrib
    import stable_baselines3

    torch.set_num_threads(1)
    kind = stable_baselines3.PPO if algorithm == "PPO" else sb3_contrib.TRPO
    model = kind("MlpPolicy", OneCell(), device="cpu", seed=replicas)
    model.learn(2048)
    barrier.wait()
    start = time.perf_counter()
    model.learn(2048 * iterations)
    answers.put(iterations * 2048 / (time.perf_counter() - start))


def together(function: Any, processes: int, *arguments: Any) -> float:
    """Steps per second of `processes` processes that start their clocks together, added up."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    running = [
        context.Process(target=function, args=(*arguments, barrier, answers)) for _ in range(processes)
    ]
    for process in running:
        process.start()
    total = sum(answers.get() for _ in running)
    for process in running:
        process.join()
    return total


def resident(algorithm: str, replicas: int, iterations: int, barrier: Any, answers: Any) -> None:
    """Peak memory in MB of a whole process that trains; its run is shortened, what it holds is not.

    An iteration's buffer is the same in a short and a long run; only the history grows, by one row a seed.
    """
    ours(algorithm, replicas, iterations, barrier, queue.SimpleQueue())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers.put(peak / (1e6 if sys.platform == "darwin" else 1e3))


def matrix_speed(size: int = 1024, repeats: int = 10) -> float:
    """Multiply-adds per second (times two) of a plain float32 matrix product on one thread."""
    a = torch.randn(size, size)
    a @ a
    start = time.perf_counter()
    for _ in range(repeats):
        a @ a
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def measure(algorithm: str, rounds: int, iterations: int) -> list[dict[str, Any]]:
    """Two lines for one algorithm: ten replicas and one, each against the peer."""
    cases = {"ten replicas": (ours, 2, 5), "one replica": (ours, 1, 1), "peer": (peer, 2, 1)}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (function, processes, replicas) in cases.items():
            found[name].append(together(function, processes, algorithm, replicas, iterations))
    speed = {name: statistics.median(values) for name, values in found.items()}
    flops = 6 * 2 * (OBSERVATION * 64 + 64 * 64 + 64 * ACTIONS / 2 + 32) * 10  # per step, ten epochs
    lines = []
    for name, against in (("ten replicas", speed["peer"]), ("one replica", speed["peer"] / 2)):
        line = {
            "name": f"{algorithm} training steps/s, {name}",
            "ours": round(speed[name]),
            "peer": round(against),
            "ratio": round(speed[name] / against, 2),
        }
        if algorithm == "PPO" and name == "ten replicas":
            line["share_of_matrix_product_speed"] = round(speed[name] * flops / (2 * matrix_speed()), 3)
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and peer")
    parser.add_argument("--iterations", type=int, default=3, help="iterations of 2048 steps a measurement")
    parser.add_argument("--store", action="store_true", help="write results/speed/training.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        line
        for algorithm in ("PPO", "TRPO")
        for line in measure(algorithm, options.rounds, options.iterations)
    ]
    memory = together(resident, 1, "PPO", 10, 2)
    lines.append({"name": "peak memory of ten replicas, MB", "ours": round(memory)})
    for line in lines:
        print(json.dumps(line), flush=True)
    if options.store:
        write_table(STORE, pd.DataFrame(lines))
        write_json(STORE.with_name("manifest.json"), {"command": COMMAND, "versions": versions()})


if __name__ == "__main__":
    main()
