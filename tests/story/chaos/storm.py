"""A federation of real processes under faults while it trains and answers, and the checks afterwards."""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from chaos.faults import Fault
from chaos.lines import Line, Lines
from ynet import plan as plans
from ynet.data.manifest import find_sites, read
from ynet.errors import UserError
from ynet.plan import Plan
from ynet.runtime import unix_socket
from ynet.trust import ledger
from ynet_client import control_client
from ynet_client.membership import membership
from ynet_lab.trial import Trial
from ynet_server.rounds.run_folder import RunFolder

ENDS_WITHIN_S = 600.0
CALMS_WITHIN_S = 120.0


class Run(NamedTuple):
    """One finished run."""

    number: int
    plan: Plan
    status: str
    events: list[dict[str, Any]]
    seconds: float
    struck: list[tuple[Fault, float]]  # each with its end, seconds since 1970

    @property
    def scores(self) -> Mapping[str, Mapping[str, float]]:
        """Return the scores of the last evaluation by site."""
        return next((e["sites"] for e in reversed(self.events) if e["kind"] == "evaluated"), {})

    def count(self, kind: str) -> int:
        """Count the events of a kind."""
        return sum(event["kind"] == kind for event in self.events)

    def next_round_s(self, over: float) -> float | None:
        """Return seconds from a moment to the end of the next round or of the run; None if the run was over."""
        times = [event["time"] for event in self.events if event["kind"] in ("round", "finished")]
        return min((time - over for time in times if time > over), default=None)


class Federation:
    """The hospitals of `data`, each behind its own line to the server, as processes in `folder`."""

    def __init__(self, folder: Path, data: Path, lines: Lines) -> None:
        self.trial, self._lines = Trial(folder, find_sites(data)), lines
        self.sites = list(self.trial.sites)
        self.lines: dict[str, Line] = {}

    def open(self) -> None:
        """Start the server, enrol every site behind its line, and wait until all are connected."""
        self.trial.start_server()
        port = int(self.trial.server_call("GET", "/status")["hub"].rsplit(":", 1)[1])
        for site in self.sites:
            line = self.lines[site] = self._lines.to(port)
            invited = self.trial.server_call("POST", "/invitations", json={"site": site, "replace": False})
            home = self.trial.home(site)
            home.mkdir(parents=True, mode=0o700)
            member = membership.enrol(home, site, invited["invitation"])
            membership.keep(home, member._replace(hub=line.address))
            self.trial.join(site, "--data", self.trial.sites[site], "--config", self._settings())
        self.trial.wait_connected(*self.sites)

    def train(self, path: Path, faults: Sequence[Fault] = (), say: Callable[[str], None] = print) -> Run:
        """Train a plan while `faults` happen one after the other; return the run once it and all faults are over."""
        begun, plan, struck = time.monotonic(), plans.read(path), list[tuple[Fault, float]]()
        asked = {"plan": json.loads(plan.canonical()), "init": None}
        number = int(self.trial.server_call("POST", "/runs", json=asked)["run"])
        for fault in faults:
            time.sleep(fault.pause_s)
            say(f"{time.monotonic() - begun:6.1f} s  {fault}{'' if self._is_under_way(number) else ' (after the run)'}")
            self._strike(fault)
            struck.append((fault, time.time()))
        until = time.monotonic() + ENDS_WITHIN_S
        while self._is_under_way(number) and time.monotonic() < until:
            time.sleep(0.2)
        seconds = time.monotonic() - begun
        status = next(run["status"] for run in self._call("/runs")["runs"] if run["id"] == number)
        return Run(number, plan, status, self._events(number), seconds, struck)

    def calm(self, run: Run) -> str:
        """Wait until all sites are connected again and have indexed the newest model, the run's; its id."""
        until = time.monotonic() + CALMS_WITHIN_S
        while set(self._call("/status")["connected"]) != set(self.sites):
            if time.monotonic() > until:
                raise TimeoutError(f"connected are {self._call('/status')['connected']}")
            time.sleep(0.1)
        model = str(self._call("/models")["in_use"])
        for site in set(self.sites) - set(run.scores):
            self._decide(site, model)
        self.trial.wait_indexed(model)
        return model

    def _decide(self, site: str, model: str) -> None:
        """Let the admin of a site that was away at the end of the run accept its model, if the site asks for that."""
        until = time.monotonic() + CALMS_WITHIN_S
        while (seen := self.trial.site_call(site, "GET", "/status"))["model"] != model:
            if model in seen["waiting"]:
                self.trial.site_command(site, "plan", "accept", model)
                return
            if time.monotonic() > until:
                raise TimeoutError(f"site {site} neither uses nor offers model {model}\n{self.trial.log(site)}")
            time.sleep(0.1)

    def _strike(self, fault: Fault) -> None:
        part, what = fault.kind.split(" ")
        name = "server" if part == "server" else fault.site
        match what:
            case "killed" | "stopped":
                (self.trial.kill if what == "killed" else self.trial.stop)(name)
                time.sleep(fault.lasts_s)
                self.trial.start_server() if part == "server" else self.trial.join(name)
            case "asleep":
                self.trial.freeze(name)
                time.sleep(fault.lasts_s)
                self.trial.thaw(name)
            case "cut":
                self.lines[name].cut()
            case "away":
                self.lines[name].away(is_away=True)
                time.sleep(fault.lasts_s)
                self.lines[name].away(is_away=False)
            case "slow":
                self.lines[name].slow(is_slow=True)
                time.sleep(fault.lasts_s)
                self.lines[name].slow(is_slow=False)

    def _settings(self) -> Path:
        path = self.trial.folder / "client.json"
        # The measured queries must be answered: few patients, and many queries of one user.
        disclosure = {"minimum_group": 0, "queries_per_day_and_site": 1_000_000, "queries_per_day_and_user": 1_000_000}
        path.write_text(json.dumps({"policy": {"new_plans": "accept"}, "disclosure": disclosure}), "utf-8")
        return path

    def _call(self, path: str) -> Any:
        return self.trial.server_call("GET", path)

    def _events(self, number: int) -> list[dict[str, Any]]:
        return RunFolder(self.trial.server_home / "runs" / f"{number:04d}").events()

    def _is_under_way(self, number: int) -> bool:
        return not any(event["kind"] in ("finished", "failed") for event in self._events(number))


