"""What the site's commands have in common: which site is meant, and how its running client is called."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ynet import control
from ynet.errors import UserError
from ynet.home import default_home
from ynet_client import membership

Site = Annotated[
    str | None, typer.Option("--site", help="The site's name. Needed where several have joined from here.")
]
Home = Annotated[
    Path | None, typer.Option("--home", help="The site's folder. Default: YNET_HOME, or your data directory.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def home_of(given: Path | None, site: str | None) -> Path:
    """The folder of `site`; without a name, of the only one there is. Raises UserError."""
    if given:
        return given
    if site:
        return default_home(f"sites/{site}")
    default = default_home("sites")
    if (default / membership.FILE).exists():
        return default  # YNET_HOME names one site's folder
    joined = sorted(path.parent for path in default.glob(f"*/{membership.FILE}"))
    if len(joined) != 1:
        names = ", ".join(path.name for path in joined) or "none"
        raise UserError("which site is meant is not clear", f"sites joined from here: {names}", "say --site or --home")
    return joined[0]


def call(home: Path, method: str, path: str, timeout_s: float = 60.0, **request: Any) -> Any:
    """What the client running in `home` answers. Raises UserError, UnreachableError when none does."""
    member = membership.load(home)
    name = member.site if member else "SITE"
    start = f"ynet-client join --site={name}"
    return control.call(home, method, path, f"the client of site {name}", start, timeout_s, **request)
