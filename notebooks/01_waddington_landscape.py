# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. The Waddington landscape
#
# **Question.** A cell that differentiates is often drawn as a ball that rolls down a branching valley, and the paper says that learning algorithms get caught in the local optima of this landscape.
# Where are its valleys, how high are the ridges between them, and what moves a cell from one valley into another that was chosen in advance?
#
# **Answer.** In a circuit of two genes all of this can be computed, and the answer has a trap: the obvious way from A to B, to activate the gene that is high in B, makes a cell leave A but never brings it to B, however strong the signal; pushing one gene down and the other up does, once the push exceeds a threshold that can be computed exactly.
# The figure shows both ways; the sentence below it has the thresholds, and how high a ridge is depends on the noise ([further down](#how-high-is-a-ridge)).
#
# A *basin* (valley) is the set of states from which a cell settles in the same stable state, its *attractor*.

# %% tags=["setup", "hide-input"]
# @title Install the package where it is missing { display-mode: "form" }
import importlib.util
import pathlib
import subprocess
import sys

if importlib.util.find_spec("twinlib") is None:
    copies = sorted(pathlib.Path().glob("twin-book*.zip"))
    if not copies:
        raise ModuleNotFoundError(
            "twinlib is not installed: run `make environment` in a copy of the book, "
            "or `make zip`, and upload twin-book.zip to the folder of this notebook."
        )
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, str(copies[-1])], check=True)
    importlib.invalidate_caches()
import twinlib

# %% tags=["hide-input"]
# @title Three basins, and two pushes that start in A { display-mode: "form" }
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.page import plots, record

plots.style()
PLACES = {"A": "#0072b2", "progenitor": "#6b7280", "B": "#d55e00"}
switch = ToggleSwitch()
points, attractors = switch.fixed_points(), switch.attractors
grid = np.linspace(0, 2.5, 121)
states = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
basin = switch.basin(states)
shade = np.select([basin == name for name in PLACES], range(3))
flow = switch.drift(states)


def way(control, held=120.0, free=60.0, dt=0.02):
    """Path [T, 2] of a cell from A under a control that is held and then taken away."""
    x, path = np.array(attractors["A"]), []
    for step in range(round((held + free) / dt)):
        u = np.array(control) * (step * dt < held)
        x = np.maximum(x + dt * (switch.drift(x) + u), 0)
        path.append(x)
    return np.array(path)


ways = {
    "push: gene 1 down, gene 2 up": (-0.2, 0.2),
    "activate gene 2": (0.0, 0.2),
    "activate gene 2, five times as strongly": (0.0, 1.0),
}
fig, ax = plt.subplots(figsize=(6.2, 6.0))
colours = [sns.light_palette(c, 4)[1] for c in PLACES.values()]
ax.pcolormesh(
    grid,
    grid,
    shade.T,
    cmap=plt.matplotlib.colors.ListedColormap(colours),
    shading="nearest",
)
ax.streamplot(
    grid,
    grid,
    flow[..., 0].T,
    flow[..., 1].T,
    color="#4b5563",
    linewidth=0.7,
    density=1.1,
    arrowsize=0.9,
)
for p in points:
    ax.plot(
        *p.x,
        "o" if p.kind == "attractor" else "X",
        color="black",
        ms=9,
        mec="white",
        clip_on=False,
        zorder=5,
    )
ends = {}
for (name, control), dash, colour in zip(
    ways.items(), ("-", "-", ":"), ("#009e73", "#7a1fa2", "#7a1fa2"), strict=True
):
    path = way(control)
    ends[name] = str(switch.basin(path[-1]))
    ax.plot(*path.T, dash, color=colour, lw=3, label=f"{name}: ends in {ends[name]}")
for name, place in attractors.items():
    side = "right" if name == "progenitor" else "left"  # paths arrive from the right
    beside = (-9, -18) if side == "right" else (9, 9)
    ax.annotate(
        name, place, xytext=beside, textcoords="offset points", weight="bold", ha=side
    )
ax.set(
    xlabel="expression of gene 1",
    ylabel="expression of gene 2",
    xlim=(0, 2.5),
    ylim=(0, 2.5),
)
plots.legend_outside(fig, columns=1)
plots.show(
    fig,
    "phase-portrait",
    "Phase portrait of the toggle switch: arrows flow to three attractors, A at high gene 1, B at high gene 2 and "
    "the progenitor at equal expression; two saddles (crosses) lie on the borders between the coloured basins. Of three paths "
    "that start in A, the one that pushes both genes ends in B; the two that activate gene 2 end in the progenitor.",
)
both, alone = (
    switch.escape_threshold(attractors["A"], control=u) for u in ((-1, 1), (0, 1))
)
record.say(
    f"**A cell leaves A when both genes are pushed by more than {both:.4f}, and when gene 2 alone is activated by more than "
    f"{alone:.4f} (expression per unit of time). After the push it ends in {ends['push: gene 1 down, gene 2 up']}, after the activation in the "
    f"{ends['activate gene 2']}, also with a signal of {ways['activate gene 2, five times as strongly'][1]:g}.**"
)
assert (
    ends["push: gene 1 down, gene 2 up"] == "B"
    and ends["activate gene 2, five times as strongly"] == "progenitor"
)

# %% [markdown]
# *How to read it.*
# A point is a state of the cell; the grey arrows say where it drifts when nobody interferes.
# The ground is coloured by the valley in which a cell would settle: blue A, grey the progenitor, orange B.
# Circles are attractors, crosses are the passes between them (saddles).
# Each coloured path follows one cell while the control is held and after it is taken away.
#
# ## Objectives
#
# After this chapter you can
#
# - find the stable states of a gene circuit and say which of them are stable (10 minutes);
# - compute a quasi-potential, read barriers from it, and say why it is not a potential (15 minutes);
# - predict whether a knock-down or an added signal moves a cell, and where the cell lands (15 minutes);
# - enumerate the fates of a Boolean network and find the smallest intervention between two of them (10 minutes);
# - keep apart the three things that 'escaping a local optimum' can mean (5 minutes).

# %% tags=["hide-input"]
# @title Imports { display-mode: "form" }
import pandas as pd
from scipy.optimize import brentq

from twinlib.data.sources import load
from twinlib.page import surface
from twinlib.landscapes.potential import mean_exit_time, quasi_potential
from twinlib.landscapes.myeloid import (
    CYTOKINES,
    FATES,
    GENES,
    MyeloidNetwork,
    all_states,
    boolean_fixed_points,
    boolean_step,
    clamped_fates,
    cytokine_input,
    fate,
    gene_vector,
    knockdown_multiplier,
    minimal_clamps,
)
from twinlib.landscapes.optimal_control import shortest_pulse
from twinlib.data.simulated import simulate_waddington

# %% [markdown]
# ## The question
#
# The first figure of the paper is a drawing of that landscape.
# A drawing has no heights, so nobody can say from it how hard an escape is, or whether one took place.
# Two genes are enough to get valleys, ridges between them and balls that cross a ridge, and eleven genes are enough to get the four fates of a blood cell.
# For these circuits everything can be known: where the valleys are, how high the ridges are, how strong a push must be and how long it must last.
# Later chapters need that, because a claim about escaping from a valley can be tested only where the valley is known.

