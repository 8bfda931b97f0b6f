"""Seeds x algorithms x datasets on many processes: those of this machine, or those of a Dask cluster.

A part of a run (one algorithm, one block of seeds, one dataset) is one task. What a task computes does not
depend on where it runs, so the tables are those of the serial run. A worker that dies loses its task, which
Dask gives to another one; parts that are finished are in the results folder and are never computed again.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from experiments import folder
from experiments.protocols import (
    Computes,
    Part,
    RunConfig,
    assemble,
    done,
    identity,
    keep,
    protocol_of,
    timed,
)
from twinlib import files

#: Makes the computing object of a run; the default loads the protocol's data.
Make = Callable[[RunConfig, bool], Computes]


@dataclass(frozen=True)
class Answer:
    """What a worker sends back."""

    #: Rows of the part.
    part: Part
    #: Wall time and peak memory.
    facts: dict[str, Any]
    #: Files that other parts read, by name.
    files: dict[str, bytes]


@lru_cache(maxsize=1)
def _remembered(config: RunConfig, make: Make) -> Computes:
    """Keep a run's data in a worker between its tasks; one run at a time, since each takes much memory."""
    return make(config, False)


def _plan(config: RunConfig, make: Make) -> list[tuple[str, tuple[str, ...]]]:
    """Return the parts of a run, each with those whose files it reads."""
    protocol = _remembered(config, make)
    return [(part, protocol.after(part)) for part in protocol.parts]


def _facts(config: RunConfig, make: Make) -> dict[str, Any]:
    """Return a run's facts for its manifest."""
    return _remembered(config, make).facts


def compute(config: RunConfig, part: str, make: Make, files: dict[str, bytes], *before: Answer) -> Answer:
    """Compute one part in a folder of its own, with the files that finished parts left for it."""
    protocol = _remembered(config, make)
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        for given in (files, *(answer.files for answer in before)):
            for file, content in given.items():
                (scratch / file).write_bytes(content)
        rows, facts = timed(protocol, part, scratch)
        return Answer(rows, facts, _files(scratch))


def _files(scratch: pathlib.Path) -> dict[str, bytes]:
    """Return the files in a folder that other parts read."""
    return {path.name: path.read_bytes() for path in sorted(scratch.glob("*.npz"))}


def sweep(
    configs: Sequence[RunConfig],
    out: str | pathlib.Path,
    scheduler: str | None = None,
    workers: int = 2,
    resume: bool = False,
    progress: bool = True,
    make: Make = protocol_of,
) -> list[pathlib.Path]:
    """Run several configurations at once; one writes into `out`, several into `out`/DATASET.

    `scheduler` is the address of a Dask scheduler (tcp://host:port), whose workers need twinlib and the data;
    without it `workers` processes are started on this machine. `resume` computes the parts that are missing.
    Raises ValueError in one sentence for two configurations of one dataset, or where no worker can be had.
    """
    out = pathlib.Path(out)
    names = [config.dataset for config in configs]
    if len(set(names)) < len(names):
        raise ValueError("Two runs of one dataset would share a folder; give each dataset once.")
    folders = [out] if len(configs) == 1 else [out / name for name in names]
    with ExitStack() as stack:
        parts = [
            stack.enter_context(folder.claimed(where, resume, identity(config)))
            for where, config in zip(folders, configs, strict=True)
        ]
        client = stack.enter_context(_client(scheduler, workers))
        runs = [_Submitted(client, *pair, make) for pair in zip(configs, parts, strict=True)]
        _collect(runs, progress)
        for run, where in zip(runs, folders, strict=True):
            assemble(where, run.scratch, run.parts, run.facts.result(), run.config)
    return folders


class _Submitted:
    """The tasks of one run, as futures by part."""

    def __init__(self, client: Any, config: RunConfig, scratch: pathlib.Path, make: Make) -> None:
        self.config, self.scratch = config, scratch
        plan = client.submit(_plan, config, make, pure=False).result()
        self.parts = tuple(part for part, _ in plan)
        self.futures: dict[str, Any] = {}
        files = _files(scratch)
        for part, after in plan:
            if not done(scratch, part):
                before = [self.futures[name] for name in after if name in self.futures]
                self.futures[part] = client.submit(compute, config, part, make, files, *before, pure=False)
        self.facts = client.submit(_facts, config, make, pure=False)

    def keep(self, part: str, answer: Answer) -> None:
        """Write a finished part into the results folder."""
        for name, content in answer.files.items():
            files.write_atomic(self.scratch / name, partial(pathlib.Path.write_bytes, data=content))
        keep(self.scratch, part, answer.part, answer.facts)


def _collect(runs: Sequence[_Submitted], progress: bool) -> None:
    """Keep every part as it ends, in whatever order that is."""
    import distributed

    as_completed: Any = distributed.as_completed  # the package carries no types
    owner = {future.key: (run, part) for run in runs for part, future in run.futures.items()}
    futures = [future for run in runs for future in run.futures.values()]
    for number, (future, answer) in enumerate(as_completed(futures, with_results=True), start=1):
        run, part = owner[future.key]
        run.keep(part, answer)
        if progress:
            print(
                f"{run.config.dataset} {part}: {answer.facts['wall_s']} s ({number} of {len(owner)})",
                flush=True,
            )


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    """Connect to a cluster, or start processes of one thread each on this machine."""
    try:
        import distributed
    except ImportError as error:
        raise ValueError("A sweep needs the package distributed; `pip install distributed` first.") from error
    dask: Any = distributed  # the package carries no types
    if scheduler is not None:
        try:
            client = dask.Client(scheduler, timeout="10s")
        except (OSError, TimeoutError) as error:
            raise ValueError(
                f"No Dask scheduler answers at {scheduler}; start one, or mend the address."
            ) from error
        with client:
            yield client
        return
    if workers < 1:
        raise ValueError(f"workers is {workers}; give 1 or more.")
    with (
        dask.LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit=None, dashboard_address=None
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        yield client
