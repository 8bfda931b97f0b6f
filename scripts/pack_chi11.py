"""Make twinlib/data/packaged/chi11.npz again from the R data it came from: python scripts/pack_chi11.py

The file is taken from TWINLIB_DATA_DIR, else from its pinned address; its hash is checked in both cases.
"""

from __future__ import annotations

import pathlib
import sys
import warnings

import numpy as np

from twinlib.data import sources
from twinlib.files import write_atomic

TARGET = pathlib.Path(sources.__file__).parent / "packaged" / "chi11.npz"


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return what is kept of the R data: values [n, G], markers and their kind [G], labels [n]."""
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rdata.read_rda(str(path))["chi11"]
    cells, state = table["expr_data"], table["state_markers"].astype(str)
    markers = np.asarray([name for name in cells if name in {*state, *table["type_markers"].astype(str)}])
    labels = {"stimulus": "stim_type", "cell_type": "merging1", "sample": "sample_id"}
    return {
        "x": cells[markers.tolist()].to_numpy(dtype=np.float32),
        "marker": markers.astype(str),
        "state": np.isin(markers, state),
        **{ours: cells[theirs].to_numpy(dtype=str) for ours, theirs in labels.items()},
    }


def main() -> int:
    """Write the packed cells."""
    source = sources.dataset("chi11").packed_from
    assert source is not None
    kept = arrays(sources.obtain(source, None))

    def save(beside: pathlib.Path) -> None:
        with beside.open("wb") as sink:  # a path would get another suffix
            np.savez_compressed(sink, **kept)

    write_atomic(TARGET, save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
