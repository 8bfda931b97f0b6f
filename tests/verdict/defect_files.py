"""Three simulated files with the defects that users' files have: made in a second."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

GENES = 80


def counts_of(rng: np.random.Generator, change: np.ndarray, depth: float = 1500.0) -> np.ndarray:
    """Negative binomial counts [n, G] of cells whose log expression is changed by [n, G]."""
    base = rng.gamma(0.6, 1.0, change.shape[1]) + 0.02
    share = base * np.exp(change)
    share /= share.sum(axis=1, keepdims=True)
    mean = share * depth * rng.lognormal(0.0, 0.3, len(change))[:, None]
    return rng.negative_binomial(4.0, 4.0 / (4.0 + mean)).astype(np.float32)


def directions(rng: np.random.Generator, names: list[str], size: float) -> dict[str, np.ndarray]:
    return {name: rng.normal(0.0, size, GENES) * (rng.random(GENES) < 0.3) for name in names}


def wrapped(x: np.ndarray, obs: pd.DataFrame, var: pd.DataFrame) -> anndata.AnnData:
    obs.index = pd.Index([f"cell_{i:05d}" for i in range(len(obs))])
    return anndata.AnnData(sparse.csr_matrix(x), obs=obs, var=var)


def drug_screen(seed: int = 0, per_group: int = 40) -> anndata.AnnData:
    """Three drugs at four doses on three plates, as sci-Plex calls its columns.

    X is log2(1 + counts per million) beside a layer of counts, one plate has no vehicle, one drug
    stands on one plate only, and doses span a thousandfold.
    """
    rng = np.random.default_rng(seed)
    drugs, doses, plates = ["Nutlin", "BMS", "Dex"], [0.01, 0.1, 1.0, 10.0], ["P1", "P2", "P3"]
    rows = [(drug, dose, plates[i % 3]) for drug in drugs for dose in doses for i in range(per_group)]
    rows = [(drug, dose, "P2" if drug == "Dex" else plate) for drug, dose, plate in rows]
    rows += [("Vehicle", 0.0, plates[i % 2]) for i in range(6 * per_group)]
    obs = pd.DataFrame(rows, columns=["product_name", "dose", "plate"])
    effect = directions(rng, drugs, 0.5) | {"Vehicle": np.zeros(GENES)}
    change = np.stack([effect[drug] * np.log10(1 + 100 * dose) / 2 for drug, dose, _ in rows])
    counts = counts_of(rng, change)
    logged = np.log2(1 + 1e6 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    cells = wrapped(logged, obs, pd.DataFrame(index=[f"G{i}" for i in range(GENES)]))
    cells.layers["raw_counts"] = sparse.csr_matrix(counts)
    return cells


def weak_crispr(seed: int = 0, per_target: int = 60) -> anndata.AnnData:
    """Ten targets with small effects, as pertpy calls its columns.

    Genes are named by ENSEMBL and targets by symbols, two targets have 12 and 3 cells, a quarter of the cells
    carry two guides, and half of the counts lie in genes that the file leaves out.
    """
    rng = np.random.default_rng(seed)
    targets = [f"TGT{i}" for i in range(10)]
    sizes = [per_target] * 8 + [12, 3]
    rows = [
        (name, f"{name}_g{1 + i % 3}") for name, size in zip(targets, sizes, strict=True) for i in range(size)
    ]
    rows += [("NT", f"NT_{1 + i % 5}") for i in range(5 * per_target)]
    obs = pd.DataFrame(rows, columns=["gene_target", "guide_ID"])
    obs["replicate"] = [f"rep{1 + i % 2}" for i in range(len(obs))]
    effect = directions(rng, targets, 0.05) | {"NT": np.zeros(GENES)}
    for i, name in enumerate(targets):
        effect[name][i] = -0.7
    counts = counts_of(rng, np.stack([effect[name] for name in obs["gene_target"]]))
    obs["nCount_RNA"] = np.rint(counts.sum(axis=1) * rng.normal(2.0, 0.05, len(obs)))
    symbols = [*targets, *(f"SYM{i}" for i in range(GENES - 10))]
    var = pd.DataFrame({"gene_symbol": symbols}, index=[f"ENSG{i:011d}" for i in range(GENES)])
    cells = wrapped(counts, obs, var)
    leading = np.where(rng.random(len(obs)) < 0.25, 6, 10)
    cells.obsm["guide_counts"] = np.column_stack([leading, 10 - leading]).astype(np.float32)
    return cells


def donors_and_types(seed: int = 0, per_group: int = 45) -> anndata.AnnData:
    """One cytokine on three cell types of three donors, as GEARS and scGen call their columns.

    Counts are corrected for ambient RNA (fractional), a fourth type has no control, and the types are not
    spread alike over the arms.
    """
    rng = np.random.default_rng(seed)
    shares = {"ctrl": {"B": 3, "CD4T": 1, "Mono": 2}, "IFN-beta": {"B": 1, "CD4T": 3, "Mono": 2, "pDC": 1}}
    rows = [
        (condition, kind, f"donor{1 + i % 3}")
        for condition, mixture in shares.items()
        for kind, weight in mixture.items()
        for i in range(weight * per_group)
    ]
    obs = pd.DataFrame(rows, columns=["condition", "cell_type", "donor"])
    kinds = directions(rng, ["B", "CD4T", "Mono", "pDC"], 1.0)
    shared = directions(rng, ["IFN-beta"], 0.8)["IFN-beta"]
    effect = {kind: shared + own for kind, own in directions(rng, list(kinds), 0.3).items()}
    change = np.stack([kinds[k] + (c != "ctrl") * effect[k] for c, k, _ in rows])
    counts = counts_of(rng, change)
    ambient = counts.sum(axis=0) / counts.sum()
    corrected = np.maximum(counts - 0.1 * counts.sum(axis=1, keepdims=True) * ambient, 0.0)
    return wrapped(corrected.astype(np.float32), obs, pd.DataFrame(index=[f"G{i}" for i in range(GENES)]))


FILES = {"drug_screen": drug_screen, "weak_crispr": weak_crispr, "donors_and_types": donors_and_types}
