"""Numbers from a run into prose: computed sentences, glued values, checked exercises, the closing line."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable

_GLUE = "application/papermill.record/"
_PRINTED = ("twinlib", "numpy", "scipy", "pandas", "anndata", "torch", "gymnasium")


def _in_notebook() -> bool:
    """Tell whether IPython is already running here, without importing it where it is not."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return get_ipython() is not None


def say(text: str) -> None:
    """Show a sentence with computed numbers as Markdown (as plain text outside a notebook).

    Parameters
    ----------
    text : str
        Markdown; numbers are formatted by the caller, so that prose never holds a typed result.
    """
    if not _in_notebook():
        print(text)
        return
    from IPython.display import Markdown, display

    display(Markdown(text))  # type: ignore[no-untyped-call]


def glue(key: str, value: object) -> None:
    """Keep a value under a key, so that a page of the book can insert it with ``{glue:text}``.

    Nothing appears on the page that records.
    Outside a notebook nothing happens.

    Parameters
    ----------
    key : str
        Unique in the notebook.
    value : object
        A number or a string; its ``repr`` is stored, numbers as Python scalars.
    """
    if not _in_notebook():
        return
    from IPython.display import display

    item = getattr(value, "item", None)
    plain = item() if callable(item) else value
    display(
        {_GLUE + "text/plain": repr(plain)},
        raw=True,
        metadata={"scrapbook": {"name": key, "mime_prefix": _GLUE}},
    )  # type: ignore[no-untyped-call]


class _Verdict(int):
    """A truth value that a notebook does not echo below the sentence that says it already."""

    def __repr__(self) -> str:
        return repr(bool(self))

    def _ipython_display_(self) -> None:
        """Show nothing."""


def attempt(label: str, check: Callable[..., object], *answers: object) -> int:
    """Print whether an answer to an exercise passes its check; never raises.

    Parameters
    ----------
    label : str
        The exercise, for example ``"2.1"``.
    check : callable
        Called with the answers; it asserts, with a message that helps.
    *answers : object
        What the reader wrote: a function, a number, a table.

    Returns
    -------
    int
        A truth value: true for a correct answer.

    Examples
    --------
    >>> def check_1(answer):
    ...     assert answer == 4, "count the sides again"
    >>> attempt("0.1", check_1, 4)
    Exercise 0.1: correct.
    True
    >>> attempt("0.1", check_1, 5)
    Exercise 0.1: not yet: count the sides again
    False
    """
    try:
        check(*answers)
    except AssertionError as error:
        print(f"Exercise {label}: not yet: {str(error).strip() or 'the check does not hold'}")
        return _Verdict(False)
    except Exception as error:  # an unfinished answer may fail in any way, and the page must go on
        print(f"Exercise {label}: not yet: {type(error).__name__}: {error}")
        return _Verdict(False)
    print(f"Exercise {label}: correct.")
    return _Verdict(True)


def stamp_line(seed: int | None = 0) -> str:
    """Return the closing line of a notebook: its seed and the versions it ran with, no clock time.

    Parameters
    ----------
    seed : int, optional
        The seed the page was computed with; None where the page draws nothing.
    """
    facts = [] if seed is None else [f"seed {seed}"]
    facts.append(f"Python {platform.python_version()}")
    for name in _PRINTED:
        try:
            facts.append(f"{name} {importlib.metadata.version(name).split('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " · ".join(facts)
