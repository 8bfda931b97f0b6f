"""From a name in backquotes to its source page, and from a folded cell to its label.

`sphinx.ext.viewcode` makes a page of each module. A chapter that says `fisher_vector_product` links to the
lines that define it; a row of the paper map gets a link beside the one to the entry of the API page.
"""

from __future__ import annotations

import collections
import json
import re
from typing import Any

from docutils import nodes

#: Kinds of entries whose definition a source page shows.
KINDS = ("function", "class", "exception", "method")
NAME = re.compile(r"([A-Za-z_][\w.]*)(?:\(.*\))?", re.S)
TITLE = re.compile(r"# @title (.+?)(?: \{.*\})?\n")


def pages(domain: Any) -> dict[str, str]:
    """Return where the source of each name stands, `_modules/...#name`, by full and by plain name.

    A plain name counts where one function or class of the package has it, and where it cannot be a word:
    with a capital, an underscore or brackets behind it.
    """
    modules = sorted(domain.modules, key=len, reverse=True)
    found = {name: f"_modules/{name.replace('.', '/')}" for name in modules}
    for name, entry in domain.objects.items():
        module = next((m for m in modules if name.startswith(f"{m}.")), None)
        if module and entry.objtype in KINDS:
            found[name] = f"{found[module]}#{name[len(module) + 1 :]}"
    plain = [n for n in found if n in domain.objects and domain.objects[n].objtype != "method"]
    counts = collections.Counter(name.rpartition(".")[2] for name in plain)
    short = {name.rpartition(".")[2]: found[name] for name in plain}
    return found | {name: where for name, where in short.items() if counts[name] == 1}


def place(text: str, where: dict[str, str]) -> str | None:
    """Return the place of what stands in backquotes, if it names something of the package."""
    match = NAME.fullmatch(text)
    if not match or match[1] not in where:
        return None
    telling = "." in match[1] or "(" in text or re.search(r"[A-Z_]", match[1])
    return where[match[1]] if telling else None


def _reference(app: Any, page: str, where: str, *inside: nodes.Node) -> nodes.reference:
    target, _, anchor = where.partition("#")
    uri = app.builder.get_relative_uri(page, target) + (f"#{anchor}" if anchor else "")
    return nodes.reference("", "", *inside, refuri=uri, internal=True)


def link_names(app: Any, doctree: nodes.document, page: str) -> None:
    """Link the names on a chapter and on the paper map to the source pages."""
    if app.builder.format != "html" or not page.startswith(("notebooks/", "book/paper_map")):
        return
    where = pages(app.env.get_domain("py"))
    for literal in list(doctree.findall(nodes.literal)):
        if not isinstance(literal.parent, nodes.reference):
            there = place(literal.astext(), where)
            if there:
                literal.replace_self(_reference(app, page, there, literal.deepcopy()))
        elif literal.parent.get("reftitle") in where:
            entry = literal.parent
            source = _reference(app, page, where[entry["reftitle"]], nodes.Text("source"))
            around = [entry, nodes.Text(" ("), source, nodes.Text(")")]
            entry.replace_self(around)


def label_folds(app: Any, page: str, source: list[str]) -> None:
    """Give each folded cell of a notebook the title of its first line as the label to click on."""
    if not page.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        title = TITLE.match("".join(cell["source"]))
        if title and "hide-input" in cell["metadata"].get("tags", []):
            label = {"code_prompt_show": f"Code: {title[1]}", "code_prompt_hide": f"Fold: {title[1]}"}
            cell["metadata"]["mystnb"] = label
    source[0] = json.dumps(notebook)
