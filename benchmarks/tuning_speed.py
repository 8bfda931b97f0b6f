"""Steps per second of the tuning: which settings side by side are fastest, and how long the whole run takes.

Processor seconds on one thread, training alone; the setting of the middle of the drawn minibatches. The last
line of a dataset adds up what its 24 draws cost, minibatch by minibatch. One JSON line a figure.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

import torch

from twinlib.data.preparation import standard
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.packaged import packaged_world
from twinlib.policy.algorithms import TUNED
from twinlib.policy.random_settings import DRAWS, draw, training_config
from twinlib.policy.training import train

if TYPE_CHECKING:
    from twinlib.environment.world import World

#: Replicas of one setting: seeds of the tuning.
SEEDS = 3
#: Settings side by side.
SIDE_BY_SIDE = (1, 2, 4, 8)
#: Environment steps of each replica in a measurement: four updates.
STEPS = 8192
#: Environment steps of each seed in the tuning.
FULL = 150_000


def world_of(dataset: str) -> World:
    """Return the world of fold 1."""
    from twinlib.embedding.train import pretrained

    if dataset == "waddington":
        return packaged_world()
    return make_world(standard(dataset), pretrained(dataset))


def steps_per_second(world: World, algorithm: str, numbers: list[int]) -> float:
    """Return environment steps a processor second of the draws `numbers`, each with its seeds."""
    configs = [training_config(algorithm, draw(k), STEPS) for k in numbers for _ in range(SEEDS)]
    task = Dynamics(world, EnvironmentConfig(), replicas=len(configs), n_cells=64)
    before = time.process_time()
    train(task, configs, list(range(SEEDS)) * len(numbers))
    return STEPS * len(configs) / (time.process_time() - before)


def one_a_shape() -> dict[int, list[int]]:
    """Return the numbers of the draws by minibatch."""
    shapes: dict[int, list[int]] = {}
    for k in range(DRAWS):
        shapes.setdefault(draw(k).minibatch_size, []).append(k)
    return dict(sorted(shapes.items()))


def measure(dataset: str) -> None:
    """Print the figures of one dataset."""
    world, shapes = world_of(dataset), one_a_shape()
    middle = max(shapes.values(), key=len)
    steps_per_second(world, "two_stage", middle[:1])  # loads what is compiled
    for number in (n for n in SIDE_BY_SIDE if n <= len(middle)):
        speed = steps_per_second(world, "PPO", middle[:number])
        line = {"dataset": dataset, "algorithm": "PPO", "minibatch": draw(middle[0]).minibatch_size}
        print(json.dumps(line | {"replicas": SEEDS * number, "steps_per_s": round(speed)}), flush=True)
    for algorithm in TUNED:
        seconds = 0.0
        for minibatch, numbers in shapes.items():
            speed = steps_per_second(world, algorithm, numbers[:1])
            seconds += len(numbers) * SEEDS * FULL / speed
            line = {"dataset": dataset, "algorithm": algorithm, "minibatch": minibatch}
            print(json.dumps(line | {"replicas": SEEDS, "steps_per_s": round(speed)}), flush=True)
        steps = DRAWS * SEEDS * FULL
        line = {"dataset": dataset, "algorithm": algorithm, "whole_tuning_min": round(seconds / 60, 1)}
        print(json.dumps(line | {"steps_per_s": round(steps / seconds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["waddington"], help="datasets to measure")
    torch.set_num_threads(1)
    for dataset in parser.parse_args().datasets:
        measure(dataset)


if __name__ == "__main__":
    main()
