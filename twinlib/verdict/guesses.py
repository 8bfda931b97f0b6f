"""Guess what a file does not say, from the usual names and from the values; every guess is told.

Names: scPerturb (perturbation, guide_id, celltype, dose_value, ncounts), GEARS (condition, cell_type),
CPA (condition, drug, dose_val), pertpy (gene_target, guide_ID, replicate), cell-eval2 (target_gene, context),
STATE (target_gene, drug, gem_group, plate, donor, cell_line_id).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from twinlib.data.labels import is_control, plain
from twinlib.verdict.findings import Finding, assumed, missing
from twinlib.verdict.keys import KINDS, NONE, Keys

#: Usual names of columns, in lower case without signs.
NAMES = {
    "perturbation": (
        "perturbation perturbationname targetgene condition genetarget target perturbedgene gene drug "
        "productname drugname compound treatment cytokine ligand pert pertname stimulation stimulus stim "
        "label conditionid"
    ),
    "guide": "guide guideid guideidentity guidename sgrna sgrnaid grna grnaid sgid sgidab protospacer "
    "featurecall",
    "context": "cellcontext context celltype cellline celllineid cellname lineage",
    "batch": "batch batchvar donor donorid plate replicate gemgroup lane patient individual sample sampleid "
    "run",
    "dose": "dose dosevalue doseval dosage concentration conc doseum dosenm",
    "total_counts": "ncounts totalcounts ncountrna umicount numi numis totalumis",
}
#: Names of columns that say of which kind labels are.
KIND_OF_NAME = {
    "cytokine": "cytokine",
    "ligand": "cytokine",
    "stimulation": "cytokine",
    "stimulus": "cytokine",
    "drug": "drug",
    "productname": "drug",
    "drugname": "drug",
    "compound": "drug",
}
#: scPerturb's words in `perturbation_type`, and others' for the same.
KIND_OF_WORD = {
    "crispri": "crispri",
    "crispra": "crispra",
    "crispr": "knockout",
    "crisprcas9": "knockout",
    "crisprko": "knockout",
    "knockout": "knockout",
    "ko": "knockout",
    "drug": "drug",
    "drugs": "drug",
    "cytokine": "cytokine",
    "cytokines": "cytokine",
}
#: Labels that say that a cell was perturbed, and not how.
NOT_A_NAME = frozenset("perturbed treated targeting true yes 1 guide cytokine drug compound".split())
#: Names of cytokines as they are usually written, without signs.
CYTOKINE = re.compile(
    r"(ifn|il|tnf|tgf|csf|gmcsf|mcsf|epo|tpo|lps|bmp|fgf|egf|vegf|cxcl|ccl)[a-z]*\d*[a-z]*\d*"
)
#: Signs that join combinations, in the order in which they are tried.
SEPARATORS = ("+", "|", ";", ",", "&", "_")
#: The end of a guide's name behind its target.
GUIDE_END = re.compile(r"[\W_]*(sg|g|guide|grna)?[\W_]*\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Guess:
    """What a key was filled with, and what is told about it."""

    #: The key's value; None where it could not be told.
    value: str | None
    #: What is told.
    findings: tuple[Finding, ...] = ()


def text(column: pd.Series) -> pd.Series:
    """Return a column as text without blanks around it."""
    return column.astype(str).str.strip()


def columns_named(obs: pd.DataFrame, key: str) -> list[str]:
    """Return the columns of obs with a usual name of a key and more than one value, the usual ones first."""
    usual = NAMES[key].split()
    named = [name for name in map(str, obs.columns) if plain(name) in usual and obs[name].nunique() > 1]
    return sorted(named, key=lambda name: usual.index(plain(name)))


def without_copies(obs: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the columns of obs that are not another's values under other names."""
    kept: dict[bytes, str] = {}
    for name in names:
        kept.setdefault(pd.factorize(obs[name].astype(str))[0].tobytes(), name)
    return list(kept.values())


def one_of(obs: pd.DataFrame, key: str, option: str, holds: str) -> Guess:
    """Guess an optional column by its name; several with different values are asked for."""
    names = without_copies(obs, columns_named(obs, key))
    if len(names) > 1:
        told = f"{_listed(names)} may each hold the {holds}: name one with {option} (or 'none')"
        return Guess(None, (missing(key, told),))
    if not names:
        return Guess(NONE)
    return Guess(names[0], (assumed(key, f"the {holds} are taken from the column {names[0]!r}"),))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:-1]))
    return f"{shown} and {names[-1]!r}" if shown else repr(names[-1])


def perturbation_column(obs: pd.DataFrame) -> Guess:
    """Guess the column of labels: a usual name, some label that is a word for controls, more than one "
    "other."""
    named = columns_named(obs, "perturbation")
    fitting = without_copies(obs, [name for name in named if _names_perturbations(obs[name])])
    if len(fitting) == 1:
        return Guess(
            fitting[0], (assumed("perturbation", f"the labels are taken from the column {fitting[0]!r}"),)
        )
    if fitting:
        told = f"{_listed(fitting)} may each hold the perturbations: name one with --perturbation-key"
        return Guess(None, (missing("perturbation", told),))
    guides = [name for name in columns_named(obs, "guide") if _names_perturbations(obs[name])]
    if len(guides) == 1:
        told = f"there is no column of perturbations, so the guides in {guides[0]!r} are taken for the labels"
        return Guess(guides[0], (assumed("perturbation", told),))
    shown = _listed([str(name) for name in obs.columns][:12]) if len(obs.columns) else "none"
    there = f" beside a label for controls ({_listed(named)} have none that is known)" if named else ""
    told = f"no column looks like perturbations{there}: name one with --perturbation-key (there are {shown})"
    return Guess(None, (missing("perturbation", told),))


