"""Multi-head graph attention over genes, batched over cells that share one graph, and the encoder above it.

Inside, arrays are laid out [G, C, n] (genes, channels, cells): a neighbour is then one contiguous block for
all cells, which is what makes the gather cheap on a processor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinlib.embedding.gene_graph import padding
from twinlib.errors import DataError

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared

ATTENTION = ("learned", "uniform", "none", "random")
NETWORKS = ("coexpression", "known")
STARTS = ("principal", "random")
CLAMP = 10.0
SLOPE = 0.2  # of the LeakyReLU in Brody 2022 and in PyG


@dataclass(frozen=True)
class EmbeddingConfig:
    """The size of the embedding and the way it is trained."""

    #: D, latent dimensions; also the length of a gene vector
    latent_dim: int = 32
    #: attention layers
    layers: int = 2
    #: attention heads a layer
    heads: int = 4
    #: channels a head
    channels: int = 8
    #: k, neighbours of a gene besides itself (co-expression network only)
    neighbours: int = 8
    #: channels that each node hands to the read-out
    readout: int = 4
    #: hidden units of the decoder
    hidden: int = 64
    #: 'learned'; or an ablation: 'uniform' (equal weights), 'none' (a gene sees itself), 'random' (frozen)
    attention: str = "learned"
    #: 'coexpression' of training controls, or 'known': the regulators that the data set carries (waddington)
    network: str = "coexpression"
    #: 'principal' (the linear part starts at a rotated PCA of the fitting cells) or 'random'
    start: str = "principal"
    #: most passes over the training cells
    epochs: int = 40
    #: cells a step
    batch_size: int = 128
    #: the largest learning rate of Adam; it falls to zero along a half cosine
    learning_rate: float = 2e-3
    #: decoupled weight decay of Adam
    weight_decay: float = 1e-4
    #: passes without a better validation error before training stops
    patience: int = 8

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise DataError(
                f"EmbeddingConfig: attention={self.attention!r} is unknown; take one of {ATTENTION}."
            )
        if self.network not in NETWORKS:
            raise DataError(f"EmbeddingConfig: network={self.network!r} is unknown; take one of {NETWORKS}.")
        if self.start not in STARTS:
            raise DataError(f"EmbeddingConfig: start={self.start!r} is unknown; take one of {STARTS}.")
        sizes = ("latent_dim", "heads", "channels", "neighbours", "readout", "hidden", "epochs", "batch_size")
        for name in sizes:
            if getattr(self, name) < 1:
                raise DataError(f"EmbeddingConfig: {name}={getattr(self, name)} must be 1 or more.")

    @property
    def width(self) -> int:
        """Channels of a node: heads x channels."""
        return self.heads * self.channels


def _glorot(*shape: int, generator: torch.Generator | None) -> nn.Parameter:
    bound = math.sqrt(6.0 / (shape[-1] + shape[-2]))
    return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) * bound)


def attention_weights(
    source: Tensor, target: Tensor, score: Tensor, neighbours: Tensor, mask: Tensor | None
) -> Tensor:
    """Return the GATv2 weights [G, k + 1, h, n] of projected nodes source, target [G, h, c, n].

    score: [h, c] (heads, channels); mask: [G, k + 1], True where a row is padded, or None where none is.
    """
    hidden = F.leaky_relu(source[neighbours] + target.unsqueeze(1), SLOPE)
    return _softmax((hidden * score.unsqueeze(-1)).sum(3), mask)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(mask[..., None, None], -math.inf)
    return scores.softmax(1)


def attend(source: Tensor, target: Tensor, score: Tensor, neighbours: Tensor, mask: Tensor | None) -> Tensor:
    """Return the neighbours' source, weighted by `attention_weights`, as [G, h, c, n]."""
    weights = attention_weights(source, target, score, neighbours, mask)
    return (source[neighbours] * weights.unsqueeze(3)).sum(1)


