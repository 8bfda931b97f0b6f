"""Worlds of a fold: held-out labels and contexts are asked for, never seen; actions are what cells got."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from twinlib.data import sources
from twinlib.data.preparation import Prepared, prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.attention import Embedding, EmbeddingConfig
from twinlib.embedding.train import train_embedding
from twinlib.environment.assembly import given_actions, make_world
from twinlib.environment.dynamics import EnvironmentConfig
from twinlib.environment.greedy import GreedyLinear
from twinlib.environment.prediction import PolicyPredictor
from twinlib.environment.units import mean_return
from twinlib.environment.world import World
from twinlib.environment.yardsticks import Nothing
from twinlib.errors import WorldError
from twinlib.evaluation.judge import Group, evaluate

QUICK = EmbeddingConfig(latent_dim=4, epochs=1)
#: How the file names them.
MONOCYTES = "CD11c CD14 CD38"


@pytest.fixture(scope="module")
def held_out() -> tuple[Prepared, Embedding]:
    cells = simulate_waddington(600, perturbations=("Gata1", "Pu1", "Cebpa"))
    prepared = prepare(cells, 60, "perturbations", held_out=["Pu1"])
    return prepared, train_embedding(prepared, QUICK)[0]


@pytest.fixture(scope="module")
def world(held_out: tuple[Prepared, Embedding]) -> World:
    return make_world(*held_out)


def test_a_held_out_perturbation_has_a_condition_and_no_cell(world: World) -> None:
    assert "Pu1" in world.labels and bool(world.conditions[world.labels.index("Pu1")].any())
    assert world.labels.index("Pu1") not in world.label.tolist()
    assert set(world.labels) == {"Gata1", "Pu1", "Cebpa"}


def test_the_target_of_a_held_out_perturbation_reaches_nothing(
    held_out: tuple[Prepared, Embedding], world: World
) -> None:
    prepared, embedding = held_out
    cells = prepared.cells.copy()
    cells.X[prepared.rows("test")] += 1.0
    before, after = world, make_world(dataclasses.replace(prepared, cells=cells), embedding)
    for name in ("x", "y", "z0", "changes", "conditions", "kicks", "effects"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert before.units.gain == after.units.gain and torch.equal(before.units.std, after.units.std)


def test_a_policy_is_judged_on_what_was_held_out(held_out: tuple[Prepared, Embedding], world: World) -> None:
    prepared, config = held_out[0], EnvironmentConfig()
    rows = [
        PolicyPredictor("greedy", GreedyLinear(world, config), world, config),
        PolicyPredictor("do_nothing", Nothing(world), world, config),
    ]
    assert rows[0].reaches(Group("Pu1", 1.0, "reference", ""))
    assert not rows[0].reaches(Group("Pu1", 0.5, "reference", ""))
    assert not rows[0].reaches(Group("Fli1", 1.0, "reference", ""))
    scores = evaluate(prepared, rows, experiment="held out").scores
    wide = scores[scores.metric == "pseudobulk_mse"].set_index("model")["value"]
    assert wide["do_nothing"] == pytest.approx(wide["no_change"]) and wide["greedy"] != wide["no_change"]


def test_validation_cells_are_measured_in_training_units(
    held_out: tuple[Prepared, Embedding], world: World
) -> None:
    prepared, embedding = held_out
    validation = make_world(prepared, embedding, "validation", like=world)
    assert validation.units is world.units and validation.action_scale(15) == world.action_scale(15)
    assert set(map(tuple, validation.y.tolist())).isdisjoint(map(tuple, world.y.tolist()))
    assert float(mean_return(Nothing(world), validation, EnvironmentConfig())) == 0.0
    with pytest.raises(WorldError, match="pass like="):
        make_world(prepared, embedding, "validation")


@pytest.fixture(scope="module")
def stimuli() -> tuple[Prepared, World]:
    prepared = prepare(sources.load("chi11"), 10, "contexts", held_out=[MONOCYTES])
    return prepared, make_world(prepared, train_embedding(prepared, QUICK)[0])


def test_stimuli_are_doses_on_the_scale_of_the_data(stimuli: tuple[Prepared, World]) -> None:
    prepared, world = stimuli
    assert world.action_names == ("A", "G", "L", "T") and not bool(world.kicks.any())
    assert world.scale_of_data == "arcsinh" and len(world.changes) == 4 * 7
    row = PolicyPredictor("do_nothing", Nothing(world), world, EnvironmentConfig())
    cells = np.float64(prepared.expression("test", "control", MONOCYTES))
    assert np.array_equal(
        row.predict(Group("A", 1.0, MONOCYTES, ""), cells - 60), (cells - 60)[None].astype(np.float32)
    )


def test_changes_are_those_within_a_context(stimuli: tuple[Prepared, World]) -> None:
    prepared, world = stimuli
    context = prepared.cells.obs["cell_context"].astype(str).to_numpy()[prepared.rows("train", "G")][0]
    means = [prepared.expression("train", label, context).mean(0) for label in ("G", "control")]
    close = [np.allclose(change, means[0] - means[1], atol=1e-5) for change in world.changes.numpy()]
    assert sum(close) == 1
    assert torch.isfinite(world.mean_changes()).all()


@pytest.mark.parametrize(
    ("kinds", "actions"),
    [
        ({"Gata1": "CRISPRi", "Pu1": "CRISPRi"}, "genes"),
        ({"Gata1": "cytokine", "Pu1": "cytokine"}, "cytokines"),
        ({"Gata1": "CRISPRi", "Pu1": "cytokine"}, "both"),
    ],
)
def test_actions_are_read_from_perturbed_cells(
    held_out: tuple[Prepared, Embedding], kinds: dict[str, str], actions: str
) -> None:
    prepared = held_out[0]
    labels = prepared.cells.obs["perturbation"].astype(str)
    cells = prepared.cells.copy()
    cells.obs["perturbation_type"] = pd.Categorical(labels.map(kinds).fillna("none"))
    treated = dataclasses.replace(prepared, cells=cells, train_perturbations=tuple(kinds))
    assert given_actions(treated) == actions
