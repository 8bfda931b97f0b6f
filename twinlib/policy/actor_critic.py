"""The policy and the value function of R replicas, side by side, each written as one vector of parameters.

Replica r owns row r of `theta` [R, P]: first the actor (its network and log standard deviations), then the
critic. A vector is what Eq. 3-6 speak of, and it makes Adam, the gradient norm, the masks of stopped replicas
and conjugate gradients one-line operations.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from twinlib.errors import InputError
from twinlib.policy import gaussian_mlp
from twinlib.policy.contracts import Distribution, Saved
from twinlib.policy.distributions import Categorical, Gaussian


def _layer_sizes(widths: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(widths[:-1], widths[1:], strict=True))


def _count(widths: Sequence[int]) -> int:
    return sum(i * o + o for i, o in _layer_sizes(widths))


def perceptron(x: Tensor, vector: Tensor, widths: Sequence[int]) -> Tensor:
    """Tanh network of every replica at once: x [R, B, in], vector [R, P] -> [R, B, out].

    The vector holds weight [in, out] and bias [out] of each layer in turn; `split` hands out views, and its
    backward pass puts the gradients together in one copy.
    """
    layers = _layer_sizes(widths)
    pieces = torch.split(vector, [size for i, o in layers for size in (i * o, o)], dim=1)
    for k, (i, o) in enumerate(layers):
        x = torch.baddbmm(pieces[2 * k + 1].unsqueeze(1), x, pieces[2 * k].view(-1, i, o))
        x = torch.tanh(x) if k < len(layers) - 1 else x
    return x


def _orthogonal(widths: Sequence[int], last_gain: float, generator: torch.Generator) -> Tensor:
    """One replica's network vector [P]: orthogonal weights (gain sqrt 2; last layer `last_gain`), no bias."""
    pieces, layers = [], _layer_sizes(widths)
    for k, (i, o) in enumerate(layers):
        gain = last_gain if k == len(layers) - 1 else math.sqrt(2.0)
        weight = torch.nn.init.orthogonal_(torch.empty(o, i, dtype=torch.float64), gain, generator=generator)
        pieces += [weight.T.reshape(-1), torch.zeros(o, dtype=torch.float64)]
    return torch.cat(pieces)


