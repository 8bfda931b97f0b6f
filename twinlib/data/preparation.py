"""Split first; then choose genes and fit one scaler, on training cells only."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from twinlib.data import blocks
from twinlib.data.canonical import small_groups
from twinlib.data.folds import FOLDS, SET_ASIDE, assign_folds
from twinlib.data.panel import RULES, KeptResponse, kept_by_label, ranked_by_scanpy, top_genes
from twinlib.data.schema import CONTROL, check, names, parts, whole
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

#: The splits `prepare` knows.
SPLITS = ("cells", "perturbations", "doubles", "doses", "contexts", "time", "batches")
#: The parts of a split.
PARTS = ("train", "validation", "test")
#: Share of the candidates that is held out where none is named.
HELD_OUT = 0.2
#: Below this share of the response the user is told what the panel keeps.
ENOUGH = 0.5


class WeakPanel(UserWarning):
    """The panel keeps less than half of the response that was measured."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Cells that are split, with a gene panel and one scaler that were fitted on the training cells."""

    #: Cells [n, G]: X dense float32 in the scale of the data (a Dask array if it was given as one);
    #: obs["split"] is train, validation or test.
    cells: AnnData
    #: Name of the dataset.
    dataset: str
    #: Hash of the data before preparation.
    data_hash: str
    #: One of `SPLITS`.
    split: str
    #: Which fold holds the test cells (or, where groups are held out, the test controls): 1 to `FOLDS`.
    fold: int
    #: What is held out, in order; empty for the split `cells`.
    held_out: tuple[str, ...]
    #: Seed of folds and draws.
    seed: int
    #: The rule that chose the panel.
    panel_rule: str
    #: Scale of X: `log1p` or `arcsinh`.
    scale_of_data: str
    #: Share of each training perturbation's squared change that the panel keeps (`kept_by_label`).
    kept: pd.DataFrame
    #: Mean of each gene over the training cells [G].
    mean: np.ndarray
    #: Standard deviation of each gene over the training cells [G]; 1 where a gene is constant.
    std: np.ndarray
    #: Gene names [G].
    genes: tuple[str, ...]
    #: Single targets that were perturbed and are among the genes.
    measured: tuple[str, ...]
    #: All labels but control, sorted [P].
    perturbations: tuple[str, ...]
    #: Labels of training cells but control, sorted.
    train_perturbations: tuple[str, ...]
    #: Hash of genes, training cell names, mean and std: two equal fingerprints mean one space.
    fingerprint: str

    def expression(
        self, split: str | None, perturbation: str | None = None, context: str | None = None
    ) -> np.ndarray:
        """Return expression [n, G], float32, of the cells of a part, a perturbation and a context.

        `split` is `"train"`, `"validation"`, `"test"` or None for all.
        """
        return np.asarray(blocks.take(self.cells.X, self.rows(split, perturbation, context)))

    def rows(
        self, split: str | None = None, perturbation: str | None = None, context: str | None = None
    ) -> np.ndarray:
        """Return the row numbers [n] of `cells` that belong to a part, a perturbation and a context."""
        if split not in (None, *PARTS):
            raise DataError(f"There is no part {split!r} of a split: choose one of {', '.join(PARTS)}.")
        obs = self.cells.obs
        keep = np.ones(len(obs), dtype=bool)
        for column, wanted in (("split", split), ("perturbation", perturbation), ("cell_context", context)):
            if wanted is not None:
                keep &= _is(obs[column], wanted)
        return np.flatnonzero(keep)

    def kept_response(self, over: Sequence[str] | None = None) -> KeptResponse:
        """Return the share of the squared training change that the panel keeps, mean over perturbations.

        `over` names those with an effect; None takes the visible ones, and all where none is visible.
        """
        if over is None:
            visible = self.kept["visible"].to_numpy(dtype=bool)
            chosen = self.kept[visible | ~visible.any()]
        else:
            chosen = self.kept[self.kept.index.isin(names(over, "over"))]
        return KeptResponse(float(chosen["share"].mean()), float(chosen["permuted"].mean()))

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Turn expression [..., G] into z-scores of the training cells, float32; nothing is clipped."""
        return ((self._on_panel(x) - self.mean) / self.std).astype(np.float32)

    def unscale(self, z: np.ndarray) -> np.ndarray:
        """Turn z-scores [..., G] back into expression, float32."""
        return (self._on_panel(z) * self.std + self.mean).astype(np.float32)

    def _on_panel(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[-1] != len(self.genes):
            raise DataError(
                f"The array has shape {x.shape}: its last axis needs the {len(self.genes)} genes."
            )
        return x


def _is(column: pd.Series, wanted: str) -> np.ndarray:
    """Return which entries [n] of a column read `wanted`; of categories only the names are compared."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.isin(column.cat.codes, np.flatnonzero(column.cat.categories.astype(str) == wanted))
    return (column.astype(str) == wanted).to_numpy()


