"""The one canonical AnnData that every source is brought to, and the checks at its door."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data import blocks
from twinlib.data.blocks import Matrix
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

#: Takes logarithms back, value by value.
Undo = Callable[[np.ndarray], np.ndarray]

#: The label of cells that nobody perturbed.
CONTROL = "control"

#: A perturbation with fewer cells than this cannot be split, paired and scored.
MIN_CELLS = 10

#: Columns of `obs` that every canonical AnnData carries.
COLUMNS = ("perturbation", "perturbation_type", "dose", "cell_context", "batch", "target_measured")

#: Kinds of perturbation; `none` is for controls.
TYPES = ("CRISPRko", "CRISPRi", "CRISPRa", "cytokine", "drug", "none")

#: Largest value log1p(counts per 10,000) can take: every molecule of the cell in one gene.
LARGEST_LOG = float(np.log1p(1e4))


def parts(label: str) -> tuple[str, ...]:
    """Split a perturbation label into its parts: `"A+B"` -> `("A", "B")`, `"control"` -> `()`.

    >>> parts("JAK2+STAT1")
    ('JAK2', 'STAT1')
    """
    if label == CONTROL:
        return ()
    return tuple(part.strip() for part in label.split("+") if part.strip())


def values_of(x: Matrix) -> np.ndarray:
    """Return the stored values of X [n, G] as one vector: the non-zeros of a sparse one, or all."""
    return np.asarray(x.data) if blocks.is_sparse(x) else np.asarray(x).ravel()


def check(adata: AnnData) -> AnnData:
    """Return `adata` [n, G] itself when it is canonical.

    Canonical is: X = log1p(counts per 10,000) taken once, CSR or dense; the columns `COLUMNS` in obs;
    a `control` group; at least `MIN_CELLS` cells a perturbation; unique names; `uns["twinlib"]`.

    Raises
    ------
    DataError
        One sentence for the first thing that is not so.
    """
    check_shape_and_names(adata)
    check_numbers(adata.X, "X")
    _check_columns(adata)
    check_groups(adata.obs["perturbation"].astype(str))
    _check_log(adata)
    if "counts" in adata.layers and not blocks.is_lazy(adata.layers["counts"]):
        check_numbers(adata.layers["counts"], 'layers["counts"]')
    return adata


def check_shape_and_names(adata: AnnData) -> None:
    """Raise a DataError when there is no cell or no gene, or a name occurs twice."""
    if adata.n_obs == 0 or adata.n_vars == 0 or adata.X is None:
        raise DataError(
            f"The data hold {adata.n_obs} cells x {adata.n_vars} genes: give an X with at least one of each."
        )
    for names, axis in ((adata.var_names, "gene"), (adata.obs_names, "cell")):
        twice = names[names.duplicated()].unique()
        if len(twice):
            raise DataError(
                f"The {axis} name {twice[0]!r} occurs more than once ({len(twice)} such names): make the "
                f"{axis} names unique."
            )


def check_numbers(x: Matrix, where: str) -> None:
    """Raise a DataError when the stored values of x [n, G] are not finite, non-negative real numbers."""
    check_sparse(x, where)
    if x.dtype.kind not in "fiub":
        raise DataError(f"{where} holds values of type {x.dtype}: give real numbers.")
    smallest, bad = blocks.scan(x)[:2] if blocks.is_lazy(x) else _smallest_and_bad(values_of(x))
    if bad:
        raise DataError(f"{where} holds {bad} NaN or infinite values: remove those cells or genes first.")
    if smallest < 0:
        raise DataError(
            f"{where} holds negative values (smallest {smallest:.4g}): give counts or log1p of counts, "
            "not scaled data."
        )


def _smallest_and_bad(values: np.ndarray) -> tuple[float, int]:
    """Return the smallest finite value (at most 0) and the number of values that are not finite."""
    finite = np.isfinite(values)
    return float(values.min(where=finite, initial=0.0)) if values.size else 0.0, int((~finite).sum())


def check_sparse(x: Matrix, where: str) -> None:
    """Raise a DataError when a sparse x [n, G] points outside itself: scipy would read foreign memory."""
    if not blocks.is_sparse(x) or x.format not in ("csr", "csc"):
        return
    try:
        x.check_format(full_check=True)
    except ValueError as error:
        raise DataError(f"{where} is a broken sparse matrix ({error}): read the file again.") from None


def _check_columns(adata: AnnData) -> None:
    missing = [name for name in COLUMNS if name not in adata.obs]
    if missing:
        raise DataError(f"obs lacks the columns {missing}: bring the data in through twinlib.from_anndata.")
    if "twinlib" not in adata.uns or "dataset" not in adata.uns["twinlib"]:
        raise DataError('uns["twinlib"] is missing: bring the data in through twinlib.from_anndata.')
    unknown = set(adata.obs["perturbation_type"].astype(str)) - set(TYPES)
    if unknown:
        raise DataError(f"perturbation_type holds {sorted(unknown)}: use one of {list(TYPES)}.")


def check_groups(labels: Iterable[str], control: str = CONTROL, min_cells: int = MIN_CELLS) -> None:
    """Raise a DataError when the labels [n] have no control, nothing else, or a group under `min_cells`."""
    counted = pd.Series(labels, dtype=object).astype(str).value_counts().sort_index()
    names, sizes = counted.index.to_numpy(), counted.to_numpy()
    if control not in names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(
            f"No cell has the control label {control!r} (the labels are {shown}): "
            "name the control label of your data with control=."
        )
    if len(names) == 1:
        raise DataError(f"Every cell is {control!r}: a perturbation is needed beside the control.")
    small = sizes < min_cells
    if small.any():
        raise DataError(
            f"The perturbation {str(names[small][0])!r} has {sizes[small][0]} cells (under {min_cells}; "
            f"{small.sum()} such groups): drop or merge those groups."
        )


#: What to do about X of each wrong kind.
MENDS = {
    "log1p_twice": "log1p was taken twice, undo one with numpy.expm1",
    "log1p_other": "the cells were scaled to another total, bring the data in through twinlib.from_anndata",
    "counts": "it holds raw counts, bring the data in through twinlib.from_anndata",
    "normalised": "it was normalised but never logged, take log1p once",
}


def _check_log(adata: AnnData) -> None:
    kind = kind_of_values(adata.X)
    if kind in MENDS:
        raise DataError(f"X is not log1p(counts per 10,000) taken once: {MENDS[kind]}.")


def kind_of_values(x: Matrix, n_cells: int = 2000) -> str:
    """Say from the numbers alone what X [n, G] holds, never trusting a flag.

    Returns `counts` (all values whole), `log1p` (undoing one logarithm gives whole multiples of each cell's
    smallest value), `log1p_other` (the same, but the sums show another total than 10,000 a cell),
    `log1p_twice`, `normalised` (whole multiples without undoing anything), or `unknown`.
    The first `n_cells` cells are looked at.
    """
    rows = sparse.csr_matrix(blocks.head(x, n_cells), dtype=np.float64)
    rows.eliminate_zeros()
    if rows.nnz == 0:
        return "unknown"
    if (rows.data == np.rint(rows.data)).all():
        return "counts"
    if rows.data.max() > 30:
        return "normalised"
    if _whole_share(rows, np.expm1) >= 0.999:
        return "log1p_other" if _has_other_total(_totals(rows, np.expm1)) else "log1p"
    if rows.data.max() <= np.log1p(LARGEST_LOG) + 1e-3 and _is_logged_twice(rows):
        return "log1p_twice"
    return "normalised" if _whole_share(rows, np.asarray) >= 0.999 else "unknown"


def _is_logged_twice(rows: sparse.csr_matrix) -> bool:
    """Whether undoing two logarithms gives whole multiples, or the same total in every cell."""
    totals = _totals(rows, _expm1_twice)
    return _whole_share(rows, _expm1_twice) >= 0.999 or bool(totals.std() < 1e-3 * totals.mean())


def _totals(rows: sparse.csr_matrix, undo: Undo) -> np.ndarray:
    """Sum each non-empty cell [n] after `undo`."""
    filled = np.diff(rows.indptr) > 0
    return np.add.reduceat(undo(rows.data), rows.indptr[:-1][filled])


def _has_other_total(totals: np.ndarray) -> bool:
    """Whether a cell sums to more than 10,000, or all cells [n] to one number that is not 10,000.

    Smaller sums that differ are what remains of 10,000 when some genes were left out of a file.
    """
    same = len(totals) >= 20 and totals.std() < 1e-3 * totals.mean()
    return bool(totals.max() > 1.01e4 or (same and totals.mean() < 0.99e4))


def _expm1_twice(values: np.ndarray) -> np.ndarray:
    return np.expm1(np.expm1(values))


def _whole_share(rows: sparse.csr_matrix, undo: Undo) -> float:
    """Share of the values above their cell's smallest that are whole multiples of it (within 0.02)."""
    multiples = multiples_of_smallest(rows, undo)
    above = multiples[multiples > 1.5]
    return float((np.abs(above - np.rint(above)) < 0.02).mean()) if above.size >= 20 else 0.0


