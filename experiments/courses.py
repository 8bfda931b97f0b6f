"""Trajectories of both twins beside the real cells and the references: the rows of Tables 3, 6 and 9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twinlib.evaluation import trajectories as tracks

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared

Array = NDArray[Any]
#: Maps a perturbation to mean latent paths [R, H + 1, D] of a twin over the held-out controls.
Paths = Callable[[str], Array]


@dataclass(frozen=True, eq=False)
class Course:
    """The real cells of one perturbation and what its twins are measured with."""

    #: The perturbation.
    name: str
    #: Its held-out cells with their time.
    cells: tracks.RealCells
    #: Mean of its training cells in the latent space [D].
    training_mean: Array
    #: One yardstick a distance.
    yardsticks: dict[str, tracks.Yardstick]
    #: Two real halves [H + 1, D], one draw, for the floor's row.
    halves: tuple[Array, Array]

    def references(self) -> Iterator[tuple[str, Array]]:
        """Yield name and trajectory [H + 1, D] of the references that need no model."""
        yield "do_nothing", tracks.do_nothing(self.cells.start, self.cells.horizon)
        yield (
            "straight_line",
            tracks.straight_line(self.cells.start, self.training_mean, self.cells.horizon),
        )
        yield "reversed", tracks.reversed_time(self.cells.trajectory)


def real_courses(
    prepared: Prepared,
    embedding: Any,
    labels: tuple[str, ...],
    horizon: int = 15,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Course]:
    """Return the real course of each perturbation, with bootstrap draws from `seed`."""
    found = {}
    for number, name in enumerate(labels):
        rng = np.random.default_rng([seed, number])
        cells = tracks.real_cells(prepared, embedding, name, horizon)
        trained = prepared.expression("train", name)
        mean = tracks.encode(prepared, embedding, trained).mean(axis=0) if len(trained) else cells.start
        sticks = {d: tracks.yardstick(cells, rng, d, resamples) for d in tracks.DISTANCES}
        found[name] = Course(name, cells, mean, sticks, cells.halves(rng))
    return found


def distances(course: Course, path: Array) -> dict[str, Any]:
    """Return every distance of a trajectory [H + 1, D] from the real one, with twin scores."""
    row: dict[str, Any] = {}
    for name, stick in course.yardsticks.items():
        found = stick.score(path)
        row |= {name: found.distance, f"twin_score_{name}": found.score if found.resolvable else np.nan}
        if name == "dtw":  # one interval a row keeps the file small; the score of every distance is kept
            row |= {"twin_score_low": found.low, "twin_score_high": found.high}
    row["dtw_per_path_length"] = row["dtw"] / tracks.path_length(course.cells.trajectory)
    return row


def between(a: Array, b: Array) -> dict[str, Any]:
    """Return the distances of two trajectories [H + 1, D] from one another, without a score."""
    return {name: tracks.trajectory_distance(a, b, name) for name in tracks.DISTANCES}


def reference_rows(all_courses: dict[str, Course]) -> list[dict[str, Any]]:
    """Return the rows of the references, and of the floor: one real half against the other."""
    rows = []
    for name, course in all_courses.items():
        for algorithm, path in course.references():
            row = {"System": "reference", "Algorithm": algorithm, "Seed": 0, "Against": "real"}
            rows.append(row | {"Perturbation": name} | distances(course, path))
        row = {"System": "reference", "Algorithm": "real_halves", "Seed": 0, "Against": "real"}
        floors = {d: float(stick.halves.mean()) for d, stick in course.yardsticks.items()}
        rows.append(row | {"Perturbation": name} | floors)
    return rows


def twin_rows(
    all_courses: dict[str, Course],
    paths: Paths,
    seeds: list[int],
    labels: dict[str, Any],
    other: dict[str, Array] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of one twin: its distance to the real cells of each perturbation, for each replica.

    `labels` holds System and Algorithm. With `other` (the mean path of the experimental twin by perturbation)
    the distance between the two twins is added as rows against `experimental`.
    """
    rows = []
    for name, course in all_courses.items():
        for seed, path in zip(seeds, paths(name), strict=True):
            head = labels | {"Seed": seed, "Perturbation": name}
            rows.append(head | {"Against": "real"} | distances(course, path))
            if other is not None:
                rows.append(head | {"Against": "experimental"} | between(path, other[name]))
    return rows


def shuffled_rows(
    all_courses: dict[str, Course], paths: Paths, labels: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of a twin whose labels are passed round: each perturbation gets the next one's path."""
    names = list(all_courses)
    turned = dict(zip(names, names[1:] + names[:1], strict=True))
    return twin_rows(all_courses, lambda name: paths(turned[name])[:1], [0], labels)
