"""What CONTRIBUTING promises: a dataset, an algorithm and a metric are one entry each, added here.

Each is taken to a table and to a figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import pytest

from twinlib.data import sources
from twinlib.data.canonical import from_anndata
from twinlib.data.preparation import Prepared, standard
from twinlib.evaluation import scoring
from twinlib.evaluation.judge import Predictor, evaluate, supervised
from twinlib.evaluation.summaries import summary
from twinlib.experimental.baselines import BASELINES
from twinlib.page import plots

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


def table_of(prepared: Prepared, rows: Sequence[Predictor], metric: str) -> pd.DataFrame:
    """The summary of rows in one metric, indexed by their names."""
    made = evaluate(prepared, rows, experiment="added")
    return summary(made.scores, made.groups, metric, over="all").set_index("model")


def figure_of(table: pd.DataFrame, metric: str) -> bytes:
    """One bar a row of the table, each in its own colour."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    ax.barh(table.index, table["mean"], color=[plots.COLOURS[name] for name in table.index])
    ax.set_xlabel(metric)
    picture = plots._png(fig)
    plots.show(fig, "added", "One bar a row of the table that holds what was added.")
    return picture


def test_a_dataset_reaches_a_table_and_a_figure(prepared: Prepared) -> None:
    rows = [supervised(name, [BASELINES[name](prepared)]) for name in ("mean", "matching_mean")]
    table = table_of(prepared, rows, "pearson_delta")
    assert {"no_change", "mean", "matching_mean"} <= set(table.index)
    assert table.loc["matching_mean", "mean"] > 0.5 and table.loc["no_change", "mean"] == 0
    assert prepared.dataset in sources.table()
    assert figure_of(table, "pearson_delta").startswith(b"\x89PNG")


def test_a_metric_reaches_a_table_and_a_figure(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        scoring.CHANGES, "largest_gap", lambda truth, guess, shared: float(np.abs(truth - guess).max())
    )
    table = table_of(
        prepared, [supervised("matching_mean", [BASELINES["matching_mean"](prepared)])], "largest_gap"
    )
    assert 0 < table.loc["matching_mean", "mean"] < table.loc["no_change", "mean"]
    assert figure_of(table, "largest_gap").startswith(b"\x89PNG")


def test_an_algorithm_reaches_a_table_and_a_figure(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twinlib.embedding.attention import EmbeddingConfig
    from twinlib.embedding.train import train_embedding
    from twinlib.environment.assembly import make_world
    from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
    from twinlib.environment.prediction import PolicyPredictor
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
    row = PolicyPredictor("PPO_then_TRPO", result.policy, world, settings)
    table = table_of(prepared, [row], "pseudobulk_mse")
    assert np.isfinite(table.loc["PPO_then_TRPO", "mean"])
    assert figure_of(table, "pseudobulk_mse").startswith(b"\x89PNG")
