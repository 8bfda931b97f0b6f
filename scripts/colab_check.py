"""Run notebooks as Colab would: alone in an empty folder, without twinlib, which comes from a git address.

    python scripts/colab_check.py [--offline] [NN ...]

A copy of the last commit gets its own address as home.
A fresh virtual environment sees the packages of this one except twinlib and what Colab lacks, and a stand-in
for google.colab. Then the setup cell of each notebook installs the package, and pip fetches what is missing.
What the first notebook fetched stays for the others; twinlib itself is removed before each.
With --offline the environment sees all packages but twinlib, and nothing is fetched.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv

import stamp

#: What the package or its pages use and Colab's image does not hold.
NOT_ON_COLAB = (
    "anndata",
    "array-api-compat",
    "dtaidistance",
    "legacy-api-wrap",
    "pot",
    "rdata",
    "scanpy",
    "session-info2",
    "stable-baselines3",
    "torch-geometric",
)
_RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=sys.argv[2])
"""


def hidden(offline: bool) -> set[str]:
    """Return the names in site-packages that the environment must not see."""
    names = {"_virtualenv.py", "__pycache__"}
    for package in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        if name == "twinlib" or (name in NOT_ON_COLAB and not offline):
            names |= {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "")}
    return names


def environment(folder: pathlib.Path, offline: bool) -> pathlib.Path:
    """Make a virtual environment that sees the installed packages Colab has; return its Python."""
    venv.create(folder / "venv", symlinks=True)  # pip is seen, as the other packages are
    python = folder / "venv" / "bin" / "python"
    seen, unseen = folder / "seen", hidden(offline)
    seen.mkdir()
    for item in pathlib.Path(sysconfig.get_paths()["purelib"]).iterdir():
        if item.name not in unseen and "twinlib" not in item.name:
            (seen / item.name).symlink_to(item)
    (seen / "google").mkdir(exist_ok=True)
    (seen / "google" / "colab.py").write_text('"""A stand-in for the module that only Colab has."""\n')
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = pathlib.Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (site / "seen.pth").write_text(f"{seen}\n")
    return python


def published(folder: pathlib.Path) -> pathlib.Path:
    """Return a clone of the last commit whose notebooks name the clone itself as their home."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "-q", str(stamp.ROOT), str(clone)], check=True)
    home = [sys.executable, "scripts/home.py", f"file://{clone}"]
    subprocess.run(home, cwd=clone, check=True)
    return clone


def run(python: pathlib.Path, notebook: pathlib.Path, offline: bool) -> bool:
    """Run one notebook alone in an empty folder, without the real data; tell whether it passed."""
    kept = {key: value for key, value in os.environ.items() if key not in ("TWINLIB_DATA_DIR", "PYTHONPATH")}
    # pip reads this variable the wrong way round: 0 switches the isolated (and downloading) build off
    kept |= {"PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1"}
    kept["JUPYTER_PATH"] = f"{sys.prefix}/share/jupyter"  # nbconvert is seen, and so must its templates be
    if offline:
        nowhere = "http://127.0.0.1:9"
        kept |= {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "http_proxy": nowhere, "https_proxy": nowhere}
    uninstall = [str(python), "-m", "pip", "uninstall", "-q", "-y", "twinlib"]
    subprocess.run(uninstall, env=kept, check=True, capture_output=True)
    # pip leaves compiled loops, and a notebook would take their folder for the package
    for left in python.parents[1].glob("lib/*/site-packages/twinlib"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory() as empty:
        if offline:
            kept |= {"XDG_CACHE_HOME": f"{empty}/cache"}
        order = [str(python), "-c", _RUN, str(notebook), empty]
        done = subprocess.run(order, env=kept, capture_output=True, text=True, check=False)
    print(f"{notebook.stem}: {'passed' if done.returncode == 0 else 'failed'}", flush=True)
    if done.returncode:
        print(done.stderr[-2000:], flush=True)
    return done.returncode == 0


def main() -> int:
    """Check the notebooks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("which", nargs="*", metavar="NN")
    parser.add_argument("--offline", action="store_true", help="see every package but twinlib, fetch nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        folder = pathlib.Path(name)
        python, clone = environment(folder, given.offline), published(folder)
        wanted = [clone / "notebooks" / f"{path.stem}.ipynb" for path in stamp.sources(given.which)]
        return 0 if all([run(python, path, given.offline) for path in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main())
