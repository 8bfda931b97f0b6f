"""A file to one page: every part computed once, a template notebook executed on them, one html file."""

from __future__ import annotations

import html
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from twinlib import __version__
from twinlib.errors import FolderError
from twinlib.evaluation.summaries import dose_labels
from twinlib.files import write_atomic, write_json, write_table
from twinlib.verdict.judged_file import TWIN, JudgedFile
from twinlib.verdict.keys import Keys
from twinlib.verdict.outputs import fresh_folder
from twinlib.verdict.parts import CELLS, MODEL, Parts, ReportSettings, at_most, compute_parts
from twinlib.verdict.unseen import unseen_sentence

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from nbformat import NotebookNode

#: Where the tables of the parts stand in a folder, what says what they are of, and who writes there.
PARTS, REQUEST, LOCK = "parts", "request.json", ".lock"
#: Seconds that one cell of the page may take.
TIMEOUT = 600
#: A page around its body.
WHOLE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
#: How the page marks what holds, what was assumed, and what one has to know.
HEADS = {"holds": "", "assumed": "*assumed:* ", "defect": "**to know:** "}
#: What a folder is called until its page is whole.
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Run:
    """One report on a file: what its page reads."""

    #: The folder that holds page, scores, model and parts.
    folder: pathlib.Path
    #: The file that the report is on.
    file: pathlib.Path
    #: Name of the dataset.
    dataset: str
    #: What was found in the file and assumed of it.
    sentences: tuple[str, ...]
    #: The parts of the run.
    parts: Parts
    #: The row that is judged.
    own: str = TWIN

    @staticmethod
    def read(folder: pathlib.Path) -> Run:
        """Read the run of a folder."""
        told = json.loads((folder / PARTS / REQUEST).read_text())
        keys = Keys(**told["filled"] | {"control": tuple(told["filled"]["control"])})
        settings = ReportSettings(**told["settings"] | {"splits": tuple(told["settings"]["splits"])})
        parts = Parts(folder / PARTS, settings, keys)
        return Run(folder, pathlib.Path(told["file"]), told["dataset"], tuple(told["sentences"]), parts)

    @cached_property
    def judged(self) -> JudgedFile:
        """What the judge says."""
        return JudgedFile.of(self.parts, self.own)

    @property
    def cells(self) -> AnnData:
        """The canonical cells: those of the run while it runs, later the file's."""
        from twinlib.verdict.inspection import inspect

        kept = self.parts.folder / CELLS
        return self.parts.cells if kept.exists() else at_most(inspect(self.file, self.parts.keys).cells())

    @property
    def genes(self) -> pd.DataFrame:
        """The measured and the predicted change of every gene on the first fold."""
        return self.parts.table("genes")

    @cached_property
    def chosen(self) -> str:
        """The perturbation (at a dose) that figures show: of those that act, the farthest from controls."""
        effects = self.judged.effects
        means = effects[effects["cell_context"] == ""].groupby("perturbation")["distance"].mean()
        known = set(dose_labels(self.genes["perturbation"], self.genes["dose"]))
        acting = {unit.partition(" | ")[0] for unit in self.judged.acting}
        some = means[means.index.isin(acting & known)]
        return str((some if len(some) else means[means.index.isin(known)]).idxmax())

    @property
    def unseen(self) -> str:
        """What targets that were held out say about genes that nobody perturbed; "" where none were."""
        if "perturbations" not in self.judged.splits:
            return ""
        return unseen_sentence(*self.judged.tables("perturbations"))

    @property
    def policies(self) -> str:
        """What the policies of the in-silico twin score, or why there are none; "" where none were asked."""
        from twinlib.verdict.sentences import policies_sentence

        return policies_sentence(self.judged, self.parts.table("policies"), self.parts.settings.policies)


def report(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    keys: Keys | None = None,
    *,
    seeds: int = 3,
    splits: tuple[str, ...] = (),
    policies: int = 0,
    jobs: int = 2,
    overwrite: bool = False,
    progress: bool = True,
) -> pathlib.Path:
    """Write report.html, report.ipynb, scores.csv and model/ on a file into a folder; return the page.

    Parameters
    ----------
    file
        An h5ad or zarr file.
    out
        A folder that is empty or not there; one that is used is refused unless `overwrite`.
    keys
        Where things stand in the file; what is not named is guessed, and the page says how.
    seeds
        Training seeds of the twin.
    splits
        Splits beside `cells`; none named: contexts, where there are several.
    policies
        Environment steps of the in-silico twin's policies; 0: none are trained.
    jobs, progress
        Parts that are computed side by side, and whether a bar on standard error counts them.

    A run that was interrupted goes on where it stopped, if file, keys and settings are the same; until its
    page is whole, it stands beside `out` under a name that ends in .unfinished.
    """
    target = fresh_folder(out, overwrite)
    source, keys = pathlib.Path(file).resolve(), keys or Keys()
    settings = ReportSettings(seeds=seeds, splits=tuple(splits), policies=policies)
    with unfinished(target, request_of(source, keys, settings)) as folder:
        begin(folder, source, keys, settings)
        run = Run.read(folder)
        compute_parts(run.parts, jobs, progress)
        finish(run)
    return target / "report.html"


