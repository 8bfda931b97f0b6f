"""Training speed on the released environment against SB3 and sb3-contrib, as used and at equal terms.

Default hyper-parameters of both libraries (networks 64-64, 2048 steps an iteration; PPO: minibatch 64, ten
epochs; TRPO: fifteen conjugate gradient iterations, ten critic passes of minibatch 128). Whole training runs
in two processes of one thread each, side by side, their steps added; a speed is steps per second of processor
time, so that what others do on the machine enters through the caches only. Ours trains five seeds a process,
or one; the peer one seed a process, with one environment (as it is usually run) or with 64 in one numpy
expression. 'Equal KL' gives TRPO sb3-contrib's KL (mean over actions, new to old). The updates alone and the
floor, what the matrix products of a PPO update take at the speed of a large one, are measured in one process.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import queue
import resource
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from released_peers import ACTIONS, OBSERVATION, STEPS, compared, load, ours, peer, publish, turns

from twinlib.policy.trust_region import TrustRegionConfig

EQUAL = {"trust_region": TrustRegionConfig(kl_reduction="mean_over_actions", kl_direction="new_old")}
CASES = {  # algorithm, replicas or cells, options
    "PPO, ten seeds": (ours, "PPO", 5, {}),
    "PPO, one seed": (ours, "PPO", 1, {}),
    "PPO, SB3 one environment": (peer, "PPO", None, {}),
    "PPO, SB3 64 environments": (peer, "PPO", 64, {}),
    "TRPO, ten seeds": (ours, "TRPO", 5, {}),
    "TRPO, one seed": (ours, "TRPO", 1, {}),
    "TRPO, ten seeds, equal KL": (ours, "TRPO", 5, EQUAL),
    "TRPO, SB3 one environment": (peer, "TRPO", None, {}),
    "TRPO, SB3 64 environments": (peer, "TRPO", 64, {}),
}


def speed(case: str, iterations: int, barrier: Any, answers: Any) -> None:
    """Steps per processor second of this process, after a warm-up."""
    torch.set_num_threads(1)
    make, algorithm, size, options = CASES[case]
    run = make(algorithm, size, **options)
    seeds, go = (size, run.iterate) if make is ours else (1, lambda: run.learn(STEPS))
    go()
    barrier.wait()
    start = time.process_time()
    for _ in range(iterations):
        go()
    answers.put(seeds * iterations * STEPS / (time.process_time() - start))


def memory(iterations: int, barrier: Any, answers: Any) -> None:
    """Peak memory in MB of a process that trains ten replicas; a longer run adds rows to its history only."""
    run = ours("PPO", 10)
    for _ in range(iterations):
        run.iterate()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers.put(peak / (1e6 if sys.platform == "darwin" else 1e3))


def together(function: Any, processes: int, *arguments: Any) -> float:
    """Sum of what `processes` processes answer that start their clocks together."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    running = [
        context.Process(target=function, args=(*arguments, barrier, answers)) for _ in range(processes)
    ]
    for process in running:
        process.start()
    total = 0.0
    while len([p for p in running if p.exitcode is None]) or not answers.empty():
        try:
            total += answers.get(timeout=1.0)
        except queue.Empty:
            if any(p.exitcode for p in running):
                raise SystemExit("a measuring process failed; its message is above.") from None
    return total


def training(rounds: int, iterations: int) -> tuple[list[dict[str, Any]], float]:
    """Ours against both peers; and the speed of ten seeds of PPO."""
    speeds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name in CASES:
            speeds[name].append(together(speed, 2, name, iterations))
    lines = []
    for name in (n for n in CASES if "SB3" not in n):
        for environments in ("one environment", "64 environments"):
            against = speeds[f"{name.split(',')[0]}, SB3 {environments}"]
            lines.append(compared(f"{name}; SB3 {environments}", speeds[name], against, "steps/s"))
    return lines, statistics.median(speeds["PPO, ten seeds"]) / 2


def updates(rounds: int) -> list[dict[str, Any]]:
    """The update alone, of one seed, on one batch from the same parameters each time."""
    cases: dict[str, Any] = {}
    for name, algorithm, options in (("PPO", "PPO", {}), ("TRPO", "TRPO", {}), ("equal KL", "TRPO", EQUAL)):
        for seeds in (5, 1):
            run = ours(algorithm, seeds, **options)
            buffer = run.collector.collect(run.policy, run.steps, 0.99, 0.95)
            theta, stage = run.policy.theta.clone(), run.stage
            cases[f"{name}, {seeds}"] = lambda r=run, b=buffer, t=theta, s=stage: (
                r.policy.theta.copy_(t),
                r.update(s, b),
            )
    for algorithm in ("PPO", "TRPO"):
        model = peer(algorithm, 64)
        model.learn(STEPS)
        state = copy.deepcopy(model.policy.state_dict())
        cases[f"SB3 {algorithm}"] = lambda m=model, s=state: (m.policy.load_state_dict(s), m.train())
    seconds = turns(cases, rounds)
    lines = []
    for name, against in (("PPO", "PPO"), ("TRPO", "TRPO"), ("equal KL", "TRPO")):
        for seeds in (5, 1):
            mine = [1e3 * x / seeds for x in seconds[f"{name}, {seeds}"]]
            label = f"{'TRPO, ' if name == 'equal KL' else ''}{name}: update alone, {seeds} in a process"
            lines.append(compared(label, mine, [1e3 * x for x in seconds[f"SB3 {against}"]], "ms a seed"))
    return lines


def floor(rounds: int, size: int = 1024) -> float:
    """PPO steps per second if the matrix products ran like a large one and nothing else took time.

    A layer's products are forward, weight gradient and input gradient; the first layer has no input gradient.
    """
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    seconds = min(turns({"product": lambda: a @ a}, 5 * rounds)["product"])
    first, hidden, last = OBSERVATION * 64, 64 * 64, 64 * (ACTIONS + 1)
    products = 2 * (2 * first) + 3 * (2 * hidden) + 3 * last
    return 2 * size**3 / seconds / (2 * products * 10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of all cases")
    parser.add_argument("--iterations", type=int, default=3, help="iterations of 2048 steps a measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = load()
    lines, reached = training(options.rounds, options.iterations)
    lines += updates(options.rounds + 2)
    limit = floor(options.rounds)
    share = {"name": "PPO, ten seeds; floor of the matrix products, one process", "unit": "steps/s"}
    lines.append(share | {"ours": round(reached), "peer": round(limit), "ratio": round(reached / limit, 3)})
    size = together(memory, 1, 2)
    lines.append({"name": "peak memory of ten replicas", "unit": "MB", "ours": round(size)})
    publish(lines, "training", "python benchmarks/ppo_speed.py", before)


if __name__ == "__main__":
    main()
