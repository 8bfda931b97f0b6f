"""The experimental twin and its baselines on every split that a dataset can give.

splits.csv has one row a held-out group, context, algorithm and seed; regression.csv has the shape of the
paper's Tables 2, 5 and 8; genes.csv has, for the split by cells, the genes that the twin of seed 0 misses
most in each group. The seed moves the twin's training (and the halves of the ceiling); split, embedding and
baselines are the same for all seeds.

For the split `cells` the packaged embedding is used; for every other split an embedding is trained on that
split's training cells, with few passes. Leaving one perturbation out at a time, gene panel, scaler and
embedding come from the cells that are training cells in all folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.part import Part, Row
from twinlib.data.pairing import Pairs, pair
from twinlib.data.preparation import Prepared, prepare, standard
from twinlib.data.schema import CONTROL, parts
from twinlib.data.simulated import simulate_waddington
from twinlib.data.sources import dataset as entry
from twinlib.data.sources import load
from twinlib.errors import DataError
from twinlib.evaluation.metrics import (
    e_distance,
    overlap_at_n,
    pds,
    pearson_delta,
    pseudobulk_mse,
    regression_metrics,
    w1,
)
from twinlib.experimental.baselines import BASELINES, ceiling, encode_rows
from twinlib.experimental.perturbation_model import PerturbationModelConfig, fit_perturbation_model

if TYPE_CHECKING:
    from anndata import AnnData

    from experiments.folder import Parts
    from twinlib.embedding.attention import Embedding

#: Maps controls [n, G], n labels and a dose to predicted cells [n, G].
Predict: TypeAlias = Callable[..., np.ndarray]
#: Pairs of a split of cells, by the split and the kind of partner.
Matched: TypeAlias = dict[tuple[str, str], Pairs]

#: Groups with fewer test cells are not scored.
FEWEST = 10
#: Cells a side of the E-distance, which compares all pairs of cells.
CLOUD = 200
#: Genes of the overlap.
TOP = 20
#: Genes of a group in the table of misses.
MISSES = 5
#: Pairs a block of the paper-shaped table is computed on.
PAIRS = 1500
#: Seeds of the expensive rows that only repeat a check.
FEW = 3


MEAN_ONLY = PerturbationModelConfig(cell_network=False)


@dataclass(frozen=True)
class Fold:
    """One prepared split with its embedding: what every row of it shares."""

    dataset: str
    #: Name of the split, and what this fold of it holds out.
    split: str
    held_out: str
    prepared: Prepared
    embedding: Embedding
    #: Seeds of the twin.
    seeds: int
    #: Also fit the twin on shuffled labels, and write the paper-shaped table.
    full: bool = False
    #: How the twin is trained.
    config: PerturbationModelConfig = PerturbationModelConfig()


def short_embedding(prepared: Prepared, epochs: int) -> Embedding:
    """Train an embedding on the training cells of this split, with few passes."""
    from twinlib.embedding.attention import EmbeddingConfig
    from twinlib.embedding.train import train_embedding

    return train_embedding(prepared, EmbeddingConfig(epochs=epochs), seed=0)[0]


def packaged_embedding(prepared: Prepared, epochs: int) -> Embedding:
    """Load the packaged embedding of the standard split, or train a short one where there is none."""
    from twinlib.embedding.train import pretrained

    try:
        embedding = pretrained(prepared.dataset)
        embedding.require(prepared)
    except (DataError, FileNotFoundError):
        return short_embedding(prepared, epochs)
    return embedding


# --- tasks ---


def cells_task(name: str, seeds: int, epochs: int) -> Iterator[Fold]:
    """Hold out cells of every perturbation."""
    prepared = standard(name)
    yield Fold(name, "cells", "", prepared, packaged_embedding(prepared, epochs), seeds, full=True)


def doubles_task(name: str, seeds: int, epochs: int) -> Iterator[Fold]:
    """Hold out combinations of which both parts are known."""
    cells = load(name)
    labels = set(cells.obs["perturbation"].astype(str))
    both = [label for label in labels if len(parts(label)) > 1 and set(parts(label)) <= labels]
    held = sorted(both) if name == "norman2019" else ()
    prepared = prepare(cells, entry(name).panel, split="doubles", held_out=held)
    yield Fold(name, "doubles", "", prepared, short_embedding(prepared, epochs), seeds)


def perturbations_task(name: str, seeds: int, epochs: int) -> Iterator[Fold]:
    """Leave one measured target out in turn; panel, scaler and embedding know none of the targets.

    The twin's cell network is left out: it cannot change a mean, and matching all pairs anew in every fold
    takes long.
    """
    cells = load(name)
    labels = set(cells.obs["perturbation"].astype(str))
    targets = sorted(labels & set(cells.var_names))
    base = prepare(cells, entry(name).panel, split="perturbations", held_out=targets)
    embedding = short_embedding(base, epochs)
    for target in targets:
        fold = give_back(base, set(targets) - {target})
        yield Fold(name, "perturbations", target, fold, embedding, min(seeds, FEW), config=MEAN_ONLY)


def give_back(base: Prepared, labels: set[str]) -> Prepared:
    """Return the split with the cells of some held-out labels put back into training."""
    cells = base.cells.copy()
    back = cells.obs["perturbation"].astype(str).isin(labels).to_numpy()
    cells.obs["split"] = np.where(back, "train", cells.obs["split"].astype(str))
    fifth = np.random.default_rng(base.seed).random(len(back)) < 0.2
    cells.obs["validation"] = np.where(back, fifth, cells.obs["validation"])
    train = tuple(sorted(set(base.train_perturbations) | labels))
    return replace(base, cells=cells, train_perturbations=train)


def contexts_task(name: str, seeds: int, epochs: int) -> Iterator[Fold]:
    """Leave one cell context out in turn."""
    cells = simulated(contexts=("reference", "slow")) if name == "waddington" else load(name)
    held = ["slow"] if name == "waddington" else sorted(set(cells.obs["cell_context"].astype(str)))
    for context in held:
        prepared = prepare(cells, entry(name).panel, split="contexts", held_out=[context])
        yield Fold(name, "contexts", context, prepared, short_embedding(prepared, epochs), seeds)


def doses_task(name: str, seeds: int, epochs: int) -> Iterator[Fold]:
    """Hold out the middle dose."""
    cells = simulated(doses=(0.25, 0.5, 1.0), perturbations=SOME, n_cells=4000)
    prepared = prepare(cells, entry(name).panel, split="doses", held_out=[0.5])
    yield Fold(name, "doses", "0.5", prepared, short_embedding(prepared, epochs), min(seeds, FEW))


def cytokines_task(name: str, seeds: int, epochs: int) -> Iterator[Fold]:
    """Hold out two combinations of cytokines."""
    mixed = ("EPO", "TPO", "M-CSF", "G-CSF", "EPO+TPO", "G-CSF+M-CSF", "EPO+M-CSF", "G-CSF+TPO", "EPO+G-CSF")
    cells = simulated(cytokines=mixed, perturbations=SOME, n_cells=3500)
    held = ["EPO+TPO", "EPO+M-CSF"]
    prepared = prepare(cells, entry(name).panel, split="doubles", held_out=held)
    yield Fold(name, "cytokine_doubles", "", prepared, short_embedding(prepared, epochs), min(seeds, FEW))


SOME = ("Gata1", "Gata2", "Pu1", "Cebpa", "Fli1", "EKLF", "Gfi1", "cJun", "EgrNab", "Gata1+Pu1", "Cebpa+Gfi1")


def simulated(**design: Any) -> AnnData:
    """Return simulated cells with a design of their own."""
    return simulate_waddington(seed=0, **design)


Task: TypeAlias = Callable[[str, int, int], Iterator[Fold]]
#: The splits of each dataset.
TASKS: dict[str, dict[str, Task]] = {
    "waddington": {
        "cells": cells_task,
        "doubles": doubles_task,
        "perturbations": perturbations_task,
        "contexts": contexts_task,
        "doses": doses_task,
        "cytokine_doubles": cytokines_task,
    },
    "papalexi2021": {"cells": cells_task, "perturbations": perturbations_task},
    "norman2019": {"cells": cells_task, "doubles": doubles_task},
    "kang2018": {"cells": cells_task, "contexts": contexts_task},
    "cross_study": {"cells": cells_task},
}


# --- scoring ---


@dataclass(frozen=True)
class Group:
    """Held-out cells of one label, context and dose, and the controls from which they are predicted."""

    label: str
    context: str
    dose: float
    x: np.ndarray
    y: np.ndarray
    reference: np.ndarray
    centroid: np.ndarray


def groups(fold: Fold) -> list[Group]:
    """Return the groups with enough test cells; the reference is the training-control mean of the context.

    A context without training controls takes the mean of its test controls.
    """
    p = fold.prepared
    obs = p.cells.obs
    values = np.asarray(p.cells.X)
    label, context = obs["perturbation"].to_numpy(dtype=str), obs["cell_context"].to_numpy(dtype=str)
    dose, test = obs["dose"].to_numpy(dtype=float), (obs["split"] == "test").to_numpy()
    centroid = np.mean([p.expression("train", name).mean(axis=0) for name in p.train_perturbations], axis=0)
    split = []
    starts = {place: p.expression("test", CONTROL, place) for place in np.unique(context[test])}
    for name, place, level in sorted(set(zip(label[test], context[test], dose[test], strict=True))):
        mine = test & (label == name) & (context == place) & (dose == level)
        x = starts[place]
        if name == CONTROL or mine.sum() < FEWEST or len(x) < FEWEST:
            continue
        known = p.expression("train", CONTROL, place)
        reference = (known if len(known) else x).mean(axis=0)
        split.append(Group(name, place, float(level), x, values[mine], reference, centroid))
    return split


def mean_scores(group: Group, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the metrics of a predicted cloud [n, G] against real cells [m, G], all in log1p units."""
    guess, real = predicted.mean(axis=0), truth.mean(axis=0)
    rng = np.random.default_rng(0)
    few = [cloud[rng.permutation(len(cloud))[:CLOUD]] for cloud in (predicted, truth)]
    return {
        "pearson_delta": pearson_delta(real, guess, group.reference),
        "pearson_delta_centroid": pearson_delta(real, guess, group.centroid),
        "l2": float(np.linalg.norm(real - guess)),
        "pseudobulk_mse": pseudobulk_mse(real, guess),
        "e_distance": e_distance(*few),
        "w1": w1(predicted, truth),
        "overlap_at_20": overlap_at_n(real - group.reference, guess - group.reference, min(TOP, len(real))),
    }


