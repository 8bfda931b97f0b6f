"""Hits of a policy whose actions are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinlib.environment.hits import mean_actions, overlap_of_seeds, precision, screen_hits
from twinlib.environment.packaged import packaged_world


class Fixed:
    """A policy of two seeds that always plays the same action."""

    replicas = 2

    def __init__(self, actions: torch.Tensor) -> None:
        self.actions = actions

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return self.actions[:, None].expand(-1, obs.shape[1], -1)


@pytest.fixture(scope="module")
def world():
    return packaged_world()


def fixed(world) -> Fixed:
    actions = torch.zeros(2, len(world.action_names))
    actions[:, 3], actions[:, 7] = -0.9, 0.5
    actions[0, 5], actions[1, 5] = 0.4, -0.3
    return Fixed(actions)


def test_mean_actions_are_those_of_the_policy(world):
    policy = fixed(world)
    label = world.labels[int(world.label[0])]
    assert torch.allclose(mean_actions(policy, world, label=label, n_cells=8), policy.actions, atol=1e-6)
    clipped = Fixed(policy.actions * 3)
    assert mean_actions(clipped, world, n_cells=8).abs().max() <= 1.0


def test_hits_are_ranked_by_size_with_their_agreement(world):
    label = world.labels[int(world.label[0])]
    hits = screen_hits(fixed(world), world, labels=[label], top=3, n_cells=8)
    assert hits.gene.tolist() == [world.action_names[i] for i in (3, 7, 5)]
    assert hits["rank"].tolist() == [1, 2, 3] and hits.action.iloc[0] == pytest.approx(-0.9)
    assert hits.same_sign.tolist() == [1.0, 1.0, 0.5] and hits.sd.iloc[0] == 0.0
    assert hits.stability.iloc[0] == 1.0


def test_stability_is_the_overlap_of_the_strongest():
    assert overlap_of_seeds(np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), 2) == 0.5
    assert np.isnan(overlap_of_seeds(np.ones((1, 4)), 2))


def test_precision_counts_known_genes(world):
    label = world.labels[int(world.label[0])]
    hits = screen_hits(fixed(world), world, labels=[label], top=2, n_cells=8)
    table = precision(hits, {world.action_names[3]})
    assert table.loc[label, "precision"] == 0.5 and table.loc[label, "expected"] == 0.5


def test_a_label_without_cells_is_refused(world):
    missing = next((i for i in range(len(world.labels)) if not (world.label == i).any()), None)
    if missing is None:
        pytest.skip("every label of the packaged world has cells")
    with pytest.raises(ValueError, match="no cell of this world"):
        mean_actions(fixed(world), world, label=world.labels[missing])
