"""The two protocols as runs: what is computed for which row, how a run is written and resumed."""

from __future__ import annotations

import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import pandas as pd

from experiments import folder
from twinlib import files
from twinlib.policy import algorithms

#: The algorithms of the described protocol, in the order of its tables; each needs a tuning of its own.
ALGORITHMS = tuple(name for name in algorithms.ALGORITHMS if name != "PPO_KL")
#: The protocols, with the module that computes their parts.
PROTOCOLS = ("described", "released")


@dataclass(frozen=True)
class RunConfig:
    """One run of one protocol on one dataset."""

    #: Name given to `twinlib.data.standard`.
    dataset: str = "waddington"
    #: described (the paper's text) or released (its public code).
    protocol: str = "described"
    #: Algorithms to train; empty: all of the protocol.
    algorithms: tuple[str, ...] = ()
    #: Number of seeds: 0, 1, ... are trained side by side.
    seeds: int = 3
    #: Environment steps of each seed and algorithm.
    timesteps: int = 150_000
    #: Cells stepped side by side for each seed (described).
    n_cells: int = 64
    #: Bootstrap draws of every twin score.
    resamples: int = 100
    #: Seeds trained side by side in one part; 0: all of them. Smaller blocks are more parts to spread.
    block: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"There is no protocol {self.protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
        for name in ("seeds", "timesteps", "n_cells", "resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.block < 0:
            raise ValueError(f"block is {self.block}; give 1 or more seeds, or 0 for all of them.")

    def command(self) -> str:
        """Return the command line that makes this run, with DIR for the folder."""
        words = ["python", "-m", "experiments", "run", "--dataset", self.dataset]
        words += ["--protocol", self.protocol]
        words += ["--algorithms", *self.algorithms] if self.algorithms else []
        words += ["--seeds", str(self.seeds), "--timesteps", str(self.timesteps)]
        words += ["--block", str(self.block)] if self.block else []
        return shlex.join([*words, "--out", "DIR"])


def blocks(names: Sequence[str], config: RunConfig) -> tuple[str, ...]:
    """Return the parts of a run: each name once, or once a block of seeds, as `name~first seed`."""
    if config.block == 0:
        return tuple(names)
    starts = range(0, config.seeds, config.block)
    return tuple(f"{name}~{first}" for name in names for first in starts)


def name_of(part: str) -> str:
    """Return the name of a part without its block."""
    return part.partition("~")[0]


def seeds_of(part: str, config: RunConfig) -> range:
    """Return the seeds of a part."""
    _, blocked, start = part.partition("~")
    first = int(start or 0)
    return range(first, min(first + config.block, config.seeds) if blocked else config.seeds)


@dataclass(frozen=True)
class Part:
    """The rows of one part of a run and what it cost."""

    #: Rows of regression.csv.
    regression: list[dict[str, Any]]
    #: Rows of similarity.csv.
    similarity: list[dict[str, Any]] = field(default_factory=list)
    #: Facts for the manifest (wall time, optimizer steps, ...).
    facts: dict[str, Any] = field(default_factory=dict)
    #: Learning history, one row a seed and iteration, where something was trained.
    history: pd.DataFrame | None = None


class Computes(Protocol):
    """What a protocol gives to `run`."""

    #: Names of the parts, in the order in which they are computed.
    parts: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about data and settings for the manifest."""

    def after(self, part: str) -> tuple[str, ...]:
        """Parts whose `.npz` files in the scratch folder a part reads."""

    def compute(self, part: str, scratch: pathlib.Path) -> Part:
        """Compute one part; `scratch` is a folder for checkpoints."""


def protocol_of(config: RunConfig, progress: bool) -> Computes:
    """Return the computing object of a run's protocol, its data loaded."""
    if config.protocol == "described":
        from experiments.described import Described

        return Described(config, progress)
    from experiments.released import Released

    return Released(config, progress)


def identity(config: RunConfig) -> dict[str, Any]:
    """Return what must be the same for a run to be resumed."""
    return asdict(config) | {"algorithms": list(config.algorithms)}


def run(
    config: RunConfig,
    out: str | pathlib.Path,
    resume: bool = False,
    progress: bool = True,
    make: Callable[[RunConfig, bool], Computes] = protocol_of,
) -> pathlib.Path:
    """Run a protocol and write regression.csv, similarity.csv and manifest.json into the folder `out`.

    Every finished part is kept in `out`/parts and never computed again by a `resume`; training itself
    continues from its last checkpoint. A folder that is taken is refused (`folder.FolderError`).
    """
    out = pathlib.Path(out)
    with folder.claimed(out, resume, identity(config)) as scratch:
        started = time.perf_counter()
        protocol = make(config, progress)
        prepared_s = time.perf_counter() - started
        for name in protocol.parts:
            _finish(protocol, name, scratch, progress)
        assemble(out, scratch, protocol.parts, protocol.facts, config, prepared_s)
    return out


def _finish(protocol: Computes, name: str, scratch: pathlib.Path, progress: bool) -> None:
    """Compute a part and keep its rows, unless that was done before."""
    if done(scratch, name):
        return
    if progress:
        print(f"{name} ...", flush=True)
    part, facts = timed(protocol, name, scratch)
    keep(scratch, name, part, facts)


def done(scratch: pathlib.Path, name: str) -> bool:
    """Tell whether a part is complete."""
    return (scratch / f"{name}.json").exists()


def timed(protocol: Computes, name: str, scratch: pathlib.Path) -> tuple[Part, dict[str, Any]]:
    """Compute a part; return it with its wall time, its processor time and this process's peak memory."""
    started, before = time.perf_counter(), time.process_time()
    with _one_thread():
        part = protocol.compute(name, scratch)
    spent = {
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - before, 1),
    }
    return part, spent | {"peak_memory_mb": folder.peak_memory_mb()}


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


