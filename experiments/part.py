"""What a part of a run hands back: rows of tables, and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

#: One row of a tidy table, or facts for a manifest.
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What one part of a run came to."""

    #: Rows by the name of their table.
    tables: dict[str, Sequence[Row] | pd.DataFrame]
    #: Facts about the part (optimizer steps, ...).
    facts: Row = field(default_factory=dict)
    #: Facts about the whole run that a part has found out (hashes of the data, ...).
    run: Row = field(default_factory=dict)
