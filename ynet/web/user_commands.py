"""The group `user`, which manages the accounts of either program's web page."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.runtime.command_line import Json, with_options
from ynet.runtime.home import prepare

if TYPE_CHECKING:
    from ynet.web.accounts import Accounts, Role

Name = Annotated[str, typer.Argument(help="At most 32 small letters, digits, '.', '_' and '-'.")]
PseudonymOf = Callable[[Path], Callable[[str], str]]
"""Returns, for a home folder, the function from an account's name to its pseudonym."""


def user_app(
    help_: str,
    home_options: Callable[..., Path],
    roles: Sequence[str],
    default_role: str | None = None,
    pseudonym_of: PseudonymOf | None = None,
) -> typer.Typer:
    """Return the group `user`.

    Args:
        help_: The group's help.
        home_options: Declares the program's options for its home folder, and returns the folder.
        roles: The roles that the program knows.
        default_role: None makes `--role` required.
        pseudonym_of: Given where `list` shows pseudonyms.
    """
    app = typer.Typer(name="user", help=help_, no_args_is_help=True)
    role_type = click.Choice(roles)
    default: Any = ... if default_role is None else default_role

    def add(
        name: Name,
        home: Path,
        role: Annotated[str, typer.Option(click_type=role_type, help=f"{' or '.join(roles)}.")] = default,
    ) -> None:
        """Make an account. Read the password from a prompt, or from the first line of the standard input."""
        account = _accounts(prepare(home)).add(name, _role(role), _password(name), time.time())
        terminal.say(f"account {account.name} is made, role {account.role}")

    def password(name: Name, home: Path) -> None:
        """Set an account's password, and end its sessions."""
        _accounts(prepare(home)).set_password(name, _password(name))
        terminal.say(f"account {name} has a new password; its sessions are ended")

    def remove(name: Name, home: Path) -> None:
        """Remove an account, and end its sessions."""
        _accounts(home).remove(name)
        terminal.say(f"account {name} is removed, and its sessions are ended")

    def list_(home: Path, as_json: Json = False) -> None:
        """List the accounts."""
        _show(_accounts(home), pseudonym_of(home) if pseudonym_of else None, as_json=as_json)

    if pseudonym_of:
        list_.__doc__ = "List the accounts, each with its pseudonym in queries and audit logs."
    for command, words in ((add, "add"), (password, "password"), (remove, "remove"), (list_, "list")):
        app.command(words)(with_options(command, "home", home_options))
    return app


def _accounts(home: Path) -> "Accounts":
    from ynet.web.accounts import Accounts  # cryptography: `--help` and completion do not wait for it

    return Accounts(home)


def _role(name: str) -> "Role":
    role: Role = name  # type: ignore[assignment]  # click.Choice has checked it
    return role


def _show(accounts: "Accounts", pseudonym: Callable[[str], str] | None, *, as_json: bool) -> None:
    rows: list[Mapping[str, Any]] = [
        {
            "name": one.name,
            "role": one.role,
            "made": one.made,
            **({"pseudonym": pseudonym(one.name)} if pseudonym else {}),
        }
        for one in accounts.all().values()
    ]
    lines = [(one["name"], one["role"], terminal.when(one["made"]), one.get("pseudonym", "")) for one in rows]
    table = terminal.rows("accounts", ("name", "role", "made", "pseudonym" if pseudonym else ""), lines)
    terminal.show({"users": rows}, as_json=as_json, human=lambda: table)


def _password(name: str) -> str:
    """Read a new password. It never comes from the command line, which every process of the machine can read.

    Raises:
        UserError: None was given, or it is too weak.
    """
    from ynet.web.accounts import check

    if not sys.stdin.isatty():
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            raise UserError("no password was given", "nothing was piped in", "type it, or pipe in one line")
        return check(name, line)
    given: str = typer.prompt("password", hide_input=True, confirmation_prompt="once more")
    return check(name, given)
