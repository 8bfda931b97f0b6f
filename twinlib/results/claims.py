"""The paper's statements that can be tested, each with a number from the packaged results and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from twinlib.errors import InputError, ResultsError
from twinlib.evaluation.calibration import MIN_UNITS, Estimate, estimate
from twinlib.results import tables, trajectory_tables
from twinlib.results.judged import in_words, judged_splits
from twinlib.results.policy_claims import DTW_UNIT, ESCAPES, POLICY_CLAIMS, SCORE_UNIT
from twinlib.results.verdicts import (
    ALPHA,
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Evidence,
    Rows,
    by_interval,
    cell,
    corrected,
    weakest,
    withheld,
)

#: Datasets of the released protocol, in the order of the page.
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


def _seeds(dataset: str, algorithm: str, metric: str, logs: int = 2) -> pd.Series:
    """Return a metric of the released rows on test cells by seed; `logs` is the number of logarithms."""
    rows = tables.read_table("released", dataset, "regression")
    chosen = (rows["Algorithm"] == algorithm) & (rows["Split"] == "Test") & (rows["space"] == "latent")
    values = rows[chosen & (rows["logs"] == logs)].set_index("Seed")[metric].dropna()
    if values.empty:
        raise KeyError(f"{dataset} has no {metric} of {algorithm}")
    return values


def start_to_final(dataset: str) -> Evidence:
    """The metric of Table 1: does the printed order return, and what does do-nothing score?"""
    ours = {a: _seeds(dataset, a, "MSE").mean() for a in ("do_nothing", "PPO", "TRPO_PPO_zero_target")}
    text = (
        f"start-to-final MSE: PPO {ours['PPO']:.4f}, TRPO then PPO {ours['TRPO_PPO_zero_target']:.4f}, "
        f"do-nothing {ours['do_nothing']:.4f}; saved on PPO"
    )
    return _by_logarithms(dataset, "MSE", text, sign=-1)


def released_reward(dataset: str) -> Evidence:
    """The released environment's own reward on test cells: TRPO then PPO against PPO, by logarithms."""
    return _by_logarithms(dataset, "reward", "TRPO then PPO - PPO")


def _by_logarithms(dataset: str, metric: str, text: str, sign: int = 1) -> Evidence:
    """Return what the released TRPO_PPO gains on PPO with each preprocessing.

    One logarithm is the mended preprocessing, two the released one; a verdict needs both to agree.
    """
    words = {"two logarithms": 2, "one logarithm": 1}
    gains = {word: released_gain(dataset, metric, logs, sign) for word, logs in words.items()}
    texts = [f"{w} {g.mean:+.2f} [{g.low:+.2f}, {g.high:+.2f}], {g.units} seeds" for w, g in gains.items()]
    verdicts = {by_interval(gain.low, gain.high) for gain in gains.values()}
    text, released = f"{text}: " + "; ".join(texts), gains["two logarithms"]
    if len(verdicts) == 1:
        return Evidence(text, verdicts.pop(), released, corrected=False)
    return Evidence(f"{text} (the verdict hangs on the preprocessing)", OPEN, released, corrected=False)


def released_gain(dataset: str, metric: str, logs: int = 2, sign: int = 1) -> Estimate:
    """Return what the released TRPO_PPO gains on PPO, paired by seed; `sign` -1 where less is better."""
    first, second = (_seeds(dataset, name, metric, logs) for name in ("TRPO_PPO_zero_target", "PPO"))
    return estimate(sign * (first - second).to_numpy(dtype=np.float64))


def second_stage_trains(dataset: str) -> Evidence:
    """How many optimizer steps the released second stage takes, of those that are due."""
    rows = tables.read_table("released", dataset, "regression")
    rows = rows[(rows["Algorithm"] == "TRPO_PPO_zero_target") & (rows["logs"] == 2)]
    if rows.empty:
        raise KeyError("no zero-target row")
    taken, updates = rows["second_stage_steps"].mean(), rows["second_stage_updates"].mean()
    due = updates * 10 * 2048 / 256
    text = f"{taken:.0f} optimizer steps in {updates:.0f} updates; {due:.0f} were due"
    return Evidence(text, HOLDS if taken > due / 2 else FAILS, value=taken / due)


