"""The coordinator's commands for accounts of the server's pages."""

from typing import Annotated, Literal

import typer

from ynet_server.commands.options import Home, Json, home_of

app = typer.Typer(name="user", help="Accounts for the status page.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="At most 32 small letters, digits, '.', '_' and '-'.")]


@app.command()
def add(
    name: Name,
    role: Annotated[Literal["admin", "viewer"], typer.Option(help="admin or viewer.")] = "viewer",
    home: Home = None,
) -> None:
    """Make an account. The command asks for the password, or reads it from a pipe."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.add(home_of(home), name, role)


@app.command()
def password(name: Name, home: Home = None) -> None:
    """Change an account's password, and sign its sessions out."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.set_password(home_of(home), name)


@app.command()
def remove(name: Name, home: Home = None) -> None:
    """Remove an account, and sign its sessions out."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.remove(home_of(home), name)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the accounts."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.show(home_of(home), as_json=as_json)
