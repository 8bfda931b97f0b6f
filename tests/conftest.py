"""Fixtures every room shares."""

from __future__ import annotations

import os
import pathlib

import pytest
from hypothesis import settings

settings.register_profile(
    "default", max_examples=int(os.environ.get("TWINLIB_EXAMPLES", "200")), deadline=None
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real cells named by TWINLIB_DATA_DIR; tests that need it skip where it is not set."""
    folder = os.environ.get("TWINLIB_DATA_DIR", "")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("TWINLIB_DATA_DIR names no folder with the real data files")
    return pathlib.Path(folder)