class ActorCritic:
    """R independent actor-critic networks, evaluated together; `theta` [R, P] holds their parameters.

    Parameters
    ----------
    observation_dim, action_dim
        O and A; with `discrete`, A is the number of actions.
    replicas
        R.
    generators
        R CPU generators; replica r's weights come from generator r, so they do not depend on R.
    hidden
        Widths of the tanh layers, the same for actor and critic.
    log_std
        Start value of every log standard deviation, one for all replicas or one each.
    discrete
        A Categorical policy in place of the Gaussian one.
    compute
        "auto" takes a Gaussian policy's derivatives on a CPU from `gaussian_mlp`; "reference" takes all from
        autograd.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        replicas: int,
        generators: Sequence[torch.Generator],
        hidden: Sequence[int] = (64, 64),
        log_std: float | Sequence[float] = 0.0,
        discrete: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        compute: str = "auto",
    ) -> None:
        if compute not in ("auto", "reference"):
            raise InputError(f"compute is {compute!r}; use 'auto' or 'reference'.")
        if len(generators) != replicas:
            raise InputError(
                f"{replicas} replicas need as many generators, got {len(generators)}: pass one each."
            )
        self.observation_dim, self.action_dim, self.replicas = observation_dim, action_dim, replicas
        self.hidden, self.discrete, self.compute = tuple(hidden), discrete, compute
        self.actor_widths = (observation_dim, *self.hidden, action_dim)
        self.critic_widths = (observation_dim, *self.hidden, 1)
        #: the first columns of theta belong to the actor
        self.actor_size = _count(self.actor_widths) + (0 if discrete else action_dim)
        starts = log_std if isinstance(log_std, Sequence) else [log_std] * replicas
        rows = [self._initial(g, start) for g, start in zip(generators, starts, strict=True)]
        self.theta = torch.stack(rows).to(device=device, dtype=dtype)

    def _initial(self, generator: torch.Generator, log_std: float) -> Tensor:
        actor = _orthogonal(self.actor_widths, 0.01, generator)
        spread = torch.full((0 if self.discrete else self.action_dim,), log_std, dtype=torch.float64)
        return torch.cat([actor, spread, _orthogonal(self.critic_widths, 1.0, generator)])

    @property
    def actor(self) -> Tensor:
        """The actors' parameters [R, P_actor], a view of theta."""
        return self.theta[:, : self.actor_size]

    @property
    def critic(self) -> Tensor:
        """The critics' parameters [R, P_critic], a view of theta."""
        return self.theta[:, self.actor_size :]

    @property
    def by_hand(self) -> bool:
        """Do `gaussian_mlp`'s written-out derivatives stand in for autograd's?"""
        return self.compute == "auto" and not self.discrete and self.theta.device.type == "cpu"

    def _network(self, x: Tensor, vector: Tensor, widths: Sequence[int]) -> Tensor:
        graphless = self.by_hand and not torch.is_grad_enabled()
        return (gaussian_mlp.perceptron if graphless else perceptron)(x, vector, widths)

    def distribution(self, obs: Tensor, actor: Tensor | None = None) -> Distribution:
        """The policy in the states obs [R, B, O]: Gaussian(mean [R, B, A], log_std [R, A]), or Categorical.

        `actor` [R, P_actor] replaces the replicas' own parameters (for derivatives and line searches).
        """
        vector = self.actor if actor is None else actor
        if self.discrete:
            return Categorical(torch.log_softmax(self._network(obs, vector, self.actor_widths), -1))
        network, log_std = torch.split(vector, [self.actor_size - self.action_dim, self.action_dim], dim=1)
        return Gaussian(self._network(obs, network, self.actor_widths), log_std)

    def value(self, obs: Tensor, critic: Tensor | None = None) -> Tensor:
        """Value estimate [R, B] of the states obs [R, B, O]."""
        vector = self.critic if critic is None else critic
        return self._network(obs, vector, self.critic_widths).squeeze(-1)

    def entropy(self, obs: Tensor) -> Tensor:
        """Entropy [R] of the policy, averaged over the states obs [R, B, O]."""
        states = obs if self.discrete else obs[:, :1]  # a Gaussian's is the same in all
        return self.distribution(states).entropy()

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Actions [R, B, A] in the states obs [R, B, O]: the mean, or a draw when generators are given."""
        with torch.no_grad():
            policy = self.distribution(obs)
            return policy.mode() if generators is None else policy.sample(generators)

    def replica(self, index: int) -> ActorCritic:
        """Replica `index` alone, as an ActorCritic with R = 1 (a copy)."""
        alone = copy.copy(self)
        alone.replicas, alone.theta = 1, self.theta[index : index + 1].clone()
        return alone


class Adam:
    """Adam over the rows of a parameter matrix [R, P]; stopped rows keep parameters **and** moments.

    Kingma & Ba 2015, with eps 1e-5 as in the PPO code of OpenAI and Stable-Baselines3. Masking the loss alone
    would not do: with a zero gradient Adam still moves along its remembered momentum.
    """

    def __init__(
        self,
        parameters: Tensor,
        learning_rate: float | Tensor,
        eps: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.parameters, self.eps, self.betas = parameters, eps, betas
        self.first, self.second = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self.steps = torch.zeros(parameters.shape[0], dtype=torch.float64, device=parameters.device)
        #: of each row [R]
        self.learning_rate = self.steps + learning_rate

    @torch.no_grad()
    def step(self, gradient: Tensor, active: Tensor) -> None:
        """Move the active rows (bool [R]) against the gradient [R, P]."""
        (b1, b2), on = self.betas, active.to(self.steps)
        self.steps += on
        taken = self.steps.clamp(min=1.0)
        # The correction of the second moment is moved from its [R, P] entries to the step size and eps.
        correction = (1.0 - b2**taken).sqrt()
        size = on * self.learning_rate * correction / (1.0 - b1**taken)
        weight, size, eps = (x.to(gradient).unsqueeze(1) for x in (on, size, self.eps * correction))
        self.first.lerp_(gradient, (1.0 - b1) * weight)
        self.second.lerp_(gradient * gradient, (1.0 - b2) * weight)
        self.parameters.sub_((self.first / self.second.sqrt().add_(eps)).mul_(size))

    def row(self, index: int) -> gaussian_mlp.AdamRow:
        """Replica `index` alone, as arrays in the same memory (on a CPU)."""
        theta, first, second = (x[index].numpy() for x in (self.parameters, self.first, self.second))
        settings = (float(self.learning_rate[index]), self.eps, self.betas)
        return gaussian_mlp.AdamRow(theta, first, second, self.steps[index, None].numpy(), *settings)

    def state_dict(self) -> Saved:
        """Moments and step counts."""
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def load_state_dict(self, state: Saved) -> None:
        """Restore moments and step counts."""
        for name, own in self.state_dict().items():
            own.copy_(state[name])


def clip_rows(gradient: Tensor, limit: float) -> Tensor:
    """Scale each replica's gradient [R, P] to a norm of at most `limit`."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return gradient * (limit / (norm + 1e-6)).clamp(max=1.0)
