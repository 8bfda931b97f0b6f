"""The loaders of the paper's three large sources, fed with their stand-ins by a local server."""

import dataclasses
import hashlib
import http.server
import json
import threading
import zipfile

import anndata
import h5py
import numpy as np
import pytest

from twinlib.data import readers, scale, sources, traps
from twinlib.data.canonical import Columns
from twinlib.data.download import RemoteFile
from twinlib.data.sources import available, load
from twinlib.errors import DataError


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that is served, an empty cache, and a machine on which every file counts as large."""
    folder = tmp_path / "served"
    folder.mkdir()

    def handler(*arguments):
        return Handler(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(sources, "LARGE", 0)
    monkeypatch.setattr(sources, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv(sources.FOLDER_VARIABLE, raising=False)
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def pinned(path, base, kind="sha256", **more):
    content = path.read_bytes()
    digest = f"{kind}:{hashlib.new(kind, content).hexdigest()}"
    return RemoteFile(f"x/{path.name}", f"{base}/{path.name}", digest, len(content), **more)


def register(monkeypatch, name, **changes):
    monkeypatch.setitem(sources.DATASETS, name, dataclasses.replace(sources.DATASETS[name], **changes))


def message_of(call, *arguments, **named):
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.fixture
def vcc(served, real_data, monkeypatch):
    folder, base = served
    with zipfile.ZipFile(folder / "support.zip", "w") as made:
        made.write(real_data / "standins/vcc_like_papalexi2021.h5", "set/competition_train.h5")
        made.writestr("set/jurkat.h5", b"another member")
    file = pinned(folder / "support.zip", base, member="competition_train.h5")
    register(monkeypatch, "vcc", files=(file,))
    return folder


def test_vcc_takes_one_member_draws_and_says_what_it_found(vcc, tmp_path, capsys):
    cells = load("vcc", n_cells=4000, seed=3)
    assert "already log1p" in capsys.readouterr().out
    assert "already log1p" in cells.uns["twinlib"]["found"] and "agrees" in cells.uns["twinlib"]["found"]
    assert 3900 <= cells.n_obs <= 4000 and cells.n_vars == 299
    assert scale.kind_of_values(cells.X) == "log1p"
    assert set(cells.obs["perturbation_type"]) == {"CRISPRi", "none"}
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.h5")) == ["competition_train.h5"]
    again = load("vcc", n_cells=4000, seed=3)
    assert list(again.obs_names) == list(cells.obs_names)
    assert load("vcc", n_cells=4000, seed=4).uns["twinlib"]["data_hash"] != cells.uns["twinlib"]["data_hash"]


def test_the_draw_from_the_backed_file_is_the_draw_from_memory(vcc, real_data):
    drawn = load("vcc", n_cells=3000, seed=1)
    whole = load("vcc")
    np.testing.assert_array_equal(whole[drawn.obs_names].X.toarray(), drawn.X.toarray())
    assert whole.n_obs == 16_060


def test_vcc_scaled_to_the_median_is_scaled_again_to_ten_thousand(vcc):
    cells = load("vcc", n_cells=2000)
    assert "another total" in cells.uns["twinlib"]["taken_for"]
    np.testing.assert_allclose(np.expm1(cells.X.toarray()).sum(axis=1), 1e4, rtol=1e-3)


def test_a_large_file_that_is_not_here_is_not_fetched_to_answer_a_question(vcc, tmp_path):
    assert not available("vcc") and not (tmp_path / "cache").exists()
    load("vcc", n_cells=2000)
    assert available("vcc")


def test_a_changed_archive_is_refused(vcc):
    content = bytearray((vcc / "support.zip").read_bytes())
    content[1000] ^= 255
    (vcc / "support.zip").write_bytes(content)
    assert "other bytes than pinned" in message_of(load, "vcc", n_cells=100)


def test_resampled_controls_are_found_from_the_numbers(real_data):
    """A template like that of the Virtual Cell Challenge: perturbed rows hold controls drawn again."""
    cells = anndata.read_h5ad(real_data / "standins/vcc_like_papalexi2021.h5")
    labels = cells.obs["target_gene"].astype(str).to_numpy()
    labels[labels == "non-targeting"] = "control"
    assert traps.copied_controls(cells.X, labels) < 0.01
    assert traps.target_response(cells.X, labels, cells.var_names) < 0.8
    assert traps.resampling_sentence(cells.X, labels, cells.var_names) == ""
    control = np.flatnonzero(labels == "control")
    source = np.arange(cells.n_obs)
    perturbed = labels != "control"
    source[perturbed] = np.random.default_rng(0).choice(control, perturbed.sum())
    template = cells.X[source]
    assert traps.copied_controls(template, labels) == 1
    assert 0.8 < traps.target_response(template, labels, cells.var_names) < 1.2
    assert "resampled control" in traps.resampling_sentence(template, labels, cells.var_names)


@pytest.fixture
def parse(served, real_data, monkeypatch):
    folder, base = served
    cells = anndata.read_h5ad(real_data / "standins/parse_like_kang2018.h5ad")
    cells.uns["log1p"] = {"base": None}
    cells.write_h5ad(folder / "parse.h5ad")
    columns = dataclasses.replace(sources.DATASETS["parse_cytokines"].columns, control="unstimulated")
    file = pinned(folder / "parse.h5ad", base, kind="md5")
    register(monkeypatch, "parse_cytokines", files=(file,), columns=columns)
    return folder


def test_parse_counts_under_a_stale_flag_are_found(parse, capsys):
    cells = load("parse_cytokines", n_cells=1000)
    said = capsys.readouterr().out
    assert "X holds raw counts" in said and "is stale" in said
    assert scale.kind_of_values(cells.X) == "log1p" and cells.layers["counts"].nnz
    assert set(cells.obs["perturbation"]) == {"control", "IFN-beta"}
    assert set(cells.obs["batch"]) == {"Donor101", "Donor107"} and cells.obs["cell_context"].nunique() == 5
    assert not cells.obs["target_measured"].any()


def test_parse_with_another_control_label_is_refused(parse, monkeypatch):
    register(monkeypatch, "parse_cytokines", columns=Columns("cytokine", "PBS", separator=None))
    assert "'PBS'" in message_of(load, "parse_cytokines", n_cells=1000)


def listing(folder, base, names):
    files = []
    for name in names:
        content = (folder / name).read_bytes()
        md5 = hashlib.md5(content).hexdigest()
        files.append(
            {"key": name, "size": len(content), "checksum": f"md5:{md5}", "links": {"self": f"{base}/{name}"}}
        )
    (folder / "record").write_text(json.dumps({"files": files}))
    return f"{base}/record"


def aggregate(real_data, path):
    """One 10x file that holds both stand-ins, told apart by the suffix of the barcode."""
    with (
        h5py.File(path, "w") as made,
        h5py.File(real_data / "standins/tenx_like_kang2018_perturbed.h5") as first,
    ):
        second = h5py.File(real_data / "standins/tenx_like_kang2018_control.h5")
        matrix = made.create_group("matrix")
        first.copy("matrix/features", matrix)
        a, b = first["matrix"], second["matrix"]
        suffixed = [name.rsplit(b"-", 1)[0] + b"-1" for name in a["barcodes"]]
        suffixed += [name.rsplit(b"-", 1)[0] + b"-2" for name in b["barcodes"]]
        matrix["barcodes"] = np.asarray(suffixed)
        for key in ("data", "indices"):
            matrix[key] = np.concatenate([a[key], b[key]])
        matrix["indptr"] = np.concatenate([a["indptr"][:], b["indptr"][1:] + a["indptr"][-1]])
        matrix["shape"] = np.asarray([a["shape"][0], len(suffixed)], dtype=np.int32)
        second.close()


def test_an_aggregate_is_told_apart_by_barcode_suffix(served, real_data, monkeypatch, capsys):
    folder, base = served
    aggregate(real_data, folder / "SMAD2_filtered_feature_bc_matrix.h5")
    (folder / "aggregation_2.csv").write_text("sample_id,molecule_h5\nSMAD2_KD,a\nSMAD2_control,b\n")
    names = ["SMAD2_filtered_feature_bc_matrix.h5", "aggregation_2.csv"]
    register(monkeypatch, "ips2_perturbome", record=listing(folder, base, names))
    cells = load("ips2_perturbome")
    assert cells.obs["perturbation"].value_counts().to_dict() == {"SMAD2": 1000, "control": 1000}
    assert "SMAD2_control (1000 cells)" in cells.uns["twinlib"]["found"]
    assert set(cells.obs["batch"]) == {"SMAD2_KD", "SMAD2_control"}
    assert load("ips2_perturbome", n_cells=500).n_obs == 500
    assert not available("ips2_perturbome")


def test_an_aggregate_without_its_table_is_refused(served, real_data, monkeypatch):
    folder, base = served
    aggregate(real_data, folder / "SMAD2.h5")
    register(monkeypatch, "ips2_perturbome", record=listing(folder, base, ["SMAD2.h5"]))
    assert "aggregation*.csv" in message_of(load, "ips2_perturbome")


def test_a_pair_of_10x_files_is_told_apart_by_name(served, real_data, monkeypatch):
    folder, base = served
    names = ["tenx_like_kang2018_control.h5", "tenx_like_kang2018_perturbed.h5"]
    for name in names:
        (folder / name).write_bytes((real_data / "standins" / name).read_bytes())
    register(monkeypatch, "ips2_perturbome", record=listing(folder, base, names))
    cells = load("ips2_perturbome")
    assert cells.obs["perturbation"].value_counts().to_dict() == {"SMAD2": 1000, "control": 1000}


def test_a_record_without_the_files_or_with_a_climbing_name_is_refused(served, monkeypatch):
    folder, base = served
    (folder / "notes.txt").write_text("no matrix")
    register(monkeypatch, "ips2_perturbome", record=listing(folder, base, ["notes.txt"]))
    assert "notes.txt" in message_of(load, "ips2_perturbome")
    record = json.loads((folder / "record").read_text())
    record["files"][0]["key"] = "../SMAD2.h5"
    (folder / "record").write_text(json.dumps(record))
    assert "leaves its folder" in message_of(load, "ips2_perturbome")
    (folder / "record").write_text("not json")
    assert "did not list" in message_of(load, "ips2_perturbome")


def test_sample_labels():
    for name in ("SMAD2_control", "B2M control", "smad2-ctrl", "scramble"):
        assert readers.sample_label(name) == "control"
    assert readers.sample_label("SMAD2_KD") == "SMAD2"


def test_flags_are_held_against_numbers():
    assert "is stale" in traps.flag_sentence({"log1p": {}}, "counts")
    assert "agrees" in traps.flag_sentence({}, "counts")
    assert "is stale" in traps.flag_sentence({}, "log1p")
    assert "twice" in traps.flag_sentence({"log1p": {}}, "log1p_twice")
    assert "neither" in traps.flag_sentence({}, "unknown")


def test_suffixes_are_counted():
    assert traps.barcode_suffixes(["AC-1", "AG-1", "AC-2", "plain"]) == {"": 1, "1": 2, "2": 1}
