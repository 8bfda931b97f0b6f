"""What is in a file, what was assumed of it, and what is missing: read, guessed and judged, nothing "
"written."""

from __future__ import annotations

import os
import pathlib
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from twinlib.data import blocks, canonical, scale, schema, traps
from twinlib.data.canonical import Reading
from twinlib.data.labels import Columns
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError
from twinlib.verdict import defects, guesses, guides
from twinlib.verdict.findings import LEVELS, Finding, assumed, defect, first_of, missing
from twinlib.verdict.guesses import Guess
from twinlib.verdict.keys import KINDS, NONE, Keys, as_options

if TYPE_CHECKING:
    from anndata import AnnData

#: Files with more cells than this stay on disk and are read in blocks.
IN_MEMORY = 200_000
#: A knock-down or activation is told where the targets stand at this share of the controls' level.
FALLS, RISES = 0.75, 1.5
#: Total counts are used where the genes of the file hold less than this share of them.
ALL_COUNTS = 0.98
#: Headings of the levels.
HEADINGS = {
    "holds": "In the file",
    "assumed": "Assumed (change it with the option named)",
    "defect": "What to know",
    "missing": "Missing",
}


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a file holds, what was assumed of it, and its cells where nothing is missing."""

    #: Name of the file, without its ending.
    name: str
    #: The keys with every guess filled in.
    keys: Keys
    #: What is told, in order.
    findings: tuple[Finding, ...]
    #: The cells in canonical form; None where something is missing.
    made: AnnData | None
    #: One row a perturbation, dose and context (`defects.groups_table`).
    groups: pd.DataFrame
    #: One row a target (`guides.guide_table`); None where no guides are known.
    guides: pd.DataFrame | None = None

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return self.made is not None

    def of(self, level: str) -> tuple[str, ...]:
        """Return the sentences of one level."""
        return tuple(finding.sentence for finding in self.findings if finding.level == level)

    def cells(self) -> AnnData:
        """Return the canonical cells [n, G]; a file with something missing is refused with that sentence."""
        if self.made is None:
            raise DataError(f"{self.of('missing')[0]}.")
        return self.made

    def text(self) -> str:
        """Return what `twinlib check` prints."""
        lines = [self.name]
        for level in LEVELS:
            lines += [f"\n{HEADINGS[level]}"] * bool(self.of(level))
            lines += [f"- {sentence}." for sentence in self.of(level)]
        return "\n".join(lines)


def inspect(source: str | os.PathLike[str] | AnnData, keys: Keys | None = None) -> Inspection:
    """Say what is in a file (h5ad or zarr) or an AnnData, what is assumed of it and what is missing.

    Raises
    ------
    DataError
        A file that cannot be read at all; everything else is a finding.
    """
    adata, name = opened(source)
    filling = _Filling(adata, keys or Keys())
    filling.fill()
    made = None if filling.stopped else _brought(filling, name)
    if made is None:
        return Inspection(name, filling.keys, _ordered(filling.told), None, pd.DataFrame())
    table = guides.guide_table(made) if "guide" in made.obs or "guide_share" in made.obs else None
    told = [*filling.told, *defects.all_of(made), *guides.of_guides(made, table)]
    return Inspection(name, filling.keys, _ordered(told), made, defects.groups_table(made), table)


def _ordered(told: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(told, key=lambda finding: LEVELS.index(finding.level)))


def opened(source: str | os.PathLike[str] | AnnData) -> tuple[AnnData, str]:
    """Return the cells of a file, large ones on disk, and the file's name."""
    if not isinstance(source, str | os.PathLike):
        return source, "yours"
    path = pathlib.Path(source)
    if not path.exists():
        raise DataError(f"There is no file {path}: give the path of an h5ad file.")
    if path.suffix not in (".h5ad", ".zarr"):
        raise DataError(f"{path.name} is no h5ad or zarr file: write your cells with adata.write_h5ad(PATH).")
    return (_read_whole(path) if _cells_in(path) <= IN_MEMORY else blocks.open_lazy(path)), path.stem