def twins_agree(place: str) -> Evidence:
    """Is the experimental twin nearer to the real trajectory of `DATASET, CLOCK` than all that knows less?

    What knows less: the same twin with shuffled labels, the straight line and doing nothing.
    """
    dataset, _, clock = place.partition(", ")
    margins = _by_clock(dataset, clock)
    text = "experimental, DTW gained on " + "; on ".join(f"{n} {in_words(m)}" for n, m in margins.items())
    if any(m.units < MIN_UNITS for m in margins.values()):
        text += f"; under {MIN_UNITS} units, intervals over folds alone, no verdict"
        least = min(margins.values(), key=lambda m: m.mean)
        return Evidence(text, OPEN, withheld(least), corrected=False)
    return Evidence(text, *weakest(margins.values()), corrected=False)


def _unless_untested(dataset: str, shown: Evidence) -> Evidence:
    """Withhold a verdict where every label's change holds the difference of two studies."""
    if dataset not in UNTESTED or shown.gap is None:
        return shown
    text = f"{shown.number}; the controls come from another study, so no verdict"
    return Evidence(text, OPEN, withheld(shown.gap))


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
    return _unless_untested(dataset, Evidence(text, by_interval(gap.low, gap.high), gap))


def printed_wasserstein(dataset: str) -> Evidence:
    """Could the paper's 'Wasserstein' columns be Eq. 12? With two points DTW would be exactly twice."""
    ratios = []
    for number in (3, 6, 9):
        table = tables.paper_table(number)
        ratios += (table["DTW"].astype(float) / table["Wasserstein"].astype(float)).tolist()
    text = (
        f"DTW / Wasserstein as printed: {min(ratios):.2f} to {max(ratios):.2f}; Eq. 12 of two points gives 2"
    )
    return Evidence(text, HOLDS if np.allclose(ratios, 2, atol=0.01) else FAILS, value=max(ratios))


#: Claims on what the tables and the public code say; those on policies and on escape have their own module.
CLAIMS = (
    Claim(
        "Section 4.1; Tables 1, 4, 7",
        "TRPO_PPO greatly outperforms PPO in the regression metrics.",
        "Released protocol: the printed metric compares the start state with the final state; do-nothing "
        "scores 0. By seed, with the second logarithm of the public code and without it; a verdict needs "
        "both to agree. 'Holds' says that the printed order returns, not that it means better prediction.",
        "A metric that compares a prediction with an observation, as those of the other claims do.",
        start_to_final,
        DATASETS,
        "From Table 1, the result indicated that the proposed TRPO_PPO greatly outperformed the PPO.",
        "Section 4.1",
        "12_replication",
        "The pattern of Tables 1, 4 and 7",
        (Rows("released", "regression"),),
        "saved MSE between start and end of a rollout: no prediction is judged, and doing nothing saves most",
    ),
    Claim(
        "Sections 3.3 and 4.2",
        "TRPO_PPO outperforms PPO in the reward that both are trained for.",
        "The paper prints no reward; its Section 3.3 says what both are paid for. Released protocol: the "
        "environment's own reward over 1,500 deterministic test rollouts, by seed, with the second "
        "logarithm of the public code and without it. A verdict needs both to agree.",
        "A second stage that trains.",
        released_reward,
        DATASETS,
        "We observed that the proposed TRPO_PPO outperformed the PPO model across all the metrics.",
        "Section 4.2",
        "12_replication",
        "What the second logarithm does",
        (Rows("released", "regression"),),
        "difference in reward of an episode",
    ),
    Claim(
        "Remark 3.1; Section 4.1",
        "The KL observed in TRPO initialises the second stage, which then refines the policy.",
        "Released protocol: optimizer steps of the second stage, of those due. 'Holds' needs half of them.",
        "A target KL that is not zero: the mended rows of chapter 12.",
        second_stage_trains,
        DATASETS,
        "We use the TRPO with the hard KL divergence constraint for a few iteration to obtain an "
        "estimate of the KL divergence value, which is used to initialize the PPO with KL divergence "
        "penalty to provide a warm-start needed for the model to escape local optima while navigating "
        "the Waddington landscape.",
        "Remark 3.1",
        "12_replication",
        "Step three: a missing key and a second stage that stands still",
        (Rows("released", "regression"),),
        "share of the optimizer steps that were due",
    ),
    Claim(
        "Section 4; Tables 3, 6, 9",
        "Trajectories of the experimental twin are similar to the real ones.",
        "The paper's tables hold each system's trajectory against experimental references. DTW of the "
        "experimental twin to the real trajectory; similar must mean nearer than the same twin with "
        "shuffled labels, than the straight line and than doing nothing, each margin with its interval "
        "over five folds and the perturbations with an effect, in pseudotime or in measured time.",
        "More perturbations with an effect.",
        twins_agree,
        CLOCKS,
        "DTW results in Figure 4 as well as mean DTW and Wasserstein results in Table 3 illustrated "
        "that the trajectories produced by the insilico and experimental perturbation systems were "
        "similar.",
        "Section 4.1",
        "11_twin_evaluation",
        "The verdict: nearer than what?",
        (Rows("trajectories", "scores"), Rows("trajectories", "groups")),
        DTW_UNIT,
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
        "The embedding layer captures the biologically meaningful latent representation of the gene "
        "expression.",
        "Section 4.1",
        "04_experimental_twin",
        "What was asked, and what came out",
        (Rows("experimental", "scores"), Rows("experimental", "groups")),
        SCORE_UNIT,
    ),
    Claim(
        "Section 3.3.2; Eq. 12",
        "The Wasserstein distance of the tables is Eq. 12.",
        "The printed tables themselves: with two points DTW is twice Eq. 12.",
        "Nothing; it is arithmetic on the printed digits.",
        printed_wasserstein,
        ("the paper",),
        "We used dynamic time wrapping and Wasserstein distance to measure the similarities between "
        "the developmental dynamics trajectories generated by the simulated hardware and software "
        "model.",
        "Section 3.3.2",
        "11_twin_evaluation",
        "The plain baseline: two points",
        (),
        "largest DTW / Wasserstein as printed",
    ),
)


