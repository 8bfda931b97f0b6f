"""The command: exit codes, one sentence on stderr, help that can be read, nothing overwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
from defect_files import FILES, drug_screen, weak_crispr

from twinlib import __main__ as command
from twinlib.errors import FolderError
from twinlib.verdict import page, parts
from twinlib.verdict.inspection import inspect
from twinlib.verdict.keys import Keys
from twinlib.verdict.outputs import fresh_file, fresh_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weak.h5ad"
    weak_crispr().write_h5ad(path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_check_takes_each_file_and_writes_nothing(name, tmp_path, capsys):
    path = tmp_path / f"{name}.h5ad"
    FILES[name]().write_h5ad(path)
    before = path.read_bytes()
    assert command.main(["check", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(name) and "What to know" in out and err == ""
    assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == before


def test_what_is_missing_is_one_sentence_and_two(file, capsys):
    cells = anndata.read_h5ad(file)
    cells.obs["condition"] = np.where(np.arange(cells.n_obs) % 2, "ctrl", "hot")
    cells.write_h5ad(file)
    assert command.main(["check", str(file)]) == 2
    out, err = capsys.readouterr()
    assert "Missing" in out
    assert err == (
        "twinlib check: 'condition' and 'gene_target' may each hold the perturbations: name one with "
        "--perturbation-key.\n"
    )
    assert command.main(["check", str(file), "--perturbation-key", "gene_target"]) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "There is no file"),
        (lambda path: path.write_bytes(b"no file of cells"), "could not be read"),
        (lambda path: path.mkdir(), "could not be opened"),
    ],
)
def test_what_is_no_file_of_cells_is_one_sentence(make, words, tmp_path, capsys):
    make(tmp_path / "x.h5ad")
    assert command.main(["check", str(tmp_path / "x.h5ad")]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and "Traceback" not in err


def test_other_endings_are_refused(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("a,b")
    assert command.main(["check", str(tmp_path / "x.csv")]) == 2
    assert "is no h5ad or zarr file" in capsys.readouterr().err


def test_messages_name_options_of_the_command(file, capsys):
    assert command.main(["check", str(file), "--layer", "spliced"]) == 2
    err = capsys.readouterr().err
    assert "--layer" in err and "layer=" not in err


@pytest.mark.parametrize("name", ["check", "report", "predict", "score"])
def test_help_says_what_every_option_is(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    options = {
        *("--perturbation-key", "--control", "--context-key", "--batch-key", "--dose-key", "--guide-key"),
        *("--layer", "--gene-symbols", "--total-counts", "--separator", "--kind", "--log-dose"),
    }
    assert all(option in text for option in options)
    described = next(action for action in command.parser()._actions if action.choices).choices[name]
    assert all(action.help for action in described._actions)


@pytest.mark.parametrize("wrong", [[], ["chek"], ["check"], ["report", "x.h5ad"], ["predict", "m", "x.h5ad"]])
def test_a_wrong_call_ends_with_two(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2 and "usage: twinlib" in capsys.readouterr().err


def test_predict_from_a_folder_to_a_file(twin, screen, tmp_path, capsys):
    twin.save(tmp_path / "model")
    screen.write_h5ad(tmp_path / "cells.h5ad")
    call = ["predict", str(tmp_path / "model"), str(tmp_path / "cells.h5ad"), "--perturbation", "Gata1"]
    call += ["--out", str(tmp_path / "P.h5ad")]
    assert command.main(call) == 0
    made = anndata.read_h5ad(tmp_path / "P.h5ad")
    assert np.array_equal(made.X, twin.predict(inspect(screen).cells(), "Gata1").X)
    assert command.main(call) == 2
    assert "is there already" in capsys.readouterr().err
    assert command.main([*call, "--overwrite", "--convention", "cell-eval2"]) == 0
    assert "target_gene" in anndata.read_h5ad(tmp_path / "P.h5ad").obs


def test_predict_asks_for_a_dose_with_the_list(drugs, tmp_path, capsys):
    drugs.save(tmp_path / "model")
    drug_screen().write_h5ad(tmp_path / "cells.h5ad")
    call = ["predict", str(tmp_path / "model"), str(tmp_path / "cells.h5ad"), "--perturbation", "BMS"]
    call += ["--out", str(tmp_path / "P.h5ad")]
    assert command.main(call) == 2
    assert capsys.readouterr().err == (
        "twinlib predict: BMS needs a dose, since several were trained (0.01, 0.1, 1, 10): give --dose.\n"
    )
    assert not (tmp_path / "P.h5ad").exists()
    assert command.main([*call, "--dose", "20"]) == 0
    assert "The dose 20 is an extrapolation: cells were trained up to 10." in capsys.readouterr().out
    assert (anndata.read_h5ad(tmp_path / "P.h5ad").obs["dose"] == 20.0).all()


def test_an_interrupted_command_ends_with_130(tmp_path):
    fifo = tmp_path / "x.h5ad"
    weak_crispr().write_h5ad(fifo)
    code = (
        "import signal, sys, time, twinlib.verdict.inspection as i, twinlib.__main__ as m\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job behind '&' ignores it
        "i.inspect = lambda *a: (print('reading', flush=True), time.sleep(60))\n"
        "sys.exit(m.main(['check', sys.argv[1]]))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(fifo)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert running.stdout is not None and running.stdout.readline() == "reading\n"
    time.sleep(0.1)
    os.kill(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "twinlib check: interrupted.\n"


#: A report whose third part never ends.
ENDLESS = """
import signal, sys, time, twinlib.__main__ as m
signal.signal(signal.SIGINT, signal.default_int_handler)
from twinlib.verdict import parts
done = []
def compute(self, name):
    if len(done) == 2:
        print("third", flush=True)
        time.sleep(60)
    done.append(name)
    (self.folder / f"{name}.done").write_text("")
    return name
