import sys

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data.canonical import from_anndata
from twinlib.data.preparation import prepare
from twinlib.errors import DataError


def cells(labels, n=120, g=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(1.0, 2.0, g), (n, g)).astype(np.float32)
    obs = pd.DataFrame(
        {"guide": np.array(labels)[np.arange(n) % len(labels)]}, index=[f"c{i}" for i in range(n)]
    )
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))


m = from_anndata(cells(["NT", "G1", "G2"]), "guide", "NT")
bad = 0
for kw in (dict(keep_genes="G5"), dict(split="perturbations", held_out="G1")):
    try:
        prepare(m, 20, **kw)
    except (DataError, TypeError) as e:
        print(kw, "->", e)
        bad |= "['G', " in str(e)  # letters, not the name
sys.exit(bad)
