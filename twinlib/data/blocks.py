"""Cells that stay on disk: Dask-backed AnnData, read block by block, on this machine or on a cluster.

Everything here runs on Dask's current scheduler: the threads of this process, or, inside
`with distributed.Client(address):`, the workers of that cluster.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

#: Rows of one block; a block of 2,000 genes with 5 % non-zeros is then about 16 MB.
ROWS = 20_000

#: A Dask array of cells; its own annotations contradict its use.
Lazy: TypeAlias = Any

Result = TypeVar("Result")


class Matrix(Protocol):
    """X [n, G]: a numpy array, a scipy sparse matrix, or a Dask array of either."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells and genes."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Rows, columns or single values."""
        ...


def is_lazy(x: object) -> TypeGuard[Lazy]:
    """Whether x is a Dask array."""
    return type(x).__module__.split(".")[0] == "dask"


def open_lazy(path: str | os.PathLike[str], rows: int = ROWS) -> AnnData:
    """Open an h5ad or zarr file with X and layers [n, G] on disk, in blocks of `rows` cells.

    obs, var and uns are read; a layer that is stored by columns is left out.

    Raises
    ------
    DataError
        A file that is neither, or whose X cannot be read in rows.
    """
    import anndata

    try:
        group = _open_group(pathlib.Path(path))
        if group["X"].attrs.get("encoding-type") == "csc_matrix":
            raise DataError(f"X of {path} is stored by columns (CSC): write it by rows (CSR) first.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read, lazily = anndata.io.read_elem, anndata.experimental.read_elem_lazy
            obs, var = read(group["obs"]), read(group["var"])
            chunks = (min(rows, len(obs)), len(var))
            x = lazily(group["X"], chunks=chunks)
            uns = read(group["uns"]) if "uns" in group else {}
            by_row = {name: group["layers"][name] for name in group.get("layers", ())}
            layers = {
                name: lazily(item, chunks=chunks)
                for name, item in by_row.items()
                if item.attrs.get("encoding-type") != "csc_matrix"
            }
        return anndata.AnnData(x, obs=obs, var=var, uns=uns, layers=layers)
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120].rstrip(". ")
        raise DataError(f"{path} could not be opened ({type(error).__name__}: {reason}).") from None


def is_sparse(x: object) -> TypeGuard[sparse.csr_matrix]:
    """Whether x is a scipy sparse matrix or array."""
    return bool(sparse.issparse(x))


def _open_group(path: pathlib.Path) -> Any:
    if path.is_dir():
        import zarr

        return zarr.open_group(str(path), mode="r")
    import h5py

    return h5py.File(path, "r")


def head(x: Matrix, n: int) -> Matrix:
    """Return the first n rows of x [n, G] in memory, sparse or dense."""
    return take(x, np.arange(min(n, x.shape[0])))


def take(x: Matrix, rows: np.ndarray) -> Matrix:
    """Return the given rows of x [n, G] in memory; of a lazy x only their blocks are read."""
    if not is_lazy(x):
        return x[rows]
    if len(rows) == 0:
        return np.empty((0, x.shape[1]), dtype=x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows out of order: Dask warns about its plan
        return x[rows].compute()


def dense(x: Matrix) -> Matrix:
    """Turn x [n, G] into dense float32, in memory, or block by block when it is lazy."""
    if is_lazy(x):
        return x.map_blocks(_dense, dtype=np.float32, meta=np.empty((0, 0), dtype=np.float32))
    return _dense(x)


def _dense(block: Matrix) -> np.ndarray:
    return np.asarray(block.toarray() if is_sparse(block) else block, dtype=np.float32)


def in_memory(x: Matrix) -> NDArray[np.float32]:
    """Return x [n, G] dense in float32, in memory even where it is lazy."""
    return np.asarray(dense(x), dtype=np.float32)


def mean_and_std(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [G] and standard deviation [G] over the rows of a dense x, in float64."""
    if not is_lazy(x):
        values = np.asarray(x, dtype=np.float64)
        return values.mean(axis=0), values.std(axis=0)
    wide = x.astype(np.float64)
    mean, std = _compute(wide.mean(axis=0), wide.std(axis=0))
    return mean, std


def _compute(*asked: object) -> Any:
    """Let Dask's current scheduler compute several things in one pass."""
    import dask.base

    compute: Any = dask.base.compute
    return compute(*asked)


