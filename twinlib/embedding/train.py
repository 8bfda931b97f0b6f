"""Train the embedding on training cells, keep it in one npz file, load the packaged ones.

`python -m twinlib.embedding.train DATASET` makes a packaged checkpoint again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import pathlib
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from twinlib.embedding.attention import CLAMP, Embedding, EmbeddingConfig
from twinlib.embedding.gene_graph import from_edges, knn_graph
from twinlib.errors import DataError
from twinlib.files import write_atomic

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared

CHECKPOINTS = pathlib.Path(__file__).parent / "checkpoints"
FORMAT = 1
#: Adam's epsilon, well above the encoder's first gradient: at principal components the residual of a cell is
#: orthogonal to the loadings, so that this gradient is rounding (5e-9), which depends on the number of
#: threads and must not be scaled to full steps
EPSILON = 1e-6
#: z-scores that differ by less are the same: float32 rounds a sum of up to +-10 by a tenth of this
RESOLUTION = 1e-5


def scaled_cells(prepared: Prepared, part: str) -> Tensor:
    """Return the z-scores [n, G] of a part: `train` cells fit, `validation` cells stop the training."""
    return torch.as_tensor(prepared.scale(prepared.expression(part)))


def gene_network(prepared: Prepared, network: str = "coexpression", k: int = 8) -> Tensor:
    """Return the neighbour table [G, k + 1]: 'coexpression' of training controls, or 'known' regulators.

    Raises DataError when the data set carries no regulators.
    """
    if network == "coexpression":
        controls = prepared.expression("train", "control")
        return knn_graph(prepared.scale(controls), min(k, len(prepared.genes) - 1))
    known = prepared.cells.uns.get("twinlib", {}).get("regulators")
    if known is None:
        raise DataError(
            f"{prepared.dataset!r} carries no known regulators; use network='coexpression', or 'waddington'."
        )
    return from_edges(zip(known["regulator"], known["target"], strict=True), prepared.genes)


def reconstruction_error(embedding: Embedding, x: Tensor) -> float:
    """Return the mean squared error of the reconstruction of z-scores x [n, G], both clamped to +-10.

    A reconstruction that is exact but for rounding (`RESOLUTION`) has error 0.
    """
    with torch.no_grad():
        target = x.clamp(-CLAMP, CLAMP)
        miss = embedding(target) - target
        return 0.0 if _exact(miss) else float(miss.square().mean())


def _exact(miss: Tensor) -> bool:
    """Is a difference of z-scores [n, G] nothing but rounding?"""
    return bool((miss.abs() < RESOLUTION).all())


class _Trainer:
    """One training run: weights, optimiser, generator, history; all of it fits one resumable file."""

    def __init__(self, prepared: Prepared, config: EmbeddingConfig, seed: int, device: str) -> None:
        self.config, self.device = config, device
        self.generator = torch.Generator().manual_seed(seed)
        graph = gene_network(prepared, config.network, config.neighbours)
        meta = dict(
            dataset=prepared.dataset,
            data_hash=prepared.data_hash,
            fingerprint=prepared.fingerprint,
            seed=seed,
        )
        self.embedding = Embedding(prepared.genes, graph, config, self.generator, meta).to(device)
        self.fit_cells = scaled_cells(prepared, "train").to(device)
        if config.start == "principal":
            self.embedding.start_at_principal_components(self.fit_cells.clamp(-CLAMP, CLAMP), self.generator)
        self.stop_cells = scaled_cells(prepared, "validation").to(device)
        trained = [p for p in self.embedding.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, eps=EPSILON
        )
        self.best = self._weights()
        self.history: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        """True when all passes are done or the validation error has not fallen for `patience` passes."""
        errors = [row["validation_mse"] for row in self.history]
        stale = len(errors) - 1 - int(np.argmin(errors)) if errors else 0
        return len(errors) >= self.config.epochs or stale >= self.config.patience

    def run_epoch(self) -> None:
        """Pass once over the fitting cells in random order, then score the validation cells."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        order = torch.randperm(len(self.fit_cells), generator=self.generator).to(self.device)
        losses = [self._step(self.fit_cells[rows]) for rows in torch.split(order, self.config.batch_size)]
        error = reconstruction_error(self.embedding, self.stop_cells)
        if not self.history or error < min(row["validation_mse"] for row in self.history):
            self.best = self._weights()
        row = dict(epoch=len(self.history) + 1, train_mse=float(np.mean(losses)), validation_mse=error)
        self.history.append(row)

    def _step(self, x: Tensor) -> float:
        target = x.clamp(-CLAMP, CLAMP)
        miss = self.embedding(target) - target
        if _exact(miss):  # Adam would scale rounding, which differs by the number of threads, to full steps
            return 0.0
        loss = miss.square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _learning_rate(self) -> float:
        share = len(self.history) / self.config.epochs
        return self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.embedding.state_dict().items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return everything a resumed run needs as plain arrays."""
        out = {f"weights/{k}": v.cpu().numpy() for k, v in self._weights().items()}
        out |= {f"best/{k}": v.cpu().numpy() for k, v in self.best.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            out |= {f"adam/{i}/{k}": v.cpu().numpy() for k, v in moments.items()}
        out["generator"] = self.generator.get_state().numpy()
        out["history"] = np.array([list(row.values()) for row in self.history]).reshape(-1, 3)
        return out

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Take up the run where `state` left it."""
        self.embedding.load_state_dict(_tensors(arrays, "weights/"))
        self.best = _tensors(arrays, "best/")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _tensors(arrays, "adam/").items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(torch.as_tensor(arrays["generator"]))
        columns = ("epoch", "train_mse", "validation_mse")
        self.history = [dict(zip(columns, map(float, row), strict=True)) for row in arrays["history"]]


