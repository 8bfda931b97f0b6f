"""A run into a folder: atomic, refused when taken, resumed without computing a finished part again."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pandas as pd
import pytest

from experiments.__main__ import EXPERIMENTS, experiment_class, main
from experiments.experiment import Experiment, option
from experiments.folder import claimed
from experiments.part import Part
from experiments.released import Released
from experiments.replication import name_of
from experiments.runner import run
from twinlib import files
from twinlib.errors import FolderError, RunError

ROOT = pathlib.Path(__file__).parents[2]


@dataclass(frozen=True)
class Fake(Experiment):
    """Three parts that count how often they are computed; the third fails on demand."""

    name = "fake"
    seeds: int = option(2, "number of seeds")
    failing: bool = False
    seconds: float = 0.0
    computed: list = field(default_factory=list, compare=False)

    def identity(self):
        return {"seeds": self.seeds}

    def parts(self, finished):
        return ("one", "two", "three")

    def compute(self, part, scratch):
        if part == "three" and self.failing:
            raise KeyboardInterrupt
        time.sleep(self.seconds)
        self.computed.append(part)
        history = pd.DataFrame({"seed": [0], "iteration": [1]}) if part == "two" else []
        tables = {"regression": [{"Algorithm": part, "MSE": 1 / 3}], "history": history}
        return Part(tables, {"n": 1}, {"data_hash": "abc"})

    def __hash__(self):
        return id(self)


def quiet(experiment, out, **more):
    return run({out: experiment}, progress=False, **more)


def test_a_run_writes_its_files_and_says_how_it_was_made(tmp_path):
    out = tmp_path / "r"
    assert quiet(Fake(), out)
    assert list(pd.read_csv(out / "regression.csv").Algorithm) == ["one", "two", "three"]
    assert (out / "regression.csv").read_text().splitlines()[1] == "one,0.3333333"
    assert len(pd.read_csv(out / "history.csv")) == 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["config"] == {"seeds": 2, "protocol": "fake"} and manifest["peak_memory_mb"] > 10
    assert manifest["command"] == "python -m experiments fake --seeds 2 --out DIR"
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert manifest["versions"]["twinlib"] and manifest["parts"]["two"]["n"] == 1
    assert manifest["data_hash"] == "abc"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|", manifest["commit"])
    assert not [p for p in out.rglob(".*")]  # no lock and no half-written file is left


def test_a_table_can_be_packed_and_two_runs_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(Fake, "packed", ("regression",))
    for name in ("a", "b"):
        quiet(Fake(), tmp_path / name)
        time.sleep(1.1)  # gzip keeps a date in seconds
    packed = [(tmp_path / name / "regression.csv.gz").read_bytes() for name in ("a", "b")]
    assert packed[0] == packed[1] and (tmp_path / "a" / "history.csv").is_file()
    assert list(pd.read_csv(tmp_path / "a" / "regression.csv.gz").Algorithm) == ["one", "two", "three"]
    with pytest.raises(FolderError, match="already holds"):
        quiet(Fake(), tmp_path / "a")


def test_a_second_run_into_the_folder_is_refused(tmp_path):
    quiet(Fake(), tmp_path)
    with pytest.raises(FolderError, match="already holds history.csv"):
        quiet(Fake(), tmp_path)


def test_tables_without_the_parts_of_their_run_are_not_written_over(tmp_path):
    quiet(Fake(), tmp_path)
    shutil.rmtree(tmp_path / "parts")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FolderError, match="no parts that a resume could go on from; name another folder"):
        quiet(Fake(), tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_held_by_a_living_run_is_refused_even_for_a_resume(tmp_path):
    with claimed(tmp_path, False, {}), pytest.raises(FolderError, match="Another run is writing"):
        quiet(Fake(), tmp_path, resume=True)


def test_the_lock_of_a_killed_run_holds_nobody_up(tmp_path):
    code = (
        "import os, pathlib, sys\nfrom experiments.folder import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), False, {}):\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and (tmp_path / ".lock").exists()
    assert quiet(Fake(), tmp_path) and not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("text", ["", "own process", "1", "no number", "\0"])
def test_what_stands_in_an_old_lock_does_not_matter(tmp_path, text):
    (tmp_path / ".lock").write_text(str(os.getpid()) if text == "own process" else text)
    assert quiet(Fake(), tmp_path, resume=True) and not (tmp_path / ".lock").exists()


def test_a_resume_computes_only_what_is_missing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quiet(Fake(failing=True), tmp_path)
    assert not (tmp_path / "regression.csv").exists()
    again = Fake()
    quiet(again, tmp_path, resume=True)
    assert again.computed == ["three"]
    assert list(pd.read_csv(tmp_path / "regression.csv").Algorithm) == ["one", "two", "three"]


def test_a_resume_with_other_settings_is_refused(tmp_path):
    quiet(Fake(seeds=2), tmp_path)
    with pytest.raises(FolderError, match="other settings"):
        quiet(Fake(seeds=3), tmp_path, resume=True)


def test_after_its_minutes_a_run_ends_its_part_and_goes_on_with_a_resume(tmp_path):
    slow = Fake(seconds=0.3)
    assert not quiet(slow, tmp_path, minutes=0.4 / 60)
    assert slow.computed == ["one", "two"] and not (tmp_path / "manifest.json").exists()
    again = Fake()
    assert quiet(again, tmp_path, resume=True) and again.computed == ["three"]


def test_two_runs_share_the_workers_and_a_failure_keeps_what_is_finished(tmp_path):
    first, second = Fake(seeds=1), Fake(seeds=2, failing=True)
    with pytest.raises(KeyboardInterrupt):
        run({tmp_path / "a": first, tmp_path / "b": second}, progress=False)
    assert first.computed == ["one", "two", "three"] and second.computed == ["one", "two"]
    with pytest.raises(KeyboardInterrupt):  # nothing finished: no folder is left
        quiet(_FailsAtOnce(), tmp_path / "c")
    assert not (tmp_path / "c").exists()


class _FailsAtOnce(Fake):
    def compute(self, part, scratch):
        raise KeyboardInterrupt


#: A run that is killed in its second algorithm; its folder is the first argument, the tests' the second.
KILLED = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
from tiny_protocol import Tiny
from experiments.runner import run

run({pathlib.Path(sys.argv[1]): Tiny(seeds=2, timesteps=2560)}, progress=False)
"""