def prepare(
    cells: AnnData,
    n_top_genes: int = 200,
    split: str = "cells",
    *,
    fold: int = 1,
    held_out: Sequence[str | float] = (),
    panel: str = "variance",
    keep_genes: Sequence[str] = (),
    seed: int = 0,
) -> Prepared:
    """Split canonical cells [n, G'], then choose genes and fit one scaler on the training cells.

    15 % of the cells are set aside for validation, the same in every fold; the rest falls into `FOLDS`
    disjoint folds (`assign_folds`).

    Parameters
    ----------
    cells
        Canonical AnnData (`schema.check`).
    n_top_genes
        Genes that the rule chooses, at most; measured targets and `keep_genes` are kept beside them.
    split
        `cells`: the test cells are those of the fold. `perturbations`, `doubles`, `doses`, `time`: all
        perturbed cells of what is held out, and the fold's controls; combinations that hold a left-out
        perturbation leave the data. `contexts`, `batches`: all cells of what is held out, controls too.
    fold
        1 to `FOLDS`.
    held_out
        What to hold out, in every split but `cells`, in place of a random fifth.
    panel
        `variance` (within context and batch, of genes that 1 % of the training cells detect), or one of
        scanpy's rules (`RULES`).
    keep_genes
        Genes kept whatever their variance.
    seed
        Seed of folds and draws.

    Raises
    ------
    DataError
        One sentence: cells that are not canonical, an unknown gene, or a split that the data cannot give.
    """
    check(cells)
    keep_genes, held_out = names(keep_genes, "keep_genes"), names(held_out, "held_out")
    n_top_genes, seed = whole(n_top_genes, "n_top_genes", 1), whole(seed, "seed")
    _check_request(cells, split, fold, panel, keep_genes)
    rng = np.random.default_rng(seed)
    folds = assign_folds(cells.obs, rng)
    test, held_out = _test_cells(cells, split, folds == fold - 1, rng, held_out)
    part = np.where(test, "test", np.where(folds == SET_ASIDE, "validation", "train"))
    if split == "perturbations":
        apart = ~_shares_a_part(cells, held_out)
        cells, part = (cells, part) if apart.all() else (cells[apart], part[apart])
    columns = _panel(cells, part == "train", n_top_genes, panel, keep_genes)
    facts = {"split": split, "fold": fold, "held_out": held_out, "seed": seed, "panel_rule": panel}
    return _assemble(cells, part, columns, facts)


def standard(name: str, fold: int = 1) -> Prepared:
    """Load a dataset and prepare a fold of its split by cells, with its fixed panel size."""
    from twinlib.data import sources

    return prepare(sources.load(name), sources.dataset(name).panel, fold=fold)


def _check_request(cells: AnnData, split: str, fold: int, panel: str, keep_genes: Sequence[str]) -> None:
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if panel not in RULES:
        raise DataError(f"There is no panel rule {panel!r}: choose one of {', '.join(RULES)}.")
    if whole(fold, "fold", 1) > FOLDS:
        raise DataError(f"fold={fold} is none of the {FOLDS} folds: give 1 to {FOLDS}.")
    unknown = [gene for gene in keep_genes if gene not in cells.var_names]
    if unknown:
        raise DataError(f"keep_genes names {unknown}, which were not measured: name genes of var_names.")