def _cells_in(path: pathlib.Path) -> int:
    """Return the number of cells of a file; 0 where its form does not say it in one place."""
    import h5py

    if path.is_dir():
        return IN_MEMORY + 1
    try:
        with h5py.File(path, "r") as file:
            obs = file["obs"]
            return int(obs[obs.attrs["_index"]].shape[0]) if "_index" in obs.attrs else 0
    except (OSError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from None


def _read_whole(path: pathlib.Path) -> AnnData:
    import anndata

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return anndata.read_h5ad(path)
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: pathlib.Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:120].rstrip(". ")
    return DataError(f"{path.name} could not be read ({type(error).__name__}: {reason}): write it again.")


class _Filling:
    """Keys on their way from what was given to what is used."""

    def __init__(self, adata: AnnData, keys: Keys) -> None:
        self.adata, self.keys = adata, keys
        self.obs, self.var = adata.obs, adata.var
        self.told: list[Finding] = []
        self.guide_targets: dict[str, str] = {}

    @property
    def stopped(self) -> bool:
        """Whether something is missing."""
        return any(finding.level == "missing" for finding in self.told)

    def fill(self) -> None:
        """Fill the keys in the order in which each needs the ones before."""
        for step in (
            self._check_columns,
            self._fill_labels,
            self._fill_genes,
            self._fill_columns,
            self._fill_kind,
        ):
            step()
            if self.stopped and step != self._fill_columns:
                return

    def _take(self, name: str, guess: Guess) -> None:
        if getattr(self.keys, name) is None:
            self.keys = self.keys.filled(**{name: guess.value})
            self.told += guess.findings

    def _check_columns(self) -> None:
        """Ask for another name where a column that was named is not there."""
        tables = {"gene_symbols": self.var} | dict.fromkeys(
            ("perturbation", "context", "batch", "dose", "guide", "total_counts"), self.obs
        )
        for name, table in tables.items():
            column = self.keys.column(name)
            if column is not None and column not in table:
                option = name.replace("_", "-") + (
                    "-key" if name in guesses.NAMES and name != "total_counts" else ""
                )
                shown = ", ".join(map(str, table.columns)) or "none"
                self.told.append(
                    missing(name, f"there is no column {column!r} for --{option} (there are {shown})")
                )

    def _fill_labels(self) -> None:
        self._take("perturbation", guesses.perturbation_column(self.obs))
        if self.keys.perturbation and not self.keys.control:
            control, told = guesses.control_labels(self.obs[self.keys.perturbation])
            self.keys = self.keys.filled(control=control)
            self.told += told

    def raw_labels(self) -> list[str]:
        """Return the labels of the file, each once."""
        return sorted(guesses.text(self.obs[str(self.keys.perturbation)]).unique())

    def genes(self) -> list[str]:
        """Return the genes by the names that labels use."""
        return list(map(str, canonical.read_var(self.var, self.keys.column("gene_symbols")).index))

    def _fill_genes(self) -> None:
        raw = self.raw_labels()
        named = [label for label in raw if label not in self.keys.control]
        for targets in (named, [guesses.GUIDE_END.sub("", label) for label in named]):
            if self.keys.column("gene_symbols") is None:
                pieces = {piece for target in targets for piece in schema.parts(target)}
                guess = guesses.symbols_column(self.var, pieces)
                self.told += guess.findings
                self.keys = self.keys.filled(gene_symbols=guess.value)
        genes = self.genes()
        self.guide_targets = guesses.guide_targets(raw, genes, self.keys.control)
        if self.guide_targets:
            first = min(self.guide_targets)
            told = f"labels such as {first!r} are guides of {self.guide_targets[first]!r}"
            self.told.append(assumed("guide", told))
        self._take("separator", guesses.separator(raw, genes, self.keys.control))

    def _fill_columns(self) -> None:
        """Fill in the optional columns; one that serves another key already is none."""
        used = [self.keys.perturbation]
        for name, option, words in (
            ("guide", "--guide-key", "guides"),
            ("context", "--context-key", "cell types or lines"),
            ("batch", "--batch-key", "batches (donors, plates)"),
            ("dose", "--dose-key", "doses"),
        ):
            left = self.obs.drop(columns=[column for column in used if column in self.obs])
            left = self._usable_batches(left) if name == "batch" and self.keys.batch is None else left
            left = self._varied_doses(left) if name == "dose" else left
            if name == "guide" and self.guide_targets:
                left = self.obs[[str(self.keys.perturbation)]].rename(columns=str)
                self._take("guide", Guess(str(self.keys.perturbation)))
            self._take(name, guesses.one_of(left, name, option, words))
            used.append(self.keys.column(name))

    def _usable_batches(self, obs: pd.DataFrame) -> pd.DataFrame:
        """Leave out the columns of batches most of whose cells lie in batches without both arms."""
        control = guesses.text(self.obs[str(self.keys.perturbation)]).isin(self.keys.control).to_numpy()
        useless = []
        for name in guesses.columns_named(obs, "batch"):
            levels = obs[name].astype(str)
            both = set(levels[control]) & set(levels[~control])
            if levels.isin(both).mean() < 0.5:
                useless.append(name)
                told = f"most batches of the column {name!r} hold only one arm, so it is not used as a batch"
                self.told.append(defect("batches", told))
        return obs.drop(columns=useless)

    def _varied_doses(self, obs: pd.DataFrame) -> pd.DataFrame:
        """Leave out the columns of doses in which perturbed cells do not differ."""
        control = guesses.text(self.obs[str(self.keys.perturbation)]).isin(self.keys.control).to_numpy()
        names = guesses.columns_named(obs, "dose")
        return obs.drop(columns=[name for name in names if obs[name][~control].nunique() < 2])

    def _fill_kind(self) -> None:
        genes, sign = set(self.genes()), self.keys.column("separator")
        names = [self.guide_targets.get(label, label) for label in self.raw_labels()]
        pieces = {piece.strip() for name in names for piece in (name.split(sign) if sign else [name])}
        pieces = {
            piece for piece in pieces if piece not in self.keys.control and not guesses.control_word(piece)
        }
        told = guesses.kind_of_labels(self.keys, self.obs, sorted(pieces), len(pieces & genes))
        self._take("kind", told)

    def columns(self) -> Columns:
        """Return the columns as the package reads them."""
        first, *others = self.keys.control
        return Columns(
            str(self.keys.perturbation),
            first,
            self.keys.column("context"),
            self.keys.column("batch"),
            self.keys.column("dose"),
            self.keys.column("separator"),
            self.guide_targets | dict.fromkeys(others, first),
            self.keys.column("guide"),
            self.keys.log_dose,
        )


