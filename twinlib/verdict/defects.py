"""What canonical cells tell about themselves: sizes, contexts, batches, doses, values, and how weak they "
"are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twinlib.data import blocks, labels, panel, traps
from twinlib.data.doses import unlogged
from twinlib.data.schema import CONTROL, MIN_CELLS
from twinlib.verdict.findings import Finding, assumed, defect, first_of, holds
from twinlib.verdict.keys import as_options

if TYPE_CHECKING:
    from anndata import AnnData

Array = NDArray[np.float64]
#: A perturbation with fewer cells in the whole file enters no average.
ENOUGH_CELLS = 50
#: A context needs this many cells of an arm for 5 of them to be expected in a test fold.
ENOUGH_IN_CONTEXT = 30
#: Cells that the quick look at halves reads, and genes.
LOOKED_AT, GENES, HALVINGS = 20_000, 200, 5
#: Two halves agree from this correlation on.
AGREE = 0.5
#: Doses that span this factor or more act rarely in proportion.
WIDE_DOSES = 30.0
#: Arms whose shares of a context differ by this or more are of different composition.
UNEVEN = 0.1


def lonely_contexts(cells: AnnData) -> list[str]:
    """Return the contexts with perturbed cells and under `MIN_CELLS` controls: nothing can be judged "
    "there."""
    obs = cells.obs
    control = (obs["perturbation"] == CONTROL).to_numpy()
    controls = obs["cell_context"].astype(str)[control].value_counts()
    names = sorted(obs["cell_context"].astype(str)[~control].unique())
    return [name for name in names if controls.get(name, 0) < MIN_CELLS]


def groups_table(cells: AnnData) -> pd.DataFrame:
    """Return one row a perturbation, dose and context: cells, controls, cells in all, and a note on its "
    "size."""
    obs = cells.obs.assign(
        **{name: cells.obs[name].astype(str) for name in ("perturbation", "cell_context")},
        dose=given_doses(cells),
    )
    control = obs["perturbation"] == CONTROL
    controls = obs[control]["cell_context"].value_counts()
    table = (
        obs[~control].groupby(["perturbation", "dose", "cell_context"]).size().rename("cells").reset_index()
    )
    table["controls"] = table["cell_context"].map(controls).fillna(0).astype(int)
    table["in_all"] = table["perturbation"].map(obs["perturbation"].value_counts()).astype(int)
    table["note"] = [_note(*row) for row in table[["cells", "controls", "in_all"]].itertuples(index=False)]
    return table


def _note(cells: int, controls: int, in_all: int) -> str:
    if in_all < ENOUGH_CELLS:
        return f"under {ENOUGH_CELLS} cells in all: enters no average"
    if min(cells, controls) < ENOUGH_IN_CONTEXT:
        return f"under {ENOUGH_IN_CONTEXT} cells of an arm in this context: too few to be tested there"
    return ""


def given_doses(cells: AnnData) -> Array:
    """Return doses [n] in the unit of the file."""
    doses = cells.obs["dose"].to_numpy(dtype=float)
    smallest = float(cells.uns["twinlib"].get("log_dose", 0.0))
    return np.round(unlogged(doses, smallest), 10) if smallest else doses


def all_of(cells: AnnData) -> list[Finding]:
    """Return what canonical cells [n, G] tell about themselves."""
    parts = (of_values, of_sizes, of_contexts, of_batches, of_doses, of_depth, of_halves)
    return [finding for part in parts for finding in part(cells)]


def of_values(cells: AnnData) -> list[Finding]:
    """Tell what the numbers were taken for, and what the package's hints say."""
    facts = cells.uns["twinlib"]
    told = [holds("values", str(facts["taken_for"])), holds("counts", f"counts are {facts['counts']}")]
    if "neither confirm" in str(facts["taken_for"]) or "left aside" in str(facts["taken_for"]):
        told[0] = defect("values", str(facts["taken_for"]))
    told += [defect("labels", as_options(hint)) for hint in _hints(cells)]
    if not blocks.is_lazy(cells.X) and cells.n_obs <= LOOKED_AT:
        label = cells.obs["perturbation"].astype(str).to_numpy()
        copied = traps.resampling_sentence(cells.X, label, map(str, cells.var_names))
        told += [defect("values", copied)] if copied else []
    return told


