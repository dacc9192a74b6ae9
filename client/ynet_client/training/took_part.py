"""Which runs this site took part in, and the id of the model that it saw at the end of each: `took_part.json`."""

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


class Part(NamedTuple):
    """What the site did for a plan."""

    rounds: int = 0  # trained, the same one again counted again
    ended_with: str = ""  # the id of the newest model that it evaluated after the last round


Change = Callable[[Part], Part]
_PARTS = TypeAdapter(dict[str, Part])


class TookPart:
    """The runs that the site took part in. Any thread may write; one process does."""

    def __init__(self, home: Path | None = None) -> None:
        """Without a `home` nothing is kept: of an experiment."""
        self._file, self._lock = home and home / FILE, threading.Lock()

    def trained(self, plan: Plan) -> None:
        """A round of a plan was trained here."""
        self._note(plan, lambda part: part._replace(rounds=part.rounds + 1))

    def evaluated(self, plan: Plan, round_number: int, model_id: str) -> None:
        """A plan's weights have come to be evaluated; those after the last round are what the run ends with."""
        if round_number == plan.training.rounds:
            self._note(plan, lambda part: part._replace(ended_with=model_id))

    def doubt(self, plan: Plan, model_id: str) -> str:
        """Why a model is not one that this site took part in; empty where it is."""
        part = self._read().get(plan.id, Part())
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
            part = parts.pop(plan.id, Part())
            parts[plan.id] = change(part)  # last: the newest
            kept = dict(list(parts.items())[-MOST_PLANS:])
            write_private(self._file, json.dumps(kept).encode())

    def _read(self) -> dict[str, Part]:
        if self._file is None or not self._file.exists():
            return {}
        try:
            return _PARTS.validate_json(self._file.read_bytes())
        except ValueError:
            return {}  # then models wait for the admin's word
