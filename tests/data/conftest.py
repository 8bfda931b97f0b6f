from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from twinlib.data.canonical import from_anndata
from twinlib.data.sources import load

LABELS = ("control", "A", "B", "A+B", "unmeasured")


def make_raw(seed: int = 0, n_per_group: int = 40, n_genes: int = 30, contexts: int = 2) -> anndata.AnnData:
    """Raw counts of five groups; A lowers gene A, B raises gene B, and A+B does both."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(LABELS, n_per_group)
    genes = ["A", "B", *(f"g{i}" for i in range(n_genes - 2))]
    mean = np.tile(rng.gamma(1.0, 2.0, n_genes) + 0.2, (len(labels), 1))
    mean[np.char.find(labels, "A") >= 0, 0] *= 0.3
    mean[np.char.find(labels, "B") >= 0, 1] *= 2.0
    counts = rng.poisson(mean).astype(np.float32)
    number = np.arange(len(labels))
    obs = pd.DataFrame(
        {
            "label": labels,
            "context": [f"type {i % contexts}" for i in number],
            "batch": [f"lane {i % 3}" for i in number],
            "dose": np.where(labels == "control", 0.0, np.where(number % 4 < 2, 0.5, 1.0)),
        },
        index=[f"cell {i}" for i in number],
    )
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))


def bring(raw: anndata.AnnData, **more: object) -> anndata.AnnData:
    keys = {"context_key": "context", "batch_key": "batch", "dose_key": "dose", "control": "control"} | more
    return from_anndata(raw, "label", **keys)


@pytest.fixture
def raw() -> anndata.AnnData:
    return make_raw()


@pytest.fixture
def cells(raw: anndata.AnnData) -> anndata.AnnData:
    return bring(raw)


@pytest.fixture(scope="session")
def papalexi(real_data):
    return load("papalexi2021", data_dir=real_data)


@pytest.fixture(name="make_raw", scope="session")
def make_raw_fixture():
    return make_raw


@pytest.fixture(name="bring", scope="session")
def bring_fixture():
    return bring
