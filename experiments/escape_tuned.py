"""Who escapes a local optimum, by the rules of every other comparison.

The same random settings, the noise of exploration among them, for every tuned algorithm on every landscape;
chosen by the return on noise or cells that no training saw; then fresh seeds of every arm, the matched
ablation among them, and restarts of PPO that are long enough to arrive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from experiments.escape_landscapes import LANDSCAPES, Landscape
from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.part import Part, Row
from experiments.policies import TAKE_OVER, with_target
from experiments.policy_runs import Trained, thinned, train_replicas
from experiments.tuning import ORDER, SEEDS, setting_name
from twinlib.policy.algorithms import ALGORITHMS, tuned_as
from twinlib.policy.random_settings import DRAWS, draw, side_by_side, training_config
from twinlib.results.escape_curves import best_setting, idle, packed

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from experiments.folder import Parts
    from twinlib.environment.batched import BatchedDynamics
    from twinlib.policy.contracts import Policy
    from twinlib.policy.training import TrainingConfig

#: PPO from fresh starts, the one with the best training return kept.
RESTARTS = "PPO_random_restarts"
#: Fresh starts of PPO_random_restarts.
STARTS = 3
#: Steps of each start, in median first arrivals of PPO.
ARRIVALS = 2
#: Parts on which a policy is judged: it is chosen on the first.
PARTS = ("validation", "test")
#: Seeds of the tuning were 0, 1, 2.
FIRST_SEED = 100
#: Points of each learning curve.
POINTS = 20
#: Columns for the steps until cells first left home, and first arrived.
FIRST = ("first_escape", "first_reach")
#: The best policy of all, where it is known.
OPTIMAL = "value_iteration"
#: Cells whose paths are drawn, and the expression that the largest byte of a packed path stands for.
DRAWN, PATH_UPPER = 30, 2.8
#: Share of an update's episodes from which on its cells count as arrived.
ARRIVED = 0.5


@dataclass(frozen=True)
class Decided:
    """What finished parts have decided."""

    #: The number of each tuned algorithm's setting; -1: none, its entry is doing nothing.
    settings: tuple[tuple[str, int], ...]
    #: Steps of each start of PPO_random_restarts; 0 until PPO has been trained.
    steps: int = 0


@dataclass(frozen=True)
class EscapeTuned(Experiment):
    """Every arm on one landscape."""

    name = "escape_tuned"

    dataset: str = option("toggle_middle", f"one of {', '.join(LANDSCAPES)}; several: DIR/NAME each")
    timesteps: int = option(0, "environment steps of each seed; 0: those of the landscape")
    seeds: int = option(20, "seeds of each arm")
    draws: int = option(DRAWS, "random settings of each tuned algorithm")
    block: int = option(8, "settings side by side in one part")
    #: What the tuning has decided, once it is finished.
    decided: Decided | None = field(default=None)

    def __post_init__(self) -> None:
        one_of("landscape", [self.dataset], tuple(LANDSCAPES))
        at_least_one(self, "seeds", "draws", "block")

    @property
    def landscape(self) -> Landscape:
        """Where cells are trapped."""
        return LANDSCAPES[self.dataset]

    @property
    def steps(self) -> int:
        """Environment steps of each seed."""
        return self.timesteps or self.landscape.timesteps

    def config(self, arm: str, k: int, steps: int = 0) -> TrainingConfig:
        """Return what draw k means for an arm on this landscape."""
        plain = training_config(arm, draw(k), steps or self.steps)
        per_update = self.landscape.steps_per_iteration
        return replace(plain, steps_per_iteration=per_update, hidden=self.landscape.hidden)

    # -- parts
    @cached_property
    def blocks(self) -> dict[str, list[list[int]]]:
        """Numbers of the settings that train side by side, by algorithm."""
        shapes = {name: side_by_side([self.config(name, k) for k in range(self.draws)]) for name in ORDER}
        size = self.block
        return {
            name: [group[i : i + size] for group in groups for i in range(0, len(group), size)]
            for name, groups in shapes.items()
        }

    @cached_property
    def flat(self) -> bool:
        """Whether no cell's target lies in another basin: nothing is trained where there is no escape."""
        return self.landscape.ground().get("apart") == 0

    def parts(self, finished: Parts) -> Sequence[str]:
        """The tuning; then the arms; those that read of another arm wait for it."""
        if self.flat:
            return ["nothing"]
        names = ["nothing", *(f"tuning~{name}~{i}" for name in ORDER for i in range(len(self.blocks[name])))]
        if any(name not in finished for name in names):
            return names
        waits = {arm: "two_stage" for arm in TAKE_OVER} | {RESTARTS: "PPO"}
        arms = (*ALGORITHMS, *((RESTARTS,) if self.landscape.watched else ()))
        ready = [arm for arm in arms if arm not in waits or f"main~{waits[arm]}" in finished]
        return [*names, *(f"main~{arm}" for arm in ready)]

    def informed(self, finished: Parts) -> EscapeTuned:
        """Return the experiment with what its tuning, and then its PPO, have decided."""
        tuning = [part for part in self.parts(finished) if part.startswith("tuning")]
        if self.flat or any(part not in finished for part in tuning):
            return self
        runs = finished.table("runs", tuning)
        nothing = idle(finished.table("runs", ["nothing"]))
        numbers = [(name, best_setting(runs[runs["model"] == name], nothing)) for name in ORDER]
        settings = tuple((name, -1 if k is None else int(k[1:])) for name, k in numbers)
        known = self.landscape.watched and "main~PPO" in finished
        steps = self._restart_steps(finished) if known else 0
        return replace(self, decided=Decided(settings, steps))

    def _restart_steps(self, finished: Parts) -> int:
        """Return twice PPO's median first arrival, or all steps where it does not arrive, or does nothing."""
        runs = finished.table("runs", ["main~PPO"])
        if "first_reach" not in runs or runs["first_reach"].isna().all():
            return self.steps
        return min(self.steps, int(ARRIVALS * runs["first_reach"].median()))

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Train and judge a block of settings or an arm, or judge doing nothing."""
        if part == "nothing":
            return self._yardsticks()
        if part.startswith("tuning"):
            _, algorithm, number = part.split("~")
            chosen = [k for k in self.blocks[algorithm][int(number)] for _ in SEEDS]
            seeds = [*SEEDS] * (len(chosen) // len(SEEDS))
            return self._run("tuning", algorithm, chosen, seeds, scratch)
        return self._arm(part.partition("~")[2], scratch)

    def _yardsticks(self) -> Part:
        """Judge doing nothing and, where it is known, the best policy of all."""
        ground = self.landscape.ground()
        if self.flat:
            return Part({}, run={"ground": ground})
        seeds = range(FIRST_SEED, FIRST_SEED + self.seeds)
        rows, best = self._idle("do_nothing", seeds), self.landscape.optimal(seeds)
        tables: dict[str, Sequence[Row] | pd.DataFrame] = {"runs": rows}
        if best is not None:
            head = {"experiment": "main", "model": OPTIMAL, "setting": "", "lost": False}
            judged = zip(seeds, self._judged(best, seeds), strict=True)
            rows += [head | {"seed": seed} | row for seed, row in judged]
            tables |= self._crossing(OPTIMAL, best, seeds)
        return Part(
            tables, run={"optimum": self.landscape.optimum()} | ({"ground": ground} if ground else {})
        )

    def _crossing(self, model: str, policy: Policy, seeds: Sequence[int]) -> dict[str, list[Row]]:
        """Return the paths of a few cells under a final policy, packed; {} where there is nothing to draw."""
        path = self.landscape.crossing(policy, seeds)
        if path is None:
            return {}
        return {"paths": [{"model": model, "path": packed(path[:, :DRAWN].numpy(), PATH_UPPER)}]}

    def _arm(self, arm: str, scratch: Scratch) -> Part:
        """Train and judge an arm at its best setting."""
        assert self.decided is not None
        base = "PPO" if arm == RESTARTS else arm
        k, seeds = dict(self.decided.settings)[tuned_as(base)], range(FIRST_SEED, FIRST_SEED + self.seeds)
        if k < 0:
            return Part({"runs": self._idle(arm, seeds)})
        if arm == RESTARTS:
            return self._restarts(k, seeds, scratch)
        return self._run("main", arm, [k] * len(seeds), list(seeds), scratch)

    def _run(
        self, experiment: str, arm: str, chosen: Sequence[int], seeds: Sequence[int], scratch: Scratch
    ) -> Part:
        """Train replicas with the settings `chosen` [R] and judge them."""
        configs, handed = [self.config(arm, k) for k in chosen], scratch.folder / "targets.npz"
        if experiment == "main" and arm in TAKE_OVER:
            with np.load(handed) as file:
                pairs = zip(configs, file["target_kl"], strict=True)
                configs = [with_target(config, target) for config, target in pairs]
        trained, ends = self._trained(configs, seeds, scratch)
        if experiment == "main" and arm == "two_stage":
            last = trained.last("target_kl")
            np.savez(handed, target_kl=[last.get(i, np.nan) for i in range(len(seeds))])
        heads = [
            {"experiment": experiment, "model": arm, "setting": setting_name(k), "seed": seed}
            for k, seed in zip(chosen, seeds, strict=True)
        ]
        tables = self._rows(heads, trained, ends, seeds)
        if experiment == "main" and trained.policy is not None:
            tables |= self._crossing(arm, trained.policy, [seeds[i] for i in trained.kept])
        return Part(tables)

    def _trained(
        self, configs: Sequence[TrainingConfig], seeds: Sequence[int], scratch: Scratch
    ) -> tuple[Trained, list[tuple[Tensor, Tensor]]]:
        """Train replicas; return them with where the episodes of the last task ended."""
        tasks: list[BatchedDynamics] = []

        def task(replicas: int) -> BatchedDynamics:
            tasks.append(self.landscape.task(replicas))
            return tasks[-1]

        trained = train_replicas(task, configs, seeds, progress=scratch.progress)
        return trained, getattr(tasks[-1], "ends", [])

    def _restarts(self, k: int, seeds: Sequence[int], scratch: Scratch) -> Part:
        """Train PPO from several fresh starts a seed; keep the start with the best last training returns."""
        assert self.decided is not None
        every = [seed + 10_000 * start for start in range(STARTS) for seed in seeds]
        config = self.config("PPO", k, self.decided.steps)
        trained, ends = self._trained([config] * len(every), every, scratch)
        heads = [
            {"experiment": "main", "model": RESTARTS, "setting": setting_name(k), "seed": seed}
            for seed in [*seeds] * STARTS
        ]
        tables = self._rows(heads, trained, ends, every)
        last = trained.history.groupby("replica")["episode_return"].apply(lambda x: x.tail(5).mean())
        scores = last.reindex(range(len(every))).fillna(-np.inf).to_numpy().reshape(STARTS, len(seeds))
        best = scores.argmax(0) * len(seeds) + np.arange(len(seeds))
        rows = list(tables["runs"])
        total = STARTS * self.decided.steps
        return Part({"runs": [{**rows[i], "environment_steps": total} for i in best]})

    # -- rows
    def _idle(self, name: str, seeds: Sequence[int]) -> list[Row]:
        """Return the rows of doing nothing, under the name of an arm without a setting."""
        head = {"experiment": "main", "model": name, "setting": "nothing", "lost": False}
        return [head | {"seed": s} | row for s, row in zip(seeds, self._judged(None, seeds), strict=True)]

    def _judged(self, policy: Policy | None, seeds: Sequence[int]) -> list[Row]:
        """Return what each replica [R] came to on both parts."""
        rows: list[Row] = [{} for _ in seeds]
        for part in PARTS:
            for name, values in self.landscape.judge(policy, seeds, part).items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name if part == "test" else f"{part}_{name}"] = value
        for row in rows:
            row |= {"escaped": row["left"] >= ARRIVED, "reached": row["success"] >= ARRIVED}
        return rows

    def _rows(
        self,
        heads: Sequence[Row],
        trained: Trained,
        ends: list[tuple[Tensor, Tensor]],
        seeds: Sequence[int],
    ) -> dict[str, Sequence[Row] | pd.DataFrame]:
        """Return one row a replica, and its learning curve."""
        rows = [dict(head) | {"lost": i not in trained.kept} for i, head in enumerate(heads)]
        if trained.policy is None:
            return {"runs": rows}
        judged = self._judged(trained.policy, [seeds[i] for i in trained.kept])
        mean_kl = trained.history.groupby("replica")["kl"].mean()
        entropy, actions = trained.last("entropy"), self.landscape.task(1).action_dim
        for place, (i, outcome) in enumerate(zip(trained.kept, judged, strict=True)):
            arrivals = {name: self._first(ends, side, place) for side, name in enumerate(FIRST)}
            log_std = entropy[i] / actions - (1 + np.log(2 * np.pi)) / 2
            rows[i] |= outcome | arrivals | {"mean_kl": mean_kl[i], "final_log_std": log_std}
            rows[i] |= {"environment_steps": self.steps}
        history = trained.history
        for name in ("experiment", "model", "setting"):
            history[name] = history["replica"].map({i: head[name] for i, head in enumerate(heads)})
        by = ["experiment", "model", "setting"]
        return {"runs": rows, "curves": thinned(history, by, POINTS)}

    def _first(self, ends: list[tuple[Tensor, Tensor]], side: int, place: int) -> float:
        """Return the steps until most cells of an update's episodes count for the first time; NaN: never."""
        hit = [bool(end[side][place] >= ARRIVED) for end in ends]
        return float((hit.index(True) + 1) * self.landscape.steps_per_iteration) if any(hit) else np.nan

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the tables of the parts, and the settings."""
        import pandas as pd

        rows = [{"setting": setting_name(k), **dataclasses.asdict(draw(k))} for k in range(self.draws)]
        tables = super().tables(finished) | {"settings": pd.DataFrame(rows)}
        tables.pop("paths", None)
        return tables

    def files(self, finished: Parts) -> dict[str, Row]:
        """Return the drawn paths by arm, where there are some."""
        rows = finished.table("paths", self.parts(finished))
        if rows.empty:
            return {}
        paths = dict(zip(rows["model"], rows["path"], strict=True))
        return {"paths": {"upper": PATH_UPPER, "steps": self.landscape.task(1).horizon, "paths": paths}}

    def facts(self, finished: Parts) -> Row:
        """Return what was decided on the way, and the environment."""
        decided = self.informed(finished).decided
        if decided is None:
            return {}
        chosen = {name: setting_name(k) if k >= 0 else "nothing" for name, k in decided.settings}
        about = {"first_seed": FIRST_SEED, "tuning_seeds": list(SEEDS), "starts": STARTS}
        return about | {"chosen": chosen, "steps_of_a_start": decided.steps, "steps": self.steps}
