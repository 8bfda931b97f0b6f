"""The paper's statements that can be tested, each with a number from the packaged results and a verdict.

`page()` writes the text of book/claims.md; nothing on it is typed by hand but the statements themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from twinlib.errors import ResultsError
from twinlib.evaluation.calibration import MIN_UNITS, Estimate, estimate
from twinlib.evaluation.statistics import paired_difference, probability_of_improvement
from twinlib.results import escape as escape_tables
from twinlib.results import tables, trajectory_tables
from twinlib.results.judged import in_words, judged_splits

#: The verdicts a claim can have.
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
#: A statement that the code cannot break; it is no finding.
BUILT = "holds by construction"
#: Datasets of the described protocol, in the order of the page.
DATASETS = ("papalexi2021", "cross_study", "kang2018", "waddington")
#: Datasets whose controls come from another study: no effect test and no verdict.
UNTESTED = ("cross_study",)
#: Datasets and clocks in which the path of the experimental twin is judged.
CLOCKS = (
    "papalexi2021, pseudotime", "kang2018, pseudotime", "a549_dex, pseudotime", "a549_dex, measured",
    "waddington, pseudotime", "waddington, measured",
)  # fmt: skip
#: Datasets and splits on which the experimental twin is judged.
PREDICTED = (
    "papalexi2021, cells", "papalexi2021, perturbations", "vcc_h1, cells", "norman2019, cells",
    "norman2019, doubles", "cross_study, cells", "kang2018, cells", "kang2018, contexts", "chi11, cells",
    "chi11, contexts", "a549_dex, time", "waddington, cells", "waddington, doubles",
    "waddington, perturbations", "waddington, contexts",
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What one dataset says about a claim."""

    #: The number with its interval, as text.
    number: str
    #: One of holds, does not hold, cannot be told here, holds by construction.
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and how it is tested."""

    #: Where it stands.
    where: str
    #: The statement, in our words.
    statement: str
    #: How it is tested.
    test: str
    #: What would change the verdict.
    change: str
    #: Maps a dataset to its evidence; raises ResultsError or KeyError where the results lack the rows.
    measure: Callable[[str], Evidence]
    #: Datasets on which it is tested.
    datasets: tuple[str, ...] = DATASETS


def _seeds(
    dataset: str,
    algorithm: str,
    metric: str,
    protocol: str = "described",
    split: str = "Test",
    logs: int = 2,
) -> pd.Series:
    """Return a metric of the rows of a split by seed; `logs` is the number of logarithms (released only)."""
    rows = tables.read_table(protocol, dataset, "regression")
    space = "log1p" if protocol == "described" else "latent"
    chosen = (rows["Algorithm"] == algorithm) & (rows["Split"] == split) & (rows["space"] == space)
    if "logs" in rows:
        chosen &= rows["logs"] == logs
    values = rows[chosen].set_index("Seed")[metric].dropna()
    if values.empty:
        raise KeyError(f"{dataset} has no {metric} of {algorithm}")
    return values


def _verdict(low: float, high: float) -> str:
    """An interval above 0 holds, one below does not, one around 0 cannot tell."""
    if low > 0:
        return HOLDS
    return FAILS if high < 0 else OPEN


def _difference(dataset: str, a: str, b: str, metric: str) -> Evidence:
    """Compare two algorithms by seed on a metric of which more is better."""
    first, second = _seeds(dataset, a, metric), _seeds(dataset, b, metric)
    shared = first.index.intersection(second.index)
    gain = paired_difference(first[shared], second[shared])
    chance = probability_of_improvement(first, second)
    text = (
        f"{a} - {b}: {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], p {gain.p_value:.3f}, "
        f"probability of improvement {chance:.2f}, {gain.n} seeds"
    )
    return Evidence(text, _verdict(gain.low, gain.high))


def better_than_ppo(dataset: str) -> Evidence:
    """Two stages against PPO on the primary metric."""
    return _difference(dataset, "two_stage", "PPO", "pearson_delta")


def better_than_restart(dataset: str) -> Evidence:
    """Two stages against PPO with the same restart, on the primary metric."""
    return _difference(dataset, "two_stage", "PPO_restart", "pearson_delta")


def alternating_against_ppo(dataset: str) -> Evidence:
    """Algorithm 1 as printed (alternating) against PPO on the primary metric."""
    return _difference(dataset, "alternating", "PPO", "pearson_delta")


def start_to_final(dataset: str) -> Evidence:
    """The metric of Table 1: does the printed order return, and what does do-nothing score?"""
    ours = {a: _seeds(dataset, a, "MSE", "released").mean() for a in ("PPO", "TRPO_PPO_zero_target")}
    still = _seeds(dataset, "do_nothing", "MSE", "released").mean()
    text = f"start-to-final MSE: PPO {ours['PPO']:.4f}, TRPO then PPO {ours['TRPO_PPO_zero_target']:.4f}, "
    lower = ours["TRPO_PPO_zero_target"] < ours["PPO"]
    return Evidence(text + f"do-nothing {still:.4f}", HOLDS if lower else FAILS)


def released_reward(dataset: str) -> Evidence:
    """The released environment's own reward on test cells: TRPO then PPO against PPO, by logarithms.

    One logarithm is the mended preprocessing, two the released one; a verdict needs both to agree.
    """
    texts, verdicts = [], set()
    for logs, word in ((2, "two logarithms"), (1, "one logarithm")):
        first, second = (
            _seeds(dataset, name, "reward", "released", logs=logs) for name in ("TRPO_PPO_zero_target", "PPO")
        )
        gain = paired_difference(first, second)
        texts.append(f"{word} {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}], {gain.n} seeds")
        verdicts.add(_verdict(gain.low, gain.high))
    text = "TRPO then PPO - PPO: " + "; ".join(texts)
    if len(verdicts) == 1:
        return Evidence(text, verdicts.pop())
    return Evidence(text + " (the sign hangs on the preprocessing)", OPEN)


def second_stage_trains(dataset: str) -> Evidence:
    """How many optimizer steps the released second stage takes, of those that are due."""
    rows = tables.read_table("released", dataset, "regression")
    rows = rows[(rows["Algorithm"] == "TRPO_PPO_zero_target") & (rows["logs"] == 2)]
    if rows.empty:
        raise KeyError("no zero-target row")
    taken, updates = rows["second_stage_steps"].mean(), rows["second_stage_updates"].mean()
    due = updates * 10 * 2048 / 256
    text = f"{taken:.0f} optimizer steps in {updates:.0f} updates; {due:.0f} were due"
    return Evidence(text, HOLDS if taken > due / 2 else FAILS)


def faster(dataset: str) -> Evidence:
    """Mean training reward over the first quarter of the environment steps, two stages against PPO."""
    history = tables.read_table("described", dataset, "history")
    early = history[history["environment_steps"] <= history["environment_steps"].max() / 4]
    means = early.groupby(["Algorithm", "seed"])["reward"].mean()
    gain = paired_difference(means["two_stage"], means["PPO"])
    text = f"reward per step, first quarter: {gain.mean:+.5f} [{gain.low:+.5f}, {gain.high:+.5f}]"
    return Evidence(text, _verdict(gain.low, gain.high))


def trust_region(dataset: str) -> Evidence:
    """The largest KL of an accepted TRPO step, as a share of the delta it was allowed."""
    history = tables.read_table("described", dataset, "history")
    training = tables.read_table("described", dataset, "manifest")["training"]
    steps = history[(history["stage"] == "TRPO") & (history["accepted"] == 1)]
    deltas = {name: training[name]["trust_region"]["delta"] for name in steps["Algorithm"].unique()}
    share = float((steps["kl"] / steps["Algorithm"].map(deltas)).max())
    text = f"largest KL of {len(steps)} accepted steps of {' and '.join(deltas)}: {share:.3f} delta"
    return Evidence(text, BUILT if share <= 1 + 1e-6 else FAILS)


def fewer_updates(dataset: str) -> Evidence:
    """Optimizer steps until a level of training reward that both PPO and two stages end above."""
    history = tables.read_table("described", dataset, "history")
    curves = {
        name: dict(list(history[history["Algorithm"] == name].groupby("seed")))
        for name in ("PPO", "two_stage")
    }
    ends = {n: [_last_tenth(c["reward"]) for c in seeds.values()] for n, seeds in curves.items()}
    if not all(ends.values()) or min(map(min, ends.values())) <= 0:
        raise KeyError("a run earned nothing at its end, so that no level is shared")
    level = 0.9 * min(map(min, ends.values()))
    first, second = ([_steps_to(c, level) for c in curves[n].values()] for n in ("PPO", "two_stage"))
    gain = paired_difference(first, second)
    text = (
        f"optimizer steps to a reward of {level:.5f}: PPO {np.mean(first):.0f}, two_stage "
        f"{np.mean(second):.0f}; saved {gain.mean:+.0f} [{gain.low:+.0f}, {gain.high:+.0f}], "
        f"{gain.n} seeds"
    )
    return Evidence(text, _verdict(gain.low, gain.high))


def _last_tenth(values: pd.Series) -> float:
    """Return the mean of the last tenth of a curve."""
    return float(values.tail(max(1, len(values) // 10)).mean())


def _steps_to(curve: pd.DataFrame, level: float) -> int:
    """Return the optimizer steps until the reward, averaged over five iterations, is at `level`."""
    there = curve["reward"].rolling(5, min_periods=1).mean() >= level
    return (
        int(curve["optimizer_steps"][there].iloc[0]) if there.any() else int(curve["optimizer_steps"].max())
    )


def smaller_gap(dataset: str) -> Evidence:
    """The fall of pearson_delta from training to unseen cells: PPO's against that of two stages."""
    gaps = []
    for name in ("PPO", "two_stage"):
        gaps.append(
            _seeds(dataset, name, "pearson_delta", split="Train") - _seeds(dataset, name, "pearson_delta")
        )
    gain = paired_difference(gaps[0], gaps[1])
    text = (
        f"train - test: PPO {gaps[0].mean():+.4f}, two_stage {gaps[1].mean():+.4f}; difference "
        f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], {gain.n} seeds"
    )
    return Evidence(text, _verdict(gain.low, gain.high))


