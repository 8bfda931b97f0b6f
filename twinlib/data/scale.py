"""What the values of X hold, judged by all of them, block by block: counts, one logarithm, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from twinlib.data import blocks
from twinlib.data.blocks import Matrix
from twinlib.errors import DataError

#: Takes a transformation back, value by value.
Undo = Callable[[np.ndarray], np.ndarray]

#: Largest value log1p(counts per 10,000) can take: every molecule of the cell in one gene.
LARGEST_LOG = float(np.log1p(1e4))

#: What a canonical X may hold: log1p(counts per 10,000), or arcsinh of intensities over a cofactor.
SCALES = ("log1p", "arcsinh")

#: No intensity over its cofactor exceeds a million.
LARGEST_ARCSINH = float(np.arcsinh(1e6))

#: Cells judged at a time.
ROWS = 2_000

#: A logarithm of counts is whole only by chance; corrected or estimated counts often are.
WHOLE_AMONG_FRACTIONS = 0.05

#: No cell holds so many molecules of a gene; larger floats come out whole whatever they were.
LARGEST_COUNT = 1e8

#: Above this no value is a logarithm.
LARGEST_ANY_LOG = 30.0

#: What may have been done to counts, and how it is taken back; the first that gives whole numbers is it.
UNDO: dict[str, Undo] = {
    "log1p": np.expm1,
    "log1p_twice": lambda values: np.expm1(np.expm1(values)),
    "log2": lambda values: np.exp2(values) - 1,
    "log10": lambda values: 10.0**values - 1,
    "normalised": np.asarray,
    "sqrt": np.square,
}

#: What to do about X of each wrong kind.
MENDS = {
    "log1p_twice": "log1p was taken twice, undo one with numpy.expm1",
    "log1p_other": "the cells were scaled to another total, bring the data in through "
    "twinlib.data.canonical.from_anndata",
    "counts": "it holds raw counts, bring the data in through twinlib.data.canonical.from_anndata",
    "normalised": "it was normalised but never logged, take log1p once",
    "fractional": "it looks like fractional counts (corrected for ambient RNA, or estimated), round them "
    'with fractional="round", or take them as they are with fractional="given"',
    "log2": "it looks like log2(1 + normalised counts), as scran's logcounts or log1p(base=2) give it, "
    "give the counts",
    "log10": "it looks like log10(1 + normalised counts), give the counts",
    "sqrt": "it looks like square roots of counts, give the counts",
    "mixed": "some of its cells hold raw counts or another logarithm than others, as if studies were joined, "
    "bring all of them to counts first",
    "impossible": "its values are larger than log1p(counts per 10,000) can be (9.21; 10,000 a cell after "
    "expm1), as a log2 or a corrected logarithm gives them, give the counts",
    "empty": "it holds no count at all, every value is 0",
}


@dataclass(frozen=True)
class BlockFacts:
    """What the values of some cells say about their scale."""

    #: A key of `UNDO`, `counts`, `mixed`, `fractional`, `unknown`, `few` (too few values to tell), `empty`.
    kind: str
    #: Cells with a value.
    filled: int = 0
    #: Cells without any value.
    empty: int = 0
    #: Smallest value, 0 where every value is above it.
    smallest: float = 0.0
    #: Largest value.
    largest: float = 0.0
    #: Values that are not finite; with one of these, or one below 0, nothing else is told.
    bad: int = 0
    #: Largest sum, sum and sum of squares of the cells' sums, after `UNDO[kind]` (else after expm1).
    totals: tuple[float, float, float] = (0.0, 0.0, 0.0)


def plain_rows(x: Matrix, dtype: type = np.float64) -> sparse.csr_matrix:
    """Return a CSR copy of x [n, G] with entries stored in parts summed, sorted and without stored zeros."""
    rows = sparse.csr_matrix(x, dtype=dtype, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def kind_of_values(x: Matrix) -> str:
    """Say from the numbers alone what X [n, G] holds, never trusting a flag.

    Returns `counts` (all values whole), `log1p` (undoing one logarithm gives whole multiples of each cell's
    smallest value), `log1p_other` (the same, but the sums show another total than 10,000 a cell), `unknown`,
    or a key of `MENDS`. All cells are looked at, `ROWS` at a time.
    """
    return kind_of(facts(x))


def facts(x: Matrix) -> list[BlockFacts]:
    """Judge every block of X [n, G]; a lazy one is read once."""
    if blocks.is_lazy(x):
        return [fact for block in blocks.each(x, _facts_in_memory) for fact in block]
    return _facts_in_memory(x)


def _facts_in_memory(x: Matrix) -> list[BlockFacts]:
    rows = x if blocks.is_sparse(x) or isinstance(x, np.ndarray) else np.asarray(x)
    rows = rows.tocsr() if blocks.is_sparse(rows) else rows
    return [block_facts(rows[low : low + ROWS]) for low in range(0, rows.shape[0], ROWS)]


def block_facts(x: Matrix) -> BlockFacts:
    """Judge some cells [n, G]."""
    rows = plain_rows(x)
    smallest, bad = smallest_and_bad(rows.data)
    if bad or smallest < 0:
        return BlockFacts("unknown", smallest=smallest, bad=bad)
    filled = np.diff(rows.indptr) > 0
    n, empty = int(filled.sum()), int((~filled).sum())
    if not n:
        return BlockFacts("empty", empty=empty)
    whole = np.logical_and.reduceat(rows.data == np.rint(rows.data), rows.indptr[:-1][filled])
    kind = "counts" if whole.all() else _kind_beside_whole(rows[np.flatnonzero(filled)], whole)
    largest = float(rows.data.max())
    undo = UNDO["log1p" if kind in ("unknown", "few") else kind] if kind in _SUMMED else np.asarray
    with np.errstate(over="ignore"):
        sums = np.add.reduceat(undo(rows.data), rows.indptr[:-1][filled])
        totals = (float(sums.max()), float(sums.sum()), float(np.square(sums).sum()))
    return BlockFacts(kind, n, empty, 0.0, largest, 0, totals)


def smallest_and_bad(values: np.ndarray) -> tuple[float, int]:
    """Return the smallest finite value (at most 0) and the number of values that are not finite."""
    finite = np.isfinite(values)
    return float(values.min(where=finite, initial=0.0)), int((~finite).sum())


#: Kinds whose sums a cell are asked for.
_SUMMED = ("log1p", "unknown", "few")


def _kind_beside_whole(rows: sparse.csr_matrix, whole: np.ndarray) -> str:
    """Judge cells [n, G], some of which (`whole` [n]) may hold nothing but whole numbers."""
    kind = _kind_of_broken(rows[~whole] if whole.any() else rows)
    # a normalised or corrected cell can be whole by chance; a logged one cannot
    return kind if not whole.any() or kind in ("normalised", "fractional") else "mixed"


def _kind_of_broken(rows: sparse.csr_matrix) -> str:
    """Judge cells [n, G] none of which holds only whole numbers."""
    small = rows.data.max() <= LARGEST_ANY_LOG
    asked = list(UNDO) if small else ["normalised", "sqrt"]
    fits = []
    for name in asked:
        above, whole = _fit(rows, UNDO[name])
        if above.sum() >= 20 and whole.sum() >= 0.999 * above.sum():
            return name
        fits.append((above, whole))
    if small and _same_totals(rows, UNDO["log1p_twice"]):
        return "log1p_twice"
    if not small:
        return "normalised" if _same_totals(rows, np.asarray) else "fractional"
    if (rows.data == np.rint(rows.data)).mean() > WHOLE_AMONG_FRACTIONS:
        return "fractional"
    if fits[0][0].sum() < 20:
        return "few"
    return "mixed" if _kinds_of_cells(fits) > 1 else "unknown"


def _fit(rows: sparse.csr_matrix, undo: Undo) -> tuple[np.ndarray, np.ndarray]:
    """Count in each cell [n] the values above its smallest, and those that are whole multiples of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        multiples = multiples_of_smallest(rows, undo)
        near = np.abs(multiples - np.rint(multiples)) < 0.02
    above = (multiples > 1.02) & (multiples < LARGEST_COUNT)
    starts = rows.indptr[:-1]
    return np.add.reduceat(above.astype(int), starts), np.add.reduceat((above & near).astype(int), starts)