def rows_of(fold: Fold, all_groups: list[Group], predict: Predict, algorithm: str, seed: int) -> list[Row]:
    """Return one row a group for one algorithm; PDS is filled in over the groups of one context and dose."""
    rows, guesses = [], []
    for group in all_groups:
        guess = predict(group.x, [group.label] * len(group.x), group.dose)
        guesses.append(guess.mean(axis=0) - group.reference)
        row = head(fold, group, algorithm, seed)
        rows.append(row | mean_scores(group, guess, group.y))
    return with_pds(fold, all_groups, rows, np.stack(guesses))


def misses(fold: Fold, all_groups: list[Group], predict: Predict) -> Iterator[Row]:
    """Yield the genes of each group whose mean is missed most, measured by the variance of sampling alone."""
    genes = np.array(fold.prepared.genes)
    for group in all_groups:
        guess = predict(group.x, [group.label] * len(group.x), group.dose).mean(axis=0)
        real = group.y.mean(axis=0)
        noise = group.y.var(axis=0) / len(group.y) + group.x.var(axis=0) / len(group.x) + 1e-4
        ratio = (guess - real) ** 2 / noise
        for i in np.argsort(-ratio)[:MISSES]:
            row: Row = {"dataset": fold.dataset, "split": fold.split, "perturbation": group.label}
            row |= {"context": group.context, "dose": group.dose, "gene": genes[i]}
            row |= {"change": real[i] - group.reference[i], "error": guess[i] - real[i], "ratio": ratio[i]}
            yield row


