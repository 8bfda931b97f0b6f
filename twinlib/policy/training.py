"""Algorithm 1 and its baselines: PPO, PPO with a KL penalty, TRPO, two stages, in turns, PPO restarted."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.proximal import ProximalConfig, ProximalUpdate, critic_update, proximal_update
from twinlib.policy.rollout import Buffer, Collector, DynamicsLike, explained_variance
from twinlib.policy.trust_region import TrustRegionConfig, trust_region_update

if TYPE_CHECKING:
    import pandas as pd

STREAMS = ("weights", "actions", "order", "environment")
ALGORITHMS = ("PPO", "PPO_KL", "TRPO", "two_stage", "alternating", "PPO_restart")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run; replicas (seeds) share it."""

    #: PPO | PPO_KL | TRPO | two_stage | alternating | PPO_restart
    algorithm: str = "two_stage"
    #: environment steps of each replica
    timesteps: int = 150_000
    #: environment steps of the first stage (two_stage: TRPO; PPO_restart: PPO before its fresh optimizer)
    warm_start_steps: int = 10_000
    #: environment steps of each replica between two updates (T N)
    steps_per_iteration: int = 2048
    #: discount factor
    gamma: float = 0.99
    #: lambda of generalized advantage estimation
    gae_lambda: float = 0.95
    #: settings of PPO without penalty (PPO, PPO_restart)
    proximal: ProximalConfig = field(default_factory=ProximalConfig)
    #: settings of PPO with penalty alone (PPO_KL; Eq. 8 as printed)
    penalty: ProximalConfig = field(default_factory=lambda: ProximalConfig(clip_range=None, beta=1.0))
    #: settings of PPO after or between TRPO updates (two_stage, alternating): clip, penalty and stop
    fine_tuning: ProximalConfig = field(default_factory=lambda: ProximalConfig(beta=0.1))
    #: settings of TRPO
    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    #: passes of the critic over the buffer in a TRPO update
    critic_epochs: int = 10
    #: step size of the critic in a TRPO update
    critic_learning_rate: float = 1e-3
    #: minibatch rows of the critic in a TRPO update
    critic_minibatch_size: int = 128
    #: alternating only: "behaviour" pi_theta / pi_theta_k, or "printed" pi_theta / pi_theta' (Algorithm 1)
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

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"TrainingConfig: algorithm {self.algorithm!r} is unknown; use {', '.join(ALGORITHMS)}."
            )
        if self.ratio not in ("behaviour", "printed"):
            raise ValueError(f"TrainingConfig: ratio is {self.ratio!r}; use 'behaviour' or 'printed'.")
        if self.timesteps < 1 or self.steps_per_iteration < 2:
            raise ValueError("TrainingConfig: timesteps and steps_per_iteration are too small; raise them.")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"TrainingConfig: dtype is {self.dtype!r}; use 'float32' or 'float64'.")


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
    dynamics: DynamicsLike,
    config: TrainingConfig,
    seeds: Sequence[int],
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
) -> TrainingResult:
    """Train one replica per seed in the R x N cells of `dynamics` (R = number of seeds).

    `checkpoint` names a file that is rewritten atomically every `checkpoint_every` iterations and at the end;
    when it exists the run continues from it and ends with the parameters it would have had without the
    interruption, bit for bit (CPU, same machine, same number of threads). Raises ValueError with one sentence
    when the file belongs to another run.
    """
    run = _Run(dynamics, config, seeds)
    path = None if checkpoint is None else pathlib.Path(checkpoint)
    if path is not None and path.exists():
        run.load(path)
    with _bar(config.timesteps, run.environment_steps, progress) as bar:
        while run.environment_steps < config.timesteps:
            run.iterate()
            bar.update(run.steps * run.cells)
            bar.set_postfix(run.summary(), refresh=False)
            if path is not None and (run.iteration % checkpoint_every == 0 or run.done):
                run.save(path)
    return run.result()


def _bar(total: int, initial: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, disable=not progress, unit="step", leave=False)


