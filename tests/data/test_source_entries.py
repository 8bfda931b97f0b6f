import pathlib

import pytest

from twinlib.data import sources

PAGE = pathlib.Path(__file__).resolve().parents[2] / "book" / "data.md"


@pytest.mark.parametrize("entry", sources.DATASETS.values(), ids=list(sources.DATASETS))
def test_every_source_is_documented_and_pinned(entry):
    assert entry.measured and entry.licence and entry.citation and entry.panel > 0
    assert entry.name in PAGE.read_text(encoding="utf-8")
    for file in (*entry.files, *filter(None, [entry.packed_from])):
        kind, digest = file.digest.split(":")
        assert (file.url.startswith("https://") or file.by_hand) and file.size > 0
        assert len(digest) == {"sha256": 64, "md5": 32}[kind] and int(digest, 16)
