"""What a joined site does: trains and evaluates for a run, adopts a new model, answers and asks queries."""

import asyncio
import datetime as dt
import hashlib
import importlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from flwr.app import RecordDict
from prometheus_client import CollectorRegistry

from ynet import scores
from ynet.data import manifest
from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation import retrieval_pb2 as retrieval
from ynet.federation.content import Content
from ynet.federation.records import AWAITED, CONFIG, EVALUATE, MASK, METRICS, TRAIN
from ynet.runtime.rates import FLUSH_EVERY_S, Rate, Restraint
from ynet.runtime.reserve import Reserve
from ynet.trust.ledger import Head
from ynet_client import database, forgetting
from ynet_client.adoption.offered import Offers, WaitsError
from ynet_client.connection.session import Fetch
from ynet_client.counts import Counts
from ynet_client.dicom import import_records
from ynet_client.display import Display
from ynet_client.gallery.gallery import Verified
from ynet_client.retrieval import answering, wire
from ynet_client.retrieval.stores import open_books
from ynet_client.settings import ClientSettings
from ynet_client.training import app_call
from ynet_client.training.consent import Consent
from ynet_client.training.patience import Patience

if TYPE_CHECKING:
    from ynet.learning.train import Progress
    from ynet_client.gallery.indexer import Archive
    from ynet_client.resources import Equipment

log = logging.getLogger("ynet.agent")
T = TypeVar("T")
MODEL_ID = re.compile(r"[0-9a-f]{64}")
VERBS = {TRAIN: "trained", EVALUATE: "evaluated", MASK: "masked the update"}
STOPS_WITHIN_S = 2.0
ADOPTED_WITHIN_S = 3_600.0
"""How long the taking up of a model is tried again while its file or the site's data cannot be had."""
WORD_EVERY_S = 0.5
"""How often it is looked whether the admin has said yes to a model."""
SHOWN = ("loss", "seconds", "pieces")


class Mended(Verified):
    """What `ynet-client index --verify` found, and how many cases it encoded again."""

    encoded: int


class Receipt(TypedDict):
    """What `ynet-client forget` did. The image files, and models trained before, are not its to change."""

    pseudonym: str  # by which the patient is known and kept out
    at: str
    removed: int  # cases
    images: list[str]  # of those cases, as the manifest has them
    cases: int  # left


ASKED, ASKED_TOGETHER = Rate(600, 2.0), Rate(6000, 20.0)
"""How often one other site, and all together, are answered; beyond, they are refused before anything is written."""
TOO_OFTEN = retrieval.Refused.QUOTA_SPENT
GIVEN = Rate(600, 2.0)
"""How many messages of runs, and models, are taken from the server."""


class CancelledTaskError(UserError):
    """The server no longer wants the result."""


