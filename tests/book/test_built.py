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
    return {path: Page(path) for folder in ("book", "notebooks") for path in (BUILT / folder).glob("*.html")}


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
