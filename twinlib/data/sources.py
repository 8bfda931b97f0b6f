"""The registry of datasets: where a file lives, how it is checked, how it becomes the canonical AnnData."""

from __future__ import annotations

import hashlib
import os
import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlib.data import readers, schema
from twinlib.data.download import RemoteFile, agrees, fetch, take_member
from twinlib.data.labels import Columns
from twinlib.errors import DataError, Unreachable

if TYPE_CHECKING:
    from anndata import AnnData

#: The environment variable that names a folder with the data files.
FOLDER_VARIABLE = "TWINLIB_DATA_DIR"

#: Files above this size are never fetched to answer a question (`available`); in bytes.
LARGE = 100_000_000


@dataclass(frozen=True)
class Dataset:
    """All that is fixed about one dataset; `results/paper_tables.csv` says which tables it stands for."""

    #: Name given to `load`.
    name: str
    #: What was measured, in one line.
    measured: str
    #: Licence of the place the file comes from.
    licence: str
    #: Citation of the study.
    citation: str
    #: Number of highly variable genes in the fixed panel of `standard`.
    panel: int
    #: Turns the checked files into a canonical AnnData.
    read: readers.Reader
    #: The splits of `prepare` that it is used in.
    splits: tuple[str, ...]
    #: The files; none for simulated cells, and for a record whose list is asked for at run time.
    files: tuple[RemoteFile, ...] = ()
    #: Where the labels stand in the file.
    columns: Columns = Columns("perturbation", "control")
    #: Kind of the perturbations (`schema.TYPES`).
    kind: str = "CRISPRko"
    #: Address of the record whose files are asked for at run time.
    record: str = ""
    #: The file that the cells in the package were made from (`scripts/pack_chi11.py`).
    packed_from: RemoteFile | None = None
    #: Genes of the released protocol, which keeps its own rule; 0: as many as `panel`.
    released_panel: int = 0
    #: Perturbations with an effect that a code of cells ought to keep.
    strong: tuple[str, ...] = ()
    #: Passes over the training cells of its packaged embedding (a few minutes of one processor); 0: none.
    embedding_epochs: int = 0
    #: The dataset whose tuned settings it takes; empty: it is tuned itself.
    tuned_on: str = "papalexi2021"

    @property
    def large(self) -> bool:
        """Whether the files are fetched only when `load` is called."""
        return bool(self.record) or sum(file.size for file in self.files) > LARGE


_RAW = "https://raw.githubusercontent.com/"
_HDSTIM = _RAW + "niaid/HDStIM/b42e3d83871fe6077362e5a36ab065360a25184e/"
_SCEPTRE = _RAW + "Katsevich-Lab/sceptre/823bcdae9df321db501a59aa6b7acc1975052b9f/"
_PERTURBENCH = _RAW + "altoslabs/perturbench/d357dfae3b50968e800e9f5f273ff145080ae67c/"
_SCAI = _RAW + "sqjin/scAI/9bd4bdbe9daa15399d2b49eb376cabaf40aa07ca/"
_SCGEN = _RAW + "theislab/scgen/dd7e178f9b42b9dfef9eb18d0da4b8e3caea4cf7/"

_DEVEL = RemoteFile(
    "perturbench/devel.h5ad",
    _PERTURBENCH + "src/perturbench/data/resources/devel.h5ad",
    "sha256:220998f5630c813228c8661c86dd52244b9ac87127511289af90e0d900d8429b",
    1_142_678,
)

