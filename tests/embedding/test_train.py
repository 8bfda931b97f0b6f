"""Training, files, resume, and the perturbation table."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch

from twinlib.embedding import train as room
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.perturbations import PerturbationTable
from twinlib.embedding.train import (
    gene_network,
    load_embedding,
    pretrained,
    save_embedding,
    scaled_cells,
    train_embedding,
)
from twinlib.errors import DataError

CONFIG = EmbeddingConfig(
    latent_dim=4,
    heads=2,
    channels=3,
    neighbours=3,
    hidden=8,
    readout=2,
    epochs=10,
    batch_size=32,
    learning_rate=1e-2,
)


@pytest.fixture(scope="module")
def trained(fake_prepared):
    return train_embedding(fake_prepared, CONFIG, seed=1)


def test_training_learns_and_keeps_the_best_pass(fake_prepared, trained):
    embedding, history = trained
    assert list(history.columns) == ["epoch", "train_mse", "validation_mse"]
    assert history["validation_mse"].min() < 0.6  # the cells have variance 1; three factors hold most of it
    stop = scaled_cells(fake_prepared, "validation")
    assert room.reconstruction_error(embedding, stop) == pytest.approx(
        history["validation_mse"].min(), rel=1e-5
    )


def test_test_cells_do_not_touch_the_training(fake_prepared, trained):
    x = fake_prepared.cells.X.copy()
    x[(fake_prepared.cells.obs["split"] == "test").to_numpy()] = 1e6
    cells = type(fake_prepared.cells)(X=x, obs=fake_prepared.cells.obs, uns=fake_prepared.cells.uns)
    again, _ = train_embedding(dataclasses.replace(fake_prepared, cells=cells), CONFIG, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained[0].parameters(), strict=True))


def test_the_seed_decides(fake_prepared, trained):
    other, _ = train_embedding(fake_prepared, CONFIG, seed=2)
    assert not torch.allclose(other.gene_vectors, trained[0].gene_vectors)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_does_not_decide(fake_prepared, threads):
    """The same codes at the start, whose components lie close, and the same error but for rounding after."""
    x = np.random.default_rng(0).normal(size=(400, 31)).astype(np.float32)
    cells = types.SimpleNamespace(X=x, obs=fake_prepared.cells.obs, uns={})
    genes = tuple(f"g{i}" for i in range(31))
    prepared = dataclasses.replace(fake_prepared, cells=cells, genes=genes, mean=x.mean(0), std=x.std(0))
    starts, errors = [], []
    for number in (1, 2):
        threads(number)
        starts.append(room._Trainer(prepared, EmbeddingConfig(), 0, "cpu").embedding.gene_vectors.detach())
        trainer = room._Trainer(prepared, EmbeddingConfig(latent_dim=8), 0, "cpu")
        trainer.run_epoch()
        errors.append(trainer.history[0]["validation_mse"])
    assert (starts[0] - starts[1]).abs().max() < 1e-6
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_patience_stops(fake_prepared):
    config = dataclasses.replace(CONFIG, epochs=50, learning_rate=0.0 + 1e-12, patience=1)
    _, history = train_embedding(fake_prepared, dataclasses.replace(config, learning_rate=1.0), seed=1)
    best = history["validation_mse"].idxmin()
    assert len(history) < 50 and len(history) - 1 - best == 1


def test_a_broken_run_resumes_to_the_same_weights(fake_prepared, trained, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    whole = room._Trainer.run_epoch

    def breaks(self):
        if len(self.history) == 3:
            raise KeyboardInterrupt
        whole(self)

    monkeypatch.setattr(room._Trainer, "run_epoch", breaks)
    with pytest.raises(KeyboardInterrupt):
        train_embedding(fake_prepared, CONFIG, seed=1, checkpoint=path)
    monkeypatch.undo()
    resumed, history = train_embedding(fake_prepared, CONFIG, seed=1, checkpoint=path)
    assert history.equals(trained[1])
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), trained[0].parameters(), strict=True))
    with pytest.raises(DataError, match="another file name"):
        train_embedding(fake_prepared, CONFIG, seed=2, checkpoint=path)


def test_saved_and_loaded_are_equal_and_carry_their_origin(trained, tmp_path):
    embedding, _ = trained
    save_embedding(embedding, tmp_path / "a.npz")
    again = load_embedding(tmp_path / "a.npz")
    x = torch.randn(5, 14)
    assert torch.equal(again.encode(x), embedding.encode(x))
    assert again.genes == embedding.genes and again.config == embedding.config
    assert again.meta == dict(dataset="fake", data_hash="0" * 8, fingerprint="f" * 8, seed=1)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_broken_file_is_one_sentence(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not a file")
    with pytest.raises(DataError, match="a.npz: not a whole embedding file"):
        load_embedding(tmp_path / "a.npz")
    with pytest.raises(DataError, match="b.npz: not a whole embedding file"):
        load_embedding(tmp_path / "b.npz")
    with pytest.raises(DataError, match="No packaged embedding for 'nowhere'"):
        pretrained("nowhere")


def test_require_refuses_other_cells(fake_prepared, trained):
    trained[0].require(fake_prepared)
    with pytest.raises(DataError, match="another preparation of 'fake'"):
        trained[0].require(dataclasses.replace(fake_prepared, fingerprint="other"))
    with pytest.raises(DataError, match="train it again"):
        trained[0].require(dataclasses.replace(fake_prepared, genes=("a",)))


def test_known_network_is_read_from_the_data(fake_prepared):
    table = gene_network(fake_prepared, "known")
    assert table[0].tolist() == [0, 1, 2] and table[4].tolist() == [4, 3, 4]
    embedding, _ = train_embedding(fake_prepared, dataclasses.replace(CONFIG, network="known", epochs=1))
    assert torch.equal(embedding.neighbours, table)
    bare = type(fake_prepared.cells)(X=fake_prepared.cells.X, obs=fake_prepared.cells.obs, uns={})
    with pytest.raises(DataError, match="carries no known regulators"):
        gene_network(dataclasses.replace(fake_prepared, cells=bare), "known")


def test_perturbation_features_add_up_and_scale(fake_prepared, trained):
    embedding, _ = trained
    table = PerturbationTable(fake_prepared, embedding)
    assert table.parts == ("g0", "g1", "outside") and table.dim == 4 + 1 + 3
    g0, g1, both, outside, control = table.features(["g0", "g1", "g0+g1", "outside", "control"])
    assert torch.equal(g0[:4], embedding.gene_vectors.detach()[0])
    assert g0[4:].tolist() == [1, 1, 0, 0] and both[4:].tolist() == [2, 1, 1, 0]
    assert torch.allclose(both, g0 + g1) and (control == 0).all()
    assert (outside[:5] == 0).all() and outside[5:].tolist() == [0, 0, 1]
    assert torch.allclose(table.features(["g0", "g0"], dose=[0.5, 0.0]), torch.stack([0.5 * g0, 0 * g0]))
    unseen = table.features(["g2"])[0]  # never trained on, but its target is measured
    assert torch.equal(unseen[:4], embedding.gene_vectors.detach()[2]) and unseen[4:].tolist() == [1, 0, 0, 0]
    assert table.features([]).shape == (0, table.dim)
    with pytest.raises(DataError, match="'far' occurs in no training cell"):
        table.features(["g0", "far"])
