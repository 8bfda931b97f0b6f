"""The sentence on genes that nobody perturbed says what the tables of held-out targets say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twinlib.evaluation.summaries import summary
from twinlib.verdict.unseen import unseen_sentence

TARGETS = [f"T{i}" for i in range(8)]


def tables(models: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    values = {"no_change": 0.0, "replicate": 0.9, "mean": 0.2, "experimental": 0.5}
    place = {"dataset": "d", "split_kind": "perturbations", "part": "test"}
    scores = [
        place
        | {"experiment": "e", "split": name, "model": model, "setting": "", "seed": 0, "against": ""}
        | {"perturbation": name, "dose": 1.0, "cell_context": "", "space": "log1p", "metric": "pearson_delta"}
        | {"value": values[model] + 0.05 * rng.normal() * (model != "no_change")}
        for name in TARGETS
        for model in models
    ]
    groups = [
        place
        | {"split": name, "perturbation": name, "dose": 1.0, "cell_context": "", "n_cells": 60}
        | {"n_controls": 60, "n_total": 300, "has_effect": True, "kept_response": 1.0}
        for name in TARGETS
    ]
    return pd.DataFrame(scores), pd.DataFrame(groups)


def test_the_sentence_holds_the_numbers_of_the_summary():
    scores, groups = tables(("no_change", "replicate", "mean", "experimental"))
    told = unseen_sentence(scores, groups)
    table = summary(scores, groups, "pearson_delta", over="all").set_index("model")
    row = table.loc["experimental"]
    assert f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in told
    assert told.startswith("On 8 targets of this file")
    assert f"the plain mean of the others has {table.loc['mean', 'mean']:.2f}" in told


def test_without_the_row_there_is_no_sentence():
    assert unseen_sentence(*tables(("no_change", "replicate", "mean"))) == ""
