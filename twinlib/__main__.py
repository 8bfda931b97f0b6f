"""The command `twinlib`: check a file, report on it, predict with the twin, score predictions."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from twinlib import __version__
from twinlib.errors import REFUSALS
from twinlib.verdict.keys import Keys, add_arguments, as_options
from twinlib.verdict.policies import STEPS

#: Exit codes: a question that cannot be answered as it was asked; Ctrl-C.
REFUSED, INTERRUPTED = 2, 130

_DESCRIPTION = """\
From a file of perturbed cells to a verdict: which perturbations have an effect that these cells can
show, how well it can be predicted, and how far a model is to be believed.

Start with   twinlib check FILE
It reads your file, says what is in it, what was assumed and what is missing, and writes nothing.
"""
_ENDING = """\
FILE is an h5ad file: cells in rows, genes in columns, one column of obs that says what was done to each cell.
Exit codes: 0 done; 2 something is missing or wrong (one sentence says what); 130 interrupted.
"""
#: Commands that keep what they had computed.
_GOES_ON = ("report", "score")
#: What each command has to be given.
_USAGE = {
    "check": "FILE",
    "report": "FILE --out DIR",
    "predict": "MODEL FILE --perturbation X [--dose D] --out P.h5ad",
    "score": "PREDICTIONS TRUTH --out DIR",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one sentence on stderr."""
    given = parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except REFUSALS as error:
        print(f"twinlib {given.command}: {as_options(str(error))}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        more = "; the same call goes on where it stopped" if given.command in _GOES_ON else ""
        print(f"twinlib {given.command}: interrupted{more}.", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    whole = argparse.ArgumentParser(
        "twinlib", description=_DESCRIPTION, epilog=_ENDING, formatter_class=_AsWritten
    )
    whole.add_argument("--version", action="version", version=f"twinlib {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for describe in (_describe_check, _describe_report, _describe_predict, _describe_score):
        described = describe(commands)
        add_arguments(described)
    return whole


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    """Help texts with their own line ends."""


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    words: str,
    more: str,
    examples: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=words,
        usage=f"twinlib {name} {_USAGE[name]} [options]",
        description=f"{words[0].upper()}{words[1:]}.\n\n{more}",
        epilog=f"examples:\n{examples}",
        formatter_class=_AsWritten,
    )


def _describe_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    made = _command(
        commands,
        "check",
        "say what is in a file, what was assumed and what is missing",
        "Takes seconds and writes nothing. Every defect is one sentence.",
        "  twinlib check screen.h5ad\n"
        "  twinlib check screen.h5ad --perturbation-key target_gene --control non-targeting",
    )
    _add_file(made, "an h5ad file with perturbed and control cells")
    made.set_defaults(run=_check)
    return made


def _describe_report(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    made = _command(
        commands,
        "report",
        "write a page on a file: effects, ceilings, baselines and the twin",
        "Writes report.html, the notebook that made it (report.ipynb), scores.csv and model/ into DIR.\n"
        "Takes minutes. Ctrl-C stops it; the same call goes on where it stopped.",
        "  twinlib report screen.h5ad --out screen_report --jobs 2\n"
        "  twinlib report drugs.h5ad --out drugs_report --log-dose --splits cells,doses,batches",
    )
    _add_file(made, "an h5ad file with perturbed and control cells")
    made.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder to write into")
    made.add_argument(
        "--seeds",
        type=_positive,
        default=3,
        metavar="N",
        help="how often the twin is trained anew, to see how much chance there is in it (default: 3)",
    )
    made.add_argument(
        "--splits",
        type=_names,
        default=(),
        metavar="A,B",
        help="what is left out of the training and predicted, any of: cells, contexts (cell types), batches "
        "(donors, plates), doses, perturbations (genes), doubles (combinations) (default: cells, and "
        "contexts where there are several)",
    )
    _add_jobs(made)
    made.add_argument(
        "--policies",
        type=_positive,
        nargs="?",
        const=STEPS,
        default=0,
        metavar="STEPS",
        help="train the in-silico twin's policies, too, with so many steps "
        f"({STEPS:,}), and score them beside the twin",
    )
    _add_overwrite(made)
    made.set_defaults(run=_report)
    return made


def _describe_predict(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    made = _command(
        commands,
        "predict",
        "predict what a perturbation does to the control cells of a file",
        "MODEL is the folder model/ that 'twinlib report' wrote. The answer is an h5ad file with one\n"
        "predicted cell for each control, in log1p(counts per 10,000), with the columns of obs and var kept.",
        "  twinlib predict screen_report/model screen.h5ad --perturbation JAK2 --out JAK2.h5ad\n"
        "  twinlib predict drugs_report/model drugs.h5ad --perturbation Nutlin --dose 0.5 --out nutlin.h5ad",
    )
    made.add_argument("model", type=pathlib.Path, metavar="MODEL", help="folder of a saved model")
    _add_file(made, "an h5ad file with control cells")
    made.add_argument(
        "--perturbation",
        dest="asked",  # the keys hold the column of perturbations under that name
        required=True,
        metavar="X",
        help="what to predict, such as JAK2 or JAK2+IRF1",
    )
    made.add_argument(
        "--dose",
        dest="at_dose",
        type=float,
        metavar="D",
        help="dose in the unit of your file's column of doses; needed where several were trained",
    )
    made.add_argument("--out", type=pathlib.Path, required=True, metavar="P.h5ad", help="file to write")
    made.add_argument(
        "--convention",
        choices=("twinlib", "cell-eval2", "scperturb"),
        default="twinlib",
        help="names of columns and of the control: twinlib's own, cell-eval2's (target_gene, context, "
        "non-targeting), or scPerturb's (perturbation, control) (default: twinlib)",
    )
    _add_overwrite(made)
    made.set_defaults(run=_predict)
    return made


def _describe_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    made = _command(
        commands,
        "score",
        "score anybody's predictions by the same judge, beside the same baselines",
        "PREDICTIONS: predicted cells as log1p(counts per 10,000) or whole counts, with a column of obs\n"
        "for the perturbation and, where TRUTH holds several cell types, one for the cell type. Controls in\n"
        "it are not read. TRUTH: real perturbed and control cells that the predictions do not know. The\n"
        "names of cell-eval, GEARS, CPA, pertpy and scPerturb are read on both sides; the options below are\n"
        "about TRUTH, and tried on PREDICTIONS before the usual names.\n"
        "Writes score.html, the notebook that made it (score.ipynb) and scores.csv into DIR.",
        "  twinlib score predicted.h5ad measured.h5ad --out score",
    )
    made.add_argument(
        "predictions", type=pathlib.Path, metavar="PREDICTIONS", help="h5ad file of predicted cells"
    )
    made.add_argument(
        "truth", type=pathlib.Path, metavar="TRUTH", help="h5ad file of measured cells with controls"
    )
    made.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder to write into")
    _add_jobs(made)
    _add_overwrite(made)
    made.set_defaults(run=_score)
    return made


def _add_file(made: argparse.ArgumentParser, holds: str) -> None:
    made.add_argument("file", type=pathlib.Path, metavar="FILE", help=holds)


def _add_jobs(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="parts computed side by side, each on a core and with memory of its own (default: 1)",
    )


def _add_overwrite(made: argparse.ArgumentParser) -> None:
    made.add_argument("--overwrite", action="store_true", help="write over what is there already")


def _positive(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check(given: argparse.Namespace) -> int:
    """Print what is in a file; 2 where something is missing."""
    from twinlib.verdict.inspection import inspect

    inspection = inspect(given.file, Keys.of(given))
    print(inspection.text())
    if inspection.ready:
        return 0
    print(f"twinlib check: {inspection.of('missing')[0]}.", file=sys.stderr)
    return REFUSED


def _report(given: argparse.Namespace) -> int:
    """Write the page on a file."""
    from twinlib.verdict.page import report

    page = report(
        given.file, given.out, Keys.of(given), seeds=given.seeds, splits=given.splits,
        policies=given.policies, jobs=given.jobs, overwrite=given.overwrite,
    )  # fmt: skip
    print(f"Open {page}.")
    return 0


def _predict(given: argparse.Namespace) -> int:
    """Write predicted cells."""
    from twinlib.verdict.twin import predict_file

    notes = predict_file(
        given.model, given.file, given.out, given.asked, given.at_dose, Keys.of(given),
        convention=given.convention, overwrite=given.overwrite,
    )  # fmt: skip
    print("\n".join(notes))
    return 0


def _score(given: argparse.Namespace) -> int:
    """Write the scores of predictions."""
    from twinlib.verdict.score import score_file

    page = score_file(
        given.predictions, given.truth, given.out, Keys.of(given), jobs=given.jobs, overwrite=given.overwrite
    )
    print(f"Open {page}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
