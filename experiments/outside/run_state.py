"""STATE's transition model: run_state.py FOLDER ANSWER SEED STEPS, in an environment with arc-state.

Trains on FOLDER/train.h5ad and answers FOLDER/query.h5ad through STATE's own command line. STATE moves sets
of cells: an answer is a population, so that no row answers one control. The licence of arc-state is
non-commercial (CC BY-NC-SA 4.0).
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

#: The columns that STATE is told, by what it calls them.
COLUMNS = {"pert": "perturbation", "cell_type": "cell_context", "batch": "batch"}
#: STATE draws its controls with replacement: so many draws a question bring their mean to that of all.
DRAWS = 16
#: A network that trains in minutes on one processor.
SETTINGS = """
data.kwargs.embed_key=X_hvg data.kwargs.output_space=gene data.kwargs.pert_col=pert
data.kwargs.cell_type_key=cell_type data.kwargs.batch_col=batch data.kwargs.control_pert=control
data.kwargs.num_workers=0 data.kwargs.pin_memory=false
model=state model.device=cpu model.kwargs.cell_set_len=32 model.kwargs.hidden_dim=128
model.kwargs.transformer_backbone_kwargs.num_hidden_layers=2
model.kwargs.transformer_backbone_kwargs.num_attention_heads=4
model.kwargs.transformer_backbone_kwargs.num_key_value_heads=4
model.kwargs.transformer_backbone_kwargs.head_dim=32
model.kwargs.transformer_backbone_kwargs.intermediate_size=256
training.batch_size=8 training.lr=1e-3 use_wandb=false overwrite=true name=state
""".split()


def as_state_reads(cells: anndata.AnnData) -> anndata.AnnData:
    """Return cells [n, G] in STATE's form: expression in obsm["X_hvg"], its names of columns."""
    obs = pd.DataFrame(
        {new: pd.Categorical(cells.obs[old].astype(str)) for new, old in COLUMNS.items()},
        index=cells.obs_names.astype(object),
    )
    genes = pd.DataFrame({"gene_name": cells.var_names.astype(object)}, index=cells.var_names.astype(object))
    x = np.asarray(cells.X, dtype=np.float32)
    return anndata.AnnData(
        scipy.sparse.csr_matrix(x), obs=obs, var=genes, obsm={"X_hvg": x}, uns={"log1p": {"base": np.e}}
    )


def state(work: pathlib.Path, *words: str) -> None:
    """Run STATE's command of this environment in a folder."""
    subprocess.run([pathlib.Path(sys.executable).with_name("state"), "tx", *words], check=True, cwd=work)


def train(work: pathlib.Path, seed: int, steps: int) -> None:
    """Train on work/train/train.h5ad into work/state."""
    (work / "split.toml").write_text(f'[datasets]\nown = "{work}/train"\n\n[training]\nown = "train"\n')
    length = [f"training.{name}={steps}" for name in ("max_steps", "val_freq", "ckpt_every_n_steps")]
    # relative paths, since STATE's parser of settings refuses some characters of a path
    place = ["data.kwargs.toml_config_path=split.toml", "output_dir=.", f"training.train_seed={seed}"]
    state(work, "train", *SETTINGS, *length, *place)


def infer(work: pathlib.Path, seed: int) -> np.ndarray:
    """Return what STATE predicts for every cell of work/query.h5ad, [n, G]."""
    words = {
        "model-dir": work / "state",
        "checkpoint": work / "state" / "checkpoints" / "final.ckpt",
        "adata": work / "query.h5ad",
        "pert-col": "pert",
        "celltype-col": "cell_type",
        "batch-col": "batch",
        "control-pert": "control",
        "embed-key": "X_hvg",
        "seed": seed,
        "output": work / "predicted.h5ad",
    }
    state(work, "infer", *(word for key, value in words.items() for word in (f"--{key}", str(value))))
    return np.asarray(anndata.read_h5ad(work / "predicted.h5ad").obsm["X_hvg"])


def drawn_often(query: anndata.AnnData) -> anndata.AnnData:
    """Return the controls once and every question `DRAWS` times; no row answers one control."""
    control = (query.obs["perturbation"] == "control").to_numpy()
    rows = np.concatenate([np.flatnonzero(control), np.repeat(np.flatnonzero(~control), DRAWS)])
    often = query[rows].copy()
    often.obs_names = [str(i) for i in range(len(rows))]
    del often.obs["control"]
    return often


def main() -> None:
    """Train, answer, and put the answer in place in one step."""
    folder, answer, seed, steps = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    work = folder.resolve() / f"state_{seed}"
    (work / "train").mkdir(parents=True, exist_ok=True)
    query = drawn_often(anndata.read_h5ad(folder / "query.h5ad"))
    as_state_reads(anndata.read_h5ad(folder / "train.h5ad")).write_h5ad(work / "train" / "train.h5ad")
    as_state_reads(query).write_h5ad(work / "query.h5ad")
    train(work, seed, steps)
    query.X = infer(work, seed)
    query[query.obs["perturbation"] != "control"].copy().write_h5ad(answer + ".part")
    os.replace(answer + ".part", answer)


if __name__ == "__main__":
    main()