# %% [markdown]
# ## The plain baseline: one valley
#
# The simplest gene is produced at a constant rate and decays, with noise of intensity $D$:
#
# $$dx = (1 - k x)\,dt + \sqrt{2D}\,dW .$$
#
# On this page $D$ is the strength of the noise; from chapter 3 on it counts latent dimensions, as the [notation page](../book/notation.md) says.
# The density settles to a Gaussian with variance $D/k$, whatever the start.
# Minus its logarithm is a parabola: a landscape with one valley and nothing to escape from.
# The answer is known in closed form, so this is also the first test of the solver that draws every landscape below.
# The solver balances fluxes that are exact for a force linear in $x$, so here it must agree to rounding; a second test, on a finer grid, follows where the force is not linear.

# %%
D = 0.05
one_valley = ToggleSwitch(a=0.0, b=0.0, noise=D)  # production 1 is put in as a control
flat = quasi_potential(one_valley, u=np.array([1.0, 1.0]))
parabola = ((flat.grid[:, None] - 1) ** 2 + (flat.grid[None] - 1) ** 2) / (2 * D)
error = np.abs(flat.u - (parabola - parabola.min()))[parabola < 8].max()
assert error < 1e-6
rng, start = np.random.default_rng(0), np.zeros((4000, 2))
ends = one_valley.simulate(start, 8.0, rng, u=np.array([1.0, 1.0]))[-1]
assert abs(ends.var() / D - 1) < 0.1

# %% tags=["hide-input"]
# @title How close the solver is to the exact answer { display-mode: "form" }
record.say(
    f"The solver differs from the exact parabola by at most {error:.0e}, and 4,000 simulated cells have variance "
    f"{ends.var():.4f} where D/k = {D:.4f}."
)

# %% [markdown]
# ## Two genes that exclude each other
#
# Let two genes activate themselves and repress each other.
# Blood progenitors, the cells from which all blood cells descend, hold such a pair: Gata1 drives them to red cells, Pu1 to white ones, and each represses the other.
# Both are transcription factors, genes whose product turns other genes on or off.
#
# $$\dot x_1 = \underbrace{\frac{a\,x_1^n}{S^n + x_1^n}}_{\text{activates itself}} + \underbrace{\frac{b\,S^n}{S^n + x_2^n}}_{\text{repressed by gene 2}} - k x_1 + u_1$$
#
# Gene 2 obeys the same law with the indices exchanged.
# Expression cannot be negative, so the simulation clips it at zero.
# The control $u$ is what an experiment adds from outside; for the moment it is zero.
# The parameters are $n = 4$, $S = 0.5$ and $a = b = k = 1$.


# %%
def velocity(x1, x2, a=1.0, b=1.0, k=1.0, s=0.5, n=4):
    """The drift of gene 1, written as in the equation above."""
    return a * x1**n / (s**n + x1**n) + b * s**n / (s**n + x2**n) - k * x1


x = np.random.default_rng(0).uniform(0, 2, size=(100, 2))
assert np.allclose(switch.drift(x)[:, 0], velocity(x[:, 0], x[:, 1]))
assert np.allclose(switch.drift(x)[:, 1], velocity(x[:, 1], x[:, 0]))

# %% [markdown]
# ### Where nothing moves
#
# A fixed point is a state with zero velocity.
# Newton's method, started from a grid, finds all of them.
# The Jacobian matrix at a fixed point tells what happens to a small deviation: if both eigenvalues have a negative real part, it dies out and the point is an attractor; if one is positive, the point is a saddle.

# %%
for p in points:
    eigenvalues = np.linalg.eigvals(switch.jacobian(np.array(p.x))).real
    assert np.abs(switch.drift(np.array(p.x))).max() < 1e-9
    assert (p.kind == "attractor") == (eigenvalues.max() < 0)
    assert p.kind != "saddle" or eigenvalues.min() < 0 < eigenvalues.max()
    print(f"{p.kind} at gene 1 = {p.x[0]:.4f}, gene 2 = {p.x[1]:.4f}")

# %% [markdown]
# There are three attractors.
# In A gene 1 is high, in B gene 2 is high, and between them sits a state in which both are expressed at the same level.
# That middle state stands for the progenitor.
# Two saddles separate the three; a cell that goes from A to the progenitor along the easiest way passes near the first saddle.

# %% [markdown]
# ### Development as a parameter: the paper's Figure 1
#
# The strength of self-activation $a$ decides whether the middle state exists.
# By symmetry it lies where $x_1 = x_2 = c$, and it loses stability when the larger eigenvalue of the Jacobian there passes zero.


# %%
def middle(a):
    """Equal expression of both genes at rest."""
    return brentq(lambda c: velocity(c, c, a=a), 0.05, 3.0)


def instability(a):
    """Largest eigenvalue at the middle state: positive, it cannot hold."""
    c = middle(a)
    jacobian = ToggleSwitch(a=a).jacobian(np.array([c, c]))
    return np.linalg.eigvals(jacobian).real.max()


critical = brentq(instability, 0.6, 0.95)
assert "progenitor" in ToggleSwitch(a=critical + 0.002).attractors
assert "progenitor" not in ToggleSwitch(a=critical - 0.002).attractors
record.glue("critical-self-activation", round(critical, 4))
print(f"below a = {critical:.4f} the progenitor is no attractor any more")

# %% [markdown]
# Now let 20,000 noisy cells start as progenitors while $a$ falls slowly, and record at each time how many cells stand where.
# Minus the logarithm of that density is a landscape that was measured on cells, not drawn.
# It has one valley at the top of the page, and two at the bottom.

# %%
rng = np.random.default_rng(1)
knob = np.linspace(1.2, 0.4, 49)
edges = np.linspace(-2.2, 2.2, 67)
cells = np.ones((20_000, 2))
landscape, balls = [], []
for a in knob:
    circuit = ToggleSwitch(a=a, noise=0.01)
    cells = circuit.simulate(cells, 1.5, rng, dt=0.05, every=30)[-1]
    fate_axis = cells[:, 0] - cells[:, 1]
    density = np.histogram(fate_axis, bins=edges, density=True)[0]
    smooth = np.convolve(density, [0.05, 0.25, 0.4, 0.25, 0.05], mode="same")
    landscape.append(-np.log(np.maximum(smooth, 2e-3)))
    balls.append(fate_axis[:400])
landscape, balls = np.array(landscape), np.array(balls)
split = {"A": (balls[-1] > 1).mean(), "B": (balls[-1] < -1).mean()}
assert min(split.values()) > 0.3, "both valleys are taken"

# %% tags=["hide-input"]
# @title The paper's Figure 1, drawn from the simulated cells { display-mode: "form" }
centre = (edges[1:] + edges[:-1]) / 2
fig = plt.figure(figsize=(6.4, 5.6))
ax = fig.add_subplot(projection="3d", computed_zorder=False)
time_axis = np.arange(len(knob)) * 1.5
ax.plot_surface(
    *np.meshgrid(centre, time_axis),
    landscape,
    cmap="cividis",
    rstride=1,
    cstride=1,
    linewidth=0,
    antialiased=False,
)
for ball in (np.flatnonzero(balls[-1] > 1)[0], np.flatnonzero(balls[-1] < -1)[0]):
    place = np.clip(np.searchsorted(edges, balls[:, ball]) - 1, 0, len(centre) - 1)
    height = landscape[np.arange(len(knob)), place]
    ax.plot(balls[:, ball], time_axis, height + 0.25, color="#d55e00", lw=2)
    ax.plot(
        balls[-1:, ball],
        time_axis[-1:],
        height[-1:] + 0.25,
        "o",
        color="#d55e00",
        ms=9,
        mec="white",
    )
