"""The same tuning budget for every algorithm, and the sensitivity map that comes out of it.

python benchmarks/tuning.py --dataset waddington --out results/tuning
python benchmarks/tuning.py --dataset papalexi2021 --algorithms PPO two_stage
python benchmarks/tuning.py --choose --wall-s waddington=1200 --out results/tuning

Twelve settings an algorithm (four step sizes x three action scales), three seeds, 50,000 steps each. Policies
are trained on the training cells without their validation fifth and scored on that fifth by the primary
metric: pearson_delta of the mean prediction over all validation controls, reference the mean of the fitted
controls, averaged over perturbations with at least ten validation cells. No test cell is read. The step size
is delta for algorithms that take trust region steps, and the learning rate for the others.

One row a setting and seed; a run that was interrupted goes on with the settings that are missing. `--choose`
trains nothing: it writes the best setting of each algorithm to chosen.csv, which the described protocol
reads, and the manifest beside it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.folder import versions
from experiments.settings import Choice, training_settings
from twinlib.data.preparation import standard
from twinlib.embedding.train import pretrained
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.prediction import predict
from twinlib.evaluation.metrics import pearson_delta
from twinlib.files import write_json, write_table
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.training import TrainingConfig, train

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
DELTAS = (0.01, 0.05, 0.2, 1.0)
#: Multiples of the environment's own action scale.
SCALES = (0.5, 1.0, 2.0)
SEEDS = (0, 1, 2)
COLUMNS = ("dataset", "algorithm", "step_size", "scale", "seed", "pearson_delta", "reward", "timesteps")


def training_config(algorithm: str, step_size: float, timesteps: int) -> TrainingConfig:
    """The described protocol's settings with one step size."""
    return training_settings(algorithm, timesteps, Choice(step_size, 1.0, ""))


class Validation:
    """The validation fifth of the training cells, and the question asked of every policy."""

    def __init__(self, dataset: str, least: int = 10) -> None:
        prepared = standard(dataset)
        self.world = make_world(prepared, pretrained(dataset), cells="fit")
        obs = prepared.cells.obs
        held = (obs["split"] == "train").to_numpy() & obs["validation"].to_numpy(dtype=bool)
        label = obs["perturbation"].astype(str).to_numpy()
        x = np.asarray(prepared.cells.X)
        fitted = (obs["split"] == "train").to_numpy() & ~held & (label == "control")
        self.reference, self.controls = x[fitted].mean(0), x[held & (label == "control")]
        found = {p: x[held & (label == p)] for p in self.world.labels}
        self.truth = {p: cells.mean(0) for p, cells in found.items() if len(cells) >= least}

    def score(self, policy: Any, config: EnvironmentConfig) -> np.ndarray:
        """Primary metric of each replica [R]."""
        values = []
        for label, truth in self.truth.items():
            labels = [label] * len(self.controls)
            mean = predict(policy, self.world, config, self.controls, labels).mean(1)
            values.append([pearson_delta(truth, m, self.reference) for m in mean])
        return np.mean(values, 0)


def one_setting(
    validation: Validation, algorithm: str, step_size: float, scale: float, timesteps: int
) -> list[dict[str, Any]]:
    """Train the seeds side by side and score them."""
    world = validation.world
    own = Dynamics(world, EnvironmentConfig(), n_cells=1).action_scale
    environment = EnvironmentConfig(action_scale=scale * own)
    dynamics = Dynamics(world, environment, replicas=len(SEEDS), n_cells=64)
    policy, history = train(dynamics, training_config(algorithm, step_size, timesteps), SEEDS)
    last = history[history.iteration > 0.9 * history.iteration.max()].groupby("seed").reward.mean()
    scores = validation.score(policy, environment)
    return [
        dict(
            zip(
                COLUMNS,
                (world.dataset, algorithm, step_size, scale, s, score, last[s], timesteps),
                strict=True,
            )
        )
        for s, score in zip(SEEDS, scores, strict=True)
    ]


