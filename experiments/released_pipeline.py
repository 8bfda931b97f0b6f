"""The released pipeline: from cells to the 58-dimensional world, as the paper's public code computes it.

Every step follows the specification of the released protocol, including the steps that the described protocol
replaces (separate scaling of each set, a graph attention layer that is never trained, an arbitrary target).
It serves to show which pattern of the paper's tables returns and why; nothing else in the package uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anndata import AnnData

Array = NDArray[Any]

#: Sizes of the parts of the fused state: autoencoder, PCA of it, random graph attention.
AUTOENCODER, COMPONENTS, ATTENTION = 16, 10, 32
#: D, length of the fused state.
LATENT = AUTOENCODER + COMPONENTS + ATTENTION


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of the released pipeline; the defaults are those of the public code."""

    #: Cells drawn from the whole file; fewer are all taken.
    n_cells: int = 20_000
    #: Highly variable genes, chosen on the perturbed training cells.
    n_top_genes: int = 200
    #: Share of the cells held out of the perturbed cells and of the controls.
    test_size: float = 0.2
    #: Seed of the draw, the split and every network.
    seed: int = 42
    #: Passes of the autoencoder and of the experimental twin.
    epochs: int = 100
    #: normalize_total and log1p applied once more, as on the paper's data, which came logged.
    log_twice: bool = True


@dataclass(frozen=True, eq=False)
class Sets:
    """One array each for perturbed training and test cells and both parts of the controls."""

    #: Perturbed training cells [n, ...].
    train: Array
    #: Perturbed test cells [n, ...].
    test: Array
    #: Training controls [n, ...].
    control_train: Array
    #: Test controls [n, ...].
    control_test: Array

    def all(self) -> Array:
        """All four below one another."""
        return np.concatenate([self.train, self.test, self.control_train, self.control_test])

    def like(self, rows: Array) -> Sets:
        """Cut an array with the rows of `all` back into the four sets."""
        sizes = [len(self.train), len(self.test), len(self.control_train)]
        return Sets(*np.split(rows, np.cumsum(sizes)))


@dataclass(frozen=True, eq=False)
class ReleasedData:
    """What the environments and tables of the released protocol are made from."""

    #: Fused states [n, 58].
    fused: Sets
    #: Pseudotime [n].
    time: Sets
    #: Scaled expression of the highly variable genes [n, G].
    expression: Sets
    #: E [G, 58].
    effects: Array
    #: s.
    action_scale: float
    #: Input and target of the experimental twin, and its prediction, [n, 58] each, by split.
    twin: dict[str, tuple[Array, Array]]
    #: Names of the genes.
    genes: tuple[str, ...]


def released_data(cells: AnnData, config: PipelineConfig) -> ReleasedData:
    """Run the released pipeline on canonical cells (X = log1p once).

    Draw, split 80/20, normalise, choose genes, scale each set by itself, fuse [autoencoder, PCA, random graph
    attention], order by pseudotime, fit the experimental twin, correlate genes with dimensions.
    """
    import torch

    from experiments.released_world import correlation_effects, released_scale

    rng = np.random.default_rng(config.seed)
    sets, genes = _expression(cells, config, rng)
    fused = _fused(sets, config, rng)
    time = _pseudotime(sets, fused)
    twin, step = _experimental(fused, time, config)
    controls = [np.concatenate([s.control_train, s.control_test]) for s in (sets, fused)]
    effects = correlation_effects(*(torch.from_numpy(c).double() for c in controls)).numpy()
    return ReleasedData(fused, time, sets, effects, released_scale(step, LATENT), twin, genes)


