import sys
import warnings

import gymnasium
import numpy as np

import twinlib  # noqa: F401

env = gymnasium.make("twinlib/GeneScreen-v0").unwrapped
zero = np.zeros(env.action_space.shape, np.float32)
env.reset(seed=0)
for _ in range(15):
    obs, _, ended, _, _ = env.step(zero)
assert ended
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    try:
        after, reward, ended, *_ = env.step(zero)
    except Exception as e:
        print("refused:", e)
        sys.exit(0)
moved = float(np.abs(after - obs).max())
print("after the end: t/H", after[-1], "moved by", moved, "warnings:", len(said))
sys.exit(not said)
