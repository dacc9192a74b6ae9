"""Messages of other sites and of the hub, bent: sealed ones, queries and answers, and every method of the hub."""

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from fuzz.mangling import fuzzed, holds, mangled, odd_json
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from loopback import Consortium, Wire, hello, play, sha256, until

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol, retrieval_pb2, sealed, secure_sum
from ynet.federation.countersigned import SERVER, check, from_wire
from ynet.federation.sealed import FramedQuery, Trust
from ynet.federation.secure_sum import Offer, Purpose
from ynet.search.ranking import Hit
from ynet.trust import identity, succession
from ynet.trust.identity import Identity
from ynet_client.connection.probe import read_successions
from ynet_client.connection.sealed_answering import Answering
from ynet_client.membership.membership import Membership
from ynet_client.membership.succession import ended, followed
from ynet_client.retrieval import wire as retrieval_wire
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.wire import CodedQuery

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)


def member(name: str) -> Membership:
    key = identity.new_key()
    certificate = identity.issue_site(AUTHORITY, name, identity.signing_request(key, name), NOW)
    return Membership(name, "127.0.0.1:1", key, certificate, AUTHORITY.certificate)


A, B = member("A"), member("B")
TRUST = Trust(AUTHORITY.certificate, NOW)
QUERY = CodedQuery("0" * 64, (bytes(8), bytes(8)), Query(5, radius=20))
HITS = [Hit(3, bytes(16), "ring", 1), Hit(4, bytes([1]) * 16, "cross", 2)]


# --- what one site reads of another


def test_a_card_and_a_session_and_what_is_sealed_in_it() -> None:
    answering = Answering(B)
    recipient = sealed.read_card(answering.card(), "B", TRUST)
    begun = sealed.begin(Identity(A.key, A.certificate), "A", recipient)
    framed = sealed.frame_query(FramedQuery(retrieval_wire.write_query(QUERY, "u1"), 100))
    envelope = pb.Envelope(
        session=begun.session, opening=begun.opening, ciphertext=sealed.seal_query(begun.channel, 0, framed)
    ).SerializeToString()
    answer = sealed.seal_answer(begun.channel, 0, b"answer", 100)

    @fuzzed(150)
    @given(card=mangled(answering.card()), bent=mangled(envelope), reply=mangled(answer), frame=mangled(framed))
    def opens_or_is_refused(card: bytes, bent: bytes, reply: bytes, frame: bytes) -> None:
        holds(lambda: sealed.read_card(card, "B", TRUST))
        holds(lambda: answering.open("A", bent, NOW))
        holds(lambda: sealed.open_answer(begun.channel, 0, reply))
        holds(lambda: sealed.read_query(frame))

    opens_or_is_refused()
    assert Answering(B).card()


@fuzzed(300)
@given(
    mangled(
        retrieval_wire.write_query(QUERY, "u1"),
        retrieval_pb2.Request(
            user="u1", consult=retrieval_pb2.Consult(id=bytes(8), token=bytes(16), note="How did it go on?")
        ).SerializeToString(),
        retrieval_pb2.Request(user="u1", check=retrieval_pb2.ConsultCheck(ids=[bytes(8)])).SerializeToString(),
    )
)
def test_a_request_of_another_site(data: bytes) -> None:
    holds(lambda: retrieval_wire.read_request(data))


@fuzzed(300)
@given(
    mangled(
        retrieval_wire.write_found([HITS, HITS[:1]]) or b"",
        retrieval_wire.write_refused(retrieval_pb2.Refused.QUOTA_SPENT),
        retrieval_pb2.Reply(other_model=retrieval_pb2.OtherModel(model_id="1" * 64)).SerializeToString(),
    )
)
def test_a_reply_of_another_site(data: bytes) -> None:
    outcome = holds(lambda: retrieval_wire.read_outcome(data, QUERY))
    assert isinstance(outcome, retrieval_wire.SiteOutcome)  # it is never an error
    holds(lambda: retrieval_wire.read_reply(data))


SUCCESSIONS = json.dumps(
    {"successions": [{"authority": "00" * 32, "successor": "11" * 32, "ended": 1.0, "signature": "22" * 70}]}
).encode()


def _announced() -> bytes:
    successor = identity.make_authority("test", NOW).certificate
    told = pb.Authorities(
        in_force=[identity.fingerprint(one) for one in (AUTHORITY.certificate, successor)], moves=True
    )
    told.successor.certificate, told.successor.signature = successor, succession.sign(AUTHORITY, successor)
    return told.SerializeToString()


