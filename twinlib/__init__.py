"""A digital twin of a perturbation experiment, small enough to read: see the book beside this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from twinlib.data import DataError, available, choose, from_anndata, load, pair, prepare, standard

_DATA_NAMES = ("DataError", "available", "choose", "from_anndata", "load", "pair", "prepare", "standard")

__all__ = [
    "DataError",
    "available",
    "choose",
    "from_anndata",
    "load",
    "pair",
    "prepare",
    "standard",
]


def __getattr__(name: str) -> Any:
    """Import the data room only when one of its names is asked for, so that `import twinlib` stays light."""
    if name in _DATA_NAMES:
        import twinlib.data

        return getattr(twinlib.data, name)
    raise AttributeError(f"module 'twinlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
