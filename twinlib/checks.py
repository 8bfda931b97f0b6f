"""What public doors ask of their arguments: plain finite numbers of a declared shape, lists of names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from twinlib.errors import InputError

#: Larger numbers overflow when they are squared and summed.
_LARGEST = 1e60
#: No cell reaches it in log1p units: exp(50) counts.
LARGEST_LOG1P = 50.0


def finite_arrays(**given: tuple[object, str]) -> list[NDArray[np.float64]]:
    """Return float64 arrays of arguments given as (values, axes); a wrong shape or value is refused.

    Axes are words as in "n G": a word stands for one size over all arguments, "G=5" declares it, and a
    leading "..." stands for any axes that broadcast.

    >>> cells, mean = finite_arrays(cells=([[1, 2, 3]], "n G"), mean=([4, 5, 6], "G"))
    >>> cells.shape, mean.shape
    ((1, 3), (3,))
    """
    arrays = {name: _numbers(name, values) for name, (values, _) in given.items()}
    sizes: dict[str, tuple[int, str]] = {}
    labels: dict[str, tuple[list[str], str]] = {}
    leads: dict[str, tuple[int, ...]] = {}
    for name, array in arrays.items():
        axes = given[name][1].split()
        if axes[0] == "...":
            axes = axes[1:]
            leads[name] = array.shape[: max(array.ndim - len(axes), 0)]
        _require_shape(name, array, len(leads.get(name, ())), axes, sizes)
        _require_labels(name, given[name][0], axes, labels)
    _require_broadcast(leads)
    for name, array in arrays.items():
        if not np.abs(array).max() <= _LARGEST:  # not so for NaN, either
            raise InputError(f"{name} holds NaN, infinity or a number beyond {_LARGEST:g}; mend those first.")
    return list(arrays.values())


def _numbers(name: str, values: object) -> NDArray[np.float64]:
    """A float64 array of plain numbers."""
    if np.ma.is_masked(values):
        raise InputError(f"{name} has masked entries, which count as missing; fill or drop them.")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # ragged lists; tensors with a gradient or on a GPU
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is no array of plain numbers but {_described(values)}; give a numpy array.")
    return array.astype(np.float64)


def _described(values: object) -> str:
    """The type of an argument, in words."""
    kind = type(values)
    return f"a {kind.__name__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__name__}"


def _require_shape(
    name: str, array: NDArray[np.float64], lead: int, axes: list[str], sizes: dict[str, tuple[int, str]]
) -> None:
    """Refuse a shape that differs from the declared axes; `sizes` holds the axes met so far and where."""
    shape = array.shape[lead:]
    words = [axis.partition("=") for axis in axes]
    asked = "[" + ", ".join(axes) + "]"
    if len(shape) != len(axes) or not array.size:
        raise InputError(f"{name} has shape {array.shape}; give a non-empty {asked}.")
    for (word, _, size), length in zip(words, shape, strict=True):
        if size and length != int(size):
            raise InputError(f"{name} has shape {array.shape}; give {asked}.")
        known, first = sizes.setdefault(word, (length, name))
        if known != length:
            raise InputError(
                f"{name} has shape {array.shape} where {word} is {known}, as in {first}; they must pair up."
            )


def _require_labels(
    name: str, values: object, axes: list[str], labels: dict[str, tuple[list[str], str]]
) -> None:
    """Refuse a pandas table whose genes (or cells) are named otherwise, or ordered otherwise, than those met.

    Labels that are no text, as a default index, say nothing. `labels` holds those met so far and where.
    """
    named = getattr(values, "axes", ()) if type(values).__module__.startswith("pandas.") else ()
    for axis, index in zip(reversed(axes), reversed(named), strict=False):
        if index.inferred_type != "string":
            continue
        own, word = index.tolist(), axis.partition("=")[0]
        known, first = labels.setdefault(word, (own, name))
        if known != own:
            raise InputError(
                f"The labels of {name} along {word} are not those of {first}, or in another order; "
                "bring both tables into one order."
            )


def _require_broadcast(leads: dict[str, tuple[int, ...]]) -> None:
    """Refuse leading axes that do not broadcast."""
    try:
        np.broadcast_shapes(*leads.values())
    except ValueError:
        shapes = " and ".join(f"{name} {lead}" for name, lead in leads.items())
        raise InputError(f"The leading axes do not fit one another: {shapes}.") from None


def log1p_cells(axes: str, **given: object) -> list[NDArray[np.float64]]:
    """Return `finite_arrays` of log1p expression, all with the same axes; what no cell reaches is refused."""
    arrays = finite_arrays(**{name: (values, axes) for name, values in given.items()})
    for name, array in zip(given, arrays, strict=True):
        if np.abs(array).max() > LARGEST_LOG1P:
            raise InputError(
                f"{name} reaches {np.abs(array).max():g}, which log1p expression does not; give log1p units."
            )
    return arrays


def name_list(argument: str, values: object) -> tuple[str, ...]:
    """Return names as a tuple; a string, which would be read letter by letter, is refused.

    >>> name_list("targets", ["JAK2", "IRF1"])
    ('JAK2', 'IRF1')
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"{argument}={values!r} is no list of names: give {argument}=[{values!r}].")
    given = tuple(values)
    for value in given:
        if not isinstance(value, str):
            raise InputError(f"{argument} holds {value!r}, which is no name: give names as text.")
    return given


def require_type(name: str, value: object, kind: type) -> None:
    """Refuse what is not made by the class that is asked for."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {_described(value)}; give a {kind.__name__}.")


def require_number(name: str, value: object, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Refuse what is no finite number from `low` to `high`, or no whole one where that is asked."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    fits = low <= number <= high and math.isfinite(number)  # NaN fits nowhere
    if not fits or (whole and not isinstance(value, Integral)):
        span = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name}={value!r} must be a {'whole' if whole else 'finite'} number {span}.")
