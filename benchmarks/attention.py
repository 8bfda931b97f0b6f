"""Our batched attention against PyG on a disjoint union and against a loop over nodes; encoder and decoder.

Prints one JSON line a figure: cells a second, ours, the peer's, and their ratio. One layer, 4 heads x 8
channels, 200 genes with 8 neighbours; the numbers of all three are compared before they are timed.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch_geometric.nn import GATv2Conv

from twinlib.embedding.attention import Embedding, EmbeddingConfig, GraphAttention
from twinlib.embedding.gene_graph import edge_index, knn_graph

GENES, NEIGHBOURS, HEADS, CHANNELS, FEATURES = 200, 8, 4, 8, 32


def rate(call, cells, repeats=5, clock=time.perf_counter):
    """Cells a second of a clock, best of some runs; time.process_time leaves out the machine's other work."""
    call()
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        call()
        best = min(best, clock() - start)
    return cells / best


def line(name, ours, peer=None, **more):
    figure = {"name": name, "ours": round(ours)}
    if peer is not None:
        figure |= {"peer": round(peer, 1), "ratio": round(ours / peer, 2)}
    print(json.dumps(figure | more), flush=True)


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


def in_chunks(layer, nodes, size=32):
    return torch.cat([layer(part) for part in nodes.split(size, dim=2)], dim=2)


def with_backward(call, nodes):
    (gradient,) = torch.autograd.grad(call(nodes).square().sum(), nodes)
    return gradient


def layers(generator, cells=256):
    table = knn_graph(torch.randn(300, GENES, generator=generator), NEIGHBOURS)
    layer = GraphAttention(table, FEATURES, HEADS, CHANNELS, generator)
    conv, edges = pyg_twin(layer), union(table, cells)
    nodes = torch.randn(GENES, FEATURES, cells, generator=generator)
    flat = nodes.permute(2, 0, 1).reshape(-1, FEATURES).contiguous()
    with torch.no_grad():
        ours = in_chunks(layer, nodes).permute(2, 0, 1)
        assert (conv(flat, edges).view_as(ours) - ours).abs().max() < 1e-5
        assert (loop_over_nodes(layer, table, flat[:GENES]) - ours[0]).abs().max() < 1e-5
        forward = rate(lambda: in_chunks(layer, nodes), cells)
        line("layer_forward_vs_pyg_disjoint_union", forward, rate(lambda: conv(flat, edges), cells, 3))
        loop = rate(lambda: loop_over_nodes(layer, table, flat[:GENES]), 1, 3)
        line("layer_forward_vs_python_loop_over_nodes", forward, loop)
    nodes.requires_grad_(True)
    flat = flat.clone().requires_grad_(True)
    line(
        "layer_forward_backward_vs_pyg_disjoint_union",
        rate(lambda: with_backward(lambda x: in_chunks(layer, x), nodes), cells),
        rate(lambda: with_backward(lambda x: conv(x, edges), flat), cells, 3),
    )


def embedding(generator, cells=4096):
    x = torch.randn(cells, GENES, generator=generator)
    model = Embedding([f"g{i}" for i in range(GENES)], knn_graph(x, NEIGHBOURS), EmbeddingConfig(), generator)
    z = torch.randn(65536, model.latent_dim, generator=generator)
    with torch.no_grad():
        encode = rate(lambda: model.encode(x), cells, 3)
        line("encode_cells_per_s", encode, clock_s_for_20000=round(20000 / encode, 2))
        processor = rate(lambda: model.decode(z), len(z), clock=time.process_time)
        line("decode_cells_per_s", rate(lambda: model.decode(z), len(z)), per_processor_s=round(processor))
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
    figures = {"clock_s": round(clock, 2), "processor_s": round(processor, 2)}
    line("encode_20000_cells_on_two_threads", cells / clock, **figures)


def main():
    generator = torch.Generator().manual_seed(0)
    print(json.dumps({"name": "threads", "ours": torch.get_num_threads()}))
    layers(generator)
    embedding(generator)


if __name__ == "__main__":
    main()
