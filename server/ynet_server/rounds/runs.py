"""Runs on the engine `hub`: each in a thread of the server, its model published when it is done."""

import asyncio
import contextlib
import errno
import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ynet.errors import UserError
from ynet.plan import Plan
from ynet.runtime import disk_faults, private_files
from ynet_server.audit import Action, Write, nowhere
from ynet_server.hub.hub import Hub
from ynet_server.registry import Model, Registry, Run, now
from ynet_server.rounds.grid import HubGrid, LetGoError
from ynet_server.rounds.run_folder import MODEL, RunFolder
from ynet_server.rounds.server_app import federate

log = logging.getLogger("ynet.runs")
TRY_DISK_EVERY_S = 10.0
ACTIONS: Mapping[str, Action] = {
    "round": "round",
    "site_failed": "site-failed",
    "update_refused": "update-refused",
    "late": "late-update",
    "resumed": "run-resumed",
    "cancelled": "run-cancelled",
    "quorum_changed": "quorum-changed",
    "failed": "run-ended",
    "finished": "run-ended",
}
"""Of a run's events, those that the audit log has, under their names there."""
HELD = "another process holds the registry: end that, and the run goes on"


@dataclass
class _Work:
    """A run that a thread is working on."""

    is_cancelled: bool = False
    stalled: str = ""  # why it stands still at the moment

    def moves(self) -> None:
        """It does not stand still."""
        self.stalled = ""


