"""Guides: cells with several of them, whether guides of a target agree, and cells that escaped.

Escapers are told by a mixture of two normal distributions over a perturbation score, the idea of mixscape
(Papalexi 2021, Nat Genet 53:322).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twinlib.data import blocks, panel
from twinlib.data.labels import plain
from twinlib.data.schema import CONTROL, MIN_CELLS
from twinlib.errors import DataError
from twinlib.verdict.findings import Finding, defect, first_of, holds

if TYPE_CHECKING:
    from anndata import AnnData

Array = NDArray[np.float64]
#: A cell whose leading guide holds no more than this share of its guide counts has several guides.
LEADING = 0.8
#: Usual names of the column of that share, and of the table of guide counts in obsm, without signs.
SHARES = "guideshare sgrnashare grnashare guidefraction leadingguideshare"
COUNTS = "guidecounts sgrnacounts grnacounts guides grna sgrna gdo xguide"
#: Guides of a target agree where the correlations of their changes average this or more.
AGREE = 0.3
#: Genes over which changes of guides and scores of cells are taken.
GENES = 200


def with_shares(made: AnnData, adata: AnnData) -> AnnData:
    """Add `guide_share` to canonical cells where the file holds such a column or a table of guide counts."""
    share = _given_share(adata)
    if share is not None:
        made.obs["guide_share"] = share.reindex(made.obs_names).to_numpy(dtype=float)
    return made


def _given_share(adata: AnnData) -> pd.Series | None:
    for name in adata.obs.columns:
        if plain(str(name)) in SHARES.split():
            return pd.to_numeric(adata.obs[name], errors="coerce").set_axis(adata.obs_names.astype(str))
    for name in adata.obsm:
        if plain(str(name)) in COUNTS.split():
            counts = adata.obsm[name]
            table = np.asarray(counts.toarray() if blocks.is_sparse(counts) else counts, dtype=float)
            shares = table.max(axis=1) / np.maximum(table.sum(axis=1), 1e-12)
            return pd.Series(shares, index=adata.obs_names.astype(str))
    return None


def multiplets(cells: AnnData) -> NDArray[np.bool_]:
    """Return which cells [n] carry several guides; a cell without a known share is none."""
    if "guide_share" not in cells.obs:
        raise DataError(
            "The file does not say which share of a cell's guide counts its leading guide holds: give obs a "
            "column guide_share or obsm a table guide_counts."
        )
    return (cells.obs["guide_share"] <= LEADING).to_numpy(dtype=bool)


def without_multiplets(cells: AnnData) -> AnnData:
    """Return the cells with one guide; how many were left out is kept in `uns["twinlib"]`."""
    several = multiplets(cells)
    kept = cells[~several].copy()
    kept.uns["twinlib"] = {**cells.uns["twinlib"], "multiplets_dropped": int(several.sum())}
    return kept


def guide_table(cells: AnnData, seed: int = 0) -> pd.DataFrame:
    """Return one row a perturbation [P]: cells, guides, concordance, multiplets, escapers.

    `concordance` is the mean correlation, over pairs of guides with `MIN_CELLS` cells, of their changes
    within contexts (NaN with one guide); `multiplets` the share of cells with several guides (NaN where
    unknown); `escapers` the share of cells that look like controls (`escaped`; NaN where no change is seen).
    """
    changed, labels = centred(cells), cells.obs["perturbation"].astype(str).to_numpy()
    guide = cells.obs["guide"].astype(str).to_numpy() if "guide" in cells.obs else None
    several = multiplets(cells) if "guide_share" in cells.obs else None
    rows = []
    for name in sorted(set(labels) - {CONTROL}):
        own = labels == name
        rows.append(
            {
                "perturbation": name,
                "cells": int(own.sum()),
                "guides": len(np.unique(guide[own])) if guide is not None else 0,
                "concordance": float("nan") if guide is None else _concordance(changed[own], guide[own]),
                "multiplets": float("nan") if several is None else float(several[own].mean()),
                "escapers": _share(escaped(changed[own], changed[labels == CONTROL], seed)),
            }
        )
    return pd.DataFrame(rows)


def _share(chosen: NDArray[np.bool_] | None) -> float:
    return float("nan") if chosen is None else float(chosen.mean())


def centred(cells: AnnData, genes: int = GENES) -> Array:
    """Return cells [n, G] less the mean control of their context, over the genes that vary most."""
    contexts = cells.obs["cell_context"].astype(str).to_numpy()
    control = (cells.obs["perturbation"] == CONTROL).to_numpy()
    columns = panel.top_genes(cells.X, contexts, genes)
    x = blocks.dense(cells.X[:, columns])
    values = np.asarray(x, dtype=np.float64)
    for context in np.unique(contexts):
        here = contexts == context
        values[here] -= values[here & control].mean(axis=0)
    return values


def _concordance(changes: Array, guide: NDArray[np.str_]) -> float:
    """Return the mean correlation of the mean changes of guides; changes [n, G] of one target's cells."""
    names, sizes = np.unique(guide, return_counts=True)
    means = [changes[guide == name].mean(axis=0) for name in names[sizes >= MIN_CELLS]]
    if len(means) < 2:
        return float("nan")
    pairs = np.corrcoef(np.stack(means))[np.triu_indices(len(means), 1)]
    return float(np.nanmean(pairs))