def all_claims() -> tuple[Claim, ...]:
    """Return every claim: those on policies, those of the tables, those on escape."""
    return (*POLICY_CLAIMS, *CLAIMS, *ESCAPES)


@dataclass(frozen=True)
class Judged:
    """A claim on one place, after Holm's correction."""

    #: Number of the claim on its page.
    claim: int
    #: A dataset, a split or a clock of it, or a landscape.
    place: str
    #: What the place says about it, before correction.
    told: Evidence
    #: The verdict after correction.
    verdict: str


def claim_number(statement: str) -> int:
    """Return the number of the claim whose statement begins so."""
    known = [n for n, claim in enumerate(all_claims(), start=1) if claim.statement.startswith(statement)]
    if len(known) != 1:
        raise InputError(f"{len(known)} claims begin with {statement!r}; give the beginning of one.")
    return known[0]


def judged() -> list[Judged]:
    """Return every claim on every place for which packaged results exist, corrected by Holm's rule."""
    shown: list[tuple[int, str, Evidence]] = []
    for number, claim in enumerate(all_claims(), start=1):
        for dataset in claim.datasets:
            try:
                shown.append((number, dataset, claim.measure(dataset)))
            except (ResultsError, KeyError):
                continue
    family = [row for row in shown if row[2].gap is not None and row[2].corrected]
    after = dict(zip(map(id, family), corrected([row[2].gap for row in family if row[2].gap]), strict=True))
    return [Judged(*row, after.get(id(row), row[2].verdict)) for row in shown]


def correction(rows: Sequence[Judged]) -> pd.DataFrame:
    """Return the family of claims that Holm's rule corrects, by p value, each with its threshold."""
    family = [
        {"claim": row.claim, "place": row.place, "verdict": row.verdict, "p": row.told.gap.p_value()}
        for row in rows
        if row.told.gap is not None and row.told.corrected and np.isfinite(row.told.gap.low)
    ]
    table = pd.DataFrame(family, columns=["claim", "place", "verdict", "p"])
    table = table.sort_values("p", kind="stable", ignore_index=True)
    return table.assign(threshold=ALPHA / np.arange(len(table), 0, -1))


def evidence(rows: Sequence[Judged]) -> pd.DataFrame:
    """Return one row for each of the judged claims, as text."""
    told = [
        {"Claim": row.claim, "Dataset": row.place, "Number": row.told.number, "Verdict": row.verdict}
        | {"Cell": cell(row.verdict, row.told)}
        for row in rows
    ]
    return pd.DataFrame(told, columns=["Claim", "Dataset", "Number", "Verdict", "Cell"])
