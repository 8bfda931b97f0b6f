"""Returns on gymnasium's own tasks: the stored ten-seed comparison, and a short live run of ours."""

from __future__ import annotations

import csv
import importlib.util
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/peer_returns.py as a module."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location("peer_returns", ROOT / "benchmarks" / "peer_returns.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_stored_returns_are_not_below_the_peer(benchmark, task):
    path = ROOT / "results" / "peers" / "returns.csv"
    if not path.exists():
        pytest.skip("results/peers is not there: python benchmarks/peer_returns.py --seeds 10 --store")
    with path.open() as file:
        line = benchmark.compare(list(csv.DictReader(file)), task)
    assert line["seeds"] >= 10
    assert line["difference_low_share_of_gain"] > -0.1
    manifest = json.loads(path.with_name("manifest.json").read_text())
    assert manifest["settings"][task] == benchmark.TASKS[task], (
        "the settings changed: run the benchmark again"
    )


def test_ours_learns_the_discrete_task_with_three_seeds(benchmark, monkeypatch):
    short = {**benchmark.TASKS["CartPole-v1"], "timesteps": 16_384}
    monkeypatch.setitem(benchmark.TASKS, "CartPole-v1", short)
    returns = benchmark.ours("CartPole-v1", [0, 1, 2])
    # A random policy reaches about 20, the task ends at 500; a single short run differs between processors.
    assert sum(returns) / len(returns) > 100


def test_the_comparison_can_fail(benchmark):
    rows = [{"task": "t", "library": "random", "return": 0.0}]
    rows += [{"task": "t", "library": "stable_baselines3", "return": 100.0 + k} for k in range(5)]
    rows += [{"task": "t", "library": "twinlib", "return": 80.0 + k} for k in range(5)]
    assert benchmark.compare(rows, "t")["difference_low_share_of_gain"] < -0.1