def twins_agree(place: str) -> Evidence:
    """Is a twin nearer to the real trajectory than everything that knows less?

    A dataset stands for the in-silico twin of the described protocol, `DATASET, CLOCK` for the experimental
    twin. What knows less: the same twin with shuffled labels, the straight line and doing nothing.
    """
    dataset, _, clock = place.partition(", ")
    twin, margins = (
        ("experimental", _by_clock(dataset, clock)) if clock else ("two_stage", _described(dataset))
    )
    text = f"{twin}, DTW gained on " + "; on ".join(f"{name} {in_words(m)}" for name, m in margins.items())
    if any(m.units < MIN_UNITS for m in margins.values()):
        return Evidence(f"{text}; under {MIN_UNITS} units, intervals over folds alone, no verdict", OPEN)
    lows, highs = ([getattr(m, end) for m in margins.values()] for end in ("low", "high"))
    return _unless_untested(dataset, Evidence(text, _verdict(float(np.min(lows)), float(np.min(highs)))))


def _unless_untested(dataset: str, shown: Evidence) -> Evidence:
    """Withhold a verdict where every label's change holds the difference of two studies."""
    if dataset not in UNTESTED:
        return shown
    return Evidence(f"{shown.number}; the controls come from another study, so no verdict", OPEN)


