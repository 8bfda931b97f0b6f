"""The escape experiment: zero below the threshold, one cell again, resume, refusals, tables."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.__main__ import main
from experiments.escape import (
    CONTESTANTS,
    DESIGN,
    PATH_UPPER,
    YARDSTICKS,
    Escape,
    judge,
    optimal_policy,
    records,
    run_setting,
    settings,
    toggle_config,
    tuning_settings,
)
from experiments.escape_density import DensityDesign, density_rows
from experiments.runner import run
from twinlib.environment.known_answers import ConstantToggle
from twinlib.errors import FolderError
from twinlib.evaluation.statistics import wilson_interval
from twinlib.page.surface import LARGEST, crossing_html
from twinlib.results.escape import (
    BARRIERS,
    causes,
    changes,
    chosen_runs,
    escape_claims,
    escape_results,
    one_at_a_time,
    rate,
    recorded_design,
    recorded_paths,
    recorded_settings,
)
from twinlib.results.escape_design import Design, Setting, training_config, unpacked

TUNED = dict.fromkeys(CONTESTANTS, 1)
TINY = dataclasses.replace(
    DESIGN,
    timesteps=80,
    seeds=2,
    tuning_seeds=1,
    episodes=4,
    steps_per_iteration=40,
    warm_start=40,
    warm_starts=(0, 40),
    betas=(0.1,),
    barriers=tuple(b for b in DESIGN.barriers if b.name in ("middle", "below")),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("escape") / "run"
    assert run({out: experiment(TINY)}, progress=False)
    return out


def experiment(design):
    return Escape(timesteps=design.timesteps, seeds=design.seeds, cells="none", fixed=design)


# -- the design
def test_the_design_is_listed_whole_and_within_its_bounds() -> None:
    listed = settings(DESIGN, TUNED, -1.2)
    tuning = tuning_settings(DESIGN)
    assert DESIGN.timesteps == 60_000 and DESIGN.seeds == 20
    assert len(listed) * DESIGN.seeds + len(tuning) * DESIGN.tuning_seeds <= 1200
    names = [c.name for c in [*tuning, *listed]]
    assert len(names) == len(set(names))
    main_settings = {(c.contestant, c.barrier) for c in listed if c.experiment == "main"}
    assert main_settings == {(n, b.name) for n in (*CONTESTANTS, *YARDSTICKS) for b in DESIGN.barriers}
    assert {c.warm_start for c in listed if c.experiment == "warm_start"} == {0, 1000, 3000, 30_000}


def test_one_thing_is_varied_at_a_time() -> None:
    listed = settings(DESIGN, TUNED, -1.2)
    base = next(c for c in listed if c.name == "main-two_stage-middle")
    for setting in listed:
        if setting.experiment in ("warm_start", "delta", "beta"):
            plain = dataclasses.replace(setting, experiment="main", setting="")
            differing = [
                f.name for f in dataclasses.fields(Setting) if getattr(plain, f.name) != getattr(base, f.name)
            ]
            assert differing == [setting.experiment]


def test_wrong_designs_are_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Design(ablation_barrier="nowhere")
    with pytest.raises(ValueError, match="multiple of 40"):
        Design(steps_per_iteration=1001)
    with pytest.raises(ValueError, match="at least one"):
        Design(seeds=0)


# -- below the threshold
@pytest.mark.parametrize("contestant", [*CONTESTANTS, *YARDSTICKS])
def test_below_the_threshold_every_contestant_and_seed_fails(contestant: str) -> None:
    design = dataclasses.replace(TINY, timesteps=400, seeds=3, steps_per_iteration=80)
    setting = next(
        c for c in settings(design, TUNED, -1.2) if (c.contestant, c.barrier) == (contestant, "below")
    )
    rows = run_setting(design, setting).tables["runs"]
    assert len(rows) == 3 and all(row["success"] == 0 and row["left"] == 0 for row in rows)


def test_below_the_threshold_the_committed_table_says_zero() -> None:
    rows = escape_results("runs").query("barrier == 'below'")
    assert len(rows) == (len(CONTESTANTS) + len(YARDSTICKS)) * DESIGN.seeds
    assert rows["success"].max() == 0 and rows["left"].max() == 0
    assert rows["training_success"].max() == 0 and rows["first_escape"].isna().all()


def test_the_largest_constant_push_crosses_above_the_threshold_and_not_below() -> None:
    def full(obs: torch.Tensor, _t: int) -> torch.Tensor:
        return torch.tensor([-1.0, 1.0]).expand(*obs.shape[:2], 2)

    assert judge(DESIGN, "below", full, [0]).left.max() == 0
    for barrier in BARRIERS:
        assert judge(dataclasses.replace(DESIGN, episodes=50), barrier, full, [0]).success.min() > 0.9


# -- the yardstick
def test_value_iteration_earns_what_its_grid_promises_and_more_than_the_rest() -> None:
    grid, act = optimal_policy(DESIGN, "middle")
    promised = float(grid.at(toggle_config(DESIGN, "middle").switch.attractors["A"]))
    found = judge(DESIGN, "middle", act, range(5)).returns.mean()
    assert abs(found - promised) < 0.1
    runs = escape_results("runs").query("barrier == 'middle' and experiment != 'tuning'")
    assert runs.groupby(["contestant", "setting"])["return"].mean().max() < found + 0.05


# -- the committed run, again
def test_a_committed_cell_comes_out_again() -> None:
    runs = escape_results("runs")
    again = pd.DataFrame(
        run_setting(DESIGN, Setting("main", "random_search", "middle")).tables["runs"]
    ).set_index("seed")
    kept = chosen_runs(runs, "random_search", "middle")
    for name in ("success", "left", "return", "training_return"):
        np.testing.assert_allclose(again[name], kept[name], atol=2e-3)


def test_a_committed_learning_curve_begins_again_the_same() -> None:
    curves = escape_results("curves")
    setting = recorded_settings()["main-two_stage-middle"]
    curve = run_setting(dataclasses.replace(DESIGN, timesteps=3000, episodes=1), setting).tables["curves"]
    kept = curves.query(
        "experiment == 'main' and contestant == 'two_stage' and barrier == 'middle'"
        " and environment_steps == 3000"
    ).iloc[0]
    assert curve[0]["episode_return"] == pytest.approx(kept["episode_return"], abs=0.02)
    assert curve[0]["log_std"] == pytest.approx(kept["log_std"], abs=5e-3)


def test_the_records_hold_the_design_of_the_code() -> None:
    manifest = escape_results("manifest")
    assert recorded_design() == DESIGN
    tuned, log_std = manifest["tuning"]["chosen_step"], manifest["hand_over_log_std"]
    assert escape_results("settings") == json.loads(json.dumps(records(DESIGN, tuned, log_std)))
    assert list(recorded_settings().values()) == [*tuning_settings(DESIGN), *settings(DESIGN, tuned, log_std)]
    assert {path.shape for path in recorded_paths().values()} == {(41, 60, 2)}
    assert manifest["design"] == json.loads(json.dumps(dataclasses.asdict(DESIGN)))
    assert manifest["runs"] == len(escape_results("runs")) <= 1200


# -- the folder
def test_the_outputs_of_a_run(finished) -> None:
    runs = pd.read_csv(finished / "runs.csv")
    assert set(runs["contestant"]) == {*CONTESTANTS, *YARDSTICKS}
    assert runs.groupby(["experiment", "contestant", "barrier", runs["setting"].fillna("")]).size().max() == 2
    best = runs.query("contestant == 'value_iteration' and barrier == 'middle'")
    assert best["return_share"].mean() == pytest.approx(1)
    paths = json.loads((finished / "paths.json").read_text())
    path = unpacked(paths["main-PPO-middle"], 40, PATH_UPPER)
    assert path.shape == (41, 6, 2)
    start = toggle_config(TINY, "middle").switch.attractors["A"]
    np.testing.assert_allclose(path[0], np.broadcast_to(start, (6, 2)), atol=PATH_UPPER / 255)


def test_a_resume_computes_only_what_is_missing(finished) -> None:
    before = (finished / "runs.csv").read_bytes()
    parts = sorted((finished / "parts").glob("main-*.json"))
    kept = {p.name: p.stat().st_mtime_ns for p in parts}
    parts[0].unlink()
    (finished / "runs.csv").unlink()
    assert run({finished: experiment(TINY)}, resume=True, progress=False)
    after = {p.name: p.stat().st_mtime_ns for p in (finished / "parts").glob("main-*.json")}
    assert {name for name in kept if kept[name] != after[name]} == {parts[0].name}
    assert (finished / "runs.csv").read_bytes() == before


def test_a_taken_folder_is_refused(finished, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FolderError, match="already holds"):
        run({finished: experiment(TINY)}, progress=False)
    with pytest.raises(FolderError, match="other settings"):
        run({finished: experiment(dataclasses.replace(TINY, l1=0.04))}, resume=True, progress=False)
    assert main(["escape", "--out", str(finished), "--quiet"]) == 2
    assert "already holds" in capsys.readouterr().err


def test_the_command_passes_its_settings_on(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import runner

    asked = {}

    def stand_in(experiments, **how):
        asked.update(experiments=experiments, **how)
        return True

    monkeypatch.setattr(runner, "run", stand_in)
    words = "--seeds 3 --timesteps 120 --workers 2 --minutes 5 --resume --quiet --cells waddington"
    assert main(["escape", "--out", str(tmp_path), *words.split()]) == 0
    (made,) = asked["experiments"].values()
    assert made.design == dataclasses.replace(DESIGN, seeds=3, timesteps=120)
    assert asked["resume"] and asked["workers"] == 2 and asked["minutes"] == 5 and made.cells == "waddington"


# -- tables
def test_rates_and_claims_are_those_of_the_rows() -> None:
    runs = escape_results("runs")
    rows = runs.query("experiment == 'main' and contestant == 'two_stage' and barrier == 'high'")
    count = int((rows["success"] >= 0.5).sum())
    found = rate(chosen_runs(runs, "two_stage", "high"))
    assert (found["low"], found["high"]) == wilson_interval(count, 20) and found["n"] == 20
    other = runs.query("experiment == 'main' and contestant == 'PPO' and barrier == 'high'")
    claim = escape_claims(runs)[2]
    middle = rows["success"].to_numpy().mean() - other["success"].to_numpy().mean()
    assert claim["dataset"] == "high" and (claim["low"] + claim["high"]) / 2 == pytest.approx(middle)
    with pytest.raises(KeyError, match="no runs of PPO"):
        chosen_runs(runs, "PPO", "mountain")


def test_every_part_and_change_has_its_row() -> None:
    runs = escape_results("runs")
    assert causes(runs, "middle").notna().all().all() and len(causes(runs, "middle")) == 6
    assert len(changes(runs, "middle")) == 12
    one = one_at_a_time(runs, "middle")
    assert one.groupby("varied").size().to_dict() == {"beta": 3, "delta": 3, "warm_start": 5}
    assert (one.groupby("varied")["main"].sum() == 1).all()


# -- pictures and cells
def test_a_blind_policy_leaves_its_path() -> None:
    dynamics = ConstantToggle(toggle_config(DESIGN, "middle"), 2, 25)
    from twinlib.policy.training import train

    setting = next(c for c in settings(DESIGN, TUNED, -1.2) if c.name == "main-PPO-middle")
    train(dynamics, training_config(DESIGN, setting, 2000), [0, 1])
    pushes = torch.stack(dynamics.pushes)
    assert pushes.shape == (2, 2, 2) and float(pushes.abs().max()) < 1 and bool(pushes.abs().min() > 0)


def test_the_crossing_is_small_fetches_nothing_and_refuses_what_does_not_fit() -> None:
    paths = {n: recorded_paths()[f"main-{n}-middle"][:, ::2] for n in ("PPO", "TRPO")}
    told = {name: [f"step {t} </script>" for t in range(41)] for name in paths}
    alt = "Two policies whose cells cross a map."
    page = crossing_html(np.zeros((20, 20)), paths, told, "demo", alt, upper=PATH_UPPER)
    assert len(page.encode()) < LARGEST and page.count("</script>") == 1
    assert not re.search(r'https?:|["(]//|src=|@import|url\(|@[A-Z]+@', page)
    with pytest.raises(ValueError, match="every policy and step"):
        crossing_html(np.zeros((20, 20)), paths, {"PPO": told["PPO"]}, "demo", alt, upper=PATH_UPPER)


def test_cells_with_density_are_judged_by_their_basins() -> None:
    design = DensityDesign(dataset="waddington", timesteps=256, seeds=2, judged=20)
    still, moved = (density_rows(name, design) for name in ("do_nothing", "PPO"))
    assert len(still) == len(moved) == 2 and all(0 <= row["arrived"] <= 1 for row in still + moved)
    assert still[0]["arrived"] <= still[0]["left"], "who arrived in another basin has left its own"
    assert still[0]["left"] == still[1]["left"], "without policy and noise all replicas are the same"
