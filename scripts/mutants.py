"""make mutants: small changes of the policy room and the metrics, each of which a test must see.

Needs the extra [mutants] (cosmic-ray). Works on a copy under _build/mutants, one process, each module with
the quick tests that stand for it; a session that was cut off goes on where it was. SAMPLE mutants a module
are drawn (0: all); what survives is printed and must be killed by a test, or stand in tests/mutants.md with
the reason why it changes nothing.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "_build" / "mutants"
POLICY = "test_signs test_random_settings test_proximal test_trust_region test_two_stage test_divergence"
#: Quick tests of each module, the likeliest to fail first.
TESTS = {
    "policy/proximal": f"{POLICY} test_gaussian_mlp test_peers",
    "policy/trust_region": f"{POLICY} test_gaussian_mlp test_peers",
    "policy/training": f"{POLICY} test_training",
    "policy/rollout": f"test_rollout {POLICY}",
    "policy/distributions": f"test_actor_critic test_contracts {POLICY}",
    "policy/actor_critic": f"test_actor_critic {POLICY} test_gaussian_mlp",
    "policy/gaussian_mlp": f"test_gaussian_mlp {POLICY}",
    "policy/algorithms": f"test_algorithms {POLICY}",
    "policy/random_settings": "test_random_settings",
    "policy/gymnasium_tasks": "test_gymnasium_tasks",
    "evaluation/metrics": "test_metrics test_statistics",
}
#: Here `|` joins types in annotations, which are never evaluated, and dicts; shifts of floats only raise.
LEFT_OUT = re.compile(r"BinaryOperator_(BitOr_.*|.*_(LShift|RShift|BitXor))$")


def copied() -> None:
    """Copy what the tests need, so that nothing ever changes in the working tree."""
    shutil.rmtree(COPY / "twinlib", ignore_errors=True)
    shutil.rmtree(COPY / "tests", ignore_errors=True)
    for folder in ("twinlib", "tests"):
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "experiments", "results"):
        if not (COPY / name).exists():
            (COPY / name).symlink_to(ROOT / name)


def configured(module: str, python: str) -> pathlib.Path:
    """Write the module's cosmic-ray configuration."""
    room = module.partition("/")[0]
    files = [f"tests/{room}/{name}.py" for name in TESTS[module].split()]
    tests = " ".join(name for name in files if (ROOT / name).is_file())
    path = COPY / f"{module.replace('/', '-')}.toml"
    path.write_text(
        f'[cosmic-ray]\nmodule-path = "twinlib/{module}.py"\ntimeout = 900.0\nexcluded-modules = []\n'
        f'test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    return path


def sampled(session: pathlib.Path, size: int) -> None:
    """Leave `size` of the mutants to do, the same ones in every run."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(str(session), WorkDB.Mode.open) as db:
        items = sorted(db.work_items, key=lambda item: (str(item.mutations[0]), item.job_id))
        useful = [item for item in items if not LEFT_OUT.search(item.mutations[0].operator_name)]
        kept = useful if not size else random.Random(0).sample(useful, min(size, len(useful)))
        skip = {item.job_id for item in items} - {item.job_id for item in kept}
        db.set_multiple_results(skip, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def reported(session: pathlib.Path) -> collections.Counter[str]:
    """Print the survivors; count made, killed, left and not run."""
    from cosmic_ray.work_db import WorkDB, use_db

    count: collections.Counter[str] = collections.Counter()
    with use_db(str(session), WorkDB.Mode.open) as db:
        for _, result in db.completed_work_items:
            if result.worker_outcome == "skipped":
                count["not run"] += 1
                continue
            count["made"] += 1
            count["killed" if result.is_killed else "left"] += 1
            if not result.is_killed:
                print(result.diff)
        count["not run"] += len(list(db.pending_work_items))
    return count


def main() -> int:
    """Make, run and report the mutants of the modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[], help=f"of {', '.join(TESTS)}; none: all")
    parser.add_argument("--sample", type=int, default=30, help="mutants a module, 0: all")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the tests")
    parser.add_argument("--report", action="store_true", help="only print what is known so far")
    options = parser.parse_args()
    COPY.mkdir(parents=True, exist_ok=True)
    if not options.report:
        copied()
    left, tool = 0, [sys.executable, "-m", "cosmic_ray.cli"]
    surroundings = {**os.environ, "PYTHONPATH": str(COPY), "OMP_NUM_THREADS": "1"}
    for module in options.modules or TESTS:
        config = configured(module, options.python)
        session = config.with_suffix(".sqlite")
        if not options.report and not session.exists():
            subprocess.run([*tool, "init", config, session], cwd=COPY, check=True)
            sampled(session, options.sample)
        if not options.report:
            subprocess.run([*tool, "exec", config, session], cwd=COPY, env=surroundings, check=True)
        count = reported(session) if session.exists() else collections.Counter()
        print(module, dict(count))
        left += count["left"]
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(main())
