"""A training run to be killed by a test: python killed_run.py ALGORITHM CHECKPOINT."""

from __future__ import annotations

import sys

import torch
from test_training import config
from toy import Quadratic

from twinlib.policy.training import train

torch.set_num_threads(1)
train(Quadratic(2, 8), config(sys.argv[1]), seeds=[0, 1], checkpoint=sys.argv[2], checkpoint_every=1)
