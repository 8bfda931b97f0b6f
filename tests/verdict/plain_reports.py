"""Reports without the training of a twin: its row is the plain mean."""

from __future__ import annotations

import contextlib
import pathlib
from dataclasses import replace

import nbformat
import pytest

from twinlib.data import effect_tests
from twinlib.evaluation import judge
from twinlib.evaluation.judge import supervised
from twinlib.experimental import fold_rows
from twinlib.experimental.baselines import BASELINES
from twinlib.experimental.perturbation_model import fit_perturbation_model
from twinlib.verdict import page, parts
from twinlib.verdict.page import Run, report

#: Halvings of the test cells, and permutations of an effect test where corrections do not ask for more.
HALVINGS, PERMUTATIONS = 12, 199
ROWS = {"mean": "mean", "matching_mean": "matching_mean", "experimental": "matching_mean"}


def quick(patch, *, twin=False):
    """Halve and permute less; where no twin is asked for, fit none, and run the page without a kernel."""
    patch.setattr(judge, "HALVINGS", HALVINGS)
    patch.setattr(effect_tests, "PERMUTATIONS", PERMUTATIONS)
    if twin:
        patch.setattr(fold_rows, "EMBEDDED", 300)
        patch.setattr(parts.Parts, "rows", soon_done_on_sham(parts.Parts.rows))
    else:
        patch.setattr(parts.Parts, "rows", only_plain)
        patch.setattr(page, "save_model", lambda run: None)
        patch.setattr(page, "executed", executed_here)


def soon_done_on_sham(rows):
    """Fit the twins of sham labels, which no test reads, in a fifth of the steps."""

    def fit(prepared, embedding, pairs, config, seed, **more):
        quick = replace(config, label_steps=200, epochs=8)
        return fit_perturbation_model(prepared, embedding, pairs, quick, seed, **more)

    def fitted(self, prepared, kind, number):
        with pytest.MonkeyPatch.context() as patch:
            if kind == parts.SHAM:
                patch.setattr(fold_rows, "fit_perturbation_model", fit)
            return rows(self, prepared, kind, number)

    return fitted


def executed_here(template, folder):
    """Run every cell of a template in this process: what fails on these cells fails here, too."""
    import matplotlib.pyplot as plt

    path = pathlib.Path(page.__file__).with_name(template)
    notebook, names = nbformat.read(path, as_version=4), {}
    with contextlib.chdir(folder), plt.rc_context():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, template, "exec"), names)
    plt.close("all")
    return notebook


def only_plain(self, prepared, kind, number):
    return [supervised(name, [BASELINES[of](prepared)]) for name, of in ROWS.items()]


def reported(cells, folder, patch, *, twin=False, splits=("cells",)):
    """The run of a report on some cells; without the twin it is the plain mean."""
    quick(patch, twin=twin)
    cells.write_h5ad(folder / "screen.h5ad")
    report(folder / "screen.h5ad", folder / "out", seeds=1, splits=splits, jobs=1, progress=False)
    return Run.read(folder / "out")
