"""Sessions of signed-in people, in this process's memory; a cookie's secret identifies a session."""

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from ynet.web.accounts import Account, Accounts, Role

IDLE_S = 30 * 60.0
LONGEST_S = 10 * 3600.0
"""A session ends IDLE_S after its last use, LONGEST_S after its beginning, or with the process."""
MAX_SESSIONS = 1_000
MAX_OF_ONE = 10
"""Sessions of one account; another one ends the oldest."""


@dataclass(frozen=True)
class Visitor:
    """A signed-in person."""

    name: str
    role: Role
    csrf: str  # the token that changes must carry


@dataclass
class _Session:
    visitor: Visitor
    hash: str  # of the account's password, when it began
    begun: float
    used: float


def elapsed() -> float:
    """Return the seconds of a monotonic clock that includes the machine's sleep."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Sessions:
    """The sessions, keyed by their cookies' digests, so that memory holds no cookie. For one thread."""

    def __init__(self, accounts: Accounts, idle_s: float = IDLE_S, longest_s: float = LONGEST_S) -> None:
        self._accounts, self._idle_s, self._longest_s = accounts, idle_s, longest_s
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, account: Account, now: float) -> str:
        """Begin a session; return the secret for its cookie."""
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
        """Return the person of a cookie while the session lasts.

        `is_use` is False for background requests of a page, which do not prolong the session.

        Raises:
            UserError: The accounts cannot be read.
        """
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
        """End a session."""
        self._sessions.pop(_key(token), None)

    def _has_ended(self, one: _Session, now: float) -> bool:
        return now - one.used >= self._idle_s or now - one.begun >= self._longest_s

    def _drop_ended(self, now: float) -> None:
        for key in [key for key, one in self._sessions.items() if self._has_ended(one, now)]:
            del self._sessions[key]


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
