"""What the described rows of the first version were asked, and how their answers were scored.

It serves those rows only; every new table is made by `twinlib.evaluation.judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twinlib.checks import finite_arrays, name_list
from twinlib.errors import InputError
from twinlib.evaluation import metrics

if TYPE_CHECKING:
    from twinlib.data.pairing import Pairs
    from twinlib.data.preparation import Prepared

Array = NDArray[Any]
#: Maps controls x [n, G] (log1p) and n labels to predictions [R, n, G] (log1p), one for each replica.
Predictor = Callable[[Array, Sequence[str]], Array]

#: Per-cell metrics of each replica, by space.
CellScores = list[dict[str, dict[str, float]]]
#: One row of a table: what was asked, and the value of every metric.
Row = dict[str, Any]


class OneReplica(Protocol):
    """A predictor that was not trained with seeds."""

    def predict(self, x: Array, labels: list[str]) -> Array:
        """Predicted cells [n, G] (log1p) of controls x [n, G]."""
        ...


#: The paper's per-cell metrics (Section 3.3.1).
PER_CELL = ("MSE", "RMSE", "MAE", "R2", "Pearson")
#: A perturbation with fewer cells than this in a split is not scored.
MIN_CELLS = 10
#: Rows predicted at once.
_CHUNK = 2048


@dataclass(frozen=True, eq=False)
class Questions:
    """The cells of one split that a predictor is scored on."""

    #: train or test.
    split: str
    #: Perturbations that are scored, each with at least `MIN_CELLS` cells in the split.
    labels: tuple[str, ...]
    #: Controls of the split [c, G], log1p.
    controls: Array
    #: Observed cells of each perturbation [n, G], log1p.
    truth: dict[str, Array]
    #: Controls and cells of the optimal-transport pairs, with their labels: x [m, G], y [m, G], [m].
    matched: tuple[Array, Array, Array]
    #: The same with a random control of the split for each cell.
    random: tuple[Array, Array, Array]
    #: Mean of the training controls [G]: the reference of pearson_delta.
    reference: Array
    #: Mean and s.d. of the training cells [G], which turn log1p units into z-scores.
    scaler: tuple[Array, Array]

    def only(self, labels: Sequence[str]) -> Questions:
        """Return the same questions for some of the perturbations."""
        wanted = set(name_list("labels", labels))
        kept = tuple(name for name in self.labels if name in wanted)
        cut = [
            tuple(part[np.isin(pairs[2], kept)] for part in pairs) for pairs in (self.matched, self.random)
        ]
        truth = {name: self.truth[name] for name in kept}
        return Questions(self.split, kept, self.controls, truth, cut[0], cut[1], self.reference, self.scaler)  # type: ignore[arg-type]


def ask(
    prepared: Prepared,
    split: str = "test",
    seed: int = 0,
    max_controls: int | None = None,
    matched: Pairs | None = None,
) -> Questions:
    """Collect what every predictor is asked about one split of prepared data.

    `max_controls` draws that many controls with `seed` for the population metrics; None takes all. Pairs are
    made inside the split (`twinlib.data.pair`), the optimal-transport ones unless `matched` is given.
    Refused where no perturbation has enough cells.
    """
    from twinlib.data.pairing import pair

    truth = {name: prepared.expression(split, name) for name in prepared.perturbations}
    truth = {name: cells for name, cells in truth.items() if len(cells) >= MIN_CELLS}
    if not truth:
        raise InputError(
            f"No perturbation of {prepared.dataset} has {MIN_CELLS} {split} cells; take more cells."
        )
    controls = prepared.expression(split, "control")
    if max_controls is not None and len(controls) > max_controls:
        controls = controls[np.random.default_rng(seed).permutation(len(controls))[:max_controls]]
    whole = Questions(
        split=split,
        labels=tuple(truth),
        controls=controls,
        truth=truth,
        matched=_paired(prepared, matched or pair(prepared, split=split)),
        random=_paired(prepared, pair(prepared, split=split, method="random", seed=seed)),
        reference=prepared.expression("train", "control").mean(axis=0),
        scaler=(prepared.mean, prepared.std),
    )
    return whole.only(whole.labels)  # drops the pairs of perturbations that are too small


def _paired(prepared: Prepared, pairs: Pairs) -> tuple[Array, Array, Array]:
    """Return the controls x [m, G], cells y [m, G] and labels [m] of pairs."""
    cells = np.asarray(prepared.cells.X)
    return cells[pairs.control], cells[pairs.perturbed], np.asarray(pairs.perturbation).astype(str)


def one(predictor: OneReplica) -> Predictor:
    """Turn a predictor without seeds into one of one replica [1, n, G]."""
    return lambda x, labels: predictor.predict(x, list(labels))[None]


def no_change(x: Array, labels: Sequence[str]) -> Array:
    """Predict that nothing happens: the controls themselves [1, n, G]."""
    return np.asarray(x)[None]


def _predict(predictor: Predictor, x: Array, labels: Sequence[str]) -> Array:
    """Predict [R, n, G] in chunks of rows; a prediction for other cells or genes is refused."""
    parts: list[Array] = []
    for i in range(0, len(x), _CHUNK):
        cells = x[i : i + _CHUNK]
        predictions = np.asarray(predictor(cells, labels[i : i + _CHUNK]))
        replicas = f"R={len(parts[0])}" if parts else "R"
        finite_arrays(predictions=(predictions, f"{replicas} n={len(cells)} G={cells.shape[1]}"))
        parts.append(predictions)
    return np.concatenate(parts, axis=1)


def score(predictor: Predictor, asked: Questions) -> list[list[Row]]:
    """Score a predictor: for each of its R replicas one row of metrics in log1p units and one in z-scores."""
    cells = {name: _cell_scores(predictor, asked, name) for name in ("matched", "random")}
    populations = _population_scores(predictor, asked)
    rows = []
    for r in range(len(populations)):
        rows.append([_row(space, r, cells, populations[r], asked) for space in ("log1p", "z")])
    return rows


def _row(
    space: str, r: int, cells: dict[str, CellScores], population: dict[str, float], asked: Questions
) -> Row:
    """Join the metrics of one replica in one space; population metrics stand in log1p units only."""
    row: Row = {
        "Split": asked.split.capitalize(),
        "space": space,
        "perturbations": len(asked.labels),
    }
    row |= cells["matched"][r][space]
    row |= {f"random_{name}": value for name, value in cells["random"][r][space].items()}
    return row | (population if space == "log1p" else dict.fromkeys(metrics.POPULATION, float("nan")))


def _cell_scores(predictor: Predictor, asked: Questions, pairing: str) -> CellScores:
    """Return the paper's metrics of each replica against the paired cells, in both spaces."""
    x, y, labels = getattr(asked, pairing)
    mean, std = asked.scaler
    scores = []
    for guess in _predict(predictor, x, labels):
        z = metrics.regression_metrics((y - mean) / std, (guess - mean) / std)
        scores.append({"log1p": metrics.regression_metrics(y, guess), "z": z})
    return scores