def head(fold: Fold, group: Group, algorithm: str, seed: int) -> Row:
    """Return the columns that say which group, algorithm and seed a row is about."""
    return {
        "dataset": fold.dataset,
        "split": fold.split,
        "held_out": fold.held_out,
        "perturbation": group.label,
        "context": group.context,
        "dose": group.dose,
        "Algorithm": algorithm,
        "seed": seed,
        "n_test": len(group.y),
    }


def with_pds(fold: Fold, all_groups: list[Group], rows: list[Row], guesses: np.ndarray) -> list[Row]:
    """Fill the perturbation discrimination score in over the groups of one context and dose."""
    column = {gene: i for i, gene in enumerate(fold.prepared.genes)}
    keys = [(group.context, group.dose) for group in all_groups]
    for key in set(keys):
        index = [i for i, own in enumerate(keys) if own == key]
        if len(index) < 2:
            continue
        truth = np.stack([all_groups[i].y.mean(axis=0) - all_groups[i].reference for i in index])
        target = [column.get(all_groups[i].label, -1) for i in index]
        for i, score in zip(index, pds(truth, guesses[index], target), strict=True):
            rows[i]["pds"] = float(score)
    return rows


def ceiling_rows(fold: Fold, all_groups: list[Group], seed: int) -> list[Row]:
    """Return the technical duplicate: one random half of the real test cells against the other."""
    rows = []
    for group in all_groups:
        if len({(g.label, g.context) for g in all_groups}) == len(all_groups):
            one, other = ceiling(fold.prepared, group.label, seed, group.context)
        else:
            order = np.random.default_rng(seed).permutation(len(group.y))
            one, other = group.y[order[: len(order) // 2]], group.y[order[len(order) // 2 :]]
        rows.append(head(fold, group, "ceiling", seed) | mean_scores(group, one, other))
    return rows


def shuffled(prepared: Prepared, seed: int) -> Prepared:
    """Return the dataset with labels shuffled among the perturbed training cells of each context."""
    cells = prepared.cells.copy()
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    perturbed = ((cells.obs["split"] == "train") & (labels != CONTROL)).to_numpy()
    context = cells.obs["cell_context"].astype(str).to_numpy()
    for place in np.unique(context):
        rows = np.flatnonzero(perturbed & (context == place))
        labels[rows] = np.random.default_rng(seed).permutation(labels[rows])
    cells.obs["perturbation"] = labels
    return replace(prepared, cells=cells)


def paper_rows(fold: Fold, predict: Predict, algorithm: str, seed: int, matched: Matched) -> Iterator[Row]:
    """Yield the rows of the paper's Table 2: cell by cell against a partner, train and test."""
    p = fold.prepared
    values = np.asarray(p.cells.X)
    dose = p.cells.obs["dose"].to_numpy(dtype=float)
    for (split, partner), pairs in matched.items():
        guess = predict(values[pairs.control], list(pairs.perturbation), dose[pairs.perturbed])
        truth = values[pairs.perturbed]
        for space, change in (("log1p", np.asarray), ("z", p.scale)):
            scores = regression_metrics(change(truth), change(guess))
            row: Row = {"dataset": fold.dataset, "Algorithm": algorithm, "seed": seed, "Split": split}
            yield row | {"partner": partner, "space": space} | scores


def all_pairs(prepared: Prepared, train: Pairs) -> Matched:
    """Return a random part of the pairs of each block of the paper-shaped table."""
    blocks = {
        ("train", "ot"): train,
        ("test", "ot"): pair(prepared, "test"),
        ("test", "random"): pair(prepared, "test", "random"),
    }
    return {key: part(pairs) for key, pairs in blocks.items()}


def part(pairs: Pairs) -> Pairs:
    """Return a random part of some pairs."""
    keep = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    names = ("control", "perturbed", "share", "perturbation")
    return replace(pairs, **{name: getattr(pairs, name)[keep] for name in names})


class Trainer:
    """Fits the twin on one fold."""

    def __init__(self, fold: Fold, scored: list[Group], latent: np.ndarray) -> None:
        self.fold, self.latent = fold, latent
        prepared, embedding = fold.prepared, fold.embedding
        self.pairs = pair(prepared) if fold.config.cell_network else None
        self.starts = {id(group.x): encode_rows(prepared, embedding, group.x) for group in scored}

    def fit(self, seed: int, config: PerturbationModelConfig, prepared: Prepared | None = None) -> Predict:
        """Return the prediction function of a twin that was trained with one seed."""
        pairs = self.pairs if prepared is None else None
        cells = self.fold.prepared if prepared is None else prepared
        model = fit_perturbation_model(cells, self.fold.embedding, pairs, config, seed, latent=self.latent)
        return lambda x, labels, dose=None: model.predict(x, labels, dose, self.starts.get(id(x)))


def latent_cells(fold: Fold) -> np.ndarray:
    """Return the codes [n, D] of all cells of a fold."""
    cells = encode_rows(fold.prepared, fold.embedding, np.asarray(fold.prepared.cells.X))
    return np.asarray(cells.numpy())


def run_fold(fold: Fold, latent: np.ndarray) -> dict[str, list[Row]]:
    """Score every baseline, the ceiling and the twin with its seeds on one fold; also what seed 0 misses."""
    scored = groups(fold)
    trainer = Trainer(fold, scored, latent)
    matched = all_pairs(fold.prepared, trainer.pairs) if fold.full and trainer.pairs else {}
    rows, table = baseline_rows(fold, scored, matched)
    missed: list[Row] = []
    for seed in range(fold.seeds):
        rows += ceiling_rows(fold, scored, seed)
        predict = trainer.fit(seed, fold.config)
        rows += rows_of(fold, scored, predict, "experimental", seed)
        if seed < FEW:
            table += list(paper_rows(fold, predict, "experimental", seed, matched))
        if fold.full and seed == 0:
            missed = list(misses(fold, scored, predict))
    return {"splits": rows + extra_rows(fold, scored, trainer), "regression": table, "genes": missed}


def baseline_rows(fold: Fold, scored: list[Group], matched: Matched) -> tuple[list[Row], list[Row]]:
    """Score the baselines that a fold allows; `linear` needs measured targets."""
    rows, table = [], []
    for name, fit in BASELINES.items():
        try:
            predict = fit(fold.prepared, fold.embedding).predict
            rows += rows_of(fold, scored, predict, name, 0)
            table += list(paper_rows(fold, predict, name, 0, matched))
        except DataError as error:
            print(f"{fold.dataset} {fold.split} {fold.held_out}: {name} is left out. {error}")
    return rows, table


def extra_rows(fold: Fold, scored: list[Group], trainer: Trainer) -> list[Row]:
    """Score the twin without its cell network, and on shuffled labels where the fold asks for it."""
    rows = []
    for seed in range(min(FEW, fold.seeds)):
        if fold.config.cell_network:
            predict = trainer.fit(seed, MEAN_ONLY)
            rows += rows_of(fold, scored, predict, "experimental_mean_only", seed)
        if fold.full and len(fold.prepared.train_perturbations) > 1:
            predict = trainer.fit(seed, MEAN_ONLY, shuffled(fold.prepared, seed))
            rows += rows_of(fold, scored, predict, "experimental_shuffled", seed)
    return rows


@dataclass(frozen=True)
class ExperimentalSplits(Experiment):
    """The experimental twin beside baselines and ceiling, on every split that a dataset can give."""

    name = "experimental"

    dataset: str = option("waddington", f"one of {', '.join(TASKS)}; several: DIR/NAME each")
    splits: tuple[str, ...] = option((), "splits of the dataset; default: all it has")
    seeds: int = option(10, "training seeds of the twin")
    epochs: int = option(1, "passes of an embedding that is trained for a split")

    def __post_init__(self) -> None:
        one_of("split table of", [self.dataset], tuple(TASKS))
        one_of(f"split of {self.dataset}", self.splits, tuple(TASKS[self.dataset]))
        at_least_one(self, "seeds", "epochs")

    def parts(self, finished: Parts) -> Sequence[str]:
        """One part a split: its folds may share an embedding."""
        return self.splits or tuple(TASKS[self.dataset])

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Score every fold of one split; cells are encoded once for folds that share an embedding."""
        warnings.filterwarnings("ignore", category=FutureWarning)
        tables: dict[str, list[Row]] = {"splits": [], "regression": [], "genes": []}
        folds: list[Row] = []
        embedding, latent = None, np.empty(0)
        for fold in TASKS[self.dataset][part](self.dataset, self.seeds, self.epochs):
            if embedding is not fold.embedding:
                embedding, latent = fold.embedding, latent_cells(fold)
            for name, rows in run_fold(fold, latent).items():
                tables[name] += rows
            p = fold.prepared
            folds.append({"held_out": fold.held_out, "data_hash": p.data_hash, "fingerprint": p.fingerprint})
        return Part({**tables}, {"folds": folds, "config": asdict(fold.config)})

    def facts(self, finished: Parts) -> Row:
        """Return folds and settings by task."""
        parts = {name: finished.facts(name) for name in self.parts(finished)}
        kept = {name: {key: facts[key] for key in ("folds", "config")} for name, facts in parts.items()}
        return {"tasks": {f"{self.dataset}/{name}": facts for name, facts in kept.items()}}