def _hints(cells: AnnData) -> list[str]:
    """Return the package's hints on labels, but for small groups, which have their own sentence."""
    genes = list(map(str, cells.var_names))
    by_gene = cells.obs["perturbation_type"].astype(str).str.startswith("CRISPR").any()
    measured = not by_gene or bool(cells.obs["target_measured"].any())
    told = labels.hints(cells.obs["perturbation"].astype(str), measured, genes, cells.var)
    return [hint for hint in told if "small_group" not in hint]


def of_sizes(cells: AnnData) -> list[Finding]:
    """Tell how many cells there are of what, and which perturbations have few."""
    obs = cells.obs
    sizes = obs["perturbation"].astype(str).value_counts()
    perturbed = sizes.drop(CONTROL)
    counted = ", ".join(
        _counted(number, one, several)
        for number, one, several in (
            (len(perturbed), "perturbation", "perturbations"),
            (obs["cell_context"].nunique(), "context", "contexts"),
            (obs["batch"].nunique(), "batch", "batches"),
        )
    )
    told = [
        holds("size", f"{cells.n_obs} cells x {cells.n_vars} genes: {sizes[CONTROL]} controls, {counted}")
    ]
    small = perturbed[perturbed < ENOUGH_CELLS].sort_values(kind="stable")
    if len(small):
        shown = first_of([f"{name} {size}" for name, size in small.items()], 5)
        told.append(
            defect(
                "small groups",
                f"{len(small)} of {len(perturbed)} perturbations have under {ENOUGH_CELLS} cells ({shown}) "
                "and enter no average",
            )
        )
    return told


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def of_contexts(cells: AnnData) -> list[Finding]:
    """Tell whether the arms hold the same mixture of contexts, and which contexts are small."""
    obs = cells.obs
    contexts = obs["cell_context"].astype(str)
    if contexts.nunique() == 1:
        return []
    control = (obs["perturbation"] == CONTROL).to_numpy()
    shares = [contexts[arm].value_counts(normalize=True) for arm in (control, ~control)]
    gap = (shares[1].subtract(shares[0], fill_value=0.0)).abs()
    told = []
    if gap.max() >= UNEVEN:
        name = str(gap.idxmax())
        told.append(
            defect(
                "contexts",
                f"the arms are mixtures of other composition ({name}: {shares[0].get(name, 0):.0%} of the "
                f"controls, {shares[1].get(name, 0):.0%} of the perturbed cells), so changes are taken "
                "within contexts",
            )
        )
    table = groups_table(cells)
    thin = table[table["note"].str.contains("in this context")]
    if len(thin):
        told.append(
            defect(
                "contexts",
                f"{len(thin)} of {len(table)} groups of a perturbation in a context have under "
                f"{ENOUGH_IN_CONTEXT} cells of an arm and are counted as n/a there",
            )
        )
    return told


def of_batches(cells: AnnData) -> list[Finding]:
    """Tell which batches lack an arm, which labels stand in one batch, and how batches meet a split by "
    "cells."""
    obs = cells.obs
    batches = obs["batch"].astype(str)
    if batches.nunique() == 1:
        return []
    label = obs["perturbation"].astype(str)
    control = label == CONTROL
    bare = sorted(set(batches[~control]) - set(batches[control]))
    told = []
    if bare:
        share = float(batches[~control].isin(bare).mean())
        told.append(
            defect(
                "batches",
                f"{len(bare)} of {batches.nunique()} batches ({', '.join(bare[:3])}) hold no control, so "
                f"that {share:.0%} of the perturbed cells are compared with controls of other batches",
            )
        )
    spread = batches[~control].groupby(label[~control]).nunique()
    single = sorted(map(str, spread.index[spread == 1]))
    if single:
        told.append(
            defect(
                "batches",
                f"{len(single)} of {len(spread)} perturbations stand in one batch only "
                f"({first_of(single, 3)}), so that their effect cannot be told from the batch's",
            )
        )
    both = sorted(set(batches[control]) & set(batches[~control]))
    if len(both) > 1:
        told.append(
            defect(
                "batches",
                f"a split by cells has all {len(both)} batches (donors, plates) on both sides: the split "
                "'batches' leaves each out and says what carries over to a new one",
            )
        )
    return told


