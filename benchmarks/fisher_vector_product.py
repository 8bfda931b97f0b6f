"""What a Fisher-vector product costs, in autograd's gradients: analytic, tangents, two backward passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from released_peers import ACTIONS, OBSERVATION, compared, load, publish, turns
from torch import Tensor

from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.trust_region import PRODUCTS, fisher_vector_product

REPLICAS, ROWS, ROUNDS = 10, 2048, 10


def main() -> None:
    torch.set_num_threads(1)
    before = load()
    generators = [torch.Generator().manual_seed(r) for r in range(REPLICAS)]
    policy = ActorCritic(OBSERVATION, ACTIONS, REPLICAS, generators)
    obs, action = torch.randn(REPLICAS, ROWS, OBSERVATION), torch.randn(REPLICAS, ROWS, ACTIONS)
    v = torch.randn_like(policy.actor)

    def gradient() -> Tensor:
        actor = policy.actor.detach().requires_grad_()
        return torch.autograd.grad(policy.distribution(obs, actor).log_prob(action).mean(1).sum(), actor)[0]

    products = {name: fisher_vector_product(policy, obs, 0.1, name) for name in PRODUCTS}
    cases: dict[str, Callable[[], Tensor]] = {"gradient": gradient}
    cases |= {name: (lambda f=f: f(v)) for name, f in products.items()}
    ms = {name: [1e3 * x for x in values] for name, values in turns(cases, ROUNDS).items()}
    lines = [
        compared(f"Fisher-vector product, {name}; a gradient", ms[name], ms["gradient"], "ms for ten seeds")
        for name in products
    ]
    for line in lines:
        line["in_gradients"] = round(line["ours"] / line["peer"], 3)
    publish(lines, "fisher", "python benchmarks/fisher_vector_product.py", before)


if __name__ == "__main__":
    main()
