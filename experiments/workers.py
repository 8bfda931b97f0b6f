"""Where the parts of a run are computed: in this process, on others of this machine, on a Dask cluster.

What a part comes to does not depend on where it is computed. A worker of a cluster that dies loses its part,
which Dask gives to another one.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from experiments import folder
from experiments.experiment import Experiment, Scratch
from experiments.part import Part, Row
from twinlib.errors import RunError

#: How long a scheduler may take to answer.
PATIENCE = "10s"


@dataclass(frozen=True)
class Answer:
    """What a worker sends back."""

    #: The part.
    part: Part
    #: Wall time, processor time and peak memory.
    cost: Row
    #: Files that other parts read, by name.
    files: dict[str, bytes]


@dataclass(frozen=True)
class Workers:
    """Something to compute parts with."""

    #: Takes calls of `answer`.
    pool: Executor
    #: Says how many parts to give it at a time.
    width: Callable[[], int]
    #: Do they see the folder of the parts?
    here: bool = True


@lru_cache(maxsize=1)
def _remembered(experiment: Experiment) -> Experiment:
    """Keep an experiment's data in a process between its parts; one at a time: each takes much memory."""
    return experiment


def answer(experiment: Experiment, part: str, scratch: Scratch) -> Answer:
    """Compute a part in the folder of the parts."""
    started, before = time.perf_counter(), time.process_time()
    with _one_thread():
        result = _remembered(experiment).compute(part, scratch)
    cost = {
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - before, 1),
        "peak_memory_mb": folder.peak_memory_mb(),
    }
    return Answer(result, cost, {})


def answer_from_afar(experiment: Experiment, part: str, given: dict[str, bytes]) -> Answer:
    """Compute a part in a folder of its own, with the files that finished parts have left for others."""
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        for file, content in given.items():
            (place / file).write_bytes(content)
        made = answer(experiment, part, Scratch(place))
        return Answer(made.part, made.cost, folder.Parts(place).given())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as every worker does: sums then have the same order everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _ThisProcess(Executor):
    """Computes a part when it is given."""

    def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        """Return a future that is done."""
        future: Future[Any] = Future()
        future.set_result(call(*words, **named))
        return future


@contextmanager
def workers_of(number: int, scheduler: str | None) -> Iterator[Workers]:
    """Yield this process, `number` others, or the workers of the Dask scheduler at tcp://host:port.

    Raises RunError in one sentence where none can be had.
    """
    if number < 1:
        raise RunError(f"workers is {number}; give 1 or more.")
    if scheduler is not None:
        with _cluster(scheduler) as client:
            yield Workers(client.get_executor(), lambda: max(1, sum(client.nthreads().values())), here=False)
    elif number == 1:
        yield Workers(_ThisProcess(), lambda: 1)
    else:
        with _processes(number) as pool:
            yield Workers(pool, lambda: number)


@contextmanager
def _processes(number: int) -> Iterator[Executor]:
    """Start fresh processes (torch's threads do not survive a fork), and end them when the run is stopped."""
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _end_with_the_run)
    with _deaf():
        for _ in range(number):  # each starts now, and inherits that Ctrl-C is for this process alone
            pool.submit(int)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_run() -> None:
    """End this worker with its run, even if that was killed: it would compute on in the run's folder."""
    threading.Thread(target=_wait_for_the_run, daemon=True).start()


def _wait_for_the_run() -> None:
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _cluster(scheduler: str) -> Iterator[Any]:
    """Connect to a cluster whose workers can import this package."""
    try:
        import distributed as dask
    except ImportError:
        raise RunError("A cluster needs the package distributed; 'pip install distributed' first.") from None
    distributed: Any = dask  # the package carries no types
    try:
        client = distributed.Client(scheduler, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError):
        raise RunError(f"No Dask scheduler answers at {scheduler}; start one, or mend the address.") from None
    with client:
        if not client.nthreads():
            raise RunError(f"The scheduler at {scheduler} has no worker; start some, then try again.")
        try:
            client.run(importlib.import_module, "experiments.workers")
        except ImportError:
            raise RunError(
                f"A worker of {scheduler} cannot import 'experiments', which is not installed with twinlib: "
                "start every worker in a clone of the repository, with 'PYTHONPATH=. dask worker ...'."
            ) from None
        yield client
