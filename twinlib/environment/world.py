"""What an environment is made of: controls, their matched profiles, what an action does to a latent cell."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import log1p_cells, name_list
from twinlib.errors import WorldError
from twinlib.files import write_atomic

if TYPE_CHECKING:
    from twinlib.embedding.attention import Embedding
    from twinlib.environment.density import Density

#: Fields written to a world file as arrays; the rest is meta data.
_TENSORS = ("x", "y", "z0", "label", "conditions", "kicks", "effects", "action_gene", "mean", "std")


@dataclass(frozen=True)
class Start:
    """Where episodes begin, over any leading axes: observed control, goal, latent cell, label vectors."""

    #: `[..., G]`, the observed control in z-scores.
    x: Tensor
    #: `[..., G]`, the matched observed profile in z-scores; the policy never sees it.
    y: Tensor
    #: `[..., D]`, encode(x).
    z: Tensor
    #: `[..., C]`, embedding of the perturbation.
    condition: Tensor
    #: `[..., D]`, latent effect of the perturbed gene at full efficacy.
    kick: Tensor


@dataclass(frozen=True)
class World:
    """Control cells with matched profiles, perturbation labels and the effect of every action."""

    #: Name of the data.
    dataset: str
    #: The gene panel, G names.
    genes: tuple[str, ...]
    #: A names, a gene or a cytokine each.
    action_names: tuple[str, ...]
    #: L perturbation labels.
    labels: tuple[str, ...]
    #: `[m, G]`, observed controls in log1p units.
    x: Tensor
    #: `[m, G]`, the observed profile each control is matched to, in log1p units.
    y: Tensor
    #: `[m, D]`, encode of x.
    z0: Tensor
    #: `[m]`, index of the perturbation in `labels`.
    label: Tensor
    #: `[L, C]`, embedding of each label.
    conditions: Tensor
    #: `[L, D]`, signed latent effect of one training s.d. of the targets; zero if unmeasured.
    kicks: Tensor
    #: `[A, D]`, E: latent move for one unit of each action.
    effects: Tensor
    #: `[A]`, row of the panel the action moves, -1 for a cytokine.
    action_gene: Tensor
    #: `[G]`, mean of the training cells.
    mean: Tensor
    #: `[G]`, s.d. of the training cells.
    std: Tensor
    #: Encoder and decoder.
    embedding: Embedding
    #: Hash of the data.
    data_hash: str = ""
    #: Hash of the preparation.
    fingerprint: str = ""
    #: Gaussian mixture of the training cells' latents, where `drift="density"` is wanted.
    density: Density | None = None
    #: Mean latent distance from a control to its match; None works it out when asked for.
    distance: float | None = None

    @property
    def condition(self) -> Tensor:
        """Embedding of each cell's perturbation `[m, C]`."""
        return self.conditions[self.label]

    @property
    def kick(self) -> Tensor:
        """Latent effect of each cell's perturbed genes at full efficacy `[m, D]`."""
        return self.kicks[self.label]

    @property
    def latent_dim(self) -> int:
        """D."""
        return int(self.z0.shape[-1])

    def __len__(self) -> int:
        return int(self.z0.shape[0])

    def scale(self, log1p: Tensor) -> Tensor:
        """z-scores of log1p expression `[..., G]`."""
        return (log1p - self.mean) / self.std

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> World:
        """A copy on another device or in another precision; integer indices keep their type."""
        moved: dict[str, Any] = {}
        for name in _TENSORS:
            value = cast(Tensor, getattr(self, name))
            moved[name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        embedding = copy.deepcopy(self.embedding).to(device=device, dtype=dtype)
        density = self.density.to(device, dtype) if self.density is not None else None
        return dataclasses.replace(self, **moved, embedding=embedding, density=density)

    def starts(self, cells: Tensor) -> Start:
        """The starts of the cells with these indices `[...]`."""
        label = self.label[cells]
        x, y = self.scale(self.x[cells]), self.scale(self.y[cells])
        return Start(x, y, self.z0[cells], self.conditions[label], self.kicks[label])

    def label_index(self, labels: Sequence[str]) -> Tensor:
        """Indices `[n]` of labels; an unknown one is refused."""
        labels = name_list("labels", labels)
        known = {name: i for i, name in enumerate(self.labels)}
        missing = sorted({name for name in labels if name not in known})
        if missing:
            raise WorldError(
                f"the world of {self.dataset!r} knows no perturbation {', '.join(map(repr, missing))}: "
                f"choose from {', '.join(self.labels[:8])}{', ...' if len(self.labels) > 8 else ''}."
            )
        return torch.tensor([known[name] for name in labels], dtype=torch.long, device=self.z0.device)

    @torch.no_grad()
    def starts_from(self, x_log1p: Tensor, labels: Sequence[str], y_log1p: Tensor | None = None) -> Start:
        """Starts of given controls `[n, G]` (log1p) and labels; without y, the mean match of the label."""
        index = self.label_index(labels)
        y_given = x_log1p if y_log1p is None else y_log1p
        log1p_cells(f"n={len(index)} G={len(self.genes)}", x=x_log1p.cpu(), y=y_given.cpu())
        x = self.scale(x_log1p.to(self.z0))
        y = self.scale(y_log1p.to(self.z0)) if y_log1p is not None else self._mean_match(index)
        z = encode_blocks(self.embedding, x)
        return Start(x, y, z, self.conditions[index], self.kicks[index])

    def _mean_match(self, index: Tensor) -> Tensor:
        """Mean matched profile of each label `[n, G]` in z-scores; of all cells where the label has none."""
        rows = [self.y[self.label == i] if bool((self.label == i).any()) else self.y for i in index.tolist()]
        return self.scale(torch.stack([part.mean(0) for part in rows]))

    def only(self, targets: Sequence[str]) -> World:
        """The same world with the actions named in `targets` alone."""
        targets = name_list("targets", targets)
        missing = [name for name in targets if name not in self.action_names]
        if missing or not targets:
            raise WorldError(
                f"targets={list(targets)} must name actions of this world, and "
                f"{', '.join(map(repr, missing)) or 'an empty list'} does not: see world.action_names."
            )
        if len(set(targets)) < len(targets):
            raise WorldError(f"targets={list(targets)} names an action twice: name each once.")
        rows = torch.tensor([self.action_names.index(name) for name in targets], device=self.z0.device)
        return dataclasses.replace(
            self, action_names=targets, effects=self.effects[rows], action_gene=self.action_gene[rows]
        )

    @torch.no_grad()
    def match_distance(self) -> float:
        """Mean latent distance from a control to the profile it is matched to."""
        if self.distance is not None:
            return self.distance
        z = encode_blocks(self.embedding, self.scale(self.y))
        return float((z - self.z0).norm(dim=-1).mean())

    def random_move(self) -> float:
        """Root mean square latent length of gene actions drawn uniformly from [-1, 1], at action scale 1."""
        return float((self.effects[self.action_gene >= 0].square().sum() / 3).sqrt())

    def action_scale(self, horizon: int) -> float:
        """The default s: H uniformly drawn actions, laid end to end, are as long as the mean way to y.

        s = match_distance / (H x random_move): each random action moves the latent cell, root mean square, by
        one H-th of the mean distance between a control and its match. The released code sets its s from the
        mean length of one world-model step in the same spirit.
        """
        move = self.random_move()
        if move <= 0.0:
            raise WorldError("every action effect is zero: pass action_scale, or train the embedding.")
        return self.match_distance() / (horizon * move)


@torch.no_grad()
def encode_blocks(embedding: Embedding, scaled: Tensor) -> Tensor:
    """Latent cells `[n, D]` of z-scores `[n, G]`, 512 cells at a time."""
    return torch.cat([embedding.encode(block) for block in torch.split(scaled, 512)])


def embedding_fingerprint(embedding: Embedding) -> str:
    """Hash of an embedding's weights: a world and the checkpoint it was made with cannot part unnoticed."""
    digest = hashlib.sha256()
    for name, value in sorted(embedding.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_world(world: World, path: str | os.PathLike[str]) -> None:
    """Write a world without its embedding as a compressed npz, beside first and then in place."""
    arrays = {name: getattr(world, name).cpu().numpy() for name in _TENSORS}
    if world.density is not None:
        arrays |= {f"density_{name}": value for name, value in world.density.arrays().items()}
    names = ("dataset", "genes", "action_names", "labels", "data_hash", "fingerprint")
    meta = {name: getattr(world, name) for name in names}
    meta |= {"distance": world.match_distance(), "embedding": embedding_fingerprint(world.embedding)}

    def write(beside: pathlib.Path) -> None:
        with beside.open("wb") as file:
            np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)

    write_atomic(pathlib.Path(path), write)


def load_world(path: str | os.PathLike[str], embedding: Embedding) -> World:
    """Read a world that `save_world` wrote; the embedding must be the one it was made with."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise WorldError(
            f"there is no world file {path.name}: make one with make_world and save_world, "
            "a packaged one with python -m twinlib.environment.packaged."
        )
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    _require_same(meta, embedding, path.name)
    density = {
        name.removeprefix("density_"): value for name, value in arrays.items() if name.startswith("density_")
    }
    fields: dict[str, Any] = {name: torch.from_numpy(arrays[name]) for name in _TENSORS}
    fields |= {name: tuple(meta[name]) for name in ("genes", "action_names", "labels")}
    fields |= {name: meta[name] for name in ("dataset", "data_hash", "fingerprint", "distance")}
    return World(**fields, embedding=embedding, density=_read_density(density) if density else None)


def _require_same(meta: dict[str, str], embedding: Embedding, name: str) -> None:
    """Refuse an embedding with other weights, or one trained on other data, than the world was made with."""
    other = "embedding checkpoint" if meta["embedding"] != embedding_fingerprint(embedding) else ""
    if any(embedding.meta.get(key, meta[key]) != meta[key] for key in ("data_hash", "fingerprint")):
        other = "preparation of the data"
    if other:
        raise WorldError(
            f"the world file {name} was made with another {other}: "
            "make it again with make_world and save_world, "
            "a packaged one with python -m twinlib.environment.packaged."
        )


def _read_density(arrays: dict[str, np.ndarray]) -> Density:
    from twinlib.environment.density import Density

    return Density.from_arrays(arrays)
