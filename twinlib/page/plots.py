"""One style for every figure: the same colour for the same thing on every page, readable on a phone."""

from __future__ import annotations

import base64
import html
import io
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colour of each entity on every page: mid-tone and colour-blind safe (hues of Okabe and Ito, Wong 2011,
#: darkened until a line stands out on white).
COLOURS: dict[str, str] = {
    "control": "#6b7280",
    "perturbed": "#d55e00",
    "real": "#1f2937",
    "experimental": "#0072b2",
    "insilico": "#009e73",
    "do_nothing": "#9ca3af",
    "no_change": "#9ca3af",
    "straight_line": "#b8860b",
    "random": "#b0aab8",
    "shuffled": "#c9a27e",
    "reversed": "#a16207",
    "halves": "#374151",
    "mean": "#56a0d3",
    "matching_mean": "#3b82a0",
    "additive": "#7b6fb0",
    "linear": "#a44fa0",
    "latent_shift": "#cc6fa0",
    "ceiling": "#111827",
    "PPO": "#0072b2",
    "PPO_KL": "#5b8fd6",
    "PPO_restart": "#7aa6c2",
    "TRPO": "#c77700",
    "two_stage": "#009e73",
    "alternating": "#c2477f",
    "untrained": "#b0aab8",
}

_RC: dict[str, Any] = {
    "figure.figsize": (6.4, 4.0),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "regular",
    "axes.titlelocation": "left",
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "twinlib",
}


def style() -> None:
    """Set the house style (seaborn, white face, large enough letters) for the figures of this process."""
    import seaborn as sns

    sns.set_theme(
        style="whitegrid",
        palette="colorblind",
        rc=_RC,
    )


def _png(fig: Figure) -> bytes:
    """Return the figure as PNG bytes without date or version, so that a second run gives the same bytes.

    A palette of 256 colours, without dithering, makes the picture a third of its size.
    """
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    with Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


def figure_html(png: bytes, name: str, alt: str, width: int, caption: str = "") -> str:
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
    """
    picture = base64.b64encode(png).decode("ascii")
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    narrowest = round(
        0.6 * width
    )  # below this its letters are too small to read; it scrolls sideways instead
    return (
        f'<figure id="fig-{name}" tabindex="0" style="margin:0;overflow-x:auto">'
        f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%;min-width:{narrowest}px;'
        f'height:auto;background:#fff" src="data:image/png;base64,{picture}">{below}</figure>'
    )


def show(fig: Figure, name: str, alt: str, caption: str = "") -> None:
    """Show a figure with alt text (and a caption), then close it; outside a notebook it is only closed.

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

        page = figure_html(_png(fig), name, alt, round(fig.get_figwidth() * 96), caption)
        bundle = {"text/html": page, "text/plain": f"[figure {name}: {alt}]"}
        display(bundle, raw=True, metadata={"twinlib": {"figure": name, "alt": alt}})  # type: ignore[no-untyped-call]
    plt.close(fig)
