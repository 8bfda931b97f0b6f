"""The experimental twin as a folder: saved without pickle, loaded, and asked about the controls of any "
"file."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twinlib.data import blocks, doses
from twinlib.data.preparation import Prepared
from twinlib.data.schema import CONTROL, parts
from twinlib.errors import DataError, Extrapolation, InputError
from twinlib.experimental.baselines import Trained
from twinlib.files import write_atomic, write_json
from twinlib.verdict.conventions import written_as
from twinlib.verdict.inspection import inspect
from twinlib.verdict.keys import Keys
from twinlib.verdict.outputs import fresh_file

if TYPE_CHECKING:
    from anndata import AnnData

    from twinlib.embedding.perturbations import PerturbationTable
    from twinlib.experimental.perturbation_model import CellNetwork, MeanEffect, PerturbationModel

Array = NDArray[np.floating]
#: Written into the folder, so that a later form is told apart.
FORMAT = 1
#: Fields of `Prepared` that are saved as they are; mean and std are arrays.
_FACTS = (
    "dataset", "data_hash", "split", "fold", "held_out", "seed", "panel_rule", "scale_of_data", "genes",
    "measured", "perturbations", "train_perturbations", "fingerprint",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Twin:
    """A fitted experimental twin with what is needed to ask it about another file."""

    #: The fitted model.
    model: PerturbationModel
    #: How its own file was read; a file that is asked about is read alike where it has the same columns.
    keys: Keys
    #: What targets that were held out say about genes that nobody perturbed; "" where nothing does.
    unseen: str
    #: The dose that counts as 1 where doses are in logarithms, else 0.
    log_dose: float
    #: Contexts of the training cells.
    contexts: tuple[str, ...]

    @staticmethod
    def of(model: PerturbationModel, keys: Keys, unseen: str = "") -> Twin:
        """Return the twin of a fitted model; `unseen` is one sentence on genes that were held out."""
        prepared = model.prepared
        contexts = prepared.cells.obs["cell_context"].iloc[prepared.rows("train")].astype(str).unique()
        smallest = float(prepared.cells.uns["twinlib"].get("log_dose", 0.0))
        return Twin(model, keys, unseen, smallest, tuple(sorted(contexts)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write embedding.npz, twin.npz and twin.json into a folder; no cell and no pickle is among them."""
        from twinlib.embedding.attention import Embedding
        from twinlib.embedding.train import save_embedding

        if not isinstance(self.model.embedding, Embedding):
            raise InputError("Only a twin on a trained embedding (train_embedding) can be saved.")
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_embedding(self.model.embedding, path / "embedding.npz")
        arrays = _arrays(self.model)
        write_atomic(path / "twin.npz", lambda beside: _write_arrays(beside, arrays))
        write_json(path / "twin.json", self._facts())

    def _facts(self) -> dict[str, object]:
        prepared, trained = self.model.prepared, self.model.trained
        return {
            "format": FORMAT,
            "keys": dataclasses.asdict(self.keys),
            "unseen": self.unseen,
            "log_dose": self.log_dose,
            "contexts": self.contexts,
            "config": dataclasses.asdict(self.model.config),
            "lent": list(self.model.lent),
            "doses": {label: list(levels) for label, levels in trained.doses.items()},
            "prepared": {name: getattr(prepared, name) for name in _FACTS},
        }

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Twin:
        """Read a twin that `save` wrote; a folder that is none is refused."""
        path = pathlib.Path(folder)
        try:
            facts = json.loads((path / "twin.json").read_text())
            with np.load(path / "twin.npz", allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if facts["format"] != FORMAT:
                raise DataError(
                    f"{path} is a model of format {facts['format']}, not {FORMAT}: make it again."
                )
            return _built(path, facts, arrays)
        except (OSError, KeyError, TypeError, EOFError, json.JSONDecodeError) as error:
            raise DataError(
                f"{path} is no folder of a whole model ({type(error).__name__}): name the folder model/ that "
                "twinlib report wrote."
            ) from None

    def label(self, perturbation: str) -> str:
        """Return how the model calls a perturbation, whatever the order of its parts; controls drop out."""
        sign = self.keys.column("separator") or "+"
        pieces = [piece.strip() for text in perturbation.split("+") for piece in text.split(sign)]
        asked = frozenset(
            piece for piece in pieces if piece and piece not in (*self.keys.control, "ctrl", CONTROL)
        )
        if not asked:
            raise DataError(f"perturbation={perturbation!r} names no perturbation: give one, such as JAK2.")
        for known in self.model.trained.doses:
            if frozenset(parts(known)) == asked or known == perturbation:
                return known
        return "+".join(sorted(asked))

    def dose(self, label: str, dose: float | None) -> float:
        """Return a dose as the model knows it; without one, the only one that was trained, else a refusal."""
        levels = self.model.trained.levels(label)
        if dose is not None:
            if not np.isfinite(dose) or dose < 0:
                raise DataError(f"dose={dose!r} is no dose: give a number from 0 on.")
            return float(doses.logged(dose, self.log_dose)) if self.log_dose else float(dose)
        if len(levels) > 1:
            shown = ", ".join(f"{self.in_file(level):g}" for level in levels)
            raise DataError(f"{label} needs a dose, since several were trained ({shown}): give --dose.")
        return levels[0] if levels else 1.0

    def in_file(self, dose: float) -> float:
        """Return a dose of the model in the unit of the file."""
        return float(np.round(doses.unlogged(dose, self.log_dose), 10)) if self.log_dose else dose

    def predict(self, cells: AnnData, perturbation: str, dose: float | None = None) -> AnnData:
        """Predict a perturbation for the controls of canonical cells [n, G'].

        Returns
        -------
        AnnData [m, G]: X the predicted cells, nowhere negative, the mean of each gene within a context as
        predicted (`nonnegative`); the rows and columns of obs and var that belong to them; obs
        `perturbation`, `dose`, `control` (the name of the control cell), `extrapolated`; layer `control`; in
        `uns["twinlib"]["notes"]` one sentence for everything that a reader has to know.

        Raises
        ------
        DataError
            One sentence: an unknown perturbation, a dose that is needed, a gene that is not there.
        """
        label = self.label(perturbation)
        level = self.dose(label, dose)
        starts = _controls(cells, self.model.prepared.genes)
        x = np.asarray(blocks.dense(starts.X), dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Extrapolation)  # told in the notes
            moved = self.model.predict(x, [label] * len(x), level)
        contexts = starts.obs["cell_context"].astype(str).to_numpy()
        beyond = bool(self.model.trained.extrapolates([label], np.array([level]))[0])
        return self._labelled(starts, nonnegative(moved, contexts), label, level, beyond)

    def _labelled(self, starts: AnnData, moved: Array, label: str, level: float, beyond: bool) -> AnnData:
        """Return predicted cells with the obs and var of the controls they start from."""
        from anndata import AnnData

        obs = starts.obs.copy()
        obs["control"] = starts.obs_names.astype(str)
        obs["perturbation"], obs["dose"], obs["extrapolated"] = label, self.in_file(level), beyond
        obs.index = pd.Index([f"{name}|{label}" for name in starts.obs_names])
        result = AnnData(moved.astype(np.float32), obs=obs, var=starts.var.copy())
        result.layers["control"] = np.asarray(blocks.dense(starts.X), dtype=np.float32)
        result.uns["twinlib"] = {
            "dataset": self.model.prepared.dataset,
            "scale": self.model.prepared.scale_of_data,
            "notes": self.notes(label, level, beyond, set(starts.obs["cell_context"].astype(str))),
        }
        return result

    def notes(self, label: str, level: float, beyond: bool, contexts: set[str]) -> list[str]:
        """Return one sentence for everything that a reader of a prediction has to know."""
        told, trained = [], self.model.trained
        unseen = [part for part in parts(label) if part not in self.model.table.parts]
        if unseen:
            told.append(
                f"No training cell carries {' or '.join(unseen)}: the prediction is lent from other targets "
                "by what genes do together, and is no measurement."
            )
            told.append(
                self.unseen or "No target was held out, so nothing says how far such predictions carry."
            )
        elif label not in trained.doses:
            told.append(f"No training cell carries the combination {label}: its parts were seen apart.")
        if beyond:
            largest = self.in_file(max(trained.levels(label)))
            told.append(
                f"The dose {self.in_file(level):g} is an extrapolation: cells were trained up to {largest:g}."
            )
        new = sorted(contexts - set(self.contexts))
        if new:
            told.append(
                f"No training cell is of the context {', '.join(new[:3])}: the change is carried over."
            )
        return told


def nonnegative(x: Array, contexts: NDArray[np.str_]) -> Array:
    """Return cells [n, G] without negative values and with the mean of each gene in each context as it was.

    Values below 0 become 0, and the others of that gene and context shrink by one factor; a mean below 0
    becomes 0.
    """
    result = np.maximum(np.asarray(x, dtype=np.float64), 0.0)
    for context in np.unique(contexts):
        rows = contexts == context
        wanted, now = np.maximum(x[rows].mean(axis=0, dtype=np.float64), 0.0), result[rows].mean(axis=0)
        result[rows] *= np.divide(wanted, now, out=np.zeros_like(now), where=now > 0)
    return result


def _controls(cells: AnnData, genes: tuple[str, ...]) -> AnnData:
    """Return the controls on the genes of the panel, or refuse cells that lack one."""
    lacking = [gene for gene in genes if gene not in cells.var_names]
    if lacking:
        raise DataError(
            f"The file lacks {len(lacking)} of the {len(genes)} genes that the model needs (first: "
            f"{lacking[0]}): give the genes by the same names (--gene-symbols)."
        )
    chosen = (cells.obs["perturbation"] == CONTROL).to_numpy()
    if not chosen.any():
        raise DataError("The file holds no control cell to start from: name their label with --control.")
    starts = cells[chosen][:, list(genes)].copy()
    if "counts" in cells.layers:
        starts.obs["total_counts"] = _totals(cells[chosen])
    return starts


def _totals(cells: AnnData) -> Array:
    """Return the total counts [n] by which cells were scaled to 10,000."""
    scaled = np.expm1(np.asarray(blocks.dense(cells.X))).sum(axis=1, dtype=np.float64)
    return 1e4 * blocks.row_sums(cells.layers["counts"]) / np.maximum(scaled, 1e-12)


def predict_file(
    folder: pathlib.Path,
    file: pathlib.Path,
    out: pathlib.Path,
    perturbation: str,
    dose: float | None,
    keys: Keys,
    *,
    convention: str = "twinlib",
    overwrite: bool = False,
) -> list[str]:
    """Predict a perturbation for the controls of a file, write an h5ad file, and return what is to be "
    "known."""
    twin, path = Twin.load(folder), fresh_file(out, overwrite)
    predicted = twin.predict(inspect(file, keys_for(twin.keys, keys)).cells(), perturbation, dose)
    notes = list(predicted.uns["twinlib"]["notes"])
    written = written_as(predicted, convention)
    write_atomic(path, lambda beside: written.write_h5ad(beside, compression="gzip"))
    return [f"{predicted.n_obs} predicted cells x {predicted.n_vars} genes are in {path}.", *notes]


def keys_for(trained: Keys, given: Keys) -> Keys:
    """Return the keys to read another file with: those given, else those of the model's own file."""
    filled = {
        field.name: getattr(given, field.name) or getattr(trained, field.name)
        for field in dataclasses.fields(Keys)
        if field.name not in ("layer", "total_counts", "guide", "single_guides")
    }
    return given.filled(**filled)


def _write_arrays(beside: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with beside.open("wb") as sink:
        np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]


def _arrays(model: PerturbationModel) -> dict[str, np.ndarray]:
    """Return every array of a model but the embedding's, by name."""
    arrays = {"mean": model.prepared.mean, "std": model.prepared.std}
    for name, network in (("label", model.label_network), ("cell", model.cell_network)):
        arrays |= {f"{name}.{key}": value.numpy() for key, value in network.state_dict().items()}
    kept = [value.numpy() for value in model.lent.values()]
    arrays["lent"] = np.stack(kept) if kept else np.zeros((0, 0), dtype=np.float32)
    return arrays


def _built(folder: pathlib.Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Twin:
    """Put a model together again from what was saved."""
    import torch

    from twinlib.embedding.perturbations import PerturbationTable
    from twinlib.embedding.train import load_embedding
    from twinlib.experimental.perturbation_model import PerturbationModel, PerturbationModelConfig

    prepared, embedding = _without_cells(facts, arrays), load_embedding(folder / "embedding.npz")
    table = PerturbationTable(prepared, embedding)
    config = PerturbationModelConfig(**facts["config"])
    levels = {label: tuple(told) for label, told in facts["doses"].items()}
    model = PerturbationModel(
        prepared,
        embedding,
        table,
        _label_network(table, config.label_network, config.hidden, arrays, embedding.latent_dim),
        dict(zip(facts["lent"], torch.from_numpy(arrays["lent"]), strict=True)),
        _cell_network(config.hidden, arrays, embedding.latent_dim),
        config,
        pd.DataFrame(columns=["epoch", "train", "validation"]),
        Trained(prepared.genes, levels),
    )
    keys = Keys(**facts["keys"] | {"control": tuple(facts["keys"]["control"])})
    return Twin(model, keys, facts["unseen"], facts["log_dose"], tuple(facts["contexts"]))


def _without_cells(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Prepared:
    """Return the prepared data of a model without its cells."""
    from anndata import AnnData

    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts["prepared"].items()
    }
    var = pd.DataFrame(index=list(told["genes"]))
    cells = AnnData(np.zeros((0, len(var)), dtype=np.float32), var=var)
    nothing = pd.DataFrame(columns=["share", "permuted", "visible"], dtype=float)
    return Prepared(cells=cells, kept=nothing, mean=arrays["mean"], std=arrays["std"], **told)


def _state(arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    import torch

    return {
        key.removeprefix(f"{name}."): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith(f"{name}.")
    }


def _label_network(
    table: PerturbationTable, networked: bool, hidden: int, arrays: dict[str, np.ndarray], latent: int
) -> MeanEffect:
    import torch

    from twinlib.experimental.perturbation_model import AdditiveEffects, LabelNetwork

    state, genes = _state(arrays, "label"), len(arrays["mean"])
    if networked:
        network = LabelNetwork(table.dim, latent, genes, hidden, torch.Generator())
        network.load_state_dict(state)
        return network.requires_grad_(False)
    additive = AdditiveEffects(
        torch.zeros(1, table.dim), torch.zeros(1, latent + genes), latent, len(table.parts)
    )
    additive.load_state_dict(state)
    return additive.requires_grad_(False)


def _cell_network(hidden: int, arrays: dict[str, np.ndarray], latent: int) -> CellNetwork:
    import torch

    from twinlib.experimental.perturbation_model import CellNetwork

    state = _state(arrays, "cell")
    network = CellNetwork(latent, hidden, torch.Generator())
    network.reference = torch.zeros_like(state["reference"])
    network.load_state_dict(state)
    return network.requires_grad_(False)