def _described(dataset: str) -> dict[str, Estimate]:
    """Return what the in-silico twin gains in DTW on what knows less, over perturbations, seeds averaged."""
    rows = tables.read_table("described", dataset, "similarity")
    rows = rows[rows["Against"] == "real"]
    wide = rows.groupby(["Algorithm", "Perturbation"])["dtw"].mean().unstack("Algorithm")
    names = ("two_stage_shuffled", "straight_line", "do_nothing")
    return {name: estimate((wide[name] - wide["two_stage"]).to_numpy()) for name in names}


def _by_clock(dataset: str, clock: str) -> dict[str, Estimate]:
    """Return what the experimental twin gains in DTW on what knows less, folds x units with an effect."""
    scores, groups = (tables.read_table("trajectories", dataset, name) for name in ("scores", "groups"))
    judged = trajectory_tables.verdict(scores, trajectory_tables.units_with_effect(groups), clock)
    if judged is None:
        raise ResultsError(f"No unit of {dataset} with an effect has a trajectory in {clock} time.")
    return judged.margins


def experimental_twin(place: str) -> Evidence:
    """The experimental twin against the row that knows most without training, on a dataset and split."""
    dataset, kind = place.split(", ")
    split = judged_splits("experimental", dataset).get(kind)
    if split is None:
        raise ResultsError(f"No packaged run of the experimental twin on {place}.")
    gap, plain = split.gap("experimental", split.plain_row), split.plain_row
    rows = split.rows(models=("experimental", plain)).query("on == 'all'")
    mean = dict(zip(rows["model"], rows["mean"], strict=True))
    text = (
        f"{split.metric}{'' if split.over == 'has_effect' else ' over all'}: "
        f"experimental {mean['experimental']:.3f}, {plain} {mean[plain]:.3f}, ceiling "
        f"{float(rows['ceiling'].iloc[0]):.3f}; difference {in_words(gap)}"
    )
    return _unless_untested(dataset, Evidence(text, _verdict(gap.low, gap.high)))


