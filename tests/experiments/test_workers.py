"""Processes and a real Dask cluster give the tables of the serial run, also when a worker is killed."""

import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import pandas as pd
import pytest
import tiny_protocol
from tiny_protocol import Tiny

from experiments import workers
from experiments.__main__ import main
from experiments.runner import run
from twinlib.errors import FolderError, RunError

cloudpickle.register_pickle_by_value(tiny_protocol)  # workers do not import the test folder


def runs(out, stop=None):
    names = ("one", "two")
    return {out / n: Tiny(dataset=n, seeds=3, timesteps=192, block=2, stop=stop) for n in names}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    out = tmp_path_factory.mktemp("serial")
    assert run(runs(out), progress=False)
    return out


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=None, dashboard_address=None) as made:
        yield made


def assert_same_tables(a, b):
    for name in ("one", "two"):
        for table in ("regression", "similarity", "history"):
            left, right = (pd.read_csv(folder / name / f"{table}.csv") for folder in (a, b))
            pd.testing.assert_frame_equal(left, right, check_exact=True)
        assert len(left) == 2 * 3 * 3 and set(left["Algorithm"]) == {"PPO", "TRPO"}  # iterations of all seeds


def test_two_workers_give_the_tables_of_the_serial_run(serial, cluster, tmp_path):
    assert len(cluster.workers) == 2
    assert run(runs(tmp_path), scheduler=cluster.scheduler_address, progress=False)
    assert_same_tables(serial, tmp_path)


def test_two_processes_give_the_tables_of_the_serial_run(serial, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.getcwd()]))
    assert run(runs(tmp_path), workers=2, progress=False)
    assert_same_tables(serial, tmp_path)


def test_a_worker_killed_in_mid_run_changes_nothing(serial, cluster, tmp_path):
    stop = str(tmp_path / "pid")
    killed = []

    def kill():
        while not killed:
            time.sleep(0.05)
            text = open(stop).read() if os.path.exists(stop) else ""
            if text:
                os.kill(int(text), signal.SIGKILL)
                killed.append(int(text))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert run(runs(tmp_path, stop), scheduler=cluster.scheduler_address, progress=False)
    assert len(killed) == 1 and killed[0] != os.getpid()
    assert_same_tables(serial, tmp_path)


def test_a_resume_on_a_cluster_computes_the_parts_that_are_missing(serial, cluster, tmp_path):
    address = cluster.scheduler_address
    run(runs(tmp_path), scheduler=address, progress=False)
    lost = tmp_path / "one" / "parts" / "TRPO~2.json"
    kept = tmp_path / "one" / "parts" / "PPO~0.json"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    with pytest.raises(FolderError, match="already holds"):
        run(runs(tmp_path), scheduler=address, progress=False)
    run(runs(tmp_path), resume=True, scheduler=address, progress=False)
    assert lost.exists() and kept.stat().st_mtime_ns == before
    assert_same_tables(serial, tmp_path)


def test_a_silent_scheduler_and_a_dataset_named_twice_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", "0.5s")
    out = tmp_path / "out"
    assert main(["released", "--dataset", "waddington", "waddington", "--out", str(out)]) == 2
    assert "each dataset once" in capsys.readouterr().err
    with pytest.raises(RunError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
        run(runs(out), scheduler="tcp://127.0.0.1:9", progress=False)
    assert not out.exists()


def test_a_worker_without_a_clone_says_what_it_needs(tmp_path):
    """Scheduler and worker outside of the repository have twinlib, and no `experiments`."""
    code = (
        "import sys, time\nfrom distributed import LocalCluster\n"
        "sys.modules['experiments'] = None  # an editable install has the repository on its path\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as made:\n"
        "        print(made.scheduler_address, flush=True)\n        time.sleep(300)\n"
    )
    (tmp_path / "elsewhere.py").write_text(code)
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [sys.executable, "-P", "elsewhere.py"]
    with subprocess.Popen(words, cwd=tmp_path, env=plain, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            with pytest.raises(RunError, match="cannot import 'experiments'.*a clone of the repository"):
                run(runs(tmp_path / "out"), scheduler=address, progress=False)
        finally:
            process.terminate()
    assert not (tmp_path / "out").exists()
