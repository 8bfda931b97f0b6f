"""Any action, option or setting at the environment's doors: the right step, or an error of the project."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.gymnasium_api import TASK_NAMES, CellEnv, CellVectorEnv
from twinlib.environment.hits import overlap_of_seeds, precision, screen_hits
from twinlib.environment.known_answers import MyeloidConfig, ToggleConfig
from twinlib.environment.packaged import packaged_world
from twinlib.errors import InputError, OrderError, WorldError

QUIET = EnvironmentConfig(process_noise=0.0, kick=False)
N, A = 3, 6

values = st.one_of(st.floats(-3, 3), st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 1e59]))
kinds = st.sampled_from([np.float64, np.float32, np.int64, np.bool_])
shaped = st.one_of(
    arrays(np.float64, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6), elements=values),
    arrays(np.float64, (N, A), elements=values),
    arrays(np.float64, (N, A), elements=st.floats(-3, 3)),
    arrays(np.float64, (A,), elements=st.floats(-3, 3)),
)
junk = st.sampled_from([None, "push", [], {}, [[1, 2], [3]], 1.5, 2j, [None] * A, np.array(["a"] * A)])


@pytest.fixture(scope="module")
def single() -> CellEnv:
    return CellEnv("GeneScreen", world=toy_world(), config=QUIET)


@pytest.fixture(scope="module")
def vector() -> CellVectorEnv:
    return CellVectorEnv("GeneScreen", N, world=toy_world(), config=QUIET)


@pytest.fixture(scope="module")
def toggle() -> CellEnv:
    return CellEnv("ToggleSwitch")


def moved(actions: np.ndarray) -> np.ndarray:
    """Where the first three cells of the toy world go, from the dynamics itself."""
    dynamics = Dynamics(toy_world(), QUIET, n_cells=len(actions))
    dynamics.reset([torch.Generator()], cells=torch.arange(len(actions)))
    inside = np.clip(actions, -1, 1)  # single precision makes infinity of what the door still takes
    return dynamics.step(torch.as_tensor(inside, dtype=torch.float32)[None]).final_obs[0].numpy()


@given(shaped, kinds)
def test_a_vector_step_is_right_or_refused(vector: CellVectorEnv, actions: np.ndarray, kind: type) -> None:
    vector.reset(options={"cell": [0, 1, 2]})
    usable = actions.shape == (N, A) and bool((np.abs(actions) <= 1e60).all())
    given_ = actions.astype(kind) if usable and np.abs(actions).max() < 1e9 else actions
    if not usable:
        with pytest.raises(InputError, match="actions"):
            vector.step(given_)
        return
    obs, reward, *_ = vector.step(given_)
    assert np.allclose(obs, moved(given_.astype(np.float64)), atol=1e-6) and np.isfinite(reward).all()


@given(shaped)
def test_a_single_step_is_right_or_refused(single: CellEnv, action: np.ndarray) -> None:
    single.reset(options={"cell": 0})
    if action.shape != (A,) or not (np.abs(action) <= 1e60).all():
        with pytest.raises(InputError, match="action"):
            single.step(action)
        return
    obs, reward, *_ = single.step(action)
    assert np.allclose(obs, moved(action[None])[0], atol=1e-6) and np.isfinite(reward)


@given(junk)
def test_what_is_no_action_is_refused(single: CellEnv, action: object) -> None:
    single.reset(seed=0)
    with pytest.raises(InputError, match="action"):
        single.step(action)  # type: ignore[arg-type]


cells = st.one_of(
    st.integers(-2, 22),
    st.lists(st.integers(-1, 20), min_size=0, max_size=4),
    st.lists(st.integers(0, 19), min_size=N, max_size=N),
    shaped,
    junk,
    st.sampled_from([True, "4", np.int64(4), np.array(4)]),
)
profiles = st.one_of(shaped, arrays(np.float64, (N, A), elements=st.floats(0, 3)), junk)
labels = st.one_of(
    st.sampled_from(["g0", "g1", "nobody", ""]),
    st.lists(st.sampled_from(["g0", "g1"]), min_size=N, max_size=N),
    st.lists(st.sampled_from(["g0", "nobody", 3, None]), max_size=4),
    junk,
)
options = st.one_of(
    st.fixed_dictionaries({"cell": cells}),
    st.fixed_dictionaries({"x": profiles, "label": labels}),
    st.fixed_dictionaries({"x": profiles, "label": labels, "y": profiles}),
    st.dictionaries(st.sampled_from(["cell", "x", "label", "y", "colour", 7]), st.one_of(cells, labels)),
    st.sampled_from([["cell"], "cell", 5]),
)


@given(options)
def test_a_vector_reset_is_right_or_refused(vector: CellVectorEnv, options: dict) -> None:
    world = toy_world()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            obs, _ = vector.reset(options=options)
        except (InputError, WorldError):
            vector.reset()  # still usable
            return
    assert vector.observation_space.contains(obs) and np.isfinite(obs).all()
    if not options:
        return
    if "cell" in options:
        chosen = np.broadcast_to(np.asarray(options["cell"], dtype=int), N)
        expected = world.z0[torch.from_numpy(chosen.copy())]
        shown = world.label[torch.from_numpy(chosen.copy())]
    else:
        x = torch.as_tensor(np.asarray(options["x"], dtype=np.float32))
        expected = world.embedding.encode(world.scale(x)).detach()
        shown = world.label_index(list(options["label"]))
    assert np.allclose(obs[:, :3], expected, atol=1e-6)
    assert np.allclose(obs[:, 3:5], world.conditions[shown])


@given(options)
def test_a_reset_of_one_cell_is_right_or_refused(single: CellEnv, options: dict) -> None:
    try:
        obs, info = single.reset(options=options)
    except (InputError, WorldError):
        return
    assert single.observation_space.contains(obs) and np.isfinite(info["error"])


@given(options)
def test_a_task_without_options_refuses_them(toggle: CellEnv, options: dict) -> None:
    if options:
        with pytest.raises(InputError, match="option"):
            toggle.reset(options=options)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_actions_of_every_task_are_checked(task: str) -> None:
    env = gymnasium.make_vec(f"twinlib/{task}-v0", num_envs=3)
    env.reset(seed=0)
    good = env.action_space.sample()
    for wrong in (good.T, good.ravel(), good[:1], np.full_like(good, np.nan)):
        with pytest.raises(InputError, match="actions"):
            env.step(wrong)
    assert np.isfinite(env.step(good)[0]).all()


def test_label_or_y_alone_is_not_ignored(single: CellEnv) -> None:
    for lone in ({"label": "g1"}, {"y": np.ones(A)}, {"x": np.ones(A)}, {"cell": 1, "x": np.ones(A)}):
        with pytest.raises(InputError, match="cannot start from"):
            single.reset(options=lone)


def test_a_string_for_a_list_of_names_is_refused() -> None:
    world = packaged_world()
    policy = None
    for call in (
        lambda: gymnasium.make("twinlib/GeneScreen-v0", world=world, targets="Gata1"),
        lambda: world.only("Gata1"),
        lambda: world.label_index("Gata1"),
        lambda: screen_hits(policy, world, labels="Gata1"),
        lambda: precision(pd.DataFrame({"perturbation": ["a"], "gene": ["G"]}), "Gata1"),
    ):
        with pytest.raises(InputError, match=r"\['Gata1'\]"):
            call()
    with pytest.raises(WorldError, match="twice"):
        world.only(["Gata1", "Gata1"])


def test_the_overlap_of_few_actions_is_not_diluted() -> None:
    actions = np.array([[0.5, -0.2], [0.4, -0.3]])
    assert overlap_of_seeds(actions, 10) == 1.0
    with pytest.raises(InputError, match="top"):
        overlap_of_seeds(actions, 0)


def test_render_or_step_before_reset_is_one_sentence() -> None:
    for env in (CellEnv("ToggleSwitch", "rgb_array"), CellVectorEnv("ToggleSwitch", 2, "rgb_array")):
        with pytest.raises(OrderError, match="render was called before reset"):
            env.render()
        with pytest.raises(OrderError, match="step was called before reset"):
            env.step(np.zeros(env.action_space.shape))
    with pytest.raises(InputError, match="render_mode='human'"):
        CellEnv("ToggleSwitch", "human")


def test_a_step_after_the_end_warns_once_and_moves_nothing(single: CellEnv) -> None:
    obs, _ = single.reset(seed=0)
    for _ in range(15):
        obs, _, ended, _, info = single.step(np.ones(A))
    assert ended
    with pytest.warns(UserWarning, match="after the episode's end") as said:
        again = [single.step(np.ones(A)) for _ in range(3)]
    assert len(said) == 1
    for after, reward, still_ended, cut, same in again:
        assert np.array_equal(after, obs) and reward == 0.0 and still_ended and not cut and same == info
    with pytest.raises(InputError, match="NaN"):
        single.step(np.full(A, np.nan))
    single.reset(seed=0)
    assert not single.step(np.ones(A))[2]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_seed_decides_everything(task: str) -> None:
    def run() -> list[np.ndarray]:
        env = CellEnv(task)
        obs, _ = env.reset(seed=3)
        steps = [env.step(np.full(env.action_space.shape, 0.3)) for _ in range(3)]
        return [obs, *(np.append(step[0], step[1]) for step in steps)]

    assert all(np.array_equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize(
    ("config", "settings", "word"),
    [
        (EnvironmentConfig, {"horizon": 2.5}, "horizon"),
        (EnvironmentConfig, {"horizon": True}, "horizon"),
        (EnvironmentConfig, {"process_noise": np.nan}, "process_noise"),
        (EnvironmentConfig, {"l1": np.inf}, "l1"),
        (EnvironmentConfig, {"action_scale": np.nan}, "action_scale"),
        (EnvironmentConfig, {"cytokine_scale": "2"}, "cytokine_scale"),
        (EnvironmentConfig, {"efficacy": (4, 2, 1)}, "efficacy"),
        (EnvironmentConfig, {"response": (4, 2.5)}, "response"),
        (ToggleConfig, {"l1": np.nan}, "l1"),
        (ToggleConfig, {"dt": 0.0}, "dt"),
        (ToggleConfig, {"interval": np.inf}, "interval"),
        (MyeloidConfig, {"release": np.nan}, "release"),
    ],
)
def test_settings_that_no_comparison_would_notice_are_refused(
    config: type, settings: dict, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        config(**settings)


def test_a_setting_that_no_task_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"knows no setting \['max_episode_steps'\]: choose from \['config'"):
        gymnasium.make_vec("twinlib/GeneScreen-v0", num_envs=2, max_episode_steps=3)
    with pytest.raises(InputError, match=r"ToggleSwitch knows no setting \['replicas', 'world'\]"):
        gymnasium.make("twinlib/ToggleSwitch-v0", world=toy_world(), replicas=2)


def test_arguments_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(InputError, match="world is a str; give a World"):
        CellEnv("GeneScreen", world="waddington")
    with pytest.raises(InputError, match="give a EnvironmentConfig"):
        CellEnv("GeneScreen", world=toy_world(), config={"horizon": 3})
    with pytest.raises(InputError, match="give a ToggleConfig"):
        CellEnv("ToggleSwitch", config=QUIET)
    with pytest.raises(InputError, match="no task 'Gene'"):
        CellEnv("Gene")
    for wrong in (0, 2.5, True):
        with pytest.raises(InputError, match="n_cells"):
            CellVectorEnv("ToggleSwitch", wrong)


def test_cells_given_to_the_dynamics_are_checked() -> None:
    dynamics = Dynamics(toy_world(), QUIET, replicas=2, n_cells=3)
    generators = [torch.Generator() for _ in range(2)]
    for wrong in ([0, 1, 20], [-1, 0, 1], [0.5, 1, 2], [0, 1], [[0, 1, 2]] * 3):
        with pytest.raises(InputError, match="cell"):
            dynamics.reset(generators, cells=torch.tensor(wrong))
    assert dynamics.reset(generators, cells=torch.tensor([[0, 1, 2], [3, 4, 5]])).shape == (2, 3, 6)
