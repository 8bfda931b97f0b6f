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
# # 14. Your perturbation: from a file to a verdict
#
# **Question.** You have a file of perturbed cells, or a file of predictions.
# Do its cells show an effect at all, can a model of it be judged, and what is the model worth?
#
# **Answer.** Three commands say it: `check` what is in the file, `report` what its cells show and how well they can be predicted, `score` what predictions from elsewhere are worth.
# Below stand the first two sentences and the first figure of such a report, on a screen of knock-outs in monocytes.
# This chapter makes such a report from a file, explains every number of it, and ends with cells that are too few to tell.

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
# @title The answer for a screen, read from its recorded run { display-mode: "form" }
import contextlib
import html
import io
import pathlib
import shlex

import anndata
import numpy as np
from IPython.display import display

from twinlib.__main__ import main
from twinlib.data.schema import CONTROL
from twinlib.data.sources import load
from twinlib.errors import ResultsError
from twinlib.evaluation.calibration import reliability
from twinlib.page import plots, record
from twinlib.results import tables
from twinlib.verdict import figures
from twinlib.verdict.judged_file import HALF, JudgedFile
from twinlib.verdict.page import Run
from twinlib.verdict.score import ScoreRun
from twinlib.verdict.sentences import five_sentences

plots.style()
SCREEN = "papalexi2021"
TABLES = ("scores", "groups", "effects", "genes")
try:
    recorded = {
        name: tables.read_table("experimental", SCREEN, name) for name in TABLES
    }
except ResultsError as error:
    recorded = None
    record.say(f"No recorded run here: {error}")


def of_cells(table):
    """The split by cells, and sham labels under the name that the report gives them."""
    sham = table["dataset"].str.endswith(" sham")
    kinds = table["split_kind"].where(~sham, "sham")
    named = table.assign(dataset=SCREEN, split_kind=kinds)
    return named[named["split_kind"].isin(["cells", "sham"])]


screen = None
if recorded is not None:
    scores, grouped = (of_cells(recorded[name]) for name in ("scores", "groups"))
    panel = recorded["genes"]["gene"].nunique()
    screen = JudgedFile(scores, grouped, recorded["effects"], panel)
    told = five_sentences(screen)
    for sentence in told[:2]:
        record.say(sentence)
    figures.show_effects(screen)

# %% [markdown]
# *How to read it.*
# To the right, perturbations that act; above, those whose cells agree on what they do.
# A model can be judged where both are so.
# The page of a screen takes minutes, so its tables were computed beforehand by `python -m experiments experimental --dataset papalexi2021`; nothing here is typed.
#
# ## Objectives
#
# After this chapter you can
#
# - have a file checked, and read what was assumed of it (5 minutes);
# - have a page on your own cells, and say which of its numbers carry a verdict (20 minutes);
# - predict a perturbation, and know when a prediction is refused (10 minutes);
# - have predictions from elsewhere scored, beside baselines, ceiling and null (15 minutes);
# - tell 'no effect' from 'these cells cannot tell', and say how many more cells it would take (15 minutes).

# %% tags=["hide-input"]
# @title Run a command here, and show a page inside this one { display-mode: "form" }
rng = np.random.default_rng(0)


def command(line, refused=False):
    """Run a command line of twinlib in this process; show what it prints, and why it is refused."""
    print(f"$ twinlib {line}")
    reason = io.StringIO()
    with contextlib.redirect_stderr(reason) if refused else contextlib.nullcontext():
        code = main(shlex.split(line))
    if code:
        print(f"{reason.getvalue()}(exit code {code})")


def page(path, title):
    """Show a page inside this one."""
    inside = html.escape(pathlib.Path(path).read_text(), quote=True)
    style = "width:100%;height:42rem;border:1px solid #888"
    attributes = f'title="{title}" style="{style}" srcdoc="{inside}"'
    display({"text/html": f"<iframe {attributes}></iframe>"}, raw=True)


# %% [markdown]
# ## What can be asked of a file
#
# A model answers whenever it is asked; what the answer is worth depends on cells that could contradict it.
#
# | cells with this perturbation were | what can be said |
# |---|---|
# | trained on, and others are held out | a verdict on held-out cells |
# | held out altogether | a verdict on the way the model carries over |
# | never measured | a prediction without a verdict |
#
# And before any model: do the cells show an effect at all?
# If two halves of the cells of a perturbation do not agree on what it changed, no score of any model on them means anything.
#
# ## A file
#
# A file has to exist first.
# The cells are those of `chi11`, which the package carries: blood of one donor, four stimuli, ten signalling proteins that were measured in single cells; of its kinds of cells the page takes monocytes, B cells and one kind of T cells.
# The file does not spell its letters; by their responses A is taken to be interferon-alpha, G interferon-gamma, L lipopolysaccharide and T a stimulus of the T- and B-cell receptor.
# One half of the cells of every group goes into the file that is ours, the other half into one that stays with the judge.

