"""The coordinator's commands."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ynet import control, terminal
from ynet.errors import UserError
from ynet.federation import countersigned
from ynet.federation import plan as plans
from ynet.home import default_home, prepare
from ynet_server import audit
from ynet_server import settings as server_settings
from ynet_server.progress import attack_table, describe_event, model_table, run_table

app = typer.Typer(name="ynet-server", help="The central server of a consortium.", no_args_is_help=True)
audit_app = typer.Typer(help="The log of who was let in, what was trained, who asked.", no_args_is_help=True)
plan_app = typer.Typer(help="What all sites agree on before training.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")
app.add_typer(audit_app, name="audit")

Home = Annotated[
    Path | None, typer.Option("--home", help="The server's folder. Default: YNET_HOME, or your data directory.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan, YAML.")]
FOLLOW_EVERY_S = 0.3


def main() -> None:
    """Entry point."""
    terminal.run(app)


def _home(given: Path | None) -> Path:
    return given or default_home("server")


def _call(home: Path | None, method: str, path: str, **request: Any) -> Any:
    return control.call(_home(home), method, path, "the server", "ynet-server start", **request)


@app.command()
def start(
    config: Annotated[Path | None, typer.Option(help="Settings, YAML; remembered for the next start.")] = None,
    home: Home = None,
) -> None:
    """Run the server, in the foreground."""
    folder = prepare(_home(home))
    settings = server_settings.load(folder, config)
    from ynet_server.start import serve  # Flower and gRPC: a second that the other commands need not wait

    terminal.log_to(folder / "server.log")
    asyncio.run(serve(folder, settings, terminal.say))


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="The site's name: letters, digits, '-' and '_'.")],
    replace: Annotated[bool, typer.Option("--replace", help="The site enrols anew: its old certificate ends.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print an invitation for one site: valid once, for 24 hours."""
    made = _call(home, "POST", "/invitations", json={"site": site, "replace": replace})
    lines = (
        f"Invitation for site {site}, valid once, for 24 hours. Hand it over on a channel that you trust.\n\n"
        f"{made['invitation']}\n\n"
        f"There: ynet-client join --site={site} --invitation {made['invitation']} --data MANIFEST.csv"
    )
    terminal.show(made, as_json=as_json, human=lambda: lines)


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's name.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """End a site's certificates and its connection, at once. A new invitation (--replace) lets it in again."""
    done = _call(home, "POST", "/revocations", json={"site": site})
    cut = "and was cut off" if done["was_connected"] else "and was not connected"
    lines = f"site {site} is revoked {cut}; to let it in again: ynet-server invite {site} --replace"
    terminal.show(done, as_json=as_json, human=lambda: lines)


@plan_app.command("check")
def plan_check(plan: PlanFile, as_json: Json = False) -> None:
    """Check a plan and print its id."""
    read = plans.read(plan)
    terminal.show(
        {"plan": read.id, "name": read.name}, as_json=as_json, human=lambda: f"plan {read.name} is good: {read.id}"
    )


@plan_app.command("freeze")
def plan_freeze(plan: PlanFile, home: Home = None, as_json: Json = False) -> None:
    """Keep a plan at the server under its id. A plan that changed is a new plan."""
    frozen = _call(home, "POST", "/plans", content=plans.read(plan).canonical())
    terminal.show(frozen, as_json=as_json, human=lambda: f"plan {frozen['name']} is frozen: {frozen['plan']}")


@app.command()
def train(
    plan: Annotated[Path, typer.Option("--plan", help="The plan, YAML.")],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the run's end.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a plan with the sites that are connected, publish the model, and show how it goes."""
    init = plans.init_file(plan)
    asked = {"plan": json.loads(plans.read(plan).canonical()), "init": str(init.resolve()) if init else None}
    started = _call(home, "POST", "/runs", json=asked)
    number = started["run"]
    if not as_json:
        print(f"run {number} of plan {started['plan'][:12]} has begun", flush=True)
    run = started if detach else _follow(home, number, _nothing if as_json else _print_event)
    terminal.show(run, as_json=as_json, human=lambda: f"run {number}: {run.get('status', 'started')}")
    _raise_if_ended_badly(run)


