"""A hub and its sites in this process: real certificates and real connections on loopback."""

import asyncio
import datetime as dt
import gc
import hashlib
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet import weights
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation.content import Content
from ynet.federation.countersigned import SERVER, Witness
from ynet.federation.records import ARRAYS, CASES, CONFIG, METRICS, flat_weights, weights_record
from ynet.runtime import control_server
from ynet.trust import identity, invitation
from ynet.trust.identity import HUB_NAME, Identity
from ynet.weights import Flat, Layout, LayoutEntry
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.membership import renewal
from ynet_client.membership.membership import Membership
from ynet_client.training import app_call, secure_aggregation
from ynet_client.training.request import read_request
from ynet_client.training.secure_aggregation import Party
from ynet_server import ports
from ynet_server.audit import ServerAudit, Write, nowhere
from ynet_server.authority import enrolment
from ynet_server.authority import renewal as renewals
from ynet_server.hub import witness as witnesses
from ynet_server.hub.hub import Hub, service
from ynet_server.hub.peers import CertificateCheck
from ynet_server.registry import Registry

T = TypeVar("T")
MAX_MODEL_BYTES = 1 << 20
LAYOUT: Layout = (LayoutEntry("a", (2, 2)), LayoutEntry("b", (3,)))


def play(
    folder: Path,
    story: "Callable[[Consortium], Awaitable[T]]",
    within_s: float = 30.0,
    within: Sequence[grpc.aio.ServerInterceptor] = (),
    audit: Write = nowhere,
) -> T:
    """Open a consortium, run `story`, and close it.

    `within`: interceptors after the check of certificates; `audit`: of the hub.
    """

    async def main() -> T:
        consortium = Consortium(folder)
        consortium.within, consortium.written = list(within), audit
        await consortium.open()
        try:
            return await asyncio.wait_for(story(consortium), within_s)
        finally:
            await consortium.close()
            consortium.registry.close()
            consortium.audit.close()

    gc.freeze()  # older objects need no check at the end
    try:
        return asyncio.run(main())
    finally:
        gc.collect()


