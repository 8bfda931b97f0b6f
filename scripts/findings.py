"""Write what was found into the README, from the packaged results: python scripts/findings.py"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import stamp

if TYPE_CHECKING:
    from twinlib.results.claims import Judged

README = stamp.ROOT / "README.md"
_BLOCK = re.compile(r"(?<=<!-- >>> findings -->\n).*?(?=<!-- <<< findings -->\n)", re.S)


def written(text: str, block: str) -> str:
    """Return a page with the findings between its marks."""
    if len(_BLOCK.findall(text)) != 1:
        raise SystemExit("README.md lost the marks between which the findings are written.")
    return _BLOCK.sub(lambda _: block, text)


def block(rows: Sequence[Judged]) -> str:
    """Return what the README shows of all judged claims."""
    from twinlib.results.headlines import summary

    return f"\n{summary(rows, 'book/')}\n\n"


def main() -> int:
    """Write the README."""
    from twinlib.results.claims import judged

    before = README.read_text(encoding="utf-8")
    README.write_text(written(before, block(judged())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
