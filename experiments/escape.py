"""Escaping local optima on the toggle switch: one design fixed before the run, and the parts that run it.

A cell starts in A, is paid for the fall of its squared error to B, and pays for every control; it is content
in the progenitor between the two. `twinlib.results.escape_design` holds the records of the design;
`settings` lists every run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.escape_density import DENSITY_ALGORITHMS, DensityDesign, density_rows
from experiments.experiment import Experiment, Scratch, option
from experiments.part import Part, Row
from twinlib.environment.known_answers import ToggleConfig, ToggleDynamics, WatchedToggle
from twinlib.landscapes.optimal_control import ValueGrid, best_return, best_success
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.training import make_generators, train
from twinlib.results.escape_design import Design, Setting, packed, training_config

if TYPE_CHECKING:
    import pandas as pd

    from experiments.folder import Parts

#: What each contestant is: an algorithm of `TrainingConfig`, or a name of its own.
CONTESTANTS = (*ALGORITHMS, "PPO_entropy", "PPO_random_restarts")
#: Contestants that do not learn by gradient.
YARDSTICKS = ("random_search", "value_iteration")
Act = Callable[[Tensor, int], Tensor]
#: Expression that the largest byte of a packed path stands for.
PATH_UPPER = 2.8
#: The design of the committed results.
DESIGN = Design()


def tuning_settings(design: Design) -> list[Setting]:
    """Three step sizes for each contestant that learns: small, medium, large."""
    return [
        dataclasses.replace(_base(design, name, design.ablation_barrier, lr, delta), experiment="tuning",
                            setting=f"step {size}")
        for name in CONTESTANTS
        for size, (lr, delta) in enumerate(zip(design.learning_rates, design.deltas, strict=True))
    ]  # fmt: skip


def _base(design: Design, contestant: str, barrier: str, lr: float, delta: float) -> Setting:
    """The main setting of a contestant with its step sizes."""
    return Setting("main", contestant, barrier, "", lr, delta, design.warm_start, design.beta, design.log_std)


def settings(design: Design, tuned: dict[str, int], hand_over_log_std: float) -> list[Setting]:
    """Every setting after the tuning: the main experiment, then what is varied one at a time.

    `tuned` maps a contestant to the number of its step size, `hand_over_log_std` is the log standard
    deviation that the warm start of the tuning runs handed over.
    """

    def base(name: str, barrier: str) -> Setting:
        size = tuned[name]
        return _base(design, name, barrier, design.learning_rates[size], design.deltas[size])

    main = [base(name, b.name) for b in design.barriers for name in CONTESTANTS]
    main += [Setting("main", name, b.name) for b in design.barriers for name in YARDSTICKS]
    two, ppo = (base(name, design.ablation_barrier) for name in ("two_stage", "PPO"))
    return main + _varied(design, two) + _causes(two, ppo, hand_over_log_std)


def _varied(design: Design, two: Setting) -> list[Setting]:
    """Warm start, delta and beta of two_stage, one at a time; the main setting is not run again."""
    values = {"warm_start": design.warm_starts, "delta": design.deltas, "beta": design.betas}
    return [
        dataclasses.replace(two, experiment=name, setting=f"{value:g}", **{name: value})  # type: ignore[arg-type]
        for name, tried in values.items()
        for value in tried
        if value != getattr(two, name)
    ]


def _causes(two: Setting, ppo: Setting, hand_over_log_std: float) -> list[Setting]:
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


# -- one setting--------------------------------------------------------------------------------------------
def toggle_config(design: Design, barrier: str) -> ToggleConfig:
    """The environment of a landscape: 40 actions of half a time unit each, start A, target B."""
    b = design.barrier(barrier)
    switch = ToggleSwitch(a=b.a, noise=b.noise)
    return ToggleConfig(switch=switch, strength=b.strength, dt=0.25, l1=design.l1)


@dataclass
class Trained:
    """A trained contestant: how it acts, and its training, one entry an iteration and replica [K, R]."""

    act: Act
    returns: np.ndarray
    left: np.ndarray
    reached: np.ndarray
    log_std: np.ndarray


def train_setting(design: Design, setting: Setting, seeds: Sequence[int]) -> Trained:
    """Train one contestant with one replica a seed."""
    if setting.contestant == "random_search":
        return _random_search(design, setting, seeds)
    if setting.contestant == "PPO_random_restarts":
        return _random_restarts(design, setting, seeds)
    return _learned(design, setting, seeds, design.timesteps)[1]


def _learned(
    design: Design, setting: Setting, seeds: Sequence[int], timesteps: int
) -> tuple[ActorCritic, Trained]:
    n_cells = design.steps_per_iteration // 40
    dynamics = WatchedToggle(toggle_config(design, setting.barrier), len(seeds), n_cells)
    policy, history = train(dynamics, training_config(design, setting, timesteps), seeds)
    wide = history.pivot(index="iteration", columns="seed")[["episode_return", "entropy"]]
    # Entropy of two actions is the sum of both log standard deviations and 1 + log(2 pi).
    log_std = (wide["entropy"][list(seeds)].to_numpy() - 1 - np.log(2 * np.pi)) / 2
    left, reached = (torch.stack(x).numpy() for x in zip(*dynamics.ends, strict=True))
    returns = wide["episode_return"][list(seeds)].to_numpy()
    return policy, Trained(lambda obs, _t: policy.act(obs), returns, left, reached, log_std)


def _random_restarts(design: Design, setting: Setting, seeds: Sequence[int]) -> Trained:
    """PPO from several fresh starts that share the steps; the one with the best last returns is kept."""
    share = design.timesteps // design.restarts
    runs = [_learned(design, setting, [s + 10_000 * k for s in seeds], share) for k in range(design.restarts)]
    last = np.stack([run.returns[-5:].mean(0) for _, run in runs])
    best, policy = last.argmax(0), runs[0][0]
    policy.theta = torch.stack([runs[k][0].theta[r] for r, k in enumerate(best)])
    joined = [
        np.concatenate([getattr(run, name) for _, run in runs])
        for name in ("returns", "left", "reached", "log_std")
    ]
    return Trained(lambda obs, _t: policy.act(obs), *joined)


def _random_search(design: Design, setting: Setting, seeds: Sequence[int]) -> Trained:
    """Constant controls drawn uniformly, each tried on one iteration's episodes; the best return is kept."""
    n_cells, tries = design.steps_per_iteration // 40, design.timesteps // design.steps_per_iteration
    drawn = np.stack([np.random.default_rng(s).uniform(-1, 1, size=(tries, 2)) for s in seeds], 1)
    controls = torch.from_numpy(drawn).float()
    dynamics = WatchedToggle(toggle_config(design, setting.barrier), len(seeds), n_cells)
    obs = dynamics.reset(make_generators(seeds, "environment"))
    returns = torch.stack([_episode(dynamics, obs, _constant(u))[0].mean(1) for u in controls])
    best = controls[returns.argmax(0), torch.arange(len(seeds))]
    left, reached = (torch.stack(x).numpy() for x in zip(*dynamics.ends, strict=True))
    return Trained(_constant(best), returns.numpy(), left, reached, np.full(returns.shape, np.nan))


