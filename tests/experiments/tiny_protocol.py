"""An experiment small enough for tests: real training, on a world of six genes."""

import os
import time
from dataclasses import dataclass

import numpy as np

from experiments.experiment import option
from experiments.part import Part
from experiments.replication import Replication, name_of


@dataclass(frozen=True)
class Tiny(Replication):
    """Real training on a world of six genes; the first worker to meet `stop` waits in it to be killed."""

    name = "tiny"
    ALGORITHMS = ("PPO", "TRPO")

    timesteps: int = option(192, "environment steps")
    stop: str | None = None

    def __post_init__(self):
        """Any name is a dataset."""

    def parts(self, finished):
        first = ("references",)
        return (*first, *self.blocks(self.chosen)) if "references" in finished else first

    def compute(self, part, scratch):
        if part == "references":
            np.savez(scratch.folder / "handed.npz", shift=np.full(4, 0.25))
            tables = {"regression": [{"Algorithm": "do_nothing", "MSE": 0.0}]}
            return Part(tables | {"similarity": [{"Algorithm": "do_nothing", "dtw": 1.0}]}, run={"genes": 6})
        if self.stop and name_of(part) == "TRPO" and not os.path.exists(self.stop):
            with open(self.stop, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(120)
        seeds = list(self.seeds_of(part))
        checkpoint = scratch.folder / f"{part}.checkpoint"
        history, theta = trained(name_of(part), seeds, self.timesteps, checkpoint)
        with np.load(scratch.folder / "handed.npz") as handed:
            shift = handed["shift"].sum()
        rows = [
            {"Algorithm": name_of(part), "Seed": s, "MSE": float(w.square().mean())}
            for s, w in zip(seeds, theta, strict=True)
        ]
        tables = {"regression": rows, "similarity": [row | {"dtw": shift} for row in rows]}
        return Part(tables | {"history": history.assign(Algorithm=name_of(part))}, {"n": len(seeds)})


def trained(algorithm, seeds, timesteps, checkpoint):
    """Train on a small released world; return history and parameters [R, P]."""
    import torch

    from experiments.released_world import ReleasedDynamics, ReleasedWorld
    from twinlib.policy.training import TrainingConfig, train

    g = torch.Generator().manual_seed(0)
    effects = torch.nn.functional.normalize(torch.randn(6, 4, generator=g), dim=1)
    world = ReleasedWorld(
        torch.randn(50, 4, generator=g), torch.ones(50), torch.full((4,), -1.0), effects, action_scale=0.5
    )
    settings = TrainingConfig(algorithm=algorithm, timesteps=timesteps, steps_per_iteration=64, hidden=(8,))
    dynamics = ReleasedDynamics(world, len(seeds), 64)
    result = train(dynamics, settings, seeds, checkpoint=checkpoint, checkpoint_every=1)
    return result.history, result.policy.theta.detach()
