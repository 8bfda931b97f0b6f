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
# # 13. Escaping local optima: the title's claim, where the answer is known
#
# **Question.** The paper's title says that two stages, trust-region steps first and proximal policy optimization (PPO) after them, escape local optima of the Waddington landscape.
# On a landscape whose valleys, barriers and best policy are known: does the first stage help to escape, where, by how much, and through what?
#
# **Answer.** The first stage is not shown to bring more cells across: over the high barrier two stages bring more than PPO where each has the setting that its own tuning chose, but as many as PPO at their own setting (three seeds of the tuning), and as many as their second stage alone.
# The low and the middle barrier are crossed by every way of training.
# There is something to escape from: the return of a simple policy has several local optima, and not all of them leave the cell in the right valley.
# In the return, for which all of them are trained, two stages end above PPO on no barrier, and below TRPO alone, at TRPO's own setting, on all three.
# Algorithm 1, which takes a TRPO step in every iteration, ends above PPO on all three in the return, and brings no more cells across.
# On the low barrier two stages arrive [sooner](#steps-to-the-first-arrival) than their second stage alone, and end below it in the return.
# [What an untuned setting does](#results-what-tuning-buys), the myeloid network and real cells follow further down.

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
# @title The landscape, its best policy, and what each arm earns { display-mode: "form" }
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import maximum_filter

from twinlib.environment.known_answers import (
    ConstantToggle,
    MyeloidConfig,
    MyeloidDynamics,
    ToggleConfig,
    ToggleDynamics,
)
from twinlib.errors import ResultsError
from twinlib.evaluation.calibration import estimate
from twinlib.landscapes.myeloid import FATES, minimal_clamps
from twinlib.landscapes.optimal_control import (
    best_return,
    shortest_pulse,
    value_iteration,
)
from twinlib.landscapes.potential import quasi_potential
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.page import plots, record, surface
from twinlib.policy.algorithms import ALGORITHMS, tuned_as
from twinlib.policy.random_settings import draw, training_config
from twinlib.policy.training import make_generators, train
from twinlib.results import tables
from twinlib.results.escape_curves import (
    LANDSCAPES, Escapes, crossing_paths, flat_ground,
)  # fmt: skip
from twinlib.results.judged import in_words
from twinlib.results.tables import markdown
from twinlib.results.tuning_curves import BUDGETS, diverged

plots.style()
torch.set_num_threads(1)
#: Self-activation a of the three landscapes, the bound on a push, and its price.
BARRIERS, STRENGTH, PRICE = {"low": 1.0, "middle": 1.1, "high": 1.2}, 0.3, 0.05
#: From this share on all cells count as arrived.
ALL = 0.99
escapes = {}
for name in LANDSCAPES:
    try:
        escapes[name] = Escapes.of(name)
    except ResultsError:
        continue  # named in the sentence below the figure
flat = {name: ground for name in LANDSCAPES if (ground := flat_ground(name))}
missing = [name for name in LANDSCAPES if name not in (*escapes, *flat)]
toggles = {name: known for name, known in escapes.items() if name.startswith("toggle")}
arrivals = {
    name: known.arrivals().set_index("model") for name, known in escapes.items()
}
config = ToggleConfig(
    switch=ToggleSwitch(a=BARRIERS["middle"], noise=0.005),
    strength=STRENGTH,
    dt=0.25,
    l1=PRICE,
)
quiet = dataclasses.replace(
    config, switch=dataclasses.replace(config.switch, noise=0.0)
)
names = list(config.switch.attractors)
side = torch.linspace(-1, 1, 41)
grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)


@torch.no_grad()
def returns_of(controls, config, log_std=None, draws=1):
    """Mean return [m] and end [m, draws] of constant pushes [m, 2], with Gaussian actions or without."""
    dynamics = ToggleDynamics(config, 1, len(controls) * draws)
    dynamics.reset(make_generators([0], "environment"))
    dice = torch.Generator().manual_seed(2)
    mean = controls.repeat_interleave(draws, 0)
    total = torch.zeros(len(mean))
    for _ in range(dynamics.horizon):
        noise = 0.0
        if log_std is not None:
            noise = np.exp(log_std) * torch.randn(mean.shape, generator=dice)
        total += dynamics.step((mean + noise).unsqueeze(0)).reward[0]
    ends = dynamics.basin(dynamics.final_latent[0])
    return total.view(-1, draws).mean(1), ends.view(-1, draws)


RING = np.ones((3, 3), dtype=bool)
RING[1, 1] = False


def map_of(price):
    """Returns and ends [41, 41] of constant pushes at a price, and the local optima, best first."""
    returns, ends = returns_of(grid, dataclasses.replace(quiet, l1=price))
    height, place = returns.view(41, 41).numpy(), ends.view(41, 41).numpy()
    higher = height > maximum_filter(height, footprint=RING)
    optima = [
        (
            round(float(side[i]), 2) + 0.0,  # no -0
            round(float(side[j]), 2) + 0.0,
            names[place[i, j]],
            float(height[i, j]),
        )
        for i, j in np.argwhere(higher)
    ]
    return height, place, sorted(optima, key=lambda optimum: -optimum[-1])


plain, basin, tops = map_of(PRICE)
duration = config.horizon * config.interval
values = best_return(config.switch, STRENGTH, duration, PRICE, config.target)
greatest = float(values.at(config.switch.attractors[config.start]))
#: Few colours, so that those of the learners keep theirs in the picture.
FEW = plt.get_cmap("cividis", 20)
INK = {"boxstyle": "round", "fc": "black", "ec": "none", "alpha": 0.6}
PALE = {"color": "white", "fontsize": 9, "ha": "center", "va": "center", "bbox": INK}


def draw_surface(panel, height):
    """The return over constant pushes, the edges of the basins and the local optima."""
    ticks = side.numpy()
    drawn = panel.pcolormesh(
        ticks, ticks, height.T, cmap=FEW, shading="nearest", vmin=-2, vmax=3
    )
    for ink, width in (("white", 3), ("black", 1)):  # seen on dark and on light ground
        panel.contour(
            ticks, ticks, basin.T, levels=[0.5, 1.5], colors=ink, linewidths=width
        )
    for k, (x, y, *_) in enumerate(tops):
        label = None if k else "local optimum, no noise"
        panel.plot(x, y, "o", color="white", mec="black", ms=8, ls="", label=label)
    panel.set(
        xticks=(-1, -0.5, 0, 0.5, 1),
        xlabel="push on gene 1 (share of the bound)",
        ylabel="push on gene 2 (share of the bound)",
    )
    panel.figure.colorbar(drawn, ax=panel, label="return")


def shares_of(known, column):
    """The arms but do_nothing, by a column that is worth 1 at best, with t intervals over seeds."""
    arms = known.arrivals()["model"].drop_duplicates()
    best = known.facts["optimum"]["return"] if column == "return" else 1.0
    return {
        arm: estimate((known.arm(arm)[column] / best).to_numpy())
        for arm in arms
        if arm != "do_nothing"
    }


def in_two(arm):
    """A long name in two lines, parted at the underscore nearest to its middle."""
    cuts = [k + 1 for k, letter in enumerate(arm) if letter == "_"]
    if len(arm) < 16 or not cuts:
        return arm
    cut = min(cuts, key=lambda k: abs(k - len(arm) / 2))
    return f"{arm[:cut]}\n{arm[cut:]}"


