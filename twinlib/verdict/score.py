"""Anybody's predictions by the same judge, beside the same baselines, ceiling and null."""

from __future__ import annotations

import os
import pathlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data import blocks, schema
from twinlib.evaluation.judge import supervised
from twinlib.files import write_atomic, write_json, write_table
from twinlib.verdict.keys import Keys
from twinlib.verdict.outputs import fresh_folder
from twinlib.verdict.page import PARTS, REQUEST, Run, executed, request_of, unfinished, write_page
from twinlib.verdict.parts import CELLS, SHAM, Parts, ReportSettings, at_most, compute_parts
from twinlib.verdict.predictions import SHARE, on_fold, read_predictions, shuffled_on_fold, told_of_sharing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from twinlib.data.preparation import Prepared
    from twinlib.evaluation.judge import Predictor
    from twinlib.verdict.inspection import Inspection
    from twinlib.verdict.predictions import Predictions

#: The row of the predictions, and of the same with labels dealt anew.
OWN, SHUFFLED = "predictions", "predictions_shuffled"
#: Baselines that need no network, and the one that says more than the others of combinations alone.
BESIDE, OF_PAIRS = ("mean", "matching_mean", "linear"), "additive"
#: The predictions of a run, and how often their labels are dealt anew.
PREDICTED, SHUFFLES = "predictions.npz", 5


@dataclass(frozen=True)
class ScoredParts(Parts):
    """The parts of a run that scores predictions."""

    @property
    def predictions(self) -> Predictions:
        """The predictions in the form of the truth."""
        return read_kept(self.folder / PREDICTED)

    def rows(self, prepared: Prepared, kind: str, number: int) -> list[Predictor]:
        """Fit the baselines of a fold, and put the predictions beside them."""
        from twinlib.experimental.fold_rows import plain_models

        pairs = any(len(schema.parts(label)) > 1 for label in prepared.train_perturbations)
        names = (*BESIDE, OF_PAIRS) if pairs else BESIDE
        rows: list[Predictor] = [supervised(name, [model]) for name, model in plain_models(prepared, names)]
        if kind == SHAM:
            return rows
        predictions = self.predictions
        own = [on_fold(OWN, predictions, prepared)]
        if len({key[:2] for key in predictions.keys}) > 1:
            own.append(shuffled_on_fold(SHUFFLED, predictions, prepared, SHUFFLES))
        return [*rows, *own]


@dataclass(frozen=True)
class ScoreRun(Run):
    """One score of predictions: what its page reads."""

    @staticmethod
    def read(folder: pathlib.Path) -> ScoreRun:
        """Read the run of a folder."""
        run = Run.read(folder)
        parts = ScoredParts(run.parts.folder, run.parts.settings, run.parts.keys)
        return ScoreRun(run.folder, run.file, run.dataset, run.sentences, parts, OWN)

    @property
    def sharing(self) -> str:
        """One sentence where the predictions are cells of the truth, else ""."""
        return self.sentences[0] if self.sentences and self.sentences[0].startswith(SHARE) else ""

    @cached_property
    def challenge(self) -> pd.DataFrame:
        """The challenge's metrics, where predictions and truth hold counts; else empty."""
        return self.parts.table("challenge")


def score_file(
    predictions: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    out: str | os.PathLike[str],
    keys: Keys | None = None,
    *,
    jobs: int = 2,
    overwrite: bool = False,
    progress: bool = True,
) -> pathlib.Path:
    """Score predicted cells against real ones; write score.html, score.ipynb and scores.csv; return the page.

    `predictions` and `truth` are h5ad files under the names of any tool. The truth holds controls and
    perturbed cells that the predictions do not know; the controls of the predictions are not read.
    """
    target, settings = fresh_folder(out, overwrite), ReportSettings(seeds=1, splits=("cells",))
    given, real = (pathlib.Path(path).resolve() for path in (predictions, truth))
    asked = {"predictions": request_of(given, keys or Keys(), settings)}
    asked |= {"truth": request_of(real, keys or Keys(), settings)}
    with unfinished(target, asked) as folder:
        begin_score(folder, given, real, keys or Keys(), settings)
        run = ScoreRun.read(folder)
        compute_parts(run.parts, jobs, progress)
        write_table(folder / "scores.csv", run.judged.flat())
        write_page(executed("score_template.ipynb", folder), folder / "score.html", f"Score on {run.dataset}")
        (run.parts.folder / CELLS).unlink()
        (run.parts.folder / PREDICTED).unlink()
    return target / "score.html"


