"""The cells that predictions are held against: one case a perturbation and dose, context by context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twinlib.data.pairing import match_space, transport_plan
from twinlib.data.schema import CONTROL
from twinlib.errors import InputError
from twinlib.evaluation.calibration import Arms, arms

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.data.preparation import Prepared

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Columns of the table of groups; `has_effect` is filled by `summaries.with_effects`.
GROUPS = (
    "dataset", "split_kind", "split", "part", "perturbation", "dose", "cell_context", "n_cells", "n_controls",
    "n_total", "has_effect", "kept_response",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """The cells of one perturbation and dose in one part of a split."""

    #: Label of the perturbation.
    perturbation: str
    #: Its dose.
    dose: float
    #: Batch of the perturbed cells; "" where they come from several.
    batch: str
    #: Both arms, context by context; None where no context is large enough.
    arms: Arms | None
    #: By pairing (`ot`, `random`), for each context that counts: the control of each perturbed cell [n]; {}
    #: where no cells were matched.
    partners: Mapping[str, tuple[Integers, ...]]


def cases_of(prepared: Prepared, part: str, matched: bool = True) -> tuple[Case, ...]:
    """Sort the cells of a part of a split into cases, matched or not; no perturbed cell in it is refused."""
    rows = prepared.rows(part)
    obs = prepared.cells.obs.iloc[rows]
    labels, contexts, batches = (
        obs[name].astype(str).to_numpy() for name in ("perturbation", "cell_context", "batch")
    )
    doses = obs["dose"].to_numpy(dtype=float)
    x = np.asarray(prepared.expression(part), dtype=np.float64)
    space, rng = match_space(prepared)[rows] if matched else None, np.random.default_rng(0)
    cases = []
    for label, dose in _targets(labels, doses):
        here = (labels == label) & (doses == dose)
        both = arms(x, here, labels == CONTROL, contexts)
        origins = np.unique(batches[here])
        partners = {} if space is None else _partners(both, space, here, labels == CONTROL, contexts, rng)
        cases.append(Case(label, dose, str(origins[0]) if len(origins) == 1 else "", both, partners))
    if not cases:
        raise InputError(f"The {part} part of {prepared.dataset} holds no perturbed cell: choose another.")
    return tuple(cases)


def _targets(labels: NDArray[np.str_], doses: Array) -> list[tuple[str, float]]:
    """Return the perturbations and doses of cells [n], sorted."""
    pairs = zip(labels.tolist(), doses.tolist(), strict=True)
    return sorted({pair for pair in pairs if pair[0] != CONTROL})


def _partners(
    cells: Arms | None,
    space: Array,
    perturbed: NDArray[np.bool_],
    controls: NDArray[np.bool_],
    contexts: NDArray[np.str_],
    rng: np.random.Generator,
) -> dict[str, tuple[Integers, ...]]:
    """Return the partners of the perturbed cells of each context, as places among its controls."""
    nearest, drawn = [], []
    for name in cells.contexts if cells else ():
        inside = contexts == name
        plan, _ = transport_plan(space[controls & inside], space[perturbed & inside])
        nearest.append(plan.argmax(axis=0))
        drawn.append(rng.integers(plan.shape[0], size=(plan.shape[1],)))
    return {"ot": tuple(nearest), "random": tuple(drawn)}


def split_name(prepared: Prepared) -> str:
    """Return how tables name a split: its fold, or what is held out (and the fold, from the second on)."""
    if not prepared.held_out:
        return f"fold {prepared.fold}"
    again = f" (fold {prepared.fold})" if prepared.fold > 1 else ""
    return ", ".join(prepared.held_out) + again


def groups_of(prepared: Prepared, part: str) -> pd.DataFrame:
    """Return the table of groups: each perturbation and dose of a part, whole and by context."""
    import pandas as pd

    obs = prepared.cells.obs.assign(
        **{name: prepared.cells.obs[name].astype(str) for name in ("perturbation", "cell_context")}
    )
    here = obs.iloc[prepared.rows(part)]
    controls = here[here["perturbation"] == CONTROL]["cell_context"].value_counts()
    sizes = here[here["perturbation"] != CONTROL].groupby(["perturbation", "dose", "cell_context"]).size()
    by_context = sizes.rename("n_cells").reset_index()
    by_context["n_controls"] = by_context["cell_context"].map(controls).fillna(0).astype(int)
    whole = by_context.groupby(["perturbation", "dose"], as_index=False)[["n_cells", "n_controls"]].sum()
    table = whole.assign(cell_context="")
    if obs["cell_context"].nunique() > 1:
        table = pd.concat([table, by_context], ignore_index=True)
    table["n_total"] = table["perturbation"].map(obs["perturbation"].value_counts()).astype(int)
    table["kept_response"] = table["perturbation"].map(prepared.kept["share"]).astype(float)
    table["has_effect"] = pd.Series(pd.NA, index=table.index, dtype="boolean")
    table = table.assign(
        dataset=prepared.dataset, split_kind=prepared.split, split=split_name(prepared), part=part
    )
    return table[list(GROUPS)]
