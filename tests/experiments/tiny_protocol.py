"""A protocol small enough for tests: real training, on a world of six genes."""

import os
import time

import numpy as np

from experiments.protocols import Part, blocks, name_of, seeds_of


class Tiny:
    """Real training on a world of six genes; the first worker to meet `stop` waits in it to be killed."""

    facts = {"genes": 6}

    def __init__(self, config, progress=False, stop=None):
        self.config, self.stop = config, stop
        self.parts = ("references", *blocks(config.algorithms, config))

    def after(self, part):
        return () if part == "references" else ("references",)

    def compute(self, part, scratch):
        if part == "references":
            np.savez(scratch / "handed.npz", shift=np.full(4, 0.25))
            return Part([{"Algorithm": "do_nothing", "MSE": 0.0}], [{"Algorithm": "do_nothing", "dtw": 1.0}])
        if self.stop and name_of(part) == "TRPO" and not os.path.exists(self.stop):
            with open(self.stop, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(120)
        seeds = list(seeds_of(part, self.config))
        checkpoint = scratch / f"{part}.checkpoint"
        history, theta = trained(name_of(part), seeds, self.config.timesteps, checkpoint)
        with np.load(scratch / "handed.npz") as handed:
            shift = handed["shift"].sum()
        rows = [
            {"Algorithm": name_of(part), "Seed": s, "MSE": float(w.square().mean())}
            for s, w in zip(seeds, theta, strict=True)
        ]
        return Part(rows, [row | {"dtw": shift} for row in rows], {"n": len(seeds)}, history)


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
