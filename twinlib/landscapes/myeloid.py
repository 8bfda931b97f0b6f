"""The myeloid differentiation network: eleven transcription factors, four fates, knock-downs and cytokines.

Boolean rules: Krumsiek, Marr, Schroeder & Theis 2011, PLoS ONE 6:e22649. Continuous form: HillCube,
Wittmann et al. 2009, BMC Syst Biol 3:98.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from twinlib.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]

#: A numpy array or a torch tensor; what comes out is of the kind that went in.
Values = TypeVar("Values", np.ndarray, "Tensor")

#: One input a gene: arrays [...], or one number for all cells.
Inputs = Sequence[Values] | Sequence[float] | Array

#: The genes, in the order of the last axis of every state.
GENES = ("Gata2", "Gata1", "Fog1", "EKLF", "Fli1", "SCL", "Cebpa", "Pu1", "cJun", "EgrNab", "Gfi1")

#: Sign of every regulation in the Boolean rules: (regulator, target, sign).
EDGES = (
    ("Gata2", "Gata2", 1), ("Gata1", "Gata2", -1), ("Fog1", "Gata2", -1), ("Pu1", "Gata2", -1),
    ("Gata1", "Gata1", 1), ("Gata2", "Gata1", 1), ("Fli1", "Gata1", 1), ("Pu1", "Gata1", -1),
    ("Gata1", "Fog1", 1),
    ("Gata1", "EKLF", 1), ("Fli1", "EKLF", -1),
    ("Gata1", "Fli1", 1), ("EKLF", "Fli1", -1),
    ("Gata1", "SCL", 1), ("Pu1", "SCL", -1),
    ("Cebpa", "Cebpa", 1), ("Gata1", "Cebpa", -1), ("Fog1", "Cebpa", -1), ("SCL", "Cebpa", -1),
    ("Cebpa", "Pu1", 1), ("Pu1", "Pu1", 1), ("Gata1", "Pu1", -1), ("Gata2", "Pu1", -1),
    ("Pu1", "cJun", 1), ("Gfi1", "cJun", -1),
    ("Pu1", "EgrNab", 1), ("cJun", "EgrNab", 1), ("Gfi1", "EgrNab", -1),
    ("Cebpa", "Gfi1", 1), ("EgrNab", "Gfi1", -1),
)  # fmt: skip

#: The genes that are on in each fixed point of the Boolean rules.
FATES: dict[str, frozenset[str]] = {
    "erythrocyte": frozenset({"Gata1", "Fog1", "EKLF", "SCL"}),
    "megakaryocyte": frozenset({"Gata1", "Fog1", "Fli1", "SCL"}),
    "monocyte": frozenset({"Cebpa", "Pu1", "cJun", "EgrNab"}),
    "neutrophil": frozenset({"Cebpa", "Pu1", "Gfi1"}),
    "spurious": frozenset({"Pu1", "cJun", "EgrNab"}),
    "off": frozenset(),
}
#: Label of a state that is near no single fixed point.
UNDECIDED = "undecided"

#: Additive input of each cytokine to the production of its genes at dose 1 (weights chosen here).
CYTOKINES: dict[str, dict[str, float]] = {
    "EPO": {"Gata1": 0.15, "EKLF": 0.15},
    "TPO": {"Gata1": 0.1, "Fli1": 0.2},
    "M-CSF": {"Pu1": 0.15, "EgrNab": 0.2},
    "G-CSF": {"Cebpa": 0.1, "Gfi1": 0.2},
}


def power(x: Values, n: float) -> Values:
    """x to the n; whole n by multiplication, which is faster and equal on every machine."""
    if n == 4:
        square = x * x
        return square * square
    return x**n


def stack(columns: Sequence[Values]) -> Values:
    """Stack arrays [...] or tensors [...] on a new last axis; torch is imported only for tensors."""
    if isinstance(columns[0], np.ndarray | np.generic | float | int):
        return np.stack(columns, axis=-1)
    import torch

    return torch.stack(list(columns), dim=-1)


def rules(on: Sequence[Values]) -> list[Values]:
    """Production of each gene from the activities of all (AND = product, OR = 1 - prod(1 - .), NOT = 1 - .).

    With activities 0 or 1 these are the Boolean rules; between them, the HillCube (Wittmann 2009).

    Shapes: 11 arrays [...] in, 11 arrays [...] out, in the order of `GENES`.
    """
    gata2, gata1, fog1, eklf, fli1, scl, cebpa, pu1, cjun, egrnab, gfi1 = on
    no_pu1, no_gfi1, gata1_fog1 = 1 - pu1, 1 - gfi1, gata1 * fog1
    return [
        gata2 * (1 - gata1_fog1) * no_pu1,
        (1 - (1 - gata1) * (1 - gata2) * (1 - fli1)) * no_pu1,
        gata1,
        gata1 * (1 - fli1),
        gata1 * (1 - eklf),
        gata1 * no_pu1,
        cebpa * (1 - gata1_fog1 * scl),
        (1 - (1 - cebpa) * (1 - pu1)) * (1 - gata1) * (1 - gata2),
        pu1 * no_gfi1,
        pu1 * cjun * no_gfi1,
        cebpa * (1 - egrnab),
    ]


def gene_vector(values: Mapping[str, float], default: float = 0.0) -> Array:
    """Vector [11] with the named genes set and the rest at `default`; an unknown gene raises one sentence."""
    vector = np.full(len(GENES), default)
    for gene, value in values.items():
        if gene not in GENES:
            raise DataError(f"'{gene}' is not a gene of the myeloid network; choose from {', '.join(GENES)}.")
        vector[GENES.index(gene)] = value
    return vector


def boolean_step(
    states: npt.NDArray[np.int8], clamps: Mapping[str, int] | None = None
) -> npt.NDArray[np.int8]:
    """Synchronous update of Boolean states [..., 11], genes in `clamps` held at 0 or 1."""
    new = np.stack(rules([states[..., i] for i in range(len(GENES))]), axis=-1).astype(np.int8)
    for gene, value in (clamps or {}).items():
        new[..., GENES.index(gene)] = value
    return new


def all_states() -> npt.NDArray[np.int8]:
    """All 2,048 Boolean states [2048, 11]."""
    return ((np.arange(2 ** len(GENES))[:, None] >> np.arange(len(GENES))) & 1).astype(np.int8)


def boolean_fixed_points(clamps: Mapping[str, int] | None = None) -> list[frozenset[str]]:
    """Genes that are on in each fixed point, found by trying all 2,048 states."""
    states = all_states()
    fixed = states[(boolean_step(states, clamps) == states).all(-1)]
    return [frozenset(g for g, on in zip(GENES, row, strict=True) if on) for row in fixed]


@dataclass(frozen=True)
class MyeloidNetwork:
    """Stochastic myeloid network: tau dx = (m clip(B(h(x)) + c, 0, 1) - x) dt + sigma sqrt(x) dW, x >= 0.

    `m` is 1 - knock-down efficacy, `c` the cytokine input, `B` the rules, `h` a Hill function with h(1) = 1.
    Source: Krumsiek 2011 (rules), Wittmann 2009 (continuous form); noise and inputs are this package's.
    """

    #: Activity at which the Hill function is at half of its range.
    hill_k: float = 0.5
    #: Hill exponent.
    hill_n: float = 4.0
    #: Noise amplitude, in expression units per square root of time.
    sigma: float = 0.10
    #: Time step of the Euler-Maruyama scheme.
    dt: float = 0.1
    #: Time at which fates are read.
    horizon: float = 40.0
    #: Time constants that differ from 1, as (gene, tau).
    tau: tuple[tuple[str, float], ...] = (
        ("Gfi1", 4.7), ("EgrNab", 0.5), ("cJun", 0.6), ("Pu1", 0.7), ("Gata1", 0.95),
    )  # fmt: skip
    #: Genes at 1 in the progenitor, at time 0.
    start: tuple[str, ...] = ("Gata2", "Cebpa", "Pu1")

    def __post_init__(self) -> None:
        if not (self.dt > 0 and self.horizon >= self.dt and self.hill_k > 0 and self.sigma >= 0):
            raise DataError("MyeloidNetwork needs dt > 0, horizon >= dt, hill_k > 0 and sigma >= 0.")
        gene_vector(dict(self.tau))
        gene_vector(dict.fromkeys(self.start, 1.0))

    @property
    def time_constants(self) -> Array:
        """Time constants [11]."""
        return gene_vector(dict(self.tau), default=1.0)

    @property
    def progenitor(self) -> Array:
        """State at time 0, [11]."""
        return gene_vector(dict.fromkeys(self.start, 1.0))

    def activity(self, x: Values) -> Values:
        """Hill activity h(x) = (1 + k^n) x^n / (x^n + k^n), any shape."""
        k_n, x_n = self.hill_k**self.hill_n, power(x, self.hill_n)
        return (1 + k_n) * x_n / (x_n + k_n)

    def _velocities(
        self, columns: Sequence[Values], multiplier: Inputs[Values], boost: Inputs[Values]
    ) -> list[Values]:
        """Drift of each gene [...], from the gene columns [...]; inputs indexed by gene on the first axis."""
        targets = rules([self.activity(x) for x in columns])
        return [
            (multiplier[i] * (targets[i] + boost[i]).clip(0, 1) - columns[i]) / tau
            for i, tau in enumerate(self.time_constants.tolist())
        ]

    def drift(self, x: Values, multiplier: Values | None = None, boost: Values | None = None) -> Values:
        """Deterministic velocity dx/dt [..., 11] of states x [..., 11] (numpy arrays or torch tensors).

        `multiplier` [..., 11] is 1 - efficacy (default 1), `boost` [..., 11] the cytokine input (default 0).
        """
        n = len(GENES)
        ones: Inputs[Values] = [1.0] * n if multiplier is None else [multiplier[..., i] for i in range(n)]
        zeros: Inputs[Values] = [0.0] * n if boost is None else [boost[..., i] for i in range(n)]
        return stack(self._velocities([x[..., i] for i in range(n)], ones, zeros))

    def simulate(
        self,
        multiplier: Array,
        boost: Array | None = None,
        *,
        generator: np.random.Generator,
        times: Array | None = None,
        start: Array | None = None,
        counterparts: bool = False,
    ) -> tuple[Array, Array]:
        """Simulate n cells and return their states at harvest and at the horizon, each [K, n, 11].

        Shapes: `multiplier`, `boost`, `start` [n, 11]; `times` [n] in time units (default: the horizon).
        K is 1, or 2 with `counterparts`: row 1 is the same cell, on the same noise path and from the same
        initial state, without knock-down and without cytokine.
        """
        n = len(multiplier)
        boost = np.zeros_like(multiplier) if boost is None else boost
        start = np.broadcast_to(self.progenitor, (n, len(GENES))) if start is None else start
        times = np.full(n, self.horizon) if times is None else times
        steps = np.rint(np.asarray(times) / self.dt).astype(int)
        harvest, final = (np.empty((1 + counterparts, n, len(GENES))) for _ in range(2))
        for low in range(0, n, 2048):  # blocks that stay in the processor's cache
            block = slice(low, low + 2048)
            inputs = _with_counterparts(multiplier[block], boost[block], start[block], counterparts)
            harvest[:, block], final[:, block] = self._simulate_block(*inputs, steps[block], generator)
        return harvest, final

    def _simulate_block(
        self,
        x: Array,
        multiplier: Array,
        boost: Array,
        steps: npt.NDArray[np.int_],
        generator: np.random.Generator,
    ) -> tuple[Array, Array]:
        """Euler-Maruyama for one block [11, K, n]; returns states at harvest and at the end [K, n, 11]."""
        amplitude = (self.sigma * np.sqrt(self.dt) / self.time_constants)[:, None, None]
        harvest = x.copy()
        for step in range(1, round(self.horizon / self.dt) + 1):
            velocity = np.stack(self._velocities(list(x), multiplier, boost))
            noise = generator.standard_normal((len(GENES), 1, x.shape[-1]))
            x = np.maximum(x + self.dt * velocity + amplitude * np.sqrt(x + 1e-3) * noise, 0.0)
            due = steps == step
            if due.any():
                harvest[..., due] = x[..., due]
        return np.moveaxis(harvest, 0, -1), np.moveaxis(x, 0, -1)


def _with_counterparts(
    multiplier: Array, boost: Array, start: Array, counterparts: bool
) -> tuple[Array, Array, Array]:
    """Start, multiplier and boost as [11, K, n], with an untreated twin of each cell when asked for."""
    kinds = 1 + counterparts
    x = np.repeat(np.array(start.T)[:, None], kinds, axis=1)
    m = np.repeat(np.array(multiplier.T)[:, None], kinds, axis=1)
    c = np.repeat(np.array(boost.T)[:, None], kinds, axis=1)
    if counterparts:
        m[:, 1], c[:, 1] = 1.0, 0.0
    return x, m, c


def fate(states: Array, threshold: float = 0.5) -> npt.NDArray[np.str_]:
    """Name the fate of states [..., 11]: the only fixed point within one gene, else 'undecided'.

    An exact match wins; otherwise exactly one fixed point must lie at Hamming distance 1.
    """
    on = np.asarray(states) > threshold
    patterns = np.array([[g in members for g in GENES] for members in FATES.values()])
    distance = (on[..., None, :] != patterns).sum(-1)
    nearest, ties = distance.min(-1), (distance == distance.min(-1, keepdims=True)).sum(-1)
    names = np.array(list(FATES))[distance.argmin(-1)]
    return np.where((nearest == 0) | ((nearest == 1) & (ties == 1)), names, UNDECIDED)


def cytokine_input(doses: Mapping[str, float]) -> Array:
    """Additive production input [11] of cytokines at their doses; an unknown cytokine raises one sentence."""
    total = np.zeros(len(GENES))
    for name, dose in doses.items():
        if name not in CYTOKINES:
            raise DataError(f"'{name}' is not a known cytokine; choose from {', '.join(CYTOKINES)}.")
        total += dose * gene_vector(CYTOKINES[name])
    return total


def knockdown_multiplier(genes: Iterable[str], efficacy: float) -> Array:
    """Production multiplier [11]: 1 - efficacy on the named genes, 1 elsewhere; efficacy between 0 and 1."""
    if not 0 <= efficacy <= 1:
        raise DataError(f"Knock-down efficacy must lie between 0 and 1, got {efficacy}.")
    return gene_vector(dict.fromkeys(genes, 1 - efficacy), default=1.0)


def clamped_fates(start: str, clamps: Sequence[Mapping[str, int]], steps: int = 100) -> npt.NDArray[np.str_]:
    """Fates [m] of one fixed point after each of m temporary clamps: held until settled, then let go.

    Synchronous Boolean updates, `steps` under the clamp and `steps` after it; what still moves then is
    'undecided'.
    """
    states = np.array([[g in FATES[start] for g in GENES]] * len(clamps), dtype=np.int8)
    held = np.array([[clamp.get(g, -1) for g in GENES] for clamp in clamps], dtype=np.int8)
    for _ in range(steps):
        states = np.where(held >= 0, held, boolean_step(states))
    for _ in range(steps):
        states = boolean_step(states)
    settled = (boolean_step(states) == states).all(-1)
    return np.where(settled, fate(states.astype(float)), UNDECIDED)


def minimal_clamps(start: str, target: str, largest: int = 3) -> list[dict[str, int]]:
    """All smallest sets of temporary clamps, gene -> 0 or 1, that move one fate to another, by enumeration.

    Empty when no set of up to `largest` genes does.
    """
    for size in range(1, largest + 1):
        values = list(itertools.product((0, 1), repeat=size))
        genes = itertools.combinations(GENES, size)
        clamps = [dict(zip(names, v, strict=True)) for names, v in itertools.product(genes, values)]
        reached = clamped_fates(start, clamps)
        if (reached == target).any():
            return [clamp for clamp, end in zip(clamps, reached, strict=True) if end == target]
    return []