# -- cells -----------------------------------------------------------------------------------------
def _expression(
    cells: AnnData, config: PipelineConfig, rng: np.random.Generator
) -> tuple[Sets, tuple[str, ...]]:
    """Return scaled expression of the highly variable genes of the four sets, and the genes."""
    import scanpy as sc
    from anndata import AnnData

    drawn = np.sort(rng.permutation(cells.n_obs)[: config.n_cells])
    labels = cells.obs["perturbation"].to_numpy(dtype=str)[drawn]
    matrix = cells.X[drawn]
    matrix = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
    perturbed, controls = np.flatnonzero(labels != "control"), np.flatnonzero(labels == "control")
    parts = [*_split(perturbed, config.test_size, rng), *_split(controls, config.test_size, rng)]
    train = AnnData(_normalised(matrix[parts[0]], config), var={"gene": np.asarray(cells.var_names)})
    sc.pp.highly_variable_genes(train, n_top_genes=min(config.n_top_genes, train.n_vars))
    kept = np.flatnonzero(train.var["highly_variable"].to_numpy())
    scaled = [_scaled(np.asarray(train.X)[:, kept])]
    # The other sets are normalised over the chosen genes alone, and each is scaled by itself.
    scaled += [_scaled(_normalised(matrix[rows][:, kept], config)) for rows in parts[1:]]
    return Sets(*scaled), tuple(np.asarray(cells.var_names)[kept].tolist())


def _split(rows: Array, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return training and test rows in the order of the file."""
    held = rng.permutation(rows)[: round(share * len(rows))]
    return np.setdiff1d(rows, held), np.sort(held)


def _normalised(x: Array, config: PipelineConfig) -> Array:
    """normalize_total to 1e4 and log1p, on what is logged already; or x as it is."""
    if not config.log_twice:
        return x
    total = x.sum(axis=1, keepdims=True)
    return np.log1p(x * (1e4 / np.where(total > 0, total, 1.0)))


def _scaled(x: Array, limit: float = 10.0) -> Array:
    """z-score a set by itself and clip at 10: its own mean becomes 0, whatever the perturbation did."""
    spread = x.std(axis=0, ddof=1)
    return np.minimum((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0), limit).astype(np.float32)


# -- the fused state -------------------------------------------------------------------------------
def _fused(sets: Sets, config: PipelineConfig, rng: np.random.Generator) -> Sets:
    """Return [autoencoder code, PCA of it, random graph attention] of every cell [n, 58]."""
    from sklearn.decomposition import PCA

    code = _autoencoder(sets, config)
    components = PCA(COMPONENTS, random_state=config.seed).fit(code[: len(sets.train)]).transform(code)
    attention = _random_attention(components.astype(np.float32), rng)
    return sets.like(np.concatenate([code, components, attention], axis=1).astype(np.float32))


def _perceptron(widths: list[int], seed: int) -> Any:
    """A ReLU network with PyTorch's own initialisation."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _fit(network: Any, x: Array, y: Array, config: PipelineConfig) -> None:
    """Adam at 1e-3, minibatches of 64, mean squared error."""
    import torch

    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    order = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for _ in range(config.epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=order), 64):
            loss = (network(inputs[rows]) - targets[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _apply(network: Any, x: Array) -> Array:
    import torch

    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(x)).numpy())


def _autoencoder(sets: Sets, config: PipelineConfig) -> Array:
    """Train G-64-16-64-G on the perturbed training cells; return the codes of all cells [n, 16]."""
    from torch import nn

    genes = sets.train.shape[1]
    encoder = _perceptron([genes, 64, AUTOENCODER], config.seed)
    decoder = _perceptron([AUTOENCODER, 64, genes], config.seed + 1)
    _fit(nn.Sequential(encoder, decoder), sets.train, sets.train, config)
    return _apply(encoder, sets.all())


