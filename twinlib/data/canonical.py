"""Bring cells from anywhere to the canonical schema; counts or log1p is told from the numbers, not flags."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data import blocks, doses, labels, scale, schema
from twinlib.data.blocks import Lazy, Matrix
from twinlib.data.labels import Columns
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


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
    gene_symbols: str | None = None,
    scale: str = "log1p",
    name: str = "yours",
    layer: str | None = None,
    total_counts: str | None = None,
    fractional: str | None = None,
    guide_key: str | None = None,
    log_dose: bool = False,
) -> AnnData:
    """Bring anyone's cells [n, G] to the canonical schema; print what X was taken for, and what looks odd.

    X holds counts or log1p of normalised counts, or arcsinh intensities (`scale`), sparse or dense, backed or
    a view; `adata` is left as it is. Counts in `layers["counts"]` are believed over an X that contradicts
    them. A Dask array (`blocks.open_lazy`) stays on disk. The columns of obs and var are kept; a column
    `panel_candidate` of var, true or false, says which genes may enter the panel.

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
        Target of each guide, when the labels name guides; a control guide's target is the control label.
    gene_symbols
        Column of var with the names by which the labels call the genes; None takes the names of var.
    scale
        `log1p`: cells with counts behind them. `arcsinh`: intensities of cytometry, taken as they are.
    name
        Name of the dataset in `uns["twinlib"]`.
    layer
        Layer that is read in place of X; `raw` is `adata.raw` where no layer has that name.
    total_counts
        Column of obs with the total counts of each cell, where genes were left out of the file.
    fractional
        What to do with fractional counts: `round` them, or take them as `given`; None refuses them.
    guide_key
        Column of obs with the guide of each cell, kept as `guide`.
    log_dose
        Take doses as log2(1 + dose / smallest dose).

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
    control = str(control) if np.isscalar(control) else control
    columns = Columns(
        perturbation_key,
        control,
        context_key,
        batch_key,
        dose_key,
        separator,
        guide_targets,
        guide_key,
        log_dose,
    )
    matrix = Reading(scale, layer, total_counts, fractional)
    made = bring(adata, columns, str(name), perturbation_type, gene_symbols, matrix)
    facts = made.uns["twinlib"]
    print("\n".join(f"from_anndata: {told}." for told in (facts["taken_for"], facts["hints"]) if told))
    return schema.check(made)


@dataclass(frozen=True)
class Reading:
    """How the numbers of a file are to be read."""

    #: `log1p`: counts stand behind them; `arcsinh`: intensities of cytometry.
    scale: str = "log1p"
    #: Layer that is read in place of X (`raw`: also `adata.raw`); None: X.
    layer: str | None = None
    #: Column of obs with each cell's total counts; None: the genes of the file are all there were.
    total_counts: str | None = None
    #: Fractional counts: `round`, `given` (taken as they are), or None (refused).
    fractional: str | None = None

    def __post_init__(self) -> None:
        known_scale(self.scale)
        if self.fractional not in (None, *FRACTIONAL):
            raise DataError(f"fractional={self.fractional!r} is unknown: use one of {list(FRACTIONAL)}.")


#: What can be done with fractional counts.
FRACTIONAL = ("round", "given")


def bring(
    adata: AnnData,
    columns: Columns,
    name: str,
    kind: str,
    gene_symbols: str | None = None,
    reading: Reading | None = None,
) -> AnnData:
    """Build the canonical AnnData [n, G] of a file whose obs `columns` describes; hashed, not yet checked."""
    reading = reading or Reading()
    adata = in_place_of_x(adata, reading.layer)
    schema.check_shape_and_names(adata)
    var = read_var(adata.var, gene_symbols)
    genes = [str(gene) for gene in var.index]
    obs = complete_obs(labels.read_obs(adata.obs, columns, genes), genes, kind)
    made = _assembled(_values(adata, reading), obs, _checked_candidates(var), reading.scale)
    measured = kind == "cytokine" or bool(obs["target_measured"].any())
    made.uns["twinlib"] |= {
        "dataset": name,
        "data_hash": content_hash(made),
        "hints": "; ".join(labels.hints(obs["perturbation"].astype(str), measured, genes, adata.var)),
        "log_dose": _smallest_dose(adata.obs, obs, columns),
        "total_counts": reading.total_counts or "",
    }
    return made


