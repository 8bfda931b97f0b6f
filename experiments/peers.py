"""Returns of our PPO and of Stable-Baselines3's on gymnasium's own tasks, the same settings for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.experiment import Experiment, Scratch, one_of, option
from experiments.part import Part, Row
from twinlib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from experiments.folder import Parts


@dataclass(frozen=True)
class Task:
    """Settings of one task, which both libraries take."""

    #: Cells side by side, and steps of each between two updates.
    cells: int
    steps: int
    #: Environment steps of a seed.
    timesteps: int
    #: Rows of a minibatch, passes over the data, learning rate.
    minibatch: int
    epochs: int
    rate: float
    #: Discount, and lambda of generalized advantage estimation.
    gamma: float
    gae_lambda: float


#: rl-baselines3-zoo's settings without schedules and state-dependent exploration, so that both libraries can
#: run exactly the same; Pendulum with shorter iterations and fewer steps, enough for SB3 to gain more than
#: half of the range over a random policy.
TASKS = {
    "CartPole-v1": Task(8, 32, 40_960, minibatch=256, epochs=20, rate=1e-3, gamma=0.98, gae_lambda=0.8),
    "Pendulum-v1": Task(4, 256, 30_720, minibatch=64, epochs=10, rate=1e-3, gamma=0.9, gae_lambda=0.95),
}
LIBRARIES = ("random", "twinlib", "stable_baselines3")
#: A policy: maps an observation [O] to an action.
Act = Callable[[np.ndarray], int | np.ndarray]


def score(name: str, act: Act, episodes: int = 20, seed: int = 10_000) -> float:
    """Return the mean return of a policy over episodes with fixed seeds."""
    import gymnasium

    env, total = gymnasium.make(name), 0.0
    for k in range(episodes):
        obs, done = env.reset(seed=seed + k)[0], False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            total, done = total + float(reward), terminated or truncated
    return total / episodes


def random_return(name: str) -> float:
    """Return the mean return of uniformly drawn actions."""
    import gymnasium

    space = gymnasium.make(name).action_space
    space.seed(0)

    def act(_: np.ndarray) -> int | np.ndarray:
        drawn: int | np.ndarray = space.sample()
        return drawn

    return score(name, act, episodes=100)


def ours(name: str, task: Task, seeds: Sequence[int]) -> list[float]:
    """Train all seeds side by side; return the deterministic returns."""
    import torch

    from twinlib.policy.contracts import Discrete
    from twinlib.policy.gymnasium_tasks import gymnasium_task
    from twinlib.policy.proximal import ProximalConfig
    from twinlib.policy.training import TrainingConfig, train

    config = TrainingConfig(
        algorithm="PPO",
        timesteps=task.timesteps,
        steps_per_iteration=task.cells * task.steps,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        proximal=ProximalConfig(learning_rate=task.rate, minibatch_size=task.minibatch, epochs=task.epochs),
    )
    cells = gymnasium_task(name, task.cells)
    policy, _ = train(cells, config, seeds)

    def act(replica: int, obs: np.ndarray) -> int | np.ndarray:
        action = policy.replica(replica).act(torch.as_tensor(obs, dtype=torch.float32)[None, None])[0, 0]
        if isinstance(cells.action, Discrete):
            return int(action)
        return action.clamp(cells.action.low, cells.action.high).numpy()

    return [score(name, partial(act, r)) for r in range(len(seeds))]


def theirs(name: str, task: Task, seed: int) -> float:
    """Train one seed with Stable-Baselines3; return the deterministic return."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO(
        "MlpPolicy",
        make_vec_env(name, task.cells, seed=seed),
        n_steps=task.steps,
        batch_size=task.minibatch,
        n_epochs=task.epochs,
        learning_rate=task.rate,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        seed=seed,
        device="cpu",
    )
    model.learn(task.timesteps)
    return score(name, lambda obs: model.predict(obs, deterministic=True)[0])


def interval(a: np.ndarray, b: np.ndarray, level: float = 0.9, draws: int = 10_000) -> tuple[float, float]:
    """Return the bootstrap interval of mean(a) - mean(b); the seeds of two libraries are not paired."""
    rng = np.random.default_rng(0)
    means = [x[rng.integers(len(x), size=(draws, len(x)))].mean(1) for x in (a, b)]
    low, high = np.quantile(means[0] - means[1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare(rows: pd.DataFrame, name: str) -> Row:
    """Return the mean returns on a task, and the interval of ours minus theirs as a share of their gain."""
    task = rows[rows["task"] == name]
    random, mine, peer = (task[task["library"] == library]["return"].to_numpy(float) for library in LIBRARIES)
    gain = peer.mean() - random.mean()
    low, high = interval(mine, peer)
    return {
        "random": random.mean(),
        "ours": mine.mean(),
        "peer": peer.mean(),
        "seeds": len(mine),
        "difference_low_share_of_gain": low / gain,
        "difference_high_share_of_gain": high / gain,
    }


@dataclass(frozen=True)
class Peers(Experiment):
    """PPO of twinlib and of Stable-Baselines3 on gymnasium's own tasks."""

    name = "peers"

    tasks: tuple[str, ...] = option(tuple(TASKS), "gymnasium's names of the tasks")
    seeds: tuple[int, ...] = option((30, 10), "number of seeds of each library, one for each task")

    def __post_init__(self) -> None:
        one_of("task", self.tasks, tuple(TASKS))
        if len(self.seeds) != len(self.tasks) or min(self.seeds) < 1:
            raise InputError(f"seeds is {self.seeds}; give 1 or more for each of {', '.join(self.tasks)}.")

    def parts(self, finished: Parts) -> Sequence[str]:
        """Ours train side by side; theirs are one part a seed."""
        return [
            part
            for name, seeds in zip(self.tasks, self.seeds, strict=True)
            for part in (f"{name}@random", f"{name}@twinlib")
            + tuple(f"{name}@stable_baselines3~{seed}" for seed in range(seeds))
        ]

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Train and score one library on one task."""
        name, _, rest = part.partition("@")
        library, _, seed = rest.partition("~")
        if library == "random":
            returns = {0: random_return(name)}
        elif library == "twinlib":
            seeds = range(self.seeds[self.tasks.index(name)])
            returns = dict(zip(seeds, ours(name, TASKS[name], seeds), strict=True))
        else:
            returns = {int(seed): theirs(name, TASKS[name], int(seed))}
        head = {"task": name, "library": library}
        return Part({"returns": [head | {"seed": s, "return": r} for s, r in returns.items()]})

    def facts(self, finished: Parts) -> Row:
        """Return the settings, the versions that matter here, and what the score is."""
        import importlib.metadata

        return {
            "settings": {name: asdict(TASKS[name]) for name in self.tasks},
            "stable_baselines3": importlib.metadata.version("stable_baselines3"),
            "score": "mean return of the deterministic policy over 20 episodes with fixed seeds",
        }
