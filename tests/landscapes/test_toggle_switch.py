"""The answers about the toggle switch that science.md C lists, each computed again."""

import numpy as np
import pytest

from twinlib.errors import DataError
from twinlib.landscapes.optimal_control import Actions, best_success, shortest_pulse, value_iteration
from twinlib.landscapes.potential import mean_exit_time, quasi_potential
from twinlib.landscapes.toggle_switch import ToggleSwitch

SWITCH = ToggleSwitch()
PUSH, ACTIVATE, REPRESS, KNOCKDOWN = (-1, 1), (0, 1), (-1, 0), (1, 0)


def test_drift_by_hand_at_one_point():
    x1, x2, h = 0.7, 1.3, lambda x: x**4 / (0.5**4 + x**4)
    by_hand = [h(x1) + 1 - h(x2) - x1 + 0.2, h(x2) + 1 - h(x1) - x2 - 0.1]
    np.testing.assert_allclose(SWITCH.drift(np.array([x1, x2]), np.array([0.2, -0.1])), by_hand, atol=1e-14)


def test_drift_agrees_between_numpy_and_torch_with_any_leading_axes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, u, m = rng.random((4, 5, 2)) * 2, rng.normal(size=(4, 5, 2)), rng.random((4, 5, 2))
    tensors = SWITCH.drift(torch.tensor(x), torch.tensor(u), torch.tensor(m))
    np.testing.assert_allclose(tensors.numpy(), SWITCH.drift(x, u, m), atol=1e-14)
    np.testing.assert_allclose(
        SWITCH.drift(x[2, 3], u[2, 3], m[2, 3]), SWITCH.drift(x, u, m)[2, 3], atol=1e-14
    )


def test_jacobian_is_the_derivative_of_the_drift():
    rng = np.random.default_rng(0)
    x, m = rng.random((20, 2)) * 2 + 0.01, rng.random((20, 2))
    for j in range(2):
        step = np.eye(2)[j] * 1e-6
        slope = (SWITCH.drift(x + step, None, m) - SWITCH.drift(x - step, None, m)) / 2e-6
        np.testing.assert_allclose(SWITCH.jacobian(x, m)[..., j], slope, atol=1e-7)


def test_three_attractors_and_two_saddles():
    points = SWITCH.fixed_points()
    assert [p.kind for p in points] == ["attractor", "saddle", "attractor", "saddle", "attractor"]
    expected = [(1.9961, 0.0039), (1.5116, 0.4884), (1, 1), (0.4884, 1.5116), (0.0039, 1.9961)]
    np.testing.assert_allclose([p.x for p in points], expected, atol=5e-5)


def test_less_self_activation_removes_the_progenitor():
    points = ToggleSwitch(a=0.5).fixed_points()
    assert [p.kind for p in points] == ["attractor", "saddle", "attractor"]
    np.testing.assert_allclose([p.x for p in points[:2]], [(1.4938, 0.0124), (0.6374, 0.6374)], atol=5e-5)
    assert "progenitor" in ToggleSwitch(a=0.775).attractors
    assert "progenitor" not in ToggleSwitch(a=0.774).attractors


THRESHOLDS = [
    ("A", PUSH, (0, 0), 0.1851, "B"),
    ("A", ACTIVATE, (0, 0), 0.1874, "progenitor"),
    ("A", REPRESS, (0, 0), 1.0686, None),
    ("A", (0, 0), KNOCKDOWN, 0.5923, None),
    ("progenitor", PUSH, (0, 0), 0.1149, "B"),
    ("progenitor", REPRESS, (0, 0), 0.1255, "B"),
    ("progenitor", (0, 0), KNOCKDOWN, 0.1538, "B"),
    ("progenitor", ACTIVATE, (0, 0), np.inf, "progenitor"),
]