def deep_beats_mean(dataset: str) -> Evidence:
    """The better of PPO and two stages against the mean of each perturbation, on the primary metric."""
    best = max(("PPO", "two_stage"), key=lambda a: _seeds(dataset, a, "pearson_delta").mean())
    ours = _seeds(dataset, best, "pearson_delta")
    base = float(_seeds(dataset, "matching_mean", "pearson_delta").iloc[0])
    gain = paired_difference(ours, np.full(len(ours), base))
    return Evidence(
        f"{best} {ours.mean():.4f}, mean of each perturbation {base:.4f}",
        _verdict(gain.low, gain.high),
    )


def printed_wasserstein(dataset: str) -> Evidence:
    """Could the paper's 'Wasserstein' columns be Eq. 12? With two points DTW would be exactly twice."""
    ratios = []
    for number in (3, 6, 9):
        table = tables.paper_table(number)
        ratios += (table["DTW"].astype(float) / table["Wasserstein"].astype(float)).tolist()
    text = (
        f"DTW / Wasserstein as printed: {min(ratios):.2f} to {max(ratios):.2f}; Eq. 12 of two points gives 2"
    )
    return Evidence(text, HOLDS if np.allclose(ratios, 2, atol=0.01) else FAILS)


CLAIMS = (
    Claim(
        "Abstract; contribution 3",
        "Starting PPO from a trust-region stage improves generalisation in perturbation analysis.",
        "Described protocol, unseen cells: pearson_delta, two_stage against PPO, paired by seed.",
        "Other data; another tuning (here twelve settings each; chapter 12 shows a common one).",
        better_than_ppo,
    ),
    Claim(
        "Sections 1 and 3.2",
        "The gain comes from the natural-gradient warm start.",
        "The same against PPO_restart, which has the same restart without TRPO.",
        "A gain over PPO that the restart control does not share.",
        better_than_restart,
    ),
    Claim(
        "Algorithm 1",
        "One TRPO step before the PPO epochs of every iteration improves on PPO.",
        "Described protocol: pearson_delta, alternating against PPO, paired by seed.",
        "As above.",
        alternating_against_ppo,
    ),
    Claim(
        "Section 4.1; Tables 1, 4, 7",
        "TRPO_PPO greatly outperforms PPO in the regression metrics.",
        "Released protocol: the printed metric compares the start state with the final state; do-nothing "
        "scores 0. 'Holds' says that the printed order returns, not that it means better prediction.",
        "A metric that compares a prediction with an observation (first row of this page).",
        start_to_final,
    ),
    Claim(
        "Section 3.3",
        "TRPO_PPO earns more reward than PPO.",
        "Released protocol: the environment's own reward over 1,500 deterministic test rollouts, by seed, "
        "with the second logarithm of the public code and without it. A verdict needs both to agree.",
        "A second stage that trains.",
        released_reward,
    ),
    Claim(
        "Remark 3.1; Section 4.1",
        "The KL observed in TRPO initialises the second stage, which then refines the policy.",
        "Released protocol: optimizer steps of the second stage, of those due. 'Holds' needs half of them.",
        "A target KL that is not zero: the mended rows of chapter 12.",
        second_stage_trains,
    ),
    Claim(
        "Section 1",
        "The warm start leads to faster convergence.",
        "Described protocol: training reward over the first quarter of the steps, two_stage against PPO.",
        "Another hand-over target, another share of TRPO.",
        faster,
    ),
    Claim(
        "Section 1",
        "The warm start needs fewer minibatch updates to reach its gains.",
        "Described protocol: optimizer steps until nine tenths of the training reward that every run of PPO "
        "and two_stage ends above, paired by seed; a TRPO step counts as one.",
        "Another level; counting the products inside a TRPO step.",
        fewer_updates,
    ),
    Claim(
        "Section 1",
        "PPO is susceptible to poor generalisation, which the two stages mend.",
        "Described protocol: pearson_delta on training cells minus that on unseen cells, PPO against "
        "two_stage, paired by seed. 'Holds' says that PPO loses more.",
        "A split by perturbations in place of cells.",
        smaller_gap,
    ),
    Claim(
        "Section 1; Eq. 6",
        "Each TRPO step keeps the mean KL on its batch below delta.",
        "Described protocol: the largest mean KL (Eq. 4) of an accepted step, as a share of delta. The line "
        "search refuses every other step, so this tests the code and not the method. The theorem behind TRPO "
        "bounds the largest KL over states and promises improvement; neither is measured here.",
        "Nothing but an error in the code.",
        trust_region,
    ),
    Claim(
        "Section 4; Tables 3, 6, 9",
        "In-silico and experimental trajectories are similar.",
        "DTW to the real trajectory; similar must mean nearer than the same twin with shuffled labels, than "
        "the straight line and than doing nothing, each margin with its interval. A dataset alone: the "
        "in-silico twin, described protocol, over all perturbations; with a clock: the experimental twin "
        "over five folds and the perturbations with an effect, in pseudotime or in measured time.",
        "In-silico rows on the new panel and folds; more perturbations with an effect.",
        twins_agree,
        (*DATASETS, *CLOCKS),
    ),
    Claim(
        "Section 4; Tables 2, 5, 8",
        "The embedding model predicts the perturbed state.",
        "Five folds, truth from test controls within context: primary metric of the experimental twin less "
        "that of the row that knows most without training (the mean of each perturbation; of a pair the sum "
        "of its parts; of an unseen perturbation the better of the mean effect and a linear map of gene "
        "vectors; in a held-out context the mean of the others), over perturbations with an effect. "
        "The interval holds the chance of folds, perturbations and seeds; 'smallest' is the difference that "
        "80 % power would see.",
        "More perturbations, where U is small; other data.",
        experimental_twin,
        PREDICTED,
    ),
    Claim(
        "Section 2, on Ahlmann-Eltze 2025",
        "Escaping local optima lets a deep model outperform simple baselines.",
        "Described protocol: the better of PPO and two_stage against the mean of each perturbation.",
        "Unseen perturbations; an environment with basins (chapter 13).",
        deep_beats_mean,
    ),
    Claim(
        "Section 3.3.2; Eq. 12",
        "The Wasserstein distance of the tables is Eq. 12.",
        "The printed tables themselves: with two points DTW is twice Eq. 12.",
        "Nothing; it is arithmetic on the printed digits.",
        printed_wasserstein,
        ("the paper",),
    ),
)


