"""The book's own Sphinx extension.

It marks every page whose outputs are older than their source, lists on an API page every module of its room,
links names to their source (source_links.py), and reads docstrings as plain text: a `|` or a trailing `_`
outside backquotes is a letter, not markup, and `a name` in backquotes is code.
"""

from __future__ import annotations

import pathlib
import re
import sys
import textwrap
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import source_links
import stamp

NOTE = (
    '<div class="admonition warning" role="note"><p class="admonition-title">Outputs older than source</p>'
    "<p>The text or the code of this page changed after its outputs were computed, "
    "and the data they were computed from could not be had when this copy was built.</p></div>"
)


def _remember_stale(app: Any) -> None:
    digests = stamp.module_digests()
    app.twinlib_stale = {f"notebooks/{p.stem}" for p in stamp.sources() if stamp.is_stale(p, digests)}


def _mark(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if page in getattr(app, "twinlib_stale", ()):
        context["body"] = NOTE + context["body"]


def _without_thebe(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out the script that starts kernels on another host; Jupyter Book has no switch for it."""
    kept = [
        file
        for file in context["script_files"]
        if "thebe" not in f"{file} {file.attributes.get('body', '')}".lower()
    ]
    context["script_files"] = kept
    context["css_files"] = [file for file in context["css_files"] if "thebe" not in str(file)]


_UNLISTED = '<div role="list" class="citation-list">'


def _bibliography(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Make a bibliography's entries plain parts of the page: a list may hold list items only."""
    context["body"] = context.get("body", "").replace(_UNLISTED, '<div class="citation-list">')


def _modules(match: re.Match[str]) -> str:
    """Return one automodule a module for a room, or for the modules that stand beside the rooms."""
    room = match.group(1)
    folder = stamp.ROOT / "twinlib"
    names = [f"twinlib.{path.stem}" for path in sorted(folder.glob("[a-z]*.py"))] if room == "beside" else []
    if room != "beside":
        names = [f"twinlib.{room}.{path.stem}" for path in sorted((folder / room).glob("[a-z]*.py"))]
    parts = [f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names]
    return "\n".join(parts)


def _list_modules(app: Any, page: str, source: list[str]) -> None:
    source[0] = re.sub(r"^<!-- modules: (\w+) -->$", _modules, source[0], flags=re.M)


def _findings() -> str:
    """Return what was found, as far as the packaged results go."""
    from twinlib.results.claims import judged
    from twinlib.results.headlines import summary

    return summary(judged())


def _sources() -> str:
    """Return the table of the registry of datasets."""
    from twinlib.data import sources

    return sources.table()


def _bibtex() -> str:
    """Return the paper's entry from the bibliography, and the book's from its citation file."""
    import yaml

    entries = (stamp.ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    paper = re.search(r"^@article\{boabang2025,.*?^\}$", entries, re.S | re.M)
    record = yaml.safe_load((stamp.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    book = {
        "author": "{" + record["authors"][0]["name"] + "}",
        "title": record["title"],
        "version": record["version"],
        "url": record.get("repository-code", ""),
    }
    lines = ",\n".join(f"  {key} = {{{value}}}" for key, value in book.items() if value)
    text = f"{paper[0] if paper else ''}\n@software{{twinbook,\n{lines}\n}}"
    folded = [textwrap.fill(line, 80, subsequent_indent="    ") for line in text.splitlines()]
    return "\n".join(["```bibtex", *folded, "```"])


def _printed(match: re.Match[str]) -> str:
    """Return one number of the paper's Tables 1-9 as printed there: table, row, split, metric."""
    from twinlib.results.tables import paper_tables

    number, row, split, metric = match.groups()
    long = paper_tables()
    names = [long[column].str.replace(" ", "_") == row for column in ("System", "Algorithm")]
    chosen = (names[0] | names[1]) & (long["Split"] == split.strip("-")) & (long["Metric"] == metric)
    (value,) = long.loc[chosen & (long["Table"] == int(number)), "Value"]
    return str(value)


_INSERTED = {"findings": _findings, "sources": _sources, "bibtex": _bibtex}


def _insert(app: Any, page: str, source: list[str]) -> None:
    """Insert what the packaged results and the registry say; no number on a page is typed."""
    for name, make in _INSERTED.items():
        if f"<!-- {name} -->" in source[0]:
            source[0] = source[0].replace(f"<!-- {name} -->", make())
    source[0] = re.sub(r"<!-- printed: (\d) (\w+) ([\w-]+) (\w+) -->", _printed, source[0])


_CHAPTER_LINK = re.compile(r"\[([^\]\[]+)\]\((?:\.\./notebooks/)?(\d\d_\w+)\.(?:ipynb|md)(?:#[^)\s]*)?\)")


def _planned_chapters(app: Any, page: str, source: list[str]) -> None:
    """Turn a link to a chapter that is not written yet into its text."""
    present = {path.stem for path in stamp.NOTEBOOKS.glob("*.ipynb")}
    source[0] = _CHAPTER_LINK.sub(lambda link: link[0] if link[2] in present else link[1], source[0])


def _plain_letters(line: str) -> str:
    if line.count("`") % 2:
        line = line.replace("`", "'")
    pieces = re.split(r"(``.*?``|`[^`]*`_?)", line)
    pieces[::2] = [re.sub(r"(?<=\w)_(?=\W|$)", r"\_", piece).replace("|", r"\|") for piece in pieces[::2]]
    for i in range(1, len(pieces), 2):
        if not pieces[i].startswith("``") and not pieces[i].endswith("_") and not pieces[i - 1].endswith(":"):
            pieces[i] = f"`{pieces[i]}`"
    return "".join(pieces)


def _docstring(app: Any, kind: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else _plain_letters(line) for line in lines]


def _without_builtins(app: Any) -> list[Any]:
    """Drop the module without a source that viewcode lists, whose link leads nowhere."""
    getattr(app.env, "_viewcode_modules", {}).pop("builtins", None)
    return []


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", _remember_stale)
    app.connect("source-read", _list_modules)
    app.connect("source-read", _insert)
    app.connect("source-read", _planned_chapters)
    app.connect("source-read", source_links.label_folds, priority=900)
    app.connect("doctree-resolved", source_links.link_names)
    app.connect("autodoc-process-docstring", _docstring, priority=100)
    app.connect("html-collect-pages", _without_builtins, priority=100)
    app.connect("html-page-context", _mark)
    app.connect("html-page-context", _bibliography)
    app.connect("html-page-context", _without_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
