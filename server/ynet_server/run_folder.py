"""A run's folder: its plan, its events as they happen, the weights after its last whole round, its model."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ynet import weights
from ynet.federation import plan
from ynet.federation.plan import Plan
from ynet.weights import Arrays, Flat, Layout
from ynet_server.registry import now

PLAN, EVENTS, STATE, MODEL = "plan.json", "events.jsonl", "state.safetensors", "model.safetensors"


class State(NamedTuple):
    """Where a run stands."""

    round: int  # the last whole one; 0: initial weights
    flat: Flat
    layout: Layout
    cases: Mapping[str, int]  # by site: what its updates weigh at most


class RunFolder:
    """The folder of one run. What it holds is what every engine leaves behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, frozen: Plan) -> "RunFolder":
        """Make the folder and keep the plan in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / PLAN).write_text(frozen.canonical(), "utf-8")
        return self

    def plan(self) -> Plan:
        """The run's plan."""
        return plan.from_canonical((self.path / PLAN).read_text("utf-8"))

    def event(self, kind: str, **values: Any) -> None:
        """Add one event: a line of JSON."""
        line = json.dumps({"time": round(now(), 3), "kind": kind, **values}).encode() + b"\n"
        with (self.path / EVENTS).open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                line = b"\n" + line  # a full disk cut the last one short
            file.write(line)

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """The events from number `since` on."""
        path = self.path / EVENTS
        if not path.exists():
            return []
        lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]  # what follows is still being written
        return [_event(line) for line in lines[since:]]

    def save_state(self, state: State) -> None:
        """Keep the weights after a round, whole or not at all."""
        named = weights.unflatten(state.flat, state.layout)
        metadata = {"round": str(state.round), "layout": weights.layout_to_json(state.layout)}
        weights.save(self.path / STATE, named, {**metadata, "cases": json.dumps(dict(state.cases))})

    def state(self) -> State | None:
        """Where the run stands, if a round, or the start, was kept."""
        path = self.path / STATE
        if not path.exists():
            return None
        named, metadata = weights.load(path)
        layout = weights.layout_from_json(metadata["layout"])
        flat = weights.flatten({entry.name: named[entry.name] for entry in layout})
        return State(int(metadata["round"]), flat, layout, json.loads(metadata.get("cases", "{}")))

    def save_model(self, arrays: Arrays, card: Mapping[str, Any]) -> str:
        """Keep the finished model with its card; its id."""
        frozen = self.plan()
        model = weights.model_id(arrays, frozen.id)
        full = {"model_id": model, "plan_id": frozen.id, **card}
        weights.save(self.path / MODEL, arrays, {"plan": frozen.canonical(), "model_id": model})
        (self.path / "card.json").write_text(json.dumps(full, indent=2), "utf-8")
        return model

    def card(self) -> dict[str, Any]:
        """The finished model's card."""
        return dict(json.loads((self.path / "card.json").read_text("utf-8")))


def _event(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"time": 0.0, "kind": "unreadable"}
