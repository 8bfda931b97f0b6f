import numpy as np
import pandas as pd
import pytest

from twinlib.data.panel import RULES, dispersion
from twinlib.data.preparation import SPLITS, WeakPanel, prepare, standard
from twinlib.errors import DataError


def message_of(call, *arguments, **named):
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def labels(prepared, split):
    return set(prepared.cells.obs["perturbation"].astype(str).iloc[prepared.rows(split)])


def test_shapes_types_and_the_scaler(cells):
    prepared = prepare(cells, 10)
    x = prepared.expression("train")
    assert x.dtype == np.float32 and isinstance(prepared.cells.X, np.ndarray)
    assert len(prepared.genes) == prepared.cells.n_vars == len(prepared.mean) == len(prepared.std)
    z = prepared.scale(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-4)
    np.testing.assert_allclose(prepared.unscale(z), x, atol=1e-5)
    assert prepared.perturbations == ("A", "A+B", "B", "unmeasured")
    assert prepared.measured == ("A", "B")


def test_every_group_and_the_controls_are_split_alike(cells):
    obs = prepare(cells, 10).cells.obs
    groups = [obs["perturbation"], obs["cell_context"]]
    for part, size in (("train", 0.68), ("validation", 0.15), ("test", 0.17)):
        share = (obs["split"] == part).groupby(groups, observed=True).mean()
        np.testing.assert_allclose(share, size, atol=0.16)
        assert (obs["split"] == part).mean() == pytest.approx(size, abs=0.04)


def test_five_folds_test_every_cell_but_the_same_validation_cells_once(cells):
    parts = [prepare(cells, 10, fold=fold).cells.obs["split"].to_numpy() for fold in range(1, 6)]
    tested, aside = (sum((part == name).astype(int) for part in parts) for name in ("test", "validation"))
    assert set(aside) == {0, 5} and (tested == (aside == 0)).all()


@pytest.mark.parametrize("split", SPLITS)
def test_changed_test_cells_leave_every_fitted_number(cells, split):
    cells.obs["time"] = cells.obs["dose"]
    before = prepare(cells, 8, split=split, seed=3)
    trained = before.cells.obs_names[before.cells.obs["split"] == "train"]
    held_out = ~cells.obs_names.to_series().isin(trained)
    changed = cells.copy()
    x = changed.X.toarray()
    x[held_out.to_numpy()] = np.random.default_rng(0).uniform(0, 6, (held_out.sum(), x.shape[1]))
    changed.X = x.astype(np.float32)
    after = prepare(changed, 8, split=split, seed=3)
    assert after.genes == before.genes and after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.std, before.std)
    assert not np.array_equal(after.expression("test"), before.expression("test"))


def test_changed_training_cells_change_the_fitted_numbers(cells):
    before = prepare(cells, 8)
    changed = cells.copy()
    changed.X = changed.X * 0.99
    assert prepare(changed, 8).fingerprint != before.fingerprint


def test_same_seed_same_split_other_seed_other_split(cells):
    first, second, other = (prepare(cells, 8, seed=seed).cells.obs["split"].tolist() for seed in (0, 0, 1))
    assert first == second != other


def test_unseen_perturbations_are_measured_singles(cells):
    for seed in range(4):
        prepared = prepare(cells, 8, split="perturbations", seed=seed)
        (unseen,) = set(prepared.perturbations) - set(prepared.train_perturbations)
        assert unseen in ("A", "B")
        assert labels(prepared, "test") == {unseen, "control"}
    left_out = prepare(cells, 8, split="perturbations", held_out=["B"])
    assert labels(left_out, "test") == {"B", "control"}
    assert "A+B" not in set(left_out.cells.obs["perturbation"])  # its cells know the effect of B


def test_an_unmeasured_target_cannot_be_held_out(cells):
    assert "['A', 'B']" in message_of(prepare, cells, 8, split="perturbations", held_out=["unmeasured"])


def test_unseen_doubles_doses_and_contexts(cells):
    doubles = prepare(cells, 8, split="doubles")
    assert labels(doubles, "test") == {"A+B", "control"} and "A+B" not in doubles.train_perturbations
    doses = prepare(cells, 8, split="doses", held_out=[0.5]).cells.obs
    perturbed = doses["perturbation"] != "control"
    assert ((doses["split"] == "test") == (doses["dose"] == 0.5))[perturbed].all()
    contexts = prepare(cells, 8, split="contexts", held_out=["type 1"]).cells.obs
    assert ((contexts["split"] == "test") == (contexts["cell_context"] == "type 1")).all()


def test_batches_and_times_are_held_out_whole(cells):
    batches = prepare(cells, 8, split="batches", held_out=["lane 1"])
    obs = batches.cells.obs
    assert batches.held_out == ("lane 1",) and ((obs["split"] == "test") == (obs["batch"] == "lane 1")).all()
    cells.obs["time"] = np.where(cells.obs["perturbation"] == "control", 0.0, 1.0 + (cells.obs["dose"] > 0.5))
    obs = prepare(cells, 8, split="time", held_out=[1.0]).cells.obs
    perturbed = obs["perturbation"] != "control"
    assert ((obs["split"] == "test") == (obs["time"] == 1.0))[perturbed].all()
    assert set(obs["split"][~perturbed]) == {"train", "validation", "test"}