def of_doses(cells: AnnData) -> list[Finding]:
    """Tell which doses there are, and whether they span so much that their logarithm should act."""
    doses = given_doses(cells)
    perturbed = (cells.obs["perturbation"] != CONTROL).to_numpy()
    levels = np.unique(doses[perturbed])
    if len(levels) == 1:
        return []
    shown = first_of([f"{dose:g}" for dose in levels], 8)
    by_log = bool(cells.uns["twinlib"].get("log_dose", 0.0))
    acts = "by the logarithm of the dose" if by_log else "in proportion to the dose"
    told = [holds("doses", f"{len(levels)} doses: {shown}"), assumed("doses", f"effects grow {acts}")]
    if not by_log and levels[-1] >= WIDE_DOSES * levels[0]:
        told.append(
            defect(
                "doses",
                f"doses span {levels[-1] / levels[0]:g}-fold, where no effect grows in proportion: give "
                "--log-dose",
            )
        )
    return told


def of_depth(cells: AnnData) -> list[Finding]:
    """Tell whether perturbed cells hold other total counts than controls."""
    if "counts" not in cells.layers:
        return []
    totals = blocks.row_sums(cells.layers["counts"])
    medians = pd.Series(totals).groupby(cells.obs["perturbation"].astype(str).to_numpy()).median()
    ratio = medians.drop(CONTROL) / max(medians[CONTROL], 1e-12)
    far = ratio[(ratio > 1.5) | (ratio < 1 / 1.5)].sort_values()
    if not len(far):
        return []
    name = str(np.abs(np.log(far.clip(1e-6))).idxmax())
    return [
        defect(
            "depth",
            f"{len(far)} of {len(ratio)} perturbations hold other total counts than the controls (median, "
            f"{name}: {ratio[name]:.2f} times), which looks like a change of many genes",
        )
    ]


def of_halves(cells: AnnData) -> list[Finding]:
    """Tell for how many perturbations two halves of the cells show the same change."""
    agreement = halves_agree(cells)
    known = agreement.dropna()
    if not len(known):
        return []
    sure = int((known >= AGREE).sum())
    told = (
        f"two random halves of the cells show the same change (r of {AGREE} or more) for {sure} of "
        f"{len(known)} perturbations"
    )
    if sure >= 0.5 * len(known):
        return [holds("strength", told)]
    return [defect("strength", f"the screen is weak: {told}, and the change of the others is hardly seen")]


def halves_agree(cells: AnnData, seed: int = 0) -> pd.Series:
    """Return for each perturbation [P] the correlation of its change in two halves, mean over halvings.

    Changes are taken within contexts over the `GENES` genes that vary most, in at most `LOOKED_AT` cells; NaN
    with under 4 cells in a half.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(cells.n_obs)[:LOOKED_AT])
    obs = cells.obs.iloc[rows]
    label, contexts = (obs[name].astype(str).to_numpy() for name in ("perturbation", "cell_context"))
    x = blocks.take(cells.X, rows)
    x = np.asarray(blocks.dense(x[:, panel.top_genes(x, contexts, GENES)]), dtype=np.float64)
    names = sorted(set(label) - {CONTROL})
    rounds = [_one_halving(x, label, contexts, names, rng) for _ in range(HALVINGS)]
    return pd.Series(np.mean(rounds, axis=0), index=names)


def _one_halving(
    x: Array, label: NDArray[np.str_], contexts: NDArray[np.str_], names: list[str], rng: np.random.Generator
) -> list[float]:
    half = rng.permutation(len(x)) % 2
    centred = np.full_like(x, np.nan)
    for context in np.unique(contexts):
        for side in (0, 1):
            here = (contexts == context) & (half == side)
            if (here & (label == CONTROL)).any():
                centred[here] = x[here] - x[here & (label == CONTROL)].mean(axis=0)
    known = ~np.isnan(centred[:, 0])
    return [
        _agreement([centred[known & (label == name) & (half == side)] for side in (0, 1)]) for name in names
    ]


def _agreement(sides: list[Array]) -> float:
    if min(map(len, sides)) < 4:
        return float("nan")
    one, other = (side.mean(axis=0) for side in sides)
    return float(np.corrcoef(one, other)[0, 1]) if min(one.std(), other.std()) > 0 else 0.0
