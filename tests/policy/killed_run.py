"""A training run that kills itself within an iteration: python killed_run.py ALGORITHM CHECKPOINT STEPS."""

from __future__ import annotations

import os
import signal
import sys

import torch
from test_training import config
from toy import Quadratic

from twinlib.policy.contracts import Step
from twinlib.policy.training import train


class Deadly(Quadratic):
    """Ends the process at the given step of the environment."""

    left = int(sys.argv[3])

    def step(self, action: torch.Tensor) -> Step:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


torch.set_num_threads(1)
train(Deadly(2, 8), config(sys.argv[1]), seeds=[0, 1], checkpoint=sys.argv[2], checkpoint_every=1)
