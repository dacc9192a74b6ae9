"""The stores of questions and answers: the audit log, quotas, consults, and the noise of own queries."""

import contextlib
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ynet.runtime import private_files
from ynet_client.audit import Audit, Entry
from ynet_client.retrieval.consult import ConsultStore
from ynet_client.retrieval.noise import Drawn
from ynet_client.retrieval.quotas import Quotas
from ynet_client.retrieval.wire import MAX_USER

SECRET = "users.secret"  # noqa: S105 (a file's name)


class Stores(NamedTuple):
    """All stores, open; one process has them at a time."""

    audit: Audit
    quotas: Quotas
    consults: ConsultStore
    drawn: Drawn
    secret: bytes

    def pseudonym(self, user: str) -> str:
        """Return the name under which a local user's queries leave the site; it is always the same."""
        return pseudonym_of(self.secret, user)

    def close(self) -> None:
        """Write everything to the disk and close all files."""
        for store in (self.audit, self.quotas, self.consults, self.drawn):
            store.close()


def open_stores(
    home: Path, added: Callable[[Entry], None] = lambda _: None, make_room: Callable[[], bool] = lambda: False
) -> Stores:
    """Open the stores in a home folder.

    Args:
        home: the site's folder.
        added: called with each new entry of the audit log.
        make_room: called when the disk is full; returns whether it freed space.

    Raises:
        UserError: a store cannot be opened.
        AuditError: the audit log was changed.
    """
    with contextlib.ExitStack() as opened:
        stores = Stores(
            opened.enter_context(contextlib.closing(Audit(home, added, make_room))),
            opened.enter_context(contextlib.closing(Quotas(home))),
            opened.enter_context(contextlib.closing(ConsultStore(home))),
            opened.enter_context(contextlib.closing(Drawn(home))),
            secret_of(home),
        )
        opened.pop_all()
    return stores


def pseudonym_of(secret: bytes, user: str) -> str:
    """Return the pseudonym of a user, from the secret alone."""
    return hmac.new(secret, user.encode(), hashlib.sha256).hexdigest()[:MAX_USER]


def secret_of(home: Path) -> bytes:
    """Return the secret of this site's pseudonyms; make it when there is none."""
    return private_files.secret_in(home / SECRET)