def scores(own: Array, controls: Array) -> tuple[Array, Array]:
    """Return perturbation scores of a target's cells [n] and of controls [m]: changes [., G] along its mean.

    The direction of a cell leaves that cell out, so that no cell points at itself; controls' s.d. is 1.
    """
    total = own.sum(axis=0)
    directions = (total - own) / (len(own) - 1)
    along = (own * directions).sum(axis=1) / np.linalg.norm(directions, axis=1).clip(1e-12)
    beside = controls @ total / max(np.linalg.norm(total), 1e-12)
    spread = max(float(beside.std()), 1e-12)
    return along / spread, beside / spread


def escaped(own: Array, controls: Array, seed: int = 0) -> NDArray[np.bool_] | None:
    """Return which cells [n] of a target lie with the controls; None where there is one population.

    A mixture of two normal distributions is fitted to the scores of the target's cells and of as many
    controls; it counts only where one distribution describes them less well (BIC).
    """
    from sklearn.mixture import GaussianMixture

    if len(own) < MIN_CELLS or len(controls) < MIN_CELLS:
        return None
    along, beside = scores(own, controls)
    drawn = np.random.default_rng(seed).permutation(len(beside))[: len(along)]
    both = np.concatenate([along, beside[drawn]])[:, None]
    one = GaussianMixture(1, random_state=seed).fit(both)
    start = [[float(beside.mean())], [float(np.quantile(along, 0.75))]]
    two = GaussianMixture(2, means_init=start, random_state=seed).fit(both)
    if two.bic(both) >= one.bic(both):
        return None
    return np.asarray(two.predict(along[:, None]) == int(np.argmin(two.means_.ravel())))


def without_escapers(cells: AnnData, seed: int = 0) -> AnnData:
    """Return the cells without escapers of any target.

    They are chosen by the very change that is scored, so a score without them is an upper reading, to
    be shown beside the score with them.
    """
    changed, labels = centred(cells), cells.obs["perturbation"].astype(str).to_numpy()
    out = np.zeros(len(labels), dtype=bool)
    for name in sorted(set(labels) - {CONTROL}):
        own = labels == name
        chosen = escaped(changed[own], changed[labels == CONTROL], seed)
        if chosen is not None:
            out[np.flatnonzero(own)[chosen]] = True
    return cells[~out].copy()


def of_guides(cells: AnnData, table: pd.DataFrame | None) -> list[Finding]:
    """Tell how many cells are multiplets, whether guides agree, and where many cells escaped."""
    if table is None:
        return []
    dropped = int(cells.uns["twinlib"].get("multiplets_dropped", 0))
    told = [holds("guides", f"{dropped} cells with several guides were left out")] if dropped else []
    if "guide_share" in cells.obs and multiplets(cells).any():
        told.append(
            defect(
                "guides",
                f"{multiplets(cells).mean():.0%} of the cells carry several guides (the leading one holds "
                f"{LEADING:.0%} of the guide counts or less): --single-guides leaves them out",
            )
        )
    known = table.dropna(subset=["concordance"])
    apart = known[known["concordance"] < AGREE]
    if len(known):
        told.append(
            (defect if len(apart) >= 0.5 * len(known) else holds)(
                "guides",
                f"the guides of {len(known) - len(apart)} of {len(known)} targets change the same genes "
                f"(mean correlation {AGREE} or more)",
            )
        )
    return told + _of_escapers(table)


def _of_escapers(table: pd.DataFrame) -> list[Finding]:
    seen = table.dropna(subset=["escapers"]).sort_values("escapers", ascending=False, kind="stable")
    many = seen[seen["escapers"] >= 0.2]
    if not len(many):
        return []
    shown = first_of([f"{row.perturbation} {row.escapers:.0%}" for row in many.itertuples()], 4)
    return [
        defect(
            "escapers",
            f"of {len(seen)} targets whose change is seen, {len(many)} have 20% or more cells that look like "
            f"controls ({shown})",
        )
    ]
