"""Two hundred malformed inputs: each is refused in one sentence or changes nothing; none leaves a trace."""

import dataclasses
import functools
import hashlib
import random
import shutil

import h5py
import numpy as np
import pytest
from scipy import sparse

from twinlib.data import sources
from twinlib.data.canonical import from_anndata
from twinlib.data.sources import load
from twinlib.errors import DataError, Unreachable

SMALL = ("papalexi2021", "norman2019", "kang2018", "cross_study")


def same(a, b):
    """Whether two canonical AnnData hold the same cells, labels and genes."""
    return (
        a.shape == b.shape
        and list(a.var_names) == list(b.var_names)
        and np.array_equal(a.X.toarray(), b.X.toarray())
        and a.obs["perturbation"].astype(str).tolist() == b.obs["perturbation"].astype(str).tolist()
        and a.obs["cell_context"].astype(str).tolist() == b.obs["cell_context"].astype(str).tolist()
        and a.obs["dose"].tolist() == b.obs["dose"].tolist()
    )


def holds(call, expected):
    """Run the call: a DataError of one line, or the expected cells."""
    try:
        got = call()
    except DataError as error:
        message = str(error)
        assert message and "\n" not in message and message.endswith("."), message
        return "refused"
    assert same(got, expected), "a malformed input gave other cells in silence"
    return "same"


# --- bytes: 60 files


def flip(content, rng):
    for _ in range(rng.choice([1, 3, 50])):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    return content


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def extend(content, rng):
    return content + bytes(rng.randrange(256) for _ in range(rng.choice([1, 1000])))


def blank(content, rng):
    start = rng.randrange(len(content) - 2000)
    content[start : start + 2000] = bytes(2000)
    return content


def exchange(content, rng):
    a, b = sorted(rng.sample(range(len(content) - 5000), 2))
    content[a : a + 500], content[b : b + 500] = content[b : b + 500], content[a : a + 500]
    return content


