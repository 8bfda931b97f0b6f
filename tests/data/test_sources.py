import shutil

import pytest

from twinlib.data import sources
from twinlib.data.preparation import prepare
from twinlib.data.sources import available, choose, load
from twinlib.errors import DataError, Unreachable

PAPALEXI = sources.DATASETS["papalexi2021"]


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A machine with an empty cache and no network."""

    def refuse(file):
        raise Unreachable(f"{file.url} stopped (no route to host): call again to resume.")

    monkeypatch.setattr(sources, "_download", refuse)
    monkeypatch.delenv(sources.FOLDER_VARIABLE, raising=False)


def message_of(call, *arguments, **named):
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_papalexi_is_what_the_study_says(papalexi):
    assert papalexi.shape == (20_729, 299)
    labels = papalexi.obs["perturbation"]
    assert (labels == "control").sum() == 2_386
    assert labels.nunique() == 26
    assert papalexi.obs["guide"].nunique() == 107, "three of the 110 guides lead in no cell"
    assert (papalexi.obs["guide_share"] > 0.8).mean() > 0.7
    assert set(papalexi.obs["batch"]) == {"rep_1", "rep_2", "rep_3"}
    assert (papalexi.layers["counts"].data % 1 == 0).all()
    assert papalexi.uns["twinlib"]["data_hash"] == PAPALEXI.files[0].digest.removeprefix("sha256:")
    measured = papalexi.obs.loc[papalexi.obs["target_measured"], "perturbation"]
    assert set(measured) == set("CMTM6 IFNGR2 JAK2 NFKBIA STAT1 STAT2 STAT3 TNFRSF14 UBE2L6".split())
    assert set(papalexi.obs.loc[labels == "control", "perturbation_type"]) == {"none"}
    assert papalexi.obs.loc[labels == "control", "dose"].max() == 0


def test_waddington_needs_no_file(no_network):
    cells = load("waddington")
    assert cells.n_obs > 1000 and "control" in set(cells.obs["perturbation"])
    assert cells.uns["twinlib"]["data_hash"] == load("waddington").uns["twinlib"]["data_hash"]


def test_unknown_name_lists_the_names():
    assert "papalexi2021" in message_of(load, "papalexi")


def test_no_file_and_no_network_names_both_ways_and_the_embedded_dataset(no_network):
    message = message_of(load, "papalexi2021")
    for word in ("TWINLIB_DATA_DIR", PAPALEXI.files[0].url, 'load("waddington")', "no route to host"):
        assert word in message
    assert not available("papalexi2021")


def test_offline_the_sentence_stands_without_a_chain(no_network):
    with pytest.raises(DataError) as caught:
        load("papalexi2021")
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["papalexi2021", "norman2019", "cross_study", "kang2018", "waddington"])
def test_the_cells_can_give_the_splits_of_their_entry(name, real_data):
    cells = load(name, data_dir=real_data)
    for split in sources.dataset(name).splits:
        assert prepare(cells, 5, split=split).split == split


def test_facts_name_what_there_is(real_data):
    for name, entry in sources.DATASETS.items():
        assert entry.name == name and (not entry.tuned_on or not sources.dataset(entry.tuned_on).tuned_on)
        if entry.strong:
            assert set(entry.strong) <= set(load(name, data_dir=real_data).obs["perturbation"])


def test_choose_says_which_and_why(no_network, capsys):
    assert choose("papalexi2021", "waddington") == "waddington"
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "waddington" in said and "papalexi2021" in said
    assert "papalexi2021" in message_of(choose, "papalexi2021")


def test_a_folder_without_the_file_is_named(no_network, tmp_path):
    assert "lowmoi_example_data.rda is not in the folder" in message_of(
        load, "papalexi2021", data_dir=tmp_path
    )


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_corrupt_file_is_never_read(no_network, real_data, tmp_path, damage):
    path = tmp_path / PAPALEXI.files[0].path
    path.parent.mkdir()
    shutil.copyfile(real_data / PAPALEXI.files[0].path, path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[1000] ^= 255
    path.write_bytes(content if damage == "flip" else content[:5000] if damage == "truncate" else b"")
    assert "another hash" in message_of(load, "papalexi2021", data_dir=tmp_path)


def test_a_download_with_the_wrong_hash_is_refused(monkeypatch, tmp_path):
    """The address answers with other bytes: nothing is read and nothing stays in the cache."""
    other = tmp_path / "served.rda"
    other.write_bytes(b"other bytes")
    file = sources.RemoteFile("x/served.rda", other.as_uri(), "sha256:" + "0" * 64, 11)
    monkeypatch.setattr(sources, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv(sources.FOLDER_VARIABLE, raising=False)
    assert "cannot be had" in message_of(sources.obtain, file, None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_that_passes_its_hash_and_cannot_be_read_is_one_sentence(monkeypatch, tmp_path):
    broken = tmp_path / "lowmoi_example_data.rda"
    broken.write_bytes(b"not R data")
    monkeypatch.setattr(sources, "obtain", lambda file, data_dir: broken)
    assert "papalexi2021 could not be read" in message_of(load, "papalexi2021")


def test_a_draw_is_reproducible_and_has_its_own_hash(papalexi, real_data):
    first, second, other = (
        load("papalexi2021", n_cells=5000, seed=seed, data_dir=real_data) for seed in (0, 0, 1)
    )
    assert list(first.obs_names) == list(second.obs_names) != list(other.obs_names)
    hashes = {cells.uns["twinlib"]["data_hash"] for cells in (papalexi, first, second, other)}
    assert len(hashes) == 3
    assert "n_cells=0" in message_of(load, "papalexi2021", n_cells=0, data_dir=real_data)
    assert "30000" in message_of(load, "papalexi2021", n_cells=30_000, data_dir=real_data)


def test_a_draw_drops_small_groups_and_names_them(real_data):
    cells = load("papalexi2021", n_cells=300, data_dir=real_data)
    dropped = cells.uns["twinlib"]["dropped"].split(", ")
    assert dropped[0] and not set(dropped) & set(cells.obs["perturbation"])
    assert cells.obs["perturbation"].value_counts().min() >= 10


def test_a_file_without_an_address_says_where_it_is(no_network, tmp_path):
    message = message_of(load, "vcc_h1", data_dir=tmp_path)
    assert "cell-eval2 0.20.0" in message and "H1-VCC-2025-training.h5ad" in message
    assert not available("vcc_h1", data_dir=tmp_path)
