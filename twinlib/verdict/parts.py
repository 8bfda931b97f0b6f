"""What is computed of a file: folds and held-out groups, each part once, kept as tables in a folder."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data import schema
from twinlib.data.doses import unlogged
from twinlib.data.folds import FOLDS
from twinlib.errors import DataError
from twinlib.evaluation.judge import supervised
from twinlib.evaluation.summaries import dose_labels
from twinlib.files import write_json, write_table
from twinlib.verdict.defects import given_doses

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from twinlib.data.preparation import Prepared
    from twinlib.evaluation.judge import Predictor, Tables
    from twinlib.experimental.perturbation_model import PerturbationModel
    from twinlib.verdict.keys import Keys

#: Cells that are kept at most of a perturbation in a context, and controls of a context; drawn once.
MOST_PERTURBED, MOST_CONTROLS = 1_000, 5_000
#: Training controls of a context that the effect test takes at most, drawn once.
TESTED_CONTROLS = 1_500
#: The split that repeats the cells on labels that mean nothing.
SHAM = "sham"
#: The canonical cells of a run, for as long as it runs.
CELLS = "cells.h5ad"
#: The twin of the first fold.
MODEL = "model"
#: Columns that hold numbers, in any table; the others hold text.
NUMBERS = ("dose", "value", "seed", "n_cells", "n_controls", "n_total", "kept_response", "distance", "p")
#: Rows that the table of genes shows.
SHOWN = ("matching_mean", "experimental", "predictions")


@dataclass(frozen=True)
class ReportSettings:
    """How a report is computed."""

    #: Training seeds of the twin.
    seeds: int = 3
    #: Splits; none named: cells, and contexts where there are several.
    splits: tuple[str, ...] = ()
    #: Genes of the panel.
    genes: int = 200
    #: Passes of the embedding of a part.
    epochs: int = 1
    #: Environment steps of the policies of the in-silico twin; 0: none are trained.
    policies: int = 0


@dataclass(frozen=True)
class Parts:
    """The parts of one run in a folder."""

    #: Where tables and cells stand.
    folder: pathlib.Path
    #: How they are computed.
    settings: ReportSettings
    #: How the file was read; the twin keeps it.
    keys: Keys

    @property
    def cells(self) -> AnnData:
        """The canonical cells of the run."""
        from anndata import read_h5ad

        return read_h5ad(self.folder / CELLS)

    def splits(self) -> dict[str, list[list[str | float]]]:
        """Return what each part of each split holds out, sham labels last."""
        from twinlib.data.held_out import held_out_groups

        cells = self.cells
        several = cells.obs["cell_context"].astype(str).nunique() > 1
        named = self.settings.splits or (("cells", "contexts") if several else ("cells",))
        kinds = ["cells", *(kind for kind in named if kind != "cells")]
        return {kind: held_out_groups(kind, cells) for kind in kinds} | {SHAM: [[] for _ in range(FOLDS)]}

    def names(self) -> list[str]:
        """Return the names of all parts."""
        return [f"{kind}~{i + 1}" for kind, groups in self.splits().items() for i in range(len(groups))]

    def left(self) -> list[str]:
        """Return the names of the parts that are not finished."""
        return [name for name in self.names() if not (self.folder / f"{name}.done").exists()]

    def compute(self, name: str) -> str:
        """Compute a part and keep its tables; its mark is written last."""
        kind, _, number = name.partition("~")
        prepared = self.prepared(kind, int(number))
        for table, rows in self._tables(prepared, kind, int(number)).items():
            given = in_given_doses(rows, smallest_dose(prepared))
            write_table(self.folder / f"{name}.{table}.csv.gz", given)
        write_json(self.folder / f"{name}.done", asdict(self.settings))
        return name

    def table(self, name: str) -> pd.DataFrame:
        """Return one table of all parts, texts as texts; empty where no part has it."""
        import pandas as pd

        paths = sorted(self.folder.glob(f"*.{name}.csv.gz"))
        missing = {column: [""] for column in NUMBERS}
        read = [pd.read_csv(path, keep_default_na=False, na_values=missing) for path in paths]
        return pd.concat(read, ignore_index=True) if read else pd.DataFrame()

    def _tables(self, prepared: Prepared, kind: str, number: int) -> dict[str, pd.DataFrame]:
        """Compute one part."""
        import pandas as pd

        from twinlib.evaluation.gene_changes import gene_rows
        from twinlib.evaluation.judge import evaluate
        from twinlib.verdict.policies import reasons

        warnings.filterwarnings("ignore", category=FutureWarning)
        rows = self.rows(prepared, kind, number)
        tables = as_split(evaluate(prepared, rows, experiment="report", single_cells=False), kind)
        if self.settings.policies:
            tables["policies"] = pd.DataFrame({"reason": reasons(rows)}, dtype=object)
        if kind != "cells":
            return tables
        tables["effects"] = effects_of(prepared)
        tables["kept"] = prepared.kept.rename_axis("perturbation").reset_index().assign(fold=number)
        if number == 1:
            tables["genes"] = pd.DataFrame(gene_rows(prepared, [r for r in rows if r.name in SHOWN]))
        return tables

    def rows(self, prepared: Prepared, kind: str, number: int) -> list[Predictor]:
        """Fit the rows of one part: baselines, the twin (kept of the first fold), and policies if asked."""
        from twinlib.experimental.fold_rows import PLAIN, FoldRows, embedding_of, plain_models
        from twinlib.verdict.policies import policy_rows

        fold = FoldRows(prepared, embedding_of(prepared, self.settings.epochs)[0])
        seeds = 1 if kind == SHAM else self.settings.seeds
        twins = [fold.fit(seed) for seed in range(seeds)]
        if (kind, number) == ("cells", 1):
            self._save(twins[0])
        known = plain_models(prepared, applicable(PLAIN, prepared), fold.embedding)
        plain = [supervised(name, [model]) for name, model in known]
        asked = self.settings.policies if kind in ("cells", SHAM) else 0
        learnt = policy_rows(fold, asked, range(seeds)) if asked else []
        return [*plain, supervised("experimental", twins), *learnt]

    def prepared(self, kind: str, number: int) -> Prepared:
        """Prepare part `number` of a split, from 1 on."""
        from twinlib.data.effect_tests import sham_labels
        from twinlib.data.held_out import held_out_groups
        from twinlib.data.preparation import WeakPanel, prepare

        cells, genes = self.cells, self.settings.genes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeakPanel)  # the page says what the panel keeps
            if kind == SHAM:
                return prepare(sham_labels(cells, np.random.default_rng(0)), genes, fold=number)
            if kind == "cells":
                return prepare(cells, genes, fold=number)
            return prepare(cells, genes, kind, held_out=held_out_groups(kind, cells)[number - 1])

    def _save(self, twin: PerturbationModel) -> None:
        """Keep the twin of the first seed."""
        from twinlib.experimental.fold_rows import RememberedCoder
        from twinlib.verdict.twin import Twin

        assert isinstance(twin.embedding, RememberedCoder)
        Twin.of(replace(twin, embedding=twin.embedding.embedding), self.keys).save(self.folder / MODEL)


def as_split(judged: Tables, kind: str) -> dict[str, pd.DataFrame]:
    """Return the judge's tables under the name of a split."""
    return {
        "scores": judged.scores.assign(split_kind=kind),
        "groups": judged.groups.assign(split_kind=kind),
    }


