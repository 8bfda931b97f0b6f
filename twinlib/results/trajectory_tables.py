"""What `results/trajectories` says: both clocks, similarity verdicts, the alarm, over folds and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twinlib.evaluation.calibration import Estimate
from twinlib.evaluation.similarity import SimilarityVerdict, mean_over_folds, similarity_verdict

Array = NDArray[np.float64]
Units = set[tuple[str, str]]

#: What a verdict of similarity needs the twin to be nearer than.
REFERENCES = ("experimental_shuffled", "straight_line", "do_nothing")


def units_with_effect(groups: pd.DataFrame) -> Units:
    """Return the perturbations and contexts with an effect."""
    chosen = groups[(groups["part"] == "test") & groups["has_effect"].astype(bool)]
    return set(zip(chosen["perturbation"], chosen["cell_context"], strict=True))


def fold_table(scores: pd.DataFrame, units: Units | None = None, **where: str) -> pd.DataFrame:
    """Return values folds x units of the rows that `where` chooses by column, averaged over seeds.

    `units` keeps some of them; a unit that a fold does not have leaves.
    """
    for column, value in where.items():
        scores = scores[scores[column].astype(str) == value]
    table = scores.pivot_table(index="split", columns=["perturbation", "cell_context"], values="value")
    kept = [unit for unit in table.columns if units is None or tuple(unit) in units]
    return table[kept].dropna(axis=1)


def over_folds(table: pd.DataFrame) -> Estimate | None:
    """Return the mean of a table folds x units with its interval; None where it has no unit."""
    return mean_over_folds(table.to_numpy()) if table.shape[1] else None


def in_words(mean: Estimate | None, digits: int = 2) -> str:
    """Return a mean with its interval as text."""
    if mean is None:
        return "n/a"
    return f"{mean.mean:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"


def verdict(
    scores: pd.DataFrame, units: Units, clock: str, metric: str = "dtw", model: str = "experimental"
) -> SimilarityVerdict | None:
    """Judge a twin beside its references in one clock; None where the data have no such rows."""
    references = (f"{model}_shuffled", *REFERENCES[1:])
    tables = {
        name: fold_table(scores, units, part="test", setting=clock, metric=metric, model=name)
        for name in (model, *references)
    }
    if not tables[model].shape[1]:
        return None
    return similarity_verdict(tables[model], {name: tables[name] for name in references})


def twin_score(
    scores: pd.DataFrame, units: Units, clock: str, model: str = "experimental", metric: str = "dtw"
) -> Estimate | None:
    """Return the twin score with its interval over folds; None where the data cannot tell it.

    (d(do-nothing) - d) / (d(do-nothing) - d(real halves)), distances averaged over units in each fold; the
    score is withheld where the interval of the denominator is not above 0: then the cells are too few to tell
    doing nothing from their own noise, and the sign of the score would mean nothing.
    """
    still, own, halves = (
        fold_table(scores, units, part="test", setting=clock, metric=metric, model=name).mean(axis=1)
        for name in ("do_nothing", model, "real_halves")
    )
    if still.isna().any() or not len(still):
        return None
    gap = mean_over_folds((still - halves).to_numpy()[:, None])
    if not gap.low > 0:
        return None
    return mean_over_folds(((still - own) / (still - halves)).to_numpy()[:, None])


def alarms(scores: pd.DataFrame, units: Units, setting: str, model: str) -> pd.DataFrame:
    """Return the share flagged for each share of replaced cells, with interval: share, mean, low, high."""
    shares = sorted({float(s) for s in scores.loc[scores["metric"] == "flagged", "against"]})
    rows = []
    for share in shares:
        flagged = over_folds(_flagged(scores, units, setting, model, share))
        if flagged is not None:
            rows.append((share, flagged.mean, max(flagged.low, 0.0), min(flagged.high, 1.0), flagged.units))
    return pd.DataFrame(rows, columns=["share", "mean", "low", "high", "units"])


def _flagged(scores: pd.DataFrame, units: Units, setting: str, model: str, share: float) -> pd.DataFrame:
    """Return the flagged share [F, U] of the test cells' units."""
    chosen = scores[(scores["metric"] == "flagged") & (scores["part"] == "test")]
    chosen = chosen[chosen["against"].astype(float) == share]
    return fold_table(chosen, units, setting=setting, model=model)


def sham_alarms(
    scores: pd.DataFrame, setting: str, model: str, shares: Sequence[float] = (0.0, 1.0)
) -> Estimate:
    """Return how often experiments with sham labels are flagged, with its interval over folds and labels.

    Sound and failed alike: both are controls, so that every flag is a false alarm. The labels of every draw
    are the units, for the folds of one draw take their thresholds from the same validation cells.
    """
    chosen = scores[(scores["metric"] == "flagged") & scores["part"].str.startswith("sham")]
    chosen = chosen[chosen["against"].astype(float).isin(shares)]
    chosen = chosen[(chosen["setting"] == setting) & (chosen["model"] == model)]
    labels = ["part", "perturbation", "cell_context"]
    table = chosen.pivot_table(index="split", columns=labels, values="value").dropna(axis=1)
    flagged = mean_over_folds(table.to_numpy())
    return replace(flagged, low=max(flagged.low, 0.0), high=min(flagged.high, 1.0))
