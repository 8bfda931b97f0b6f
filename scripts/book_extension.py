"""The book's own Sphinx extension: a visible note on every page whose outputs are older than its source."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import stamp

NOTE = (
    '<div class="admonition warning" role="note"><p class="admonition-title">Outputs older than source</p>'
    "<p>The text or the code of this page changed after its outputs were computed, and the data they were computed "
    "from could not be had when this copy was built.</p></div>"
)


def _remember_stale(app: Any) -> None:
    digests = stamp.module_digests()
    app.twinlib_stale = {f"notebooks/{p.stem}" for p in stamp.sources() if stamp.is_stale(p, digests)}


def _mark(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if page in getattr(app, "twinlib_stale", ()):
        context["body"] = NOTE + context["body"]


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", _remember_stale)
    app.connect("html-page-context", _mark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