# -- escape: chapter 13's experiment ----------------------------------------------------------------------
#: Landscapes that can be escaped from, as the page names them; the last word is the name in runs.csv.
LANDSCAPES = ("toggle switch, barrier low", "toggle switch, barrier middle", "toggle switch, barrier high")


def _escapes(landscape: str, contestant: str) -> pd.DataFrame:
    """Return the final policies of a contestant on a landscape in the main experiment, by seed."""
    runs = escape_tables.escape_results("runs")
    return escape_tables.chosen_runs(runs, contestant, landscape.split(" ")[-1], experiment="main")


def _reached(landscape: str, contestant: str) -> str:
    """Say how many final policies bring most of their cells to the target, with Wilson's interval."""
    runs = _escapes(landscape, contestant)
    share = escape_tables.rate(runs)
    return (
        f"{contestant} {int(runs['reached'].sum())} of {len(runs)} [{share['low']:.2f}, {share['high']:.2f}]"
    )


def _more_success(landscape: str, first: str, second: str) -> Evidence:
    """Compare the share of cells that end in the target's basin, paired by seed."""
    ours, theirs = (_escapes(landscape, name)["success"] for name in (first, second))
    gain = paired_difference(ours, theirs)
    text = f"seeds that reach the target: {_reached(landscape, first)}, {_reached(landscape, second)}; "
    text += f"share of cells {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return Evidence(text, _verdict(gain.low, gain.high))


def escape_by_warm_start(landscape: str) -> Evidence:
    """Two stages against PPO."""
    return _more_success(landscape, "two_stage", "PPO")


def escape_by_curvature(landscape: str) -> Evidence:
    """Two stages against the same restart without TRPO."""
    return _more_success(landscape, "two_stage", "PPO_restart")


