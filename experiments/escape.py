"""Escaping local optima on the toggle switch: one design fixed before the run, and the command that runs it.

A cell starts in A, is paid for the fall of its squared error to B, and pays for every control; it is content
in the progenitor between the two. `DESIGN` says everything that is varied; `cells` lists every run.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.escape_density import DENSITY_ALGORITHMS, DensityDesign, run_density_cell
from experiments.folder import claimed, versions
from twinlib.environment.batched import State
from twinlib.environment.known_answers import ToggleConfig, ToggleDynamics
from twinlib.files import write_atomic, write_json, write_table
from twinlib.landscapes.optimal_control import ValueGrid, best_return, best_success
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.contracts import Step
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig, make_generators, train
from twinlib.policy.trust_region import TrustRegionConfig

#: What each contestant is: an algorithm of `TrainingConfig`, or a name of its own.
CONTESTANTS = (*ALGORITHMS, "PPO_entropy", "PPO_random_restarts")
#: Contestants that do not learn by gradient.
YARDSTICKS = ("random_search", "value_iteration")
Act = Callable[[Tensor, int], Tensor]
Work = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Barrier:
    """One landscape with its bounded control."""

    #: Its name in the tables.
    name: str
    #: Self-activation a: the tilt; the larger it is, the deeper the progenitor.
    a: float
    #: Noise intensity D.
    noise: float
    #: Largest control on each gene, in expression units per time unit.
    strength: float


@dataclass(frozen=True)
class Design:
    """Everything that the experiment varies and holds fixed; the defaults are the committed run."""

    #: Environment steps of each run.
    timesteps: int = 60_000
    #: Seeds of each setting: 0, 1, ...
    seeds: int = 20
    #: Landscapes that can be escaped from, and one whose control is below the threshold, without noise.
    barriers: tuple[Barrier, ...] = (
        Barrier("low", 1.0, 0.005, 0.3),
        Barrier("middle", 1.1, 0.005, 0.3),
        Barrier("high", 1.2, 0.005, 0.3),
        Barrier("below", 1.0, 0.0, 0.18),
    )
    #: Landscape of the tuning and of everything that is varied one at a time.
    ablation_barrier: str = "middle"
    #: Cost of the mean absolute action of a step: the L1 weight of the released reward.
    l1: float = 0.05
    #: Start value of the log standard deviation of an action: that of the described protocol.
    log_std: float = -1.0
    #: Small, medium and large learning rate of Adam, from which each contestant is tuned.
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    #: Small, medium and large trust region, tuned together with the learning rate.
    deltas: tuple[float, ...] = (0.01, 0.03, 0.1)
    #: Seeds of each setting in the tuning: `first_tuning_seed`, ...
    tuning_seeds: int = 4
    first_tuning_seed: int = 1000
    #: TRPO steps before PPO in two_stage, and PPO steps before the fresh optimizer in PPO_restart.
    warm_start: int = 10_000
    #: Lengths of the warm start that are tried.
    warm_starts: tuple[int, ...] = (0, 1000, 3000, 10_000, 30_000)
    #: Weight of the KL penalty in the second stage.
    beta: float = 0.1
    #: Penalty weights that are tried.
    betas: tuple[float, ...] = (0.01, 0.1, 1.0)
    #: Weight of the entropy in PPO_entropy.
    entropy: float = 0.01
    #: Fresh starts that share the steps of PPO_random_restarts.
    restarts: int = 3
    #: Environment steps of each replica between two updates; episodes have 40, so this is 25 whole ones.
    steps_per_iteration: int = 1000
    #: Episodes by which a final policy is judged.
    episodes: int = 200

    def __post_init__(self) -> None:
        if self.ablation_barrier not in [b.name for b in self.barriers]:
            raise ValueError(f"ablation_barrier={self.ablation_barrier!r} is not the name of a barrier.")
        if min(self.timesteps, self.seeds, self.tuning_seeds, self.episodes, self.restarts) < 1:
            raise ValueError("the design needs at least one step, seed, tuning seed, episode and restart.")
        if self.steps_per_iteration % 40:
            raise ValueError("steps_per_iteration must be a multiple of 40, the length of an episode.")

    def barrier(self, name: str) -> Barrier:
        """The landscape of that name."""
        return next(b for b in self.barriers if b.name == name)


#: The design of the committed results.
DESIGN = Design()


@dataclass(frozen=True)
class Cell:
    """One setting of one contestant on one landscape; its seeds run side by side."""

    #: "tuning", "main", "warm_start", "delta", "beta" or "cause".
    experiment: str
    #: One of `CONTESTANTS` or `YARDSTICKS`.
    contestant: str
    #: Name of the landscape.
    barrier: str
    #: What differs from the main setting, in words; "" in the main experiment.
    setting: str = ""
    #: Learning rate of Adam.
    learning_rate: float = 3e-4
    #: Trust region.
    delta: float = 0.01
    #: Steps of the warm start.
    warm_start: int = 10_000
    #: KL penalty of the second stage.
    beta: float = 0.1
    #: Start value of the log standard deviation.
    log_std: float = -1.0
    #: Does the warm start hand its KL to the second stage?
    hand_over: bool = True
    #: KL target of PPO, None for none.
    target_kl: float | None = None

    @property
    def name(self) -> str:
        """A name for a file."""
        parts = (self.experiment, self.contestant, self.barrier, self.setting)
        return "-".join(p for p in parts if p).replace(" ", "_")


def tuning_cells(design: Design) -> list[Cell]:
    """Three step sizes for each contestant that learns: small, medium, large."""
    return [
        dataclasses.replace(_base(design, name, design.ablation_barrier, lr, delta), experiment="tuning",
                            setting=f"step {size}")
        for name in CONTESTANTS
        for size, (lr, delta) in enumerate(zip(design.learning_rates, design.deltas, strict=True))
    ]  # fmt: skip


def _base(design: Design, contestant: str, barrier: str, lr: float, delta: float) -> Cell:
    """The main setting of a contestant with its step sizes."""
    return Cell("main", contestant, barrier, "", lr, delta, design.warm_start, design.beta, design.log_std)


def cells(design: Design, tuned: dict[str, int], hand_over_log_std: float) -> list[Cell]:
    """Every setting after the tuning: the main experiment, then what is varied one at a time.

    `tuned` maps a contestant to the number of its step size, `hand_over_log_std` is the log standard
    deviation that the warm start of the tuning runs handed over.
    """

    def base(name: str, barrier: str) -> Cell:
        size = tuned[name]
        return _base(design, name, barrier, design.learning_rates[size], design.deltas[size])

    main = [base(name, b.name) for b in design.barriers for name in CONTESTANTS]
    main += [Cell("main", name, b.name) for b in design.barriers for name in YARDSTICKS]
    two, ppo = (base(name, design.ablation_barrier) for name in ("two_stage", "PPO"))
    return main + _varied(design, two) + _causes(two, ppo, hand_over_log_std)


def _varied(design: Design, two: Cell) -> list[Cell]:
    """Warm start, delta and beta of two_stage, one at a time; the main setting is not run again."""
    values = {"warm_start": design.warm_starts, "delta": design.deltas, "beta": design.betas}
    return [
        dataclasses.replace(two, experiment=name, setting=f"{value:g}", **{name: value})  # type: ignore[arg-type]
        for name, tried in values.items()
        for value in tried
        if value != getattr(two, name)
    ]


def _causes(two: Cell, ppo: Cell, hand_over_log_std: float) -> list[Cell]:
    """One part of the warm start at a time: what does it take away, what does it add to PPO?"""
    cause = dataclasses.replace
    return [
        cause(two, experiment="cause", setting="no KL target", hand_over=False),
        cause(two, experiment="cause", setting="no KL target, no penalty", hand_over=False, beta=0.0),
        cause(two, experiment="cause", setting="critic warmed up alone", hand_over=False, beta=0.0,
              delta=1e-8),
        cause(ppo, experiment="cause", setting="KL target delta", target_kl=two.delta),
        cause(ppo, experiment="cause", setting="noise of the hand-over", log_std=hand_over_log_std),
        cause(ppo, experiment="cause", setting="noise exp(0)", log_std=0.0),
        cause(two, experiment="cause", setting="noise exp(0)", log_std=0.0),
    ]  # fmt: skip


# -- one cell ----------------------------------------------------------------------------------------------
def toggle_config(design: Design, barrier: str) -> ToggleConfig:
    """The environment of a landscape: 40 actions of half a time unit each, start A, target B."""
    b = design.barrier(barrier)
    switch = ToggleSwitch(a=b.a, noise=b.noise)
    return ToggleConfig(switch=switch, strength=b.strength, dt=0.25, l1=design.l1)


class WatchedToggle(ToggleDynamics):
    """The toggle switch that notes, for each finished episode, where the cells of each replica ended.

    `ends` holds one pair a batch of episodes: share of cells outside the start's basin [R], share in the
    target's basin [R].
    """

    def __init__(self, config: ToggleConfig, replicas: int, n_cells: int) -> None:
        super().__init__(config, replicas, n_cells)
        self.ends: list[tuple[Tensor, Tensor]] = []

    def step(self, action: Tensor) -> Step:
        """Step as usual; all cells end together, because all episodes have the same length."""
        step = super().step(action)
        if bool(step.terminated.any()):
            basin = self.basin(self.final_latent)
            home = int(self.basin(self.start))
            self.ends.append(
                ((basin != home).float().mean(1), self.success(self.final_latent).float().mean(1))
            )
        return step


class ConstantToggle(WatchedToggle):
    """The toggle switch seen blindfold: the observation is 0, so that a policy is two constant controls.

    `pushes` holds the mean control, in units of the strength, of each episode [R, 2]: the policy's path.
    """

    observation_dim = 1

    def __init__(self, config: ToggleConfig, replicas: int, n_cells: int) -> None:
        super().__init__(config, replicas, n_cells)
        self.pushes: list[Tensor] = []
        self._sum = torch.zeros(replicas, 2)

    def _observe(self, state: State) -> Tensor:
        return torch.zeros(self.replicas, self.n_cells, 1)

    def step(self, action: Tensor) -> Step:
        """Step as usual and keep the mean control of the episode."""
        step = super().step(action)
        self._sum += action.mean(1) / self.horizon
        if bool(step.terminated.any()):
            self.pushes.append(self._sum)
            self._sum = torch.zeros_like(self._sum)
        return step


def training_config(design: Design, cell: Cell, timesteps: int) -> TrainingConfig:
    """What `train` needs for a cell; networks and minibatches are the same for all."""
    algorithm = cell.contestant if cell.contestant in ALGORITHMS else "PPO"
    plain = ProximalConfig(learning_rate=cell.learning_rate, minibatch_size=250, target_kl=cell.target_kl)
    entropy = design.entropy if cell.contestant == "PPO_entropy" else 0.0
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=timesteps,
        warm_start_steps=cell.warm_start,
        steps_per_iteration=design.steps_per_iteration,
        proximal=dataclasses.replace(plain, entropy_coefficient=entropy),
        fine_tuning=dataclasses.replace(plain, beta=cell.beta),
        trust_region=TrustRegionConfig(delta=cell.delta),
        critic_minibatch_size=250,
        hand_over=cell.hand_over,
        hidden=(16, 16),
        log_std=cell.log_std,
    )


@dataclass
class Trained:
    """A trained contestant: how it acts, and its training, one entry an iteration and replica [K, R]."""

    act: Act
    returns: np.ndarray
    left: np.ndarray
    reached: np.ndarray
    log_std: np.ndarray


def train_cell(design: Design, cell: Cell, seeds: Sequence[int]) -> Trained:
    """Train one contestant with one replica a seed."""
    if cell.contestant == "random_search":
        return _random_search(design, cell, seeds)
    if cell.contestant == "PPO_random_restarts":
        return _random_restarts(design, cell, seeds)
    return _learned(design, cell, seeds, design.timesteps)[1]


def _learned(design: Design, cell: Cell, seeds: Sequence[int], timesteps: int) -> tuple[ActorCritic, Trained]:
    n_cells = design.steps_per_iteration // 40
    dynamics = WatchedToggle(toggle_config(design, cell.barrier), len(seeds), n_cells)
    policy, history = train(dynamics, training_config(design, cell, timesteps), seeds)
    wide = history.pivot(index="iteration", columns="seed")[["episode_return", "entropy"]]
    # Entropy of two actions is the sum of both log standard deviations and 1 + log(2 pi).
    log_std = (wide["entropy"][list(seeds)].to_numpy() - 1 - np.log(2 * np.pi)) / 2
    left, reached = (torch.stack(x).numpy() for x in zip(*dynamics.ends, strict=True))
    returns = wide["episode_return"][list(seeds)].to_numpy()
    return policy, Trained(lambda obs, _t: policy.act(obs), returns, left, reached, log_std)


def _random_restarts(design: Design, cell: Cell, seeds: Sequence[int]) -> Trained:
    """PPO from several fresh starts that share the steps; the one with the best last returns is kept."""
    share = design.timesteps // design.restarts
    runs = [_learned(design, cell, [s + 10_000 * k for s in seeds], share) for k in range(design.restarts)]
    last = np.stack([run.returns[-5:].mean(0) for _, run in runs])
    best, policy = last.argmax(0), runs[0][0]
    policy.theta = torch.stack([runs[k][0].theta[r] for r, k in enumerate(best)])
    joined = [
        np.concatenate([getattr(run, name) for _, run in runs])
        for name in ("returns", "left", "reached", "log_std")
    ]
    return Trained(lambda obs, _t: policy.act(obs), *joined)


def _random_search(design: Design, cell: Cell, seeds: Sequence[int]) -> Trained:
    """Constant controls drawn uniformly, each tried on one iteration's episodes; the best return is kept."""
    n_cells, tries = design.steps_per_iteration // 40, design.timesteps // design.steps_per_iteration
    drawn = np.stack([np.random.default_rng(s).uniform(-1, 1, size=(tries, 2)) for s in seeds], 1)
    controls = torch.from_numpy(drawn).float()
    dynamics = WatchedToggle(toggle_config(design, cell.barrier), len(seeds), n_cells)
    dynamics.reset(make_generators(seeds, "environment"))
    returns = torch.stack([_episode(dynamics, _constant(u))[0].mean(1) for u in controls])
    best = controls[returns.argmax(0), torch.arange(len(seeds))]
    left, reached = (torch.stack(x).numpy() for x in zip(*dynamics.ends, strict=True))
    return Trained(_constant(best), returns.numpy(), left, reached, np.full(returns.shape, np.nan))


