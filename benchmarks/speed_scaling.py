"""How the speed of PPO scales: one seed, one setting varied at a time, against autograd and against SB3.

Processor seconds of an iteration of 2,048 steps (collecting and ten epochs) on one thread, in turns. SB3 gets
the fastest environment a user could write (all cells in one numpy expression), as many cells as ours and the
same networks and minibatches.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from released_peers import STEPS, compared, load, ours, peer, publish, turns

from twinlib.policy.proximal import ProximalConfig

BASE = {"observation": 58, "width": 64, "minibatch": 64, "cells": 64}
VARIED = {
    "observation": (5, 58, 500),
    "width": (32, 128, 256, 512),
    "minibatch": (16, 256, 2048),
    "cells": (1, 8, 512),
}


def settings() -> list[dict[str, int]]:
    """The base and every change of one setting; and wide networks with large minibatches."""
    changed = [BASE | {name: value} for name, values in VARIED.items() for value in values]
    return [*changed, BASE | {"width": 512, "minibatch": 2048}]


def measured(setting: dict[str, int], rounds: int) -> list[dict[str, Any]]:
    observation, width, minibatch, cells = setting.values()
    options = {
        "hidden": (width, width),
        "proximal": ProximalConfig(minibatch_size=minibatch),
        "observation": observation,
    }
    hand, reference = (ours("PPO", 1, cells, compute=c, **options) for c in ("auto", "reference"))
    network = {"net_arch": [width, width]}
    model = peer("PPO", cells, observation, batch_size=minibatch, policy_kwargs=network)
    cases = {
        "ours": hand.iterate,
        "autograd": reference.iterate,
        "SB3": lambda: model.learn(STEPS),
    }
    seconds = {name: [1e3 * x for x in values] for name, values in turns(cases, rounds).items()}
    return [
        compared(f"PPO iteration; {against}", seconds["ours"], seconds[against], "ms") | setting
        for against in ("autograd", "SB3")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of all cases")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    before = load()
    lines = [line for setting in settings() for line in measured(setting, rounds)]
    publish(lines, "scaling", "python benchmarks/speed_scaling.py", before)


if __name__ == "__main__":
    main()