def _smallest_dose(given: pd.DataFrame, obs: pd.DataFrame, columns: Columns) -> float:
    """Return the dose that counts as 1 where doses are in logarithms, else 0."""
    if not columns.log_dose or columns.dose is None:
        return 0.0
    control = (obs["perturbation"] == CONTROL).to_numpy()
    return doses.smallest(doses.read(given[columns.dose], control, columns.separator))


def in_place_of_x(adata: AnnData, layer: str | None) -> AnnData:
    """Return the cells with a layer, or `raw`, as their X; one that is not there is refused."""
    from anndata import AnnData

    if layer is None:
        return adata
    if layer == "raw" and "raw" not in adata.layers and adata.raw is not None:
        return adata.raw.to_adata()
    if layer not in adata.layers:
        raise DataError(f"There is no layer {layer!r}: name one of {[*adata.layers]} with layer=.")
    beside = {name: adata.layers[name] for name in ("counts",) if name in adata.layers and name != layer}
    return AnnData(adata.layers[layer], obs=adata.obs, var=adata.var, layers=beside)


def known_scale(name: str) -> str:
    """Return the name of a scale that X can be in."""
    if name not in scale.SCALES:
        raise DataError(f"scale={name!r} is unknown: use one of {list(scale.SCALES)}.")
    return name


def _checked_candidates(var: pd.DataFrame) -> pd.DataFrame:
    """Return var [G], whose column `panel_candidate`, if there is one, holds true or false."""
    if "panel_candidate" in var and var["panel_candidate"].dtype != bool:
        raise DataError(
            f"var['panel_candidate'] holds {var['panel_candidate'].dtype}: give true or false for each gene."
        )
    return var


def read_var(var: pd.DataFrame, gene_symbols: str | None) -> pd.DataFrame:
    """Return var [G] named by a column of symbols; a gene without a symbol of its own keeps its name."""
    twice = var.columns[var.columns.duplicated()].unique()
    if len(twice):
        raise DataError(f"var has several columns named {twice[0]!r}: rename or drop all but one.")
    if gene_symbols is None:
        return var.set_axis(var.index.astype(str), axis=0)
    if not isinstance(gene_symbols, str) or gene_symbols not in var:
        raise DataError(
            f"var has no column {gene_symbols!r}: name one of {list(var.columns)} with gene_symbols=."
        )
    symbols = var[gene_symbols].astype(object)
    own = symbols.notna().to_numpy() & ~symbols.duplicated(keep=False).to_numpy()
    own &= ~symbols.isin(var.index).to_numpy() | (symbols.to_numpy() == var.index.to_numpy())
    names = np.where(own, symbols.astype(str), var.index.astype(str))
    return var.assign(gene_id=var.index.astype(str)).set_axis(pd.Index(names.astype(str)), axis=0)


def complete_obs(obs: pd.DataFrame, genes: Sequence[str], kind: str) -> pd.DataFrame:
    """Add perturbation_type, dose, target_measured and small_group to obs [n]; text becomes categories."""
    obs = obs.copy()
    perturbed_by = obs["perturbation"].astype(str)
    control = (perturbed_by == CONTROL).to_numpy()
    if "perturbation_type" not in obs:
        obs["perturbation_type"] = np.where(control, "none", kind)
    if "dose" not in obs:
        obs["dose"] = 1.0
    obs["dose"] = np.where(control, 0.0, obs["dose"].to_numpy(dtype=np.float64))
    known = set(genes) if kind.startswith("CRISPR") else set()
    measured = {
        label: bool(schema.parts(label)) and set(schema.parts(label)) <= known for label in set(perturbed_by)
    }
    obs["target_measured"] = perturbed_by.map(measured).to_numpy(dtype=bool)
    obs["small_group"] = small_groups(perturbed_by)
    for column in ("perturbation", "perturbation_type", "cell_context", "batch"):
        obs[column] = pd.Categorical(obs[column].astype(str))
    return obs