def settings(algorithms: list[str]) -> list[tuple[str, float, float]]:
    """Twelve settings for each algorithm."""
    sizes = {a: DELTAS if ALGORITHMS[a].takes_trust_region_steps else LEARNING_RATES for a in algorithms}
    return [(a, size, scale) for a in algorithms for size, scale in itertools.product(sizes[a], SCALES)]


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The setting of each algorithm with the highest mean validation score."""
    chosen = []
    for algorithm in sorted({r["algorithm"] for r in rows}):
        groups: dict[tuple[float, float], list[float]] = {}
        for r in rows:
            if r["algorithm"] == algorithm:
                key = (float(r["step_size"]), float(r["scale"]))
                groups.setdefault(key, []).append(float(r["pearson_delta"]))
        (size, scale), values = max(groups.items(), key=lambda item: np.mean(item[1]))
        chosen.append(
            {
                "algorithm": algorithm,
                "step_size": size,
                "scale": scale,
                "pearson_delta": float(np.mean(values)),
            }
        )
    return chosen


def choose(folder: pathlib.Path, wall_s: dict[str, float]) -> None:
    """Write the folder's chosen.csv and manifest.json from the tables of the finished datasets."""
    lines, runs = [], {}
    for path in sorted(folder.glob("*.csv")):
        if path.stem == "chosen":
            continue
        with path.open() as file:
            rows = list(csv.DictReader(file))
        lines += [{"dataset": path.stem, **line} for line in best(rows)]
        algorithms = sorted({r["algorithm"] for r in rows})
        prepared = standard(path.stem)
        runs[path.stem] = {
            "command": f"python benchmarks/tuning.py --dataset {path.stem} "
            f"--algorithms {' '.join(algorithms)} --out results/tuning",
            "seeds": sorted({int(r["seed"]) for r in rows}),
            "timesteps": sorted({int(r["timesteps"]) for r in rows}),
            "settings": {
                a: len({(r["step_size"], r["scale"]) for r in rows if r["algorithm"] == a})
                for a in algorithms
            },
            "data_hash": prepared.data_hash,
            "fingerprint": prepared.fingerprint,
            "wall_s": wall_s.get(path.stem),
        }
    write_table(folder / "chosen.csv", pd.DataFrame(lines))
    score = "pearson_delta on the validation fifth of the training cells, mean of the seeds"
    write_json(folder / "manifest.json", {"score": score, "versions": versions(), "runs": runs})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="waddington")
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--timesteps", type=int, default=50_000)
    parser.add_argument("--limit", type=int, default=None, help="train this many settings, then stop")
    parser.add_argument(
        "--out", type=pathlib.Path, default=None, help="folder of the table; default: print only"
    )
    parser.add_argument(
        "--choose", action="store_true", help="write chosen.csv and manifest.json, train nothing"
    )
    parser.add_argument("--wall-s", nargs="*", default=[], help="DATASET=SECONDS, for the manifest")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.choose:
        taken = (item.split("=") for item in options.wall_s)
        return choose(options.out or pathlib.Path("results/tuning"), {name: float(s) for name, s in taken})
    path = None if options.out is None else options.out / f"{options.dataset}.csv"
    rows: list[dict[str, Any]] = []
    if path is not None and path.exists():
        with path.open() as file:
            rows = [r for r in csv.DictReader(file) if int(r["timesteps"]) == options.timesteps]
    done = {(r["algorithm"], float(r["step_size"]), float(r["scale"])) for r in rows}
    todo = [s for s in settings(options.algorithms) if s not in done][: options.limit]
    validation = Validation(options.dataset) if todo else None
    for setting in todo:
        assert validation is not None
        rows += one_setting(validation, *setting, options.timesteps)
        print(json.dumps(rows[-1]), flush=True)
        if path is not None:
            write(path, rows)
    for line in best(rows):
        print(json.dumps({"name": f"best of {options.dataset}", **line}))


def write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Write beside, then replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


if __name__ == "__main__":
    main()
