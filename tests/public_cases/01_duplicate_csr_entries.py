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


a = cells(["NT", "G1", "G2"])
good = from_anndata(a, "guide", "NT").X.toarray()
coo = a.X.tocoo()  # the same counts, each value >= 2 stored as 1 + (v - 1): legal CSR, equal in every sum
data, rows, cols = [], [], []
for i, j, v in sorted(zip(coo.row, coo.col, coo.data, strict=True)):
    for part in [1, v - 1] if v >= 2 else [v]:
        data.append(part)
        rows.append(i)
        cols.append(j)
ptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=a.n_obs))]
b = a.copy()
b.X = sparse.csr_matrix((np.array(data, np.float32), np.array(cols), ptr), shape=a.shape)
assert (b.X.toarray() == a.X.toarray()).all()
try:
    made = from_anndata(b, "guide", "NT").X.toarray()
except DataError as e:
    print("refused:", e)
    sys.exit(0)
worst = float(np.abs(made - good).max())
print("largest error of log1p(CP10k):", worst)
sys.exit(worst > 1e-4)
