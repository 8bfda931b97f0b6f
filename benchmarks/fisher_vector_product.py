"""What a Fisher-vector product costs, in gradients: by tangents and by two backward passes, in turns."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.trust_region import fisher_vector_product

REPLICAS, ROWS, OBSERVATION, ACTIONS = 10, 2048, 58, 200


def seconds(function: Callable[[], Tensor]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    generators = [torch.Generator().manual_seed(r) for r in range(REPLICAS)]
    policy = ActorCritic(OBSERVATION, ACTIONS, REPLICAS, generators)
    obs, action = torch.randn(REPLICAS, ROWS, OBSERVATION), torch.randn(REPLICAS, ROWS, ACTIONS)
    v = torch.randn_like(policy.actor)

    def gradient() -> Tensor:
        actor = policy.actor.detach().requires_grad_()
        return torch.autograd.grad(policy.distribution(obs, actor).log_prob(action).mean(1).sum(), actor)[0]

    products = {p: fisher_vector_product(policy, obs, 0.1, p) for p in ("jvp", "double_backward")}
    cases: dict[str, Callable[[], Tensor]] = {"gradient": gradient}
    cases |= {name: (lambda f=f: f(v)) for name, f in products.items()}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(12):
        for name, function in cases.items():
            times[name].append(seconds(function))
    typical = {name: statistics.median(values[2:]) for name, values in times.items()}
    for name in products:
        ratio = typical[name] / typical["gradient"]
        line = {"name": f"Fisher-vector product, {name}", "ours": typical[name], "peer": typical["gradient"]}
        print(json.dumps(line | {"ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