def in_given_doses(table: pd.DataFrame, smallest: float) -> pd.DataFrame:
    """Return a table with its doses in the unit of the file, where they were taken by their logarithm."""
    if not smallest or "dose" not in table:
        return table
    return table.assign(dose=np.round(unlogged(table["dose"], smallest), 10))


def applicable(names: Sequence[str], prepared: Prepared) -> list[str]:
    """Leave out the rows that repeat another's where there is one cell type, or no combination."""
    several = prepared.cells.obs["cell_context"].astype(str).nunique() > 1
    combined = any(len(schema.parts(label)) > 1 for label in prepared.perturbations)
    same = {"context_mean": not several, "additive": not combined}
    return [name for name in names if not same.get(name, False)]


def smallest_dose(prepared: Prepared) -> float:
    """Return the smallest dose of the file where doses act by their logarithm, else 0."""
    return float(prepared.cells.uns["twinlib"].get("log_dose", 0.0))


def labels_by_dose(cells: AnnData) -> pd.Series:
    """Return the labels [n] of canonical cells, with their doses where a perturbation has several."""
    import pandas as pd

    given = pd.Series(given_doses(cells), index=cells.obs_names)
    names = cells.obs["perturbation"].astype(str)
    control = names == schema.CONTROL
    return names.where(control, dose_labels(names[~control], given[~control]))


