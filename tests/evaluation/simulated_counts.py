"""Counts whose truth is known, for the calibration of metrics: negative binomial cells."""

from __future__ import annotations

import numpy as np

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
