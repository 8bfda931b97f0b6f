"""Reports without the training of a twin: its row is the plain mean."""

from __future__ import annotations

import contextlib
import pathlib

import nbformat

from twinlib.evaluation import judge
from twinlib.evaluation.judge import supervised
from twinlib.experimental.baselines import BASELINES
from twinlib.verdict import page, parts
from twinlib.verdict.page import Run, report

HALVINGS = 12
ROWS = {"mean": "mean", "matching_mean": "matching_mean", "experimental": "matching_mean"}


def quick(patch, *, twin=False):
    """Halve less often; where no twin is asked for, fit none, and run the page's cells without a kernel."""
    patch.setattr(judge, "HALVINGS", HALVINGS)
    if not twin:
        patch.setattr(parts.Parts, "rows", only_plain)
        patch.setattr(page, "save_model", lambda run: None)
        patch.setattr(page, "executed", executed_here)


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
