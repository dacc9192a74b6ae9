"""Local accounts in a file of the home folder: each with a name, a role and an Argon2id hash."""

import contextlib
import fcntl
import json
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ynet.errors import UserError
from ynet.runtime.home import write_private

FILE = "accounts.json"
Role = Literal["radiologist", "admin", "viewer"]
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
SHORTEST, LONGEST = 12, 256
"""The shortest and the longest password, in characters."""
MEMORY_KIB, ITERATIONS = 32 * 1024, 3
"""Argon2id's cost, about 80 ms of one core; OWASP's minimum is 19 MiB and 2."""
MAX_ACCOUNTS = 10_000


@dataclass(frozen=True)
class Account:
    """A person who may sign in."""

    name: str
    role: Role
    hash: str  # Argon2id in PHC's format
    made: float  # seconds since 1970


class Accounts:
    """The accounts in a home folder, read again when the file changes. Thread-safe."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._lock = threading.Lock()
        self._read: tuple[object, dict[str, Account]] = (None, {})
        self._nobody = hashed(secrets.token_urlsafe())

    def all(self) -> dict[str, Account]:
        """Return all accounts by name.

        Raises:
            UserError: The file cannot be read.
        """
        with self._lock:
            state = self._state()
            if state != self._read[0]:
                self._read = (state, _load(self._path))
            return dict(self._read[1])

    def find(self, name: str) -> Account | None:
        """Return the account with this name; None where there is none."""
        return self.all().get(name)

    def verify(self, name: str, password: str) -> Account | None:
        """Return the account if the password is right. An unknown name takes the same time."""
        account = self.find(name)
        is_right = _is_right(account.hash if account else self._nobody, password)
        return account if is_right else None

    def add(self, name: str, role: Role, password: str, now: float) -> Account:
        """Make an account.

        Raises:
            UserError: The name or the password cannot be used, or the name is taken.
        """
        what = f"the account {name[:40]!r} was not made"
        if not NAME.fullmatch(name):
            do = "at most 32 small letters, digits, '.', '_' and '-', a letter or digit first"
            raise UserError(what, "the name cannot be used", do)
        made = Account(name, role, hashed(check(name, password)), now)
        with self._alone():
            accounts = self.all()
            if name in accounts:
                raise UserError(what, "there is one of that name", "choose another, or: user password NAME")
            if len(accounts) >= MAX_ACCOUNTS:
                raise UserError(what, f"there are {MAX_ACCOUNTS} already", "remove some: user remove NAME")
            self._write({**accounts, name: made})
        return made

    def set_password(self, name: str, password: str) -> Account:
        """Change a password, which ends the account's sessions.

        Raises:
            UserError: There is no such account, or the password cannot be used.
        """
        self._known(name)
        hash_ = hashed(check(name, password))
        with self._alone():
            old = self._known(name)
            changed = Account(name, old.role, hash_, old.made)
            self._write({**self.all(), name: changed})
        return changed

    def remove(self, name: str) -> None:
        """Remove an account.

        Raises:
            UserError: There is no such account.
        """
        with self._alone():
            self._known(name)
            self._write({key: one for key, one in self.all().items() if key != name})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the file against changes by other processes, which would be lost."""
        try:
            file = self._path.with_suffix(".lock").open("a")
        except FileNotFoundError:  # no folder: no account
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _known(self, name: str) -> Account:
        account = self.find(name)
        if account is None:
            raise UserError(f"there is no account {name[:40]!r}", "no such name", "see: user list")
        return account

    def _state(self) -> object:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _write(self, accounts: dict[str, Account]) -> None:
        rows = [asdict(one) for _, one in sorted(accounts.items())]
        write_private(self._path, json.dumps({"format": 1, "accounts": rows}, indent=1).encode())


def check(name: str, password: str) -> str:
    """Return the password if it is acceptable.

    Raises:
        UserError: It is too short, too long or too easy to guess.
    """
    what = "the password cannot be used"
    if not SHORTEST <= len(password) <= LONGEST:
        why = f"it has {len(password)} characters"
        raise UserError(what, why, f"take {SHORTEST} to {LONGEST}; a few unrelated words are good")
    if name in password.lower() or len(set(password)) < 5:
        raise UserError(what, "it is easy to guess: it has the name, or few different characters", "take another")
    return password


def hashed(password: str) -> str:
    """Hash a password with a new salt."""
    salt = secrets.token_bytes(16)
    made = Argon2id(salt=salt, length=32, iterations=ITERATIONS, lanes=1, memory_cost=MEMORY_KIB)
    return made.derive_phc_encoded(password.encode())


def _is_right(hash_: str, password: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password.encode(), hash_)
    except InvalidKey:
        return False
    return True


def _load(path: Path) -> dict[str, Account]:
    try:
        rows = json.loads(path.read_bytes())["accounts"]
        accounts = {row["name"]: Account(**row) for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = type(error).__name__
        raise UserError(f"the accounts in {path} cannot be read", why, "restore the file, or remove it") from None
    if not all(one.role in get_args(Role) and NAME.fullmatch(one.name) for one in accounts.values()):
        raise UserError(f"the accounts in {path} cannot be read", "an odd name or role", "restore the file")
    return accounts
