"""What an environment is made of: controls, their matched profiles, what an action does to a latent cell."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from twinlib.errors import WorldError

if TYPE_CHECKING:
    from twinlib.data.pairing import Pairs
    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding
    from twinlib.environment.density import Density

WORLDS = pathlib.Path(__file__).parent / "worlds"
#: Sign of the kick by kind of perturbation: knock-down and knock-out lower the target, activation raises it.
KICK_SIGN = {"CRISPRko": -1.0, "CRISPRi": -1.0, "CRISPRa": 1.0}
#: Cytokines of the simulated world.
CYTOKINES = ("EPO", "TPO", "M-CSF", "G-CSF")
#: Training controls over which the encoder's Jacobian is averaged.
EFFECT_CELLS = 256
#: Training cells to which the density is fitted, at most.
DENSITY_CELLS = 4000
#: Fields written to a world file as arrays; the rest is meta data.
_TENSORS = ("x", "y", "z0", "label", "conditions", "kicks", "effects", "action_gene", "mean", "std")


@dataclass(frozen=True)
class Start:
    """Where episodes begin, over any leading axes: observed control, goal, latent cell, label vectors.

    Attributes:
        x: `[..., G]`, the observed control in z-scores.
        y: `[..., G]`, the matched observed profile in z-scores; the policy never sees it.
        z: `[..., D]`, encode(x).
        condition: `[..., C]`, embedding of the perturbation.
        kick: `[..., D]`, latent effect of the perturbed gene at full efficacy.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    condition: Tensor
    kick: Tensor


@dataclass(frozen=True)
class World:
    """Control cells with matched profiles, perturbation labels and the effect of every action.

    Attributes:
        dataset: name of the data.
        genes: the gene panel, G names.
        action_names: A names, a gene or a cytokine each.
        labels: L perturbation labels.
        x: `[m, G]`, observed controls in log1p units.
        y: `[m, G]`, the observed profile each control is matched to, in log1p units.
        z0: `[m, D]`, encode of x.
        label: `[m]`, index of the perturbation in `labels`.
        conditions: `[L, C]`, embedding of each label.
        kicks: `[L, D]`, signed latent effect of one training s.d. of the targets; zero if unmeasured.
        effects: `[A, D]`, E: latent move for one unit of each action.
        action_gene: `[A]`, row of the panel the action moves, -1 for a cytokine.
        mean, std: `[G]`, the scaler of the training cells.
        embedding: encoder and decoder.
        data_hash, fingerprint: hash of the data and of the preparation.
        density: Gaussian mixture of the training cells' latents, where `drift="density"` is wanted.
        distance: mean latent distance from a control to its match; None works it out when asked for.
    """

    dataset: str
    genes: tuple[str, ...]
    action_names: tuple[str, ...]
    labels: tuple[str, ...]
    x: Tensor
    y: Tensor
    z0: Tensor
    label: Tensor
    conditions: Tensor
    kicks: Tensor
    effects: Tensor
    action_gene: Tensor
    mean: Tensor
    std: Tensor
    embedding: Embedding
    data_hash: str = ""
    fingerprint: str = ""
    density: Density | None = None
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
        embedding = _moved(self.embedding, device, dtype)
        density = self.density.to(device, dtype) if self.density is not None else None
        return dataclasses.replace(self, **moved, embedding=embedding, density=density)

    def starts(self, cells: Tensor) -> Start:
        """The starts of the cells with these indices `[...]`."""
        label = self.label[cells]
        x, y = self.scale(self.x[cells]), self.scale(self.y[cells])
        return Start(x, y, self.z0[cells], self.conditions[label], self.kicks[label])

    def label_index(self, labels: Sequence[str]) -> Tensor:
        """Indices `[n]` of labels; an unknown one is refused."""
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
        x = self.scale(x_log1p.to(self.z0))
        y = self.scale(y_log1p.to(self.z0)) if y_log1p is not None else self._mean_match(index)
        z = torch.cat([self.embedding.encode(part) for part in torch.split(x, 512)])
        return Start(x, y, z, self.conditions[index], self.kicks[index])

    def _mean_match(self, index: Tensor) -> Tensor:
        """Mean matched profile of each label `[n, G]` in z-scores; of all cells where the label has none."""
        rows = [self.y[self.label == i] if bool((self.label == i).any()) else self.y for i in index.tolist()]
        return self.scale(torch.stack([part.mean(0) for part in rows]))

    def only(self, targets: Sequence[str]) -> World:
        """The same world with the actions named in `targets` alone."""
        missing = [name for name in targets if name not in self.action_names]
        if missing or not targets:
            raise WorldError(
                f"targets={list(targets)} must name actions of this world, and "
                f"{', '.join(map(repr, missing)) or 'an empty list'} does not: see world.action_names."
            )
        rows = torch.tensor([self.action_names.index(name) for name in targets], device=self.z0.device)
        return dataclasses.replace(
            self, action_names=tuple(targets), effects=self.effects[rows], action_gene=self.action_gene[rows]
        )

    @torch.no_grad()
    def match_distance(self) -> float:
        """Mean latent distance from a control to the profile it is matched to."""
        if self.distance is not None:
            return self.distance
        z = torch.cat([self.embedding.encode(self.scale(part)) for part in torch.split(self.y, 512)])
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


