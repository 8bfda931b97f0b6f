"""Bring cells from anywhere to the canonical schema; counts or log1p is told from the numbers, not flags."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data import blocks, schema
from twinlib.data.blocks import Lazy, Matrix
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Columns:
    """Where the labels stand in the obs of a file, and how they are written."""

    #: Column of perturbation labels.
    perturbation: str
    #: The label of unperturbed cells.
    control: str
    #: Column of cell contexts (cell type, line, donor); None: one context for all.
    context: str | None = None
    #: Column of batches; None: one batch for all.
    batch: str | None = None
    #: Column of doses; None: dose 1 for every perturbed cell.
    dose: str | None = None
    #: What joins the parts of a combination; None: labels are never split.
    separator: str | None = "+"
    #: Target of each guide, where the labels name guides.
    guide_targets: Mapping[str, str] | None = None


def from_anndata(
    adata: AnnData,
    perturbation_key: str,
    control: str,
    context_key: str | None = None,
    batch_key: str | None = None,
    *,
    dose_key: str | None = None,
    perturbation_type: str = "CRISPRko",
    separator: str | None = "+",
    guide_targets: Mapping[str, str] | None = None,
    name: str = "yours",
) -> AnnData:
    """Bring anyone's cells [n, G] to the canonical schema, and print what X was taken for.

    X holds counts or log1p of normalised counts, sparse or dense, backed or a view; `adata` is left as it is.
    A Dask array (`blocks.open_lazy`) stays on disk.

    Parameters
    ----------
    adata
        Cells with labels in obs.
    perturbation_key
        Column of labels; a combination is written `A+B`, and `A+control` means `A`.
    control
        Label of the unperturbed cells.
    context_key
        Column of cell contexts; None puts all cells into one.
    batch_key
        Column of batches; None puts all cells into one.
    dose_key
        Column of doses; None means dose 1.
    perturbation_type
        CRISPRko, CRISPRi, CRISPRa, cytokine or drug (the last two are not looked up among the genes).
    separator
        What joins the parts of a combination; None when labels are never combinations.
    guide_targets
        Target of each guide, when the labels name guides.
    name
        Name of the dataset in `uns["twinlib"]`.

    Raises
    ------
    DataError
        One sentence for the first thing that cannot be used.
    """
    if not hasattr(adata, "obs") or not hasattr(adata, "isbacked"):
        raise DataError(f"from_anndata was given a {type(adata).__name__}: give an AnnData.")
    if perturbation_type not in schema.TYPES[:-1]:
        raise DataError(
            f"perturbation_type={perturbation_type!r} is unknown: use one of {list(schema.TYPES[:-1])}."
        )
    if adata.isbacked:
        adata = adata.to_memory()
    columns = Columns(
        perturbation_key, str(control), context_key, batch_key, dose_key, separator, guide_targets
    )
    made = bring(adata, columns, name, perturbation_type)
    print(f"from_anndata: {made.uns['twinlib']['taken_for']}.")
    return schema.check(made)


def bring(adata: AnnData, columns: Columns, name: str, kind: str) -> AnnData:
    """Build the canonical AnnData [n, G] of a file whose obs `columns` describes; hashed, not yet checked."""
    schema.check_shape_and_names(adata)
    schema.check_numbers(adata.X, "X")
    obs = read_obs(adata.obs, columns)
    genes = [str(gene) for gene in adata.var_names]
    made = _from_values(adata.X, adata.layers.get("counts"), complete_obs(obs, genes, kind), genes)
    made.uns["twinlib"]["dataset"] = name
    made.uns["twinlib"]["data_hash"] = content_hash(made)
    return made


def read_obs(obs: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return obs [n] with perturbation, cell_context, batch and dose, in the package's own words."""
    labels = _column(obs, columns.perturbation, "perturbation")
    made = pd.DataFrame(index=obs.index.astype(str))
    made["perturbation"] = own_labels(labels, columns)
    for ours, theirs in (("cell_context", columns.context), ("batch", columns.batch)):
        made[ours] = "all" if theirs is None else _column(obs, theirs, ours)
    made["dose"] = 1.0 if columns.dose is None else _doses(obs, columns.dose, labels == columns.control)
    return made


def _column(obs: pd.DataFrame, key: str, holds: str) -> np.ndarray:
    """Return a column of obs as str [n]; a missing column or value is refused."""
    if key not in obs:
        raise DataError(
            f"obs has no column {key!r}: name the column of the {holds} (there are {list(obs.columns)})."
        )
    if obs[key].isna().any():
        raise DataError(f"The column {key!r} of obs has {int(obs[key].isna().sum())} cells without a value.")
    return obs[key].astype(str).to_numpy(dtype=str)


