"""What other people's files held: each is read right, refused in one sentence, or told by a hint.

The numbers are those of public issues in which the like was met.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from twinlib.data import scale
from twinlib.data.canonical import from_anndata
from twinlib.data.preparation import prepare
from twinlib.errors import DataError


def made_of(counts, labels, **more):
    obs = pd.DataFrame({"guide": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"G{j}" for j in range(counts.shape[1])])
    return anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=var, **more)


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(1.0, 2.0, 60), (240, 60)).astype(np.float32)


@pytest.fixture
def raw(counts):
    return made_of(counts, np.array(["NT", "G1", "G2"])[np.arange(240) % 3])


@pytest.fixture
def right(raw):
    return from_anndata(raw, "guide", "NT").X.toarray()


def refused(raw, *words, **named):
    with pytest.raises(DataError) as caught:
        from_anndata(raw, "guide", **({"control": "NT"} | named))
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message
    return message


def with_x(raw, x, counts=None):
    other = raw.copy()
    other.X = sparse.csr_matrix(x, dtype=np.float32)
    if counts is not None:
        other.layers["counts"] = sparse.csr_matrix(counts, dtype=np.float32)
    return other


def cp10k(counts, total=1e4):
    return counts / counts.sum(axis=1, keepdims=True) * total


# --- input taken for something it is not


def in_parts(counts):
    """The same counts, each value of two or more stored as 1 and the rest: legal, equal in every sum."""
    whole = sparse.coo_matrix(counts)
    more = whole.data >= 2
    data = np.r_[np.where(more, 1, whole.data), whole.data[more] - 1]
    rows, columns = np.r_[whole.row, whole.row[more]], np.r_[whole.col, whole.col[more]]
    order = np.lexsort((columns, rows))
    pointer = np.r_[0, np.cumsum(np.bincount(rows, minlength=len(counts)))]
    return sparse.csr_matrix((data[order], columns[order], pointer), shape=counts.shape)


def test_entries_stored_in_parts_are_summed(raw, counts, right):
    """tanaylab/metacells#7, chanzuckerberg/single-cell-curation#602."""
    for parts in (in_parts(counts), in_parts(counts).tocsc()):
        made = from_anndata(with_x(raw, counts).copy(), "guide", "NT")
        other = raw.copy()
        other.X = parts
        again = from_anndata(other, "guide", "NT")
        np.testing.assert_array_equal(again.X.toarray(), right)
        assert again.uns["twinlib"]["data_hash"] == made.uns["twinlib"]["data_hash"]
    logged = sparse.csr_matrix(right)
    halves = logged.copy()
    halves.data = halves.data / 2
    twice = sparse.csr_matrix(
        (np.repeat(halves.data, 2), np.repeat(halves.indices, 2), 2 * halves.indptr), logged.shape
    )
    assert scale.kind_of_values(twice) == "log1p"
    np.testing.assert_array_equal(
        scale.recover_counts(twice).toarray(), scale.recover_counts(logged).toarray()
    )


def test_index_arrays_of_two_types_are_read(raw, counts, right):
    """scverse/scanpy#3331: eliminate_zeros fails where indptr and indices have different types."""
    x = sparse.csr_matrix(counts)
    x.data[::7] = 0
    expected = from_anndata(with_x(raw, x.toarray()), "guide", "NT").X.toarray()
    x.indptr = x.indptr.astype(np.int64)
    raw.X = x
    np.testing.assert_array_equal(from_anndata(raw, "guide", "NT").X.toarray(), expected)


