"""A small world of made-up tensors, so that the environment is tested without data or a trained embedding.

Its units leave observations (but for the time) and rewards as they are.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from twinlib.environment.world import Units, World


class ToyEmbedding(nn.Module):
    """A slightly curved encoder and decoder, so that linear and exact mode differ."""

    def __init__(self, n_genes: int = 6, latent_dim: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.meta: dict[str, str] = {}
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(torch.randn(n_genes, latent_dim, generator=generator) / n_genes**0.5)
        self.up = nn.Parameter(torch.randn(latent_dim, n_genes, generator=generator) / latent_dim**0.5)

    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * x @ self.down)

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.up) + 0.1 * z @ self.up


def toy_world(
    n_genes: int = 6, latent_dim: int = 3, m: int = 20, dtype: torch.dtype = torch.float32
) -> World:
    generator = torch.Generator().manual_seed(1)
    embedding = ToyEmbedding(n_genes, latent_dim)
    mean, std = torch.rand(n_genes, generator=generator), 0.5 + torch.rand(n_genes, generator=generator)
    x = torch.rand(m, n_genes, generator=generator) * 2
    y = x + 0.5 * torch.randn(m, n_genes, generator=generator) + torch.linspace(-1, 1, n_genes)
    effects = embedding.down.detach() * 0.5
    label = torch.arange(m) % 2
    world = World(
        dataset="toy",
        genes=tuple(f"g{i}" for i in range(n_genes)),
        action_names=tuple(f"g{i}" for i in range(n_genes)),
        labels=("g0", "g1"),
        x=x,
        y=y,
        z0=embedding.encode((x - mean) / std).detach(),
        label=label,
        group=label,
        changes=torch.stack([(y - x)[label == i].mean(0) for i in range(2)]),
        conditions=torch.eye(2),
        kicks=-effects[:2],
        effects=effects,
        action_gene=torch.arange(n_genes),
        mean=mean,
        std=std,
        embedding=embedding,  # type: ignore[arg-type]
        units=Units.plain(latent_dim + 2),
    )
    world = world.to(dtype=dtype)
    world = dataclasses.replace(world, z0=world.embedding.encode(world.scale(world.x)).detach())
    matches = world.embedding.encode(world.scale(world.y)).detach()
    distance = float((matches - world.z0).norm(dim=-1).mean())
    return dataclasses.replace(world, units=dataclasses.replace(world.units, distance=distance))
