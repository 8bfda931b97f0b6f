import anndata
import numpy as np
import pytest
from scipy import sparse

from twinlib.data.canonical import from_anndata
from twinlib.errors import DataError


def message_of(call, *arguments, **named):
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_counts_and_log1p_give_the_same_cells(raw, bring, capsys):
    from_counts = bring(raw)
    assert "raw counts" in capsys.readouterr().out
    logged = raw.copy()
    logged.X = from_counts.X
    from_log = bring(logged)
    assert "log1p" in capsys.readouterr().out
    np.testing.assert_array_equal(from_log.X.toarray(), from_counts.X.toarray())
    assert from_log.uns["twinlib"]["counts"].startswith("recovered")


def test_another_total_is_scaled_again(raw, bring):
    expected = bring(raw).X.toarray()
    totals = raw.X.sum(axis=1, keepdims=True)
    raw.X = np.log1p(raw.X / totals * 1e6)
    made = bring(raw)
    assert "another total" in made.uns["twinlib"]["taken_for"]
    np.testing.assert_allclose(made.X.toarray(), expected, rtol=2e-2, atol=1e-5)


def test_a_stale_flag_changes_nothing(raw, bring):
    expected = bring(raw).X.toarray()
    raw.uns["log1p"] = {"base": None}
    np.testing.assert_array_equal(bring(raw).X.toarray(), expected)


def test_twice_logged_scaled_and_unlogged_values_are_refused(raw, bring):
    x = bring(raw).X
    for wrong, word in ((x.log1p(), "twice"), (x.expm1(), "never logged"), (-x, "negative")):
        raw.X = wrong
        assert word in message_of(bring, raw)


def test_columns_are_read_and_completed(raw, bring):
    made = bring(raw)
    obs = made.obs
    assert set(obs["cell_context"]) == {"type 0", "type 1"} and set(obs["batch"]) == {
        "lane 0",
        "lane 1",
        "lane 2",
    }
    assert set(obs["dose"]) == {0.0, 0.5, 1.0}
    assert set(obs.loc[obs["target_measured"], "perturbation"]) == {"A", "B", "A+B"}
    assert set(obs.loc[obs["perturbation"] == "control", "perturbation_type"]) == {"none"}


@pytest.mark.parametrize(
    "named", [{"context_key": "no"}, {"batch_key": "no"}, {"dose_key": "no"}, {"control": "no"}]
)
def test_what_is_not_there_is_named(raw, bring, named):
    assert "'no'" in message_of(bring, raw, **named)


def test_missing_labels_and_bad_doses_are_refused(raw, bring):
    raw.obs.loc["cell 50", "dose"] = 0.0
    assert "no dose above 0" in message_of(bring, raw)
    raw.obs.loc["cell 50", "label"] = None
    assert "1 cells without a value" in message_of(bring, raw, dose_key=None)


def test_odd_labels_survive(raw, bring):
    raw.obs["label"] = raw.obs["label"].replace({"A": "β-catenin 🧬", "B": " B ", "A+B": "B + A"})
    assert set(bring(raw).obs["perturbation"]) == {"control", "β-catenin 🧬", "B", "B+A", "unmeasured"}


def test_two_orders_of_one_combination_are_one(raw, bring):
    rows = np.flatnonzero(raw.obs["label"] == "A+B")[::2]
    raw.obs.iloc[rows, 0] = "B+A"
    assert set(bring(raw).obs["perturbation"]) == {"control", "A", "B", "A+B", "unmeasured"}


def test_guides_become_targets_and_a_control_part_falls_away(raw, bring):
    raw.obs["label"] = raw.obs["label"].replace({"A": "sgA_1", "B": "B+control", "A+B": "sgA_1+B"})
    made = bring(raw, guide_targets={"sgA_1": "A"})
    assert set(made.obs["perturbation"]) == {"control", "A", "B", "A+B", "unmeasured"}


def test_another_separator_and_none(raw, bring):
    raw.obs["label"] = raw.obs["label"].replace({"A+B": "A_B"})
    assert "A+B" in set(bring(raw, separator="_").obs["perturbation"])
    raw.obs["label"] = raw.obs["label"].replace({"A_B": "CD4+ help"})
    assert "CD4 plus help" in set(bring(raw, separator=None).obs["perturbation"])


def test_a_cytokine_is_never_looked_up_among_the_genes(raw, bring):
    assert not bring(raw, perturbation_type="cytokine").obs["target_measured"].any()
    assert "magic" in message_of(bring, raw, perturbation_type="magic")


def test_a_label_called_control_beside_another_control_is_refused(raw, bring):
    raw.obs["label"] = raw.obs["label"].replace({"unmeasured": "NT"})
    assert "rename" in message_of(bring, raw, control="NT")


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64, np.uint16])
def test_every_form_and_dtype_gives_the_same_cells(raw, bring, form, dtype):
    expected = bring(raw).X.toarray()
    raw.X = form(raw.X.astype(dtype))
    np.testing.assert_array_equal(bring(raw).X.toarray(), expected)


def test_views_and_backed_files_give_the_same_cells_and_are_not_changed(raw, bring, tmp_path):
    view = raw[::2]
    expected = bring(view.copy()).X.toarray()
    np.testing.assert_array_equal(bring(view).X.toarray(), expected)
    view.copy().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(bring(backed).X.toarray(), expected)
    backed.file.close()
    before = raw.X.copy()
    from_anndata(raw, "label", "control")
    np.testing.assert_array_equal(raw.X, before)