class Runs:
    """Starts runs, goes on with those that the server's death interrupted, publishes their models."""

    def __init__(
        self,
        registry: Registry,
        hub: Hub,
        loop: asyncio.AbstractEventLoop,
        home: Path,
        audit: Write = nowhere,
        told: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """`told`: of every event of a run, its kind and values, as it happens."""
        self._registry, self._hub, self._loop, self._audit, self._told = registry, hub, loop, audit, told
        self._folder, self._spool = home / "runs", home / "spool"
        self._works: dict[int, _Work] = {}
        self._is_stopping = False

    def folder(self, run: int) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self._folder / f"{run:04d}", lambda kind, values: self._record(run, kind, values))

    def start(self, frozen: Plan, init: Path | None = None) -> int:
        """Begin a run; its number. `init`: the weights that the plan begins with, where it names some.

        Raises UserError while another one is under way, and when `init` is not what the plan says.
        """
        run = self._registry.start_run(self._registry.freeze(frozen, now()), now())
        self._audit("run-started", about=f"run {run} of plan {frozen.id}")
        try:
            self.folder(run).create(frozen, init)
        except UserError as error:
            self._end_badly(run, f"{error.what}: {error.why}", error.do)
            raise
        self._spawn(run)
        return run

    def listed(self) -> list[Run]:
        """All runs, the newest first; of one that stands still at the moment `reason` says why."""
        works = dict(self._works)
        stalled = {run: work.stalled for run, work in works.items() if work.stalled}
        return [run._replace(reason=stalled.get(run.id, run.reason)) for run in self._registry.runs()]

    def stalled(self) -> str:
        """Why the run under way stands still at the moment; empty when it does not, or there is none."""
        return next((work.stalled for work in dict(self._works).values() if work.stalled), "")

    def resume(self) -> None:
        """Go on with the run that was under way when the server last stopped."""
        for run in self._registry.runs():
            if run.status == "running":
                with contextlib.suppress(UserError):  # the run has failed of it, and says so
                    self._go_on(run, "restart")

    def take_up(self, number: int) -> None:
        """Go on with a run that has failed or was cancelled, after its last whole round.

        Raises UserError when there is none, it has a model already, or another one is under way.
        """
        self._go_on(self._registry.reopen_run(number), "coordinator")

    def cancel(self, number: int) -> None:
        """Call off the run under way: its sites stop what they do for it. Raises UserError when it is not under way."""
        under_way = {run.id for run in self._registry.runs() if run.status == "running"}
        work = self._works.get(number) if number in under_way else None
        if work is None:
            raise UserError(f"run {number} was not cancelled", "it is not under way", "see them: ynet-server runs")
        work.is_cancelled = True

    def lower_quorum(self, number: int, to: int) -> None:
        """Let the rounds of the run under way close with fewer updates. Raises UserError beyond its sites' yes."""
        self._check_running(number, "the quorum was not changed")
        self.folder(number).lower_quorum(to)
        self.folder(number).event("quorum_changed", quorum=to)

    def carry_over(self, number: int, quorum: int, min_sites: int) -> tuple[Plan, Path]:
        """A plan for fewer sites that goes on from a run's last weights, and those. Raises UserError."""
        if number not in {run.id for run in self._registry.runs()}:
            raise UserError(f"there is no run {number}", "it was never started here", "list them: ynet-server runs")
        made, path = self.folder(number).carry_over(quorum, min_sites)
        self._audit("run-carried-over", about=f"run {number}: plan {made.id}")
        return made, path

    def quorum(self, number: int) -> int | None:
        """Updates that a round of a run needs at the moment; None where its plan cannot be read."""
        with contextlib.suppress(UserError, OSError):
            return self.folder(number).quorum()
        return None

    def _check_running(self, number: int, what: str) -> None:
        if number not in {run.id for run in self._registry.runs() if run.status == "running"}:
            raise UserError(what, f"run {number} is not under way", "see them: ynet-server runs")

    def stop(self) -> None:
        """Let go of the run under way, before its sites are cut off; the next start goes on with it."""
        self._is_stopping = True

    def publish_newest(self) -> None:
        """Offer the model in use, which an earlier process published."""
        for model in self._registry.models()[:1]:
            self._publish(model.id, model.run)

    def _go_on(self, run: Run, by: str) -> None:
        try:
            frozen = self._registry.plan(run.plan)
        except UserError as error:  # another ynet froze it, that knew more keys or other defaults
            self._end_badly(run.id, f"{error.what}: {error.why}", error.do)
            raise
        self.folder(run.id).create(frozen).event("resumed", by=by)
        self._spawn(run.id)

    def _spawn(self, run: int) -> None:
        work = self._works[run] = _Work()
        threading.Thread(target=self._carry, args=(run, work), name=f"run-{run}", daemon=True).start()

    def _carry(self, run: int, work: _Work) -> None:
        """Work on a run until it is over or let go of. A fault of the server's disk is waited out."""
        try:
            while not self._is_done(run, work) and not self._is_stopping:
                time.sleep(TRY_DISK_EVERY_S)
        finally:
            if self._works.get(run) is work:  # or else it was resumed already
                del self._works[run]

    def _is_done(self, run: int, work: _Work) -> bool:
        try:
            self._work(run, work)
        except (OSError, sqlite3.Error) as error:
            log.exception("run %d stands still", run)
            is_held = isinstance(error, sqlite3.Error) and "locked" in str(error)
            work.stalled = HELD if is_held else "the server's disk takes no more: make room on it, and the run goes on"
            with contextlib.suppress(OSError):
                self.folder(run).event("stalled", reason=work.stalled)
            return False
        return True

    def _work(self, run: int, work: _Work) -> None:
        """Raises OSError or sqlite3.Error, for a fault of the disk alone."""
        folder = self.folder(run)
        try:
            grid = HubGrid(self._hub, self._loop, self._spool, run, lambda: work.is_cancelled or self._is_stopping)
            model = federate(grid, folder, grid.name_of, grid.cases_of, after_round=lambda _: work.moves())
            self._registry.publish(Model(model, run, folder.card(), now()))
            self._audit("model-published", about=model)
            self._registry.end_run(run, "finished", "", model, now())
            self._loop.call_soon_threadsafe(self._publish, model, run)
        except LetGoError:
            if work.is_cancelled:
                folder.event("cancelled")
                self._registry.end_run(run, "cancelled", "by the coordinator", None, now())
            else:
                log.info("run %d goes on when the server starts again", run)
        except UserError as error:
            self._end_badly(run, f"{error.what}: {error.why}", error.do)
        except Exception as error:
            if disk_faults.is_of_disk(error):
                raise
            log.exception("run %d failed", run)
            self._end_badly(run, "a fault of ynet", "see the server's log")

    def _record(self, run: int, kind: str, values: Mapping[str, Any]) -> None:
        """What an auditor must know of a run's events. Raises OSError when the log takes no more."""
        self._told(kind, values)
        if kind not in ACTIONS:
            return
        at = f"run {run}" + (f", round {values['round']}" if "round" in values else "")
        told = [str(values[key]) for key in ("outcome", "reason", "model", "by", "quorum") if values.get(key)]
        told += [f"of round {values['of']}"] if "of" in values else []
        told += [f"with {', '.join(values['sites'])}"] if kind == "round" else []
        try:
            self._audit(ACTIONS[kind], str(values.get("site", "")), ": ".join([at, *told]))
        except UserError as error:
            raise OSError(errno.ENOSPC, error.why) from None

    def _end_badly(self, run: int, reason: str, do: str) -> None:
        private_files.make_folder(self.folder(run).path)  # it may have failed before there was one
        self.folder(run).event("failed", reason=reason, do=do)
        self._registry.end_run(run, "failed", reason, None, now())

    def _publish(self, model: str, run: int) -> None:
        path = self.folder(run).path / MODEL
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._hub.publish(model, self._hub.offer(path, digest, path.stat().st_size))