def _doses(obs: pd.DataFrame, key: str, control: np.ndarray) -> np.ndarray:
    """Return doses [n], 0 for controls; every perturbed cell needs a finite dose above 0."""
    if key not in obs:
        raise DataError(f"obs has no column {key!r}: name the column of the doses.")
    doses = pd.to_numeric(obs[key].astype(str), errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~control & ~(np.isfinite(doses) & (doses > 0))
    if wrong.any():
        first = obs[key].iloc[int(np.flatnonzero(wrong)[0])]
        raise DataError(
            f"{int(wrong.sum())} perturbed cells have no dose above 0 in {key!r} (first: {first!r})."
        )
    return np.where(control, 0.0, doses)


def own_labels(labels: np.ndarray, columns: Columns) -> np.ndarray:
    """Translate labels [n]: the control label to `control`, guides to targets, combinations to `A+B`.

    Two orders of the same parts become one label.
    """
    codes, kinds = pd.factorize(labels)
    unique = sorted(map(str, kinds))
    if columns.control not in unique:
        schema.check_groups(labels, columns.control)
    first: dict[frozenset[str], str] = {}
    own: dict[str, str] = {}
    for label in unique:
        own[label] = CONTROL if label == columns.control else _own_label(label, columns)
        if own[label] != CONTROL:
            own[label] = first.setdefault(frozenset(schema.parts(own[label])), own[label])
    return np.asarray([own[str(label)] for label in kinds], dtype=str)[codes]


def _own_label(label: str, columns: Columns) -> str:
    """Translate one label of a perturbed cell."""
    if columns.separator is None:
        pieces = [label.strip()]
    else:
        pieces = [piece.strip() for piece in label.split(columns.separator)]
    targets = columns.guide_targets or {}
    pieces = [" ".join(targets.get(piece, piece).replace("+", " plus ").split()) for piece in pieces if piece]
    named = [piece for piece in pieces if piece != columns.control]
    if CONTROL in named:
        raise DataError(
            f"The label {label!r} holds the word 'control' beside control={columns.control!r}: rename one."
        )
    if pieces and not named:
        return CONTROL
    if not named:
        raise DataError(f"The label {label!r} names no perturbation: rename it.")
    return "+".join(named)


def complete_obs(obs: pd.DataFrame, genes: list[str], kind: str) -> pd.DataFrame:
    """Add perturbation_type, dose and target_measured to obs [n] where missing; text becomes categories."""
    obs = obs.copy()
    labels = obs["perturbation"].astype(str)
    control = (labels == CONTROL).to_numpy()
    if "perturbation_type" not in obs:
        obs["perturbation_type"] = np.where(control, "none", kind)
    if "dose" not in obs:
        obs["dose"] = 1.0
    obs["dose"] = np.where(control, 0.0, obs["dose"].to_numpy(dtype=np.float64))
    known = set(genes) if kind.startswith("CRISPR") else set()
    measured = {
        label: bool(schema.parts(label)) and set(schema.parts(label)) <= known for label in set(labels)
    }
    obs["target_measured"] = labels.map(measured).to_numpy(dtype=bool)
    for column in ("perturbation", "perturbation_type", "cell_context", "batch"):
        obs[column] = pd.Categorical(obs[column].astype(str))
    return obs


def from_counts(counts: Matrix, obs: pd.DataFrame, genes: list[str], origin: str) -> AnnData:
    """Build an AnnData with X = log1p(CP10k) and the layer `counts` from counts [n, G] and a complete obs."""
    from anndata import AnnData

    if blocks.is_lazy(counts):
        x = blocks.map_rows(counts, schema.log_normalise)
    else:
        counts = sparse.csr_matrix(counts, dtype=np.float32)
        x = schema.log_normalise(counts)
    adata = AnnData(x, obs=obs, var=pd.DataFrame(index=genes))
    adata.layers["counts"] = counts
    taken = "X was taken for raw counts (all values are whole)"
    adata.uns["twinlib"] = {"counts": origin, "taken_for": taken}
    return adata


def _from_values(x: Matrix, counts: Matrix | None, obs: pd.DataFrame, genes: list[str]) -> AnnData:
    """Build the AnnData from X [n, G] that holds counts or log1p, told from the numbers."""
    kind = schema.kind_of_values(x)
    if kind == "counts":
        return from_counts(x, obs, genes, "given: X holds whole numbers")
    if blocks.is_lazy(x) and kind in ("log1p", "unknown"):
        return _from_lazy_log(x, obs, genes)
    if kind in ("log1p", "log1p_other", "unknown") and not blocks.is_lazy(x):
        return _from_log(x, counts, obs, genes, kind)
    raise DataError(f"X is not log1p(counts per 10,000) taken once: {schema.MENDS[kind]}.")


def _from_lazy_log(x: Lazy, obs: pd.DataFrame, genes: list[str]) -> AnnData:
    """Build the AnnData from logged X [n, G] on disk; its first cells were looked at, counts stay away."""
    from anndata import AnnData

    adata = AnnData(blocks.map_rows(x, _float_rows), obs=obs, var=pd.DataFrame(index=genes))
    origin = "absent: they are not recovered for cells that stay on disk"
    adata.uns["twinlib"] = {"counts": origin, "taken_for": "X was taken for log1p(counts per 10,000)"}
    return adata


def _float_rows(block: Matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix(block, dtype=np.float32)


def _from_log(x: Matrix, counts: Matrix | None, obs: pd.DataFrame, genes: list[str], kind: str) -> AnnData:
    """Build the AnnData from logged X [n, G]; counts come from the layer, or are recovered if they can be."""
    from anndata import AnnData

    if counts is not None and schema.kind_of_values(counts) == "counts":
        layer, origin = sparse.csr_matrix(counts, dtype=np.float32), "given: the layer counts"
    else:
        layer, origin = _recovered(x, kind)
    if kind == "log1p_other":
        made = from_counts(layer, obs, genes, origin)
        taken = "X was taken for log1p of counts scaled to another total, and scaled again to 10,000"
    else:
        made = AnnData(sparse.csr_matrix(x, dtype=np.float32), obs=obs, var=pd.DataFrame(index=genes))
        if layer is not None:
            made.layers["counts"] = layer
        doubt = "" if kind == "log1p" else ", which the numbers neither confirm nor refuse"
        taken = f"X was taken for log1p(counts per 10,000){doubt}"
    made.uns["twinlib"] = {"counts": origin, "taken_for": taken}
    return made


def _recovered(x: Matrix, kind: str) -> tuple[sparse.csr_matrix | None, str]:
    """Recover the counts [n, G] of logged X, with the sentence that says how or why not."""
    counts = schema.recover_counts(x) if kind != "unknown" else None
    if counts is None:
        return None, "absent: not given, and expm1(X) over each cell's smallest value is not whole"
    return counts, (
        "recovered: expm1(X) over each cell's smallest non-zero value is whole (within 0.02) for at least "
        "99.9 % of the values"
    )


def draw(adata: AnnData, n_cells: int, seed: int) -> AnnData:
    """Draw `n_cells` cells without replacement, keeping their order; groups left under 10 cells are dropped.

    `uns["twinlib"]["dropped"]` names the dropped perturbations.
    """
    rows = drawn_rows(adata.n_obs, n_cells, seed)
    return drop_small(adata[rows].copy())


def drawn_rows(n: int, n_cells: int, seed: int) -> np.ndarray:
    """Return `n_cells` of n row numbers, drawn without replacement and sorted."""
    if not 0 < n_cells <= n:
        raise DataError(f"n_cells={n_cells} cannot be drawn from {n} cells: give 1 to {n}.")
    return np.sort(np.random.default_rng(seed).choice(n, n_cells, replace=False))


def drop_small(adata: AnnData) -> AnnData:
    """Drop the perturbations under `schema.MIN_CELLS` cells and name them in `uns["twinlib"]["dropped"]`."""
    labels = adata.obs["perturbation"].astype(str)
    sizes = labels.value_counts()
    small = sorted(sizes.index[(sizes < schema.MIN_CELLS) & (sizes.index != CONTROL)])
    if small:
        adata = adata[~labels.isin(small).to_numpy()].copy()
    adata.uns["twinlib"] = {**adata.uns["twinlib"], "dropped": ", ".join(small)}
    return adata


def content_hash(adata: AnnData) -> str:
    """Return the sha256 of X [n, G], the labels, the cell names and the gene names."""
    digest = hashlib.sha256()
    x = adata.X
    if blocks.is_lazy(x):
        digest.update(blocks.scan(x)[2].encode())
        x = np.empty(0)
    arrays = (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    for names in (adata.var_names, adata.obs_names, adata.obs["perturbation"].astype(str)):
        digest.update("\n".join(names).encode())
    return digest.hexdigest()
