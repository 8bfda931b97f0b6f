import pathlib

import pytest

from twinlib.data import sources

PAGE = pathlib.Path(__file__).resolve().parents[2] / "book" / "data.md"


def test_the_page_shows_the_table_of_the_registry():
    text = PAGE.read_text(encoding="utf-8")
    between = text.split("<!-- >>> sources -->\n")[1].split("\n<!-- <<< sources -->")[0]
    assert between == sources.table(), "paste the output of twinlib.data.sources.table() between the marks"


@pytest.mark.parametrize("entry", sources.DATASETS.values(), ids=list(sources.DATASETS))
def test_every_source_is_documented_and_pinned(entry):
    assert entry.measured and entry.licence and entry.citation and entry.panel > 0
    assert f"`{entry.name}`" in PAGE.read_text(encoding="utf-8") or entry.name in PAGE.read_text(
        encoding="utf-8"
    )
    for file in entry.files:
        kind, digest = file.digest.split(":")
        assert (file.url.startswith("https://") or file.by_hand) and file.size > 0
        assert len(digest) == {"sha256": 64, "md5": 32}[kind] and int(digest, 16)