ax.view_init(elev=48, azim=-72)
ax.set(xlabel="gene 1 minus gene 2", ylabel="time", zlabel="minus log density")
ax.set_title("The paper's Figure 1, computed: one valley becomes two")
plots.show(
    fig,
    "waddington-computed",
    "Surface over fate axis and developmental time: a single valley at equal expression splits into two valleys, "
    "gene 1 high and gene 2 high; two simulated cells, drawn as balls with their paths, end in different valleys.",
    "Figure 1 of the paper redone from a simulation of 20,000 cells; heights are minus log densities.",
)
record.say(
    f"At the end {split['A']:.0%} of the tracked cells are in A and {split['B']:.0%} in B; "
    "they started in the same state and differ by noise alone."
)

# %% [markdown]
# ## How high is a ridge?
#
# Hold $a = 1$ again and let noise act for ever.
# The density of cells settles to a stationary $P_{ss}$, and
#
# $$U(x) = -\ln P_{ss}(x)$$
#
# is called the quasi-potential.
# It comes from one linear system: the Fokker-Planck equation on a grid, with the flux through every face balanced.
# The barrier out of an attractor is the height of the lowest saddle next to it minus the height of the attractor.
#
# The word 'quasi' is needed.
# A ball on a surface moves along the gradient of the surface, and then the Jacobian of its motion is symmetric.
# Here it is not, so part of the motion circles around instead of going down, and no surface describes it fully.

# %%
jacobian = switch.jacobian(np.array([1.5, 0.4]))
assert abs(jacobian[0, 1] - jacobian[1, 0]) > 0.1, "a gradient has a symmetric Jacobian"

A, progenitor = attractors["A"], attractors["progenitor"]
barriers = {}
for noise in (0.01, 0.02, 0.05):
    potential = quasi_potential(ToggleSwitch(noise=noise), size=140)
    out_of_a, out_of_progenitor, _ = potential.barriers().values()
    barriers[noise] = (out_of_a, out_of_progenitor)
    lowest_pass = potential.pass_height(A, [progenitor]) - potential.height(A)
    assert abs(lowest_pass - out_of_a) < 0.06, (
        "the lowest way out leads over the saddle"
    )
frame = pd.DataFrame(barriers, index=["out of A", "out of the progenitor"]).T
frame = frame.rename_axis("noise D")
frame["D times barrier out of A"] = frame.index * frame["out of A"]
frame.round(3)

# %% [markdown]
# More noise makes lower barriers, because the same ridge costs less when each kick is larger.
# The last column shows that the product of noise and barrier is nearly constant: it is the part that belongs to the circuit.
# Is the grid fine enough?
# Twice as many cells a side must give the same barriers.

# %% tags=["hide-input"]
# @title The barriers on a finer grid { display-mode: "form" }
coarse, fine = (
    list(quasi_potential(ToggleSwitch(noise=0.02), size=m).barriers().values())[:2]
    for m in (140, 280)
)
change = np.abs(np.subtract(coarse, fine)).max()
assert change < 0.1
record.say(
    f"With 280 in place of 140 cells a side the barriers at D = 0.02 change by at most {change:.3f}."
)

# %% tags=["hide-input"]
# @title The quasi-potential and one noisy cell { display-mode: "form" }
potential = quasi_potential(ToggleSwitch(noise=0.02), upper=2.5)
fig, ax = plt.subplots(figsize=(6.4, 5.0))
levels = np.arange(0, 12.5, 0.5)
filled = ax.contourf(
    potential.grid,
    potential.grid,
    np.minimum(potential.u, 12).T,
    levels=levels,
    cmap="cividis",
)
ax.contour(
    potential.grid,
    potential.grid,
    np.minimum(potential.u, 12).T,
    levels=levels[::2],
    colors="white",
    linewidths=0.4,
)
walk = ToggleSwitch(noise=0.02).simulate(
    attractors["A"], 60.0, np.random.default_rng(5), every=5
)
visited = list(dict.fromkeys(switch.basin(walk).tolist()))
assert visited[0] == "A" and len(visited) > 1
crossing = walk[(switch.basin(walk) != "A").argmax()]
distance = np.linalg.norm(crossing - points[1].x)
assert distance < 0.5, "the way out leads past the saddle"
ax.plot(*walk.T, color="#f0a060", lw=0.8)
for p in points:
    ax.plot(
        *p.x,
        "o" if p.kind == "attractor" else "X",
        color="black",
        ms=9,
        mec="white",
        clip_on=False,
        zorder=5,
    )
for name, place in attractors.items():
    ax.annotate(
        name,
        place,
        xytext=(9, 9),
        textcoords="offset points",
        weight="bold",
        color="white",
    )
fig.colorbar(filled, label="quasi-potential U (cut at 12)")
ax.set(
    xlabel="expression of gene 1",
    ylabel="expression of gene 2",
    title="Quasi-potential at D = 0.02, and one cell",
)
plots.show(
    fig,
    "quasi-potential",
    "Contour map of the quasi-potential with three wells at A, the progenitor and B and saddles between them; "
    f"the path of one noisy cell that started in A visits the basins of {' and '.join(visited)}.",
)
record.say(
    f"The drawn cell starts in A and visits the basins of {' and '.join(visited)} within 60 time units, "
    f"by noise alone; it crosses the first border at a distance of {distance:.2f} from the saddle."
)

# %% [markdown]
# ### What a barrier predicts
#
# If the ridge matters, the mean time to leave A should grow exponentially with the barrier.
# Say that a cell has left when gene 1 leads gene 2 by less than 0.2, which is deep in the progenitor's basin.
# The mean time until then solves a linear equation on the same grid, $Q^\top t = -1$, where $Q$ is the matrix whose null vector is $P_{ss}$.
# Simulated cells, which know nothing of the grid, must agree with it.


# %% tags=["hide-input"]
# @title Mean escape time of simulated cells { display-mode: "form" }
def simulated_escape_time(noise, n=300, dt=0.01, seed=0, longest=600.0):
    """Mean time until cells started in A have left, and its standard error."""
    rng, circuit = np.random.default_rng(seed), ToggleSwitch(noise=noise)
    x, left = np.tile(attractors["A"], (n, 1)), np.full(n, np.nan)
    for step in range(1, round(longest / dt) + 1):
        x = np.maximum(
            x
            + dt * circuit.drift(x)
            + np.sqrt(2 * noise * dt) * rng.standard_normal(x.shape),
            0,
        )
        left[np.isnan(left) & ~on_the_side_of_a(x)] = step * dt
        if not np.isnan(left).any():
            break
    return left.mean(), left.std() / np.sqrt(n)


