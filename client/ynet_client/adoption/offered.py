"""The models that wait for the site admin's decision, in the home folder's `offered/`.

The weights of a model determine what its codes reveal, so a site does not adopt just any model. It adopts a model
without asking when two conditions hold: its policy and consent cover the plan, and the site trained in that run and
evaluated exactly these weights after the last round. `took_part.json` records both. Every other model waits for
`ynet-client plan accept ID`: `offered/ID.json` says why, and `ID.accepted`, `ID.declined` or `ID.adopted` say what was
decided.

The conditions prove that the server presented the model to this site as the result of the run, and cannot replace it
later. They do not prove that it was aggregated from the sites' updates; `code_check` measures what its codes reveal.
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

ModelDecision = Literal["accepted", "declined", "adopted"]
DECISIONS: tuple[ModelDecision, ...] = ("declined", "accepted", "adopted")


class WaitsError(RefusedError):
    """A model is not adopted before the admin accepts it."""


class OfferedModel(NamedTuple):
    """A model that waits, or has waited, for the admin's decision."""

    id: str
    plan: str  # its id
    name: str  # the plan's
    why: tuple[str, ...]
    decision: ModelDecision | None


class OfferedModels:
    """The models that wait in a home folder, and the admin's decisions on them."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def decision_on(self, model_id: str) -> ModelDecision | None:
        """Return the admin's decision on a model, or that the site used it before; None when it is open."""
        return next((decision for decision in DECISIONS if (self._folder / f"{model_id}.{decision}").exists()), None)

    def put(self, model_id: str, plan: Plan, why: tuple[str, ...]) -> None:
        """Store that a model waits, and why."""
        prepare(self._folder)
        kept = {"plan": plan.id, "name": plan.name, "why": list(why)}
        write_private(self._folder / f"{model_id}.json", json.dumps(kept).encode())

    def adopted(self, model_id: str) -> None:
        """Record that a model is in use. It may be adopted again later without a decision."""
        prepare(self._folder)
        write_private(self._folder / f"{model_id}.adopted", b"")
        self.drop(model_id)

    def drop(self, model_id: str) -> None:
        """Remove a model from those that wait."""
        (self._folder / f"{model_id}.json").unlink(missing_ok=True)

    def find(self, letters: str) -> str | None:
        """Return the id of the only waiting model that begins with `letters`, at least twelve; None otherwise."""
        known = [path.stem for path in self._folder.glob("*.json")]
        found = [one for one in known if len(letters) >= SHORTEST and one.startswith(letters)]
        return found[0] if len(found) == 1 else None

    def say(self, model_id: str, decision: Literal["accepted", "declined"]) -> None:
        """Store the admin's decision on a model."""
        other = "accepted" if decision == "declined" else "declined"
        prepare(self._folder)
        write_private(self._folder / f"{model_id}.{decision}", b"")
        (self._folder / f"{model_id}.{other}").unlink(missing_ok=True)

    def listed(self) -> Iterator[OfferedModel]:
        """Yield the models that wait or were declined."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                kept = json.loads(path.read_text("utf-8"))
                yield OfferedModel(
                    path.stem, kept["plan"], kept["name"], tuple(kept["why"]), self.decision_on(path.stem)
                )
            except (ValueError, LookupError, TypeError):
                continue


def waits(model_id: str, why: tuple[str, ...]) -> WaitsError:
    """Return the error that a model waits for the admin's decision."""
    return WaitsError(
        f"model {model_id[:16]} waits for this site's admin, and is not in use",
        "; ".join(why),
        f"ask the coordinator where it comes from; then ynet-client plan accept {model_id[:16]}, or plan decline",
    )
