import sys

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data.canonical import from_anndata
from twinlib.errors import DataError


def cells(labels, n=120, g=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(1.0, 2.0, g), (n, g)).astype(np.float32)
    obs = pd.DataFrame(
        {"guide": np.array(labels)[np.arange(n) % len(labels)]}, index=[f"c{i}" for i in range(n)]
    )
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))


# categories as in a file written by hand: ' ctrl ', 'G1+ctrl ', 'G2+ctrl '
a = cells([" ctrl ", "G1+ctrl ", "G2+ctrl "])
bad = 0
for control in (" ctrl ", "ctrl"):
    try:
        found = sorted(from_anndata(a, "guide", control).obs["perturbation"].unique())
    except DataError as e:
        found = f"refused: {e}"
    print(repr(control), "->", found)
    bad |= found != ["G1", "G2", "control"]
sys.exit(bad)
