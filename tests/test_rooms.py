"""The rooms: arrows point down, no reinforcement learning library inside, a light import."""

from __future__ import annotations

import ast
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "twinlib"
MAY_IMPORT = {
    "landscapes": set(),
    "policy": set(),
    "page": set(),
    "data": {"landscapes"},
    "embedding": {"data"},
    "evaluation": {"data"},
    "experimental": {"data", "embedding"},
    "environment": {"landscapes", "data", "embedding", "policy"},
    "results": {"evaluation", "policy"},
}
FORBIDDEN = {"stable_baselines3", "sb3_contrib", "torch_geometric", "cell_eval"}
#: What `import twinlib` leaves to the functions that need it; gymnasium brings numpy.
HEAVY = ("torch", "scanpy", "anndata", "pandas", "ot", "matplotlib", "seaborn", "sklearn", "numba")


def imports(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function, as absolute dotted names."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(modules: set[str]) -> set[str]:
    parts = [name.split(".") for name in modules]
    return {part[1] for part in parts if part[0] == "twinlib" and len(part) > 1 and part[1] in MAY_IMPORT}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_arrows_point_down(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        wrong = rooms_used(imports(path)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("name", ["errors", "files", "checks"])
def test_what_is_free_to_all_imports_no_room(name: str) -> None:
    assert not rooms_used(imports(PACKAGE / f"{name}.py"))


def test_every_folder_is_a_room() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reinforcement_learning_library(path: pathlib.Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN


def loaded_after(statement: str) -> list[str]:
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


@pytest.mark.parametrize("statement", ["import twinlib", "import twinlib.page.record"])
def test_importing_the_package_is_light(statement: str) -> None:
    assert not set(loaded_after(statement)) & set(HEAVY)


def test_the_light_test_can_fail() -> None:
    assert "numpy" in loaded_after("import twinlib.data.schema")


@pytest.mark.parametrize("order", ["import twinlib, gymnasium", "import gymnasium, twinlib"])
def test_environments_are_registered_without_importing_torch(order: str) -> None:
    code = f"""{order}, sys
assert any(name.startswith("twinlib/") for name in gymnasium.registry), "no environment is registered"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
