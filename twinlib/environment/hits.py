"""The gene screen's answer: genes a policy moves under each perturbation, and how sure the seeds are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import finite_arrays, name_list, require_number
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.world import World
from twinlib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.policy.actor_critic import ActorCritic


@torch.no_grad()
def mean_actions(
    policy: ActorCritic,
    world: World,
    config: EnvironmentConfig | None = None,
    label: str | None = None,
    n_cells: int = 256,
) -> Tensor:
    """Mean action `[R, A]` over cells and time steps, in the world's own cells of one label (or of all).

    The mean action is taken at every step, process noise and kick are off.
    """
    cells = torch.arange(len(world))
    if label is not None:
        cells = cells[world.label.cpu() == int(world.label_index([label])[0])]
    if len(cells) == 0:
        raise InputError(f"no cell of this world carries the label {label!r}: ask for one in world.label.")
    cells = cells[:n_cells]
    dynamics = Dynamics(world, (config or EnvironmentConfig()).quiet(), policy.replicas, len(cells))
    generators = [torch.Generator(dynamics.device).manual_seed(0) for _ in range(policy.replicas)]
    obs, total = dynamics.reset(generators, cells=cells), torch.zeros(policy.replicas, dynamics.action_dim)
    for _ in range(dynamics.horizon):
        action = dynamics.cut(policy.act(obs))
        total += action.mean(1).cpu()
        obs = dynamics.step(action).obs
    return total / dynamics.horizon


def overlap_of_seeds(actions: np.ndarray, top: int) -> float:
    """Mean share that the `top` strongest actions of two seeds have in common, over pairs; actions [R, A].

    nan for a single seed.
    """
    (actions,) = finite_arrays(actions=(actions, "R A"))
    require_number("top", top, 1, whole=True)
    top = min(top, actions.shape[1])
    best = [set(np.argsort(-np.abs(row))[:top]) for row in actions]
    shares = [len(a & b) / top for a, b in combinations(best, 2)]
    return float(np.mean(shares)) if shares else float("nan")


def screen_hits(
    policy: ActorCritic,
    world: World,
    config: EnvironmentConfig | None = None,
    labels: Sequence[str] | None = None,
    top: int = 10,
    n_cells: int = 256,
) -> pd.DataFrame:
    """Genes ranked by the size of their mean action, per perturbation.

    Columns: perturbation, rank (1 is strongest), gene, action (mean over seeds), sd (over seeds), same_sign
    (share of seeds that agree with the mean's sign), stability (`overlap_of_seeds` at `top`, one value a
    perturbation). Rows: `top` genes for each of `labels` (default: every label that occurs in the world).
    """
    import pandas as pd

    present = [world.labels[i] for i in sorted(set(world.label.tolist()))]
    chosen = present if labels is None else name_list("labels", labels)
    tables = []
    for label in chosen:
        actions = mean_actions(policy, world, config, label, n_cells).numpy()
        tables.append(_ranked(world, label, actions, top))
    return pd.concat(tables, ignore_index=True)


def _ranked(world: World, label: str, actions: np.ndarray, top: int) -> pd.DataFrame:
    """The `top` rows of one perturbation from the mean actions `[R, A]` of its seeds."""
    import pandas as pd

    mean = actions.mean(0)
    order = np.argsort(-np.abs(mean))[:top]
    return pd.DataFrame(
        {
            "perturbation": label,
            "rank": np.arange(1, len(order) + 1),
            "gene": [world.action_names[i] for i in order],
            "action": mean[order],
            "sd": actions.std(0, ddof=1)[order] if len(actions) > 1 else np.nan,
            "same_sign": (np.sign(actions) == np.sign(mean)).mean(0)[order],
            "stability": overlap_of_seeds(actions, top),
        }
    )


def precision(hits: pd.DataFrame, known: Collection[str]) -> pd.DataFrame:
    """Share of each perturbation's hits that are `known` genes (a pathway, a simulator's regulators).

    Columns: precision, expected (the share of known genes among the hits of all perturbations together,
    what a screen that ignores the perturbation would score).
    """
    hit = hits.gene.isin(name_list("known", known))
    table = hit.groupby(hits.perturbation).mean().rename("precision").to_frame()
    return table.assign(expected=float(hit.mean()))
