"""What one more standard deviation of a gene does to a latent cell, on average over controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from twinlib.embedding.attention import Embedding


def gene_effects(embedding: Embedding, x_scaled: Tensor | np.ndarray) -> Tensor:
    """Return E [G, D], the mean over cells of d encode(x) / d x[g]: the encoder's Jacobian.

    x_scaled: [n, G] z-scores, usually the first 256 training controls. One unit of E is one training standard
    deviation of a gene; nothing else is scaled. E says what the latent cell would be if the gene were
    *measured* one s.d. higher, not what changing the gene would cause. Raises DataError for another panel.
    """
    dtype = embedding.gene_vectors.dtype
    x = torch.as_tensor(np.asarray(x_scaled)).to(dtype).requires_grad_(True)
    z = embedding.encode(x)
    columns = [_mean_gradient(z[:, d], x, last=d == z.shape[1] - 1) for d in range(z.shape[1])]
    return torch.stack(columns, dim=1)


def _mean_gradient(value: Tensor, x: Tensor, last: bool) -> Tensor:
    # a cell's latent depends on that cell alone, so the gradient of the sum is every cell's own gradient
    (gradient,) = torch.autograd.grad(value.sum(), x, retain_graph=not last)
    return gradient.mean(dim=0)