def _random_attention(components: Array, rng: np.random.Generator) -> Array:
    """One attention head on the cells' graph whose weights are drawn and never trained [n, 32]."""
    from scipy import sparse

    graph = _cell_graph(components)
    limit = np.sqrt(6 / (COMPONENTS + ATTENTION))
    hidden = components @ rng.uniform(-limit, limit, size=(COMPONENTS, ATTENTION))
    scorer = rng.uniform(-0.3, 0.3, size=(2, ATTENTION))
    rows, columns = sparse.coo_matrix(graph).coords
    score = (hidden @ scorer[0])[rows] + (hidden @ scorer[1])[columns]
    score = np.exp(np.where(score > 0, score, 0.2 * score))  # LeakyReLU 0.2, then softmax over neighbours
    weight = sparse.csr_matrix((score, (rows, columns)), shape=graph.shape)
    return np.asarray(weight @ hidden) / np.asarray(weight.sum(axis=1))


def _cell_graph(x: Array) -> Any:
    """Return scanpy's neighbour graph (k = 15, UMAP connectivities) with a loop at every cell."""
    from scipy import sparse

    graph = _with_neighbours(x, use_rep="X").obsp["connectivities"]
    return (graph + sparse.identity(graph.shape[0], format="csr")) != 0


def _with_neighbours(x: Array, **how: Any) -> AnnData:
    """Return an AnnData with scanpy's neighbours of cells x [n, ...]."""
    import warnings

    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(cells, n_neighbors=15, transformer="sklearn", **how)  # exact neighbours
    return cells


# -- order and experimental twin -------------------------------------------------------------------
def _pseudotime(sets: Sets, fused: Sets) -> Sets:
    """Pseudotime of the perturbed training cells from the middle row; the others inherit it."""
    import warnings

    import scanpy as sc
    from sklearn.neighbors import NearestNeighbors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = _with_neighbours(sets.train)
        cells.uns["iroot"] = len(sets.train) // 2
        sc.tl.diffmap(cells)
        sc.tl.dpt(cells)
    time = cells.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    time = np.where(np.isfinite(time), time, time[np.isfinite(time)].mean())
    index = NearestNeighbors(n_neighbors=1).fit(fused.train)
    others = (fused.test, fused.control_train, fused.control_test)
    return Sets(time, *(time[index.kneighbors(x, return_distance=False)[:, 0]] for x in others))


def successors(x: Array, time: Array, k: int = 5, block: int = 1024) -> tuple[Array, Array]:
    """Return cells and the mean of their k nearest cells of larger pseudotime (by more than 1e-4).

    x is [n, D], time [n]; cells without a later cell are left out: rows [m] and targets [m, D].
    """
    square = (x**2).sum(axis=1)
    rows, targets = [], []
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        distance = square - 2.0 * x[part] @ x.T  # the missing |x_i|^2 is the same for all candidates
        distance[time[None, :] <= time[part, None] + 1e-4] = np.inf
        nearest = np.argpartition(distance, min(k, len(x) - 1), axis=1)[:, :k]
        usable = np.isfinite(np.take_along_axis(distance, nearest, axis=1))
        weight = usable / np.maximum(usable.sum(axis=1, keepdims=True), 1)
        rows.append(start + np.flatnonzero(usable.any(axis=1)))
        targets.append((x[nearest] * weight[..., None]).sum(axis=1)[usable.any(axis=1)])
    return np.concatenate(rows), np.concatenate(targets).astype(np.float32)


def _experimental(
    fused: Sets, time: Sets, config: PipelineConfig
) -> tuple[dict[str, tuple[Array, Array]], float]:
    """Fit the 58-128-128-58 twin; return truth and prediction by split, and the mean length of its step."""
    network = _perceptron([LATENT, 128, 128, LATENT], config.seed + 2)
    answers = {}
    for split, x, t in (("Train", fused.train, time.train), ("Test", fused.test, time.test)):
        rows, target = successors(x, t)
        if split == "Train":
            _fit(network, x[rows], target, config)
        answers[split] = (target, _apply(network, x[rows]))
    some = fused.train[np.random.default_rng(config.seed).permutation(len(fused.train))[:300]]
    return answers, float(np.linalg.norm(_apply(network, some) - some, axis=1).mean())