def _brought(filling: _Filling, name: str) -> AnnData | None:
    """Return the canonical cells, or None with what stops them among the findings."""
    try:
        made = _with_totals(filling, _from_any_layer(filling, name), name)
        made = _without_lonely(filling, made)
        _name_kind(filling, made)
        made = guides.with_shares(made, filling.adata)
        if filling.keys.single_guides:
            made = guides.without_multiplets(made)
        _name_layer(filling, made)
        return schema.check(made)
    except DataError as error:
        filling.told.append(missing("file", as_options(str(error)).rstrip(".")))
        return None


def _bring(filling: _Filling, name: str) -> AnnData:
    keys = filling.keys
    kind = KINDS[keys.kind] if keys.kind else "CRISPRko"  # told from the cells afterwards (`_name_kind`)
    in_scale = str(filling.adata.uns.get("twinlib", {}).get("scale", "log1p"))  # canonical cells say it
    reading = Reading(in_scale, keys.column("layer"), keys.column("total_counts"), keys.fractional)
    return canonical.bring(filling.adata, filling.columns(), name, kind, keys.column("gene_symbols"), reading)


def _from_any_layer(filling: _Filling, name: str) -> AnnData:
    """Read X, or, where X cannot be used, the one layer (or raw) that holds counts."""
    try:
        return _bring(filling, name)
    except DataError as error:
        holding = _layers_of_counts(filling.adata) if filling.keys.layer is None else []
        if not holding and filling.keys.fractional is None and _is_fractional(filling):
            return _taken_as_given(filling, name)
        if len(holding) != 1:
            raise
        filling.keys = filling.keys.filled(layer=holding[0])
        made = _bring(filling, name)
        wrong = str(error).split(":", 1)[-1].strip().rstrip(".").split(", give the counts")[0]
        filling.told.append(
            assumed(
                "layer", f"the layer {holding[0]!r} is read in place of X, since X cannot be used ({wrong})"
            )
        )
        return made


