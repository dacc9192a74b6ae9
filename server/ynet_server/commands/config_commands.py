"""The command that shows the server's settings and their sources."""

from pathlib import Path
from typing import Annotated

import typer

from ynet.runtime import terminal
from ynet.runtime.home import home_source
from ynet_server.commands.options import Home, Json, home_of

app = typer.Typer(name="config", help="The settings.", no_args_is_help=True)


@app.command("show")
def show(
    config: Annotated[Path | None, typer.Option(help="Settings, YAML, in the place of those remembered.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show every setting, and where its value came from: a default, a file and its line, or the environment."""
    from ynet.runtime import setting_sources
    from ynet_server import settings

    folder = home_of(home)
    read_from = setting_sources.source_of(folder, settings.FILE, config)
    listed = setting_sources.listed(settings.load(folder, config), read_from)
    terminal.show_settings("server", str(folder), home_source(home), listed, as_json=as_json)
