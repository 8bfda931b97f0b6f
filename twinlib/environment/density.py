"""The landscape of the real cells: U = -log density of a Gaussian mixture in the latent space."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from twinlib.errors import InputError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

#: Added to the diagonal of each covariance, as a share of the mean variance of a latent axis.
_RIDGE = 0.05


@dataclass(frozen=True)
class Density:
    """A Gaussian mixture of K components over the latent space."""

    #: `[K]`, logarithms of the mixture weights.
    log_weights: Tensor
    #: `[K, D]`, means.
    means: Tensor
    #: `[K, D, D]`, inverse covariances.
    precisions: Tensor
    #: `[K]`, log of each Gaussian's normalising factor.
    log_norms: Tensor

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Joint log density `[..., K]` and Sigma^-1 (z - mu) `[..., K, D]`."""
        away = z.unsqueeze(-2) - self.means
        pull = torch.einsum("kde,...ke->...kd", self.precisions, away)
        return self.log_weights + self.log_norms - 0.5 * (away * pull).sum(-1), pull

    def energy(self, z: Tensor) -> Tensor:
        """U(z) = -log p(z) `[...]` of latent cells `[..., D]`."""
        return -torch.logsumexp(self._parts(z)[0], dim=-1)

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of U `[..., D]`: the components' pulls, weighted by their responsibility for the cell."""
        log_joint, pull = self._parts(z)
        return (torch.softmax(log_joint, dim=-1).unsqueeze(-1) * pull).sum(-2)

    @property
    def stiffness(self) -> float:
        """The largest curvature of U in any component: drift steps must stay below 2 / stiffness."""
        return float(torch.linalg.eigvalsh(self.precisions).amax())

    def component(self, z: Tensor) -> Tensor:
        """Index `[...]` of the component most responsible for each latent cell: the basin it lies in."""
        return self._parts(z)[0].argmax(dim=-1)

    def marginal(self, axes: Tensor) -> Density:
        """The mixture seen along q orthonormal axes `[D, q]`: what a picture of the landscape shows."""
        covariances = axes.T @ torch.linalg.inv(self.precisions) @ axes
        return _mixture(self.log_weights, self.means @ axes, torch.linalg.inv(covariances))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Density:
        """A copy on another device or in another precision."""
        return Density(*(value.to(device=device, dtype=dtype) for value in vars(self).values()))

    def arrays(self) -> dict[str, np.ndarray]:
        """The four arrays, for a file."""
        return {name: value.cpu().numpy() for name, value in vars(self).items()}

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> Density:
        """Read what `arrays` returned."""
        return Density(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def fit_density(
    z: np.ndarray, components: range = range(1, 9), seed: int = 0, n_cells: int = 4000
) -> Density:
    """Fit Gaussian mixtures to latent cells `[n, D]` and keep the number of components BIC prefers.

    Covariances are full, widened by 5 % of the mean variance, so that no stiff axis sets the step of a drift
    alone; at most `n_cells` cells, drawn without replacement, are used.
    Refuses fewer cells than dimensions.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    z = np.asarray(z, dtype=np.float64)
    if len(z) <= z.shape[1]:
        raise InputError(
            f"{len(z)} cells are too few for a density in {z.shape[1]} dimensions: take more cells."
        )
    rng = np.random.default_rng(seed)
    sample = z[rng.permutation(len(z))[:n_cells]]
    ridge = _RIDGE * float(sample.var(axis=0).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            GaussianMixture(k, reg_covar=ridge, random_state=seed, max_iter=60).fit(sample)
            for k in components
            if k * 10 <= len(sample)
        ]
    return _density(min(fits, key=lambda fit: fit.bic(sample)))


def _mixture(log_weights: Tensor, means: Tensor, precisions: Tensor) -> Density:
    """A mixture with its normalising factors worked out."""
    log_norms = 0.5 * (torch.linalg.slogdet(precisions)[1] - means.shape[-1] * math.log(2 * math.pi))
    return Density(log_weights, means, precisions, log_norms)


def _density(fit: GaussianMixture) -> Density:
    """The tensors of a fitted scikit-learn mixture, worked out in double and kept in single precision."""
    values = (torch.from_numpy(np.asarray(a)) for a in (np.log(fit.weights_), fit.means_, fit.precisions_))
    return _mixture(*values).to(dtype=torch.float32)
