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


# several non-targeting guides, mapped to the control label like every other guide is mapped to its gene
a = cells(["NT1", "NT2", "g3", "g4"])
try:
    m = from_anndata(a, "guide", "NT", guide_targets={"NT1": "NT", "NT2": "NT", "g3": "G1", "g4": "G2"})
    found = sorted(m.obs["perturbation"].unique())
except DataError as e:
    found = f"refused: {e}"
print(found)
sys.exit(found != ["G1", "G2", "control"])
