"""Write what was found into the README, from the packaged results: python scripts/findings.py"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import stamp

if TYPE_CHECKING:
    from twinlib.results.claims import Judged

README = stamp.ROOT / "README.md"


def written(text: str, blocks: Mapping[str, str]) -> str:
    """Return a page with each block between its marks."""
    for name, block in blocks.items():
        marked = re.compile(rf"(?<=<!-- >>> {name} -->\n).*?(?=<!-- <<< {name} -->\n)", re.S)
        if len(marked.findall(text)) != 1:
            raise SystemExit(f"README.md lost the marks between which its {name} are written.")
        text = marked.sub(lambda _, block=block: block, text)
    return text


def blocks(rows: Sequence[Judged]) -> dict[str, str]:
    """Return what the README shows of all judged claims."""
    from twinlib.results.headlines import by_place, findings

    told = "".join(f"- {text}\n" for text in findings(rows, "book/"))
    return {"findings": told, "places": f"\n{by_place(rows, 'book/')}\n\n"}


def main() -> int:
    """Write the README."""
    from twinlib.results.claims import judged

    before = README.read_text(encoding="utf-8")
    README.write_text(written(before, blocks(judged())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
