"""What a joined site does: trains and evaluates for a run, adopts a new model, answers and asks queries."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from flwr.clientapp import ClientApp
from ynet.train import Progress

from ynet.errors import UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.records import CONFIG, METRICS
from ynet_client import app_call, client_app, lookup
from ynet_client.archive import Archive
from ynet_client.display import Display
from ynet_client.local_site import LocalSite
from ynet_client.session import Fetch

log = logging.getLogger("ynet.duties")
T = TypeVar("T")


class CancelledTaskError(UserError):
    """The server no longer wants the result."""


class Duties:
    """Training, evaluation and indexing take turns in one thread; encoding and searching a query has another."""

    def __init__(self, site: LocalSite, archive: Archive, display: Display, cases: int) -> None:
        self._site, self._archive, self._display, self._cases = site, archive, display, cases
        self._app: ClientApp = client_app.build(lambda _: site)
        self._context = app_call.new_context()
        self._worker = ThreadPoolExecutor(1, "work")
        self._searcher = ThreadPoolExecutor(1, "search")
        self._adopting: str | None = None
        self.doing = "waiting"

    def cases(self) -> int:
        """The number of training cases when the site joined."""
        return self._cases

    async def task(self, kind: str, received: Content, cancelled: Callable[[], bool]) -> Content:
        """Run one message through the ClientApp; the network's progress is shown."""
        return await self._work(lambda: self._run_app(kind, received, cancelled))

    async def answer(self, from_site: str, body: bytes) -> bytes:
        """Search the gallery for another site."""
        log.info("a query of site %s", from_site)
        return await self.search(lambda: lookup.answer(self._archive, body))

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        """Fetch a model, check it, encode the archive under it, and answer with it from then on."""
        if self._archive.model_id == model.id or self._adopting == model.id:
            return
        self._adopting = model.id
        try:
            path = self._archive.file_of(model.id)
            if not path.exists():
                partial = path.with_suffix(".partial")
                await fetch(model.weights, partial)
                partial.replace(path)
            self._display.say(f"model {model.id[:16]} has arrived; encoding the archive")
            await self._work(lambda: self._adopt(model.id, path))
        finally:
            self._adopting = None

    async def index(self) -> dict[str, int]:
        """Bring the gallery up to date with the manifest."""
        return await self._work(lambda: self._archive.update(self._display.progress))

    async def search(self, work: Callable[[], T]) -> T:
        """Do something short with the archive, beside whatever is being trained."""
        return await asyncio.get_running_loop().run_in_executor(self._searcher, work)

    async def _work(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _adopt(self, model_id: str, path: Path) -> None:
        counts = self._archive.adopt(model_id, path, self._display.progress)
        self._display.say(f"model {model_id[:16]} is in use; {counts['cases']} cases are indexed")

    def _run_app(self, kind: str, received: Content, cancelled: Callable[[], bool]) -> Content:
        number = received.configs.get(CONFIG, {}).get("server-round", 0)

        def report(progress: Progress) -> None:
            if cancelled():
                raise CancelledTaskError("a task was called off", "the server no longer waits for it", "nothing to do")
            title = f"round {number}, epoch {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}"
            self._display.progress(title, progress.done, progress.total)

        self._site.report, self.doing = report, f"{kind}, round {number}"
        try:
            reply = app_call.call(self._app, self._context, kind, received)
        finally:
            self.doing = "waiting"
        self._display.say(f"{_verb(kind)}, round {number}: {_numbers(reply)}")
        return reply


def _verb(kind: str) -> str:
    return {"train": "trained", "evaluate": "evaluated"}.get(kind, "prepared")


SHOWN = ("loss", "seconds", "macro_map10", "dice", "balanced_accuracy")


def _numbers(reply: Content) -> str:
    metrics = reply.metrics.get(METRICS, {})
    return ", ".join(f"{key} {metrics[key]:.3f}" for key in SHOWN if key in metrics) or "done"
