"""Run notebooks and stamp their outputs: python scripts/execute.py [NN ...] [--stale] [--jobs N]"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import home
import ipynb
import nbformat
import stamp
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

TIMES = stamp.ROOT / "book" / "execution_times.csv"
#: Exit status: some outputs are older than their source, because their dataset cannot be had.
KEPT_OLD = 3
_WATCH = f"""{pathlib.Path(__file__).with_name("watch.py").read_text(encoding="utf-8")}

__twinlib_watch__ = Watch({str(stamp.ROOT)!r})
del Watch"""
_REPORT = "__twinlib_watch__.report(globals())"
_PROGRESS = re.compile(r"[^\n]*\r(?!\n)")


def _tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Keep what belongs on a page: no progress bars, no widgets, no standard error, no memory addresses."""
    tidy: list[nbformat.NotebookNode] = []
    for output in outputs:
        data = output.get("data", {})
        if output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in data:
            continue
        if output.output_type == "stream":
            output.text = _PROGRESS.sub("", output.text)
            if tidy and tidy[-1].output_type == "stream":
                tidy[-1].text += output.text
                continue
        for kind in ("text/plain", "text/html"):
            if isinstance(data.get(kind), str):
                data[kind] = re.sub(r"\bat 0x[0-9a-f]{6,}", "at 0x…", data[kind])
        tidy.append(output)
    return tidy


def _stderr(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return _PROGRESS.sub("", "".join(o.text for o in outputs if o.get("name") == "stderr")).strip()


def _number(notebook: nbformat.NotebookNode) -> None:
    """Tidy the outputs, and count the code cells from 1."""
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.outputs = _tidy(cell.outputs)
        cell.execution_count = count
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count


def run(notebook: nbformat.NotebookNode) -> tuple[dict[str, Any], str]:
    """Execute a notebook in an empty folder; return what it was seen to use, and its standard error."""
    code = nbformat.v4.new_code_cell
    notebook.cells = [code(_WATCH), *notebook.cells, code(_REPORT)]
    last = len(notebook.cells) - 1
    client = NotebookClient(notebook, timeout=ipynb.TIMEOUT, kernel_name="python3", record_timing=False)
    client.reset_execution_trackers()
    with tempfile.TemporaryDirectory() as folder, client.setup_kernel(cwd=folder):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index, store_history=index not in (0, last))
    used = json.loads("".join(o.text for o in notebook.cells[last].outputs if o.get("name") == "stdout"))
    notebook.cells = notebook.cells[1:last]
    complaints = _stderr(notebook)
    _number(notebook)
    return used, complaints


def missing_datasets(source: pathlib.Path) -> list[str]:
    """Return the datasets a notebook's outputs are to be made from and that cannot be had here."""
    executed = source.with_suffix(".ipynb")
    wanted = set(stamp.preferred_datasets(source))
    if not wanted and executed.is_file():
        kept = stamp.read_stamp(nbformat.read(executed, as_version=4))
        wanted = set(kept["datasets"]) if kept else set()
    if not wanted:
        return []

    from twinlib.data.sources import DATASETS, available

    # A stamp also names files that a notebook wrote itself: those can always be had.
    return sorted(name for name in wanted & DATASETS.keys() if not available(name))


def _unexecuted(source: pathlib.Path) -> nbformat.NotebookNode:
    """Return the notebook of a source without outputs, with tags as its cells' only metadata."""
    notebook = stamp.read_source(source)
    notebook.metadata = ipynb.metadata(None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        tags = stamp.tags(cell)
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else dict(cell.metadata))
    return notebook


def execute_one(source: pathlib.Path, digests: dict[str, str]) -> dict[str, Any]:
    """Execute one notebook and write it with its stamp; on a failure the old outputs stay."""
    code = stamp.code_digest(source)
    notebook = _unexecuted(source)
    began = time.perf_counter()
    try:
        used, complaints = run(notebook)
    except (CellExecutionError, CellTimeoutError) as error:
        return {"name": source.stem, "error": str(error)}
    seconds = time.perf_counter() - began
    swapped = set(stamp.preferred_datasets(source)) - set(used["datasets"])
    if swapped:
        why = f"it ran on {sorted(used['datasets'])}, not on {sorted(swapped)}"
        return {"name": source.stem, "error": why}
    megabytes = used.pop("megabytes")
    notebook.metadata[stamp.KEY] = nbformat.from_dict(used | {"stamp": stamp.make(code, used, digests)})
    ipynb.name_cells(notebook)
    ipynb.write(notebook, source.with_suffix(".ipynb"))
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
    kept = [rows[name] for name in sorted(rows) if name in present]
    total, peak = sum(int(row[1]) for row in kept), max((int(row[2]) for row in kept), default=0)
    beside = TIMES.with_suffix(f".{os.getpid()}.part")
    with beside.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["Notebook", "Seconds", "Peak memory (MB)"])
        writer.writerows([*kept, ["all of them", f"{total}", f"{peak}"]])
    os.replace(beside, TIMES)


def _tell(result: dict[str, Any]) -> None:
    if "error" in result:
        print(f"{result['name']}: failed\n{result['error']}", flush=True)
        return
    print(f"{result['name']}: {result['seconds']:.0f} s, {result['megabytes']} MB", flush=True)
    if result["complaints"]:
        shown = result["complaints"][-1500:]
        print(f"  it wrote to standard error (left out of the page):\n{shown}", flush=True)


def _run_all(sources: list[pathlib.Path], digests: dict[str, str], jobs: int) -> list[dict[str, Any]]:
    """Execute side by side, telling of each as it ends."""
    results = []
    with concurrent.futures.ProcessPoolExecutor(max_workers=max(1, min(jobs, len(sources)))) as pool:
        futures = [pool.submit(execute_one, path, digests) for path in sources]
        for future in concurrent.futures.as_completed(futures):
            results.append(future.result())
            _tell(results[-1])
    return results


def _keep_old(lacking: dict[pathlib.Path, list[str]]) -> None:
    """Pair the notebooks whose dataset cannot be had with the outputs they have, and say so."""
    for path in lacking:
        if path.with_suffix(".ipynb").is_file():
            ipynb.write(ipynb.paired(path), path.with_suffix(".ipynb"))
    names = ", ".join(path.stem for path in lacking)
    data = ", ".join(sorted({name for missing in lacking.values() for name in missing}))
    print(
        f"Outputs older than their source were kept for {names}: {data} cannot be had here; "
        "set TWINLIB_DATA_DIR to the folder that holds it (or go online) and run this again.",
        file=sys.stderr,
    )


def execute(which: list[str], stale_only: bool, jobs: int) -> int:
    """Execute notebooks; keep the old outputs of those whose dataset cannot be had."""
    for path in stamp.sources(which):
        home.write_setup(path, home.setup_cell())
    digests = stamp.module_digests()
    asked = [path for path in stamp.sources(which) if not stale_only or stamp.is_stale(path, digests)]
    lacking = {path: missing for path in asked if (missing := missing_datasets(path))}
    results = _run_all([path for path in asked if path not in lacking], digests, jobs)
    if results:
        _keep_times(results)
    if lacking:
        _keep_old(lacking)
    failed = sorted(result["name"] for result in results if "error" in result)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
        return 1
    return KEPT_OLD if lacking else 0


def main() -> int:
    """Execute the notebooks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Run notebooks and stamp their outputs.")
    parser.add_argument("which", nargs="*", metavar="NN")
    parser.add_argument("--stale", action="store_true", help="only those whose stamp is stale")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks run side by side")
    given = parser.parse_args()
    return execute(given.which, given.stale, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