def _test_cells(
    cells: AnnData, split: str, in_fold: np.ndarray, rng: np.random.Generator, held_out: Sequence[str | float]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which cells [n] are test cells, and what is held out."""
    if split == "cells":
        if held_out:
            raise DataError("held_out means nothing for the split 'cells': leave it away.")
        return in_fold, ()
    candidates, column = _CANDIDATES[split](cells)
    chosen = _choose_held_out(candidates, rng, held_out, split)
    test = np.isin(column, np.asarray(chosen))
    told = tuple(f"{name:g}" if isinstance(name, float) else str(name) for name in chosen)
    if split in ("contexts", "batches"):
        return test, told
    control = (cells.obs["perturbation"].astype(str) == CONTROL).to_numpy()
    return (test & ~control) | (in_fold & control), told


def _shares_a_part(cells: AnnData, held_out: Sequence[str]) -> np.ndarray:
    """Return which cells [n] carry a combination that holds one of the held-out perturbations."""
    labels = cells.obs["perturbation"].astype(str)
    mixed = [
        label for label in labels.unique() if label not in held_out and set(parts(label)) & set(held_out)
    ]
    return labels.isin(mixed).to_numpy()


def _choose_held_out(
    candidates: Sequence[str | float],
    rng: np.random.Generator,
    held_out: Sequence[str | float],
    split: str,
) -> Sequence[str | float]:
    """Return the labels to hold out: the named ones, or a random share (at least one)."""
    if held_out:
        wrong = [label for label in held_out if label not in candidates]
        if wrong:
            why = " (singles whose target is measured)" if split == "perturbations" else ""
            raise DataError(
                f"The split {split!r} cannot hold out {wrong}: these data can hold out {candidates}{why}."
            )
        return list(held_out)
    number = min(max(1, round(HELD_OUT * len(candidates))), max(1, len(candidates) - 1))
    return [candidates[i] for i in sorted(rng.choice(len(candidates), number, replace=False))]


def _perturbation_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Single perturbations whose target is measured: only these can be reached without having been seen."""
    column = cells.obs["perturbation"].astype(str).to_numpy()
    singles = sorted(single_measured(cells))
    if len(singles) < 2:
        raise DataError(
            "The split 'perturbations' needs two single perturbations whose target gene is measured, and "
            f"these data have {len(singles)}: use the split 'cells'."
        )
    return singles, column


def single_measured(cells: AnnData) -> set[str]:
    """Return the single targets that were perturbed as genes and are measured."""
    obs = cells.obs
    labels = obs.loc[obs["target_measured"].to_numpy(dtype=bool), "perturbation"].astype(str).unique()
    return {label for label in labels if len(parts(label)) == 1}


def _double_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Combinations all of whose parts were also perturbed alone."""
    column = cells.obs["perturbation"].astype(str).to_numpy()
    labels = set(column)
    doubles = sorted(label for label in labels if len(parts(label)) > 1 and set(parts(label)) <= labels)
    if not doubles:
        raise DataError(
            "The split 'doubles' needs a combination A+B whose parts were also perturbed alone, and these "
            "data have none: use the split 'cells'."
        )
    return doubles, column


def _dose_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Doses of perturbed cells."""
    return _levels(cells, "dose", "doses", "doses")


def _levels(cells: AnnData, name: str, split: str, plural: str) -> tuple[Sequence[str | float], np.ndarray]:
    """Return the values of a number that perturbed cells differ in, and the number of every cell [n]."""
    column = cells.obs[name].to_numpy(dtype=float)
    perturbed = (cells.obs["perturbation"].astype(str) != CONTROL).to_numpy()
    levels = sorted(set(column[perturbed].tolist()))
    if len(levels) < 2:
        raise DataError(
            f"The split {split!r} needs at least two {plural}, and every perturbed cell has {name} "
            f"{levels[0]:g}: use the split 'cells'."
        )
    return levels, column


def _context_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Contexts that hold controls and perturbed cells."""
    return _with_controls(cells, "cell_context", "contexts", "cell contexts")


def _batch_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Batches (donors, plates) that hold controls and perturbed cells."""
    return _with_controls(cells, "batch", "batches", "batches")


def _with_controls(
    cells: AnnData, column: str, split: str, plural: str
) -> tuple[Sequence[str | float], np.ndarray]:
    values = cells.obs[column].astype(str).to_numpy()
    control = (cells.obs["perturbation"].astype(str) == CONTROL).to_numpy()
    both = sorted(set(values[control]) & set(values[~control]))
    if len(both) < 2:
        raise DataError(
            f"The split {split!r} needs two {plural} with controls and perturbed cells, and these data have "
            f"{len(both)}: use the split 'cells'."
        )
    return both, values


def _time_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Times of perturbed cells, where obs["time"] was measured."""
    if "time" not in cells.obs:
        raise DataError(
            "The split 'time' needs a measured time, obs[\"time\"], and these data have none: use the "
            "split 'cells'."
        )
    return _levels(cells, "time", "time", "times")


def candidates(cells: AnnData, split: str) -> Sequence[str | float]:
    """Return what a split of canonical cells can hold out; one that the data cannot give is refused."""
    if split not in _CANDIDATES:
        raise DataError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    return _CANDIDATES[split](cells)[0]


_CANDIDATES = {
    "perturbations": _perturbation_candidates,
    "doubles": _double_candidates,
    "doses": _dose_candidates,
    "contexts": _context_candidates,
    "time": _time_candidates,
    "batches": _batch_candidates,
}


def _panel(
    cells: AnnData, train: np.ndarray, n_top_genes: int, rule: str, keep_genes: Sequence[str]
) -> np.ndarray:
    """Return the columns [G] of the panel, in the order of the data."""
    allowed = _candidates(cells)
    rows = np.flatnonzero(train)
    if rule == "variance":
        x = cells.X[rows] if allowed.all() else cells.X[rows][:, np.flatnonzero(allowed)]
        best = top_genes(x, _strata(cells.obs.iloc[rows]), n_top_genes)
    else:
        best = ranked_by_scanpy(cells[rows][:, allowed], rule, n_top_genes)
    keep = np.isin(cells.var_names, [*keep_genes, *_measured_targets(cells)])
    keep[np.flatnonzero(allowed)[best]] = True
    if keep.sum() < 2:
        raise DataError(
            "The panel holds one gene, and two are needed for a code of cells: raise n_top_genes."
        )
    return np.flatnonzero(keep)


def _candidates(cells: AnnData) -> np.ndarray:
    """Which genes [G'] may enter the panel by rank: those that var["panel_candidate"] allows, else all."""
    if "panel_candidate" not in cells.var:
        return np.ones(cells.n_vars, dtype=bool)
    return cells.var["panel_candidate"].to_numpy(dtype=bool)


def _strata(obs: pd.DataFrame) -> list[str]:
    """Return context and batch of each cell [n]."""
    pairs = zip(obs["cell_context"].astype(str), obs["batch"].astype(str), strict=True)
    return [f"{context} / {batch}" for context, batch in pairs]


def _measured_targets(cells: AnnData) -> set[str]:
    """Return every part of a gene perturbation that is a measured gene."""
    obs = cells.obs
    genes = obs["perturbation_type"].astype(str).str.startswith("CRISPR").to_numpy()
    targets = {part for label in obs.loc[genes, "perturbation"].astype(str).unique() for part in parts(label)}
    return targets & set(cells.var_names)


def _assemble(cells: AnnData, part: np.ndarray, columns: np.ndarray, facts: dict[str, Any]) -> Prepared:
    """Cut the panel out, fit the scaler on the training cells and put everything together."""
    train = part == "train"
    if not train.any():
        raise DataError(
            f"Nothing is left to train on when {', '.join(facts['held_out'])} is held out: hold out less."
        )
    panel = _cut_panel(cells, columns)
    panel.obs["split"] = pd.Categorical(part, categories=PARTS)
    panel.obs["small_group"] = small_groups(panel.obs["perturbation"].astype(str))
    mean, std = blocks.mean_and_std(panel.X[train])
    std[std == 0] = 1.0
    labels = panel.obs["perturbation"].astype(str)
    origin = cells.uns["twinlib"]
    return Prepared(
        cells=panel,
        dataset=str(origin["dataset"]),
        data_hash=str(origin["data_hash"]),
        **facts,
        scale_of_data=str(origin.get("scale", "log1p")),
        kept=_kept(cells, train, columns, facts["seed"]),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        genes=tuple(panel.var_names),
        measured=tuple(sorted(_measured_targets(panel))),
        perturbations=tuple(sorted(set(labels) - {CONTROL})),
        train_perturbations=tuple(sorted(set(labels[train]) - {CONTROL})),
        fingerprint=_fingerprint(panel, train, mean, std),
    )


def _kept(cells: AnnData, train: np.ndarray, columns: np.ndarray, seed: int) -> pd.DataFrame:
    """Return what the panel keeps of each training perturbation's change, and say where it is little."""
    rows = np.flatnonzero(train)
    obs = cells.obs.iloc[rows]
    labels = obs["perturbation"].astype(str).to_numpy()
    if CONTROL not in labels:
        return pd.DataFrame(columns=["share", "permuted", "visible"], dtype=float)
    rng = np.random.default_rng(seed)
    contexts = obs["cell_context"].astype(str).to_numpy()
    kept = kept_by_label(cells.X[rows], labels, contexts, columns, CONTROL, rng)
    share = kept.loc[kept["visible"], "share"].mean()
    if share < ENOUGH:
        warnings.warn(
            f"The panel of {len(columns)} genes keeps {share:.0%} of the squared change that was measured in "
            f"{cells.n_vars} genes (mean of {kept['visible'].sum()} perturbations): raise n_top_genes.",
            WeakPanel,
            stacklevel=4,
        )
    return kept


def _cut_panel(cells: AnnData, chosen: np.ndarray) -> AnnData:
    """Return the chosen columns of the cells [n, G], X dense float32; a lazy X stays lazy, without layers."""
    from anndata import AnnData

    if not blocks.is_lazy(cells.X):
        panel = cells[:, chosen].copy()
        panel.X = blocks.dense(panel.X)
        return panel
    x = blocks.dense(cells.X[:, chosen])
    return AnnData(x, obs=cells.obs.copy(), var=cells.var.iloc[chosen], uns={"twinlib": cells.uns["twinlib"]})


def _fingerprint(panel: AnnData, train: np.ndarray, mean: np.ndarray, std: np.ndarray) -> str:
    """Hash the genes, the training cell names, the mean and the standard deviation.

    Processors differ in the seventh digit of simulated cells, so three digits of the scaler are hashed.
    """
    digest = hashlib.sha256("\n".join(panel.var_names).encode())
    digest.update("\n".join(panel.obs_names[train]).encode())
    digest.update(np.rint(1e3 * np.concatenate([mean, std])).astype(np.int64).tobytes())
    return digest.hexdigest()