def request_of(source: pathlib.Path, keys: Keys, settings: ReportSettings) -> dict[str, object]:
    """Return what a run was asked: two equal requests have equal parts."""
    if not source.exists():
        return {"file": str(source)}
    state = source.stat()
    facts = {"file": str(source), "bytes": state.st_size, "modified": state.st_mtime_ns, "by": __version__}
    return json.loads(json.dumps(facts | {"keys": asdict(keys), "asked": asdict(settings)}))


@contextmanager
def unfinished(target: pathlib.Path, request: Mapping[str, object]) -> Iterator[pathlib.Path]:
    """Give a folder beside the target that becomes it at the end; parts of the same request are kept."""
    from filelock import FileLock, Timeout

    folder = target.with_name(target.name + UNFINISHED)
    asked = folder / PARTS / "asked.json"
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / PARTS / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderError(f"Another run writes {folder}: wait for it, or name another --out.") from None
    with lock:
        if asked.exists() and not goes_on(folder / PARTS, request):
            clear(folder)
        write_json(asked, request)
        try:
            yield folder
        finally:
            if not any((folder / PARTS).glob("*.done")):  # nothing was computed: nothing stays
                shutil.rmtree(folder)
                if not any(target.iterdir()):
                    target.rmdir()
    (folder / PARTS / LOCK).unlink(missing_ok=True)
    settle(folder, target)


def goes_on(parts: pathlib.Path, request: Mapping[str, object]) -> bool:
    """Return whether a folder holds the beginning of the run that is asked for."""
    return json.loads((parts / "asked.json").read_text()) == request and (parts / CELLS).exists()


def clear(folder: pathlib.Path) -> None:
    """Remove what an earlier run left, but for the lock."""
    for path in [*folder.iterdir(), *(folder / PARTS).iterdir()]:
        if path.is_dir() and path.name != PARTS:
            shutil.rmtree(path)
        elif path.is_file() and path.name != LOCK:
            path.unlink()


def settle(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Move what a run made to where it was asked for, over what an earlier run made; other files stay."""
    for path in folder.iterdir():
        if (target / path.name).is_dir():
            shutil.rmtree(target / path.name)
        path.replace(target / path.name)
    folder.rmdir()


def begin(folder: pathlib.Path, source: pathlib.Path, keys: Keys, settings: ReportSettings) -> None:
    """Read the file once, and keep its canonical cells and what was told of it."""
    from twinlib.verdict.inspection import inspect

    if (folder / PARTS / REQUEST).exists():
        return
    inspection = inspect(source, keys)
    whole = inspection.cells()
    cells = at_most(whole)
    told = [head + s for level, head in HEADS.items() for s in inspection.of(level)]
    if cells.n_obs < whole.n_obs:
        told.append(
            f"{whole.n_obs - cells.n_obs:,} of {whole.n_obs:,} cells were left out, drawn once: large groups"
        )
    write_atomic(folder / PARTS / CELLS, lambda beside: cells.write_h5ad(beside))
    facts: dict[str, object] = {"file": str(source), "dataset": inspection.name, "sentences": told}
    facts |= {"filled": asdict(inspection.keys), "settings": asdict(settings)}
    write_json(folder / PARTS / REQUEST, facts)


def finish(run: Run) -> None:
    """Write scores, model, notebook and page of a run whose parts are computed."""
    write_table(run.folder / "scores.csv", run.judged.flat())
    save_model(run)
    notebook = executed("report_template.ipynb", run.folder)
    write_page(notebook, run.folder / "report.html", f"Report on {run.dataset}")
    (run.parts.folder / CELLS).unlink()


def save_model(run: Run) -> None:
    """Move the twin of the first fold out of the parts, with what is known of genes that nobody perturbed."""
    from twinlib.verdict.twin import Twin

    made = run.parts.folder / MODEL
    if made.exists():  # a run that goes on may have moved it already
        replace(Twin.load(made), unseen=run.unseen).save(made)
        made.rename(run.folder / MODEL)


def executed(template: str, folder: pathlib.Path) -> NotebookNode:
    """Execute a template notebook in a folder, and keep it there under its own name."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    read: Callable[..., NotebookNode] = nbformat.read  # nbformat itself has no types
    write: Callable[..., None] = nbformat.write
    notebook = read(pathlib.Path(__file__).with_name(template), as_version=4)
    place, quiet = {"metadata": {"path": str(folder)}}, ["--log-level=40"]
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources=place, extra_arguments=quiet
    )
    try:
        client.execute(env=environment())
    except CellExecutionError as error:
        raise FolderError(f"The page of {folder} could not be made: {error.ename}: {error.evalue}") from None
    name = template.replace("_template", "")
    write_atomic(folder / name, lambda beside: write(notebook, beside))
    return notebook


def environment() -> dict[str, str]:
    """Return the environment of a page's kernel, which runs elsewhere and has to find this very package."""
    import twinlib

    ours = str(pathlib.Path(twinlib.__path__[0]).resolve().parent)
    kept = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([ours, *kept])}


def write_page(notebook: NotebookNode, path: pathlib.Path, title: str) -> None:
    """Write an executed notebook as one html file that needs nothing else, without its code."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    style = pathlib.Path(__file__).with_name("page.css").read_text()
    text = WHOLE.format(title=html.escape(title), style=style, body=body)
    write_atomic(path, lambda beside: beside.write_text(text))
