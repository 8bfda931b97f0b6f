"""Draw the idea of the book, which stands on the first screen of intro and README: python scripts/idea.py"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

PICTURE = pathlib.Path(__file__).resolve().parents[1] / "book" / "_static" / "idea.svg"
#: Bottoms of both valleys on the axis of cell states.
HEALTHY, MOVED = -1.0, 1.0


def height(state: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return the height of a landscape with two valleys, the second one deeper."""
    x = np.asarray(state, dtype=np.float64)
    return np.asarray((x**2 - 1) ** 2 - 0.22 * x)


def _landscape(ax: Axes) -> None:
    """Draw the ground, the barrier's name and the cell before."""
    from twinlib.page import plots

    x = np.linspace(-1.62, 1.66, 300)
    ax.fill_between(x, height(x), -0.95, color="#f3f4f6", lw=0)
    ax.plot(x, height(x), color=plots.COLOURS["real"], lw=2.5)
    ax.scatter([HEALTHY], [height(HEALTHY) + 0.11], s=330, color=plots.COLOURS["control"], zorder=4)
    ax.text(HEALTHY, -0.02, "a cell", ha="center", va="top")
    ax.text(MOVED, -0.62, "measured cells\nafter a perturbation", ha="center", va="center")


def _measured(ax: Axes, rng: np.random.Generator) -> None:
    """Draw the cells that were measured in the second valley."""
    from twinlib.page import plots

    x = MOVED + 0.13 * rng.standard_normal(16)
    y = height(x) + 0.06 + 0.16 * rng.random(16)
    ax.scatter(x, y, s=70, color=plots.COLOURS["perturbed"], edgecolor="white", zorder=3)


def _experimental(ax: Axes) -> None:
    """Draw the twin that predicts the move at once."""
    from twinlib.page import plots

    colour = plots.COLOURS["experimental"]
    drawn = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.72", "lw": 3, "color": colour}
    ends = {"xy": (MOVED - 0.14, 0.14), "xytext": (HEALTHY, height(HEALTHY) + 0.24)}
    ax.annotate("", **ends, arrowprops={**drawn, "mutation_scale": 24})
    ax.text(-0.05, 1.72, "experimental twin:\npredicts the move", color=colour, ha="center", va="top")


def _in_silico(ax: Axes) -> None:
    """Draw the twin that learns to steer the cell, step by step."""
    from twinlib.page import plots

    x = np.linspace(HEALTHY + 0.12, MOVED - 0.22, 8)
    y, colour = height(x) + 0.1, plots.COLOURS["insilico"]
    for k in range(len(x) - 1):
        drawn = {"arrowstyle": "-|>", "lw": 2.5, "color": colour, "mutation_scale": 18}
        ax.annotate("", xy=(x[k + 1], y[k + 1]), xytext=(x[k], y[k]), arrowprops=drawn)
    ax.text(0.0, 0.62, "in-silico twin:\nlearns to steer", color=colour, ha="center", va="top")


def draw() -> bytes:
    """Return the picture as SVG bytes, the same at every call."""
    import io

    import matplotlib.pyplot as plt

    from twinlib.page import plots

    plots.style()
    plt.rcParams.update({"svg.hashsalt": "idea", "font.size": 15})
    fig, ax = plt.subplots(figsize=(6.4, 4.0))
    _landscape(ax)
    _measured(ax, np.random.default_rng(1))
    _experimental(ax)
    _in_silico(ax)
    ax.text(1.05, 0.62, "how near?", ha="center", va="center", weight="bold")
    ax.set(xlim=(-1.62, 1.66), ylim=(-0.95, 1.8))
    ax.axis("off")
    drawn = io.BytesIO()
    fig.savefig(drawn, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    return drawn.getvalue()


def main() -> int:
    """Write the picture beside the pages."""
    PICTURE.write_bytes(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
