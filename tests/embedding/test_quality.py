"""The scores of a code, and the packaged embeddings by these scores."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
import torch

from twinlib.data.preparation import standard
from twinlib.data.sources import DATASETS
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.effects import gene_effects
from twinlib.embedding.quality import (
    PrincipalComponents,
    attention_matrix,
    clamped,
    explained,
    neighbour_recovery,
    regulator_matrix,
)
from twinlib.embedding.train import CHECKPOINTS, pretrained, train_embedding
from twinlib.errors import DataError

PACKAGED = [name for name, entry in DATASETS.items() if entry.embedding_epochs]


@pytest.fixture(scope="module")
def waddington():
    return standard("waddington")


def split_rows(prepared, split, perturbation):
    obs = prepared.obs
    return np.flatnonzero((obs["split"] == split) & (obs["perturbation"] == perturbation))


@pytest.fixture
def two_groups():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "perturbation": np.where(np.arange(400) % 4 == 0, "A", "control"),
            "split": np.where(rng.random(400) < 0.5, "train", "test"),
        }
    )
    fake = types.SimpleNamespace(obs=obs)
    fake.rows = lambda split, label: split_rows(fake, split, label)
    return fake


def test_recovery_is_one_for_separate_groups_and_a_half_for_none(two_groups):
    rng = np.random.default_rng(1)
    apart = rng.normal(size=(400, 3)) + 20.0 * (two_groups.obs["perturbation"] == "A").to_numpy()[:, None]
    assert neighbour_recovery(apart, two_groups, "A") == 1.0
    together = [neighbour_recovery(rng.normal(size=(400, 3)), two_groups, "A", seed=s) for s in range(20)]
    assert abs(np.mean(together) - 0.5) < 0.05
    with pytest.raises(DataError, match="'B' has no training or no test cell"):
        neighbour_recovery(apart, two_groups, "B")


def test_explained_is_one_for_the_truth_and_zero_for_the_centre():
    x = np.random.default_rng(0).normal(size=(30, 4))
    centre = x.mean(0)
    assert explained(x, x, centre) == 1.0
    assert explained(x, np.broadcast_to(centre, x.shape), centre) == 0.0


def test_principal_components_equal_scikit_learn():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=(60, 9)) @ np.random.default_rng(1).normal(size=(9, 9))
    ours, theirs = PrincipalComponents(x, 4), PCA(4, svd_solver="full").fit(x)
    new = np.random.default_rng(2).normal(size=(5, 9))
    assert np.allclose(ours.decode(ours.encode(new)), theirs.inverse_transform(theirs.transform(new)))


@pytest.mark.parametrize("dataset", PACKAGED)
def test_packaged_files_are_small_and_say_where_they_come_from(dataset):
    assert (CHECKPOINTS / f"{dataset}.npz").stat().st_size < 1_000_000
    embedding = pretrained(dataset)
    assert set(embedding.meta) == {"dataset", "data_hash", "fingerprint", "seed"}
    assert embedding.meta["dataset"] == dataset and embedding.latent_dim == 32
    assert embedding.config == EmbeddingConfig(epochs=DATASETS[dataset].embedding_epochs)


def test_the_packaged_embedding_of_waddington_beats_pca_on_test_cells(waddington):
    embedding = pretrained("waddington")
    embedding.require(waddington)
    train, test = clamped(waddington, "train"), clamped(waddington, "test")
    pca = PrincipalComponents(train, embedding.latent_dim)
    with torch.no_grad():
        back = embedding(torch.as_tensor(test)).numpy()
    linear = explained(test, pca.decode(pca.encode(test)), train.mean(0))
    assert explained(test, back, train.mean(0)) > linear


@pytest.mark.parametrize("dataset", ["papalexi2021", "norman2019", "kang2018", "cross_study"])
def test_packaged_embeddings_belong_to_the_real_files_and_beat_pca(dataset, real_data):
    prepared = standard(dataset)
    embedding = pretrained(dataset)
    embedding.require(prepared)
    train, test = clamped(prepared, "train"), clamped(prepared, "test")[:600]
    pca = PrincipalComponents(train, embedding.latent_dim)
    with torch.no_grad():
        back = embedding(torch.as_tensor(test)).numpy()
    linear = explained(test, pca.decode(pca.encode(test)), train.mean(0))
    assert explained(test, back, train.mean(0)) > linear


def test_attention_matrix_spreads_the_weights_over_the_graph(waddington):
    embedding = pretrained("waddington")
    matrix = attention_matrix(embedding, clamped(waddington, "test")[:40])
    assert np.allclose(matrix.sum(1), 1, atol=1e-5)
    linked = np.zeros_like(matrix, dtype=bool)
    np.put_along_axis(linked, embedding.neighbours.numpy(), True, axis=1)
    assert (matrix[~linked] == 0).all() and (matrix[linked] > 0).all()


def test_regulators_are_those_of_the_simulator(waddington):
    truth = regulator_matrix(waddington)
    known = waddington.cells.uns["twinlib"]["regulators"]
    fog1, gata1 = waddington.genes.index("Fog1"), waddington.genes.index("Gata1")
    assert truth[fog1, gata1] and not truth.diagonal().any()
    in_panel = [
        (r, t)
        for r, t in zip(known["regulator"], known["target"], strict=True)
        if r != t and r in waddington.genes and t in waddington.genes
    ]
    assert truth.sum() == len(set(in_panel))


def test_gene_effects_of_a_packaged_embedding_equal_finite_differences(waddington):
    embedding = pretrained("waddington").double()
    x = torch.as_tensor(clamped(waddington, "train")[:16], dtype=torch.float64)
    effects = gene_effects(embedding, x)
    step = 1e-6
    for g in (0, 17, 63):
        nudge = torch.zeros(x.shape[1], dtype=torch.float64)
        nudge[g] = step
        with torch.no_grad():
            slope = (embedding.encode(x + nudge) - embedding.encode(x - nudge)).mean(0) / (2 * step)
        assert (slope - effects[g]).abs().max() < 1e-3 * effects.abs().max()


def test_the_known_network_switch_trains_on_waddington(waddington):
    config = EmbeddingConfig(network="known", epochs=1, batch_size=512, heads=2, channels=4)
    rows = np.concatenate([waddington.rows("train")[:500], waddington.rows("validation")[:100]])
    small = dataclasses.replace(waddington, cells=waddington.cells[rows].copy())
    embedding, _ = train_embedding(small, config)
    fog1, gata1 = waddington.genes.index("Fog1"), waddington.genes.index("Gata1")
    assert gata1 in embedding.neighbours[fog1].tolist()