class Asker(threading.Thread):
    """A user at every site who asks, consults and forgets continuously, and remembers what was acknowledged."""

    def __init__(self, trial: Trial, seed: int) -> None:
        super().__init__(name="asker", daemon=True)
        self._trial, self._draw, self._over = trial, random.Random(seed), threading.Event()
        self.queries: Counter[str] = Counter()
        self.refused = 0
        self.consults: dict[str, set[str]] = {site: set() for site in trial.sites}
        self.forgotten: dict[str, str] = {}  # patient, by site

    def run(self) -> None:
        """Ask until `end`."""
        while not self._over.wait(self._draw.uniform(0.1, 0.6)):
            site = self._draw.choice(sorted(self._trial.sites))
            try:
                self._ask(site)
            except (UserError, RuntimeError):
                self.refused += 1

    def end(self) -> None:
        """Stop asking."""
        self._over.set()
        self.join(60)

    def _ask(self, site: str) -> None:
        manifest = read(self._trial.sites[site])
        found = self._trial.query(site, manifest.path_of(self._draw.choice(manifest.test).image))
        self.queries[site] += 1
        others = [hit for hit in found["hits"] if hit["site"] != site]
        if others and self._draw.random() < 0.3:
            hit = self._draw.choice(others)
            self.consults[site].add(
                control_client.consult(self._trial.home(site), hit["token"], "well?", hit["site"])["id"]
            )
        if site not in self.forgotten and self._draw.random() < 0.2:
            patient = manifest.train[0].patient
            control_client.forget(self._trial.home(site), patient)
            self.forgotten[site] = patient


