"""Training R replicas side by side on any task: Algorithm 1, and every other algorithm of the registry."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from twinlib.errors import InputError, RunError
from twinlib.files import write_atomic
from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.algorithms import ALGORITHMS, Stage
from twinlib.policy.contracts import Discrete, Saved, Task
from twinlib.policy.proximal import ProximalConfig, critic_update, proximal_update
from twinlib.policy.rollout import Buffer, Collector, explained_variance
from twinlib.policy.trust_region import TrustRegionConfig, trust_region_update

if TYPE_CHECKING:
    import pandas as pd

STREAMS = ("weights", "actions", "order", "environment")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run; replicas (seeds) share it."""

    #: a name in `twinlib.policy.algorithms.ALGORITHMS`
    algorithm: str = "two_stage"
    #: environment steps of each replica
    timesteps: int = 150_000
    #: environment steps of the first stage, in algorithms that have two
    warm_start_steps: int = 10_000
    #: environment steps of each replica between two updates (T N)
    steps_per_iteration: int = 2048
    #: discount factor
    gamma: float = 0.99
    #: lambda of generalized advantage estimation
    gae_lambda: float = 0.95
    #: settings of PPO by itself
    proximal: ProximalConfig = field(default_factory=ProximalConfig)
    #: settings of PPO after or between TRPO updates: clip, penalty and stop
    fine_tuning: ProximalConfig = field(default_factory=lambda: ProximalConfig(beta=0.1))
    #: settings of TRPO
    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    #: passes of the critic over the buffer in a TRPO update
    critic_epochs: int = 10
    #: step size of the critic in a TRPO update
    critic_learning_rate: float = 1e-3
    #: minibatch rows of the critic in a TRPO update
    critic_minibatch_size: int = 128
    #: PPO on the data of a TRPO step: "behaviour" pi_theta / pi_theta_k, or "printed" pi_theta / pi_theta'
    ratio: str = "behaviour"
    #: take the KL target of the PPO stage from the TRPO stage (Remark 3.1)
    hand_over: bool = True
    #: multiple of that KL which is handed over (the released code means 1.5 times its logged, averaged KL)
    hand_over_scale: float = 1.0
    #: widths of the tanh layers of actor and critic
    hidden: tuple[int, ...] = (64, 64)
    #: start value of the log standard deviation of each action
    log_std: float = 0.0
    #: "float32" or "float64"
    dtype: str = "float32"
    #: where the networks live
    device: str = "cpu"
    #: "auto": written-out derivatives where there are some (Gaussian, CPU); "reference": autograd everywhere
    compute: str = "auto"

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise InputError(
                f"TrainingConfig: algorithm {self.algorithm!r} is unknown; use {', '.join(ALGORITHMS)}."
            )
        if self.ratio not in ("behaviour", "printed"):
            raise InputError(f"TrainingConfig: ratio is {self.ratio!r}; use 'behaviour' or 'printed'.")
        if self.timesteps < 1 or self.steps_per_iteration < 2:
            raise InputError("TrainingConfig: timesteps and steps_per_iteration are too small; raise them.")
        if self.dtype not in ("float32", "float64"):
            raise InputError(f"TrainingConfig: dtype is {self.dtype!r}; use 'float32' or 'float64'.")


class TrainingResult(NamedTuple):
    """The trained replicas and their learning history (columns: `HISTORY_COLUMNS`)."""

    policy: ActorCritic
    history: pd.DataFrame


#: Every logged quantity and what it means; chapter 10 prints this table.
HISTORY_COLUMNS = {
    "seed": "seed of the replica",
    "iteration": "number of the update, from 1",
    "stage": "TRPO, PPO or TRPO+PPO: what the update was made of",
    "environment_steps": "environment steps of this replica so far",
    "optimizer_steps": "updates of the actor so far: minibatch steps of PPO, accepted steps of TRPO",
    "reward": "mean reward per environment step in this iteration's data (collected before the update)",
    "episode_return": "mean undiscounted return of the episodes that ended in this iteration's data",
    "kl": "Eq. 4: mean KL(collecting || updated policy) over the iteration's data, summed over actions",
    "entropy": "differential entropy of the policy after the update, in nats",
    "explained_variance": "1 - Var(return - value) / Var(return), value from before the update",
    "surrogate_gain": "TRPO: surrogate after minus before; nan where there was no TRPO step",
    "accepted": "TRPO: 1 if the line search accepted a step, else 0; nan where there was no TRPO step",
    "clip_fraction": "PPO: share of ratios outside the clip range, mean over minibatches; nan without PPO",
    "value_loss": "critic: half mean squared error in PPO minibatches, or in the critic's own fit after TRPO",
    "beta": "PPO: weight of the KL penalty in this update; nan without PPO",
    "target_kl": "PPO: the KL target in this update; nan where there is none",
}


