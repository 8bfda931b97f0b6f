"""Counts whose truth is known, for the calibration of metrics: negative binomial cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

GENES = 40


def log_profile(rng: np.random.Generator, genes: int = GENES) -> np.ndarray:
    return rng.normal(0.5, 1.0, genes)


def cells(log_mean: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n cells in log1p(CP10k) units around expected counts exp(log_mean), with 400 counts of other genes."""
    mean = np.exp(log_mean)
    counts = rng.poisson(rng.gamma(1 / 0.3, 0.3 * mean, size=(n, len(mean))))
    total = counts.sum(1, keepdims=True) + 400
    return np.log1p(1e4 * counts / total)


def screen(
    effect: float, rng: np.random.Generator, controls: int = 250, arms: int = 20, n: int = 60
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Controls [m, G], cells of each arm [n, G], and the log profiles of both."""
    base = log_profile(rng)
    profiles = [
        base + effect * rng.normal(size=len(base)) * (rng.random(len(base)) < 0.3) for _ in range(arms)
    ]
    return cells(base, controls, rng), [cells(p, n, rng) for p in profiles], base, profiles


def canonical(controls: np.ndarray, perturbed: list[np.ndarray], contexts: int = 1) -> AnnData:
    """Canonical cells of a screen: labels p0, p1, ...; contexts and batches dealt out in turn."""
    labels = np.repeat(
        ["control", *(f"p{i}" for i in range(len(perturbed)))], [len(controls), *map(len, perturbed)]
    )
    x = np.concatenate([controls, *perturbed]).astype(np.float32)
    turn = np.arange(len(x))
    obs = pd.DataFrame(
        {
            "perturbation": labels,
            "perturbation_type": np.where(labels == "control", "none", "drug"),
            "dose": np.where(labels == "control", 0.0, 1.0),
            "cell_context": (turn % contexts).astype(str),
            "batch": "one",
            "target_measured": False,
        },
        index=[f"c{i}" for i in turn],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(x.shape[1])])
    facts = {"dataset": "simulated", "data_hash": "none", "scale": "log1p"}
    return AnnData(x, obs=obs, var=var, uns={"twinlib": facts})


def counted(seed: int, moved: float, names: Sequence[str] = ("g0", "g10", "g20", "g30")) -> AnnData:
    """Counts of two cell types under cell-eval2's names: four perturbations that each move ten genes."""
    rng = np.random.default_rng(seed)
    base = np.exp(np.random.default_rng(0).normal(1.5, 0.5, (2, 60)))
    which, context = np.tile(np.repeat(np.arange(5), 60), 2), np.repeat([0, 1], 300)
    own = np.arange(60) // 10 == which[:, None]
    counts = rng.poisson(base[context] * np.where(own & (which < 4)[:, None], moved, 1.0))
    obs = pd.DataFrame({"target_gene": np.array([*names, "non-targeting"])[which]})
    obs["context"] = np.array(["K562", "RPE1"])[context]
    obs.index = [f"seed {seed} cell {i}" for i in range(600)]
    return AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(60)]))
