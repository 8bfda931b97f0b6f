import contextlib
import io
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
empty = a.copy()
empty.X = sparse.csr_matrix(a.shape, dtype=np.float32)
bad = 0
try:
    print("all-zero X accepted:", from_anndata(empty, "guide", "NT").uns["twinlib"]["taken_for"])
    bad = 1
except DataError as e:
    print("refused:", e)
x = a.X.toarray()
x[:30] = 0
a.X = sparse.csr_matrix(x)
out = io.StringIO()
try:
    with contextlib.redirect_stdout(out):
        m = from_anndata(a, "guide", "NT")
    silent = m.n_obs == 120 and "30" not in out.getvalue() and "empty" not in out.getvalue()
    print("30 empty cells kept without a word:", silent, "|", out.getvalue().strip())
    bad |= silent
except DataError as e:
    print("refused:", e)
sys.exit(bad)
