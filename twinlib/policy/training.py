"""Training R replicas side by side on any task: Algorithm 1, and every other algorithm of the registry."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from twinlib.errors import Divergence, InputError
from twinlib.files import write_atomic
from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.algorithms import ALGORITHMS, Stage
from twinlib.policy.contracts import Discrete, Saved, Task
from twinlib.policy.proximal import ProximalConfig, critic_update, proximal_update
from twinlib.policy.rollout import MEND_POLICY, Buffer, Collector, explained_variance, require_finite
from twinlib.policy.trust_region import (
    TrustRegionConfig,
    TrustRegionUpdate,
    plain_gradient_update,
    trust_region_update,
)

if TYPE_CHECKING:
    import pandas as pd

STREAMS = ("weights", "actions", "order", "environment")
#: Stands in `TrainingConfig.shape` for a setting that may differ between replicas.
_ANY = 1.0


@dataclass(frozen=True)
class TrainingConfig:
    """One training run; replicas share it, or have one each of the same `shape`."""

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
    #: take the KL target of the second stage from the steps of the first, or where there are none delta
    #: (Remark 3.1)
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
        if self.timesteps < 1 or self.steps_per_iteration < 2:
            raise InputError("TrainingConfig: timesteps and steps_per_iteration are too small; raise them.")
        if self.dtype not in ("float32", "float64"):
            raise InputError(f"TrainingConfig: dtype is {self.dtype!r}; use 'float32' or 'float64'.")

    @property
    def shape(self) -> TrainingConfig:
        """What replicas side by side share: a stand-in for each setting that may differ, or that is not used.

        May differ: gamma, log_std, critic_learning_rate, delta, and PPO's learning rate, clip range, beta and
        KL target, as far as these are switched on in all replicas or in none.
        """
        stages = ALGORITHMS[self.algorithm].stages
        used = {stage.settings for stage in stages if "PPO" in stage.updates}
        proximal, fine_tuning = (
            _shape_of(getattr(self, name)) if name in used else ProximalConfig()
            for name in ("proximal", "fine_tuning")
        )
        return dataclasses.replace(
            self,
            gamma=_ANY,
            log_std=_ANY,
            critic_learning_rate=_ANY,
            trust_region=dataclasses.replace(self.trust_region, delta=_ANY),
            proximal=proximal,
            fine_tuning=fine_tuning,
        )


def _shape_of(config: ProximalConfig) -> ProximalConfig:
    """The part of `TrainingConfig.shape` that is PPO's."""
    return dataclasses.replace(
        config,
        learning_rate=_ANY,
        clip_range=None if config.clip_range is None else _ANY,
        beta=float(config.beta > 0),
        target_kl=None if config.target_kl is None else _ANY,
    )


class TrainingResult(NamedTuple):
    """The trained replicas and their learning history (columns: `HISTORY_COLUMNS`)."""

    policy: ActorCritic
    history: pd.DataFrame


