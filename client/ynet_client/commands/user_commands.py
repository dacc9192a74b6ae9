"""The site's commands for accounts of its pages."""

from typing import Annotated, Literal

import typer

from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of

app = typer.Typer(name="user", help="Accounts for the workbench.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="At most 32 small letters, digits, '.', '_' and '-'.")]


@app.command()
def add(
    name: Name,
    role: Annotated[Literal["radiologist", "admin"], typer.Option(help="radiologist or admin.")],
    site: Site = None,
    home: Home = None,
) -> None:
    """Make an account. The password is asked for, or is the line that is piped in."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.add(home_of(home, site), name, role)


@app.command()
def password(name: Name, site: Site = None, home: Home = None) -> None:
    """Give an account another password; who was signed in with the old one is signed out."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.set_password(home_of(home, site), name)


@app.command()
def remove(name: Name, site: Site = None, home: Home = None) -> None:
    """Take an account away; it is signed out at once."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait

    user_commands.remove(home_of(home, site), name)


@app.command("list")
def list_(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """List the accounts, each with the pseudonym under which its questions leave the site and stand in audit logs."""
    from ynet.web import user_commands  # cryptography: a moment that help and completion need not wait
    from ynet_client.retrieval import stores

    folder = home_of(home, site)
    pseudonym = lambda name: stores.pseudonym_of(stores.secret_of(folder), name)  # noqa: E731 (made where there is one)
    user_commands.show(folder, as_json=as_json, pseudonym=pseudonym)
