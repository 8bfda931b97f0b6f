"""What stands behind each gymnasium id of the package: a name, and the cells it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twinlib.environment.batched import BatchedDynamics
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.known_answers import MyeloidDynamics, ToggleDynamics
from twinlib.environment.packaged import packaged_world
from twinlib.environment.world import World


def screen(
    packaged: str,
    n_cells: int,
    world: World | None = None,
    config: EnvironmentConfig | None = None,
    targets: Sequence[str] | None = None,
) -> Dynamics:
    """N cells of a world, of the packaged one where none is given; only `targets` may be acted on."""
    world = packaged_world(packaged) if world is None else world
    return Dynamics(world if targets is None else world.only(targets), config, n_cells=n_cells)


#: Task: what makes N of its cells from `n_cells` and the settings given to `gymnasium.make`.
TASKS: dict[str, Callable[..., BatchedDynamics]] = {
    # an action adjusts each gene of the panel, between -1 and 1
    "GeneScreen": partial(screen, "waddington"),
    # an action is a dose of each cytokine, between 0 and 1; cells respond differently, and there is no kick
    "Cytokine": partial(screen, "cytokine"),
    # genes and doses in one action
    "Combination": partial(screen, "combination"),
    "ToggleSwitch": ToggleDynamics,
    "Myeloid": MyeloidDynamics,
}