def make_generators(
    seeds: Sequence[int], stream: str, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator a seed for one of `STREAMS`, so that no use of chance disturbs another."""
    offset = STREAMS.index(stream) * 104_729 + 1
    return [torch.Generator(device).manual_seed(int(seed) * 7919 + offset) for seed in seeds]


def train(
    task: Task,
    config: TrainingConfig,
    seeds: Sequence[int],
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
) -> TrainingResult:
    """Train one replica per seed in the R x N cells of `task` (R = number of seeds).

    `checkpoint` names a file that is rewritten atomically every `checkpoint_every` iterations and at the end;
    when it exists the run continues from it and ends with the parameters it would have had without the
    interruption, bit for bit (CPU, same machine, same number of threads). Raises InputError with one sentence
    when the file belongs to another run, or the task cannot be saved.
    """
    from tqdm import tqdm

    path = None if checkpoint is None else pathlib.Path(checkpoint)
    if path is not None and not task.resumable:
        raise InputError("This task cannot be saved in mid-episode: train without checkpoint=.")
    if torch.device(config.device).type != task.device.type:
        raise InputError(f"The task is on {task.device}, the networks on {config.device}: move one of them.")
    run = _Run(task, config, seeds)
    if path is not None and path.exists():
        run.load(path)
    first, total = run.environment_steps, config.timesteps
    with tqdm(total=total, initial=first, disable=not progress, unit="step", leave=False) as bar:
        while run.environment_steps < total:
            bar.update(run.iterate())
            bar.set_postfix(_means(run.rows[-len(seeds) :]), refresh=False)
            if path is not None and (run.iteration % checkpoint_every == 0 or run.environment_steps >= total):
                write_atomic(path, lambda beside: torch.save(run.state_dict(), beside))
    return TrainingResult(run.policy, history(run.rows))


Row = dict[str, float | int | str]
Columns = dict[str, Tensor | float | str]


def history(rows: list[Row]) -> pd.DataFrame:
    """Logged rows, one a seed and iteration, as the table of `HISTORY_COLUMNS`."""
    import pandas as pd

    return pd.DataFrame(rows).reindex(columns=list(HISTORY_COLUMNS))


def _means(rows: list[Row]) -> dict[str, str]:
    """Means over seeds for the progress bar."""
    names = ("reward", "kl", "entropy", "explained_variance")
    return {name: f"{sum(float(row[name]) for row in rows) / len(rows):.3g}" for name in names}


class _Run:
    """Everything that changes while R replicas train; a checkpoint holds just this."""

    def __init__(self, task: Task, config: TrainingConfig, seeds: Sequence[int]) -> None:
        self.config, self.seeds = config, [int(s) for s in seeds]
        dtype = {"float32": torch.float32, "float64": torch.float64}[config.dtype]
        places = {"actions": torch.device(config.device), "environment": task.device}
        self.generators = {
            name: make_generators(self.seeds, name, places.get(name, "cpu")) for name in STREAMS
        }
        self.policy = ActorCritic(
            task.observation_dim,
            task.action.size,
            len(self.seeds),
            self.generators["weights"],
            config.hidden,
            config.log_std,
            discrete=isinstance(task.action, Discrete),
            dtype=dtype,
            device=config.device,
            compute=config.compute,
        )
        self.collector = Collector(task, self.generators["environment"], self.generators["actions"], dtype)
        #: time steps T of one iteration
        self.steps = max(1, config.steps_per_iteration // self.collector.obs.shape[1])
        self.iteration = self.environment_steps = 0
        zero = torch.zeros(len(self.seeds), dtype=dtype, device=config.device)
        #: updates of each actor, and the sum and number of its accepted TRPO steps' KL [R]
        self.optimizer_steps, self.kl_sum, self.kl_count = zero.clone(), zero.clone(), zero.clone()
        self.critic_adam = Adam(self.policy.critic, config.critic_learning_rate)
        self.rows: list[Row] = []
        self.begin_stage()

    # -- which update comes next
    @property
    def stage(self) -> Stage:
        """The stage of the next iteration; after the end the last one."""
        stages = ALGORITHMS[self.config.algorithm].stages
        return next((s for s in stages if self.environment_steps < getattr(self.config, s.until)), stages[-1])

    def begin_stage(self) -> None:
        """PPO's settings of the stage, its penalty weight, and an optimizer with empty memory."""
        stage = self.stage
        self.proximal = dataclasses.replace(getattr(self.config, stage.settings), **stage.changes)
        self.beta = torch.zeros_like(self.kl_sum) + self.proximal.beta
        self.adam = Adam(self.policy.theta, self.proximal.learning_rate)

    def iterate(self) -> int:
        """Collect, update, count, log; returns the environment steps that each replica took."""
        stage = self.stage
        buffer = self.collector.collect(self.policy, self.steps, self.config.gamma, self.config.gae_lambda)
        columns = self.update(stage, buffer)
        self.environment_steps += buffer.rows
        self.iteration += 1
        self.log(buffer, {"stage": stage.name, **columns})
        self.require_finite()
        if self.stage is not stage:
            self.begin_stage()
        return buffer.rows

    def require_finite(self) -> None:
        """Stop where an update has left a replica without a usable policy."""
        usable = self.policy.theta.isfinite().all(1) & self.policy.critic.isfinite().all(1)
        lost = [seed for seed, fine in zip(self.seeds, usable.tolist(), strict=True) if not fine]
        if lost:
            raise RunError(
                f"The networks of seed {lost[0]} are not finite after iteration {self.iteration}; "
                "lower the learning rate, or scale the reward down."
            )

    def update(self, stage: Stage, buffer: Buffer) -> Columns:
        """The stage's updates on the same data, one after the other; the columns of the history they fill."""
        make = {"TRPO": self.trust_region, "PPO": self.fine_tune}
        columns = make[stage.updates[0]](buffer)
        for name in stage.updates[1:]:
            columns |= make[name](self.seen_from_here(buffer))
            with torch.no_grad():
                columns["kl"] = buffer.behaviour.kl(self.policy.distribution(buffer.obs)).mean(-1)
        return columns

    def seen_from_here(self, buffer: Buffer) -> Buffer:
        """The data with the present policy as theta' (Algorithm 1, line 10) and the ratio asked for."""
        with torch.no_grad():
            here = self.policy.distribution(buffer.obs).detach()
        log_prob = here.log_prob(buffer.action) if self.config.ratio == "printed" else buffer.log_prob
        return dataclasses.replace(buffer, behaviour=here, log_prob=log_prob)

    # -- the two kinds of update
    def trust_region(self, buffer: Buffer) -> Columns:
        """TRPO on the actor (Algorithm 1, lines 5-9) and the critic's own fit."""
        c = self.config
        outcome = trust_region_update(self.policy, buffer, c.trust_region)
        fit = (c.critic_epochs, c.critic_minibatch_size, self.generators["order"])
        loss = critic_update(self.policy, self.critic_adam, buffer, *fit)
        accepted = outcome.search.accepted.to(self.kl_sum)
        self.kl_sum += outcome.kl * accepted
        self.kl_count += accepted
        self.optimizer_steps += accepted
        return {
            "kl": outcome.kl,
            "accepted": accepted,
            "surrogate_gain": outcome.search.improvement,
            "value_loss": loss,
        }

    def fine_tune(self, buffer: Buffer) -> Columns:
        """PPO from theta', the policy that the buffer names (Algorithm 1, lines 10-18)."""
        target, beta = self.target_kl(), self.beta
        outcome = proximal_update(
            self.policy, self.adam, buffer, self.proximal, self.generators["order"], beta, target
        )
        self.beta = outcome.beta
        self.optimizer_steps += outcome.steps
        columns: Columns = {
            "kl": outcome.kl,
            "clip_fraction": outcome.clip_fraction,
            "value_loss": outcome.value_loss,
            "beta": beta,
        }
        return columns if target is None else columns | {"target_kl": target}

    def target_kl(self) -> Tensor | None:
        """KL target [R]: the config's; else, by Remark 3.1, the mean KL of the accepted TRPO updates.

        A replica whose TRPO stage accepted nothing has no observation; its target is then delta.
        """
        if self.proximal.target_kl is not None:
            return torch.zeros_like(self.beta) + self.proximal.target_kl
        if not (self.config.hand_over and ALGORITHMS[self.config.algorithm].takes_trust_region_steps):
            return None
        mean = self.kl_sum / self.kl_count.clamp(min=1.0)
        mean = torch.where(self.kl_count > 0, mean, self.config.trust_region.delta)
        return self.config.hand_over_scale * mean

    def log(self, buffer: Buffer, columns: Columns) -> None:
        """Append one row a seed."""
        with torch.no_grad():
            entropy = self.policy.entropy(buffer.obs)
        columns = {
            "iteration": self.iteration,
            "environment_steps": self.environment_steps,
            "optimizer_steps": self.optimizer_steps,
            "reward": buffer.reward,
            "episode_return": buffer.episode_return,
            "entropy": entropy,
            "explained_variance": explained_variance(buffer.value, buffer.return_),
            **columns,
        }
        plain = {name: x.tolist() if isinstance(x, Tensor) else x for name, x in columns.items()}
        self.rows += [
            {"seed": seed} | {name: x[r] if isinstance(x, list) else x for name, x in plain.items()}
            for r, seed in enumerate(self.seeds)
        ]

    # -- checkpoints
    def tensors(self) -> dict[str, Tensor]:
        """What is restored by copying."""
        return {
            "theta": self.policy.theta,
            "optimizer_steps": self.optimizer_steps,
            "kl_sum": self.kl_sum,
            "kl_count": self.kl_count,
            "beta": self.beta,
        }

    def identity(self) -> Saved:
        """What must agree between a checkpoint and the run that continues it (timesteps may be raised)."""
        return {**dataclasses.asdict(dataclasses.replace(self.config, timesteps=1)), "seeds": self.seeds}

    def state_dict(self) -> Saved:
        """All that a bit-identical resume needs, as tensors and plain numbers."""
        return {
            "identity": self.identity(),
            "iteration": self.iteration,
            "environment_steps": self.environment_steps,
            "rows": self.rows,
            "tensors": self.tensors(),
            "adam": self.adam.state_dict(),
            "critic_adam": self.critic_adam.state_dict(),
            "generators": {name: [g.get_state() for g in gs] for name, gs in self.generators.items()},
            "collector": self.collector.state_dict(),
        }

    def load(self, path: pathlib.Path) -> None:
        """Continue from a checkpoint."""
        state = _read(path, self.config.device)
        if state["identity"] != self.identity():
            raise InputError(
                f"checkpoint {path.name} was written with other settings or seeds: name another file."
            )
        self.iteration, self.environment_steps = state["iteration"], state["environment_steps"]
        self.rows = state["rows"]
        self.begin_stage()
        for name, own in self.tensors().items():
            own.copy_(state["tensors"][name])
        self.adam.load_state_dict(state["adam"])
        self.critic_adam.load_state_dict(state["critic_adam"])
        for name, generators in self.generators.items():
            for generator, saved in zip(generators, state["generators"][name], strict=True):
                generator.set_state(saved.cpu())
        self.collector.load_state_dict(state["collector"])


def _read(path: pathlib.Path, device: str) -> Saved:
    """A checkpoint's content; a file that is none, or only a part of one, is told in one sentence."""
    try:
        state: Saved = torch.load(path, weights_only=True, map_location=device)
        state["identity"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
        raise InputError(
            f"checkpoint {path.name} cannot be read: delete it to begin anew, or name another file."
        ) from None
    return state
