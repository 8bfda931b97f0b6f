"""What a tuning says: the score of the best of k random settings, and how many settings diverge.

A setting is chosen by its validation score and scored on test cells. Settings without a positive validation
return, and those of which a seed was lost, are no candidates: where no other is drawn the entry is
do-nothing, which scores 0 in the primary metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.errors import InputError, ResultsError
from twinlib.evaluation.calibration import Estimate, estimate
from twinlib.evaluation.statistics import wilson_interval
from twinlib.evaluation.summaries import Scores
from twinlib.results import tables
from twinlib.results.judged import PRIMARY, PRIMARY_OF

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

#: Numbers of settings k for which the best of k is shown; larger k of 24 draws is degenerate.
BUDGETS = tuple(range(1, 13))
#: Draws of whole sets of settings, from which the chance of the draws is read.
RESAMPLES = 500
#: A setting diverges when the mean KL of an update exceeds this, or its return is below 0.
DIVERGED_KL = 1.0
#: Parts of the split.
CHOSEN_ON, SCORED_ON = "validation", "test"


def chances(validation: ArrayLike, candidates: ArrayLike, k: int) -> Array:
    """Return the chance [S] that each of S settings is chosen from k that are drawn without replacement.

    `candidates` [S] says which settings may be chosen; what is left to 1 is the chance that none is drawn.

    >>> chances([0.1, 0.3, 0.2], [True, True, True], 2).round(3).tolist()
    [0.0, 0.667, 0.333]
    """
    score, known = np.asarray(validation, dtype=np.float64), np.asarray(candidates, dtype=bool)
    if not 1 <= k <= len(score):
        raise InputError(f"k is {k}; give 1 to {len(score)}, the number of settings.")
    below = np.empty(len(score), dtype=np.int64)
    below[np.argsort(np.where(known, score, -np.inf), kind="stable")] = np.arange(len(score))
    chosen = np.array([comb(int(rank), k - 1) for rank in below]) / comb(len(score), k)
    return np.asarray(np.where(known, chosen, 0.0))


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the settings of one algorithm came to, seeds averaged."""

    #: Validation score of each setting [S].
    validation: Array
    #: Which settings may be chosen [S].
    candidates: NDArray[np.bool_]
    #: Test score of each setting and unit [S, U].
    test: Array

    def best(self, k: int, draw: NDArray[np.int64] | None = None) -> Array:
        """Return the expected test score of the best of k settings by unit [U]; of a resampled set `draw`."""
        rows = np.arange(len(self.validation)) if draw is None else draw
        weights = chances(self.validation[rows], self.candidates[rows], k)
        return np.asarray(weights @ np.where(self.candidates[rows, None], self.test[rows], 0.0))

    def chosen(self) -> int | None:
        """Return the number of the best setting, None where none may be chosen."""
        if not self.candidates.any():
            return None
        return int(np.where(self.candidates, self.validation, -np.inf).argmax())


def curve(outcomes: Outcomes, k: int) -> Estimate:
    """Return E[best of k] with an interval over units and over the draws of settings."""
    return _estimate(lambda draw: outcomes.best(k, draw), len(outcomes.validation))


def curve_gap(first: Outcomes, second: Outcomes, k: int) -> Estimate:
    """Return E[best of k] of the first less that of the second, paired over units and drawn settings."""
    if first.test.shape != second.test.shape:
        raise InputError("The algorithms have other settings or units; compare them on the same ones.")
    return _estimate(lambda draw: first.best(k, draw) - second.best(k, draw), len(first.validation))


def _estimate(of: Callable[[NDArray[np.int64] | None], Array], settings: int) -> Estimate:
    """Return the mean over units [U]; the variance that comes from the drawn settings is added."""
    rng = np.random.default_rng(0)
    means = [of(rng.integers(settings, size=settings)).mean() for _ in range(RESAMPLES)]
    return estimate(of(None), seeds=float(np.var(means, ddof=1)))


