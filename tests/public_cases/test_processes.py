"""Processes and the command line: locks, typos, Ctrl-C, broken files, exit statuses, numbers of threads."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch

from experiments.folder import claimed
from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding
from twinlib.errors import FolderError
from twinlib.files import write_json

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from refused_commands import refusal

ROOT = pathlib.Path(__file__).parents[2]
CASES = ("19", "21", "31", "33")
FILES = sorted(path for path in pathlib.Path(__file__).parent.glob("[0-9]*.py") if path.name[:2] in CASES)
#: A run that would go on for minutes.
LONG = ("released", "--algorithms", "PPO", "--seeds", "1", "--timesteps", "4000000", "--quiet")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_case_exits_with_0(path):
    done = subprocess.run([sys.executable, path], cwd=ROOT, env=paths(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_case_is_here():
    assert [path.name[:2] for path in FILES] == list(CASES)


def paths():
    return os.environ | {"PYTHONPATH": str(ROOT)}


# -- a refused run leaves the folder to the mended one
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["released", "--dataset", "wadington"], "no dataset 'wadington'"),
        (["released", "--algorithms", "POP"], "no algorithm 'POP'; choose from PPO"),
        (["released", "--dataset", "waddington", "waddington"], "each dataset once"),
        (["released", "--seeds", "0"], "seeds is 0; give 1 or more"),
        (["tuning", "--dataset", "waddington", "pbmc"], "no tuned dataset 'pbmc'"),
        (["embedding", "--dataset", "kang2018"], "Strong perturbations of 'kang2018'"),
        (["experimental", "--splits", "donors"], "no split of waddington 'donors'"),
        (["peers", "--tasks", "Acrobot-v1"], "no task 'Acrobot-v1'"),
        (["escape_tuned", "--dataset", "pbmc"], "no landscape 'pbmc'"),
        (["released", "--workers", "0"], "workers is 0; give 1 or more"),
        (["released", "--minutes", "-3"], "minutes is -3; give 0 or more"),
        (["released", "--minutes", "nan"], "minutes is nan; give 0 or more"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_refused_run_leaves_no_trace(tmp_path, capsys, words, sentence):
    assert sentence in refusal(capsys, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_had_leave_no_trace_either(tmp_path, capsys, monkeypatch):
    from twinlib.data import sources
    from twinlib.errors import DataError

    def nowhere(name):
        raise DataError(f"{name} cannot be had.")

    monkeypatch.setattr(sources, "load", nowhere)
    assert "kang2018 cannot be had" in refusal(
        capsys, "released", "--dataset", "kang2018", "--quiet", "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


# -- what cannot be a folder
def test_a_place_that_is_no_folder_is_refused(tmp_path, capsys):
    file, link, lock = tmp_path / "file", tmp_path / "link", tmp_path / "lock"
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere" / "at" / "all")
    (lock / ".lock").mkdir(parents=True)
    for out in (file, file / "run", link, lock):
        told = refusal(capsys, "released", "--seeds", "1", "--quiet", "--out", out)
        assert "cannot be a results folder" in told and out.name in told
    assert file.read_text() == "mine"


# -- broken files
@pytest.mark.parametrize("text", ["", "{", "\0\0", '{"seeds": 3'])
def test_a_broken_identity_is_told_in_one_sentence(tmp_path, capsys, text):
    parts = tmp_path / "run" / "parts"
    parts.mkdir(parents=True)
    (parts / "identity.json").write_text(text)
    write_json(parts / "references.json", {"wall_s": 1.0})
    told = refusal(capsys, "released", "--seeds", "1", "--quiet", "--resume", "--out", tmp_path / "run")
    assert "run/parts/identity.json cannot be read; delete the folder" in told
    assert (parts / "references.json").exists()


@pytest.mark.parametrize("broken", ["references.json", "references.regression.csv"])
def test_a_broken_part_is_told_in_one_sentence(tmp_path, capsys, broken):
    from experiments.released import Released

    run = Released(seeds=1)
    with claimed(tmp_path, False, run.identity()) as parts:
        for name in run.parts(parts):
            cost = {"wall_s": 1.0, "run": {}, "tables": ["regression"], "peak_memory_mb": 1.0}
            write_json(parts.folder / f"{name}.json", cost)
            (parts.folder / f"{name}.regression.csv").write_text("Algorithm\nPPO\n")
    (tmp_path / "parts" / broken).write_text("")
    told = refusal(capsys, "released", "--seeds", "1", "--quiet", "--resume", "--out", tmp_path)
    assert f"{broken} cannot be read; delete references.json there" in told


def test_a_report_of_what_is_none_is_refused(tmp_path, capsys):
    for name in ("regression.csv", "similarity.csv"):
        (tmp_path / name).write_text("Algorithm\n")
    assert "has no manifest.json" in refusal(capsys, "report", tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    assert "cannot be read" in refusal(capsys, "report", tmp_path)
    assert "has no regression.csv" in refusal(capsys, "report", tmp_path / "manifest.json")


# -- the command line
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["imagined"],
        ["released"],
        ["released", "--out"],
        ["released", "--seeds", "two", "--out", "x"],
        ["escape_tuned", "--sedes", "2", "--out", "x"],
        ["peers", "--seeds", "2.5", "--out", "x"],
        ["report"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_sentence_and_status_2(capsys, words):
    told = refusal(capsys, *words)
    assert "--help'" in told and told[0].isupper()


def test_the_command_that_trains_an_embedding_refuses_in_one_sentence(tmp_path):
    words = [sys.executable, "-m", "twinlib.embedding.train", "wadington"]
    done = subprocess.run(words, cwd=ROOT, env=paths(), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("There is no dataset 'wadington'")
    assert done.stderr.count("\n") == 1


# -- Ctrl-C
@pytest.mark.parametrize("more", [["--workers", "2"], ["--resume"]], ids=["workers", "serial"])
def test_ctrl_c_is_one_sentence_and_status_130(tmp_path, more):
    """The whole group of processes gets the signal, as from a terminal."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *LONG, "--out", out, *more],
        cwd=ROOT,
        env=paths(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 120
    while not (out / "parts" / "identity.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and told.count("\n") == 1 and told.startswith("Stopped"), told
    assert not (out / ".lock").exists()
    until = time.monotonic() + 20
    while is_alive(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(process.pid), "a worker is left behind"


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_run_is_refused_while_the_first_lives_and_not_after(tmp_path):
    with claimed(tmp_path, False, {}), pytest.raises(FolderError, match="Another run"):
        with claimed(tmp_path, True, {}):
            pass
    with claimed(tmp_path, False, {}):
        pass


# -- threads
@pytest.fixture(scope="module")
def cells():
    return simulate_waddington(400, seed=1, perturbations=("Gata1", "Pu1"))


@pytest.mark.parametrize(
    ("genes", "settings"),
    [
        (30, {"attention": "none"}),
        (45, {"latent_dim": 64}),
        (33, {}),
        (30, {"latent_dim": 8}),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_the_number_of_threads_moves_errors_by_rounding(cells, genes, settings):
    """At the first pass, with fewer and with more genes than latent dimensions."""
    before, errors = torch.get_num_threads(), []
    prepared = prepare(cells, genes)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            history = train_embedding(prepared, EmbeddingConfig(epochs=1, **settings), seed=0)[1]
            errors.append(history["validation_mse"].iloc[0])
    finally:
        torch.set_num_threads(before)
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
    exact = genes + 1 < settings.get("latent_dim", 32)
    assert (errors[0] == 0) == exact
