"""Peak memory of `prepare` on cells that stay on disk: 100,000, 300,000 and 1,000,000 cells x 2,000 genes.

Writes sparse counts (5 % non-zero, 20 perturbations) to a temporary folder, prepares them in a process of its
own with two threads, and draws 20,000 of them as from a source of the paper: one JSON line each.
`python benchmarks/data_size.py 20000 50000` takes other numbers of cells.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

GENES = 2_000
DENSITY = 0.05
ROWS = 20_000
SIZES = (100_000, 300_000, 1_000_000)


def block(rng, rows):
    """Counts of some cells as CSR parts: the gaps between non-zeros are geometric."""
    expected = int(rows * GENES * DENSITY * 1.05) + 1000
    places = np.cumsum(rng.geometric(DENSITY, expected)) - 1
    places = places[places < rows * GENES]
    pointer = np.searchsorted(places, np.arange(rows + 1) * GENES)
    return rng.geometric(0.6, len(places)).astype(np.float32), (places % GENES).astype(np.int32), pointer


def write(path, n):
    """Write an h5ad file of n cells block by block, so that writing needs little memory, too."""
    import anndata
    import h5py
    import pandas as pd
    from scipy import sparse

    labels = np.asarray(["control", *(f"gene{i}" for i in range(20))])[np.arange(n) % 21]
    obs = pd.DataFrame({"label": pd.Categorical(labels)}, index=np.arange(n).astype(str))
    var = pd.DataFrame(index=[f"gene{i}" for i in range(GENES)])
    empty = sparse.csr_matrix((n, GENES), dtype=np.float32)
    anndata.AnnData(empty, obs=obs, var=var).write_h5ad(path)
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as handle:
        group = handle["X"]
        for name, kind in (("data", np.float32), ("indices", np.int32)):
            del group[name]
            group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 18,), compression="lzf")
        for start in range(0, n, ROWS):
            data, indices, pointer = block(rng, min(ROWS, n - start))
            filled = len(group["data"])
            for name, values in (("data", data), ("indices", indices)):
                group[name].resize((filled + len(values),))
                group[name][filled:] = values
            group["indptr"][start : start + len(pointer)] = filled + pointer


def measure(path):
    """Prepare the file with two threads and print what it took; the panel stays on disk."""
    import dask

    from twinlib.data import blocks
    from twinlib.data.canonical import from_anndata
    from twinlib.data.preparation import prepare

    begin = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        opened = blocks.open_lazy(path, ROWS)
        cells = from_anndata(opened, "label", "control", perturbation_type="CRISPRi")
        prepared = prepare(cells, 200)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figure = {"benchmark": "data_size", "cells": cells.n_obs, "genes": GENES, "panel": len(prepared.genes)}
    print(json.dumps(figure | {"peak_mib": round(peak), "seconds": round(seconds, 1)}), flush=True)


def draw(path):
    """Draw the paper's 20,000 cells without loading the file, through the reader of the large sources."""
    import dataclasses

    from twinlib.data.canonical import Columns
    from twinlib.data.readers import backed
    from twinlib.data.sources import DATASETS

    entry = dataclasses.replace(DATASETS["vcc"], columns=Columns("label", "control"))
    begin = time.perf_counter()
    cells = backed(entry, [path], 20_000, 0)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figure = {"benchmark": "data_draw", "drawn": cells.n_obs, "peak_mib": round(peak)}
    print(json.dumps(figure | {"seconds": round(seconds, 1)}), flush=True)


def main(sizes):
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = pathlib.Path(folder) / f"{n}.h5ad"
            for step in ("write", "measure", "draw"):
                subprocess.run([sys.executable, __file__, step, str(path), str(n)], check=True)
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2])
    elif sys.argv[1:2] == ["draw"]:
        draw(sys.argv[2])
    else:
        main([int(n) for n in sys.argv[1:]] or SIZES)
