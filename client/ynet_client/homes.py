"""Which folder is a site's home, and which site is meant where there are several."""

import os
from pathlib import Path

from ynet.errors import UserError
from ynet.runtime.home import default_home, entered

MEMBER = "membership.json"
"""The file that makes a folder a site's: `ynet_client/membership/membership.py`."""


def home_of(given: Path | None, site: str | None) -> Path:
    """The folder of `site`; without a name, of the only one there is. Raises UserError."""
    if given or site:
        return entered(given or default_home(f"sites/{site}"))
    default = entered(default_home("sites"))
    if (default / MEMBER).exists():
        return default  # YNET_HOME names one site's folder
    joined = sorted(path.parent for path in default.glob(f"*/{MEMBER}"))
    if len(joined) != 1:
        names = ", ".join(path.name for path in joined) or "none"
        raise UserError("which site is meant is not clear", f"sites joined from here: {names}", "say --site or --home")
    return joined[0]


def new_home(given: Path | None, site: str | None) -> Path:
    """The folder in which a site is to be made. Raises UserError."""
    if given is None and site is None and not os.environ.get("YNET_HOME"):
        raise UserError("which site is meant is not clear", "neither a site nor a folder was named", "say --site")
    return given or default_home(f"sites/{site}")