@dataclass(frozen=True, eq=False)
class Tuned:
    """The tuning of one dataset."""

    #: Name of the dataset.
    dataset: str
    #: Values in the form of `evaluate`; `setting` names a row of `settings`.
    scores: pd.DataFrame
    #: Groups in the form of `evaluate`, with has_effect.
    groups: pd.DataFrame
    #: One row a run: model, setting, seed, validation_return, mean_kl, lost (its numbers were not finite).
    runs: pd.DataFrame
    #: One row a setting.
    settings: pd.DataFrame
    #: The metric by which settings are chosen and scored; "": the primary one of the dataset.
    judged_by: str = ""

    @staticmethod
    def of(dataset: str) -> Tuned:
        """Read the packaged tuning of a dataset."""
        read = partial(tables.read_table, "tuning", dataset)
        return Tuned(dataset, read("scores"), read("groups"), read("runs"), read("settings"))

    def by(self, metric: str) -> Tuned:
        """Return the same tuning, its settings chosen and scored by another metric."""
        return replace(self, judged_by=metric)

    @property
    def metric(self) -> str:
        """The metric by which settings are chosen and scored."""
        return self.judged_by or PRIMARY_OF.get(self.dataset, PRIMARY)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The tuned algorithms; yardsticks have no setting."""
        return tuple(dict.fromkeys(self.runs.loc[self.runs["setting"] != "", "model"]))

    @cached_property
    def _over(self) -> str:
        return "has_effect" if self.groups["has_effect"].astype("boolean").any() else "all"

    @cached_property
    def _parts(self) -> dict[str, Scores]:
        """The values of all settings by part."""
        rows = self.scores[self.scores["metric"] == self.metric.removeprefix("skill_")]
        of = partial(Scores.of, metric=self.metric, over=self._over)
        return {
            part: of(rows[rows["part"] == part], self.groups[self.groups["part"] == part])
            for part in (CHOSEN_ON, SCORED_ON)
        }

    @cached_property
    def _known(self) -> dict[str, Outcomes]:
        return {}

    def outcomes(self, model: str) -> Outcomes:
        """Return what the settings of an algorithm came to on the units that both parts hold."""
        if model not in self._known:
            self._known[model] = self._outcomes(model)
        return self._known[model]

    def _outcomes(self, model: str) -> Outcomes:
        runs = self.runs[self.runs["model"] == model]
        if runs.empty:
            raise ResultsError(f"The tuning of {self.dataset} holds no {model}; add it with --resume.")
        lost = runs.groupby("setting")["lost"].any()
        units = {part: sorted(table.common()) for part, table in self._parts.items()}
        values = {
            part: np.stack([_means(table, f"{model} {name}", units[part]) for name in lost.index])
            for part, table in self._parts.items()
        }
        returns = runs.groupby("setting")["validation_return"].mean().reindex(lost.index)
        candidates = ((returns > 0) & ~lost.astype(bool)).to_numpy()
        return Outcomes(values[CHOSEN_ON].mean(1), candidates, values[SCORED_ON])

    def gap(self, first: str, second: str, k: int) -> Estimate:
        """Return E[best of k] of one algorithm less that of another."""
        return curve_gap(self.outcomes(first), self.outcomes(second), k)

    def gaps(self, first: str, second: str, budgets: Sequence[int] = BUDGETS) -> dict[int, Estimate]:
        """Return the same for several k."""
        return {k: self.gap(first, second, k) for k in budgets}

    def curves(self, budgets: Sequence[int] = BUDGETS) -> pd.DataFrame:
        """Return E[best of k] of every algorithm: columns model, k, mean, low, high, units."""
        import pandas as pd

        return pd.DataFrame(
            {"model": model, "k": k, "mean": value.mean, "low": value.low, "high": value.high}
            | {"units": value.units}
            for model in self.algorithms
            for k in budgets
            for value in [curve(self.outcomes(model), k)]
        )

    def best(self, model: str) -> str | None:
        """Return the name of an algorithm's best setting; None: its entry is do-nothing."""
        chosen = self.outcomes(model).chosen()
        return None if chosen is None else self._names(model)[chosen]

    def at(self, model: str, setting: str) -> Array:
        """Return the test score [U] of an algorithm at one setting, seeds averaged."""
        names = self._names(model)
        if setting not in names:
            raise InputError(f"{model} on {self.dataset} has no setting {setting}; take one of {names}.")
        return np.asarray(self.outcomes(model).test[names.index(setting)])

    def _names(self, model: str) -> list[str]:
        """Return the settings of an algorithm in the order of its outcomes."""
        return sorted(map(str, self.runs.loc[self.runs["model"] == model, "setting"].unique()))

    def divergence(self) -> pd.DataFrame:
        """Return the settings that diverge: columns model, settings, diverged, share, low, high."""
        import pandas as pd

        return pd.DataFrame(
            {"model": model, "settings": len(told), "diverged": int(told.sum()), "share": float(told.mean())}
            | dict(zip(("low", "high"), wilson_interval(int(told.sum()), len(told)), strict=True))
            for model, told in diverged(self.runs).groupby(level="model", sort=False)
            if model in self.algorithms
        )


def diverged(runs: pd.DataFrame) -> pd.Series:
    """Tell which settings diverge, by model and setting: means over their seeds, or a seed that was lost."""
    means = runs.groupby(["model", "setting"], sort=False)[["mean_kl", "validation_return"]].mean()
    lost = runs.groupby(["model", "setting"], sort=False)["lost"].any().astype(bool)
    return (means["mean_kl"] > DIVERGED_KL) | (means["validation_return"] < 0) | lost


def _means(table: Scores, row: str, units: Sequence[str]) -> Array:
    """Return the means over seeds [U] of one setting; a setting whose seeds were all lost scores 0."""
    if row not in table.models:
        return np.zeros(len(units))
    return table.models[row].reindex(columns=list(units)).mean().fillna(0.0).to_numpy(dtype=np.float64)