def _moved(embedding: Any, device: Any, dtype: Any) -> Any:
    """A copy of an embedding on another device or in another precision; a stand-in comes back as it is."""
    if not isinstance(embedding, torch.nn.Module):
        return embedding
    import copy

    return copy.deepcopy(embedding).to(device=device, dtype=dtype)


# -- making one ------------------------------------------------------------------------------------------


def make_world(
    prepared: Prepared,
    embedding: Embedding,
    split: str = "train",
    pairs: Pairs | None = None,
    targets: Sequence[str] | None = None,
    cells: str = "all",
    density: bool = False,
    actions: str = "genes",
    n_pairs: int | None = None,
) -> World:
    """Controls of a split matched to perturbed cells, and what each action does to a latent cell.

    Args:
        prepared: cells n x G.
        embedding: trained on the same preparation; another is refused.
        split: "train" or "test".
        pairs: control-to-perturbed matches inside the split; by default made with optimal transport.
        targets: names of the genes (or cytokines) that actions may adjust; by default all.
        cells: "all" of the split, "fit" (without the validation fifth) or "validation".
        density: whether to fit the Gaussian mixture that `drift="density"` needs.
        actions: "genes" (cells under genetic perturbations), "cytokines" (cells under cytokines), or "both".
        n_pairs: at most so many matches, drawn without replacement; by default all.

    Raises:
        WorldError: in one sentence, for no pairs, an unknown target or an unknown part.
    """
    embedding.require(prepared)
    rows = _pair_rows(prepared, split, pairs, cells, actions)
    if n_pairs is not None:
        rows = rows.drawn(n_pairs)
    genes = _gene_effects(prepared, embedding)
    effects, names, gene_of = genes, prepared.genes, np.arange(len(prepared.genes))
    if actions != "genes":
        cytokines, shifts = _cytokine_effects(prepared, embedding)
        none = np.full(len(cytokines), -1)
        if actions == "cytokines":
            effects, names, gene_of = shifts, cytokines, none
        else:
            effects, names = torch.cat([genes, shifts]), (*prepared.genes, *cytokines)
            gene_of = np.concatenate([gene_of, none])
    world = _assemble(prepared, embedding, rows, effects, names, gene_of, genes)
    if density:
        world = dataclasses.replace(world, density=_density(prepared, embedding))
    return world if targets is None else world.only(targets)


def _pair_rows(prepared: Prepared, split: str, pairs: Pairs | None, cells: str, actions: str) -> _Rows:
    """Matched rows of the wanted kind of perturbation and part of the split."""
    if cells not in ("all", "fit", "validation"):
        raise WorldError(f"cells={cells!r} is no part of a split: choose 'all', 'fit' or 'validation'.")
    if actions not in ("genes", "cytokines", "both"):
        raise WorldError(f"actions={actions!r} is unknown: choose 'genes', 'cytokines' or 'both'.")
    if pairs is None:
        from twinlib.data.pairing import pair

        pairs = pair(prepared, split=split)
    obs = prepared.cells.obs
    control, perturbed = np.asarray(pairs.control), np.asarray(pairs.perturbed)
    kind = np.asarray(obs["perturbation_type"].astype(str))[perturbed]
    wanted_kind = {"genes": kind != "cytokine", "cytokines": kind == "cytokine"}
    keep = wanted_kind.get(actions, np.ones(len(kind), dtype=bool)).copy()
    if cells != "all":
        held = np.asarray(obs["validation"], dtype=bool)
        wanted = cells == "validation"
        keep &= (held[control] == wanted) & (held[perturbed] == wanted)
    if not keep.any():
        raise WorldError(
            f"{prepared.dataset!r} has no matched cells for actions={actions!r} in split={split!r}, "
            f"cells={cells!r}: choose another split or environment."
        )
    return _Rows(control[keep], perturbed[keep], np.asarray(pairs.perturbation).astype(str)[keep])