def _constant(u: Tensor) -> Act:
    """Hold the control u [R, 2] of each replica."""
    return lambda obs, _t: u.unsqueeze(1).expand(*obs.shape[:2], 2)


def _episode(dynamics: ToggleDynamics, obs: Tensor, act: Act) -> tuple[Tensor, Tensor]:
    """Run one episode of all cells from observations [R, N, 3]: returns [R, N], path [T + 1, R, N, 2]."""
    total, path = torch.zeros(dynamics.replicas, dynamics.n_cells), [dynamics.latent]
    for t in range(dynamics.horizon):
        step = dynamics.step(act(obs, t))
        total, obs = total + step.reward, step.obs
        path.append(dynamics.final_latent)
    return total, torch.stack(path)


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
    obs = dynamics.reset(make_generators([s + 50_000 for s in seeds], "environment"))
    returns, path = _episode(dynamics, obs, act)
    left, success = dynamics.ends[-1]
    shown = path[:, :, :3].flatten(1, 2).numpy()
    return Judged(returns.mean(1).numpy(), left.numpy(), success.numpy(), shown)


def _first(rate: np.ndarray, steps: int) -> float | None:
    """Steps after which, for the first time, half of an iteration's episodes [K] count; None if never."""
    hit = rate >= 0.5
    return float((hit.argmax() + 1) * steps) if hit.any() else None


