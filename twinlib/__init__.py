"""A digital twin of a perturbation experiment, small enough to read: see the book beside this package."""

import os

__version__ = "0.1.0"

# numba (inside scanpy) opens its OpenMP pool on all cores and thereby raises torch's thread count, whatever
# OMP_NUM_THREADS said; on a shared machine that made training ten times slower. It reads this at its import.
if os.environ.get("OMP_NUM_THREADS", "").isdigit():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

from twinlib.environment.gymnasium_api import register_environments

register_environments()