def each_dose(prepared: Prepared) -> Prepared:
    """Return a fold in which a dose of a perturbation is a label of its own, where there are several."""
    labels = labels_by_dose(prepared.cells)
    if (labels == prepared.cells.obs["perturbation"].astype(str)).all():
        return prepared
    cells = prepared.cells.copy()
    cells.obs["perturbation"] = labels
    return replace(prepared, cells=cells, perturbations=tuple(sorted(set(labels) - {schema.CONTROL})))


def effects_of(prepared: Prepared) -> pd.DataFrame:
    """Test each perturbation and dose of a fold, and those of every context where there are several."""
    import pandas as pd

    from twinlib.data.effect_tests import effect_table

    few = each_dose(fewer_controls(prepared))
    several = prepared.cells.obs["cell_context"].astype(str).nunique() > 1
    ways = (False, True) if several else (False,)
    return pd.concat(effect_table([few], np.random.default_rng(0), by_context=way) for way in ways)


def fewer_controls(prepared: Prepared) -> Prepared:
    """Return a fold with at most `TESTED_CONTROLS` training controls of a context, drawn once."""
    from twinlib.data.schema import CONTROL

    rng, chosen = np.random.default_rng(0), np.ones(prepared.cells.n_obs, dtype=bool)
    for context in prepared.cells.obs["cell_context"].astype(str).unique():
        rows = prepared.rows("train", CONTROL, context)
        chosen[rng.permutation(rows)[TESTED_CONTROLS:]] = False
    return prepared if chosen.all() else replace(prepared, cells=prepared.cells[chosen].copy())


def at_most(cells: AnnData) -> AnnData:
    """Return canonical cells with no more than the most of each perturbation and context, drawn once."""
    from twinlib.data.schema import CONTROL

    rng, rows = np.random.default_rng(0), []
    columns = [cells.obs[name].astype(str) for name in ("perturbation", "dose", "cell_context")]
    for key, members in cells.obs.groupby(columns, sort=True).indices.items():
        most = MOST_CONTROLS if key[0] == CONTROL else MOST_PERTURBED
        rows.append(rng.permutation(np.sort(members))[:most])
    kept = np.sort(np.concatenate(rows))
    return cells if len(kept) == cells.n_obs else cells[kept].copy()


def compute_parts(parts: Parts, jobs: int, progress: bool) -> None:
    """Compute the parts that are left, `jobs` side by side, with a progress bar on standard error."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    left, total = parts.left(), len(parts.names())
    if jobs < 1:
        raise DataError(f"jobs={jobs!r}: give 1 or more.")
    with tqdm(total=total, initial=total - len(left), disable=not progress, desc="report") as bar:
        work = (delayed(parts.compute)(name) for name in left)
        for name in Parallel(n_jobs=min(jobs, max(len(left), 1)), return_as="generator_unordered")(work):
            bar.update()
            bar.set_postfix_str(str(name))
