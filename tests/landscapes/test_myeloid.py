"""The answers about the myeloid network that science.md C lists, each computed again."""

import numpy as np
import pytest

from twinlib.errors import DataError
from twinlib.landscapes.gene_network import CONTEXTS
from twinlib.landscapes.myeloid import (
    CYTOKINES,
    EDGES,
    FATES,
    GENES,
    MyeloidNetwork,
    all_states,
    boolean_fixed_points,
    boolean_step,
    clamped_fates,
    cytokine_input,
    fate,
    gene_vector,
    knockdown_multiplier,
    minimal_clamps,
    rules,
)

ERY, MK, MO, NEU = "erythrocyte", "megakaryocyte", "monocyte", "neutrophil"


def share(multiplier=None, boost=None, n=2000, seed=0, network=None):
    """Share of each fate among n simulated cells."""
    multiplier = np.ones(11) if multiplier is None else multiplier
    boost = np.zeros(11) if boost is None else boost
    tile = lambda v: np.tile(v, (n, 1))  # noqa: E731
    network = network or MyeloidNetwork()
    _, final = network.simulate(tile(multiplier), tile(boost), generator=np.random.default_rng(seed))
    names, counts = np.unique(fate(final[0]), return_counts=True)
    return dict(zip(names.tolist(), (counts / n).tolist(), strict=True))


def test_the_2048_states_hold_exactly_the_six_fixed_points():
    assert len(np.unique(all_states(), axis=0)) == 2048
    assert sorted(boolean_fixed_points(), key=sorted) == sorted(FATES.values(), key=sorted)


def test_the_signed_edges_are_those_of_the_rules():
    """Flipping a regulator in some state changes its target, always in the direction of the sign."""
    states = all_states()
    found = set()
    for i, regulator in enumerate(GENES):
        low, high = states.copy(), states.copy()
        low[:, i], high[:, i] = 0, 1
        change = boolean_step(high).astype(int) - boolean_step(low)
        for j in np.flatnonzero(change.any(0)):
            signs = set(np.unique(change[:, j])) - {0}
            assert len(signs) == 1
            found.add((regulator, GENES[j], int(signs.pop())))
    assert found == set(EDGES)


def test_fates_share_out_as_published_and_are_stable_over_seeds():
    expected = {ERY: 0.23, MK: 0.24, MO: 0.25, NEU: 0.27}
    for seed in range(3):
        shares = share(seed=seed)
        assert set(shares) == set(expected)
        assert all(abs(shares[name] - expected[name]) < 0.05 for name in expected), shares


MINIMAL = {
    (ERY, MK): [{"EKLF": 0}, {"Fli1": 1}],
    (MK, ERY): [{"EKLF": 1}, {"Fli1": 0}],
    (MO, NEU): [{"Pu1": 0}, {"cJun": 0}, {"EgrNab": 0}, {"Gfi1": 1}],
    (NEU, MO): [{"EgrNab": 1}, {"Gfi1": 0}],
}


@pytest.mark.parametrize(("pair", "clamps"), MINIMAL.items())
def test_one_gene_moves_a_cell_between_neighbouring_fates(pair, clamps):
    assert minimal_clamps(*pair) == clamps


@pytest.mark.parametrize("start", [MO, NEU])
def test_two_genes_take_a_myeloid_cell_to_erythrocyte(start):
    expected = [{g: 1, **other} for g in ("Gata2", "Gata1") for other in ({"EKLF": 1}, {"Fli1": 0})]
    assert minimal_clamps(start, ERY) == expected


@pytest.mark.parametrize("start", [ERY, MK])
def test_three_genes_take_an_erythroid_cell_to_monocyte(start):
    found = minimal_clamps(start, MO)
    assert {"Cebpa": 1, "Pu1": 1, "EgrNab": 1} in found
    assert {len(c) for c in found} == {3}


