"""Write what was found into the README, from the packaged results: python scripts/findings.py"""

from __future__ import annotations

import re
import sys

import stamp

README = stamp.ROOT / "README.md"
_BLOCK = re.compile(r"(?<=<!-- >>> findings -->\n).*?(?=<!-- <<< findings -->\n)", re.S)


def written(text: str) -> str:
    """Return a page with the findings between its marks."""
    from twinlib.results.findings import findings

    if len(_BLOCK.findall(text)) != 1:
        raise SystemExit("README.md lost the marks between which the findings are written.")
    lines = "".join(f"- {finding}\n" for finding in findings("book/"))
    return _BLOCK.sub(lambda _: lines, text)


def main() -> int:
    """Write the README."""
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
