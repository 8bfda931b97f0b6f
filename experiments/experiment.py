"""What an experiment is: a frozen dataclass of options whose named parts are computed by one function."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from experiments.part import Part, Row
from twinlib.errors import InputError

if TYPE_CHECKING:
    import pathlib

    import pandas as pd

    from experiments.folder import Parts


def option(default: Any, words: str) -> Any:
    """Return a field of an experiment that is an option of its command, too; `words` are its help."""
    return field(default=default, metadata={"help": words})


class Scratch(NamedTuple):
    """Where a part is computed."""

    #: Holds the part's checkpoints, and the `.npz` files that finished parts have left for others.
    folder: pathlib.Path
    #: Show a bar while something trains?
    progress: bool = False


@dataclass(frozen=True)
class Experiment(ABC):
    """One run of one experiment; the data are loaded by the parts that need them, once a process.

    An experiment travels to another process as its options alone.
    """

    #: Name of the command, and of the folder under results/.
    name: ClassVar[str]
    #: Tables that are written as .csv.gz.
    packed: ClassVar[tuple[str, ...]] = ()
    #: The option that a resume may enlarge, and never shorten; "": none.
    grows: ClassVar[str] = ""

    @abstractmethod
    def parts(self, finished: Parts) -> Sequence[str]:
        """Return the parts that can be computed once those are finished, in the order of the tables.

        The run is over when all of them are finished.
        """

    def informed(self, finished: Parts) -> Experiment:
        """Return the experiment as a worker needs it, with what the finished parts have decided."""
        return self

    @abstractmethod
    def compute(self, part: str, scratch: Scratch) -> Part:
        """Compute one part."""

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the tables of the run: those of its parts, joined in order."""
        return finished.tables(self.parts(finished))

    def facts(self, finished: Parts) -> Row:
        """Return what the manifest says beside command, options, versions and parts."""
        return {}

    def files(self, finished: Parts) -> dict[str, Row]:
        """Return the JSON files of a finished run beside its manifest, by name."""
        return {}

    def options(self) -> Row:
        """Return the options by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata}

    def identity(self) -> Row:
        """Return what must be the same for a run to be resumed."""
        return {"experiment": self.name, **asdict(self)}

    def command(self) -> str:
        """Return the command line that makes this run, with DIR for the folder."""
        words = ["python", "-m", "experiments", self.name]
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if field_.metadata and (value != field_.default or field_.name in ("dataset", "seeds")):
                words += [f"--{field_.name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join([*words, "--out", "DIR"])

    def __getstate__(self) -> Row:
        """Leave behind what was loaded and worked out."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def at_least_one(experiment: Experiment, *names: str) -> None:
    """Refuse an option that must be 1 or more."""
    for name in names:
        if getattr(experiment, name) < 1:
            raise InputError(f"{name} is {getattr(experiment, name)}; give 1 or more.")


def one_of(kind: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that is not known, and a text in place of names."""
    if isinstance(chosen, str):
        raise InputError(f"{chosen!r} is a text where names are asked for; give ({chosen!r},).")
    for name in chosen:
        if name not in known:
            raise InputError(f"There is no {kind} {name!r}; choose from {', '.join(known)}.")
