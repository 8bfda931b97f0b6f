"""Match perturbed cells to controls by optimal transport, inside a split, in a space of training cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twinlib.checks import finite_arrays
from twinlib.data.preparation import PARTS, Prepared
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError

#: Dimensions of the space in which the cost of a match is measured.
DIMENSIONS = 32

#: Largest cost matrix (controls x perturbed) that is solved exactly; a larger one is solved with entropy.
EXACT_ENTRIES = 25_000_000

#: Strength of the entropy, as a share of the mean cost, where it is used.
ENTROPY = 0.05

#: Passes over both margins at most, where it is used; a cell far from all others converges slowly.
ITERATIONS = 200

#: Largest relative error of a cell's mass in a plan.
MARGIN = 1e-6

#: Largest cost as a multiple of an ordinary nearest one; POT's exact solver tells costs apart to 1e-15.
COMPARABLE = 1e13


@dataclass(frozen=True, eq=False)
class Pairs:
    """One row a perturbed cell: the control that was matched to it."""

    #: Row of `prepared.cells` of the control [m].
    control: np.ndarray
    #: Row of `prepared.cells` of the perturbed cell [m].
    perturbed: np.ndarray
    #: Share of the perturbed cell's mass that this control sends [m]; random pairs: 1 / controls.
    share: np.ndarray
    #: Label of the perturbed cell [m].
    perturbation: np.ndarray
    #: `ot` or `random`.
    method: str
    #: Groups "perturbation | context" whose plan was entropic, being larger than `EXACT_ENTRIES`.
    entropic: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.control)


def pair(prepared: Prepared, split: str = "train", method: str = "ot", seed: int = 0) -> Pairs:
    """Give every perturbed cell of a split one control of the same split and cell context.

    Method `ot` solves optimal transport between the controls and the cells of one perturbation and context
    (uniform masses, squared Euclidean cost in the space of `match_space`) and takes, for each perturbed cell,
    the control with the largest share of its column of the plan. It is exact up to `EXACT_ENTRIES` and
    reproducible. Method `random` draws a control uniformly with `seed`. Validation cells of a context without
    a validation control stay unpaired.

    Source: Monge-Kantorovich transport by POT (Flamary 2021, JMLR 22:78); for cells, Bunne 2023, Nat Methods.

    Raises
    ------
    DataError
        An unknown method or split, or a context without controls in this split.
    """
    if method not in ("ot", "random"):
        raise DataError(f"There is no pairing method {method!r}: choose 'ot' or 'random'.")
    if split not in PARTS:
        raise DataError(f"There is no part {split!r} of a split: choose one of {', '.join(PARTS)}.")
    space = match_space(prepared) if method == "ot" else np.empty((0, 0))
    rng = np.random.default_rng(seed)
    groups: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    entropic: list[str] = []
    for label, context, controls, perturbed in _groups(prepared, split):
        if method == "random":
            chosen, share = _random_partners(controls, perturbed, rng)
        else:
            chosen, share, exact = _transport_partners(space[controls], space[perturbed])
            chosen = controls[chosen]
            entropic += [] if exact else [f"{label} | {context}"]
        groups.append((chosen, perturbed, share))
    return _collect(prepared, groups, method, tuple(entropic))


def match_space(prepared: Prepared, dimensions: int = DIMENSIONS) -> np.ndarray:
    """Return all cells [n, 32] in the principal components of the training cells' z-scores."""
    z = prepared.scale(np.asarray(prepared.cells.X)).astype(np.float64)
    train = z[prepared.rows("train")]
    centre = train.mean(axis=0)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(train, rowvar=False)))
    return (z - centre) @ vectors[:, ::-1][:, :dimensions]


def _groups(prepared: Prepared, split: str) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield label, context, rows of controls and of perturbed cells of every group in a split."""
    obs = prepared.cells.obs
    labels, contexts = (obs[name].to_numpy(dtype=str) for name in ("perturbation", "cell_context"))
    inside = (obs["split"].astype(str) == split).to_numpy()
    for context in np.unique(contexts[inside & (labels != CONTROL)]).tolist():
        here = inside & (contexts == context)
        controls = np.flatnonzero(here & (labels == CONTROL))
        if not len(controls):
            if split == "validation":
                continue
            raise DataError(
                f"The context {context!r} has perturbed cells but no control in the {split} split: "
                "merge it with another context or leave it out."
            )
        for label in np.unique(labels[here & (labels != CONTROL)]).tolist():
            yield label, context, controls, np.flatnonzero(here & (labels == label))


def _random_partners(
    controls: np.ndarray, perturbed: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a control [m] for every perturbed cell, uniformly; the share [m] is 1 / number of controls."""
    return rng.choice(controls, len(perturbed)), np.full(len(perturbed), 1 / len(controls))


