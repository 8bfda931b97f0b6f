"""A picture of one cell's path in the latent space, as an array of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from twinlib.environment.world import World

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def main_axes(world: World) -> Tensor:
    """The two orthonormal axes `[D, 2]` along which the world's control cells differ most."""
    centred = world.z0 - world.z0.mean(0)
    return torch.linalg.svd(centred, full_matrices=False)[2][:2].T


def landscape(
    world: World, axes: Tensor, width: float = 1.4, points: int = 60
) -> tuple[np.ndarray, ...] | None:
    """Grid `[points]` twice and U `[points, points]` of the marginal landscape; None without a density."""
    if world.density is None:
        return None
    flat = world.z0 @ axes
    middle, reach = flat.mean(0), width * (flat - flat.mean(0)).abs().amax(0)
    ticks = torch.linspace(-1, 1, points, dtype=flat.dtype)
    a, b = middle[0] + reach[0] * ticks, middle[1] + reach[1] * ticks
    grid = torch.stack(torch.meshgrid(a, b, indexing="xy"), dim=-1)
    return a.numpy(), b.numpy(), world.density.marginal(axes).energy(grid).numpy()


def draw_path(axis: Axes, world: World, path: Tensor, axes: Tensor | None = None) -> None:
    """Draw a latent path `[T+1, D]` among the control cells, and the landscape if there is one."""
    axes = main_axes(world) if axes is None else axes
    ground = landscape(world, axes)
    if ground is not None:
        axis.contourf(
            *ground[:2], np.minimum(ground[2], ground[2].min() + 8), levels=12, cmap="Greys", alpha=0.6
        )
    cells, line = (world.z0 @ axes).cpu().numpy(), (path @ axes).cpu().numpy()
    axis.scatter(cells[:, 0], cells[:, 1], s=4, color="0.6", linewidths=0)
    axis.plot(*line.T, "-o", color="#0072B2", markersize=3)
    axis.plot(*line[0], "s", color="#D55E00")
    axis.set_xlabel("latent axis 1")
    axis.set_ylabel("latent axis 2")


def frame(world: World, path: Tensor, axes: Tensor | None = None) -> np.ndarray:
    """The picture of `draw_path` as pixels `[400, 400, 3]` of type uint8."""
    return pixels(lambda axis: draw_path(axis, world, path, axes))


def plain_frame(path: Tensor) -> np.ndarray:
    """The first two coordinates of a path `[T+1, D]` as pixels `[400, 400, 3]`."""

    def draw(axis: Axes) -> None:
        axis.plot(*path[:, :2].T.cpu().numpy(), "-o", color="#0072B2", markersize=3)
        axis.set_xlabel("first coordinate")
        axis.set_ylabel("second coordinate")

    return pixels(draw)


def pixels(draw: Callable[[Axes], None]) -> np.ndarray:
    """What `draw(axis)` draws as pixels `[400, 400, 3]` of type uint8, without touching pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
