"""Shell completion: names of sites and numbers of runs, read from the registry, whether the server runs or not."""

import contextlib
import sqlite3

import click

from ynet.encoders import ENCODERS
from ynet.errors import UserError
from ynet_server.commands.options import home_of

Found = list[tuple[str, str]]
"""The possible values, each with a description."""
SITES = "SELECT name, 'enrolled' FROM sites ORDER BY name"
NEWEST_RUNS = "SELECT id, status FROM runs ORDER BY id DESC LIMIT 50"


def sites(context: click.Context, incomplete: str) -> Found:
    """The sites that have enrolled."""
    return [(name, about) for name, about in _rows(context, SITES) if name.startswith(incomplete)]


def runs(context: click.Context, incomplete: str) -> Found:
    """The newest runs, the newest first."""
    found = [(str(number), status) for number, status in _rows(context, NEWEST_RUNS)]
    return [(number, status) for number, status in found if number.startswith(incomplete)]


def encoders(incomplete: str) -> list[str]:
    """The encoders of timm that a plan can name."""
    return [name for name in ENCODERS if name.startswith(incomplete)]


def _rows(context: click.Context, query: str) -> list[tuple[str, str]]:
    """Query the registry. Returns nothing when it cannot be read, since a shell shows no error."""
    with contextlib.suppress(sqlite3.Error, UserError):
        file = home_of(context.params.get("home")) / "registry.sqlite"
        if file.exists():
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0.1)) as registry:
                return registry.execute(query).fetchall()
    return []
