"""Fixtures every room shares."""

from __future__ import annotations

import os
import pathlib

import pytest
from hypothesis import settings

from twinlib.evaluation import judge

settings.register_profile(
    "default", max_examples=int(os.environ.get("TWINLIB_EXAMPLES", "200")), deadline=None
)
settings.load_profile("default")

HERE = pathlib.Path(__file__).parent
#: Files that take longest: they start first, so that no worker is left alone with one at the end.
LONGEST = (
    "experiments/test_tuning.py", "verdict/test_report.py", "results/test_packaged_results.py",
    "verdict/test_defect_reports.py", "experiments/test_experimental.py", "verdict/test_score.py",
    "experiments/test_workers.py", "experiments/test_escape_tuned.py", "experiments/test_peer_returns.py",
    "evaluation/test_nothing_in_nothing_out.py", "evaluation/test_cell_eval2.py", "verdict/test_command.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    rank = {HERE / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def few_halvings():
    """The row `replicate` is a mean of 8 halvings, not of 50: more make it steadier, and cost most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "HALVINGS", 8)
        yield


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real cells named by TWINLIB_DATA_DIR; tests that need it skip where it is not set."""
    folder = os.environ.get("TWINLIB_DATA_DIR", "")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("TWINLIB_DATA_DIR names no folder with the real data files")
    return pathlib.Path(folder)
