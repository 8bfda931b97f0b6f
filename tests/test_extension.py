"""What CONTRIBUTING promises: a dataset, an algorithm and a metric are one entry each, added here.

Each is taken to a table and to a figure.
"""

from __future__ import annotations

from collections.abc import Mapping

import anndata
import numpy as np
import pandas as pd
import pytest

from twinlib.data import sources
from twinlib.data.canonical import from_anndata
from twinlib.data.preparation import Prepared, standard
from twinlib.evaluation import scoring
from twinlib.evaluation.judge import evaluate, supervised
from twinlib.evaluation.questions import Predictor, ask, no_change, one, score, with_skill
from twinlib.evaluation.summaries import summary
from twinlib.experimental.baselines import BASELINES
from twinlib.page import plots
from twinlib.results.tables import population_table

GENES = [f"g{i}" for i in range(24)]


def read(entry, paths, n_cells, seed):
    """A reader: three knock-outs of a screen that is drawn here."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["control", "g0", "g1", "g2"], 60)
    rate = np.full((len(labels), len(GENES)), 4.0) * rng.gamma(4, 0.25, size=len(GENES))
    for target in range(3):
        rate[labels == f"g{target}", target] *= 0.2
        rate[labels == f"g{target}", target + 5 : target + 9] *= 2.0
    obs = pd.DataFrame({"label": labels}, index=[f"cell{i}" for i in range(len(labels))])
    counts = anndata.AnnData(rng.poisson(rate).astype(np.float32), obs, pd.DataFrame(index=GENES))
    return from_anndata(counts, perturbation_key="label", control="control", name=entry.name)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The cells of a dataset that this file adds."""
    entry = sources.Dataset(
        name="three_knockouts",
        measured="three knock-outs, 240 x 24, drawn in a test",
        licence="part of this test",
        citation="none",
        panel=20,
        read=read,
        splits=("cells",),
    )
    monkeypatch.setitem(sources.DATASETS, entry.name, entry)
    return standard(entry.name)


def table_of(prepared: Prepared, predictors: Mapping[str, Predictor]) -> pd.DataFrame:
    asked = ask(prepared)
    base = {row["space"]: row for row in score(no_change, asked)[0]}
    rows = [
        {"System": "reference", "Algorithm": name, "Seed": seed} | with_skill(row, base[row["space"]])
        for name, predictor in predictors.items()
        for seed, spaces in enumerate(score(predictor, asked))
        for row in spaces
    ]
    return population_table(pd.DataFrame(rows)).set_index("Algorithm")


def figure_of(table: pd.DataFrame, metric: str) -> bytes:
    """One bar a row of the table, each in its own colour."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    heights = table[metric].str.split(" ").str[0].astype(float)
    ax.barh(heights.index, heights, color=[plots.COLOURS[name] for name in heights.index])
    ax.set_xlabel(metric)
    picture = plots._png(fig)
    plots.show(fig, "added", "One bar a row of the table that holds what was added.")
    return picture


def test_a_dataset_reaches_a_table_and_a_figure(prepared: Prepared) -> None:
    baselines = {name: one(BASELINES[name](prepared)) for name in ("mean", "matching_mean")}
    table = table_of(prepared, {"no_change": no_change} | baselines)
    assert list(table.index) == ["no_change", "mean", "matching_mean"]
    assert float(table.loc["matching_mean", "pearson_delta"]) > 0.5
    assert prepared.dataset in sources.table()
    assert figure_of(table, "pearson_delta").startswith(b"\x89PNG")


def test_a_metric_reaches_a_table_and_a_figure(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        scoring.CHANGES, "largest_gap", lambda truth, guess, shared: float(np.abs(truth - guess).max())
    )
    row = supervised("matching_mean", [BASELINES["matching_mean"](prepared)])
    tables = evaluate(prepared, [row], experiment="added")
    table = summary(tables.scores, tables.groups, "largest_gap", over="all").set_index("model")
    assert 0 < table.loc["matching_mean", "mean"] < table.loc["no_change", "mean"]
    assert figure_of(table.astype(str), "mean").startswith(b"\x89PNG")


def test_an_algorithm_reaches_a_table_and_a_figure(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twinlib.embedding.attention import EmbeddingConfig
    from twinlib.embedding.train import train_embedding
    from twinlib.environment.assembly import make_world
    from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
    from twinlib.environment.prediction import predict
    from twinlib.policy.algorithms import ALGORITHMS, Algorithm, Stage
    from twinlib.policy.training import TrainingConfig, train

    stages = (Stage(("PPO",), until="warm_start_steps"), Stage(("TRPO",)))
    monkeypatch.setitem(ALGORITHMS, "PPO_then_TRPO", Algorithm("PPO first, then TRPO", stages))
    monkeypatch.setitem(plots.COLOURS, "PPO_then_TRPO", "#345678")
    embedding = train_embedding(prepared, EmbeddingConfig(latent_dim=4, epochs=1))[0]
    world, settings = make_world(prepared, embedding), EnvironmentConfig(horizon=4)
    config = TrainingConfig(
        algorithm="PPO_then_TRPO", timesteps=128, warm_start_steps=64, steps_per_iteration=64, hidden=(8,)
    )
    result = train(Dynamics(world, settings, replicas=2, n_cells=16), config, seeds=[0, 1])
    assert list(result.history["stage"].unique()) == ["PPO", "TRPO"]

    def predictor(x, labels):
        return predict(result.policy, world, settings, x, list(labels))

    table = table_of(prepared, {"no_change": no_change, "PPO_then_TRPO": predictor})
    assert np.isfinite(float(table.loc["PPO_then_TRPO", "pseudobulk_mse"].split(" ")[0]))
    assert figure_of(table, "pseudobulk_mse").startswith(b"\x89PNG")
