"""The registry of datasets: where a file lives, how it is checked, how it becomes the canonical AnnData."""

from __future__ import annotations

import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from twinlib.data import schema
from twinlib.data.canonical import complete_obs, draw, from_anndata, from_counts
from twinlib.data.schema import CONTROL, DataError

__all__ = ["DATASETS", "Dataset", "RemoteFile", "available", "choose", "dataset", "from_anndata", "load"]

if TYPE_CHECKING:
    from anndata import AnnData

#: The environment variable that names a folder with the data files.
FOLDER_VARIABLE = "TWINLIB_DATA_DIR"


@dataclass(frozen=True)
class RemoteFile:
    """One file at a pinned address."""

    #: Path inside a data folder, and inside the cache.
    path: str
    #: Pinned address.
    url: str
    #: sha256 of the bytes, in hexadecimal.
    sha256: str
    #: Size in bytes.
    size: int


@dataclass(frozen=True)
class Dataset:
    """What the source table of the book says about one dataset."""

    #: Name given to `load`.
    name: str
    #: What was measured, in one line.
    what: str
    #: Licence of the place the file comes from.
    licence: str
    #: The control label in the file.
    control: str
    #: Citation of the study.
    citation: str
    #: Number of highly variable genes in the fixed panel of `standard`.
    panel: int
    #: The file, or None for simulated cells.
    file: RemoteFile | None
    #: Reads the checked file into a canonical AnnData.
    read: Callable[[pathlib.Path | None], AnnData]


def _read_papalexi(path: pathlib.Path | None) -> AnnData:
    table = _read_r_data(path)["lowmoi_example_data"]
    response, guides = _r_matrix(table["response_matrix"]), _r_matrix(table["grna_matrix"])
    genes = [str(name) for name in table["response_matrix"].Dimnames[0]]
    targets = table["grna_target_data_frame"].set_index("grna_id")["grna_target"].astype(str)
    guide_names = np.asarray(table["grna_matrix"].Dimnames[0], dtype=str)
    chosen, share = _argmax_guide(guides)
    target = targets.reindex(guide_names[chosen]).to_numpy(dtype=str)
    obs = pd.DataFrame(
        {
            "perturbation": np.where(target == "non-targeting", CONTROL, target),
            "guide": guide_names[chosen],
            "guide_share": share.astype(np.float32),
            "batch": table["extra_covariates"]["bio_rep"].astype(str).to_numpy(),
            "cell_context": "THP-1",
        },
        index=[f"cell_{i:05d}" for i in range(response.shape[0])],
    )
    return from_counts(response, complete_obs(obs, genes, "CRISPRko"), genes, "given: raw counts of the file")


def _read_r_data(path: pathlib.Path | None) -> dict[str, Any]:
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


def _read_waddington(path: pathlib.Path | None) -> AnnData:
    from twinlib.data.simulate import simulate_waddington

    return simulate_waddington()


_SCEPTRE = "https://raw.githubusercontent.com/Katsevich-Lab/sceptre/823bcdae9df321db501a59aa6b7acc1975052b9f/"

DATASETS: dict[str, Dataset] = {
    "papalexi2021": Dataset(
        name="papalexi2021",
        what="THP-1 monocytes, ECCITE-seq, CRISPR knock-out of 25 genes; 20,729 x 299, raw counts",
        licence="GPL-3 (repository Katsevich-Lab/sceptre)",
        control="non-targeting",
        citation="Papalexi et al. 2021, Nat Genet 53:322 (GSE153056)",
        panel=200,
        file=RemoteFile(
            "papalexi2021/lowmoi_example_data.rda",
            _SCEPTRE + "data/lowmoi_example_data.rda",
            "e3f8ad09bb4b1d0deeeec2850a2d96f8f5062fef31a9ab1cc080e60560421b6a",
            1_358_267,
        ),
        read=_read_papalexi,
    ),
    "waddington": Dataset(
        name="waddington",
        what="simulated myeloid network (11 genes) with CRISPRi, downstream genes and counts; truth known",
        licence="part of this package (MIT)",
        control="control",
        citation="network: Krumsiek et al. 2011, PLoS ONE 6:e22649",
        panel=100,
        file=None,
        read=_read_waddington,
    ),
}