@pytest.mark.parametrize(("start", "control", "knockdown", "expected", "lands"), THRESHOLDS)
def test_exact_thresholds_and_where_the_cell_lands(start, control, knockdown, expected, lands):
    x = SWITCH.attractors[start]
    threshold = SWITCH.escape_threshold(x, control, knockdown)
    assert threshold == pytest.approx(expected, abs=5e-5)

    def after(strength):
        u, m = strength * np.array(control), 1 - strength * np.array(knockdown)
        return SWITCH.basin(SWITCH.settle(x, u, m, time=400.0))

    if lands is not None:
        assert after(min(threshold * 1.002, 10.0)) == lands
    if np.isfinite(threshold):
        assert after(threshold * 0.998) == start
        assert after(threshold * 1.002) != start


def test_below_the_threshold_no_bang_bang_schedule_escapes():
    rng = np.random.default_rng(0)
    x = np.tile(SWITCH.attractors["A"], (400, 1))
    for _ in range(60):
        x = SWITCH.settle(x, 0.184 * rng.choice([-1.0, 1.0], size=x.shape), time=rng.uniform(0.1, 3))
    assert (SWITCH.basin(x) == "A").all()


BARRIERS = {0.01: (6.89, 5.69), 0.02: (3.74, 3.16), 0.05: (1.51, 1.38)}


@pytest.mark.parametrize(("noise", "expected"), BARRIERS.items())
def test_barriers_of_the_quasi_potential(noise, expected):
    potential = quasi_potential(ToggleSwitch(noise=noise), size=140)
    barriers = list(potential.barriers().values())
    np.testing.assert_allclose(barriers[:2], expected, atol=0.006)
    np.testing.assert_allclose(potential.u, potential.u.T, atol=1e-6)


def test_the_lowest_pass_lies_at_the_saddle():
    potential, places = quasi_potential(SWITCH), SWITCH.attractors
    over = potential.pass_height(places["A"], [places["progenitor"]])
    assert over == pytest.approx(potential.height([1.5116, 0.4884]), abs=0.02)


def test_the_quasi_potential_is_what_long_runs_visit():
    switch = ToggleSwitch(noise=0.05)
    paths = switch.simulate(np.ones((400, 2)), 400.0, np.random.default_rng(0), every=50)[40:].reshape(-1, 2)
    potential = quasi_potential(switch)
    density = np.exp(-potential.u) / np.exp(-potential.u).sum()
    for gene_1_high in (True, False):
        inside = (potential.grid[:, None] > 1.5) == gene_1_high
        visited = ((paths[:, 0] > 1.5) == gene_1_high).mean()
        assert density[np.broadcast_to(inside, density.shape)].sum() == pytest.approx(visited, abs=0.03)


def test_exit_times_are_those_of_simulated_cells():
    switch, start = ToggleSwitch(noise=0.05), SWITCH.attractors["A"]
    paths = switch.simulate(np.tile(start, (300, 1)), 120.0, np.random.default_rng(0), dt=0.01, every=2)
    gone = paths[..., 0] - paths[..., 1] < 0.2
    assert gone.any(0).mean() > 0.99
    times = np.where(gone.any(0), gone.argmax(0) * 0.02, 120.0)
    exact = mean_exit_time(switch, start, lambda x: x[..., 0] - x[..., 1] >= 0.2)
    assert times.mean() == pytest.approx(exact, abs=4 * times.std() / np.sqrt(300))
    with pytest.raises(DataError, match="start must lie in the region"):
        mean_exit_time(switch, SWITCH.attractors["B"], lambda x: x[..., 0] > 1)


def test_a_tilt_lowers_the_barrier_it_pushes_over():
    flat, tilted = quasi_potential(SWITCH), quasi_potential(SWITCH, u=np.array([-0.1, 0.1]))
    assert list(tilted.barriers().values())[0] < list(flat.barriers().values())[0] / 2


PULSES = {0.2: 16.91, 0.3: 6.55, 0.5: 3.38, 1.0: 1.58}


