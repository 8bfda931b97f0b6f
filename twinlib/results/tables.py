"""Results as tables: read the packaged ones, lay them out like the paper's, print a run."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from twinlib.errors import ResultsError
from twinlib.evaluation.metrics import PER_CELL
from twinlib.policy.algorithms import ALGORITHMS

#: Rows of the in-silico tables (1, 4, 7), in their order.
ORDER = (
    "do_nothing",
    "no_change",
    "random",
    "untrained",
    "mean",
    "matching_mean",
    "additive",
    "linear",
    "latent_shift",
    "greedy",
    "pathwise",
    "experimental",
    *ALGORITHMS,
    "TRPO_PPO_zero_target",
    "TRPO_PPO_mended_logged",
    "TRPO_PPO_mended_kl",
    "ceiling",
)
#: Rows of the similarity tables (3, 6, 9).
SIMILARITY_ORDER = (
    "real_halves",
    "straight_line",
    "do_nothing",
    "reversed",
    "experimental",
    "experimental_shuffled",
    "random",
    *(row for name in ALGORITHMS for row in (name, f"{name}_shuffled")),
)


#: Columns of tidy tables that hold text, and may be empty.
TEXTS = ("split", "setting", "against", "perturbation", "cell_context", "gene")


def results_folder() -> pathlib.Path:
    """Return where the packaged results lie: in the wheel, or in the repository of an editable install."""
    packed = pathlib.Path(__file__).parents[1] / "_results"
    return packed if packed.is_dir() else pathlib.Path(__file__).parents[2] / "results"


def read_table(protocol: str, dataset: str, table: str = "regression") -> Any:
    """Return a packaged result: a table (`regression`, `scores`, ...) as a DataFrame, JSON as a dict.

    `protocol` is the folder under results/. Raises ResultsError where the project ships no such run.
    """
    path = table_path(protocol, dataset, table)
    if path is None:
        raise ResultsError(
            f"No packaged {table} for {dataset}, {protocol} protocol; make it with "
            f"'python -m experiments {protocol} --dataset {dataset} --out DIR'."
        )
    if path.suffix == ".json":
        return json.loads(path.read_text())
    rows = pd.read_csv(path, low_memory=False)
    texts = [name for name in TEXTS if name in rows]
    return rows.assign(**{name: rows[name].fillna("").astype(str) for name in texts})


def table_path(protocol: str, dataset: str, table: str) -> pathlib.Path | None:
    """Return the file of a packaged result; None where the project ships no such run."""
    folder = results_folder() / protocol / dataset
    paths = [folder / f"{table}{suffix}" for suffix in (".csv.gz", ".csv", ".json")]
    return next((path for path in paths if path.is_file()), None)


def paper_tables() -> pd.DataFrame:
    """Return the paper's Tables 1-9 in long form, as printed there (arXiv 2510.13018v2)."""
    path = pathlib.Path(__file__).with_name("paper_tables.csv")
    return pd.read_csv(path, dtype={"Value": str}, keep_default_na=False)


def stands_for() -> dict[str, tuple[int, ...]]:
    """Return which of the paper's tables each dataset stands in for: in-silico, experimental, similarity."""
    pairs = paper_tables()[["Stand_in", "Table"]].drop_duplicates()
    return {str(name): tuple(map(int, rows)) for name, rows in pairs.groupby("Stand_in", sort=False)["Table"]}


def paper_table(number: int) -> pd.DataFrame:
    """Return one of the paper's Tables 1-9 with its own rows and columns, digits as printed."""
    long = paper_tables()
    part = long[long["Table"] == number]
    if part.empty:
        raise ValueError(f"The paper has no Table {number}; choose 1 to 9.")
    keys = [k for k in ("System", "Algorithm", "Split") if (part[k] != "").any()]
    wide = part.pivot(index=keys, columns="Metric", values="Value")
    columns = list(dict.fromkeys(part["Metric"]))
    return wide[columns].reset_index().rename_axis(columns=None)


def summarise(values: pd.Series, seed: int = 0) -> str:
    """Return a cell of a table: the IQM over seeds with its bootstrap interval, or a single run's value."""
    from twinlib.evaluation.statistics import bootstrap_interval, iqm, iqms

    values = values.dropna()
    if values.empty:
        return "n/a"
    if len(values) == 1 or np.ptp(values) == 0:
        return f"{values.iloc[0]:.4f}"
    low, high = bootstrap_interval(values, np.random.default_rng(seed), iqms)
    return f"{iqm(values):.4f} [{low:.4f}, {high:.4f}]"


def _ordered(names: pd.Index, order: tuple[str, ...]) -> list[str]:
    """Return the names that occur, in the order of the table; unknown ones at the end."""
    known = [name for name in order if name in names]
    return known + [name for name in names if name not in known]


