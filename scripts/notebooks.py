"""The one script for the notebooks: pair, execute, check, home.

python scripts/notebooks.py pair [NN ...]              write the .ipynb of each .py, outputs kept
python scripts/notebooks.py execute [NN ...] [--stale] run them and stamp the outputs
python scripts/notebooks.py check                      fail on a stale stamp or a pair that differs
python scripts/notebooks.py home [URL]                 write the setup cell (and the address) everywhere
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
import stamp
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

TIMEOUT = 300
TIMES = stamp.ROOT / "book" / "execution_times.csv"
KEPT_OLD = 3  # exit status: some outputs are older than their source, because their dataset cannot be had

_WATCH = """
def __twinlib_watch__(root):
    import os, sys
    opened = set()
    def hook(event, args):
        if event == "open" and isinstance(args[0], str):
            opened.add(args[0])
    sys.addaudithook(hook)
    def report(names):
        import json, resource
        files = set()
        for name in opened:
            inside = os.path.relpath(os.path.realpath(name), root).replace(os.sep, "/")
            ours = inside.startswith(("twinlib/", "results/")) and not inside.endswith((".py", ".pyc"))
            if ours and os.path.isfile(os.path.join(root, inside)):
                files.add(inside)
        datasets = {}
        for value in list(names.values()):
            facts = vars(value) if type(value).__name__ == "Prepared" else {}
            if type(value).__name__ == "AnnData":
                facts = value.uns.get("twinlib", {})
            if facts.get("dataset"):
                datasets[str(facts["dataset"])] = str(facts.get("data_hash", ""))
        if isinstance(names.get("dataset"), str):
            datasets.setdefault(names["dataset"], "")
        modules = sorted(name for name in sys.modules if name.split(".")[0] == "twinlib")
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(dict(modules=modules, files=sorted(files), datasets=datasets, megabytes=megabytes)))
    return report
__twinlib_watch__ = __twinlib_watch__({root!r})
"""
_REPORT = "__twinlib_watch__(globals())"


# --- pairs


def _metadata(source: nbformat.NotebookNode, kept: dict[str, Any] | None) -> nbformat.NotebookNode:
    """Return the notebook's metadata: the same on every machine, with the stamp of the outputs it holds."""
    plain: dict[str, Any] = {
        "execution": {"timeout": TIMEOUT},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3", "file_extension": ".py"},
        "jupytext": {"formats": "ipynb,py:percent"},
    }
    if kept:
        plain[stamp.KEY] = kept
    return nbformat.from_dict(plain)


def _name_cells(notebook: nbformat.NotebookNode) -> None:
    """Give each cell an id that follows from its text, so that writing twice gives the same bytes."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.metadata.pop("lines_to_next_cell", None)
        name = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def paired(source: pathlib.Path) -> nbformat.NotebookNode:
    """Return the notebook for a source, with the outputs (and their stamp) that stand beside it already."""
    notebook = stamp.read_source(source)
    executed = source.with_suffix(".ipynb")
    kept = None
    if executed.is_file():
        before = nbformat.read(executed, as_version=4)
        kept = stamp.read_stamp(before)
        notebook.nbformat_minor = before.nbformat_minor
        notebook = combine_inputs_with_outputs(notebook, before, fmt="py:percent")
    notebook.metadata = _metadata(notebook, kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    _name_cells(notebook)
    return notebook


def write(notebook: nbformat.NotebookNode, path: pathlib.Path) -> None:
    """Write beside, then rename, so that no reader sees half a notebook; equal bytes are left alone."""
    text = nbformat.writes(notebook, version=4, indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _shape(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source.rstrip(), stamp.tags(cell)) for cell in notebook.cells]


def pair_differs(source: pathlib.Path) -> bool:
    """Tell whether the .ipynb lacks or holds other cells, text or tags than its source."""
    executed = source.with_suffix(".ipynb")
    if not executed.is_file():
        return True
    return _shape(stamp.read_source(source)) != _shape(nbformat.read(executed, as_version=4))


# --- execution


def _tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Keep what belongs on a page: no progress bars, no widgets, no standard error, no memory addresses."""
    tidy: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            continue
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
            if tidy and tidy[-1].output_type == "stream":
                tidy[-1].text += output.text
                continue
        for kind in ("text/plain", "text/html"):
            if isinstance(data.get(kind), str):
                data[kind] = re.sub(r"\bat 0x[0-9a-f]{6,}", "at 0x…", data[kind])
        tidy.append(output)
    return tidy