def test_a_resume_after_a_kill_gives_the_tables_of_an_unbroken_run(tmp_path):
    """Killed in mid-training, the run goes on from its checkpoint, and what was finished is not touched."""
    from tiny_protocol import Tiny

    tiny = Tiny(seeds=2, timesteps=2560)
    out, parts = tmp_path / "killed", tmp_path / "killed" / "parts"
    here = str(pathlib.Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out), here], cwd=ROOT)
    until = time.monotonic() + 120
    while not (parts / "TRPO.checkpoint").exists() and time.monotonic() < until:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (parts / "PPO.json").exists() and not (parts / "TRPO.json").exists()
    finished = (parts / "PPO.regression.csv").stat().st_mtime_ns
    quiet(tiny, out, resume=True)
    assert (parts / "PPO.regression.csv").stat().st_mtime_ns == finished
    quiet(tiny, tmp_path / "whole")
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
    [{"dataset": "imagined"}, {"seeds": 0}, {"timesteps": 0}, {"block": -1}, {"algorithms": ("A2C",)}],
    ids=lambda bad: next(iter(bad)),
)
def test_bad_settings_are_refused_in_one_sentence(bad):
    with pytest.raises(ValueError, match="choose (one of|from)|give 1 or more"):
        Released(**bad)


def test_the_command_line_refuses_with_status_two_and_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        main(["imagined", "--out", "x"])
    assert ended.value.code == 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_listed_and_explains_its_options(name, capsys, monkeypatch):
    # policies are refused as long as no tuning is packaged
    monkeypatch.setattr(experiment_class(name), "__post_init__", lambda self: None, raising=False)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert EXPERIMENTS[name][1] in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    for option_name in (*experiment_class(name)().options(), "out", "resume", "minutes", "scheduler"):
        assert f"--{option_name} " in shown
    assert experiment_class(name).name == name
    assert experiment_class(name)().command().startswith(f"python -m experiments {name} ")


def test_blocks_of_seeds_cover_every_seed_once_and_keep_the_algorithms_name():
    ten = Released(seeds=10, block=4)
    parts = ten.blocks(("PPO", "TRPO@log1"))
    assert parts == ("PPO~0", "PPO~4", "PPO~8", "TRPO@log1~0", "TRPO@log1~4", "TRPO@log1~8")
    assert [s for part in parts[:3] for s in ten.seeds_of(part)] == list(range(10))
    assert {name_of(part) for part in parts} == {"PPO", "TRPO@log1"}
    assert "--block 4" in ten.command()
    whole = Released(seeds=3)
    assert whole.blocks(("PPO",)) == ("PPO",) and list(whole.seeds_of("PPO")) == [0, 1, 2]


def test_an_experiment_travels_as_its_options():
    import pickle

    one = Released(seeds=4)
    assert one.cells.n_obs  # loaded here
    other = pickle.loads(pickle.dumps(one))
    assert (
        other == one and hash(other) == hash(one) and set(vars(other)) == set(one.identity()) - {"experiment"}
    )


def test_workers_need_a_number_that_makes_sense(tmp_path):
    with pytest.raises(RunError, match="give 1 or more"):
        quiet(Fake(), tmp_path, workers=0)
