"""What an environment is made of: controls, their matched profiles, what an action does to a latent cell."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import finite_arrays, log1p_cells, name_list, require_number
from twinlib.errors import WorldError
from twinlib.files import write_atomic

if TYPE_CHECKING:
    from twinlib.embedding.attention import Embedding
    from twinlib.environment.density import Density

#: What `y` of a start is: x and its label's mean change within the context, or the matched cell.
TARGETS = ("population", "cell")
#: Fields with one row a matched cell.
_ROWS = ("x", "y", "z0", "label", "group")
#: Fields written to a world file as arrays; the rest is meta data.
_TENSORS = (*_ROWS, "changes", "conditions", "kicks", "effects", "action_gene", "mean", "std")
#: Meta data of a world file: tuples of names, and words.
_NAMES = ("genes", "action_names", "labels")
_WORDS = ("dataset", "scale_of_data", "data_hash", "fingerprint")
#: Axes of the fields: m rows, K groups, L labels, A actions, G genes, D latent axes, C condition columns.
_AXES = {
    "x": "m G", "y": "m G", "z0": "m D", "label": "m", "group": "m", "changes": "K G", "conditions": "L C",
    "kicks": "L D", "effects": "A D", "action_gene": "A", "mean": "G", "std": "G",
}  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Where episodes begin, over any leading axes: observed control, goal, latent cell, label vectors."""

    #: `[..., G]`, the observed control in z-scores.
    x: Tensor
    #: `[..., G]`, the target profile in z-scores; the policy never sees it.
    y: Tensor
    #: `[..., D]`, encode(x).
    z: Tensor
    #: `[..., C]`, embedding of the perturbation.
    condition: Tensor
    #: `[..., D]`, latent effect of the perturbed gene at full efficacy.
    kick: Tensor


