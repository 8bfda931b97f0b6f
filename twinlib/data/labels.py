"""From the labels of a file to the package's own: translated, never guessed; hints where one looks odd."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from twinlib.data import doses, schema
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError

#: Text that stands for a missing label.
MISSING = ("", "nan", "none", "na", "n/a", "null", "<na>")

#: Words for unperturbed cells, without blanks and signs, in lower case.
CONTROL_WORDS = frozenset(
    "control controls ctrl ctl ctr nontargeting nontargetingcontrol nontarget nt ntc sgnt safetargeting "
    "safeharbor intergenic scramble scrambled neg negative negctrl negativecontrol mock dmso dmsotf pbs "
    "vehicle untreated unstimulated unstim notreatment nocytokine unperturbed wildtype aavs1 luciferase "
    "lacz".split()
)

#: Columns of obs that are the package's; a column of a file with such a name is kept as `NAME_given`.
RESERVED = (*schema.COLUMNS, "small_group", "split", "validation")


@dataclass(frozen=True)
class Columns:
    """Where the labels stand in the obs of a file, and how they are written."""

    #: Column of perturbation labels.
    perturbation: str
    #: The label of unperturbed cells.
    control: str
    #: Column of cell contexts (cell type, line, donor); None: one context for all.
    context: str | None = None
    #: Column of batches; None: one batch for all.
    batch: str | None = None
    #: Column of doses; None: dose 1 for every perturbed cell.
    dose: str | None = None
    #: What joins the parts of a combination; None: labels are never split.
    separator: str | None = "+"
    #: Target of each guide, where the labels name guides.
    guide_targets: Mapping[str, str] | None = None
    #: Column of guides; None: the file does not say which guide a cell carries.
    guide: str | None = None
    #: Take doses as log2(1 + dose / smallest dose) (`doses.logged`).
    log_dose: bool = False

    def __post_init__(self) -> None:
        for name, value in (("control", self.control), ("separator", self.separator)):
            text = isinstance(value, str) and (value.strip() or (value and name == "separator"))
            if not text and not (value is None and name == "separator"):
                raise DataError(f"{name}={value!r} is no text with a sign in it: give one {name} as text.")
        targets = self.guide_targets or {}
        wrong = [] if not isinstance(targets, Mapping) else [t for t in targets.values() if not _named(t)]
        if wrong or not isinstance(targets, Mapping):
            raise DataError(
                f"guide_targets holds {wrong[0]!r} as a target: give a dict from each guide to its gene."
                if wrong
                else f"guide_targets is a {type(targets).__name__}: give a dict from each guide to its gene."
            )

    @cached_property
    def _targets(self) -> dict[str, str]:
        return {str(guide).strip(): gene.strip() for guide, gene in (self.guide_targets or {}).items()}

    def target(self, name: str) -> str:
        """Return the target of a guide, or the name itself, without blanks around it."""
        return self._targets.get(name.strip(), name.strip())


def _named(target: object) -> bool:
    return isinstance(target, str) and target.strip().lower() not in MISSING


def read_obs(obs: pd.DataFrame, columns: Columns, genes: Iterable[str] = ()) -> pd.DataFrame:
    """Return obs [n] with perturbation, cell_context, batch and dose, beside the file's other columns."""
    twice = obs.columns[obs.columns.duplicated()].unique()
    if len(twice):
        raise DataError(f"obs has several columns named {twice[0]!r}: rename or drop all but one.")
    labels = _column(obs, columns.perturbation, "perturbation")
    made = pd.DataFrame(index=obs.index.astype(str))
    made["perturbation"] = own_labels(labels, columns, genes)
    for ours, theirs in (("cell_context", columns.context), ("batch", columns.batch)):
        made[ours] = "all" if theirs is None else _column(obs, theirs, ours)
    control = (made["perturbation"] == CONTROL).to_numpy()
    made["dose"] = np.where(control, 0.0, 1.0)
    if columns.dose is not None:
        _check_key(obs, columns.dose, "dose")
        given = doses.read(obs[columns.dose], control, columns.separator)
        made["dose"] = doses.logged(given, doses.smallest(given)) if columns.log_dose else given
    if columns.guide is not None:
        made["guide"] = _column(obs, columns.guide, "guide")
    return _with_the_rest(made, obs)


def _with_the_rest(made: pd.DataFrame, obs: pd.DataFrame) -> pd.DataFrame:
    """Add the file's own columns; one whose name is the package's is kept as `NAME_given`."""
    rest = obs.set_axis(made.index, axis=0)
    same = [name for name in made if name in rest and rest[name].astype(str).equals(made[name].astype(str))]
    rest = rest.drop(columns=same).rename(columns={name: f"{name}_given" for name in (*RESERVED, *made)})
    return pd.concat([made, rest], axis=1)


def _column(obs: pd.DataFrame, key: str, holds: str) -> np.ndarray:
    """Return a column of obs as text [n] without blanks around it; a missing column or value is refused."""
    _check_key(obs, key, holds)
    if obs[key].isna().any():
        raise DataError(f"The column {key!r} of obs has {int(obs[key].isna().sum())} cells without a value.")
    return np.char.strip(obs[key].astype(str).to_numpy(dtype=str))


def _check_key(obs: pd.DataFrame, key: str, holds: str) -> None:
    if not isinstance(key, str | int) or key not in obs:
        raise DataError(
            f"obs has no column {key!r}: name the column of the {holds} (there are {list(obs.columns)})."
        )


