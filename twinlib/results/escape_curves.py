"""What the escape experiment by the common rules says: tuning curves, arrivals, pairs of arms."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twinlib.errors import ResultsError
from twinlib.evaluation.calibration import Estimate, estimate
from twinlib.evaluation.statistics import wilson_interval
from twinlib.results import tables
from twinlib.results.tuning_curves import BUDGETS, RESAMPLES, Outcomes

if TYPE_CHECKING:
    import pandas as pd

#: Landscapes in the order of tables.
LANDSCAPES = (
    "toggle_low", "toggle_middle", "toggle_high", "myeloid", "kang2018_monocytes", "papalexi2021", "chi11",
)  # fmt: skip


def _outcomes(runs: pd.DataFrame, column: str, nothing: pd.Series) -> tuple[list[str], Outcomes]:
    """Return the names of the settings [S] of one algorithm, and what they add to doing nothing [S, seeds].

    Where cells move by themselves doing nothing has a return and a share of arrivals of its own.
    """
    by = runs.groupby("setting")
    lost = by["lost"].any().astype(bool)
    returns = by["validation_return"].mean() - nothing["validation_return"]
    candidates = ((returns > 0) & ~lost).to_numpy()
    test = runs.pivot(index="setting", columns="seed", values=column) - nothing[column]
    test = test.fillna(0.0)
    return list(test.index), Outcomes(returns.to_numpy(dtype=float), candidates, test.to_numpy(dtype=float))


def idle(runs: pd.DataFrame) -> pd.Series:
    """Return the means of doing nothing among rows of `runs`."""
    own: pd.Series = runs[runs["model"] == "do_nothing"].mean(numeric_only=True)
    return own


def best_setting(runs: pd.DataFrame, nothing: pd.Series) -> str | None:
    """Return the setting of one algorithm with the best validation return; None: none above doing nothing."""
    names, outcomes = _outcomes(runs, "return", nothing)
    chosen = outcomes.chosen()
    return None if chosen is None else names[chosen]


def flat_ground(landscape: str) -> dict[str, int] | None:
    """Return basins and cells of a landscape that was found to have no cells to bring across, else None."""
    if tables.table_path("escape_tuned", landscape, "manifest") is None:
        return None
    ground: dict[str, int] = tables.read_table("escape_tuned", landscape, "manifest").get("ground", {})
    return ground if ground.get("apart") == 0 else None


@dataclass(frozen=True, eq=False)
class Escapes:
    """The escape experiment on one landscape."""

    #: Name of the landscape.
    landscape: str
    #: One row a run, of the tuning and of the arms.
    runs: pd.DataFrame
    #: What the run has found out: the optimum, the settings that were chosen.
    facts: dict[str, Any]

    @staticmethod
    def of(landscape: str) -> Escapes:
        """Read the packaged run of a landscape."""
        read = (tables.read_table("escape_tuned", landscape, name) for name in ("runs", "manifest"))
        return Escapes(landscape, *read)

    def arm(self, model: str) -> pd.DataFrame:
        """Return the final policies of an arm by seed."""
        rows = self.runs[(self.runs["experiment"] == "main") & (self.runs["model"] == model)]
        if rows.empty:
            raise ResultsError(f"The escape experiment on {self.landscape} holds no {model}; choose another.")
        return rows.set_index("seed").sort_index()

    def arrivals(self) -> pd.DataFrame:
        """Return one row an arm: arrivals with Wilson's interval, success, share of the optimum."""
        import pandas as pd

        main = self.runs[self.runs["experiment"] == "main"]
        best = self.facts.get("optimum", {}).get("return", np.nan)
        rows = []
        for model, own in main.groupby("model", sort=False):
            arrived = int(own["reached"].fillna(False).astype(bool).sum())
            low, high = wilson_interval(arrived, len(own))
            row = {"model": model, "arrived": arrived, "seeds": len(own), "low": low, "high": high}
            row |= {"cells in the target": own["success"].mean(), "return": own["return"].mean()}
            rows.append(row | {"share of the optimum": own["return"].mean() / best})
        return pd.DataFrame(rows)

    def gap(self, first: str, second: str, column: str = "success") -> Estimate:
        """Return first - second, paired by seed."""
        ours, theirs = self.arm(first)[column].fillna(0.0), self.arm(second)[column].fillna(0.0)
        return estimate((ours - theirs).dropna().to_numpy(dtype=np.float64))

    def untuned(self) -> pd.DataFrame:
        """Return the share of cells that arrive under each setting (rows) of each algorithm (columns)."""
        tuning = self.runs[self.runs["experiment"] == "tuning"]
        shares = tuning.assign(success=tuning["success"].fillna(0.0)).groupby(["setting", "model"])["success"]
        return shares.mean().unstack("model")

    def at_setting_of(self, owner: str) -> pd.Series | None:
        """Return the shares of cells by algorithm at the setting that was chosen for one of them."""
        shares, chosen = self.untuned(), self.facts.get("chosen", {}).get(owner)
        return shares.loc[chosen] if chosen in shares.index else None

    def curves(self, budgets: Sequence[int] = BUDGETS, column: str = "success") -> pd.DataFrame:
        """Return E[best of k] of each tuned algorithm with an interval over drawn settings and seeds."""
        import pandas as pd

        tuning, nothing = self.runs[self.runs["experiment"] == "tuning"], idle(self.runs)
        table = pd.DataFrame(
            {"model": model, "k": k, "mean": mean, "low": low, "high": high}
            for model, runs in tuning.groupby("model", sort=False)
            for k in budgets
            for mean, low, high in [_best_of(_outcomes(runs, column, nothing)[1], k)]
        )
        return table.assign(**{end: table[end] + nothing[column] for end in ("mean", "low", "high")})


def packed(path: NDArray[np.floating], upper: float) -> str:
    """Return a path [T + 1, n, 2] of values from 0 to `upper` as bytes in base64."""
    return base64.b64encode(np.rint(np.clip(path / upper, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def unpacked(text: str, steps: int, upper: float) -> NDArray[np.floating]:
    """Return a path [T + 1, n, 2] that was packed, to within upper / 510."""
    flat = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return flat.reshape(steps + 1, -1, 2) / 255 * upper


def crossing_paths(landscape: str) -> tuple[dict[str, NDArray[np.floating]], float]:
    """Return the paths [T + 1, n, 2] of cells under each final policy, and the largest expression drawn."""
    made = tables.read_table("escape_tuned", landscape, "paths")
    upper, steps = made["upper"], made["steps"]
    return {name: unpacked(text, steps, upper) for name, text in made["paths"].items()}, upper


def _best_of(outcomes: Outcomes, k: int) -> tuple[float, float, float]:
    """Return E[best of k] and the percentiles of its draws over settings and seeds."""
    rng, (settings, seeds) = np.random.default_rng(0), outcomes.test.shape
    draws = [_drawn(outcomes, k, rng, settings, seeds) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(outcomes.best(k).mean()), float(low), float(high)


def _drawn(outcomes: Outcomes, k: int, rng: np.random.Generator, settings: int, seeds: int) -> float:
    """Return E[best of k] of settings and seeds that were drawn with replacement."""
    rows: NDArray[np.int64] = rng.integers(settings, size=settings)
    return float(outcomes.best(k, rows)[rng.integers(seeds, size=seeds)].mean())
