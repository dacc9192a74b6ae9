"""Requests for a consult, kept at both sites: a hit's token, a note, and the owning site's yes or no."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ynet.errors import RefusedError, UserError
from ynet_client.database import Database
from ynet_client.retrieval.wire import CONSULT_ID_BYTES, plain_text

FILE = "consults.sqlite"
SCHEMA = """
CREATE TABLE consults (
  id BLOB NOT NULL,
  direction TEXT NOT NULL,   -- sent or received
  site TEXT NOT NULL,        -- the other one
  user TEXT NOT NULL,        -- who asked: a pseudonym
  token BLOB NOT NULL,
  image TEXT NOT NULL,       -- the own case, where received; never sent
  note TEXT NOT NULL,
  time REAL NOT NULL,        -- when it was sent or received, seconds since 1970
  word TEXT NOT NULL,        -- open, yes, no; unknown: the owning site has it no more
  text TEXT NOT NULL,
  answered REAL,
  PRIMARY KEY (direction, site, id)
) STRICT
"""
MAX_OPEN_OF_A_SITE = 100
MAX_OF_A_SITE = 10_000
"""The most requests of one other site that are kept."""
Decision = Literal["open", "yes", "no", "unknown"]
_COLUMNS = "id, direction, site, user, token, image, note, time, word, text, answered"


class Consult(NamedTuple):
    """One request, as a row of the file."""

    id: bytes
    direction: str
    site: str
    user: str
    token: bytes
    image: str
    note: str
    time: float
    decision: str
    text: str
    answered: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the request as `ynet-client consult list --json` prints it; an image's path only where received."""
        shown = {**self._asdict(), "id": self.id.hex(), "token": self.token.hex()}
        return shown if self.direction == "received" else {key: shown[key] for key in shown if key != "image"}


class ConsultStore:
    """The requests that a site has sent and received. Any thread may call."""

    def __init__(self, home: Path) -> None:
        """Open the file. Raises UserError when it cannot be opened."""
        self._database = Database(home / FILE, SCHEMA, 1, is_synced=True)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def listed(self) -> list[Consult]:
        """Return all requests, the newest first."""
        return self._read("")

    def of(self, direction: str, site: str) -> list[Consult]:
        """Return the requests sent to one site, or received from it."""
        return self._read("WHERE direction = ? AND site = ?", direction, site)

    def send(self, site: str, user: str, token: bytes, note: str, now: float) -> Consult:
        """Record a request with a new id, before it is sent. Raises UserError when the note is empty."""
        if not plain_text(note):
            raise UserError("the request cannot be sent", "it has no note", "write what you want to know: --note '...'")
        id_ = secrets.token_bytes(CONSULT_ID_BYTES)
        made = Consult(id_, "sent", site, user, token, "", plain_text(note), now, "open", "", None)
        self._insert(made)
        return made

    def withdraw(self, sent: Consult) -> None:
        """Delete a request that the other site did not take."""
        self._database.write("DELETE FROM consults WHERE direction = 'sent' AND id = ?", (sent.id,))

    def receive(self, id_: bytes, site: str, user: str, token: bytes, image: str, note: str, now: float) -> bool:
        """Keep another site's request; return whether there was room. A request that came again changes nothing."""
        kept = self.of("received", site)
        if any(one.id == id_ for one in kept):
            return True
        if len(kept) >= MAX_OF_A_SITE or sum(one.decision == "open" for one in kept) >= MAX_OPEN_OF_A_SITE:
            return False
        self._insert(Consult(id_, "received", site, user, token, image, plain_text(note), now, "open", "", None))
        return True

    def answer(self, prefix: str, decision: Literal["yes", "no"], text: str, now: float) -> Consult:
        """Answer a received request, named by its id or the beginning of it. Raises UserError."""
        found = [one for one in self.listed() if one.direction == "received" and one.id.hex().startswith(prefix)]
        if len(found) != 1 or not prefix:
            why = f"{len(found)} received requests have an id with this beginning"
            raise UserError(f"no request {prefix[:40]!r}", why, "see ynet-client consult list")
        if found[0].decision != "open":
            do = "nothing to do: the asking site may have read the answer"
            raise RefusedError("the request has an answer already", f"the answer was {found[0].decision}", do)
        self._settle("received", found[0].site, found[0].id, decision, plain_text(text), now)
        return found[0]._replace(decision=decision, text=plain_text(text), answered=now)

    def settle(self, site: str, id_: bytes, decision: Decision, text: str, now: float) -> None:
        """Record the owning site's answer to a request that was sent to it."""
        self._settle("sent", site, id_, decision, plain_text(text), now)

    def waiting_for(self) -> dict[str, Sequence[bytes]]:
        """Return the sites that have not answered, each with the ids of its open requests, the oldest first."""
        waiting: dict[str, list[bytes]] = {}
        for one in reversed(self.listed()):
            if (one.direction, one.decision) == ("sent", "open"):
                waiting.setdefault(one.site, []).append(one.id)
        return dict(waiting)

    def _read(self, where: str, *values: str) -> list[Consult]:
        rows = self._database.read(f"SELECT {_COLUMNS} FROM consults {where} ORDER BY time DESC, id", *values)  # noqa: S608
        return [Consult(*row) for row in rows]

    def _insert(self, one: Consult) -> None:
        self._database.write(f"INSERT INTO consults ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", one)  # noqa: S608

    def _settle(self, direction: str, site: str, id_: bytes, decision: Decision, text: str, now: float) -> None:
        self._database.write(
            "UPDATE consults SET word = ?, text = ?, answered = ?"
            " WHERE direction = ? AND site = ? AND id = ? AND word = 'open'",
            (decision, text, now, direction, site, id_),
        )
