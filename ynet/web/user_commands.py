"""What the commands `user add`, `user password`, `user remove` and `user list` of both sides do."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.runtime.home import prepare
from ynet.web.accounts import Accounts, Role, check


def add(home: Path, name: str, role: Role) -> None:
    """Make an account; the password comes from a prompt, or is the first line of what is piped in."""
    accounts = Accounts(prepare(home))
    made = accounts.add(name, role, _password(name), time.time())
    terminal.say(f"account {made.name} is made, role {made.role}")


def set_password(home: Path, name: str) -> None:
    """Another password for an account, asked for like a new one."""
    Accounts(prepare(home)).set_password(name, _password(name))
    terminal.say(f"account {name} has a new password; who was signed in with the old one is signed out")


def remove(home: Path, name: str) -> None:
    """Take an account away."""
    Accounts(home).remove(name)
    terminal.say(f"account {name} is removed, and signed out")


def show(home: Path, *, as_json: bool, pseudonym: Callable[[str], str] | None = None) -> None:
    """List the accounts; `pseudonym`: under which name an account's acts stand in logs."""
    rows: list[Mapping[str, Any]] = [
        {
            "name": one.name,
            "role": one.role,
            "made": one.made,
            **({"pseudonym": pseudonym(one.name)} if pseudonym else {}),
        }
        for one in Accounts(home).all().values()
    ]
    lines = [(one["name"], one["role"], terminal.when(one["made"]), one.get("pseudonym", "")) for one in rows]
    table = terminal.rows("accounts", ("name", "role", "made", "pseudonym" if pseudonym else ""), lines)
    terminal.show({"users": rows}, as_json=as_json, human=lambda: table)


def _password(name: str) -> str:
    """Never from the command line, which every process of the machine may read. Raises UserError."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            raise UserError("no password was given", "nothing was piped in", "type it, or pipe in one line")
        return check(name, line)
    given: str = typer.prompt("password", hide_input=True, confirmation_prompt="once more")
    return check(name, given)
