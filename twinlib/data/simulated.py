"""Simulated cells whose truth is known: the waddington dataset, and the landscapes behind it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd

from twinlib.data.schema import CONTROL, parts
from twinlib.errors import DataError
from twinlib.landscapes.myeloid import (
    CYTOKINES,
    EDGES,
    GENES,
    MyeloidNetwork,
    cytokine_input,
    fate,
    knockdown_multiplier,
)
from twinlib.landscapes.toggle_switch import ToggleSwitch

__all__ = ["CONTEXTS", "MyeloidNetwork", "ToggleSwitch", "Wiring", "simulate_waddington"]

Array = npt.NDArray[np.float64]

#: Raised by one whenever the simulation's code changes the cells that one configuration gives.
VERSION = 1

#: Kinetics of each cell context; "slow" is the one to hold out: other time constants, threshold and noise.
CONTEXTS: dict[str, MyeloidNetwork] = {
    "reference": MyeloidNetwork(),
    "slow": MyeloidNetwork(
        hill_k=0.45,
        sigma=0.13,
        tau=(("Gfi1", 3.0), ("EgrNab", 0.8), ("cJun", 0.9), ("Pu1", 0.8), ("Gata1", 1.1), ("EKLF", 1.3)),
    ),
}


@dataclass(frozen=True)
class Wiring:
    """How downstream genes hang on the eleven factors, and how their molecules are counted."""

    #: Number of downstream genes.
    n_genes: int = 500
    #: Seed of the wiring (the biology), apart from the seed of the cells.
    seed: int = 0
    #: Standard deviation of the regulatory weights, in log expression per unit of activity.
    weight_sd: float = 1.2
    #: Mean and standard deviation of the log basal expression.
    baseline: tuple[float, float] = (-0.3, 1.5)
    #: Share of downstream genes without a regulator.
    housekeeping: float = 0.2
    #: Median number of molecules counted in a cell.
    library_size: float = 2000.0
    #: Standard deviation of the log library size.
    library_sd: float = 0.35
    #: Overdispersion of the counts (variance = mu + overdispersion mu^2).
    overdispersion: float = 0.3

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the downstream genes."""
        return tuple(f"gene{j:03d}" for j in range(self.n_genes))

    def weights(self) -> tuple[Array, Array]:
        """Weights [11, n_genes] of factors on downstream genes, and their log basal expression [n_genes]."""
        rng = np.random.default_rng(self.seed)
        baseline = rng.normal(*self.baseline, size=self.n_genes)
        weights = np.zeros((len(GENES), self.n_genes))
        for j in np.flatnonzero(rng.random(self.n_genes) >= self.housekeeping):
            regulators = rng.choice(len(GENES), size=rng.integers(1, 4), replace=False)
            weights[regulators, j] = rng.normal(0, self.weight_sd, size=len(regulators))
        return weights, baseline

    def edges(self) -> pd.DataFrame:
        """True network: columns regulator, target, weight (+-1 between factors, log weight downstream)."""
        weights, _ = self.weights()
        i, j = np.nonzero(weights)
        downstream = zip(np.array(GENES)[i], np.array(self.genes)[j], weights[i, j], strict=True)
        return pd.DataFrame([*EDGES, *downstream], columns=["regulator", "target", "weight"]).astype(
            {"weight": float}
        )

    def relative_expression(self, states: Array) -> Array:
        """Expected share of each gene among a cell's molecules, [n, 11 + n_genes], rows sum to 1."""
        weights, baseline = self.weights()
        log_expression = np.concatenate([np.log(0.05 + 3 * states), states @ weights + baseline], axis=1)
        expression = np.exp(log_expression)
        return expression / expression.sum(1, keepdims=True)

    def counts(self, shares: Array, generator: np.random.Generator) -> npt.NDArray[np.float32]:
        """Negative binomial counts [n, G] (Gamma-Poisson) around library size x share."""
        library = self.library_size * np.exp(generator.normal(0, self.library_sd, size=(len(shares), 1)))
        shape = 1 / self.overdispersion
        rate = library * shares * generator.standard_gamma(shape, size=shares.shape) / shape
        return generator.poisson(rate).astype(np.float32)


@dataclass(frozen=True)
class _Design:
    """One group of cells that share a treatment."""

    label: str
    kind: str
    dose: float
    context: str
    multiplier: Array = field(repr=False)
    boost: Array = field(repr=False)
    weight: float = 1.0


def all_knockdowns(genes: Sequence[str] = GENES) -> tuple[str, ...]:
    """Labels of all single and double knock-downs of the genes, sorted; 66 for the eleven factors."""
    pairs = ("+".join(sorted(pair)) for pair in itertools.combinations(genes, 2))
    return tuple(sorted([*genes, *pairs]))