@fuzzed(150)
@given(mangled(_announced()), odd_json(SUCCESSIONS))
def test_what_a_hub_says_of_authorities(data: bytes, successions: bytes) -> None:
    told = holds(lambda: pb.Authorities.FromString(data), DecodeError)
    if isinstance(told, pb.Authorities):
        after = holds(lambda: followed(A, told, NOW))
        assert not isinstance(after, Membership) or AUTHORITY.certificate in after.authority  # A's own is of it
    holds(lambda: ended(read_successions(successions), AUTHORITY.certificate))


@fuzzed(150)
@given(
    mangled(
        pb.Countersignature(
            number=3, digest="0" * 64, time=NOW.timestamp(), signature=bytes(70), certificate=A.certificate
        ).SerializeToString()
    )
)
def test_a_countersignature(data: bytes) -> None:
    told = holds(lambda: pb.Countersignature.FromString(data), DecodeError)
    if isinstance(told, pb.Countersignature):
        holds(lambda: check(from_wire(told, SERVER, "A"), AUTHORITY.certificate))


# --- secure sums: what sites offer, as the server hands it on

PURPOSE = Purpose("0" * 64, 1, 1, "1" * 64)
OFFERS = [
    secure_sum.fresh_keys(Identity(one.key, one.certificate), one.site, PURPOSE).offer for one in (A, B, member("C"))
]


@fuzzed(200)
@given(odd_json(secure_sum.roster_to_json(OFFERS).encode()))
def test_a_roster(data: bytes) -> None:
    roster = holds(lambda: secure_sum.roster_from_json(data.decode("utf-8", "surrogateescape")))
    if roster is not None:
        offers = cast(list[Offer], roster)
        holds(lambda: secure_sum.check_roster(offers, PURPOSE, AUTHORITY.certificate, 3, NOW))


@fuzzed(100)
@given(odd_json(secure_sum.offer_to_json(OFFERS[0]).encode()))
def test_an_offer(data: bytes) -> None:
    offer = holds(lambda: secure_sum.offer_from_json(data.decode("utf-8", "surrogateescape")))
    if offer is not None:
        holds(lambda: secure_sum.check_offer(cast(Offer, offer), PURPOSE, NOW))


# --- the hub: whatever an enrolled site sends, the hub says no and goes on, with no fault in its log

METHODS: dict[str, tuple[str, list[Message]]] = {
    "Download": ("unary_stream", [pb.DownloadRequest(blob="0" * 32, offset=7, part_bytes=100)]),
    "Resume": ("unary_unary", [pb.UploadHeader(task_id="0" * 32, sha256="0" * 64, size_bytes=5)]),
    "Upload": ("stream_unary", [pb.UploadPart(header=pb.UploadHeader(task_id="0" * 32, sha256="0" * 64, offset=3))]),
    "Renew": ("unary_unary", [pb.RenewRequest(csr=identity.signing_request(A.key, "A"))]),
    "Probe": ("unary_unary", [pb.ProbeRequest()]),
    "Witness": (
        "unary_unary",
        [
            pb.WitnessRequest(
                head=pb.LedgerHead(number=3, digest="0" * 64),
                signed=pb.Countersignature(number=1, digest="1" * 64, time=1.0, certificate=A.certificate),
            )
        ],
    ),
    "Ask": (
        "unary_stream",
        [pb.Question(queries=[pb.Question.ToOne(site="B", body=b"x" * 40)], sites=["B"], deadline_ms=20)],
    ),
}
FROM_SITE: list[Message] = [
    pb.FromSite(failure=pb.TaskFailure(task_id="0" * 32, refused=True, reason="no")),
    pb.FromSite(answer=pb.Answer(query_id="0" * 32, body=b"x" * 30, refusal=pb.BUSY)),
    pb.FromSite(card=b"x" * 50),
    hello(),
]
ANSWERS = {
    grpc.StatusCode.OK,
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED),
    *(grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED),
    grpc.StatusCode.DATA_LOSS,
}
UNREADABLE = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT}
"""Of a message that cannot be decoded: gRPC's own word for a single one, the hub's for one in a stream."""


def one_of(samples: list[Message]) -> st.SearchStrategy[bytes]:
    return mangled(*(sample.SerializeToString() for sample in samples))


