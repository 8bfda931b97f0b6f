"""Predictions whose score is known: the truth, the mean, the controls, shuffled labels, other controls."""

from __future__ import annotations

import pathlib
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from twinlib import __main__ as command
from twinlib.data import effect_tests
from twinlib.data.canonical import from_anndata
from twinlib.data.preparation import prepare
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError
from twinlib.evaluation import judge
from twinlib.evaluation.judge import evaluate, supervised
from twinlib.evaluation.summaries import Scores, summary
from twinlib.experimental.baselines import BASELINES
from twinlib.verdict import score
from twinlib.verdict.keys import Keys
from twinlib.verdict.parts import ReportSettings
from twinlib.verdict.predictions import on_fold, read_predictions, shuffled_on_fold, told_of_sharing
from twinlib.verdict.score import begin_score, read_kept

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "evaluation"))
from simulated_counts import GENES, canonical, counted, screen
from simulated_counts import cells as drawn_cells


def drawn(seed: int) -> AnnData:
    """12 perturbations with an effect, 120 cells each, and 400 controls: one truth, fresh cells by seed."""
    _, _, base, profiles = screen(0.8, np.random.default_rng(0), controls=1, arms=12, n=1)
    rng = np.random.default_rng(seed)
    return canonical(drawn_cells(base, 400, rng), [drawn_cells(p, 120, rng) for p in profiles], contexts=2)


@pytest.fixture(scope="module")
def truth() -> AnnData:
    return drawn(1)


@pytest.fixture(scope="module")
def other() -> AnnData:
    """What a modeller has: cells of the same screen that are not those of the truth."""
    return drawn(2)


def perturbed(made: AnnData) -> AnnData:
    return made[(made.obs["perturbation"] != CONTROL).to_numpy()].copy()


def named(values: np.ndarray, like: AnnData) -> AnnData:
    """Predicted cells under the labels and contexts of others."""
    obs = like.obs[["perturbation", "cell_context"]].reset_index(drop=True)
    obs.index = obs.index.map("row {}".format)
    return AnnData(values.astype(np.float32), obs=obs, var=like.var)


def context_mean(cells: AnnData) -> AnnData:
    """For every perturbed cell the mean of the perturbed cells of its context, and what such cells vary."""
    some, rng = perturbed(cells), np.random.default_rng(0)
    values = np.empty_like(np.asarray(some.X))
    for context in some.obs["cell_context"].unique():
        here = (some.obs["cell_context"] == context).to_numpy()
        values[here] = np.asarray(some.X)[here].mean(axis=0)
    return named(values + rng.normal(0, 1e-3, values.shape), some)


def only_controls(cells: AnnData) -> AnnData:
    """For every perturbation all controls of the file."""
    controls = cells[(cells.obs["perturbation"] == CONTROL).to_numpy()]
    parts = []
    for label in sorted(set(cells.obs["perturbation"]) - {CONTROL}):
        part = controls.copy()
        part.obs["perturbation"] = label
        part.obs_names = [f"{label} {name}" for name in part.obs_names]
        parts.append(part)
    return anndata.concat(parts)


def half_effect(cells: AnnData) -> AnnData:
    """A model's guess: controls of another draw moved by half of the label's mean change."""
    some, rng = perturbed(cells), np.random.default_rng(1)
    x, labels = np.asarray(cells.X), cells.obs["perturbation"].to_numpy()
    start = x[labels == CONTROL]
    moved = {p: 0.5 * (x[labels == p].mean(0) - start.mean(0)) for p in set(labels) - {CONTROL}}
    drawn = start[rng.integers(len(start), size=some.n_obs)] + rng.normal(0, 0.01, (some.n_obs, GENES))
    return named(drawn + np.stack([moved[p] for p in some.obs["perturbation"]]), some)


@pytest.fixture(scope="module")
def rows(truth, other):
    """The judge's tables over five folds for each kind of prediction."""
    files = {
        "truth": truth,
        "context_mean": context_mean(other),
        "controls": only_controls(truth),
        "guess": half_effect(other),
    }
    read = {name: read_predictions(file, truth, Keys()) for name, file in files.items()}
    tables = [folded(prepare(truth, GENES, fold=fold), read) for fold in range(1, 6)]
    scores, groups = (pd.concat([getattr(t, name) for t in tables]) for name in ("scores", "groups"))
    return scores, groups, read


