"""Cases from public bug reports at the doors of environment and evaluation: each exits 0 when right."""

from __future__ import annotations

import pathlib
import runpy

import pytest

CASES = ("10", "12", "14", "15", "17", "18")
FILES = sorted(path for path in pathlib.Path(__file__).parent.glob("[0-9]*.py") if path.name[:2] in CASES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_case_exits_with_0(path: pathlib.Path) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code


def test_every_case_is_here() -> None:
    assert [path.name[:2] for path in FILES] == list(CASES)
