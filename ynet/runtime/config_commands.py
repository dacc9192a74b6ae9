"""The group `config`, which shows the settings of either program."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ynet.runtime import terminal
from ynet.runtime.command_line import Json, with_options

Config = Annotated[Path | None, typer.Option(help="A settings file, YAML, instead of the remembered settings.")]


class SettingsHome(NamedTuple):
    """A program's home folder and how to read the settings in it."""

    folder: Path
    source: str  # how the folder was chosen
    file: str  # the settings file's name
    load: Callable[[Path, Path | None], Any]  # home folder, --config
    check: Callable[[Any], None] = lambda _: None


def config_app(program: str, home_options: Callable[..., SettingsHome]) -> typer.Typer:
    """Return the group `config`. `home_options` declares the program's options for its home folder."""
    app = typer.Typer(name="config", help="The settings.", no_args_is_help=True)

    def show(home: SettingsHome, config: Config = None, as_json: Json = False) -> None:
        """Show every setting and its source: a default, a file and its line, a flag or the environment.

        Exit code 2 when one of them cannot be used on this machine.
        """
        from ynet.runtime import setting_sources  # PyYAML: `--help` and completion do not wait for it

        read_from = setting_sources.source_of(home.folder, home.file, config)
        settings = home.load(home.folder, config)
        listed = setting_sources.listed(settings, read_from)
        terminal.show_settings(program, str(home.folder), home.source, listed, as_json=as_json)
        home.check(settings)

    app.command("show")(with_options(show, "home", home_options))
    return app
