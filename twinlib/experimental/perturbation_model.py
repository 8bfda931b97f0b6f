"""The experimental twin f(x, p) -> y: a supervised model of one perturbation step, no exploration.

In the latent space of a frozen encoder the perturbation moves the cell, `z -> z + m(z, p)`; the decoder
turns the move into expression, and a head on the perturbation's features adds what the decoder cannot say:

    y_hat = x + std * (decode(z + m(z, p)) - decode(z) + head(p)),     z = encode(scale(x)).

The move has two parts, m(z, p) = s(p) + c(z, s(p)). The label network gives s(p) and head(p), what the
perturbation does to the average cell; it is fitted to mean changes, because a difference of a few hundred
cells says more about a mean than any single pair. The cell network c says how a cell in state z departs
from that average; it is fitted to matched pairs, sees the perturbation only through s(p), and is kept only
where it brings validation cells nearer. Both are exactly zero where the features are zero, so a dose of 0
returns x. A target that no training cell carries is lent an effect from outside the label network (`borrow`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twinlib.data.schema import CONTROL, parts
from twinlib.embedding.perturbations import LENDERS
from twinlib.experimental.baselines import (
    Array,
    Trained,
    TrainingCells,
    changes_within,
    encode_rows,
    shift_of,
    training_cells,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from twinlib.data.pairing import Pairs
    from twinlib.data.preparation import Prepared
    from twinlib.embedding.perturbations import Coder, PerturbationTable


class MeanEffect(Protocol):
    """What a perturbation does to the average cell: `LabelNetwork` or `AdditiveEffects`."""

    latent: int

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return s [..., D] and head [..., G] of features [..., F]."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return its numbers by name."""
        ...


#: Candidates for the ridge that lends effects to unseen targets; infinity lends the mean effect.
RIDGES = (0.1, 1.0, 10.0, 100.0, np.inf)

#: Training controls over which the departures of single cells average to zero.
REFERENCE = 256

#: Pushes whose reference cells are computed together.
KINDS = 64


@dataclass(frozen=True)
class PerturbationModelConfig:
    """How the experimental twin is built and trained."""

    #: Width of the hidden layers of both networks.
    hidden: int = 64
    #: Full-batch steps of the label network.
    label_steps: int = 1000
    #: Learning rate of the label network (AdamW, cosine to zero).
    label_rate: float = 5e-3
    #: Decoupled weight decay of the label network; strong, because there are few perturbations.
    label_decay: float = 2.0
    #: Cut measured effects to the length of their signal (`trust`); False takes them as they are measured.
    trust: bool = True
    #: Fit a network to the mean effects; False: least-squares effects of the parts, which add up.
    label_network: bool = True
    #: Lend an unseen target what gene vectors tell (`borrow`); False lends it the mean effect alone.
    borrow: bool = True
    #: Fit the cell network c(z, s); False leaves m(z, p) = s(p).
    cell_network: bool = True
    #: Keep the cell network only where it brings validation cells nearer; False keeps it whatever it does.
    earns_its_place: bool = True
    #: Learning rate of the cell network (AdamW).
    cell_rate: float = 3e-3
    #: Weight decay of the cell network.
    cell_decay: float = 1e-2
    #: Pairs a minibatch of the cell network, B.
    batch: int = 256
    #: Passes of the cell network over the training pairs, at most; the best one is kept, 0 included.
    epochs: int = 40
    #: Training stops when this many passes together lower the validation error by under 0.1 %.
    patience: int = 5

    def __post_init__(self) -> None:
        for name in ("hidden", "label_steps", "batch", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"PerturbationModelConfig.{name} is {getattr(self, name)}: give 1 or more.")


def _linear(inputs: int, outputs: int, generator: torch.Generator, scale: float = 1.0) -> nn.Linear:
    """Return a linear layer with weights of s.d. scale / sqrt(inputs) from the generator, and zero
    intercept.
    """
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0.0, scale / max(inputs, 1) ** 0.5, generator=generator)
        layer.bias.zero_()
    return layer


def _acts(values: Tensor) -> Tensor:
    """Return 1 for rows with any non-zero value, else 0 [..., 1]: rounding must not move a control."""
    return (values != 0).any(dim=-1, keepdim=True).to(values.dtype)


