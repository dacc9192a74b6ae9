"""The commands about the other sites: which of them this one asks and answers."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ynet.errors import UnreachableError, UserError
from ynet.runtime import terminal
from ynet_client import control_client
from ynet_client.commands import completion
from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of

app = typer.Typer(name="sites")
Name = Annotated[str, typer.Argument(help="The other site.", autocompletion=completion.peers)]


@app.callback(invoke_without_command=True)
def sites(context: typer.Context, site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """The other sites: which are asked and answered, and their keys. Without a command: `list`."""
    if context.invoked_subcommand is None:
        list_(site, home, as_json)


@app.command("list")
def list_(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """List the other sites, whether they are confirmed, and the fingerprints that two admins compare by telephone."""
    from ynet.trust import lasting_key  # cryptography: a moment that help and completion need not wait

    folder = home_of(home, site)
    note = _look_round(folder)
    own, shown = _own(folder), [one._asdict() for one in _peers(folder).listed()]
    lines = [(own["site"], "this site", lasting_key.spoken(own["fingerprint"]), "")]
    lines += [(one["site"], one["state"], lasting_key.spoken(one["fingerprint"]), _since(one)) for one in shown]
    table = terminal.rows("sites", ("site", "", "fingerprint", "since"), lines)
    terminal.show({**own, "sites": shown, "note": note}, as_json=as_json, human=lambda: table)
    if not as_json:
        waiting = [one["site"] for one in shown if one["state"] in ("new", "changed")]
        _say(note, waiting)


@app.command()
def trust(
    names: Annotated[list[str] | None, typer.Argument(help="Sites.", autocompletion=completion.peers)] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Every site that is new; none that shows another key.")
    ] = False,
    fingerprint: Annotated[str, typer.Option(help="As the other site's admin reads it out; of one site.")] = "",
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Confirm sites: from now on they are asked and answered. Compare the fingerprints with their admins first."""
    from ynet.trust import lasting_key

    folder = home_of(home, site)
    if bool(names) == everyone or (fingerprint and len(names or []) != 1):
        do = "say ynet-client sites trust NAME, or --all; --fingerprint goes with one name"
        raise UserError("no site was confirmed", "it is not clear which", do)
    note, peers = _look_round(folder), _peers(folder)
    wanted = [one.site for one in peers.listed() if one.state == "new" and one.fingerprint] if everyone else names or []
    made = [peers.trust(name, fingerprint) for name in wanted]
    lines = [f"site {one.site} is confirmed: {lasting_key.spoken(one.fingerprint or one.trusted)}" for one in made]
    nobody = f"no site is new{'; ' + note if note else ''}"
    shown = {"sites": [one._asdict() for one in made]}
    terminal.show(shown, as_json=as_json, human=lambda: "\n".join(lines) or nobody)


@app.command()
def distrust(name: Name, site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Stop asking and answering a site, whatever key it shows."""
    made = _peers(home_of(home, site)).distrust(name)
    line = f"site {made.site} is no longer asked or answered"
    terminal.show({"sites": [made._asdict()]}, as_json=as_json, human=lambda: line)


def _peers(folder: Path) -> Any:
    from ynet_client import settings as client_settings
    from ynet_client.membership.peers import Peers

    return Peers(folder, client_settings.read(folder).known_sites)


def _own(folder: Path) -> dict[str, str]:
    """Return the site's name, and the fingerprint that the others see. Raises UserError."""
    from ynet.trust import lasting_key
    from ynet_client.membership import membership

    member = membership.load(folder)
    if member is None:
        raise UserError(f"there is no site in {folder}", "none has joined from there", "give --site or --home")
    member = membership.with_lasting(folder, member)
    return {
        "site": member.site,
        "fingerprint": lasting_key.fingerprint_of(member.site, lasting_key.public_of(member.lasting)),
    }


def _look_round(folder: Path) -> str:
    """Let the running client ask which sites are connected; return why it could not, or empty."""
    try:
        control_client.look_round(folder)
    except UnreachableError as error:
        return f"{error.why}: this is an earlier state"
    return ""


def _since(one: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(one["since"])) if one["since"] else "not seen yet"


def _say(note: str, waiting: list[str]) -> None:
    if waiting:
        names = " ".join(waiting)
        terminal.say(f"not asked and not answered: compare by telephone, then ynet-client sites trust {names}")
    if note:
        terminal.say(note)
