"""A run into a folder: atomic, refused when taken, resumed without computing a finished part again."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pandas as pd
import pytest

from experiments import folder
from experiments.__main__ import main
from experiments.protocols import Part, RunConfig, blocks, name_of, run, seeds_of
from twinlib import files


class Fake:
    """Three parts that count how often they are computed; the third fails on demand."""

    facts = {"dataset": "fake"}
    parts = ("one", "two", "three")

    def __init__(self, fail=False):
        self.fail, self.computed = fail, []

    def __call__(self, config, progress):
        return self

    def after(self, part):
        return ()

    def compute(self, part, scratch):
        if part == "three" and self.fail:
            raise KeyboardInterrupt
        self.computed.append(part)
        history = pd.DataFrame({"seed": [0], "iteration": [1]}) if part == "two" else None
        return Part([{"Algorithm": part, "MSE": 0.1}], [{"Algorithm": part, "dtw": 1.0}], {"n": 1}, history)


def test_a_run_writes_its_files_and_says_how_it_was_made(tmp_path):
    out = run(RunConfig(seeds=2, algorithms=("PPO",)), tmp_path / "r", progress=False, make=Fake())
    assert list(pd.read_csv(out / "regression.csv").Algorithm) == ["one", "two", "three"]
    assert len(pd.read_csv(out / "similarity.csv")) == 3 and len(pd.read_csv(out / "history.csv")) == 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1] and manifest["dataset"] == "fake" and manifest["peak_memory_mb"] > 10
    assert manifest["command"].endswith("--algorithms PPO --seeds 2 --timesteps 150000 --out DIR")
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert manifest["versions"]["twinlib"] and manifest["parts"]["two"]["n"] == 1
    assert not [p for p in out.rglob(".*")]  # no lock and no half-written file is left


def test_a_second_run_into_the_folder_is_refused(tmp_path):
    run(RunConfig(), tmp_path, progress=False, make=Fake())
    with pytest.raises(folder.FolderError, match="already holds regression.csv"):
        run(RunConfig(), tmp_path, progress=False, make=Fake())


def test_a_folder_held_by_a_living_run_is_refused_even_for_a_resume(tmp_path):
    (tmp_path / ".lock").write_text(str(os.getpid()))
    with pytest.raises(folder.FolderError, match="Another run is writing"):
        run(RunConfig(), tmp_path, resume=True, progress=False, make=Fake())


def test_the_lock_of_a_dead_run_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text("99999999")
    run(RunConfig(), tmp_path, progress=False, make=Fake())
    assert (tmp_path / "manifest.json").exists() and not (tmp_path / ".lock").exists()


def test_a_resume_computes_only_what_is_missing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(RunConfig(), tmp_path, progress=False, make=Fake(fail=True))
    assert not (tmp_path / "regression.csv").exists()
    again = Fake()
    run(RunConfig(), tmp_path, resume=True, progress=False, make=again)
    assert again.computed == ["three"]
    assert list(pd.read_csv(tmp_path / "regression.csv").Algorithm) == ["one", "two", "three"]


def test_a_resume_with_other_settings_is_refused(tmp_path):
    run(RunConfig(seeds=2), tmp_path, progress=False, make=Fake())
    with pytest.raises(folder.FolderError, match="other settings"):
        run(RunConfig(seeds=3), tmp_path, resume=True, progress=False, make=Fake())


#: A run that is killed in its second algorithm; its folder is the first argument, the tests' the second.
KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from tiny_protocol import Tiny
from experiments.protocols import RunConfig, run

run(RunConfig(algorithms=("PPO", "TRPO"), seeds=2, timesteps=2560), sys.argv[1], progress=False, make=Tiny)
"""


def test_a_resume_after_a_kill_gives_the_tables_of_an_unbroken_run(tmp_path):
    """Killed in mid-training, the run goes on from its checkpoint, and what was finished is not touched."""
    from tiny_protocol import Tiny

    config = RunConfig(algorithms=("PPO", "TRPO"), seeds=2, timesteps=2560)
    out, parts = tmp_path / "killed", tmp_path / "killed" / "parts"
    here = str(pathlib.Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out), here])
    until = time.monotonic() + 120
    while not (parts / "TRPO.checkpoint").exists() and time.monotonic() < until:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (parts / "PPO.json").exists() and not (parts / "TRPO.json").exists()
    finished = (parts / "PPO.regression.csv").stat().st_mtime_ns
    run(config, out, resume=True, progress=False, make=Tiny)
    assert (parts / "PPO.regression.csv").stat().st_mtime_ns == finished
    run(config, tmp_path / "whole", progress=False, make=Tiny)
    for table in ("regression", "similarity", "history"):
        ours, theirs = (pd.read_csv(f / f"{table}.csv") for f in (out, tmp_path / "whole"))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")

    def fails(beside):
        beside.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write_atomic(target, fails)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    "bad",
    [{"protocol": "imagined"}, {"seeds": 0}, {"timesteps": 0}, {"block": -1}],
    ids=["protocol", "seeds", "timesteps", "block"],
)
def test_bad_settings_are_refused_in_one_sentence(bad):
    with pytest.raises(ValueError, match="choose one of|give 1 or more"):
        RunConfig(**bad)


def test_the_command_line_refuses_with_status_two_and_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["run", "--protocol", "imagined", "--out", "x"])


def test_blocks_of_seeds_cover_every_seed_once_and_keep_the_algorithms_name():
    config = RunConfig(seeds=10, block=4)
    parts = blocks(("PPO", "TRPO@log1"), config)
    assert parts == ("PPO~0", "PPO~4", "PPO~8", "TRPO@log1~0", "TRPO@log1~4", "TRPO@log1~8")
    assert [s for part in parts[:3] for s in seeds_of(part, config)] == list(range(10))
    assert {name_of(part) for part in parts} == {"PPO", "TRPO@log1"}
    assert "--block 4" in config.command()
    whole = RunConfig(seeds=3)
    assert blocks(("PPO",), whole) == ("PPO",) and list(seeds_of("PPO", whole)) == [0, 1, 2]
