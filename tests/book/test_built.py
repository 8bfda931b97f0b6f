"""The built book: links and anchors resolve, images have a text, nothing is left raw."""

from __future__ import annotations

import html.parser
import pathlib
import re
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = ROOT / "_build" / "html"


class Page(html.parser.HTMLParser):
    """The links, anchors and images of one built page."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        for name in ("id", "name"):
            if given.get(name):
                self.anchors.add(str(given[name]))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def pages() -> dict[pathlib.Path, Page]:
    if not (BUILT / "index.html").is_file():
        pytest.skip("the book is not built here; `make html` builds it")
    folders = [(BUILT / folder).glob("*.html") for folder in ("book", "notebooks", "_modules")]
    return {path: Page(path) for paths in folders for path in paths}


def test_internal_links_and_anchors_resolve(pages: dict[pathlib.Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            there = (path.parent / urllib.parse.unquote(target.path)).resolve() if target.path else path
            if not there.exists():
                broken.append(f"{path.name}: {link}")
            elif target.fragment and there in pages:
                if urllib.parse.unquote(target.fragment) not in pages[there].anchors:
                    broken.append(f"{path.name}: {link}")
    assert not broken, "\n".join(sorted(set(broken)))


def source_targets(page: Page) -> set[str]:
    return {link for link in page.links if "_modules/" in link}


def test_names_on_a_chapter_lead_to_their_source(pages: dict[pathlib.Path, Page]) -> None:
    found = {path: source_targets(page) for path, page in pages.items() if path.parent.name == "notebooks"}
    wanted = "../_modules/twinlib/policy/trust_region.html#fisher_vector_product"
    assert wanted in found[BUILT / "notebooks" / "07_natural_gradient.html"]
    files = {
        (path.parent / link.partition("#")[0]).resolve() for path, links in found.items() for link in links
    }
    anchors = {file: Page(file).anchors for file in files}
    broken = [
        link
        for path, links in found.items()
        for link in links
        if "#" in link
        and link.partition("#")[2] not in anchors[(path.parent / link.partition("#")[0]).resolve()]
    ]
    assert not broken, broken


def test_every_row_of_the_paper_map_leads_to_its_source(pages: dict[pathlib.Path, Page]) -> None:
    page = BUILT / "book" / "paper_map.html"
    rows = re.findall(r"<tr.*?</tr>", page.read_text(encoding="utf-8"), re.S)
    with_code = [row for row in rows if "py-func" in row or "py-class" in row]
    assert len(with_code) >= 14 and all("_modules/" in row for row in with_code)


def test_every_image_has_alternative_text(pages: dict[pathlib.Path, Page]) -> None:
    lacking = [
        f"{path.name}: {str(image.get('src'))[:60]}"
        for path, page in pages.items()
        for image in page.images
        if not (image.get("alt") or "").strip()
    ]
    assert not lacking, "\n".join(lacking)


HIDDEN = re.compile(r"<(pre|code|script|style)\b.*?</\1>|<[^>]*>", re.S)


def test_no_markdown_is_left_raw(pages: dict[pathlib.Path, Page]) -> None:
    """A table that a run printed is a table on the page, and not a row of bars."""
    shown = {path: HIDDEN.sub("", path.read_text(encoding="utf-8")) for path in pages}
    raw = [path.name for path, text in shown.items() if re.search(r"\|\s*[-\u2014]+\s*\|", text)]
    assert not raw, raw