def small_groups(perturbed_by: pd.Series) -> np.ndarray:
    """Return which cells [n] belong to a perturbation with under `schema.MIN_CELLS` cells."""
    return (perturbed_by.map(perturbed_by.value_counts()) < schema.MIN_CELLS).to_numpy(dtype=bool)


TAKEN_FOR_COUNTS = "X was taken for raw counts (all values are whole)"


@dataclass(frozen=True, eq=False)
class Values:
    """What the numbers of a file were taken for: counts, or logged values with or without counts."""

    #: Counts [n, G]; None: they are not known.
    counts: Matrix | None
    #: log1p(counts per 10,000), or arcsinh of intensities [n, G]; None: it is made of the counts.
    logged: Matrix | None
    #: Where the counts come from, or why there are none.
    origin: str
    #: What X was taken for.
    taken_for: str


def read_values(adata: AnnData, fractional: str | None = None) -> Values:
    """Tell from the numbers what X and the layer `counts` hold; refuse what is neither counts nor one log1p.

    Counts are believed over an X that contradicts them, unless they stand in another order. `fractional` says
    what to do with fractional counts (`Reading`).
    """
    x, given = adata.X, adata.layers.get("counts")
    unusable = "not given" if given is None else _why_unusable(given)
    schema.check_sparse(x, "X")
    try:
        kind = scale.kind_of(schema.check_numbers(x, "X"))
    except DataError as error:
        if unusable:
            raise
        return _from_layer(given, str(error).split(":")[0])
    if kind == "counts":
        return Values(
            x, None, "given: X holds whole numbers", "X was taken for raw counts (all values are whole)"
        )
    if not unusable:
        return _beside_counts(x, given, kind)
    if kind == "fractional" and fractional:
        return _from_fractions(x, fractional)
    if kind in scale.MENDS and kind != "log1p_other":
        raise scale.refusal(kind, _where_counts_are(adata, unusable))
    if blocks.is_lazy(x):
        return _from_lazy_log(x, kind)
    return _from_log(x, kind, unusable)


def read_intensities(adata: AnnData) -> Values:
    """Take X as arcsinh of intensities, which have no counts behind them; another scale is refused."""
    x = adata.X
    scale.check_scale(schema.check_numbers(x, "X"), "arcsinh")
    values = blocks.map_rows(x, _float_rows) if blocks.is_lazy(x) else x
    return Values(
        None,
        values,
        "absent: arcsinh intensities are no counts",
        'X was taken for arcsinh of intensities, as scale="arcsinh" says',
    )


def _values(adata: AnnData, reading: Reading) -> Values:
    """Read the values of a file as its user says."""
    if reading.scale == "arcsinh":
        return read_intensities(adata)
    values = read_values(adata, reading.fractional)
    return values if reading.total_counts is None else _of_totals(adata, values, reading.total_counts)


def _of_totals(adata: AnnData, values: Values, column: str) -> Values:
    """Scale the counts by the total counts of obs, where the genes of the file are not all there were."""
    if values.counts is None:
        raise DataError(f"total_counts={column!r} needs counts, and there are none ({values.origin}).")
    if column not in adata.obs:
        raise DataError(f"obs has no column {column!r}: name the total counts (there are {[*adata.obs]}).")
    totals = pd.to_numeric(adata.obs[column], errors="coerce").to_numpy(dtype=float)
    counted = blocks.row_sums(values.counts)
    wrong = ~(totals >= counted * (1 - 1e-6)) | ~np.isfinite(totals)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{int(wrong.sum())} cells have total counts in {column!r} below the counts of their genes "
            f"(first: {totals[row]:g} under {counted[row]:g}): name the column of totals, or leave it out."
        )
    taken = f"{values.taken_for}; scaled by the total counts in {column!r}"
    if blocks.is_lazy(values.counts):
        logged = blocks.map_rows(values.counts, scale.log_normalise, totals)
    else:
        logged = scale.log_normalise(values.counts, totals)
    return Values(values.counts, logged, values.origin, taken)