#: Every logged quantity and what it means; chapter 10 prints this table.
HISTORY_COLUMNS = {
    "seed": "seed of the replica",
    "replica": "number of the replica, from 0: a seed, or a setting and a seed, of its own",
    "iteration": "number of the update, from 1",
    "stage": "TRPO, PPO, TRPO+PPO or plain: what the update was made of",
    "environment_steps": "environment steps of this replica so far",
    "optimizer_steps": "updates of the actor so far: minibatch steps of PPO, accepted steps of TRPO or plain",
    "reward": "mean reward per environment step in this iteration's data (collected before the update)",
    "episode_return": "mean undiscounted return of the episodes that ended in this iteration's data",
    "kl": "Eq. 4: mean KL(collecting || updated policy) over the iteration's data, summed over actions",
    "entropy": "differential entropy of the policy after the update, in nats",
    "explained_variance": "1 - Var(return - value) / Var(return), value from before the update",
    "surrogate_gain": "TRPO, plain: surrogate after minus before; nan in PPO alone",
    "accepted": "TRPO, plain: 1 if the line search accepted a step, else 0; nan in PPO alone",
    "clip_fraction": "PPO: share of ratios outside the clip range, mean over minibatches; nan without PPO",
    "value_loss": "critic: half mean squared error in PPO minibatches, or in its own fit after TRPO or plain",
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
    config: TrainingConfig | Sequence[TrainingConfig],
    seeds: Sequence[int],
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
) -> TrainingResult:
    """Train one replica per seed in the R x N cells of `task` (R = number of seeds).

    `config` is one for all, or a sequence of one a replica, of the same `TrainingConfig.shape`; then a seed
    may stand there once a setting. Replicas never mix.

    What is repeatable: the same machine, number of threads and block of seeds (and settings) give the same
    bits. A seed alone and the same seed beside others see the same chance, but matrix products may round by
    shape and by place in memory: they agree in float32 to the last digits, and can drift apart from there.

    `checkpoint` names a file that is rewritten atomically every `checkpoint_every` iterations and at the end;
    when it exists the run continues from it and ends with the parameters it would have had without the
    interruption, bit for bit (CPU, same machine, same number of threads). Raises InputError with one sentence
    when the file belongs to another run, or the task cannot be saved, and Divergence when a reward, an
    observation, an action, a gradient or a network is not finite; it names iteration, seed and replica.
    """
    from tqdm import tqdm

    path = None if checkpoint is None else pathlib.Path(checkpoint)
    if path is not None and not task.resumable:
        raise InputError("This task cannot be saved in mid-episode: train without checkpoint=.")
    run = _Run(task, one_a_replica(config, len(seeds)), seeds)
    if path is not None and path.exists():
        run.load(path)
    first, total = run.environment_steps, run.config.timesteps
    with tqdm(total=total, initial=first, disable=not progress, unit="step", leave=False) as bar:
        while run.environment_steps < total:
            bar.update(run.iterate())
            bar.set_postfix(_means(run.rows[-len(seeds) :]), refresh=False)
            if path is not None and (run.iteration % checkpoint_every == 0 or run.environment_steps >= total):
                write_atomic(path, lambda beside: torch.save(run.state_dict(), beside))
    return TrainingResult(run.policy, history(run.rows))


