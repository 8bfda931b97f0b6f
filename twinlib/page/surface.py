"""A landscape to turn with mouse or keyboard: one self-contained HTML output, no network, no library."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
#: Largest HTML that one surface may take, in bytes.
LARGEST = 300_000


@dataclass(frozen=True)
class Frame:
    """One landscape of a series."""

    #: Heights [M, M]: first axis to the right, second axis to the back.
    height: Array
    #: What the reader sees beside the slider, for example "u = 0.10: barrier 1.9".
    label: str
    #: Named places as (x, y, name), in the units of the axes.
    markers: Sequence[tuple[float, float, str]] = ()


def surface_html(
    frames: Sequence[Frame],
    name: str,
    alt: str,
    *,
    upper: float,
    ceiling: float,
    axes: tuple[str, str, str] = ("gene 1", "gene 2", "U"),
    paths: Array | None = None,
    slider: str = "landscape",
) -> str:
    """Return the HTML of a surface that turns: a canvas, sliders that work by keyboard, and a table to read.

    Shapes: heights of all frames [M, M] on [0, upper]^2, cut at `ceiling`; `paths` [T, n, 2] are cells that a
    Play button moves over the surface.

    Raises
    ------
    ValueError
        Heights of unequal shape, an empty alt text, or more than `LARGEST` bytes.
    """
    size = frames[0].height.shape[0]
    if any(frame.height.shape != (size, size) for frame in frames) or len(alt.strip()) < 20:
        raise ValueError("A surface needs heights of one square shape and an alt text of 20 letters or more.")
    heights = np.stack([np.clip(frame.height, 0, ceiling) for frame in frames]) / ceiling
    data = {
        "size": size, "upper": upper, "ceiling": ceiling, "axes": list(axes),
        "labels": [frame.label for frame in frames],
        "markers": [
            [[round(float(x), 3), round(float(y), 3), text] for x, y, text in frame.markers]
            for frame in frames
        ],
        "heights": _pack(heights * 255),
        "paths": None if paths is None else _pack(np.clip(np.asarray(paths) / upper, 0, 1) * 255),
        "cells": 0 if paths is None else int(np.shape(paths)[1]),
    }  # fmt: skip
    rows = "".join(f"<li>{html.escape(frame.label)}</li>" for frame in frames)
    page = importlib.resources.files("twinlib.page").joinpath("surface.html").read_text(encoding="utf-8")
    page = page.replace("@ID@", f"surface-{name}").replace("@ALT@", html.escape(alt, quote=True))
    page = page.replace("@SLIDER@", html.escape(slider)).replace("@LAST@", str(len(frames) - 1))
    page = page.replace("@FRAMES@", "" if len(frames) > 1 else "display:none").replace("@ROWS@", rows)
    page = page.replace("@PLAY@", "" if paths is not None else "display:none")
    page = page.replace("@DATA@", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    if len(page.encode()) > LARGEST:
        raise ValueError(
            f"The surface takes {len(page.encode())} bytes (limit {LARGEST}); use a coarser grid."
        )
    return page


def show_surface(frames: Sequence[Frame], name: str, alt: str, **options: Any) -> None:
    """Show a surface (see `surface_html`) in a notebook; elsewhere nothing happens."""
    page = surface_html(frames, name, alt, **options)
    if "IPython" in sys.modules:
        from IPython.display import display

        bundle = {"text/html": page, "text/plain": f"[interactive figure {name}: {alt}]"}
        display(bundle, raw=True, metadata={"twinlib": {"figure": name, "alt": alt}})  # type: ignore[no-untyped-call]


def crossing_html(
    height: Array,
    paths: dict[str, Array],
    told: dict[str, Sequence[str]],
    name: str,
    alt: str,
    *,
    upper: float,
    markers: Sequence[tuple[float, float, str]] = (),
    axes: tuple[str, str] = ("gene 1", "gene 2"),
) -> str:
    """Return the HTML of a map on which cells move under one policy after another.

    Shapes: `height` [M, M] in 0..1 on [0, upper]^2; `paths` one [T, n, 2] a policy; `told` one text a policy
    and time step, shown below the map while it plays.

    Raises
    ------
    ValueError
        Paths of unequal shape, texts that do not match them, an empty alt text, or more than `LARGEST` bytes.
    """
    shapes = {np.shape(path) for path in paths.values()}
    steps = next(iter(shapes))[0] if len(shapes) == 1 else -1
    if any(len(told.get(policy, ())) != steps for policy in paths) or len(alt.strip()) < 20:
        raise ValueError(
            "A crossing needs paths of one shape, a text for every policy and step, and an alt text."
        )
    data = {
        "size": len(height), "upper": upper, "axes": list(axes), "height": _pack(np.clip(height, 0, 1) * 255),
        "markers": [[round(float(x), 3), round(float(y), 3), text] for x, y, text in markers],
        "labels": list(paths), "told": [list(told[policy]) for policy in paths],
        "paths": [_pack(np.clip(np.asarray(path) / upper, 0, 1) * 255) for path in paths.values()],
        "cells": next(iter(shapes))[1],
    }  # fmt: skip
    rows = "".join(f"<li>{html.escape(policy)}: {html.escape(told[policy][-1])}</li>" for policy in paths)
    page = importlib.resources.files("twinlib.page").joinpath("crossing.html").read_text(encoding="utf-8")
    page = page.replace("@ID@", f"crossing-{name}").replace("@ALT@", html.escape(alt, quote=True))
    page = page.replace("@LAST@", str(steps - 1)).replace("@ROWS@", rows)
    page = page.replace("@DATA@", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    if len(page.encode()) > LARGEST:
        raise ValueError(
            f"The crossing takes {len(page.encode())} bytes (limit {LARGEST}); show fewer cells."
        )
    return page


def show_crossing(
    height: Array,
    paths: dict[str, Array],
    told: dict[str, Sequence[str]],
    name: str,
    alt: str,
    **options: Any,
) -> None:
    """Show a crossing (see `crossing_html`) in a notebook; elsewhere nothing happens."""
    page = crossing_html(height, paths, told, name, alt, **options)
    if "IPython" in sys.modules:
        from IPython.display import display

        bundle = {"text/html": page, "text/plain": f"[interactive figure {name}: {alt}]"}
        display(bundle, raw=True, metadata={"twinlib": {"figure": name, "alt": alt}})  # type: ignore[no-untyped-call]


def _pack(values: Array) -> str:
    """Base64 of values in 0..255 as bytes."""
    return base64.b64encode(np.rint(values).astype(np.uint8).tobytes()).decode("ascii")