parts.Parts.compute = compute
sys.exit(m.main(["report", sys.argv[1], "--out", sys.argv[2], "--seeds", "1"]))
"""


def test_a_report_that_is_stopped_keeps_what_it_had(file, tmp_path):
    call = [sys.executable, "-c", ENDLESS, str(file), str(tmp_path / "out")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # each call goes on where the one before stopped, however that was stopped
    for kept, sent in ((2, signal.SIGINT), (4, signal.SIGKILL), (6, signal.SIGINT)):
        running = subprocess.Popen(call, text=True, cwd=ROOT, **pipes)
        assert running.stdout.readline() == "third\n"
        os.kill(running.pid, sent)
        _, err = running.communicate(timeout=30)
        assert running.returncode == (130 if sent == signal.SIGINT else -sent)
        assert "Traceback" not in err
        if sent == signal.SIGINT:
            assert err.endswith("twinlib report: interrupted; the same call goes on where it stopped.\n")
        done = list((tmp_path / "out.unfinished" / "parts").glob("*.done"))
        assert len(done) == kept and not any((tmp_path / "out").iterdir())


def test_a_report_on_no_file_leaves_nothing_behind(tmp_path, capsys):
    assert command.main(["report", str(tmp_path / "x.h5ad"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("twinlib report: There is no file")
    assert not any(tmp_path.iterdir())


def test_overwriting_leaves_files_alone_that_no_report_made(file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(parts.Parts, "compute", lambda self, name: (self.folder / f"{name}.done").touch())
    monkeypatch.setattr(page, "finish", lambda run: (run.folder / "report.html").write_text("new"))
    out.mkdir()
    (out / "report.html").write_text("old")
    (out / "mine.txt").write_text("mine")
    call = ["report", str(file), "--out", str(out)]
    assert command.main(call) == 2 and (out / "report.html").read_text() == "old"
    assert command.main([*call, "--overwrite"]) == 0
    assert (out / "report.html").read_text() == "new" and (out / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "weak.h5ad"]


def test_folders_and_files_that_hold_something_are_not_overwritten(tmp_path):
    assert fresh_folder(tmp_path / "new").is_dir()
    assert fresh_folder(tmp_path / "new").is_dir()  # it is empty
    (tmp_path / "new" / "kept").write_text("mine")
    with pytest.raises(FolderError, match="holds files already"):
        fresh_folder(tmp_path / "new")
    assert fresh_folder(tmp_path / "new", overwrite=True).is_dir()
    with pytest.raises(FolderError, match="is there already"):
        fresh_file(tmp_path / "new" / "kept")
    with pytest.raises(FolderError, match="is a file"):
        fresh_folder(tmp_path / "new" / "kept")
    with pytest.raises(FolderError, match="is a folder"):
        fresh_file(tmp_path / "new")
    assert (tmp_path / "new" / "kept").read_text() == "mine"


def test_options_fill_the_keys():
    given = command.parser().parse_args(
        ["check", "x", "--control", "NT", "--control", "safe", "--kind", "crispra", "--log-dose"]
    )
    assert Keys.of(given) == Keys(control=("NT", "safe"), kind="crispra", log_dose=True)
