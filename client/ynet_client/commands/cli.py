"""The commands of a hospital's admin and radiologists.

Imports that help and completion need not wait for stand in the commands (tests/test_completion.py).
"""

import contextlib
import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ynet.errors import UserError
from ynet.runtime import hidden_words, terminal
from ynet.runtime.command_line import show_examples
from ynet.runtime.home import prepare
from ynet_client import control_client, egress
from ynet_client.commands import (
    backup_commands,
    config_commands,
    consult_commands,
    dossier_commands,
    import_commands,
    plan_commands,
    retrieval_commands,
    segment_commands,
    sites_commands,
    user_commands,
    workbench_commands,
)
from ynet_client.commands.examples import EXAMPLES
from ynet_client.commands.options import Home, Json, Site
from ynet_client.commands.renamed import Commands
from ynet_client.homes import home_of

if TYPE_CHECKING:
    from ynet_client.membership.membership import Membership
    from ynet_client.proxy import Ways

app = typer.Typer(name="ynet-client", cls=Commands, help="A hospital's side of a consortium.", no_args_is_help=True)


def main() -> None:
    """Entry point."""
    terminal.run(app)


@app.command()
def join(
    site: Annotated[str, typer.Option("--site", help="The site's name, as the invitation was made for.")],
    invitation: Annotated[
        str,
        typer.Option(metavar="-|@FILE", help="The coordinator's invitation, typed or piped in; at first only."),
    ] = "",
    data: Annotated[Path | None, typer.Option(help="The manifest, CSV; remembered.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings, YAML; remembered.")] = None,
    trains: Annotated[
        bool | None,
        typer.Option("--trains/--asks-only", help="Asks only: no data needed, nothing trained; remembered."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; remembered.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for training, 0 for all; remembered.")] = None,
    workbench: Annotated[
        bool | None, typer.Option("--workbench/--no-workbench", help="Serve the radiologists' page; remembered.")
    ] = None,
    accept: Annotated[list[str] | None, typer.Option(help="Take part in the plan of this id; remembered.")] = None,
    service: Annotated[
        bool, typer.Option("--service", help="Run under systemd: write and start a user unit, and return.")
    ] = False,
    home: Home = None,
) -> None:
    """Connect this site and keep it connected: train when a run asks, answer queries. Runs in the foreground."""
    import asyncio

    from ynet_client import settings as client_settings
    from ynet_client import settings_check
    from ynet_client.membership import membership
    from ynet_client.proxy import SETTING, ways
    from ynet_client.training.consent import Consent

    folder = prepare(home_of(home, site))
    absolute = str(data.resolve()) if data else None
    found = client_settings.given(
        folder, config, data=absolute, trains=trains, device=device, threads=threads, is_workbench_enabled=workbench
    )
    settings = found.settings
    settings_check.check(settings)
    if settings.archive and (data or not membership.load(folder)):
        _preflight(settings.archive, is_archive=not settings.trains)
    client_settings.remember(folder, found)
    member = _member(folder, site, invitation, ways(settings.proxy))
    proxy = ways(settings.proxy)(member.hub).proxy
    for plan_id in accept or []:
        Consent(folder, settings.policy).say(plan_id, "accepted")
    if service:
        _leave_to_systemd(site, folder)
        if proxy is not None and proxy.source != SETTING:
            print(f"the service does not see {proxy.source} of this shell: set {SETTING} in {folder / 'client.yaml'}")
        return

    from ynet_client.display import Display  # torch: two seconds that the other commands need not wait
    from ynet_client.join import run

    terminal.log_to(folder / "client.log")
    display = Display()
    try:
        asyncio.run(run(folder, settings, member, display))
    finally:
        display.close()
    terminal.leave()


def _member(folder: Path, site: str, given: str, ways: "Ways") -> "Membership":
    from ynet_client.membership import membership

    member = membership.load(folder)
    if member and member.site != site:
        raise UserError(f"this folder is not site {site}'s", f"it is site {member.site}'s", "choose another --home")
    if invitation := hidden_words.secret(given, "the invitation"):
        with contextlib.closing(egress.Egress(folder)) as left:
            member = membership.enrol(folder, site, invitation, left.count, ways)
        print(f"site {site} is enrolled; its key stays in {folder}", flush=True)
        if hidden_words.stands_in_the_open(given):
            print("others on this machine could read the invitation on the command line: next time --invitation -")
    if member is None:
        raise UserError(
            f"site {site} cannot join",
            "it has not enrolled yet, and no invitation was given",
            "ask the coordinator for one, and join with --invitation -",
        )
    return member


def _leave_to_systemd(site: str, folder: Path) -> None:
    from ynet_client.commands.user_service import install

    made = install(site, folder)
    print(f"{made.unit} {'is written' if made.is_new else 'is unchanged'}")
    if made.is_started:
        print(f"it is running, and starts with the machine: systemctl --user status {made.unit.name}")
    for command in made.todo:
        print(f"to run: {command}")


def _preflight(manifest: Path, *, is_archive: bool) -> None:
    """Check a site's data; `is_archive`: they are only searched, without labels and split. Raises UserError."""
    from ynet.data.check import check as check_data
    from ynet.data.report import table

    report = check_data(manifest, None)
    if any(not (is_archive and problem.column in ("label", "split")) for problem in report.errors):
        terminal.out.print(table(report))
        raise UserError(
            "the site cannot join", "its data have faults that must be mended", "mend the rows listed above"
        )


@app.command()
def check(
    data: Annotated[Path | None, typer.Option(help="The manifest, CSV. Default: the joined site's.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A plan whose classes, channels and regions the data must have.")
    ] = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check the site's data: one table, every problem with its row. Exit code 2 when something must be mended."""
    from ynet import plan as plans
    from ynet.data.check import check as check_data
    from ynet.data.report import table
    from ynet_client import settings as client_settings
    from ynet_client import settings_check
    from ynet_client.settings import ClientSettings

    settings = ClientSettings(data=str(data)) if data else client_settings.read(home_of(home, site))
    settings_check.check(settings)
    if settings.archive is None:
        shown = {"asks_only": True, "problems": []}
        terminal.show(shown, as_json=as_json, human=lambda: "this site only asks, and has no data to check")
        return
    manifest = settings.archive
    agreed = plans.read(plan) if plan else None
    if agreed:
        report = check_data(
            manifest, agreed.classes, agreed.image.channels, agreed.training.seed, regions=agreed.regions
        )
    else:
        report = check_data(manifest, None)
    terminal.show(report.to_json(), as_json=as_json, human=lambda: table(report))
    if report.errors:
        raise typer.Exit(2)


@app.command()
def status(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Show whether the site is connected, what it does, and what its gallery holds."""
    shown = control_client.status(home_of(home, site))
    lines = [
        ("connected", "yes" if shown["connected"] else "no"),
        ("certificate", f"good for {shown['certificate_days']:.0f} days"),
        ("doing", shown["doing"]),
        ("model", (shown["model"] or "none yet")[:16]),
        *(("waits for a yes", f"model {one[:16]}: ynet-client plan list says why") for one in shown["waiting"]),
        *((key.replace("_", " "), _counted(value)) for key, value in shown["gallery"].items()),
    ]
    table = terminal.rows(f"site {shown['site']}", ("", ""), lines)
    terminal.show(shown, as_json=as_json, human=lambda: table)


@app.command("egress")
def egress_(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """List every class of bytes that has left this site, with totals; the client need not run."""
    rows = egress.read(home_of(home, site))
    shown = egress.to_json(rows)
    lines = [
        (row.name, row.messages, f"{row.bytes:,}", terminal.when(row.first), terminal.when(row.last)) for row in rows
    ]
    total = ("in all", shown["messages"], f"{shown['bytes']:,}", "", "")
    table = terminal.rows("what has left this site", ("", "messages", "bytes", "first", "last"), [*lines, total])
    terminal.show(shown, as_json=as_json, human=lambda: table)


@app.command()
def doctor(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Test every step of this site's connection; say what to do about the first that fails."""
    from ynet_client.connection.doctor import (  # gRPC: half a second that the other commands need not wait
        examine,
        failure,
    )

    steps = examine(home_of(home, site), dt.datetime.now(dt.UTC))
    bad = failure(steps)
    shown = [{key: value for key, value in step._asdict().items() if key != "exit_code"} for step in steps]
    table = terminal.rows("doctor", ("step", "", "found"), [step[:3] for step in steps])
    terminal.show({"ok": bad is None, "steps": shown}, as_json=as_json, human=lambda: table)
    if bad:
        print(UserError(f"the step '{bad.step}' failed", bad.found, bad.do), file=sys.stderr)
        raise typer.Exit(bad.exit_code)


def _counted(value: object) -> str:
    return ", ".join(f"{n} {name}" for name, n in value.items()) if isinstance(value, dict) else str(value)


@app.command()
def index(
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the gallery's file instead; encode again what is damaged.")
    ] = False,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Bring the gallery up to date with the manifest: encode what is new, drop what is gone."""
    counts = control_client.verify(home_of(home, site)) if verify else control_client.index(home_of(home, site))
    terminal.show(counts, as_json=as_json, human=lambda: _verified(counts) if verify else _indexed(counts))


def _indexed(counts: dict[str, Any]) -> str:
    return f"{counts['cases']} cases, {counts['encoded']} newly encoded"


def _verified(found: dict[str, Any]) -> str:
    held = f"{found['cases']} cases, {found['codes']} codes in {found['segments']} segments"
    if not found["damaged"]:
        return f"{held}: undamaged"
    return f"damaged: {', '.join(found['damaged'])}; {found['encoded']} cases encoded again"


@app.command()
def forget(
    patient: Annotated[
        str, typer.Option(help="The patient's id in the manifest, or in the PACS of an import; -: from stdin.")
    ],
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a patient out of gallery and training, for good, even where the manifest still has the patient."""
    receipt = control_client.forget(home_of(home, site), hidden_words.text(patient, "the patient's id"))
    lines = [
        f"forgotten at {receipt['at']}: {receipt['removed']} cases with their codes; {receipt['cases']} are left",
        f"the patient stays excluded, by the pseudonym {receipt['pseudonym']}",
        "what this does not change: the image files, backups of this folder, models that were trained before",
        *(f"  {image}" for image in receipt["images"]),
    ]
    terminal.show(receipt, as_json=as_json, human=lambda: "\n".join(lines))


@app.command()
def ledger(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Show what training has spent of the patients' privacy, by run, and what is left."""
    from ynet.trust.ledger import read as read_ledger
    from ynet_client import settings as client_settings
    from ynet_client.training.ledger_report import (
        summary,  # the accountant: seconds that the other commands need not wait
    )

    folder = home_of(home, site)
    shown = summary(read_ledger(folder), client_settings.read(folder).privacy)
    lines = [
        (run["plan"][:16], f"{run['round']}/{run['rounds']}", f"{run['epsilon']:.3f}", terminal.when(run["last"]))
        for run in shown["runs"]
    ]
    table = terminal.rows(f"data set {shown['data']}", ("plan", "rounds", "epsilon", "last"), lines)
    terminal.show(shown, as_json=as_json, human=lambda: table)
    if not as_json:
        at = f" at delta {shown['delta']:g}" if shown["delta"] else ""
        parts = ", ".join(f"{key} {shown[key]:.3f}" for key in ("spent", "reserved", "left"))
        print(f"epsilon{at}: {parts} of {shown['max_epsilon']:g}")


app.add_typer(retrieval_commands.app)
app.add_typer(plan_commands.app)
app.add_typer(consult_commands.app)
app.add_typer(backup_commands.app)
app.add_typer(config_commands.app)
app.add_typer(dossier_commands.app)
app.add_typer(sites_commands.app)
app.add_typer(user_commands.app)
app.add_typer(workbench_commands.app)
app.add_typer(import_commands.app)
app.add_typer(segment_commands.app)
show_examples(app, EXAMPLES)