def own_labels(labels: np.ndarray, columns: Columns, genes: Iterable[str] = ()) -> np.ndarray:
    """Translate labels [n]: the control label to `control`, guides to targets, combinations to `A+B`.

    Guides are translated before the control is looked for. Two orders of the same parts become one label, and
    a part named twice counts once. A separator that cuts one of the `genes` is refused.
    """
    codes, kinds = pd.factorize(np.char.strip(labels))
    unique, known = sorted(map(str, kinds)), frozenset(genes)
    first: dict[frozenset[str], str] = {}
    own: dict[str, str] = {}
    for label in unique:
        own[label] = _own_label(label, columns, known)
        if own[label] != CONTROL:
            own[label] = first.setdefault(frozenset(schema.parts(own[label])), own[label])
    if CONTROL not in own.values():
        raise _no_control(unique, columns)
    return np.asarray([own[str(label)] for label in kinds], dtype=str)[codes]


def _no_control(labels: list[str], columns: Columns) -> DataError:
    """Return the error of labels none of which is the control."""
    close = [label for label in labels if plain(label) == plain(columns.control)]
    close = close or [label for label in labels if plain(label) in CONTROL_WORDS]
    hint = f"; did you mean {close[0]!r}" if close else ""
    shown = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
    return DataError(
        f"No cell has the control label {columns.control!r} (the labels are {shown}{hint}): name the control "
        "label of your data with control=."
    )


def plain(label: str) -> str:
    """Return a label without blanks and signs, in lower case."""
    return re.sub(r"[\W_]", "", label).lower()


def _own_label(label: str, columns: Columns, genes: frozenset[str]) -> str:
    """Translate one label."""
    control = columns.control.strip()
    if label != control and label.lower() in MISSING:
        raise DataError(
            f"Some cells have the label {label!r}, which names no perturbation: rename or drop them."
        )
    whole = columns.target(label)
    split = columns.separator is not None and whole == label and label != control
    pieces = [piece.strip() for piece in label.split(columns.separator)] if split else [whole]
    if len(pieces) > 1:
        _check_cut(label, pieces, columns, genes)
    named = [target for target in map(columns.target, pieces) if target != control]
    if CONTROL in named:
        raise DataError(
            f"The label {label!r} holds the word 'control' beside control={columns.control!r}: rename one."
        )
    if not named:
        return CONTROL
    named = [" ".join(target.replace("+", " plus ").split()) for target in dict.fromkeys(named)]
    if CONTROL in named or not all(schema.parts(target) for target in named):
        raise DataError(f"The label {label!r} names no perturbation: rename it.")
    return "+".join(named)


def _check_cut(label: str, pieces: list[str], columns: Columns, genes: frozenset[str]) -> None:
    """Raise a DataError when the separator cuts a gene's name, or leaves a bare number or nothing."""
    bare = [piece for piece in pieces if piece.isdigit() and columns.target(piece) == piece]
    if label in genes or bare or "" in pieces:
        raise DataError(
            f"The separator {columns.separator!r} cuts the label {label!r} into {pieces}: name what "
            "joins combinations with separator= (None when nothing does), or give guide_targets."
        )


def hints(labels: Iterable[str], measured: bool, genes: Sequence[str], var: pd.DataFrame) -> list[str]:
    """Say what looks odd about labels [n] in the package's words; nothing is changed for it.

    `measured`: whether a target is among the genes [G], or need not be.
    """
    sizes = pd.Series(list(labels), dtype=object).value_counts().sort_index()
    names = [str(name) for name in sizes.index if name != CONTROL]
    parts = sorted({part for name in names for part in schema.parts(name)})
    told = [f"{p!r} looks like a second control: map it with guide_targets" for p in parts if is_control(p)]
    told += [f"{a!r} and {b!r} differ only in signs or capitals" for a, b in _look_alike(parts)]
    told += [f"{n!r} looks like a combination: name its sign with separator=" for n in _joined(parts)]
    small = [str(name) for name in names if sizes[name] < schema.MIN_CELLS]
    if small:
        told.append(
            f"{len(small)} perturbations have under {schema.MIN_CELLS} cells ({', '.join(small[:3])}"
            f"{', ...' if len(small) > 3 else ''}; obs['small_group'])"
        )
    return told if measured else [*told, _unmeasured(parts, genes, var)]


def is_control(part: str) -> bool:
    """Return whether a label is a word for unperturbed cells."""
    return plain(part) in CONTROL_WORDS


def _look_alike(parts: list[str]) -> list[tuple[str, str]]:
    """Return pairs of parts that are one text without signs and capitals."""
    first: dict[str, str] = {}
    return [(first[plain(p)], p) for p in parts if first.setdefault(plain(p), p) != p and plain(p)]


def _joined(parts: list[str]) -> list[str]:
    """Return the parts that two other parts make when a sign joins them."""
    known = set(parts)
    cut = {part: [piece.strip() for piece in re.split(r"[_|;,&/:]", part)] for part in parts}
    return [part for part, pieces in cut.items() if len(pieces) > 1 and set(pieces) <= known]


def _unmeasured(parts: list[str], genes: Sequence[str], var: pd.DataFrame) -> str:
    """Say why no target is among the genes, as far as the names tell."""
    none = "no target is among the genes"
    for name in var.columns:
        inside = set(map(str, var[name])) & set(parts)
        if inside:
            return f"{none}, but var[{name!r}] holds {len(inside)}: pass gene_symbols={name!r}"
    lower = {gene.lower(): gene for gene in genes}
    other = [part for part in parts if part.lower() in lower]
    if other:
        return f"{none}, but {other[0]!r} is written {lower[other[0].lower()]!r} there"
    if genes and all(re.match(r"ENS[A-Z]*G\d{6,}", gene) for gene in genes[:5]):
        return f"{none}, which are named by ENSEMBL: pass gene_symbols= with a column of var"
    return f"{none}, so no perturbation can be reached by its gene"