@app.command()
def cancel(
    run: Annotated[int, typer.Argument(help="The run.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """End the run that is under way. What its rounds have learnt is kept: `resume` goes on with it."""
    done = _call(home, "POST", f"/runs/{run}/cancel")
    lines = f"run {run} is being cancelled; to go on with it: ynet-server resume {run}"
    terminal.show(done, as_json=as_json, human=lambda: lines)


@app.command()
def resume(
    run: Annotated[int, typer.Argument(help="The run.")],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the run's end.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that failed or was cancelled, after its last whole round."""
    already = len(_call(home, "GET", f"/runs/{run}/events")["events"])
    begun = _call(home, "POST", f"/runs/{run}/resume")
    ended = begun if detach else _follow(home, run, _nothing if as_json else _print_event, already)
    terminal.show(ended, as_json=as_json, human=lambda: f"run {run}: {ended.get('status', 'resumed')}")
    _raise_if_ended_badly(ended)


@app.command()
def simulate(
    plan: Annotated[Path, typer.Option("--plan", help="The plan, YAML.")],
    data: Annotated[Path, typer.Option("--data", help="A folder of sites, each with a manifest.csv.")],
    report: Annotated[
        Path, typer.Option("--report", help="The folder for report.html, report.json and the models; goes on there.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="How often, each time with another seed.")] = 1,
    models: Annotated[
        str, typer.Option("--models", help="Which: federated, pooled, alone (each site by itself).")
    ] = "federated,pooled,alone",
    validation: Annotated[
        bool, typer.Option("--validation", help="Score on held-back training patients; leave the test split alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a plan federated, pooled and each site alone on this machine, and report what each model scores.

    Needs the extra `simulation`.
    """
    try:
        from ynet_server import experiment, simulate  # torch, Ray and the client: only here
    except ImportError as error:
        raise UserError("the simulation is not installed", str(error), "pip install 'ynet[simulation]'") from None

    kinds = [kind for kind in simulate.KINDS if kind in models.split(",")]
    if unknown := set(models.split(",")) - set(kinds):
        raise UserError(f"there is no model {sorted(unknown)[0]!r}", f"there are {', '.join(simulate.KINDS)}", "see -h")
    made = experiment.experiment(
        plan,
        data,
        report,
        seeds=seeds,
        kinds=kinds,
        is_validation=validation,
        say=lambda line: print(line, flush=True, file=sys.stderr),
    )
    print(f"report: {report / 'report.html'}", flush=True, file=sys.stderr)
    terminal.show(made, as_json=as_json, human=lambda: model_table(made["models"]))


@app.command()
def attack(
    model: Annotated[Path, typer.Option("--model", help="A finished model's folder, as simulate or a run leaves it.")],
    data: Annotated[Path, typer.Option("--data", help="The folder of sites that it was trained on.")],
    report: Annotated[Path, typer.Option("--report", help="The folder for report.html and report.json.")],
    attacks: Annotated[
        str, typer.Option("--attacks", help="Which: membership, gradient, code, audit.")
    ] = "membership,gradient,code,audit",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**20, help="Of all that is drawn but noise.")] = 1,
    shadow_pairs: Annotated[
        int, typer.Option("--shadow-pairs", min=2, max=128, help="Pairs of shadow models, for membership.")
    ] = 2,
    shadow_rounds: Annotated[
        int | None, typer.Option("--shadow-rounds", min=1, help="Theirs, and the audit's. Default: the plan's.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, max=100_000, help="To invert a gradient.")] = 300,
    epsilon: Annotated[
        float, typer.Option("--epsilon", min=0.01, max=100, help="Of protected gradients, where the plan has none.")
    ] = 8.0,
    as_json: Json = False,
) -> None:
    """Attack a finished model before it is given away: what can be learnt of its patients, at least.

    Needs the extra `simulation`.
    """
    try:
        from ynet_server import attack as attacking  # torch and the client: only here
    except ImportError as error:
        raise UserError("the attacks are not installed", str(error), "pip install 'ynet[simulation]'") from None

    chosen = [name for name in attacking.ATTACKS if name in attacks.split(",")]
    if unknown := set(attacks.split(",")) - set(chosen):
        known = ", ".join(attacking.ATTACKS)
        raise UserError(f"there is no attack {sorted(unknown)[0]!r}", f"there are {known}", "separate them by commas")
    made = attacking.attack(
        model,
        data,
        report,
        attacks=chosen,
        seed=seed,
        effort=attacking.Effort(shadow_pairs, shadow_rounds, steps, epsilon),
        say=lambda line: print(line, flush=True, file=sys.stderr),
    )
    print(f"report: {report / 'report.html'}", flush=True, file=sys.stderr)
    terminal.show(made, as_json=as_json, human=lambda: attack_table(made["attacks"]))


@app.command()
def runs(
    run: Annotated[int | None, typer.Argument(help="One run, with its events.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the events as they come, until the run ends; of the newest run.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the runs, or show one."""
    if watch:
        _watch(home, run, as_json=as_json)
        return
    if run is None:
        listed = _call(home, "GET", "/runs")
        terminal.show(listed, as_json=as_json, human=lambda: run_table(listed["runs"]))
        return
    shown = _call(home, "GET", f"/runs/{run}/events")
    _check_known(shown, run)
    terminal.show(shown, as_json=as_json, human=lambda: "\n".join(map(describe_event, shown["events"])))


@app.command()
def models(home: Home = None, as_json: Json = False) -> None:
    """List the published models; the first is in use."""
    listed = _call(home, "GET", "/models")
    lines = [(m["id"][:16], m["run"], m["card"]["plan"], terminal.when(m["published"])) for m in listed["models"]]
    table = terminal.rows("models", ("model", "run", "plan", "published"), lines)
    terminal.show(listed, as_json=as_json, human=lambda: table)


@app.command()
def sites(home: Home = None, as_json: Json = False) -> None:
    """List the enrolled sites."""
    listed = _call(home, "GET", "/sites")
    lines = [
        (
            s["site"],
            "revoked" if s["revoked"] else "connected" if s["connected"] else "away",
            s["cases"] or "",
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
    shown = _call(home, "GET", "/status")
    lines = [
        ("federation", shown["federation"]),
        ("hub", shown["hub"]),
        ("enrolment", shown["enrolment"]),
        ("authority", shown["fingerprint"]),
        ("certificates", f"the authority's {shown['authority_days']:.0f} days, the hub's {shown['hub_days']:.0f} days"),
        ("connected", ", ".join(shown["connected"]) or "nobody"),
        ("newest run", f"{shown['runs'][0]['id']}: {shown['runs'][0]['status']}" if shown["runs"] else "none"),
    ]
    table = terminal.rows(f"ynet-server {shown['version']}", ("", ""), lines)
    terminal.show(shown, as_json=as_json, human=lambda: table)


@audit_app.command("verify")
def audit_verify(home: Home = None, as_json: Json = False) -> None:
    """Check the whole chain of the audit log, and the heads that sites have signed. Exit code 3 when it was changed."""
    from ynet_server import certificates  # gRPC: a second that the other commands need not wait

    folder = _home(home)
    head = audit.verify(folder)
    signed = countersigned.verify(folder, audit.read(folder), certificates.authority_in(folder))
    line = f"the audit log is whole: {head.number} entries, the last {head.digest[:16]}; {signed} heads signed by sites"
    shown = {"entries": head.number, "head": head.digest, "signed": signed}
    terminal.show(shown, as_json=as_json, human=lambda: line)


@audit_app.command("show")
def audit_show(home: Home = None, as_json: Json = False) -> None:
    """Show what happened at this server, the oldest first."""
    entries = list(audit.read(_home(home)))
    lines = [(one.number, terminal.when(one.time), one.act, one.site, one.about) for one in entries]
    table = terminal.rows("audit log", ("", "time", "", "site", "about"), lines)
    terminal.show({"entries": [asdict(one) for one in entries]}, as_json=as_json, human=lambda: table)


def _watch(home: Path | None, run: int | None, *, as_json: bool) -> None:
    """Show a run's events, or else the newest run's, until it ends; with `as_json`, one object a line."""
    if run is None:
        listed = _call(home, "GET", "/runs")["runs"]
        if not listed:
            raise UserError("there is nothing to watch", "no run was ever started here", "ynet-server train --plan ...")
        run = int(listed[0]["id"])
    show = (lambda event: print(json.dumps(event), flush=True)) if as_json else _print_event
    ended = _follow(home, run, show)
    if not as_json:
        print(f"run {run}: {ended['status']}", flush=True)


def _nothing(_: dict[str, Any]) -> None:
    """Show nothing."""


def _print_event(event: dict[str, Any]) -> None:
    print(describe_event(event), flush=True)


def _follow(home: Path | None, number: int, show: Callable[[dict[str, Any]], None], since: int = 0) -> dict[str, Any]:
    """Show a run's events from number `since` on as they come; the run, when it has ended. Raises UserError."""
    while True:
        shown = _call(home, "GET", f"/runs/{number}/events", params={"since": since})
        _check_known(shown, number)
        since += len(shown["events"])
        for event in shown["events"]:
            show(event)
        if shown["run"]["status"] != "running" and not shown["events"]:
            return dict(shown["run"])
        time.sleep(FOLLOW_EVERY_S)


def _check_known(shown: dict[str, Any], number: int) -> None:
    if shown["run"] is None:
        raise UserError(f"there is no run {number}", "it was never started here", "list them: ynet-server runs")


def _raise_if_ended_badly(run: dict[str, Any]) -> None:
    number, status = run.get("id"), run.get("status")
    if status == "failed":
        do = f"mend that, then ynet-server resume {number}, or train again (its events: ynet-server runs {number})"
        raise UserError(f"run {number} failed", run["reason"], do)
    if status == "cancelled":
        raise UserError(f"run {number} was cancelled", run["reason"], f"to go on with it: ynet-server resume {number}")