def _table(rows: pd.DataFrame, by: list[str], columns: list[str], order: tuple[str, ...]) -> pd.DataFrame:
    """Summarise over seeds: one row a group, in the order of the table."""
    columns = [name for name in columns if name in rows]
    cells = {key: {c: summarise(g[c]) for c in columns} for key, g in rows.groupby(by, sort=False)}
    table = pd.DataFrame.from_dict(cells, orient="index")
    table.index = pd.MultiIndex.from_tuples([k if isinstance(k, tuple) else (k,) for k in cells], names=by)
    table = table.reset_index()
    rank = {name: i for i, name in enumerate(_ordered(pd.Index(table["Algorithm"]), order))}
    table["_rank"] = table["Algorithm"].map(rank)
    return table.sort_values(["_rank"], kind="stable").drop(columns="_rank").reset_index(drop=True)


def similarity_table(similarity: pd.DataFrame, against: str = "real") -> pd.DataFrame:
    """Lay the trajectory distances out like Tables 3, 6, 9: means over perturbations, IQM over seeds.

    `DTW` is Eq. 10-11, `Eq. 12` what the paper calls Wasserstein, `W1` the true Wasserstein distance of the
    values.
    """
    rows = similarity[similarity["Against"] == against]
    names = {"dtw": "DTW", "mean_absolute_difference": "Eq. 12", "w1": "W1"}
    columns = [name for name in names if name in rows]
    means = rows.groupby(["System", "Algorithm", "Seed"], sort=False)[columns].mean().reset_index()
    return _table(means, ["System", "Algorithm"], columns, SIMILARITY_ORDER).rename(columns=names)


def side_by_side(number: int, split: str = "Test") -> pd.DataFrame:
    """Return the paper's Table `number` as printed, with the stand-in's released and described rows below.

    Only columns that the paper's table has are kept. The same column means different things: start against
    final state (paper and released, Tables 1, 4, 7), a next cell in pseudotime (paper and released, Tables 2,
    5, 8), a prediction against the optimal-transport match (described), a distance between paths of two
    points (released) or of sixteen (described; Tables 3, 6, 9). Protocols that have no packaged run are left
    out.
    """
    paper = paper_table(number)
    dataset, place = next((d, n.index(number)) for d, n in stands_for().items() if number in n)
    if "Split" in paper:
        paper = paper[paper["Split"] == split].drop(columns="Split")
    paper = paper.rename(columns={"Algorithm": "Row"}).rename(columns={"System": "Row"} if place == 2 else {})
    parts = [paper.assign(Source="the paper, as printed")]
    sources = {"released": _released_rows(dataset, place, split), "described": described_rows(dataset, place)}
    parts += [rows.assign(Source=f"{name}, {dataset}") for name, rows in sources.items() if len(rows)]
    columns = ["Source", "Row", *(PER_CELL if place < 2 else ("DTW", "Wasserstein"))]
    return pd.concat(parts, ignore_index=True)[columns]


def _released_rows(dataset: str, place: int, split: str) -> pd.DataFrame:
    """Return the released rows under the columns of the paper's in-silico (0), experimental (1) or similarity
    (2) table, on data logged twice; empty without a run."""
    try:
        rows = read_table("released", dataset, "similarity" if place == 2 else "regression")
    except ResultsError:
        return pd.DataFrame()
    rows = rows[rows["logs"] == 2]
    if place == 2:
        return _beside_similarity(rows)
    rows = rows[(rows["Split"] == split) & ((rows["System"] == "experimental") == (place == 1))]
    return _table(rows, ["Algorithm"], list(PER_CELL), ORDER).rename(columns={"Algorithm": "Row"})


def described_rows(dataset: str, place: int) -> pd.DataFrame:
    """Return the rows of the runs of all arms under the columns of a table of the paper; empty without a run.

    Metrics of single cells are those of fold 1 against the OT match, in z-scores, mean over perturbations.
    """
    try:
        if place == 2:
            return _path_rows(read_table("policies", dataset, "paths"))
        scores = read_table("policies" if place == 0 else "experimental", dataset, "scores")
    except ResultsError:
        return pd.DataFrame()
    where = {"dataset": dataset, "split_kind": "cells", "split": "fold 1", "setting": "", "against": "ot"}
    where |= {"space": "z", "cell_context": ""}
    rows = scores[(scores[list(where)] == list(where.values())).all(axis=1)]
    rows = rows[rows["metric"].isin(PER_CELL)]
    rows = rows[rows["model"] == "experimental"] if place == 1 else rows
    means = rows.groupby(["model", "seed", "metric"])["value"].mean().unstack("metric").reset_index()
    return _table(means.rename(columns={"model": "Algorithm"}), ["Algorithm"], list(PER_CELL), ORDER).rename(
        columns={"Algorithm": "Row"}
    )


