"""The one canonical AnnData that every source is brought to, and the checks at its door."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from twinlib.data import blocks, scale
from twinlib.data.blocks import Matrix
from twinlib.data.scale import BlockFacts
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

#: The label of cells that nobody perturbed.
CONTROL = "control"

#: A perturbation with fewer cells than this is marked as small; that many controls are needed.
MIN_CELLS = 10

#: Columns of `obs` that every canonical AnnData carries.
COLUMNS = ("perturbation", "perturbation_type", "dose", "cell_context", "batch", "target_measured")

#: A name in a list: of a gene, a perturbation, or a dose.
Name = TypeVar("Name")

#: Kinds of perturbation; `none` is for controls.
TYPES = ("CRISPRko", "CRISPRi", "CRISPRa", "cytokine", "drug", "none")


def parts(label: str) -> tuple[str, ...]:
    """Split a perturbation label into its parts: `"A+B"` -> `("A", "B")`, `"control"` -> `()`.

    >>> parts("JAK2+STAT1")
    ('JAK2', 'STAT1')
    """
    if label == CONTROL:
        return ()
    return tuple(part.strip() for part in label.split("+") if part.strip())


def check(adata: AnnData) -> AnnData:
    """Return `adata` [n, G] itself when it is canonical.

    Canonical is: X in the scale that `uns["twinlib"]["scale"]` names (`log1p`: log1p(counts per 10,000) taken
    once; `arcsinh`: intensities), CSR or dense; the columns `COLUMNS` in obs; a `control` group of at least
    `MIN_CELLS` cells beside a perturbation; unique names.

    Raises
    ------
    DataError
        One sentence for the first thing that is not so.
    """
    check_shape_and_names(adata)
    judged = check_numbers(adata.X, "X")
    _check_columns(adata)
    _check_control(adata.obs["perturbation"].astype(str))
    facts = adata.uns["twinlib"]
    scale.check_scale(judged, facts["scale"], partial=bool(facts.get("total_counts")))
    if "counts" in adata.layers and not blocks.is_lazy(adata.layers["counts"]):
        check_numbers(adata.layers["counts"], 'layers["counts"]')
    return adata


def counts_of(adata: AnnData) -> Matrix:
    """Return the counts [n, G] of canonical cells, or refuse with the reason why there are none."""
    if "counts" not in adata.layers:
        facts = adata.uns["twinlib"]
        raise DataError(f"Counts are needed here, and {facts['dataset']} has none ({facts['counts']}).")
    return adata.layers["counts"]


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


def check_numbers(x: Matrix, where: str) -> list[BlockFacts]:
    """Return the facts of the blocks of x [n, G], all of whose values are finite and not below 0."""
    check_sparse(x, where)
    if x.dtype.kind not in "fiub":
        raise DataError(f"{where} holds values of type {x.dtype}: give real numbers.")
    judged = scale.facts(x)
    bad, smallest = sum(block.bad for block in judged), min(block.smallest for block in judged)
    if bad:
        raise DataError(f"{where} holds {bad} NaN or infinite values: remove those cells or genes first.")
    if smallest < 0:
        raise DataError(
            f"{where} holds negative values (smallest {smallest:.4g}), as z-scores do: give counts, log1p "
            "of counts, or arcsinh intensities cut at 0, not scaled data."
        )
    return judged


def check_sparse(x: Matrix, where: str) -> None:
    """Raise a DataError when a sparse x [n, G] points outside itself: scipy would read foreign memory."""
    if not blocks.is_sparse(x) or x.format not in ("csr", "csc"):
        return
    try:
        x.check_format(full_check=True)
    except ValueError as error:
        raise DataError(f"{where} is a broken sparse matrix ({error}): read the file again.") from None


_DOOR = "bring the data in through twinlib.data.canonical.from_anndata"


def _check_columns(adata: AnnData) -> None:
    missing = [name for name in COLUMNS if name not in adata.obs]
    if missing:
        raise DataError(f"obs lacks the columns {missing}: {_DOOR}.")
    lacking = {"dataset", "scale"} - set(adata.uns.get("twinlib", ()))
    if lacking:
        raise DataError(f'uns["twinlib"] does not say the {" and the ".join(sorted(lacking))}: {_DOOR}.')
    unknown = set(adata.obs["perturbation_type"].astype(str)) - set(TYPES)
    if unknown:
        raise DataError(f"perturbation_type holds {sorted(unknown)}: use one of {list(TYPES)}.")


def _check_control(labels: pd.Series) -> None:
    """Raise a DataError when the labels [n] have under `MIN_CELLS` controls, or nothing else."""
    controls = int((labels == CONTROL).sum())
    if controls == len(labels):
        raise DataError(f"Every cell is {CONTROL!r}: a perturbation is needed beside the control.")
    if controls < MIN_CELLS:
        raise DataError(
            f"The data hold {controls} cells labelled {CONTROL!r} (under {MIN_CELLS}): name the control "
            "label of your data with control=, or take more controls."
        )


def names(value: Iterable[Name], argument: str) -> tuple[Name, ...]:
    """Return a list of names as a tuple; a text, whose letters would be taken for names, is refused."""
    if isinstance(value, str):
        raise DataError(f"{argument}={value!r} is one text: give a list of names, {argument}=[{value!r}].")
    if not isinstance(value, Iterable):
        raise DataError(f"{argument}={value!r} is no list: give a list of names.")
    return tuple(value)


def whole(value: int, argument: str, least: int = 0) -> int:
    """Return a whole number that is at least `least`, or refuse it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise DataError(f"{argument}={value!r} is no whole number from {least} on: give one.")
    return int(value)
