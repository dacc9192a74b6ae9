"""How a run ends, and with which weights: after a number of rounds, or by its curve with `training.rounds: auto`.

A run with `auto` keeps two more files in its folder. `best.safetensors` has the weights with the best score; it is
written before `curve.json`, which has the curve and the cool-down. Each is whole or not there, and a killed server
resumes from them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from ynet import weights
from ynet.errors import UserError
from ynet.plan import Plan
from ynet.runtime import private_files
from ynet.schedule import AUTO, Cooldown
from ynet.weights import Flat
from ynet_server.rounds import stopping
from ynet_server.rounds.run_folder import RunFolder, State
from ynet_server.rounds.stopping import Called, CurvePoint

CURVE, BEST = "curve.json", "best.safetensors"


class RunResult(NamedTuple):
    """The weights that a run publishes."""

    round: int
    flat: Flat
    score: float | None  # the curve's at that round


class FixedRounds:
    """The end of a run whose plan gives the number of rounds: the last round's weights are published."""

    def __init__(self, plan: Plan) -> None:
        self._every, self.rounds = plan.training.evaluate_every, plan.training.most_rounds

    def is_over(self, number: int) -> bool:
        """Whether round `number` is the last one."""
        return number >= self.rounds

    def is_last(self, number: int) -> bool:
        """The same as `is_over`."""
        return number >= self.rounds

    def is_due(self, number: int) -> bool:
        """Whether an evaluation follows round `number`; the result has one of its own."""
        return number % self._every == 0 and number < self.rounds

    def is_missing(self, number: int) -> bool:  # noqa: ARG002 (the same form as AutoRounds)
        """Whether a resumed run must catch up on the evaluation of its last round; it need not."""
        return False

    def place(self, number: int) -> Cooldown | None:  # noqa: ARG002
        """The place of a round in a cool-down that was called: there is none, the sites know it from the plan."""
        return None

    def add(self, state: State, sites: Mapping[str, Any]) -> None:
        """Note the scores of an evaluation."""

    def result(self, state: State) -> RunResult:
        """The weights to publish."""
        return RunResult(state.round, state.best, None)

    def card(self) -> dict[str, Any]:
        """What the model's card says about the end."""
        return {}


@dataclass(frozen=True)
class Kept:
    """The content of `curve.json`."""

    evaluated: int = 0  # the last evaluated round
    points: tuple[CurvePoint, ...] = ()
    newest: stopping.Weighted = field(default_factory=dict)
    called: Called | None = None
    stopped: str = ""  # why


_KEPT = TypeAdapter(Kept)


class AutoRounds:
    """The end of a run with `training.rounds: auto`: the best evaluated round's weights are published."""

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        """Resume from the folder. Raises UserError when its curve is damaged."""
        self._training, self._folder = plan.training, folder
        path = folder.path / CURVE
        try:
            self._kept = _KEPT.validate_json(path.read_bytes()) if path.exists() else Kept()
        except ValueError:
            do = "restore a copy of it, or start a new run"
            raise UserError(f"the run cannot go on from {CURVE}", "it is not as it was written", do) from None

    @property
    def rounds(self) -> int:
        """The last round, as far as it is known: of the cool-down, or the most that there can be."""
        called = self._kept.called
        return called.after + called.rounds if called else self._training.most_rounds

    def is_over(self, number: int) -> bool:
        """Decide whether the run ends after round `number`, and whether a cool-down begins. Both become events."""
        decision = stopping.decide(self._kept.points, number, self._training, self._kept.called)
        if decision.action == "cool down":
            called = stopping.cool_down(number, self._training, decision.why)
            self._folder.event("cooldown", round=number, rounds=called.rounds, reason=called.why)
            self._keep(replace(self._kept, called=called))
        elif decision.action == "stop" and not self._kept.stopped:
            best = {} if self._best is None else {"best": self._best.round, "score": round(self._best.score, 6)}
            self._folder.event("stopped", round=number, reason=decision.why, **best)
            self._keep(replace(self._kept, stopped=decision.why))
        return decision.action == "stop"

    def is_last(self, number: int) -> bool:
        """Whether round `number` is the last one, as far as is known."""
        return number >= self.rounds

    def is_due(self, number: int) -> bool:
        """Whether an evaluation follows round `number`."""
        return number % self._training.evaluate_every == 0 or self.is_last(number)

    def is_missing(self, number: int) -> bool:
        """Whether the server was killed between round `number` and its evaluation."""
        return number > self._kept.evaluated and self.is_due(number)

    def place(self, number: int) -> Cooldown | None:
        """The place of a round in the cool-down; None before it."""
        return self._kept.called.place(number) if self._kept.called else None

    def add(self, state: State, sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Note the scores after a round, by site, and keep the weights if no earlier ones scored higher."""
        newest = stopping.newest_scores(self._kept.newest, sites, state.cases)
        score, points = stopping.score_of(newest), self._kept.points
        if score is not None:
            points = (*points, CurvePoint(state.round, score))
            if self._best is None or score >= self._best.score:
                arrays = weights.unflatten(state.best, state.layout)
                about = {"round": str(state.round), "score": repr(score)}
                weights.save(self._folder.path / BEST, arrays, about)
                self._best = CurvePoint(state.round, score)
            self._folder.event("curve", round=state.round, score=round(score, 6))
        self._keep(replace(self._kept, evaluated=state.round, points=points, newest=newest))

    def result(self, state: State) -> RunResult:
        """The weights to publish: those with the best score, or the last ones where no site could score any."""
        if self._best is None:
            return RunResult(state.round, state.best, None)
        arrays, _ = weights.load(self._folder.path / BEST)
        flat = weights.flatten({entry.name: arrays[entry.name] for entry in state.layout})
        return RunResult(self._best.round, flat, self._best.score)

    def card(self) -> dict[str, Any]:
        """What the model's card says about the end."""
        return {"stopped": self._kept.stopped, "best_round": self._best.round if self._best else None}

    @cached_property
    def _best(self) -> CurvePoint | None:
        """The round and the score of the weights in `best.safetensors`."""
        path = self._folder.path / BEST
        if not path.exists():
            return None
        _, about = weights.load(path)
        return CurvePoint(int(about["round"]), float(about["score"]))

    def _keep(self, kept: Kept) -> None:
        private_files.write(self._folder.path / CURVE, json.dumps(asdict(kept)), is_synced=True)
        self._kept = kept


def run_end(plan: Plan, folder: RunFolder) -> FixedRounds | AutoRounds:
    """How the run in a folder ends, and how far it is."""
    return AutoRounds(plan, folder) if plan.training.rounds == AUTO else FixedRounds(plan)
