"""What a user says about a file: which columns hold what, and how its numbers are to be read."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from twinlib.errors import InputError

#: What a user gives to say that a file has no such column, and that none is to be guessed.
NONE = "none"

#: The words for kinds of perturbation, and what canonical cells call them.
KINDS = {
    "crispri": "CRISPRi",
    "crispra": "CRISPRa",
    "knockout": "CRISPRko",
    "cytokine": "cytokine",
    "drug": "drug",
}


@dataclass(frozen=True)
class Keys:
    """Where things stand in a file; what is None (or empty) is guessed, and what is "none" is not there."""

    #: Column of perturbation labels.
    perturbation: str | None = None
    #: Labels of unperturbed cells; several count as one.
    control: tuple[str, ...] = ()
    #: Column of cell types or lines, within which changes are taken.
    context: str | None = None
    #: Column of donors, plates or batches.
    batch: str | None = None
    #: Column of doses.
    dose: str | None = None
    #: Column of guides.
    guide: str | None = None
    #: Layer that is read in place of X; `raw` is also `adata.raw`.
    layer: str | None = None
    #: Column of var with the names by which labels call genes.
    gene_symbols: str | None = None
    #: Column of obs with the total counts of each cell.
    total_counts: str | None = None
    #: What joins the parts of a combination.
    separator: str | None = None
    #: One of `KINDS`.
    kind: str | None = None
    #: Doses act by their logarithm.
    log_dose: bool = False
    #: Fractional counts: `round`, `given` (taken as they are), or None (refused).
    fractional: str | None = None
    #: Leave out cells whose leading guide holds no more than `guides.LEADING` of the guide counts.
    single_guides: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.control, str):
            raise InputError(f"control={self.control!r} is no list: give control=({self.control!r},).")
        if self.kind not in (None, *KINDS):
            raise InputError(f"kind={self.kind!r} is unknown: give one of {', '.join(KINDS)}.")

    def column(self, name: str) -> str | None:
        """Return the column of a key, None where there is none."""
        given = getattr(self, name)
        return None if given == NONE else given

    @staticmethod
    def of(given: argparse.Namespace) -> Keys:
        """Return the keys of a command line that `add_arguments` described."""
        values: dict[str, Any] = {field.name: getattr(given, field.name) for field in fields(Keys)}
        return Keys(**values | {"control": tuple(given.control or ())})

    def filled(self, **values: object) -> Keys:
        """Return the keys with some of them filled in."""
        return replace(self, **values)  # type: ignore[arg-type]


#: Option, key, what it says in `--help`; the name of what follows it.
_OPTIONS = (
    (
        "--perturbation-key",
        "perturbation",
        "column of obs that says what was done to each cell, such as perturbation, target_gene, condition",
        "COLUMN",
    ),
    (
        "--context-key",
        "context",
        "column of obs with cell types or cell lines, such as cell_type; changes are taken within each",
        "COLUMN",
    ),
    (
        "--batch-key",
        "batch",
        "column of obs with donors, plates or batches, such as donor or plate",
        "COLUMN",
    ),
    (
        "--dose-key",
        "dose",
        "column of obs with doses as numbers, all in one unit (which one does not matter)",
        "COLUMN",
    ),
    (
        "--guide-key",
        "guide",
        "column of obs with the CRISPR guide of each cell, such as guide_id or sgRNA",
        "COLUMN",
    ),
    (
        "--layer",
        "layer",
        "layer to read in place of X, best one of raw counts ('raw' for adata.raw)",
        "LAYER",
    ),
    (
        "--gene-symbols",
        "gene_symbols",
        "column of var with gene symbols, where var_names are other names (such as ENSEMBL's)",
        "COLUMN",
    ),
    (
        "--total-counts",
        "total_counts",
        "column of obs with the total counts of each cell, where genes were left out of the file",
        "COLUMN",
    ),
    (
        "--separator",
        "separator",
        "the sign between the parts of a combination: + for labels such as JAK2+IRF1",
        "SIGN",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the keys to a command; what is left out is guessed, and said."""
    group = parser.add_argument_group(
        "what is where in your file",
        "What you leave out is guessed from the usual names of columns, and 'twinlib check' says what was\n"
        "guessed. Give 'none' for something that your file does not have.",
    )
    for option, name, words, after in _OPTIONS:
        group.add_argument(option, dest=name, metavar=after, help=words)
    group.add_argument(
        "--control",
        action="append",
        metavar="LABEL",
        help="label of the unperturbed cells, such as non-targeting or DMSO; repeat the option where "
        "several labels are controls",
    )
    group.add_argument(
        "--kind",
        choices=tuple(KINDS),
        help="what was done: genes knocked down (crispri), raised (crispra) or knocked out, cytokines or "
        "drugs given; guessed from labels, columns and the targets' own expression",
    )
    group.add_argument(
        "--log-dose",
        action="store_true",
        help="effects grow with the logarithm of the dose, as they do where doses span a hundredfold "
        "(default: in proportion to the dose)",
    )
    group.add_argument(
        "--fractional",
        choices=("round", "given"),
        help="fractional counts, as corrections for ambient RNA leave them: round them, or take them as "
        "given (default: given, and said)",
    )
    group.add_argument(
        "--single-guides",
        action="store_true",
        help="leave out cells that carry several guides (the leading one holds 80 %% of the guide counts "
        "or less)",
    )


#: How messages of the package call a key, and the option of the command line.
_WORDS = {
    "perturbation_key=": "--perturbation-key ",
    "context_key=": "--context-key ",
    "batch_key=": "--batch-key ",
    "dose_key=": "--dose-key ",
    "guide_key=": "--guide-key ",
    "gene_symbols=": "--gene-symbols ",
    "total_counts=": "--total-counts ",
    "log_dose=": "--log-dose ",
    "separator=": "--separator ",
    "control=": "--control ",
    "layer=": "--layer ",
}


def as_options(sentence: str) -> str:
    """Return a message with the options of the command line in place of arguments of Python.

    >>> as_options("name the control label of your data with control=.")
    'name the control label of your data with --control.'
    """
    sentence = re.sub(r'fractional="(\w+)"', r"--fractional \1", sentence)
    for argument, option in _WORDS.items():
        sentence = sentence.replace(argument, option)
    return sentence.replace(" .", ".").replace(" (None", " ('none'")
