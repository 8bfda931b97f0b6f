"""Returns of our PPO and of Stable-Baselines3's on gymnasium's own tasks, the same settings for both.

python benchmarks/peer_returns.py                 three seeds a library, a few minutes, prints only
python benchmarks/peer_returns.py --seeds 10 --store   ten seeds, writes results/peers/ with a manifest
python benchmarks/peer_returns.py --seeds 30 --tasks CartPole-v1 --store   more seeds of one task

Each line printed is JSON: the task, the mean return of a random policy, of ours and of theirs, and the 90 %
interval of ours minus theirs as a share of their gain over random.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch

from twinlib.policy.gymnasium_tasks import gymnasium_task
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig, train

ROOT = pathlib.Path(__file__).resolve().parents[1]

#: rl-baselines3-zoo's settings without schedules and state-dependent exploration, so that both libraries can
#: run exactly the same; Pendulum with shorter iterations and fewer steps, enough for SB3 to gain more than
#: half of the range over a random policy.
TASKS = {
    "CartPole-v1": dict(
        cells=8, steps=32, timesteps=40_960, minibatch=256, epochs=20, rate=1e-3, gamma=0.98, gae_lambda=0.8
    ),
    "Pendulum-v1": dict(
        cells=4, steps=256, timesteps=30_720, minibatch=64, epochs=10, rate=1e-3, gamma=0.9, gae_lambda=0.95
    ),
}


def ours(name: str, seeds: list[int]) -> list[float]:
    """Train all seeds side by side; deterministic returns."""
    t = TASKS[name]
    config = TrainingConfig(
        algorithm="PPO",
        timesteps=t["timesteps"],
        steps_per_iteration=t["cells"] * t["steps"],
        gamma=t["gamma"],
        gae_lambda=t["gae_lambda"],
        proximal=ProximalConfig(learning_rate=t["rate"], minibatch_size=t["minibatch"], epochs=t["epochs"]),
    )
    task = gymnasium_task(name, t["cells"])
    policy, _ = train(task, config, seeds)

    def act(replica: int, obs: np.ndarray) -> object:
        action = policy.replica(replica).act(torch.as_tensor(obs, dtype=torch.float32)[None, None])[0, 0]
        return int(action) if policy.discrete else action.clamp(task.action.low, task.action.high).numpy()

    return [score(name, lambda obs, r=r: act(r, obs)) for r in range(len(seeds))]


def score(name: str, act: Callable[[np.ndarray], object], episodes: int = 20, seed: int = 10_000) -> float:
    """Mean return of `act(obs [O]) -> action` over episodes with fixed seeds."""
    env, total = gymnasium.make(name), 0.0
    for k in range(episodes):
        obs, done = env.reset(seed=seed + k)[0], False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            total, done = total + float(reward), terminated or truncated
    return total / episodes


def theirs(name: str, seed: int) -> float:
    """One Stable-Baselines3 run; deterministic return."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    t = TASKS[name]
    model = PPO(
        "MlpPolicy",
        make_vec_env(name, t["cells"], seed=seed),
        n_steps=t["steps"],
        batch_size=t["minibatch"],
        n_epochs=t["epochs"],
        learning_rate=t["rate"],
        gamma=t["gamma"],
        gae_lambda=t["gae_lambda"],
        seed=seed,
        device="cpu",
    )
    model.learn(t["timesteps"])
    return score(name, lambda obs: model.predict(obs, deterministic=True)[0])


def random_return(name: str) -> float:
    """Mean return of uniformly drawn actions."""
    space = gymnasium.make(name).action_space
    space.seed(0)
    return score(name, lambda _: space.sample(), episodes=100)


def interval(a: np.ndarray, b: np.ndarray, level: float = 0.9, draws: int = 10_000) -> tuple[float, float]:
    """Bootstrap interval of mean(a) - mean(b) over seeds; the seeds of two libraries are not paired."""
    rng = np.random.default_rng(0)
    means = [x[rng.integers(len(x), size=(draws, len(x)))].mean(1) for x in (a, b)]
    low, high = np.quantile(means[0] - means[1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare(rows: list[dict[str, object]], name: str) -> dict[str, object]:
    """One line of the comparison from the stored rows."""
    of = {
        library: np.array([float(r["return"]) for r in rows if r["task"] == name and r["library"] == library])
        for library in ("random", "twinlib", "stable_baselines3")
    }
    gain = of["stable_baselines3"].mean() - of["random"].mean()
    low, high = interval(of["twinlib"], of["stable_baselines3"])
    return {
        "name": f"return {name}",
        "random": of["random"].mean(),
        "ours": of["twinlib"].mean(),
        "peer": of["stable_baselines3"].mean(),
        "seeds": len(of["twinlib"]),
        "difference_low_share_of_gain": low / gain,
        "difference_high_share_of_gain": high / gain,
    }


def kept(folder: pathlib.Path, tasks: list[str]) -> list[dict[str, object]]:
    """Rows of the stored tasks that this run does not renew."""
    path = folder / "returns.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["task"] not in tasks]


def store(rows: list[dict[str, object]], seconds: dict[str, float]) -> None:
    """Write results/peers/returns.csv and its manifest, each beside and then in place; see `kept`."""
    folder = ROOT / "results" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    old = folder / "manifest.json"
    known = json.loads(old.read_text())["seconds"] if old.exists() else {}
    rows = rows + kept(folder, list(seconds))
    packages = ("twinlib", "torch", "gymnasium", "stable_baselines3", "numpy")
    count = {name: sum(r["task"] == name and r["library"] == "twinlib" for r in rows) for name in TASKS}
    manifest = {
        "commands": [
            f"python benchmarks/peer_returns.py --seeds {n} --tasks {name} --store"
            for name, n in count.items()
        ],
        "seeds": count,
        "seconds": known | {name: round(value, 1) for name, value in seconds.items()},
        "settings": TASKS,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "score": "mean return of the deterministic policy over 20 episodes with fixed seeds",
    }
    beside = folder / "returns.csv.partial"
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["task", "library", "seed", "return"])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(beside, folder / "returns.csv")
    beside = folder / "manifest.json.partial"
    beside.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(beside, folder / "manifest.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, rows, seconds = list(range(options.seeds)), [], {}
    for name in options.tasks:
        start = time.perf_counter()
        rows.append({"task": name, "library": "random", "seed": 0, "return": random_return(name)})
        rows += [
            {"task": name, "library": "twinlib", "seed": s, "return": r}
            for s, r in zip(seeds, ours(name, seeds), strict=True)
        ]
        rows += [
            {"task": name, "library": "stable_baselines3", "seed": s, "return": theirs(name, s)}
            for s in seeds
        ]
        seconds[name] = time.perf_counter() - start
        print(json.dumps(compare(rows, name)), flush=True)
    if options.store:
        store(rows, seconds)


if __name__ == "__main__":
    main()
