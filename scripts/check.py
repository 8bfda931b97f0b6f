"""Name every stale stamp and every pair that differs: python scripts/check.py"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import ipynb
import stamp


def complaints(source: pathlib.Path, digests: dict[str, str]) -> Iterator[str]:
    """Yield a sentence where a notebook's pair differs, and one where its stamp is stale."""
    if ipynb.differs(source):
        yield f"{source.stem}: the .ipynb differs from the .py; run `python scripts/pair.py`."
    if stamp.is_stale(source, digests):
        yield f"{source.stem}: outputs older than source; run `python scripts/execute.py {source.stem[:2]}`."


def main() -> int:
    """Print what is wrong, and exit with 1 where anything is."""
    digests = stamp.module_digests()
    wrong = [sentence for source in stamp.sources() for sentence in complaints(source, digests)]
    strays = [path for path in stamp.NOTEBOOKS.glob("*.ipynb") if not path.with_suffix(".py").is_file()]
    wrong += [f"{path.name}: it has no .py source." for path in strays]
    print("\n".join(wrong) or "All pairs are equal and all stamps are fresh.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
