"""The paper's figures, the layout of tables, and what a report prints."""

import json

import numpy as np
import pandas as pd
import pytest

from twinlib.results import tables


def test_the_paper_tables_hold_what_the_paper_prints():
    one = tables.paper_table(1)
    assert list(one.columns) == ["System", "Algorithm", "Split", "MSE", "RMSE", "MAE", "R2", "Pearson"]
    row = one[(one.Algorithm == "TRPO_PPO") & (one.Split == "Test")].iloc[0]
    assert list(row[["MSE", "RMSE", "R2"]]) == ["0.0327", "0.1678", "0.9669"]
    nine = tables.paper_table(9).set_index("System")
    assert nine.loc["Insilico Perturbation System", "DTW"] == "1.6428"
    assert len(tables.paper_tables()) == 3 * (4 + 2) * 5 + 3 * 2 * 2


def test_a_table_the_paper_does_not_have_is_refused():
    with pytest.raises(ValueError, match="choose 1 to 9"):
        tables.paper_table(10)


def paired(system, algorithm, values, **more):
    """Rows of a released run, one a seed, the same number in every metric."""
    base = {"System": system, "Algorithm": algorithm, "logs": 2, "Split": "Test", "optimizer_steps": 10}
    named = ("MSE", "RMSE", "MAE", "R2", "Pearson", "reward", "distance_to_target")
    return [base | {"Seed": s} | dict.fromkeys(named, v) | more for s, v in enumerate(values)]


def test_cells_hold_the_iqm_and_its_interval():
    seeds = paired("insilico", "TRPO_PPO_zero_target", [1.0, 2.0, 3.0, 100.0])
    table = tables.released_table(pd.DataFrame(seeds + paired("insilico", "do_nothing", [5.0])))
    # the order of the tables, not that of the file
    assert list(table["Algorithm"]) == ["do_nothing", "TRPO_PPO_zero_target"]
    assert table["MSE (start to final)"][0] == "5.0000"
    assert table["MSE (start to final)"][1].startswith("2.5000 [")
    assert tables.summarise(pd.Series([np.nan])) == "n/a"


def test_similarity_averages_perturbations_before_seeds():
    made = pd.DataFrame(
        {"System": "insilico", "Algorithm": "PPO", "Against": "real", "Seed": s, "dtw": d, "Perturbation": p}
        for s, d, p in [(0, 1.0, "A"), (0, 3.0, "B"), (1, 2.0, "A"), (1, 2.0, "B")]
    )
    assert tables.similarity_table(made)["DTW"][0] == "2.0000"


@pytest.fixture
def finished(tmp_path):
    config = {"dataset": "papalexi2021", "protocol": "released", "seeds": 2, "timesteps": 100}
    (tmp_path / "manifest.json").write_text(json.dumps({"config": config, "command": "python -m x"}))
    rows = paired("insilico", "PPO", [1.0, 2.0]) + paired("experimental", "experimental", [0.5])
    pd.DataFrame(rows).to_csv(tmp_path / "regression.csv", index=False)
    head = {"System": "insilico", "Algorithm": "PPO", "logs": 2, "Seed": 0, "Perturbation": "all"}
    paths = [head | {"Against": system, "dtw": 1.5} for system in ("Insilico", "Experimental")]
    pd.DataFrame(paths).to_csv(tmp_path / "similarity.csv", index=False)
    return tmp_path


def test_a_report_is_shaped_like_the_papers_tables_and_shows_them(finished):
    text = tables.report(finished)
    for wanted in ("MSE (start to final)", "PPO", "experimental", "DTW", "Table 1", "Table 3", "1.3798"):
        assert wanted in text
    assert "Table 4" not in text


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no regression.csv"):
        tables.report(tmp_path)


def test_results_that_are_not_packaged_name_the_command():
    with pytest.raises(FileNotFoundError, match="experiments policies --dataset nowhere"):
        tables.read_table("policies", "nowhere")


def test_the_released_table_keeps_its_split_and_says_what_is_compared():
    rows = [
        row
        for system in ("insilico", "experimental")
        for split, value in (("Test", 1.0), ("Train", 2.0))
        for row in paired(system, "PPO", [value] * 3, Split=split)
    ]
    table = tables.released_table(pd.DataFrame(rows))
    assert len(table) == 1
    (said,) = table["MSE (start to final)"]
    assert said.startswith("1.0")
    assert "reward" in table.columns


def test_side_by_side_holds_the_papers_digits_and_ours_under_the_same_columns():
    first = tables.side_by_side(1)
    assert list(first.columns) == ["Source", "Row", "MSE", "RMSE", "MAE", "R2", "Pearson"]
    assert list(first["MSE"][:2]) == ["1.3798", "0.0327"] and first["Source"][0] == "the paper, as printed"
    released = first[first["Source"] == "released, papalexi2021"].set_index("Row")
    assert released.loc["do_nothing", "MSE"] == "0.0000" and released.loc["do_nothing", "R2"] == "1.0000"
    rows = tables.read_table("released", "papalexi2021")
    chosen = (rows["Algorithm"] == "PPO") & (rows["Split"] == "Test") & (rows["logs"] == 2)
    assert released.loc["PPO", "MSE"] == tables.summarise(rows[chosen]["MSE"])
    assert set(tables.side_by_side(2)["Row"]) >= {"Embedding Model", "experimental"}
    third = tables.side_by_side(3)
    assert list(third.columns) == ["Source", "Row", "DTW", "Wasserstein"] and third["DTW"][1] == "1.4028"
    assert "PPO against Insilico" in set(third["Row"])