def test_pu1_alone_takes_erythrocyte_to_the_spurious_state_one_gene_off_monocyte():
    assert clamped_fates(ERY, [{"Pu1": 1}]) == ["spurious"]
    assert len(FATES[MO] ^ FATES["spurious"]) == 1


def test_pu1_alone_lands_in_the_spurious_state_in_noisy_runs_too():
    start = np.tile([float(g in FATES[ERY]) for g in GENES], (200, 1))
    push = np.tile(gene_vector({"Pu1": 1.0}), (200, 1))
    network = MyeloidNetwork()
    rng = np.random.default_rng(0)
    # Pu1 is transcribed at full rate whatever represses it, then let go.
    _, pushed = network.simulate(np.ones_like(start), push, generator=rng, start=start)
    _, final = network.simulate(np.ones_like(start), generator=rng, start=pushed[0])
    ends = fate(final[0])
    # The state itself is shallow: now and then noise takes a cell on to the empty state.
    assert (ends == "spurious").mean() > 0.98 and not (ends == MO).any()


def test_each_cytokine_biases_the_fate_it_is_named_for():
    base = share()
    for name, favoured in {"EPO": ERY, "TPO": MK, "M-CSF": MO, "G-CSF": NEU}.items():
        assert share(boost=cytokine_input({name: 1.0}))[favoured] > base[favoured] + 0.05, name


def test_a_knock_down_of_a_needed_gene_removes_the_fate_and_its_dose_matters():
    shares = [share(knockdown_multiplier(["EKLF"], e)).get(ERY, 0.0) for e in (0.0, 0.15, 0.9)]
    assert shares[0] > 0.15 and shares[2] == 0
    assert shares[0] > shares[1] > shares[2]


def test_the_held_out_context_has_other_shares():
    assert abs(share(network=CONTEXTS["slow"]).get(MO, 0) - share()[MO]) > 0.1


def test_drift_agrees_between_numpy_and_torch_with_any_leading_axes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, m, c = rng.random((2, 3, 11)), rng.random((2, 3, 11)), rng.random((3, 11))
    network = MyeloidNetwork()
    expected = network.drift(x, m, np.broadcast_to(c, x.shape))
    tensors = network.drift(torch.tensor(x), torch.tensor(m), torch.tensor(c).expand(2, 3, 11))
    np.testing.assert_allclose(tensors.numpy(), expected, atol=1e-14)
    np.testing.assert_allclose(network.drift(x[1, 2], m[1, 2], c[2]), expected[1, 2], atol=1e-14)


def test_each_fixed_point_of_the_rules_is_nearly_one_of_the_drift():
    for members in FATES.values():
        state = np.array([float(g in members) for g in GENES])
        assert np.abs(MyeloidNetwork(sigma=0.0).drift(state)).max() < 1e-12


def test_between_zero_and_one_the_rules_are_multilinear():
    rng = np.random.default_rng(1)
    for i in range(11):
        g = list(rng.random(11))
        ends = []
        for value in (0.0, 0.5, 1.0):
            g[i] = value
            ends.append(np.array(rules(g), dtype=float))
        np.testing.assert_allclose(ends[1], (ends[0] + ends[2]) / 2, atol=1e-12)


def test_fate_names_one_gene_off_and_refuses_ties():
    def state(*genes):
        return np.array([float(g in genes) for g in GENES])

    assert fate(state("Gata1", "Fog1", "EKLF")) == ERY
    assert fate(state("Gata1", "Fog1", "SCL")) == "undecided"
    assert fate(state("Pu1", "cJun", "EgrNab")) == "spurious"


def test_bad_input_is_refused_in_one_sentence():
    with pytest.raises(DataError, match="not a known cytokine"):
        cytokine_input({"IL-3": 1.0})
    with pytest.raises(DataError, match="between 0 and 1"):
        knockdown_multiplier(["Gata1"], 1.5)
    with pytest.raises(DataError, match="dt > 0"):
        MyeloidNetwork(dt=0.0)
    assert set(CYTOKINES) == {"EPO", "TPO", "M-CSF", "G-CSF"}