_ENTRIES = (
    Dataset(
        name="papalexi2021",
        measured="THP-1 monocytes, ECCITE-seq, CRISPR knock-out of 25 genes; 20,729 x 299, raw counts",
        licence="GPL-3 (repository Katsevich-Lab/sceptre)",
        citation="Papalexi et al. 2021, Nat Genet 53:322 (GSE153056)",
        panel=200,
        read=readers.papalexi,
        splits=("cells", "perturbations"),
        strong=("JAK2", "STAT1", "IFNGR1", "IFNGR2", "SMAD4"),
        embedding_epochs=4,
        tuned_on="",
        files=(
            RemoteFile(
                "papalexi2021/lowmoi_example_data.rda",
                _SCEPTRE + "data/lowmoi_example_data.rda",
                "sha256:e3f8ad09bb4b1d0deeeec2850a2d96f8f5062fef31a9ab1cc080e60560421b6a",
                1_358_267,
            ),
        ),
        columns=Columns("grna_target", "non-targeting", batch="bio_rep"),
    ),
    Dataset(
        name="norman2019",
        measured="K562, CRISPR activation, singles and pairs; 3,375 x 500, log1p, about 15 detected genes "
        "a cell",
        licence="BSD-3-Clause (repository altoslabs/perturbench)",
        citation="Norman et al. 2019, Science 365:786 (GSE133344)",
        panel=200,
        read=readers.norman,
        splits=("cells", "doubles"),
        embedding_epochs=12,
        files=(_DEVEL,),
        columns=Columns("condition", "control", context="cell_type", batch="dataset"),
        kind="CRISPRa",
    ),
    Dataset(
        name="cross_study",
        measured="controls of McFaline 2023 (glioblastoma) beside perturbed cells of Norman 2019 (K562)",
        licence="BSD-3-Clause (repository altoslabs/perturbench)",
        citation="Norman et al. 2019, Science 365:786; McFaline-Figueroa et al. 2024, Cell Genomics 4:100487",
        panel=50,
        read=readers.cross_study,
        splits=("cells",),
        embedding_epochs=12,
        files=(_DEVEL,),
        columns=Columns("condition", "control", batch="dataset"),
        kind="CRISPRa",
    ),
    Dataset(
        name="kang2018",
        measured="blood cells, interferon-beta, 7 cell types; 1,975 x 6,998, log1p",
        licence="GPL-3 (repository theislab/scgen)",
        citation="Kang et al. 2018, Nat Biotechnol 36:89 (GSE96583)",
        panel=100,
        read=readers.kang,
        splits=("cells", "contexts"),
        embedding_epochs=12,
        files=(
            RemoteFile(
                "kang2018/valid.h5ad",
                _SCGEN + "data/valid.h5ad",
                "sha256:83f89f5356a4c01f65bbcee225eb45d8d8b13b6c962724431a26c1bf568ff09e",
                2_321_480,
            ),
        ),
        columns=Columns("condition", "control", context="cell_type", separator=None),
        kind="cytokine",
    ),
    Dataset(
        name="vcc_h1",
        measured="H1 stem cells, CRISPRi, an excerpt of the paper's first source; 600 x 1,000, raw counts",
        licence="MIT (repository ArcInstitute/cell-eval2)",
        citation="Virtual Cell Challenge 2025, Arc Institute (Roohani et al. 2025, Cell)",
        panel=400,
        read=readers.plain,
        splits=("cells",),
        files=(
            RemoteFile(
                "vcc_h1/H1-VCC-2025-training.h5ad",
                "",
                "sha256:eb36c766cbf76353f9981cb3a3aa32137622d1de53b29d861c483742bcd4dec7",
                4_991_092,
                by_hand="docs/data in the source archive of the Python package cell-eval2 0.20.0 holds it",
            ),
        ),
        columns=Columns("target_gene", "non-targeting", batch="batch", separator=None),
        kind="CRISPRi",
    ),
    Dataset(
        name="a549_dex",
        measured="A549 lung cells 0, 1 and 3 hours after dexamethasone; 2,641 x 1,185, log1p, measured time",
        licence="GPL-3 (repository sqjin/scAI)",
        citation="Cao et al. 2018, Science 361:1380 (sci-CAR)",
        panel=300,
        read=readers.a549,
        splits=("cells",),
        files=(
            RemoteFile(
                "a549_dex/data_A549.rda",
                _SCAI + "data/data_A549.rda",
                "sha256:b5cceb564496c92bf037d01ff15cbde56beecf702e3370189f26603be33197f6",
                3_031_820,
            ),
        ),
        columns=Columns("treatment", "none", batch="plate", separator=None),
        kind="drug",
    ),
    Dataset(
        name="chi11",
        measured="blood of one donor, mass cytometry, 8 cell types x 4 stimuli; 4,000 x 30 proteins, arcsinh",
        licence="CC0 (repository niaid/HDStIM); packed into twinlib/data/packaged",
        citation="Farmer, Apps and Tsang 2023, HDStIM 1.0.0 (R package), NIAID",
        panel=10,
        read=readers.chi11,
        splits=("cells", "contexts"),
        packed_from=RemoteFile(
            "chi11/chi11.rda",
            _HDSTIM + "data/chi11.rda",
            "sha256:20951c412a5814e7d169b5b1a0d4b8aac348799cc77aa05b068be931cffb9b1b",
            552_840,
        ),
        columns=Columns("stimulus", "U", context="cell_type", batch="run", separator=None),
        kind="cytokine",
    ),
    Dataset(
        name="waddington",
        measured="simulated myeloid network (11 genes) with CRISPRi, downstream genes and counts; truth "
        "known",
        licence="part of this package (MIT)",
        citation="network: Krumsiek et al. 2011, PLoS ONE 6:e22649",
        panel=130,
        released_panel=100,
        read=readers.waddington,
        splits=("cells", "perturbations", "doubles"),
        strong=("Pu1", "Gata1", "Cebpa", "Gfi1", "EKLF"),
        embedding_epochs=12,
        tuned_on="",
        kind="CRISPRi",
    ),
    Dataset(
        name="vcc",
        measured="H1 stem cells, CRISPRi of 150 genes (the paper's 'Replogle'); 221,273 x 18,080, log1p",
        licence="no licence text found: linked, never redistributed",
        citation="Virtual Cell Challenge 2025, Arc Institute (Roohani et al. 2025, Cell)",
        panel=200,
        read=readers.backed,
        splits=("cells", "perturbations"),
        files=(
            RemoteFile(
                "vcc/competition_support_set.zip",
                "https://storage.googleapis.com/vcc_data_prod/datasets/state/competition_support_set.zip",
                "sha256:f1d5fd56a2eee240e5585fac52bb75b0b830a7be6a5f6de1bf773bff4f507f7c",
                8_716_992_349,
                member="competition_train.h5",
            ),
        ),
        columns=Columns("target_gene", "non-targeting", context="cell_type", batch="batch", separator=None),
        kind="CRISPRi",
    ),
    Dataset(
        name="parse_cytokines",
        measured="blood cells of 12 donors, 90 cytokines; 9,697,974 x 2,000, counts under a stale log1p flag",
        licence="see figshare record 28589774",
        citation="Parse Biosciences 2025, 10 million human PBMCs (figshare 28589774)",
        panel=100,
        read=readers.backed,
        splits=("cells", "contexts"),
        files=(
            RemoteFile(
                "parse_cytokines/parse_pbmc.h5ad",
                "https://ndownloader.figshare.com/files/53372768",
                "md5:d89559875a6c75ab37e0adf84c6e177d",
                13_101_592_422,
            ),
        ),
        columns=Columns("cytokine", "PBS", context="cell_type", batch="donor", separator=None),
        kind="cytokine",
    ),
    Dataset(
        name="ips2_perturbome",
        measured="induced stem cells, SMAD2 knock-down, 10x matrices told apart by barcode suffix",
        licence="as the record says at run time",
        citation="Balmas et al. 2025, Mol Syst Biol, 10.1038/s44320-025-00172-8",
        panel=50,
        read=readers.tenx,
        splits=("cells",),
        columns=Columns("sample", "control", batch="sample_id", separator=None),
        kind="CRISPRi",
        record="https://zenodo.org/api/records/15731884",
    ),
)