def draw_shares(panel, shares, marks, label):
    """One line an arm, one interval a landscape."""
    arms = list(dict.fromkeys(arm for own in shares.values() for arm in own))[::-1]
    for k, (name, own) in enumerate(shares.items()):
        shift = 0.5 * (k - (len(shares) - 1) / 2) / max(len(shares) - 1, 1)
        for arm, share in own.items():
            place, colour = arms.index(arm) - shift, plots.COLOURS[arm]
            panel.hlines(place, share.low, share.high, color=colour, lw=2)
            panel.plot(share.mean, place, marks[k], ms=6, color=colour)
        if len(shares) > 1 and label == RETURN:
            panel.plot([], [], marks[k], ms=6, color="0.4", ls="", label=name)
    panel.axvline(1, color="0.6", lw=1, ls="--")
    panel.set_yticks(range(len(arms)), map(in_two, arms))
    only = f"\n{next(iter(shares))}" if len(shares) == 1 else ""
    panel.set(xlabel=f"{label}{only}")
    panel.locator_params(axis="x", nbins=5)


RETURN, ACROSS = "return, share of the greatest", "cells that end in B, share"
columns = 3 if toggles else 1
fig, axes = plt.subplots(1, columns, figsize=(4.9 * columns, 5.4), squeeze=False)
draw_surface(axes[0, 0], plain)
for k, place in enumerate(names):
    if (basin == k).any():
        middle = np.argwhere(basin == k).mean(0).round().astype(int)
        axes[0, 0].text(*side[middle].tolist(), f"ends in\n{place}", **PALE)
if toggles:
    for panel, column, label in (
        (axes[0, 1], "return", RETURN),
        (axes[0, 2], "success", ACROSS),
    ):
        drawn = {name: shares_of(known, column) for name, known in toggles.items()}
        draw_shares(panel, drawn, "os^", label)
    axes[0, 2].tick_params(labelleft=False)
plots.legend_outside(fig, 2)
plots.show(
    fig,
    "trap-and-shares",
    "A map of the return over constant pushes on gene 1 and gene 2, without noise: black "
    "lines part the regions whose cells end in A, in the progenitor and in B, and circles "
    "mark the local optima."
    + (
        " Beside it, one line an arm: its mean return as a share of the greatest, and the "
        "share of cells that end in B, with intervals over seeds, on each barrier; value "
        "iteration is the best policy of all."
        if toggles
        else ""
    ),
    "The trap"
    + (
        ", what each arm earns beside the best policy of all, and how many cells it brings "
        "across."
        if toggles
        else "."
    ),
)
wrong = sum(end != config.target for _, _, end, _ in tops)
assert len(tops) > 1 and wrong > 0
record.say(
    f"**The return of a constant push has {len(tops)} local optima, and the cells of {wrong} "
    f"of them end in the wrong valley. The best constant push earns {plain.max():.2f}; the "
    f"best policy of all, known from value iteration, {greatest:.2f}: it stops pushing when "
    "the cell is across.**"
)


def arrived(table):
    """How many seeds of the arms arrive."""
    short = table[table["arrived"] < table["seeds"]]
    told = [
        f"{arm} {row.arrived:.0f} of {row.seeds:.0f}" for arm, row in short.iterrows()
    ]
    full = table.drop(index=short.index)
    if len(full):
        row = full.iloc[0]
        whole = f"all {row.seeds:.0f} of each of {len(full)} arms"
        told.append(f"{whole} (Wilson's interval {row.low:.2f} to {row.high:.2f})")
    return ", ".join(told)


def once(told):
    """Say what several landscapes have in common once, after their names."""
    for text in dict.fromkeys(told.values()):
        yield " and ".join(name for name, own in told.items() if own == text), text


for which, text in once({name: arrived(arrivals[name]) for name in toggles}):
    record.say(f"Seeds that arrive on {which}: {text}.")


def outcome(gap, shares, ours="the two stages"):
    """What an interval says about more or less escape."""
    if shares.min() > ALL:
        return "all cells arrive either way, so that arrivals tell nothing apart"
    if not np.isfinite(gap.low):
        return "too few seeds to tell"
    if gap.low > 0:
        return f"more cells arrive with {ours}"
    if gap.high < 0:
        return f"fewer cells arrive with {ours}"
    return "no difference can be told"


def compared(rival, chosen, ours="two_stage"):
    """A sentence on an arm less a rival, on the landscapes that hold both."""
    told = []
    for name in chosen:
        if {rival, ours} <= set(arrivals[name].index):
            gap, earned = (
                escapes[name].gap(ours, rival, column)
                for column in ("success", "return")
            )
            shares = arrivals[name].loc[[ours, rival], "cells in the target"]
            both = " and ".join(f"{share:.1%}" for share in shares)
            told.append(
                f"{name}: {outcome(gap, shares, ours)} ({both}; {in_words(gap)}); "
                f"**mean return {in_words(earned)}**"
            )
    if told:
        record.say(
            f"**{ours} less {rival}**, paired by seed, in the share of cells that arrive "
            "and in the return: " + ". ".join(told) + "."
        )


PAIRS = (
    ("two_stage", "PPO"), ("two_stage", "second_stage_alone"),
    ("two_stage", "second_stage_after_plain"), ("two_stage", "TRPO"), ("alternating", "PPO"),
)  # fmt: skip


def short(gap):
    """A difference and its interval, without the rest."""
    return in_words(gap).partition(", U")[0]


def pair_row(name, first, second):
    """A row of the table of pairs: cells that arrive, and what is earned."""
    gaps = [
        escapes[name].gap(first, second, column) for column in ("success", "return")
    ]
    cells = arrivals[name].loc[[first, second], "cells in the target"]
    both = " and ".join(f"{share:.1%}" for share in cells)
    return [name, f"{first} less {second}", both, *map(short, gaps)]


outcomes = {}
for name, known in toggles.items():
    said = []
    for rival in ("PPO", "second_stage_alone"):
        shares = arrivals[name].loc[["two_stage", rival], "cells in the target"]
        said.append(f"beside {rival}, {outcome(known.gap('two_stage', rival), shares)}")
    same = known.at_setting_of("two_stage")
    at_one = (
        f"At one and the same setting, that of two_stage, {same.two_stage:.1%} of the cells "
        f"arrive with it and {same.PPO:.1%} with PPO (tuning, three seeds): a difference "
        "between the two at settings of their own may be one of settings."
    )
    outcomes[name] = "; ".join(dict.fromkeys(said)) + f".** {at_one}"
for which, text in once(outcomes):
    record.say(f"**{which}: {text}")
for name in toggles:
    best = arrivals[name].loc["value_iteration", "cells in the target"]
    if best < ALL - 0.05:
        record.say(
            f"On {name} the best policy of all, by the return, brings {best:.1%} across: "
            "to bring more across than that earns no more, and the return is what every arm "
            "is trained for and chosen by."
        )
for name, known in toggles.items():  # the answer above says so
    assert known.gap("two_stage", "PPO", "return").low <= 0, name
    assert known.gap("two_stage", "TRPO", "return").high < 0, name
    assert known.gap("two_stage", "second_stage_alone").low <= 0, name
    assert known.gap("alternating", "PPO", "return").low > 0, name
    assert known.gap("alternating", "PPO").low <= 0, name
