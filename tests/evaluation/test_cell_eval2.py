"""The challenge's six metrics against cell-eval2 (extra [oracle]), compiled once a process."""

from __future__ import annotations

import pathlib
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from twinlib.data.sources import load
from twinlib.evaluation.challenge import Screen, challenge_metrics
from twinlib.verdict.keys import Keys
from twinlib.verdict.parts import ReportSettings
from twinlib.verdict.score import begin_score

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from simulated_counts import counted

REASON = "pip install 'twinlib[oracle]' to hold the challenge's metrics to cell-eval2"
#: norman2019 holds 124 counts a cell; over all its labels cell-eval2 finds no effect to divide by and stops.
FAR = ("CBL+CNN1", "TMSB4X", "BPGM+SAMD1", "SGK1+TBX3", "NIT1", "MAPK1", "SAMD1+PTPN12", "FOXL2+HOXB9")
LABELS = {"vcc_h1": ("MED12", "SRC", "STAT1", "TET1", "TMSB4X"), "norman2019": FAR}


def screens(cells, labels):
    """All cells as truth; as prediction three quarters of their counts, half of them under another label."""
    rng = np.random.default_rng(0)
    chosen = cells[cells.obs["perturbation"].isin([*labels, "control"])]
    x = np.rint(chosen.to_df(layer="counts").to_numpy(dtype=float))
    truth = chosen.obs["perturbation"].astype(str).to_numpy()
    neighbour = dict(zip(labels, labels[1:] + labels[:1], strict=True)) | {"control": "control"}
    told = np.array([neighbour[name] if rng.random() < 0.5 else name for name in truth])
    thinned = rng.binomial(x.astype(int), 0.75)
    return Screen.of(x, truth, chosen.var_names), Screen.of(thinned, told, chosen.var_names)


def of_cell_eval2(real, guess):
    cell_eval2 = pytest.importorskip("cell_eval2", reason=REASON)

    def brought(screen):
        obs = pd.DataFrame({"target": screen.labels}, index=[f"c{i}" for i in range(len(screen.labels))])
        x = screen.counts.astype(np.float32)
        return anndata.AnnData(
            x, obs.replace("control", "non-targeting"), pd.DataFrame(index=list(screen.genes))
        )

    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    tidy = cell_eval2.compute_metrics(brought(guess), brought(real), config=config, num_threads=1)
    table = cell_eval2.aggregate_metrics(tidy)
    return dict(zip(table["metric"], table["mean"], strict=True))


@pytest.mark.parametrize("name", LABELS)
def test_values_are_those_of_cell_eval2(name, real_data):
    real, guess = screens(load(name, data_dir=real_data), LABELS[name])
    theirs, ours = of_cell_eval2(real, guess), challenge_metrics(real, guess)
    assert len(ours) == 6 and set(ours) <= set(theirs)
    np.testing.assert_allclose([ours[key] for key in ours], [theirs[key] for key in ours], atol=1e-6)


# -- files
def test_the_same_files_have_the_values_of_cell_eval2(tmp_path):
    cell_eval2 = pytest.importorskip("cell_eval2", reason=REASON)
    files = {"truth": counted(1, 2.0), "guess": counted(2, 1.6)}
    for name, made in files.items():
        made.write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [tmp_path / "guess.h5ad", tmp_path / "truth.h5ad"]
    begin_score(tmp_path / "run", *paths, Keys(), ReportSettings(seeds=1, splits=("cells",)))
    ours = pd.read_csv(tmp_path / "run/parts/all.challenge.csv.gz").set_index("cell_context")
    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    for context in ("K562", "RPE1"):
        for path in paths:
            whole = anndata.read_h5ad(path)
            whole[(whole.obs["context"] == context).to_numpy()].write_h5ad(tmp_path / f"one {path.name}")
        sides = [str(tmp_path / f"one {path.name}") for path in paths]
        tidy = cell_eval2.compute_metrics(*sides, config=config, pert_col="target_gene", num_threads=1)
        table = cell_eval2.aggregate_metrics(tidy)
        theirs = dict(zip(table["metric"], table["mean"], strict=True))
        gaps = [abs(ours.loc[context, name] - theirs[name]) for name in ours.columns]
        print(f"largest difference in {context}: {max(gaps):.1e}", theirs)
        assert len(gaps) == 6 and max(gaps) < 1e-6