class LabelNetwork(nn.Module):
    """Mean effect of perturbation features [..., F]: latent push s [..., D] and head [..., G] in z-scores.

    Two hidden layers of tanh, less the network's value at features zero; the saturation is what lets the
    effects of a combination be less than the sum of its parts.
    """

    scale: Tensor

    def __init__(
        self, features: int, latent: int, genes: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.latent = latent
        self.net = nn.Sequential(
            _linear(features, hidden, generator),
            nn.Tanh(),
            _linear(hidden, hidden, generator),
            nn.Tanh(),
            _linear(hidden, latent + genes, generator),
        )
        self.register_buffer("scale", torch.ones(latent + genes))

    def unit(self, features: Tensor) -> Tensor:
        """Return latent push and head side by side [..., D + G], in units of their training r.m.s."""
        change = self.net(features) - self.net(torch.zeros_like(features[:1]))
        return change * _acts(features)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return s [..., D] and head [..., G]."""
        both = self.unit(features) * self.scale
        return both[..., : self.latent], both[..., self.latent :]


class AdditiveEffects(nn.Module):
    """The label network's stand-in: features [..., F] to push [..., D] and head [..., G] by one matrix.

    The matrix is the shortest least-squares one that acts on training labels alone: the effects of the parts
    of a combination add up, and the gene vector of a target says nothing.
    """

    matrix: Tensor

    def __init__(self, features: Tensor, targets: Tensor, latent: int, parts: int) -> None:
        super().__init__()
        self.latent = latent
        told = features.clone()
        told[:, : features.shape[1] - parts] = 0.0
        self.register_buffer("matrix", torch.linalg.pinv(told.double()).float() @ targets)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return s [..., D] and head [..., G]."""
        both = features @ self.matrix
        return both[..., : self.latent], both[..., self.latent :]


class CellNetwork(nn.Module):
    """How far a cell z [n, D] departs from the average push s [n, D]: c(z, s) [n, D], zero where s is.

    It averages to zero over the reference cells [r, D], training controls, so that it adds to the mean effect
    nothing but what a different set of cells calls for.
    """

    centre: Tensor
    spread: Tensor
    length: Tensor
    strength: Tensor
    reference: Tensor

    def __init__(self, latent: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _linear(2 * latent, hidden, generator),
            nn.SiLU(),
            _linear(hidden, hidden, generator),
            nn.SiLU(),
            _linear(hidden, latent, generator, 0.1),
        )
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("strength", torch.zeros(()))
        self.register_buffer("reference", torch.zeros(REFERENCE, latent))

    def raw(self, z: Tensor, push: Tensor) -> Tensor:
        """Return the departure [..., D] before its average over the reference cells is taken off."""
        state = (z - self.centre) / self.spread
        told = self.net(torch.cat([state, push / self.length], -1))
        change = told - self.net(torch.cat([state, torch.zeros_like(push)], -1))
        return change * (self.length * self.strength) * _acts(push)

    def forward(self, z: Tensor, push: Tensor) -> Tensor:
        """Return c [n, D], whose mean over the reference cells is zero for every push."""
        kinds, index = torch.unique(push, dim=0, return_inverse=True)
        average = torch.cat([self._average(block) for block in kinds.split(KINDS)])
        return self.raw(z, push) - average[index]

    def _average(self, kinds: Tensor) -> Tensor:
        """Return the mean departure [K, D] of the reference cells under each push [K, D]."""
        shape = (len(kinds), *self.reference.shape)
        return self.raw(self.reference.expand(shape), kinds[:, None].expand(shape)).mean(dim=1)


@dataclass(frozen=True, eq=False)
class PerturbationModel:
    """A trained experimental twin."""

    #: The dataset it was trained on, for scaler and names.
    prepared: Prepared
    #: The frozen encoder and decoder.
    embedding: Coder
    #: Perturbation features (`PerturbationTable`).
    table: PerturbationTable
    #: Mean effect of a perturbation.
    label_network: MeanEffect
    #: Effect [D + G] lent to each measured target that no training cell carries.
    lent: dict[str, Tensor]
    #: Departure of a cell from the mean effect.
    cell_network: CellNetwork
    #: How it was trained.
    config: PerturbationModelConfig
    #: One row an epoch of the cell network: training and validation error.
    history: pd.DataFrame
    #: Genes and doses of the training cells.
    trained: Trained

    def effect(self, labels: Sequence[str], dose: npt.ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """Return latent push s(p) [n, D] and head(p) [n, G] in z-scores of n labels; zero for the control.

        A perturbation that cannot be embedded raises a DataError.
        """
        doses = self.trained.doses_of(labels, dose)
        return mean_effect(self.table, self.label_network, self.lent, labels, doses)

    def predict(
        self,
        x_log1p: Array,
        labels: Sequence[str],
        dose: npt.ArrayLike | None = None,
        latent: Tensor | None = None,
    ) -> Array:
        """Return predicted cells [n, G] in log1p units for control cells [n, G].

        A dose of 0 and the label `control` return the cell itself, to the bit; without a dose the trained one
        is taken, and one above it is marked by a warning (`Extrapolation`). `latent` [n, D] is encode(x),
        for callers that ask about many perturbations of the same cells.
        """
        x, labels = self.trained.question(x_log1p, labels)
        doses = self.trained.doses_of(labels, dose)
        self.trained.warn(labels, doses)
        moved = doses != 0
        result = x.copy()
        if moved.any():
            chosen = [label for label, keep in zip(labels, moved, strict=True) if keep]
            z = encode_rows(self.prepared, self.embedding, x[moved]) if latent is None else latent[moved]
            result[moved] += self._change(z, *self.effect(chosen, doses[moved]))
        return result

    def _change(self, z: Tensor, push: Tensor, head: Tensor) -> Array:
        with torch.no_grad():
            moved = self.embedding.decode(z + push + self.cell_network(z, push))
            scaled = (moved - self.embedding.decode(z) + head).numpy()
        return scaled * np.asarray(self.prepared.std, dtype=scaled.dtype)

    def trajectory(
        self,
        x_log1p: Array,
        labels: Sequence[str],
        horizon: int = 15,
        dose: npt.ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Return latent paths [n, H + 1, D] along h / H of the dose (the trained one), from encode(x)."""
        x, labels = self.trained.question(x_log1p, labels)
        path, doses = [encode_rows(self.prepared, self.embedding, x)], self.trained.doses_of(labels, dose)
        with torch.no_grad():
            for h in range(1, horizon + 1):
                push, _ = self.effect(labels, doses * (h / horizon))
                path.append(path[0] + push + self.cell_network(path[0], push))
        return torch.stack(path, dim=1).numpy()


def without_departures(model: PerturbationModel) -> PerturbationModel:
    """Return the same twin with a silent cell network: every cell makes the average move."""
    network = copy.deepcopy(model.cell_network)
    network.strength.zero_()
    return replace(model, cell_network=network)


def mean_effect(
    table: PerturbationTable,
    network: MeanEffect,
    lent: dict[str, Tensor],
    labels: Sequence[str],
    doses: Array,
) -> tuple[Tensor, Tensor]:
    """Return latent push [n, D] and head [n, G] of n labels at n doses.

    The label network gives them for the parts that it was trained on; what is lent to others is added.
    """
    names, index = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    dose = torch.from_numpy(np.asarray(doses, dtype=np.float32)[:, None])
    rows = torch.from_numpy(index.reshape(-1))
    table.features([str(name) for name in names if name != CONTROL])  # refuses what cannot be embedded
    split = [_seen_and_not(table, str(name)) for name in names]
    push, head = network(label_features(table, [seen for seen, _ in split])[rows] * dose)
    nothing = torch.zeros(push.shape[1] + head.shape[1])
    unseen = torch.stack([sum((lent[part] for part in rest), nothing) for _, rest in split])[rows] * dose
    return push + unseen[:, : network.latent], head + unseen[:, network.latent :]


def _seen_and_not(table: PerturbationTable, label: str) -> tuple[str, list[str]]:
    """Return the label of the parts that occur in training, and the parts that do not."""
    seen = [part for part in parts(label) if part in table.parts]
    rest = [part for part in parts(label) if part not in table.parts]
    return (label if not rest else "+".join(seen) or CONTROL), rest


def label_features(table: PerturbationTable, labels: Sequence[str]) -> Tensor:
    """Return the features [n, F] of n labels at dose 1; zeros for the control."""
    names, index = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    kinds = torch.zeros(len(names), table.dim)
    known = [str(name) for name in names if name != CONTROL]
    if known:
        kinds[torch.from_numpy(names != CONTROL)] = table.features(known).detach().float()
    return kinds[torch.from_numpy(index.reshape(-1))]


@dataclass(frozen=True)
class Effects:
    """Mean effect of each training group (label and dose), as measured and as believed.

    Genes and latent dimensions stand side by side as K = D + G columns, latent first, genes in z-scores."""

    #: Label of each group [P].
    labels: tuple[str, ...]
    #: Dose of each group [P].
    doses: Array
    #: Mean change against controls of the same context [P, K].
    measured: Array
    #: Sampling variance of `measured` [P, K].
    noise: Array
    #: `measured` with departures from the mean change cut to the length of their signal [P, K].
    believed: Array


def _group_means(cells: TrainingCells, values: Array, label: str, dose: float) -> tuple[Array, Array]:
    """Return mean change [K] against controls of the same context, and the variance of that mean [K]."""
    change, _ = changes_within(cells, cells.of(label) & (cells.doses == dose), values)
    return change.mean(axis=0), change.var(axis=0) / max(len(change) - 1, 1)


def estimate_effects(cells: TrainingCells, columns: Array, shrunk: bool = True) -> Effects:
    """Estimate the mean effect of each label and dose, shrunk towards the mean over groups.

    Shapes: columns [n, K] of the training cells, latent cells beside z-scores; see `Effects` and `trust`.
    Without `shrunk` the effects are believed as they are measured.
    """
    groups = sorted(
        {(str(a), float(b)) for a, b in zip(cells.labels, cells.doses, strict=True) if a != CONTROL}
    )
    pairs = [_group_means(cells, columns, *group) for group in groups]
    change, noise = (np.stack(part) for part in zip(*pairs, strict=True))
    departure = change - change.mean(axis=0)
    kept = trust(departure, noise * (1 - 1 / len(groups))) if shrunk else np.ones(())
    return Effects(
        labels=tuple(label for label, _ in groups),
        doses=np.array([dose for _, dose in groups]),
        measured=change,
        noise=noise,
        believed=change.mean(axis=0) + kept * departure,
    )


def trust(departure: Array, noise: Array) -> Array:
    """Return the factor [P, K] that cuts departures of known sampling variance to the length of their signal.

    signal = mean over P of departure^2 - noise, a column at a time, at least 0; the factor is
    sqrt(signal / (signal + noise)). A plain shrinkage estimate takes no root (Efron & Morris 1973): it has
    the smaller squared error, but makes the change shorter than it is.
    """
    signal = np.maximum((departure**2 - noise).mean(axis=0), 0.0)
    return np.sqrt(signal / np.maximum(signal + noise, 1e-12))


def _decoded(embedding: Coder, z: Tensor, pushes: Array) -> Array:
    """Return the mean decoded change [P, G] of control cells z [n, D] under each push [P, D].

    At most `REFERENCE` cells are used, evenly spaced.
    """
    z = z[:: max(1, len(z) // REFERENCE)]
    with torch.no_grad():
        start = embedding.decode(z)
        rows = [embedding.decode(z + torch.from_numpy(push).float()) - start for push in pushes]
    return torch.stack([row.mean(dim=0) for row in rows]).numpy()


def _rms(values: Tensor) -> Tensor:
    """Return the root mean square over a block, repeated over its columns."""
    return values.square().mean().sqrt().clamp_min(1e-6).expand(values.shape[1])


def _slopes(network: LabelNetwork, features: Tensor, acts: Tensor, wanted: Tensor) -> list[Tensor]:
    """Return the gradients of the mean squared error of `unit`, in the order of the parameters.

    By hand: the numbers of autograd, at half of its cost on so few rows.
    """
    layers = [layer for layer in network.net if isinstance(layer, nn.Linear)]
    entered, change = _through(layers, features)
    entered_none, none = _through(layers, torch.zeros_like(features[:1]))
    slope = ((change - none) * acts - wanted) * (2.0 / wanted.numel()) * acts
    own, less = _back(layers, entered, slope), _back(layers, entered_none, -slope.sum(0, keepdim=True))
    return [first + second for first, second in zip(own, less, strict=True)]


def _through(layers: Sequence[nn.Linear], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return what enters each layer of tanh units, and what leaves the last one."""
    entered = [rows]
    for layer in layers[:-1]:
        entered.append(torch.tanh(layer(entered[-1])))
    return entered, layers[-1](entered[-1])


def _back(layers: Sequence[nn.Linear], entered: Sequence[Tensor], slope: Tensor) -> list[Tensor]:
    """Return the gradients of weight and intercept of each layer, from the slope of the output."""
    slopes: list[Tensor] = []
    for number in reversed(range(len(layers))):
        slopes = [slope.t() @ entered[number], slope.sum(0), *slopes]
        if number:
            slope = torch.ops.aten.tanh_backward(slope @ layers[number].weight, entered[number])
    return slopes


def fit_label_network(
    table: PerturbationTable,
    effects: Effects,
    targets: Tensor,
    latent: int,
    config: PerturbationModelConfig,
    seed: int,
) -> LabelNetwork:
    """Fit the label network to mean effects; targets [P, D + G] are latent push and head of each group."""
    generator = torch.Generator().manual_seed(seed)
    features = label_features(table, effects.labels) * torch.from_numpy(effects.doses[:, None]).float()
    network = LabelNetwork(table.dim, latent, targets.shape[1] - latent, config.hidden, generator)
    network.scale.copy_(torch.cat([_rms(targets[:, :latent]), _rms(targets[:, latent:])]))
    wanted = targets / network.scale
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.label_rate, weight_decay=config.label_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.label_steps)
    acts, parameters = _acts(features), list(network.parameters())
    with torch.no_grad():
        for _ in range(config.label_steps):
            for parameter, slope in zip(parameters, _slopes(network, features, acts, wanted), strict=True):
                parameter.grad = slope
            optimizer.step()
            schedule.step()
    return network.requires_grad_(False)


@dataclass(frozen=True)
class PairTensors:
    """Matched pairs as the cell network meets them."""

    #: What decode(z + m) should be, y - x - head(p) + decode(z), in z-scores [m, G].
    goal: Tensor
    #: Latent start [m, D].
    z: Tensor
    #: S(p) [m, D].
    push: Tensor

    def rows(self, index: Tensor) -> PairTensors:
        """Return the chosen pairs."""
        return PairTensors(self.goal[index], self.z[index], self.push[index])


def _pair_tensors(
    prepared: Prepared,
    embedding: Coder,
    effect: Callable[..., tuple[Tensor, Tensor]],
    latent: Array,
    pairs: Pairs,
) -> PairTensors:
    """Return pairs as tensors; `effect` gives push and head of labels and doses."""
    doses = prepared.cells.obs["dose"].to_numpy()[pairs.perturbed]
    push, head = effect(list(pairs.perturbation), doses)
    values = prepared.scale(np.asarray(prepared.cells.X))
    change = torch.from_numpy(values[pairs.perturbed] - values[pairs.control]) - head
    start = torch.from_numpy(latent[pairs.control])
    with torch.no_grad():
        goal = change + embedding.decode(start)
    return PairTensors(goal, start, push)


def _reference_cells(prepared: Prepared, latent: Array, pairs: Pairs, seed: int) -> Tensor:
    """Return latent training controls [r, D], drawn uniformly within the contexts of the perturbed cells.

    Not the partners in the pairs: transport chooses some controls often and others never.
    """
    rng = np.random.default_rng(seed)
    contexts = prepared.cells.obs["cell_context"].to_numpy(dtype=str)
    controls = prepared.rows("train", CONTROL)
    chosen = []
    for context in contexts[rng.choice(pairs.perturbed, REFERENCE)]:
        here = controls[contexts[controls] == context]
        chosen.append(rng.choice(here if len(here) else controls))
    return torch.from_numpy(latent[np.array(chosen)])


def _pair_error(embedding: Coder, network: CellNetwork, pairs: PairTensors, centred: bool = True) -> Tensor:
    """Return the mean squared error of predicted against matched cells, in z-scores.

    Minibatches are fitted without centring, which would cost a pass over the reference cells a label.
    """
    departure = network(pairs.z, pairs.push) if centred else network.raw(pairs.z, pairs.push)
    return (embedding.decode(pairs.z + pairs.push + departure) - pairs.goal).square().mean()


def fit_cell_network(
    embedding: Coder,
    train: PairTensors,
    valid: PairTensors,
    reference: Tensor,
    config: PerturbationModelConfig,
    seed: int,
) -> tuple[CellNetwork, pd.DataFrame]:
    """Fit the cell network on training pairs and keep the pass with the lowest validation error, pass 0
    (c = 0) included; without validation pairs nothing can judge it, and it stays at pass 0.
    """
    generator = torch.Generator().manual_seed(seed)
    network = CellNetwork(train.z.shape[1], config.hidden, generator)
    network.centre.copy_(train.z.mean(0))
    network.spread.copy_(train.z.std(0).clamp_min(1e-6))
    network.length.copy_(train.push.square().mean().sqrt().clamp_min(1e-6))
    network.reference = reference
    rows = [{"epoch": 0, "train": float("nan"), "validation": _no_gradient(embedding, network, valid)}]
    best = {name: value.clone() for name, value in network.state_dict().items()}
    network.strength.fill_(1.0)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.cell_rate, weight_decay=config.cell_decay, fused=True
    )
    for epoch in range(1, config.epochs + 1 if len(valid.z) else 1):
        error = _one_pass(embedding, network, train, optimizer, config.batch, generator)
        rows.append({"epoch": epoch, "train": error, "validation": _no_gradient(embedding, network, valid)})
        errors = [row["validation"] for row in rows]
        if errors[-1] == min(errors):
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if _stalled(errors, config.patience):
            break
    network.load_state_dict(best)
    return network.requires_grad_(False), pd.DataFrame(rows)


def _stalled(errors: list[float], patience: int) -> bool:
    """Tell whether the last passes together brought less than a thousandth."""
    return len(errors) > patience and min(errors[-patience:]) > 0.999 * min(errors[:-patience])


def _no_gradient(embedding: Coder, network: CellNetwork, pairs: PairTensors) -> float:
    with torch.no_grad():
        return float(_pair_error(embedding, network, pairs))


def _one_pass(
    embedding: Coder,
    network: CellNetwork,
    pairs: PairTensors,
    optimizer: torch.optim.Optimizer,
    batch: int,
    generator: torch.Generator,
) -> float:
    """Go once over the pairs in random minibatches; returns the mean training error."""
    errors = []
    for index in torch.randperm(len(pairs.z), generator=generator).split(batch):
        error = _pair_error(embedding, network, pairs.rows(index), centred=False)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    return float(np.mean(errors))


def fit_perturbation_model(
    prepared: Prepared,
    embedding: Coder,
    pairs: Pairs | None = None,
    config: PerturbationModelConfig | None = None,
    seed: int = 0,
    table: PerturbationTable | None = None,
    latent: Array | None = None,
) -> PerturbationModel:
    """Fit the experimental twin on the training cells of a prepared dataset.

    Parameters
    ----------
    prepared, embedding
        The dataset and the frozen encoder that was trained on it; another one raises a DataError.
    pairs
        Matched training pairs; made by optimal transport when not given.
    config
        How to build and train it.
    seed
        Seed of both networks' starts and of the order of pairs; the data do not depend on it.
    table
        Perturbation features; a `PerturbationTable` when not given.
    latent
        Latent cells [n, D] of `prepared.cells`; encoded here when not given. Several seeds can share them.
    """
    config = config or PerturbationModelConfig()
    if hasattr(embedding, "require"):
        embedding.require(prepared)
    if table is None:
        from twinlib.embedding.perturbations import PerturbationTable

        table = PerturbationTable(prepared, embedding)
    if latent is None:
        latent = encode_rows(prepared, embedding, np.asarray(prepared.cells.X)).numpy()
    label_network, lent = _fit_labels(prepared, embedding, table, latent, config, seed)
    network = CellNetwork(latent.shape[1], config.hidden, torch.Generator().manual_seed(seed))
    history = pd.DataFrame(columns=["epoch", "train", "validation"])
    held = _validation_pairs(prepared) if config.cell_network else None
    if held is not None:
        from twinlib.data.pairing import pair

        pairs = pair(prepared, split="train") if pairs is None else pairs
        effect = partial(mean_effect, table, label_network, lent)
        train, valid = (_pair_tensors(prepared, embedding, effect, latent, part) for part in (pairs, held))
        reference = _reference_cells(prepared, latent, pairs, seed)
        network, history = fit_cell_network(embedding, train, valid, reference, config, seed)
        told = (prepared, embedding, network, label_network, lent, table, latent)
        if config.earns_its_place and not earns_its_place(*told):
            network.strength.zero_()
    return PerturbationModel(
        prepared, embedding, table, label_network, lent, network, config, history, Trained.on(prepared)
    )


def _validation_pairs(prepared: Prepared) -> Pairs | None:
    """Return the matched validation pairs of training labels; None without any, which stops no training."""
    from twinlib.data.pairing import pair

    pairs = pair(prepared, split="validation")
    known = np.isin(pairs.perturbation, prepared.train_perturbations)
    columns = ("control", "perturbed", "share", "perturbation")
    return replace(pairs, **{name: getattr(pairs, name)[known] for name in columns}) if known.any() else None


def earns_its_place(
    prepared: Prepared,
    embedding: Coder,
    network: CellNetwork,
    label_network: MeanEffect,
    lent: dict[str, Tensor],
    table: PerturbationTable,
    latent: Array,
) -> bool:
    """Tell whether the cell network brings validation cells nearer, in their means and clouds together.

    The pairs cannot judge this: moving every cell towards the average of its matches lowers the pair error
    even where means and clouds get worse. A group is a label, context and dose. Its validation cells are
    predicted from the validation controls by the label's mean change in the fitting cells, with and without
    the departures of these controls. Squared error of the mean and energy distance are summed over groups, in
    log1p units, and the network stays when the product of the two sums is lower with it.
    """
    obs, values = prepared.cells.obs, np.asarray(prepared.cells.X)
    label, context, dose = (obs[name].to_numpy() for name in ("perturbation", "cell_context", "dose"))
    train, held = ((obs["split"] == part).to_numpy() for part in ("train", "validation"))
    fitting = TrainingCells(*(part[train] for part in (values, label, context, dose)))
    errors = np.zeros((2, 2))
    for key in sorted(set(zip(label[held], context[held], dose[held], strict=True))):
        start = held & (label == CONTROL) & (context == key[1])
        real = held & (label == key[0]) & (context == key[1]) & (dose == key[2])
        if key[0] == CONTROL or min(start.sum(), real.sum()) < 2 or not fitting.of(key[0]).any():
            continue
        z = torch.from_numpy(latent[start])
        push, _ = mean_effect(table, label_network, lent, [key[0]] * len(z), np.full(len(z), key[2]))
        with torch.no_grad():
            departure = embedding.decode(z + push + network(z, push)) - embedding.decode(z + push)
        without = values[start] + key[2] * shift_of(fitting, key[0])
        errors[0] += _errors(without, values[real])
        errors[1] += _errors(without + departure.numpy() * prepared.std, values[real])
    errors = np.maximum(errors, 1e-9)
    return bool(errors[1].prod() < errors[0].prod())


def _errors(cells: Array, real: Array) -> Array:
    """Return squared error of the mean and energy distance [2] of two clouds, the first 256 cells of each."""
    from scipy.spatial.distance import cdist, pdist

    cells, real = cells[:REFERENCE], real[:REFERENCE]
    cloud = 2 * cdist(cells, real).mean() - pdist(cells).mean() - pdist(real).mean()
    return np.array([((cells.mean(axis=0) - real.mean(axis=0)) ** 2).sum(), cloud])


def _fit_labels(
    prepared: Prepared,
    embedding: Coder,
    table: PerturbationTable,
    latent: Array,
    config: PerturbationModelConfig,
    seed: int,
) -> tuple[MeanEffect, dict[str, Tensor]]:
    """Estimate mean effects, fit the label network to them, and lend effects to targets without cells."""
    train = np.asarray(prepared.cells.obs["split"] == "train")
    cells, depth = training_cells(prepared), latent.shape[1]
    columns = np.hstack([latent[train], prepared.scale(cells.values)])
    effects = estimate_effects(cells, columns, shrunk=config.trust)
    controls = torch.from_numpy(latent[train][cells.of(CONTROL)])
    targets = effects.believed.copy()
    targets[:, depth:] -= _decoded(embedding, controls, targets[:, :depth])
    network = _mean_effects(table, effects, torch.from_numpy(targets).float(), depth, config, seed)
    ridges = RIDGES if config.borrow else (np.inf,)
    return network, borrow(prepared, embedding, effects, targets, table, ridges)


def _mean_effects(
    table: PerturbationTable,
    effects: Effects,
    targets: Tensor,
    latent: int,
    config: PerturbationModelConfig,
    seed: int,
) -> MeanEffect:
    """Return the label network, or its stand-in without a network, fitted to targets [P, D + G]."""
    if config.label_network:
        return fit_label_network(table, effects, targets, latent, config, seed)
    features = label_features(table, effects.labels) * torch.from_numpy(effects.doses[:, None]).float()
    return AdditiveEffects(features, targets, latent, len(table.parts))


def borrow(
    prepared: Prepared,
    embedding: Coder,
    effects: Effects,
    targets: Array,
    table: PerturbationTable,
    ridges: Sequence[float] = RIDGES,
) -> dict[str, Tensor]:
    """Return the effect [K] lent to each measured target that no training cell carries.

    Genes of the panel that nobody perturbed are lent one, too. It is the mean training effect plus a ridge
    regression of the effects of measured single perturbations on their gene vectors, the ridge chosen by
    leaving each out in turn; an infinite one, the mean alone, is among the candidates, and wins where gene
    vectors tell nothing.

    Shapes: targets [P, K] are latent push and head of each training group.
    """
    column = {gene: i for i, gene in enumerate(embedding.genes)}
    vectors = embedding.gene_vectors.detach().double().numpy()
    unseen = [part for part in table.measured if part not in table.parts]
    slopes = _per_unit_dose(effects, targets)
    known = [name for name in slopes if name in prepared.measured and name in column]
    centre = np.mean(list(slopes.values()), axis=0)
    if not unseen or len(known) < LENDERS:
        return {part: torch.from_numpy(centre).float() for part in unseen}
    x = vectors[[column[name] for name in known]]
    y = np.stack([slopes[name] for name in known]) - centre
    ridge = min(ridges, key=lambda value: _left_out_error(x, y, value))
    lent = torch.from_numpy(centre + _ridge(x, y, vectors[[column[part] for part in unseen]], ridge)).float()
    return dict(zip(unseen, lent, strict=True))


def _per_unit_dose(effects: Effects, values: Array) -> dict[str, Array]:
    """Return for each training label the least-squares slope [K] over dose of its groups' values [P, K]."""
    slopes = {}
    for label in sorted(set(effects.labels)):
        own = np.asarray(effects.labels) == label
        dose = effects.doses[own]
        slopes[label] = dose @ values[own] / (dose @ dose)
    return slopes


def _ridge(x: Array, y: Array, at: Array, ridge: float) -> Array:
    """Return the ridge prediction [.., K] at points [.., d] from x [n, d] and y [n, K], without intercept."""
    if not np.isfinite(ridge):
        return np.zeros((*at.shape[:-1], y.shape[1]))
    kernel = x @ x.T
    strength = ridge * np.trace(kernel) / len(x)
    return (at @ x.T) @ np.linalg.solve(kernel + strength * np.eye(len(x)), y)


def _left_out_error(x: Array, y: Array, ridge: float) -> float:
    """Return the squared error summed over leaving each row out in turn."""
    rows = np.arange(len(x))
    misses = [_ridge(x[rows != i], y[rows != i], x[i], ridge) - y[i] for i in rows]
    return float(np.square(misses).sum())


def predict_anndata(
    model: PerturbationModel, prepared: Prepared, perturbation: str, dose: float | None = None
) -> AnnData:
    """Predict one perturbation, at the dose that was trained or another, for all test controls.

    Returns
    -------
    AnnData [n, G]: X the observed controls, layers `prediction` and `delta` (prediction less control), all
    log1p; var_names the genes, obs_names the control cells, obs `perturbation` and `dose` what was asked for,
    `extrapolated` whether that dose is above those that were trained.
    """
    from anndata import AnnData

    rows = prepared.cells.obs
    chosen = np.asarray((rows["split"] == "test") & (rows["perturbation"] == CONTROL))
    x = np.asarray(prepared.cells.X)[chosen]
    labels = [perturbation] * len(x)
    doses = model.trained.doses_of(labels, dose)
    prediction = model.predict(x, labels, doses)
    result = AnnData(x.copy(), obs=rows[chosen].copy(), var=pd.DataFrame(index=list(prepared.genes)))
    result.obs["control"] = result.obs["perturbation"].astype(str)
    result.obs["perturbation"], result.obs["dose"] = perturbation, doses
    result.obs["extrapolated"] = model.trained.extrapolates(labels, doses)
    result.layers["prediction"] = prediction
    result.layers["delta"] = prediction - x
    result.uns["twinlib"] = {
        "dataset": prepared.dataset,
        "data_hash": prepared.data_hash,
        "units": "log1p(CP10k)" if prepared.scale_of_data == "log1p" else prepared.scale_of_data,
    }
    return result