def folded(prepared, read):
    own = [on_fold(name, predictions, prepared) for name, predictions in read.items()]
    null = shuffled_on_fold("shuffled", read["guess"], prepared, 3)
    plain = [supervised(name, [BASELINES[name](prepared)]) for name in ("mean", "matching_mean")]
    return evaluate(prepared, [*plain, *own, null], experiment="test")


def table(rows, metric):
    return summary(rows[0], rows[1], metric, "all").query("on == 'all'").set_index("model")


def test_the_truth_scores_1_above_the_ceiling_and_is_told(rows):
    for metric in ("pearson_delta", "skill_pseudobulk_mse"):
        made = table(rows, metric).loc["truth"]
        assert made["mean"] == pytest.approx(1, abs=1e-6) and made["mean"] > made["ceiling"]
    (told,) = told_of_sharing(rows[2]["truth"])
    assert "share cells with the truth" in told
    assert not told_of_sharing(rows[2]["guess"])


def test_the_context_mean_is_0_in_the_scaled_column(rows):
    made = table(rows, "pearson_delta")
    assert abs(made.loc["context_mean", "scaled"]) < 0.25 < made.loc["guess", "scaled"]


def test_controls_have_no_skill(rows):
    for metric in ("pearson_delta", "skill_pseudobulk_mse"):
        assert table(rows, metric).loc["controls", "mean"] == pytest.approx(0, abs=1e-6)


def test_shuffled_labels_score_what_the_mean_scores_and_less_than_the_guess(rows):
    made = table(rows, "pearson_delta")
    assert made.loc["guess", "mean"] > 0.8 * made.loc["guess", "ceiling"]
    gap = Scores.of(rows[0], rows[1], "pds", "all").gap("shuffled", "no_change")
    assert gap.high < 0.1, "labels that were dealt anew tell no perturbation from another"
    assert made.loc["shuffled", "mean"] < made.loc["guess", "mean"] - 0.3


def test_a_guess_of_no_effect_gains_nothing_from_the_noise_of_the_controls(monkeypatch):
    """Where nothing happened, a perfect guess (no change) must not correlate with the noise of the truth."""
    monkeypatch.setattr(judge, "HALVINGS", 1)
    values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        controls, arms, base, _ = screen(0.0, rng, controls=120, arms=8, n=90)
        made = canonical(controls, arms)
        some = perturbed(made)
        known = drawn_cells(base, 5_000, rng).mean(axis=0)
        exact = named(known + rng.normal(0, 1e-3, some.shape), some)
        prepared = prepare(made, GENES)
        own = on_fold("guess", read_predictions(exact, made, Keys()), prepared)
        scores = evaluate(prepared, [own], experiment="test").scores
        mine = scores[(scores["model"] == "guess") & (scores["metric"] == "pearson_delta")]
        values.append(mine["value"].mean())
    assert abs(np.mean(values)) < 2.5 * np.std(values) / np.sqrt(len(values))


def test_a_model_that_forgets_its_controls_gains_nothing_from_them(monkeypatch):
    """Answers that name their controls and forget them score nothing where nothing happened."""
    monkeypatch.setattr(judge, "HALVINGS", 1)
    values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        controls, arms, base, _ = screen(0.0, rng, controls=120, arms=8, n=90)
        made = canonical(controls, arms)
        answers = only_controls(made)
        answers.obs["control"] = [name.partition(" ")[2] for name in answers.obs_names]
        answers.X = drawn_cells(base, answers.n_obs, rng).mean(axis=0) + rng.normal(0, 0.01, answers.shape)
        prepared = prepare(made, GENES)
        own = on_fold("guess", read_predictions(answers, made, Keys()), prepared)
        scores = evaluate(prepared, [own], experiment="test").scores
        mine = scores[(scores["model"] == "guess") & (scores["metric"] == "pearson_delta")]
        values.append(mine["value"].mean())
        assert own.answers
    assert abs(np.mean(values)) < 2.5 * np.std(values) / np.sqrt(len(values))