def log_cp10k(counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """log1p of counts per 10,000, [n, G] float32; an empty cell stays at 0."""
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    return np.log1p(counts * np.float32(1e4) / total).astype(np.float32)


def simulate_waddington(
    n_cells: int | None = None,
    seed: int = 0,
    *,
    perturbations: Iterable[str] | None = None,
    cytokines: Iterable[str] = (),
    doses: Sequence[float] = (1.0,),
    efficacy: float = 0.9,
    contexts: Sequence[str] = ("reference",),
    snapshots: Sequence[float] | None = None,
    wiring: Wiring | None = None,
    counterparts: bool = False,
    control_weight: float = 8.0,
    onset: float = 0.0,
) -> anndata.AnnData:
    """Simulate the myeloid network under CRISPRi and return counts with known truth as canonical AnnData.

    Default: control and all 66 single and double knock-downs of the 11 factors, 7,400 cells (100 a
    perturbation, 800 controls) x 511 genes, all harvested at time 40.

    Args:
        n_cells: cells in all, shared out in proportion to the design (default 100 a perturbation).
        seed: seed of initial noise, counts and library sizes; the wiring has its own (`Wiring.seed`).
        perturbations: labels such as "Gata1" or "Gata1+Pu1+cJun" (default: all singles and doubles).
        cytokines: names out of EPO, TPO, M-CSF, G-CSF, alone or joined by "+".
        doses: doses at which each perturbation is given; efficacy and cytokine input scale with it.
        efficacy: CRISPRi efficacy at dose 1, between 0 and 1.
        contexts: names out of `CONTEXTS`; each context has all perturbations and its own controls.
        snapshots: harvest times, shared out evenly over the cells of each group (default: the horizon).
        wiring: downstream genes and counting.
        counterparts: add what each cell would have been without its treatment (same noise, same start).
        control_weight: controls of a context, in multiples of the cells of one perturbation.
        onset: time units for which every cell is left alone before its treatment begins. Horizon and
            snapshots count from the treatment; obs "time" is then the time since the treatment, 0 for
            controls, which makes it the true time of a response that starts at the controls.

    Returns:
        AnnData [n, 11 + downstream] with X = log1p(CP10k) float32, layers "counts" and "expected" (noise-free
        log1p CP10k), obs perturbation, perturbation_type, dose, cell_context, batch, target_measured, fate
        (at the horizon), time (harvest); obsm "tf_state" [n, 11]; uns["twinlib"]. With `counterparts` also
        layers "counterpart" (noise-free log1p CP10k), obs "counterpart_fate", obsm "counterpart_state".

    Raises:
        DataError: an unknown gene, cytokine or context, or fewer cells than groups.

    Source: Krumsiek 2011 (rules), Wittmann 2009 (HillCube); see `MyeloidNetwork` and `Wiring`.
    """
    wiring = wiring or Wiring()
    labels = all_knockdowns() if perturbations is None else tuple(perturbations)
    arguments = {
        "n_cells": n_cells, "seed": seed, "perturbations": labels, "cytokines": tuple(cytokines),
        "doses": tuple(doses), "efficacy": efficacy, "contexts": tuple(contexts),
        "snapshots": None if snapshots is None else tuple(map(float, snapshots)), "wiring": asdict(wiring),
        "control_weight": control_weight,
    }  # fmt: skip
    groups = _designs(labels, arguments["cytokines"], doses, efficacy, contexts, control_weight)
    if onset:  # a new argument must not change the hash of cells that do not use it
        arguments["onset"] = float(onset)
    group = _share_out(groups, n_cells)
    generator = np.random.default_rng(seed)
    states, final, time = _simulate_groups(groups, group, snapshots, counterparts, onset, generator)
    cells = _measure(states[0], wiring, generator)
    cells.obs = _observations(groups, group, fate(final[0]), time)
    if counterparts:
        cells.layers["counterpart"] = log_cp10k(
            wiring.relative_expression(states[1]).astype(np.float32) * 1e4
        )
        cells.obsm["counterpart_state"] = states[1].astype(np.float32)
        cells.obs["counterpart_fate"] = pd.Categorical(fate(final[1]))
    cells.uns["twinlib"] = {
        "dataset": "waddington",
        "data_hash": _configuration_hash(arguments),
        "counts": "counts are simulated: negative binomial around the cell's expected expression",
        "regulators": wiring.edges(),
        "configuration": json.dumps(arguments),
    }
    return cells


def _designs(
    labels: Sequence[str],
    cytokines: Any,
    doses: Sequence[float],
    efficacy: float,
    contexts: Sequence[str],
    weight: float,
) -> list[_Design]:
    """Treatment groups, control first in each context."""
    none = np.zeros(len(GENES))
    groups = []
    for context in contexts:
        if context not in CONTEXTS:
            raise DataError(f"'{context}' is not a cell context; choose from {', '.join(CONTEXTS)}.")
        groups.append(_Design(CONTROL, "none", 0.0, context, none + 1, none, weight))
        for dose in doses:
            for label in labels:
                multiplier = knockdown_multiplier(parts(label), efficacy * dose)
                groups.append(_Design(label, "CRISPRi", dose, context, multiplier, none))
            for label in cytokines:
                boost = cytokine_input(dict.fromkeys(parts(label), dose))
                groups.append(_Design(label, "cytokine", dose, context, none + 1, boost))
    return groups


def _share_out(groups: list[_Design], n_cells: int | None) -> npt.NDArray[np.int_]:
    """Index of the group of each cell, [n]; the shares are exact to one cell."""
    weights = np.array([g.weight for g in groups])
    n_cells = round(100 * weights.sum()) if n_cells is None else n_cells
    if n_cells < len(groups):
        raise DataError(f"{n_cells} cells cannot fill {len(groups)} groups; ask for at least {len(groups)}.")
    edges = np.rint(np.cumsum(weights) / weights.sum() * n_cells).astype(int)
    return np.searchsorted(edges, np.arange(n_cells), side="right")


def _simulate_groups(
    groups: list[_Design],
    group: npt.NDArray[np.int_],
    snapshots: Sequence[float] | None,
    counterparts: bool,
    onset: float,
    generator: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """States at harvest and at the horizon [K, n, 11], and harvest times [n], context by context."""
    multiplier, boost = (
        np.array([getattr(g, name) for g in groups])[group] for name in ("multiplier", "boost")
    )
    context = np.array([g.context for g in groups])[group]
    shape = (1 + counterparts, len(group), len(GENES))
    harvest, final, time = np.empty(shape), np.empty(shape), np.empty(len(group))
    for name in dict.fromkeys(context.tolist()):
        network, rows = CONTEXTS[name], np.flatnonzero(context == name)
        choices = np.array([network.horizon] if snapshots is None else snapshots, dtype=float)
        if choices.size == 0 or choices.min() < 0 or choices.max() > network.horizon:
            raise DataError(f"Snapshots must lie between 0 and {network.horizon:g}, got {choices.tolist()}.")
        time[rows] = choices[np.arange(len(rows)) % len(choices)]
        harvest[:, rows], final[:, rows] = network.simulate(
            multiplier[rows],
            boost[rows],
            generator=generator,
            times=time[rows],
            start=_untreated(network, len(rows), onset, generator),
            counterparts=counterparts,
        )
    if onset:
        time[np.array([g.label == CONTROL for g in groups])[group]] = 0.0
    return harvest, final, time


def _untreated(network: MyeloidNetwork, n: int, onset: float, generator: np.random.Generator) -> Array | None:
    """States [n, 11] of untreated cells at `onset`, or None for the progenitor at 0."""
    if onset == 0:
        return None
    if onset < network.dt:
        raise DataError(f"The onset must be 0 or at least one time step ({network.dt:g}), got {onset}.")
    untreated = replace(network, horizon=float(onset))
    _, final = untreated.simulate(np.ones((n, len(GENES))), generator=generator)
    return final[0]


def _measure(states: Array, wiring: Wiring, generator: np.random.Generator) -> anndata.AnnData:
    """Counts and normalised expression of cells in the given states [n, 11]."""
    shares = wiring.relative_expression(states)
    counts = wiring.counts(shares, generator)
    cells = anndata.AnnData(X=log_cp10k(counts), var=pd.DataFrame(index=[*GENES, *wiring.genes]))
    cells.obs_names = [f"cell{i:06d}" for i in range(len(states))]
    cells.layers["counts"] = counts
    cells.layers["expected"] = np.log1p(1e4 * shares).astype(np.float32)
    cells.obsm["tf_state"] = states.astype(np.float32)
    return cells


def _observations(
    groups: list[_Design], group: npt.NDArray[np.int_], fates: npt.NDArray[np.str_], time: Array
) -> pd.DataFrame:
    """The canonical obs columns, one row a cell."""
    measured = [g.kind != "cytokine" for g in groups]
    return pd.DataFrame(
        {
            "perturbation": pd.Categorical([groups[i].label for i in group]),
            "perturbation_type": pd.Categorical([groups[i].kind for i in group]),
            "dose": np.array([g.dose for g in groups])[group],
            "cell_context": pd.Categorical([groups[i].context for i in group]),
            "batch": pd.Categorical(["simulated"] * len(group)),
            "target_measured": np.array(measured)[group],
            "fate": pd.Categorical(fates),
            "time": time,
        },
        index=[f"cell{i:06d}" for i in range(len(group))],
    )


def _configuration_hash(arguments: Mapping[str, Any]) -> str:
    """Hash of the arguments and the constants that shape the cells: equal on every machine."""
    constants = {
        "version": VERSION, "edges": EDGES, "cytokines": CYTOKINES,
        "contexts": {name: asdict(CONTEXTS[name]) for name in arguments["contexts"]},
    }  # fmt: skip
    text = json.dumps([arguments, constants], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
