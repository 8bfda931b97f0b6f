"""Models of other groups: a stand-in model goes through environment, export and judge; refusals are told."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from experiments import experimental
from experiments.external import External
from experiments.outside import environments
from experiments.outside.environments import OUTSIDERS, Outsider
from experiments.runner import run
from twinlib.data.simulated import simulate_waddington
from twinlib.errors import InputError, RunError
from twinlib.landscapes.gene_network import Wiring

STILL = """import shutil, sys
shutil.copy(sys.argv[1] + "/query.h5ad", sys.argv[2])
"""


@pytest.fixture
def still(monkeypatch, tmp_path):
    """A model that answers every question with its control, in an environment without packages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "still.py").write_text(STILL)
    model = Outsider("still", (), "pip", str(tmp_path / "still.py"), 1, "MIT")
    monkeypatch.setitem(OUTSIDERS, "still", model)
    monkeypatch.setattr(experimental, "load", lambda name: small())
    return tmp_path


def small():
    labels = ("Gata1", "Pu1", "Cebpa", "Fli1", "EKLF", "Gfi1")
    return simulate_waddington(1200, perturbations=labels, wiring=Wiring(n_genes=40))


class OneFold(External):
    """One fold and the effect test."""

    def parts(self, finished):
        return ["effects", "cells~1", "null~1"]


def test_a_model_goes_from_its_environment_to_a_row_beside_the_baselines(still):
    experiment = OneFold("waddington", "cells", ("still",), seeds=2, null=1)
    assert run({still / "out": experiment}, progress=False)
    scores = pd.read_csv(still / "out" / "scores.csv.gz", keep_default_na=False)
    assert set(scores["model"]) == {
        "no_change",
        "replicate",
        "mean",
        "matching_mean",
        "context_mean",
        "still",
    }
    assert set(scores["dataset"]) == {"waddington", "waddington sham"}
    mine = scores[(scores["model"] == "still") & (scores["metric"] == "pearson_delta")]
    assert set(mine["seed"].astype(int)) == {0, 1} and mine["value"].astype(float).eq(0).all()
    manifest = json.loads((still / "out" / "manifest.json").read_text())
    assert manifest["models"]["still"]["licence"] == "MIT" and manifest["panel_rule"] == "variance"
    assert "--model still" in manifest["command"]
    groups = pd.read_csv(still / "out" / "groups.csv.gz")
    assert groups.loc[groups["dataset"] == "waddington", "has_effect"].notna().all()


def test_an_environment_is_made_once_and_again_when_its_pins_change(still, monkeypatch):
    first = environments.environment("still", ())
    (first / "mark").touch()
    assert (environments.environment("still", ()) / "mark").exists()
    (first / "pins.json").write_text('["other"]')
    assert not (environments.environment("still", ()) / "mark").exists()


def test_an_answer_that_is_there_is_not_made_again(still):
    (still / "query.h5ad").write_text("asked")
    answer, seconds = environments.predict("still", still, 0, 1)
    assert answer.read_text() == "asked" and seconds >= 0
    (still / "still.py").write_text("raise SystemExit(3)")
    assert environments.predict("still", still, 0, 1) == (answer, seconds)


def test_a_model_that_fails_is_told_in_one_sentence(still):
    (still / "still.py").write_text("raise SystemExit(3)")
    with pytest.raises(RunError, match=r"still did not finish its training \(exit status 3\)"):
        environments.predict("still", still, 0, 1)


def test_a_package_that_cannot_be_had_is_told_in_one_sentence(still):
    with pytest.raises(RunError, match="absent could not be installed"):
        environments.environment("absent", ["--no-index", "no-such-package-of-ours"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": ("gears",)}, "no model for contexts 'gears'"),
        ({"split": "cells", "model": ("state_controls",)}, "no model for cells 'state_controls'"),
        ({"split": "doubles"}, "no split of kang2018"),
        ({"dataset": "norman2019"}, "no split of norman2019"),
        ({"part": "train"}, "no part 'train'"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_options_that_cannot_be_run_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        External(**options)
