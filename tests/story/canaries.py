"""Search for secrets and patients' names in every file of every home, in all output, and in all traffic of the hub."""

import base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ynet.trust import invitation
from ynet_lab.trial import Trial

KEYS = ("site.key", "site.next.key", "hub/identity.pem", "authority/identity.pem", "authority/next.pem")
SECRETS = ("gallery.secret", "users.secret")


class Kept(NamedTuple):
    """A value that may be in some files and nowhere else."""

    name: str
    values: tuple[bytes, ...]  # the encodings to search for
    places: tuple[str, ...]  # prefixes of paths under the trial's folder; empty: it may be nowhere


def everything(trial: Trial) -> dict[str, bytes]:
    """Return all files of a trial by path: the homes, the processes' output, the record of the hub's traffic."""
    found = {}
    for path in sorted(trial.folder.rglob("*")):
        with suppress(FileNotFoundError):  # it was deleted in between
            if path.is_file():
                found[path.relative_to(trial.folder).as_posix()] = path.read_bytes()
    return found


def kept(trial: Trial) -> Iterator[Kept]:
    """Return all values that must not spread."""
    for site in trial.sites:
        home = trial.home(site).relative_to(trial.folder).as_posix()
        yield Kept(f"{site}'s patients", (f"CANARY-{site}-PATIENT".encode(),), ())
        yield Kept(
            f"{site}'s files", (f"CANARY-{site}-FILE".encode(),), (f"{home}/gallery.sqlite", f"{home}/consults.")
        )
        if site in trial.invitations:
            text = trial.invitations[site]
            yield Kept(f"{site}'s invitation", (text.encode(), *_forms(invitation.parse(text).secret)), ())
    for home in (trial.server_home, *map(trial.home, trial.sites)):
        yield from _of_home(home, trial.folder)


def _of_home(home: Path, folder: Path) -> Iterator[Kept]:
    for name in SECRETS:
        if (home / name).exists():
            yield Kept(f"{home.name}: {name}", _forms((home / name).read_bytes()), (_place(home / name, folder),))
    for name in KEYS:
        if (home / name).exists():
            key = serialization.load_pem_private_key((home / name).read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            number = key.private_numbers().private_value.to_bytes(32, "big")
            line = (home / name).read_bytes().splitlines()[1][48:]  # the prefix is in every P-256 key
            yield Kept(f"{home.name}: {name}", (line, *_forms(number)), (_place(home / name, folder),))


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _forms(secret: bytes) -> tuple[bytes, ...]:
    return (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret)[:-2])


def strays(trial: Trial, printed: dict[str, bytes] | None = None) -> list[str]:
    """Return the values that are where they do not belong, in the files or in `printed`."""
    files = {**everything(trial), **(printed or {})}
    return [
        f"{one.name} in {path}"
        for one in kept(trial)
        for path, data in files.items()
        if not path.startswith(one.places or ("\0",)) and any(value in data for value in one.values)
    ]
