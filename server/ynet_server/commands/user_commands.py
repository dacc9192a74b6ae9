"""The group `user`: accounts of the server's pages."""

from pathlib import Path

from ynet.web.user_commands import user_app
from ynet_server.commands.options import Home, home_of


def _home(home: Home = None) -> Path:
    return home_of(home)


app = user_app("Accounts for the status page.", _home, roles=("admin", "viewer"), default_role="viewer")
