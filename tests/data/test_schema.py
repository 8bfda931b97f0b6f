import numpy as np
import pytest
from scipy import sparse

from twinlib.data import scale
from twinlib.data.schema import check, parts
from twinlib.errors import DataError


def refused(cells, *words):
    """The message of the DataError: one sentence that holds the words."""
    with pytest.raises(DataError) as caught:
        check(cells)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    assert ". " not in message.replace("e.g. ", ""), f"more than one sentence: {message}"
    for word in words:
        assert word in message
    return message


def test_parts_of_a_label():
    assert parts("A+B") == ("A", "B")
    assert parts("control") == ()
    assert parts("β-catenin + GATA 1") == ("β-catenin", "GATA 1")


def test_canonical_cells_pass_and_come_back_unchanged(cells):
    assert check(cells) is cells


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(cells, value):
    cells.X.data[3] = value
    refused(cells, "X holds 1 NaN or infinite")


def test_negative_values_are_refused(cells):
    cells.X.data[3] = -1
    refused(cells, "negative", "-1")


def test_negative_counts_are_refused(cells):
    cells.layers["counts"].data[0] = -2
    refused(cells, 'layers["counts"]', "negative")


def test_duplicated_genes_are_refused(cells):
    names = list(cells.var_names)
    names[4] = names[5]
    cells.var_names = names
    refused(cells, "gene name", names[5])


def test_duplicated_cells_are_refused(cells):
    names = list(cells.obs_names)
    names[1] = names[0]
    cells.obs_names = names
    refused(cells, "cell name")


def test_missing_control_is_refused(cells):
    refused(cells[cells.obs["perturbation"] != "control"].copy(), "'control'", "control=")


def test_control_alone_is_refused(cells):
    refused(cells[cells.obs["perturbation"] == "control"].copy(), "Every cell is 'control'")


def test_nine_controls_are_refused_and_ten_are_taken(cells):
    rows = np.flatnonzero(cells.obs["perturbation"] == "control")
    keep = np.ones(cells.n_obs, dtype=bool)
    keep[rows[10:]] = False
    check(cells[keep].copy())
    keep[rows[9]] = False
    refused(cells[keep].copy(), "9 cells labelled 'control'")


def test_x_logged_twice_is_refused(cells):
    cells.X.data = np.log1p(cells.X.data)
    refused(cells, "twice")


def test_raw_counts_and_unlogged_x_are_refused(cells):
    unlogged = cells.copy()
    unlogged.X.data = np.expm1(unlogged.X.data)
    refused(unlogged, "never logged")
    cells.X = cells.layers["counts"]
    refused(cells, "raw counts")


def test_missing_columns_and_uns_are_refused(cells):
    refused_cells = cells.copy()
    del refused_cells.obs["batch"]
    refused(refused_cells, "'batch'")
    del cells.uns["twinlib"]
    refused(cells, "from_anndata")


def test_empty_data_are_refused(cells):
    refused(cells[:0].copy(), "0 cells")
    refused(cells[:, :0].copy(), "0 genes")


def test_unknown_type_and_strange_dtype_are_refused(cells):
    strange = cells.copy()
    strange.X = strange.X.toarray().astype(complex)
    refused(strange, "complex")
    cells.obs["perturbation_type"] = "magic"
    refused(cells, "magic")


def test_kinds_are_told_from_the_numbers(cells):
    x, counts = cells.X, cells.layers["counts"]
    assert scale.kind_of_values(counts) == "counts"
    assert scale.kind_of_values(counts.astype(int)) == "counts"
    assert scale.kind_of_values(x) == scale.kind_of_values(x.toarray()) == "log1p"
    assert scale.kind_of_values(x.log1p()) == "log1p_twice"
    assert scale.kind_of_values(x.expm1()) == "normalised"
    assert scale.kind_of_values((x.expm1() * 100).log1p()) == "log1p_other"
    noise = np.random.default_rng(0).uniform(0, 3, x.shape)
    assert scale.kind_of_values(noise) == "unknown"


def test_counts_are_recovered_exactly_or_not_at_all(cells):
    has_one = np.asarray((cells.layers["counts"] == 1).sum(axis=1)).ravel() > 0
    found = scale.recover_counts(cells.X[has_one])
    assert (found != cells.layers["counts"][has_one]).nnz == 0
    assert scale.recover_counts(np.random.default_rng(0).uniform(0.1, 3, (50, 20))) is None
    assert scale.recover_counts(sparse.csr_matrix((3, 4))) is None


def test_log_normalise_gives_ten_thousand_and_leaves_empty_cells_empty():
    counts = np.array([[1, 3, 0], [0, 0, 0], [2, 0, 2]])
    x = scale.log_normalise(counts)
    np.testing.assert_allclose(np.expm1(x.toarray()).sum(axis=1), [1e4, 0, 1e4], rtol=1e-5)
    np.testing.assert_allclose(x[0].toarray()[0], np.log1p([2500, 7500, 0]), rtol=1e-6)


def test_real_cells_are_canonical_and_twice_logged_ones_are_not(papalexi):
    assert check(papalexi) is papalexi
    twice = papalexi.copy()
    twice.X = twice.X.log1p()
    refused(twice, "twice")
    assert DataError is DataError
