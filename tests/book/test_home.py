"""The address: `make home URL=...` with a placeholder, and what a notebook does where there is none."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import home
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACEHOLDER = "https://example.org/owner/name"


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """What `make home` writes, in a folder of its own; notebooks without their outputs."""
    for name in ("_config.yml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(
        ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("look", "__pycache__")
    )
    (tmp_path / "notebooks").mkdir()
    for source in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py")):
        shutil.copy(source, tmp_path / "notebooks")
    return tmp_path


def write_home(folder: pathlib.Path, *address: str) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/home.py", *address], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_address_reaches_badges_setup_cells_and_citation(copy: pathlib.Path) -> None:
    write_home(copy, PLACEHOLDER)
    config = yaml.safe_load((copy / "_config.yml").read_text())
    assert config["repository"]["url"] == PLACEHOLDER and "colab_url" in config["launch_buttons"]
    assert f"Repository: <{PLACEHOLDER}>" in (copy / "README.md").read_text()
    assert yaml.safe_load((copy / "CITATION.cff").read_text())["repository-code"] == PLACEHOLDER
    for source in sorted((copy / "notebooks").glob("*.py")):
        text = source.read_text()
        assert f'HOME = "{PLACEHOLDER}"' in text and "make zip" not in text, source.name


def test_taking_the_address_out_gives_the_files_back(copy: pathlib.Path) -> None:
    write_home(copy)
    before = {
        path: path.read_text() for path in copy.rglob("*") if path.suffix in (".yml", ".md", ".cff", ".py")
    }
    write_home(copy, PLACEHOLDER)
    write_home(copy, "")
    assert {path: path.read_text() for path in before} == before


def setup_cell_in(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run the setup cell of a book without address in a folder, as where the package is missing."""
    orders: list[list[str]] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(home, "address", lambda: "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda order, check: orders.append(order))
    exec(home.setup_cell(), {})
    return orders


def test_without_address_or_copy_one_sentence_says_how(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModuleNotFoundError) as refused:
        setup_cell_in(tmp_path, monkeypatch)
    sentence = str(refused.value)
    assert "make environment" in sentence and "twin-book.zip" in sentence and sentence.count(". ") == 0


def test_without_address_an_uploaded_zip_is_installed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twin-book.zip").touch()
    assert setup_cell_in(tmp_path, monkeypatch) == [
        [sys.executable, "-m", "pip", "install", "-q", "twin-book.zip"]
    ]
