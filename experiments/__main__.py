"""The command line: `python -m experiments NAME --out DIR` runs an experiment; `--help` lists them."""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from experiments.experiment import Experiment

#: Experiments by name: their module and class, and what they make.
EXPERIMENTS = {
    "released": ("released:Released", "the paper's public code, tables 1-9 row by row"),
    "tuning": ("tuning:Tuning", "random settings for each tuned algorithm, which `policies` reads"),
    "policies": ("policies:Policies", "every arm at its tuned setting, on five folds and held-out groups"),
    "escape_tuned": (
        "escape_tuned:EscapeTuned",
        "chapter 13: who escapes a local optimum, by the same rules",
    ),
    "embedding": ("embedding:EmbeddingQuality", "chapter 3: the embedding beside its ablations"),
    "experimental": ("experimental:ExperimentalSplits", "chapter 4: the experimental twin on every split"),
    "external": ("external:External", "models of other groups on the same folds, read back as predictions"),
    "trajectories": ("trajectories:Trajectories", "chapter 11: measured time, similarity, the alarm"),
    "peers": ("peers:Peers", "chapter 10: returns beside those of Stable-Baselines3"),
}
#: Exit statuses: refused, stopped by Ctrl-C, nobody reads on.
REFUSED, STOPPED, UNREAD = 2, 130, 141


def experiment_class(name: str) -> type[Experiment]:
    """Return the class of an experiment."""
    module, _, kind = EXPERIMENTS[name][0].partition(":")
    chosen: type[Experiment] = getattr(importlib.import_module(f"experiments.{module}"), kind)
    return chosen


class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and leave."""
        self.exit(REFUSED, f"{message[0].upper()}{message[1:]}; see '{self.prog} --help'.\n")


def _parser(name: str | None) -> argparse.ArgumentParser:
    """Describe every command; the options of an experiment only where it is asked for."""
    parser = _Parser(
        prog="python -m experiments",
        description="Run an experiment into a folder, or print what one has left.",
        epilog="Options of an experiment: python -m experiments NAME --help",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="NAME")
    for key, (_, words) in EXPERIMENTS.items():
        made = commands.add_parser(key, help=words, description=words, allow_abbrev=False)
        if key == name:
            _add_options(made, experiment_class(key))
    show = commands.add_parser("report", help="print the tables of a finished run as Markdown")
    show.add_argument("folder", type=pathlib.Path, help="the run's folder")
    page = commands.add_parser("claims", help="write the claims page from the packaged results")
    page.add_argument("--out", type=pathlib.Path, default="book/claims.md", help="the page's file")
    return parser


def _folder(name: str) -> pathlib.Path:
    """A folder's path; an empty name, as of a shell variable that is not set, would mean this very folder."""
    if not name:
        raise argparse.ArgumentTypeError("the name is empty")
    return pathlib.Path(name)


def _add_options(parser: argparse.ArgumentParser, kind: type[Experiment]) -> None:
    """Add the options of an experiment, then those of every run."""
    for field in fields(kind):
        if not field.metadata:
            continue
        several = isinstance(field.default, tuple) or field.name == "dataset"
        example = field.default[0] if isinstance(field.default, tuple) and field.default else field.default
        parser.add_argument(
            f"--{field.name}",
            nargs="+" if several else None,
            type=int if isinstance(example, int) else str,
            default=[field.default] if field.name == "dataset" else field.default,
            help=f"{field.metadata['help']} (default: %(default)s)",
        )
    parser.add_argument("--out", type=_folder, required=True, help="folder for the results; one run a folder")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--minutes", type=float, help="begin no part after so many minutes; --resume goes on")
    parser.add_argument("--workers", type=int, default=1, help="processes of this machine; 1: this one alone")
    parser.add_argument("--scheduler", help="Dask scheduler, tcp://host:port, in place of --workers")
    parser.add_argument("--quiet", action="store_true", help="say nothing of the progress")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a refusal is one sentence and exit status 2, Ctrl-C one sentence and 130."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = argparse.Namespace(command=None)
    try:
        name = next((word for word in words if word in EXPERIMENTS), None)
        options = _parser(name).parse_args(words)
        if options.command == "report":
            from twinlib.results.tables import report

            print(report(options.folder), end="", flush=True)
        elif options.command == "claims":
            _claims(options.out)
        else:
            _run(options)
    except BrokenPipeError:
        return _unread(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(_stopped(options), file=sys.stderr)
        return STOPPED
    return 0


def _experiments(options: argparse.Namespace) -> dict[pathlib.Path, Experiment]:
    """Return what is asked for, by folder; of several datasets each gets a folder of its own."""
    from twinlib.errors import InputError

    kind = experiment_class(options.command)
    chosen = {f.name: getattr(options, f.name) for f in fields(kind) if f.metadata}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    if "dataset" not in chosen:
        return {options.out: kind(**chosen)}
    names = chosen.pop("dataset")
    if len(set(names)) < len(names):
        raise InputError("Two runs of one dataset would share a folder; give each dataset once.")
    outs = [options.out] if len(names) == 1 else [options.out / name for name in names]
    return {out: kind(**chosen | {"dataset": name}) for out, name in zip(outs, names, strict=True)}


def _run(options: argparse.Namespace) -> None:
    """Run an experiment, and say where its results are or how to go on."""
    from experiments.runner import run
    from twinlib.errors import InputError

    if options.minutes is not None and not options.minutes >= 0:
        raise InputError(f"minutes is {options.minutes:g}; give 0 or more.")
    experiments = _experiments(options)
    finished = run(
        experiments,
        resume=options.resume,
        progress=not options.quiet,
        workers=options.workers,
        scheduler=options.scheduler,
        minutes=options.minutes,
    )
    if not finished:
        print(f"Stopped after {options.minutes:g} minutes. {_go_on(options)}")
        return
    for out in experiments:
        print(f"Wrote {out}." + _next(options.command, out))


def _next(name: str, out: pathlib.Path) -> str:
    """Say what prints the tables of a run."""
    if name != "released":
        return ""
    return f" Its tables: python -m experiments report {out}"


def _go_on(options: argparse.Namespace) -> str:
    """Say how to go on with a stopped run."""
    return f"Finished parts are kept in {options.out}; the same command with --resume goes on."


def _stopped(options: argparse.Namespace) -> str:
    """Say what Ctrl-C has left."""
    if options.command in EXPERIMENTS and options.out.exists():
        return f"Stopped. {_go_on(options)}"
    return "Stopped; nothing was written."


def _unread(options: argparse.Namespace) -> int:
    """Leave without a word on the output, which nobody reads on, as in `report DIR | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the end
    if options.command in EXPERIMENTS:
        print(_stopped(options), file=sys.stderr)
    return UNREAD


def _claims(path: pathlib.Path) -> None:
    """Write the claims page."""
    from twinlib.files import write_atomic
    from twinlib.results.claims_page import page

    write_atomic(path, lambda beside: beside.write_text(page()))


if __name__ == "__main__":
    status = main()
    if status == STOPPED:  # where Ctrl-C met an import, Python would end as if nobody had taken it
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