class _FusedAttend(torch.autograd.Function):
    """`attend` and its derivative for floats on a processor, as compiled loops."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, target: Tensor, score: Tensor, neighbours: Tensor, mask: Tensor | None
    ) -> Tensor:
        from twinlib.embedding import fused_attention

        scores = fused_attention.scores(source, target, score, neighbours, SLOPE)
        weights = _softmax(scores, mask)
        ctx.save_for_backward(source, target, score, neighbours, mask, weights)
        return fused_attention.weighted_sum(source, weights, neighbours)

    @staticmethod
    def backward(ctx: Any, *out: Tensor) -> tuple[Tensor | None, ...]:
        from twinlib.embedding import fused_attention

        source, target, score, neighbours, mask, weights = ctx.saved_tensors
        if torch.is_grad_enabled() or _transformed():  # these gradients will be differentiated or mapped
            plain = functools.partial(attend, neighbours=neighbours, mask=mask)
            pull = torch.func.vjp(plain, source, target, score)[1]
            return (*pull(out[0]), None, None)
        to = fused_attention.gradients(source, target, score, neighbours, SLOPE, weights, out[0])
        return (*to, None, None)


def _transformed() -> bool:
    """True inside torch.func.grad, vmap and their kin, whose tensors have no memory to loop over."""
    return bool(torch._C._are_functorch_transforms_active())


def _fusable(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64) and not _transformed()


def _for_each(weight: Tensor, nodes: Tensor) -> Tensor:
    # a product for every gene: `weight @ nodes` would copy the nodes into one matrix and back
    return weight.expand(len(nodes), -1, -1)


class GraphAttention(nn.Module):
    """One multi-head GATv2 layer (Brody 2022, Eq. 7) for many cells that share one gene graph.

    score_ij = a . LeakyReLU(W_target h_i + W_source h_j), softmax over the neighbours j of i, output
    sum_j alpha_ij W_source h_j + bias. PyG's GATv2Conv calls W_source `lin_l` and W_target `lin_r`.
    """

    neighbours: Tensor
    mask: Tensor

    def __init__(
        self,
        neighbours: Tensor,
        in_channels: int,
        heads: int,
        channels: int,
        generator: torch.Generator | None = None,
        attention: str = "learned",
    ) -> None:
        super().__init__()
        if ((neighbours < 0) | (neighbours >= len(neighbours))).any():
            raise DataError(
                f"GraphAttention: a neighbour lies outside the table's {len(neighbours)} genes; "
                "make the table with knn_graph or from_edges."
            )
        self.heads, self.channels, self.attention = heads, channels, attention
        width = heads * channels
        self.source = _glorot(width, in_channels, generator=generator)
        self.source_bias = nn.Parameter(torch.zeros(width))
        self.target = _glorot(width, in_channels, generator=generator)
        self.target_bias = nn.Parameter(torch.zeros(width))
        self.score = _glorot(heads, channels, generator=generator)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("mask", padding(neighbours), persistent=False)
        self.padded = bool(self.mask.any())

    def forward(self, nodes: Tensor) -> Tensor:
        """Map node features [G, F, n] to [G, heads * channels, n]; raises DataError for another G."""
        if len(nodes) != len(self.neighbours):
            raise DataError(
                f"GraphAttention: nodes of {len(nodes)} genes, but a table of {len(self.neighbours)}; "
                "pass nodes [G, F, n] of the table's genes."
            )
        return self._mix(self._source(nodes), nodes).flatten(1, 2) + self.bias.unsqueeze(-1)

    def _source(self, nodes: Tensor) -> Tensor:
        return self._project(self.source, self.source_bias, nodes)

    def _target(self, nodes: Tensor) -> Tensor:
        return self._project(self.target, self.target_bias, nodes)

    def _project(self, weight: Tensor, bias: Tensor, nodes: Tensor) -> Tensor:
        projected = torch.baddbmm(bias.unsqueeze(-1), _for_each(weight, nodes), nodes)
        return projected.unflatten(1, (self.heads, self.channels))

    def _mix(self, source: Tensor, nodes: Tensor) -> Tensor:
        if self.attention == "none":
            return source
        if self.attention == "uniform":  # the same weights for every cell: one product of matrices
            return (self._fixed_weights(source) @ source.flatten(1)).view_as(source)
        mix: Callable[..., Tensor] = _FusedAttend.apply if _fusable(source) else attend
        return mix(source, self._target(nodes), self.score, self.neighbours, self._mask())

    def _mask(self) -> Tensor | None:
        return self.mask if self.padded else None

    def _fixed_weights(self, like: Tensor) -> Tensor:
        seen = (~self.mask).to(like)
        if self.attention == "none":
            seen[:, 1:] = 0.0
        share = seen / seen.sum(dim=1, keepdim=True)
        return like.new_zeros(len(seen), len(seen)).scatter_add_(1, self.neighbours, share)

    @torch.no_grad()
    def weights(self, nodes: Tensor) -> Tensor:
        """Return the weights of node features [G, F, n] as [G, k + 1, heads, n]; they sum to 1 over k + 1."""
        if self.attention in ("uniform", "none"):
            fixed = self._fixed_weights(nodes).gather(1, self.neighbours).masked_fill(self.mask, 0.0)
            return fixed[..., None, None].expand(-1, -1, self.heads, nodes.shape[-1])
        source, target = self._source(nodes), self._target(nodes)
        return attention_weights(source, target, self.score, self.neighbours, self._mask())


class Encoder(nn.Module):
    """The map g: R^G -> R^D (paper, Section 3.1): gene nodes, attention layers with skips, a linear read-out.

    The read-out sees the expression itself beside the node outputs, so that a linear code is in its reach.
    """

    def __init__(
        self, neighbours: Tensor, config: EmbeddingConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        n_genes, width = len(neighbours), config.width
        self.expression = _glorot(width, 1, generator=generator)
        self.identity = _glorot(width, config.latent_dim, generator=generator)
        self.layers = nn.ModuleList(
            GraphAttention(neighbours, width, config.heads, config.channels, generator, config.attention)
            for _ in range(config.layers)
        )
        self.project = _glorot(config.readout, width, generator=generator)
        self.readout = nn.Parameter(
            torch.randn(n_genes * (config.readout + 1), config.latent_dim, generator=generator)
            / math.sqrt(n_genes * (config.readout + 1))
        )
        self.readout_bias = nn.Parameter(torch.zeros(config.latent_dim))
        self.frozen = config.attention == "random"
        if self.frozen:
            self._freeze()

    def _freeze(self) -> None:
        for part in (self.expression, self.identity, *self.layers.parameters()):
            part.requires_grad_(False)

    def forward(self, x: Tensor, gene_vectors: Tensor) -> Tensor:
        """Map z-scores x [n, G] and gene vectors [G, d] to latent cells [n, D]."""
        expression = x.T.unsqueeze(1)
        nodes = self._first_nodes(expression, gene_vectors)
        for layer in self.layers:
            nodes = nodes + F.elu_(layer(nodes))
        features = torch.cat([torch.bmm(_for_each(self.project, nodes), nodes), expression], dim=1)
        return features.flatten(0, 1).T @ self.readout + self.readout_bias

    def attention_weights(self, x: Tensor, gene_vectors: Tensor) -> Tensor:
        """Return the weights of each layer for z-scores x [n, G] as [layers, G, k + 1, heads, n]."""
        nodes, weights = self._first_nodes(x.T.unsqueeze(1), gene_vectors), []
        for layer in self.layers:
            assert isinstance(layer, GraphAttention)
            weights.append(layer.weights(nodes))
            nodes = nodes + F.elu_(layer(nodes))
        return torch.stack(weights)

    def _first_nodes(self, expression: Tensor, gene_vectors: Tensor) -> Tensor:
        # a linear map of [expression, gene vector]; the second part is the same for all cells
        if self.frozen:
            gene_vectors = gene_vectors.detach()
        return self.expression @ expression + (gene_vectors @ self.identity.T).unsqueeze(-1)


class Decoder(nn.Module):
    """One small network a cell: the gene vectors as linear loadings, and one hidden layer beside them."""

    def __init__(
        self, n_genes: int, config: EmbeddingConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.inner = _glorot(config.latent_dim, config.hidden, generator=generator)
        self.inner_bias = nn.Parameter(torch.zeros(config.hidden))
        self.outer = _glorot(config.hidden, n_genes, generator=generator)
        self.outer_bias = nn.Parameter(torch.zeros(n_genes))

    def forward(self, z: Tensor, gene_vectors: Tensor) -> Tensor:
        """Map latent cells z [..., D] to z-scores [..., G]."""
        hidden = F.relu(z @ self.inner + self.inner_bias)
        return z @ gene_vectors.T + hidden @ self.outer + self.outer_bias


class Embedding(nn.Module):
    """Graph-attention encoder and small decoder between z-scores of a gene panel and latent cells.

    genes: the panel's G names; neighbours: LongTensor [G, k + 1] from `knn_graph` or `from_edges`;
    generator: source of the starting weights; meta: where the cells come from. `gene_vectors` [G, d = D]
    holds each gene's node feature, which is its linear loading in the decoder, too.
    """

    neighbours: Tensor

    def __init__(
        self,
        genes: Sequence[str],
        neighbours: Tensor,
        config: EmbeddingConfig | None = None,
        generator: torch.Generator | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(genes) != len(neighbours):
            raise DataError(
                f"Embedding: {len(genes)} genes but {len(neighbours)} rows of neighbours; match them."
            )
        self.genes = tuple(genes)
        self.config = config or EmbeddingConfig()
        self.meta: dict[str, Any] = dict(meta or {})
        self.register_buffer("neighbours", neighbours)
        d = self.config.latent_dim
        self.gene_vectors = nn.Parameter(torch.randn(len(genes), d, generator=generator) / math.sqrt(d))
        self.encoder = Encoder(neighbours, self.config, generator)
        self.decoder = Decoder(len(genes), self.config, generator)

    @property
    def latent_dim(self) -> int:
        """D, the number of latent dimensions."""
        return self.config.latent_dim

    def encode(self, x_scaled: Tensor, chunk: int = 32) -> Tensor:
        """Map z-scores [..., G] to latent cells [..., D]; the input is clamped to +-10, only here.

        chunk: cells in the attention at a time (32 fit a processor's cache; the result is the same).
        Raises DataError when the last axis is not the panel.
        """
        flat = self._panel(x_scaled).clamp(-CLAMP, CLAMP).reshape(-1, len(self.genes))
        if len(flat) == 0:
            return flat.new_zeros(*x_scaled.shape[:-1], self.latent_dim)
        z = torch.cat([self.encoder(part, self.gene_vectors) for part in torch.split(flat, chunk)])
        return z.reshape(*x_scaled.shape[:-1], self.latent_dim)

    def decode(self, z: Tensor) -> Tensor:
        """Map latent cells [..., D] to z-scores [..., G]."""
        out: Tensor = self.decoder(z, self.gene_vectors)
        return out

    def forward(self, x_scaled: Tensor) -> Tensor:
        """Return the reconstruction of z-scores [..., G]."""
        return self.decode(self.encode(x_scaled))

    @torch.no_grad()
    def attention_weights(self, x_scaled: Tensor, chunk: int = 32) -> Tensor:
        """Return the weights, averaged over the cells of x_scaled [n, G], as [layers, G, k + 1, heads]."""
        parts = torch.split(self._panel(x_scaled).clamp(-CLAMP, CLAMP), chunk)
        sums = [self.encoder.attention_weights(part, self.gene_vectors).sum(-1) for part in parts]
        return torch.stack(sums).sum(0) / len(x_scaled)

    def require(self, prepared: Prepared) -> None:
        """Raise DataError unless this embedding was trained on exactly these prepared cells and genes."""
        if tuple(prepared.genes) != self.genes:
            raise DataError(
                f"The embedding knows {len(self.genes)} genes, the prepared cells hold {len(prepared.genes)} "
                "others; train it again on them (twinlib.embedding.train_embedding)."
            )
        if self.meta.get("fingerprint") != prepared.fingerprint:
            raise DataError(
                f"The embedding was trained on another preparation of {self.meta.get('dataset')!r} (other "
                "training cells or scaler); train it again (python -m twinlib.embedding.train DATASET)."
            )

    @torch.no_grad()
    def start_at_principal_components(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Set the linear path to a PCA of z-scores x [n, G] in a random rotation, and the rest to no effect.

        The rotation gives all latent dimensions about the same variance. With fewer than D components
        (small n or G) the remaining dimensions start at zero.
        """
        d, n_genes = self.latent_dim, len(self.genes)
        centre = x.mean(dim=0)
        # in float32 close components turn into each other by an angle that depends on the number of threads
        _, _, right = torch.linalg.svd((x - centre).cpu().double(), full_matrices=False)
        components = right.to(x)
        rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=generator).to(x))
        loadings = components[:d].T @ rotation[: len(components)]
        readout = self.encoder.readout.view(n_genes, -1, d)
        readout.zero_()
        readout[:, -1] = loadings
        self.gene_vectors.copy_(loadings)
        self.encoder.readout_bias.copy_(-centre @ loadings)
        self.decoder.outer.zero_()
        self.decoder.outer_bias.copy_(centre)

    def _panel(self, x_scaled: Tensor) -> Tensor:
        if x_scaled.shape[-1] != len(self.genes):
            raise DataError(
                f"encode: the last axis holds {x_scaled.shape[-1]} genes, the embedding knows "
                f"{len(self.genes)}; pass z-scores of its panel (embedding.genes)."
            )
        return x_scaled
