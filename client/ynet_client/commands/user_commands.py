"""The group `user`: accounts of the workbench."""

from collections.abc import Callable
from pathlib import Path

from ynet.web.user_commands import user_app
from ynet_client.commands.options import Home, Site
from ynet_client.homes import home_of


def _home(site: Site = None, home: Home = None) -> Path:
    return home_of(home, site)


def _pseudonym_of(home: Path) -> Callable[[str], str]:
    from ynet_client.retrieval import stores

    return lambda name: stores.pseudonym_of(stores.secret_of(home), name)


app = user_app("Accounts for the workbench.", _home, roles=("radiologist", "admin"), pseudonym_of=_pseudonym_of)
