"""What both protocols of the replication share: a dataset, algorithms, and seeds that train in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from experiments.experiment import Experiment, at_least_one, one_of, option
from twinlib.errors import InputError


@dataclass(frozen=True)
class Replication(Experiment):
    """One protocol on one dataset."""

    #: Algorithms of the protocol, in the order of its tables.
    ALGORITHMS: ClassVar[tuple[str, ...]]

    dataset: str = option("waddington", "name of a dataset; several: one folder DIR/NAME each")
    algorithms: tuple[str, ...] = option((), "algorithms to train; default: all of the protocol")
    seeds: int = option(3, "number of seeds: 0, 1, ... are trained side by side")
    timesteps: int = option(150_000, "environment steps of each seed and algorithm")
    block: int = option(0, "seeds side by side in one part: smaller blocks, more parts to spread; 0: all")

    def __post_init__(self) -> None:
        from twinlib.data.sources import dataset

        dataset(self.dataset)
        one_of("algorithm", self.algorithms, self.ALGORITHMS)
        at_least_one(self, "seeds", "timesteps")
        if self.block < 0:
            raise InputError(f"block is {self.block}; give 1 or more seeds, or 0 for all of them.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The algorithms that are trained."""
        return self.algorithms or self.ALGORITHMS

    def blocks(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the parts of names: each name once, or once a block of seeds, as `name~first seed`."""
        if self.block == 0:
            return tuple(names)
        return tuple(f"{name}~{first}" for name in names for first in range(0, self.seeds, self.block))

    def seeds_of(self, part: str) -> range:
        """Return the seeds of a part."""
        _, blocked, start = part.partition("~")
        first = int(start or 0)
        return range(first, min(first + self.block, self.seeds) if blocked else self.seeds)


def name_of(part: str) -> str:
    """Return the name of a part without its block."""
    return part.partition("~")[0]