def _stderr(notebook: nbformat.NotebookNode) -> str:
    streams = [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream"]
    text = "".join(o.text for o in streams if o.name == "stderr")
    return re.sub(r"[^\n]*\r(?!\n)", "", text).strip()


def run(notebook: nbformat.NotebookNode) -> tuple[dict[str, Any], str]:
    """Execute a notebook in an empty folder; return what it was seen to use, and its standard error."""
    code = nbformat.v4.new_code_cell
    notebook.cells = [code(_WATCH.replace("{root!r}", repr(str(stamp.ROOT)))), *notebook.cells, code(_REPORT)]
    last = len(notebook.cells) - 1
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", record_timing=False)
    client.reset_execution_trackers()
    with tempfile.TemporaryDirectory() as folder, client.setup_kernel(cwd=folder):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index, store_history=index not in (0, last))
    observed = json.loads("".join(o.text for o in notebook.cells[last].outputs if o.get("name") == "stdout"))
    notebook.cells = notebook.cells[1:last]
    complaints = _stderr(notebook)
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.outputs = _tidy(cell.outputs)
        cell.execution_count = count
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return observed, complaints


def missing_datasets(source: pathlib.Path) -> list[str]:
    """Return the datasets a notebook's outputs are to be made from and that cannot be had here."""
    executed = source.with_suffix(".ipynb")
    wanted = set(stamp.preferred_datasets(source))
    if not wanted and executed.is_file():
        kept = stamp.read_stamp(nbformat.read(executed, as_version=4))
        wanted = set(kept["datasets"]) if kept else set()
    if not wanted:
        return []

    from twinlib.data.sources import available

    return sorted(name for name in wanted if not available(name))


def execute_one(source: pathlib.Path, digests: dict[str, str]) -> dict[str, Any]:
    """Execute one notebook and write it with its stamp; on a failure the old outputs stay."""
    code = stamp.code_digest(source)
    notebook = stamp.read_source(source)
    notebook.metadata = _metadata(notebook, None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {"tags": stamp.tags(cell)} if stamp.tags(cell) else dict(cell.metadata)
        )
    began = time.perf_counter()
    try:
        observed, complaints = run(notebook)
    except (CellExecutionError, CellTimeoutError) as error:
        return {"name": source.stem, "error": str(error)}
    seconds = time.perf_counter() - began
    swapped = set(stamp.preferred_datasets(source)) - set(observed["datasets"])
    if swapped:
        return {
            "name": source.stem,
            "error": f"it ran on {sorted(observed['datasets'])}, not on {sorted(swapped)}",
        }
    megabytes = observed.pop("megabytes")
    observed["stamp"] = stamp.make(code, observed, digests)
    notebook.metadata[stamp.KEY] = nbformat.from_dict(observed)
    _name_cells(notebook)
    write(notebook, source.with_suffix(".ipynb"))
    return {"name": source.stem, "seconds": seconds, "megabytes": megabytes, "complaints": complaints}


