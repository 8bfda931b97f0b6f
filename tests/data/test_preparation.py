import numpy as np
import pandas as pd
import pytest

from twinlib.data.preparation import SPLITS, dispersion, prepare, standard
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
    prepared = prepare(cells, 10, test_size=0.25)
    obs = prepared.cells.obs
    share = (obs["split"] == "test").groupby([obs["perturbation"], obs["cell_context"]], observed=True).mean()
    np.testing.assert_allclose(share, 0.25, atol=0.06)


def test_validation_is_a_fifth_of_the_training_cells(cells):
    obs = prepare(cells, 10).cells.obs
    assert not (obs["validation"] & (obs["split"] == "test")).any()
    assert obs["validation"].sum() / (obs["split"] == "train").sum() == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("split", SPLITS)
def test_changed_test_cells_leave_every_fitted_number(cells, split):
    before = prepare(cells, 8, split=split, seed=3)
    held_out = before.cells.obs["split"] == "test"
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
    assert labels(prepare(cells, 8, split="perturbations", held_out=["B"]), "test") == {"B", "control"}


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


@pytest.mark.parametrize("split", ["perturbations", "doubles", "doses", "contexts"])
def test_a_split_that_the_data_cannot_give_is_refused(make_raw, bring, split):
    raw = make_raw(contexts=1)
    raw = raw[raw.obs["label"].isin(["control", "unmeasured", "A"])].copy()
    assert f"'{split}' needs" in message_of(prepare, bring(raw, dose_key=None), 8, split=split)


def test_bad_requests_are_refused(cells):
    assert "'halves'" in message_of(prepare, cells, 8, split="halves")
    assert "test_size" in message_of(prepare, cells, 8, test_size=1.0)
    assert "n_top_genes" in message_of(prepare, cells, 0)
    assert "'nosuch'" in message_of(prepare, cells, 8, keep_genes=["nosuch"])
    assert "held_out" in message_of(prepare, cells, 8, held_out=["A"])


def test_measured_targets_and_named_genes_are_kept_beside_the_variable_ones(cells):
    scores = dispersion(cells.X)
    calm = str(cells.var_names[int(np.argmin(scores))])
    genes = prepare(cells, 2, keep_genes=[calm]).genes
    assert {"A", "B", calm} <= set(genes) and len(genes) <= 5


def test_a_constant_gene_is_not_divided_by_zero(cells):
    x = cells.X.toarray()
    x[:, 7] = 1.0
    cells.X = x
    prepared = prepare(cells, 30)
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
    prepared = prepare(papalexi, 200)
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
    assert len(prepared.genes) == 203 and len(prepared.measured) == 9
    assert prepared.fingerprint == prepare(papalexi, 200).fingerprint
