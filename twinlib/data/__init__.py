"""The data room: cells in, checked, split, prepared and paired; landscapes whose answer is known."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlib.data.pairing import Pairs, pair
    from twinlib.data.prepare import Prepared, standard
    from twinlib.data.schema import CONTROL, DataError, check, parts
    from twinlib.data.simulate import MyeloidNetwork, ToggleSwitch, simulate_waddington
    from twinlib.data.sources import DATASETS, available, choose, from_anndata, load

# numba (inside scanpy) opens its OpenMP pool on all cores and thereby raises torch's thread count, whatever
# OMP_NUM_THREADS said; on a shared machine that made training ten times slower. It reads this at its import.
if os.environ.get("OMP_NUM_THREADS", "").isdigit():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

_WHERE = {
    "CONTROL": "schema",
    "DataError": "schema",
    "check": "schema",
    "parts": "schema",
    "DATASETS": "sources",
    "available": "sources",
    "choose": "sources",
    "from_anndata": "sources",
    "load": "sources",
    "MyeloidNetwork": "simulate",
    "ToggleSwitch": "simulate",
    "simulate_waddington": "simulate",
    "Prepared": "prepare",
    "standard": "prepare",
    "Pairs": "pairing",
    "pair": "pairing",
}

__all__ = [
    "CONTROL",
    "DATASETS",
    "DataError",
    "MyeloidNetwork",
    "Pairs",
    "Prepared",
    "ToggleSwitch",
    "available",
    "check",
    "choose",
    "from_anndata",
    "load",
    "pair",
    "parts",
    "prepare",
    "simulate_waddington",
    "standard",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# The module prepare.py would hide the function of the same name as soon as anything imports it: bind the
# function once, here.
from twinlib.data.prepare import prepare  # noqa: E402
