"""What a site remembers of questions: its audit log, quotas, consults, and the noise of its own queries."""

import contextlib
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ynet.runtime import private_files
from ynet_client.audit import Audit, Entry
from ynet_client.retrieval.consult import Consults
from ynet_client.retrieval.noise import Drawn
from ynet_client.retrieval.quotas import Quotas
from ynet_client.retrieval.wire import MAX_USER

SECRET = "users.secret"  # noqa: S105 (a file's name)


class Books(NamedTuple):
    """All of them open; one process has them at a time."""

    audit: Audit
    quotas: Quotas
    consults: Consults
    drawn: Drawn
    secret: bytes

    def pseudonym(self, user: str) -> str:
        """The name under which a local user's queries leave the site: the same each time, and nobody else's."""
        return pseudonym_of(self.secret, user)

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        for book in (self.audit, self.quotas, self.consults, self.drawn):
            book.close()


def open_books(
    home: Path, told: Callable[[Entry], None] = lambda _: None, make_room: Callable[[], bool] = lambda: False
) -> Books:
    """The books in a home folder; `told` of each new entry of the audit log, `make_room` asked when the disk is full.

    Raises UserError when one cannot be opened, AuditError when one was tampered with.
    """
    with contextlib.ExitStack() as opened:
        books = Books(
            opened.enter_context(contextlib.closing(Audit(home, told, make_room))),
            opened.enter_context(contextlib.closing(Quotas(home))),
            opened.enter_context(contextlib.closing(Consults(home))),
            opened.enter_context(contextlib.closing(Drawn(home))),
            secret_of(home),
        )
        opened.pop_all()
    return books


def pseudonym_of(secret: bytes, user: str) -> str:
    """What `Books.pseudonym` says, for who has the secret alone."""
    return hmac.new(secret, user.encode(), hashlib.sha256).hexdigest()[:MAX_USER]


def secret_of(home: Path) -> bytes:
    """What makes the pseudonyms this site's own; made when there is none."""
    return private_files.secret_in(home / SECRET)
