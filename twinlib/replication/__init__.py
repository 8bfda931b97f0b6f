"""The paper's protocols, tables and claims, as released and as described."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlib.replication.protocols import run
    from twinlib.replication.tables import report, results

_WHERE = {
    "run": "protocols",
    "report": "tables",
    "results": "tables",
}

__all__ = [
    "report",
    "results",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
