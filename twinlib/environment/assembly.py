"""Making a world from prepared cells and an embedding: matched rows, effects of actions, kicks, density.

What an experiment does with it, for any dataset, fold or held-out split:

    world = make_world(prepared, embedding)                          # training cells and their actions
    config = EnvironmentConfig(target="population")                  # dynamics
    task = Dynamics(world, config, replicas=len(seeds), n_cells=64)
    policy = train(task, TrainingConfig(), seeds).policy             # twinlib.policy.training
    row = PolicyPredictor("two_stage", policy, world, config)        # prediction; for evaluate
    others = yardstick_policies(world, config, seeds, timesteps)     # yardsticks
    validation = make_world(prepared, embedding, "validation", like=world)
    mean_return(policy, validation, config)                          # units
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twinlib.environment.units import measured
from twinlib.environment.world import Units, World, encode_blocks
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
    actions: str | None = None,
    n_pairs: int | None = None,
    like: World | None = None,
) -> World:
    """Controls of a split matched to perturbed cells, and what each action does to a latent cell.

    Effects of actions, kicks and units come from training cells. A held-out label has its condition and no
    cell.

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
        "genes" (cells under genetic perturbations), "cytokines" (cells under cytokines), or "both"; by
        default what the perturbed training cells were given.
    n_pairs
        At most so many matches, drawn without replacement; by default all.
    like
        The world of the training cells, for one of validation or test cells: actions, labels and units are
        its own.
    """
    embedding.require(prepared)
    if like is None and split != "train":
        raise WorldError(
            f"a world of the {split} cells is measured in units of the training cells: "
            "pass like=make_world(prepared, embedding)."
        )
    actions = given_actions(prepared) if actions is None else actions
    rows = _pair_rows(prepared, split, pairs, actions)
    if n_pairs is not None:
        rows = rows.drawn(n_pairs)
    if like is not None:
        return dataclasses.replace(like, **_cells(prepared, embedding, rows, like.labels, split)._asdict())
    world = measured(_assemble(prepared, embedding, rows, actions))
    if density:
        world = dataclasses.replace(world, density=_density(prepared, embedding))
    return world if targets is None else world.only(targets)


def given_actions(prepared: Prepared) -> str:
    """The actions that stand for what perturbed training cells were given: "genes", "cytokines" or "both"."""
    labels, kinds = set(prepared.train_perturbations), _kinds(prepared)
    cytokines = {kinds[label] == "cytokine" for label in labels}
    return "both" if len(cytokines) > 1 else "cytokines" if True in cytokines else "genes"


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


class _Cells(NamedTuple):
    """The fields of a world that have a row a matched cell, and the changes they point at."""

    x: Tensor
    y: Tensor
    z0: Tensor
    label: Tensor
    group: Tensor
    changes: Tensor


def _cells(
    prepared: Prepared, embedding: Embedding, rows: _Rows, labels: Sequence[str], split: str
) -> _Cells:
    """Matched cells, and the mean change of each perturbation within each context of a split."""
    expression = np.asarray(prepared.cells.X, dtype=np.float32)
    number = {name: i for i, name in enumerate(labels)}
    controls, inverse = np.unique(rows.control, return_inverse=True)
    z = encode_blocks(embedding, _scaled(prepared, expression[controls]))
    contexts = prepared.cells.obs["cell_context"].to_numpy(dtype=str)[rows.perturbed]
    groups = sorted(set(zip(rows.perturbation.tolist(), contexts.tolist(), strict=True)))
    place = {pair: i for i, pair in enumerate(groups)}
    changes = np.stack([_change(prepared, split, *pair) for pair in groups])
    member = [place[pair] for pair in zip(rows.perturbation.tolist(), contexts.tolist(), strict=True)]
    return _Cells(
        x=torch.from_numpy(expression[rows.control]),
        y=torch.from_numpy(expression[rows.perturbed]),
        z0=z[torch.from_numpy(inverse.reshape(-1))],
        label=torch.tensor([number[name] for name in rows.perturbation], dtype=torch.long),
        group=torch.tensor(member, dtype=torch.long),
        changes=torch.from_numpy(changes.astype(np.float32)),
    )


def _change(prepared: Prepared, split: str, label: str, context: str) -> np.ndarray:
    """Mean of a label's cells less mean of the controls `[G]`, within a context of a split."""
    perturbed, control = (prepared.expression(split, name, context) for name in (label, "control"))
    return np.asarray(perturbed.mean(0, dtype=np.float64) - control.mean(0, dtype=np.float64))


def _assemble(prepared: Prepared, embedding: Embedding, rows: _Rows, actions: str) -> World:
    """A world of matched training rows, in units that are still 1."""
    gene_rows = _gene_effects(prepared, embedding)
    labels, conditions, kicks = _label_vectors(prepared, embedding, gene_rows)
    return World(
        dataset=prepared.dataset,
        genes=tuple(prepared.genes),
        labels=labels,
        **_cells(prepared, embedding, rows, labels, "train")._asdict(),
        conditions=conditions,
        kicks=kicks,
        **_actions(prepared, embedding, gene_rows, actions),
        mean=torch.from_numpy(np.asarray(prepared.mean, dtype=np.float32)),
        std=torch.from_numpy(np.asarray(prepared.std, dtype=np.float32)),
        embedding=embedding,
        units=Units.plain(embedding.latent_dim + conditions.shape[1]),
        scale_of_data=prepared.scale_of_data,
        data_hash=prepared.data_hash,
        fingerprint=prepared.fingerprint,
    )


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


def _cytokine_effects(prepared: Prepared, embedding: Embedding) -> tuple[tuple[str, ...], Tensor]:
    """Names of the single cytokines and their mean latent shift `[n, D]` from control within contexts."""
    kinds = _kinds(prepared)
    names = tuple(p for p in prepared.train_perturbations if kinds[p] == "cytokine" and "+" not in p)
    if not names:
        raise WorldError(
            f"{prepared.dataset!r} has no cytokine among its training perturbations: use actions='genes'."
        )
    return names, torch.stack([_latent_shift(prepared, embedding, name) for name in names])


@torch.no_grad()
def _latent_shift(prepared: Prepared, embedding: Embedding, label: str) -> Tensor:
    """Mean latent shift `[D]` from control within contexts, weighted by the label's training cells."""
    rows = prepared.rows("train", label)
    contexts, counts = np.unique(
        prepared.cells.obs["cell_context"].to_numpy(dtype=str)[rows], return_counts=True
    )

    def mean_latent(name: str, context: str) -> Tensor:
        return encode_blocks(embedding, _scaled(prepared, prepared.expression("train", name, context))).mean(
            0
        )

    shifts = [mean_latent(label, context) - mean_latent("control", context) for context in contexts.tolist()]
    return torch.from_numpy(counts / counts.sum()).to(shifts[0]) @ torch.stack(shifts)


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
