"""A digital twin of a perturbation experiment, small enough to read: see the book beside this package."""

from __future__ import annotations

import importlib.util
import sys
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


class _AtGymnasiumImport:
    """Registers the environments when gymnasium is imported, so that `import twinlib` need not import it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Leave every module but gymnasium alone, and step aside after it."""
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: Any) -> None:
            execute(module)
            _register_environments()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register_environments() -> None:
    from twinlib.insilico.register import register_environments

    register_environments()


if "gymnasium" in sys.modules:
    _register_environments()
else:
    sys.meta_path.insert(0, _AtGymnasiumImport())
