"""Tuned settings: read for each algorithm, reused where definitions say so, refused where missing."""

import dataclasses

import pytest

from experiments import settings

ROWS = """dataset,algorithm,step_size,scale,pearson_delta
papalexi2021,PPO,0.001,2.0,0.2
papalexi2021,TRPO,0.2,0.5,0.2
waddington,PPO,0.003,1.0,0.3
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "chosen.csv"
    path.write_text(ROWS)
    return path


def test_each_algorithm_has_its_own_choice_and_untuned_datasets_reuse_papalexi(table):
    assert settings.choice("waddington", "PPO", table) == settings.Choice(0.003, 1.0, "waddington")
    for name in ("papalexi2021", "kang2018", "cross_study", "vcc"):
        assert settings.choice(name, "TRPO", table) == settings.Choice(0.2, 0.5, "papalexi2021")


def test_a_missing_row_or_file_is_one_sentence_and_no_default(table, tmp_path):
    with pytest.raises(settings.SettingsError, match="0 rows for TRPO on waddington.*--dataset waddington"):
        settings.choice("waddington", "TRPO", table)
    with pytest.raises(settings.SettingsError, match="no table of tuned settings"):
        settings.choice("waddington", "PPO", tmp_path / "none.csv")


def test_the_step_size_goes_where_the_algorithm_takes_its_steps():
    chosen = settings.Choice(0.2, 1.0, "papalexi2021")
    first = settings.training_settings("PPO", 150_000, chosen)
    second = settings.training_settings("two_stage", 150_000, chosen)
    assert first.proximal.learning_rate == 0.2 and first.warm_start_steps == 10_000
    assert second.trust_region.delta == 0.2 and second.proximal.learning_rate == 3e-4
    assert second.fine_tuning == dataclasses.replace(second.proximal, beta=0.1)


def test_the_runs_use_the_settings_that_the_tuning_scored():
    """The tuning script and the protocol each build their settings; a choice must mean the same in both."""
    from experiments import tuning

    for algorithm, size in (("PPO", 1e-3), ("PPO_restart", 1e-4), ("TRPO", 0.2), ("two_stage", 1.0)):
        chosen = settings.Choice(size, 1.0, "papalexi2021")
        ours = settings.training_settings(algorithm, 150_000, chosen)
        theirs = tuning.training_config(algorithm, size, 150_000)
        assert theirs == ours


def test_the_grid_has_twelve_settings_an_algorithm_and_the_best_is_chosen():
    import pandas as pd

    from experiments.tuning import SEEDS, Tuning, best
    from twinlib.results.tables import results_folder

    names = ("PPO", "PPO_restart", "TRPO", "alternating", "two_stage")
    run = Tuning(algorithms=names)
    assert len(run.settings()) == 12 * len(names) and len(run.parts(None)) == 24 * len(names)
    chosen = pd.read_csv(results_folder() / "tuning" / "chosen.csv")
    for data in run.datasets:
        rows = pd.read_csv(results_folder() / "tuning" / f"{data}.csv")
        asked = {(*setting, seed) for setting in run.settings() for seed in SEEDS}
        assert asked == set(
            rows[["algorithm", "step_size", "scale", "seed"]].itertuples(index=False, name=None)
        )
        kept = chosen[chosen["dataset"] == data].reset_index(drop=True)
        pd.testing.assert_frame_equal(best(rows), kept, atol=1e-6, check_dtype=False)
