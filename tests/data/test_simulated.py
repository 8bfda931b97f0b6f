import numpy as np
import pandas as pd
import pytest

from twinlib.data.schema import check
from twinlib.data.simulated import simulate_waddington
from twinlib.errors import DataError
from twinlib.landscapes.gene_network import Wiring
from twinlib.landscapes.myeloid import GENES


@pytest.fixture(scope="module")
def cells():
    return simulate_waddington()


def test_default_is_canonical_and_of_the_stated_size(cells):
    check(cells)
    assert cells.shape == (7400, 511)
    assert cells.obs["perturbation"].nunique() == 67
    assert cells.X.dtype == np.float32
    assert 0.35 < (cells.layers["counts"] == 0).mean() < 0.55


def test_x_is_log1p_of_counts_per_ten_thousand_once(cells):
    np.testing.assert_allclose(np.expm1(cells.X.astype(float)).sum(1), 1e4, rtol=1e-4)


def test_same_seed_same_cells_other_seed_other_cells():
    few = dict(n_cells=200, perturbations=["Gata1"])
    a, b, c = (simulate_waddington(seed=s, **few) for s in (0, 0, 1))
    assert (a.layers["counts"] == b.layers["counts"]).all()
    assert not (a.layers["counts"] == c.layers["counts"]).all()
    assert a.uns["twinlib"]["data_hash"] == b.uns["twinlib"]["data_hash"] != c.uns["twinlib"]["data_hash"]


def test_regulators_are_the_weights_that_made_the_cells(cells):
    edges = cells.uns["twinlib"]["regulators"]
    weights, _ = Wiring().weights()
    assert set(edges.columns) == {"regulator", "target", "weight"}
    assert (~edges["target"].isin(GENES)).sum() == (weights != 0).sum()
    edge = edges[edges["target"].str.startswith("gene")].iloc[0]
    assert weights[GENES.index(edge["regulator"]), int(edge["target"][4:])] == edge["weight"]


def test_an_unknown_gene_is_refused_in_one_sentence():
    with pytest.raises(DataError, match="'Nanog' is not a gene"):
        simulate_waddington(perturbations=["Gata1+Nanog"])


def small(**options):
    return simulate_waddington(**{"n_cells": 300, "perturbations": ["EKLF", "Gata1+Pu1"], **options})


def test_the_counterpart_of_an_untreated_cell_is_the_cell_itself():
    cells = small(counterparts=True)
    control = (cells.obs["perturbation"] == "control").to_numpy()
    state, other = cells.obsm["tf_state"], cells.obsm["counterpart_state"]
    np.testing.assert_array_equal(state[control], other[control])
    np.testing.assert_allclose(
        cells.layers["expected"][control], cells.layers["counterpart"][control], atol=1e-4
    )
    assert (state[~control] != other[~control]).any(1).mean() > 0.5


def test_a_counterpart_shares_the_noise_path_not_only_the_distribution():
    """A gene that the knock-down does not reach moves as in the counterpart; a shuffled partner does not."""
    cells = small(perturbations=["EKLF"], counterparts=True)
    treated = (cells.obs["perturbation"] == "EKLF").to_numpy()
    pu1 = GENES.index("Pu1")
    state, other = cells.obsm["tf_state"][treated, pu1], cells.obsm["counterpart_state"][treated, pu1]
    np.testing.assert_allclose(state, other, atol=1e-5)
    assert np.abs(state - np.roll(other, 1)).mean() > 0.05
    lineage = cells.obs["counterpart_fate"][treated].isin(["erythrocyte", "megakaryocyte"])
    assert (cells.obs["fate"][treated][lineage] == "megakaryocyte").all()


def test_asking_for_counterparts_changes_no_cell():
    np.testing.assert_array_equal(
        small(counterparts=True).layers["counts"], small(counterparts=False).layers["counts"]
    )


def test_snapshots_give_times_and_the_fate_the_cell_will_have():
    cells = small(perturbations=["EKLF"], n_cells=600, snapshots=[0.0, 5.0, 40.0])
    assert set(cells.obs["time"]) == {0.0, 5.0, 40.0}
    start = cells.obsm["tf_state"][(cells.obs["time"] == 0).to_numpy()]
    np.testing.assert_array_equal(start, np.broadcast_to(start[0], start.shape))
    at_start = cells.obs[cells.obs["time"] == 0]
    assert at_start["fate"].nunique() > 2, "the fate of a cell taken at time 0 is that of its future"
    groups = cells.obs.groupby("perturbation", observed=True)["time"].value_counts().unstack()
    assert (groups.max(axis=1) - groups.min(axis=1) <= 1).all()