# %%
def on_the_side_of_a(x):
    return x[..., 0] - x[..., 1] >= 0.2


noises = np.array([0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.008, 0.006])
circuits = [ToggleSwitch(noise=d) for d in noises]
heights = [next(iter(quasi_potential(one).barriers().values())) for one in circuits]
times = [mean_exit_time(one, A, on_the_side_of_a) for one in circuits]
slopes = np.diff(np.log(times)) / np.diff(heights)
assert slopes[0] < 0.8 < 0.9 < slopes[-1] < 1.05

# %% tags=["hide-input"]
# @title Draw the escape times { display-mode: "form" }
fig, ax = plt.subplots(figsize=(5.8, 3.8))
ax.plot(heights, times, "o-", color=PLACES["A"], lw=1.2, label="linear equation")
for noise, height, time in list(zip(noises, heights, times, strict=True))[:2]:
    mean, error = simulated_escape_time(noise)
    assert abs(mean - time) < 4 * error, "300 simulated cells agree with the equation"
    label = "300 simulated cells" if noise == noises[0] else None
    ax.errorbar(
        height, mean, 2 * error, fmt="s", ms=9, mfc="none", color="#d55e00", label=label
    )
for noise, height, time in zip(noises, heights, times, strict=True):
    ax.annotate(
        f"D = {noise:g}",
        (height, time),
        xytext=(8, -10),
        textcoords="offset points",
        fontsize=9,
    )
ax.set(
    yscale="log",
    xlabel="barrier out of A (quasi-potential)",
    ylabel="mean time to leave A",
    title="Escape by noise",
)
plots.legend_outside(fig)
plots.show(
    fig,
    "escape-time",
    "Mean time to leave A on a logarithmic axis against the barrier: the points for eight noise intensities rise "
    "almost on a straight line, and two simulated means, drawn as squares, lie on it.",
)
record.say(
    f"From D = {noises[0]:g} to D = {noises[-1]:g} the barrier rises from {heights[0]:.1f} to {heights[-1]:.1f} and the "
    f"mean time from {times[0]:.0f} to {times[-1]:,.0f} time units. "
    f"One more unit of barrier multiplies the time by e to the power {slopes[0]:.2f} at the noisy end and "
    f"{slopes[-1]:.2f} at the quiet end: the exponential law of a barrier holds better the smaller the noise is."
)

# %% [markdown]
# ## Tilting the landscape
#
# Waiting for noise is one way out of a valley.
# An experiment does something else: it changes the landscape while it lasts.
#
# - A **cytokine**, a signalling protein given to the cells, adds production, $u > 0$, to the genes it switches on.
# - A **CRISPRi** knock-down, a block set at one gene by a guide that finds it, multiplies the production of that gene by $1 - e$, where $e$ is the efficacy.
#
# Both lower one side of a valley.
# At a certain strength the attractor and the saddle beside it meet and vanish together, and the cell must leave even without noise.
# Two equations hold there: the velocity is zero, and the determinant of the Jacobian is zero.
# Solving them gives the threshold exactly.

# %%
TILTS = {
    "push: gene 1 down, gene 2 up": dict(control=(-1, 1)),
    "activate the target: gene 2 up": dict(control=(0, 1)),
    "repress the source: gene 1 down": dict(control=(-1, 0)),
    "CRISPRi on gene 1 (efficacy)": dict(knockdown=(1, 0)),
}


def lands(start, strength, control=(0, 0), knockdown=(0, 0)):
    """Basin that a cell settles in after a long tilt is taken away again."""
    u, multiplier = strength * np.array(control), 1 - strength * np.array(knockdown)
    return str(switch.basin(switch.settle(attractors[start], u, multiplier, time=300)))


# %% tags=["hide-input"]
# @title Every threshold, and where the cell lands just above it { display-mode: "form" }
rows = []
for start in ("A", "progenitor"):
    for name, tilt in TILTS.items():
        threshold = switch.escape_threshold(attractors[start], **tilt)
        finite = np.isfinite(threshold)
        after = lands(start, 1.003 * threshold if finite else 10.0, **tilt)
        if finite:
            assert lands(start, 0.997 * threshold, **tilt) == start, (
                "just below the threshold nothing happens"
            )
            assert after != start
        rows.append(
            (start, name, round(threshold, 4) if finite else "none up to 10", after)
        )
thresholds = pd.DataFrame(rows, columns=["start", "tilt", "threshold", "lands in"])
thresholds

# %% [markdown]
# Read the second row again.
# To activate the target gene is the obvious way from A to B.
# It does make the cell leave A, and at a threshold that is hardly higher than that of the full push.
# But the cell lands in the progenitor, and from there the same signal never moves it on, however strong it is.
# **To leave A and to reach B are two different aims.**
#
# The push of both genes is the most that a bounded control can do.
# The circuit is monotone: lowering gene 1 and raising gene 2 can only bring the cell closer to B.
# So below the first threshold no schedule of any kind moves a cell out of A without noise, and an algorithm that claims to have done so has a bug.

# %%
u_star = switch.escape_threshold(attractors["A"], control=(-1, 1))
rng = np.random.default_rng(0)
x = np.tile(attractors["A"], (400, 1))
for _ in range(50):  # 400 random bang-bang schedules at 99.4 % of the threshold
    u = 0.994 * u_star * rng.choice([-1.0, 1.0], size=x.shape)
    x = switch.settle(x, u, time=rng.uniform(0.2, 3.0))
assert (switch.basin(x) == "A").all()
print(f"below u* = {u_star:.4f} none of 400 random schedules took a cell out of A")
record.glue("escape-threshold", round(u_star, 4))

# %% [markdown]
# ### A landscape to turn
#
# The figure below is drawn by a small script inside this page, so it needs no network.
# Drag it, or use the sliders; they also work with the arrow keys.
# The first slider raises the push from zero to beyond the threshold: watch the whole landscape tilt, and the valley of A grow shallow and vanish.
# The noise is larger here than above ($D = 0.05$), so that all of the tilted landscape fits into one picture; heights above 12 are cut off and drawn in grey.
# 'Play cells' moves 40 simulated cells that were started in A, under the push that belongs to the last landscape.

# %% tags=["hide-input"]
# @title The landscape to turn { display-mode: "form" }
noise, pushes = 0.05, [0.0, 0.05, 0.10, 0.15, 0.20]
frames = []
for push in pushes:
    u = np.array([-push, push])
    tilted = quasi_potential(ToggleSwitch(noise=noise), u=u, size=60, upper=2.5)
    held = switch.settle(np.array(list(attractors.values())), u, time=300)
    places = {
        str(name): place for name, place in zip(switch.basin(held), held, strict=True)
    }
    out = {
        str(switch.basin(np.array(place))): height
        for place, height in tilted.barriers().items()
    }
    said = ", ".join(
        f"{out[name]:.1f} out of {name}" for name in ("A", "progenitor") if name in out
    )
    assert set(out) - {"B"} == set(places) - {"B"}, (
        "a barrier for every valley that is left"
    )
    frames.append(
        surface.Frame(
            tilted.u,
            f"push {push:.2f}: barrier {said}"
            if said
            else f"push {push:.2f}: one valley is left, B",
            [(*place, name) for name, place in places.items()],
        )
    )
