"""The batched attention against PyG and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinlib.embedding.attention import Embedding, EmbeddingConfig, GraphAttention
from twinlib.embedding.effects import gene_effects
from twinlib.embedding.gene_graph import edge_index, from_edges, knn_graph
from twinlib.errors import DataError


def small(attention="learned", seed=0, dtype=torch.float64, neighbours=None):
    generator = torch.Generator().manual_seed(seed)
    x = np.random.default_rng(seed).normal(size=(50, 12))
    neighbours = knn_graph(x, 4) if neighbours is None else neighbours
    config = EmbeddingConfig(latent_dim=6, heads=2, channels=3, hidden=7, readout=2, attention=attention)
    return Embedding([f"g{i}" for i in range(12)], neighbours, config, generator).to(dtype)


def pyg_layer(layer, edges, nodes):
    """The same layer as PyG computes it: one disjoint graph a cell, nodes [n, G, F]."""
    conv_module = pytest.importorskip("torch_geometric.nn")
    n, n_genes, features = nodes.shape
    conv = conv_module.GATv2Conv(features, layer.channels, heads=layer.heads, add_self_loops=False)
    conv = conv.to(nodes.dtype)
    with torch.no_grad():
        conv.lin_l.weight.copy_(layer.source)
        conv.lin_l.bias.copy_(layer.source_bias)
        conv.lin_r.weight.copy_(layer.target)
        conv.lin_r.bias.copy_(layer.target_bias)
        conv.att.copy_(layer.score.unsqueeze(0))
        conv.bias.copy_(layer.bias)
    union = (edges.unsqueeze(1) + torch.arange(n).view(1, -1, 1) * n_genes).reshape(2, -1)
    return conv(nodes.reshape(n * n_genes, features), union).reshape(n, n_genes, -1)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_pyg_on_a_disjoint_union(known, dtype):
    generator = torch.Generator().manual_seed(3)
    genes = [f"g{i}" for i in range(12)]
    edges = [("g1", "g0"), ("g2", "g0"), ("g5", "g3"), ("g3", "g5"), ("g7", "g11"), ("g8", "g0")]
    table = from_edges(edges, genes) if known else knn_graph(torch.randn(40, 12, generator=generator), 4)
    layer = GraphAttention(table, 5, heads=4, channels=8, generator=generator).to(dtype)
    for bias in (layer.bias, layer.source_bias, layer.target_bias):
        bias.data = torch.randn(bias.shape, generator=generator).to(dtype)
    nodes = torch.randn(7, 12, 5, generator=generator).to(dtype)
    ours = layer(nodes.permute(1, 2, 0)).permute(2, 0, 1)
    theirs = pyg_layer(layer, edge_index(table), nodes)
    assert (ours - theirs).abs().max() < (1e-5 if dtype == torch.float32 else 1e-12)


def test_equals_a_loop_over_nodes_heads_and_neighbours():
    generator = torch.Generator().manual_seed(1)
    table = knn_graph(torch.randn(40, 6, generator=generator), 3)
    layer = GraphAttention(table, 2, heads=2, channels=3, generator=generator).double()
    h = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for i in range(6):
        for head in range(2):
            rows = slice(3 * head, 3 * head + 3)
            source, target = layer.source[rows], layer.target[rows]
            scores = [
                layer.score[head] @ torch.nn.functional.leaky_relu(target @ h[i] + source @ h[j], 0.2)
                for j in table[i]
            ]
            alpha = torch.stack(scores).softmax(0)
            expected[i, rows] = sum(a * (source @ h[j]) for a, j in zip(alpha, table[i], strict=True))
    assert torch.allclose(layer(h.unsqueeze(-1))[..., 0], expected, atol=1e-12)


@pytest.mark.parametrize("attention", ["learned", "uniform", "none", "random"])
def test_weights_sum_to_one_and_padding_gets_none(attention):
    genes = [f"g{i}" for i in range(12)]
    table = from_edges([("g1", "g0"), ("g2", "g0"), ("g5", "g3")], genes)
    embedding = small(attention, neighbours=table)
    weights = embedding.attention_weights(torch.randn(5, 12, dtype=torch.float64))
    assert weights.shape == (2, 12, 3, 2)
    assert torch.allclose(weights.sum(2), torch.ones(2, 12, 2, dtype=torch.float64))
    assert (weights[:, 3, 2] == 0).all() and (weights[:, 7, 1:] == 0).all()
    if attention == "uniform":
        assert torch.allclose(weights[:, 0], torch.full_like(weights[:, 0], 1 / 3))


def test_without_attention_a_gene_never_hears_another():
    x = torch.randn(3, 12, dtype=torch.float64)
    for attention, heard in (("none", False), ("learned", True)):
        embedding = small(attention)
        nodes = embedding.encoder._first_nodes(x.T.unsqueeze(1), embedding.gene_vectors)
        layer = embedding.encoder.layers[0]
        moved = nodes.clone()
        neighbour = int(embedding.neighbours[0, 1])
        moved[neighbour] += 1.0
        assert bool((layer(moved)[0] - layer(nodes)[0]).abs().max() > 1e-6) is heard


def test_random_weights_stay_frozen_and_the_read_out_does_not():
    frozen = {name for name, p in small("random").named_parameters() if not p.requires_grad}
    assert "encoder.layers.0.score" in frozen and "encoder.expression" in frozen
    assert not frozen & {"encoder.readout", "decoder.inner", "gene_vectors"}
    assert all(p.requires_grad for p in small("learned").parameters())


def test_leading_axes_and_chunks_do_not_matter():
    embedding = small()
    x = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    z = embedding.encode(x)
    assert z.shape == (2, 3, 5, 6) and embedding.decode(z).shape == x.shape
    assert torch.allclose(embedding.encode(x[1, 2]), z[1, 2], atol=1e-12)
    assert torch.allclose(embedding.encode(x, chunk=4), z, atol=1e-12)
    assert embedding.encode(x[0, 0, 0]).shape == (6,)
    assert embedding.encode(x[:0]).shape == (0, 3, 5, 6)


def test_encode_clamps_its_input_and_decode_does_not():
    embedding = small()
    x = torch.zeros(12, dtype=torch.float64)
    far, edge = x.clone(), x.clone()
    far[0], edge[0] = 1000.0, 10.0
    assert torch.equal(embedding.encode(far), embedding.encode(edge))
    z = torch.full((6,), 100.0, dtype=torch.float64)
    assert embedding.decode(z).abs().max() > 10


def test_wrong_panel_is_one_sentence():
    with pytest.raises(DataError, match="embedding knows 12"):
        small().encode(torch.zeros(3, 11, dtype=torch.float64))
    with pytest.raises(DataError, match="attention='loud'"):
        EmbeddingConfig(attention="loud")
    with pytest.raises(DataError, match="network='wire'"):
        EmbeddingConfig(network="wire")
    with pytest.raises(DataError, match="heads=0"):
        EmbeddingConfig(heads=0)


def test_gene_effects_equal_finite_differences():
    embedding = small()
    x = torch.randn(9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    effects = gene_effects(embedding, x)
    assert effects.shape == (12, 6)
    step = 1e-5
    with torch.no_grad():
        for g in range(12):
            up, down = x.clone(), x.clone()
            up[:, g] += step
            down[:, g] -= step
            slope = (embedding.encode(up) - embedding.encode(down)).mean(0) / (2 * step)
            assert (slope - effects[g]).abs().max() < 1e-3 * effects.abs().max()


@pytest.mark.parametrize("known", [False, True])
def test_the_hand_written_backward_pass_is_the_derivative(known):
    genes = [f"g{i}" for i in range(6)]
    generator = torch.Generator().manual_seed(7)
    table = knn_graph(torch.randn(40, 6, generator=generator), 3)
    if known:
        table = from_edges([("g1", "g0"), ("g2", "g0"), ("g5", "g3")], genes)
    layer = GraphAttention(table, 2, heads=2, channels=3, generator=generator).double()
    nodes = torch.randn(6, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.parameters())
    assert torch.autograd.gradcheck(lambda n, *_: layer(n), (nodes, *parameters))


@pytest.mark.parametrize("attention", ["learned", "uniform", "none"])
def test_the_output_is_the_weighted_sum_of_the_shown_weights(attention):
    genes = [f"g{i}" for i in range(5)]
    table = from_edges([("g1", "g0"), ("g2", "g0"), ("g4", "g3")], genes)
    layer = GraphAttention(table, 2, 2, 3, torch.Generator().manual_seed(1), attention).double()
    nodes = torch.randn(5, 2, 4, dtype=torch.float64)
    source = (layer.source @ nodes).view(5, 2, 3, 4)
    expected = torch.einsum("gkhn,gkhcn->ghcn", layer.weights(nodes), source[table]).flatten(1, 2)
    assert torch.allclose(layer(nodes), expected, atol=1e-12)


def test_the_start_is_a_pca():
    embedding = small()
    x = torch.randn(60, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    x = x / x.std(0)
    embedding.start_at_principal_components(x, torch.Generator().manual_seed(2))
    centred = x - x.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    expected = (u[:, :6] * s[:6]) @ v[:6] + x.mean(0)
    assert torch.allclose(embedding(x), expected, atol=1e-10)
    z = embedding.encode(x)
    assert torch.allclose(z.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(z.square().sum(), s[:6].square().sum())
