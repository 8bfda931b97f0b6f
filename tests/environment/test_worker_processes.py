"""Environments in processes of their own: each answers, whatever torch did before the fork."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Seconds until a process that waits for ever is given up.
PATIENCE = 120

BUSY = """
import gymnasium, torch, twinlib
weight = torch.randn(2000, 2000, requires_grad=True)
torch.tanh(weight @ weight).sum().backward()  # opens the pools of threads that a fork loses
"""
GYMNASIUM = """
from twinlib.environment.packaged import packaged_world
env = gymnasium.make("twinlib/ToggleSwitch-v0")
print(torch.get_num_threads())
for name, settings in (("GeneScreen", {}), ("GeneScreen", {"world": packaged_world()}), ("Myeloid", {})):
    env = gymnasium.make_vec(f"twinlib/{name}-v0", num_envs=2, vectorization_mode="async", **settings)
    env.reset(seed=1)
    for _ in range(21):
        obs = env.step(env.action_space.sample())[0]
    env.close()
print(obs.shape)
"""
BASELINES = """
from stable_baselines3.common.vec_env import SubprocVecEnv
env = SubprocVecEnv([lambda: gymnasium.make("twinlib/GeneScreen-v0")] * 2, start_method="fork")
env.reset()
env.step([env.action_space.sample()] * 2)
env.close()
"""


def run(code: str) -> str:
    """What a fresh process with two torch threads prints; it and its children end when patience does.

    A Dask test that ran before leaves one thread for MKL in the environment, which torch would take over.
    """
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "2"),
    )
    try:
        out, _ = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        pytest.fail(f"no answer in {PATIENCE} s")
    assert child.returncode == 0
    return out


def test_an_asynchronous_environment_answers_after_torch_has_run_and_the_parent_keeps_its_threads() -> None:
    threads, shape = run(BUSY + GYMNASIUM).splitlines()
    assert threads == "2" and shape == "(2, 12)"


def test_another_library_s_forked_environment_answers_after_torch_has_run() -> None:
    pytest.importorskip("stable_baselines3", reason="stable_baselines3 is missing")
    run(BUSY + BASELINES)
