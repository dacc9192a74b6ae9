"""Options and calls that the coordinator's commands share: the server's home, and JSON output."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ynet.runtime import control_client
from ynet.runtime.command_line import Json as Json
from ynet.runtime.home import default_home, entered

Home = Annotated[
    Path | None, typer.Option("--home", help="The server's folder. Default: YNET_HOME, or your data directory.")
]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan, YAML.")]


def home_of(given: Path | None) -> Path:
    """The server's folder. Raises UserError when it belongs to another user."""
    return entered(given or default_home("server"))


def call(home: Path | None, method: str, path: str, **request: Any) -> Any:
    """Call the running server. Raises UserError, and UnreachableError when none runs."""
    return control_client.call(home_of(home), method, path, "the server", "ynet-server start", **request)
