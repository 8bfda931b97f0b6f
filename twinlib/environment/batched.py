"""What every environment of the room shares: R x N cells stepped together, one random generator a replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import require_number
from twinlib.errors import InputError, OrderError
from twinlib.policy.contracts import Box, Step

State = dict[str, Tensor]


class Outcome(NamedTuple):
    """What a subclass reports: the next state `[R, N, ...]`, reward and the two end flags `[R, N]`."""

    state: State
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class BatchedDynamics:
    """Steps R replicas of N cells and replaces finished cells at once.

    A subclass gives `_fresh` (a new start for all R x N cells), `_advance` (one step) and `_observe`.
    Every random number is drawn as `[N, ...]` from the generator of its replica, so that replica r sees the
    same sequence of cells as that generator alone.
    """

    observation_dim: int
    action_dim: int
    horizon: int
    #: Smallest value of each action, a number or `[A]`; the largest is 1.
    action_low: float | Tensor = -1.0
    #: A run on these cells can be saved and continued.
    resumable = True

    def __init__(self, replicas: int, n_cells: int, dtype: torch.dtype, device: torch.device) -> None:
        require_number("replicas", replicas, 1, whole=True)
        require_number("n_cells", n_cells, 1, whole=True)
        self.replicas, self.n_cells = replicas, n_cells
        self.dtype, self.device = dtype, device
        self._generators: list[torch.Generator] = []
        self._state: State = {}
        self._final: State = {}

    # -- what a subclass gives ---------------------------------------------------------------------------
    def _fresh(self) -> State:
        raise NotImplementedError

    def _advance(self, state: State, action: Tensor) -> Outcome:
        raise NotImplementedError

    def _observe(self, state: State) -> Tensor:
        raise NotImplementedError

    # -- the task that training sees ---------------------------------------------------------------------
    @property
    def action(self) -> Box:
        """The bounds of an action."""
        high = torch.ones(self.action_dim, dtype=self.dtype, device=self.device)
        return Box(torch.as_tensor(self.action_low).to(high).expand_as(high), high)

    @torch.no_grad()
    def reset(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Start all R x N cells anew with one generator a replica and return the observations `[R, N, O]`."""
        if len(generators) != self.replicas:
            raise InputError(
                f"reset got {len(generators)} generators for {self.replicas} replicas: "
                "pass one torch.Generator a replica."
            )
        self._generators = list(generators)
        self._state, self._final = self._fresh(), {}
        return self._observe(self._state)

    @torch.no_grad()
    def step(self, action: Tensor) -> Step:
        """Apply actions `[R, N, A]`, cut to their box, and replace the cells whose episode ended."""
        if not self._state:
            raise OrderError("step was called before reset: call reset(generators) first.")
        if tuple(action.shape) != (self.replicas, self.n_cells, self.action_dim):
            raise InputError(
                f"the action has shape {tuple(action.shape)}, this environment takes "
                f"[R, N, A] = ({self.replicas}, {self.n_cells}, {self.action_dim})."
            )
        if not bool(action.isfinite().all()):
            raise InputError("the action holds NaN or infinity: mend the policy that chose it.")
        out = self._advance(self._state, self.cut(action.to(self.dtype)))
        final, self._final = self._observe(out.state), out.state
        finished = out.terminated | out.truncated
        self._state = self._replaced(out.state, finished)
        obs = final if self._state is out.state else self._observe(self._state)
        return Step(obs, out.reward, out.terminated, out.truncated, final)

    def cut(self, action: Tensor) -> Tensor:
        """Actions cut to their box."""
        if isinstance(self.action_low, Tensor):
            return torch.maximum(action, self.action_low).clamp(max=1.0)
        return action.clamp(self.action_low, 1.0)

    def _replaced(self, state: State, finished: Tensor) -> State:
        """The state with new starts where `finished` `[R, N]`; all cells draw, so the stream never shifts."""
        if not bool(finished.any()):
            return state
        fresh = self._fresh()
        if bool(finished.all()):
            return fresh
        return {key: torch.where(_like(finished, new), new, state[key]) for key, new in fresh.items()}

    # -- checkpoints -------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-identical resume needs: the cells in mid-episode and the generators."""
        return {
            "state": {key: value.clone() for key, value in self._state.items()},
            "generators": [g.get_state() for g in self._generators],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put back what `state_dict` returned; generators given at `reset` are kept and rewound."""
        if len(saved["generators"]) != self.replicas:
            raise InputError(
                f"the saved state holds {len(saved['generators'])} replicas, not {self.replicas}: "
                "make it with the same number of replicas."
            )
        if not self._generators:
            self._generators = [torch.Generator(self.device) for _ in range(self.replicas)]
        for generator, state in zip(self._generators, saved["generators"], strict=True):
            generator.set_state(state)
        self._state, self._final = {key: value.clone() for key, value in saved["state"].items()}, {}

    # -- for gymnasium's interfaces and for pages ------------------------------------------------------------
    @property
    def latent(self) -> Tensor:
        """Where the cells are `[R, N, D]`."""
        return self._state["z"]

    @property
    def final_latent(self) -> Tensor:
        """Where the cells were after the last step, before finished ones were replaced `[R, N, D]`."""
        return self._final["z"]

    def reset_to(self, options: Mapping[str, object], generators: Sequence[torch.Generator]) -> Tensor:
        """Start anew `[R, N, O]` where the options of gymnasium's reset say; an unknown one is refused."""
        if options:
            raise InputError(f"reset knows no option {sorted(map(str, options))} here: leave options out.")
        return self.reset(generators)

    def info(self) -> dict[str, Tensor]:
        """What gymnasium's info reports `[R, N]` of where the last step led; at reset, of the start."""
        return self._info(self._final or self._state)

    def next_info(self) -> dict[str, Tensor]:
        """The same of where the next step begins: of a cell that has been replaced, its new start."""
        return self._info(self._state)

    def _info(self, state: State) -> dict[str, Tensor]:
        return {}

    def picture(self, path: Tensor) -> np.ndarray:
        """A drawn path `[T+1, D]` as pixels `[400, 400, 3]`."""
        from twinlib.environment.rendering import plain_frame

        return plain_frame(path)

    # -- draws -------------------------------------------------------------------------------------------
    def _integers(self, high: int) -> Tensor:
        """Integers in [0, high) `[R, N]`."""
        return torch.stack(
            [torch.randint(high, (self.n_cells,), generator=g, device=self.device) for g in self._generators]
        )

    def _choices(self, weights: Tensor) -> Tensor:
        """Indices `[R, N]` drawn with replacement in proportion to `weights` `[m]`."""
        draw = [
            torch.multinomial(weights, self.n_cells, replacement=True, generator=g) for g in self._generators
        ]
        return torch.stack(draw)

    def _normal(self, *shape: int) -> Tensor:
        """Standard normal numbers `[R, N, *shape]`."""
        out = torch.empty(self.replicas, self.n_cells, *shape, dtype=self.dtype, device=self.device)
        for r, generator in enumerate(self._generators):
            out[r].normal_(generator=generator)
        return out

    def _beta(self, a: int, b: int) -> Tensor:
        """Beta(a, b) numbers `[R, N]` for whole a, b: the a-th smallest of a + b - 1 uniform numbers."""
        out = torch.empty(self.replicas, self.n_cells, a + b - 1, dtype=self.dtype, device=self.device)
        for r, generator in enumerate(self._generators):
            out[r].uniform_(generator=generator)
        return out.sort(dim=-1).values[..., a - 1]


def _like(mask: Tensor, value: Tensor) -> Tensor:
    """`mask` `[R, N]` with trailing axes of length 1, so that it broadcasts against `value` `[R, N, ...]`."""
    return mask.reshape(mask.shape + (1,) * (value.dim() - mask.dim()))
