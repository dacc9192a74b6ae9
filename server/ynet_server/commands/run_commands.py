"""The commands of runs: train a plan, show its progress, cancel it, resume it."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.schedule import AUTO, MOST_ROUNDS
from ynet_server.commands import completion
from ynet_server.commands.options import Home, Json, call
from ynet_server.commands.run_tables import describe_event, run_table, shown

app = typer.Typer()
FOLLOW_EVERY_S = 0.3


@app.command()
def train(
    plan: Annotated[Path, typer.Option("--plan", help="The plan, YAML.")],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the run's end.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a plan with the sites that are connected, publish the model, and show the progress."""
    from ynet import plan as plans  # pydantic: a tenth of a second that help and completion need not wait

    init = plans.init_file(plan)
    asked = {"plan": json.loads(plans.read(plan).canonical()), "init": str(init.resolve()) if init else None}
    started = call(home, "POST", "/runs", json=asked)
    number = started["run"]
    if not as_json:
        print(f"run {number} of plan {started['plan'][:12]} has begun", flush=True)
    run = started if detach else _shown(home, number, is_quiet=as_json)
    terminal.show(run, as_json=as_json, human=lambda: f"run {number}: {run.get('status', 'started')}")
    _raise_if_ended_badly(run)


@app.command()
def cancel(
    run: Annotated[int, typer.Argument(help="The run.", autocompletion=completion.runs)],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """End the run that is under way. Its last complete round is kept; `resume` continues from it."""
    done = call(home, "POST", f"/runs/{run}/cancel")
    lines = f"run {run} is being cancelled; to continue it: ynet-server resume {run}"
    terminal.show(done, as_json=as_json, human=lambda: lines)


@app.command()
def resume(
    run: Annotated[int, typer.Argument(help="The run.", autocompletion=completion.runs)],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the run's end.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Resume a run that failed or was cancelled, after its last complete round."""
    already = len(call(home, "GET", f"/runs/{run}/events")["events"])
    begun = call(home, "POST", f"/runs/{run}/resume")
    ended = begun if detach else _shown(home, run, already, is_quiet=as_json)
    terminal.show(ended, as_json=as_json, human=lambda: f"run {run}: {ended.get('status', 'resumed')}")
    _raise_if_ended_badly(ended)


@app.command()
def quorum(
    run: Annotated[int, typer.Argument(help="The run under way.", autocompletion=completion.runs)],
    to: Annotated[int, typer.Argument(metavar="UPDATES", help="Needed for a round to count, from now on.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let rounds of a run close with fewer updates, down to the `cohort.min_quorum` that its sites have accepted."""
    done = call(home, "POST", f"/runs/{run}/quorum", json={"quorum": to})
    terminal.show(done, as_json=as_json, human=lambda: f"run {run}: a round counts with {to} updates from now on")


@app.command()
def replan(
    run: Annotated[int, typer.Argument(help="The run to continue from.", autocompletion=completion.runs)],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the plan and the weights.")],
    quorum: Annotated[int, typer.Option("--quorum", help="Updates needed for a round of the new plan.")],
    min_sites: Annotated[
        int | None, typer.Option("--min-sites", help="Sites needed to begin; else the quorum.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a new plan that continues from a run's last weights with fewer sites, which are asked to accept it.

    The run itself does not change: cancel it, then train the plan.
    """
    import yaml  # a part of a tenth of a second that help and completion need not wait

    asked = {"quorum": quorum, "min_sites": quorum if min_sites is None else min_sites}
    made = call(home, "POST", f"/runs/{run}/carry-over", json=asked)
    try:
        out.mkdir(parents=True)
        weights = shutil.copy(made["weights"], out)
        values = {**made["plan"], "init": Path(weights).name}
        (out / "plan.yaml").write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    except OSError as error:
        do = "name a new folder, where this user may write, with --out"
        raise UserError(f"the plan cannot be written to {out}", error.strerror or "", do) from None
    training = values["training"]
    left = training.get("max_rounds", MOST_ROUNDS) if training["rounds"] == AUTO else training["rounds"]
    shown = {"run": run, "plan": made["id"], "file": str(out / "plan.yaml"), "rounds": left}
    lines = (
        f"{shown['file']}: plan {made['id'][:12]}, {shown['rounds']} rounds from the last weights of run {run}\n"
        f"next: ynet-server cancel {run}, then ynet-server train --plan {shown['file']}"
    )
    terminal.show(shown, as_json=as_json, human=lambda: lines)


@app.command()
def runs(
    run: Annotated[int | None, typer.Argument(help="One run, with its events.", autocompletion=completion.runs)] = None,
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
        listed = call(home, "GET", "/runs")
        terminal.show(listed, as_json=as_json, human=lambda: run_table(listed["runs"]))
        return
    found = call(home, "GET", f"/runs/{run}/events")
    _check_known(found, run)
    terminal.show(found, as_json=as_json, human=lambda: "\n".join(map(describe_event, found["events"])))


def _watch(home: Path | None, run: int | None, *, as_json: bool) -> None:
    """Show the events of a run, by default the newest, until it ends; with `as_json`, one object a line."""
    if run is None:
        listed = call(home, "GET", "/runs")["runs"]
        if not listed:
            raise UserError("there is nothing to watch", "no run was ever started here", "ynet-server train --plan ...")
        run = int(listed[0]["id"])
    if as_json:
        _follow(home, run, lambda event: print(json.dumps(event), flush=True))
    else:
        print(f"run {run}: {_shown(home, run, is_quiet=False)['status']}", flush=True)


def _shown(home: Path | None, number: int, since: int = 0, *, is_quiet: bool) -> dict[str, Any]:
    """Show a run's events, starting with number `since`, until it ends. Returns the run."""
    with shown(is_quiet=is_quiet) as show:
        return _follow(home, number, show, since)


def _follow(home: Path | None, number: int, show: Callable[[dict[str, Any]], None], since: int = 0) -> dict[str, Any]:
    """Pass a run's events to `show`, starting with number `since`, until it ends. Returns the run. Raises UserError."""
    while True:
        found = call(home, "GET", f"/runs/{number}/events", params={"since": since})
        _check_known(found, number)
        since += len(found["events"])
        for event in found["events"]:
            show(event)
        if found["run"]["status"] != "running" and not found["events"]:
            return dict(found["run"])
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
