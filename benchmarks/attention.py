"""Our batched attention, compiled and plain, beside PyG on a disjoint union; a training step; encoding.

Prints one JSON line a figure: one layer with 4 heads x 8 channels on 200 genes with 8 neighbours, whose
outputs are compared before they are timed. All take turns, so that a busy machine slows all: `us_a_cell`
holds each one's least and median time, `times_ours` the median over turns of its time in units of ours.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from unittest import mock

import torch
from torch_geometric.nn import GATv2Conv

from twinlib.embedding import attention
from twinlib.embedding.attention import Embedding, EmbeddingConfig, GraphAttention
from twinlib.embedding.gene_graph import edge_index, knn_graph

GENES, NEIGHBOURS, HEADS, CHANNELS, FEATURES, CHUNK = 200, 8, 4, 8, 32, 32
TURNS = 15


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(name, cells, calls, turns=TURNS):
    """Time each call once a turn, `ours` among them; the first turn warms up and is not counted."""
    rows = [{key: timed(call) / cells * 1e6 for key, call in calls.items()} for _ in range(turns + 1)][1:]
    times = {key: [row[key] for row in rows] for key in calls}
    figure = {
        "name": name,
        "us_a_cell": {key: [round(min(t), 1), round(median(t), 1)] for key, t in times.items()},
        "times_ours": {
            key: round(median(row[key] / row["ours"] for row in rows), 2) for key in calls if key != "ours"
        },
    }
    print(json.dumps(figure), flush=True)


def plainly(call):
    """The same call where our layer takes the plain definition."""
    return mock.patch.object(attention, "_fusable", lambda like: False)(call)


def pyg_twin(layer):
    conv = GATv2Conv(FEATURES, CHANNELS, heads=HEADS, add_self_loops=False)
    with torch.no_grad():
        conv.lin_l.weight.copy_(layer.source)
        conv.lin_l.bias.copy_(layer.source_bias)
        conv.lin_r.weight.copy_(layer.target)
        conv.lin_r.bias.copy_(layer.target_bias)
        conv.att.copy_(layer.score.unsqueeze(0))
        conv.bias.copy_(layer.bias)
    return conv


def union(table, cells):
    offsets = GENES * torch.arange(cells).view(1, -1, 1)
    return (edge_index(table).unsqueeze(1) + offsets).reshape(2, -1)


def loop_over_nodes(layer, table, nodes):
    """The definition written down, for one cell: nodes [G, F] -> [G, heads * channels]."""
    rows = []
    for i in range(GENES):
        source = nodes[table[i]] @ layer.source.T + layer.source_bias
        target = nodes[i] @ layer.target.T + layer.target_bias
        hidden = torch.nn.functional.leaky_relu(source + target, 0.2).view(-1, HEADS, CHANNELS)
        weight = (hidden * layer.score).sum(-1).softmax(0)
        rows.append((weight.unsqueeze(-1) * source.view(-1, HEADS, CHANNELS)).sum(0).flatten())
    return torch.stack(rows) + layer.bias


def in_chunks(layer, nodes):
    return torch.cat([layer(part) for part in nodes.split(CHUNK, dim=2)], dim=2)


def with_backward(layer, call, nodes):
    return torch.autograd.grad(call(nodes).square().sum(), [nodes, *layer.parameters()])


def layers(generator, cells=256):
    table = knn_graph(torch.randn(300, GENES, generator=generator), NEIGHBOURS)
    layer = GraphAttention(table, FEATURES, HEADS, CHANNELS, generator)
    conv, edges = pyg_twin(layer), union(table, cells)
    nodes = torch.randn(GENES, FEATURES, cells, generator=generator)
    flat = nodes.permute(2, 0, 1).reshape(-1, FEATURES).contiguous()
    calls = {
        "ours": lambda: in_chunks(layer, nodes),
        "plain": plainly(lambda: in_chunks(layer, nodes)),
        "pyg": lambda: conv(flat, edges),
    }
    with torch.no_grad():
        ours, loop = calls["ours"]().permute(2, 0, 1), loop_over_nodes(layer, table, flat[:GENES])
        assert (calls["plain"]().permute(2, 0, 1) - ours).abs().max() < 1e-5
        assert (calls["pyg"]().view_as(ours) - ours).abs().max() < 1e-5
        assert (loop - ours[0]).abs().max() < 1e-5
        in_turns("layer_forward", cells, calls)
        one_cell = {
            "ours": lambda: layer(nodes[..., :1]),
            "loop": lambda: loop_over_nodes(layer, table, flat[:GENES]),
        }
        in_turns("layer_forward_one_cell_and_a_loop_over_nodes", 1, one_cell)
    nodes.requires_grad_(True)
    flat = flat.clone().requires_grad_(True)
    calls = {
        "ours": lambda: with_backward(layer, lambda x: in_chunks(layer, x), nodes),
        "plain": plainly(lambda: with_backward(layer, lambda x: in_chunks(layer, x), nodes)),
        "pyg": lambda: with_backward(conv, lambda x: conv(x, edges), flat),
    }
    in_turns("layer_forward_and_backward", cells, calls)


def training(generator, cells=128):
    """One step of Adam on a batch of the default size, as `train_embedding` takes it."""
    x = torch.randn(cells, GENES, generator=generator)
    model = model_of(x, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step():
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()

    in_turns("training_step", cells, {"ours": step, "plain": plainly(step)})


def model_of(x, generator):
    names = [f"g{i}" for i in range(GENES)]
    return Embedding(names, knn_graph(x, NEIGHBOURS), EmbeddingConfig(), generator)


def coding(generator, cells=1024):
    x = torch.randn(cells, GENES, generator=generator)
    model = model_of(x, generator)
    z = torch.randn(65536, model.latent_dim, generator=generator)
    with torch.no_grad():
        calls = {"ours": lambda: model.encode(x), "plain": plainly(lambda: model.encode(x))}
        in_turns("encode", cells, calls, turns=5)
        in_turns("decode", len(z), {"ours": lambda: model.decode(z)}, turns=5)
    encode_on_two_cores(model, generator)


def encode_on_two_cores(model, generator, cells=20_000):
    """Seconds by the clock and of processor for 20,000 cells, a half on each of two threads."""
    halves = torch.randn(cells, GENES, generator=generator).chunk(2)

    def encode(x):
        with torch.no_grad():  # a setting of the thread
            return model.encode(x)

    with ThreadPoolExecutor(2) as pool:
        clock, processor = time.perf_counter(), time.process_time()
        both = list(pool.map(encode, halves))
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
    assert torch.allclose(both[1][-32:], encode(halves[1][-32:]), atol=1e-5)
    figure = {"clock_s": round(clock, 2), "processor_s": round(processor, 2)}
    print(json.dumps({"name": "encode_20000_cells_on_two_threads"} | figure))


def main():
    generator = torch.Generator().manual_seed(0)
    print(json.dumps({"name": "threads", "torch": torch.get_num_threads()}))
    layers(generator)
    training(generator)
    coding(generator)


if __name__ == "__main__":
    main()
