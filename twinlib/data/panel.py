"""Which genes enter the panel, and how much of the response to the perturbations they keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twinlib.data import blocks
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

#: A gene is a candidate if at least this share of the training cells detect it.
DETECTED = 0.01
#: Permutations of the labels over which the share of noise is averaged.
DRAWS = 10
#: Sums that are held at once (800 MB); a file with more groups is read several times.
SUMS_AT_ONCE = 100_000_000
#: Rules that scanpy ranks genes by, beside `variance`; `pearson_residuals` needs counts.
SCANPY_RULES = ("seurat", "cell_ranger", "pearson_residuals")
#: Every rule by which a panel can be chosen.
RULES = ("variance", *SCANPY_RULES)


def variance_within(x: blocks.Matrix, groups: Sequence[object]) -> Array:
    """Return the variance of each gene [G] within groups of cells (context and batch), pooled over cells.

    Perturbed and control cells stand in one group, so that a response counts and a cell type does not.
    """
    return _within(blocks.group_moments(x, *_numbered(groups)))


def _within(moments: blocks.Moments) -> Array:
    n = moments.cells.sum()
    means = moments.sums / np.maximum(moments.cells, 1)[:, None]
    between = (moments.cells[:, None] * means**2).sum(axis=0)
    return np.maximum(moments.squares - between, 0.0) / n


def _numbered(groups: Sequence[object]) -> tuple[Codes, int]:
    """Number groups [n] in the order of their text; also return how many there are."""
    names, codes = np.unique(np.asarray([str(name) for name in groups]), return_inverse=True)
    return codes.astype(np.int64), len(names)


def top_genes(
    x: blocks.Matrix, groups: Sequence[object], n_top: int, detected: float = DETECTED
) -> NDArray[np.intp]:
    """Return the columns of the genes that vary most within groups, at most `n_top`, sorted.

    x [n, G] are training cells in log1p units; genes that fewer than a share `detected` of them show are no
    candidates, so that a file with few detected genes gives a smaller panel. Raises DataError where none is.
    """
    moments = blocks.group_moments(x, *_numbered(groups))
    score = np.where(moments.nonzero >= detected * moments.cells.sum(), _within(moments), 0.0)
    order = np.argsort(-score, kind="stable")[:n_top]
    chosen = np.sort(order[score[order] > 0])
    if not len(chosen):
        raise DataError(
            f"No gene is detected in {detected:.0%} of the training cells and varies: look at the matrix."
        )
    return chosen


def ranked_by_scanpy(cells: AnnData, rule: str, n_top: int) -> NDArray[np.intp]:
    """Return the columns of the `n_top` genes that a rule of scanpy ranks highest, sorted.

    `seurat` and `cell_ranger` rank by normalised dispersion, `pearson_residuals` by the variance of the
    residuals of counts. Raises DataError where counts are needed and absent.
    """
    score = _residual_variance(cells) if rule == "pearson_residuals" else dispersion(cells.X, rule)
    return np.sort(np.argsort(-score, kind="stable")[:n_top])


def dispersion(x: blocks.Matrix, flavor: str = "seurat") -> Array:
    """Score genes [G] by how much they vary for their mean; x [n, G] is log1p(CP10k).

    The normalised dispersion of Satija 2015 (scanpy's flavour `seurat`) or of Zheng 2017 (`cell_ranger`);
    silent genes get -inf.
    """
    import scanpy as sc
    from anndata import AnnData

    seen = np.arange(x.shape[1])
    if flavor == "cell_ranger":  # its bins are percentiles, which many silent genes make equal
        seen = np.flatnonzero(blocks.group_moments(x, np.zeros(x.shape[0], dtype=np.int64), 1).nonzero)
    score = np.full(x.shape[1], -np.inf)
    with np.errstate(all="ignore"):  # silent genes: log of 0 / 0, answered below
        table = sc.pp.highly_variable_genes(AnnData(x[:, seen]), flavor=flavor, inplace=False)
    score[seen] = _ranked(table["dispersions_norm"])
    return score


def _residual_variance(cells: AnnData) -> Array:
    import scanpy as sc
    from anndata import AnnData

    if "counts" not in cells.layers:
        raise DataError(
            f"The panel rule 'pearson_residuals' needs counts, and {cells.uns['twinlib']['dataset']} has "
            "none: use 'variance'."
        )
    counts = cells.layers["counts"]
    seen = np.flatnonzero(np.asarray((counts > 0).sum(axis=0)).ravel())  # silent genes have no residuals
    table = sc.experimental.pp.highly_variable_genes(
        AnnData(counts[:, seen]), flavor="pearson_residuals", n_top_genes=len(seen), inplace=False
    )
    score = np.full(cells.n_vars, -np.inf)
    score[seen] = _ranked(table["residual_variances"])
    return score


def _ranked(column: pd.Series) -> Array:
    score = column.to_numpy(dtype=np.float64)
    return np.where(np.isnan(score), -np.inf, score)


@dataclass(frozen=True)
class KeptResponse:
    """How much of the squared change of all measured genes a panel keeps, mean over perturbations."""

    #: Share under the true labels.
    share: float
    #: The same share under labels permuted within groups, mean over `DRAWS`: what a panel keeps of noise.
    permuted: float


def kept_by_label(
    x: blocks.Matrix,
    labels: Sequence[str],
    groups: Sequence[object],
    panel: NDArray[np.intp],
    control: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the share of each label's squared training change of all genes that the panel keeps.

    x [n, G] are training cells with labels [n] and groups [n] (contexts); `panel` are columns. One row a
    label [P]: `share`, `permuted` (labels permuted within groups, mean over `DRAWS`), and `visible`: whether
    the label's squared change exceeds that of every permutation. NaN where a label shares no group with a
    control.
    """
    names, label = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    group, n_groups = _numbered(groups)
    drawn = [label, *(_shuffled(label, group, rng) for _ in range(DRAWS))]
    shape, kept = (len(names), n_groups), names != control
    at_once = max(1, SUMS_AT_ONCE // (len(names) * n_groups * x.shape[1]))
    shares, sizes = [], []
    for low in range(0, len(drawn), at_once):
        codes = [own * n_groups + group for own in drawn[low : low + at_once]]
        for n, total in zip(*blocks.group_sums(x, codes, len(names) * n_groups), strict=True):
            change = _change(n.reshape(shape), total.reshape(*shape, -1), int(np.flatnonzero(~kept)[0]))
            squares = change[kept] ** 2
            sizes.append(squares.sum(axis=1))
            shares.append(squares[:, panel].sum(axis=1) / np.where(sizes[-1] > 0, sizes[-1], np.nan))
    visible = sizes[0] > np.max(sizes[1:], axis=0)
    table = {"share": shares[0], "permuted": np.mean(shares[1:], axis=0), "visible": visible}
    return pd.DataFrame(table, index=pd.Index(names[kept], name="perturbation"))


def _change(cells: Array, sums: Array, control: int) -> Array:
    """Return mean(label) - mean(control) within groups, weighted by the label's cells [P, G].

    `cells` [P, K] and `sums` [P, K, G] are of labels and groups; groups without controls leave both sides.
    """
    weight = np.where(cells[control] > 0, cells, 0.0)
    means = sums / np.maximum(cells, 1)[:, :, None]
    total = np.einsum("pk,pkg->pg", weight, means - means[control])
    return np.asarray(total / np.maximum(weight.sum(axis=1), 1)[:, None])


def _shuffled(labels: Codes, groups: Codes, rng: np.random.Generator) -> Codes:
    """Return labels [n] permuted within groups [n]."""
    shuffled = labels.copy()
    for name in np.unique(groups):
        rows = np.flatnonzero(groups == name)
        shuffled[rows] = labels[rng.permutation(rows)]
    return shuffled