async def called(wire: Wire, method: str, kind: str, data: bytes) -> grpc.StatusCode:
    """What becomes of one call with these bytes."""
    make: Any = getattr(wire._channel, kind)(f"/{protocol.SERVICE}/{method}")
    try:
        if kind == "unary_stream":
            async for _ in make(data, timeout=10):
                pass
        else:
            await make(iter([data]) if kind == "stream_unary" else data, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def decodes(method: str, data: bytes) -> bool:
    try:
        type(METHODS[method][1][0]).FromString(data)
    except DecodeError:
        return False
    return True


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the project's own loggers said that is a fault of ours."""
    return [
        record.getMessage() + str(record.exc_info or "")
        for record in caplog.records
        if record.name.startswith("ynet") and (record.levelno >= logging.ERROR or record.exc_info)
    ]


async def works(consortium: Consortium) -> None:
    """The hub serves an honest site still."""
    joined = await consortium.join("honest")
    assert (await consortium.task("honest")).exists()
    joined.task.cancel()


def repeated(folder: Path, examples: int, story: Callable[[Consortium, st.DataObject], Awaitable[None]]) -> None:
    """The same story in consortia of their own, with other data each time."""

    @fuzzed(examples)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        place = folder / str(len(list(folder.iterdir())))
        place.mkdir()
        play(place, lambda consortium: story(consortium, data), within_s=120)

    run()


def test_every_method_of_the_hub(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(consortium: Consortium, data: st.DataObject) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            for method, (kind, samples) in METHODS.items():
                for bent in data.draw(st.lists(one_of(samples), min_size=12, max_size=12)):
                    allowed = ANSWERS if decodes(method, bent) else UNREADABLE
                    assert await called(wire, method, kind, bent) in allowed, (method, bent)
        await works(consortium)
        assert not faults(caplog)

    repeated(tmp_path, 4, story)


def test_the_long_stream_of_a_site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(consortium: Consortium, data: st.DataObject) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            for first in data.draw(st.lists(one_of([hello()]), min_size=5, max_size=5)):
                make: Any = wire._channel.stream_stream(f"/{protocol.SERVICE}/Attach", None, pb.ToSite.FromString)
                stream = make(timeout=10)
                await stream.write(first)
                try:
                    assert await stream.read() is not grpc.aio.EOF
                    for bent in data.draw(st.lists(one_of(FROM_SITE), min_size=20, max_size=20)):
                        await stream.write(bent)
                    await stream.done_writing()
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass  # refused: at the greeting, or at a message that cannot be decoded
                stream.cancel()
        await works(consortium)
        assert not faults(caplog)

    repeated(tmp_path, 4, story)


# --- the site: whatever the hub sends it stays, and works on what is good


TO_SITE: list[Message] = [
    pb.ToSite(task=pb.Task(id="0" * 32, kind="train", content=pb.Blob(name="0" * 32, sha256="0" * 64, size_bytes=9))),
    pb.ToSite(task=pb.Task(id="1" * 32, kind="evaluate", content=pb.Blob(name="0" * 32), within_s=5.0)),
    pb.ToSite(cancel=pb.Cancel(task_id="0" * 32)),
    pb.ToSite(cancel=pb.Cancel(query_id="2" * 32)),
    pb.ToSite(query=pb.Query(id="2" * 32, from_site="B", body=pb.Envelope(session=bytes(16)).SerializeToString())),
    pb.ToSite(model=pb.Model(id="3" * 64, weights=pb.Blob(name="4" * 32, sha256="5" * 64, size_bytes=100))),
    pb.ToSite(welcome=pb.Welcome(protocol=protocol.VERSION, version="9", federation="f", ledger=pb.LedgerHead())),
]


def test_a_site_s_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(consortium: Consortium, data: st.DataObject) -> None:
        joined = await consortium.join("A")
        for bent in data.draw(st.lists(one_of(TO_SITE), min_size=60, max_size=60)):
            try:
                message = pb.ToSite.FromString(bent)
            except DecodeError:
                continue  # gRPC ends the connection
            if message.HasField("welcome") and message.welcome.protocol != protocol.VERSION:
                continue  # the site leaves: tests/client/connection/test_session.py
            await until(lambda: "A" in consortium.hub.connected())
            consortium.hub._connections.send("A", message)
            await asyncio.sleep(0)
        await until(lambda: joined.session.connected and not joined.session.tasks_held, within_s=30)
        (consortium.folder / "good").write_bytes(b"good")
        blob = consortium.hub.offer(consortium.folder / "good", sha256(b"good"), 4)
        assert (await consortium.hub.task("A", "train", blob)).exists()
        assert "a fault of ynet; this site's log has it" not in joined.said
        assert not faults(caplog)

    repeated(tmp_path, 4, story)
