"""A run's folder: its plan, its events, the weights after its last complete round, its model."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ynet import plan, weights
from ynet.errors import UserError
from ynet.plan import Plan
from ynet.runtime import private_files
from ynet.runtime.home import write_private
from ynet.schedule import AUTO
from ynet.trust import chain
from ynet.weights import Arrays, Flat, Layout
from ynet_server import encoder_files
from ynet_server.clock import now

PLAN, EVENTS, STATE, MODEL = "plan.json", "events.jsonl", "state.safetensors", "model.safetensors"
INIT, CARD, SEEN, QUORUM = "init.safetensors", "card.json", "seen.jsonl", "quorum"
AVERAGE = "average"  # the moving average's arrays, in the state: this, a slash and their names


class State(NamedTuple):
    """The state of a run after a round."""

    round: int  # the last complete one; 0: initial weights
    flat: Flat
    layout: Layout
    cases: Mapping[str, int]  # by site: the most that its updates weigh
    average: Flat | None = None  # the moving average over the rounds, where the plan has one
    carried: Mapping[str, Flat] = MappingProxyType({})  # the strategy's state for the next round, by name

    @property
    def best(self) -> Flat:
        """The weights that are evaluated and published: the moving average, or else the weights themselves."""
        return self.flat if self.average is None else self.average

    def replaced(self, arrays: Arrays) -> "State":
        """The state with some arrays replaced, by their names, in the weights and in their moving average."""
        average = None if self.average is None else weights.replaced(self.average, self.layout, arrays)
        return self._replace(flat=weights.replaced(self.flat, self.layout, arrays), average=average)


class RunFolder:
    """The folder of one run; it has the same contents whatever carries the run."""

    def __init__(
        self,
        path: Path,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
        encoders: Path | None = None,
    ) -> None:
        """Call `on_event` with each event's kind and values. `encoders` is the folder of pretrained encoders."""
        self.path, self._on_event, self._encoders = path, on_event, encoders or path / encoder_files.FOLDER

    def create(self, frozen: Plan, init: Path | None = None) -> "RunFolder":
        """Make the folder and store the plan in it, and the weights that it begins with.

        Raises UserError when `init` is not the file that the plan names, and when its encoder's weights are not there.
        """
        if not (self.path / STATE).exists():
            encoder_files.check(self._encoders, frozen.network)
        content = _init_content(init, frozen.init.sha256) if init is not None and frozen.init is not None else None
        private_files.make_folder(self.path)
        if content is not None:
            private_files.write(self.path / INIT, content)
        private_files.write(self.path / PLAN, frozen.canonical())
        return self

    def init(self) -> Arrays | None:
        """The given weights, of a part of the network or all of it: those of the plan's encoder, then of its `init`.

        None where the plan names neither. Raises UserError.
        """
        frozen, encoder = self.plan(), self.encoder_arrays()
        if frozen.init is None:
            return encoder or None
        if not (self.path / INIT).exists():
            do = "start the run with `ynet-server train --plan`, beside the file"
            raise UserError("the run cannot start", "the weights of the plan's init are not at the server", do)
        return {**encoder, **weights.load(self.path / INIT)[0]}

    def encoder_arrays(self) -> Arrays:
        """The arrays of the plan's pretrained encoder; none where it names no weights. Raises UserError."""
        return encoder_files.arrays(self._encoders, self.plan().network)

    def encoder_file(self) -> Path | None:
        """The file of the plan's pretrained encoder; None where it names none, or it is not at the server."""
        return encoder_files.path_of(self._encoders, self.plan().network)

    def plan(self) -> Plan:
        """The run's plan."""
        return plan.from_canonical((self.path / PLAN).read_text("utf-8", errors="replace"))

    def quorum(self) -> int:
        """Updates needed for a round: the plan's quorum, or a lower one that the coordinator has set."""
        cohort = self.plan().cohort
        try:
            asked = int((self.path / QUORUM).read_text("ascii"))
        except (OSError, ValueError):
            return cohort.quorum
        return min(max(asked, cohort.floor), cohort.quorum)

    def lower_quorum(self, to: int) -> None:
        """Let rounds close with fewer updates from now on. Raises UserError below what the sites have accepted."""
        cohort = self.plan().cohort
        if not cohort.floor <= to <= cohort.quorum:
            why = f"its sites have said yes to rounds of {cohort.floor} to {cohort.quorum} updates"
            if cohort.floor == cohort.quorum:
                why = f"its sites have said yes to rounds of {cohort.quorum} updates, no fewer (cohort.min_quorum)"
            do = "go on with a new plan from its last weights, which the sites are asked about: ynet-server replan RUN"
            raise UserError("the quorum was not changed", why, do)
        write_private(self.path / QUORUM, str(to).encode())

    def carry_over(self, quorum: int, min_sites: int) -> tuple[Plan, Path]:
        """A plan for fewer sites that continues from the last weights for the remaining rounds; and the weights' file.

        Raises UserError when no round is complete yet, or none is left.
        """
        old, state = self.plan(), self.state()
        what = "there is nothing to go on from"
        if state is None or state.round == 0:
            raise UserError(what, "no round of this run is complete", "train another plan: ynet-server train --plan")
        if (left := old.training.most_rounds - state.round) <= 0:
            raise UserError(what, "all its rounds are complete", "the server publishes its model: ynet-server runs")
        path = self.path / f"weights-{state.round:04d}.safetensors"
        weights.save(path, weights.unflatten(state.best, state.layout), {"plan": old.canonical()})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        floor = old.cohort.min_quorum
        lowest = {} if floor is None else {"min_quorum": min(floor, quorum)}
        values = json.loads(old.canonical())
        values["name"] = f"{old.name[:50]}-after-{state.round}"
        values["training"] |= {"max_rounds" if old.training.rounds == AUTO else "rounds": left}
        values["cohort"] |= {"min_sites": min_sites, "quorum": quorum, **lowest}
        values["init"] = {"file": path.name, "sha256": digest}
        return plan.from_canonical(json.dumps(values)), path

    def event(self, kind: str, **values: Any) -> None:
        """Add one event: a line of JSON."""
        line = json.dumps({"time": round(now(), 3), "kind": kind, **values}).encode() + b"\n"
        with open(self.path / EVENTS, "ab+", buffering=0, opener=private_files.opener) as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                line = b"\n" + line  # the last line is incomplete: the disk was full
            file.write(line)
        self._on_event(kind, values)

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """The events from number `since` on."""
        path = self.path / EVENTS
        if not path.exists():
            return []
        lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]  # the rest is still being written
        return [_event(line) for line in lines[since:]]

    def save_state(self, state: State) -> None:
        """Store the weights after a round, completely or not at all."""
        named = dict(weights.unflatten(state.flat, state.layout))
        beside = dict(state.carried) if state.average is None else {AVERAGE: state.average, **state.carried}
        for part, flat in beside.items():
            named |= {f"{part}/{name}": array for name, array in weights.unflatten(flat, state.layout).items()}
        metadata = {"round": str(state.round), "layout": weights.layout_to_json(state.layout)}
        weights.save(self.path / STATE, named, {**metadata, "cases": json.dumps(dict(state.cases))})

    def state(self) -> State | None:
        """The stored state, if there is one. Raises UserError when the file is damaged."""
        path = self.path / STATE
        if not path.exists():
            return None
        named, metadata = weights.load(path)
        try:
            return _state(named, metadata)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            do = "restore a copy of it, or start a new run"
            raise UserError(f"the run cannot go on from {STATE}", "it is not as it was written", do) from None

    def add_seen(self, digests: Mapping[bytes, int]) -> None:
        """Store digests of what sites have sent, with their rounds; they are on disk when this returns."""
        if digests:
            line = json.dumps({digest.hex(): number for digest, number in digests.items()}).encode()
            chain.append(self.path / SEEN, b"\n" + line + b"\n")  # an incomplete line of a full disk stays on its own

    def seen(self) -> dict[bytes, int]:
        """All stored digests, without those of incomplete lines."""
        path, found = self.path / SEEN, dict[bytes, int]()
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                found |= {bytes.fromhex(digest): int(number) for digest, number in json.loads(line).items()}
        return found

    def save_model(self, arrays: Arrays, card: Mapping[str, Any]) -> str:
        """Store the finished model with its card. Returns its id."""
        frozen = self.plan()
        model = weights.model_id(arrays, frozen.id)
        full = {"model_id": model, "plan_id": frozen.id, **card}
        weights.save(self.path / MODEL, arrays, {"plan": frozen.canonical(), "model_id": model})
        self._write_card(full)
        return model

    def card(self) -> dict[str, Any]:
        """The finished model's card."""
        return dict(json.loads((self.path / CARD).read_text("utf-8")))

    def add_attacks(self, found: Mapping[str, Any]) -> None:
        """Store results of attacks in the finished model's card, in place of earlier results of the same attacks."""
        card = self.card()
        self._write_card({**card, "attacks": {**card.get("attacks", {}), **found}})

    def _write_card(self, card: Mapping[str, Any]) -> None:
        private_files.write(self.path / CARD, json.dumps(card, indent=2))


def _state(named: Arrays, metadata: Mapping[str, str]) -> State:
    """What `save_state` kept. Raises ValueError, LookupError, TypeError, AttributeError, UserError."""
    layout = weights.layout_from_json(metadata["layout"])
    flat = weights.flatten({entry.name: named[entry.name] for entry in layout})
    parts = {name.partition("/")[0] for name in named if "/" in name}
    beside = {part: weights.flatten({e.name: named[f"{part}/{e.name}"] for e in layout}) for part in parts}
    average = beside.pop(AVERAGE, None)
    cases = {site: int(count) for site, count in json.loads(metadata.get("cases", "{}")).items()}
    return State(int(metadata["round"]), flat, layout, cases, average, beside)


def _init_content(init: Path, sha256: str) -> bytes:
    try:
        content = init.read_bytes()
    except OSError as error:
        do = "check the path and the rights of the server's user"
        raise UserError("the plan's init cannot be read", error.strerror or "reading failed", do) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError("the plan's init is refused", "the file has changed since the plan was read", "train again")
    return content


def _event(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"time": 0.0, "kind": "unreadable"}