def _transport_partners(controls: np.ndarray, perturbed: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the control with the largest share [m], that share [m], and whether the plan is exact."""
    plan, exact = transport_plan(controls, perturbed)
    best = plan.argmax(axis=0)
    return best, plan[best, np.arange(plan.shape[1])] / plan.sum(axis=0), exact


def transport_plan(controls: np.ndarray, perturbed: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the plan [n, m] between two clouds [n, D], [m, D] of equal weights, and whether it is exact."""
    import ot
    from scipy.spatial.distance import cdist

    controls, perturbed = finite_arrays(controls=(controls, "n D"), perturbed=(perturbed, "m D"))
    cost = cdist(controls, perturbed, "sqeuclidean")  # from differences: ot.dist loses clouds far from 0
    _require_comparable(cost)
    source, target = ot.unif(len(controls)), ot.unif(len(perturbed))
    exact = cost.size <= EXACT_ENTRIES
    if exact:
        near_one = np.ldexp(cost, -np.frexp(cost.mean())[1])  # exact; the solver's tolerance is absolute
        plan = np.asarray(ot.emd(source, target, near_one, numItermax=10_000_000))
    else:
        plan = _entropic_plan(source, target, cost)
    for masses, asked in ((plan.sum(axis=1), source), (plan.sum(axis=0), target)):
        if not np.allclose(masses, asked, rtol=MARGIN, atol=0.0):  # not so for NaN, either
            raise DataError(
                f"Optimal transport from {len(controls)} controls to {len(perturbed)} cells found no plan "
                "whose masses hold: leave out cells that lie far from all others."
            )
    return plan, exact


def _require_comparable(cost: np.ndarray) -> None:
    """Refuse a cost [n, m] beside whose largest entry the solvers take the ordinary ones for equal."""
    nearest = np.median(cost.min(axis=0))
    if cost.max() > COMPARABLE * nearest > 0:
        raise DataError(
            f"Two cells are {np.sqrt(cost.max() / nearest):.0e} times as far apart as neighbours are, which "
            "no float64 plan resolves: leave out cells that lie far from all others."
        )


def _entropic_plan(source: np.ndarray, target: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the plan [n, m] with entropy, in logarithms, rounded to its margins.

    The potentials start where every cell has a partner of cost 0, so that a cell far from all others does not
    underflow; POT's `sinkhorn_log` goes the same way, thirty times as slowly.
    """
    import ot

    rows = cost.min(axis=1)
    columns = (cost - rows[:, None]).min(axis=0)
    plan = ot.bregman.sinkhorn_stabilized(
        source,
        target,
        cost,
        ENTROPY * cost.mean() or 1.0,  # cells that are all equal: every strength gives the even plan
        numItermax=ITERATIONS,
        warmstart=(rows, columns),
        warn=False,
    )
    return _rounded(np.asarray(plan), source, target)


def _rounded(plan: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return a plan [n, m] near the given one with both margins met (Altschuler 2017, Algorithm 2)."""
    plan = plan * np.minimum(source / plan.sum(axis=1), 1.0)[:, None]
    plan *= np.minimum(target / plan.sum(axis=0), 1.0)
    rows, columns = source - plan.sum(axis=1), target - plan.sum(axis=0)
    lacking = rows.sum()
    return plan + np.outer(rows, columns / lacking) if lacking > 0 else plan


def _collect(
    prepared: Prepared,
    groups: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    method: str,
    entropic: tuple[str, ...],
) -> Pairs:
    """Join the groups in the order of the perturbed rows."""
    empty = [(np.empty(0, int), np.empty(0, int), np.empty(0))]
    control, perturbed, share = (np.concatenate(column) for column in zip(*(groups or empty), strict=True))
    order = np.argsort(perturbed, kind="stable")
    labels = prepared.cells.obs["perturbation"].to_numpy(dtype=str)[perturbed[order]]
    return Pairs(control[order], perturbed[order], share[order], labels, method, entropic)
