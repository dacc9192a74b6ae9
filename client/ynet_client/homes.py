"""The choice of a site's home folder by --home, --site or the environment."""

import os
from pathlib import Path

from ynet.errors import UserError
from ynet.runtime.home import default_home, entered

MEMBER = "membership.json"
"""The file that every site's folder has: `ynet_client/membership/membership.py`."""


def home_of(given: Path | None, site: str | None) -> Path:
    """Return the folder of `site`, or of the only site there is. Raises UserError."""
    if given or site:
        return entered(given or default_home(f"sites/{site}"))
    default = entered(default_home("sites"))
    if (default / MEMBER).exists():
        return default  # YNET_HOME names one site's folder
    joined = sorted(path.parent for path in default.glob(f"*/{MEMBER}"))
    if len(joined) != 1:
        names = ", ".join(path.name for path in joined) or "none"
        raise UserError("the site is not clear", f"sites joined from here: {names}", "use --site or --home")
    return joined[0]


def new_home(given: Path | None, site: str | None) -> Path:
    """Return the folder for a new site. Raises UserError."""
    if given is None and site is None and not os.environ.get("YNET_HOME"):
        raise UserError("the site is not clear", "neither a site nor a folder was named", "use --site")
    return given or default_home(f"sites/{site}")
