"""A screen in the myeloid network: groups of treated cells, their states, downstream genes and counts.

Plain arrays throughout; `data.simulated` makes the annotated cells of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from twinlib.errors import DataError
from twinlib.landscapes.myeloid import (
    EDGES,
    GENES,
    Array,
    MyeloidNetwork,
    cytokine_input,
    knockdown_multiplier,
)

#: The label of cells that are left alone.
UNTREATED = "control"

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

    def edges(self) -> list[tuple[str, str, float]]:
        """True network as (regulator, target, weight): +-1 between factors, log weight downstream."""
        weights, _ = self.weights()
        i, j = np.nonzero(weights)
        downstream = zip(np.array(GENES)[i], np.array(self.genes)[j], weights[i, j], strict=True)
        return [*((a, b, float(sign)) for a, b, sign in EDGES), *downstream]

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
class Group:
    """Cells that share a treatment."""

    #: What was done to them; parts are joined by "+".
    label: str
    #: "CRISPRi", "cytokine", or "none" for untreated cells.
    kind: str
    #: Dose of the treatment.
    dose: float
    #: One of `CONTEXTS`.
    context: str
    #: Production multiplier of each factor [11].
    multiplier: Array = field(repr=False)
    #: Cytokine input of each factor [11].
    boost: Array = field(repr=False)
    #: Number of its cells, in multiples of those of one perturbation.
    weight: float = 1.0


def all_knockdowns(genes: Sequence[str] = GENES) -> tuple[str, ...]:
    """Return the labels of all single and double knock-downs of the genes, sorted (66 of eleven)."""
    pairs = ("+".join(sorted(pair)) for pair in itertools.combinations(genes, 2))
    return tuple(sorted([*genes, *pairs]))


def treatment_groups(
    labels: Sequence[str],
    cytokines: Sequence[str],
    doses: Sequence[float],
    efficacy: float,
    contexts: Sequence[str],
    weight: float,
) -> list[Group]:
    """Return the groups of a screen, the untreated ones, `weight` times as many, first in each context."""
    none = np.zeros(len(GENES))
    groups = []
    for context in contexts:
        if context not in CONTEXTS:
            raise DataError(f"'{context}' is not a cell context; choose from {', '.join(CONTEXTS)}.")
        groups.append(Group(UNTREATED, "none", 0.0, context, none + 1, none, weight))
        for dose in doses:
            for label in labels:
                multiplier = knockdown_multiplier(_parts(label), efficacy * dose)
                groups.append(Group(label, "CRISPRi", dose, context, multiplier, none))
            for label in cytokines:
                boost = cytokine_input(dict.fromkeys(_parts(label), dose))
                groups.append(Group(label, "cytokine", dose, context, none + 1, boost))
    return groups


def _parts(label: str) -> list[str]:
    """Split a label into its parts; none of untreated cells."""
    return [] if label == UNTREATED else [part.strip() for part in label.split("+") if part.strip()]


def share_out(groups: Sequence[Group], n_cells: int | None) -> npt.NDArray[np.int_]:
    """Return the index of the group of each cell [n]; the shares are exact to one cell."""
    weights = np.array([g.weight for g in groups])
    n_cells = round(100 * weights.sum()) if n_cells is None else n_cells
    if n_cells < len(groups):
        raise DataError(f"{n_cells} cells cannot fill {len(groups)} groups; ask for at least {len(groups)}.")
    edges = np.rint(np.cumsum(weights) / weights.sum() * n_cells).astype(int)
    return np.searchsorted(edges, np.arange(n_cells), side="right")


def simulate_groups(
    groups: Sequence[Group],
    group: npt.NDArray[np.int_],
    snapshots: Sequence[float] | None,
    counterparts: bool,
    onset: float,
    generator: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Return states at harvest and at the horizon [K, n, 11], K = 2 with counterparts, and harvest times [n].

    `group` [n] indexes `groups`; the contexts are simulated one after the other.
    """
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
        time[np.array([g.label == UNTREATED for g in groups])[group]] = 0.0
    return harvest, final, time


def _untreated(network: MyeloidNetwork, n: int, onset: float, generator: np.random.Generator) -> Array | None:
    """Return states [n, 11] of untreated cells at `onset`, or None for the progenitor at 0."""
    if onset == 0:
        return None
    if onset < network.dt:
        raise DataError(f"The onset must be 0 or at least one time step ({network.dt:g}), got {onset}.")
    untreated = replace(network, horizon=float(onset))
    _, final = untreated.simulate(np.ones((n, len(GENES))), generator=generator)
    return final[0]
