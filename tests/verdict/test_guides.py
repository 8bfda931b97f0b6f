"""Guides: multiplets, agreement of guides, and escapers whose number is known."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from defect_files import weak_crispr

from twinlib.data.sources import load
from twinlib.errors import DataError
from twinlib.verdict import guides
from twinlib.verdict.inspection import inspect
from twinlib.verdict.keys import Keys


def with_escapers(share: float, seed: int = 0, n: int = 300) -> anndata.AnnData:
    """Cells of two targets; of A a known share has no change, B has none at all."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0.0, 0.8, 60)
    labels = np.repeat(["NT", "A", "B"], n)
    answers = np.where(labels == "A", rng.random(3 * n) >= share, 0.0)
    x = rng.poisson(8.0 * np.exp(answers[:, None] * change)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "target_gene": labels,
            "guide": [f"{label}_{i % 2}" for i, label in enumerate(labels)],
            "answers": answers,
        },
        index=[f"c{i}" for i in range(3 * n)],
    )
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=["A", "B", *(f"G{i}" for i in range(58))]))


@pytest.mark.parametrize("share", [0.3, 0.4, 0.6])
def test_the_share_of_escapers_is_found(share):
    inspection = inspect(with_escapers(share))
    table = inspection.guides.set_index("perturbation")
    truth = 1 - inspection.cells().obs.query("perturbation == 'A'")["answers"].mean()
    assert abs(table.loc["A", "escapers"] - truth) < 0.05
    assert np.isnan(table.loc["B", "escapers"])  # no change is seen, so nobody escaped from it
    assert [told for told in inspection.of("defect") if "look like controls (A" in told]


def test_without_escapers_the_change_is_the_answering_cells():
    cells = inspect(with_escapers(0.4)).cells()
    kept = guides.without_escapers(cells).obs
    dropped = cells.obs.drop(kept.index)
    assert (dropped["perturbation"] == "A").all()
    assert dropped["answers"].mean() < 0.05
    assert (kept.query("perturbation == 'A'")["answers"]).mean() > 0.95


def test_guides_that_agree_and_guides_that_do_not():
    table = inspect(with_escapers(0.0)).guides.set_index("perturbation")
    assert table.loc["A", "concordance"] > 0.9
    assert abs(table.loc["B", "concordance"]) < guides.AGREE
    assert (table["guides"] == 2).all()


def test_multiplets_are_reported_and_dropped_on_request():
    raw = weak_crispr()
    several = raw.obsm["guide_counts"][:, 0] <= 8
    kept, dropped = inspect(raw), inspect(raw, Keys(single_guides=True))
    assert [told for told in kept.of("defect") if f"{several.mean():.0%} of the cells carry" in told]
    assert list(dropped.cells().obs_names) == list(raw.obs_names[~several])
    assert [told for told in dropped.of("holds") if f"{several.sum()} cells with several guides" in told]


def test_a_file_without_shares_says_what_is_needed():
    with pytest.raises(DataError, match="guide_share"):
        guides.without_multiplets(inspect(with_escapers(0.0)).cells())


def test_real_cells(real_data):
    """Papalexi 2021: 22 % multiplets; guides of the interferon pathway agree, those of most targets not."""
    inspection = inspect(load("papalexi2021", data_dir=real_data))
    assert [told for told in inspection.of("defect") if told.startswith("22% of the cells carry several")]
    table = inspection.guides.set_index("perturbation")
    assert (table.loc[["JAK2", "IFNGR1", "IFNGR2", "STAT1"], "concordance"] > 0.5).all()
    assert table["concordance"].median() < guides.AGREE
    assert table.loc[["JAK2", "IFNGR1", "STAT1"], "escapers"].between(0.1, 0.5).all()
