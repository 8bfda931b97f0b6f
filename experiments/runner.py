"""Runs experiments into results folders: the one loop that every experiment goes through."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from experiments import folder
from experiments.experiment import Experiment, Scratch
from experiments.workers import Answer, Workers, answer, answer_from_afar, workers_of
from twinlib.errors import RunError
from twinlib.files import write_atomic, write_json, write_table


@dataclass(frozen=True)
class _Run:
    """One experiment on its way into one folder."""

    experiment: Experiment
    out: pathlib.Path
    parts: folder.Parts

    def missing(self) -> list[str]:
        """Parts that can be computed by now and are not finished."""
        return [part for part in self.experiment.parts(self.parts) if part not in self.parts]

    def submit(self, part: str, workers: Workers, progress: bool) -> Future[Answer]:
        """Give a part to the workers."""
        experiment = self.experiment.informed(self.parts)
        if workers.here:
            scratch = Scratch(self.parts.folder, progress and workers.width() == 1)
            return workers.pool.submit(answer, experiment, part, scratch)
        return workers.pool.submit(answer_from_afar, experiment, part, self.parts.given())

    def keep(self, part: str, made: Answer) -> None:
        """Write a finished part into the folder."""
        for name, content in made.files.items():
            write_atomic(self.parts.folder / name, partial(pathlib.Path.write_bytes, data=content))
        self.parts.keep(part, made.part, made.cost)


def run(
    experiments: Mapping[pathlib.Path, Experiment],
    resume: bool = False,
    progress: bool = True,
    workers: int = 1,
    scheduler: str | None = None,
    minutes: float | None = None,
) -> bool:
    """Run every experiment into its folder, side by side; tell whether all of them are finished.

    A finished part is kept in the folder's `parts` and never computed again by a `resume`; training goes on
    from its last checkpoint, where the folder can be seen. After `minutes` no part is begun any more.
    """
    until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    with ExitStack() as stack:
        team = stack.enter_context(workers_of(workers, scheduler))
        runs = [
            _Run(experiment, out, stack.enter_context(folder.claimed(out, resume, experiment.identity())))
            for out, experiment in experiments.items()
        ]
        for going in (going for going in runs if going.experiment.grows):
            option = going.experiment.grows
            going.parts.require_named(getattr(going.experiment, option), f"--{option}")
        _finish(runs, team, progress, until)
        for done in (run for run in runs if not run.missing()):
            _write(done)
        return not any(run.missing() for run in runs)


def _finish(runs: list[_Run], team: Workers, progress: bool, until: float) -> None:
    """Compute what is missing and keep each part as it ends, in whatever order that is."""
    going: dict[Future[Answer], tuple[_Run, str]] = {}
    while True:
        taken = {(run.out, part) for run, part in going.values()}
        waiting = [(run, p) for run in runs for p in run.missing() if (run.out, p) not in taken]
        for run, part in waiting[: max(0, team.width() - len(going))]:
            if time.monotonic() < until:
                going[run.submit(part, team, progress)] = run, part
        if not going:
            return
        for future in wait(going, return_when=FIRST_COMPLETED).done:
            run, part = going.pop(future)
            made = _result(future)
            run.keep(part, made)
            if progress:
                print(f"{run.out.name} {part}: {made.cost['wall_s']} s ({_left(run)})", flush=True)


def _left(run: _Run) -> str:
    """Say how far a run is."""
    known = run.experiment.parts(run.parts)
    return f"{len(known) - len(run.missing())} of {len(known)}"


def _result(future: Future[Answer]) -> Answer:
    """Return what a part came to; a process that died is told in one sentence."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise RunError(
            "A worker process died, as one does when memory runs out; take fewer --workers and add --resume."
        ) from None


def _write(run: _Run) -> None:
    """Join the parts into the files of the run; the manifest is written last."""
    experiment, names = run.experiment, run.experiment.parts(run.parts)
    for name, table in experiment.tables(run.parts).items():
        if name in experiment.packed:
            folder.write_packed(run.out / f"{name}.csv.gz", table)
        else:
            write_table(run.out / f"{name}.csv", table)
    for name, content in experiment.files(run.parts).items():
        write_json(run.out / f"{name}.json", content)
    parts = {name: run.parts.facts(name) for name in names}
    found_out = {key: value for facts in parts.values() for key, value in facts.pop("run").items()}
    for facts in parts.values():
        del facts["tables"]
    manifest = {
        "command": experiment.command(),
        "config": experiment.options() | {"protocol": experiment.name},
        "wall_s": round(sum(part["wall_s"] for part in parts.values()), 1),
        "peak_memory_mb": max(part["peak_memory_mb"] for part in parts.values()),
        "commit": folder.commit(),
        "versions": folder.versions(),
        **found_out,
        **experiment.facts(run.parts),
        "parts": parts,
    }
    write_json(run.out / "manifest.json", manifest)