async def until(true: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until `true()` holds."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a daemon thread, so that a failing test need not wait for it."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as caught:  # noqa: BLE001 (raised where it is awaited)
            result, error = None, caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: done.set_exception(error) if error else done.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await done  # type: ignore[no-any-return]


class Consortium:
    """A registry, an authority and a hub that can stop and reopen at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, dt.datetime.now(dt.UTC)
        self.registry = Registry(folder / "registry.sqlite")
        self.authority = identity.make_authority("test", self.now)
        self.hub_identity = identity.issue_hub(self.authority, self.now)
        self.spool, self.audit = folder / "spool", ServerAudit(folder)
        self.port = 0
        self.around: list[grpc.aio.ServerInterceptor] = []  # before the check of certificates
        self.within: list[grpc.aio.ServerInterceptor] = []  # after it
        self.written: Write = nowhere
        self.answer_within_s = 8.0
        self.renews = True  # not in a hub of an older version
        self._running: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        self.spool.mkdir(exist_ok=True)
        self.hub = Hub(self.registry, "test", self.spool, MAX_MODEL_BYTES, self.written, self.answer_within_s)
        credentials = grpc.ssl_server_credentials(
            [(self.hub_identity.key, self.hub_identity.certificate)], self.authority.certificate, True
        )
        self.server = grpc.aio.server(
            interceptors=[*self.around, CertificateCheck(self.registry), *self.within], options=ports.OPTIONS
        )
        is_connected = lambda site: site in self.hub.connected()  # noqa: E731
        answers = renewals.service(self.registry, self.authority, lambda: self.now, is_connected=is_connected)
        witness = Witness(self.folder, SERVER, lambda: self.hub_identity, self.authority.certificate)
        witnessing = witnesses.service(witness, self.audit, self.audit.write, lambda: self.now)
        self.server.add_generic_rpc_handlers([service(self.hub), *([answers, witnessing] if self.renews else [])])
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self.server.start()

    async def stop(self) -> None:
        """Stop the hub; the sites stay."""
        self.hub.close()
        await self.server.stop(None)
        del self.server
        gc.collect()
        await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.stop()

    # --- sites

    def enrol(self, name: str, authority: Identity | None = None) -> Membership:
        """Enrol a site with an invitation; it replaces an older one of that name."""
        key, secret = identity.new_key(), invitation.new_secret()
        self.registry.invite(name, secret, self.now.timestamp(), replace=True)
        csr = identity.signing_request(key, name)
        proof = invitation.proof(invitation.verifier(secret), name, csr)
        certificate = enrolment.issue(self.registry, authority or self.authority, name, csr, proof, self.now)
        return Membership(name, f"127.0.0.1:{self.port}", key, certificate, self.authority.certificate)

    def session(
        self,
        member: Membership,
        work: "Site | None" = None,
        home: Path | None = None,
        hooks: SessionHooks | None = None,
    ) -> "Joined":
        """Run the real session of a site; with a `home` it renews its certificate."""
        joined = Joined(self, member, work or Site(), home, hooks)
        self._running.append(joined.task)
        return joined

    def run(self, session: Session) -> "asyncio.Task[None]":
        """Keep a session running until the consortium closes, or the task is cancelled."""
        self._running.append(asyncio.ensure_future(session.run()))
        return self._running[-1]

    async def join(self, name: str, work: "Site | None" = None, hooks: SessionHooks | None = None) -> "Joined":
        """Enrol a site and connect it."""
        joined = self.session(self.enrol(name), work, hooks=hooks)
        await until(lambda: joined.session.connected)
        return joined

    @asynccontextmanager
    async def wire(self, member: Membership) -> "AsyncIterator[Wire]":
        """Open a bare channel with a site's certificate, for messages that no session would send."""
        credentials = grpc.ssl_channel_credentials(member.authority, member.key, member.certificate)
        options = [("grpc.ssl_target_name_override", HUB_NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            yield Wire(channel, lambda: [site.name for site in self.registry.sites()])

    async def task(self, site: str, content: bytes = b"question", kind: str = "train") -> Path:
        """Give a site a task, as the Grid does."""
        path = self.folder / "content"
        path.write_bytes(content)
        blob = self.hub.offer(path, sha256(content), len(content))
        return await self.hub.task(site, kind, blob)


class Joined:
    """A site's session and its messages."""

    def __init__(
        self,
        consortium: Consortium,
        member: Membership,
        work: "Site",
        home: Path | None = None,
        hooks: SessionHooks | None = None,
    ) -> None:
        self.said: list[str] = []
        self.spool = consortium.folder / f"spool-{member.site}-{secrets.token_hex(4)}"
        self.spool.mkdir()
        self.work = work
        renew = renewal.renewing(home, self.said.append, lambda: consortium.now) if home else renewal.never
        self.session = Session(member, self.spool, work, self.said.append, hooks or SessionHooks(renew=renew))
        self.task = asyncio.ensure_future(self.session.run())


@asynccontextmanager
async def control_server_in(home: Path) -> AsyncIterator[None]:
    """Serve the control server of a connected client that runs in `home`."""

    async def status(_: Request) -> Response:
        return JSONResponse({"connected": True})

    server = await control_server.serve(home, [Route("/status", status)])
    try:
        yield
    finally:
        await server.end()


class Wire:
    """The hub's methods, called directly."""

    def __init__(self, channel: grpc.aio.Channel, enrolled: Callable[[], list[str]]) -> None:
        self._channel, self._enrolled = channel, enrolled

    def attach(self) -> Any:
        path = f"/{protocol.SERVICE}/Attach"
        return self._channel.stream_stream(path, pb.FromSite.SerializeToString, pb.ToSite.FromString)()

    async def attached(self, instance: bytes = b"") -> Any:
        """Open a stream and send the greeting."""
        call, greeting = self.attach(), hello()
        greeting.hello.instance = instance
        await call.write(greeting)
        assert (await call.read()).HasField("welcome")
        return call

    @asynccontextmanager
    async def answering(self, answer: Callable[[pb.Query], pb.Answer]) -> AsyncIterator[list[pb.Query]]:
        """Open a greeted stream that answers all queries directly; return the queries."""
        call, asked = await self.attached(), list[pb.Query]()

        async def run() -> None:
            while message := await call.read():
                if message.HasField("query"):
                    asked.append(message.query)
                    await call.write(pb.FromSite(answer=answer(message.query)))

        running = asyncio.create_task(run())
        yield asked
        running.cancel()

    async def ask(self, body: bytes, *sites: str, deadline_ms: int = 2000) -> pb.Answers:
        """Ask each of the sites, or all, with the same body; return all replies."""
        queries = [pb.Question.ToOne(site=site, body=body) for site in sites or self._enrolled()]
        return await self.put(pb.Question(queries=queries, sites=sites, deadline_ms=deadline_ms))

    async def put(self, question: pb.Question) -> pb.Answers:
        call = self._channel.unary_stream(
            f"/{protocol.SERVICE}/Ask", pb.Question.SerializeToString, pb.Answers.FromString
        )
        found = pb.Answers()
        async for part in call(question):
            found.MergeFrom(part)
        return found

    async def upload(self, header: pb.UploadHeader | None, *data: bytes) -> None:
        first = [pb.UploadPart(header=header)] if header else []
        await self.uploading(iter([*first, *(pb.UploadPart(data=part) for part in data)]))

    def uploading(self, parts: Iterator[pb.UploadPart] | None = None) -> Any:
        """Upload `parts`, or a hand-written sequence."""
        path = f"/{protocol.SERVICE}/Upload"
        return self._channel.stream_unary(path, pb.UploadPart.SerializeToString, pb.UploadReceipt.FromString)(parts)

    async def resume(self, header: pb.UploadHeader) -> int:
        path = f"/{protocol.SERVICE}/Resume"
        ask = self._channel.unary_unary(path, pb.UploadHeader.SerializeToString, pb.Resumed.FromString)
        return (await ask(header)).offset  # type: ignore[no-any-return]

    async def download(self, blob: str, offset: int = 0) -> bytes:
        return b"".join([chunk.data async for chunk in self.downloading(blob, offset)])

    def downloading(self, blob: str, offset: int = 0) -> Any:
        """Open a download that the test reads."""
        path = f"/{protocol.SERVICE}/Download"
        call = self._channel.unary_stream(path, pb.DownloadRequest.SerializeToString, pb.Chunk.FromString)
        return call(pb.DownloadRequest(blob=blob, offset=offset))


def hello(version: int = protocol.VERSION, cases: int = 7) -> pb.FromSite:
    return pb.FromSite(hello=pb.Hello(protocol=version, version="9.9", cases=cases))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Site:
    """A site without data whose behaviour is passed in."""

    def __init__(
        self,
        answer: Callable[[str, bytes], Awaitable[bytes]] | None = None,
        task: Callable[[str, Path], Awaitable[Content]] | None = None,
        cases: int = 7,
    ) -> None:
        self._answer, self._task, self._cases = answer, task, cases
        self.models: list[pb.Model] = []
        self.witnessed: list[pb.LedgerHead] = []

    def cases(self) -> int:
        return self._cases

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        return await self._task(kind, received) if self._task else Content(configs={"got": {"kind": kind}})

    async def answer(self, from_site: str, body: bytes) -> bytes:
        return await self._answer(from_site, body) if self._answer else b"answer to " + from_site.encode()

    async def witness(self, head: pb.LedgerHead) -> None:
        self.witnessed.append(head)

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        self.models.append(model)


def runs(app: ClientApp, cases: int) -> Site:
    """A site that runs a ClientApp."""
    context = app_call.new_context()

    async def task(kind: str, received: Path) -> Content:
        return await asyncio.to_thread(lambda: app_call.call(app, context, kind, app_call.load(received)))

    return Site(task=task, cases=cases)


def tiny_app(
    train: Callable[[int, Flat], Flat],
    cases: int,
    *,
    layout: Layout = LAYOUT,
    claims: Callable[[int], int] | None = None,
    spoil: Callable[[RecordDict], RecordDict] = lambda reply: reply,
    spoil_initial: Callable[[RecordDict], RecordDict] = lambda reply: reply,
    party: Party | None = None,
    scores: Mapping[str, float] | Callable[[Flat], Mapping[str, float]] = MappingProxyType({}),
    notice: Callable[[Message], None] = lambda _: None,
) -> ClientApp:
    """Make a ClientApp with a few weights; `train` computes new ones from the round and the old ones.

    With a `party` its updates go into secure sums, as at a real site. It claims `claims(round)` cases if that is given.
    `spoil` may change its updates and `spoil_initial` its initial weights, as a hostile site would. It answers an
    evaluation with `scores`, or with what `scores` makes of the weights. `notice` gets each message of a round.
    """
    app = ClientApp()

    @app.query("initial")
    def initial(message: Message, context: Context) -> Message:
        config = ConfigRecord({"layout": weights.layout_to_json(layout)})
        flat = np.zeros(sum(entry.size for entry in layout), np.float32)
        content = {ARRAYS: weights_record(flat), CONFIG: config, METRICS: MetricRecord({CASES: cases})}
        return Message(spoil_initial(RecordDict(content)), reply_to=message)

    @app.train()
    def update(message: Message, context: Context) -> Message:
        notice(message)
        number = int(str(message.content.config_records[CONFIG]["server-round"]))
        flat = train(number, flat_weights(message.content.array_records[ARRAYS]))
        metrics = MetricRecord({CASES: claims(number) if claims else cases, "loss": 1.0})
        if party:
            request = read_request(message)
            secure_aggregation.check_unsummed(party, context, request)
            offer = secure_aggregation.offer(party, context, request, flat, int(str(metrics[CASES])))
            return Message(RecordDict({CONFIG: offer, METRICS: metrics}), reply_to=message)
        return Message(spoil(RecordDict({ARRAYS: weights_record(flat), METRICS: metrics})), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        notice(message)
        flat = flat_weights(message.content.array_records[ARRAYS])
        found = scores(flat) if callable(scores) else scores
        metrics = MetricRecord({CASES: cases, "sum": float(flat.sum()), **found})
        return Message(RecordDict({METRICS: metrics}), reply_to=message)

    if party:
        secure_aggregation.add_to(app, lambda *_: party)
    return app


def answered(query: pb.Query) -> pb.Answer:
    """Make an answer that the hub accepts and no asking site could open."""
    return pb.Answer(query_id=query.id, body=b"x")
