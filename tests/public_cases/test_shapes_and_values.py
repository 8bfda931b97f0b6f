"""Shapes and values at a public door: inputs of public threads, named repository#number."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from twinlib.environment.gymnasium_api import TASK_NAMES, CellEnv, CellVectorEnv
from twinlib.errors import InputError
from twinlib.evaluation import metrics, similarity


# -- tables and matrices at the metrics
def test_tables_with_their_genes_in_another_order_are_refused():
    """scipy/scipy#9616: cdist of a table with itself is not 0 once the columns are swapped."""
    cells = pd.DataFrame({"A": [0.0, 0.0], "B": [1.0, 1.0]}, index=["cell 1", "cell 2"])
    swapped = cells[["B", "A"]]
    for call in (metrics.e_distance, metrics.w1, metrics.regression_metrics):
        with pytest.raises(InputError, match="along G are not those of"):
            call(cells, swapped)
    with pytest.raises(InputError, match="pred_mean along G"):
        metrics.pseudobulk_mse(cells.mean(), swapped.mean())
    with pytest.raises(InputError, match="y_pred along n"):
        metrics.regression_metrics(cells, cells[::-1])
    assert metrics.w1(cells, swapped[["A", "B"]]) == 0.0
    assert metrics.w1(cells, swapped.to_numpy()) == 1.0


def test_default_labels_of_a_table_say_nothing():
    cells = pd.DataFrame(np.arange(6.0).reshape(3, 2))
    assert metrics.e_distance(cells, cells[::-1]) == metrics.e_distance(cells.to_numpy(), cells.to_numpy())


def test_sparse_cells_and_their_mean_are_refused():
    """theislab/single-cell-tutorial#105, chanzuckerberg/cellxgene#2269: a mean [1, G] where [G] is meant."""
    cells = scipy.sparse.random(20, 5, 0.5, format="csr", random_state=0)
    with pytest.raises(InputError, match=r"shape \(1, 5\)"):
        metrics.pseudobulk_mse(cells.mean(axis=0), cells.mean(axis=0))
    for sparse in (cells, scipy.sparse.csr_array(cells)):
        with pytest.raises(InputError, match="no array of plain numbers but a scipy.sparse"):
            metrics.e_distance(sparse, sparse)
    assert metrics.w1(cells.todense(), cells.toarray()) == 0.0


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.float16])
def test_whole_numbers_neither_wrap_nor_overflow(kind):
    """wannesm/dtaidistance#24: series of short integers; a difference of uint8 would wrap."""
    a, b = np.array([0, 1, 120], dtype=kind), np.array([1, 120, 0], dtype=kind)
    assert similarity.dtw(a, b)[0] == similarity.dtw([0, 1, 120], [1, 120, 0])[0] == 121.0
    assert float(similarity.mean_absolute_difference(a, b)) == 80.0
    assert metrics.pseudobulk_mse(a, b) == (1 + 119**2 + 120**2) / 3


@pytest.mark.parametrize("series", [[np.nan, np.nan], []], ids=["nan", "empty"])
def test_a_series_that_is_none_has_no_distance(series):
    """tslearn-team/tslearn#381: dtw to NaN was inf, to an empty series 0."""
    for call in (similarity.dtw, similarity.dtw_distances):
        with pytest.raises(InputError):
            call([2.0, 4.0], series)


def test_the_discrimination_score_minds_the_sign():
    """ArcInstitute/cell-eval#189: with absolute changes a rise of 3 was nearer to a fall of 3 than to 5."""
    truth = np.array([[5.0] * 4, [-3.0] * 4])
    assert metrics.pds(truth, np.array([[3.0] * 4, [-3.0] * 4])).tolist() == [1.0, 1.0]


# -- arrays that an environment gives out
@pytest.mark.parametrize("task", TASK_NAMES)
def test_what_is_done_to_arrays_outside_moves_nothing_inside(task):
    """google-deepmind/dm_control#34, thu-ml/tianshou#1281: observations were views of the state."""

    def run(spoil: bool) -> tuple[np.ndarray, np.ndarray]:
        env, seen, kept = CellVectorEnv(task, 3), [], []
        given = [env.reset(seed=3)[0]]
        for _ in range(25):  # over the end of an episode
            action = np.full(env.action_space.shape, 0.3)
            *arrays, info = env.step(action)
            given += [arrays[0]]
            seen += [arrays[0].copy()]
            kept += [arrays[1].copy()]
            assert (action == 0.3).all()
            for array in [*arrays, *info.values()] if spoil else []:
                array[...] = 1
        return np.stack(seen), np.stack(kept)

    assert all(np.array_equal(a, b) for a, b in zip(run(False), run(True), strict=True))


@pytest.mark.parametrize("task", TASK_NAMES)
def test_an_observation_stays_what_it_was(task):
    """Farama-Foundation/Gymnasium#1715: the last observation of an episode became that of the next."""
    env = CellVectorEnv(task, 2)
    given = [env.reset(seed=3)[0]]
    before = [given[0].copy()]
    ended = 0
    for _ in range(60):
        obs, *_, info = env.step(np.full(env.action_space.shape, 0.3))
        now = [
            obs,
            *(array for array in info.values() if isinstance(array, np.ndarray) and array.dtype != object),
        ]
        # the last observations stand in an array of objects, one array a cell whose episode ended
        now += [last for last in info.get("final_obs", ()) if last is not None]
        ended += "final_obs" in info
        given += now
        before += [array.copy() for array in now]
    assert ended
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_copied_environment_goes_on_as_the_first_does(task):
    """Farama-Foundation/Gymnasium#779, openai/gym#2994: copies parted, or lost their randomness."""
    env = CellEnv(task)
    env.reset(seed=3)
    action = np.full(env.action_space.shape, 0.3)
    env.step(action)
    twin = copy.deepcopy(env)

    def go_on(one: CellEnv) -> list[np.ndarray]:
        steps = [one.step(action)[0] for _ in range(3)]
        return [*steps, *(one.reset()[0] for _ in range(3))]

    assert all(np.array_equal(a, b) for a, b in zip(go_on(env), go_on(twin), strict=True))


@pytest.mark.parametrize("task", ["GeneScreen", "Cytokine", "Combination"])
def test_a_reset_without_a_seed_goes_on_with_the_stream(task):
    """Farama-Foundation/ViZDoom#695: reset() seeded anew each time."""

    def starts() -> list[np.ndarray]:
        env = CellEnv(task)
        return [env.reset(seed=1)[0], *(env.reset()[0] for _ in range(3))]

    first, second = starts(), starts()
    assert len({obs.tobytes() for obs in first}) == 4
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_action_with_a_gradient_is_refused_and_a_plain_tensor_taken():
    env = CellEnv("GeneScreen")
    env.reset(seed=0)
    plain = torch.zeros(env.action_space.shape)
    with pytest.raises(InputError, match="no array of plain numbers but a torch.Tensor"):
        env.step(plain.clone().requires_grad_())
    assert np.isfinite(env.step(plain)[1])
