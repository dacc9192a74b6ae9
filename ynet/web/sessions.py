"""Who is signed in: sessions in this process's memory, each found by the secret in its browser's cookie."""

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from ynet.web.accounts import Account, Accounts, Role

IDLE_S = 30 * 60.0
LONGEST_S = 10 * 3600.0
"""A session ends so long after its last use, and so long after its beginning at the latest; or with the process."""
MAX_SESSIONS = 1_000
MAX_OF_ONE = 10
"""Sessions of one account; a further one ends its oldest."""


@dataclass(frozen=True)
class Visitor:
    """Who asks."""

    name: str
    role: Role
    csrf: str  # what a call that changes something must carry


@dataclass
class _Session:
    visitor: Visitor
    hash: str  # of the account's password, when it began
    begun: float
    used: float


def elapsed() -> float:
    """Seconds since some moment, those of a machine's sleep too; setting the clock does not change them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Sessions:
    """By the digest of each cookie: whoever reads the memory of a list does not have the cookies. One thread calls."""

    def __init__(self, accounts: Accounts, idle_s: float = IDLE_S, longest_s: float = LONGEST_S) -> None:
        self._accounts, self._idle_s, self._longest_s = accounts, idle_s, longest_s
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, account: Account, now: float) -> str:
        """A new session; the secret for its cookie."""
        token = secrets.token_urlsafe(32)
        visitor = Visitor(account.name, account.role, secrets.token_urlsafe(32))
        self._drop_ended(now)
        own = [key for key, one in self._sessions.items() if one.visitor.name == account.name]
        for key in own[: max(0, len(own) - MAX_OF_ONE + 1)]:
            del self._sessions[key]
        while len(self._sessions) >= MAX_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[_key(token)] = _Session(visitor, account.hash, now, now)
        return token

    def find(self, token: str, now: float, *, is_use: bool = True) -> Visitor | None:
        """Whose the cookie is, if the session lasts. What a page does by itself is no use. Raises UserError."""
        session = self._sessions.get(_key(token))
        if session is None:
            return None
        account = self._accounts.find(session.visitor.name)
        is_same = account is not None and (account.hash, account.role) == (session.hash, session.visitor.role)
        if not is_same or self._has_ended(session, now):
            self.end(token)
            return None
        if is_use:
            session.used = now
        return session.visitor

    def end(self, token: str) -> None:
        """Sign out."""
        self._sessions.pop(_key(token), None)

    def _has_ended(self, one: _Session, now: float) -> bool:
        return now - one.used >= self._idle_s or now - one.begun >= self._longest_s

    def _drop_ended(self, now: float) -> None:
        for key in [key for key, one in self._sessions.items() if self._has_ended(one, now)]:
            del self._sessions[key]


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
