"""make mutants: small changes of the policy room and the metrics, each of which a test must see.

Needs the extra [mutants] (cosmic-ray). Works on a copy under _build/mutants, one process: each mutant is
tried in a fork that has the libraries already, on the quick tests of its module, until one fails. A run that
was cut off goes on where it was. What survives is printed and must be killed by a test, or stand in
tests/mutants.md with the reason why it changes nothing.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import hashlib
import importlib
import os
import pathlib
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "_build" / "mutants"
POLICY = "test_signs test_trust_region test_proximal test_two_stage test_gaussian_mlp test_divergence"
#: Quick tests of each module, the likeliest to fail first.
TESTS = {
    "policy/proximal": f"{POLICY} test_defaults test_peers test_random_settings",
    "policy/trust_region": f"{POLICY} test_defaults test_peers test_random_settings",
    "policy/training": f"test_two_stage {POLICY} test_defaults test_training test_random_settings "
    "test_gymnasium_tasks",
    "policy/rollout": f"test_rollout test_defaults {POLICY}",
    "policy/distributions": f"test_actor_critic {POLICY}",
    "policy/actor_critic": f"test_actor_critic test_defaults test_gaussian_mlp {POLICY}",
    "policy/gaussian_mlp": f"test_gaussian_mlp {POLICY}",
    "policy/algorithms": f"test_algorithms {POLICY}",
    "policy/contracts": "test_contracts test_rollout",
    "policy/random_settings": "test_random_settings",
    "policy/gymnasium_tasks": "test_gymnasium_tasks",
    "evaluation/metrics": "test_metrics test_statistics test_metric_doors",
}
#: Tests that start processes: nothing in them is quick, and nothing in them is a number.
LEFT_OUT = "not killed_run and not importing and not import_test and not gpu and not async"
#: Operators that change a value; others raise at once (3.0 << x) or change a type.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_((Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(Add|Sub|Mul|Div)"
    r"|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is"
    r"|(Lt|LtE|Gt|GtE)_(Lt|LtE|Gt|GtE))"
    r"|ReplaceUnaryOperator_(USub_UAdd|UAdd_USub|Delete_\w+)|NumberReplacer|AddNot|ReplaceTrueWithFalse"
    r"|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue"
    r"|ReplaceContinueWithBreak|ZeroIterationForLoop)$"
)
#: Imported once, before the forks.
LIBRARIES = (
    "numpy", "scipy.stats", "scipy.optimize", "pandas", "torch", "torch.distributions", "gymnasium", "pytest",
    "hypothesis", "numba", "tqdm", "sklearn.metrics", "anndata",
)  # fmt: skip
#: Processor and wall seconds of one mutant; what needs more hangs, and is killed by that.
PROCESSOR_SECONDS, WALL_SECONDS = 90, 600


def copied() -> None:
    """Copy what the tests need, so that nothing ever changes in the working tree."""
    for folder in ("twinlib", "tests"):
        shutil.rmtree(COPY / folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "experiments", "results"):
        if not (COPY / name).exists():
            (COPY / name).symlink_to(ROOT / name)


def source(module: str) -> pathlib.Path:
    """Return the copy of a module, as its mutants name it."""
    return pathlib.Path("twinlib") / f"{module}.py"


def spans_left_out(path: pathlib.Path) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where a change is not one of value: annotations, decorators, error texts, imports for types.

    So are `strict=`, which turns a shorter result into an error, `refresh=`, which is the progress bar's, and
    `cache=`, which keeps what numba has compiled.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        parts: list[ast.AST | None] = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += getattr(node, "decorator_list", [])
        if isinstance(node, (ast.Raise, ast.JoinedStr)):
            parts.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            parts.append(node)
        if isinstance(node, ast.keyword) and node.arg in ("strict", "refresh", "cache"):
            parts.append(node.value)
        for part in parts:
            if isinstance(part, (ast.expr, ast.stmt)):
                yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)


def axes_from_the_end(path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Yield where a bare -1 stands: of a matrix it is the axis 1, so that its sign changes nothing there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.UnaryOp) and ast.unparse(node) == "-1":
            yield node.lineno, node.col_offset


def drawn(items: list[Any], seed: int) -> list[Any]:
    """Return mutants in an order that a change elsewhere in their module leaves alone."""
    lines = {module: (COPY / source(module)).read_text().splitlines() for module in TESTS}
    counts: collections.Counter[str] = collections.Counter()

    def place(item: Any) -> str:
        mutation = item.mutations[0]
        row, column = mutation.start_pos
        name = f"{seed} {module_of(item)} {mutation.operator_name} {mutation.operator_args} {column} "
        name += lines[module_of(item)][row - 1]
        counts[name] += 1
        return hashlib.sha256(f"{name} {counts[name]}".encode()).hexdigest()

    return sorted(items, key=place)


def useful(items: list[Any]) -> list[Any]:
    """Return the mutants that change a value, in the order of their places."""
    signs = {module: set(axes_from_the_end(COPY / source(module))) for module in TESTS}
    spans = {module: list(spans_left_out(COPY / source(module))) for module in TESTS}

    def changes(item: Any) -> bool:
        mutation = item.mutations[0]
        inside = spans[module_of(item)]
        outside = not any(start <= mutation.start_pos and mutation.end_pos <= end for start, end in inside)
        if "USub" in mutation.operator_name and mutation.start_pos in signs[module_of(item)]:
            return False
        return outside and bool(OPERATORS.match(mutation.operator_name))

    kept = [item for item in items if changes(item)]
    return sorted(
        kept, key=lambda item: (module_of(item), item.mutations[0].start_pos, str(item.mutations[0]))
    )


def module_of(item: Any) -> str:
    """Return the module of a mutant, as TESTS names it."""
    return item.mutations[0].module_path.with_suffix("").relative_to("twinlib").as_posix()


def passes(module: str) -> bool:
    """Run the quick tests of a module in a fork; tell whether all passed in time."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
        signal.alarm(WALL_SECONDS)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        os._exit(tested(module))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return status == 0