def _names_perturbations(column: pd.Series) -> bool:
    labels = text(column).unique()
    others = [label for label in labels if not control_word(label)]
    return len(others) < len(labels) and any(plain(label) not in NOT_A_NAME for label in others)


def control_word(label: str) -> bool:
    """Return whether a label, or the target of the guide that it names, is a word for controls."""
    return is_control(label) or is_control(GUIDE_END.sub("", label))


def control_labels(labels: pd.Series) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Guess the labels of unperturbed cells among labels [n]; different words for them are asked for."""
    sizes = text(labels).value_counts()
    names = [str(name) for name in sizes.index if is_control(str(name))]
    guides = [str(name) for name in sizes.index if control_word(str(name)) and str(name) not in names]
    if len(names) > 1:
        shown = _listed(names)
        told = f"{shown} are all words for controls: name those that are with --control (once for each)"
        return (), (missing("control", told),)
    if names or guides:
        chosen = tuple(names or sorted(guides))
        cells = int(sizes[list(chosen)].sum())
        told = f"the controls are the {cells} cells labelled {_listed(chosen[:4])}"
        return chosen, (assumed("control", told + (f" and {len(chosen) - 4} more" if chosen[4:] else "")),)
    shown = _listed([str(name) for name in sizes.index[:5]])
    told = f"no label is a usual word for controls (the largest are {shown}): name it with --control"
    return (), (missing("control", told),)


def guide_targets(labels: Iterable[str], genes: Iterable[str], controls: Sequence[str]) -> dict[str, str]:
    """Return the target of each label that is a guide's name: a gene (or a word for controls) and a number.

    Empty where most labels are no such names, or are genes themselves.
    """
    known, names = set(genes), sorted(set(labels) - set(controls))
    stripped = {name: GUIDE_END.sub("", name) for name in names if name not in known}
    guides = {name: target for name, target in stripped.items() if target in known and target != name}
    several = len(set(guides.values())) < len(guides)
    return guides if names and several and len(guides) >= 0.5 * len(names) else {}


def separator(labels: Iterable[str], genes: Iterable[str], controls: Sequence[str]) -> Guess:
    """Guess the sign that joins combinations: one whose pieces are other labels, genes or controls."""
    names = sorted(set(labels) - set(controls))
    known = {*names, *controls}
    for sign in SEPARATORS:
        joined = [name for name in names if sign in name]
        pieces = {name: [piece.strip() for piece in name.split(sign)] for name in joined}
        alone = {piece for cut in pieces.values() if any(map(is_control, cut)) for piece in cut}  # A+ctrl
        sure = known if sign == "_" else known | set(genes) | alone
        fitting = [
            name for name in joined if all(piece in sure or is_control(piece) for piece in pieces[name])
        ]
        if joined and len(fitting) >= 0.9 * len(joined):
            told = f"labels such as {fitting[0]!r} are combinations, joined by {sign!r}"
            return Guess(sign, (assumed("separator", told),))
    return Guess(NONE)


def symbols_column(var: pd.DataFrame, targets: set[str]) -> Guess:
    """Guess the column of var by whose names the labels call genes, where the names of var are others."""
    if targets & set(map(str, var.index)):
        return Guess(NONE)
    inside = {str(name): len(set(map(str, var[name])) & targets) for name in var.columns}
    best = max(inside, key=lambda name: inside[name], default="")
    if not best or not inside[best]:
        return Guess(NONE)
    told = (
        f"genes are called by the column {best!r} of var, where {inside[best]} of {len(targets)} targets "
        f"stand (var_names, such as {str(var.index[0])!r}, hold none)"
    )
    return Guess(best, (assumed("gene_symbols", told),))


def kind_of_labels(keys: Keys, obs: pd.DataFrame, labels: Sequence[str], measured: int) -> Guess:
    """Guess the kind of perturbation from columns' names and labels; None: genes, told later by their values.

    `labels` are the parts of all labels, `measured` how many of them are genes of the file.
    """
    told = _told_kind(obs)
    if told:
        return Guess(told, (assumed("kind", f"the column of perturbation types says {told}"),))
    by_name = KIND_OF_NAME.get(plain(keys.perturbation or ""))
    if by_name:
        return Guess(
            by_name, (assumed("kind", f"labels of the column {keys.perturbation!r} are of kind {by_name}"),)
        )
    if measured:
        return Guess(None)
    if labels and all(CYTOKINE.fullmatch(plain(label)) for label in labels):
        return Guess("cytokine", (assumed("kind", f"labels such as {labels[0]!r} are cytokines"),))
    if keys.column("dose"):
        return Guess("drug", (assumed("kind", "labels with doses, none of them a gene, are drugs"),))
    told = f"it cannot be told what was done to the cells (no label is a gene): give --kind {'|'.join(KINDS)}"
    return Guess(None, (missing("kind", told),))


def _told_kind(obs: pd.DataFrame) -> str | None:
    for name in obs.columns:
        if plain(str(name)) in ("perturbationtype", "perturbationkind"):
            words = {KIND_OF_WORD.get(plain(str(value)), "") for value in obs[name].dropna().unique()} - {""}
            if len(words) == 1:
                return words.pop()
    return None