class Duties:
    """Training, evaluation and indexing take turns in one thread; encoding and searching a query has another.

    The equipment is got ready in the first of them, so that a site is connected before torch is loaded.
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
        """Raises UserError when what the site remembers cannot be opened, or was tampered with."""
        self._home, self._display, self._cases = home, display, cases
        self.counts = counts or Counts(CollectorRegistry())  # or else nobody looks at them
        reserve = Reserve(home)
        self.disclosure = settings.disclosure
        self.books = open_books(home, self.counts.entered, reserve.give_up)
        self._context = app_call.new_context()
        self._worker = ThreadPoolExecutor(1, "work")
        self._searcher = ThreadPoolExecutor(1, "search")
        self._equipment: Future[Equipment] = self._worker.submit(_prepare, home, settings, consent)
        self._worker.submit(self._mend)
        self._adopting: str | None = None
        self._asked = Restraint(ASKED, ASKED_TOGETHER, self._many_asked, time.monotonic)
        self._given = Restraint(GIVEN, GIVEN, self._many_given, time.monotonic)
        self._reserve = reserve
        self.offers = Offers(home)
        self._awaited: asyncio.Task[None] | None = None  # has the id of the model that waits for the admin's word
        self.forgetting: list[Callable[[list[str]], None]] = []  # told which images a forgotten patient had
        self._forgets = asyncio.Lock()
        self.doing = "waiting"

    def cases(self) -> int:
        """The number of training cases when the site joined."""
        return self._cases

    async def ready(self) -> None:
        """Back when the equipment is there. Raises what kept it from that."""
        await asyncio.wrap_future(self._equipment)

    def archive_if_ready(self) -> "Archive | None":
        """The archive, once it is open."""
        is_ready = self._equipment.done() and not self._equipment.exception()
        return self._equipment.result().archive if is_ready else None

    def close(self) -> None:
        """Close the gallery and the books, when what was called off has had a moment to stop.

        What does not stop (the accountant's search for a noise multiplier takes seconds) ends with the process, which
        may be killed at any point.
        """
        pools = (self._worker, self._searcher)
        wait([pool.submit(_nothing) for pool in pools], STOPS_WITHIN_S)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if self._equipment.done() and not self._equipment.exception():
            self._equipment.result().archive.gallery.close()
        self._flush()
        self.books.close()

    async def keep_telling(self, every_s: float = FLUSH_EVERY_S) -> None:
        """Write down what was refused unheard, and hold the room that is kept on the disk; now and then, for ever."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self._flush)
            self._reserve.keep()

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        """Run one message through the ClientApp; the network's progress is shown."""
        if not self._given.admits("tasks"):
            raise RefusedError("a message of the server was refused", "they are too many", "tell the coordinator")
        return await self._work(lambda tools: self._run_recorded(tools, kind, received, cancelled))

    async def answer(self, from_site: str, body: bytes) -> bytes:
        """What another site is told, as the settings allow it."""
        if not self._asked.admits(from_site):
            return wire.write_refused(TOO_OFTEN)
        if self._reserve.is_low():
            self._asked.refused(from_site)
            return wire.write_refused(TOO_OFTEN)
        with self.counts.answering():
            return await self.search(
                lambda archive: answering.answer(archive, self.books, self.disclosure, from_site, body, time.time())
            )

    async def witness(self, head: pb.LedgerHead) -> None:
        """Hold the ledger against what the server saw of it; private training stops when it is another."""
        await self._work(lambda tools: tools.budget.check_witness(Head(head.number, head.digest)))

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        """Fetch a model, check it, encode the archive under it, and answer with it from then on."""
        if not MODEL_ID.fullmatch(model.id):
            raise RefusedError("a model was refused", "its id is no SHA-256", "tell the coordinator")
        archive = await self.search(lambda archive: archive)
        if model.id in (archive.model_id, self._adopting) or (self._awaited and self._awaited.get_name() == model.id):
            return
        if not self._given.admits("models"):
            raise RefusedError("a model was refused", "the server names too many", "tell the coordinator")
        self._put_aside(archive)
        self._adopting = model.id
        path = archive.file_of(model.id)

        async def take_up() -> None:
            if self._adopting != model.id:
                return  # while this one could not be taken up, another has come
            await _fetch(model, path, fetch)
            self._display.say(f"model {model.id[:16]} has arrived; encoding the archive")
            await self._work(lambda tools: self._adopt(tools, model.id, path))

        try:
            await Patience(self._display.say).keep(take_up, ADOPTED_WITHIN_S)
        except WaitsError:
            # Not in the session's own tasks: a word may be long in coming, and nothing need wait for it.
            self._awaited = asyncio.create_task(self._adopt_when_accepted(model.id, path), name=model.id)
            raise
        finally:
            if self._adopting == model.id:
                self._adopting = None

    async def _adopt_when_accepted(self, model_id: str, path: Path) -> None:
        while self.offers.word_of(model_id) is None:
            await asyncio.sleep(WORD_EVERY_S)

        def adopted() -> Awaitable[None]:
            return self._work(lambda tools: self._adopt(tools, model_id, path))

        try:
            await Patience(self._display.say).keep(adopted, ADOPTED_WITHIN_S)
        except UserError as error:
            self._display.say(str(error))
        except Exception:
            log.exception("a model that was accepted could not be taken up")
            self._display.say("a fault of ynet; this site's log has it")
        self._awaited = None

    def _put_aside(self, archive: "Archive") -> None:
        """Another model has come: the one that waited waits no longer, and takes no place on the disk."""
        if self._awaited is not None:
            archive.file_of(self._awaited.get_name()).unlink(missing_ok=True)
            self.offers.drop(self._awaited.get_name())
            self._awaited.cancel()
            self._awaited = None

    async def index(self) -> dict[str, int]:
        """Bring the gallery up to date with the manifest."""
        return await self._work(lambda tools: tools.archive.update(self._display.progress))

    async def verify(self) -> Mended:
        """Hold the gallery's file against its checksums, and encode again what was damaged."""
        found = await self.search(lambda archive: archive.gallery.verify())
        counts = await self.index() if found["damaged"] else {"encoded": 0}
        return {**found, "encoded": counts["encoded"]}

    async def forget(self, patient: str) -> Receipt:
        """Take a patient out of the gallery at once, and out of training as soon as a round under way has ended.

        The id is the manifest's, or that of the PACS from which `ynet-client import` has made the manifest. What is to
        go is written down first: who dies in the midst of it goes on at the next start, or when it is asked again.
        """
        now = dt.datetime.now(dt.UTC)
        names: Any = importlib.import_module("ynet_client.dicom.deidentify")  # pydicom: nothing else here needs it
        known = names.known_as(self._home, patient)
        async with self._forgets:
            here = await self.search(lambda archive: [archive.gallery.known(name) for name in known])
            listed = await self.search(lambda archive: _listed(archive.manifest_file, known))
            images = sorted({image for one in here for image in one.images})
            pseudonyms = [one.pseudonym for one in here]
            before = {image for one in forgetting.begun(self._home) for image in one.images if _is_of(one, pseudonyms)}
            imported = [name for name in known if import_records.is_pseudonym(name)] if known[1:] else []
            forgetting.begin(self._home, forgetting.Intent(pseudonyms, imported, sorted({*images, *listed})))
            await self._end_forgetting(now)
        await self._work(lambda tools: tools.site.drop_cases())
        left = await self.search(lambda archive: archive.gallery.stats())
        gone = sorted(before.union(images))
        return {
            "pseudonym": next((one.pseudonym for one in here if one.images), here[0].pseudonym),
            "at": now.isoformat(timespec="seconds"),
            "removed": len(gone),
            "images": gone,
            "cases": left["cases"],
        }

    async def end_forgetting(self) -> None:
        """Go on with what a kill, or a full disk, has broken off. To be called once `forgetting` has all who are told.

        What cannot be ended now stays written down, for the next start.
        """
        try:
            async with self._forgets:
                done = await self._end_forgetting(dt.datetime.now(dt.UTC))
            if done:
                await self._work(lambda tools: tools.site.drop_cases())
                self._display.say(f"patients whom a command had begun to forget are forgotten: {done}")
        except UserError as error:
            log.warning("a forgetting is not ended: %s", error)
            self._display.say(f"{error.what}: {error.why}; {error.do}")

    async def _end_forgetting(self, now: dt.datetime) -> int:
        """Forget whoever is written down; how many those were. Each step may be taken twice. Raises UserError."""
        intents = forgetting.begun(self._home)
        for intent in intents:
            await self.search(lambda archive, of=intent: _forget(archive, of, now))  # type: ignore[misc]
            for forget in self.forgetting:
                forget(intent.images)
            if intent.imported:
                import_records.Records(self._home).forget(intent.imported, intent.images)
            self.books.audit.did(now.timestamp(), "forgot")
            forgetting.end(self._home, intent)
        return len(intents)

    async def copy_databases(self, folder: Path) -> None:
        """Copy the databases that this process has for itself, each as it is at one moment. Raises UserError."""

        def copy() -> None:
            self._equipment.result().archive.gallery.copy_to(folder)
            database.copy_open(folder)

        await asyncio.to_thread(copy)

    async def search(self, work: "Callable[[Archive], T]") -> T:
        """Do something short with the archive, beside whatever is being trained."""
        searching = self._searcher.submit(lambda: work(self._equipment.result().archive))
        return await asyncio.wrap_future(searching)

    def _flush(self) -> None:
        self._asked.flush()
        self._given.flush()

    def _many_asked(self, site: str, count: int) -> None:
        self.books.audit.write(time.time(), "answered", "too-many", {site: "refused"}, user="", count=count)

    def _many_given(self, what: str, count: int) -> None:
        self.books.audit.did(time.time(), "too-many", what, "refused", count=count)

    async def _work(self, work: "Callable[[Equipment], T]") -> T:
        return await asyncio.wrap_future(self._worker.submit(lambda: work(self._equipment.result())))

    def _mend(self) -> None:
        """Encode again what was damaged when the gallery was opened, and what a kill has left without a code."""
        archive = self._equipment.result().archive
        if archive.model_id is None:
            return
        damaged, missing = archive.gallery.stats()["damaged"], archive.gallery.missing(archive.model_id)
        if damaged:
            self._display.say(f"the gallery was damaged, and is mended: {', '.join(damaged)}")
        if damaged or missing:
            try:
                archive.update(self._display.progress)
            except UserError as error:  # nobody waits for it; `ynet-client index` says it again
                log.warning("%d cases have no code: %s", len(missing), error)

    def _adopt(self, tools: "Equipment", model_id: str, path: Path) -> None:
        try:
            counts = tools.archive.adopt(model_id, path, self._display.progress)
        except WaitsError:
            self.books.audit.did(time.time(), "model", model_id, "waits")
            raise
        except RefusedError:
            self.books.audit.did(time.time(), "model", model_id, "refused")
            raise
        self.offers.adopted(model_id)
        self.books.audit.did(time.time(), "model", model_id)
        self._display.say(f"model {model_id[:16]} is in use; {counts['cases']} cases are indexed")

    def _run_recorded(self, tools: "Equipment", kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        """What `_run_app` makes; the audit log has what came of it."""
        records, outcome, begun = app_call.load(received), "failed", time.monotonic()
        try:
            reply = self._run_app(tools, kind, records, cancelled)
            outcome = "awaited" if AWAITED in reply.configs.get(CONFIG, {}) else "done"
        except CancelledTaskError:
            outcome = "called off"
            raise
        except RefusedError:
            outcome = "refused"
            raise
        finally:
            about = f"{protocol.plain(kind, 40)}, round {_round(records)}, plan {_plan_id(records)}"
            self.counts.task(kind, outcome, time.monotonic() - begun)
            self.books.audit.did(time.time(), "task", about, outcome)
        return reply

    def _run_app(self, tools: "Equipment", kind: str, records: RecordDict, cancelled: Callable[[], bool]) -> Content:
        number = _round(records)

        def report(progress: "Progress") -> None:
            if cancelled():
                raise CancelledTaskError("a task was called off", "the server no longer waits for it", "nothing to do")
            title = f"round {number}, epoch {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}"
            self._display.progress(title, progress.done, progress.total)

        tools.site.report, self.doing = report, f"{protocol.plain(kind, 40)}, round {number}"
        try:
            reply = app_call.call(tools.app, self._context, kind, records)
        finally:
            self.doing = "waiting"
        if AWAITED not in reply.configs.get(CONFIG, {}) and kind in VERBS:
            self._display.say(f"{VERBS[kind]}, round {number}: {_numbers(reply)}")
        return reply


async def _fetch(model: pb.Model, path: Path, fetch: Fetch) -> None:
    """See that a model's file is there. Raises UserError, grpc.aio.AioRpcError."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    try:
        await fetch(model.weights, partial)
    except RefusedError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def _forget(archive: "Archive", intent: forgetting.Intent, now: dt.datetime) -> None:
    for pseudonym in intent.pseudonyms:
        archive.gallery.forget_named(bytes.fromhex(pseudonym), now)


def _is_of(intent: forgetting.Intent, pseudonyms: Sequence[str]) -> bool:
    return not set(intent.pseudonyms).isdisjoint(pseudonyms)


def _listed(path: Path | None, names: Collection[str]) -> list[str]:
    """The images of a patient, by all names, in the manifest: an import may have made some that are not indexed yet."""
    if path is None:
        return []
    try:
        return [case.image for case in manifest.read(path, is_labelled=False).cases if case.patient in names]
    except UserError:  # what the gallery holds is forgotten all the same
        return []


def _nothing() -> None:
    """What a thread that has nothing to do is done with at once."""


def _prepare(home: Path, settings: ClientSettings, consent: Consent) -> "Equipment":
    module: Any = importlib.import_module("ynet_client.resources")
    prepared: Equipment = module.prepare(home, settings, consent)
    return prepared


def _round(records: RecordDict) -> int:
    number = records.config_records[CONFIG].get("server-round") if CONFIG in records.config_records else None
    return number if isinstance(number, int) else 0


def _plan_id(records: RecordDict) -> str:
    """Of the plan that a message brings: as it says, whether it is one or not."""
    text = records.config_records[CONFIG].get("plan") if CONFIG in records.config_records else None
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else "unknown"


def _numbers(reply: Content) -> str:
    metrics = reply.metrics.get(METRICS, {})
    told = [f"{key} {metrics[key]:.3f}" for key in SHOWN if key in metrics]
    if "queries" in metrics:
        told += [f"{key} {scores.shown(metrics, key)}" for key in scores.RESTS_ON]
    return ", ".join(told) or "done"
