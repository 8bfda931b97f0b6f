"""Policies of the in-silico twin as rows of a part: trained, left out with a reason, told in a sentence."""

from __future__ import annotations

import pandas as pd
import pytest

from twinlib.data.preparation import prepare
from twinlib.errors import DataError
from twinlib.evaluation.judge import evaluate
from twinlib.experimental import fold_rows
from twinlib.experimental.fold_rows import FoldRows, embedding_of
from twinlib.verdict.judged_file import only_whole
from twinlib.verdict.policies import NAMES, policy_rows, reasons, require_no_drug
from twinlib.verdict.sentences import policies_sentence


@pytest.fixture(scope="module")
def fold(screen):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_rows, "EMBEDDED", 200)
        prepared = prepare(screen, 30)
        yield FoldRows(prepared, embedding_of(prepared, 1)[0])


def test_policies_are_rows_of_the_judge(fold):
    rows = policy_rows(fold, 512, range(2))
    assert [row.name for row in rows] == list(NAMES) and not reasons(rows)
    assert [row.replicas for row in rows] == [2, 2, 2, 1]
    scores = evaluate(fold.prepared, rows, experiment="test").scores
    value = scores[(scores["metric"] == "pearson_delta")].groupby("model")["value"].mean()
    assert value["no_change"] == 0 and value["greedy"] > 0.3
    assert value[list(NAMES)].notna().all()


def test_a_drug_has_no_world_and_one_sentence_says_so(fold, monkeypatch):
    obs = fold.prepared.cells.obs
    kinds = obs["perturbation_type"].astype(str)
    monkeypatch.setitem(obs, "perturbation_type", kinds.where(kinds == "none", "drug"))
    rows = policy_rows(fold, 512, range(1))
    (reason,) = reasons(rows)
    assert "drug" in reason and not evaluate(fold.prepared, rows, experiment="test").scores.empty
    told = policies_sentence(None, pd.DataFrame({"reason": [reason]}), 512)
    assert told.startswith("**No in-silico twin**") and reason in told
    assert policies_sentence(None, pd.DataFrame(), 0) == ""


def test_drugs_alone_are_refused():
    require_no_drug(pd.DataFrame({"perturbation_type": ["CRISPRi", "cytokine", "none"]}))
    with pytest.raises(DataError, match="drug"):
        require_no_drug(pd.DataFrame({"perturbation_type": ["drug", "none"]}))


def test_policies_that_a_part_lacks_leave_the_table():
    scores = pd.DataFrame({"model": ["no_change", *NAMES], "value": 0.0})
    assert len(only_whole(scores, pd.DataFrame())) == len(NAMES) + 1
    assert list(only_whole(scores, pd.DataFrame({"reason": ["none"]}))["model"]) == ["no_change"]