if "toggle_low" in toggles:
    lowest = toggles["toggle_low"]
    sooner, later = (
        lowest.arm(arm)["first_reach"].median()
        for arm in ("two_stage", "second_stage_alone")
    )
    assert sooner < later
    assert lowest.gap("two_stage", "second_stage_alone", "return").high < 0
if toggles:
    columns = ["barrier", "pair", "cells that arrive", "difference", "in mean return"]
    rows = [
        pair_row(name, *pair)
        for name in toggles
        for pair in PAIRS
        if set(pair) <= set(arrivals[name].index)
    ]
    record.say(
        "Paired by seed, 20 an arm, each arm at the one setting that its tuning chose; "
        "alternating is Algorithm 1, a TRPO step and PPO epochs in every iteration:"
    )
    record.say(markdown(pd.DataFrame(rows, columns=columns)))
if missing:
    record.say(
        f"Left out, because their runs are not recorded here: {', '.join(missing)}. "
        "One command makes each: `python -m experiments escape_tuned --dataset NAME --out DIR`."
    )

# %% [markdown]
# *How to read it.*
# A cell has two genes that shut each other off, and three valleys: A, where gene 1 is on, B, where gene 2 is on, and a progenitor between them.
# It starts in A and should end in B; a policy pushes both genes up or down, and every push costs.
# The map is the simplest policy of all, the same push all the time: each point is one push, its brightness the return, and the black lines part the pushes by the valley in which the cell ends.
# A local optimum is a point of this grid of 41 by 41 that all its neighbours lie below; two that lie side by side and end in the same valley may be two points of one ridge.
# A learner climbs this map by small steps, and a circle is a place from which every small step goes down.
# Where runs are recorded, the other panels have the mean return of each arm's final policies, one being the most that any policy earns, and the share of cells that end in B; the axes do not begin at zero, and `do_nothing` is left out.
# A seed *arrives* if at least half of its cells end in B.
# An *arm* is one way to train a policy, and its *seeds* are repeats with other random numbers.
# After an interval, *U* is the number of seeds that it rests on, and *smallest* the smallest difference that 80 of 100 repetitions would see.
# `toggle_low`, `toggle_middle` and `toggle_high` are the same switch with three heights of the barrier; the map is the middle one.
# Where arms are drawn, `second_stage_after_plain` is the two stages with the trust region taken out of the first: the same divergence a step, along the plain gradient.
#
# ## Objectives
#
# After this chapter you can
#
# - say below which strength of control no policy can escape, and how long the shortest escape takes (15 minutes);
# - draw the return of a policy as a surface, find its local optima, and follow a learner across it (15 minutes);
# - tell an error that fell from a fate that changed (10 minutes);
# - compare algorithms by tuning curves and by arrivals with intervals and pairs of seeds, and say what the first stage does (20 minutes);
# - find a bug that turns a failed escape into a success (10 minutes).

# %% [markdown]
# ## The task
#
# [Chapter 1](01_waddington_landscape.ipynb) kept three meanings of 'escape' apart: a cell leaves a basin, an intervention removes the basin, and a learner leaves a poor policy.
# The paper's claim is about the third, and its evidence is about none of them: its landscape is not known, so that nobody can say what there was to escape from, and in our rebuild of its code the second stage hardly trains ([chapter 12](12_replication.ipynb)).
#
# Here a cell of the two-gene toggle switch starts in A and should end in B.
# Between them lies the progenitor, a third stable state, which is nearer to B than A is.
# The policy sees the cell and the time and pushes both genes, each by a bounded amount, 40 times.
# It is rewarded as in the paper, by the fall of the squared error to the target, and it pays for its pushes, as in the released code.
# Success is not the error.
# Success is the basin in which the cell stands at the end: let go there, it would settle in B.
#
# Two things are recorded for every run, because they differ: did the cells *leave A*, and did they *reach B*.

# %% [markdown]
# ## The ground: what no algorithm can beat
#
# Without noise the switch is a set of two differential equations, and the questions have exact answers.
# A constant push of strength $u$, gene 1 down and gene 2 up, removes the attractor A when $u$ passes a threshold $u^*$: there the attractor and the saddle beside it merge, so that the drift and the determinant of its Jacobian vanish together.
# The switch is monotone: a stronger push in that direction keeps every path ahead of a weaker one, so that below $u^*$ no schedule of pushes, however clever, gets out.

# %%
still = ToggleSwitch(noise=0.0)
places = still.attractors
threshold = still.escape_threshold(places["A"], (-1, 1))
one_gene = still.escape_threshold(places["A"], (0, 1))
second = still.escape_threshold(places["progenitor"], (0, 1))
pushed = still.settle(places["A"], np.array([0.0, STRENGTH]), time=200.0)
ends = str(still.basin(pushed))
assert ends == "progenitor" and np.isinf(second)

# %% tags=["hide-input"]
# @title The threshold in words { display-mode: "form" }
record.glue("escape-threshold", round(threshold, 4))
record.say(
    f"Leaving A needs a push of **u\\* = {threshold:.4f}** on both genes. Activating the "
    f"target gene alone needs {one_gene:.4f}, and with {STRENGTH} the cell then ends in the "
    f"**{ends}**; from there activation alone never reaches B, however strong."
)

# %% [markdown]
# The plainest policy is chance.
# Below the threshold 400 random schedules, each push at its bound in one direction or the other, should all fail.


# %%
@torch.no_grad()
def chance(strength, n=400):
    """Share of random schedules at full strength that leave A, and that reach B."""
    dynamics = ToggleDynamics(ToggleConfig(switch=still, strength=strength), 1, n)
    dynamics.reset(make_generators([0], "environment"))
    dice = torch.Generator().manual_seed(1)
    for _ in range(dynamics.horizon):
        dynamics.step(torch.randint(0, 2, (1, n, 2), generator=dice) * 2.0 - 1)
    end = dynamics.final_latent
    left = dynamics.basin(end) != dynamics.basin(dynamics.start)
    return float(left.float().mean()), float(dynamics.success(end).float().mean())


below = chance(0.99 * threshold)
print(f"at 0.99 u*: {below[0]:.0%} of random schedules leave A, {below[1]:.0%} reach B")
assert below == (0.0, 0.0)

# %% [markdown]
# ### Value iteration against the differential equation
#
# Above the threshold there is a shortest pulse.
# One way to it integrates the equations under a constant push at a relative tolerance of $10^{-8}$ and bisects for the moment at which the path enters B's basin.
# Another way knows nothing of pulses: value iteration tries nine controls in every state of a grid, and finds the least time from each.
# The two must agree within one time step and the time in which the path crosses one grid cell.


# %%
def two_answers(circuit):
    """Shortest pulse by ODE, by value iteration, and how far they may lie apart."""
    start = circuit.attractors["A"]
    pulse = shortest_pulse(circuit, STRENGTH)
    grid = value_iteration(circuit, STRENGTH, size=161, dt=0.1, longest=30.0)
    # The slowest stretch of the path decides how long one grid cell takes.
    tilt, x, slowest = STRENGTH * np.array([-1.0, 1.0]), start, np.inf
    for _ in range(round(pulse / 0.05)):
        x = circuit.advance(x, tilt, None, 0.05)
        slowest = min(slowest, np.linalg.norm(circuit.drift(x, tilt)))
    return pulse, float(grid.at(start)), 0.1 + grid.grid[1] * np.sqrt(2) / slowest