@pytest.mark.parametrize(("u", "expected"), PULSES.items())
def test_shortest_pulse_and_value_iteration_agree(u, expected):
    pulse = shortest_pulse(SWITCH, u)
    assert pulse == pytest.approx(expected, abs=0.005)
    values = value_iteration(SWITCH, u, dt=0.1)
    start = SWITCH.attractors["A"]
    # Within one time step: stricter than one time step and one grid cell.
    assert abs(values.at(start) - pulse) < values.dt
    np.testing.assert_array_equal(values.policy(start), [-u, u])


def test_below_the_threshold_neither_finds_a_way():
    assert shortest_pulse(SWITCH, 0.184) == np.inf
    assert value_iteration(SWITCH, 0.17, size=81, dt=0.25).at(SWITCH.attractors["A"]) == np.inf


def test_value_iteration_knows_knock_downs_too():
    pulse = shortest_pulse(SWITCH, 0.7, direction=(0, 0), knockdown=(1, 0))
    values = value_iteration(SWITCH, Actions.knockdowns(0.7), dt=0.1)
    start = SWITCH.attractors["A"]
    assert abs(values.at(start) - pulse) < values.dt
    np.testing.assert_allclose(values.actions.multipliers[values.choose(start)], [0.3, 1.0])
    assert shortest_pulse(SWITCH, 0.55, direction=(0, 0), knockdown=(1, 0)) == np.inf


def test_the_policy_of_value_iteration_arrives_when_it_says():
    values = value_iteration(SWITCH, 0.3, dt=0.1)
    x, time = SWITCH.attractors["progenitor"], 0.0
    promised = float(values.at(x))
    while SWITCH.basin(x) != "B":
        x, time = SWITCH.advance(x, values.policy(x), None, values.dt), time + values.dt
        assert time < 20
    assert abs(time - promised) <= 2 * values.dt


def run_policy(switch, values, horizon, n=4000, dt=0.1):
    rng, x = np.random.default_rng(0), np.tile(SWITCH.attractors["A"], (n, 1))
    steps = round(horizon / dt)
    for step in range(steps):
        x = switch.simulate(x, dt, rng, u=values.policy(x, steps - step), dt=dt / 5)[-1]
    return (SWITCH.basin(x) == "B").mean()


def test_best_success_is_reached_by_its_policy_and_by_no_constant_control():
    switch = ToggleSwitch(noise=0.02)
    values = best_success(switch, 0.15, horizon=15.0, size=121, upper=3.0)
    promised = float(values.at(SWITCH.attractors["A"]))
    assert 0.05 < promised < 0.95
    assert run_policy(switch, values, 15.0) == pytest.approx(promised, abs=0.05)
    start = np.tile(SWITCH.attractors["A"], (2000, 1))
    for u in ([0.0, 0.0], [0.0, 0.15], [-0.15, 0.0]):
        end = switch.simulate(start, 15.0, np.random.default_rng(1), u=np.array(u))[-1]
        assert (SWITCH.basin(end) == "B").mean() < promised


def test_without_noise_best_success_is_the_shortest_pulse():
    start = SWITCH.attractors["A"]
    quiet = ToggleSwitch(noise=0.0)
    options = dict(size=121, upper=3.0)
    pulse = shortest_pulse(SWITCH, 0.5)
    assert best_success(quiet, 0.5, horizon=pulse + 0.3, **options).at(start) > 0.95
    assert best_success(quiet, 0.5, horizon=pulse - 0.3, **options).at(start) < 0.05
    assert best_success(quiet, 0.15, horizon=15.0, **options).at(start) == 0


def test_expression_never_falls_below_zero():
    paths = SWITCH.simulate(SWITCH.attractors["A"], 5.0, np.random.default_rng(0), u=np.array([-1.0, 1.0]))
    assert paths.min() >= 0
    assert SWITCH.settle(SWITCH.attractors["A"], np.array([-1.0, 1.0])).min() >= 0


def test_bad_parameters_are_refused():
    with pytest.raises(DataError, match="k, s, n > 0"):
        ToggleSwitch(k=0.0)
    with pytest.raises(DataError, match="noise > 0"):
        quasi_potential(ToggleSwitch(noise=0.0))