@dataclass(frozen=True)
class Units:
    """Fixed numbers of the training world, in which observations, steps and rewards are measured."""

    #: `[D + C]`, mean of each latent axis and of each condition column.
    mean: Tensor
    #: `[D + C]`, s.d. of the same; 1 where a column is constant.
    std: Tensor
    #: Mean latent distance from a control to its match.
    distance: float
    #: By target: mean return, in squared z-scores, of the best constant action of each label.
    gain: Mapping[str, float]

    def __post_init__(self) -> None:
        require_number("distance", self.distance, 0)
        for target in TARGETS:
            gain = self.gain.get(target, 0.0)
            if not 0 < gain < float("inf"):
                raise WorldError(
                    f"the attainable gain of the {target} target is {gain:g} and must be above 0: "
                    "give actions that move the cells, or perturbations that change them."
                )

    @staticmethod
    def plain(columns: int, distance: float = 1.0) -> Units:
        """Units that leave observations of `columns` = D + C and rewards as they are."""
        return Units(torch.zeros(columns), torch.ones(columns), distance, dict.fromkeys(TARGETS, 1.0))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Units:
        """A copy on another device or in another precision."""
        mean, std = (value.to(device=device, dtype=dtype) for value in (self.mean, self.std))
        return dataclasses.replace(self, mean=mean, std=std)


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
    #: `[m, G]`, observed controls in the scale of the data (log1p, arcsinh).
    x: Tensor
    #: `[m, G]`, the observed cell each control is matched to, in the same scale.
    y: Tensor
    #: `[m, D]`, encode of x.
    z0: Tensor
    #: `[m]`, index of the perturbation in `labels`.
    label: Tensor
    #: `[m]`, row of `changes` of each cell: its perturbation in its context.
    group: Tensor
    #: `[K, G]`, mean of a group's perturbed cells less mean of the controls of its context.
    changes: Tensor
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
    #: What observations and rewards are measured in.
    units: Units
    #: Scale of x and y: `log1p` or `arcsinh`.
    scale_of_data: str = "log1p"
    #: Hash of the data.
    data_hash: str = ""
    #: Hash of the preparation.
    fingerprint: str = ""
    #: Gaussian mixture of the training cells' latents, where `drift="density"` is wanted.
    density: Density | None = None

    def __post_init__(self) -> None:
        finite_arrays(**{name: (getattr(self, name).cpu(), axes) for name, axes in _AXES.items()})
        columns = f"columns={self.latent_dim + self.conditions.shape[1]}"
        finite_arrays(
            **{f"units.{name}": (getattr(self.units, name).cpu(), columns) for name in ("mean", "std")}
        )

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
        units = self.units.to(device, dtype)
        return dataclasses.replace(self, **moved, embedding=embedding, density=density, units=units)

    def rows(self, chosen: Tensor | slice) -> World:
        """The same world with some of its matched cells."""
        return dataclasses.replace(self, **{name: getattr(self, name)[chosen] for name in _ROWS})

    def targets(self, target: str = "population") -> Tensor:
        """The target profile of each cell `[m, G]`, in the scale of x: one of `TARGETS`."""
        return self.y if target == "cell" else self.x + self.changes[self.group]

    def starts(self, cells: Tensor, target: str = "population") -> Start:
        """The starts of the cells with these indices `[...]`."""
        label, x = self.label[cells], self.x[cells]
        y = self.y[cells] if target == "cell" else x + self.changes[self.group[cells]]
        return Start(self.scale(x), self.scale(y), self.z0[cells], self.conditions[label], self.kicks[label])

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
    def starts_from(self, x: Tensor, labels: Sequence[str], y: Tensor | None = None) -> Start:
        """Starts of given controls `[n, G]` and labels; without y, x and the label's mean change is it."""
        index = self.label_index(labels)
        axes = f"n={len(index)} G={len(self.genes)}"
        given = {name: value.cpu() for name, value in (("x", x), ("y", y)) if value is not None}
        if self.scale_of_data == "log1p":
            log1p_cells(axes, **given)
        else:
            finite_arrays(**{name: (value, axes) for name, value in given.items()})
        x = x.to(self.z0)
        target = x + self.mean_changes()[index] if y is None else y.to(self.z0)
        z = encode_blocks(self.embedding, self.scale(x))
        return Start(self.scale(x), self.scale(target), z, self.conditions[index], self.kicks[index])

    def mean_changes(self, target: str = "population") -> Tensor:
        """Mean change from x to the target `[L, G]` under each label; of all cells where a label has none."""
        change = self.targets(target) - self.x
        member = torch.nn.functional.one_hot(self.label, len(self.labels)).to(change).T
        member[member.sum(1) == 0] = 1.0
        return member @ change / member.sum(1, keepdim=True)

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

    def random_move(self) -> float:
        """Root mean square latent length of gene actions drawn uniformly from [-1, 1], at action scale 1."""
        return float((self.effects[self.action_gene >= 0].square().sum() / 3).sqrt())

    def action_scale(self, horizon: int) -> float:
        """The default s: H uniformly drawn actions, laid end to end, are as long as the mean way to y.

        s = units.distance / (H x random_move): each random action moves the latent cell, root mean square, by
        one H-th of the mean distance between a control and its match. The released code sets its s from the
        mean length of one world-model step in the same spirit.
        """
        move = self.random_move()
        if move <= 0.0:
            raise WorldError("every action effect is zero: pass action_scale, or train the embedding.")
        return self.units.distance / (horizon * move)


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
    arrays |= {f"units_{name}": getattr(world.units, name).cpu().numpy() for name in ("mean", "std")}
    meta = {name: getattr(world, name) for name in (*_NAMES, *_WORDS)}
    meta |= {"distance": world.units.distance, "gain": dict(world.units.gain)}
    meta |= {"embedding": embedding_fingerprint(world.embedding)}

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
    density = _named(arrays, "density_")
    scaler = {name: torch.from_numpy(value) for name, value in _named(arrays, "units_").items()}
    fields: dict[str, Any] = {name: torch.from_numpy(arrays[name]) for name in _TENSORS}
    fields |= {name: tuple(meta[name]) for name in _NAMES} | {name: meta[name] for name in _WORDS}
    fields["units"] = Units(**scaler, distance=meta["distance"], gain=meta["gain"])
    return World(**fields, embedding=embedding, density=_read_density(density) if density else None)


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name begins with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


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
