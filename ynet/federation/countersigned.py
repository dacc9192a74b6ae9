"""Heads of audit logs, signed by the other side: rewriting a whole log does not change the heads that others hold.

The server signs the heads of a site's log, and the site signs those of the server's. Each side stores the signatures of
its own log, and the last head that it saw of the other's. It does not sign a shorter log, or another of the same
length.
"""

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.runtime.home import write_private
from ynet.trust import chain, identity
from ynet.trust.chain import ChainHead, ChainLink
from ynet.trust.identity import Identity
from ynet.trust.journal import AuditError
from ynet.trust.succession import Past

SIGNED, SEEN = "audit.signed.jsonl", "audit.seen.json"
MOST_SIGNED = 1000
SERVER = ""
"""The server's name, which no site can have."""


@dataclass(frozen=True)
class Countersigned:
    """A position of one side's log, signed by the other side."""

    owner: str  # whose log
    by: str  # who signed
    number: int
    digest: str
    time: float  # seconds since 1970
    signature: str  # hexadecimal
    certificate: str  # PEM, the signer's


_SIGNED, _SEEN = TypeAdapter(Countersigned), TypeAdapter(dict[str, ChainHead])


class Witness:
    """Signs the heads of the others' logs, and stores their signatures of its own. Safe to use from several threads."""

    def __init__(
        self, home: Path, name: str, own: Callable[[], Identity], authorities: bytes | Callable[[], bytes]
    ) -> None:
        """`authorities`: possible issuers of the other side's certificate, PEM; a function where they may change."""
        self._home, self._name, self._own = home, name, own
        self._authorities = authorities if callable(authorities) else lambda: authorities
        self._lock = threading.Lock()

    def sign(self, owner: str, head: ChainHead, now: dt.datetime) -> Countersigned:
        """Sign the head of another's log. Raises RefusedError when the log was longer, or had another content."""
        with self._lock:
            seen = self._seen()
            last = seen.get(owner, chain.BEGINNING)
            if head.number < last.number or (head.number == last.number and head != last):
                why = f"it had {last.number} entries when it was last seen, and has {head.number} now"
                do = "somebody cut or exchanged it: find out who"
                raise RefusedError("an audit log is another than it was", why, do)
            if head != last:
                kept = {name: one._asdict() for name, one in {**seen, owner: head}.items()}
                write_private(self._home / SEEN, json.dumps(kept).encode())
        own, time = self._own(), round(now.timestamp(), 3)
        signature = identity.sign(own.key, _message(owner, self._name, head, time))
        return Countersigned(owner, self._name, *head, time, signature.hex(), own.certificate.decode())

    def keep(self, one: Countersigned, by: str) -> None:
        """Store a head of this side's log that `by` signed. Raises RefusedError when the signature is wrong."""
        if (one.owner, one.by) != (self._name, by):
            raise RefusedError("a signature was refused", "it is of another log", "tell the coordinator")
        check(one, self._authorities())
        with self._lock:
            lines = _lines(self._home)
            if lines and _is_of(lines[-1], one):
                return
            line = json.dumps(asdict(one), sort_keys=True).encode() + b"\n"
            if len(lines) < 2 * MOST_SIGNED:
                chain.append(self._home / SIGNED, line)
            else:
                write_private(self._home / SIGNED, b"".join([*lines[-MOST_SIGNED:], line]))

    def _seen(self) -> Mapping[str, ChainHead]:
        file = self._home / SEEN
        try:
            return _SEEN.validate_json(file.read_bytes()) if file.exists() else {}
        except ValueError:
            raise _broken(f"{SEEN}, what was seen of the others' logs, cannot be read") from None


def to_wire(one: Countersigned) -> pb.Countersignature:
    """The wire form. It names neither side, since both know them."""
    certificate, signature = one.certificate.encode(), bytes.fromhex(one.signature)
    told = pb.Countersignature(number=one.number, digest=one.digest, time=one.time)
    told.signature, told.certificate = signature, certificate
    return told


def from_wire(told: pb.Countersignature, owner: str, by: str) -> Countersigned:
    """Read the wire form. Raises RefusedError when it cannot be read."""
    try:
        certificate = told.certificate.decode("ascii")
    except UnicodeDecodeError:
        raise RefusedError("a signature was refused", "its certificate cannot be read", "update ynet") from None
    return Countersigned(owner, by, told.number, told.digest, told.time, told.signature.hex(), certificate)


def check(one: Countersigned, authorities: bytes) -> None:
    """Check that its signer, a member of the consortium at the time, signed this head. Raises RefusedError."""
    try:
        certificate, at = one.certificate.encode(), dt.datetime.fromtimestamp(one.time, dt.UTC)
    except (ValueError, OverflowError, OSError):
        raise RefusedError("a signature was refused", "it names no time", "update ynet") from None
    identity.check_member(certificate, one.by or None, authorities, at)
    message = _message(one.owner, one.by, ChainHead(one.number, one.digest), one.time)
    identity.check_signature(certificate, bytes.fromhex(one.signature), message)


def kept(home: Path) -> Iterator[Countersigned]:
    """The heads of this side's log that others signed, the oldest first. Raises AuditError."""
    for line in _lines(home):
        try:
            yield _SIGNED.validate_json(line)
        except ValueError:
            raise _broken("a signature of its heads cannot be read") from None


def verify(home: Path, links: Iterable[ChainLink], authorities: bytes, past: Iterable[Past] = ()) -> int:
    """Check all signed heads of a log against the log. Returns their number. Raises AuditError.

    A signer's certificate may be of an authority of the `past`, where it was signed before that one's end.
    """
    signed, past = list(kept(home)), list(past)
    wanted, digests, first = {one.number for one in signed}, {0: chain.NOTHING}, 0
    for link in links:
        if not first:
            first, digests[link.number - 1] = link.number, link.previous
        if link.number in wanted:
            digests[link.number] = link.digest
    signed = [one for one in signed if one.number >= first - 1]  # what it lets go of, it says (journal.py)
    for one in signed:
        try:
            check(one, authorities + b"".join(gone.certificate for gone in past if one.time <= gone.until))
        except (RefusedError, ValueError):
            raise _broken(f"a signature of its entry {one.number} is none") from None
        if digests.get(one.number) != one.digest:
            raise _broken(f"its entry {one.number} is another than the one that {one.by or 'the server'} signed")
    return len(signed)


def _message(owner: str, by: str, head: ChainHead, time: float) -> bytes:
    return b"ynet audit head 1\0" + json.dumps([owner, by, head.number, head.digest, time]).encode()


def _is_of(line: bytes, one: Countersigned) -> bool:
    """Whether a line has the same head, by the same signer; one that cannot be read, `verify` finds."""
    try:
        last = _SIGNED.validate_json(line)
    except ValueError:
        return False
    return (last.by, last.digest) == (one.by, one.digest)


def _lines(home: Path) -> list[bytes]:
    file = home / SIGNED
    return (
        [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if file.exists() else []
    )


def _broken(why: str) -> AuditError:
    return AuditError(
        "the audit log cannot be trusted", why, "find out who changed it, or put back the file that was there"
    )
