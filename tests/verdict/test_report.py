"""A report on cells without any effect, on shuffled labels, and on cells with one."""

from __future__ import annotations

import pathlib
import re
import sys

import numpy as np
import pandas as pd
import pytest
from plain_reports import reported

from twinlib.data.preparation import prepare
from twinlib.errors import DataError, FolderError
from twinlib.verdict import figures, inspection, page, parts
from twinlib.verdict.keys import Keys
from twinlib.verdict.page import Run, report
from twinlib.verdict.sentences import five_sentences

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "evaluation"))
from simulated_counts import canonical, screen
from simulated_counts import cells as simulated

ROWS = ("mean", "matching_mean", "latent_shift", "experimental")


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cells = canonical(*screen(0.0, np.random.default_rng(3), arms=20, n=60)[:2])
        yield reported(cells, tmp_path_factory.mktemp("nothing"), patch, twin=True)


@pytest.fixture(scope="module")
def effects(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cells = canonical(*screen(0.5, np.random.default_rng(1), controls=400, arms=8, n=90)[:2], contexts=2)
        yield reported(cells, tmp_path_factory.mktemp("effects"), patch)


def check_nothing(run):
    judged = run.judged
    assert judged.units["has_effect"].sum() <= 1
    rows = judged.rows()
    asked = [name for name in ROWS if name in rows.index]
    assert (rows["low"][asked] <= 0).all() and len(asked) >= 3
    assert five_sentences(judged)[0].startswith("**These cells show nothing:**")
    assert "n/a" in five_sentences(judged)[4]


def test_cells_without_any_effect_show_nothing(nothing):
    check_nothing(nothing)


def test_shuffled_labels_show_nothing(tmp_path, monkeypatch):
    cells = canonical(*screen(0.5, np.random.default_rng(2), arms=20, n=60)[:2])
    order = np.random.default_rng(0).permutation(cells.n_obs)
    for column in ("perturbation", "perturbation_type", "dose"):
        cells.obs[column] = cells.obs[column].to_numpy()[order]
    check_nothing(reported(cells, tmp_path, monkeypatch))


def test_cells_with_effects_say_so_in_five_sentences(effects):
    said = five_sentences(effects.judged)
    assert len(said) == 5 and re.search(
        r"\d of 8 perturbations \(about [89]\d cells each\) have an effect", said[0]
    )
    assert all(re.search(r"-?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\]", text) for text in said[1:3])
    assert all(name in said[3] for name in effects.judged.contexts)
    assert re.search(r"0\.\d\d \[at least 0\.\d\d\]", said[4])
    sure = effects.judged.sureness()
    assert (sure["1 x"].dropna() < sure["4 x"].dropna()).all()


def test_the_page_is_one_file_that_needs_nothing_else(nothing):
    text = (nothing.folder / "report.html").read_text()
    assert len(text) < 5e6 and '<html lang="en">' in text
    assert not re.search(r"""(src|href)=["']https?:|<script|@import|url\(""", text)
    assert text.count("<img ") == len(re.findall(r'<img alt="[^"]{40,}', text)) >= 5
    assert "show nothing" in text and "Traceback" not in text
    assert {path.name for path in nothing.folder.iterdir()} == {
        "report.html", "report.ipynb", "scores.csv", "model", "parts",
    }  # fmt: skip


def test_scores_hold_every_row_and_split(effects):
    table = pd.read_csv(effects.folder / "scores.csv", keep_default_na=False)
    assert {"cells", "sham"} == set(table["split_kind"])
    assert {"no_change", "replicate", "matching_mean"} <= set(table["model"])


def test_a_folder_that_holds_something_is_not_overwritten(effects):
    with pytest.raises(FolderError, match="holds files already"):
        report(effects.file, effects.folder, progress=False)


def test_a_split_that_is_none_or_that_the_cells_cannot_give_is_refused(effects, tmp_path):
    for split, words in (("folds", "no split 'folds'"), ("doses", "needs at least two doses")):
        with pytest.raises(DataError, match=words):
            report(effects.file, tmp_path / split, splits=(split,), progress=False)


def test_an_interrupted_report_goes_on_and_another_request_starts_clean(tmp_path, monkeypatch):
    cells = canonical(*screen(0.5, np.random.default_rng(2), arms=6, n=60)[:2])
    cells.write_h5ad(tmp_path / "screen.h5ad")
    computed = []

    def compute(self, name):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(name)
        (self.folder / f"{name}.done").write_text("")
        return name

    monkeypatch.setattr(parts.Parts, "compute", compute)
    with pytest.raises(KeyboardInterrupt):
        report(tmp_path / "screen.h5ad", tmp_path / "out", seeds=1, jobs=1, progress=False)
    beside = tmp_path / "out.unfinished" / "parts"
    assert len(list(beside.glob("*.done"))) == 3 and not any((tmp_path / "out").iterdir())
    again = parts.Parts(beside, parts.ReportSettings(seeds=1), Keys())
    assert len(again.left()) == 7
    with pytest.raises(KeyboardInterrupt):
        report(tmp_path / "screen.h5ad", tmp_path / "out", seeds=2, jobs=1, progress=False)
    assert not list(beside.glob("*.done")), "what another request had computed is gone"


def test_more_cells_would_show_what_the_page_says(effects):
    rng = np.random.default_rng(1)
    base, profiles = screen(0.5, rng, controls=400, arms=8, n=90)[2:]
    sure = effects.judged.sureness().dropna()
    for m, off in ((1, 0.1), (4, 0.05)):  # those whose halves agree are a choice that leans upward
        real = [agreement(base, profiles[int(unit[1:])], m, rng) for unit in sure.index]
        assert abs(sure[f"{m} x"].mean() - np.mean(real)) < off
        assert m > 1 or (sure["low"] < real).all()
    noise = 1 / sure["1 x"] - 1
    assert np.allclose(1 / (1 + noise / sure["times"]), 0.8), "so many times the cells are enough"
    assert (sure["times"] < sure["at most"]).all()


def agreement(base, profile, m, rng):
    """How two experiments with m times the cells agree on a change, on average."""

    def change():
        return simulated(profile, 90 * m, rng).mean(0) - simulated(base, 400 * m, rng).mean(0)

    return np.mean([np.corrcoef(change(), change())[0, 1] for _ in range(30)])


def test_a_file_that_stays_on_disk_gives_the_same_cells(tmp_path, monkeypatch):
    cells = canonical(*screen(0.5, np.random.default_rng(4), controls=120, arms=4, n=80)[:2], contexts=2)
    cells.write_h5ad(tmp_path / "screen.h5ad")
    monkeypatch.setattr(parts, "MOST_PERTURBED", 30)
    kept = {}
    for name, limit in (("memory", cells.n_obs), ("disk", cells.n_obs - 1)):
        monkeypatch.setattr(inspection, "IN_MEMORY", limit)
        (tmp_path / name / page.PARTS).mkdir(parents=True)
        page.begin(tmp_path / name, tmp_path / "screen.h5ad", Keys(), parts.ReportSettings())
        kept[name] = Run.read(tmp_path / name).parts.cells
    assert kept["disk"].n_obs < cells.n_obs
    assert list(kept["disk"].obs_names) == list(kept["memory"].obs_names)
    dense = [np.asarray(kept[name].X.toarray()) for name in kept]
    np.testing.assert_allclose(*dense, rtol=1e-6)
    first = [prepare(kept[name], 20).fingerprint for name in kept]
    assert first[0] == first[1]


def test_controls_are_not_counted_among_the_perturbations():
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    figures.name_axis(ax, ["control", *(f"g{i}" for i in range(50))])
    assert ax.get_xlabel() == "the controls and 50 perturbations, sorted"
    figures.name_axis(ax, [f"g{i}" for i in range(50)])
    assert ax.get_xlabel() == "50 perturbations, sorted"
    plt.close(fig)
