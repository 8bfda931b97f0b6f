import os
import signal
import subprocess
import sys

code = """
import warnings; warnings.simplefilter("ignore")
import gymnasium, twinlib
env = gymnasium.make_vec("twinlib/GeneScreen-v0", num_envs=2, vectorization_mode="async")
env.reset(seed=1); env.step(env.action_space.sample()); env.close(); print("done")
"""
several = os.environ | {"OMP_NUM_THREADS": "2"}  # with one thread there is nothing to wait for
child = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True, env=several
)
try:
    out, _ = child.communicate(timeout=45)
    print(out)
    sys.exit(child.returncode)
except subprocess.TimeoutExpired:
    os.killpg(child.pid, signal.SIGKILL)
    print("no answer in 45 s")
    sys.exit(1)