def _keep_times(results: list[dict[str, Any]]) -> None:
    """Write seconds and peak memory of each notebook where the execution times page reads them."""
    rows: dict[str, list[str]] = {}
    if TIMES.is_file():
        with TIMES.open(newline="", encoding="utf-8") as table:
            rows = {row[0]: row for row in list(csv.reader(table))[1:]}
    for result in results:
        if "seconds" in result:
            rows[result["name"]] = [result["name"], f"{result['seconds']:.0f}", f"{result['megabytes']}"]
    present = {path.stem for path in stamp.sources()}
    beside = TIMES.with_suffix(f".{os.getpid()}.part")
    with beside.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["Notebook", "Seconds", "Peak memory (MB)"])
        kept = [rows[name] for name in sorted(rows) if name in present]
        total, peak = sum(int(row[1]) for row in kept), max((int(row[2]) for row in kept), default=0)
        writer.writerows([*kept, ["all of them", f"{total}", f"{peak}"]])
    os.replace(beside, TIMES)


def _tell(result: dict[str, Any]) -> None:
    if "error" in result:
        print(f"{result['name']}: failed\n{result['error']}", flush=True)
        return
    print(f"{result['name']}: {result['seconds']:.0f} s, {result['megabytes']} MB", flush=True)
    if result["complaints"]:
        print(
            f"  it wrote to standard error (left out of the page):\n{result['complaints'][-1500:]}",
            flush=True,
        )


def execute(which: list[str], stale_only: bool, jobs: int) -> int:
    """Execute notebooks; keep the old outputs of those whose dataset cannot be had."""
    for path in stamp.sources(which):
        write_setup(path, setup_cell())
    digests = stamp.module_digests()
    todo = [path for path in stamp.sources(which) if not stale_only or stamp.is_stale(path, digests)]
    lacking = {path: missing for path in todo if (missing := missing_datasets(path))}
    for path in lacking:
        if path.with_suffix(".ipynb").is_file():
            write(paired(path), path.with_suffix(".ipynb"))
    todo = [path for path in todo if path not in lacking]
    with concurrent.futures.ProcessPoolExecutor(max_workers=max(1, min(jobs, len(todo) or 1))) as pool:
        futures = [pool.submit(execute_one, path, digests) for path in todo]
        results = []
        for future in concurrent.futures.as_completed(futures):
            results.append(future.result())
            _tell(results[-1])
    if results:
        _keep_times(results)
    if lacking:
        names = ", ".join(path.stem for path in lacking)
        data = ", ".join(sorted({name for missing in lacking.values() for name in missing}))
        print(
            f"Outputs older than their source were kept for {names}: {data} cannot be had here; "
            "set TWINLIB_DATA_DIR to the folder that holds it (or go online) and run this again.",
            file=sys.stderr,
        )
    failed = [result["name"] for result in results if "error" in result]
    if failed:
        print(f"Failed: {', '.join(sorted(failed))}.", file=sys.stderr)
        return 1
    return KEPT_OLD if lacking else 0


# --- check


def problems() -> list[str]:
    """Return one sentence for each notebook whose pair differs or whose stamp is stale."""
    digests = stamp.module_digests()
    found = []
    for source in stamp.sources():
        if pair_differs(source):
            found.append(
                f"{source.stem}: the .ipynb differs from the .py; run `python scripts/notebooks.py pair`."
            )
        if stamp.is_stale(source, digests):
            found.append(
                f"{source.stem}: outputs older than source; run `python scripts/notebooks.py execute`."
            )
    strays = [p for p in stamp.NOTEBOOKS.glob("*.ipynb") if not p.with_suffix(".py").is_file()]
    return found + [f"{path.name}: it has no .py source." for path in strays]


# --- the address

_UNSET = """import importlib.util

if importlib.util.find_spec("twinlib") is None:
    raise ModuleNotFoundError(
        "twinlib is not installed: run `pip install -r requirements.txt` in a copy of this book, "
        "or set its address once with `make home URL=...` so that this cell can install it."
    )
import twinlib"""
_SET = """import importlib.util
import subprocess
import sys

HOME = "{url}"
if importlib.util.find_spec("twinlib") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"git+{{HOME}}"], check=True)
    importlib.invalidate_caches()
import twinlib"""
_BLOCK = re.compile(r"# >>> home\n.*?# <<< home\n", re.S)
_BADGES = re.compile(r"<!-- >>> home -->\n.*?<!-- <<< home -->\n", re.S)