@pytest.fixture(scope="module")
def originals(real_data):
    return {name: load(name, data_dir=real_data) for name in SMALL}


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No network, and a cache of its own."""

    def refuse(file):
        raise Unreachable("no network")

    monkeypatch.setattr(sources, "_download", refuse)
    monkeypatch.setattr(sources, "_cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("seed", range(60))
def test_changed_bytes_never_pass_the_hash(seed, real_data, tmp_path, alone, originals):
    rng = random.Random(seed)
    name = SMALL[seed % len(SMALL)]
    file = sources.DATASETS[name].files[0]
    target = tmp_path / "data" / file.path
    target.parent.mkdir(parents=True)
    mutate = (flip, cut, extend, blank, exchange)[seed % 5]
    target.write_bytes(mutate(bytearray((real_data / file.path).read_bytes()), rng))
    holds(lambda: load(name, data_dir=tmp_path / "data"), originals[name])
    assert not alone.exists()


# --- structure: 70 files whose hash agrees, so that the readers themselves meet the damage


def nodes(handle):
    found = []
    handle.visit(found.append)
    return sorted(found)


def drop_node(handle, rng):
    del handle[rng.choice(nodes(handle))]


def drop_encoding(handle, rng):
    named = [name for name in nodes(handle) if "encoding-type" in handle[name].attrs]
    if named:
        del handle[rng.choice(named)].attrs["encoding-type"]
    else:
        drop_node(handle, rng)


def change_encoding(handle, rng):
    handle[rng.choice(nodes(handle))].attrs["encoding-type"] = "nonsense"


def shorten(handle, rng):
    arrays = [name for name in nodes(handle) if getattr(handle[name], "shape", ()) and len(handle[name]) > 2]
    name = rng.choice(arrays)
    values = handle[name][: len(handle[name]) // 2]
    attributes = dict(handle[name].attrs)
    del handle[name]
    handle[name] = values
    handle[name].attrs.update(attributes)


def retype(handle, rng):
    arrays = [name for name in nodes(handle) if getattr(handle[name], "shape", ())]
    name = rng.choice(arrays)
    attributes, length = dict(handle[name].attrs), len(handle[name])
    del handle[name]
    handle[name] = np.asarray([b"text"] * length)
    handle[name].attrs.update(attributes)


def break_index(handle, rng):
    indices = handle["X/indices"]
    indices[rng.randrange(len(indices))] = rng.choice([-5, 10**8])


def break_pointer(handle, rng):
    pointer = handle["X/indptr"]
    pointer[rng.randrange(len(pointer))] = rng.choice([-1, 10**9])


def spoil_value(handle, rng):
    data = handle["X/data"]
    data[rng.randrange(len(data))] = rng.choice([np.nan, np.inf, -3.0])


STRUCTURE = (
    drop_node,
    drop_encoding,
    change_encoding,
    shorten,
    retype,
    break_index,
    break_pointer,
    spoil_value,
)


@pytest.mark.parametrize("seed", range(70))
def test_a_damaged_file_with_a_right_hash_is_refused_or_reads_the_same(
    seed, real_data, tmp_path, alone, originals, monkeypatch
):
    rng = random.Random(seed)
    name = SMALL[1:][seed % 3]
    entry = sources.DATASETS[name]
    target = tmp_path / "data" / entry.files[0].path
    target.parent.mkdir(parents=True)
    shutil.copyfile(real_data / entry.files[0].path, target)
    with h5py.File(target, "r+") as handle:
        STRUCTURE[seed % len(STRUCTURE)](handle, rng)
    content = target.read_bytes()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    file = dataclasses.replace(entry.files[0], digest=digest, size=len(content))
    monkeypatch.setitem(sources.DATASETS, name, dataclasses.replace(entry, files=(file,)))
    holds(lambda: load(name, data_dir=tmp_path / "data"), originals[name])
    assert not alone.exists()


# --- AnnData in memory: 70


def column(action):
    def mutate(raw, rng):
        name = rng.choice(list(raw.obs.columns))
        action(raw, name, rng)

    return mutate


def _drop(raw, name, rng):
    del raw.obs[name]


def _empty(raw, name, rng):
    values = raw.obs[name].astype(object)
    values.iloc[rng.randrange(raw.n_obs)] = rng.choice([None, float("nan")])
    raw.obs[name] = values


def _number(raw, rng):
    raw.obs[rng.choice(["label", "batch"])] = np.arange(raw.n_obs)


def _text(raw, rng):
    raw.obs[rng.choice(["label", "dose", "batch"])] = "text"


def values(make):
    def mutate(raw, rng):
        x = np.asarray(raw.X, dtype=object if make == "object" else float)
        i, j = rng.randrange(x.shape[0]), rng.randrange(x.shape[1])
        raw.X = None
        if make == "object":
            x[i, j] = "seven"
            raw.X = x
        elif make == "complex":
            raw.X = x.astype(complex)
        elif make == "none":
            raw.X = None
        else:
            x[i, j] = make
            raw.X = x

    return mutate


def _sparse_index(raw, rng):
    raw.X = sparse.csr_matrix(raw.X)
    raw.X.indices[rng.randrange(raw.X.nnz)] = rng.choice([-7, 10**7])


def _names(raw, rng):
    which = rng.choice(["var_names", "obs_names"])
    names = list(getattr(raw, which))
    names[rng.randrange(1, len(names))] = names[0]
    setattr(raw, which, names)


def _twice(raw, rng):
    x = raw.X / raw.X.sum(axis=1, keepdims=True) * 1e4
    raw.X = np.log1p(np.log1p(x))


def _scaled(raw, rng):
    raw.X = (raw.X - raw.X.mean(axis=0)) / (raw.X.std(axis=0) + 1)


def _flags(raw, rng):
    raw.uns["log1p"], raw.uns["twinlib"] = {"base": 2}, "nonsense"
    raw.obsm["X_pca"] = np.full((raw.n_obs, 2), np.nan)
    raw.layers["counts"] = np.full(raw.shape, np.nan)


MEMORY = (
    *(column(action) for action in (_drop, _empty)),
    _number,
    _text,
    *(values(make) for make in ("object", "complex", "none", np.nan, np.inf, -2.0)),
    _sparse_index,
    _names,
    _twice,
    _scaled,
    _flags,
)


@pytest.mark.parametrize("seed", range(70))
def test_damaged_cells_in_memory_are_refused_or_read_the_same(seed, make_raw, bring):
    rng = random.Random(seed)
    raw = make_raw()
    expected = bring(raw.copy())
    MEMORY[seed % len(MEMORY)](raw, rng)
    holds(functools.partial(bring, raw), expected)


@pytest.mark.parametrize("wrong", [None, 3, "cells.h5ad", np.zeros((3, 3))])
def test_what_is_no_anndata_is_refused(wrong):
    with pytest.raises(DataError, match="give an AnnData"):
        from_anndata(wrong, "label", "control")


def test_no_pickle_is_read(tmp_path, monkeypatch, real_data):
    """A file that holds a pickle is refused by every reader, and pickle.load is never reached."""
    import pickle

    called = []
    monkeypatch.setattr(pickle, "load", lambda *a, **k: called.append(a))
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: called.append(a))
    path = tmp_path / "evil"
    path.write_bytes(pickle.dumps({"a": 1}))
    monkeypatch.setattr(sources, "obtain", lambda file, data_dir: path)
    for name in (*SMALL, "vcc", "parse_cytokines"):
        with pytest.raises(DataError, match="could not be read"):
            load(name)
    assert not called
