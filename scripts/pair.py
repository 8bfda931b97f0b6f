"""Write the .ipynb of each .py, outputs kept: python scripts/pair.py [NN ...]"""

from __future__ import annotations

import sys

import home
import ipynb
import stamp


def main() -> int:
    """Pair the notebooks named on the command line, or all of them."""
    for source in stamp.sources(sys.argv[1:]):
        home.write_setup(source, home.setup_cell())
        ipynb.write(ipynb.paired(source), source.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
