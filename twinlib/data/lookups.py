"""Sums of looked-up numbers as loops that numba compiles: numpy would copy every number first."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Loops = Callable[[Array, NDArray[np.int64]], Array]


def compiled(loops: Loops) -> Loops:
    """Return loops as machine code, made at the first call and kept on disk where a folder is writable."""
    try:
        fast: Loops = numba.njit(cache=True)(loops)
    except RuntimeError:  # no folder to keep it in
        fast = numba.njit()(loops)
    return fast


@compiled
def inner_sums(distances: Array, chosen: NDArray[np.int64]) -> Array:
    """Return the sums [K] of a symmetric matrix [n, n] with a diagonal of 0 over chosen rows [K, s]."""
    sums = np.zeros(len(chosen))
    for k in range(len(chosen)):
        for i in range(chosen.shape[1]):
            row = distances[chosen[k, i]]
            for j in range(i):
                sums[k] += 2.0 * row[chosen[k, j]]
    return sums
