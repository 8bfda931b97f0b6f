"""Find the traps of public files from their numbers: stale flags, resampled controls, aggregated samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from twinlib.data import scale
from twinlib.data.blocks import Matrix
from twinlib.data.schema import CONTROL

if TYPE_CHECKING:
    from anndata import AnnData


def flag_sentence(uns: Mapping[str, object], kind: str) -> str:
    """Say what the values hold (`scale.kind_of_values`) and what the flag `log1p` in `uns` says about it."""
    flag = "logged" if "log1p" in uns else "nothing about a logarithm"
    logged = kind in ("log1p", "log1p_other", "log1p_twice")
    if kind == "unknown":
        return f"the numbers neither confirm nor refuse a logarithm, and the flag says {flag}"
    words = {
        "counts": "X holds raw counts",
        "log1p": "X is already log1p of normalised counts",
        "log1p_other": "X is already log1p, of counts scaled to another total than 10,000",
        "log1p_twice": "X was logged twice",
        "normalised": "X is normalised and not logged",
    }.get(kind, f"X is neither counts nor log1p of normalised counts: {scale.MENDS.get(kind)}")
    verdict = "agrees" if logged == ("log1p" in uns) else "is stale"
    return f"{words}, and the flag (it says {flag}) {verdict}"


def copied_controls(x: Matrix, labels: np.ndarray) -> float:
    """Return the share of perturbed cells whose profile equals that of some control, bit for bit.

    x is [n, G], labels [n] with `control`. In measured cells the share is near 0; cells with under 20
    detected genes are left out, since two of them can agree by chance. A share near 1 means that the
    perturbed rows hold resampled controls.
    """
    rows = sparse.csr_matrix(x)
    rows.eliminate_zeros()
    rows.sort_indices()
    rich = np.diff(rows.indptr) >= 20
    keys = np.asarray([_key(rows, i) for i in range(rows.shape[0])], dtype=object)
    control = labels == CONTROL
    known = set(keys[control & rich])
    asked = keys[~control & rich]
    return float(np.mean([key in known for key in asked])) if len(asked) else 0.0


def _key(rows: sparse.csr_matrix, i: int) -> bytes:
    """Return the stored genes and values of one cell as bytes."""
    inside = slice(rows.indptr[i], rows.indptr[i + 1])
    return rows.indices[inside].tobytes() + rows.data[inside].tobytes()


def target_response(x: Matrix, labels: np.ndarray, genes: Iterable[str]) -> float:
    """Return the median over perturbed, measured targets of (mean in its own cells) / (mean in controls).

    x is [n, G] log1p; the means are of expm1(x). A knock-down gives well under 1; near 1 means that the cells
    called perturbed do not show their perturbation. NaN when no target is measured.
    """
    column = {gene: j for j, gene in enumerate(genes)}
    rows = sparse.csr_matrix(x, dtype=np.float64)
    rows.data = np.expm1(rows.data)
    control = np.asarray(rows[labels == CONTROL].mean(axis=0)).ravel()
    ratios = [
        rows[labels == label][:, [column[label]]].mean() / control[column[label]]
        for label in np.unique(labels)
        if label in column and control[column[label]] > 0
    ]
    return float(np.median(ratios)) if ratios else float("nan")


def resampling_sentence(x: Matrix, labels: np.ndarray, genes: Iterable[str]) -> str:
    """Say whether the perturbed rows of x [n, G] log1p hold control expression, or an empty string if not."""
    copied, response = copied_controls(x, labels), target_response(x, labels, genes)
    if copied < 0.5:
        return ""
    return (
        f"{copied:.0%} of the perturbed rows equal some control bit for bit, and their own targets stand at "
        f"{response:.2f} of the control level: these rows hold resampled control expression, not measurements"
    )


def barcode_suffixes(names: Iterable[str]) -> dict[str, int]:
    """Count the cells of each barcode suffix (`ACGT-2` -> `2`); more than one means aggregated samples."""
    return dict(sorted(Counter(name.rsplit("-", 1)[1] if "-" in name else "" for name in names).items()))


def told_by(adata: AnnData, labels: np.ndarray) -> str:
    """Say in one line what the numbers of a drawn file [n, G] tell, whatever its flags say."""
    kind = scale.kind_of_values(adata.X)
    sentences = [flag_sentence(adata.uns, kind)]
    if kind in ("log1p", "log1p_other"):
        sentences.append(resampling_sentence(adata.X, labels, map(str, adata.var_names)))
    return "; ".join(sentence for sentence in sentences if sentence)
