"""Returns on gymnasium's own tasks: the stored ten-seed comparison, and a short live run of ours."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import pandas as pd
import pytest

from experiments import peers
from twinlib.results.tables import results_folder


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_stored_returns_are_not_below_the_peer(task):
    folder = results_folder() / "peers"
    line = peers.compare(pd.read_csv(folder / "returns.csv"), task)
    assert line["seeds"] >= 10
    assert line["difference_low_share_of_gain"] > -0.1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"][task] == asdict(peers.TASKS[task]), "the settings changed: run it again"


def test_ours_learns_the_discrete_task_with_three_seeds(monkeypatch):
    monkeypatch.setattr(peers, "score", partial(peers.score, episodes=5))
    short = replace(peers.TASKS["CartPole-v1"], timesteps=16_384)
    returns = peers.ours("CartPole-v1", short, [0, 1, 2])
    # A random policy reaches about 20, the task ends at 500; a single short run differs between processors.
    assert sum(returns) / len(returns) > 100


def test_the_comparison_can_fail():
    rows = [{"task": "t", "library": "random", "return": 0.0}]
    rows += [{"task": "t", "library": "stable_baselines3", "return": 100.0 + k} for k in range(5)]
    rows += [{"task": "t", "library": "twinlib", "return": 80.0 + k} for k in range(5)]
    assert peers.compare(pd.DataFrame(rows), "t")["difference_low_share_of_gain"] < -0.1


def test_theirs_is_a_part_a_seed_and_every_task_has_its_number_of_seeds():
    parts = peers.Peers().parts(None)
    assert len(parts) == 2 + 30 + 2 + 10 and parts[2] == "CartPole-v1@stable_baselines3~0"
    with pytest.raises(ValueError, match="1 or more for each"):
        peers.Peers(tasks=("CartPole-v1",))