def map_rows(x: Lazy, function: Callable[..., sparse.csr_matrix], side: np.ndarray | None = None) -> Lazy:
    """Apply a function of one block [rows, G] -> [rows, G] float32 to every block of a lazy x.

    The rows of `side` [n] that belong to a block are its second argument.
    """
    empty = sparse.csr_matrix((0, 0), dtype=np.float32)
    if side is None:
        return x.map_blocks(function, dtype=np.float32, meta=empty)
    import dask.array

    from_array: Any = dask.array.from_array  # its own annotations leave it out
    beside = from_array(side[:, None], chunks=(x.chunks[0], 1))
    return x.map_blocks(function, beside, dtype=np.float32, meta=empty)


def each(x: Lazy, function: Callable[[Matrix], Result]) -> list[Result]:
    """Apply a function of a block [rows, G] to every block of a lazy x, in one pass over it."""
    from dask.delayed import delayed

    whole_rows = x if x.numblocks[1] == 1 else x.rechunk({1: -1})
    return list(_compute(*[delayed(function)(block) for block in whole_rows.to_delayed().ravel()]))


@dataclass(frozen=True, eq=False)
class Moments:
    """What one pass over cells [n, G] in K groups adds up."""

    #: Cells of each group [K].
    cells: np.ndarray
    #: Sum of each gene over the cells of each group [K, G].
    sums: np.ndarray
    #: Sum of squares of each gene over all cells [G].
    squares: np.ndarray
    #: Cells in which each gene is not zero [G].
    nonzero: np.ndarray


def group_moments(x: Matrix, codes: np.ndarray, number: int) -> Moments:
    """Add up cells x [n, G] by their group, codes [n] from 0 to `number` - 1, in one pass."""
    parts = _each_with(x, codes[:, None], lambda block, own: _moments(block, own[:, 0], number))
    sums, squares, nonzero = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    return Moments(np.bincount(codes, minlength=number), sums, squares, nonzero)


def group_sums(x: Matrix, codes: Sequence[np.ndarray], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cells [C, K] and sums [C, K, G] of x [n, G] under C groupings [n] into K groups, in one pass."""
    table = np.column_stack(codes)
    parts = _each_with(
        x, table, lambda block, own: np.stack([_sums(block, column, number) for column in own.T])
    )
    return np.stack([np.bincount(column, minlength=number) for column in codes]), np.sum(parts, axis=0)


def _moments(block: Matrix, codes: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = block if is_sparse(block) else np.asarray(block)
    wide = values.astype(np.float64)
    squares = wide.multiply(wide) if is_sparse(wide) else wide**2
    counted = [np.asarray(part.sum(axis=0), dtype=np.float64).ravel() for part in (squares, values != 0)]
    return _sums(block, codes, number), counted[0], counted[1]


def _sums(block: Matrix, codes: np.ndarray, number: int) -> np.ndarray:
    """Return the sums [K, G] of a block's rows by group, in float64."""
    rows = np.arange(len(codes))
    member = sparse.csr_matrix((np.ones(len(codes)), (codes, rows)), shape=(number, len(codes)))
    total = member @ (block if is_sparse(block) else np.asarray(block, dtype=np.float64))
    return np.asarray(total.toarray() if sparse.issparse(total) else total)


def _each_with(x: Matrix, side: np.ndarray, function: Callable[[Any, np.ndarray], Result]) -> list[Result]:
    """Apply a function of a block [rows, G] and the same rows of `side` [n, C] to every block of x."""
    if not is_lazy(x):
        return [function(x, side)]
    from dask.delayed import delayed

    whole_rows = x if x.numblocks[1] == 1 else x.rechunk({1: -1})
    bounds = np.cumsum([0, *whole_rows.chunks[0]])
    pieces = zip(whole_rows.to_delayed().ravel(), bounds[:-1], bounds[1:], strict=True)
    return list(_compute(*[delayed(function)(block, side[low:high]) for block, low, high in pieces]))


def row_sums(x: Matrix) -> np.ndarray:
    """Return the sum of each row of x [n, G], in float64 [n]."""
    if is_lazy(x):
        return np.concatenate(each(x, row_sums))
    return np.asarray(x.sum(axis=1), dtype=np.float64).ravel()  # type: ignore[attr-defined]


def hash_of(x: Lazy) -> str:
    """Return a hash over the blocks of a lazy x [n, G]."""
    return hashlib.sha256("".join(each(x, _hash_of_block)).encode()).hexdigest()


def _hash_of_block(block: Matrix) -> str:
    parts = (block.indptr, block.indices, block.data) if is_sparse(block) else (np.asarray(block),)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
