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
    """Make an account. The password is asked for, or is the line that is piped in."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.add(home_of(home), name, role)


@app.command()
def password(name: Name, home: Home = None) -> None:
    """Give an account another password; who was signed in with the old one is signed out."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.set_password(home_of(home), name)


@app.command()
def remove(name: Name, home: Home = None) -> None:
    """Take an account away; it is signed out at once."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.remove(home_of(home), name)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the accounts."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.show(home_of(home), as_json=as_json)