DATASETS: dict[str, Dataset] = {entry.name: entry for entry in _ENTRIES}


def table() -> str:
    """Return the sources as a Markdown table: what, control label, size, hash, licence, citation."""
    head = ["name", "what", "control label", "bytes", "hash", "licence", "citation"]
    rows = [head, ["---"] * len(head), *(_row(entry) for entry in DATASETS.values())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(entry: Dataset) -> list[str]:
    """Return the cells of one row of the table."""
    files = entry.files or ((entry.packed_from,) if entry.packed_from else ())
    size = " + ".join(f"{file.size:,}" for file in files)
    digest = "<br>".join(f"`{file.digest}`" for file in files)
    where = [f"[{file.url.rsplit('/', 1)[-1]}]({file.url})" if file.url else file.by_hand for file in files]
    at_run_time = f"[asked at run time]({entry.record})" if entry.record else "no file"
    measured = entry.measured + ("; " + ", ".join(where) if where else "")
    fields = [
        f"`{entry.name}`",
        measured,
        f"`{entry.columns.control}`",
        size or at_run_time,
        digest or at_run_time,
    ]
    return [*fields, entry.licence, entry.citation]


def dataset(name: str) -> Dataset:
    """Return the registry entry of `name`, or raise a DataError that lists the names."""
    if name not in DATASETS:
        raise DataError(f"There is no dataset {name!r}: choose one of {', '.join(sorted(DATASETS))}.")
    return DATASETS[name]


def load(
    name: str, n_cells: int | None = None, seed: int = 0, data_dir: str | os.PathLike[str] | None = None
) -> AnnData:
    """Load a dataset as canonical AnnData [n, G].

    `chi11` and `waddington` are in the package. Another file is taken from `data_dir` (default: the folder
    named by TWINLIB_DATA_DIR) when its hash agrees, else from the cache in the user's cache folder, else from
    its pinned address. The draw from a large file reads the drawn cells only.

    Parameters
    ----------
    name
        A key of `DATASETS`.
    n_cells
        Draw this many cells without replacement; perturbations left with under 10 cells are dropped and
        named in `uns["twinlib"]["dropped"]`. None keeps all cells.
    seed
        Seed of the draw.
    data_dir
        Folder to look in first.

    Raises
    ------
    DataError
        The file cannot be had, or is not the pinned one, or holds what `schema.check` refuses.
    """
    entry = dataset(name)
    files = _files_of(entry)
    paths = [obtain(file, data_dir) for file in files]
    try:
        adata = entry.read(entry, paths, n_cells, seed)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} could not be read ({_brief(error)}): fetch the file again.") from None
    source = adata.uns["twinlib"]["data_hash"] if not files else _joint_hash(files)
    origin = {"dataset": name, "data_hash": _draw_hash(source, n_cells, seed)}
    adata.uns["twinlib"] = {**adata.uns["twinlib"], **origin}
    return schema.check(adata)


