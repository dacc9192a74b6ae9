"""The record of the runs that this site took part in, with the final model of each: `took_part.json`."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from ynet.plan import Plan
from ynet.runtime.home import write_private

FILE = "took_part.json"
MOST_PLANS = 1_000


class Participation(NamedTuple):
    """A site's part in the run of one plan."""

    rounds: int = 0  # trained; a repeated round counts again
    ended_with: str = ""  # the id of the newest model that was evaluated as the run's result


Change = Callable[[Participation], Participation]
_BY_PLAN = TypeAdapter(dict[str, Participation])


class TookPart:
    """The runs that the site took part in. Any thread of one process may write."""

    def __init__(self, home: Path | None = None) -> None:
        """Without a `home`, as in an experiment, nothing is recorded."""
        self._file, self._lock = home and home / FILE, threading.Lock()

    def trained(self, plan: Plan) -> None:
        """Record that a round of a plan was trained."""
        self._note(plan, lambda part: part._replace(rounds=part.rounds + 1))

    def evaluated(self, plan: Plan, model_id: str, *, is_final: bool) -> None:
        """Record the weights that were evaluated, if the server said that they are the run's final model."""
        if is_final:
            self._note(plan, lambda part: part._replace(ended_with=model_id))

    def doubt(self, plan: Plan, model_id: str) -> str:
        """Return why a model is not the result of a run that this site took part in; empty when it is."""
        part = self._read().get(plan.id, Participation())
        if not part.rounds:
            return "this site has trained no round of its plan"
        if not part.ended_with:
            return "this site was not there when its run ended: it was not sent these weights to evaluate"
        if part.ended_with != model_id:
            return f"at the end of its run this site was sent another model, {part.ended_with[:16]}"
        return ""

    def _note(self, plan: Plan, change: Change) -> None:
        if self._file is None:
            return
        with self._lock:
            parts = self._read()
            part = parts.pop(plan.id, Participation())
            parts[plan.id] = change(part)  # the newest comes last
            kept = dict(list(parts.items())[-MOST_PLANS:])
            write_private(self._file, json.dumps(kept).encode())

    def _read(self) -> dict[str, Participation]:
        if self._file is None or not self._file.exists():
            return {}
        try:
            return _BY_PLAN.validate_json(self._file.read_bytes())
        except ValueError:
            return {}  # then models wait for the admin's decision
