"""Pages: table of contents, paper map, names and paths, address, machine paths, external links."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import subprocess

import book_extension
import links
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def test_contents_cover_every_notebook_in_order() -> None:
    listed = [name for name in toc_files() if name.startswith("notebooks/")]
    assert listed == [
        f"notebooks/{path.stem}" for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
    ]


def test_contents_cover_every_page() -> None:
    assert sorted(n for n in toc_files() if n.startswith("book/")) == sorted(
        f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")
    )


def test_every_room_has_an_api_page() -> None:
    rooms = {path.parent.name for path in (ROOT / "twinlib").glob("*/__init__.py")} | {"beside"}
    assert rooms == {path.stem.removeprefix("api_") for path in (ROOT / "book").glob("api_*.md")}


def test_the_data_page_shows_the_registry() -> None:
    from twinlib.data import sources

    page = [(ROOT / "book" / "data.md").read_text(encoding="utf-8")]
    book_extension._insert(None, "book/data", page)
    assert sources.table() in page[0]


def test_numbers_of_the_paper_are_read_and_not_typed() -> None:
    page = [(ROOT / "book" / "paper_facts.md").read_text(encoding="utf-8")]
    assert not re.findall(r"(?<![.\w])-?\d\.\d{3,}", page[0]), "a number of a table is typed"
    asked = page[0].count("<!-- printed:")
    book_extension._insert(None, "book/paper_facts", page)
    assert asked >= 15 and "<!--" not in page[0]
    assert len(re.findall(r"-?\d\.\d{4}", page[0])) == asked


def test_the_cite_page_has_both_records() -> None:
    page = [(ROOT / "book" / "cite.md").read_text(encoding="utf-8")]
    book_extension._insert(None, "book/cite", page)
    assert "@article{boabang2025," in page[0] and "@software{twinbook," in page[0]


def map_rows() -> list[list[str]]:
    text = (ROOT / "book" / "paper_map.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in rows[2:] if len(row) == 5]


def places(text: str) -> set[str]:
    """The places in the paper that a text names, ranges and lists spelled out: `Eq. 7-9`, `Tables 3, 6`."""
    named = set()
    for kind, numbers in re.findall(r"(Eqs?\.|Tables?|Figures?|Algorithm|Section) (\d[\d., -]*)", text):
        word = {"E": "Eq.", "T": "Table", "F": "Figure", "A": "Algorithm", "S": "Section"}[kind[0]]
        for part in re.split(r",\s*", numbers.strip(" .,")):
            first, _, last = part.partition("-")
            whole = first.isdigit() and (last or first).isdigit()
            span = [str(n) for n in range(int(first), int(last or first) + 1)] if whole else [part]
            named |= {f"{word} {number}" for number in span}
    return named


def names_in_code(path: pathlib.Path) -> set[str]:
    """Every name that the code of a file imports, calls or reads; prose and comments do not count."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
    return names


def uses(path: pathlib.Path, name: str) -> bool:
    files = sorted(path.glob("test_*.py")) if path.is_dir() else [path]
    return any(name in names_in_code(file) for file in files)


@pytest.mark.parametrize("row", map_rows(), ids=lambda row: f"{row[0]}, {row[1]}")
def test_rows_of_the_paper_map_hold(row: list[str]) -> None:
    place, _, code, test, chapter = row
    (name,) = re.findall(r"`~(twinlib\.[\w.]+)`", code)
    module, _, attribute = name.rpartition(".")
    item = getattr(importlib.import_module(module), attribute, None)
    assert item is not None, name
    if not place.startswith("Section"):
        documented = places(f"{importlib.import_module(module).__doc__} {item.__doc__}")
        assert places(place) & documented, f"the docstring of {name} does not name {place}: {documented}"
    (path,) = re.findall(r"`(tests/[\w/.]+)`", test)
    assert uses(ROOT / path, attribute), f"{path} does not use {attribute}"
    (stem,) = re.findall(r"\(\.\./notebooks/(\w+)\.ipynb\)", chapter)
    source = ROOT / "notebooks" / f"{stem}.py"
    assert source.is_file(), stem
    assert uses(source, attribute), f"{source.name} does not use {attribute}"


def test_the_paper_map_test_can_fail() -> None:
    assert len(map_rows()) >= 14
    assert places("Eq. 7-9 and Tables 3, 6") == {"Eq. 7", "Eq. 8", "Eq. 9", "Table 3", "Table 6"}
    row = [
        "Eq. 3",
        "",
        "{py:func}`~twinlib.evaluation.metrics.skill`",
        "`tests/evaluation`",
        "[x](../notebooks/x.ipynb)",
    ]
    with pytest.raises(AssertionError, match="does not name Eq. 3"):
        test_rows_of_the_paper_map_hold(row)


#: Sources of everything a reader sees; the changelog, and the README of the results, name what is gone.
READ = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "book").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py")),
]


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a room, a module or something that a module defines or imports."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:depth])
        if path.is_dir():
            return depth == len(parts)
        if path.with_suffix(".py").is_file():
            module = importlib.import_module(".".join(parts[:depth]))
            return depth == len(parts) or hasattr(module, parts[depth])
    return False


@pytest.mark.parametrize("path", READ, ids=lambda path: path.name)
def test_names_and_paths_on_a_page_exist(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r"\b(?:twinlib|experiments)(?:\.[A-Za-z_]\w*)+", text))
    folders = "benchmarks|book|experiments|notebooks|results|scripts|tests|twinlib"
    paths = set(re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/]+\.(?:py|md|csv|ipynb)\b", text))
    assert not sorted(name for name in names if not resolves(name))
    assert not sorted(name for name in paths if not (ROOT / name).is_file() and "NN_" not in name)


def test_the_names_test_can_fail() -> None:
    assert resolves("twinlib.policy.trust_region.surrogate")
    assert not resolves("twinlib.replication.run")
    assert not resolves("twinlib.policy.surrogate")


def tracked(*patterns: str) -> list[pathlib.Path]:
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout: which files are committed cannot be asked")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_machine_path_is_committed() -> None:
    wrong = re.compile("/" + r"(?:work|root|tmp/ipykernel\w*|home/\w+|Users/\w+)/")
    suffixes = {".py", ".ipynb", ".md", ".yml", ".toml", ".txt", ".json", ".csv", ".cff", ".sh", ".bib", ""}
    leaks = []
    for path in tracked():
        if path.suffix in suffixes and path != pathlib.Path(__file__).resolve():
            match = wrong.search(path.read_text(encoding="utf-8", errors="replace"))
            if match:
                leaks.append(f"{path.relative_to(ROOT)}: {match.group(0)}")
    assert not leaks, "\n".join(leaks)


def test_the_address_stands_in_one_place() -> None:
    """While it is unset, no page offers to install from an address that someone else could register."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    url = config.get("repository", {}).get("url", "")
    assert ("launch_buttons" in config) == bool(url)
    for path in tracked("*.py", "*.ipynb", "*.md"):
        if "tests" in path.parts or "scripts" in path.parts:
            continue
        for address in re.findall(
            r"git\+(?:https|ssh|file)://[^\s\"'`\\]+", path.read_text(encoding="utf-8")
        ):
            assert url and address == f"git+{url}", f"{path.relative_to(ROOT)}: {address}"


def test_external_links_stand_in_one_file() -> None:
    assert set(links.kept()) == links.collected(), "run `python scripts/links.py`"
