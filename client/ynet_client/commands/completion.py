"""Complete names of sites and ids of plans in a shell, from the names of files."""

import click

from ynet.errors import UserError
from ynet.runtime.home import default_home
from ynet_client.homes import MEMBER, home_of

Found = list[tuple[str, str]]
"""Completions, each with a description."""


def sites(incomplete: str) -> Found:
    """Return the sites that have joined from here."""
    try:
        folders = sorted(path.parent.name for path in default_home("sites").glob(f"*/{MEMBER}"))
    except UserError:
        return []
    return [(name, "joined from here") for name in folders if name.startswith(incomplete)]


def peers(context: click.Context, incomplete: str) -> Found:
    """Return the other sites that were seen."""
    try:
        folder = home_of(context.params.get("home"), context.params.get("site")) / "peers"
    except UserError:
        return []
    names = sorted(path.stem for path in folder.glob("*.seen"))
    return [(name, "another site") for name in names if name.startswith(incomplete)]


def plans(context: click.Context, incomplete: str) -> Found:
    """Return the ids of the plans that a server has sent, undecided ones first."""
    try:
        folder = home_of(context.params.get("home"), context.params.get("site")) / "plans"
    except UserError:
        return []
    said = {path.stem: path.suffix[1:] for path in folder.glob("*.*ed")}
    ids = sorted((path.stem for path in folder.glob("*.json")), key=lambda plan: (plan in said, plan))
    return [(plan, said.get(plan, "waits for a decision")) for plan in ids if plan.startswith(incomplete)]
