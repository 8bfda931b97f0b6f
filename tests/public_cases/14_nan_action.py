import sys

import gymnasium
import numpy as np

import twinlib  # noqa: F401

env = gymnasium.make("twinlib/GeneScreen-v0").unwrapped
env.reset(seed=0)
try:
    obs, reward, *_ = env.step(np.full(env.action_space.shape, np.nan, np.float32))
except (ValueError, AssertionError) as e:
    print("refused:", e)
    sys.exit(0)
print("NaN in observation:", bool(np.isnan(obs).any()), "reward:", reward)
sys.exit(1)