paths = ToggleSwitch(noise=noise).simulate(
    np.tile(attractors["A"], (40, 1)),
    30.0,
    np.random.default_rng(0),
    u=np.array([-0.2, 0.2]),
    every=15,
)
surface.show_surface(
    frames,
    "quasi-potential-surface",
    "Surface of the quasi-potential over the expression of two genes, with wells at A, progenitor and B. "
    "As the push towards B grows, the wells of A and of the progenitor become shallow and vanish, and only B is left.",
    upper=2.5,
    ceiling=12.0,
    paths=paths,
    slider="push towards B",
)
record.say("The barriers in words: " + "; ".join(frame.label for frame in frames) + ".")

# %% [markdown]
# Barriers fall long before they vanish.
# The next figure follows the barrier out of A under three tilts, each measured in units of its own threshold.
# A tilt of half the threshold already makes a spontaneous escape far more likely, so noise and control work together.
# The curves of the full push and of the activation nearly coincide: for a cell in A it is gene 2 that has to rise, and lowering gene 1 hardly helps.
# The difference between the two shows only after the escape, in where the cell lands.

# %% tags=["hide-input"]
# @title Draw the barrier under three tilts { display-mode: "form" }
fig, ax = plt.subplots(figsize=(6.2, 4.0))
shares = np.linspace(0, 0.95, 12)
styles = ["-", "--", ":"]
for (name, tilt), dash in zip(
    [t for t in TILTS.items() if "repress" not in t[0]], styles, strict=True
):
    threshold = switch.escape_threshold(attractors["A"], **tilt)
    curve = []
    for share in shares:
        u = share * threshold * np.array(tilt.get("control", (0, 0)))
        m = 1 - share * threshold * np.array(tilt.get("knockdown", (0, 0)))
        tilted = quasi_potential(ToggleSwitch(noise=0.02), u=u, multiplier=m)
        curve.append(next(iter(tilted.barriers().values())))
    assert curve[0] > 3 * curve[-1], "the barrier melts away"
    ax.plot(shares, curve, dash, label=name)
ax.set(
    xlabel="strength / threshold",
    ylabel="barrier out of A at D = 0.02",
    title="A tilt lowers the ridge",
    ylim=0,
)
plots.legend_outside(fig, columns=1)
plots.show(
    fig,
    "tilted-barriers",
    "Barrier out of A against strength divided by threshold for three tilts, push, activation of gene 2 and CRISPRi on "
    "gene 1: all three curves fall from about 3.7 towards zero as the strength nears its threshold.",
)

# %% [markdown]
# ### How long must a push last?
#
# A tilt need not be held for ever.
# Once the cell is across the border of B's basin it goes on by itself.
# The shortest pulse is found by integrating the equations at a relative tolerance of $10^{-8}$ and bisecting for the moment at which the border is crossed.
# It is the yardstick for chapter 13: by the monotone argument above, no controller with the same bound can be faster.
# A test of the package holds it against value iteration over all states and nine controls.

# %%
pulses = {p: shortest_pulse(switch, p) for p in (0.18, 0.2, 0.3, 0.5, 1.0)}
assert pulses[0.18] == np.inf and (np.diff(list(pulses.values())[1:]) < 0).all()
for push, time in pulses.items():
    print(f"push {push}: shortest pulse from A to B {time:.2f} time units")

# %% [markdown]
# ## Three meanings of 'escaping a local optimum'
#
# The paper uses one phrase for three different things.
#
# 1. **A cell leaves a basin.** Noise does it, at a rate that falls exponentially with the barrier.
# 2. **An intervention removes the basin.** A tilt above threshold does it, at once and without noise.
# 3. **A learning algorithm leaves a poor policy.** The landscape is then the return as a function of the policy's parameters, which is another surface altogether.
#
# The third is what an optimiser meets, so let us draw that surface, too.
# Take the simplest policy: two constant controls $(u_1, u_2)$, held for 15 time units from A.
# Let the reward be what the paper rewards: by how much the mean squared error to the target B has fallen.

# %%
axis = np.linspace(-0.3, 0.3, 61)
controls = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
held = switch.settle(np.broadcast_to(A, controls.shape), controls, time=15.0)
target = attractors["B"]
returns = ((A - target) ** 2).mean() - ((held - target) ** 2).mean(-1)
reached = switch.basin(held)
gain = {name: returns[reached == name].max() for name in PLACES}
assert gain["A"] < gain["progenitor"] < gain["B"]

# %% tags=["hide-input"]
# @title Draw the return of constant controls { display-mode: "form" }
fig, ax = plt.subplots(figsize=(6.6, 5.2))
drawn = ax.pcolormesh(axis, axis, returns.T, cmap="cividis", shading="nearest")
ax.contour(
    axis,
    axis,
    np.select([reached == n for n in PLACES], range(3)).T,
    levels=[0.5, 1.5],
    colors="white",
)
for name, place in {
    "A": (-0.15, -0.1),
    "progenitor": (0.12, 0.24),
    "B": (-0.22, 0.24),
}.items():
    ax.text(
        *place,
        f"lands in {name}",
        color="black" if name != "A" else "white",
        ha="center",
        weight="bold",
    )
fig.colorbar(drawn, label="return: fall of the squared error to B")
ax.set(
    xlabel="control on gene 1",
    ylabel="control on gene 2",
    title="What an optimiser sees: plateaus and cliffs",
)
plots.show(
    fig,
    "return-landscape",
    "Return of constant controls on both genes: a low plateau where the cell stays in A, a cliff to a middle plateau "
    "where it lands in the progenitor, and a small high corner, gene 1 down and gene 2 up, where it reaches B.",
)
far = np.linalg.norm(attractors["A"] - target)
record.say(
    f"The best return without leaving A is {gain['A']:.2f}, the best that ends in the progenitor {gain['progenitor']:.2f}, "
    f"and the best in B {gain['B']:.2f}. The progenitor already halves the distance to the target, from {far:.2f} to "
    f"{np.linalg.norm(attractors['progenitor'] - target):.2f}, so a reward that pays for the error is largely paid there."
)

# %% [markdown]
# This surface has plateaus and cliffs.
# On a plateau a small change of the policy changes the return little; a step that is too small sees no cliff, and a step that is too large jumps back over one.
# Whether a trust region helps on such a surface is a question about step lengths, not about valleys of cells.
# Chapter 13 answers it by experiment.

# %% [markdown]
# ## Eleven genes and four fates
#
# Two genes make a picture, eleven make blood.
# The network of Krumsiek and co-workers writes down, from the literature, which of eleven transcription factors turn which on and off.
# As Boolean rules it has $2^{11} = 2048$ states, so its fixed points need no search: try all of them.

# %%
states = all_states()
fixed = (boolean_step(states) == states).all(axis=1)
found = boolean_fixed_points()
assert fixed.sum() == len(found) == 6
assert sorted(map(sorted, found)) == sorted(map(sorted, FATES.values()))

# %% tags=["hide-input"]
# @title The six fixed points { display-mode: "form" }
pd.DataFrame(
    [
        [name, *("●" if gene in members else "" for gene in GENES)]
        for name, members in FATES.items()
    ],
    columns=["fixed point", *GENES],
)

