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
# # 14. Your perturbation: from a gene's name to a verdict
#
# The paper ends with use cases: predefined target genes such as PTPN2, a pair of immune checkpoints, cytokines.
# This chapter runs them and keeps two kinds of answer apart: a prediction, which any model gives for the asking, and a verdict, which needs cells that the model has not seen.
# At its end your own cells go from a file to a verdict in fewer than twenty lines.

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - ask both twins about a gene that nobody perturbed, and read which of them knows anything about it (20 minutes);
# - predict a combination of two targets, and say what the prediction assumes about their interaction (10 minutes);
# - turn a prediction into a verdict with two references, a ceiling and an interval (20 minutes);
# - give a cytokine at a dose, and say which doses the data can judge (10 minutes);
# - bring your own AnnData, hold cells out, and have a verdict on it (15 minutes).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("twinlib") is None:
    raise ModuleNotFoundError(
        "twinlib is not installed: run `pip install -r requirements.txt` in a copy of this book, "
        "or set its address once with `make home URL=...` so that this cell can install it."
    )
import twinlib

# %%
import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from twinlib.data.canonical import from_anndata
from twinlib.data.pairing import pair
from twinlib.data.preparation import prepare, standard
from twinlib.data.sources import choose, load
from twinlib.page import plots, record
from twinlib.data.schema import CONTROL
from twinlib.data.simulated import simulate_waddington
from twinlib.errors import DataError
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import pretrained, train_embedding
from twinlib.experimental.baselines import BASELINES, ceiling
from twinlib.experimental.perturbation_model import fit_perturbation_model
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.greedy import best_dose
from twinlib.environment.hits import screen_hits
from twinlib.environment.prediction import predict
from twinlib.environment.assembly import make_world
from twinlib.environment.packaged import packaged_world
from twinlib.policy.training import TrainingConfig, train
from twinlib.environment.prediction import rollout_cells
from twinlib.results import tables
from twinlib.evaluation import metrics, trajectories

plots.style()
torch.set_num_threads(1)
blood = choose("kang2018", "waddington")
screen = choose("papalexi2021", "waddington")
H = 15


def show_table(table, digits=3):
    """Put a table on the page."""
    single_precision = table.select_dtypes("float32").columns
    record.say(tables.markdown(table.astype(dict.fromkeys(single_precision, float)).round(digits)))


# %% [markdown]
# ## The question
#
# You have control cells and the name of a gene.
# What happens to these cells when the gene is taken away?
# A model can be asked this about any gene it has a number for, and it will answer.
# The answer is worth what has been checked, so every section below says which of three cases it is:
#
# | | cells with this perturbation were | what can be said |
# |---|---|---|
# | seen | trained on, and others are held out | a verdict on held-out cells |
# | unseen, measured elsewhere | held out altogether | a verdict on the way the model carries over (chapter 4) |
# | unseen, measured nowhere | do not exist | a prediction without a verdict |
#
# The targets that the paper names belong to the third case in every public file that this book can load.

# %%
if blood == "kang2018":
    single, couple = "PTPN2", ("PDCD1", "CTLA4")
    record.say(
        "The predefined targets of this page: **PTPN2**, a phosphatase that brakes JAK-STAT signalling, and the "
        "combination **PDCD1** with **CTLA4**, the receptors that anti-PD-1 and anti-CTLA-4 antibodies block."
    )
else:
    single, couple = "Pu1", ("Gata1", "Gfi1")
    record.say(
        f"The blood cells of Kang 2018 cannot be had here, so the page runs on simulated cells; **{single}** stands "
        f"in for PTPN2 and **{couple[0]}** with **{couple[1]}** for the checkpoint pair. Sentences about interferon do "
        "not apply to them."
    )
targets = (single, *couple)

# %% [markdown]
# ## Are the genes there at all?
#
# Before any model: a gene that is hardly detected in the control cells cannot be taken away from them, and nothing can be learned about it from them.
# The cells are blood cells, half of them given interferon-beta.
# Both checkpoint receptors are made by T cells, mostly after activation, and these cells are resting.

# %%
cells = load(blood)
obs = cells.obs
detected = cells[:, list(targets)].to_df() > 0
seen_in = detected.groupby(obs["cell_context"].astype(str)).mean()
seen_in.insert(0, "cells", obs["cell_context"].astype(str).value_counts())
show_table(seen_in.rename_axis("cell context").reset_index())
at_rest = detected[(obs["perturbation"] == CONTROL).to_numpy()]
record.say(
    "Detected in all cells together: "
    + ", ".join(f"{gene} in {share:.1%}" for gene, share in detected.mean().items())
    + f". In the {len(at_rest):,} controls the rarest of them is seen in {at_rest.sum().min()} cells."
)

