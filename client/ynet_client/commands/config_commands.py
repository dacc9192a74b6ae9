"""The group `config`: a site's settings."""

from ynet.runtime.config_commands import SettingsHome, config_app
from ynet.runtime.home import home_source
from ynet_client.commands.options import Home, Site
from ynet_client.homes import home_of


def _home(site: Site = None, home: Home = None) -> SettingsHome:
    from ynet_client import settings, settings_check

    return SettingsHome(home_of(home, site), home_source(home), settings.FILE, settings.read, settings_check.check)


app = config_app("client", _home)