def test_controls_of_the_user_change_nothing(truth, other, rows):
    guess = half_effect(other)
    others = guess[:50].copy()
    others.obs["perturbation"], others.obs_names = "non-targeting", [f"theirs {i}" for i in range(50)]
    others.X = np.asarray(others.X) + 3.0
    both = anndata.concat([guess, others])
    read = read_predictions(both, truth, Keys())
    np.testing.assert_array_equal(read.values, rows[2]["guess"].values)
    assert read.keys == rows[2]["guess"].keys


#: How tools name perturbation, context and dose of a guess, and their controls.
TOOLS = {
    "cell-eval2": ("target_gene", "context", None, "{}", "non-targeting"),
    "GEARS": ("condition", "cell_type", None, "{}+ctrl", "ctrl"),
    "CPA": ("condition", "cell_type", "dose_val", "{}", "control"),
    "scPerturb": ("perturbation", "celltype", "dose_value", "{}", "control"),
    "pertpy": ("gene_target", "cell_type", None, "{}", "NT"),
}


def as_of(tool: str, made: AnnData) -> AnnData:
    """Predicted or measured cells under a tool's names."""
    label, context, dose, form, control = TOOLS[tool]
    names = made.obs["perturbation"].astype(str)
    obs = pd.DataFrame({label: names.map(form.format).where(names != CONTROL, control)})
    obs[context] = made.obs["cell_context"].astype(str)
    if dose:
        obs[dose] = np.where(names == CONTROL, "0.0", "1.0")  # CPA keeps doses as text
    return AnnData(np.clip(np.asarray(made.X), 0, None), obs=obs, var=made.var)


@pytest.mark.parametrize("tool", TOOLS)
def test_names_of_other_tools_are_read_on_both_sides(tool, truth, other, tmp_path):
    for name, made in {"truth": truth, "guess": half_effect(other)}.items():
        as_of(tool, made).write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [tmp_path / "guess.h5ad", tmp_path / "truth.h5ad"]
    begin_score(tmp_path / "run", *paths, Keys(), ReportSettings(seeds=1, splits=("cells",)))
    own = read_predictions(half_effect(other), truth, Keys())
    read = read_kept(tmp_path / "run/parts/predictions.npz")
    assert read.keys == own.keys
    np.testing.assert_allclose(read.values, np.clip(own.values, 0, None), atol=1e-6)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("labels", "names a perturbation"),
        ("genes", "share 0 genes"),
        ("scale", "log1p"),
        ("context", "contexts"),
    ],
)
def test_a_file_that_cannot_be_scored_is_refused_in_one_sentence(truth, broken, words):
    guess = half_effect(truth)
    if broken == "labels":
        guess.obs["perturbation"] = "unheard of"
    if broken == "genes":
        guess.var_names = [f"x{i}" for i in range(guess.n_vars)]
    if broken == "scale":
        guess.X = np.asarray(guess.X) * 1e3
    if broken == "context":
        del guess.obs["cell_context"]
    with pytest.raises(DataError, match=words):
        read_predictions(guess, truth, Keys())


def written(folder, truth) -> list[str]:
    """The command that scores a guess, its files written."""
    truth.write_h5ad(folder / "truth.h5ad")
    as_of("GEARS", half_effect(truth)).write_h5ad(folder / "guess.h5ad")
    return ["score", str(folder / "guess.h5ad"), str(folder / "truth.h5ad"), "--out", str(folder / "out")]


def test_a_score_is_a_page_and_a_table_by_one_command(truth, tmp_path, monkeypatch, capsys):
    some = truth[truth.obs["perturbation"].isin([CONTROL, *(f"p{i}" for i in range(6))])].copy()
    monkeypatch.setattr(judge, "HALVINGS", 6)
    monkeypatch.setattr(effect_tests, "PERMUTATIONS", 199)
    call = written(tmp_path, some)
    assert command.main(call) == 0
    page = tmp_path / "out" / "score.html"
    assert capsys.readouterr().out.strip() == f"Open {page}."
    text = page.read_text()
    assert "the given prediction" in text and "scaled" in text and len(text) < 5e6
    assert "A model that never saw these perturbations is to be held against the mean of all" in text
    table = pd.read_csv(tmp_path / "out" / "scores.csv", keep_default_na=False)
    assert {"predictions", "mean", "matching_mean", "replicate"} <= set(table["model"])
    assert command.main(call) == 2
    err = capsys.readouterr().err
    assert "holds files already" in err and err.count("\n") == 1 and page.read_text() == text


