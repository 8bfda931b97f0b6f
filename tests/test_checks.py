"""The checks at public doors: what they let through, and the sentence for what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from twinlib.checks import finite_arrays, log1p_cells, name_list, require_number, require_type
from twinlib.errors import InputError


def test_words_stand_for_one_size_over_all_arguments() -> None:
    cells, mean = finite_arrays(cells=(np.ones((2, 3), np.int8), "n G"), mean=([1, 2, 3], "G"))
    assert cells.dtype == mean.dtype == np.float64
    with pytest.raises(InputError, match=r"mean has shape \(2,\) where G is 3, as in cells"):
        finite_arrays(cells=(np.ones((2, 3)), "n G"), mean=([1, 2], "G"))


def test_leading_axes_broadcast_or_are_refused() -> None:
    one, many = finite_arrays(a=(np.ones(4), "... T"), b=(np.ones((2, 3, 5)), "... S"))
    assert one.shape == (4,) and many.shape == (2, 3, 5)
    with pytest.raises(InputError, match="do not fit one another"):
        finite_arrays(a=(np.ones((2, 4)), "... T"), b=(np.ones((3, 5)), "... S"))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.ones(3), r"shape \(3,\); give a non-empty \[n, G=2\]"),
        (np.ones((2, 3)), r"shape \(2, 3\); give \[n, G=2\]"),
        (np.ones((0, 2)), "non-empty"),
        ([[1.0, np.nan]], "NaN"),
        ([[1.0, np.inf]], "infinity"),
        ([[1.0, 1e200]], "beyond"),
        ([["1", "2"]], "no array of plain numbers but a list"),
        ([[1j, 2]], "plain numbers"),
        ([[1, 2], [3]], "plain numbers"),
        ([[1, None]], "plain numbers"),
        (sparse.csr_matrix(np.ones((2, 2))), "csr_matrix"),
        (np.ma.masked_invalid([[1.0, np.nan]]), "masked"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_finite_array_of_that_shape_is_refused(values: object, word: str) -> None:
    with pytest.raises(InputError, match=word):
        finite_arrays(cells=(values, "n G=2"))


def test_a_tensor_that_carries_a_gradient_is_named() -> None:
    torch = pytest.importorskip("torch", reason="torch is missing")
    with pytest.raises(InputError, match=r"torch\.Tensor"):
        finite_arrays(cells=(torch.ones(2, 2, requires_grad=True), "n G"))


def test_what_no_cell_reaches_in_log1p_is_refused() -> None:
    log1p_cells("n G", x=[[0.0, 9.2]], y=[[-0.1, 3.0]])
    with pytest.raises(InputError, match="y reaches 300, which log1p expression does not"):
        log1p_cells("n G", x=[[0.0, 9.2]], y=[[0.0, 300.0]])


def test_names_are_a_list_of_texts() -> None:
    assert name_list("targets", np.array(["a", "b"])) == ("a", "b")
    for wrong in ("JAK2", 5, None):
        with pytest.raises(InputError, match=r"give targets=\["):
            name_list("targets", wrong)
    with pytest.raises(InputError, match="5, which is no name"):
        name_list("targets", ["JAK2", 5])


@pytest.mark.parametrize("wrong", [-1, 11, np.nan, np.inf, True, "3", None, 2.5])
def test_numbers_are_whole_finite_and_in_their_span(wrong: object) -> None:
    require_number("top", np.int64(3), 0, 10, whole=True)
    with pytest.raises(InputError, match="top="):
        require_number("top", wrong, 0, 10, whole=True)


def test_the_class_that_is_asked_for_is_named() -> None:
    with pytest.raises(InputError, match="config is a dict; give a float"):
        require_type("config", {}, float)