def _brief(error: BaseException) -> str:
    """Return the kind and the first words of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160].rstrip(". ")


def _files_of(entry: Dataset) -> tuple[RemoteFile, ...]:
    """Return the pinned files, or those that the record lists now."""
    return readers.record_files(entry.record, entry.name) if entry.record else entry.files


def _joint_hash(files: tuple[RemoteFile, ...]) -> str:
    """Name the bytes: the hash of the one file, or one hash over those of several."""
    hashes = [file.digest.split(":")[1] for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _draw_hash(source: str, n_cells: int | None, seed: int) -> str:
    """Name the cells by the hash of their source, and of the draw when there was one."""
    return source if n_cells is None else hashlib.sha256(f"{source}:{n_cells}:{seed}".encode()).hexdigest()


def _cache_folder() -> pathlib.Path:
    import pooch

    return pathlib.Path(pooch.os_cache("twinlib"))


def _folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path | None:
    named = data_dir if data_dir is not None else os.environ.get(FOLDER_VARIABLE, "")
    return pathlib.Path(named) if str(named) else None


def obtain(file: RemoteFile, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Return a path to bytes with the pinned hash: the folder, then the cache, then the network."""
    path, missing = _from_folder(file, data_dir)
    if path is None and not file.url:
        raise DataError(f"{file.path} cannot be had: {missing}, and no address gives it; {file.by_hand}.")
    if path is None:
        try:
            path = _download(file)
        except Unreachable as error:
            raise DataError(
                f"{file.path} cannot be had: {missing}, and {str(error).rstrip('.')}; put the file "
                f"({file.digest[:19]}...) into that folder or connect to the network, or use "
                'load("chi11") or load("waddington"), which are in the package.'
            ) from None
    if not file.member:
        return path
    return take_member(path, file.member, (_cache_folder() / file.path).with_name(file.member))


def _from_folder(
    file: RemoteFile, data_dir: str | os.PathLike[str] | None
) -> tuple[pathlib.Path | None, str]:
    """Return the file of the data folder when its hash agrees, else None and the reason."""
    folder = _folder(data_dir)
    if folder is None:
        return None, f"{FOLDER_VARIABLE} names no folder"
    path = folder / file.path
    if not path.is_file():
        return None, f"{path.name} is not in the folder that {FOLDER_VARIABLE} or data_dir names"
    if agrees(path, file):
        return path, ""
    return None, f"{path.name} in the data folder has another hash than the pinned {file.digest[:19]}"


def _download(file: RemoteFile) -> pathlib.Path:
    """Fetch a file into the user's cache folder unless it is there; only a large one is asked for twice."""
    return fetch(file, _cache_folder(), attempts=5 if file.size > LARGE else 1)


def available(name: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Say whether `load(name)` can have its files.

    A small file is fetched into the cache to find out; a large one counts only when it is already here.
    """
    entry = dataset(name)
    if entry.large:
        return bool(entry.files) and all(_is_here(file, data_dir) for file in entry.files)
    try:
        for file in entry.files:
            obtain(file, data_dir)
    except DataError:
        return False
    return True


def _is_here(file: RemoteFile, data_dir: str | os.PathLike[str] | None) -> bool:
    """Whether a large file is whole in the data folder or in the cache, without any network."""
    return _from_folder(file, data_dir)[0] is not None or agrees(_cache_folder() / file.path, file)


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
    raise DataError(
        f"None of {', '.join(names)} can be had: add 'chi11' (real cells) or 'waddington' (simulated), "
        "which are in the package."
    )