def _constant(u: Tensor) -> Act:
    """Hold the control u [R, 2] of each replica."""
    return lambda obs, _t: u.unsqueeze(1).expand(*obs.shape[:2], 2)


def _episode(dynamics: ToggleDynamics, act: Act) -> tuple[Tensor, Tensor, Tensor]:
    """Run one episode of all cells: returns [R, N], states at its end [R, N, 2], path [T + 1, R, N, 2]."""
    total, path = torch.zeros(dynamics.replicas, dynamics.n_cells), [dynamics.latent]
    obs = dynamics._observe(dynamics._state)
    for t in range(dynamics.horizon):
        step = dynamics.step(act(obs, t))
        total, obs = total + step.reward, step.obs
        path.append(dynamics.final_latent)
    return total, path[-1], torch.stack(path)


def optimal_policy(design: Design, barrier: str) -> tuple[ValueGrid, Act]:
    """The policy of greatest expected return, by value iteration over states and steps to go."""
    config = toggle_config(design, barrier)
    time_units = config.horizon * config.interval
    grid = best_return(config.switch, config.strength, time_units, design.l1, config.target)

    def act(obs: Tensor, t: int) -> Tensor:
        control = grid.policy(obs[..., :2].numpy(), config.horizon - t)
        return torch.from_numpy(control / config.strength).to(obs.dtype)

    return grid, act


