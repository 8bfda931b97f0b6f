"""Cases from public bug reports at the doors of data: each prints what it saw and exits 0 when right."""

from __future__ import annotations

import pathlib
import runpy

import pytest

CASES = ("01", "02", "03", "04", "06", "07", "09", "11", "23", "30")
FILES = sorted(path for path in pathlib.Path(__file__).parent.glob("[0-9]*.py") if path.name[:2] in CASES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_case_exits_with_0(path):
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code


def test_every_case_is_here():
    assert [path.name[:2] for path in FILES] == list(CASES)