def _tensors(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: torch.as_tensor(v) for k, v in arrays.items() if k.startswith(prefix)}


def train_embedding(
    prepared: Prepared,
    config: EmbeddingConfig | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[Embedding, pd.DataFrame]:
    """Fit the embedding to training cells by the squared error of z-scores; keep the best pass on validation.

    prepared: a `Prepared`. progress: show a tqdm bar. checkpoint: a file written after every pass; where it
    exists, the run goes on from it and ends with the same weights as an unbroken one. Returns the embedding
    (on the processor, in evaluation mode) and the history, one row a pass: epoch, train_mse, validation_mse.
    The number of threads moves errors by rounding alone, which training enlarges to less than one part in a
    thousand (one in a hundred where the panel has hardly more genes than latent dimensions); with one thread
    a run is repeated to the bit on the same machine. A start that is exact already (no more genes than latent
    dimensions) is left as it is. Raises DataError when the checkpoint belongs to another run.
    """
    trainer = _Trainer(prepared, config or EmbeddingConfig(), seed, device)
    path = None if checkpoint is None else pathlib.Path(checkpoint)
    if path is not None and path.exists():
        trainer.load_state(_same_run(path, trainer.embedding))
    _run(trainer, path, progress)
    trainer.embedding.load_state_dict(trainer.best)
    return trainer.embedding.cpu().eval(), pd.DataFrame(trainer.history).astype({"epoch": int})


def _run(trainer: _Trainer, path: pathlib.Path | None, progress: bool) -> None:
    from tqdm.auto import tqdm

    total, done = trainer.config.epochs, len(trainer.history)
    with tqdm(total=total, initial=done, disable=not progress, desc="embedding") as bar:
        while not trainer.finished:
            trainer.run_epoch()
            bar.update()
            bar.set_postfix(validation=f"{trainer.history[-1]['validation_mse']:.4f}")
            if path is not None:
                _write(path, trainer.state(), _describe(trainer.embedding))


def _same_run(path: pathlib.Path, embedding: Embedding) -> dict[str, np.ndarray]:
    arrays, meta = _read(path)
    if meta != _describe(embedding):
        raise DataError(
            f"{path.name}: this checkpoint belongs to a run with other cells, configuration or seed; "
            "pass another file name or delete it."
        )
    return arrays


def _describe(embedding: Embedding) -> dict[str, Any]:
    described = dict(format=FORMAT, genes=list(embedding.genes), config=dataclasses.asdict(embedding.config))
    plain: dict[str, Any] = json.loads(json.dumps(described | embedding.meta))
    return plain


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, object]) -> None:
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8)

    def save(beside: pathlib.Path) -> None:
        with beside.open("wb") as sink:
            np.savez_compressed(sink, meta=text, **arrays)  # type: ignore[arg-type]

    write_atomic(path, save)


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop("meta").tobytes().decode())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path.name}: not a whole embedding file ({error}); save or train it again."
        ) from None
    if meta.get("format") != FORMAT:
        raise DataError(f"{path.name}: written in format {meta.get('format')}, not {FORMAT}; train it again.")
    return arrays, meta


def save_embedding(embedding: Embedding, path: str | os.PathLike[str]) -> None:
    """Write weights, genes, graph, configuration, data hash and seed into one npz file, without pickle."""
    arrays = {name: value.detach().cpu().numpy() for name, value in embedding.state_dict().items()}
    _write(pathlib.Path(path), arrays, _describe(embedding))


def load_embedding(path: str | os.PathLike[str]) -> Embedding:
    """Read an embedding that `save_embedding` wrote; raises DataError for a missing or broken file."""
    arrays, meta = _read(pathlib.Path(path))
    config = EmbeddingConfig(**meta.pop("config"))
    genes, _ = meta.pop("genes"), meta.pop("format")
    weights = {name: torch.as_tensor(value) for name, value in arrays.items()}
    embedding = Embedding(genes, weights["neighbours"], config, torch.Generator().manual_seed(0), meta)
    embedding.load_state_dict(weights)
    return embedding.eval()


def pretrained(dataset: str) -> Embedding:
    """Load the packaged embedding of a dataset; raises DataError when the package carries none."""
    path = CHECKPOINTS / f"{dataset}.npz"
    if not path.exists():
        have = ", ".join(sorted(p.stem for p in CHECKPOINTS.glob("*.npz"))) or "none"
        raise DataError(
            f"No packaged embedding for {dataset!r} (there are: {have}); train one with "
            f"`python -m twinlib.embedding.train {dataset}` or twinlib.embedding.train_embedding."
        )
    return load_embedding(path)


def main(arguments: list[str] | None = None) -> None:
    """Train the packaged checkpoint of one dataset again and write it in its place."""
    parser = argparse.ArgumentParser(prog="python -m twinlib.embedding.train", description=main.__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="passes over the cells (default: as packaged)")
    parser.add_argument("--out", type=pathlib.Path, help="file to write (default: the packaged one)")
    options = parser.parse_args(arguments)
    from twinlib.data.preparation import standard
    from twinlib.data.sources import dataset

    config = EmbeddingConfig()
    epochs = options.epochs or dataset(options.dataset).embedding_epochs or config.epochs
    config = dataclasses.replace(config, epochs=epochs)
    embedding, history = train_embedding(standard(options.dataset), config, options.seed, progress=True)
    path = options.out or CHECKPOINTS / f"{options.dataset}.npz"
    save_embedding(embedding, path)
    best = history.iloc[int(history["validation_mse"].argmin())]
    error = best["validation_mse"]
    print(f"{path.name}: pass {best['epoch']:.0f} of {len(history)}, validation MSE {error:.4f}")


if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr)
        os._exit(130)