def run_setting(design: Design, setting: Setting) -> Part:
    """Train and judge one setting: its rows, its learning curve, and some paths."""
    tuning = setting.experiment == "tuning"
    first = design.first_tuning_seed if tuning else 0
    seeds = list(range(first, first + (design.tuning_seeds if tuning else design.seeds)))
    trained = None if setting.contestant == "value_iteration" else train_setting(design, setting, seeds)
    act = optimal_policy(design, setting.barrier)[1] if trained is None else trained.act
    judged = judge(design, setting.barrier, act, seeds)
    path = [{"name": setting.name, "path": packed(judged.path, PATH_UPPER)}]
    tables: dict[str, Sequence[Row] | pd.DataFrame] = {
        "runs": [setting.head() | row for row in _rows(design, seeds, trained, judged)],
        "curves": [] if trained is None else _curve(design, setting, trained),
        "paths": path if setting.experiment == "main" else [],
    }
    return Part(tables, {"hand_over_log_std": _hand_over_log_std(design, setting, trained)})


def _rows(design: Design, seeds: Sequence[int], trained: Trained | None, judged: Judged) -> list[Row]:
    """One row a seed."""
    learned = [_learned_row(design, trained, r) for r in range(len(seeds))]
    return [
        {
            "seed": seed,
            "success": float(judged.success[r]),
            "left": float(judged.left[r]),
            "escaped": bool(judged.left[r] >= 0.5),
            "reached": bool(judged.success[r] >= 0.5),
            "first_escape": learned[r].pop("first_escape"),
            "first_reach": learned[r].pop("first_reach"),
            "return": float(judged.returns[r]),
        }
        | learned[r]
        for r, seed in enumerate(seeds)
    ]


def _learned_row(design: Design, trained: Trained | None, r: int) -> Row:
    """What the training of replica r says; nothing for a contestant that does not train."""
    names = ("first_escape", "first_reach", "training_return", "training_success", "final_log_std")
    if trained is None:
        return dict.fromkeys(names)
    values = (
        _first(trained.left[:, r], design.steps_per_iteration),
        _first(trained.reached[:, r], design.steps_per_iteration),
        float(trained.returns[-5:, r].mean()),
        float(trained.reached[-5:, r].mean()),
        float(trained.log_std[-1, r]),
    )
    return dict(zip(names, values, strict=True))


def _curve(design: Design, setting: Setting, trained: Trained) -> list[Row]:
    """Means over seeds, of every third iteration."""
    return [
        {
            **setting.head(),
            "environment_steps": (k + 1) * design.steps_per_iteration,
            "episode_return": float(trained.returns[k].mean()),
            "left": float(trained.left[k].mean()),
            "reached": float(trained.reached[k].mean()),
            "log_std": float(trained.log_std[k].mean()),
        }
        for k in range(2, len(trained.returns), 3)
    ]


