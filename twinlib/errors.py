"""Every error a user can cause: one sentence that says what is wrong, where, and the mend."""

from collections.abc import Sequence


class DataError(ValueError):
    """Cells that cannot be used."""


class Unreachable(DataError):
    """A file that no address gave."""


class Extrapolation(UserWarning):
    """A question outside what a predictor was trained on."""


class WorldError(ValueError):
    """A world that cannot be made or read."""


class InputError(ValueError):
    """An argument whose shape, value or name cannot be used."""


class OrderError(RuntimeError):
    """A call that comes before the one it needs."""


class ResultsError(FileNotFoundError):
    """Results that are not there."""


class FolderError(ValueError):
    """A results folder that cannot be used."""


class RunError(ValueError):
    """A run that has nothing to run on, or lost it."""


class Divergence(RunError):
    """Numbers of a training that are not finite; `replicas` are those that were lost."""

    def __init__(self, sentence: str, replicas: Sequence[int] = ()) -> None:
        super().__init__(sentence)
        self.replicas = tuple(replicas)


#: What ends a command with one sentence and the exit code 2.
REFUSALS = (
    DataError,
    WorldError,
    InputError,
    OrderError,
    ResultsError,
    FolderError,
    RunError,
)