@pytest.mark.parametrize("split", ["perturbations", "doubles", "doses", "contexts", "time"])
def test_a_split_that_the_data_cannot_give_is_refused(make_raw, bring, split):
    raw = make_raw(contexts=1)
    raw = raw[raw.obs["label"].isin(["control", "unmeasured", "A"])].copy()
    assert f"'{split}' needs" in message_of(prepare, bring(raw, dose_key=None), 8, split=split)


def test_bad_requests_are_refused(cells):
    assert "'halves'" in message_of(prepare, cells, 8, split="halves")
    assert "fold=6" in message_of(prepare, cells, 8, fold=6)
    assert "'plain'" in message_of(prepare, cells, 8, panel="plain")
    assert "needs counts" in message_of(prepare, without_counts(cells), 8, panel="pearson_residuals")
    assert "n_top_genes" in message_of(prepare, cells, 0)
    assert "'nosuch'" in message_of(prepare, cells, 8, keep_genes=["nosuch"])
    assert "held_out" in message_of(prepare, cells, 8, held_out=["A"])


def without_counts(cells):
    bare = cells.copy()
    bare.layers.clear()
    return bare


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_a_panel_and_says_what_it_keeps(cells, rule):
    prepared = prepare(cells, 12, panel=rule)
    assert prepared.panel_rule == rule and 12 <= len(prepared.genes) <= 14
    kept = prepared.kept_response()
    assert 0 < kept.share <= 1 and set(prepared.kept.index) == set(prepared.train_perturbations)
    assert prepared.kept_response(["A"]).share == prepared.kept.loc["A", "share"]


@pytest.mark.filterwarnings("error::twinlib.data.preparation.WeakPanel")
def test_a_panel_that_keeps_little_is_told(cells):
    prepare(cells, 30)
    noisy = cells.copy()
    x = np.full(noisy.shape, 2.0)
    x[:, 2:8] = np.random.default_rng(0).uniform(0, 4, (len(x), 6))  # large, and nothing to do with a label
    x[:, 8:] += 0.5 * (noisy.obs["perturbation"] == "A").to_numpy()[:, None]
    noisy.X = x.astype(np.float32)
    noisy.uns["twinlib"] = noisy.uns["twinlib"] | {"scale": "arcsinh"}
    with pytest.raises(WeakPanel, match=r"keeps \d+% of the squared change"):
        prepare(noisy, 6)


def test_only_candidates_enter_the_panel_by_rank(cells):
    cells.var["panel_candidate"] = np.arange(cells.n_vars) >= 20
    assert set(prepare(cells, 5).genes) <= {"A", "B", *cells.var_names[20:]}


def test_measured_targets_and_named_genes_are_kept_beside_the_variable_ones(cells):
    scores = np.asarray(cells.X.toarray()).var(axis=0)
    calm = str(cells.var_names[int(np.argmin(scores))])
    genes = prepare(cells, 2, keep_genes=[calm]).genes
    assert {"A", "B", calm} <= set(genes) and len(genes) <= 5


def test_a_constant_gene_is_not_divided_by_zero(cells):
    x = cells.X.toarray()
    x[:, 7] = 1.0
    cells.X = x
    prepared = prepare(cells, 30, keep_genes=[str(cells.var_names[7])])
    assert np.isfinite(prepared.scale(prepared.expression("test"))).all()
    assert prepared.std[prepared.genes.index(str(cells.var_names[7]))] == 1


def by_hand(x):
    """Satija 2015: log(variance / mean) of CP10k, standardised in 20 bins of log mean; alone in a bin: 1."""
    values = np.expm1(x.astype(np.float64))
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    raw = np.log(variance / mean)
    bins = pd.cut(np.log1p(mean), bins=20, labels=False)
    scores = np.empty(len(raw))
    for one in np.unique(bins):
        inside = bins == one
        alone = inside.sum() == 1
        scores[inside] = 1 if alone else (raw[inside] - raw[inside].mean()) / raw[inside].std(ddof=1)
    return scores


def test_the_dispersion_is_the_one_of_the_formula(cells):
    np.testing.assert_allclose(dispersion(cells.X), by_hand(cells.X.toarray()), rtol=1e-3, atol=1e-3)


def test_the_panel_of_real_cells_is_the_one_of_the_formula(papalexi):
    prepared = prepare(papalexi, 200, panel="seurat")
    train = np.flatnonzero(prepared.cells.obs["split"] == "train")
    best = np.argsort(-by_hand(papalexi.X[train].toarray()), kind="stable")[:200]
    assert set(prepared.genes) == set(papalexi.var_names[best]) | set(prepared.measured)


def test_expression_asks_by_split_perturbation_and_context(cells):
    prepared = prepare(cells, 8)
    obs = prepared.cells.obs
    asked = (obs["split"] == "test") & (obs["perturbation"] == "A") & (obs["cell_context"] == "type 0")
    np.testing.assert_array_equal(prepared.expression("test", "A", "type 0"), prepared.cells.X[asked])
    assert len(prepared.expression(None)) == cells.n_obs


def test_the_fixed_panel_of_the_real_cells(papalexi, real_data, monkeypatch):
    monkeypatch.setenv("TWINLIB_DATA_DIR", str(real_data))
    prepared = standard("papalexi2021")
    assert len(prepared.genes) == 200 and len(prepared.measured) == 9
    assert prepared.fingerprint == prepare(papalexi, 200).fingerprint
