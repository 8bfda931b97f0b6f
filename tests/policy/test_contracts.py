"""The room stands alone, and what it asks of others is met by the objects that are handed to it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
import torch

import twinlib.policy
from twinlib.policy.contracts import Box
from twinlib.policy.distributions import Categorical, Gaussian

FOLDER = pathlib.Path(twinlib.policy.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
#: `import twinlib` gives gymnasium its ids; that one module is light and no part of what the room imports.
REGISTRATION = {
    "twinlib.environment",
    "twinlib.environment.register",
    "twinlib.environment.gymnasium_api",
}


def unwanted_after(*modules: str) -> dict[str, list[str]]:
    """For each module, imported in this order in one fresh process, what it loads that the room must not."""
    code = f"""
import importlib, json, sys
unwanted, before = {{}}, set()
for module in {modules!r}:
    importlib.import_module(module)
    new = set(sys.modules) - before
    before |= new
    unwanted[module] = sorted(new)
print(json.dumps(unwanted))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = REGISTRATION | {"twinlib", "twinlib.checks", "twinlib.errors", "twinlib.files"}
    return {
        module: [
            name
            for name in new
            if name in ("anndata", "scanpy", "pandas")
            or (name.startswith("twinlib") and not name.startswith("twinlib.policy") and name not in allowed)
        ]
        for module, new in json.loads(done.stdout).items()
    }


def test_importing_any_module_loads_no_other_room():
    assert len(MODULES) >= 9
    assert unwanted_after(*(f"twinlib.policy.{name}" for name in MODULES)) == {
        f"twinlib.policy.{name}": [] for name in MODULES
    }


def test_the_import_test_can_fail():
    assert {"pandas", "twinlib.results"} <= set(*unwanted_after("twinlib.results.tables").values())


@pytest.mark.parametrize("kind", [Gaussian, Categorical])
def test_minibatches_and_joined_keep_states_and_what_they_share(kind):
    torch.manual_seed(0)
    parts = [
        Gaussian(torch.randn(2, 3, 4), log_std)
        if kind is Gaussian
        else Categorical(torch.randn(2, 3, 4).log_softmax(-1))
        for log_std in (torch.randn(2, 4),) * 2
    ]
    whole = kind.joined(parts)
    assert torch.equal(whole[0][:, 3:], parts[1][0])
    order = torch.stack([torch.randperm(6), torch.randperm(6)])
    first, second = whole.minibatches(order, 4)
    assert torch.equal(first[0][1], whole[0][1][order[1, :4]]) and second[0].shape[1] == 2
    action = whole.mode()
    assert torch.equal(first.log_prob(first.mode())[0], whole.log_prob(action)[0][order[0, :4]])


def test_detached_numbers_do_not_follow_later_updates():
    log_std = torch.zeros(1, 2)
    kept = Gaussian(torch.zeros(1, 3, 2), log_std).detach()
    log_std += 1.0
    assert torch.equal(kept.log_std, torch.zeros(1, 2))


def test_actions_are_cut_to_the_box_on_their_way_to_the_task():
    from test_rollout import setup

    policy, collector = setup()
    sent = []
    task_step = collector.task.step
    collector.task.step = lambda action: sent.append(action) or task_step(action)
    collector.action = Box(torch.tensor([-0.5, 0.0, -1.0]), torch.tensor([0.5, 0.25, 2.0]))
    drawn = [collector.step(policy).action for _ in range(20)]
    sent, drawn = torch.stack(sent), torch.stack(drawn)
    low, high = sent.amin((0, 1, 2)), sent.amax((0, 1, 2))
    assert torch.allclose(low[:2], torch.tensor([-0.5, 0.0], dtype=low.dtype))
    assert torch.allclose(high[:2], torch.tensor([0.5, 0.25], dtype=low.dtype)) and high[2] > 1.0
    assert torch.equal(sent, drawn.clamp(collector.action.low, collector.action.high))
