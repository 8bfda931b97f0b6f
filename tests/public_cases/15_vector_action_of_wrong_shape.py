import sys

import gymnasium
import numpy as np

import twinlib  # noqa: F401

env = gymnasium.make_vec("twinlib/GeneScreen-v0", num_envs=4, vectorization_mode="vector_entry_point")
good = np.zeros(env.action_space.shape, np.float32)
good[1, 2] = 1  # cell 1, gene 2
env.reset(seed=0)
right = env.step(good)[0]
bad = 0
for name, wrong in (("transposed", good.T), ("flat", good.T.ravel())):
    env.reset(seed=0)
    try:
        got = env.step(wrong)[0]
        print(name, wrong.shape, "accepted; observation off by", float(np.abs(got - right).max()))
        bad = 1
    except (ValueError, AssertionError) as e:
        print(name, "refused:", e)
sys.exit(bad)
