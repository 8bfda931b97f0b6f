"""The command line: `python -m experiments run ...` and `... report DIR`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from experiments.protocols import PROTOCOLS, RunConfig, run


def _parser() -> argparse.ArgumentParser:
    """Describe both commands."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("run", help="train, score and write the tables of one protocol on one dataset")
    make.add_argument(
        "--dataset",
        nargs="+",
        default=["waddington"],
        help="names of twinlib.DATASETS; several: DIR/NAME each",
    )
    make.add_argument("--protocol", default="described", choices=PROTOCOLS)
    make.add_argument("--algorithms", nargs="*", default=[], help="default: all of the protocol")
    make.add_argument("--seeds", type=int, default=3, help="number of seeds, trained side by side")
    make.add_argument("--timesteps", type=int, default=150_000, help="environment steps of each seed")
    make.add_argument("--out", required=True, help="folder for the results; one run a folder")
    make.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    make.add_argument("--block", type=int, default=0, help="seeds side by side in one part; 0: all")
    make.add_argument("--workers", type=int, default=1, help="processes of this machine; 1: this one alone")
    make.add_argument(
        "--scheduler", help="address of a Dask scheduler, tcp://host:port, in place of --workers"
    )
    make.add_argument("--quiet", action="store_true", help="no progress bars")
    show = commands.add_parser("report", help="print the tables of a finished run as Markdown")
    show.add_argument("folder")
    escape = commands.add_parser("escape", help="run chapter 13's experiment on escaping local optima")
    escape.add_argument("--out", required=True, help="folder for the results; one run a folder")
    escape.add_argument("--seeds", type=int, default=20, help="seeds of each setting, side by side")
    escape.add_argument("--timesteps", type=int, default=60_000, help="environment steps of each seed")
    escape.add_argument("--jobs", type=int, default=1, help="processes that share the settings")
    escape.add_argument("--cells", default="papalexi2021", help="dataset with cells to escape among, or none")
    escape.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    escape.add_argument("--quiet", action="store_true", help="no progress bar")
    page = commands.add_parser("claims", help="write the claims page from the packaged results")
    page.add_argument("--out", default="book/claims.md")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a refusal is one sentence and exit status 2."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "report":
            from twinlib.results.tables import report

            print(report(chosen.folder), end="")
            return 0
        if chosen.command == "claims":
            return _claims(pathlib.Path(chosen.out))
        if chosen.command == "escape":
            return _escape(chosen)
        _run(chosen)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(chosen: argparse.Namespace) -> None:
    """Run every dataset that was named, here or on many processes."""
    configs = [
        RunConfig(
            dataset=name,
            protocol=chosen.protocol,
            algorithms=tuple(chosen.algorithms),
            seeds=chosen.seeds,
            timesteps=chosen.timesteps,
            block=chosen.block,
        )
        for name in chosen.dataset
    ]
    progress = not chosen.quiet
    if chosen.scheduler is None and chosen.workers == 1:
        out = pathlib.Path(chosen.out)
        outs = [out] if len(configs) == 1 else [out / config.dataset for config in configs]
        for config, where in zip(configs, outs, strict=True):
            run(config, where, chosen.resume, progress)
    else:
        from experiments.sweep import sweep

        outs = sweep(configs, chosen.out, chosen.scheduler, chosen.workers, chosen.resume, progress)
    for where in outs:
        print(f"Wrote {where.name}; print its tables with: python -m experiments report {where}")


def _escape(chosen: argparse.Namespace) -> int:
    """Run the experiment of chapter 13."""
    from experiments.escape import Design, run_escape
    from experiments.escape_density import DensityDesign

    design = Design(timesteps=chosen.timesteps, seeds=chosen.seeds)
    cells = DensityDesign(dataset=chosen.cells) if chosen.cells != "none" else None
    out = run_escape(chosen.out, design, chosen.resume, chosen.jobs, not chosen.quiet, cells)
    print(f"Wrote {out.name}; chapter 13 reads results/escape.")
    return 0


def _claims(path: pathlib.Path) -> int:
    """Write the claims page."""
    from twinlib.files import write_atomic
    from twinlib.results.claims import page

    write_atomic(path, lambda beside: beside.write_text(page()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
