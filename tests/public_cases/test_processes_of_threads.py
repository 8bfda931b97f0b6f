"""Processes and the command line: inputs of public threads, named repository#number."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
import torch

import twinlib  # noqa: F401 - registers the environments
from experiments.folder import claimed
from experiments.runner import _result
from experiments.workers import workers_of
from twinlib.environment.known_answers import ToggleDynamics
from twinlib.errors import FolderError, InputError, RunError
from twinlib.policy.training import TrainingConfig, train

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from refused_commands import refusal

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "results" / "released" / "kang2018"
COMMAND = (sys.executable, "-m", "experiments")


def paths():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# -- a run that is killed
def run_of(out, *more):
    """Begin a long run in a group of its own; return it once its workers compute."""
    words = ("released", "--algorithms", "PPO", "--seeds", "1", "--timesteps", "4000000", "--quiet")
    process = subprocess.Popen(
        [*COMMAND, *words, "--workers", "2", "--out", out, *more],
        cwd=ROOT,
        env=paths(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: (out / "parts" / "identity.json").exists(), 120)
    time.sleep(2)
    assert process.poll() is None
    return process


def wait_until(done, seconds):
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.1)
    return done()


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_a_killed_run_leaves_no_worker_and_no_lock(tmp_path, number):
    """python/cpython#111873: workers of a pool compute on; nipype/pydra#216: the lock holds up all others."""
    process = run_of(tmp_path / "run")
    try:
        process.send_signal(number)
        process.wait(60)
        assert wait_until(lambda: is_gone(process.pid), 30), "a worker computes on"
    finally:
        if not is_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    with claimed(tmp_path / "run", True, {}):
        pass


def test_a_worker_that_dies_is_told_in_one_sentence():
    """uqfoundation/pathos#230, lenskit/lkpy#290: the run waited for ever for a worker out of memory."""
    with workers_of(2, None) as team:
        lost = team.pool.submit(os._exit, 9)
        with pytest.raises(RunError, match="A worker process died"):
            _result(lost)


def test_a_forked_child_that_ends_leaves_the_lock_to_its_parent(tmp_path):
    """tox-dev/filelock#634: a child let go what its parent still held."""
    with claimed(tmp_path / "run", False, {}):
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join(60)
        with pytest.raises(FolderError, match="Another run"), claimed(tmp_path / "run", True, {}):
            pass


# -- checkpoints
@pytest.mark.parametrize("broken", ["empty", "half", "without its end", "zeros", "text", "other"])
def test_a_broken_checkpoint_is_told_in_one_sentence(tmp_path, broken):
    """r9y9/deepvoice3_pytorch#67 (an empty one), Lightning-AI/pytorch-lightning#688 (a part of one)."""
    path = tmp_path / "run.checkpoint"
    config = TrainingConfig("PPO", timesteps=64, steps_per_iteration=64, hidden=(8, 8))
    train(ToggleDynamics(n_cells=8), config, [0], checkpoint=path)
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "without its end": whole[:-100],
        "zeros": bytes(len(whole)),
        "text": b"hello world",
    }
    if broken == "other":
        torch.save({"theta": 1}, path)
    else:
        path.write_bytes(contents[broken])
    with pytest.raises(InputError, match=r"run.checkpoint cannot be read: delete it") as told:
        train(ToggleDynamics(n_cells=8), config, [0], checkpoint=path)
    assert told.value.__suppress_context__


# -- the command line
def test_a_reader_that_leaves_gets_no_traceback():
    """python/cpython#90650, mkaz/termgraph#114: `report | head` ended in a BrokenPipeError."""
    read, write = os.pipe()
    os.close(read)
    for unbuffered in ([], ["-u"]):
        words = [COMMAND[0], *unbuffered, *COMMAND[1:], "report", RESULTS]
        done = subprocess.run(
            words, cwd=ROOT, env=paths(), stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 141 and done.stderr == ""
    os.close(write)


def test_a_part_of_an_option_is_no_option(tmp_path, capsys):
    """freedomofpress/securedrop-workstation#1071, brentyi/tyro#45: a typo did what the whole word does."""
    for words in (["--resum"], ["--work", "2"], ["--algorithm", "PPO"], ["--minute", "1"]):
        told = refusal(capsys, "released", "--out", tmp_path / "run", *words)
        assert f"Unrecognized arguments: {words[0]}" in told
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_name_is_refused(tmp_path, capsys, monkeypatch):
    """box-project/box#531: an empty output meant the current directory."""
    monkeypatch.chdir(tmp_path)
    assert (
        "argument --out: the name is empty"
        in refusal(capsys, "released", "--seeds", "1", "--out", "").lower()
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["/proc/run", "/sys/run"])
def test_a_folder_that_nobody_can_write_is_refused_at_once(capsys, out):
    """tox-dev/filelock#60 and #47: the lock waited for ever where no file can be made."""
    told = refusal(capsys, "released", "--seeds", "1", "--quiet", "--out", out)
    assert "cannot be a results folder" in told


# -- environments in processes of their own
@pytest.mark.filterwarnings("ignore")  # gymnasium warns of what it then raises
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_an_error_in_a_worker_reaches_the_caller_as_what_it_is(context):
    """openai/gym#1542, Farama-Foundation/Gymnasium#177: a bad action came out as another error."""
    kwargs = {"num_envs": 2, "vectorization_mode": "async", "vector_kwargs": {"context": context}}
    for call, word in (
        (lambda env: env.step(np.full(env.action_space.shape, np.nan, np.float32)), "action holds NaN"),
        (lambda env: env.reset(options={"colour": 3}), "colour"),
    ):
        env = gymnasium.make_vec("twinlib/ToggleSwitch-v0", **kwargs)
        env.reset(seed=0)
        with pytest.raises(InputError, match=word):
            call(env)
        env.close()
