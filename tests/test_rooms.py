"""The house: arrows point down, no circle, no hook, nothing listed twice, a light import."""

from __future__ import annotations

import ast
import graphlib
import json
import pathlib
import re
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
MAY_IMPORT["verdict"] = set(MAY_IMPORT) - {"results"}
FORBIDDEN = {"stable_baselines3", "sb3_contrib", "torch_geometric", "cell_eval2", "pdex"}
#: The one file that may lean on such a library, and which.
ADAPTERS = {"twinlib/environment/stable_baselines3.py": {"stable_baselines3"}}
#: What `import twinlib` leaves to the functions that need it; gymnasium brings numpy.
HEAVY = ("torch", "scanpy", "anndata", "pandas", "ot", "matplotlib", "seaborn", "sklearn", "numba")

PAGES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def place(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def dotted(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: pathlib.Path) -> set[str]:
    """Every name that a file imports, at its top or inside a function, as absolute dotted names."""
    here = path.relative_to(ROOT).with_suffix("").parts
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def reached(path: pathlib.Path) -> set[str]:
    """What a file imports, and the modules that it names in a string (an entry point, `import_module`)."""
    strings = {
        node.value.partition(":")[0]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return imports(path) | {text for text in strings if re.fullmatch(r"(twinlib|experiments)(\.\w+)+", text)}


def rooms_used(modules: set[str]) -> set[str]:
    parts = [name.split(".") for name in modules]
    return {part[1] for part in parts if part[0] == "twinlib" and len(part) > 1 and part[1] in MAY_IMPORT}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_arrows_point_down(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        wrong = rooms_used(reached(path)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{place(path)} imports {sorted(wrong)}"


@pytest.mark.parametrize("name", ["errors", "files", "checks"])
def test_what_is_free_to_all_imports_no_room(name: str) -> None:
    assert not rooms_used(reached(PACKAGE / f"{name}.py"))


def test_every_folder_is_a_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=place)
def test_nothing_imports_the_experiments(path: pathlib.Path) -> None:
    assert not [name for name in reached(path) if name.split(".")[0] == "experiments"]


@pytest.mark.parametrize("path", [*MODULES, *EXPERIMENTS], ids=place)
def test_the_package_leans_on_nothing_beside_it(path: pathlib.Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {
        "tests",
        "scripts",
        "benchmarks",
        "notebooks",
    }


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_no_reinforcement_learning_library(path: pathlib.Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN - ADAPTERS.get(place(path), set())


def graph(paths: list[pathlib.Path]) -> dict[str, set[str]]:
    """The modules that each imports, itself aside; `from a import b` is the module a.b where it is one."""
    names = {dotted(path) for path in paths}
    arrows = {}
    for path in paths:
        deepest = {name for name in imports(path) if name in names}
        inside = {name.rpartition(".")[0] for name in deepest}
        arrows[dotted(path)] = deepest - inside - {dotted(path)}
    return arrows


def test_no_circle_of_modules() -> None:
    tuple(graphlib.TopologicalSorter(graph([*MODULES, *EXPERIMENTS])).static_order())


def test_the_circle_test_can_fail() -> None:
    arrows = graph(MODULES)
    user, used = next((user, min(used)) for user, used in sorted(arrows.items()) if used)
    arrows[used].add(user)
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(arrows).static_order())


def exported(path: pathlib.Path) -> set[str]:
    """The public functions and classes that a module defines."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in tree(path).body if isinstance(node, kinds) and node.name[0] != "_"}


@pytest.mark.parametrize("path", [*MODULES, *EXPERIMENTS], ids=place)
def test_no_place_shares_its_name_with_what_it_exports(path: pathlib.Path) -> None:
    assert not exported(path) & set(dotted(path).split("."))


@pytest.mark.parametrize("path", sorted([*PACKAGE.glob("*/__init__.py"), *EXPERIMENTS[:1]]), ids=place)
def test_a_room_lists_no_names(path: pathlib.Path) -> None:
    assert path.name == "__init__.py"
    (only,) = tree(path).body
    assert isinstance(only, ast.Expr)
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", [*MODULES, *EXPERIMENTS], ids=place)
def test_no_lazy_names_and_no_hook(path: pathlib.Path) -> None:
    defined = {node.name for node in tree(path).body if isinstance(node, ast.FunctionDef)}
    assert "__getattr__" not in defined
    read = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    assert not ({name.rpartition(".")[2] for name in imports(path)} | read) & {"meta_path", "path_hooks"}


def loaded_after(statement: str) -> list[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def packages_after(statement: str) -> set[str]:
    return {name.split(".")[0] for name in loaded_after(statement)}


@pytest.mark.parametrize("statement", ["import twinlib", "import twinlib.page.record, twinlib.page.plots"])
def test_importing_the_package_is_light(statement: str) -> None:
    assert not packages_after(statement) & set(HEAVY)


def test_the_style_of_figures_brings_no_statistics() -> None:
    loaded = packages_after("from twinlib.page import plots; plots.style()")
    assert "matplotlib" in loaded
    assert not loaded & {"seaborn", "scipy", "pandas"}


def test_the_light_test_can_fail() -> None:
    assert "torch" in packages_after("import twinlib.policy.actor_critic")


@pytest.mark.parametrize("order", ["import twinlib, gymnasium", "import gymnasium, twinlib"])
def test_environments_are_registered_without_importing_torch(order: str) -> None:
    code = f"""{order}, sys
assert any(name.startswith("twinlib/") for name in gymnasium.registry), "no environment is registered"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
