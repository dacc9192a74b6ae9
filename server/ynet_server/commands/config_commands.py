"""The group `config`: the server's settings."""

from ynet.runtime.config_commands import SettingsHome, config_app
from ynet.runtime.home import home_source
from ynet_server.commands.options import Home, home_of


def _home(home: Home = None) -> SettingsHome:
    from ynet_server import settings

    return SettingsHome(home_of(home), home_source(home), settings.FILE, settings.load)


app = config_app("server", _home)