# %% [markdown]
# Four of the six are the known mature cells.
# One has every gene off.
# The last one, called *spurious* here, differs from the monocyte by a single gene, Cebpa; it has no counterpart in the body.
#
# To get cells with amounts instead of zeros and ones, each rule is turned into a smooth function and put into a stochastic equation:
#
# $$\tau_i\,dx_i = \bigl(m_i\,\mathrm{clip}(B_i(h(x)) + c_i, 0, 1) - x_i\bigr)\,dt + \sigma\sqrt{x_i}\,dW_i$$
#
# Here $B_i$ is the rule with AND as a product and OR as $1 - \prod(1 - \cdot)$, and $h$ is a Hill function, the smooth step $x^n/(S^n + x^n)$ of the two-gene circuit.
# The factor $m_i = 1 - e$ is a knock-down, and $c_i$ is the input from a cytokine.
# Every cell starts in the same progenitor state, with Gata2, Cebpa and Pu1 on.

# %%
network = MyeloidNetwork()
KNOWN = ["erythrocyte", "megakaryocyte", "monocyte", "neutrophil"]
FATE_ORDER = [*KNOWN, "spurious", "off", "undecided"]


def shares(multiplier=None, boost=None, n=1500, seed=0):
    """Share of each fate among n cells under one treatment."""
    m = np.tile(np.ones(11) if multiplier is None else multiplier, (n, 1))
    c = np.tile(np.zeros(11) if boost is None else boost, (n, 1))
    _, final = network.simulate(m, c, generator=np.random.default_rng(seed))
    counted = pd.Series(fate(final[0])).value_counts(normalize=True)
    return counted.reindex(FATE_ORDER, fill_value=0.0)


# %% tags=["hide-input"]
# @title Shares of the fates among untreated cells, three seeds { display-mode: "form" }
FATE_COLOURS = dict(
    zip(FATE_ORDER, [*sns.color_palette("colorblind", 6), (0.6, 0.6, 0.6)], strict=True)
)
untreated = pd.DataFrame({f"seed {s}": shares(seed=s) for s in range(3)})
assert untreated.loc[FATE_ORDER[4:]].to_numpy().max() == 0, (
    "untreated cells take one of the four known fates"
)
assert (untreated.loc[FATE_ORDER[:4]] - 0.25).abs().to_numpy().max() < 0.08
record.say(
    "Shares over three seeds: "
    + "; ".join(
        f"{name} {untreated.loc[name].min():.2f} to {untreated.loc[name].max():.2f}"
        for name in KNOWN
    )
    + "."
)

# %% [markdown]
# Noise alone shares the cells out over the four fates, and the shares hardly depend on the seed.
# To see when the choice is made, take cells out at several times.
# The simulator knows the future of each cell, because it can let the cell run on after the snapshot; no experiment can do that.

# %% tags=["hide-input"]
# @title Draw four genes in time, by the fate the cell will take { display-mode: "form" }
course = simulate_waddington(
    6000,
    seed=1,
    perturbations=["Gata1"],
    control_weight=99.0,
    snapshots=list(np.arange(0, 20.5, 1.0)),
)
course = course[course.obs["perturbation"] == "control"]
early = course.obs["time"] == 0
assert np.allclose(course.obsm["tf_state"][early.to_numpy()], network.progenitor), (
    "all start alike"
)

fig, axes = plt.subplots(2, 2, figsize=(7.6, 5.4), sharex=True, sharey=True)
for ax, gene in zip(axes.flat, ["Gata1", "Pu1", "EKLF", "Gfi1"], strict=True):
    level = pd.DataFrame(
        {
            "time": course.obs["time"].to_numpy(),
            "fate": course.obs["fate"].astype(str).to_numpy(),
            "activity": course.obsm["tf_state"][:, GENES.index(gene)],
        }
    )
    mean = level.groupby(["fate", "time"])["activity"].mean().unstack(0)
    for name in FATE_ORDER[:4]:
        ax.plot(mean.index, mean[name], color=FATE_COLOURS[name], label=name)
    ax.set(title=gene, xlabel="time", ylabel="mean activity")
    ax.label_outer()
axes[0, 0].legend(fontsize=9)
plots.show(
    fig,
    "fates-in-time",
    "Mean activity of Gata1, Pu1, EKLF and Gfi1 over time, cells grouped by the fate they will take: Gata1 and Pu1 "
    "separate the two lineages first, EKLF and Gfi1 separate the fates within a lineage later.",
)

# %% [markdown]
# ### CRISPRi on eleven genes
#
# A knock-down removes fates.
# Each row below shows the shares of fates after CRISPRi with an efficacy of 0.9 on one gene.
# A mature cell that lacks one of its genes still counts as that cell when no other fixed point is as near; a state that is near none, or equally near two, is called undecided.
# By the rules it takes Gata1, Fog1 and SCL together to switch Cebpa off, so a red cell without one of the three keeps expressing a white gene and is counted as undecided.

# %% tags=["hide-input"]
# @title Which fates each knock-down leaves { display-mode: "form" }
knocked = pd.DataFrame(
    {gene: shares(knockdown_multiplier([gene], 0.9), n=600) for gene in GENES}
).T
knocked = pd.concat([untreated.mean(axis=1).rename("control").to_frame().T, knocked])
assert (
    knocked.loc["EKLF", "erythrocyte"] == 0
    and knocked.loc["Fli1", "megakaryocyte"] == 0
)
assert knocked.loc["Gata1", ["erythrocyte", "megakaryocyte"]].sum() == 0

fig, ax = plt.subplots(figsize=(6.4, 5.4))
sns.heatmap(
    knocked,
    annot=True,
    fmt=".2f",
    cmap="cividis",
    vmin=0,
    vmax=1,
    ax=ax,
    cbar_kws={"label": "share of cells"},
)
ax.set(
    xlabel="fate",
    ylabel="knock-down (efficacy 0.9)",
    title="Which fates a knock-down leaves",
)
ax.tick_params(axis="x", rotation=30)
plots.show(
    fig,
    "knockdown-fates",
    "Heat map of fate shares for the control and eleven single knock-downs: without EKLF no erythrocytes form, without "
    "Fli1 no megakaryocytes, and without Gata1 neither; without Cebpa the spurious and the empty state appear.",
)

# %% [markdown]
# ### A cytokine tilts the choice
#
# A cytokine adds a small production to the genes of one fate.
# It forces no cell; it makes one choice more likely, and more so at a higher dose.

# %% tags=["hide-input"]
# @title Draw the dose response of four cytokines { display-mode: "form" }
favoured = {
    "EPO": "erythrocyte",
    "TPO": "megakaryocyte",
    "M-CSF": "monocyte",
    "G-CSF": "neutrophil",
}
doses = [0.0, 0.25, 0.5, 1.0]
response = pd.DataFrame(
    {
        name: [
            shares(boost=cytokine_input({name: dose}), n=600)[favoured[name]]
            for dose in doses
        ]
        for name in CYTOKINES
    },
    index=pd.Index(doses, name="dose"),
)
assert (response.loc[1.0] > response.loc[0.0] + 0.05).all(), (
    "each cytokine favours its fate"
)

