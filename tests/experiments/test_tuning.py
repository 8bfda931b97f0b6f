"""The tuning: every setting in one part, lost replicas survived, tables that the readers take."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import policy_runs
from experiments.policies import TAKE_OVER, Job, Policies, settings_of, with_target
from experiments.policy_runs import forget, train_replicas
from experiments.runner import run
from experiments.tuning import ORDER, SEEDS, Tuning, setting_name
from twinlib.errors import Divergence, FolderError, InputError
from twinlib.policy.algorithms import TUNED
from twinlib.policy.random_settings import DRAWS, Settings, draw, training_config
from twinlib.policy.training import TrainingResult
from twinlib.results import tables
from twinlib.results.judged import JudgedSplit
from twinlib.results.policy_tables import shares
from twinlib.results.tuning_curves import Tuned


def test_every_setting_of_every_algorithm_is_in_one_part_and_parts_are_of_one_shape():
    tuning = Tuning()
    assert ORDER[:2] == ("PPO", "two_stage") and set(ORDER) == set(TUNED)
    for name in ORDER:
        blocks = tuning.blocks[name]
        assert sorted(k for block in blocks for k in block) == list(range(DRAWS))
        assert all(len({tuning.config(name, k).shape for k in block}) == 1 for block in blocks)
        assert max(map(len, blocks)) <= tuning.block
    parts = tuning.parts(None)
    assert parts[0] == "references" and len(parts) == len(set(parts)) == 1 + sum(
        map(len, tuning.blocks.values())
    )


def test_algorithms_may_be_added_by_a_resume_and_nothing_else():
    first, more = Tuning(algorithms=("PPO", "two_stage")), Tuning()
    assert first.identity() == more.identity() and set(first.parts(None)) < set(more.parts(None))
    assert first.identity() != Tuning(algorithms=("PPO",), timesteps=100).identity()
    with pytest.raises(InputError, match="papalexi"):
        Tuning(dataset="papalexi")
    with pytest.raises(InputError, match="PPO_KL"):
        Tuning(algorithms=("PPO_KL",))


def losing(*seeds):
    """A `train` that loses the replicas of some seeds."""

    def train(task, configs, own, progress, checkpoint):
        checkpoint.write_text("")
        lost = tuple(i for i, seed in enumerate(own) if seed in seeds)
        if lost:
            raise Divergence("lost", lost)
        rows = [{"replica": i, "kl": seed} for i, seed in enumerate(own)]
        return TrainingResult(f"{task}", pd.DataFrame(rows))

    return train


def test_lost_replicas_are_left_out_and_the_others_are_trained_again(tmp_path, monkeypatch):
    configs, checkpoint = [training_config("PPO", draw(0), 10)] * 4, tmp_path / "part.checkpoint"
    monkeypatch.setattr(policy_runs, "train", losing(11, 13))
    trained = train_replicas(str, configs, [10, 11, 12, 13], checkpoint)
    assert trained.kept == (0, 2) and trained.policy == "2"
    assert trained.last("kl") == {0: 10.0, 2: 12.0}
    assert len(list(tmp_path.iterdir())) == 2
    forget(checkpoint)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(policy_runs, "train", losing(10, 11, 12, 13))
    assert train_replicas(str, configs, [10, 11, 12, 13], checkpoint).policy is None


def test_a_second_stage_takes_the_target_it_is_handed():
    config = training_config("second_stage_alone", draw(0), 1000)
    assert with_target(config, 0.02).fine_tuning.target_kl == 0.02 and with_target(config, np.nan) is config
    assert "second_stage_alone" in TAKE_OVER and "two_stage" not in TAKE_OVER
    table = pd.DataFrame({"setting": f"s{k:02}"} | vars(draw(k)) for k in range(4))
    assert settings_of(table, "s03") == draw(3) and isinstance(settings_of(table, "s03"), Settings)


def test_a_part_of_the_policies_is_named_by_its_job():
    job = Job("PPO", "cells", 3, "cell")
    assert Job.of(job.name) == job and job.setting == "cell" and Job.of(job.handed[:-4]).arm == "two_stage"


# -- a small run on the packaged cells
@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The tuning of chi11 with two settings, each of hardly any steps."""
    out = tmp_path_factory.mktemp("tuning") / "chi11"
    small = {"dataset": "chi11", "timesteps": 2048, "draws": 2, "block": 2}
    assert not run({out: Tuning(**small, algorithms=("PPO",))}, progress=False, minutes=0)
    assert run({out: Tuning(**small)}, resume=True, progress=False)
    return out