def _is_fractional(filling: _Filling) -> bool:
    given = canonical.in_place_of_x(filling.adata, filling.keys.column("layer"))
    return scale.kind_of_values(given.X) == "fractional"


def _taken_as_given(filling: _Filling, name: str) -> AnnData:
    filling.keys = filling.keys.filled(fractional="given")
    told = (
        "X holds fractional counts (corrected for ambient RNA, or estimated), which are taken as given: "
        "--fractional round rounds them"
    )
    filling.told.append(defect("values", told))
    return _bring(filling, name)


def _layers_of_counts(adata: AnnData) -> list[str]:
    layers = {name: adata.layers[name] for name in adata.layers if name != "counts"}
    if adata.raw is not None and "raw" not in layers:
        layers["raw"] = adata.raw.X
    return [name for name, values in layers.items() if scale.kind_of_values(values) == "counts"]


def _with_totals(filling: _Filling, made: AnnData, name: str) -> AnnData:
    """Read the cells again with their total counts, where a column holds them and genes were left out."""
    if filling.keys.total_counts is not None or "counts" not in made.layers or not _from_counts(made):
        return made
    counted = blocks.row_sums(made.layers["counts"])
    for column in guesses.columns_named(filling.obs, "total_counts"):
        totals = pd.to_numeric(filling.obs[column], errors="coerce").to_numpy(dtype=float)
        if (totals >= counted * (1 - 1e-6)).all() and np.median(counted / totals) < ALL_COUNTS:
            filling.keys = filling.keys.filled(total_counts=column)
            share = np.median(counted / totals)
            told = (
                f"cells are scaled by the total counts in {column!r}, of which these genes hold {share:.0%}"
            )
            filling.told.append(assumed("total_counts", told))
            return _bring(filling, name)
    filling.keys = filling.keys.filled(total_counts=NONE)
    return made


def _name_layer(filling: _Filling, made: AnnData) -> None:
    """Tell what a layer was taken for under its own name: X was not read."""
    layer, facts = filling.keys.column("layer"), made.uns["twinlib"]
    for name in ("taken_for", "counts") if layer else ():
        facts[name] = re.sub(r"\bX (was taken|holds)", rf"the layer {layer!r} \1", str(facts[name]))


def _from_counts(made: AnnData) -> bool:
    return not str(made.uns["twinlib"]["taken_for"]).startswith("X was taken for log1p(")


def _without_lonely(filling: _Filling, made: AnnData) -> AnnData:
    """Leave out the contexts in which nothing can be judged, and tell them."""
    lonely = defects.lonely_contexts(made)
    if not lonely:
        return made
    contexts = made.obs["cell_context"].astype(str)
    if not (set(contexts) - set(lonely)):
        raise DataError(
            f"No context holds {schema.MIN_CELLS} controls: name another column with context_key= (or "
            "'none')."
        )
    out = contexts.isin(lonely).to_numpy()
    filling.told.append(
        defect(
            "contexts",
            f"{len(lonely)} of {contexts.nunique()} contexts ({first_of(lonely, 3)}) hold under "
            f"{schema.MIN_CELLS} controls and are left out ({int(out.sum())} cells)",
        )
    )
    return made[~out].copy()


def _name_kind(filling: _Filling, made: AnnData) -> None:
    """Tell a knock-down, an activation and a knock-out apart by the targets' own expression."""
    if filling.keys.kind is not None:
        return
    rows = np.arange(made.n_obs)[:: max(1, made.n_obs // defects.LOOKED_AT)]
    ratio = traps.target_response(
        blocks.take(made.X, rows),
        made.obs["perturbation"].astype(str).to_numpy()[rows],
        map(str, made.var_names),
    )
    kind = "crispri" if ratio < FALLS else "crispra" if ratio > RISES else "knockout"
    why = f"their own expression stands at {ratio:.2f} of the controls'"
    why = why if np.isfinite(ratio) else "no single target shows its own expression"
    told = f"genes were perturbed ({kind}: {why}; --kind)"
    filling.keys = filling.keys.filled(kind=kind)
    filling.told.append(assumed("kind", told))
    types = np.where(made.obs["perturbation"] == CONTROL, "none", KINDS[kind])
    made.obs["perturbation_type"] = pd.Categorical(types)