fig, ax = plt.subplots(figsize=(6.2, 3.8))
for name in CYTOKINES:
    ax.plot(
        doses,
        response[name],
        "o-",
        color=FATE_COLOURS[favoured[name]],
        label=f"{name}: {favoured[name]}",
    )
ax.set(
    xlabel="dose",
    ylabel="share of the favoured fate",
    title="Dose response of four cytokines",
    ylim=(0, 1),
)
plots.legend_outside(fig)
plots.show(
    fig,
    "cytokine-dose",
    "Share of the favoured fate against the dose for EPO, TPO, M-CSF and G-CSF: all four curves begin near a quarter "
    "and rise with the dose.",
)

# %% [markdown]
# ### The smallest way from fate to fate
#
# Mature cells can be reprogrammed.
# Clamp some genes on or off, let the network settle, let go, and see where it stays.
# With eleven genes all clamps of up to three genes can be tried.

# %% tags=["hide-input"]
# @title The smallest clamps between four pairs of fates { display-mode: "form" }
smallest = {}
for start, end in [
    ("erythrocyte", "megakaryocyte"),
    ("neutrophil", "monocyte"),
    ("monocyte", "erythrocyte"),
    ("erythrocyte", "monocyte"),
]:
    clamps = minimal_clamps(start, end)
    written = [
        " ".join(f"{g}{'+' if v else '-'}" for g, v in clamp.items())
        for clamp in clamps
    ]
    more = f" and {len(written) - 2} more" if len(written) > 2 else ""
    smallest[f"{start} to {end}"] = (len(clamps[0]), "; ".join(written[:2]) + more)
assert [size for size, _ in smallest.values()] == [1, 1, 2, 3]
pd.DataFrame(smallest, index=["genes needed", "clamps (+ on, - off)"]).T

# %% [markdown]
# ### Nearly right, and the wrong cell
#
# What if only Pu1 is switched on in an erythrocyte, with the monocyte as the aim?
# The cell ends in the spurious state.
# Ten of eleven genes are then as in a monocyte, and an error measured over genes looks good.

# %%
red = gene_vector(dict.fromkeys(FATES["erythrocyte"], 1.0))
start, rng = np.tile(red, (300, 1)), np.random.default_rng(0)
untouched, pu1 = np.ones_like(start), np.tile(gene_vector({"Pu1": 1.0}), (300, 1))
_, pushed = network.simulate(untouched, pu1, generator=rng, start=start)
_, after = network.simulate(untouched, generator=rng, start=pushed[0])
reached = fate(after[0])
assert str(clamped_fates("erythrocyte", [{"Pu1": 1}])[0]) == "spurious"
assert (reached == "spurious").mean() > 0.98

# %% tags=["hide-input"]
# @title How near the pushed cells are to a monocyte { display-mode: "form" }
monocyte, mean = gene_vector(dict.fromkeys(FATES["monocyte"], 1.0)), after[0].mean(0)
before = ((start[0] - monocyte) ** 2).mean()
right_genes = int(((mean > 0.5) == (monocyte > 0.5)).sum())
assert right_genes == 10
record.say(
    f"{(reached == 'spurious').sum()} of 300 cells end in the spurious state and {(reached == 'monocyte').sum()} "
    f"are monocytes, although {right_genes} of 11 genes are right and the squared error to the monocyte fell from "
    f"{before:.2f} to {((mean - monocyte) ** 2).mean():.2f}. A small error can be a wrong lineage, "
    "so the book reports the share of right fates beside every error wherever fates are known."
)

# %% [markdown]
# ### From states to a data set
#
# The data set `waddington` is made from this network.
# The factors drive 500 more genes with known weights, and the cell's molecules are then counted with noise, as a sequencer would.
# It holds controls and all 66 single and double knock-downs, and it is the data set on which the other chapters can be run without any download.

# %% tags=["hide-input"]
# @title The simulated data set { display-mode: "form" }
cells = load("waddington")
counts = cells.layers["counts"]
record.say(
    f"`load('waddington')` gives {cells.n_obs:,} cells x {cells.n_vars} genes, "
    f"{cells.obs['perturbation'].nunique() - 1} perturbations and {(counts == 0).mean():.0%} zeros; "
    f"{len(cells.uns['twinlib']['regulators'])} regulations are known."
)

# %% [markdown]
# ## Limitations
#
# - The toggle switch is a model with chosen parameters; its thresholds are exact for the model and not for any cell.
# - The quasi-potential depends on the noise, and on the shape of the noise: a landscape with multiplicative noise has other barriers.
# - The grid has a finite width, so barriers carry an error; doubling the grid above shows its size.
# - The inputs of the cytokines were chosen so that each favours its fate; they are not measured.
# - In the myeloid network every cell starts in the same state, which real progenitors do not.

# %% [markdown]
# ## What this does not show
#
# Nothing in this chapter is evidence for or against the paper's claim.
# It shows that cells in a model have basins, that control has thresholds, and that a reward on the error has plateaus and cliffs.
# It does not show that a learning algorithm gets stuck on them, nor that a trust-region step would help it.
# It also does not show that real cells move on a landscape: a snapshot of cells fixes a density, and many different motions share one density.

# %% [markdown]
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A cell sits in valley A of the two-gene circuit. You activate the gene that is high in B, as strongly as you like. Where does the cell end?</summary>
#
# In the progenitor's valley: it leaves A, and the same signal never moves it on.
# To leave A and to reach B are two aims; the second needs the other gene pushed down as well.
#
# </details>
#
# <details><summary>You double the noise and the barrier out of A becomes about half as high. Has the circuit changed?</summary>
#
# No: the quasi-potential is minus the logarithm of a density, and noise is part of that density.
# Noise times barrier hardly changes, and this product belongs to the circuit.
#
# </details>
#
# <details><summary>A predicted cell has ten of eleven genes as in a monocyte, and a small error. Is it a monocyte?</summary>
#
# Not necessarily: the spurious state differs from the monocyte by Cebpa alone and is an attractor of its own.
# An error over genes does not know the borders of basins.
#
# </details>
#
# ## Key takeaways
#
# - A fate is an attractor: [the fixed points and their kinds](#where-nothing-moves) follow from the equations alone.
# - A barrier is a difference of quasi-potential, and [it predicts escape times](#what-a-barrier-predicts) up to a factor.
# - An intervention acts as a tilt with [an exact threshold](#tilting-the-landscape); below it, no schedule works without noise.
# - Leaving a state and reaching a chosen one are different aims; activating the target gene alone ends in between.
# - A policy's return is [another landscape](#three-meanings-of-escaping-a-local-optimum) than that of the cells.
# - [A small error can be a wrong fate](#nearly-right-and-the-wrong-cell).
#
# The letters and units used here are listed in the [notation](../book/notation.md).

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### Exercise 1.1. Attractor, saddle or repeller?
#
# Write `kind(jacobian)`, which takes a 2 x 2 matrix and returns `"attractor"`, `"saddle"` or `"repeller"`.
# Use the trace and the determinant only, not the eigenvalues.

# %% tags=["exercise-1"]
import numpy as np


def kind(jacobian): ...