# %% [markdown]
# Two readings of a small share have to be kept apart: the gene is off, or its few molecules were missed.
# Single-cell counts cannot tell them apart, and neither can a model trained on them.
# And an antibody blocks the *protein*: it leaves the messenger RNA alone, which is all that a knock-down in these units can change.
#
# ## The plain baseline: doing nothing
#
# For a perturbation that nobody measured, the reference is that nothing changes.
# How far may the mean of the controls move before a change is larger than the chance of drawing other cells?
# Split the controls into random halves many times; the typical distance of their means is the smallest change that such a group of cells could show.

# %%
prepared = prepare(cells, 100, keep_genes=targets)
genes = np.array(prepared.genes)
controls = prepared.expression(None, CONTROL)


def noise_of_mean(x, rounds=200):
    """Median distance of the means of two random halves of cells x [n, G]."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(rounds):
        order = rng.permutation(len(x))
        first, second = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
        found.append(np.linalg.norm(first.mean(0) - second.mean(0)))
    return float(np.median(found))


visible = noise_of_mean(controls)
record.say(
    f"{len(controls)} controls, {len(genes)} genes: the means of two halves lie {visible:.3f} apart (log1p units, "
    "Euclidean). A predicted change shorter than this could not be seen with as many cells."
)

# %% [markdown]
# ## A gene nobody perturbed: the experimental twin
#
# The packaged embedding of this dataset was fitted on its hundred most variable genes.
# An embedding belongs to its genes and its training cells, and refuses others.
# So the panel is made again with the targets in it, and a small embedding is trained on it, which takes seconds.

# %%
try:
    pretrained(blood).require(prepared)
    print("the packaged embedding fits this panel")
except DataError as error:
    print(f"refused: {error}")
embedding, history = train_embedding(prepared, EmbeddingConfig(epochs=4), seed=0)
pairs = pair(prepared)
experimental = fit_perturbation_model(prepared, embedding, pairs=pairs)
print(f"validation error after {len(history)} passes: {history['validation_mse'].min():.3f}")

# %%
starts = prepared.expression("test", CONTROL)
for label in (single, "+".join(couple)):
    try:
        change = experimental.predict(starts, [label] * len(starts)).mean(0) - starts.mean(0)
        print(f"{label}: predicted, the mean moves by {np.linalg.norm(change):.3f}")
    except DataError as error:
        print(f"{label}: refused. {error}")

# %% [markdown]
# A refusal is the right answer where there is nothing to learn from.
# The experimental twin learns what perturbations do from perturbed cells, and where the only perturbation is a cytokine no cell tells it what a missing gene does.
# With other genes perturbed it lends an unseen gene what they have in common; chapter 4 measures how far that carries.
#
# ## A gene nobody perturbed: the in-silico twin
#
# The in-silico twin needs no perturbed cells of this gene, because its action is a gene: the latent cell moves along the gene's row of $E$, the mean Jacobian of the encoder (chapter 5).
# `targets=` keeps the actions that you name and removes the others.
# The dose of a knock-out follows from the cells: it can take away what is there and no more, so gene $g$ falls by its mean over its standard deviation, $r_g = \mu_g / \sigma_g$, spread over the $H$ steps.

# %%
world = make_world(prepared, embedding, pairs=pairs, actions="both" if blood == "kang2018" else "genes")
column = {gene: i for i, gene in enumerate(prepared.genes)}
train_controls = prepared.expression("train", CONTROL)
reach = {gene: float(train_controls[:, i].mean() / prepared.std[i]) for gene, i in column.items()}


class KnockOut:
    """A policy that knows no learning: the same action at every step, -1 for the gene that is most there."""

    replicas = 1

    def __init__(self, names, reach):
        self.scale = max(reach[name] for name in names) / H
        self.action = -torch.tensor([reach[name] for name in names]) / (self.scale * H)

    def act(self, obs, generators=None):
        return self.action.to(obs).expand(*obs.shape[:-1], -1)


def knock_out(world, names, reach, x, labels, mode="linear"):
    """Predicted cells [n, G] after the named genes are taken away from cells x [n, G]."""
    policy = KnockOut(names, reach)
    config = EnvironmentConfig(action_scale=policy.scale, mode=mode)
    return predict(policy, world.only(names), config, x, labels)[0]


env = gymnasium.make("twinlib/GeneScreen-v0", world=world, targets=[single])
both = gymnasium.make("twinlib/Combination-v0", world=world, targets=list(couple))
assert env.action_space.shape == (1,) and both.action_space.shape == (2,)

label = world.labels[0]
asked = [label] * len(starts)
answers = {
    single: knock_out(world, [single], reach, starts, asked),
    "+".join(couple): knock_out(world, list(couple), reach, starts, asked),
    "all genes of the panel": knock_out(world, list(genes), reach, starts, asked),
}
nothing = predict(
    KnockOut([single], {single: 1e-9}),
    world.only([single]),
    EnvironmentConfig(action_scale=0.0),
    starts,
    asked,
)
assert np.array_equal(nothing[0], starts)
rows = []
for name, guess in answers.items():
    change = guess.mean(0) - starts.mean(0)
    order = np.argsort(-np.abs(change))[:5]
    rows.append(
        {
            "taken away": name,
            "length of the change": np.linalg.norm(change),
            "in units of what could be seen": np.linalg.norm(change) / visible,
            "genes that change most": ", ".join(f"{genes[i]} {change[i]:+.3f}" for i in order),
        }
    )
predicted = pd.DataFrame(rows)
show_table(predicted)
length = predicted["in units of what could be seen"]
record.say(
    f"**A prediction without a verdict.** No cell in `{blood}` has lost {single}, {couple[0]} or {couple[1]} for this "
    "page to compare with. "
    + (
        "The predicted changes of the named targets are smaller than what these cells could show, so that an "
        "experiment of this size could neither confirm nor refute them."
        if length[:2].max() < 1
        else "At least one of the predicted changes is large enough that an experiment of this size could see it."
    )
    if blood == "kang2018"
    else f"On simulated cells {single} has been knocked down, and the next sections judge such predictions."
)
record.glue("ch14_single_visible", round(float(length[0]), 3))

# %% [markdown]
# The last row is a check of scale: taking everything away must move a cell far, and it does.
#
# ### What a combination assumes
#
# In the linear step the latent moves of two genes add up exactly.
# Whatever the table calls an interaction of the pair is therefore made by the decoder, and biology has no part in it.
# `mode="exact"` encodes the changed cell again at every step and lets the encoder answer, too.
# The next cell takes the predicted change of the pair less the sum of the single changes, in both modes.

# %%
few = starts[:100]
departures = {}
for mode in ("linear", "exact"):
    parts = {
        names: knock_out(world, list(names), reach, few, [label] * len(few), mode) - few
        for names in (couple, couple[:1], couple[1:])
    }
    together = parts[couple].mean(0)
    beyond = together - parts[couple[:1]].mean(0) - parts[couple[1:]].mean(0)
    departures[mode] = float(np.linalg.norm(beyond) / np.linalg.norm(together))
record.say(
    "Share of the pair's predicted change that the sum of the two parts does not explain: "
    + ", ".join(f"{value:.1%} ({mode})" for mode, value in departures.items())
    + ". Both are properties of the networks. A real synergy of two checkpoints would have to be learned from cells "
    "that lost both."
)

# %% [markdown]
# ### What a trained policy adds, and what it does not
#
# The paper lets a policy choose how far to push the predefined genes.
# What it is paid for is coming nearer to the matched perturbed cells, so its answer depends on the label it is shown.
# In the blood cells the label is interferon-beta: the policy says in which direction it would turn the gene *to imitate interferon*.
# That is another question than what a knock-out does.

# %%
settings = TrainingConfig(algorithm="two_stage", timesteps=8_192, warm_start_steps=4_096)
narrow = world.only(list(targets))
learned = train(
    Dynamics(narrow, EnvironmentConfig(), replicas=3, n_cells=64), settings, seeds=[0, 1, 2]
).policy
directions = screen_hits(learned, narrow, labels=[label], top=len(targets))
show_table(directions[["gene", "action", "sd", "same_sign"]])
row = directions.set_index("gene").loc[single]
if blood == "kang2018":
    with_label = prepared.expression("train", label)[:, column[single]].mean()
    without = train_controls[:, column[single]].mean()
    record.say(
        f"The policy turns {single} **{'up' if row['action'] > 0 else 'down'}** ({row['same_sign']:.0%} of the seeds "
        f"agree). In the training cells interferon goes with {'more' if with_label > without else 'less'} of it "
        f"({with_label:.3f} against {without:.3f}, log1p). A brake that interferon itself switches on is found next to "
        "the interferon response in the data whatever it does to that response, so a direction read from "
        "co-expression must not be read as cause."
    )

# %% [markdown]
# ## The same methods where the truth is known
#
# How much is the knock-out along $E$ worth?
# In the CRISPR screen of monocytes, cells without JAK2 and cells without STAT1 were measured, and a fifth of them is held out.
# The packaged embedding fits, and everything that was asked above is asked again, beside the models that have seen training cells of the same label.
# The monocytes were given interferon-gamma in the experiment, whose signal runs through JAK2 and STAT1.

# %%
if screen == blood:
    prepared_screen, encoder, screen_pairs, twin = prepared, embedding, pairs, experimental
else:
    prepared_screen, encoder = standard(screen), pretrained(screen)
    screen_pairs = pair(prepared_screen)
    twin = fit_perturbation_model(prepared_screen, encoder, pairs=screen_pairs)
known = ("JAK2", "STAT1") if screen == "papalexi2021" else (single, couple[0])
screen_world = make_world(prepared_screen, encoder, pairs=screen_pairs, n_pairs=2000)
at = {gene: i for i, gene in enumerate(prepared_screen.genes)}
untreated = prepared_screen.expression("train", CONTROL)
there = {
    gene: float(untreated[:, at[gene]].mean() / prepared_screen.std[at[gene]])
    for gene in prepared_screen.genes
}
policy = train(
    Dynamics(screen_world, EnvironmentConfig(), replicas=2, n_cells=64),
    TrainingConfig(algorithm="two_stage", timesteps=8_192, warm_start_steps=4_096),
    seeds=[0, 1],
).policy

# %%
fresh = prepared_screen.expression("test", CONTROL)
reference = untreated.mean(0)
fitted = {name: BASELINES[name](prepared_screen) for name in ("no_change", "mean", "matching_mean")}


def verdict_rows(name):
    """Predicted cells of one perturbation by every row of the table."""
    labels = [name] * len(fresh)
    guesses = {row: model.predict(fresh, labels) for row, model in fitted.items()}
    guesses["knock-out along E"] = knock_out(screen_world, [name], there, fresh, labels)
    guesses["insilico, trained"] = predict(policy, screen_world, EnvironmentConfig(), fresh, labels)[0]
    guesses["experimental"] = twin.predict(fresh, labels)
    return guesses


def measured(guess, real):
    """The columns of the verdict for predicted cells [n, G] and real cells [m, G]."""
    mean, target = guess.mean(0), real.mean(0)
    return {
        "pearson_delta": metrics.pearson_delta(target, mean, reference),
        "MSE of the mean": metrics.pseudobulk_mse(target, mean),
        "E-distance": metrics.e_distance(guess[:200], real[:200]),
        "W1": metrics.w1(guess, real),
    }


found, guesses_of = {}, {}
for name in known:
    real = prepared_screen.expression("test", name)
    guesses_of[name] = verdict_rows(name)
    found[name] = {row: measured(guess, real) for row, guess in guesses_of[name].items()}
    halves = [ceiling(prepared_screen, name, seed) for seed in range(20)]
    found[name]["ceiling"] = pd.DataFrame([measured(*pair_of) for pair_of in halves]).mean().to_dict()
    record.say(f"**{name}**, {len(real)} held-out cells against {len(fresh)} held-out controls:")
    show_table(pd.DataFrame(found[name]).T.rename_axis("row").reset_index(), 4)
for name in known:
    score = {row: values["pearson_delta"] for row, values in found[name].items()}
    record.say(
        f"**{name}.** The knock-out along $E$, which is told no label, has a pearson_delta of "
        f"{score['knock-out along E']:.2f}; the experimental twin, which is told it, {score['experimental']:.2f}; two halves of "
        f"the real cells {score['ceiling']:.2f}. The mean change over all training perturbations, which ignores the "
        f"label, has {score['mean']:.2f}, "
        + ("more" if score["mean"] > score["knock-out along E"] else "less")
        + " than the knock-out along $E$."
    )

# %%
fig, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=False)
colour = {"mean": "mean", "knock-out along E": "insilico", "experimental": "experimental"}
for ax, name in zip(panels, known, strict=True):
    truth = prepared_screen.expression("test", name).mean(0) - reference
    for row, entity in colour.items():
        change = guesses_of[name][row].mean(0) - reference
        ax.scatter(truth, change, s=12, alpha=0.7, color=plots.COLOURS[entity], label=row)
    span = [truth.min(), truth.max()]
    ax.plot(span, span, color=plots.COLOURS["real"], lw=1)
    ax.set(xlabel="measured change (log1p)", ylabel="predicted change", title=name)
panels[0].legend(loc="upper left")
plots.show(
    fig,
    "verdict-per-gene",
    alt=f"Two panels, {known[0]} and {known[1]}: predicted against measured mean change, one dot a gene, for the mean "
    "over perturbations, the knock-out along the encoder's Jacobian and the experimental twin, beside the diagonal.",
)

# %% [markdown]
# A row may pass the ceiling, because half of a small group of cells is itself a noisy estimate.
# W1 rewards clouds of the right shape: adding one change to every cell moves the mean and makes zeros into something else, so that it can be worse there than doing nothing.
#
# Before the knock-out along $E$ is praised: its encoder was fitted to all training cells, those without JAK2 and STAT1 included, though never to a label.
# Cells without a gene make a gene and its consequences vary together, and a derivative can pick this up.
# No such cell stood behind the row of PTPN2, so a good figure here is an upper bound on what to expect there.
#
# ### The twin score, with its interval
#
# Chapter 11 gives the score: 0 for a path that stays at the controls, 1 for being as near as one half of the real cells is to the other.
# A path has skill if its interval lies above 0 and it is nearer than the straight line to the training mean.

# %%
config = EnvironmentConfig()
scores = {}
for name in known:
    real_cells = trajectories.real_cells(prepared_screen, encoder, name)
    rule = trajectories.yardstick(real_cells, np.random.default_rng(0), resamples=100)
    end = trajectories.encode(prepared_screen, encoder, prepared_screen.expression("train", name)).mean(0)
    fixed = KnockOut([name], there)
    labels = [name] * len(fresh)
    alone = EnvironmentConfig(action_scale=fixed.scale)
    paths = {
        "do-nothing": trajectories.do_nothing(real_cells.start),
        "straight line": trajectories.straight_line(real_cells.start, end),
        "knock-out along E": rollout_cells(fixed, screen_world.only([name]), alone, fresh, labels)[0]
        .mean(0)
        .numpy(),
        "insilico, trained": rollout_cells(policy, screen_world, config, fresh, labels)[0].mean(0).numpy(),
        "experimental": twin.trajectory(fresh, labels, H).mean(0),
    }
    scores[name] = {row: rule.score(path) for row, path in paths.items()}
shown = pd.DataFrame({name: {row: str(s) for row, s in part.items()} for name, part in scores.items()})
show_table(shown.rename_axis("path").reset_index())
for name, part in scores.items():
    line = part["straight line"].distance
    skilled = [
        row
        for row, s in part.items()
        if row not in ("do-nothing", "straight line") and s.resolvable and s.low > 0 and s.distance < line
    ]
    resolvable = part["experimental"].resolvable
    record.say(
        f"**{name}: verdict.** "
        + ("The cells resolve the score. " if resolvable else "The cells do not resolve the score. ")
        + (f"Skill by both tests: {', '.join(skilled)}." if skilled else "No path has skill by both tests.")
    )

# %% [markdown]
# The two verdicts need not agree.
# The first compares means of cells, the second a path whose order comes from pseudotime, and its intervals are as wide as a few dozen cells make them.
#
# ### What the policy moves
#
# The screen's answer of chapter 10, for these two labels: the genes that a policy moves most, with the agreement of its seeds.
# The target itself, and genes downstream of interferon, would be expected near the top.

# %%
hits = screen_hits(policy, screen_world, labels=list(known), top=8, n_cells=128)
show_table(hits[["perturbation", "rank", "gene", "action", "sd", "same_sign"]])
stable = hits.groupby("perturbation")["stability"].first()
for name in known:
    mine = hits[hits.perturbation == name]
    record.say(
        f"{name}: the seeds share {stable[name]:.0%} of their eight strongest genes; "
        f"{name} itself is {'among' if name in set(mine.gene) else 'not among'} the eight."
    )

# %% [markdown]
# ## A cytokine, and a dose
#
# A cytokine has no row in $E$.
# Its action is the mean latent shift of training cells that were given it, with a dose in $[0, 1]$ at each step, and cells differ in how strongly they respond.
# For the experimental twin the dose multiplies the features of the label.
# The cells were given one dose, so only dose 1 can be judged; the curve in between is what the twin *assumes*.

# %%
cytokine = prepared.perturbations[0] if blood == "kang2018" else single
treated = prepared.expression("test", cytokine)
base = train_controls.mean(0)
doses = np.linspace(0, 1, 6)
curve = [experimental.predict(starts, [cytokine] * len(starts), dose) for dose in doses]
assert np.array_equal(curve[0], starts)
full = treated.mean(0) - base
lengths = [float((guess.mean(0) - starts.mean(0)) @ full / (full @ full)) for guess in curve]
correlations = [metrics.pearson_delta(treated.mean(0), guess.mean(0), base) for guess in curve]
two = ceiling(prepared, cytokine)
top = metrics.pearson_delta(two[1].mean(0), two[0].mean(0), base)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
left.plot(doses, lengths, "-o", color=plots.COLOURS["experimental"], label="experimental twin")
left.plot(doses, doses, ls=":", color=plots.COLOURS["straight_line"], label="proportional")
left.axhline(1.0, color=plots.COLOURS["real"], ls="--", label="real cells, dose 1")
left.set(xlabel="dose", ylabel="share of the measured change")
left.legend()
order = np.argsort(-np.abs(full))[:8]
width = 0.4
right.bar(np.arange(8) - width / 2, full[order], width, color=plots.COLOURS["real"], label="real cells")
right.bar(
    np.arange(8) + width / 2,
    (curve[-1].mean(0) - starts.mean(0))[order],
    width,
    color=plots.COLOURS["experimental"],
    label="experimental twin",
)
right.set_xticks(np.arange(8), genes[order], rotation=45, ha="right")
right.set(ylabel="change at dose 1 (log1p)")
right.legend()
plots.show(
    fig,
    "dose",
    alt=f"Left: share of the measured change under {cytokine} that the experimental twin predicts at doses from 0 to 1, "
    "beside a proportional line and the real cells at dose 1. Right: the eight genes that change most, real and predicted.",
)
record.say(
    f"{cytokine} at dose 1: pearson_delta {correlations[-1]:.3f}, two halves of the real cells {top:.3f}; the twin "
    f"predicts {lengths[-1]:.0%} of the change. At half the dose (no cells, no verdict) it predicts "
    f"{np.interp(0.5, doses, lengths):.0%}."
)

# %%
given = (
    make_world(prepared, embedding, pairs=pairs, actions="cytokines", n_pairs=500)
    if blood == "kang2018"
    else packaged_world("cytokine").only(("EPO",))
)
env = gymnasium.make("twinlib/Cytokine-v0", world=given)
dose = best_dose(given)
record.say(
    f"The in-silico twin's action space is one dose in [{env.action_space.low[0]:.0f}, {env.action_space.high[0]:.0f}] "
    f"of {given.action_names[0]}. The constant dose that brings the controls nearest to their matches, in closed form "
    f"for the linear model: {dose:.2f} a step."
)

# %% [markdown]
# ## Your own cells, from a file to a verdict
#
# First a file has to exist, and this cell plays the colleague who sends it: cells of a simulated screen under names of the colleague's choice.
# With your own file this cell falls away.

# %%
sent = simulate_waddington(1200, seed=3, perturbations=("Gata1", "Pu1", "Gata1+Pu1", "Cebpa"))
theirs = sent[:, :150].copy()
theirs.X = theirs.layers.pop("counts")
theirs.obs = sent.obs[["perturbation"]].rename(columns={"perturbation": "guide"}).astype(str)
theirs.obs["guide"] = theirs.obs["guide"].replace({CONTROL: "NT"})
theirs.uns = {}
theirs.obsm.clear()
theirs.layers.clear()
theirs.write_h5ad("yours.h5ad")
print(theirs)

# %% [markdown]
# The next cell is all that your own file needs: its name, the column of labels and the control label.
# It tells counts from logarithms by the numbers, holds a fifth of the cells of every label out, chooses genes and scaler on the rest, fits the experimental twin, and prints a row for it beside do-nothing, the mean and the ceiling.

# %%
import anndata

mine = from_anndata(anndata.read_h5ad("yours.h5ad"), "guide", control="NT", perturbation_type="CRISPRi")
ready = prepare(mine, n_top_genes=50)
space, _ = train_embedding(ready, EmbeddingConfig(epochs=4))
models = {row: BASELINES[row](ready) for row in ("no_change", "mean", "matching_mean")}
models["experimental"] = fit_perturbation_model(ready, space)
x, zero = ready.expression("test", CONTROL), ready.expression("train", CONTROL).mean(0)
rows = []
for label in ready.perturbations:
    real, halves = ready.expression("test", label).mean(0), ceiling(ready, label)
    guesses = {row: (real, model.predict(x, [label] * len(x)).mean(0)) for row, model in models.items()}
    guesses["ceiling"] = tuple(half.mean(0) for half in halves)
    for row, (truth, guess) in guesses.items():
        score = {"pearson_delta": metrics.pearson_delta(truth, guess, zero)}
        score["MSE"], nothing = metrics.pseudobulk_mse(truth, guess), metrics.pseudobulk_mse(real, x.mean(0))
        rows.append({"row": row, **score, "skill": metrics.skill("pseudobulk_mse", score["MSE"], nothing)})
show_table(pd.DataFrame(rows).groupby("row", sort=False).mean().reset_index(), 2)

# %% [markdown]
# Each figure is a mean over the labels.
# Read the table by columns: is the twin above `mean`, which ignores the label, and how much room is left to `ceiling`?
# Skill is the share of the squared error of doing nothing that a row takes away, so that doing nothing has exactly 0.
# Its pearson_delta need not be 0: the held-out controls are other cells than the training controls, and where controls are a mixture of fates their small difference can point along a perturbation or against it.
# Where the ceiling itself is low, the cells cannot tell models apart, and more cells help more than another model.
#
# ## Limitations
#
# - A gene can be an action only if it is among the genes of the panel; `keep_genes=` puts it there, and cannot make its counts any richer.
# - A row of $E$ is a derivative of an encoder that was fitted to *measured variation*. It says what goes together in the training cells, and where none of them lost the gene it says nothing of cause.
# - A knock-out along $E$ assumes that the gene falls to zero in every cell. Guides fail, and proteins outlive their messenger.
# - Both twins here were trained for seconds so that the page stays short. The packaged tables of chapter 12 use the paper's number of steps.
#
# ## What this does not show
#
# It does not show what PTPN2, PDCD1 or CTLA4 do in blood cells: no cell without them was compared.
# It does not say whether two checkpoint antibodies act together: the only interaction on this page is made by networks that have never seen a pair.
# A good row for JAK2 and STAT1, two strong perturbations chosen because their biology is known, says little about weak ones; chapter 4 has all of them.
# And a dose curve from cells of one dose is an assumption with a curve's shape.
#
# ## Key takeaways
#
# - A model answers whenever it is asked. Ask first which cells could contradict it.
# - The experimental twin refuses a gene about which no perturbed cell tells anything; the in-silico twin answers from co-expression. A verdict on genes with known answers bounds how far to trust the second.
# - A trained policy says how it would imitate the perturbed cells it was paid for, which is another question than what a gene does.
# - `from_anndata`, `prepare`, `fit_perturbation_model` and a table with do-nothing, mean and ceiling are the whole way from a file to a verdict.

# %% [markdown]
# ## Exercises
#
# ### Exercise 14.1. How much is there to take away?
#
# Write `knock_out_reach(x, std)` for control cells `x` (n cells by G genes, log1p) and the training standard deviations `std`: by how many standard deviations does each gene fall when it is taken away altogether?

# %% tags=["exercise-1"]
import numpy as np


def knock_out_reach(x, std):
    return np.ones(len(std))


# %% [markdown]
# <details><summary>Solution</summary>
#
# What is there on average, in units of the scaler.
#
# ```python
# import numpy as np
#
#
# def knock_out_reach(x, std):
#     return x.mean(axis=0) / std
# ```
#
# </details>

# %% tags=["check-1"]
import numpy as np

from twinlib.page.record import attempt


def check_1(knock_out_reach):
    x, std = np.array([[0.0, 2.0, 1.0], [0.0, 4.0, 1.0]]), np.array([1.0, 2.0, 0.5])
    reach = np.asarray(knock_out_reach(x, std))
    assert reach.shape == (3,), f"one number a gene is wanted, not shape {reach.shape}"
    assert reach[0] == 0, "a gene that no control shows cannot be taken away"
    assert np.allclose(reach, [0.0, 1.5, 2.0]), f"expected 0, 1.5 and 2 standard deviations, not {reach}"


attempt("14.1", check_1, knock_out_reach)

# %% [markdown]
# ### Exercise 14.2. A verdict in one word
#
# Write `verdict(d_twin, d_nothing, d_line, low)`: the distances of a twin, of do-nothing and of the straight line to the real cells, and the lower end of the interval of the twin score.
# Return `"skill"` if the interval lies above 0 and the twin is nearer than the straight line, `"better than nothing"` if only the first holds, else `"none"`.
# A twin that is further away than do-nothing is `"none"` whatever the interval says.


# %% tags=["exercise-2"]
def verdict(d_twin, d_nothing, d_line, low):
    return "skill" if d_twin < d_nothing else "none"


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def verdict(d_twin, d_nothing, d_line, low):
#     if low <= 0 or d_twin >= d_nothing:
#         return "none"
#     return "skill" if d_twin < d_line else "better than nothing"
# ```
#
# </details>

# %% tags=["check-2"]
from twinlib.page.record import attempt


def check_2(verdict):
    assert verdict(1.0, 3.0, 2.0, 0.2) == "skill", "nearer than the line, interval above 0: skill"
    assert verdict(2.5, 3.0, 2.0, 0.2) == "better than nothing", "an average without a model came nearer"
    assert verdict(1.0, 3.0, 2.0, -0.1) == "none", "an interval that holds 0 shows nothing"
    assert verdict(3.5, 3.0, 4.0, 0.2) == "none", "further away than doing nothing"


attempt("14.2", check_2, verdict)

# %% [markdown]
# ### Exercise 14.3. Find the silent bug
#
# A colleague scores predictions of JAK2 and reports a correlation of 0.99 for a model that returns its input.
# The function runs and its numbers lie between -1 and 1.
# Mend it so that doing nothing scores 0.

# %% tags=["exercise-3"]
import numpy as np


def score(real, predicted, control):
    """Correlation over genes of predicted and real cells, each [n, G]; control cells [m, G]."""
    return np.corrcoef(real.mean(axis=0), predicted.mean(axis=0))[0, 1]


# %% [markdown]
# <details><summary>Solution</summary>
#
# Two profiles of one cell type agree on most genes whatever happened, so the correlation must be that of the *changes* from the control.
# A prediction that changes nothing has no direction, and scores 0 by definition.
#
# ```python
# import numpy as np
#
#
# def score(real, predicted, control):
#     truth = real.mean(axis=0) - control.mean(axis=0)
#     guess = predicted.mean(axis=0) - control.mean(axis=0)
#     if np.ptp(guess) < 1e-12:
#         return 0.0
#     return np.corrcoef(truth, guess)[0, 1]
# ```
#
# </details>

# %% tags=["check-3"]
import numpy as np

from twinlib.page.record import attempt
from twinlib.evaluation import metrics


def check_3(score):
    rng = np.random.default_rng(0)
    control = rng.gamma(2.0, 1.0, 30) + rng.normal(0, 0.1, (200, 30))
    effect = np.where(np.arange(30) < 5, -0.5, 0.0)
    real = control[:80] + effect
    idle = score(real, control, control)
    assert abs(idle) < 1e-9, f"doing nothing must score 0, not {idle:.2f}"
    right = score(real, control + effect, control)
    wanted = metrics.pearson_delta(real.mean(0), (control + effect).mean(0), control.mean(0))
    assert abs(right - wanted) < 1e-9, f"the change should be scored: {wanted:.3f}, not {right:.3f}"


attempt("14.3", check_3, score)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): the use cases.
# - Kang et al., *Multiplexed droplet single-cell RNA-sequencing using natural genetic variation* (Nature Biotechnology 2018): the blood cells.
# - Papalexi et al., *Characterizing the molecular regulation of inhibitory immune checkpoints with multimodal single-cell screens* (Nature Genetics 2021): the screen.
# - Manguso et al., *In vivo CRISPR screening identifies Ptpn2 as a cancer immunotherapy target* (Nature 2017).
# - Ahlmann-Eltze, Huber and Anders, *Deep-learning-based gene perturbation effect prediction does not yet outperform simple linear baselines* (Nature Methods 2025).

# %%
print(record.stamp_line())