def greatest_success(design: Design, barrier: str) -> float:
    """Probability that the best controller, paying nothing, has the cell in B's basin at the end."""
    config = toggle_config(design, barrier)
    grid = best_success(config.switch, config.strength, config.horizon * config.interval, dt=config.interval)
    return float(grid.at(config.switch.attractors[config.start]))


@dataclass(frozen=True)
class Judged:
    """How a final policy did, by replica [R]; `path` [T + 1, cells, 2] of the first replicas' cells."""

    returns: np.ndarray
    left: np.ndarray
    success: np.ndarray
    path: np.ndarray


def judge(design: Design, barrier: str, act: Act, seeds: Sequence[int]) -> Judged:
    """Run the mean action of final policies on fresh noise; success is the basin in which a cell ends."""
    dynamics = WatchedToggle(toggle_config(design, barrier), len(seeds), design.episodes)
    dynamics.reset(make_generators([s + 50_000 for s in seeds], "environment"))
    returns, _, path = _episode(dynamics, act)
    left, success = dynamics.ends[-1]
    shown = path[:, :, :3].flatten(1, 2).numpy()
    return Judged(returns.mean(1).numpy(), left.numpy(), success.numpy(), shown)


def _first(rate: np.ndarray, steps: int) -> list[float | None]:
    """Steps [R] after which, for the first time, half of an iteration's episodes count; None if never."""
    hit = rate >= 0.5
    return [float((column.argmax() + 1) * steps) if column.any() else None for column in hit.T]


