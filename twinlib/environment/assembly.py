"""Making a world from prepared cells and an embedding: matched rows, effects of actions, kicks, density."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from twinlib.environment.world import World, encode_blocks
from twinlib.errors import DataError, WorldError

if TYPE_CHECKING:
    from twinlib.data.pairing import Pairs
    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding
    from twinlib.environment.density import Density

#: Sign of the kick by kind of perturbation: knock-down and knock-out lower the target, activation raises it.
KICK_SIGN = {"CRISPRko": -1.0, "CRISPRi": -1.0, "CRISPRa": 1.0}
#: Training controls over which the encoder's Jacobian is averaged.
EFFECT_CELLS = 256
#: Training cells to which the density is fitted, at most.
DENSITY_CELLS = 4000


def make_world(
    prepared: Prepared,
    embedding: Embedding,
    split: str = "train",
    pairs: Pairs | None = None,
    targets: Sequence[str] | None = None,
    density: bool = False,
    actions: str = "genes",
    n_pairs: int | None = None,
) -> World:
    """Controls of a split matched to perturbed cells, and what each action does to a latent cell.

    Parameters
    ----------
    prepared
        Cells n x G.
    embedding
        Trained on the same preparation; another is refused.
    split
        "train", "validation" or "test".
    pairs
        Control-to-perturbed matches inside the split; by default made with optimal transport.
    targets
        Names of the genes (or cytokines) that actions may adjust; by default all.
    density
        Whether to fit the Gaussian mixture that `drift="density"` needs.
    actions
        "genes" (cells under genetic perturbations), "cytokines" (cells under cytokines), or "both".
    n_pairs
        At most so many matches, drawn without replacement; by default all.
    """
    embedding.require(prepared)
    rows = _pair_rows(prepared, split, pairs, actions)
    if n_pairs is not None:
        rows = rows.drawn(n_pairs)
    world = _assemble(prepared, embedding, rows, actions)
    if density:
        world = dataclasses.replace(world, density=_density(prepared, embedding))
    return world if targets is None else world.only(targets)


def _pair_rows(prepared: Prepared, split: str, pairs: Pairs | None, actions: str) -> _Rows:
    """Matched rows of the wanted kind of perturbation and part of the split."""
    if actions not in ("genes", "cytokines", "both"):
        raise WorldError(f"actions={actions!r} is unknown: choose 'genes', 'cytokines' or 'both'.")
    if pairs is None:
        from twinlib.data.pairing import pair

        pairs = pair(prepared, split=split)
    obs = prepared.cells.obs
    control, perturbed = np.asarray(pairs.control), np.asarray(pairs.perturbed)
    kind = np.asarray(obs["perturbation_type"].astype(str))[perturbed]
    keep = {
        "genes": kind != "cytokine",
        "cytokines": kind == "cytokine",
        "both": np.ones(len(kind), dtype=bool),
    }[actions]
    if not keep.any():
        raise WorldError(
            f"{prepared.dataset!r} has no matched cells for actions={actions!r} in split={split!r}: "
            f"choose another split or environment."
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


def _assemble(prepared: Prepared, embedding: Embedding, rows: _Rows, actions: str) -> World:
    """A world of matched rows."""
    expression = np.asarray(prepared.cells.X, dtype=np.float32)
    gene_rows = _gene_effects(prepared, embedding)
    labels, conditions, kicks = _label_vectors(prepared, embedding, gene_rows)
    number = {name: i for i, name in enumerate(labels)}
    controls, inverse = np.unique(rows.control, return_inverse=True)
    z = encode_blocks(embedding, _scaled(prepared, expression[controls]))
    world = World(
        dataset=prepared.dataset,
        genes=tuple(prepared.genes),
        labels=labels,
        x=torch.from_numpy(expression[rows.control]),
        y=torch.from_numpy(expression[rows.perturbed]),
        z0=z[torch.from_numpy(inverse.reshape(-1))],
        label=torch.tensor([number[name] for name in rows.perturbation], dtype=torch.long),
        conditions=conditions,
        kicks=kicks,
        **_actions(prepared, embedding, gene_rows, actions),
        mean=torch.from_numpy(np.asarray(prepared.mean, dtype=np.float32)),
        std=torch.from_numpy(np.asarray(prepared.std, dtype=np.float32)),
        embedding=embedding,
        data_hash=prepared.data_hash,
        fingerprint=prepared.fingerprint,
    )
    return dataclasses.replace(world, distance=world.match_distance())


def _actions(prepared: Prepared, embedding: Embedding, gene_rows: Tensor, actions: str) -> dict[str, Any]:
    """The fields of a world that say what its actions are; `gene_rows` `[G, D]` is E of the panel."""
    effects, names, gene = gene_rows, tuple(prepared.genes), torch.arange(len(prepared.genes))
    if actions != "genes":
        cytokines, shifts = _cytokine_effects(prepared, embedding)
        none = torch.full((len(cytokines),), -1)
        if actions == "cytokines":
            effects, names, gene = shifts, cytokines, none
        else:
            effects, names, gene = (
                torch.cat([effects, shifts]),
                (*names, *cytokines),
                torch.cat([gene, none]),
            )
    return {"effects": effects, "action_names": names, "action_gene": gene}


def _scaled(prepared: Prepared, x_log1p: np.ndarray) -> Tensor:
    """z-scores `[n, G]` of log1p cells, as a tensor of single precision."""
    return torch.from_numpy(np.asarray(prepared.scale(x_log1p), dtype=np.float32))


def _gene_effects(prepared: Prepared, embedding: Embedding) -> Tensor:
    """E of the whole panel `[G, D]` over the first training controls."""
    from twinlib.embedding.effects import gene_effects

    controls = prepared.expression("train", "control")[:EFFECT_CELLS]
    return gene_effects(embedding, _scaled(prepared, controls)).detach()


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
        return encode_blocks(embedding, _scaled(prepared, prepared.expression("train", label))).mean(0)

    control = mean_latent("control")
    return names, torch.stack([mean_latent(name) - control for name in names])


def _label_vectors(
    prepared: Prepared, embedding: Embedding, gene_rows: Tensor
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Every label that can be embedded, with its condition `[L, C]` and kick `[L, D]`."""
    from twinlib.embedding.perturbations import PerturbationTable

    table = PerturbationTable(prepared, embedding)
    labels, conditions = [], []
    for name in prepared.perturbations:
        try:
            conditions.append(table.features([name]).detach().reshape(-1))
        except DataError:
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
    scaled = _scaled(prepared, np.asarray(prepared.cells.X)[train])
    return fit_density(encode_blocks(embedding, scaled).numpy())