def _population_scores(predictor: Predictor, asked: Questions) -> list[dict[str, float]]:
    """Return the population metrics of each replica, averaged over perturbations."""
    table = [_perturbation_scores(predictor, asked, name) for name in asked.labels]
    return [
        {name: float(np.mean([scores[r][name] for scores in table])) for name in metrics.POPULATION}
        for r in range(len(table[0]))
    ]


def _perturbation_scores(predictor: Predictor, asked: Questions, name: str) -> list[dict[str, float]]:
    """Return the population metrics of each replica for one perturbation."""
    guesses = _predict(predictor, asked.controls, [name] * len(asked.controls))
    return [population_metrics(asked.truth[name], g, asked.controls, asked.reference) for g in guesses]


def population_metrics(
    truth: Array, guess: Array, controls: Array | None, reference: Array
) -> dict[str, float]:
    """Return the metrics of predicted cells [n, G] against the observed cells [k, G] of a perturbation.

    `pearson_delta` compares the observed change, mean(truth) - reference, with the predicted change,
    mean(guess - controls): the row i of `guess` answers the row i of `controls` [n, G]. Doing nothing
    predicts no change and scores 0. `pearson_delta_profile` subtracts the reference (the mean training
    control [G]) from both means; it holds the sampling error of the controls, too, so that doing nothing
    does not score 0. Without controls (the ceiling, which answers no control) both are the same.
    """
    truth, guess, reference, start = finite_arrays(
        truth=(truth, "k G"),
        guess=(guess, "n G"),
        reference=(reference, "G"),
        controls=(reference, "G") if controls is None else (controls, "n G"),
    )
    shift = guess.mean(axis=0) - reference if controls is None else (guess - start).mean(axis=0)
    answer = metrics.Answer(truth, guess, shift, reference)
    return {name: metric.value(answer) for name, metric in metrics.POPULATION.items()}


def with_skill(row: Row, baseline: Row) -> Row:
    """Add the skill of every metric of a row over the row of no_change on the same questions."""
    shown = [name for name, metric in metrics.POPULATION.items() if metric.best != "none"]
    names = [name for name in (*PER_CELL, *shown) if name in row]
    return row | {f"skill_{n}": metrics.skill(n, row[n], baseline[n]) for n in names}