def one_a_replica(config: TrainingConfig | Sequence[TrainingConfig], replicas: int) -> list[TrainingConfig]:
    """As many configs as replicas; other numbers and other shapes are refused."""
    configs = [config] * replicas if isinstance(config, TrainingConfig) else list(config)
    if len(configs) != replicas or not configs:
        raise InputError(
            f"train: {len(configs)} settings for {replicas} seeds; give one for all, or one each."
        )
    shape = dataclasses.asdict(configs[0].shape)
    for r, other in enumerate(configs):
        differ = [name for name, value in dataclasses.asdict(other.shape).items() if value != shape[name]]
        if differ:
            raise InputError(
                f"train: the settings of replicas 0 and {r} differ in {differ[0]}, which replicas share; "
                "train them apart (random_settings.side_by_side groups them)."
            )
    return configs


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

    def __init__(self, task: Task, configs: Sequence[TrainingConfig], seeds: Sequence[int]) -> None:
        #: one a replica, and what they share
        self.configs, self.config, config = configs, configs[0], configs[0]
        if torch.device(config.device).type != task.device.type:
            raise InputError(
                f"The task is on {task.device}, the networks on {config.device}: move one of them."
            )
        self.seeds = [int(s) for s in seeds]
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
            [c.log_std for c in configs],
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
        self.gamma = torch.tensor([c.gamma for c in configs], dtype=torch.float64, device=config.device)
        self.delta = zero.new_tensor([c.trust_region.delta for c in configs])
        self.critic_adam = self.optimizer(self.policy.critic, [c.critic_learning_rate for c in configs])
        self.rows: list[Row] = []
        self.begin_stage()

    def optimizer(self, parameters: Tensor, rates: Sequence[float]) -> Adam:
        """Adam with empty memory and each replica's own step size."""
        return Adam(parameters, torch.tensor(rates, dtype=torch.float64, device=self.config.device))

    # -- which update comes next
    @property
    def stage(self) -> Stage:
        """The stage of the next iteration; after the end the last one."""
        stages = ALGORITHMS[self.config.algorithm].stages
        return next((s for s in stages if self.environment_steps < getattr(self.config, s.until)), stages[-1])

    def begin_stage(self) -> None:
        """PPO's settings of the stage, its penalty weight, and an optimizer with empty memory."""
        stage = self.stage
        self.proximals = [
            dataclasses.replace(getattr(config, stage.settings), **stage.changes) for config in self.configs
        ]
        self.beta = self.kl_sum.new_tensor([p.beta for p in self.proximals])
        self.adam = self.optimizer(self.policy.theta, [p.learning_rate for p in self.proximals])

    def of_all(self, values: Sequence[float | None]) -> Tensor | None:
        """A setting of PPO [R]; None where it is switched off, which replicas side by side do together."""
        known = [value for value in values if value is not None]
        return self.kl_sum.new_tensor(known) if len(known) == len(values) else None

    def iterate(self) -> int:
        """Collect, update, count, log; returns the environment steps that each replica took."""
        stage = self.stage
        try:
            buffer = self.collector.collect(self.policy, self.steps, self.gamma, self.config.gae_lambda)
            columns = self.update(stage, buffer)
        except Divergence as lost:
            place = f"Iteration {self.iteration + 1}, seed {self.seeds[lost.replicas[0]]}"
            raise Divergence(f"{place}: {lost}", lost.replicas) from None
        self.environment_steps += buffer.rows
        self.iteration += 1
        self.log(buffer, {"stage": stage.name, **columns})
        if self.stage is not stage:
            self.begin_stage()
        return buffer.rows

    def require_finite(self, adam: Adam, **gradients: Tensor) -> None:
        """Stop where an update has left a replica without a usable policy; Adam remembers its gradients."""
        require_finite(MEND_POLICY, **gradients, gradient=adam.second, network=self.policy.theta)

    def update(self, stage: Stage, buffer: Buffer) -> Columns:
        """The stage's updates on the same data, one after the other; the columns of the history they fill."""
        make: dict[str, Callable[[Buffer], Columns]] = {
            "TRPO": functools.partial(self.trust_region, trust_region_update),
            "plain": functools.partial(self.trust_region, plain_gradient_update),
            "PPO": self.fine_tune,
        }
        columns = make[stage.updates[0]](buffer)
        for name in stage.updates[1:]:
            columns |= make[name](self.seen_from_here(buffer, stage.ratio))
            with torch.no_grad():
                columns["kl"] = buffer.behaviour.kl(self.policy.distribution(buffer.obs)).mean(-1)
        return columns

    def seen_from_here(self, buffer: Buffer, ratio: str) -> Buffer:
        """The data with the present policy as theta' (Algorithm 1, line 10) and the ratio asked for."""
        with torch.no_grad():
            here = self.policy.distribution(buffer.obs).detach()
        log_prob = here.log_prob(buffer.action) if ratio == "printed" else buffer.log_prob
        return dataclasses.replace(buffer, behaviour=here, log_prob=log_prob)

    # -- the two kinds of update
    def trust_region(self, step: Callable[..., TrustRegionUpdate], buffer: Buffer) -> Columns:
        """TRPO (or plain) on the actor (Algorithm 1, lines 5-9) and the critic's own fit."""
        c = self.config
        outcome = step(self.policy, buffer, c.trust_region, delta=self.delta)
        fit = (c.critic_epochs, c.critic_minibatch_size, self.generators["order"])
        loss = critic_update(self.policy, self.critic_adam, buffer, *fit)
        self.require_finite(self.critic_adam, policy_gradient=outcome.gradient_norm)
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
        own = (beta, target, self.of_all([p.clip_range for p in self.proximals]))
        shared, order = self.proximals[0], self.generators["order"]
        outcome = proximal_update(self.policy, self.adam, buffer, shared, order, *own)
        self.require_finite(self.adam)
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
        """KL target [R]: the config's; else, by Remark 3.1, the mean KL of the steps accepted so far.

        A replica that accepted none, or whose algorithm takes none, has no observation: its target is delta.
        """
        given = self.of_all([p.target_kl for p in self.proximals])
        if given is not None or not (self.config.hand_over and self.stage.has_target):
            return given
        mean = self.kl_sum / self.kl_count.clamp(min=1.0)
        mean = torch.where(self.kl_count > 0, mean, self.delta)
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
            {"seed": seed, "replica": r}
            | {name: x[r] if isinstance(x, list) else x for name, x in plain.items()}
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
        configs = [dataclasses.asdict(dataclasses.replace(c, timesteps=1)) for c in self.configs]
        return {"settings": configs, "seeds": self.seeds}

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
