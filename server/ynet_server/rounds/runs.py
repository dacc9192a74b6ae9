"""The server's runs: each trains in a thread of its own, and its model is published at the end."""

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
from ynet_server import encoder_files
from ynet_server.audit import Action, Write, nowhere
from ynet_server.clock import now
from ynet_server.hub.hub import Hub
from ynet_server.registry import Registry
from ynet_server.rounds.grid import HubGrid, LetGoError
from ynet_server.rounds.run_folder import MODEL, RunFolder
from ynet_server.rounds.server_app import federate
from ynet_server.training_records import PublishedModel, Run

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
"""The events of a run that go to the audit log, with their names there."""
HELD = "another process holds the registry: end that process, and the run continues"


@dataclass
class _Work:
    """A run that a thread works on."""

    is_cancelled: bool = False
    stalled: str = ""  # why it cannot continue at the moment

    def moves(self) -> None:
        """Note that the run makes progress."""
        self.stalled = ""


class Runs:
    """Starts runs, resumes the run that was interrupted, publishes models."""

    def __init__(
        self,
        registry: Registry,
        hub: Hub,
        loop: asyncio.AbstractEventLoop,
        home: Path,
        audit: Write = nowhere,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """Call `on_event` with the kind and values of every event of a run."""
        self._registry, self._hub, self._loop, self._audit, self._on_event = registry, hub, loop, audit, on_event
        self._folder, self._spool, self._encoders = home / "runs", home / "spool", home / encoder_files.FOLDER
        self._works: dict[int, _Work] = {}
        self._is_stopping = False

    def folder(self, run: int) -> RunFolder:
        """The folder of a run."""
        path = self._folder / f"{run:04d}"
        return RunFolder(path, lambda kind, values: self._record(run, kind, values), self._encoders)

    def start(self, frozen: Plan, init: Path | None = None) -> int:
        """Start a run. Returns its number. `init` is the file of the plan's `init`, where it has one.

        Raises UserError while another run is under way, and when `init` is not the file that the plan names.
        """
        run = self._registry.training.start_run(self._registry.training.freeze(frozen, now()), now())
        self._audit("run-started", about=f"run {run} of plan {frozen.id}")
        try:
            self.folder(run).create(frozen, init)
        except UserError as error:
            self._end_badly(run, f"{error.what}: {error.why}", error.do)
            raise
        self._spawn(run)
        return run

    def listed(self) -> list[Run]:
        """All runs, the newest first. A stalled run has the reason in `reason`."""
        works = dict(self._works)
        stalled = {run: work.stalled for run, work in works.items() if work.stalled}
        return [run._replace(reason=stalled.get(run.id, run.reason)) for run in self._registry.training.runs()]

    def stalled(self) -> str:
        """Why the run under way is stalled; empty when it is not, or there is none."""
        return next((work.stalled for work in dict(self._works).values() if work.stalled), "")

    def resume(self) -> None:
        """Resume the run that was under way when the server last stopped."""
        for run in self._registry.training.runs():
            if run.status == "running":
                with contextlib.suppress(UserError):  # the run has failed, with the reason
                    self._go_on(run, "restart")

    def take_up(self, number: int) -> None:
        """Resume a failed or cancelled run after its last complete round.

        Raises UserError when there is no such run, it has a model already, or another run is under way.
        """
        self._go_on(self._registry.training.reopen_run(number), "coordinator")

    def cancel(self, number: int) -> None:
        """Cancel the run under way; its sites stop working on it. Raises UserError when it is not under way."""
        under_way = {run.id for run in self._registry.training.runs() if run.status == "running"}
        work = self._works.get(number) if number in under_way else None
        if work is None:
            raise UserError(f"run {number} was not cancelled", "it is not under way", "see them: ynet-server runs")
        work.is_cancelled = True

    def lower_quorum(self, number: int, to: int) -> None:
        """Let rounds of the run under way close with fewer updates. Raises UserError below what its sites accepted."""
        self._check_running(number, "the quorum was not changed")
        self.folder(number).lower_quorum(to)
        self.folder(number).event("quorum_changed", quorum=to)

    def carry_over(self, number: int, quorum: int, min_sites: int) -> tuple[Plan, Path]:
        """A plan for fewer sites that continues from a run's last weights, and their file. Raises UserError."""
        if number not in {run.id for run in self._registry.training.runs()}:
            raise UserError(f"there is no run {number}", "it was never started here", "list them: ynet-server runs")
        made, path = self.folder(number).carry_over(quorum, min_sites)
        self._audit("run-carried-over", about=f"run {number}: plan {made.id}")
        return made, path

    def quorum(self, number: int) -> int | None:
        """The updates that a round of a run needs now; None when its plan cannot be read."""
        with contextlib.suppress(UserError, OSError):
            return self.folder(number).quorum()
        return None

    def _check_running(self, number: int, what: str) -> None:
        if number not in {run.id for run in self._registry.training.runs() if run.status == "running"}:
            raise UserError(what, f"run {number} is not under way", "see them: ynet-server runs")

    def stop(self) -> None:
        """Stop working on the run under way; the next start resumes it. Call this before the connections are closed."""
        self._is_stopping = True

    def publish_newest(self) -> None:
        """Announce the model in use, which an earlier process published."""
        for model in self._registry.training.models()[:1]:
            self._publish(model.id, model.run)

    def _go_on(self, run: Run, by: str) -> None:
        try:
            frozen = self._registry.training.plan(run.plan)
        except UserError as error:  # another version of ynet froze it, with other keys or defaults
            self._end_badly(run.id, f"{error.what}: {error.why}", error.do)
            raise
        self.folder(run.id).create(frozen).event("resumed", by=by)
        self._spawn(run.id)

    def _spawn(self, run: int) -> None:
        work = self._works[run] = _Work()
        threading.Thread(target=self._carry, args=(run, work), name=f"run-{run}", daemon=True).start()

    def _carry(self, run: int, work: _Work) -> None:
        """Work on a run until it ends or the server stops; wait while the server's disk is full."""
        try:
            while not self._is_done(run, work) and not self._is_stopping:
                time.sleep(TRY_DISK_EVERY_S)
        finally:
            if self._works.get(run) is work:  # else it was resumed already
                del self._works[run]

    def _is_done(self, run: int, work: _Work) -> bool:
        try:
            self._work(run, work)
        except (OSError, sqlite3.Error) as error:
            log.exception("run %d is stalled", run)
            is_held = isinstance(error, sqlite3.Error) and "locked" in str(error)
            work.stalled = HELD if is_held else "the server's disk is full: make room on it, and the run continues"
            with contextlib.suppress(OSError):
                self.folder(run).event("stalled", reason=work.stalled)
            return False
        return True

    def _work(self, run: int, work: _Work) -> None:
        """Train, publish, and store how the run ended. Raises OSError or sqlite3.Error for faults of the disk only."""
        folder = self.folder(run)
        try:
            grid = HubGrid(self._hub, self._loop, self._spool, run, lambda: work.is_cancelled or self._is_stopping)
            model = federate(grid, folder, grid.name_of, grid.cases_of, after_round=lambda _: work.moves())
            self._registry.training.publish(PublishedModel(model, run, folder.card(), now()))
            self._audit("model-published", about=model)
            self._registry.training.end_run(run, "finished", "", model, now())
            self._loop.call_soon_threadsafe(self._publish, model, run)
        except LetGoError:
            if work.is_cancelled:
                folder.event("cancelled")
                self._registry.training.end_run(run, "cancelled", "by the coordinator", None, now())
            else:
                log.info("run %d continues when the server starts again", run)
        except UserError as error:
            self._end_badly(run, f"{error.what}: {error.why}", error.do)
        except Exception as error:
            if disk_faults.is_of_disk(error):
                raise
            log.exception("run %d failed", run)
            self._end_badly(run, "a fault of ynet", "see the server's log")

    def _record(self, run: int, kind: str, values: Mapping[str, Any]) -> None:
        """Write a run's event to the audit log, if it belongs there. Raises OSError when the disk is full."""
        self._on_event(kind, values)
        if kind not in ACTIONS:
            return
        at = f"run {run}" + (f", round {values['round']}" if "round" in values else "")
        details = [str(values[key]) for key in ("outcome", "reason", "model", "by", "quorum") if values.get(key)]
        details += [f"of round {values['of']}"] if "of" in values else []
        details += [f"with {', '.join(values['sites'])}"] if kind == "round" else []
        try:
            self._audit(ACTIONS[kind], str(values.get("site", "")), ": ".join([at, *details]))
        except UserError as error:
            raise OSError(errno.ENOSPC, error.why) from None

    def _end_badly(self, run: int, reason: str, do: str) -> None:
        private_files.make_folder(self.folder(run).path)  # it may have failed before there was a folder
        self.folder(run).event("failed", reason=reason, do=do)
        self._registry.training.end_run(run, "failed", reason, None, now())

    def _publish(self, model: str, run: int) -> None:
        path = self.folder(run).path / MODEL
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._hub.publish(model, self._hub.offer(path, digest, path.stat().st_size))