def _why_unusable(counts: Matrix) -> str:
    """Return why the layer `counts` [n, G] cannot be used, or an empty text."""
    try:
        kind = scale.kind_of(schema.check_numbers(counts, 'layers["counts"]'))
    except DataError as error:
        return f"given but not usable: {str(error).split(':')[0]}"
    if kind == "counts":
        return ""
    return f'given but not usable: layers["counts"] does not hold whole numbers ({kind})'


def _where_counts_are(adata: AnnData, unusable: str) -> str:
    """Say where counts stand that could be given, or why those given could not be used."""
    if unusable != "not given":
        return f" (the counts are {unusable})"
    if adata.raw is not None and scale.kind_of_values(adata.raw.X) == "counts":
        return " (adata.raw holds counts: pass adata.raw.to_adata())"
    return ""


def _from_layer(counts: Matrix, wrong: str) -> Values:
    """Take the layer `counts` in place of an X with which something is wrong."""
    taken = f"X was left aside ({wrong}) and made again from layers['counts']"
    return Values(counts, None, "given: the layer counts", taken)


def _beside_counts(x: Matrix, counts: Matrix, kind: str) -> Values:
    """Hold X [n, G] against the counts given beside it."""
    if blocks.is_lazy(x) or blocks.is_lazy(counts):
        return _from_layer(counts, "it stays on disk and is not held against the counts")
    order = scale.agreement(x, counts, kind)
    if order in ("cells", "genes"):
        raise DataError(
            f"layers['counts'] holds the {order} of X in another order: give both in one order, or leave the "
            "layer out."
        )
    if order == "same" and (kind == "log1p" or (kind == "unknown" and scale.tells(x, counts))):
        told = _taken_for_log("log1p") + (", as the counts beside it say" if kind == "unknown" else "")
        return Values(counts, x, "given: the layer counts", told)
    plain = (
        "its values do not tell their scale" if order == "same" else "its values are not those of the counts"
    )
    wrong = scale.MENDS.get(kind, plain).split(", ")[0]
    return _from_layer(counts, wrong)


def _from_fractions(x: Matrix, what_to_do: str) -> Values:
    """Take fractional counts [n, G] rounded, or as they are."""
    lazy = blocks.is_lazy(x)
    if what_to_do == "round":
        counts = blocks.map_rows(x, _rounded_rows) if lazy else _rounded_rows(x)
        return Values(
            counts,
            None,
            "given: fractional counts of X, rounded",
            "X was taken for fractional counts, which were rounded",
        )
    logged = blocks.map_rows(x, scale.log_normalise) if lazy else scale.log_normalise(x)
    origin = "absent: the counts of the file are fractional and were taken as they are"
    return Values(None, logged, origin, "X was taken for fractional counts, taken as they are")


def _rounded_rows(block: Matrix) -> sparse.csr_matrix:
    rows = scale.plain_rows(block, np.float32)
    rows.data = np.rint(rows.data)
    rows.eliminate_zeros()
    return rows


def _from_lazy_log(x: Lazy, kind: str) -> Values:
    """Take logged X [n, G] that stays on disk; its counts are not recovered."""
    if kind == "log1p_other":
        raise scale.refusal(kind, " in memory")
    origin = "absent: they are not recovered for cells that stay on disk"
    return Values(None, blocks.map_rows(x, _float_rows), origin, _taken_for_log(kind))


def _float_rows(block: Matrix) -> sparse.csr_matrix:
    return scale.plain_rows(block, np.float32)


def _taken_for_log(kind: str) -> str:
    doubt = "" if kind == "log1p" else ", which the numbers neither confirm nor refuse"
    return f"X was taken for log1p(counts per 10,000){doubt}"