@dataclass(frozen=True)
class _Rows:
    """Row numbers of matched controls and perturbed cells `[m]`, and the perturbation `[m]`."""

    control: np.ndarray
    perturbed: np.ndarray
    perturbation: np.ndarray

    def drawn(self, n: int) -> _Rows:
        """At most n rows, in their old order."""
        kept = np.sort(np.random.default_rng(0).permutation(len(self.control))[:n])
        return _Rows(self.control[kept], self.perturbed[kept], self.perturbation[kept])


@torch.no_grad()
def _assemble(
    prepared: Prepared,
    embedding: Embedding,
    rows: _Rows,
    effects: Tensor,
    action_names: Sequence[str],
    action_gene: np.ndarray,
    gene_rows: Tensor | None = None,
) -> World:
    """A world of matched rows; `gene_rows` `[G, D]` are the effects that kicks use (default: `effects`)."""
    expression = np.asarray(prepared.cells.X, dtype=np.float32)
    labels, conditions, kicks = _label_vectors(
        prepared, embedding, effects if gene_rows is None else gene_rows
    )
    where = {name: i for i, name in enumerate(labels)}
    controls, inverse = np.unique(rows.control, return_inverse=True)
    scaled = torch.from_numpy(np.asarray(prepared.scale(expression[controls]), dtype=np.float32))
    z = torch.cat([embedding.encode(part) for part in torch.split(scaled, 512)])
    world = World(
        dataset=prepared.dataset,
        genes=tuple(prepared.genes),
        action_names=tuple(action_names),
        labels=labels,
        x=torch.from_numpy(expression[rows.control]),
        y=torch.from_numpy(expression[rows.perturbed]),
        z0=z[torch.from_numpy(inverse.reshape(-1))],
        label=torch.tensor([where[name] for name in rows.perturbation], dtype=torch.long),
        conditions=conditions,
        kicks=kicks,
        effects=effects,
        action_gene=torch.from_numpy(np.asarray(action_gene, dtype=np.int64)),
        mean=torch.from_numpy(np.asarray(prepared.mean, dtype=np.float32)),
        std=torch.from_numpy(np.asarray(prepared.std, dtype=np.float32)),
        embedding=embedding,
        data_hash=prepared.data_hash,
        fingerprint=prepared.fingerprint,
    )
    return dataclasses.replace(world, distance=world.match_distance())


def _gene_effects(prepared: Prepared, embedding: Embedding) -> Tensor:
    """E of the whole panel `[G, D]` over the first training controls."""
    from twinlib.embedding.effects import gene_effects

    controls = prepared.expression("train", "control")[:EFFECT_CELLS]
    scaled = torch.from_numpy(np.asarray(prepared.scale(controls), dtype=np.float32))
    return gene_effects(embedding, scaled).detach()


@torch.no_grad()
def _cytokine_effects(prepared: Prepared, embedding: Embedding) -> tuple[tuple[str, ...], Tensor]:
    """Names of the single cytokines and their mean latent shift `[n, D]` from control on training cells."""
    kinds = _kinds(prepared)
    names = tuple(p for p in prepared.train_perturbations if kinds[p] == "cytokine" and "+" not in p)
    if not names:
        raise WorldError(
            f"{prepared.dataset!r} has no cytokine among its training perturbations: use actions='genes'."
        )

    def mean_latent(label: str) -> Tensor:
        scaled = np.asarray(prepared.scale(prepared.expression("train", label)), dtype=np.float32)
        return torch.cat(
            [embedding.encode(part) for part in torch.split(torch.from_numpy(scaled), 512)]
        ).mean(0)

    control = mean_latent("control")
    return names, torch.stack([mean_latent(name) - control for name in names])