def multiples_of_smallest(rows: sparse.csr_matrix, undo: Undo = np.expm1) -> np.ndarray:
    """Divide each stored value by the smallest of its cell after `undo`; shape as `rows.data`."""
    values = undo(rows.data)
    filled = np.diff(rows.indptr) > 0
    smallest = np.minimum.reduceat(values, rows.indptr[:-1][filled])
    return values / np.repeat(smallest, np.diff(rows.indptr)[filled])


def recover_counts(x: Matrix) -> sparse.csr_matrix | None:
    """Recover counts [n, G] from X = log1p(CP10k), or None when under 99.9 % of the values come out whole.

    A cell's smallest non-zero value is taken as one molecule: expm1(X) over it is the count (within 0.02).
    """
    rows = sparse.csr_matrix(x, dtype=np.float64, copy=True)
    rows.eliminate_zeros()
    if rows.nnz == 0:
        return None
    multiples = multiples_of_smallest(rows)
    whole = np.rint(multiples)
    if (np.abs(multiples - whole) < 0.02).mean() < 0.999:
        return None
    rows.data = whole.astype(np.float32)
    return rows


def log_normalise(counts: Matrix) -> sparse.csr_matrix:
    """Take log1p of counts per 10,000 of each cell; counts [n, G] -> float32 CSR; empty cells stay empty."""
    rows = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    totals = np.asarray(rows.sum(axis=1)).ravel()
    scale = np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0)
    rows.data = np.log1p(rows.data * np.repeat(scale, np.diff(rows.indptr)))
    return rows.astype(np.float32)
