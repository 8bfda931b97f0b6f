"""The simulated screen as plain arrays: groups, shares of cells, downstream genes and counts."""

import subprocess
import sys

import numpy as np
import pytest

from twinlib.data.schema import CONTROL
from twinlib.landscapes.gene_network import (
    UNTREATED,
    Wiring,
    all_knockdowns,
    share_out,
    simulate_groups,
    treatment_groups,
)
from twinlib.landscapes.myeloid import GENES


def screen(contexts=("reference",), doses=(0.5, 1.0)):
    return treatment_groups(("Gata1", "Gata1+Pu1"), ("EPO",), doses, 0.9, contexts, 8.0)


def test_the_untreated_label_is_the_control_label_of_the_data():
    assert UNTREATED == CONTROL


def test_groups_scale_their_input_by_the_dose_and_control_comes_first():
    groups = screen(("reference", "slow"))
    assert len(groups) == 2 * (1 + 2 * 3) and groups[0].label == groups[7].label == UNTREATED
    half, full = (next(g for g in groups if g.label == "Gata1+Pu1" and g.dose == dose) for dose in (0.5, 1.0))
    lowered = [GENES.index("Gata1"), GENES.index("Pu1")]
    np.testing.assert_allclose(half.multiplier[lowered], 1 - 0.45)
    np.testing.assert_allclose(full.multiplier[lowered], 1 - 0.9)
    assert (np.delete(full.multiplier, lowered) == 1).all() and not full.boost.any()


@pytest.mark.parametrize("n_cells", [7, 100, 1401])
def test_shares_are_exact_to_one_cell(n_cells):
    groups = screen()
    sizes = np.bincount(share_out(groups, n_cells), minlength=len(groups))
    weights = np.array([group.weight for group in groups])
    assert sizes.sum() == n_cells
    assert np.abs(sizes - n_cells * weights / weights.sum()).max() < 1 + 1e-9


def test_states_come_context_by_context_and_times_from_the_snapshots():
    groups = screen(("reference", "slow"), (1.0,))
    group = share_out(groups, 44)
    harvest, final, time = simulate_groups(groups, group, [0.0, 5.0], True, 0.0, np.random.default_rng(0))
    assert harvest.shape == final.shape == (2, 44, 11) and set(time) == {0.0, 5.0}
    untreated = np.array([groups[i].label == UNTREATED for i in group])
    np.testing.assert_array_equal(final[0, untreated], final[1, untreated])


def test_expression_is_a_share_and_counts_follow_it():
    wiring = Wiring(n_genes=20, overdispersion=1e-3, library_sd=0.01, library_size=50_000)
    shares = wiring.relative_expression(np.random.default_rng(0).random((300, 11)))
    assert shares.shape == (300, 31)
    np.testing.assert_allclose(shares.sum(1), 1)
    counts = wiring.counts(shares, np.random.default_rng(1))
    np.testing.assert_allclose(counts.mean(0) / 50_000, shares.mean(0), rtol=0.1, atol=2e-5)


def test_edges_are_the_weights():
    wiring = Wiring(n_genes=30)
    weights, _ = wiring.weights()
    downstream = [edge for edge in wiring.edges() if edge[1].startswith("gene")]
    assert len(downstream) == np.count_nonzero(weights)
    regulator, target, weight = downstream[3]
    assert weights[GENES.index(regulator), wiring.genes.index(target)] == weight
    assert len(all_knockdowns()) == 66


def test_importing_it_loads_neither_anndata_nor_pandas_nor_another_room():
    code = """import sys, twinlib.landscapes.gene_network
assert not {"anndata", "pandas", "torch", "twinlib.data"} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True)