def tested(module: str) -> int:
    """Run the quick tests of a module, file by file until one fails; return 0 where none did."""
    import pytest

    folder = pathlib.Path("tests") / module.partition("/")[0]
    for name in dict.fromkeys(TESTS[module].split()):
        options = ["-x", "-q", "-p", "no:cacheprovider", "-k", LEFT_OUT]
        if pytest.main([*options, str(folder / f"{name}.py")]) != pytest.ExitCode.OK:
            return 1
    return 0


def tried(item: Any) -> Any:
    """Apply a mutant to the copy, run its tests, and return the result."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import _make_diff, use_mutation
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    mutation = item.mutations[0]
    operator = plugins.get_operator(mutation.operator_name)()
    with use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
        outcome = TestOutcome.SURVIVED if passes(module_of(item)) else TestOutcome.KILLED
    diff = "\n".join(_make_diff(before, after, mutation.module_path))
    return WorkResult(worker_outcome=WorkerOutcome.NORMAL, test_outcome=outcome, diff=diff)


def listed(diff: str) -> bool:
    """Tell whether tests/mutants.md holds the changed line, in backquotes, as equivalent."""
    line = next(line[1:].strip() for line in diff.splitlines()[3:] if line.startswith("+"))
    return f"`{line}`" in (ROOT / "tests" / "mutants.md").read_text().replace("\\|", "|")  # as a table has it


def opened() -> Any:
    """Open the session of these very sources; make their mutants where it is new."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB

    texts = b"".join(source(module).read_bytes() for module in TESTS)
    db = WorkDB(f"{hashlib.sha256(texts).hexdigest()[:12]}.sqlite", WorkDB.Mode.create)
    if not db.num_work_items:
        init([source(module) for module in TESTS], db, {})
    return db


def require_passing(modules: list[str]) -> None:
    """Stop where tests fail without any mutant; those that passed on these very files are not run again."""
    files = (path for folder in ("twinlib", "tests") for path in sorted(pathlib.Path(folder).rglob("*.py")))
    texts = b"".join(path.read_bytes() for path in files)
    known = pathlib.Path(f"{hashlib.sha256(texts).hexdigest()[:12]}.passed")
    passed = set(known.read_text().split()) if known.exists() else set()
    for module in modules:
        if module not in passed and not passes(module):
            raise SystemExit(f"The tests of {module} fail without any mutant; mend them first.")
        known.write_text("\n".join(passed := passed | {module}))


def run(db: Any, items: list[Any], again: bool) -> None:
    """Try the mutants that were not tried yet; with `again` those that survived, too."""
    done = {job: result for job, result in db.results if not (again and not result.is_killed)}
    todo = [item for item in items if item.job_id not in done]
    require_passing(list(dict.fromkeys(map(module_of, todo))))
    started = time.time()
    for number, item in enumerate(todo, start=1):
        result = tried(item)
        db.set_result(item.job_id, result)
        print(f"{number} of {len(todo)}, {time.time() - started:.0f} s, {module_of(item)}: "
              f"{result.test_outcome.value}", flush=True)  # fmt: skip


def report(db: Any, items: list[Any]) -> int:
    """Print the survivors and the count by module; return how many are left that the list does not hold."""
    results, counts, left = dict(db.results), collections.defaultdict(collections.Counter), 0
    for item in items:
        result, count = results.get(item.job_id), counts[module_of(item)]
        count["drawn"] += 1
        if result is None:
            continue
        outcome = "killed" if result.is_killed else "equivalent" if listed(result.diff) else "left"
        count["run"] += 1
        count[outcome] += 1
        if outcome == "left":
            print(result.diff)
            left += 1
    for module, count in sorted(counts.items()):
        print(module, dict(count))
    print("all", dict(sum(counts.values(), collections.Counter())))
    return left


def main() -> int:
    """Make, try and report mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; none: all")
    parser.add_argument(
        "--sample", type=int, default=300, help="mutants drawn from all modules, 0: every one"
    )
    parser.add_argument("--seed", type=int, default=17, help="of the draw")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    parser.add_argument("--report", action="store_true", help="only print what is known so far")
    options = parser.parse_args()
    COPY.mkdir(parents=True, exist_ok=True)
    if not options.report:
        copied()
    os.chdir(COPY)
    os.environ |= {"PYTHONPATH": str(COPY), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:0] = [str(COPY)]
    db = opened()
    items = useful(list(db.work_items))
    print(f"{len(items)} mutants change a value.", flush=True)
    items = drawn(items, options.seed)[: options.sample or None]
    items = [item for item in items if not options.modules or module_of(item) in options.modules]
    if not options.report:
        for name in LIBRARIES:
            importlib.import_module(name)
        run(db, items, options.again)
    return 1 if report(db, items) else 0


if __name__ == "__main__":
    raise SystemExit(main())