@pytest.mark.parametrize("order", ["one after the other", "in turn"])
def test_joined_raw_and_logged_studies_are_refused(order):
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(1.0, 2.0, 40), (5000, 40)).astype(float)
    x, second = counts.copy(), np.arange(5000) >= 2500
    second = second if order == "one after the other" else np.arange(5000) % 2 == 1
    x[second] = np.log1p(cp10k(counts[second]))
    raw = made_of(x, np.array(["NT", "G1"])[np.arange(5000) // 2 % 2])
    refused(raw, "as if studies were joined")
    x[second] = np.log1p(np.log1p(cp10k(counts[second])))
    x[~second] = np.log1p(cp10k(counts[~second]))
    refused(with_x(raw, x), "as if studies were joined")


def test_the_last_cells_are_judged_like_the_first():
    rng = np.random.default_rng(2)
    counts = rng.poisson(2.0, (2300, 30)).astype(float)
    x = np.log1p(cp10k(counts))
    x[2100:] = np.log1p(x[2100:])
    refused(made_of(x, np.array(["NT", "G1"])[np.arange(2300) % 2]), "X is not log1p")


@pytest.mark.parametrize("kind", ["log2", "scran", "log10", "sqrt"])
def test_other_transformations_are_named_and_counts_beside_them_believed(raw, counts, right, kind):
    """scverse/scanpy#641, LuyiTian/sc_mixology#13: logcounts reach 11.85, above any log1p(CP10k)."""
    factors = np.random.default_rng(3).uniform(0.3, 3, (len(counts), 1))
    x = {
        "log2": np.log2(1 + cp10k(counts)),
        "scran": np.log2(1 + counts / factors),
        "log10": np.log10(1 + cp10k(counts)),
        "sqrt": np.sqrt(counts),
    }[kind]
    refused(with_x(raw, x), "square roots" if kind == "sqrt" else "log10" if kind == "log10" else "log2")
    made = from_anndata(with_x(raw, x, counts), "guide", "NT")
    np.testing.assert_allclose(made.X.toarray(), right, rtol=1e-6)
    assert "left aside" in made.uns["twinlib"]["taken_for"]


def test_a_corrected_logarithm_beyond_its_scale_is_refused(raw, right):
    refused(
        with_x(raw, right * np.random.default_rng(4).uniform(1.2, 1.4, right.shape)), "larger than", "9.21"
    )


def test_scaled_values_are_named_and_counts_beside_them_believed(raw, counts, right, capsys):
    z = (right - right.mean(0)) / (right.std(0) + 1e-3)
    refused(with_x(raw, z), "negative", "z-scores")
    made = from_anndata(with_x(raw, z, counts), "guide", "NT")
    np.testing.assert_allclose(made.X.toarray(), right, rtol=1e-6)
    assert "X was left aside (X holds negative values" in capsys.readouterr().out


def test_counts_in_another_order_are_refused(raw, counts, right):
    rng = np.random.default_rng(5)
    refused(with_x(raw, right, counts[rng.permutation(len(counts))]), "the cells of X in another order")
    refused(with_x(raw, right, counts[:, rng.permutation(60)]), "the genes of X in another order")
    logcounts = np.log2(1 + counts / rng.uniform(0.3, 3, (len(counts), 1)))
    refused(with_x(raw, logcounts, counts[::-1]), "the cells of X in another order")


def test_other_counts_are_believed_over_a_logarithm(raw, right):
    other = np.random.default_rng(6).poisson(2.0, right.shape)
    made = from_anndata(with_x(raw, right, other), "guide", "NT")
    np.testing.assert_array_equal(made.layers["counts"].toarray(), other)
    np.testing.assert_allclose(made.X.toarray(), np.log1p(cp10k(other)), rtol=1e-5)


def test_genes_left_out_after_normalising_keep_their_scale(raw, counts, right):
    some = np.arange(60) % 3 > 0
    part = with_x(raw, right, counts)[:, some].copy()
    made = from_anndata(part, "guide", "NT")
    np.testing.assert_array_equal(made.X.toarray(), right[:, some])
    np.testing.assert_array_equal(made.layers["counts"].toarray(), counts[:, some])


def test_fractional_counts_are_told_to_be_rounded(raw, counts):
    """scverse/scvi-tutorials#66, theislab/scib-reproducibility#22, constantAmateur/SoupX#63."""
    rng = np.random.default_rng(7)
    soup = np.maximum(counts * 8 - rng.uniform(0, 0.6, counts.shape), 0)
    assert "round" in refused(with_x(raw, soup), "fractional counts")
    right = from_anndata(with_x(raw, counts), "guide", "NT").X
    made = from_anndata(with_x(raw, right, soup), "guide", "NT")
    assert made.uns["twinlib"]["counts"].startswith("recovered")
    blurred = right.multiply(rng.uniform(0.9, 1.0, right.shape)).tocsr()
    said = from_anndata(with_x(raw, blurred, soup), "guide", "NT").uns["twinlib"]["counts"]
    assert said.startswith("given but not usable") and "fractional" in said


def test_counts_in_raw_are_pointed_at(raw, counts, right):
    """scverse/scanpy#3073: what raw holds is looked at, not believed."""
    logged = with_x(raw, np.log1p(right))
    logged.raw = raw
    refused(logged, "log1p was taken twice", "adata.raw holds counts")
    logged.raw = with_x(raw, right)
    assert "adata.raw" not in refused(logged, "log1p was taken twice")


def test_empty_matrices_and_cells(raw, counts, capsys):
    refused(with_x(raw, 0 * counts), "no count at all")
    counts[:30] = 0
    from_anndata(with_x(raw, counts), "guide", "NT")
    assert "30 cells are empty" in capsys.readouterr().out


# --- labels


def with_labels(raw, *names):
    raw.obs["guide"] = np.array(names)[np.arange(raw.n_obs) % len(names)]
    return raw


def labels_of(raw, **named):
    return set(from_anndata(raw, "guide", **({"control": "NT"} | named)).obs["perturbation"])


def test_blanks_go_once_from_labels_and_control(raw):
    """snap-stanford/GEARS#71: the categories were 'CHRNB1+ctrl ' and ' ctrl '."""
    with_labels(raw, " ctrl ", "G1+ctrl ", " ctrl+G2")
    assert labels_of(raw, control="ctrl") == labels_of(raw, control=" ctrl ") == {"control", "G1", "G2"}


def test_one_dose_a_part_is_one_dose_when_all_are_equal(raw):
    """snap-stanford/GEARS#11: dose_val is '1' for controls, '1+1' for A+ctrl and A+B."""
    with_labels(raw, "ctrl", "G1+ctrl", "G1+G2")
    raw.obs["dose_val"] = np.where(raw.obs["guide"] == "ctrl", "1", "1+1")
    made = from_anndata(raw, "guide", "ctrl", dose_key="dose_val")
    assert made.obs["dose"].tolist() == [0.0 if p == "control" else 1.0 for p in made.obs["perturbation"]]
    raw.obs["dose_val"] = np.where(raw.obs["guide"] == "ctrl", "-", "1+0.5")
    refused(raw, "'1+0.5'", "one number a cell", control="ctrl", dose_key="dose_val")


def test_guides_are_translated_before_anything_is_split_or_tested(raw):
    """epigen/mixscape_seurat#1: labels such as grnaX-2_grnaY-4, several guides a gene."""
    with_labels(raw, "NT_1", "NT_2", "ZAP70_1", "ZAP70_2|ZAP70_1", "G1_7|NT_2", "G1_7|ZAP70_1")
    targets = {"NT_1": "NT", "NT_2": "NT", "ZAP70_1": "ZAP70", "ZAP70_2": "ZAP70", "G1_7": "G1"}
    assert labels_of(raw, separator="|", guide_targets=targets) == {"control", "ZAP70", "G1", "G1+ZAP70"}


def test_a_separator_that_cuts_names_is_refused(raw):
    """snap-stanford/GEARS#62: '_' joins genes in one file and is part of a name in the next."""
    refused(with_labels(raw, "NT", "ZAP70_1", "G1"), "'ZAP70_1'", "separator=", separator="_")
    refused(with_labels(raw, "NT", "CD8+", "G1"), "'CD8+'", "separator=")
    raw.var_names = ["NKX2-1", *raw.var_names[1:]]
    refused(with_labels(raw, "NT", "NKX2-1", "G1"), "'NKX2-1'", separator="-")
    assert labels_of(raw, separator=None) == {"control", "NKX2-1", "G1"}


@pytest.mark.parametrize("word", ["nan", "None", "", "NA", "<NA>"])
def test_words_for_nothing_are_refused_unless_they_are_the_control(raw, word):
    """sanderlab/scPerturb#6: cells without a guide were tagged 'control', then 'None'."""
    refused(with_labels(raw, "NT", word, "G1"), repr(word), "rename or drop")
    if word:
        assert labels_of(raw.copy(), control=word) == {"control", "NT", "G1"}


def test_hints_name_what_looks_odd_and_change_nothing(raw, capsys):
    with_labels(raw, "NT", "non-targeting", "G1", "g1", "G2", "G1_G2")
    assert labels_of(raw) == {"control", "non-targeting", "G1", "g1", "G2", "G1_G2"}
    said = capsys.readouterr().out
    for word in ("second control", "'G1' and 'g1' differ only", "'G1_G2' looks like a combination"):
        assert word in said


def test_a_control_written_otherwise_is_suggested(raw):
    """snap-stanford/GEARS#75: the control was not set as the file writes it."""
    with_labels(raw, "Non-Targeting", "G1")
    refused(raw, "did you mean 'Non-Targeting'", control="non targeting")
    refused(raw, "did you mean 'Non-Targeting'", control="ctrl")
    refused(raw, "control=['NT', 'ctrl']", control=["NT", "ctrl"])


def test_ensembl_names_take_their_symbols_from_var(raw, capsys):
    """openproblems-bio/openproblems-v2#331, chanzuckerberg/cellxgene#2605."""
    symbols = list(raw.var_names)
    symbols[10], symbols[11], symbols[12] = "twin", "twin", None
    raw.var["feature_name"] = symbols
    raw.var_names = [f"ENSG{j:011d}" for j in range(60)]
    silent = from_anndata(raw, "guide", "NT")
    assert "pass gene_symbols='feature_name'" in capsys.readouterr().out
    assert not silent.obs["target_measured"].any()
    made = from_anndata(raw, "guide", "NT", gene_symbols="feature_name")
    assert set(made.obs.loc[made.obs["target_measured"], "perturbation"]) == {"G1", "G2"}
    assert list(made.var_names[9:14]) == ["G9", *raw.var_names[10:13], "G13"]
    assert list(made.var["gene_id"]) == list(raw.var_names)
    refused(raw, "var has no column 'symbol'", gene_symbols="symbol")
    del raw.var["feature_name"]
    from_anndata(raw, "guide", "NT")
    assert "named by ENSEMBL" in capsys.readouterr().out


def test_duplicate_columns_and_empty_separators_are_one_sentence(raw):
    """scverse/anndata#884 and #483."""
    twice = raw.copy()
    twice.obs = pd.concat([raw.obs, raw.obs], axis=1)
    refused(twice, "several columns named 'guide'")
    twice = raw.copy()
    twice.var = pd.DataFrame(np.zeros((60, 2)), index=raw.var_names, columns=["a", "a"])
    refused(twice, "several columns named 'a'")
    refused(raw, "separator=''", separator="")
    refused(raw, "guide_targets", guide_targets=["G1"])
    refused(raw, "guide_targets holds nan", guide_targets={"G1": float("nan")})


def test_the_columns_of_a_file_are_kept(raw):
    raw.obs["donor"], raw.obs["split"], raw.obs["dose"] = "D1", "val", "10 uM"
    raw.var["highly_variable"] = True
    made = from_anndata(raw, "guide", "NT", batch_key="donor")
    assert (made.obs["donor"] == "D1").all() and (made.obs["batch"] == "D1").all()
    assert (made.obs["split_given"] == "val").all() and (made.obs["dose_given"] == "10 uM").all()
    assert made.var["highly_variable"].all() and made.obs["guide"].tolist() == raw.obs["guide"].tolist()
    assert set(prepare(made, 10).cells.obs["split"]) == {"train", "validation", "test"}


# --- shapes at the door of prepare


def test_a_text_is_no_list_and_a_panel_has_two_genes(raw):
    cells = from_anndata(raw, "guide", "NT")
    for named, word in (
        ({"keep_genes": "G5"}, "keep_genes=['G5']"),
        ({"split": "perturbations", "held_out": "G1"}, "held_out=['G1']"),
        ({"keep_genes": 5}, "no list"),
        ({"n_top_genes": 2.5}, "n_top_genes=2.5"),
        ({"n_top_genes": "many"}, "n_top_genes='many'"),
        ({"fold": "half"}, "fold='half'"),
        ({"fold": float("nan")}, "fold=nan"),
        ({"fold": 6}, "fold=6"),
        ({"panel": "plain"}, "panel rule 'plain'"),
        ({"seed": -1}, "seed=-1"),
        ({"split": "perturbations", "held_out": ["G7"]}, "cannot hold out ['G7']"),
    ):
        with pytest.raises(DataError) as caught:
            prepare(cells, **({"n_top_genes": 20} | named))
        assert word in str(caught.value)
    lone = from_anndata(raw[:, :1].copy(), "guide", "NT")
    with pytest.raises(DataError, match="one gene"):
        prepare(lone, 1)
    prepared = prepare(cells, 20)
    for x in (np.zeros(len(prepared.genes) - 1), np.zeros((3, 1)), np.float64(1.0)):
        with pytest.raises(DataError, match="last axis needs the"):
            prepared.scale(x)
    with pytest.raises(DataError, match="'tests'"):
        prepared.expression("tests")


def test_no_anndata_but_its_x_is_refused(raw):
    """scverse/scanpy#391: adata.X was passed in place of adata."""
    with pytest.raises(DataError, match="give an AnnData"):
        from_anndata(raw.X, "guide", "NT")