def run_cell(design: Design, cell: Cell) -> dict[str, Any]:
    """Train and judge one cell; returns its rows, its learning curve, and some paths, ready for JSON."""
    torch.set_num_threads(1)
    began = time.process_time()
    tuning = cell.experiment == "tuning"
    first = design.first_tuning_seed if tuning else 0
    seeds = list(range(first, first + (design.tuning_seeds if tuning else design.seeds)))
    done = None if cell.contestant == "value_iteration" else train_cell(design, cell, seeds)
    act = optimal_policy(design, cell.barrier)[1] if done is None else done.act
    found = judge(design, cell.barrier, act, seeds)
    return {
        "rows": _rows(design, cell, seeds, done, found),
        "curve": [] if done is None else _curve(design, cell, done),
        "path": _packed(found.path) if cell.experiment == "main" else None,
        "hand_over_log_std": _hand_over_log_std(design, cell, done),
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def _rows(
    design: Design, cell: Cell, seeds: Sequence[int], done: Trained | None, found: Judged
) -> list[dict[str, Any]]:
    """One row a seed."""
    never: list[float | None] = [None] * len(seeds)
    steps = design.steps_per_iteration
    first_left, first_reached = (never, never) if done is None else (
        _first(done.left, steps), _first(done.reached, steps)
    )  # fmt: skip
    named = {
        key: value
        for key, value in dataclasses.asdict(cell).items()
        if key in ("experiment", "contestant", "barrier", "setting")
    }
    return [
        {
            **named,
            "seed": seed,
            "success": float(found.success[r]),
            "left": float(found.left[r]),
            "escaped": bool(found.left[r] >= 0.5),
            "reached": bool(found.success[r] >= 0.5),
            "first_escape": first_left[r],
            "first_reach": first_reached[r],
            "return": float(found.returns[r]),
            "training_return": None if done is None else float(done.returns[-5:, r].mean()),
            "training_success": None if done is None else float(done.reached[-5:, r].mean()),
            "final_log_std": None if done is None else float(done.log_std[-1, r]),
        }
        for r, seed in enumerate(seeds)
    ]


def _curve(design: Design, cell: Cell, done: Trained) -> list[dict[str, Any]]:
    """Means over seeds, of every third iteration."""
    return [
        {
            "experiment": cell.experiment,
            "contestant": cell.contestant,
            "barrier": cell.barrier,
            "setting": cell.setting,
            "environment_steps": (k + 1) * design.steps_per_iteration,
            "episode_return": float(done.returns[k].mean()),
            "left": float(done.left[k].mean()),
            "reached": float(done.reached[k].mean()),
            "log_std": float(done.log_std[k].mean()),
        }
        for k in range(2, len(done.returns), 3)
    ]


def _hand_over_log_std(design: Design, cell: Cell, done: Trained | None) -> float | None:
    """Mean log standard deviation after the warm start."""
    if done is None or cell.contestant != "two_stage":
        return None
    last = max(1, min(cell.warm_start // design.steps_per_iteration, len(done.log_std)))
    return float(done.log_std[last - 1].mean())


#: Expression that the largest byte of a packed path stands for.
PATH_UPPER = 2.8


def _packed(path: np.ndarray) -> str:
    """A path [T + 1, n, 2] as bytes in base64."""
    return base64.b64encode(
        np.rint(np.clip(path / PATH_UPPER, 0, 1) * 255).astype(np.uint8).tobytes()
    ).decode()


def unpacked(text: str) -> np.ndarray:
    """A path [T + 1, n, 2] from `paths.json`, in expression units, to within 1 / 180."""
    flat = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return flat.reshape(41, -1, 2) / 255 * PATH_UPPER


# -- the whole ---------------------------------------------------------------------------------------------
def chosen_steps(design: Design, parts: dict[str, dict[str, Any]]) -> dict[str, int]:
    """For each contestant the number of the step size with the greatest return at the end of its tuning."""
    chosen = {}
    for name in CONTESTANTS:
        tried = [c for c in tuning_cells(design) if c.contestant == name]
        score = [np.mean([row["training_return"] for row in parts[c.name]["rows"]]) for c in tried]
        chosen[name] = int(np.argmax(score))
    return chosen


def run_escape(
    out: str | pathlib.Path,
    design: Design = DESIGN,
    resume: bool = False,
    jobs: int = 1,
    progress: bool = False,
    density: DensityDesign | None = None,
) -> pathlib.Path:
    """Run the design and write runs.csv, curves.csv, paths.json and manifest.json into the folder `out`.

    With `density` the comparison on cells follows, in density.csv. A finished cell is kept in `out/parts` and
    never computed again; with `resume` a stopped run goes on. `jobs` processes share the cells. Raises
    FolderError when the folder is taken.
    """
    out = pathlib.Path(out)
    # Through JSON, so that what is read back compares equal to it.
    identity = json.loads(json.dumps({"escape": dataclasses.asdict(design)}))
    with claimed(out, resume, identity) as folder:
        first = tuning_cells(design)
        parts = _run_all(design, first, folder, jobs, progress)
        tuned = chosen_steps(design, parts)
        handed = parts[f"tuning-two_stage-{design.ablation_barrier}-step_{tuned['two_stage']}"]
        log_std = round(float(handed["hand_over_log_std"]), 3)
        listed = cells(design, tuned, log_std)
        parts |= _run_all(design, listed, folder, jobs, progress)
        _write(out, design, [*first, *listed], parts, tuned, log_std)
        if density is not None:
            _run_density(out, density, folder, jobs, progress)
    return out


def _run_density(
    out: pathlib.Path, density: DensityDesign, folder: pathlib.Path, jobs: int, progress: bool
) -> None:
    """Run the comparison on cells, one algorithm a part, and write its table."""
    work: dict[str, Work] = {
        f"density-{density.dataset}-{name}": partial(run_density_cell, name, density)
        for name in DENSITY_ALGORITHMS
    }
    parts = _finished(work, folder, jobs, progress)
    write_table(out / "density.csv", pd.DataFrame([row for part in parts.values() for row in part["rows"]]))


def _run_all(
    design: Design, listed: Sequence[Cell], folder: pathlib.Path, jobs: int, progress: bool
) -> dict[str, dict[str, Any]]:
    """Parts of all cells by name."""
    return _finished({c.name: partial(run_cell, design, c) for c in listed}, folder, jobs, progress)


def _finished(
    work: dict[str, Work], folder: pathlib.Path, jobs: int, progress: bool
) -> dict[str, dict[str, Any]]:
    """Parts by name: read where they are finished, computed and written where they are not."""
    from tqdm import tqdm

    waiting = {name: make for name, make in work.items() if not (folder / f"{name}.json").exists()}
    with tqdm(total=len(waiting), disable=not progress, unit="cell", leave=False) as bar:
        for name, part in _computed(waiting, jobs):
            write_json(folder / f"{name}.json", part)
            bar.update()
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in work}


def _computed(waiting: dict[str, Work], jobs: int) -> Iterable[tuple[str, dict[str, Any]]]:
    """Parts as they finish, from this process or from `jobs` others."""
    if jobs == 1:
        for name, make in waiting.items():
            yield name, make()
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # A fresh process each: torch's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(make): name for name, make in waiting.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _write(
    out: pathlib.Path,
    design: Design,
    listed: Sequence[Cell],
    parts: dict[str, dict[str, Any]],
    tuned: dict[str, int],
    log_std: float,
) -> None:
    """Write the tables of a finished run."""
    runs = pd.DataFrame([row for cell in listed for row in parts[cell.name]["rows"]])
    best = runs[(runs["experiment"] == "main") & (runs["contestant"] == "value_iteration")]
    optimum = best.groupby("barrier")["return"].mean()
    runs["return_share"] = runs["return"] / runs["barrier"].map(optimum)
    greatest = {b.name: greatest_success(design, b.name) for b in design.barriers}
    write_table(out / "runs.csv", runs)
    write_table(out / "curves.csv", pd.DataFrame([r for c in listed for r in parts[c.name]["curve"]]))
    paths = {c.name: parts[c.name]["path"] for c in listed if parts[c.name]["path"]}
    write_atomic(out / "paths.json", lambda beside: beside.write_text(json.dumps(paths, indent=0) + "\n"))
    write_json(
        out / "manifest.json",
        {
            "design": dataclasses.asdict(design),
            "runs": len(runs),
            "tuning": {
                "chosen_step": tuned,
                "runs": int((runs["experiment"] == "tuning").sum()),
                "chosen_by": "mean return of the last five iterations",
            },
            "hand_over_log_std": log_std,
            "optimum": {name: {"return": float(optimum[name]), "success": p} for name, p in greatest.items()},
            "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts.values()), 1),
            "versions": versions(),
        },
    )
