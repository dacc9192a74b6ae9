"""A site's agent: trains and evaluates for runs, adopts new models, and answers the queries of other sites."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import retrieval_pb2 as retrieval
from ynet.federation.content import Content
from ynet.runtime.rates import FLUSH_EVERY_S, Rate, Restraint
from ynet.runtime.reserve import Reserve
from ynet.trust.ledger import ChainHead
from ynet_client import database
from ynet_client.adoption.adopting import Fetch, ModelAdoption
from ynet_client.adoption.offered import OfferedModels
from ynet_client.counts import Counts
from ynet_client.display import Display
from ynet_client.forgetting import Forgetting, Receipt
from ynet_client.gallery.gallery_results import Verified
from ynet_client.retrieval import answering, wire
from ynet_client.retrieval.stores import open_stores
from ynet_client.settings import ClientSettings
from ynet_client.training.consent import Consent
from ynet_client.training.task_execution import TaskExecution

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive
    from ynet_client.resources import Resources

log = logging.getLogger("ynet.agent")
T = TypeVar("T")
STOPS_WITHIN_S = 2.0
ASKED, ASKED_TOGETHER = Rate(600, 2.0), Rate(6000, 20.0)
"""How often one other site, and all together, are answered; further queries are refused before anything is written."""
TOO_OFTEN = retrieval.Refused.QUOTA_SPENT
RECEIVED = Rate(600, 2.0)
"""How many messages of runs, and models, are accepted from the server."""


class Mended(Verified):
    """The result of `ynet-client index --verify`, with the number of cases that were encoded again."""

    encoded: int


class Agent:
    """The site's work, on two threads: one trains, evaluates and indexes; the other encodes and searches queries.

    The first thread loads torch and opens the data, so a site connects before they are ready.
    """

    def __init__(
        self,
        home: Path,
        settings: ClientSettings,
        display: Display,
        cases: int,
        consent: Consent,
        counts: Counts | None = None,
    ) -> None:
        """Open the site's records and start to load its resources.

        Args:
            home: the site's folder.
            settings: the site's settings.
            display: shows lines and progress to the site's people.
            cases: the number of training cases.
            consent: decides in which plans the site takes part.
            counts: what Prometheus reads; None when metrics are off.

        Raises:
            UserError: a record cannot be opened, or was tampered with.

        """
        self._cases, self._display = cases, display
        self.counts = counts or Counts(CollectorRegistry())
        self._reserve = Reserve(home)
        self.disclosure = settings.disclosure
        self.stores = open_stores(home, self.counts.entered, self._reserve.give_up)
        self._worker = ThreadPoolExecutor(1, "work")
        self._searcher = ThreadPoolExecutor(1, "search")
        self._resources: Future[Resources] = self._worker.submit(_prepare, home, settings, consent)
        self._worker.submit(self._mend)
        audit, say, progress = self.stores.audit, display.say, display.progress
        self._tasks = TaskExecution(audit, self.counts.task, say, progress)
        self.offers = OfferedModels(home)
        self._adoption = ModelAdoption(
            self.offers,
            audit,
            lambda: self.search(lambda archive: archive),
            lambda work: self._work(lambda resources: work(resources.archive)),
            say,
            progress,
        )
        self.forgetting = Forgetting(
            home, audit, self.search, lambda: self._work(lambda resources: resources.site.drop_cases())
        )
        self._asked = Restraint(ASKED, ASKED_TOGETHER, self._record_refused_queries, time.monotonic)
        self._received = Restraint(RECEIVED, RECEIVED, self._record_refused_messages, time.monotonic)

    @property
    def doing(self) -> str:
        """What the site works on now."""
        return self._tasks.doing

    def cases(self) -> int:
        """Return the number of training cases when the site joined."""
        return self._cases

    async def ready(self) -> None:
        """Wait until the resources are loaded. Raises what prevented that."""
        await asyncio.wrap_future(self._resources)

    def archive_if_ready(self) -> "Archive | None":
        """Return the archive once it is open."""
        resources = self._resources_if_ready()
        return resources.archive if resources else None

    def close(self) -> None:
        """Close the gallery and the records; cancelled work has a moment to stop.

        Work that does not stop, such as the accountant's search for a noise multiplier, ends with the process, which
        may be killed at any point.
        """
        pools = (self._worker, self._searcher)
        wait([pool.submit(lambda: None) for pool in pools], STOPS_WITHIN_S)  # done when the thread is idle
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if archive := self.archive_if_ready():
            archive.gallery.close()
        self._flush()
        self.stores.close()

    async def keep_records(self, every_s: float = FLUSH_EVERY_S) -> None:
        """Record refused calls, and keep the disk reserve filled, periodically and for ever."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self._flush)
            self._reserve.keep()

    # --- for the connection

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        """Return the ClientApp's reply to a message of a run, which is in a file. Raises UserError."""
        if not self._received.admits("tasks"):
            raise RefusedError("a message of the server was refused", "they are too many", "tell the coordinator")
        return await self._work(
            lambda resources: self._tasks.run(resources.site, resources.app, kind, received, cancelled)
        )

    async def answer(self, from_site: str, body: bytes) -> bytes:
        """Return the answer to another site's query, as far as the settings disclose it."""
        if not self._asked.admits(from_site):
            return wire.write_refused(TOO_OFTEN)
        if self._reserve.is_low():
            self._asked.refused(from_site)
            return wire.write_refused(TOO_OFTEN)
        with self.counts.answering():
            return await self.search(
                lambda archive: answering.answer(archive, self.stores, self.disclosure, from_site, body, time.time())
            )

    async def witness(self, head: pb.LedgerHead) -> None:
        """Compare the privacy ledger with the head that the server saw. Raises LedgerError when they differ."""
        await self._work(lambda resources: resources.budget.check_witness(ChainHead(head.number, head.digest)))

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        """Adopt an announced model, as `ModelAdoption.adopt` does."""
        await self._adoption.adopt(model, fetch, lambda: self._received.admits("models"))

    # --- for the site's own people

    async def index(self) -> dict[str, int]:
        """Bring the gallery up to date with the manifest."""
        return await self._work(lambda resources: resources.archive.update(self._display.progress))

    async def verify(self) -> Mended:
        """Compare the gallery's file with its checksums, and encode damaged cases again."""
        found = await self.search(lambda archive: archive.gallery.verify())
        counts = await self.index() if found["damaged"] else {"encoded": 0}
        return {**found, "encoded": counts["encoded"]}

    async def forget(self, patient: str) -> Receipt:
        """Remove a patient from every store of the site, as `Forgetting.forget` does."""
        return await self.forgetting.forget(patient)

    async def resume_forgetting(self) -> None:
        """Complete the removals of patients that a kill or a full disk interrupted, and show what happened."""
        try:
            if done := await self.forgetting.resume():
                self._display.say(f"interrupted removals of patients were completed: {done}")
        except UserError as error:
            log.warning("a removal of a patient is not complete: %s", error)
            self._display.say(f"{error.what}: {error.why}; {error.do}")

    async def copy_databases(self, folder: Path) -> None:
        """Copy a consistent state of each database that this process has open. Raises UserError."""

        def copy() -> None:
            self._resources.result().archive.gallery.copy_to(folder)
            database.copy_open(folder)

        await asyncio.to_thread(copy)

    async def search(self, work: "Callable[[Archive], T]") -> T:
        """Call `work` with the archive in the thread for searches. It must be short."""
        searching = self._searcher.submit(lambda: work(self._resources.result().archive))
        return await asyncio.wrap_future(searching)

    # --- private

    async def _work(self, work: "Callable[[Resources], T]") -> T:
        return await asyncio.wrap_future(self._worker.submit(lambda: work(self._resources.result())))

    def _resources_if_ready(self) -> "Resources | None":
        is_ready = self._resources.done() and not self._resources.exception()
        return self._resources.result() if is_ready else None

    def _flush(self) -> None:
        self._asked.flush()
        self._received.flush()

    def _record_refused_queries(self, site: str, count: int) -> None:
        self.stores.audit.write(time.time(), "answered", "too-many", {site: "refused"}, user="", count=count)

    def _record_refused_messages(self, what: str, count: int) -> None:
        self.stores.audit.did(time.time(), "too-many", what, "refused", count=count)

    def _mend(self) -> None:
        """Encode cases that were damaged when the gallery was opened, or that a kill left without a code."""
        archive = self._resources.result().archive
        if archive.model_id is None:
            return
        damaged, missing = archive.gallery.stats()["damaged"], archive.gallery.missing(archive.model_id)
        if damaged:
            self._display.say(f"the gallery was damaged, and is mended: {', '.join(damaged)}")
        if damaged or missing:
            try:
                archive.update(self._display.progress)
            except UserError as error:  # `ynet-client index` reports it too
                log.warning("%d cases have no code: %s", len(missing), error)


def _prepare(home: Path, settings: ClientSettings, consent: Consent) -> "Resources":
    from ynet_client import resources  # loads torch, which takes two seconds

    return resources.prepare(home, settings, consent)
