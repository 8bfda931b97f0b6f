"""Simulated cells whose truth is known: the waddington dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from twinlib.landscapes.gene_network import (
    CONTEXTS,
    Group,
    Wiring,
    all_knockdowns,
    share_out,
    simulate_groups,
    treatment_groups,
)
from twinlib.landscapes.myeloid import CYTOKINES, EDGES, GENES, Array, fate

if TYPE_CHECKING:
    from anndata import AnnData

#: Raised by one whenever the simulation's code changes the cells that one configuration gives.
VERSION = 1


def log_cp10k(counts: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
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
) -> AnnData:
    """Simulate the myeloid network under CRISPRi and return counts with known truth as canonical AnnData.

    Default: control and all 66 single and double knock-downs of the 11 factors, 7,400 cells (100 a
    perturbation, 800 controls) x 511 genes, all harvested at time 40.
    Source: Krumsiek 2011 (rules), Wittmann 2009 (HillCube); see `MyeloidNetwork` and `Wiring`.

    Parameters
    ----------
    n_cells
        Cells in all, shared out in proportion to the groups (default 100 a perturbation).
    seed
        Seed of initial noise, counts and library sizes; the wiring has its own (`Wiring.seed`).
    perturbations
        Labels such as "Gata1" or "Gata1+Pu1+cJun" (default: all singles and doubles).
    cytokines
        Names out of EPO, TPO, M-CSF, G-CSF, alone or joined by "+".
    doses
        Doses at which each perturbation is given; efficacy and cytokine input scale with it.
    efficacy
        CRISPRi efficacy at dose 1, between 0 and 1.
    contexts
        Names out of `CONTEXTS`; each context has all perturbations and its own controls.
    snapshots
        Harvest times, shared out evenly over the cells of each group (default: the horizon).
    wiring
        Downstream genes and counting.
    counterparts
        Add what each cell would have been without its treatment (same noise, same start).
    control_weight
        Controls of a context, in multiples of the cells of one perturbation.
    onset
        Time units for which every cell is left alone before its treatment begins. Horizon and snapshots
        count from the treatment; obs "time" is then the time since the treatment, 0 for controls, which
        makes it the true time of a response that starts at the controls.

    Returns
    -------
    AnnData [n, 11 + downstream]
        X = log1p(CP10k) float32, layers "counts" and "expected" (noise-free log1p CP10k), obs perturbation,
        perturbation_type, dose, cell_context, batch, target_measured, fate (at the horizon), time (harvest);
        obsm "tf_state" [n, 11]; uns["twinlib"]. With `counterparts` also layers "counterpart" (noise-free
        log1p CP10k), obs "counterpart_fate", obsm "counterpart_state".

    Raises
    ------
    DataError
        An unknown gene, cytokine or context, or fewer cells than groups.
    """
    wiring, cytokines = wiring or Wiring(), tuple(cytokines)
    labels = all_knockdowns() if perturbations is None else tuple(perturbations)
    arguments = {
        "n_cells": n_cells, "seed": seed, "perturbations": labels, "cytokines": cytokines,
        "doses": tuple(doses), "efficacy": efficacy, "contexts": tuple(contexts),
        "snapshots": None if snapshots is None else tuple(map(float, snapshots)), "wiring": asdict(wiring),
        "control_weight": control_weight,
    }  # fmt: skip
    groups = treatment_groups(labels, cytokines, doses, efficacy, contexts, control_weight)
    if onset:  # a new argument must not change the hash of cells that do not use it
        arguments["onset"] = float(onset)
    group = share_out(groups, n_cells)
    generator = np.random.default_rng(seed)
    states, final, time = simulate_groups(groups, group, snapshots, counterparts, onset, generator)
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
        "data_hash": _configuration_hash(arguments, contexts),
        "scale": "log1p",
        "counts": "counts are simulated: negative binomial around the cell's expected expression",
        "regulators": pd.DataFrame(wiring.edges(), columns=["regulator", "target", "weight"]),
        "configuration": json.dumps(arguments),
    }
    return cells


def _measure(states: Array, wiring: Wiring, generator: np.random.Generator) -> AnnData:
    """Counts and normalised expression of cells in the given states [n, 11]."""
    from anndata import AnnData

    shares = wiring.relative_expression(states)
    counts = wiring.counts(shares, generator)
    cells = AnnData(X=log_cp10k(counts), var=pd.DataFrame(index=[*GENES, *wiring.genes]))
    cells.obs_names = [f"cell{i:06d}" for i in range(len(states))]
    cells.layers["counts"] = counts
    cells.layers["expected"] = np.log1p(1e4 * shares).astype(np.float32)
    cells.obsm["tf_state"] = states.astype(np.float32)
    return cells


def _observations(
    groups: Sequence[Group], group: npt.NDArray[np.int_], fates: npt.NDArray[np.str_], time: Array
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


def _configuration_hash(arguments: Mapping[str, object], contexts: Sequence[str]) -> str:
    """Hash of the arguments and the constants that shape the cells: equal on every machine."""
    constants = {
        "version": VERSION, "edges": EDGES, "cytokines": CYTOKINES,
        "contexts": {name: asdict(CONTEXTS[name]) for name in contexts},
    }  # fmt: skip
    text = json.dumps([arguments, constants], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