def home() -> str:
    """Return the repository's address from the one place that holds it (_config.yml), or an empty string."""
    import yaml

    config = yaml.safe_load((stamp.ROOT / "_config.yml").read_text(encoding="utf-8"))
    return str(config.get("repository", {}).get("url", ""))


def setup_cell() -> str:
    """Return the canonical text of every notebook's setup cell."""
    return _SET.format(url=home()) if home() else _UNSET


def _config_block(url: str) -> str:
    inside = ""
    if url:
        inside = (
            f"repository:\n  url: {url}\n  branch: main\n"
            "launch_buttons:\n  notebook_interface: classic\n  colab_url: https://colab.research.google.com\n"
        )
    return f"# >>> home\n{inside}# <<< home\n"


def _badge_block(url: str) -> str:
    inside = "The book has no public address yet; `make home URL=...` sets it here and in every setup cell.\n"
    if url:
        where = re.sub(r"^https?://github\.com/|^file://|\.git$", "", url).strip("/")
        colab = f"https://colab.research.google.com/github/{where}/blob/main/notebooks"
        links = [f"- [{path.stem}]({colab}/{path.stem}.ipynb)" for path in stamp.sources()]
        inside = f"Repository: <{url}>\n\nOpen a chapter in Colab:\n\n" + "\n".join(links) + "\n"
    return f"<!-- >>> home -->\n{inside}<!-- <<< home -->\n"


def _swap(path: pathlib.Path, pattern: re.Pattern[str], text: str) -> None:
    before = path.read_text(encoding="utf-8")
    if not pattern.search(before):
        raise SystemExit(f"{path.name} lost the markers between which the address is written.")
    path.write_text(pattern.sub(lambda _: text, before), encoding="utf-8")


def write_setup(source: pathlib.Path, text: str) -> None:
    """Write the canonical setup cell into a py:percent source."""
    before = source.read_text(encoding="utf-8")
    cell = re.compile(r"(^# %%[^\n]*\"setup\"[^\n]*\n).*?(?=^# %%)", re.S | re.M)
    after, count = cell.subn(lambda match: f"{match.group(1)}{text}\n\n", before, count=1)
    if not count:
        raise SystemExit(f'{source.name} has no code cell with the tag "setup".')
    if after != before:
        source.write_text(after, encoding="utf-8")


def set_home(url: str | None) -> int:
    """Write the address (when given) into _config.yml and README, and the setup cell into every notebook."""
    if url is not None:
        if url and not re.fullmatch(r"(https|file)://[^\s\"'\\{}]+", url):
            raise SystemExit("The address must look like https://HOST/OWNER/NAME.")
        _swap(stamp.ROOT / "_config.yml", _BLOCK, _config_block(url))
    _swap(stamp.ROOT / "README.md", _BADGES, _badge_block(home()))
    for source in stamp.sources():
        write_setup(source, setup_cell())
        if source.with_suffix(".ipynb").is_file():
            write(paired(source), source.with_suffix(".ipynb"))
    return 0


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    orders = parser.add_subparsers(dest="order", required=True)
    for order in ("pair", "execute"):
        orders.add_parser(order).add_argument("which", nargs="*", metavar="NN")
    orders.choices["execute"].add_argument(
        "--stale", action="store_true", help="only those whose stamp is stale"
    )
    orders.choices["execute"].add_argument("--jobs", type=int, default=2, help="notebooks run side by side")
    orders.add_parser("check")
    orders.add_parser("home").add_argument("url", nargs="?")
    given = parser.parse_args()
    if given.order == "pair":
        for source in stamp.sources(given.which):
            write_setup(source, setup_cell())
            write(paired(source), source.with_suffix(".ipynb"))
        return 0
    if given.order == "execute":
        return execute(given.which, given.stale, given.jobs)
    if given.order == "home":
        return set_home(given.url)
    found = problems()
    print("\n".join(found) or "All pairs are equal and all stamps are fresh.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
