"""Options that the site's commands share: the site, its home folder, and JSON output."""

from pathlib import Path
from typing import Annotated

import typer

from ynet.runtime.command_line import Json as Json
from ynet_client.commands import completion

Site = Annotated[
    str | None,
    typer.Option(
        "--site", help="The site's name. Needed where several have joined from here.", autocompletion=completion.sites
    ),
]
Home = Annotated[
    Path | None, typer.Option("--home", help="The site's folder. Default: YNET_HOME, or your data directory.")
]