def begin_score(
    folder: pathlib.Path, predictions: pathlib.Path, truth: pathlib.Path, keys: Keys, settings: ReportSettings
) -> None:
    """Read both files once, and keep them in one form."""
    from twinlib.verdict.inspection import opened

    if (folder / PARTS / REQUEST).exists():
        return
    given = opened(predictions)[0]
    inspection = _inspected(truth, keys)
    whole = inspection.cells()
    cells = at_most(whole)
    read = read_predictions(given, cells, inspection.keys)
    cells = cells[:, list(read.genes)].copy()
    write_atomic(folder / PARTS / CELLS, lambda beside: cells.write_h5ad(beside))
    keep(read, folder / PARTS / PREDICTED)
    told = [*told_of_sharing(read), *read.told, *inspection.of("assumed"), *inspection.of("defect")]
    if cells.n_obs < whole.n_obs:
        told.append(
            f"{whole.n_obs - cells.n_obs:,} of {whole.n_obs:,} cells of the truth were left out, drawn once"
        )
    table = challenge_table(given, cells, read)
    if table is not None:
        write_table(folder / PARTS / "all.challenge.csv.gz", table)
    facts: dict[str, object] = {"file": str(truth), "dataset": inspection.name, "sentences": told}
    facts |= {"filled": asdict(inspection.keys), "settings": asdict(settings)}
    write_json(folder / PARTS / REQUEST, facts)


def _inspected(truth: pathlib.Path, keys: Keys) -> Inspection:
    """Read the truth; labels that are no genes need no kind, since a score does not ask what was done."""
    from twinlib.verdict.inspection import inspect

    inspection = inspect(truth, keys)
    lacking = [finding.about for finding in inspection.findings if finding.level == "missing"]
    return inspect(truth, keys.filled(kind="drug")) if lacking == ["kind"] else inspection


def keep(predictions: Predictions, path: pathlib.Path) -> None:
    """Keep predictions in one npz file."""
    label, dose, context = (np.array(column) for column in zip(*predictions.keys, strict=True))

    def save(beside: pathlib.Path) -> None:
        with beside.open("wb") as sink:
            np.savez(
                sink,
                values=predictions.values.astype(np.float32),
                label=label,
                dose=dose,
                context=context,
                cells=predictions.cells,
                rows=predictions.rows,
                genes=np.array(predictions.genes),
                told=np.array(predictions.told),
                shared=np.array(predictions.shared),
            )

    write_atomic(path, save)


def read_kept(path: pathlib.Path) -> Predictions:
    """Read predictions that `keep` wrote."""
    from twinlib.verdict.predictions import Predictions

    with np.load(path, allow_pickle=False) as file:
        parts = (file[name].tolist() for name in ("label", "dose", "context"))
        return Predictions(
            file["values"].astype(np.float64),
            tuple(zip(*parts, strict=True)),
            file["cells"],
            file["rows"],
            tuple(file["genes"].tolist()),
            tuple(file["told"].tolist()),
            float(file["shared"]),
        )


def challenge_table(given: AnnData, cells: AnnData, read: Predictions) -> pd.DataFrame | None:
    """Return the challenge's six metrics in each context, from counts; None where a side holds none."""
    import pandas as pd

    from twinlib.data import scale
    from twinlib.evaluation.challenge import Screen, challenge_metrics

    genes = list(read.genes)
    if "counts" not in cells.layers or scale.kind_of_values(given.X) != "counts":
        return None
    label, _, where = (np.array(column) for column in zip(*read.keys, strict=True))
    counts = blocks.in_memory(given[read.rows][:, genes].X)
    rows = []
    for context in sorted(set(where.tolist())):
        real = cells[(cells.obs["cell_context"].astype(str) == context).to_numpy()]
        names = real.obs["perturbation"].astype(str).to_numpy()
        mine = where == context
        if set(names) - {"control"} <= set(label[mine].tolist()):
            measured = Screen.of(blocks.in_memory(real.layers["counts"]), names, genes)
            predicted = Screen.of(counts[mine], label[mine], genes)
            rows.append({"cell_context": context, **challenge_metrics(measured, predicted)})
    return pd.DataFrame(rows) if rows else None
