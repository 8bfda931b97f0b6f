"""One style for every figure: the same colour for the same thing on every page, readable on a phone."""

from __future__ import annotations

import base64
import html
import io
import pathlib
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text
    from matplotlib.transforms import BboxBase
    from numpy.typing import ArrayLike

#: Colour of each entity on every page: every algorithm, every row of a table, every kind of cell. Mid-tone,
#: readable on white, no two alike; the algorithms differ for colour-blind readers, too.
COLOURS: dict[str, str] = {
    # cells
    "control": "#6b7280",
    "perturbed": "#d55e00",
    "real": "#2b3648",
    # both twins
    "experimental": "#0072b2",
    "insilico": "#009e73",
    # algorithms
    "PPO": "#4c3fb8",
    "PPO_KL": "#8f83e8",
    "PPO_restart": "#b39ddb",
    "TRPO": "#c77700",
    "two_stage": "#009e73",
    "alternating": "#a31d55",
    "alternating_printed": "#9f0414",
    "second_stage_after_plain": "#2424f9",
    "second_stage_alone": "#cd8f51",
    # rows of the released code
    "TRPO_PPO_zero_target": "#3f7d20",
    "TRPO_PPO_mended_logged": "#8aa829",
    "TRPO_PPO_mended_kl": "#5fb84a",
    # contestants of chapter 13 that are no algorithm of their own
    "PPO_entropy": "#7a3fd0",
    "PPO_random_restarts": "#54407a",
    "random_search": "#7d7a2a",
    "value_iteration": "#5a1f1f",
    # baselines
    "mean": "#e8604f",
    "matching_mean": "#e6a90f",
    "additive": "#7b6fb0",
    "linear": "#a44fa0",
    "latent_shift": "#d980ae",
    "context_mean": "#6a8f3c",
    "experimental_mean_only": "#0fb5c4",
    # yardsticks of policies
    "greedy": "#1ed71a",
    "pathwise": "#194119",
    # references and controls
    "do_nothing": "#9ca3af",
    "no_change": "#9ca3af",
    "random": "#603050",
    "untrained": "#8b9a7b",
    "ceiling": "#0b0b0f",
    "replicate": "#a07060",
    "real_halves": "#a07060",
    "straight_line": "#b8860b",
    "reversed": "#7c4a03",
    "experimental_shuffled": "#93b9ea",
    "two_stage_shuffled": "#7cc2a6",
}

#: Width of a screen (CSS pixels) up to which a figure shows its panels below each other.
PHONE = 600
#: Width (inches) of a figure for a phone.
COLUMN = 4.8
#: Least height (inches) of one of its panels.
LOWEST = 2.4
#: Letters of a label that fit its width; a line is not broken into fewer than the second.
LETTERS, SHORTEST = 44, 10
#: Least share of a narrow figure's width that its panels have; a panel with more numbers is not made narrow.
LEAST_SHARE, NUMBERS = 0.45, 30
#: Half the width (points) of a dot that a name must not cover.
DOT = 3
#: Where a name may stand beside its dot: offset in points, and the corner of the name that is put there.
SIDES = (
    (4, 3, "left", "bottom"),
    (-4, 3, "right", "bottom"),
    (4, -3, "left", "top"),
    (-4, -3, "right", "top"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (9, 12, "left", "bottom"),
    (9, -12, "left", "top"),
)


def style() -> None:
    """Set the house style (white face, large enough letters) for the figures of this process."""
    import matplotlib.pyplot as plt

    plt.style.use(pathlib.Path(__file__).with_name("book.mplstyle"))


def _png(fig: Figure) -> bytes:
    """Return the figure as PNG bytes without date or version, so that a second run gives the same bytes.

    A palette of 256 colours, without dithering, makes the picture a third of its size.
    """
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=144, facecolor="white", pil_kwargs={"compress_level": 0})
    with Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def figure_html(
    png: bytes, name: str, alt: str, width: int, caption: str = "", narrow: bytes | None = None
) -> str:
    """Return an HTML figure that carries its picture inside, scales to the screen and has alt text.

    Parameters
    ----------
    png : bytes
    name : str
        The anchor; ``#fig-<name>`` links to it.
    alt, caption : str
        Plain text.
    width : int
        Width in CSS pixels on a wide screen.
    narrow : bytes, optional
        The picture that a phone shows in its place.
    """
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    phone = f'<source media="(max-width: {PHONE}px)" srcset="{_uri(narrow)}">' if narrow else ""
    return (
        f'<figure id="fig-{name}" style="margin:0"><picture>{phone}'
        f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%;'
        f'height:auto;background:#fff" src="{_uri(png)}"></picture>{below}</figure>'
    )


