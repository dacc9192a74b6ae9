"""The coordinator's commands that show, rotate and retire the consortium's authority."""

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from ynet.runtime import terminal
from ynet_server.commands.options import Home, Json, call

app = typer.Typer(help="The authority that signs all certificates, and its successor.", no_args_is_help=True)
STAGES = {
    "moved": "has moved",
    "pinned": "knows the new one, and is about to move",
    "told": "has not pinned the new one yet (an older ynet never does: update it)",
    "away": "away, under the old one",
}


@app.command("show")
def show(home: Home = None, as_json: Json = False) -> None:
    """Show the authority, its successor, and how far each site is."""
    shown = call(home, "GET", "/authority")
    terminal.show(shown, as_json=as_json, human=lambda: _lines(shown))


@app.command("rotate")
def rotate(
    at_once: Annotated[
        bool, typer.Option("--now", help="Its key was stolen: it is refused at once, and every site must enrol again.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a new authority. Both are accepted until `authority retire`; sites move to the new one automatically."""
    done = call(home, "POST", "/authority/rotation", json={"now": at_once})
    terminal.show(done, as_json=as_json, human=lambda: _lines(done, *(_ended(done) if at_once else [])))


@app.command("retire")
def retire(
    force: Annotated[
        bool, typer.Option("--force", help="Even if sites have not moved; they must enrol again.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """End the old authority: nobody accepts it any more, and its key is destroyed."""
    done = call(home, "POST", "/authority/retirement", json={"force": force})
    terminal.show(done, as_json=as_json, human=lambda: _lines(done, *_ended(done)))


def _lines(shown: dict[str, Any], *beneath: str) -> Group:
    lines = [("in force", shown["authority"], f"{shown['authority_days']:.0f} days")]
    if shown["successor"]:
        lines.append(("its successor", shown["successor"], f"{shown['successor_days']:.0f} days"))
    lines += [("past", one["authority"], f"until {terminal.when(one['until'])}") for one in shown["past"]]
    tables = [terminal.rows("authority", ("", "SHA-256 of its certificate", ""), lines)]
    if shown["successor"]:
        sites = [(one["site"], STAGES[one["stage"]], one["version"] or "") for one in shown["sites"]]
        left = sum(one["stage"] != "moved" for one in shown["sites"])
        tables.append(terminal.rows("sites", ("site", "", "version"), sites))
        beneath = (*beneath, f"{left} of {len(sites)} sites have not moved; at 0: ynet-server authority retire")
    return Group(*tables, *(Text(line) for line in beneath))


def _ended(done: dict[str, Any]) -> list[str]:
    out, void = ", ".join(done["shut_out"]), ", ".join(done["void"])
    lines = [f"sites that must enrol again (ynet-server invite SITE --replace): {out or 'none'}"]
    return [*lines, *([f"invitations that are void, and must be made again: {void}"] if void else [])]