class _Run:
    """Everything that changes while R replicas train."""

    def __init__(self, dynamics: DynamicsLike, config: TrainingConfig, seeds: Sequence[int]) -> None:
        self.config, self.seeds, self.dtype = config, [int(s) for s in seeds], getattr(torch, config.dtype)
        places = {"actions": config.device, "environment": getattr(dynamics, "device", "cpu")}
        self.generators = {
            name: make_generators(self.seeds, name, places.get(name, "cpu")) for name in STREAMS
        }
        self.policy = ActorCritic(
            dynamics.observation_dim,
            dynamics.action_dim,
            len(self.seeds),
            self.generators["weights"],
            config.hidden,
            config.log_std,
            discrete=bool(getattr(dynamics, "discrete", False)),
            dtype=self.dtype,
            device=config.device,
        )
        self.collector = Collector(
            dynamics, self.generators["environment"], self.generators["actions"], self.dtype
        )
        self.cells = self.collector.obs.shape[1]
        self.steps = max(1, config.steps_per_iteration // self.cells)
        self.iteration = self.environment_steps = 0
        zero = torch.zeros(len(self.seeds), dtype=self.dtype, device=config.device)
        #: optimizer steps, sum and number of accepted TRPO KLs, penalty weight
        self.counters = {"optimizer_steps": zero.clone(), "kl_sum": zero.clone(), "kl_count": zero.clone()}
        self.beta = zero + self.proximal.beta
        self.adam = Adam(self.policy.theta, self.proximal.learning_rate)
        self.critic_adam = Adam(self.policy.critic, config.critic_learning_rate)
        self.rows: list[dict[str, Any]] = []

    # -- which update comes next
    @property
    def proximal(self) -> ProximalConfig:
        """The PPO settings that this algorithm uses."""
        c = self.config
        return {"PPO_KL": c.penalty, "two_stage": c.fine_tuning, "alternating": c.fine_tuning}.get(
            c.algorithm, c.proximal
        )

    @property
    def warming(self) -> bool:
        """Is the first stage still on?"""
        return self.environment_steps < self.config.warm_start_steps

    @property
    def done(self) -> bool:
        """Have all environment steps been taken?"""
        return self.environment_steps >= self.config.timesteps

    def update(self, buffer: Buffer) -> dict[str, Any]:
        """The algorithm's update on one iteration's data; returns the columns of the history it can fill."""
        name = self.config.algorithm
        if name == "TRPO" or (name == "two_stage" and self.warming):
            return self.trust_region(buffer)
        if name == "alternating":
            return self.alternate(buffer)
        return self.fine_tune(buffer)

    # -- the three kinds of update
    def trust_region(self, buffer: Buffer) -> dict[str, Any]:
        """TRPO on the actor (Algorithm 1, lines 5-9) and the critic's own fit."""
        c = self.config
        outcome = trust_region_update(self.policy, buffer, c.trust_region)
        loss = critic_update(
            self.policy,
            self.critic_adam,
            buffer,
            c.critic_epochs,
            c.critic_minibatch_size,
            self.generators["order"],
        )
        accepted = outcome.search.accepted.to(self.dtype)
        self.counters["kl_sum"] += outcome.kl * accepted
        self.counters["kl_count"] += accepted
        self.counters["optimizer_steps"] += accepted
        return {
            "stage": "TRPO",
            "kl": outcome.kl,
            "accepted": accepted,
            "surrogate_gain": outcome.search.improvement,
            "value_loss": loss,
        }

    def fine_tune(self, buffer: Buffer, **reference: Any) -> dict[str, Any]:
        """PPO (Algorithm 1, lines 10-18); by default theta' is the policy that collected the buffer."""
        target, beta = self.target_kl(), self.beta
        outcome: ProximalUpdate = proximal_update(
            self.policy, self.adam, buffer, self.proximal, self.generators["order"], beta, target, **reference
        )
        self.beta = outcome.beta
        self.counters["optimizer_steps"] += outcome.steps
        return {
            "stage": "PPO",
            "kl": outcome.kl,
            "clip_fraction": outcome.clip_fraction,
            "value_loss": outcome.value_loss,
            "beta": beta,
            **({} if target is None else {"target_kl": target}),
        }

    def alternate(self, buffer: Buffer) -> dict[str, Any]:
        """One TRPO step, then PPO from theta' on the same data (Algorithm 1 as printed)."""
        first = self.trust_region(buffer)
        with torch.no_grad():
            moved = self.policy.distribution(buffer.obs)
            moved = type(moved)(*(x.clone() for x in moved))
            ratio = moved.log_prob(buffer.action) if self.config.ratio == "printed" else buffer.log_prob
        second = self.fine_tune(buffer, reference=moved, ratio_log_prob=ratio)
        with torch.no_grad():
            kl = buffer.behaviour.kl(self.policy.distribution(buffer.obs)).mean(-1)
        return {**first, **second, "stage": "TRPO+PPO", "kl": kl}

    def target_kl(self) -> Tensor | None:
        """KL target [R]: the config's; else, by Remark 3.1, the mean KL of the accepted TRPO updates.

        A replica whose TRPO stage accepted nothing has no observation; its target is then delta.
        """
        if self.proximal.target_kl is not None:
            return torch.zeros_like(self.beta) + self.proximal.target_kl
        if self.config.algorithm not in ("two_stage", "alternating") or not self.config.hand_over:
            return None
        mean = self.counters["kl_sum"] / self.counters["kl_count"].clamp(min=1.0)
        mean = torch.where(self.counters["kl_count"] > 0, mean, self.config.trust_region.delta)
        return self.config.hand_over_scale * mean

    # -- one iteration
    def iterate(self) -> None:
        """Collect, update, count, log."""
        c = self.config
        buffer = self.collector.collect(self.policy, self.steps, c.gamma, c.gae_lambda)
        columns = self.update(buffer)
        was_warming = self.warming
        self.environment_steps += buffer.rows
        self.iteration += 1
        if c.algorithm == "PPO_restart" and was_warming and not self.warming:
            self.adam = Adam(self.policy.theta, self.proximal.learning_rate)
        self.log(buffer, columns)

    def log(self, buffer: Buffer, columns: dict[str, Any]) -> None:
        """Append one row a seed."""
        with torch.no_grad():
            entropy = self.policy.distribution(buffer.obs).entropy()
        columns = {
            "seed": self.seeds,
            "iteration": self.iteration,
            "environment_steps": self.environment_steps,
            "optimizer_steps": self.counters["optimizer_steps"],
            "reward": buffer.reward,
            "episode_return": buffer.episode_return,
            "entropy": entropy,
            "explained_variance": explained_variance(buffer.value, buffer.return_),
            **columns,
        }
        lists = {name: _spread(value, len(self.seeds)) for name, value in columns.items()}
        self.rows += [{name: column[r] for name, column in lists.items()} for r in range(len(self.seeds))]

    def summary(self) -> dict[str, str]:
        """Means over seeds for the progress bar."""
        last = self.rows[-len(self.seeds) :]
        names = ("reward", "kl", "entropy", "explained_variance")
        return {name: f"{sum(row[name] for row in last) / len(last):.3g}" for name in names}

    def result(self) -> TrainingResult:
        """Policy and history."""
        import pandas as pd

        return TrainingResult(self.policy, pd.DataFrame(self.rows).reindex(columns=list(HISTORY_COLUMNS)))

    # -- checkpoints
    def state(self) -> dict[str, Any]:
        """All that a bit-identical resume needs, as tensors and plain numbers."""
        return {
            "identity": self.identity(),
            "theta": self.policy.theta,
            "adam": self.adam.state_dict(),
            "critic_adam": self.critic_adam.state_dict(),
            "generators": {name: [g.get_state() for g in gs] for name, gs in self.generators.items()},
            "collector": self.collector.state_dict(),
            "counters": self.counters,
            "beta": self.beta,
            "iteration": self.iteration,
            "environment_steps": self.environment_steps,
            "rows": self.rows,
        }

    def identity(self) -> dict[str, Any]:
        """What must agree between a checkpoint and the run that continues it (timesteps may be raised)."""
        return {**dataclasses.asdict(dataclasses.replace(self.config, timesteps=1)), "seeds": self.seeds}

    def save(self, path: pathlib.Path) -> None:
        """Write beside, then replace: a kill at any moment leaves a whole file."""
        beside = path.with_name(path.name + ".partial")
        torch.save(self.state(), beside)
        os.replace(beside, path)

    def load(self, path: pathlib.Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, weights_only=True, map_location=self.config.device)
        if state["identity"] != self.identity():
            raise ValueError(
                f"checkpoint {path.name} was written with other settings or seeds: name another file."
            )
        self.policy.theta.copy_(state["theta"])
        self.adam.load_state_dict(state["adam"])
        self.critic_adam.load_state_dict(state["critic_adam"])
        self.collector.load_state_dict(state["collector"])
        for name, generators in self.generators.items():
            for generator, saved in zip(generators, state["generators"][name], strict=True):
                generator.set_state(saved.cpu())
        for name, value in state["counters"].items():
            self.counters[name].copy_(value)
        self.beta = state["beta"]
        self.iteration, self.environment_steps = state["iteration"], state["environment_steps"]
        self.rows = state["rows"]


def _spread(value: Any, replicas: int) -> list[Any]:
    """A column of the history as one plain number or word per replica."""
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, list) else [value] * replicas