def stack(fig: Figure) -> bool:
    """Put the panels of a figure below each other, as wide as a phone can show; tell whether it changed.

    Panels that share an axis get its numbers and its name back. A figure of one column is made as narrow, so
    that its letters are not scaled down; one of nested grids stays as it is.
    """
    panels = {ax: ax.get_subplotspec() for ax in fig.axes}
    specs = {ax: spec for ax, spec in panels.items() if spec is not None}
    grids = {id(spec.get_gridspec()) for spec in specs.values()}
    places = sorted({(spec.rowspan.start, spec.colspan.start) for spec in specs.values()})
    width, height = fig.get_size_inches()
    if len(grids) != 1 or width <= COLUMN:
        return False
    if len({column for _, column in places}) < 2:
        return _narrowed(fig)
    rows, columns = (len({place[axis] for place in places}) for axis in (0, 1))
    each = height / rows * min(COLUMN * columns / width, 1.0)
    fig.set_size_inches(COLUMN, max(each, LOWEST) * len(places))
    grid = fig.add_gridspec(len(places), 1)
    first = next(iter(specs))
    for ax, spec in specs.items():
        ax.set_subplotspec(grid[places.index((spec.rowspan.start, spec.colspan.start))])
        ax.tick_params(labelleft=True, labelbottom=True)
        if ax is not first and ax.get_shared_y_axes().joined(first, ax):
            ax.set_ylabel(ax.get_ylabel() or first.get_ylabel())
            ax.tick_params(axis="y", labelsize=first.get_yticklabels()[0].get_fontsize())
    return _fitted(fig)


def _narrowed(fig: Figure) -> bool:
    """Make a figure of one column as wide as a phone, unless what is drawn in it would have no room."""
    width, height = fig.get_size_inches()
    if any(ax.name == "3d" or len(ax.texts) > NUMBERS for ax in fig.axes):
        return False
    fig.set_size_inches(COLUMN, height)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on a panel without any room, which is seen below
        fig.canvas.draw()
    panels = [ax for ax in fig.axes if ax.get_subplotspec()]
    beside = min(box.x0 for ax in panels if (box := ax.yaxis.get_tightbbox()))
    if (
        beside < 0
        or any(map(_crowded, panels))
        or min(ax.get_position().width for ax in panels) < LEAST_SHARE
    ):
        fig.set_size_inches(width, height)
        return False
    return _fitted(fig)


def _crowded(ax: Axes) -> bool:
    """Tell whether numbers along a panel cover each other."""
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    upright = all(label.get_rotation() == 0 for label in ax.get_xticklabels())
    return upright and any(one.x1 > other.x0 > one.x0 for one, other in zip(boxes, boxes[1:], strict=False))


def _fitted(fig: Figure) -> bool:
    """Break legends, names of axes and titles that a narrow figure has no room for; return True."""
    _narrow_legends(fig)
    for _ in range(3):  # what was broken moves the rest
        fig.canvas.draw()
        for ax in fig.axes:
            for text in (ax.xaxis.label, ax.title):
                box = text.get_window_extent()
                middle = (box.x0 + box.x1) / 2
                _break(text, box.width, 2 * min(middle, _right_edge(ax, fig) - middle))
            _break(ax.yaxis.label, ax.yaxis.label.get_window_extent().height, ax.bbox.height)
    return True


def _right_edge(ax: Axes, fig: Figure) -> float:
    """Return where a colour bar beside a panel begins, or the figure ends, in pixels."""
    bars = [other.bbox.x0 for other in fig.axes if other.get_label() == "<colorbar>"]
    return min([edge for edge in bars if edge > ax.bbox.x1] or [fig.bbox.width])


def _break(text: Text, length: float, room: float) -> None:
    """Set a text in lines of fewer letters if its length, in pixels, is more than the room."""
    longest = max(map(len, text.get_text().splitlines() or [""]))
    if length > room > 0 and longest > SHORTEST:
        letters = max(int(longest * room / length) - 1, SHORTEST)
        text.set_text(textwrap.fill(text.get_text(), letters, break_long_words=False))