answer_1 = kind

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def kind(jacobian):
#     trace, determinant = np.trace(jacobian), np.linalg.det(jacobian)
#     if determinant < 0:
#         return "saddle"
#     return "attractor" if trace < 0 else "repeller"
#
#
# answer_1 = kind
# ```
#
# The determinant is the product of the eigenvalues: it is negative when they have different signs.
# If it is positive, their common sign is that of the trace, which is their sum.
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 1.1 { display-mode: "form" }
import numpy as np

from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.page.record import attempt


def check_1(answer):
    for matrix, expected in [
        ([[-1, 0], [0, -2]], "attractor"),
        ([[1, 0], [0, -2]], "saddle"),
        ([[1, 5], [-5, 1]], "repeller"),
        ([[-1, 5], [-5, -1]], "attractor"),
    ]:
        assert answer(np.array(matrix, dtype=float)) == expected, (
            f"{matrix} is a case of: {expected}"
        )
    for a in (0.5, 1.0):
        for p in ToggleSwitch(a=a).fixed_points():
            assert answer(ToggleSwitch(a=a).jacobian(np.array(p.x))) == p.kind, (
                f"wrong at the fixed point {p.x}"
            )


attempt("1.1", check_1, answer_1)

# %% [markdown]
# ### Exercise 1.2. Find a threshold without solving for it
#
# Write `threshold(direction)`: the smallest strength, to 0.001, at which a constant control along `direction` makes a cell leave A.
# Use only `switch.settle(x, u, time=400)`, `switch.basin(x)` and bisection between 0 and 2.

# %% tags=["exercise-2"]
import numpy as np

from twinlib.landscapes.toggle_switch import ToggleSwitch

switch = ToggleSwitch()


def threshold(direction): ...


answer_2 = threshold

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
# from twinlib.landscapes.toggle_switch import ToggleSwitch
#
# switch = ToggleSwitch()
#
#
# def threshold(direction):
#     low, high = 0.0, 2.0
#     while high - low > 2e-4:
#         middle = (low + high) / 2
#         held = switch.settle(switch.attractors["A"], middle * np.array(direction), time=400)
#         low, high = (middle, high) if switch.basin(held) == "A" else (low, middle)
#     return high
#
#
# answer_2 = threshold
# ```
#
# Near the threshold the cell creeps through the place where the attractor was, so the time must be long.
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 1.2 { display-mode: "form" }
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.page.record import attempt


def check_2(answer):
    switch = ToggleSwitch()
    for direction in ((-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)):
        exact = switch.escape_threshold(switch.attractors["A"], control=direction)
        got = answer(direction)
        assert got is not None, "return a number"
        assert abs(got - exact) < 2e-3, (
            f"along {direction} the cell leaves at another strength than {got:.4f}"
        )


attempt("1.2", check_2, answer_2)

# %% [markdown]
# ### Exercise 1.3. Find the silent bug
#
# The function below simulates the one-valley gene of the beginning.
# It runs, the paths look noisy, and the mean is right.
# Yet its landscape has the wrong width, and the width changes with the time step.
# Find the bug and mend it.

# %% tags=["exercise-3"]
import numpy as np


def simulate(noise, dt, time, n, rng):
    x = np.ones(n)
    for _ in range(round(time / dt)):
        x = x + (1 - x) * dt + np.sqrt(2 * noise) * dt * rng.standard_normal(n)
    return x


answer_3 = simulate

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def simulate(noise, dt, time, n, rng):
#     x = np.ones(n)
#     for _ in range(round(time / dt)):
#         x = x + (1 - x) * dt + np.sqrt(2 * noise * dt) * rng.standard_normal(n)
#     return x
#
#
# answer_3 = simulate
# ```
#
# The variance of a sum of independent kicks grows with their number, so each kick must scale with the root of the time step.
# Scaled with the step itself, the noise fades as the step is refined: the finer the simulation, the higher every barrier.
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 1.3 { display-mode: "form" }
import numpy as np

from twinlib.page.record import attempt


def check_3(answer):
    for dt in (0.1, 0.01):
        x = answer(0.05, dt, 8.0, 4000, np.random.default_rng(0))
        assert abs(x.mean() - 1) < 0.02, "the mean must stay at 1"
        ratio = x.var() / 0.05
        assert abs(ratio - 1) < 0.15, (
            f"at dt = {dt} the variance is {ratio:.2f} times D / k; it should be D / k"
        )


attempt("1.3", check_3, answer_3)

# %% [markdown]
# ### Exercise 1.4. How many states lead to each fate?
#
# Start the Boolean network from each of its 2,048 states and update all genes at once, 60 times.
# Write `basin_sizes()`, which returns a dictionary from the name of the fixed point to the number of states that end in it.
# States that end in a cycle are left out.

# %% tags=["exercise-4"]
from twinlib.landscapes.myeloid import FATES, GENES, all_states, boolean_step


def basin_sizes(): ...


answer_4 = basin_sizes

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# from twinlib.landscapes.myeloid import FATES, GENES, all_states, boolean_step
#
#
# def basin_sizes():
#     states = all_states()
#     for _ in range(60):
#         states = boolean_step(states)
#     ends = [frozenset(g for g, on in zip(GENES, row, strict=True) if on) for row in states]
#     return {name: ends.count(members) for name, members in FATES.items()}
#
#
# answer_4 = basin_sizes
# ```
#
# A large basin is not a stable fate: the size counts states, and it says nothing about the height of the ridge around them.
#
# </details>

# %% tags=["check-4", "hide-input"]
# @title Check exercise 1.4 { display-mode: "form" }
import numpy as np

from twinlib.landscapes.myeloid import FATES, GENES, all_states, boolean_step
from twinlib.page.record import attempt


def check_4(answer):
    got = answer()
    assert got is not None, "return a dictionary"
    assert set(got) == set(FATES), "one entry for each fixed point"
    states = all_states()
    for _ in range(60):
        states = boolean_step(states)
    for name, members in FATES.items():
        pattern = np.array([gene in members for gene in GENES])
        expected = int((states == pattern).all(axis=1).sum())
        assert got[name] == expected, f"{name}: {got[name]} states do not end there"


attempt("1.4", check_4, answer_4)

# %% [markdown]
# ## References
#
# - Waddington 1957, *The Strategy of the Genes*, Allen & Unwin: the landscape as a picture.
# - Huang, Guo, May & Enver 2007, *Developmental Biology* 305:695: bistable and tristable switches in blood progenitors.
# - Wang, Xu & Wang 2010, *Biophysical Journal* 99:29; Wang, Zhang, Xu & Wang 2011, *PNAS* 108:8257: quasi-potentials of cell fate.
# - Wells, Kath & Motter 2015, *Physical Review X* 5:031036: control of noisy switches; the parameters used here.
# - Zhou, Aliyu, Aurell & Huang 2012, *Journal of the Royal Society Interface* 9:3539: what a quasi-potential is and is not.
# - Krumsiek, Marr, Schroeder & Theis 2011, *PLoS ONE* 6:e22649: the myeloid network.
# - Wittmann, Krumsiek and others 2009, *BMC Systems Biology* 3:98: from Boolean rules to smooth ones.
# - Dixit and others 2016, *Cell* 167:1853: CRISPR screens read out in single cells.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
