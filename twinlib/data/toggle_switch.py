"""The two-gene toggle switch: a landscape small enough to know everything about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twinlib.data.myeloid import power, stack
from twinlib.data.schema import DataError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ToggleSwitch:
    """Two genes that activate themselves and repress each other, with noise sqrt(2 D) dW and x >= 0.

    dx1 = a x1^n / (S^n + x1^n) + b S^n / (S^n + x2^n) - k x1 + u1, and gene 2 with 1 and 2 exchanged.
    Source: circuit of Huang 2007 (Dev Biol), parameters of Wells, Kath & Motter 2015 (PRX 5:031036).
    """

    #: Strength of self-activation; lowering it below 0.7745 removes the progenitor state.
    a: float = 1.0
    #: Strength of production that the other gene represses.
    b: float = 1.0
    #: Degradation rate, per time unit.
    k: float = 1.0
    #: Half-activation expression.
    s: float = 0.5
    #: Hill exponent.
    n: float = 4.0
    #: Noise intensity D.
    noise: float = 0.02

    def __post_init__(self) -> None:
        if min(self.a, self.b, self.noise) < 0 or min(self.k, self.s, self.n) <= 0:
            raise DataError("ToggleSwitch needs a, b, noise >= 0 and k, s, n > 0.")

    def drift(self, x: Any, u: Any = None, multiplier: Any = None) -> Any:
        """Velocity dx/dt [..., 2] at x [..., 2] under additive control u [..., 2] (numpy or torch).

        `multiplier` [..., 2] is 1 - CRISPRi efficacy: it scales the production of each gene, not its decay.
        """
        s_n, x_n = self.s**self.n, power(x, self.n)
        activated = self.a * x_n / (s_n + x_n)
        repressed = self.b * s_n / (s_n + x_n)
        production = stack([activated[..., 0] + repressed[..., 1], activated[..., 1] + repressed[..., 0]])
        if multiplier is not None:
            production = production * multiplier
        velocity = production - self.k * x
        return velocity if u is None else velocity + u