def _hand_over_log_std(design: Design, setting: Setting, trained: Trained | None) -> float | None:
    """Mean log standard deviation after the warm start."""
    if trained is None or setting.contestant != "two_stage":
        return None
    last = max(1, min(setting.warm_start // design.steps_per_iteration, len(trained.log_std)))
    return float(trained.log_std[last - 1].mean())


@dataclass(frozen=True)
class Tuned:
    """What the tuning has come to."""

    #: The number of its step size by contestant.
    steps: tuple[tuple[str, int], ...]
    #: The log standard deviation that the warm start hands over.
    log_std: float


# -- the whole ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Escape(Experiment):
    """Chapter 13's experiment: who escapes a local optimum of the toggle switch, and by what."""

    name = "escape"

    timesteps: int = option(DESIGN.timesteps, "environment steps of each seed")
    seeds: int = option(DESIGN.seeds, "seeds of each setting, trained side by side")
    cells: str = option(DensityDesign.dataset, "dataset with cells to escape among, or none")
    #: What else is fixed.
    fixed: Design = field(default=DESIGN)
    #: What the tuning has come to, once it is finished.
    tuned: Tuned | None = None

    def __post_init__(self) -> None:
        from twinlib.data.sources import dataset

        _ = self.design
        if self.cells != "none":
            dataset(self.cells)

    @property
    def design(self) -> Design:
        """The design with the options put in."""
        return dataclasses.replace(self.fixed, timesteps=self.timesteps, seeds=self.seeds)

    @property
    def density(self) -> list[str]:
        """The parts among real cells."""
        return [] if self.cells == "none" else [f"density-{name}" for name in DENSITY_ALGORITHMS]

    def settings(self) -> dict[str, Setting]:
        """Settings by name: those of the tuning, and once it is finished those that follow from it."""
        known = tuning_settings(self.design)
        if self.tuned is not None:
            known += settings(self.design, dict(self.tuned.steps), self.tuned.log_std)
        return {setting.name: setting for setting in known}

    def parts(self, finished: Parts) -> Sequence[str]:
        """Everything after the tuning waits for what it chose."""
        return [*self.informed(finished).settings(), *self.density]

    def informed(self, finished: Parts) -> Escape:
        """Return the experiment with the outcome of its tuning, if that is finished."""
        design = self.design
        if any(setting.name not in finished for setting in tuning_settings(design)):
            return self
        steps = chosen_steps(design, finished)
        warm = f"tuning-two_stage-{design.ablation_barrier}-step_{steps['two_stage']}"
        log_std = round(float(finished.facts(warm)["hand_over_log_std"]), 3)
        return dataclasses.replace(self, tuned=Tuned(tuple(steps.items()), log_std))

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Train and judge one setting, or one algorithm among real cells."""
        if part in self.density:
            return Part({"density": density_rows(part.partition("-")[2], DensityDesign(self.cells))})
        return run_setting(self.design, self.settings()[part])

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return runs, curves and density; a run's return is set beside the greatest on its landscape."""
        tables = super().tables(finished)
        del tables["paths"]
        runs = tables["runs"]
        runs["return_share"] = runs["return"] / runs["barrier"].map(optimum(runs))
        return tables

    def files(self, finished: Parts) -> dict[str, Row]:
        """Return the paths of the main experiment by name, and the settings."""
        tuned = self.informed(finished).tuned
        assert tuned is not None
        rows = finished.table("paths", self.parts(finished))
        paths = dict(zip(rows["name"], rows["path"], strict=True))
        return {"paths": paths, "settings": records(self.design, dict(tuned.steps), tuned.log_std)}

    def facts(self, finished: Parts) -> Row:
        """Return the design, what the tuning chose, and what the best controller can do."""
        runs, tuned = finished.table("runs", self.parts(finished)), self.informed(finished).tuned
        assert tuned is not None
        greatest = {b.name: greatest_success(self.design, b.name) for b in self.design.barriers}
        best = optimum(runs)
        return {
            "design": dataclasses.asdict(self.design),
            "runs": len(runs),
            "tuning": {
                "chosen_step": dict(tuned.steps),
                "runs": int((runs["experiment"] == "tuning").sum()),
                "chosen_by": "mean return of the last five iterations",
            },
            "hand_over_log_std": tuned.log_std,
            "optimum": {name: {"return": float(best[name]), "success": p} for name, p in greatest.items()},
        }


def optimum(runs: pd.DataFrame) -> pd.Series:
    """Return the greatest mean return by landscape."""
    best = runs[(runs["experiment"] == "main") & (runs["contestant"] == "value_iteration")]
    return best.groupby("barrier")["return"].mean()


def chosen_steps(design: Design, finished: Parts) -> dict[str, int]:
    """For each contestant the number of the step size with the greatest return at the end of its tuning."""
    chosen = {}
    for name in CONTESTANTS:
        tried = [s.name for s in tuning_settings(design) if s.contestant == name]
        scores = [finished.table("runs", [part])["training_return"].mean() for part in tried]
        chosen[name] = int(np.argmax(scores))
    return chosen


def records(design: Design, tuned: dict[str, int], log_std: float) -> Row:
    """Return what rebuilds the runs: every setting, the environment of each landscape, the form of a path."""
    listed = [*tuning_settings(design), *settings(design, tuned, log_std)]
    toggles = {b.name: toggle_config(design, b.name) for b in design.barriers}
    return {
        "settings": [dataclasses.asdict(setting) for setting in listed],
        "toggle": {name: dataclasses.asdict(config) for name, config in toggles.items()},
        "paths": {"steps": toggles[design.ablation_barrier].horizon, "upper": PATH_UPPER},
    }
