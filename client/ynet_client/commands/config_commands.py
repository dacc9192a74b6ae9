"""The commands of a site's settings: which there are, and where each came from."""

from pathlib import Path
from typing import Annotated

import typer

from ynet.runtime import terminal
from ynet.runtime.home import home_source
from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of

app = typer.Typer(name="config", help="The settings.", no_args_is_help=True)


@app.command("show")
def show(
    config: Annotated[Path | None, typer.Option(help="Settings, YAML, in the place of those remembered.")] = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show every setting, and where its value came from: a default, a file and its line, a flag, the environment.

    Exit code 2 when one of them cannot be used on this machine.
    """
    from ynet.runtime import setting_sources
    from ynet_client import settings, settings_check

    folder = home_of(home, site)
    read_from = setting_sources.source_of(folder, settings.FILE, config)
    found = settings.read(folder, config)
    listed = setting_sources.listed(found, read_from)
    terminal.show_settings("client", str(folder), home_source(home), listed, as_json=as_json)
    settings_check.check(found)
