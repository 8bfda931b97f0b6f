"""One reader a source: from checked files to the canonical AnnData, with what the numbers say."""

from __future__ import annotations

import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data import schema, traps
from twinlib.data.canonical import (
    Reading,
    bring,
    complete_obs,
    draw,
    drawn_rows,
    drop_small,
    from_counts,
)
from twinlib.data.download import RemoteFile
from twinlib.data.labels import Columns, own_labels
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


class Entry(Protocol):
    """What a reader asks of an entry of the registry."""

    @property
    def name(self) -> str:
        """Name of the dataset."""
        ...

    @property
    def columns(self) -> Columns:
        """Where the labels stand in the file."""
        ...

    @property
    def kind(self) -> str:
        """Kind of the perturbations."""
        ...


#: (entry of the registry, paths of the checked files, n_cells or None, seed of the draw) -> AnnData [n, G]
Reader = Callable[[Entry, Sequence[pathlib.Path], int | None, int], "AnnData"]


def _drawn(adata: AnnData, n_cells: int | None, seed: int) -> AnnData:
    return adata if n_cells is None else draw(adata, n_cells, seed)


def papalexi(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read Papalexi 2021 from R data; a cell's guide is the one with the most counts."""
    table = _read_r_data(paths[0])["lowmoi_example_data"]
    response, guides = _r_matrix(table["response_matrix"]), _r_matrix(table["grna_matrix"])
    genes = [str(name) for name in table["response_matrix"].Dimnames[0]]
    targets = table["grna_target_data_frame"].set_index("grna_id")[entry.columns.perturbation].astype(str)
    names = np.asarray(table["grna_matrix"].Dimnames[0], dtype=str)
    chosen, share = _argmax_guide(guides)
    obs = pd.DataFrame(
        {
            "perturbation": own_labels(targets.reindex(names[chosen]).to_numpy(dtype=str), entry.columns),
            "guide": names[chosen],
            "guide_share": share.astype(np.float32),
            "batch": table["extra_covariates"][entry.columns.batch].astype(str).to_numpy(),
            "cell_context": "THP-1",
        },
        index=[f"cell_{i:05d}" for i in range(response.shape[0])],
    )
    adata = from_counts(
        response, complete_obs(obs, genes, entry.kind), genes, "given: raw counts of the file"
    )
    return _drawn(adata, n_cells, seed)


def _read_r_data(path: pathlib.Path) -> dict[str, Any]:
    """Read an R data file; matrices of the R package Matrix come back as bags of their slots."""
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rdata.read_rda(str(path))


def _r_matrix(slots: Any) -> sparse.csr_matrix:
    """Turn R's triplet matrix (features x cells) into a CSR matrix of cells x features."""
    shape = (int(slots.Dim[1]), int(slots.Dim[0]))
    return sparse.csr_matrix((slots.x.astype(np.float32), (slots.j, slots.i)), shape=shape)


def _argmax_guide(guides: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return each cell's guide with the most counts [n] and its share of the cell's guide counts [n]."""
    chosen = np.asarray(guides.argmax(axis=1)).ravel()
    totals = np.asarray(guides.sum(axis=1)).ravel()
    if (totals == 0).any():
        raise DataError(
            f"{int((totals == 0).sum())} cells carry no guide count: the file is not the pinned one."
        )
    return chosen, np.asarray(guides.max(axis=1).todense()).ravel() / totals


def _read_h5ad(path: pathlib.Path, backed: bool = False) -> AnnData:
    """Read an h5ad file, backed or whole; of a whole one X (checked before use), obs and var are kept."""
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = anndata.read_h5ad(path, backed="r" if backed else None)
    if backed:
        return cells
    schema.check_sparse(cells.X, f"X of {path.name}")
    return anndata.AnnData(cells.X, obs=cells.obs, var=cells.var)


def norman(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read Norman 2019 out of the file that it shares with McFaline 2023; controls are its own 100."""
    both = _read_h5ad(paths[0])
    return _drawn(
        bring(both[(both.obs["dataset"] == "norman19").to_numpy()], entry.columns, entry.name, entry.kind),
        n_cells,
        seed,
    )


def cross_study(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read the controls of McFaline 2023 and the perturbed cells of Norman 2019, out of their common file.

    All cells share one context, since no context has both kinds: the study stands in `batch`.
    """
    both = _read_h5ad(paths[0])
    own = (both.obs["dataset"] == "norman19").to_numpy()
    control = (both.obs[entry.columns.perturbation] == entry.columns.control).to_numpy()
    return _drawn(bring(both[own != control], entry.columns, entry.name, entry.kind), n_cells, seed)


def kang(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read Kang 2018; `stimulated` is renamed to what it was: IFN-beta."""
    cells = _read_h5ad(paths[0])
    cells.obs["condition"] = cells.obs["condition"].astype(str).replace({"stimulated": "IFN-beta"})
    return _drawn(bring(cells, entry.columns, entry.name, entry.kind), n_cells, seed)


def plain(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read an h5ad file whose labels need no change."""
    return _drawn(bring(_read_h5ad(paths[0]), entry.columns, entry.name, entry.kind), n_cells, seed)


def a549(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read the sci-CAR cells of A549 from R data; `obs["time"]` holds hours after dexamethasone.

    Time is confounded with the barcode of reverse transcription (no barcode at two times); plates are not.
    """
    import anndata

    table = _read_r_data(paths[0])["data_A549"]
    slots, hours = table["data"]["RNA"], table["labels"].iloc[:, 0].to_numpy(dtype=float)
    shape = (int(slots.Dim[1]), int(slots.Dim[0]))
    names = [str(name) for name in slots.Dimnames[1]]
    obs = pd.DataFrame(
        {
            "treatment": np.where(hours == 0, "none", "dexamethasone"),
            "plate": [name.split("_")[2] for name in names],
            "time": hours,
        },
        index=names,
    )
    x = sparse.csr_matrix((slots.x.astype(np.float32), slots.i, slots.p), shape=shape)  # R: by column
    cells = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[str(g) for g in slots.Dimnames[0]]))
    made = bring(cells, entry.columns, entry.name, entry.kind)
    made.obs["time"] = hours
    return _drawn(made, n_cells, seed)


def chi11(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read the stimulated blood cells of the package; the panel may hold their ten state markers only.

    `batch` is the first number of a sample's name, which every stimulus and cell type shares; the stimulus
    itself cannot be told from its well.
    """
    import anndata

    with np.load(pathlib.Path(__file__).parent / "packaged" / "chi11.npz", allow_pickle=False) as packed:
        state = packed["state"]
        var = pd.DataFrame({"state": state, "panel_candidate": state}, index=packed["marker"])
        obs = pd.DataFrame({name: packed[name] for name in ("stimulus", "cell_type", "sample")})
        x = packed["x"]
    obs["run"] = obs["sample"].str.split("_").str[1]
    obs.index = pd.Index([f"cell_{i:04d}" for i in range(len(obs))])
    cells = anndata.AnnData(x, obs=obs, var=var)
    return _drawn(
        bring(cells, entry.columns, entry.name, entry.kind, reading=Reading("arcsinh")), n_cells, seed
    )


def waddington(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Simulate the waddington cells, the same ones at each call; a draw is made of them as of a file."""
    from twinlib.data.simulated import simulate_waddington

    return _drawn(simulate_waddington(), n_cells, seed)


def backed(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Draw cells from a large h5ad file without loading it, say what the numbers show, and bring them.

    The labels (obs) are read whole, of X only the drawn rows.
    """
    whole = _read_h5ad(paths[0], backed=True)
    try:
        n = whole.n_obs if n_cells is None else n_cells
        drawn = whole[drawn_rows(whole.n_obs, n, seed)].to_memory()
    finally:
        whole.file.close()
    return _told(entry, drawn)


def _told(entry: Entry, drawn: AnnData) -> AnnData:
    """Bring drawn cells to the schema, with the sentence of what was found in `uns["twinlib"]["found"]`."""
    if entry.columns.perturbation not in drawn.obs:
        raise DataError(
            f"obs of {entry.name} has no column {entry.columns.perturbation!r}: it is another file."
        )
    schema.check_numbers(drawn.X, "X")
    labels = own_labels(drawn.obs[entry.columns.perturbation].astype(str).to_numpy(dtype=str), entry.columns)
    told = traps.told_by(drawn, labels)
    print(f"{entry.name}: {told}.")
    adata = bring(drawn, entry.columns, entry.name, entry.kind)
    adata.uns["twinlib"] = {**adata.uns["twinlib"], "found": told}
    return drop_small(adata)


# --- iPS2-seq: 10x matrices of a record whose list of files is asked for at run time


def record_files(record: str, name: str) -> tuple[RemoteFile, ...]:
    """Ask the record's API which 10x matrices and aggregation tables it holds, with sizes and hashes.

    The list could not be read when this was written: names are matched by `.h5`, `smad2` or `control`, and
    `aggregation`, and an answer without a match is refused with the names that were found.
    """
    listed = _listed_files(record, name)
    wanted = [file for file in listed if _is_wanted(file.path)]
    if not any(file.path.endswith(".h5") for file in wanted):
        names = ", ".join(pathlib.PurePosixPath(file.path).name for file in listed[:8])
        raise DataError(
            f"The record {record} lists no 10x matrix of SMAD2 (it lists {names}): look there by hand."
        )
    return tuple(wanted)


def _listed_files(record: str, name: str) -> list[RemoteFile]:
    """Ask the record's API for its files."""
    import requests

    try:
        answer = requests.get(record, timeout=10)
        answer.raise_for_status()
        facts = [
            (file["key"], file["links"]["self"], file["checksum"], int(file["size"]))
            for file in answer.json()["files"]
        ]
    except (requests.RequestException, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The record {record} did not list its files ({type(error).__name__}): connect to the network, "
            'or use load("chi11") or load("waddington"), which are in the package.'
        ) from None
    return [RemoteFile(_inside(name, key), *more) for key, *more in facts]


def _inside(folder: str, key: str) -> str:
    """Return the path of a record's file in its folder; a name that leaves it is refused."""
    if not re.fullmatch(r"\w[\w.\- ]*", key):
        raise DataError(f"The record lists the file {key!r}, whose name leaves its folder: it is refused.")
    return f"{folder}/{key}"


def _is_wanted(path: str) -> bool:
    low = pathlib.PurePosixPath(path).name.lower()
    is_matrix = low.endswith(".h5") and any(word in low for word in ("smad2", "control", "perturbed"))
    return is_matrix or (low.endswith(".csv") and low.startswith("aggregation"))


def tenx(entry: Entry, paths: Sequence[pathlib.Path], n_cells: int | None, seed: int) -> AnnData:
    """Read 10x matrices: one aggregate whose samples are told by barcode suffix, or one file a sample."""
    import anndata

    tables = [path for path in paths if path.suffix == ".csv"]
    matrices = [path for path in paths if path.suffix == ".h5"]
    pieces = [_read_tenx(path, tables, alone=len(matrices) == 1) for path in matrices]
    cells = anndata.concat(pieces, join="inner", index_unique="-" if len(pieces) > 1 else None)
    samples = cells.obs["sample_id"].value_counts().to_dict()
    if n_cells is not None:
        cells = cells[drawn_rows(cells.n_obs, n_cells, seed)].copy()
    cells.obs["sample"] = [sample_label(name) for name in cells.obs["sample_id"].astype(str)]
    adata = _told(entry, cells)
    sizes = ", ".join(f"{name} ({size} cells)" for name, size in sorted(samples.items()))
    adata.uns["twinlib"]["found"] += f"; samples by barcode suffix or file: {sizes}"
    return adata


def _read_tenx(path: pathlib.Path, tables: Sequence[pathlib.Path], alone: bool) -> AnnData:
    """Read one 10x matrix with the sample of each cell in `obs["sample_id"]`.

    Several suffixes in a matrix that stands alone, or beside a table of samples, are samples; else the
    file is one.
    """
    import scanpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = scanpy.read_10x_h5(path)
    cells.var_names_make_unique()
    suffixes = traps.barcode_suffixes(cells.obs_names)
    if len(suffixes) == 1 or not (alone or tables):
        cells.obs["sample_id"] = path.stem
        return cells
    if not tables:
        raise DataError(
            f"{path.name} aggregates {len(suffixes)} samples (suffixes {', '.join(suffixes)}), and the "
            "table aggregation*.csv that names them is missing: fetch it from the record."
        )
    names = pd.read_csv(tables[0]).iloc[:, 0].astype(str).tolist()
    order = [name.rsplit("-", 1)[1] for name in cells.obs_names]
    if set(order) - {str(i + 1) for i in range(len(names))}:
        raise DataError(
            f"{tables[0].name} names {len(names)} samples, and {path.name} has suffixes {set(order)}."
        )
    cells.obs["sample_id"] = [names[int(suffix) - 1] for suffix in order]
    return cells


def sample_label(sample: str) -> str:
    """Tell by a sample's name whether it is a control (control, ctrl, B2M, scramble) or the knock-down."""
    low = sample.lower()
    return CONTROL if any(word in low for word in ("control", "ctrl", "b2m", "scr")) else "SMAD2"