def read(folder):
    """Read the tables of a folder as `Tuned` holds them."""
    return [
        pd.read_csv(folder / name, keep_default_na=True).pipe(
            lambda table: table.fillna({c: "" for c in tables.TEXTS if c in table})
        )
        for name in ("scores.csv.gz", "groups.csv.gz", "runs.csv.gz", "settings.csv")
    ]


def test_a_run_is_read_as_a_tuning(tuned):
    known = Tuned("chi11", *read(tuned))
    rows = known.runs[known.runs["model"].isin(ORDER)]
    assert len(rows) == len(ORDER) * 2 * len(SEEDS) and not rows["lost"].astype(bool).any()
    assert set(rows["setting"]) == {setting_name(0), setting_name(1)} == set(known.settings["setting"])
    told = known.groups[(known.groups["part"] == "test") & (known.groups["cell_context"] != "")]
    for name in ORDER:
        outcomes = known.outcomes(name)
        assert outcomes.test.shape == (2, told["has_effect"].sum()) and np.isfinite(outcomes.test).all()
    yardsticks = known.runs.groupby("model")["validation_return"].mean()
    assert yardsticks["do_nothing"] == 0 and yardsticks["greedy"] > 0.5
    settings = json.loads((tuned / "manifest.json").read_text())
    assert settings["reward_unit"].keys() == {"population", "cell"} and settings["draws"] == 2


def test_a_resume_that_leaves_out_a_finished_algorithm_is_refused(tuned):
    before = {path.name: path.read_bytes() for path in tuned.glob("*.*")}
    small = {"dataset": "chi11", "timesteps": 2048, "draws": 2, "block": 2}
    with pytest.raises(FolderError, match="holds finished parts of .*PPO.* add them to --algorithms"):
        run({tuned: Tuning(**small, algorithms=("TRPO",))}, resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in tuned.glob("*.*")} == before


def test_the_arms_of_a_fold_are_scored_beside_their_yardsticks(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(Tuned, "of", lambda dataset: Tuned(dataset, *read(tuned)))
    monkeypatch.setattr(Tuned, "best", lambda self, model: "s00" if model != "alternating" else None)
    small = Policies(dataset="chi11", seeds=2, few_seeds=1, timesteps=4096)
    wanted = ["references", "alternating", "two_stage", "second_stage_alone"]
    jobs = [Job(arm, "cells") for arm in wanted] + [Job("two_stage", "hidden"), Job("references", "hidden")]
    monkeypatch.setattr(Policies, "jobs", jobs)
    assert Job("second_stage_alone", "cells").name not in small.parts(())
    out = tmp_path / "run"
    assert run({out: small}, progress=False)
    scores, groups = (pd.read_csv(out / f"{name}.csv.gz") for name in ("scores", "groups"))
    texts = {name: "" for name in tables.TEXTS}
    split = JudgedSplit("chi11", "cells", scores.fillna(texts), groups.fillna(texts))
    table = shares(split, ["greedy", "two_stage", "alternating", "second_stage_alone"]).set_index("model")
    assert table.loc["greedy", "share"] > 0.8 and table.loc["alternating", "share"] == 0
    runs, hits = (pd.read_csv(out / f"{name}.csv.gz") for name in ("runs", "hits"))
    assert set(runs.loc[runs["model"] == "two_stage", "seed"]) == {100, 101}
    assert (
        set(hits["model"]) == {"two_stage", "greedy", "training_change"} and hits["rank"].between(1, 4).all()
    )
    targets = np.load(out / "parts" / Job("two_stage", "cells").handed)["target_kl"]
    assert targets.shape == (2,) and (targets > 0).all()