def test_after_an_onset_time_is_that_of_the_response():
    times = [0.0, 2.0, 8.0]
    cells = small(perturbations=["Fog1"], n_cells=1500, onset=40.0, snapshots=times, control_weight=2.0)
    treated = (cells.obs["perturbation"] == "Fog1").to_numpy()
    assert set(cells.obs["time"][~treated]) == {0.0} and set(cells.obs["time"][treated]) == set(times)
    level = pd.Series(cells.obsm["tf_state"][treated, GENES.index("Fog1")])
    level = level[(cells.obsm["tf_state"][treated, GENES.index("Gata1")] > 0.5)]
    course = level.groupby(cells.obs["time"].to_numpy()[treated][level.index]).mean()
    assert course[0.0] > 0.8 > course[2.0] > course[8.0] and course[8.0] < 0.2
    with pytest.raises(DataError, match="at least one time step"):
        small(onset=0.01)


def test_an_onset_of_zero_keeps_the_hash_of_the_default_cells(cells):
    """Packaged checkpoints carry this hash; a change of the simulation must be meant (raise VERSION)."""
    assert cells.uns["twinlib"]["data_hash"].startswith("b02125927a76a72f")


def test_doses_cytokines_and_contexts_are_labelled_and_act():
    cells = simulate_waddington(
        2200,
        perturbations=["EKLF"],
        cytokines=["EPO", "EPO+G-CSF"],
        doses=[0.1, 1.0],
        contexts=["reference", "slow"],
    )
    check(cells)
    obs = cells.obs
    assert set(obs["cell_context"]) == {"reference", "slow"}
    assert set(obs["perturbation_type"]) == {"none", "CRISPRi", "cytokine"}
    assert set(obs.loc[obs["perturbation"] == "control", "dose"]) == {0.0}
    assert not obs.loc[obs["perturbation_type"] == "cytokine", "target_measured"].any()
    knocked = obs[(obs["perturbation"] == "EKLF") & (obs["cell_context"] == "reference")]
    share = (knocked["fate"] == "erythrocyte").groupby(knocked["dose"]).mean()
    assert share[1.0] == 0 < share[0.1]
    fates = obs[obs["perturbation"] == "control"].groupby("cell_context", observed=True)["fate"]
    assert abs((fates.value_counts(normalize=True).unstack()["neutrophil"]).diff().iloc[-1]) > 0.1


def test_any_set_of_genes_can_be_knocked_down():
    cells = small(perturbations=["Gata1+Pu1+Cebpa+Gata2"])
    treated = (cells.obs["perturbation"] != "control").to_numpy()
    assert (cells.obs["fate"][treated] == "off").mean() > 0.9


def test_knock_downs_are_seen_in_the_counts_of_their_target():
    cells = small(perturbations=["Fog1"], n_cells=1000)
    level = cells[:, "Fog1"].X.mean(axis=1)
    treated = (cells.obs["perturbation"] == "Fog1").to_numpy()
    assert level[treated].mean() < 0.5 * level[~treated].mean()


def test_counts_follow_the_expected_expression():
    cells = small(n_cells=2000)
    counts = cells.layers["counts"]
    share = np.expm1(cells.layers["expected"].astype(float)) / 1e4
    expected = (share * counts.sum(1, keepdims=True)).sum(0)
    np.testing.assert_allclose(counts.sum(0)[expected > 2000], expected[expected > 2000], rtol=0.1)
    assert np.log(counts.sum(1)).std() == pytest.approx(0.35, abs=0.06)


def test_the_wiring_is_the_same_for_every_seed_and_another_for_another_wiring_seed():
    one, two = (small(seed=seed).uns["twinlib"]["regulators"] for seed in (0, 1))
    assert one.equals(two)
    assert not one.equals(small(wiring=Wiring(seed=1)).uns["twinlib"]["regulators"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": ["nowhere"]}, "'nowhere' is not a cell context"),
        ({"cytokines": ["IL-3"]}, "'IL-3' is not a known cytokine"),
        ({"snapshots": [50.0]}, "between 0 and 40"),
        ({"n_cells": 2}, "2 cells cannot fill 3 groups"),
        ({"efficacy": 2.0}, "between 0 and 1"),
    ],
)
def test_impossible_designs_are_refused_in_one_sentence(options, message):
    with pytest.raises(DataError, match=message):
        small(**options)


def test_held_out_doubles_tell_baselines_apart(cells):
    """Science C: no change is worse than the mean, the mean far worse than adding the two singles."""
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    mean = {label: cells.X[labels == label].mean(0) for label in np.unique(labels)}
    control, doubles = mean["control"], [label for label in mean if "+" in label]
    average = np.mean([mean[label] for label in mean if label != "control"], axis=0)

    def additive(label):
        one, other = label.split("+")
        return mean[one] + mean[other] - control

    def error(prediction):
        return np.mean([np.linalg.norm(mean[label] - prediction(label)) for label in doubles])

    def pearson_delta(prediction):
        pairs = ((mean[label] - control, prediction(label) - control) for label in doubles)
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])

    assert error(lambda label: control) > error(lambda label: average) > 1.3 * error(additive)
    assert pearson_delta(additive) > 0.7 > 0.4 > pearson_delta(lambda label: average)
