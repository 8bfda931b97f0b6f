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


# 'NT+NT' (two non-targeting guides) and 'NT ' become `control`, yet a dose above 0 is asked of them
bad = 0
for other in ("NT+NT", "NT "):
    a = cells(["NT", other, "G1", "G2"])
    a.obs["uM"] = np.where(a.obs["guide"].isin(["NT", other]), 0.0, 1.0)
    try:
        m = from_anndata(a, "guide", "NT", dose_key="uM")
        bad |= (m.obs.loc[m.obs["perturbation"] == "control", "dose"] != 0).any()
    except DataError as e:
        print(repr(other), "refused:", e)
        bad = 1
sys.exit(bool(bad))
