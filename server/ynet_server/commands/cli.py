"""The coordinator's commands.

Imports that help and completion need not wait for stand in the commands (tests/test_completion.py).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ynet.runtime import terminal
from ynet.runtime.command_line import show_examples
from ynet.runtime.home import prepare
from ynet_server.commands import (
    authority_commands,
    backup_commands,
    completion,
    config_commands,
    encoder_commands,
    run_commands,
    user_commands,
)
from ynet_server.commands.examples import EXAMPLES
from ynet_server.commands.options import Home, Json, PlanFile, call, home_of

app = typer.Typer(name="ynet-server", help="The central server of a consortium.", no_args_is_help=True)
audit_app = typer.Typer(help="The log of who was let in, what was trained, who asked.", no_args_is_help=True)
plan_app = typer.Typer(help="What all sites agree on before training.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")
app.add_typer(audit_app, name="audit")
app.add_typer(user_commands.app)


def main() -> None:
    """Entry point."""
    terminal.run(app)


@app.command()
def start(
    config: Annotated[Path | None, typer.Option(help="Settings, YAML; remembered for the next start.")] = None,
    home: Home = None,
) -> None:
    """Run the server, in the foreground."""
    import asyncio

    from ynet_server import settings as server_settings

    folder = prepare(home_of(home))
    settings = server_settings.load(folder, config)
    known = server_settings.known_of(folder, config, settings)
    from ynet_server.process import serve  # Flower and gRPC: a second that the other commands need not wait

    terminal.log_to(folder / "server.log")
    asyncio.run(serve(folder, settings, terminal.say, known=known))


@app.command()
def invite(
    site: Annotated[
        str, typer.Argument(help="The site's name: letters, digits, '-' and '_'.", autocompletion=completion.sites)
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="The site enrols again: its old certificate ends.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print an invitation for one site: valid once, for 24 hours. The next step is printed on stderr."""
    made = call(home, "POST", "/invitations", json={"site": site, "replace": replace})
    terminal.show(made, as_json=as_json, human=lambda: made["invitation"])
    terminal.hint(
        f"For site {site}, valid once, for 24 hours. Hand it over on a channel that you trust; there:\n"
        f"ynet-client join --site={site} --data MANIFEST.csv --invitation -   (and paste it)"
    )


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's name.", autocompletion=completion.sites)],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """End a site's certificates and its connection, at once. A new invitation (--replace) lets it in again."""
    done = call(home, "POST", "/revocations", json={"site": site})
    cut = "and was cut off" if done["was_connected"] else "and was not connected"
    lines = f"site {site} is revoked {cut}; to let it in again: ynet-server invite {site} --replace"
    if not done["written"]:
        lines += (
            "\nit is NOT WRITTEN DOWN yet: the disk is full. It is tried again every 10 s. Make room on the disk, and"
            " do not stop the server before `ynet-server status` shows no revocation that is not written down"
        )
    terminal.show(done, as_json=as_json, human=lambda: lines)


@plan_app.command("check")
def plan_check(plan: PlanFile, as_json: Json = False) -> None:
    """Check a plan and print its id."""
    from ynet import plan as plans

    read = plans.read(plan)
    terminal.show(
        {"plan": read.id, "name": read.name}, as_json=as_json, human=lambda: f"plan {read.name} is good: {read.id}"
    )


@plan_app.command("freeze")
def plan_freeze(plan: PlanFile, home: Home = None, as_json: Json = False) -> None:
    """Store a plan at the server under its id, and print the id. A changed plan is a new plan."""
    from ynet import plan as plans

    frozen = call(home, "POST", "/plans", content=plans.read(plan).canonical())
    terminal.show(frozen, as_json=as_json, human=lambda: frozen["plan"])
    terminal.hint(
        f"plan {frozen['name']} is frozen; a site says yes to it with: ynet-client plan accept {frozen['plan']}"
    )


@app.command()
def models(home: Home = None, as_json: Json = False) -> None:
    """List the published models; the first is in use."""
    listed = call(home, "GET", "/models")
    lines = [(m["id"][:16], m["run"], m["card"]["plan"], terminal.when(m["published"])) for m in listed["models"]]
    table = terminal.rows("models", ("model", "run", "plan", "published"), lines)
    terminal.show(listed, as_json=as_json, human=lambda: table)


@app.command()
def sites(home: Home = None, as_json: Json = False) -> None:
    """List the enrolled sites."""
    listed = call(home, "GET", "/sites")
    lines = [
        (
            s["site"],
            "revoked" if s["revoked"] else "connected" if s["connected"] else "away",
            "asks only" if s["asks_only"] else s["cases"] or "",
            (s["version"] or "") + (f", protocol {s['protocol']}" if s["protocol"] else ""),
            terminal.when(s["last_seen"]),
            "" if s["certificate_days"] is None else f"{s['certificate_days']:.0f} days",
        )
        for s in listed["sites"]
    ]
    table = terminal.rows("sites", ("site", "", "cases", "version", "last seen", "certificate"), lines)
    terminal.show(listed, as_json=as_json, human=lambda: table)


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show where the server listens, who is connected, and the newest run."""
    shown = call(home, "GET", "/status")
    lines = [
        ("federation", shown["federation"]),
        ("hub", shown["hub"]),
        ("enrolment", shown["enrolment"]),
        ("authority", shown["fingerprint"]),
        ("certificates", f"the authority's {shown['authority_days']:.0f} days, the hub's {shown['hub_days']:.0f} days"),
        ("connected", ", ".join(shown["connected"]) or "nobody"),
        *[("not written down", f"the revocation of site {site}") for site in shown["revocations_unwritten"]],
        ("newest run", f"{shown['runs'][0]['id']}: {shown['runs'][0]['status']}" if shown["runs"] else "none"),
    ]
    table = terminal.rows(f"ynet-server {shown['version']}", ("", ""), lines)
    terminal.show(shown, as_json=as_json, human=lambda: table)


@audit_app.command("verify")
def audit_verify(home: Home = None, as_json: Json = False) -> None:
    """Check the whole chain of the audit log, and the heads that sites have signed. Exit code 3 when it was changed."""
    from ynet.federation import countersigned
    from ynet_server import audit
    from ynet_server.authority import authorities  # gRPC: a second that the other commands need not wait

    folder = home_of(home)
    head = audit.verify(folder)
    signed = countersigned.verify(folder, audit.read(folder), *authorities.kept_in(folder))
    line = f"the audit log is whole: {head.number} entries, the last {head.digest[:16]}; {signed} heads signed by sites"
    shown = {"entries": head.number, "head": head.digest, "signed": signed}
    terminal.show(shown, as_json=as_json, human=lambda: line)


def _about(about: str, count: int) -> str:
    return f"{about}: {count:,}" if count > 1 else about


@audit_app.command("show")
def audit_show(home: Home = None, as_json: Json = False) -> None:
    """Show what happened at this server, the oldest first."""
    from ynet_server import audit

    entries = list(audit.read(home_of(home)))
    lines = [
        (one.number, terminal.when(one.time), one.action, one.site, _about(one.about, one.count)) for one in entries
    ]
    table = terminal.rows("audit log", ("", "time", "", "site", "about"), lines)
    terminal.show({"entries": [asdict(one) for one in entries]}, as_json=as_json, human=lambda: table)


app.add_typer(authority_commands.app, name="authority")
app.add_typer(encoder_commands.app, name="encoder")
app.add_typer(run_commands.app)
app.add_typer(backup_commands.app)
app.add_typer(config_commands.app)
show_examples(app, EXAMPLES)
