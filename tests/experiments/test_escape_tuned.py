"""The escape experiment by the common rules: parts that wait, a small run, tables that the readers take."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from experiments import escape_landscapes
from experiments.escape_landscapes import LANDSCAPES, Toggle
from experiments.escape_tuned import OPTIMAL, PATH_UPPER, RESTARTS, STARTS, Decided, EscapeTuned
from experiments.policies import TAKE_OVER
from experiments.runner import run
from experiments.tuning import ORDER, SEEDS
from twinlib.errors import ResultsError
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.results import tables
from twinlib.results.escape_curves import Escapes, best_setting, crossing_paths, flat_ground

SMALL = EscapeTuned(dataset="toggle_middle", timesteps=2000, seeds=2, draws=2)


def test_arms_wait_for_the_tuning_and_for_what_they_read():
    tuning = SMALL.parts(())
    assert all(part.startswith(("nothing", "tuning")) for part in tuning)
    arms = {part.partition("~")[2] for part in SMALL.parts(tuning) if part.startswith("main")}
    assert arms == set(ALGORITHMS) - set(TAKE_OVER)
    done = [*tuning, "main~PPO", "main~two_stage"]
    assert {f"main~{name}" for name in (*TAKE_OVER, RESTARTS)} <= set(SMALL.parts(done))
    density = EscapeTuned(dataset="chi11")
    assert f"main~{RESTARTS}" not in density.parts([*density.parts(()), "main~PPO", "main~two_stage"])


def test_doing_nothing_stays_and_the_largest_push_arrives():
    landscape = Toggle(1.1)
    still = landscape.judge(None, [0, 1], "test")
    assert still["success"].max() == 0 and still["return"].abs().max() < 0.1

    class Push:
        replicas = 2

        def act(self, obs, generators=None):
            return obs.new_tensor([-1.0, 1.0]).expand(*obs.shape[:2], 2)

    pushed = landscape.judge(Push(), [0, 1], "test")
    assert pushed["success"].min() > 0.9 and pushed["left"].min() > 0.9
    other = landscape.judge(Push(), [0, 1], "validation")
    assert not np.allclose(other["return"], pushed["return"])
    assert landscape.optimum()["return"] > float(pushed["return"].max()) > 0


def test_nothing_is_trained_where_no_target_lies_in_another_basin(tmp_path, monkeypatch):
    ground = {"basins": 1, "cells": 56, "apart": 0}
    monkeypatch.setattr(Toggle, "ground", lambda self: ground)
    out = tmp_path / "escape_tuned" / SMALL.dataset
    assert run({out: dataclasses.replace(SMALL)}, progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "parts", "settings.csv"]
    monkeypatch.setattr(tables, "results_folder", lambda: tmp_path)
    assert flat_ground(SMALL.dataset) == ground and flat_ground("toggle_low") is None
    with pytest.raises(ResultsError):
        Escapes.of(SMALL.dataset)


def test_cells_of_a_density_are_apart_where_their_targets_basin_is_another():
    ground = LANDSCAPES["chi11"].ground()
    assert ground["basins"] > 1 and 0 < ground["apart"] < ground["cells"]


def test_a_density_is_run_to_its_end_without_restarts(tmp_path, monkeypatch):
    """Nobody watches the episodes there, so that first arrivals, and with them restarts, are not known."""
    monkeypatch.setattr(escape_landscapes, "EPISODES", 20)
    out = tmp_path / "escape_tuned" / "chi11"
    assert run({out: EscapeTuned(dataset="chi11", timesteps=1920, seeds=2, draws=2)}, progress=False)
    monkeypatch.setattr(tables, "results_folder", lambda: tmp_path)
    known = Escapes.of("chi11")
    assert set(known.arrivals()["model"]) == {"do_nothing", *ALGORITHMS}
    assert known.facts["ground"]["apart"] > 0 and known.facts["steps_of_a_start"] == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("escape") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(escape_landscapes, "EPISODES", 80)
        assert run({out: SMALL}, progress=False)
    return out


def test_a_run_is_read_by_arms_curves_and_gaps(finished):
    runs = pd.read_csv(finished / "runs.csv").fillna({"setting": ""})
    known = Escapes("toggle_middle", runs, json.loads((finished / "manifest.json").read_text()))
    table = known.arrivals().set_index("model")
    assert {*ALGORITHMS, RESTARTS, "do_nothing", OPTIMAL} == set(table.index)
    assert (table["seeds"] == 2).all()
    best = table.loc[OPTIMAL]
    assert best["arrived"] == 2 and best["share of the optimum"] == pytest.approx(1, abs=0.1)
    assert table["return"].max() < best["return"] + 0.1
    tuning = runs[runs["experiment"] == "tuning"]
    assert len(tuning) == len(ORDER) * 2 * len(SEEDS)
    curves = known.curves((1, 2))
    assert len(curves) == 2 * len(ORDER) and (curves["low"] <= curves["mean"] + 1e-9).all()
    assert known.gap("PPO", "PPO").mean == 0
    with pytest.raises(ResultsError, match="no A2C"):
        known.arm("A2C")
    restarts = known.arm(RESTARTS)
    if (restarts["setting"] != "nothing").all():
        assert (restarts["environment_steps"] == STARTS * known.facts["steps_of_a_start"]).all()
    assert set(known.facts["optimum"]) == {"return", "success"}


def test_paths_of_final_policies_are_kept_for_the_map(finished, monkeypatch):
    made = json.loads((finished / "paths.json").read_text())
    monkeypatch.setattr(tables, "read_table", lambda *args: made)
    paths, upper = crossing_paths("toggle_middle")
    places = Toggle(1.1).config.switch.attractors
    best = paths[OPTIMAL]
    assert best.shape == (41, 6, 2) and upper == PATH_UPPER
    assert np.abs(best[0] - places["A"]).max() < 0.02 and np.abs(best[-1] - places["B"]).mean() < 0.3


def test_restarts_get_twice_the_median_first_arrival(monkeypatch):
    class Finished:
        def __init__(self, arrivals):
            self.rows = pd.DataFrame({"first_reach": arrivals})

        def table(self, name, parts):
            return self.rows

    assert SMALL._restart_steps(Finished([400.0, 600.0, np.nan])) == 1000
    assert SMALL._restart_steps(Finished([1800.0])) == SMALL.steps
    assert SMALL._restart_steps(Finished([np.nan])) == SMALL.steps
    assert Decided((("PPO", 1),)).steps == 0 and set(LANDSCAPES) >= {"myeloid", "papalexi2021"}


def test_the_setting_with_the_best_validation_return_is_taken_and_none_below_nothing():
    rows = [
        {"setting": s, "seed": seed, "lost": lost, "validation_return": value, "return": 0.0}
        for s, value, lost in (("s00", 0.1, False), ("s01", 0.3, False), ("s02", 0.5, True))
        for seed in range(3)
    ]
    runs = pd.DataFrame(rows)
    nothing = pd.Series({"validation_return": 0.0, "return": 0.0})
    assert best_setting(runs, nothing) == "s01"
    assert best_setting(runs.assign(validation_return=-0.1), nothing) is None
    assert best_setting(runs.assign(validation_return=-0.1), nothing - 0.2) is not None