def _from_log(x: Matrix, kind: str, unusable: str) -> Values:
    """Take logged X [n, G]; the counts are recovered if they can be."""
    counts = scale.recover_counts(x) if kind != "unknown" else None
    if counts is None:
        why = f"{unusable}, and expm1(X) over each cell's smallest value is not whole"
        absent = "absent: " if unusable == "not given" else ""
        return Values(None, x, absent + why, _taken_for_log(kind))
    origin = (
        "recovered: expm1(X) over each cell's smallest non-zero value is whole (within 0.02) for at least "
        "99.9 % of the values"
    )
    if kind == "log1p_other":
        taken = "X was taken for log1p of counts scaled to another total, and scaled again to 10,000"
        return Values(counts, None, origin, taken)
    return Values(counts, x, origin, _taken_for_log(kind))


def _assembled(values: Values, obs: pd.DataFrame, var: pd.DataFrame, in_scale: str = "log1p") -> AnnData:
    """Build the AnnData of what the values were taken for; the number of empty cells is told."""
    from anndata import AnnData

    x, counts = values.logged, values.counts
    if x is None:
        assert counts is not None
        x = (
            blocks.map_rows(counts, scale.log_normalise)
            if blocks.is_lazy(counts)
            else scale.log_normalise(counts)
        )
    adata = AnnData(x if blocks.is_lazy(x) else scale.plain_rows(x, np.float32), obs=obs, var=var)
    if counts is not None:
        adata.layers["counts"] = counts if blocks.is_lazy(counts) else scale.plain_rows(counts, np.float32)
    empty = 0 if blocks.is_lazy(x) else int((np.diff(adata.X.indptr) == 0).sum())
    told = f"; {empty} cells are empty, without any count" if empty else ""
    adata.uns["twinlib"] = {
        "counts": values.origin,
        "taken_for": values.taken_for + told,
        "scale": in_scale,
    }
    return adata


def from_counts(counts: Matrix, obs: pd.DataFrame, genes: Sequence[str], origin: str) -> AnnData:
    """Build an AnnData with X = log1p(CP10k) and the layer `counts` from counts [n, G] and a complete obs."""
    return _assembled(Values(counts, None, origin, TAKEN_FOR_COUNTS), obs, pd.DataFrame(index=list(genes)))


def draw(adata: AnnData, n_cells: int, seed: int) -> AnnData:
    """Draw `n_cells` cells without replacement, keeping their order; groups left under 10 cells are dropped.

    `uns["twinlib"]["dropped"]` names the dropped perturbations.
    """
    rows = drawn_rows(adata.n_obs, n_cells, seed)
    return drop_small(adata[rows].copy())


def drawn_rows(n: int, n_cells: int, seed: int) -> np.ndarray:
    """Return `n_cells` of n row numbers, drawn without replacement and sorted."""
    if not isinstance(n_cells, int | np.integer) or not 0 < n_cells <= n:
        raise DataError(f"n_cells={n_cells} cannot be drawn from {n} cells: give 1 to {n}.")
    return np.sort(np.random.default_rng(seed).choice(n, n_cells, replace=False))


def drop_small(adata: AnnData) -> AnnData:
    """Drop the perturbations under `schema.MIN_CELLS` cells and name them in `uns["twinlib"]["dropped"]`."""
    perturbed_by = adata.obs["perturbation"].astype(str)
    small = small_groups(perturbed_by) & (perturbed_by != CONTROL).to_numpy()
    dropped = sorted(set(perturbed_by[small]))
    if dropped:
        adata = adata[~small].copy()
    adata.obs["small_group"] = small_groups(adata.obs["perturbation"].astype(str))
    adata.uns["twinlib"] = {**adata.uns["twinlib"], "dropped": ", ".join(dropped)}
    return adata


def content_hash(adata: AnnData) -> str:
    """Return the sha256 of X [n, G], the labels, the cell names and the gene names."""
    digest = hashlib.sha256()
    x = adata.X
    if blocks.is_lazy(x):
        digest.update(blocks.hash_of(x).encode())
        x = np.empty(0)
    arrays = (x.data, x.indices, x.indptr) if blocks.is_sparse(x) else (x,)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    for names in (adata.var_names, adata.obs_names, adata.obs["perturbation"].astype(str)):
        digest.update("\n".join(names).encode())
    return digest.hexdigest()
