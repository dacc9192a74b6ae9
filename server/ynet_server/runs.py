"""Runs on the engine `hub`: each in a thread of the server, its model published when it is done."""

import asyncio
import hashlib
import logging
import threading
from pathlib import Path

from ynet.errors import UserError
from ynet.federation.plan import Plan
from ynet_server.grid import HubGrid, ServerStopsError
from ynet_server.hub import Hub
from ynet_server.registry import Model, Registry, now
from ynet_server.run_folder import MODEL, RunFolder
from ynet_server.server_app import federate

log = logging.getLogger("ynet.runs")


class Runs:
    """Starts runs, goes on with those that the server's death interrupted, publishes their models."""

    def __init__(self, registry: Registry, hub: Hub, loop: asyncio.AbstractEventLoop, home: Path) -> None:
        self._registry, self._hub, self._loop = registry, hub, loop
        self._folder, self._spool = home / "runs", home / "spool"
        self._stopping = threading.Event()

    def folder(self, run: int) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self._folder / f"{run:04d}")

    def start(self, frozen: Plan, init: Path | None = None) -> int:
        """Begin a run; its number. `init`: the weights that the plan begins with, where it names some.

        Raises UserError while another one is under way, and when `init` is not what the plan says.
        """
        run = self._registry.start_run(self._registry.freeze(frozen, now()), now())
        try:
            self.folder(run).create(frozen, init)
        except UserError as error:
            self._end_badly(run, f"{error.what}: {error.why}", error.do)
            raise
        self._spawn(run)
        return run

    def resume(self) -> None:
        """Go on with the run that was under way when the server last stopped."""
        for run in self._registry.runs():
            if run.status == "running":
                self.folder(run.id).create(self._registry.plan(run.plan)).event("resumed")
                self._spawn(run.id)

    def stop(self) -> None:
        """Let go of the run under way, before its sites are cut off; the next start goes on with it."""
        self._stopping.set()

    def publish_newest(self) -> None:
        """Offer the model in use, which an earlier process published."""
        for model in self._registry.models()[:1]:
            self._publish(model.id, model.run)

    def _spawn(self, run: int) -> None:
        threading.Thread(target=self._work, args=(run,), name=f"run-{run}", daemon=True).start()

    def _work(self, run: int) -> None:
        folder = self.folder(run)
        try:
            grid = HubGrid(self._hub, self._loop, self._spool, run, self._stopping.is_set)
            model = federate(grid, folder, grid.name_of, grid.cases_of)
            self._registry.publish(Model(model, run, folder.card(), now()))
            self._registry.end_run(run, "finished", "", model, now())
            self._loop.call_soon_threadsafe(self._publish, model, run)
        except ServerStopsError:
            log.info("run %d goes on when the server starts again", run)
        except UserError as error:
            self._end_badly(run, f"{error.what}: {error.why}", error.do)
        except Exception:
            log.exception("run %d failed", run)
            self._end_badly(run, "a fault of ynet", "see the server's log")

    def _end_badly(self, run: int, reason: str, do: str) -> None:
        self.folder(run).event("failed", reason=reason, do=do)
        self._registry.end_run(run, "failed", reason, None, now())

    def _publish(self, model: str, run: int) -> None:
        path = self.folder(run).path / MODEL
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._hub.publish(model, self._hub.offer(path, digest, path.stat().st_size))
