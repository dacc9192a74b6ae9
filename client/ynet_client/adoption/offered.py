"""Models that a server offers: which of them this site takes up by itself, and which wait for its admin's word.

Codes tell what the weights make them tell, so weights are not taken from anybody. A site takes a model up by itself
when its plan passed the site's policy and consent, and the model is, to the bit, the one that this site itself was sent
to evaluate after the last round of that plan, in which it had trained. `took_part.json` in the home folder has which
plans the site trained, and the id of the newest model that it evaluated at the end of each. Every other model waits for
`ynet-client plan accept ID`, and lies in `offered/` meanwhile: `ID.json` says why, `ID.accepted`, `ID.declined` and
`ID.adopted` what became of it.

That proves that the server put the model up as the outcome of a run in front of this site, and can put up no other one
afterwards. It does not prove that the server made it out of the sites' updates: what codes tell, `code_check` looks at.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ynet.errors import RefusedError
from ynet.plan import Plan
from ynet.runtime.home import prepare, write_private

FOLDER = "offered"
MODEL_ID = re.compile(r"[0-9a-f]{64}")
SHORTEST = 12

ModelWord = Literal["accepted", "declined", "adopted"]
WORDS: tuple[ModelWord, ...] = ("declined", "accepted", "adopted")


class WaitsError(RefusedError):
    """A model is not taken up before the admin has said so."""


class Offered(NamedTuple):
    """A model that waits, or has waited, for the admin's word."""

    id: str
    plan: str  # its id
    name: str  # the plan's
    why: tuple[str, ...]
    word: ModelWord | None


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
        f"ask the coordinator where it comes from; then ynet-client plan accept {model_id[:16]}, or plan decline",
    )
