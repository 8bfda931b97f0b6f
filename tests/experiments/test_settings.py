"""Tuned settings: read for each algorithm, reused where definitions say so, refused where missing."""

import dataclasses

import pytest

from experiments import settings

ROWS = """dataset,algorithm,step_size,scale,pearson_delta
papalexi2021,PPO,0.001,2.0,0.2
papalexi2021,TRPO,0.2,0.5,0.2
norman2019,TRPO,0.3,0.5,0.2
waddington,PPO,0.003,1.0,0.3
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "chosen.csv"
    path.write_text(ROWS)
    return path


def test_each_algorithm_has_its_own_choice_and_untuned_datasets_take_that_of_another(table):
    assert settings.choice("waddington", "PPO", table) == settings.Choice(0.003, 1.0, "waddington")
    assert settings.choice("vcc", "TRPO", table) == settings.Choice(0.2, 0.5, "papalexi2021")
    assert settings.choice("cross_study", "TRPO", table) == settings.Choice(0.3, 0.5, "norman2019")


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
