"""Split first; then choose genes and fit one scaler, on training cells only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from twinlib.data import blocks
from twinlib.data.canonical import small_groups
from twinlib.data.schema import CONTROL, check, names, parts, whole
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

#: The splits `prepare` knows.
SPLITS = ("cells", "perturbations", "doubles", "doses", "contexts")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Cells that are split, with a gene panel and one scaler that were fitted on the training cells."""

    #: Cells [n, G]: X dense float32 log1p (a Dask array if it was given as one); obs["split"] is train or
    #: test, obs["validation"] a fifth of train.
    cells: AnnData
    #: Name of the dataset.
    dataset: str
    #: Hash of the data before preparation.
    data_hash: str
    #: One of `SPLITS`.
    split: str
    #: Seed of the split.
    seed: int
    #: Mean of each gene over the training cells [G], log1p units.
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
        """Return log1p expression [n, G], float32, of the cells of a split, a perturbation and a context.

        `split` is `"train"`, `"test"` or None for both.
        """
        return np.asarray(blocks.take(self.cells.X, self.rows(split, perturbation, context)))

    def rows(
        self, split: str | None = None, perturbation: str | None = None, context: str | None = None
    ) -> np.ndarray:
        """Return the row numbers [n] of `cells` that belong to a split, a perturbation and a context."""
        if split not in (None, "train", "test"):
            raise DataError(f"There is no part {split!r} of a split: choose 'train', 'test' or None.")
        obs = self.cells.obs
        keep = np.ones(len(obs), dtype=bool)
        for column, wanted in (("split", split), ("perturbation", perturbation), ("cell_context", context)):
            if wanted is not None:
                keep &= (obs[column].astype(str) == wanted).to_numpy()
        return np.flatnonzero(keep)

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Turn log1p expression [..., G] into z-scores of the training cells, float32; nothing is clipped."""
        return ((self._on_panel(x) - self.mean) / self.std).astype(np.float32)

    def unscale(self, z: np.ndarray) -> np.ndarray:
        """Turn z-scores [..., G] back into log1p expression, float32."""
        return (self._on_panel(z) * self.std + self.mean).astype(np.float32)

    def _on_panel(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[-1] != len(self.genes):
            raise DataError(
                f"The array has shape {x.shape}: its last axis needs the {len(self.genes)} genes."
            )
        return x


def prepare(
    cells: AnnData,
    n_top_genes: int = 200,
    split: str = "cells",
    test_size: float = 0.2,
    seed: int = 0,
    keep_genes: Sequence[str] = (),
    held_out: Sequence[str | float] = (),
) -> Prepared:
    """Split canonical cells [n, G'], then choose genes and fit one scaler on the training cells.

    Parameters
    ----------
    cells
        Canonical AnnData (`schema.check`).
    n_top_genes
        Highly variable genes to keep; measured targets and `keep_genes` are kept beside them.
    split
        `cells`: a share `test_size` of the cells of every perturbation and context. `perturbations`,
        `doubles`, `doses`, `contexts`: all cells of the held-out ones. Controls are split in every one.
    test_size
        Share held out, between 0 and 1.
    seed
        Seed of the split.
    keep_genes
        Genes kept whatever their variance.
    held_out
        What to hold out in the last four splits, in place of a random share.

    Raises
    ------
    DataError
        One sentence: cells that are not canonical, an unknown gene, or a split that the data cannot give.
    """
    check(cells)
    keep_genes, held_out = names(keep_genes, "keep_genes"), names(held_out, "held_out")
    n_top_genes, seed = whole(n_top_genes, "n_top_genes", 1), whole(seed, "seed")
    _check_request(cells, split, test_size, keep_genes)
    rng = np.random.default_rng(seed)
    test = _test_cells(cells, split, test_size, rng, held_out)
    validation = _stratified(cells.obs, 0.2, rng, ~test)
    chosen = _panel(cells, ~test, n_top_genes, keep_genes)
    if len(chosen) < 2:
        raise DataError(
            "The panel holds one gene, and two are needed for a code of cells: raise n_top_genes."
        )
    return _assemble(cells, test, validation, chosen, split, seed)


def standard(name: str, seed: int = 0) -> Prepared:
    """Load a dataset and prepare it with its fixed panel size and the split by cells."""
    from twinlib.data import sources

    return prepare(sources.load(name), sources.dataset(name).panel, seed=seed)


def _check_request(cells: AnnData, split: str, test_size: float, keep_genes: Sequence[str]) -> None:
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if not isinstance(test_size, int | float | np.number) or not 0 < test_size < 1:
        raise DataError(f"test_size={test_size} is not a share: give a number between 0 and 1.")
    unknown = [gene for gene in keep_genes if gene not in cells.var_names]
    if unknown:
        raise DataError(f"keep_genes names {unknown}, which were not measured: name genes of var_names.")


def _test_cells(
    cells: AnnData, split: str, test_size: float, rng: np.random.Generator, held_out: Sequence[str | float]
) -> np.ndarray:
    """Return which cells [n] are held out."""
    if split == "cells":
        if held_out:
            raise DataError("held_out means nothing for the split 'cells': leave it away.")
        return _stratified(cells.obs, test_size, rng)
    candidates, column = _CANDIDATES[split](cells)
    chosen = _choose_held_out(candidates, test_size, rng, held_out, split)
    control = (cells.obs["perturbation"].astype(str) == CONTROL).to_numpy()
    test = np.isin(column, np.asarray(chosen))
    if split == "contexts":
        return test
    return (test & ~control) | (_stratified(cells.obs, test_size, rng) & control)


def _choose_held_out(
    candidates: Sequence[str | float],
    share: float,
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
    number = min(max(1, round(share * len(candidates))), max(1, len(candidates) - 1))
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
    column = cells.obs["dose"].to_numpy(dtype=float)
    perturbed = (cells.obs["perturbation"].astype(str) != CONTROL).to_numpy()
    doses = sorted(set(column[perturbed].tolist()))
    if len(doses) < 2:
        raise DataError(
            f"The split 'doses' needs at least two doses, and every perturbed cell has dose {doses[0]:g}: "
            "use the split 'cells'."
        )
    return doses, column


def _context_candidates(cells: AnnData) -> tuple[Sequence[str | float], np.ndarray]:
    """Contexts that hold controls and perturbed cells."""
    column = cells.obs["cell_context"].astype(str).to_numpy()
    control = (cells.obs["perturbation"].astype(str) == CONTROL).to_numpy()
    contexts = sorted(set(column[control]) & set(column[~control]))
    if len(contexts) < 2:
        raise DataError(
            "The split 'contexts' needs two cell contexts with controls and perturbed cells, and these data "
            f"have {len(contexts)}: use the split 'cells'."
        )
    return contexts, column


_CANDIDATES = {
    "perturbations": _perturbation_candidates,
    "doubles": _double_candidates,
    "doses": _dose_candidates,
    "contexts": _context_candidates,
}


def _stratified(
    obs: pd.DataFrame, share: float, rng: np.random.Generator, among: np.ndarray | None = None
) -> np.ndarray:
    """Choose a share of the cells of every perturbation, dose and context among `among`; returns bool [n]."""
    among = np.ones(len(obs), dtype=bool) if among is None else among
    keys = np.zeros(len(obs), dtype=np.int64)
    for name in ("perturbation", "cell_context", "dose"):
        codes, number = _codes(obs[name])
        keys = keys * number + codes
    chosen = np.zeros(len(obs), dtype=bool)
    for key in np.unique(keys[among]):
        rows = np.flatnonzero(among & (keys == key))
        chosen[rng.permutation(rows)[: round(share * len(rows))]] = True
    return chosen


def _codes(column: pd.Series) -> tuple[np.ndarray, int]:
    """Number the values of a column [n] in the order of their text; also return how many there are."""
    codes, values = pd.factorize(column)
    texts = np.asarray([str(value) for value in values], dtype=object)
    rank = np.argsort(np.argsort(texts, kind="stable"))
    return rank[codes], len(values)


def _panel(cells: AnnData, train: np.ndarray, n_top_genes: int, keep_genes: Sequence[str]) -> np.ndarray:
    """Return the columns [G] of the panel, in the order of the data."""
    scores = dispersion(cells.X[train])
    keep = np.zeros(cells.n_vars, dtype=bool)
    keep[np.argsort(-scores, kind="stable")[:n_top_genes]] = True
    keep |= np.isin(cells.var_names, [*keep_genes, *_measured_targets(cells)])
    return np.flatnonzero(keep)


def _measured_targets(cells: AnnData) -> set[str]:
    """Return every part of a gene perturbation that is a measured gene."""
    obs = cells.obs
    genes = obs["perturbation_type"].astype(str).str.startswith("CRISPR").to_numpy()
    targets = {part for label in obs.loc[genes, "perturbation"].astype(str).unique() for part in parts(label)}
    return targets & set(cells.var_names)


def dispersion(x: blocks.Matrix) -> np.ndarray:
    """Score genes [G] by how much they vary for their mean; x [n, G] is log1p(CP10k).

    The normalised dispersion of Satija 2015 (scanpy's flavour `seurat`); silent genes get -inf.
    """
    import scanpy as sc
    from anndata import AnnData

    with np.errstate(all="ignore"):  # silent genes: log of 0 / 0, answered below
        table = sc.pp.highly_variable_genes(AnnData(x), flavor="seurat", inplace=False)
    score = table["dispersions_norm"].to_numpy(dtype=np.float64)
    return np.where(np.isnan(score), -np.inf, score)


def _assemble(
    cells: AnnData, test: np.ndarray, validation: np.ndarray, chosen: np.ndarray, split: str, seed: int
) -> Prepared:
    """Cut the panel out, fit the scaler on the training cells and put everything together."""
    panel = _cut_panel(cells, chosen)
    panel.obs["split"] = pd.Categorical(np.where(test, "test", "train"))
    panel.obs["validation"] = validation
    panel.obs["small_group"] = small_groups(panel.obs["perturbation"].astype(str))
    mean, std = blocks.mean_and_std(panel.X[~test])
    std[std == 0] = 1.0
    labels = panel.obs["perturbation"].astype(str)
    facts = cells.uns["twinlib"]
    return Prepared(
        cells=panel,
        dataset=str(facts["dataset"]),
        data_hash=str(facts["data_hash"]),
        split=split,
        seed=seed,
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        genes=tuple(panel.var_names),
        measured=tuple(sorted(_measured_targets(panel))),
        perturbations=tuple(sorted(set(labels) - {CONTROL})),
        train_perturbations=tuple(sorted(set(labels[~test]) - {CONTROL})),
        fingerprint=_fingerprint(panel, test, mean, std),
    )


def _cut_panel(cells: AnnData, chosen: np.ndarray) -> AnnData:
    """Return the chosen columns of the cells [n, G], X dense float32; a lazy X stays lazy, without layers."""
    from anndata import AnnData

    if not blocks.is_lazy(cells.X):
        panel = cells[:, chosen].copy()
        panel.X = blocks.dense(panel.X)
        return panel
    x = blocks.dense(cells.X[:, chosen])
    return AnnData(x, obs=cells.obs.copy(), var=cells.var.iloc[chosen], uns={"twinlib": cells.uns["twinlib"]})


def _fingerprint(panel: AnnData, test: np.ndarray, mean: np.ndarray, std: np.ndarray) -> str:
    """Hash the genes, the training cell names, the mean and the standard deviation.

    Processors differ in the seventh digit of simulated cells, so three digits of the scaler are hashed.
    """
    digest = hashlib.sha256("\n".join(panel.var_names).encode())
    digest.update("\n".join(panel.obs_names[~test]).encode())
    digest.update(np.rint(1e3 * np.concatenate([mean, std])).astype(np.int64).tobytes())
    return digest.hexdigest()