def _kinds_of_cells(fits: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """Count the kinds that at least 5 cells, and a twentieth of those that tell, belong to."""
    belongs = np.array([(above >= 5) & (whole >= 0.98 * above) for above, whole in fits])
    first = belongs.argmax(axis=0)[belongs.any(axis=0)]
    sizes = np.bincount(first, minlength=1)
    return int((sizes >= max(5, 0.05 * len(first))).sum())


def _same_totals(rows: sparse.csr_matrix, undo: Undo) -> bool:
    """Whether at least 20 cells all sum to one number after `undo`."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(undo(rows.data), rows.indptr[:-1])
        return len(sums) >= 20 and bool(sums.std() < 1e-3 * sums.mean())


def kind_of(judged: Iterable[BlockFacts]) -> str:
    """Join the blocks' judgements into one (see `kind_of_values`)."""
    told = [block for block in judged if block.kind != "empty"]
    if not told:
        return "empty"
    kinds = {block.kind for block in told} - {"few"}
    kind = _one_kind(kinds) if kinds else "unknown"
    if kind == "unknown":
        large = max(b.largest for b in told) > LARGEST_LOG + 1e-3 or max(b.totals[0] for b in told) > 1.01e4
        return "impossible" if large else kind
    if kind == "log1p" and _has_other_total(told):
        return "log1p_other"
    return kind


def _one_kind(kinds: set[str]) -> str:
    """Return the kind of blocks of these kinds; a doubtful block makes a logarithm doubtful."""
    sure = kinds - {"unknown"}
    if len(sure) > 1 or ("unknown" in kinds and sure == {"counts"}):
        return "mixed"
    if not sure or (kinds != sure and sure == {"log1p"}):
        return "unknown"
    return sure.pop()


def _has_other_total(told: list[BlockFacts]) -> bool:
    """Whether a cell sums to more than 10,000, or all cells [n] to one number that is not 10,000.

    Smaller sums that differ are what remains of 10,000 when some genes were left out of a file.
    """
    n = sum(block.filled for block in told)
    mean, square = (sum(block.totals[i] for block in told) / n for i in (1, 2))
    same = n >= 20 and max(square - mean**2, 0.0) ** 0.5 < 1e-3 * mean
    return max(block.totals[0] for block in told) > 1.01e4 or (same and mean < 0.99e4)


def check_scale(judged: Sequence[BlockFacts], name: str, partial: bool = False) -> None:
    """Raise a DataError when judged values are not in the scale (of `SCALES`) that they are said to be in.

    `partial`: genes were left out, so that cells may all sum to one number below 10,000.
    """
    kind = kind_of(judged)
    if name not in SCALES:
        raise DataError(f"The scale {name!r} is unknown: use one of {list(SCALES)}.")
    if partial and kind == "log1p_other" and max(block.totals[0] for block in judged) < 1.01e4:
        kind = "log1p"
    if name == "log1p" and kind in MENDS:
        raise refusal(kind)
    largest = max(block.largest for block in judged)
    wrong = _WHOLE_OR_LOGGED.get(kind, "")
    if not wrong and largest > LARGEST_ARCSINH:
        wrong = f"its values reach {largest:.4g}, {_TAKE_ARCSINH}"
    if name == "arcsinh" and wrong:
        raise DataError(f"X is not arcsinh of intensities: {wrong}.")


_TAKE_ARCSINH = "take numpy.arcsinh(intensity / cofactor) first"

#: What X of a kind is, where it was said to be arcsinh of intensities.
_WHOLE_OR_LOGGED = {
    "counts": f"all its values are whole, {_TAKE_ARCSINH}",
    "log1p": 'it looks like log1p of counts, leave scale="arcsinh" away',
    "log1p_other": 'it looks like log1p of counts, leave scale="arcsinh" away',
    "empty": "every value is 0",
}


def refusal(kind: str, more: str = "") -> DataError:
    """Return the error that says what X of a wrong kind looks like, with more that is known about it."""
    return DataError(f"X is not log1p(counts per 10,000) taken once: {MENDS[kind]}{more}.")


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
    rows = plain_rows(x)
    if rows.nnz == 0:
        return None
    multiples = multiples_of_smallest(rows)
    whole = np.rint(multiples)
    if (np.abs(multiples - whole) < 0.02).mean() < 0.999:
        return None
    rows.data = whole.astype(np.float32)
    return rows


def log_normalise(counts: Matrix, totals: np.ndarray | None = None) -> sparse.csr_matrix:
    """Take log1p of counts per 10,000 of each cell; counts [n, G] -> float32 CSR; empty cells stay empty.

    `totals` [n] are the cells' total counts where genes were left out of `counts`.
    """
    rows = plain_rows(counts)
    totals = np.asarray(rows.sum(axis=1)).ravel() if totals is None else np.asarray(totals, float).ravel()
    scale = np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0)
    rows.data = np.log1p(rows.data * np.repeat(scale, np.diff(rows.indptr)))
    return rows.astype(np.float32)