def keep(scratch: pathlib.Path, name: str, part: Part, facts: dict[str, Any]) -> None:
    """Write the rows of a part, and last the file whose presence says that it is complete."""
    files.write_table(scratch / f"{name}.regression.csv", pd.DataFrame(part.regression))
    files.write_table(scratch / f"{name}.similarity.csv", pd.DataFrame(part.similarity))
    if part.history is not None:
        files.write_table(scratch / f"{name}.history.csv", part.history)
    folder.write_json(scratch / f"{name}.json", facts | part.facts)


def _read(path: pathlib.Path) -> pd.DataFrame:
    """Read the rows of a part; a part without rows is an empty table."""
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def assemble(
    out: pathlib.Path,
    scratch: pathlib.Path,
    names: Sequence[str],
    facts: dict[str, Any],
    config: RunConfig,
    prepared_s: float = 0.0,
) -> None:
    """Join the parts into the files of the run; the manifest is written last."""
    import json

    for table in ("regression", "similarity"):
        joined = [_read(scratch / f"{name}.{table}.csv") for name in names]
        files.write_table(out / f"{table}.csv", pd.concat([t for t in joined if len(t)], ignore_index=True))
    histories = [(n, scratch / f"{n}.history.csv") for n in names]
    found = [_read(path).assign(Algorithm=name_of(name)) for name, path in histories if path.exists()]
    if found:
        files.write_table(out / "history.csv", pd.concat(found, ignore_index=True))
    parts = {name: json.loads((scratch / f"{name}.json").read_text()) for name in names}
    wall = prepared_s + sum(part["wall_s"] for part in parts.values())
    manifest = {
        "command": config.command(),
        "config": asdict(config),
        "seeds": list(range(config.seeds)),
        "wall_s": round(wall, 1),
        "peak_memory_mb": max(part["peak_memory_mb"] for part in parts.values()),
        "versions": folder.versions(),
        **facts,
        "parts": parts,
    }
    folder.write_json(out / "manifest.json", manifest)