def dataset(name: str) -> Dataset:
    """Return the registry entry of `name`, or raise a DataError that lists the names."""
    if name not in DATASETS:
        raise DataError(f"There is no dataset {name!r}: choose one of {', '.join(sorted(DATASETS))}.")
    return DATASETS[name]


def load(
    name: str, n_cells: int | None = None, seed: int = 0, data_dir: str | os.PathLike[str] | None = None
) -> AnnData:
    """Load a dataset as canonical AnnData [n, G].

    A file is taken from `data_dir` (default: the folder named by TWINLIB_DATA_DIR) when its sha256 agrees,
    else from the cache in the user's cache folder, else from its pinned address.

    Parameters
    ----------
    name
        A key of `DATASETS`.
    n_cells
        Draw this many cells without replacement; None keeps all.
    seed
        Seed of the draw.
    data_dir
        Folder to look in first.

    Raises
    ------
    DataError
        When the file cannot be had, or is not the pinned one, or holds what `schema.check` refuses.
    """
    entry = dataset(name)
    path = None if entry.file is None else _obtain(entry.file, data_dir)
    try:
        adata = entry.read(path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{name} could not be read ({type(error).__name__}: {error}): fetch it again."
        ) from error
    if n_cells is not None:
        adata = draw(adata, n_cells, seed)
    source = adata.uns["twinlib"]["data_hash"] if entry.file is None else entry.file.sha256
    said = {"dataset": name, "data_hash": _draw_hash(source, n_cells, seed)}
    adata.uns["twinlib"] = {**adata.uns["twinlib"], **said}
    return schema.check(adata)


def _draw_hash(source: str, n_cells: int | None, seed: int) -> str:
    """Name the cells by the hash of their source, and of the draw when there was one."""
    return source if n_cells is None else hashlib.sha256(f"{source}:{n_cells}:{seed}".encode()).hexdigest()


def sha256_of(path: pathlib.Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _cache_folder() -> pathlib.Path:
    import pooch

    return pathlib.Path(pooch.os_cache("twinlib"))


def _folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path | None:
    named = data_dir if data_dir is not None else os.environ.get(FOLDER_VARIABLE, "")
    return pathlib.Path(named) if str(named) else None


def _obtain(file: RemoteFile, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Return a path to bytes with the pinned hash: the folder, then the cache, then the network."""
    folder = _folder(data_dir)
    said = f"{FOLDER_VARIABLE} names no folder"
    if folder is not None:
        path = folder / file.path
        said = f"{path.name} is not in the folder that {FOLDER_VARIABLE} or data_dir names"
        if path.is_file():
            if sha256_of(path) == file.sha256:
                return path
            said = f"{path.name} in the data folder has another sha256 than the pinned {file.sha256[:12]}"
    try:
        return _download(file)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{file.path} cannot be had: {said}, and the download from {file.url} failed ({reason}); put the "
            f"file (sha256 {file.sha256[:12]}...) into that folder or connect to the network, or use "
            'load("waddington"), which is embedded and needs neither.'
        ) from error


def _download(file: RemoteFile) -> pathlib.Path:
    """Fetch a small file into the user's cache folder unless it is there with the right hash."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        return pathlib.Path(
            pooch.retrieve(
                url=file.url,
                known_hash=f"sha256:{file.sha256}",
                fname=pathlib.PurePosixPath(file.path).name,
                path=_cache_folder() / pathlib.PurePosixPath(file.path).parent,
                downloader=pooch.HTTPDownloader(timeout=10),
            )
        )
    finally:
        logger.setLevel(level)


def available(name: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Say whether `load(name)` can have its file; a small file is fetched into the cache to find out."""
    entry = dataset(name)
    if entry.file is None:
        return True
    try:
        _obtain(entry.file, data_dir)
    except DataError:
        return False
    return True


def choose(*names: str, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Return the first of `names` that can be had, and print in one sentence which and why."""
    passed: list[str] = []
    for name in names:
        if available(name, data_dir):
            why = (
                f"because the file of {', '.join(passed)} cannot be had here"
                if passed
                else "the first choice"
            )
            print(f"Dataset: {name} ({why}).")
            return name
        passed.append(name)
    raise DataError(f"None of {', '.join(names)} can be had: add 'waddington', which is embedded.")