# %% tags=["hide-input"]
# @title The three landscapes of the experiment { display-mode: "form" }
rows = []
for barrier, a in BARRIERS.items():
    circuit = ToggleSwitch(a=a, noise=0.0)
    pulse, iterated, allowed = two_answers(circuit)
    assert abs(iterated - pulse) <= allowed
    ways = [
        circuit.escape_threshold(circuit.attractors[place], (-1, 1))
        for place in ("A", "progenitor")
    ]
    rows.append((barrier, a, *ways, pulse, iterated, allowed))
out, onward = np.array(rows)[:, 2].astype(float), np.array(rows)[:, 3].astype(float)
assert (np.diff(out) < 0).all() and (np.diff(onward) > 0).all()
pd.DataFrame(
    rows,
    columns=[
        "barrier",
        "a",
        "u* out of A",
        "u* progenitor to B",
        "shortest pulse (ODE)",
        "value iteration",
        "allowed difference",
    ],
).set_index("barrier").round(3)

# %% [markdown]
# All have the same bound on the control, the strength with which the pulses were computed.
# The self-activation $a$ deepens the progenitor: the higher the barrier, the more push the way from there to B needs, and the less the way out of A.

# %% [markdown]
# ## The trap
#
# An optimiser does not move on the landscape of cells.
# It moves on the return as a function of the policy's parameters.
# The smallest policy that can be drawn has two parameters: constant pushes on gene 1 and gene 2.
# The map of the first figure is its return; one point of it is one episode, and a local optimum is a point above all those that touch it.


# %%
def around(i, j):
    """Returns of the grid points that touch one, eight or fewer."""
    near = [(i + k, j + m) for k in (-1, 0, 1) for m in (-1, 0, 1) if k or m]
    return [plain[at] for at in near if min(at) >= 0 and max(at) < len(plain)]


peaks = [at for at in np.ndindex(plain.shape) if plain[at] > max(around(*at))]


def episode(push):
    """Return of one noiseless cell under a constant push, and where it ends."""
    dynamics = ToggleDynamics(quiet, 1, 1)
    dynamics.reset(make_generators([0], "environment"))
    total, action = 0.0, torch.tensor(push).view(1, 1, 2)
    for _ in range(dynamics.horizon):
        total += float(dynamics.step(action).reward)
    return total, names[int(dynamics.basin(dynamics.final_latent))]


for *push, end, height in tops:
    total, place = episode(push)
    total = round(total, 3) + 0.0  # no -0
    assert abs(total - height) < 2e-3 and place == end
    print(f"push {push[0]:+.2f}, {push[1]:+.2f}: return {total:+.3f}, ends in {place}")
assert len(peaks) == len(tops)

# %% [markdown]
# These are the local optima, and each is a trap or the goal.
# Where no push at all is among them, a weak push costs more than it gains while the cell stays in A; where gene 2 alone is, its cells end in the progenitor.
# What has the price of a push to do with it?

# %% tags=["hide-input"]
# @title The local optima at other prices { display-mode: "form" }
for price in (0.0, PRICE / 2, PRICE, 2 * PRICE):
    _, _, optima = map_of(price)
    ends = [end for _, _, end, _ in optima]
    record.say(
        f"A push costs {price:g}: {len(optima)} local optima, "
        + ", ".join(f"{ends.count(end)} in {end}" for end in dict.fromkeys(ends))
        + f"; the best of them ends in **{ends[0]}**."
    )
free = {end for _, _, end, _ in map_of(0.0)[2]}
record.say(
    "Without a price every local optimum brings the cell to B: the trap of this map needs a "
    "price on action, which the paper's released code has and its text leaves out."
    if free == {config.target}
    else f"Without a price local optima remain in {', '.join(sorted(free))}."
)

# %% [markdown]
# Now each algorithm learns such a policy and leaves its path on the map: the mean push that it applied in each iteration.
# The map is drawn as a learner meets it, with noise in the cell and in the action.

# %%
WALKERS, STEPS, START_NOISE = ("PPO", "TRPO", "two_stage", "alternating"), 30_000, -1.0
middle = toggles.get("toggle_middle")
settings = middle.facts["chosen"] if middle else {}


def setting_of(name):
    """An algorithm's training at its tuned setting, or at draw 0 without one."""
    number = settings.get(name, "s00").removeprefix("s")
    setting = draw(int(number) if number.isdigit() else 0)
    tuned = training_config(name, setting, STEPS)
    return dataclasses.replace(tuned, steps_per_iteration=1000, hidden=(16, 16))