def _label_vectors(
    prepared: Prepared, embedding: Embedding, gene_rows: Tensor
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Every label that can be embedded, with its condition `[L, C]` and kick `[L, D]`."""
    from twinlib.embedding.perturbations import PerturbationTable
    from twinlib.errors import DataError

    table = PerturbationTable(prepared, embedding)
    labels, conditions = [], []
    for name in prepared.perturbations:
        try:
            conditions.append(table.features([name]).detach().reshape(-1))
        except (DataError, ValueError, KeyError):
            continue  # a label seen only in test cells, whose target is not measured, has no embedding
        labels.append(name)
    kinds = _kinds(prepared)
    kicks = torch.stack([_kick(name, kinds[name], prepared.genes, gene_rows) for name in labels])
    return tuple(labels), torch.stack(conditions).float(), kicks


def _kinds(prepared: Prepared) -> dict[str, str]:
    """Kind of perturbation of each label."""
    obs = prepared.cells.obs
    first = obs.drop_duplicates("perturbation")
    names, kinds = first["perturbation"].astype(str), first["perturbation_type"].astype(str)
    return dict(zip(names, kinds, strict=True))


def _kick(label: str, kind: str, genes: Sequence[str], gene_rows: Tensor) -> Tensor:
    """Signed sum of the effects of a label's measured targets `[D]`."""
    from twinlib.data.schema import parts

    rows = [list(genes).index(part) for part in parts(label) if part in genes]
    return KICK_SIGN.get(kind, 0.0) * gene_rows[rows].sum(0)


def _density(prepared: Prepared, embedding: Embedding) -> Density:
    """The Gaussian mixture of all training cells in the latent space."""
    from twinlib.environment.density import fit_density

    train = np.flatnonzero(np.asarray(prepared.cells.obs["split"] == "train"))
    train = np.random.default_rng(0).permutation(train)[:DENSITY_CELLS]  # before encoding, which costs most
    scaled = torch.from_numpy(
        np.asarray(prepared.scale(np.asarray(prepared.cells.X)[train]), dtype=np.float32)
    )
    with torch.no_grad():
        z = torch.cat([embedding.encode(part) for part in torch.split(scaled, 512)])
    return fit_density(z.numpy())


def thinned(world: World, n: int, seed: int = 0) -> World:
    """A world with at most n of the matched cells, drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(world), generator=generator)[:n].sort().values
    kept = {name: getattr(world, name)[rows] for name in ("x", "y", "z0", "label")}
    return dataclasses.replace(world, **kept)


def with_cytokines(prepared: Prepared, seed: int = 0) -> Prepared:
    """The waddington preparation with cells under cytokines beside: same genes, same scaler, more cells.

    Controls, the eleven single knock-downs, four cytokines and their pairs, 100 cells a treatment.
    """
    from twinlib.data.simulated import simulate_waddington
    from twinlib.landscapes.myeloid import GENES

    pairs = ("+".join(pair) for pair in itertools.combinations(CYTOKINES, 2))
    cells = simulate_waddington(seed=seed + 1, perturbations=GENES, cytokines=(*CYTOKINES, *pairs))
    cells = cells[:, list(prepared.genes)].copy()
    cells.X = np.asarray(cells.X.todense() if hasattr(cells.X, "todense") else cells.X, dtype=np.float32)
    cells.obs["split"] = "train"
    cells.obs["validation"] = False
    labels = tuple(sorted(set(cells.obs["perturbation"].astype(str)) - {"control"}))
    return dataclasses.replace(prepared, cells=cells, perturbations=labels, train_perturbations=labels)


# -- the packaged one ------------------------------------------------------------------------------------


def embedding_fingerprint(embedding: Any) -> str:
    """Hash of an embedding's weights: a world and the checkpoint it was made with cannot part unnoticed."""
    digest = hashlib.sha256()
    for name, value in sorted(embedding.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_world(world: World, path: str | os.PathLike[str]) -> None:
    """Write a world without its embedding as a compressed npz, beside first and then in place."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(world, name).cpu().numpy() for name in _TENSORS}
    if world.density is not None:
        arrays |= {f"density_{name}": value for name, value in world.density.arrays().items()}
    meta = {name: getattr(world, name) for name in ("dataset", "genes", "action_names", "labels")}
    meta |= {
        "data_hash": world.data_hash,
        "fingerprint": world.fingerprint,
        "distance": world.match_distance(),
    }
    meta["embedding"] = embedding_fingerprint(world.embedding)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with beside.open("wb") as file:
        np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)
    os.replace(beside, target)


def load_world(path: str | os.PathLike[str], embedding: Embedding) -> World:
    """Read a world that `save_world` wrote; the embedding must be the one it was made with."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise WorldError(
            f"there is no world file {path.name}: make it with python -m twinlib.environment.dynamics."
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


def _require_same(meta: dict[str, Any], embedding: Any, name: str) -> None:
    """Refuse an embedding with other weights, or one trained on other data, than the world was made with."""
    about = getattr(embedding, "meta", {})
    other = "embedding checkpoint" if meta["embedding"] != embedding_fingerprint(embedding) else ""
    for key in ("data_hash", "fingerprint"):
        if about.get(key, meta[key]) != meta[key]:
            other = "preparation of the data"
    if other:
        raise WorldError(
            f"the world file {name} was made with another {other}: "
            "make it again with python -m twinlib.environment.dynamics."
        )


def _read_density(arrays: dict[str, np.ndarray]) -> Density:
    from twinlib.environment.density import Density

    return Density.from_arrays(arrays)


def packaged_world(name: str = "waddington") -> World:
    """The world that comes with the package: simulated cells, no network, no simulation at import."""
    from twinlib.embedding.train import pretrained

    return load_world(WORLDS / f"{name}.npz", pretrained("waddington"))
