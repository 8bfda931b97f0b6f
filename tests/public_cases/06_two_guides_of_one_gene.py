import sys

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data.canonical import from_anndata


def cells(labels, n=120, g=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(1.0, 2.0, g), (n, g)).astype(np.float32)
    obs = pd.DataFrame(
        {"guide": np.array(labels)[np.arange(n) % len(labels)]}, index=[f"c{i}" for i in range(n)]
    )
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))


# g1, g2, g3 hit G1; cells with g1 and g2 have one target, not a combination
a = cells(["NT", "g1+g2", "g3", "g4"])
m = from_anndata(a, "guide", "NT", guide_targets={"g1": "G1", "g2": "G1", "g3": "G1", "g4": "G2"})
found = sorted(m.obs["perturbation"].unique())
print(found, "single-guide cells became:", set(m.obs["perturbation"][a.obs["guide"].to_numpy() == "g3"]))
sys.exit(found != ["G1", "G2", "control"])
