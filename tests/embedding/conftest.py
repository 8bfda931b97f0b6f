"""A small stand-in of `Prepared`: random cells of low rank, so that these tests need no other room's data."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest


@dataclasses.dataclass(frozen=True)
class FakePrepared:
    cells: types.SimpleNamespace
    mean: np.ndarray
    std: np.ndarray
    genes: tuple[str, ...]
    measured: tuple[str, ...] = ("g0", "g1", "g2")
    train_perturbations: tuple[str, ...] = ("g0", "g1", "g0+g1", "outside")
    dataset: str = "fake"
    data_hash: str = "0" * 8
    fingerprint: str = "f" * 8

    def scale(self, x):
        return (x - self.mean) / self.std

    def expression(self, split, perturbation=None, context=None):
        rows = self.cells.obs["split"] == split
        if perturbation is not None:
            rows &= self.cells.obs["perturbation"] == perturbation
        return self.cells.X[rows.to_numpy()]


@pytest.fixture(scope="session")
def fake_prepared():
    rng = np.random.default_rng(0)
    n, genes = 400, tuple(f"g{i}" for i in range(14))
    factors = rng.normal(size=(n, 3))
    x = (factors @ rng.normal(size=(3, len(genes))) + 0.5 * rng.normal(size=(n, len(genes)))).astype(
        np.float32
    )
    obs = pd.DataFrame(
        {
            "split": np.select(
                [np.arange(n) % 5 == 0, np.arange(n) % 5 == 1], ["test", "validation"], "train"
            ),
            "perturbation": np.where(np.arange(n) % 2 == 0, "control", "g0"),
        }
    )
    uns = {"twinlib": {"regulators": {"regulator": ["g1", "g2", "g3"], "target": ["g0", "g0", "g4"]}}}
    train = x[(obs["split"] == "train").to_numpy()]
    cells = types.SimpleNamespace(X=x, obs=obs, uns=uns)
    return FakePrepared(cells, train.mean(0), train.std(0), genes)
