"""What the judge's packaged tables say: one split of a dataset, its rows, and two rows compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from twinlib.errors import InputError, ResultsError
from twinlib.evaluation import summaries
from twinlib.evaluation.calibration import Estimate
from twinlib.results import tables

if TYPE_CHECKING:
    import pandas as pd

#: The metric that was named before the runs, and that of data whose few numbers a cell make it too noisy.
PRIMARY, PRIMARY_OF = "pearson_delta", {"chi11": "skill_pseudobulk_mse"}
#: The metric that sees how long a predicted change is, beside its direction.
LENGTH = "skill_pseudobulk_mse"
#: How a dataset of sham labels is named.
SHAM = " sham"


@dataclass(frozen=True, eq=False)
class JudgedSplit:
    """The judge's tables of one kind of split of one dataset."""

    #: Name of the dataset, with `SHAM` where labels mean nothing.
    dataset: str
    #: Kind of split, as the experiment names it.
    kind: str
    #: Values in the form of `evaluate`.
    scores: pd.DataFrame
    #: Groups in the form of `evaluate`, with has_effect.
    groups: pd.DataFrame

    @property
    def metric(self) -> str:
        """The primary metric of the dataset."""
        return PRIMARY_OF.get(self.dataset.removesuffix(SHAM), PRIMARY)

    @property
    def over(self) -> str:
        """The units of a headline: `has_effect` where effects were tested and found, else `all`."""
        return "has_effect" if self.groups["has_effect"].astype("boolean").any() else "all"

    def lacks(self, *rows: str) -> list[str]:
        """Return those of some rows, a model or a model and its setting, that the run does not hold."""
        return [row for row in rows if row not in self._held]

    @cached_property
    def _held(self) -> frozenset[str]:
        named = self.scores[["model", "setting"]].drop_duplicates().fillna("").astype(str)
        return frozenset((named["model"] + " " + named["setting"]).str.strip())

    @property
    def plain_row(self) -> str:
        """The row that knows most without any training: what a model has to beat (`summaries.plain_row`)."""
        return summaries.plain_row(self.kind, self._plain_rows)

    def _plain_rows(self) -> pd.DataFrame:
        """Return the rows of unseen perturbations that need no training, by model, on all units."""
        return self.rows(models=summaries.PLAIN_UNSEEN).query("on == 'all'").set_index("model")

    def rows(
        self, metric: str = "", over: str | Sequence[str] = "", models: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Return one row a model (`summaries.summary`), of all or of some `models`.

        Without arguments the primary metric over the headline's units.
        """
        return self.table(metric, over).rows(models)

    def gap(self, first: str, second: str, metric: str = "", over: str | Sequence[str] = "") -> Estimate:
        """Return first - second, paired over units; the primary metric over the headline's units."""
        return self.table(metric, over).gap(first, second)

    def gaps(self, first: str, others: Sequence[str], metric: str = "") -> dict[str, Estimate]:
        """Return first less each of the others, each on the seeds that both have; `ceiling` is a row, too."""
        return self.table(metric).gaps(first, others)

    def beside(self, other: JudgedSplit, models: Sequence[str]) -> JudgedSplit:
        """Return the split with rows of another run on the same folds and units; other units are refused."""
        import pandas as pd

        keys = ["split", "perturbation", "dose", "cell_context", "n_cells", "n_controls"]
        both = (g[keys].astype({"dose": float}).sort_values(keys) for g in (self.groups, other.groups))
        mine, theirs = (table.reset_index(drop=True) for table in both)
        if not mine.equals(theirs):
            place = f"{self.dataset}, {self.kind}"
            raise ResultsError(f"Two runs on {place}, hold other cells; make both by the same preparation.")
        return replace(self, scores=pd.concat([self.scores, other.scores.query("model in @models")]))

    @property
    def blind(self) -> bool:
        """Whether random actions score as high as `pathwise`: the primary metric tells no policies apart."""
        known = not self.lacks("random", "pathwise")
        return known and self.gap("pathwise", "random").low <= 0 and self.gap("random", "no_change").low > 0

    def by_unit(self, metric: str = "", over: str | Sequence[str] = "all") -> pd.DataFrame:
        """Return the mean over folds and seeds of each unit (rows) and model (`summaries.per_unit`)."""
        return self.table(metric, over).per_unit()

    def by_fold(self, perturbation: str, metric: str = "") -> pd.DataFrame:
        """Return the values of one perturbation over all its contexts: folds x models, seeds averaged."""
        name = (metric or self.metric).replace("skill_pseudobulk_mse", "skill")
        if name.startswith("skill_"):
            raise InputError(f"{name} of one perturbation is no column of the scores: choose another metric.")
        chosen = self.scores[(self.scores["metric"] == name) & (self.scores["against"] == "")]
        chosen = chosen[(chosen["perturbation"] == perturbation) & (chosen["cell_context"] == "")]
        return chosen.pivot_table(index="split", columns="model", values="value")

    def table(self, metric: str = "", over: str | Sequence[str] = "") -> summaries.Scores:
        """Return the values of every row, worked out once; the primary metric over the headline's units."""
        name, units = metric or self.metric, over or self.over
        key = name, units if isinstance(units, str) else tuple(units)
        if key not in self._tables:
            needed = {name.removeprefix("skill_")} | ({"pseudobulk_mse"} if name == "skill" else set())
            chosen = self.scores[self.scores["metric"].isin(needed) & (self.scores["against"] == "")]
            self._tables[key] = summaries.Scores.of(chosen, self.groups, name, units)
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[tuple[str, str | tuple[str, ...]], summaries.Scores]:
        return {}


def judged_splits(experiment: str, dataset: str) -> dict[str, JudgedSplit]:
    """Return the splits of a dataset's packaged run by kind, sham labels under `sham`; {} without a run."""
    paths = [tables.table_path(experiment, dataset, name) for name in ("scores", "groups")]
    if not all(paths):
        return {}
    versions = tuple((str(path), path.stat().st_mtime_ns) for path in paths if path)
    return dict(_splits(experiment, dataset, versions))


@lru_cache(maxsize=32)
def _splits(
    experiment: str, dataset: str, versions: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, JudgedSplit], ...]:
    """Return the splits as they lie in these `versions` of the files: dozens of claims ask for the same."""
    scores, groups = (tables.read_table(experiment, dataset, name) for name in ("scores", "groups"))
    parts = {key: rows for key, rows in groups.groupby(["dataset", "split_kind"], sort=False)}
    return tuple(
        ("sham" if name.endswith(SHAM) else kind, JudgedSplit(name, kind, rows, parts[name, kind]))
        for (name, kind), rows in scores.groupby(["dataset", "split_kind"], sort=False)
    )


