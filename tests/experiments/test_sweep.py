"""A sweep over a real Dask cluster gives the tables of the serial run, also when a worker is killed."""

import os
import signal
import threading
import time

import cloudpickle
import pandas as pd
import pytest
import tiny_protocol
from tiny_protocol import Tiny

from experiments.protocols import RunConfig, run
from experiments.sweep import sweep

cloudpickle.register_pickle_by_value(tiny_protocol)  # workers do not import the test folder


def configs():
    return [
        RunConfig(dataset=name, algorithms=("PPO", "TRPO"), seeds=3, timesteps=192, block=2)
        for name in ("one", "two")
    ]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    out = tmp_path_factory.mktemp("serial")
    for config in configs():
        run(config, out / config.dataset, progress=False, make=Tiny)
    return out


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=None, dashboard_address=None) as found:
        yield found


def assert_same_tables(a, b):
    for name in ("one", "two"):
        for table in ("regression", "similarity", "history"):
            left, right = (pd.read_csv(folder / name / f"{table}.csv") for folder in (a, b))
            pd.testing.assert_frame_equal(left, right, check_exact=True)
        assert len(left) == 2 * 3 * 3 and set(left["Algorithm"]) == {"PPO", "TRPO"}  # iterations of all seeds


def test_two_workers_give_the_tables_of_the_serial_run(serial, cluster, tmp_path):
    assert len(cluster.workers) == 2
    sweep(configs(), tmp_path, cluster.scheduler_address, progress=False, make=Tiny)
    assert_same_tables(serial, tmp_path)


def test_a_worker_killed_in_mid_run_changes_nothing(serial, cluster, tmp_path):
    from functools import partial

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
    make = partial(Tiny, stop=stop)
    sweep(configs(), tmp_path, cluster.scheduler_address, progress=False, make=make)
    assert len(killed) == 1 and killed[0] != os.getpid()
    assert_same_tables(serial, tmp_path)


def test_a_sweep_resumes_with_the_parts_that_are_missing(serial, cluster, tmp_path):
    sweep(configs(), tmp_path, cluster.scheduler_address, progress=False, make=Tiny)
    lost = tmp_path / "one" / "parts" / "TRPO~2.json"
    kept = tmp_path / "one" / "parts" / "PPO~0.json"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    with pytest.raises(ValueError, match="already holds"):
        sweep(configs(), tmp_path, cluster.scheduler_address, progress=False, make=Tiny)
    sweep(configs(), tmp_path, cluster.scheduler_address, resume=True, progress=False, make=Tiny)
    assert lost.exists() and kept.stat().st_mtime_ns == before
    assert_same_tables(serial, tmp_path)


def test_a_scheduler_that_does_not_answer_and_a_dataset_named_twice_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="each dataset once"):
        sweep([RunConfig(), RunConfig()], tmp_path, make=Tiny)
    with pytest.raises(ValueError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
        sweep([RunConfig()], tmp_path, "tcp://127.0.0.1:9", make=Tiny)
    assert not list(tmp_path.rglob(".lock"))