def agreement(x: Matrix, counts: Matrix, kind: str) -> str:
    """Say how X [n, G] of a kind and counts [n, G] go together: `same`, `cells`, `genes` or `other`.

    Compared are the shares of the genes in each cell, so that genes left out and another total do not count.
    `cells` and `genes`: the rows or the columns of the counts stand in another order than those of X.
    """
    ours, theirs = _shares(x, UNDO.get(kind, np.expm1)), _shares(counts, np.asarray)
    pattern = np.array_equal(ours.indptr, theirs.indptr) and np.array_equal(ours.indices, theirs.indices)
    if pattern and np.allclose(ours.data, theirs.data, rtol=0.02, atol=0):
        return "same"
    for order, axis in (("cells", 1), ("genes", 0)):
        one, other = (np.asarray(part.multiply(part).sum(axis=axis)).ravel() for part in (ours, theirs))
        if _is_shuffled(one, other):
            return order
    return "other"


def tells(x: Matrix, counts: Matrix) -> bool:
    """Whether shares that agree with counts [n, G] show X [n, G] to be log1p, in most cells with a value.

    In a cell of one gene, or of equal counts, any transformation gives the shares of the counts: there the
    sum has to be 10,000.
    """
    rows, logged = plain_rows(counts), plain_rows(x)
    starts = rows.indptr[:-1][np.diff(rows.indptr) > 0]
    least, most = (of.reduceat(rows.data, starts) for of in (np.minimum, np.maximum))
    sums = np.add.reduceat(np.expm1(logged.data), starts)
    return bool(((most >= 2 * least) | np.isclose(sums, 1e4, rtol=0.02)).mean() > 0.5)


def _is_shuffled(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two vectors [n] hold the same numbers in another order."""
    same, sorted_same = (
        np.allclose(a, b, rtol=1e-4, atol=1e-9) for a, b in ((one, other), (np.sort(one), np.sort(other)))
    )
    return sorted_same and not same


def _shares(x: Matrix, undo: Undo) -> sparse.csr_matrix:
    """Return the share of each gene in its cell [n, G] after `undo`."""
    rows = plain_rows(x)
    with np.errstate(over="ignore", invalid="ignore"):
        rows.data = undo(rows.data)
        totals = np.asarray(rows.sum(axis=1)).ravel()
        rows.data /= np.repeat(np.where(totals > 0, totals, 1.0), np.diff(rows.indptr))
    return rows