def broken_promises(federation: Federation, runs: Sequence[Run], asker: Asker) -> list[str]:
    """Return the broken promises of a federation without faults; empty if none."""
    found = [problem for run in runs for problem in _of_run(run)]
    for site in federation.sites:
        found += [f"site {site}: {problem}" for problem in _of_site(federation, site, runs, asker)]
    return found


def left_over(federation: Federation) -> list[str]:
    """Return processes, ports and files that are left after everything was stopped."""
    trial = federation.trial
    homes = [trial.server_home, *(trial.home(site) for site in federation.sites)]
    found = [f"process {' '.join(p.cmdline())}" for p in psutil.process_iter() if _is_of(p, str(trial.folder))]
    for home in homes:
        found += [f"file {path}" for path in (home / "spool").rglob("*")]
        found += [f"file {path}" for path in home.rglob("*.partial")]
        found += [f"a listener in {home}"] if _listens(home) else []
    return found


def _of_run(run: Run) -> list[str]:
    rounds = sorted({event["round"] for event in run.events if event["kind"] == "round"})
    found = [] if run.status == "finished" else [f"run {run.number} is {run.status}: {run.events[-1]}"]
    if rounds != list(range(1, run.plan.training.rounds + 1)):
        found.append(f"run {run.number} had the rounds {rounds}")
    if repeated := run.count("round") - len(rounds) - run.count("resumed"):
        found += [f"run {run.number} held {repeated} rounds more than there were restarts"] if repeated > 0 else []
    return found


def _of_site(federation: Federation, site: str, runs: Sequence[Run], asker: Asker) -> list[str]:
    trial, home = federation.trial, federation.trial.home(site)
    found = []
    for command in (("audit", "verify"), ("ledger",)):
        done = trial.site_command(site, *command)
        if done.returncode:
            found.append(f"{' '.join(command)}: {done.stderr.strip()}")
    held = json.loads(trial.site_command(site, "index", "--verify", "--json").stdout)
    if held["damaged"] or held["codes"] != held["cases"]:
        found.append(f"gallery: {held}")
    asked = [
        entry
        for entry in json.loads(trial.site_command(site, "audit", "show", "--json").stdout)["entries"]
        if (entry["direction"], entry["kind"]) == ("asked", "query")
    ]
    if len(asked) < asker.queries[site]:
        found.append(f"{len(asked)} of {asker.queries[site]} answered queries are in the audit log")
    known = {one["id"] for one in json.loads(trial.site_command(site, "consult", "list", "--json").stdout)["consults"]}
    if lost := asker.consults[site] - known:
        found.append(f"{len(lost)} consults that were sent are not there")
    if patient := asker.forgotten.get(site):
        removed = control_client.forget(home, patient)["removed"]
        found += [f"{removed} cases of a forgotten patient are back"] if removed else []
    return found + _of_ledger(home, site, [run for run in runs if run.plan.privacy.mode != "off"])


def _of_ledger(home: Path, site: str, runs: Sequence[Run]) -> list[str]:
    """Check that a site's rounds are in its ledger, and that the server's witness agrees with the chain."""
    entries, found = ledger.read(home), []
    digests = {(entry.number, entry.digest) for entry in entries}
    for run in runs:
        recorded = {entry.round for entry in entries if entry.plan == run.plan.id}
        used = {e["round"] for e in run.events if e["kind"] == "round" and site in e["sites"]}
        if unrecorded := used - recorded:
            found.append(f"run {run.number}: the rounds {sorted(unrecorded)} are in no ledger")
        for event in run.events:
            if text := event.get("ledgers", {}).get(site):
                number, digest = text.split(" ")
                found += (
                    [] if (int(number), digest) in digests else [f"entry {number} differs from the server's record"]
                )
    return found


def _is_of(process: psutil.Process, folder: str) -> bool:
    try:
        return process.pid != os.getpid() and any(folder in word for word in process.cmdline()[1:])
    except psutil.Error:
        return False


def _listens(home: Path) -> bool:
    try:
        unix_socket.connect(home, 0.5).close()
    except (OSError, UserError):
        return False
    return True