def _path_rows(paths: pd.DataFrame) -> pd.DataFrame:
    """Return DTW and the true Wasserstein-1 distance to the real trajectories, over folds and units."""
    keys = ["model", "seed", "metric"]
    means = paths.groupby(keys)["value"].mean().unstack("metric").reset_index()
    table = _table(
        means.rename(columns={"model": "Algorithm"}), ["Algorithm"], ["dtw", "w1"], SIMILARITY_ORDER
    )
    return table.rename(columns={"Algorithm": "Row", "dtw": "DTW", "w1": "Wasserstein"})


def _beside_similarity(rows: pd.DataFrame) -> pd.DataFrame:
    """Return DTW and the true Wasserstein-1 distance, with what each row is compared with."""
    means = rows.groupby(["Algorithm", "Seed", "Against"], sort=False)[["dtw", "w1"]].mean().reset_index()
    table = _table(means, ["Algorithm", "Against"], ["dtw", "w1"], SIMILARITY_ORDER)
    table["Row"] = table["Algorithm"] + " against " + table["Against"]
    return table.rename(columns={"dtw": "DTW", "w1": "Wasserstein"})


def markdown(table: pd.DataFrame) -> str:
    """Return a table as GitHub Markdown."""
    head = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + "---|" * len(table.columns)
    body = ["| " + " | ".join(str(v) for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join([head, rule, *body])


def report(folder: str | pathlib.Path) -> str:
    """Return all tables of one released run as Markdown, the paper's own beside them."""
    folder = pathlib.Path(folder)
    missing = [n for n in ("regression.csv", "similarity.csv", "manifest.json") if not (folder / n).is_file()]
    if missing:
        raise ResultsError(
            f"{str(folder)!r} has no {missing[0]}; finish it, or name a finished released run."
        )
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        regression, similarity = (pd.read_csv(folder / f"{n}.csv") for n in ("regression", "similarity"))
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ResultsError(f"A file of {str(folder)!r} cannot be read ({reason}); run it again.") from None
    return "\n\n".join(_sections(manifest, regression, similarity)) + "\n"


def _sections(manifest: dict[str, Any], regression: pd.DataFrame, similarity: pd.DataFrame) -> list[str]:
    """Return headings and tables of a report."""
    config = manifest["config"]
    dataset, protocol = config["dataset"], config["protocol"]
    numbers = stands_for().get(dataset)
    lines = [f"# {dataset}, {protocol} protocol", f"Made by `{manifest['command']}`.", _legend(config)]
    for name, table in _released_tables(regression, similarity):
        lines += [f"## {name[0].upper()}{name[1:]}", markdown(table)]
    for number in numbers or ():
        lines += [f"## The paper's Table {number} (other data, other meaning: see chapter 12)"]
        lines += [markdown(paper_table(number))]
    return lines


def _legend(config: dict[str, Any]) -> str:
    """Say what stands in a cell."""
    return (
        f"Cells: interquartile mean over {config['seeds']} seeds, with its 95 % bootstrap interval; "
        f"a single number where there is one run or no spread. {config['timesteps']:,} steps a seed."
    )


def released_table(regression: pd.DataFrame, split: str = "Test", logs: int = 2) -> pd.DataFrame:
    """Lay the released rows out like Tables 1, 4, 7, with reward and optimizer steps beside.

    MSE ... Pearson compare the state at the start of a rollout with the state at its end. `logs` chooses data
    logged twice (as the paper's were) or once.
    """
    rows = regression[(regression["Split"] == split) & (regression["logs"] == logs)]
    columns = [*PER_CELL, "reward", "distance_to_target", "optimizer_steps"]
    table = _table(rows[rows["System"] == "insilico"], ["Algorithm", "Split"], columns, ORDER)
    return table.rename(columns={name: f"{name} (start to final)" for name in PER_CELL})


def _released_tables(regression: pd.DataFrame, similarity: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the tables of a released run."""
    model = regression[regression["System"] == "experimental"]
    twin = _table(model, ["System", "Algorithm", "Split"], list(PER_CELL), ORDER)
    named = [("start to final state, data logged twice", released_table(regression))]
    if (regression["logs"] == 1).any():
        named.append(("start to final state, data logged once", released_table(regression, logs=1)))
    named.append(("twin of the next cells in pseudotime", twin))
    for system in ("Insilico", "Experimental"):
        rows = similarity[similarity["logs"] == 2]
        named.append((f"row '{system}' of the paper", similarity_table(rows, system)))
    return named
