"""The command that prints the address of a site's workbench."""

import webbrowser
from typing import Annotated, Any

import typer

from ynet.errors import UserError
from ynet.runtime import terminal
from ynet_client import control_client
from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of

app = typer.Typer()


@app.command()
def workbench(
    is_opened: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print the address of the joined site's page for radiologists."""
    found = control_client.workbench(home_of(home, site))
    if not found["enabled"] and not as_json:
        do = "start the client with it: ynet-client join --site=SITE --workbench"
        raise UserError("the workbench is not switched on", "the site's settings say workbench.enabled: false", do)
    terminal.show(found, as_json=as_json, human=lambda: _lines(found))
    if is_opened and found["address"]:
        webbrowser.open(found["address"])


def _lines(found: dict[str, Any]) -> str:
    lines = [found["address"]]
    if found["own_certificate"]:
        lines += [
            "The browser does not know its certificate, which was made here; compare before you trust it:",
            f"SHA-256 {found['fingerprint']}",
        ]
    return "\n".join(lines)
