"""Models that a server offers: which of them this site takes up by itself, and which wait for its admin's word.

Codes tell what the weights make them tell, so weights are not taken from anybody. A site takes a model up by itself
when its plan passed the site's policy and consent, and the model is, to the bit, the one that this site itself was sent
to evaluate after the last round of that plan, in which it had trained. `took_part.json` in the home folder has which
plans the site trained, and the id of the newest model that it evaluated at the end of each. Every other model waits for
`ynet-client accept ID`, and lies in `offered/` meanwhile: `ID.json` says why, `ID.accepted`, `ID.declined` and
`ID.adopted` what became of it.

That proves that the server put the model up as the outcome of a run in front of this site, and can put up no other one
afterwards. It does not prove that the server made it out of the sites' updates: what codes tell, `code_check` looks at.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter

from ynet.errors import RefusedError
from ynet.federation.plan import Plan
from ynet.home import prepare, write_private

FOLDER, FILE = "offered", "took_part.json"
MOST_PLANS = 1_000
MODEL_ID = re.compile(r"[0-9a-f]{64}")
SHORTEST = 12

ModelWord = Literal["accepted", "declined", "adopted"]
WORDS: tuple[ModelWord, ...] = ("declined", "accepted", "adopted")


class WaitsError(RefusedError):
    """A model is not taken up before the admin has said so."""


class Part(NamedTuple):
    """What the site did for a plan."""

    rounds: int = 0  # trained, the same one again counted again
    ended_with: str = ""  # the id of the newest model that it evaluated after the last round


class Offered(NamedTuple):
    """A model that waits, or has waited, for the admin's word."""

    id: str
    plan: str  # its id
    name: str  # the plan's
    why: tuple[str, ...]
    word: ModelWord | None


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


class Offers:
    """The models that wait in a home folder, and the admin's words about them."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def word_of(self, model_id: str) -> ModelWord | None:
        """What was said of a model, or that it was in use here before."""
        return next((word for word in WORDS if (self._folder / f"{model_id}.{word}").exists()), None)

    def put(self, model_id: str, plan: Plan, why: tuple[str, ...]) -> None:
        """A model waits, and why."""
        prepare(self._folder)
        kept = {"plan": plan.id, "name": plan.name, "why": list(why)}
        write_private(self._folder / f"{model_id}.json", json.dumps(kept).encode())

    def adopted(self, model_id: str) -> None:
        """A model is in use: it may come back later, without a word."""
        prepare(self._folder)
        write_private(self._folder / f"{model_id}.adopted", b"")
        self.drop(model_id)

    def drop(self, model_id: str) -> None:
        """A model waits no longer."""
        (self._folder / f"{model_id}.json").unlink(missing_ok=True)

    def find(self, letters: str) -> str | None:
        """The id of the waiting model that begins so, with twelve letters or more; None where none does, or several."""
        known = [path.stem for path in self._folder.glob("*.json")]
        found = [one for one in known if len(letters) >= SHORTEST and one.startswith(letters)]
        return found[0] if len(found) == 1 else None

    def say(self, model_id: str, word: Literal["accepted", "declined"]) -> None:
        """Keep the admin's word about a model."""
        other = "accepted" if word == "declined" else "declined"
        prepare(self._folder)
        write_private(self._folder / f"{model_id}.{word}", b"")
        (self._folder / f"{model_id}.{other}").unlink(missing_ok=True)

    def listed(self) -> Iterator[Offered]:
        """The models that wait, or were declined."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                kept = json.loads(path.read_text("utf-8"))
                yield Offered(path.stem, kept["plan"], kept["name"], tuple(kept["why"]), self.word_of(path.stem))
            except (ValueError, LookupError, TypeError):
                continue


def waits(model_id: str, why: tuple[str, ...]) -> WaitsError:
    """That a model waits for the admin's word."""
    return WaitsError(
        f"model {model_id[:16]} waits for this site's admin, and is not in use",
        "; ".join(why),
        f"ask the coordinator where it comes from; then ynet-client accept {model_id[:16]}, or ynet-client decline",
    )
