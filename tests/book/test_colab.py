"""One notebook as Colab would run it: alone in an empty folder, the package installed from a git address.

Chapter 4 stands for all: it needs the tables that travel inside the package, and the cells that stand in
where the real ones cannot be had.
`make colab` runs every notebook and fetches what Colab lacks;
that takes the network and a quarter of an hour.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_notebook_runs_alone_from_a_git_address() -> None:
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        pytest.skip("not a git checkout: there is no commit to install from")
    order = [sys.executable, "scripts/colab_check.py", "--offline", "04"]
    done = subprocess.run(order, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "04_experimental_twin: passed" in done.stdout
