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


try:
    from_anndata(cells(["NT", "G1", "G2"]), "guide", "NT", separator="")
except DataError as e:
    print("refused:", e)
    sys.exit(0)
except Exception as e:
    print(type(e).__name__, e)
    sys.exit(1)