def escape_by_restarts(landscape: str) -> Evidence:
    """Two stages against PPO whose steps are shared by fresh starts."""
    return _more_success(landscape, "two_stage", "PPO_random_restarts")


def trapped(landscape: str) -> Evidence:
    """Is PPO trapped: does it reach the target with fewer than half of its seeds?"""
    share = escape_tables.rate(_escapes(landscape, "PPO"))
    return Evidence(
        f"seeds that reach the target: {_reached(landscape, 'PPO')}",
        _verdict(0.5 - share["high"], 0.5 - share["low"]),
    )


ESCAPE_CLAIMS = (
    Claim(
        "Abstract; Section 1",
        "A poor initialisation traps PPO in a local optimum of the landscape.",
        "Chapter 13: seeds of PPO whose final policy brings at least half of its cells into the target's "
        "basin. 'Holds' needs an interval below one half.",
        "Another cost of control, another barrier, more steps.",
        trapped,
        LANDSCAPES,
    ),
    Claim(
        "Abstract; Section 1",
        "The trust-region start lets the policy escape local optima.",
        "Chapter 13: share of cells that the final policy brings into the target's basin, two_stage against "
        "PPO, paired by seed, every contestant tuned alike.",
        "Another cost of control, another barrier, another budget of tuning.",
        escape_by_warm_start,
        LANDSCAPES,
    ),
    Claim(
        "Section 1",
        "What helps the escape is the curvature of the first stage.",
        "Chapter 13: the same against PPO_restart, which has the same restart without TRPO.",
        "As above.",
        escape_by_curvature,
        LANDSCAPES,
    ),
    Claim(
        "Abstract",
        "Initialising well is what is needed, so that a two-stage start beats starting again.",
        "Chapter 13: the same against PPO that shares its steps among fresh random starts.",
        "As above.",
        escape_by_restarts,
        LANDSCAPES,
    ),
)


def all_claims() -> tuple[Claim, ...]:
    """Return every claim: those of the tables, and those on escape where its results are packaged."""
    escaped = (tables.results_folder() / "escape" / "runs.csv").is_file()
    return (*CLAIMS, *ESCAPE_CLAIMS) if escaped else CLAIMS


def evidence() -> pd.DataFrame:
    """Return one row a claim and dataset for which packaged results exist."""
    rows: list[dict[str, Any]] = []
    for number, claim in enumerate(all_claims(), start=1):
        for dataset in claim.datasets:
            try:
                shown = claim.measure(dataset)
            except (ResultsError, KeyError):
                continue
            rows.append(
                {"Claim": number, "Dataset": dataset, "Number": shown.number, "Verdict": shown.verdict}
            )
    return pd.DataFrame(rows, columns=["Claim", "Dataset", "Number", "Verdict"])


def _standing() -> list[str]:
    """Say on which preparation of the cells the described runs stand."""
    manifests = (tables.read_table("described", name, "manifest") for name in DATASETS)
    told = sorted({tables.preparation_of(manifest) for manifest in manifests})
    return [f"Described protocol: {' '.join(told)}"]


def page() -> str:
    """Return the text of book/claims.md."""
    table = evidence()
    lines = [
        "# Claims",
        "",
        "Each statement of the paper that can be tested, where it stands, how it was tested, the number with "
        "its interval, and the verdict.",
        "This page is generated from the committed results by `python -m experiments claims`; none "
        "of its numbers is typed.",
        "A verdict of *holds* needs an interval that excludes zero on the right side, *does not hold* one on "
        "the wrong side; everything else *cannot be told here*.",
        "Claims that are decided by a rule and not by an interval state the rule in their test; *holds by "
        "construction* marks what the code cannot break.",
        "No correction is made for the number of claims.",
        "The data are stand-ins (chapter 12 says which stands for which of the paper's), so a verdict speaks "
        "of the method on these data, not of the paper's numbers.",
        *_standing(),
        "",
    ]
    for number, claim in enumerate(all_claims(), start=1):
        lines += [f"## {number}. {claim.statement}", "", f"- Where: {claim.where}", f"- Test: {claim.test}"]
        lines += [f"- What would change it: {claim.change}", ""]
        rows = table[table["Claim"] == number].drop(columns="Claim")
        empty = "No packaged result measures it yet: cannot be told here."
        lines += [tables.markdown(rows) if len(rows) else empty, ""]
    return "\n".join(lines)