def test_a_score_that_cannot_be_made_ends_with_two_and_one_sentence(truth, tmp_path, capsys):
    call = written(tmp_path, truth)
    for place, words in ((1, "There is no file"), (2, "There is no file")):
        wrong = [*call]
        wrong[place] = str(tmp_path / "nowhere.h5ad")
        assert command.main(wrong) == 2
        err = capsys.readouterr().err
        assert err.startswith("twinlib score: ") and words in err and err.count("\n") == 1
    assert command.main([*call, "--perturbation-key", "cell_type"]) == 2
    err = capsys.readouterr().err
    assert "--perturbation-key" in err and err.count("\n") == 1


def test_an_interrupted_score_ends_with_130(truth, tmp_path, capsys, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "begin_score", stopped)
    assert command.main(written(tmp_path, truth)) == 130
    assert capsys.readouterr().err == "twinlib score: interrupted; the same call goes on where it stopped.\n"


def test_counts_on_both_sides_give_the_challenges_metrics():
    from twinlib.evaluation.challenge import Screen, challenge_metrics
    from twinlib.verdict.score import challenge_table

    rng = np.random.default_rng(0)
    labels = np.repeat(["non-targeting", "A", "B", "C"], [80, 40, 40, 40])
    mean = np.exp(rng.normal(1.5, 0.5, 60)) * np.where(
        (np.arange(60) // 15 + 1 == (np.searchsorted(["A", "B", "C"], labels) + 1)[:, None])
        & (labels != "non-targeting")[:, None],
        2.0,
        1.0,
    )
    counts = rng.poisson(mean).astype(np.float32)
    obs = pd.DataFrame({"target_gene": labels}, index=[f"c{i}" for i in range(200)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(60)])
    truth = from_anndata(AnnData(counts, obs=obs, var=var), "target_gene", control="non-targeting")
    given = AnnData(rng.binomial(counts.astype(int), 0.8).astype(np.float32), obs=obs, var=var)
    table = challenge_table(given, truth, read_predictions(given, truth, Keys()))
    perturbed_cells = labels != "non-targeting"
    wanted = challenge_metrics(
        Screen.of(counts, np.where(perturbed_cells, labels, CONTROL), list(var.index)),
        Screen.of(np.asarray(given.X)[perturbed_cells], labels[perturbed_cells], list(var.index)),
    )
    assert table is not None and len(table) == 1
    for name, value in wanted.items():
        assert table[name].iloc[0] == pytest.approx(value, abs=1e-9)


def test_labels_that_are_no_genes_need_no_kind(tmp_path):
    for name, made in {"truth": counted(1, 2.0, "ABCD"), "guess": counted(2, 1.6, "ABCD")}.items():
        made.write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [tmp_path / "guess.h5ad", tmp_path / "truth.h5ad"]
    begin_score(tmp_path / "run", *paths, Keys(), ReportSettings(seeds=1, splits=("cells",)))
    assert len(read_kept(tmp_path / "run/parts/predictions.npz").keys) == 480


def test_counts_of_fewer_genes_come_to_the_sums_of_the_truth():
    """The truth was scaled by all its genes: counts of some of them must not fill the whole 10,000."""
    made = counted(1, 2.0)
    made.obs["total"] = 4.0 * np.asarray(made.X).sum(axis=1)
    part = made[(made.obs["context"] == "K562").to_numpy(), 10:].copy()
    truth = from_anndata(part, "target_gene", control="non-targeting", total_counts="total")
    given = counted(2, 2.0)[(made.obs["context"] == "K562").to_numpy(), 20:]
    read = read_predictions(given, truth, Keys())
    real = np.asarray(truth[:, list(read.genes)].to_df())
    assert np.expm1(read.values).sum(axis=1).mean() == pytest.approx(
        np.expm1(real).sum(axis=1).mean(), rel=1e-3
    )
    assert read.values.mean() == pytest.approx(real.mean(), abs=0.05)
