"""The compiled loops against the plain definition: numbers, derivatives, corners, who takes which path."""

from __future__ import annotations

import numba
import pytest
import torch

from twinlib.embedding import fused_attention
from twinlib.embedding.attention import Embedding, EmbeddingConfig, GraphAttention, attend
from twinlib.embedding.gene_graph import from_edges, knn_graph
from twinlib.errors import DataError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)
GENES = 7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


TABLES = {
    "nearest": knn_graph(torch.randn(40, GENES, generator=seeded()), 3),
    "one neighbour": knn_graph(torch.randn(40, GENES, generator=seeded()), 1),
    "known, most genes alone": from_edges(
        [("g1", "g0"), ("g2", "g0"), ("g5", "g3"), ("g3", "g3")], [f"g{i}" for i in range(GENES)]
    ),
    "itself alone": torch.arange(GENES).unsqueeze(1),
}


def layer_of(table, dtype=torch.float64):
    layer = GraphAttention(table, 5, heads=2, channels=3, generator=seeded(1)).to(dtype)
    for bias in (layer.bias, layer.source_bias, layer.target_bias):
        bias.data = torch.randn(bias.shape, generator=seeded(2)).to(dtype)
    return layer


def nodes_of(cells, dtype=torch.float64):
    return torch.randn(GENES, 5, cells, generator=seeded(3)).to(dtype)


def plain(layer, nodes):
    """What the layer returns where its loops are not compiled."""
    mixed = attend(layer._source(nodes), layer._target(nodes), layer.score, layer.neighbours, layer.mask)
    return mixed.flatten(1, 2) + layer.bias.unsqueeze(-1)


def output_and_gradients(call, layer, nodes):
    nodes = nodes.detach().requires_grad_(True)
    out = call(nodes)
    direction = torch.randn(out.shape, generator=seeded(4)).to(out)
    return [out.detach(), *torch.autograd.grad((out * direction).sum(), [nodes, *layer.parameters()])]


def assert_near(ours, theirs, dtype=torch.float64):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=True)


@DTYPES
@pytest.mark.parametrize("cells", [1, 4, 33])
@pytest.mark.parametrize("name", TABLES)
def test_loops_equal_the_definition(name, cells, dtype):
    layer, nodes = layer_of(TABLES[name], dtype), nodes_of(cells, dtype)
    ours = output_and_gradients(layer, layer, nodes)
    assert_near(ours, output_and_gradients(lambda x: plain(layer, x), layer, nodes), dtype)


def test_the_layer_takes_the_loops_for_floats_on_a_processor():
    layer, nodes = layer_of(TABLES["nearest"]), nodes_of(2)
    mixed = layer._mix(layer._source(nodes), nodes)
    assert type(mixed.grad_fn).__name__ == "_FusedAttendBackward"
    half = layer.to(torch.bfloat16)
    nodes = nodes.to(torch.bfloat16)
    assert torch.equal(half(nodes), plain(half, nodes))
    assert type(half._mix(half._source(nodes), nodes).grad_fn).__name__ != "_FusedAttendBackward"


def test_the_layout_of_the_input_does_not_matter():
    layer, nodes = layer_of(TABLES["nearest"]), nodes_of(6)
    strided = nodes.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    expected = output_and_gradients(layer, layer, nodes)
    assert_near(output_and_gradients(layer, layer, strided), expected)
    source, target = layer._source(nodes).detach(), layer._target(nodes).detach()
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(True) for x in (source, target)]
    wide = layer._mix(turned[0], nodes)
    assert torch.equal(wide, layer._mix(source, nodes))
    (constant,) = torch.autograd.grad(wide.sum(), turned[0], retain_graph=True)  # an expanded gradient
    (ones,) = torch.autograd.grad(wide, turned[0], torch.ones_like(wide))
    assert torch.equal(constant, ones)


@pytest.mark.parametrize("name", TABLES)
def test_first_and_second_derivatives(name):
    layer, nodes = layer_of(TABLES[name]), nodes_of(2).requires_grad_(True)
    inputs = (nodes, *layer.parameters())
    assert torch.autograd.gradcheck(lambda n, *_: layer(n), inputs)
    assert torch.autograd.gradgradcheck(lambda n, *_: layer(n), inputs)


def test_transforms_of_functions_take_the_definition():
    config = EmbeddingConfig(latent_dim=4, heads=2, channels=3, hidden=5, readout=2)
    names = [f"g{i}" for i in range(GENES)]
    embedding = Embedding(names, TABLES["nearest"], config, seeded()).double()
    x = torch.randn(3, GENES, generator=seeded(5), dtype=torch.float64).requires_grad_(True)
    z = embedding.encode(x)
    rows = [torch.autograd.grad(z[:, d].sum(), x, retain_graph=True)[0] for d in range(4)]
    expected = torch.stack(rows, dim=1)  # [n, D, G]
    one_cell = torch.func.vmap(torch.func.jacrev(lambda cell: embedding.encode(cell[None])[0]))
    assert_near([one_cell(x)], [expected])
    forward = torch.func.vmap(torch.func.jacfwd(lambda cell: embedding.encode(cell[None])[0]))
    assert_near([forward(x)], [expected])
    every = torch.eye(4, dtype=torch.float64).unsqueeze(1).expand(4, 3, 4)
    batched = torch.func.vmap(lambda direction: torch.autograd.grad(z, x, direction, retain_graph=True)[0])(
        every
    )
    assert_near([batched.transpose(0, 1)], [expected])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", TABLES)
def test_nan_and_infinity_are_not_hidden(name, bad):
    layer, nodes = layer_of(TABLES[name]), nodes_of(5)
    nodes[2, 1, 3] = bad
    ours = output_and_gradients(layer, layer, nodes)
    theirs = output_and_gradients(lambda x: plain(layer, x), layer, nodes)
    assert torch.equal(ours[0].isnan(), theirs[0].isnan())
    hears = (layer.neighbours == 2).any(1)
    assert ours[0][hears, :, 3].isnan().any(1).all()
    ours[0][hears, :, 3] = 0.0
    assert ours[0].isfinite().all()
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_a_nan_gradient_stays_one():
    layer, nodes = layer_of(TABLES["nearest"]), nodes_of(2).requires_grad_(True)
    weight = torch.ones(GENES, 6, 2, dtype=torch.float64)
    weight[0, 0, 0] = float("nan")
    (gradient,) = torch.autograd.grad((layer(nodes) * weight).sum(), nodes)
    assert gradient[layer.neighbours[0], :, 0].isnan().all() and gradient[..., 1].isfinite().all()


@DTYPES
def test_the_same_bits_every_time(dtype):
    layer, nodes = layer_of(TABLES["nearest"], dtype), nodes_of(33, dtype)
    first, second = (output_and_gradients(layer, layer, nodes) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_machine_code_is_kept_on_disk_where_that_can_be(monkeypatch):
    assert fused_attention._add_scores.stats.cache_path
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    def double(x):
        x *= 2.0

    values = torch.ones(3).numpy()
    fused_attention.compiled(double)(values)
    assert values.tolist() == [2.0, 2.0, 2.0]


def test_the_loops_never_leave_their_arrays():
    table = TABLES["nearest"].clone()
    with pytest.raises(DataError, match="nodes of 6 genes, but a table of 7"):
        layer_of(table)(nodes_of(2)[:6])
    table[3, 1] = GENES
    with pytest.raises(DataError, match="a neighbour lies outside the table's 7 genes"):
        layer_of(table)