walks = {}
for name in WALKERS:
    blind = ConstantToggle(config, 3, 1000 // config.horizon)
    train(blind, setting_of(name), [0, 1, 2])
    walks[name] = torch.stack(blind.pushes).numpy()  # [iterations, seeds, 2]

# %% tags=["hide-input"]
# @title Four learners on the map { display-mode: "form" }
noisy = returns_of(grid, config, START_NOISE, draws=16)[0].view(41, 41).numpy()
fig, panel = plt.subplots(figsize=(6.6, 5.8))
draw_surface(panel, noisy)
for name, walk in walks.items():
    for r in range(walk.shape[1]):
        label = name if r == 0 else None
        colour = plots.COLOURS[name]
        panel.plot(*walk[:, r].T, color=colour, linewidth=1.6, label=label, zorder=3)
        panel.plot(*walk[-1, r], "o", color=colour, mec="white", ms=8, zorder=4)
plots.legend_outside(fig, 3)
plots.show(
    fig,
    "return-surface-paths",
    "The return over constant pushes with noise in cell and action, the local optima of the "
    "noiseless return as circles, and the paths of four learners, three seeds each, from no "
    "push to a dot at each end.",
    "Each learner's path over the returns that it meets.",
)
final_basins = {
    name: [
        names[int(k)]
        for k in returns_of(torch.from_numpy(walk[-3:].mean(0)).float(), quiet)[1][:, 0]
    ]
    for name, walk in walks.items()
}
chosen = [name for name in WALKERS if settings.get(name, "nothing") != "nothing"]
set_aside = [name for name in WALKERS if name not in chosen]
record.say(
    f"With the setting that its tuning chose: {', '.join(chosen) or 'none'}; with the first "
    f"draw, because no tuning is recorded or none of its settings is a candidate: "
    f"{', '.join(set_aside) or 'none'}. Where the pushes that were learned last would take a noiseless cell: "
    + "; ".join(f"{name}: {', '.join(ends)}" for name, ends in final_basins.items())
    + "."
)

# %% [markdown]
# Learners do get caught on this map, but three seeds, each at a setting that was chosen for another task, do not say who is caught more often.
# This picture has two parameters and the experiment has a network, which may push by state and time.
# The picture says why there is something to escape from; the experiment says who escapes.

# %% [markdown]
# ## The design, fixed before the run
#
# The rules are those of every other comparison in this book ([chapter 10](10_two_stage.ipynb)): PPO, TRPO, two_stage and alternating get the same random settings on each landscape by itself, three seeds each.
# The start noise of the actions is one of the settings, because noise in the action smooths the surface of returns and could decide more than the algorithm does.
# A setting is a candidate if it earns more than doing nothing, and is chosen by its return, not by its success, since the return is what a user of an algorithm sees, on noise that no training saw; then every arm runs with fresh seeds.
# One rule is younger than the runs: a candidate had to have a positive return, until on one set of real cells doing nothing, which is not still there, turned out to earn far less than zero, and with it every setting; where a setting earned more than zero the choice is the same by both rules.
# Restarts are one of the arms: PPO from three fresh starts, each as long as twice the median time in which PPO first arrives, and the start with the best return is kept.
#
# The best policy of all, by value iteration, stands beside them on the toggle switch: it knows the circuit and earns the most that any policy can.

# %% tags=["hide-input"]
# @title The arms { display-mode: "form" }
arms = pd.DataFrame(
    {
        "arm": list(ALGORITHMS),
        "what it is": [algorithm.label for algorithm in ALGORITHMS.values()],
        "takes the settings of": [tuned_as(name) for name in ALGORITHMS],
    }
)
arms.set_index("arm")

# %% tags=["hide-input"]
# @title What was run on each landscape { display-mode: "form" }
for name, known in escapes.items():
    facts = known.facts
    tuning = known.runs[known.runs.experiment == "tuning"]
    best = facts.get("optimum", {})
    nothing = known.arm("do_nothing")["validation_return"].mean()
    above = tuning.assign(validation_return=tuning["validation_return"] - nothing)
    lost = diverged(above).groupby(level="model", sort=False)
    record.say(
        f"**{name}**: {tuning.setting.nunique()} settings of {tuning.model.nunique()} "
        f"algorithms, then {len(known.arm('PPO'))} seeds an arm, {facts['steps']:,} "
        "environment steps a seed; settings that diverge or earn less than doing nothing: "
        + ", ".join(f"{model} {int(each.sum())}" for model, each in lost)
        + (
            f". Greatest return {best['return']:.2f}, greatest success {best['success']:.3f}."
            if best
            else "."
        )
    )

# %% [markdown]
# ## Results: what tuning buys
#
# The curves show the share of cells that arrive under the best of k settings: k are drawn, the one with the best return is taken, and its success is averaged over all draws.
# The bands hold the chance of the drawn settings and of seeds.


# %% tags=["hide-input"]
# @title Tuning curves { display-mode: "form" }
def panels(count, height):
    """A figure of so many panels that share an axis, four in a row; unused ones go."""
    columns = min(count, 4)
    lines = -(-count // columns)
    fig, axes = plt.subplots(
        lines,
        columns,
        figsize=(2.8 * columns + 0.4, height * lines),
        squeeze=False,
        sharey=True,
    )
    for spare in axes.ravel()[count:]:
        spare.remove()
    return fig, axes.ravel()[:count]


if escapes:
    fig, axes = panels(len(escapes), 3.0)
    for panel, (name, known) in zip(axes, escapes.items(), strict=True):
        for model, rows in known.curves(BUDGETS).groupby("model", sort=False):
            colour = plots.COLOURS[model]
            panel.plot(rows.k, rows["mean"], color=colour, label=model)
            panel.fill_between(rows.k, rows.low, rows.high, color=colour, alpha=0.12)
        panel.set(title=name, xlabel="settings tried, k", xticks=(1, 4, 8, 12))
    axes[0].set(ylabel="share of cells that arrive", ylim=(-0.03, 1.03))
    plots.legend_outside(fig, 4)
    plots.show(
        fig,
        "escape-tuning-curves",
        "Share of cells that arrive under the best of k random settings against k, one "
        "panel a landscape, one line with a band for each of four algorithms.",
        "What a budget of tuning buys for the escape.",
    )
    for name, known in escapes.items():
        shares = known.untuned()
        blind = estimate((shares.two_stage - shares.PPO).to_numpy())
        record.say(
            f"**{name}, a setting taken blindly (k = 1)**: share of cells that arrive "
            + ", ".join(f"{model} {mean:.2f}" for model, mean in shares.mean().items())
            + f"; two_stage less PPO {in_words(blind)} (U: settings). Fewer than half of the "
            "cells arrive at "
            + ", ".join(f"{n} ({model})" for model, n in (shares < 0.5).sum().items())
            + f" of {len(shares)} settings."
        )

# %% [markdown]
# If a trap were what stops PPO, it would show here, at settings that nobody has chosen for their return.
# But a learning rate that is too low stops a learner in the same way, and these runs do not tell the two apart.

# %% [markdown]
# ## Results: who arrives
#
# A final policy acts by its mean, on fresh noise, for 200 cells.
# A run *arrived* if at least half of its cells end in the target's basin (of the myeloid network: have the target's fate after release).
# Rates over seeds carry Wilson's interval; below the first figure they stand for the toggle switch.
# Where every arm arrives they tell nothing apart, and the return, as a share of the greatest, is what is left to compare: the first figure draws it.
#
# ### The answer, pair by pair

# %% tags=["hide-input"]
# @title Pairs of arms, and shares of the known optimum { display-mode: "form" }
RIVALS = (
    "PPO",
    "TRPO",
    "second_stage_after_plain",
    "second_stage_alone",
    "PPO_random_restarts",
)
for rival in RIVALS:
    compared(rival, escapes)
compared("PPO", escapes, "alternating")
for name in toggles:
    shares = arrivals[name]["share of the optimum"].drop("do_nothing", errors="ignore")
    record.say(
        f"**{name}**, mean return as a share of the greatest: "
        + ", ".join(f"{arm} {share:.2f}" for arm, share in shares.items())
        + "."
    )
if not escapes:
    record.say(
        "No run of the experiment is recorded here, so that nothing is compared."
    )

# %% [markdown]
# `two_stage` less `TRPO` asks whether the combination beats its first part alone.
#
# Four arms are one method with four first stages: the same second stage, PPO with clip, penalty and KL target, follows natural gradient steps in `two_stage`, PPO's own steps in `PPO_restart`, plain gradient steps of the same KL divergence in `second_stage_after_plain`, and nothing in `second_stage_alone`.
# They share every setting, the one that the tuning of `two_stage` chose.
# If the first stage matters, these four differ; a difference between `two_stage` and `PPO` or `TRPO` alone may come from the settings of the second stage, which those two do not have.

# %% tags=["hide-input"]
# @title What the first stage adds { display-mode: "form" }
ABLATION = ("PPO_restart", "second_stage_after_plain", "second_stage_alone")
for name, known in toggles.items():
    best = known.facts["optimum"]["return"]
    gaps = {arm: known.gap("two_stage", arm, "return") for arm in ABLATION}
    apart = [arm for arm, gap in gaps.items() if gap.low > 0 or gap.high < 0]
    alone, rival = gaps["second_stage_alone"], known.gap("two_stage", "PPO", "return")
    record.say(
        f"**{name}**, mean return of two_stage less that of the same second stage: "
        + "; ".join(f"{arm} {in_words(gap)}" for arm, gap in gaps.items())
        + ". "
        + (
            f"It can be told from {' and '.join(apart)}. "
            if apart
            else "None of the three can be told from it. "
        )
        + (
            "Without any first stage the second one earns as much, as far as can be told: a "
            f"difference of {alone.smallest / best:.1%} of the greatest return would have "
            f"been seen, while two_stage less PPO is {rival.mean / best:+.1%}."
            if "second_stage_alone" not in apart and (rival.low > 0 or rival.high < 0)
            else f"Without any first stage the return differs by {alone.mean / best:+.1%} of "
            f"the greatest, two_stage less PPO by {rival.mean / best:+.1%}."
        )
    )
    chosen = {arm: known.facts["chosen"][arm] for arm in ("PPO", "two_stage")}
    drawn = tables.read_table("escape_tuned", name, "settings").set_index("setting")
    tuning = known.runs.query("experiment == 'tuning'").groupby(["setting", "model"])
    earned = tuning["return"].mean().unstack("model")
    record.say(
        f"**{name}, the settings that were chosen**: "
        + "; ".join(
            f"{arm} {setting} (discount {drawn.gamma[setting]:g}, delta "
            f"{drawn.delta[setting]:g}), at which PPO earned {earned.PPO[setting]:.2f} and "
            f"two_stage {earned.two_stage[setting]:.2f} in the tuning"
            for arm, setting in chosen.items()
        )
        + ". Draws with a discount of 0.99: delta at most "
        f"{drawn.delta[drawn.gamma == 0.99].max():g}. Steps of each of the three starts of "
        f"PPO_random_restarts: {known.facts['steps_of_a_start']:,}; of every other arm: "
        f"{known.facts['steps']:,}."
    )
if not toggles:
    record.say("Left out: no run on the toggle switch is recorded here.")

# %% [markdown]
# So the arms that are compared differ in discount as well, and delta, which becomes the KL target of the second stage, is small wherever the discount is long: these runs do not separate horizon, target and stage.
# At one and the same setting PPO and the two stages can be compared directly, in the sentence above.
# `PPO_random_restarts` trains three times from a fresh start and keeps the best; a start takes twice the time in which half of PPO's seeds arrive, at most as long as PPO's training, so that the three together may take more steps than any other arm (the sentence above has both).
#
# The verdicts, corrected for their number, stand on the page [Claims](../book/claims.md).
#
# ### Learning curves beside the best policy
#
# The return of the cells in training, with their noisy actions, against the steps that were paid for; the dashed line is the greatest return that any policy has.
# A learner with noise in its actions stays below it, however good its mean is.

# %% tags=["hide-input"]
# @title Learning curves on the toggle switch { display-mode: "form" }
if toggles:
    fig, axes = panels(len(toggles), 3.4)
    for panel, (name, known) in zip(axes, toggles.items(), strict=True):
        learned = tables.read_table("escape_tuned", name, "curves")
        learned = learned[learned["experiment"] == "main"]
        for model in WALKERS:
            rows = learned[learned["model"] == model]
            steps = rows["environment_steps"] / 1000
            panel.plot(
                steps, rows["episode_return"], color=plots.COLOURS[model], label=model
            )
        panel.axhline(
            known.facts["optimum"]["return"],
            color=plots.COLOURS["value_iteration"],
            ls="--",
            label="greatest return",
        )
        panel.set(title=name, xlabel="environment steps (thousands)")
    axes[0].set(ylabel="mean return in training")
    plots.legend_outside(fig, 3)
    plots.show(
        fig,
        "escape-learning-curves",
        "Return in training against environment steps, one panel a barrier, one line an "
        "algorithm, with the greatest return of any policy as a dashed line.",
        "Learning curves beside the best that any policy can earn.",
    )
else:
    record.say("Left out: no run on the toggle switch is recorded here.")

# %% [markdown]
# ### Steps to the first arrival
#
# A run arrives for the first time when half of an iteration's cells, with their noisy actions, end in the target.
# Some runs never do, so a mean would be wrong; the share of runs that have arrived by a step is right whatever the others do.

# %% tags=["hide-input"]
# @title Share of seeds that have arrived by a step { display-mode: "form" }
watched = {
    n: known for n, known in escapes.items() if known.runs.first_reach.notna().any()
}
if watched:
    fig, axes = panels(len(watched), 3.4)
    for panel, (name, known) in zip(axes, watched.items(), strict=True):
        for model in ALGORITHMS:
            first = known.arm(model)["first_reach"].sort_values()
            n, first = len(first), first.dropna()
            x = np.r_[0, first, known.facts["steps"]] / 1000
            y = np.r_[0, np.arange(1, len(first) + 1), len(first)] / n
            colour = plots.COLOURS[model]
            panel.step(x, y, where="post", color=colour, label=model, linewidth=1.6)
        panel.set(title=name, xlabel="environment steps (thousands)")
    axes[0].set(ylabel="share of seeds that have arrived", ylim=(-0.02, 1.02))
    plots.legend_outside(fig, 3)
    plots.show(
        fig,
        "first-arrival",
        "Share of seeds that have arrived for the first time by a number of environment "
        "steps, one step curve an arm, one panel a landscape.",
        "Steps to the first arrival while learning.",
    )
    for name, known in watched.items():
        first = {
            model: known.arm(model)["first_reach"].fillna(np.inf).median()
            for model in ALGORITHMS
        }
        record.say(
            f"**{name}**, steps until half of the seeds have arrived: "
            + ", ".join(
                f"{model} {steps:,.0f}" if np.isfinite(steps) else f"{model} never"
                for model, steps in first.items()
            )
            + "."
        )
else:
    record.say("Left out: no run that notes its first arrival is recorded here.")

# %% [markdown]
# ### What the settings do
#
# Over all settings that were tried, how does each of them go with the share of cells that arrive?
# A rank correlation of random draws is no proof of a cause, but the draws were made without looking at the outcome.


# %% tags=["hide-input"]
# @title Rank correlation of each setting with the share of cells that arrive { display-mode: "form" }
def relation_of(name):
    """Rank correlation of each setting with the share of cells that arrive, by algorithm."""
    tuning = escapes[name].runs.query("experiment == 'tuning'")
    tried = tables.read_table("escape_tuned", name, "settings").set_index("setting")
    rows = {}
    for model, own in tuning.groupby("model", sort=False):
        success = own.groupby("setting")["success"].mean()
        rows[model] = {
            used: success.corr(tried[used].astype(float), method="spearman")
            for used in draw(0).used_by(model)
        }
    return pd.DataFrame(rows).T


if escapes:
    fig, axes = panels(len(escapes), 2.8)
    for panel, name in zip(axes, escapes, strict=True):
        relation = relation_of(name)
        panel.imshow(relation, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        panel.grid(False)
        panel.set_xticks(range(relation.shape[1]), relation.columns, rotation=90)
        panel.set_yticks(range(len(relation)), relation.index)
        panel.set(title=name)
        for (i, j), value in np.ndenumerate(relation.to_numpy()):
            if np.isfinite(value):
                ink = "white" if abs(value) > 0.6 else "black"
                panel.text(
                    j,
                    i,
                    f"{value:+.1f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=ink,
                )
    plots.show(
        fig,
        "what-settings-do",
        "One panel a landscape, one line an algorithm, one column a setting: the rank "
        "correlation of the setting with the share of cells that arrive; empty where the "
        "algorithm does not read it.",
        "Which settings go with arriving; red: more of it, more cells arrive.",
    )
else:
    record.say("Left out: no tuning is recorded here.")

# %% [markdown]
# ## Cells crossing, under each policy
#
# The map below plays the final policies of the experiment on the middle barrier.
# Dark is where uncontrolled cells gather.
# Choose a policy, then play it or move the time by hand.

# %% tags=["hide-input"]
# @title Play the final policies { display-mode: "form" }
if middle:
    paths, upper = crossing_paths("toggle_middle")
    flat_switch = ToggleSwitch(a=BARRIERS["middle"], noise=0.02)
    potential = quasi_potential(flat_switch, size=60, upper=upper)
    judge_by = ToggleDynamics(config, 1, 1)
    shown, texts = {}, {}
    for name, whole in paths.items():
        path = whole[:, ::2]
        inside = judge_by.basin(torch.from_numpy(path.copy()).float()).numpy()
        counts = [
            [int((step == k).sum()) for k in range(len(names))] for step in inside
        ]
        shown[name] = path
        texts[name] = [
            f"time {t * config.interval:.1f}: "
            + ", ".join(
                f"{n} in {place}" for n, place in zip(count, names, strict=True)
            )
            for t, count in enumerate(counts)
        ]
    surface.show_crossing(
        np.minimum(potential.u, 10) / 10,
        shown,
        texts,
        "policies",
        "Map of the toggle switch with three dark wells, A at the lower right, the progenitor "
        "in the middle and B at the upper left; dots are cells that start in A and move under "
        "the chosen policy.",
        upper=upper,
        markers=[(*place, name) for name, place in config.switch.attractors.items()],
    )
else:
    record.say("Left out: no run on the middle barrier is recorded here.")

# %% [markdown]
# ## Many genes: a small error and the wrong fate
#
# The myeloid network has eleven genes and four fates, and enumeration gives the smallest sets of genes that carry one fate into another.
# The next cell prints what it takes from the erythrocyte to the monocyte.
# It also prints $R^2$ over genes of the spurious state, into which Pu1 alone leads: how much of the way is done by that measure, with the wrong fate.

# %%
fates_of = MyeloidDynamics(MyeloidConfig(), 1, 1)
patterns = {name: fates_of._pattern(name).numpy() for name in FATES}
goal = patterns["monocyte"]
spread = ((goal - goal.mean()) ** 2).sum()
for name in ("erythrocyte", "spurious", "monocyte"):
    print(f"R2 of {name}: {1 - ((patterns[name] - goal) ** 2).sum() / spread:.2f}")
for clamp in minimal_clamps("erythrocyte", "monocyte"):
    print(
        "clamp:", " ".join(f"{gene}{'+' if up else '-'}" for gene, up in clamp.items())
    )

# %% [markdown]
# The myeloid network is a landscape of the experiment, too: every gene may be pushed by the full range of its clamp, nothing is charged for it, so that there is no trap of the kind above, and success is the fate after release.
# Does the share of the error that a policy removes say whether its cells have the fate?

# %% tags=["hide-input"]
# @title Return and fate over all policies { display-mode: "form" }
if "myeloid" in escapes:
    own = escapes["myeloid"].runs
    own = own[own.success.notna() & (own.model != "do_nothing")]
    rank = own[["return", "success"]].corr(method="spearman").iloc[0, 1]
    close = own[own["return"] > 0.9 * own["return"].max()]
    record.say(
        f"Over {len(own)} policies the rank correlation of return and success is "
        f"{rank:+.2f}. Of the {len(close)} that earn nine tenths of the best return or more, "
        f"the share of cells with the fate lies between {close.success.min():.0%} and "
        f"{close.success.max():.0%}."
    )
else:
    record.say("Left out: the runs on the myeloid network are not recorded here.")

# %% [markdown]
# ## Real cells
#
# With `drift="density"` real cells slide towards where cells are dense, and the components of their density are basins ([chapter 5](05_environment.ipynb)).
# Three sets of cells were looked at: monocytes with and without interferon (`kang2018_monocytes`), the CRISPR screen (`papalexi2021`) and the blood cells under four stimuli (`chi11`).
# Where some cells' targets lie in another basin than the cells, the same arms are tuned and trained there.
# They are judged on cells whose target lies in another basin than their start: which share arrives in the basin of its target?
# No optimum is known, so only differences between algorithms say anything, and doing nothing is what they are measured from, because the drift moves cells by itself.

# %% tags=["hide-input"]
# @title Arrivals beyond those of doing nothing, on real cells { display-mode: "form" }
CELLS = [n for n in ("kang2018_monocytes", "papalexi2021", "chi11") if n in escapes]
if CELLS:
    fig, axes = panels(len(CELLS), 4.4)
    for panel, name in zip(axes, CELLS, strict=True):
        arms = [arm for arm in arrivals[name].index if arm != "do_nothing"][::-1]
        gaps = [escapes[name].gap(arm, "do_nothing") for arm in arms]
        for k, (arm, gap) in enumerate(zip(arms, gaps, strict=True)):
            colour = plots.COLOURS[arm]
            if np.isfinite(gap.low):
                panel.hlines(k, gap.low, gap.high, color=colour, lw=2)
            panel.plot(gap.mean, k, "o", ms=5, color=colour)
        panel.axvline(0, color="0.6", lw=1)
        panel.set_yticks(range(len(arms)), map(in_two, arms))
        panel.set(title=name, xlabel="share of cells that arrive,\nless doing nothing")
    plots.show(
        fig,
        "real-cells",
        "Share of cells that arrive less that of doing nothing, with intervals over seeds, "
        "one line an arm and one panel a set of cells.",
        "What each arm adds to the drift on real cells.",
    )
    for name in CELLS:
        still = escapes[name].arm("do_nothing")[["left", "success", "return"]].mean()
        arms = arrivals[name].drop(index="do_nothing")
        share, earned = arms["cells in the target"], arms["return"]
        ground = escapes[name].facts["ground"]
        record.say(
            f"**{name}**: {ground['basins']} basins; the target of {ground['apart']:,} of "
            f"{ground['cells']:,} training cells lies in another basin. When nothing is done "
            f"{still['left']:.0%} leave their basin and {still['success']:.0%} arrive, at a "
            f"return of {still['return']:.2f}; with the arms {share.min():.0%} to "
            f"{share.max():.0%} arrive, at returns of {earned.min():.2f} to {earned.max():.2f}."
        )
else:
    record.say("Left out: no set of cells is recorded here.")
for name, ground in flat.items():
    record.say(
        f"**{name}**: the density of these {ground['cells']} training cells has "
        f"{ground['basins']} basin{'s' * (ground['basins'] > 1)}, and the target of none of "
        "them lies in another one: there is nothing to escape from, and nothing was trained."
    )

# %% [markdown]
# ## Limitations
#
# - The landscapes have two genes and three states; the high barrier is high for this control, not for cells.
# - The runs have one price of action and one horizon; what other prices make of the map of constant pushes [is printed above](#the-trap), and for policies that see the cell it is not known.
# - All settings come from one published distribution; another one would give other curves. The choice is made by return: a tuning by success would tell another story where the two part.
# - A run counts as arrived when half of its cells arrive; the share of cells is printed beside it, because that cut is a choice.
# - Where PPO never arrives its restarts have no time of their own, and each start gets the whole budget.
#
# ## What this does not show
#
# It does not show what happens on the landscape of a real cell, which nobody knows.
# It does not show that the paper's runs met a local optimum, nor that they did not.
# It does not show that TRPO or PPO is better in general: an answer on the landscapes that are recorded, with one network and one noise, is an answer there.
# The rows of real cells say which algorithm moves model cells across components of a fitted density, not that a cell would follow.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A learner's return has stopped rising, and its cells stand in the progenitor. Is it the cells or the learner that is stuck?</summary>
#
# The learner: its parameters stand on a local optimum of the return.
# The cells are where its policy takes them, and another policy would take them further.
#
# </details>
#
# <details><summary>No push is as strong as the threshold. What does more training buy?</summary>
#
# Nothing: below the threshold no schedule of pushes leaves A, so that every algorithm has to fail.
#
# </details>
#
# <details><summary>Two stages arrive more often than PPO. Has the trust region done it?</summary>
#
# That comparison cannot say, because the second stages differ, too.
# The same second stage after plain gradient steps of the same divergence can.
#
# </details>
#
# ## Key takeaways
#
# - Escape has [an exact threshold](#the-ground-what-no-algorithm-can-beat): below it every algorithm fails, and must.
# - A learner's local optima lie on [the surface of returns](#the-trap), and here a price on action makes those that end in the wrong valley.
# - Leaving A and reaching B are two results, and only the second is an escape to the target.
# - [The answer](#the-answer-pair-by-pair) is printed from the recorded runs with its intervals; what the first stage does is told by the same second stage without it.
# - An error can fall while [the fate is wrong](#many-genes-a-small-error-and-the-wrong-fate).

# %% [markdown]
# ## Exercises
#
# ### Exercise 13.1. An interval for an escape rate
#
# Write `interval(k, n)`: the lower and upper end of Wilson's 95 % interval for `k` escapes in `n` runs (take $z = 1.96$).
# With $p = k/n$ its centre is $(p + z^2/2n)/(1 + z^2/n)$ and its half width $\frac{z}{1 + z^2/n}\sqrt{p(1-p)/n + z^2/4n^2}$.


# %% tags=["exercise-1"]
def interval(k, n):
    p = k / n
    half = 1.96 * (p * (1 - p) / n) ** 0.5
    return p - half, p + half


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def interval(k, n):
#     z, p = 1.96, k / n
#     centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
#     half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
#     return centre - half, centre + half
# ```
#
# The interval of the stub has no width at 0 or 20 escapes of 20: it claims to be certain after 20 runs.
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 13.1 { display-mode: "form" }
from twinlib.page.record import attempt
from twinlib.evaluation.statistics import wilson_interval


def check_1(interval):
    for k, n in ((0, 20), (7, 20), (20, 20)):
        low, high = interval(k, n)
        expected = wilson_interval(k, n)
        assert abs(low - expected[0]) < 1e-3 and abs(high - expected[1]) < 1e-3, (
            f"{k} of {n}: expected {expected[0]:.3f} to {expected[1]:.3f}, got {low:.3f} to {high:.3f}"
        )


attempt("13.1", check_1, interval)

# %% [markdown]
# ### Exercise 13.2. The median of a race that some never finish
#
# Write `median_steps(first)`: the number of steps by which half of the runs have escaped, from a list in which `None` stands for a run that never did.
# Return `None` when fewer than half did.
# With an even number of runs take the smallest number of steps by which at least half have escaped.


# %% tags=["exercise-2"]
def median_steps(first):
    escaped = sorted(x for x in first if x is not None)
    return escaped[len(escaped) // 2]


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def median_steps(first):
#     escaped = sorted(x for x in first if x is not None)
#     needed = (len(first) + 1) // 2
#     return escaped[needed - 1] if len(escaped) >= needed else None
# ```
#
# The stub takes the median of those that escaped, so an algorithm looks fast by failing often.
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 13.2 { display-mode: "form" }
from twinlib.page.record import attempt


def check_2(median_steps):
    assert median_steps([3000, 1000, 2000]) == 2000, (
        "with every run escaped it is the middle one"
    )
    assert median_steps([1000, None, 5000, 9000]) == 5000, "half of four runs are two"
    assert median_steps([1000, None, None]) is None, "fewer than half escaped"


attempt("13.2", check_2, median_steps)

# %% [markdown]
# ### Exercise 13.3. Find the silent bug
#
# Somebody judges a policy by whether the cell is nearer to B than to A at the end.
# The function runs, the rates look plausible, and they favour algorithms that stop half-way.
# Mend `success` so that it says whether a cell would settle in B if it were let go.

# %% tags=["exercise-3"]
import numpy as np

from twinlib.landscapes.toggle_switch import ToggleSwitch

switch = ToggleSwitch(a=1.1, noise=0.0)


def success(x):
    """Whether cells in the states x [n, 2] count as arrived, boolean [n]."""
    a, b = switch.attractors["A"], switch.attractors["B"]
    return np.linalg.norm(x - b, axis=-1) < np.linalg.norm(x - a, axis=-1)


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
# from twinlib.landscapes.toggle_switch import ToggleSwitch
#
# switch = ToggleSwitch(a=1.1, noise=0.0)
#
#
# def success(x):
#     return switch.basin(x) == "B"
# ```
#
# A cell in the progenitor with gene 2 pushed up a little is nearer to B than to A, and falls back when let go.
# A distance to the target is an error, and an error does not know where a basin ends.
#
# </details>

# %% tags=["check-3", "hide-input"]
# @title Check exercise 13.3 { display-mode: "form" }
import numpy as np

from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.page.record import attempt


def check_3(success):
    switch = ToggleSwitch(a=1.1, noise=0.0)
    places = switch.attractors
    assert success(places["B"][None])[0] and not success(places["A"][None])[0], (
        "A and B themselves"
    )
    pushed = places["progenitor"] + np.array([-0.02, 0.05])
    assert not success(pushed[None])[0], (
        "a pushed progenitor settles in the progenitor again"
    )
    x = np.random.default_rng(0).uniform(0, 2.2, size=(50, 2))
    right = np.linalg.norm(switch.settle(x, time=200.0) - places["B"], axis=-1) < 0.1
    assert (np.asarray(success(x)) == right).all(), "let the cells settle, and compare"


attempt("13.3", check_3, success)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): the claim; Algorithm 1, Remark 3.1.
# - Wells, Kath and Motter 2015, *Physical Review X* 5:031036: control of noisy switches; the circuit's parameters.
# - Huang, Guo, May and Enver 2007, *Developmental Biology* 305:695: the switch of blood progenitors.
# - Falcone and Ferretti 2013, *Semi-Lagrangian approximation schemes for linear and Hamilton-Jacobi equations* (SIAM): value iteration on a grid.
# - Krumsiek, Marr, Schroeder and Theis 2011, *PLoS ONE* 6:e22649: the myeloid network.
# - Wilson 1927, *Journal of the American Statistical Association* 22:209: the interval of a rate.
# - Ahmed, Le Roux, Norouzi and Schuurmans 2019, *Understanding the impact of entropy on policy optimization* (ICML): noise in the action smooths the surface of returns.

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