# %%
cells = load("chi11")
kinds = {
    "CD11c CD14 CD38": "monocytes",
    "CD19 CD20 CD45RA HLA-DR CD24": "B cells",
    "CD3 CD8 CD127 CD45RA": "CD8 T cells",
}
cells = cells[cells.obs["cell_context"].isin(kinds)].copy()
cells.obs["cell_context"] = cells.obs["cell_context"].astype(str).map(kinds)
groups = [cells.obs[name].astype(str) for name in ("perturbation", "cell_context")]
ours = np.zeros(cells.n_obs, dtype=bool)
for rows in cells.obs.groupby(groups).indices.values():
    ours[rng.permutation(rows)[: len(rows) // 2]] = True
cells[ours].copy().write_h5ad("ours.h5ad")
cells[~ours].copy().write_h5ad("kept.h5ad")
print(f"{ours.sum()} cells in ours.h5ad, {(~ours).sum()} in kept.h5ad")

# %% [markdown]
# ## First command: what is in the file
#
# `check` takes seconds and writes nothing.
# Every guess is said, with the option that changes it, and every defect is one sentence.

# %%
command("check ours.h5ad")

# %% [markdown]
# Read the part headed *Assumed* before anything else: a wrong column of labels or a wrong scale makes every later number meaningless, and nothing later can notice.
#
# ## Second command: the page
#
# `report` splits the cells into five folds, tests which perturbations have an effect, fits baselines and the twin on four folds and scores them on the fifth, repeats all of it on labels that mean nothing, and writes a page, the notebook that made it, a table of scores and the model.
# On a file of your own, leave the options away: several seeds are trained, cell types are left out in turn, and a folder that is there already is never written over (a notebook is run again, hence `--overwrite`).

# %%
command("report ours.h5ad --out ours --splits cells --seeds 1 --overwrite")
run = Run.read(pathlib.Path("ours"))
judged = run.judged

# %% [markdown]
# The first screen of the page holds five sentences, and here they are.

# %%
for sentence in five_sentences(judged):
    record.say(sentence)

# %% [markdown]
# And this is the page itself, as it opens in a browser without a network.

# %% tags=["hide-input"]
# @title The page { display-mode: "form" }
page("ours/report.html", "The report on ours.h5ad")

# %% [markdown]
# ## What each number means
#
# **An effect.** The energy test asks whether the cells of a perturbation lie elsewhere than the controls of the same cell type, on training cells, corrected for the number of tests; called in three of five folds, it counts.
# With fewer than six perturbations a unit is a perturbation in a cell type, because an interval over four numbers says nothing.
#
# **The score.** For a panel of genes it is the correlation of the predicted with the observed change.
# Here it is the share of the squared change that is predicted, because a correlation over ten proteins is mostly chance.
# Doing nothing scores zero in both.
#
# **The ceiling.** Test cells and controls are halved; from the correlation $r$ of the two changes follows what a prediction without any noise of its own would score, $\sqrt{2r/(1+r)}$.
# The next cell does it by hand for the unit whose halves agree best.

# %%
halves = judged.halves
best = max(halves, key=lambda unit: halves[unit].replicate)
r = halves[best].replicate
by_hand = np.sqrt(max(2 * r / (1 + r), 0))
assert np.isclose(by_hand, halves[best].value)
print(f"{best}: halves agree with r = {r:.2f}; a perfect model: {by_hand:.2f}")

# %% [markdown]
# **How sure a change is, and how many more cells it would take.**
# If halves agree with $r$, the noise of a half is $N = S\,(1-r)/r$ beside the signal $S$, and $m$ times the cells of the whole file have a $1/m$ of the file's noise.
# Two experiments of that size would then agree with a correlation of
#
# $$\rho(m) = \frac{S}{S + N/m}.$$
#
# It is printed only where the halves do agree; a signal that cannot be told from zero has no number of cells that would show it.

# %%
noise = (1 - r) / r * HALF
for m in (1, 2, 4):
    assert np.isclose(1 / (1 + noise / m), reliability(r, HALF, m))
sure = judged.sureness()
least = sure.sort_values("1 x").reset_index(names="unit").head(8)
figures.show_table(least, "The least sure changes")
unknown = int(sure["1 x"].isna().sum())
record.say(f"Of {len(sure)} units, {unknown} are n/a: their halves do not agree.")

# %% [markdown]
# **The interval.** It spans perturbations and folds, since both could have been others, and never resamples cells.
# Two rows are compared by their paired difference; beside it stands the smallest difference that could have been seen, without which 'no difference' says nothing.
#
# **The null.** The same rows on labels that mean nothing, in grey: what lies above zero there was found where there is nothing to find.

# %% tags=["hide-input"]
# @title The null { display-mode: "form" }
figures.show_null(judged)

# %% [markdown]
# ## A prediction
#
# The model that the report kept predicts the controls of any file.

# %%
stimuli = sorted(set(cells.obs["perturbation"].astype(str)) - {CONTROL})
for name in stimuli:
    command(
        f"predict ours/model kept.h5ad --perturbation {name} "
        f"--out {name}.h5ad --overwrite"
    )

# %% [markdown]
# A question to which nothing in the cells is an answer is refused in one sentence, and the exit code says so, too.
# PTPN2 is a target that the paper names; no cell of this file has lost it, and it is none of the ten proteins.

# %%
question = "predict ours/model kept.h5ad --perturbation PTPN2 --out PTPN2.h5ad"
command(question, refused=True)

# %% [markdown]
# ## Third command: predictions judged
#
# `score` takes predicted cells from anywhere: the files of cell-eval, GEARS, CPA and scPerturb are read under their own names.
# Here they are those of our own twin, which has never seen a cell of `kept.h5ad`.
# The controls of a prediction file are not read, since whoever writes them could choose them: what a prediction changes is told from the real controls, and from others than those that make the truth.

# %%
predicted = [anndata.read_h5ad(f"{name}.h5ad") for name in stimuli]
anndata.concat(predicted, index_unique="-").write_h5ad("predicted.h5ad")
command("score predicted.h5ad kept.h5ad --out scored --overwrite")

# %%
scored = ScoreRun.read(pathlib.Path("scored"))
for sentence in five_sentences(scored.judged)[1:3]:
    record.say(sentence)
table = figures.summary_table(scored.judged, "cells", scaled=True)
figures.show_table(table, "Predictions beside the baselines")

# %% [markdown]
# The plain mean is a hard baseline here: it has seen other cells of the same file, which the predictions have not.
# In the column *scaled* zero is the mean of the cell type and one a repeat of half of the cells, as in cell-eval2.
# The row with labels dealt anew tells how much of a score any stimulus's prediction would have had.
#
# ## A screen, and cells that cannot tell
#
# The screen of the first figure is read by the same judge, and its other sentences are these.

# %%
if screen is not None:
    for sentence in told[2:]:
        record.say(sentence)

# %% [markdown]
# The lower left of the first figure is the case that a mean over all perturbations hides.
# Take away the knock-outs with an effect, as if the screen had been made of the others, and ask again.

# %%
if screen is not None:
    silent = screen.units.index[~screen.units["has_effect"]]

    def without_effect(table):
        """The rows of perturbations without an effect, and of sham labels."""
        chosen = table["perturbation"].isin(silent)
        return table[chosen | (table.get("split_kind") == "sham")]

    kept = [without_effect(table) for table in (scores, grouped, recorded["effects"])]
    weak = JudgedFile(*kept, panel)
    for sentence in five_sentences(weak):
        record.say(sentence)

# %% [markdown]
# This is not the answer 'these genes do nothing'.
# Some of them may act weakly, and a screen with more cells would show it; how many more cannot be computed from cells in which nothing is seen.
# What can be said is that a model's score on them, high or low, is a score of noise.
#
# ## Limitations
#
# - The page judges mean changes of cells that were held out at random. It says nothing about another donor, line or dose, unless those were held out with `--splits`.
# - The energy test sees differences of clouds; halves are compared in their means. A perturbation that changes the spread alone is called, and its halves agree on nothing.
# - Groups of more than a thousand cells are cut by a draw, and the page says how many cells were left out.
# - The twin of the page is trained on one fold with an embedding of one pass. It is a reference, and no attempt at the best model for your cells.
#
# ## What this does not show
#
# It does not show that the twin is better than the plain mean in general: the page compares the two on these cells, and its third sentence says what came of it.
# It does not show what PTPN2 does in blood cells: no cell without it was compared.
# The stimuli of `chi11` are letters in its file, and what they are called here is an inference from their responses.
#
# ## Check yourself
#
# Think first; a click on the question shows the answer.
#
# <details><summary>A model scores 0.1 on your file, and the ceiling is 0.12. Is it a bad model?</summary>
#
# No: a perfect prediction would score hardly more with so few cells.
# What 0.1 is worth is said by its distance to the ceiling, to the plain mean and to the row on labels that mean nothing.
#
# </details>
#
# <details><summary>The halves of a perturbation's cells do not agree. How many more cells would settle what it does?</summary>
#
# That cannot be computed: the signal cannot be told from zero, and no number of cells follows from a signal of zero.
# The page says n/a.
#
# </details>
#
# <details><summary>A file of predictions brings its own controls, and with them it scores much better. Why are they not read?</summary>
#
# Whoever predicts could choose controls that make any change look right.
# The change is told from the real controls, and from others than those that make the truth.
#
# </details>
#
# ## Key takeaways
#
# - Three commands go from a file to a verdict, and the first one writes nothing.
# - A score is read beside four others: doing nothing, the plain mean, a perfect model, and the same row where nothing is to be found.
# - 'n/a' is an answer. Where halves of the cells do not agree, neither a model nor a number of cells can be judged.
# - Whoever predicts does not choose the controls, and truth and prediction share no cells.

# %% [markdown]
# ## Exercises
#
# ### Exercise 14.1. How many more cells?
#
# Write `times_the_cells(r, share, wanted)`: halves that hold a `share` of a file's cells agree with a correlation `r`; how many times the file's cells would it take for two experiments to agree with the correlation `wanted`?


# %% tags=["exercise-1"]
def times_the_cells(r, share, wanted):
    return 1.0


# %% [markdown]
# <details><summary>Solution</summary>
#
# Solve $S/(S + N/m)$ for $m$, with $N/S$ of the whole file.
#
# ```python
# def times_the_cells(r, share, wanted):
#     noise = (1 - r) / r * share
#     return noise * wanted / (1 - wanted)
# ```
#
# </details>

# %% tags=["check-1", "hide-input"]
# @title Check exercise 14.1 { display-mode: "form" }
from twinlib.evaluation.calibration import reliability
from twinlib.page.record import attempt


def check_1(times_the_cells):
    m = times_the_cells(0.2, 0.1, 0.9)
    agree = reliability(0.2, 0.1, m)
    assert abs(agree - 0.9) < 1e-9, f"{m:.2f} times the cells agree with {agree:.2f}"
    fewer = times_the_cells(0.5, 0.1, 0.9)
    assert fewer < m, "halves that agree better need fewer cells"


attempt("14.1", check_1, times_the_cells)

# %% [markdown]
# ### Exercise 14.2. A verdict in one word
#
# Write `verdict(low, high, resolvable)` for the interval of the difference between a model and the plain mean: `"better"`, `"worse"`, `"not told apart"`, or `"cannot tell"` where the halves of the cells do not agree or the interval is NaN.


# %% tags=["exercise-2"]
def verdict(low, high, resolvable):
    return "better" if low + high > 0 else "worse"


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def verdict(low, high, resolvable):
#     if not resolvable or low != low:
#         return "cannot tell"
#     if low > 0:
#         return "better"
#     return "worse" if high < 0 else "not told apart"
# ```
#
# </details>

# %% tags=["check-2", "hide-input"]
# @title Check exercise 14.2 { display-mode: "form" }
from twinlib.page.record import attempt


def check_2(verdict):
    assert verdict(0.1, 0.2, True) == "better", "the whole interval lies above 0"
    assert verdict(-0.2, -0.1, True) == "worse", "the whole interval lies below 0"
    assert verdict(-0.1, 0.4, True) == "not told apart", "an interval around 0"
    assert verdict(0.1, 0.2, False) == "cannot tell", "halves that disagree"
    assert verdict(float("nan"), float("nan"), True) == "cannot tell", "no interval"


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
    """Correlation over genes of predicted and real cells [n, G]; controls [m, G]."""
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

# %% tags=["check-3", "hide-input"]
# @title Check exercise 14.3 { display-mode: "form" }
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
    means = (cells.mean(0) for cells in (real, control + effect, control))
    wanted = metrics.pearson_delta(*means)
    told = f"score the change: {wanted:.3f}, not {right:.3f}"
    assert abs(right - wanted) < 1e-9, told


attempt("14.3", check_3, score)

# %% [markdown]
# ## References
#
# - Boabang and Gyamerah, *Escaping local optima in the Waddington landscape* (arXiv 2510.13018): the use cases.
# - Papalexi et al., *Characterizing the molecular regulation of inhibitory immune checkpoints with multimodal single-cell screens* (Nature Genetics 2021): the screen.
# - HDStIM (National Institute of Allergy and Infectious Diseases): the cells of `chi11`, mass cytometry of one donor's blood under four stimuli.
# - Peidli et al., *scPerturb: harmonized single-cell perturbation data* (Nature Methods 2024): the energy test, and names that files go by.
# - Ahlmann-Eltze, Huber and Anders, *Deep-learning-based gene perturbation effect prediction does not yet outperform simple linear baselines* (Nature Methods 2025).

# %% tags=["hide-input"]
# @title Seed and versions { display-mode: "form" }
print(record.stamp_line())
