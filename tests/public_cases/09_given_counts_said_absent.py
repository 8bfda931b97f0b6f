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


# X logged with its own gene-wise rounding, so that counts cannot be recovered;
# a counts layer (0.9 k + 0.03) is given
a = cells(["NT", "G1", "G2"])
counts = a.X.copy()
x = from_anndata(a, "guide", "NT").X.copy()
x.data *= np.random.default_rng(1).uniform(0.9, 1.0, x.nnz).astype(np.float32)
counts.data = counts.data * 0.9 + 0.03
b = ad.AnnData(x, obs=a.obs.copy(), var=a.var.copy())
b.layers["counts"] = counts
try:
    said = from_anndata(b, "guide", "NT").uns["twinlib"]["counts"]
except DataError as e:
    print("refused:", e)
    sys.exit(0)
print("said:", said)
sys.exit("not given" in said)