def verdict_of(gap: Estimate) -> str:
    """Return what the interval of a difference says: better, worse, not told apart or too few units."""
    if not np.isfinite(gap.low):
        return "n/a, too few"
    return "better" if gap.low > 0 else "worse" if gap.high < 0 else "not told apart"


def in_words(gap: Estimate) -> str:
    """Return a difference with its interval, U and the smallest difference that 80 % power would see.

    Three decimals, or as many as show the first digit of the interval's wider side.
    """
    if not np.isfinite(gap.low):
        return f"{gap.mean:+.3f}, U = {gap.units}: n/a, too few"
    widest = max(abs(gap.low), abs(gap.high))
    digits = 3 if widest == 0 or widest >= 5e-4 else int(np.ceil(-np.log10(widest)))
    smallest = f", smallest {gap.smallest:.{digits}f}" if np.isfinite(gap.smallest) else ""
    mean, low, high = (f"{value:+.{digits}f}" for value in (gap.mean, gap.low, gap.high))
    return f"{mean} [{low}, {high}], U = {gap.units}{smallest}"


def fold_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the t interval of a mean over folds [F]: the chance of the cells, not of perturbations."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        raise InputError(f"An interval over folds needs two of them, got {len(values)}.")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = ttest_1samp(values, 0.0).confidence_interval(level)
    return float(interval.low), float(interval.high)
