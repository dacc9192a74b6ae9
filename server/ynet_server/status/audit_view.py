"""The audit log on the status page: newest refusals, the result of verifying it, and the heads that sites signed."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ynet.errors import UserError
from ynet.federation import countersigned
from ynet.federation.countersigned import SEEN
from ynet.trust import segments
from ynet.trust.succession import Past
from ynet_server import audit

TAIL_BYTES = 256 << 10
"""The part at the log's end that is searched for the newest refusals."""
MOST_SHOWN = 50
REFUSALS = (
    "update-refused",
    "site-failed",
    "enrolment-refused",
    "audit-refused",
    "copy-refused",
    "too-many",
    "revoked",
)
VERIFY_EVERY_S = 600.0
Authorities = Callable[[], tuple[bytes, Sequence[Past]]]
"""The certificates of the authorities in force, PEM, and the past ones."""


class AuditView:
    """The audit log as the page shows it; the whole chain is verified in a thread every VERIFY_EVERY_S."""

    def __init__(self, home: Path, log: audit.ServerAudit, authorities: Authorities) -> None:
        """`authorities` returns those whose signatures are accepted."""
        self._home, self._log, self._authorities = home, log, authorities
        self._read: tuple[int, list[dict[str, Any]]] = (-1, [])
        self._verified: dict[str, Any] = {"at": None, "entries": 0, "signed": 0, "fault": ""}
        self._checking: asyncio.Task[None] | None = None
        self._due = 0.0

    def refusals(self) -> list[dict[str, Any]]:
        """The newest first, at most MOST_SHOWN: each with `time`, `action`, `site`, `about`."""
        number = self._log.head.number
        if number != self._read[0]:
            self._read = (number, _newest(self._home / audit.LOG))
        return self._read[1]

    def heads(self) -> dict[str, Any]:
        """The log's length, the result of the last verification, and the last signed head of each site."""
        self._verify_if_due()
        head = self._log.head
        return {
            "entries": head.number,
            "head": head.digest,
            "verified": self._verified,
            "sites": _seen(self._home / SEEN),
        }

    async def close(self) -> None:
        """Wait for a verification under way, which reads files of the home folder."""
        if self._checking is not None:
            await self._checking

    def _verify_if_due(self) -> None:
        if time.monotonic() >= self._due and (self._checking is None or self._checking.done()):
            self._due = time.monotonic() + VERIFY_EVERY_S
            self._checking = asyncio.create_task(self._verify())

    async def _verify(self) -> None:
        self._verified = await asyncio.to_thread(_verified, self._home, self._authorities(), time.time)


def _verified(home: Path, trusted: tuple[bytes, Sequence[Past]], clock: Callable[[], float]) -> dict[str, Any]:
    found: dict[str, Any] = {"at": clock(), "entries": 0, "signed": 0, "fault": ""}
    try:
        found["entries"] = audit.verify(home).number
        found["signed"] = countersigned.verify(home, audit.read(home), *trusted)
    except UserError as error:
        found["fault"] = error.why
    return found


def _newest(path: Path) -> list[dict[str, Any]]:
    entries = [entry for entry in map(_entry, segments.tail(path, TAIL_BYTES)) if entry.get("act") in REFUSALS]
    return [
        {"time": entry["time"], "action": entry["act"], "site": entry["site"], "about": entry["about"]}
        for entry in reversed(entries[-MOST_SHOWN:])
    ]


def _entry(line: bytes) -> Mapping[str, Any]:
    """An entry; empty for a line that is incomplete, at the beginning of the tail or after a full disk."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def _seen(path: Path) -> dict[str, int]:
    try:
        return {site: int(head["number"]) for site, head in json.loads(path.read_bytes()).items() if site}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
