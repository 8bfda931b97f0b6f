"""Environments of their own for models of other groups: made once in the user's cache, never in twinlib's.

arc-state's licence is non-commercial (CC BY-NC-SA 4.0): whoever runs the experiment installs it, and it is no
dependency of the project.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinlib.errors import RunError
from twinlib.files import write_json


@dataclass(frozen=True)
class Outsider:
    """A model of another group."""

    #: Name of its row.
    row: str
    #: What pip installs, pinned.
    pins: tuple[str, ...]
    #: The package whose version is told.
    package: str
    #: Its script beside this file: SCRIPT FOLDER SEED STEPS writes NAME.h5ad beside train.h5ad.
    script: str
    #: Passes or steps of its training.
    steps: int
    #: Its licence, for the manifest.
    licence: str
    #: Trains on the controls of the held-out context, too, as its authors do; no other row does.
    controls: bool = False


_STATE = Outsider(
    "STATE",
    ("arc-state==0.11.1",),
    "arc-state",
    "run_state.py",
    1000,
    "CC BY-NC-SA 4.0, non-commercial: run for comparison, no dependency of twinlib",
)
_SCGEN = Outsider(
    "scGen",
    ("pertpy[scgen]==1.0.3", "statsmodels<0.15"),
    "pertpy",
    "run_scgen.py",
    100,
    "permissive: pertpy's port of scGen (its package holds the MIT licence and is classified Apache-2.0)",
)
#: Models of other groups by the name of the option.
OUTSIDERS = {
    "state": _STATE,
    "scgen": _SCGEN,
    "state_controls": replace(_STATE, row="STATE_controls", controls=True),
    "scgen_controls": replace(_SCGEN, row="scGen_controls", controls=True),
}
#: Packages of an environment whose versions are told, where it holds them.
COMPUTES_WITH = ("torch", "jax", "scvi-tools", "anndata", "numpy")
#: Prints the versions of Python and of the packages that it is given.
VERSIONS = """
import importlib.metadata, json, platform, sys
held = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
told = {name: held[name] for name in sys.argv[1:] if name in held}
print(json.dumps({"python": platform.python_version()} | told))
"""


def environments_folder() -> pathlib.Path:
    """Return where environments are kept: the user's cache, which XDG_CACHE_HOME moves."""
    import pooch

    return pathlib.Path(pooch.os_cache("twinlib")) / "environments"


def environment(name: str, pins: Sequence[str]) -> pathlib.Path:
    """Return the folder of an environment that holds these packages, made if it is not there."""
    place = environments_folder() / name
    receipt, wanted = place / "pins.json", json.dumps(list(pins))
    if receipt.exists() and receipt.read_text() == wanted:
        return place
    log = place.with_suffix(".log")
    venv.create(place, clear=True, with_pip=bool(pins))
    if pins:
        call([place / "bin" / "python", "-m", "pip", "install", *pins], log, f"{name} could not be installed")
    receipt.write_text(wanted)
    return place


def call(words: Sequence[str | pathlib.Path], log: pathlib.Path, failure: str) -> None:
    """Run a command of an environment on one thread without network logins, what it says into a log."""
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    offline = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with log.open("w") as file:
        done = subprocess.run(
            list(map(str, words)), stdout=file, stderr=subprocess.STDOUT, env=inherited | quiet | offline
        )
    if done.returncode:
        raise RunError(f"{failure} (exit status {done.returncode}); the end of {log} says why.")


def predict(name: str, folder: pathlib.Path, seed: int, steps: int) -> tuple[pathlib.Path, float]:
    """Train a model on folder/train.h5ad, answer folder/query.h5ad; return the answer's path and seconds.

    An answer that is there is not made again.
    """
    outsider = OUTSIDERS[name]
    place = environment(outsider.package, outsider.pins)
    answer, clock = folder / f"{name}_{seed}.h5ad", folder / f"{name}_{seed}.json"
    if not clock.exists():
        started = time.perf_counter()
        script = pathlib.Path(__file__).parent / outsider.script
        words: list[str | pathlib.Path] = [
            place / "bin" / "python",
            script,
            folder,
            answer,
            str(seed),
            str(steps),
        ]
        call(words, answer.with_suffix(".log"), f"{outsider.row} did not finish its training")
        write_json(clock, round(time.perf_counter() - started, 1))
    return answer, float(json.loads(clock.read_text()))


def installed(name: str) -> dict[str, str]:
    """Return the versions of Python, the model's package and what it computes with."""
    outsider = OUTSIDERS[name]
    python = environment(outsider.package, outsider.pins) / "bin" / "python"
    words: list[str | pathlib.Path] = [python, "-c", VERSIONS, outsider.package, *COMPUTES_WITH]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
