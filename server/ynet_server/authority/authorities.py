"""The consortium's authorities: the one in force, its successor while both are in force, and past ones.

Each step writes one file atomically, and a restarted server completes the step that a killed one has begun:

    rotate   next.pem is written: two authorities are in force
    retire   past.json names the older one, which ends it. Then next.pem replaces it, and its key is destroyed
    replace  past.json names all that are in force; a new next.pem is made, and replaces them
"""

import datetime as dt
import json
import os
from pathlib import Path

from pydantic import TypeAdapter

from ynet.errors import UserError
from ynet.runtime.home import write_private
from ynet.trust import identity, succession
from ynet.trust.expiry import Life
from ynet.trust.identity import Identity
from ynet.trust.succession import Past
from ynet_server.authority.certificates import authority_in, authority_of, read_identity

FOLDER, CURRENT, NEXT, PAST = "authority", "identity.pem", "next.pem", "past.json"


_PAST = TypeAdapter(list[dict[str, str | float]])


class Authorities:
    """The authorities in a server's home folder. `key` and `certificate` belong to the issuer of the hub's certificate.

    While two are in force, that is the older one, which every site has pinned.
    """

    def __init__(self, home: Path, federation: str, now: dt.datetime) -> None:
        self._folder, self._federation = home / FOLDER, federation
        self._current = authority_of(home, federation, now)
        self.successor: Identity | None = None
        self._past = _kept(self._folder / PAST)
        self._read()
        if self._is_past(self._current.certificate):
            self._put_successor(now)

    @property
    def key(self) -> bytes:
        """PEM."""
        return self._current.key

    @property
    def certificate(self) -> bytes:
        """PEM."""
        return self._current.certificate

    @property
    def newest(self) -> Identity:
        """The successor, or the one in force when there is none."""
        return self.successor or self._current

    @property
    def in_force(self) -> list[bytes]:
        """The certificates of the authorities in force, PEM, the older one first."""
        return [self.certificate, *([self.successor.certificate] if self.successor else [])]

    @property
    def trusted(self) -> bytes:
        """The certificates in force in one text."""
        return b"".join(self.in_force)

    @property
    def past(self) -> list[Past]:
        """The authorities that are no longer in force, the oldest first."""
        return [_past(one) for one in self._past]

    def life(self) -> Life:
        """The validity of the authorities in force; it ends with the newest one."""
        lives = [identity.read_leaf(one).life for one in self.in_force]
        return Life(max(one.begins for one in lives), lives[-1].ends)

    def successions(self) -> list[dict[str, str | float]]:
        """The signed successions, for sites that were away: fingerprints, end, and the older one's signature."""
        return [
            {
                "authority": identity.fingerprint(str(one["certificate"]).encode()).hex(),
                "successor": one["successor"],
                "ended": one["until"],
                "signature": one["signature"],
            }
            for one in self._past
        ]

    def rotate(self, now: dt.datetime) -> None:
        """Make a successor. Raises UserError while there is one that is valid by the current clock."""
        if self.successor is not None and identity.read_leaf(self.successor.certificate).life.has(now):
            do = "end that one first (ynet-server authority retire); ynet-server authority show says who is not ready"
            raise UserError("the authority was not rotated", "it has a successor already", do)
        made = identity.make_authority(self._federation, now)
        write_private(self._folder / NEXT, made.key + made.certificate)
        self.successor = made

    def retire(self, now: dt.datetime) -> None:
        """Replace the older authority by the successor, and destroy its key. Raises UserError without a successor."""
        if self.successor is None:
            do = "begin with one: ynet-server authority rotate"
            raise UserError("no authority was retired", "there is only one", do)
        signature = succession.sign(self, self.successor.certificate).hex()
        self._end([self.certificate], now, self.successor.certificate, signature)
        self._put_successor(now)

    def replace(self, now: dt.datetime) -> None:
        """Replace all authorities by a new one, and destroy their keys.

        No word of theirs, which a thief could give as well, vouches for it: sites learn of it by invitations alone.
        """
        self._end(self.in_force, now, b"", "")
        self._put_successor(now)

    # --- within

    def _read(self) -> None:
        if not (self._folder / NEXT).exists():
            return
        kept = read_identity(self._folder / NEXT)
        if kept == self._current:
            (self._folder / NEXT).unlink()  # the successor is in force, and the server was killed after that
        else:
            self.successor = kept

    def _is_past(self, certificate: bytes) -> bool:
        return any(gone.certificate == certificate for gone in self.past)

    def _end(self, certificates: list[bytes], now: dt.datetime, successor: bytes, signature: str) -> None:
        named = identity.fingerprint(successor).hex() if successor else ""
        beside: dict[str, str | float] = {
            "until": round(now.timestamp(), 3),
            "successor": named,
            "signature": signature,
        }
        self._past = [*self._past, *({"certificate": one.decode(), **beside} for one in certificates)]
        write_private(self._folder / PAST, json.dumps(self._past).encode())

    def _put_successor(self, now: dt.datetime) -> None:
        """Complete what `_end` has begun: put the successor in force, or a new one if that has ended."""
        if self.successor is None or self._is_past(self.successor.certificate):
            made = identity.make_authority(self._federation, now)
            _overwrite(self._folder / NEXT, made)
            self.successor = made
        _overwrite(self._folder / CURRENT, self.successor)
        (self._folder / NEXT).unlink(missing_ok=True)
        self._current, self.successor = self.successor, None


def kept_in(home: Path) -> tuple[bytes, list[Past]]:
    """Read the certificates in force in a server's folder, PEM, and the past ones. Raises UserError."""
    in_force = [authority_in(home)]
    if (home / FOLDER / NEXT).exists():
        in_force.append(read_identity(home / FOLDER / NEXT).certificate)
    return b"".join(in_force), [_past(one) for one in _kept(home / FOLDER / PAST)]


def _kept(path: Path) -> list[dict[str, str | float]]:
    try:
        return _PAST.validate_json(path.read_bytes() if path.exists() else b"[]")
    except ValueError:
        raise UserError(f"{path} cannot be read", "it was changed", "restore it from a backup") from None


def _past(kept: dict[str, str | float]) -> Past:
    return Past(str(kept["certificate"]).encode(), float(kept["until"]))


def _overwrite(path: Path, made: Identity) -> None:
    """Replace a key and certificate, and overwrite the old file with zeros, as far as the disk writes in place."""
    if not path.exists():
        write_private(path, made.key + made.certificate)
        return
    with path.open("r+b", buffering=0) as old:
        write_private(path, made.key + made.certificate)
        old.write(bytes(os.fstat(old.fileno()).st_size))
        os.fsync(old.fileno())