def _narrow_legends(fig: Figure) -> None:
    """Set the legends of the figure in as many columns as a phone has room for."""
    for legend in list(fig.legends):
        labels = [textwrap.fill(text.get_text(), LETTERS - 4) for text in legend.get_texts()]
        legend.remove()
        columns = 2 if max(map(len, labels)) <= LETTERS // 2 else 1
        drawn = [handle for handle in legend.legend_handles if handle is not None]
        fig.legend(drawn, labels, loc="outside lower left", ncols=columns)


def interval_dots(
    ax: Axes, rows: pd.DataFrame, places: Sequence[float], colour: str, label: str | None = None
) -> None:
    """Draw each row's `mean` as a dot, hollow without an interval, and `low` to `high` as a line."""
    heights = np.asarray(places, dtype=float)
    known = np.isfinite(rows["low"].to_numpy(dtype=float))
    ax.hlines(heights[known], rows["low"][known], rows["high"][known], color=colour, lw=2)
    ax.plot(rows["mean"][known], heights[known], "o", ms=5, color=colour, label=label)
    ax.plot(rows["mean"][~known], heights[~known], "o", ms=5, color=colour, fillstyle="none")


def name_dots(ax: Axes, dots: ArrayLike, names: Sequence[str], others: ArrayLike = ()) -> None:
    """Write names [n] beside dots [n, 2], each where it covers least of dots, others [m, 2] and names.

    Dots are x and y in data units. To be called when axis limits and scales are set: sides are compared where
    the figure is drawn.
    """
    from matplotlib.transforms import Bbox

    ax.figure.canvas.draw()
    dots = np.asarray(dots, dtype=float).reshape(-1, 2)
    both = np.concatenate([dots, np.asarray(others, dtype=float).reshape(-1, 2)])
    places = ax.transData.transform(both)
    half = DOT * ax.figure.dpi / 72
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in places]
    inside = ax.get_window_extent()
    for dot, name in zip(dots, names, strict=True):
        text = ax.annotate(name, (dot[0], dot[1]), (0, 0), textcoords="offset points", fontsize=7)
        sides = {}
        for side in SIDES:
            _put(text, side)
            box = text.get_window_extent()
            outside = box.width * box.height - _common(box, inside)
            sides[side] = outside + sum(_common(box, other) for other in taken)
        _put(text, min(sides, key=lambda side: sides[side]))
        taken.append(text.get_window_extent())


def _put(text: Annotation, side: tuple[int, int, str, str]) -> None:
    """Put a name at an offset in points, by the given corner of it."""
    text.set_position(side[:2])
    text.set(ha=side[2], va=side[3])


def _common(one: BboxBase, other: BboxBase) -> float:
    """Return the area that two boxes share, pixels squared."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def legend_outside(fig: Figure, columns: int = 2) -> None:
    """Name every labelled curve once, below the panels and off their points, in so many columns."""
    named: dict[str, Artist] = {}
    for ax in fig.axes:
        handles, labels = ax.get_legend_handles_labels()
        named.update(zip(labels, handles, strict=True))
    fig.legend(list(named.values()), list(named), loc="outside lower left", ncols=columns)


def show(fig: Figure, name: str, alt: str, caption: str = "") -> None:
    """Show a figure with alt text (and a caption), then close it; outside a notebook it is only closed.

    A figure that is wider than a phone is drawn a second time for it, see `stack`.

    Parameters
    ----------
    fig : matplotlib Figure
    name : str
        Lower-case letters, digits and hyphens; unique on the page.
    alt : str
        What a reader who does not see the figure must know: axes, curves, the finding. At least 20 letters.
    caption : str
        Shown below the figure.

    Raises
    ------
    ValueError
        For a name or an alt text that would not work on a page.
    """
    import matplotlib.pyplot as plt

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"The figure name {name!r} must hold lower-case letters, digits and hyphens only.")
    if len(alt.strip()) < 20:
        raise ValueError(f"The alt text of figure {name!r} is too short; name axes, curves and finding.")
    if "IPython" in sys.modules:
        from IPython.display import display

        wide, width = _png(fig), round(fig.get_figwidth() * 96)
        page = figure_html(wide, name, alt, width, caption, _png(fig) if stack(fig) else None)
        bundle = {"text/html": page, "text/plain": f"[figure {name}: {alt}]"}
        display(bundle, raw=True, metadata={"twinlib": {"figure": name, "alt": alt}})  # type: ignore[no-untyped-call]
    plt.close(fig)
