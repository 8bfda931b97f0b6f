"""The one file of external links: collect them, and ask each whether it still answers.

python scripts/links.py           add new links to book/links.csv, drop those that are gone
python scripts/links.py --check   ask each of them and write today's date beside those that answer
"""

from __future__ import annotations

import csv
import datetime
import os
import pathlib
import re
import sys
import urllib.request

import stamp

TABLE = stamp.ROOT / "book" / "links.csv"
HEAD = ["Address", "Last known to work"]
NEVER = "not checked yet"
_ADDRESS = re.compile(r"https?://[^\s<>\"'`\]}|\\]+")


def pages() -> list[pathlib.Path]:
    """Return the sources of everything a reader sees."""
    book = stamp.ROOT / "book"
    return [
        stamp.ROOT / "README.md",
        *sorted(book.glob("*.md")),
        *sorted(book.glob("*.bib")),
        *stamp.sources(),
    ]


def _read(path: pathlib.Path) -> str:
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in stamp.read_source(path).cells if cell.cell_type == "markdown")


def _addresses(text: str) -> set[str]:
    addresses = set()
    for address in _ADDRESS.findall(text):
        address = address.rstrip(".,;:*")
        while address.endswith(")") and address.count("(") < address.count(")"):
            address = address[:-1].rstrip(".,;:*")
        if "..." not in address and "{" not in address:
            addresses.add(address)
    return addresses


def collected() -> set[str]:
    """Return every external address on a page."""
    from twinlib.data import sources

    return set().union(*(_addresses(_read(path)) for path in pages()), _addresses(sources.table()))


def kept() -> dict[str, str]:
    """Return the addresses in the file, with the date on which each was last known to work."""
    if not TABLE.is_file():
        return {}
    with TABLE.open(newline="", encoding="utf-8") as table:
        return {row[0]: row[1] for row in list(csv.reader(table))[1:]}


def answers(address: str) -> bool:
    """Tell whether an address answers without an error."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status) < 400
    except OSError as error:
        print(f"{address}: {error}")
        return False


def main() -> int:
    """Write the file; with --check exit 1 when an address does not answer."""
    before = kept()
    table = {address: before.get(address, NEVER) for address in sorted(collected())}
    silent = 0
    if "--check" in sys.argv:
        today = datetime.date.today().isoformat()
        for address in table:
            if answers(address):
                table[address] = today
            else:
                silent += 1
    beside = TABLE.with_suffix(".part")
    with beside.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows(table.items())
    os.replace(beside, TABLE)
    print(f"{len(table)} addresses, {silent} without an answer")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
