"""The hub on loopback, with real certificates: who may call it, and what becomes of what they send."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from loopback import MAX_MODEL_BYTES, Consortium, Site, answered, hello, play, sha256, until

from ynet.errors import RefusedError
from ynet.federation import content, protocol
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.trust import identity
from ynet.trust.identity import Identity
from ynet_client.membership.membership import Membership
from ynet_server.hub.tasks import TaskError

Code = grpc.StatusCode


def refused(code: grpc.StatusCode, words: str = "") -> "pytest.RaisesExc[grpc.aio.AioRpcError]":
    def fits(error: grpc.aio.AioRpcError) -> bool:
        return error.code() is code and words in (error.details() or "")

    return pytest.RaisesExc(grpc.aio.AioRpcError, check=fits)


# --- who calls


def test_the_sites_name_comes_from_its_certificate(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.join("A", Site(cases=12))
        assert consortium.hub.connected()["A"].cases == 12
        entry = consortium.registry.sites()[0]
        assert (entry.name, entry.cases) == ("A", 12)
        assert entry.last_seen

    play(tmp_path, story)


def certificate(consortium: Consortium, uris: list[str], ends: dt.datetime) -> Membership:
    """A certificate of the authority that no enrolment would give."""
    key = serialization.load_pem_private_key(consortium.authority.key, None)
    own = identity.new_key()
    public = serialization.load_pem_private_key(own, None).public_key()
    issuer = x509.load_pem_x509_certificate(consortium.authority.certificate).subject
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A")])
    builder = (
        x509.CertificateBuilder(issuer, name, public, 7, dt.datetime.now(dt.UTC) - dt.timedelta(days=1), ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=False
        )
    )
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return Membership("A", "", own, pem, consortium.authority.certificate)


@pytest.mark.parametrize("uris", [["ynet://hospital/A"], ["ynet://site/A", "ynet://site/B"]], ids=len)
def test_a_certificate_that_does_not_name_one_site_is_refused(tmp_path: Path, uris: list[str]) -> None:
    async def story(consortium: Consortium) -> None:
        member = certificate(consortium, uris, consortium.now + dt.timedelta(days=1))
        consortium.registry.enrol("A", 7, member.certificate, 0.0)
        async with consortium.wire(member) as wire:
            with refused(Code.UNAUTHENTICATED, "names no site"):
                await wire.ask(b"q")

    play(tmp_path, story)


def test_a_certificate_is_refused_when_its_time_is_over_also_on_an_open_channel(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
        member = certificate(consortium, ["ynet://site/A"], ends)
        consortium.registry.enrol("A", 7, member.certificate, 0.0)
        async with consortium.wire(member) as wire:
            await wire.ask(b"q")
            await asyncio.sleep((ends - dt.datetime.now(dt.UTC)).total_seconds())
            with refused(Code.UNAUTHENTICATED, "out of its time"):
                await wire.ask(b"q")

    play(tmp_path, story)


def test_a_certificate_of_the_authority_that_never_enrolled_is_refused(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        key = identity.new_key()
        csr = identity.signing_request(key, "A")
        forged = identity.issue_site(consortium.authority, "A", csr, consortium.now)
        async with consortium.wire(consortium.enrol("A")._replace(key=key, certificate=forged)) as wire:
            with refused(Code.UNAUTHENTICATED, "no longer in use"):
                await wire.ask(b"q")

    play(tmp_path, story)


def no_certificate_of_ours(consortium: Consortium) -> Membership:
    other = identity.make_authority("test", consortium.now)  # of the same name
    return consortium.enrol("A", authority=other)


def the_hubs_certificate(consortium: Consortium) -> Membership:
    return consortium.enrol("A")._replace(**consortium.hub_identity._asdict())


def another_sites_key(consortium: Consortium) -> Membership:
    return consortium.enrol("A")._replace(key=identity.new_key())


@pytest.mark.parametrize("make", [no_certificate_of_ours, the_hubs_certificate])
def test_at_the_handshake_is_refused(tmp_path: Path, make: Callable[[Consortium], Membership]) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(make(consortium)) as wire:
            with refused(Code.UNAVAILABLE):
                await wire.ask(b"q")

    play(tmp_path, story)


def test_without_any_certificate_nobody_gets_in(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        credentials = grpc.ssl_channel_credentials(consortium.authority.certificate)
        options = [("grpc.ssl_target_name_override", identity.HUB_NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{consortium.port}", credentials, options) as channel:
            with refused(Code.UNAVAILABLE):
                await channel.unary_unary(f"/{protocol.SERVICE}/Ask")(b"")

    play(tmp_path, story)


def test_a_site_that_poses_as_the_hub_is_refused_by_the_sites(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        rogue = consortium.enrol("R")
        await consortium.stop()
        consortium.hub_identity = Identity(rogue.key, rogue.certificate)
        await consortium.open()
        joined = consortium.session(consortium.enrol("A"))
        await until(lambda: joined.said)
        assert "unavailable" in joined.said[0]
        assert not joined.session.connected

    play(tmp_path, story)


def test_replaced_certificate_is_refused_at_next_call_on_open_channel(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as old:
            await old.ask(b"q")
            new = consortium.enrol("A")
            with refused(Code.UNAUTHENTICATED, "no longer in use"):
                await old.ask(b"q")
            with refused(Code.UNAUTHENTICATED, "no longer in use"):
                await old.download("any")
            with refused(Code.UNAUTHENTICATED, "no longer in use"):
                await old.upload(pb.UploadHeader(task_id="any"))
            with refused(Code.UNAUTHENTICATED, "no longer in use"):
                await old.attached()
            async with consortium.wire(new) as wire:
                await wire.ask(b"q")

    play(tmp_path, story)


def test_dismissed_site_is_cut_off_and_its_old_certificate_refused(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        old = await consortium.join("A")
        new = consortium.enrol("A")
        consortium.hub.dismiss("A")
        assert not consortium.hub.connected()
        with pytest.raises(RefusedError, match="no longer in use"):
            await asyncio.wait_for(old.task, 5)
        replaced = consortium.session(new)
        await until(lambda: replaced.session.connected)

    play(tmp_path, story)


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            with refused(Code.UNIMPLEMENTED):
                await wire._channel.unary_unary(f"/{protocol.SERVICE}/Train")(b"")

    play(tmp_path, story)


# --- greeting


@pytest.mark.parametrize(
    ("newest", "oldest", "behind"),
    [
        (protocol.VERSION + 1, 0, "server"),
        (protocol.VERSION + 2, protocol.VERSION + 1, "server"),
        (protocol.SPOKEN.oldest - 1, 0, "site"),
        (protocol.VERSION, protocol.VERSION + 5, "server"),
        (0, 0, "site"),
    ],
)
def test_a_site_with_no_common_protocol_is_refused_with_who_must_update(
    tmp_path: Path, newest: int, oldest: int, behind: str
) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire.attach()
            await call.write(pb.FromSite(hello=pb.Hello(protocol=newest, oldest=oldest, version="9.9")))
            words = f"this server speaks protocol {protocol.VERSION}"
            with refused(Code.FAILED_PRECONDITION, words):
                await call.read()
            assert f"the site {newest} (ynet 9.9): update the {behind}" in await call.details()
            assert not consortium.hub.connected()

    play(tmp_path, story)


def test_a_site_one_version_on_is_spoken_to_in_the_version_before(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire.attach()
            newer = pb.Hello(protocol=protocol.VERSION + 1, oldest=protocol.VERSION, version="9.9")
            await call.write(pb.FromSite(hello=newer))
            assert (await call.read()).welcome.protocol == protocol.VERSION
            assert consortium.hub.connected()["A"].protocol == protocol.VERSION

    play(tmp_path, story)


def test_a_hub_one_version_on_speaks_to_today_s_sites_in_their_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SPOKEN", protocol.Spoken(protocol.VERSION, protocol.VERSION + 1))

    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire.attach()
            await call.write(hello())  # says nothing of an oldest version, as sites did at first
            assert (await call.read()).welcome.protocol == protocol.VERSION

    play(tmp_path, story)


@pytest.mark.parametrize(
    "first", [pb.FromSite(), pb.FromSite(answer=pb.Answer()), None], ids=["empty", "answer", "none"]
)
def test_who_does_not_greet_is_not_connected(tmp_path: Path, first: pb.FromSite | None) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire.attach()
            if first is None:
                await call.done_writing()
            else:
                await call.write(first)
            with refused(Code.INVALID_ARGUMENT, "greeting"):
                await call.read()
            assert not consortium.hub.connected()

    play(tmp_path, story)


def test_the_newest_connection_of_a_site_is_the_one_that_counts(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        async with consortium.wire(member) as old_wire, consortium.wire(member) as new_wire:
            old = await old_wire.attached()
            waiting = asyncio.ensure_future(consortium.task("A"))
            assert (await old.read()).HasField("task")
            new = await new_wire.attached()
            assert await old.read() == grpc.aio.EOF
            with pytest.raises(TaskError, match="connection to the site was lost"):
                await waiting
            again = asyncio.ensure_future(consortium.task("A"))
            assert (await new.read()).HasField("task")
            assert list(consortium.hub.connected()) == ["A"]
            again.cancel()

    play(tmp_path, story)


def test_what_a_site_says_of_itself_is_shown_without_control_characters(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire.attach()
            await call.write(pb.FromSite(hello=pb.Hello(protocol=protocol.VERSION, version="1\x1b[2J\n2" + "3" * 100)))
            await call.read()
            version = consortium.hub.connected()["A"].version
            assert version.isprintable()
            assert len(version) <= 40
            waiting = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task
            await call.write(pb.FromSite(failure=pb.TaskFailure(task_id=task.id, reason="no\x1b[2J\n" + "x" * 5000)))
            with pytest.raises(TaskError) as caught:
                await waiting
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) <= protocol.MAX_REASON_CHARACTERS

    play(tmp_path, story)


# --- tasks


def test_a_task_goes_to_a_site_and_its_reply_comes_back(tmp_path: Path) -> None:
    async def work(kind: str, received: Path) -> Content:
        return Content(configs={"got": {"kind": kind, "body": received.read_text()}})

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        reply = await consortium.task("A", b"x" * 3_000_000, "evaluate")
        assert content.read(reply).configs == {"got": {"kind": "evaluate", "body": "x" * 3_000_000}}
        reply.unlink()
        await until(lambda: not list(joined.spool.iterdir()))
        assert not list(consortium.spool.iterdir())

    play(tmp_path, story)


def test_a_task_for_a_site_that_is_not_there_fails_at_once(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        with pytest.raises(TaskError, match="not connected"):
            await asyncio.wait_for(consortium.task("A"), 0.5)

    play(tmp_path, story)


def test_when_a_site_leaves_its_tasks_fail_at_once_and_others_go_on(tmp_path: Path) -> None:
    async def never(kind: str, received: Path) -> Content:
        await asyncio.sleep(60)
        raise AssertionError

    async def story(consortium: Consortium) -> None:
        a, b = await consortium.join("A", Site(task=never)), await consortium.join("B", Site(task=never))
        lost, other = (asyncio.ensure_future(consortium.task(site)) for site in ("A", "B"))
        await until(lambda: list(a.spool.iterdir()) and list(b.spool.iterdir()))
        a.task.cancel()
        with pytest.raises(TaskError, match="the site's client was stopped"):
            await asyncio.wait_for(lost, 2)
        assert not other.done()
        assert list(consortium.hub.connected()) == ["B"]
        other.cancel()

    play(tmp_path, story)


def test_a_task_that_is_called_off_is_called_off_at_the_site(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = await wire.attached()
            waiting = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task
            waiting.cancel()
            assert (await call.read()).cancel.task_id == task.id
            with refused(Code.NOT_FOUND, "nobody waits"):
                await wire.upload(pb.UploadHeader(task_id=task.id, sha256=sha256(b"x"), size_bytes=1), b"x")

    play(tmp_path, story)


def test_an_upload_for_another_sites_task_is_refused_and_that_task_goes_on(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as a, consortium.wire(consortium.enrol("B")) as b:
            call, other = await a.attached(), await b.attached()
            waiting = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task
            forged = pb.UploadHeader(task_id=task.id, sha256=sha256(b"forged"), size_bytes=6)
            with refused(Code.NOT_FOUND, "nobody waits"):
                await b.upload(forged, b"forged")
            await other.write(pb.FromSite(failure=pb.TaskFailure(task_id=task.id, reason="forged")))
            await a.upload(pb.UploadHeader(task_id=task.id, sha256=sha256(b"true"), size_bytes=4), b"tr", b"ue")
            assert (await waiting).read_bytes() == b"true"

    play(tmp_path, story)


def header(body: bytes, size: int, digest: str | None = None) -> pb.UploadHeader:
    return pb.UploadHeader(sha256=sha256(body) if digest is None else digest, size_bytes=size)


WRONG = [
    (header(b"other", 4), [b"body"], Code.DATA_LOSS),
    (header(b"body", 3), [b"body"], Code.DATA_LOSS),
    (header(b"", 0), [b"body"] * 9, Code.DATA_LOSS),
    (header(b"body", 4, ""), [b"body"], Code.DATA_LOSS),
    (header(b"body", 3 * MAX_MODEL_BYTES), [b"body"], Code.RESOURCE_EXHAUSTED),
    (header(b"body", 2**64 - 1), [b"body"], Code.RESOURCE_EXHAUSTED),
    (None, [b"body"], Code.NOT_FOUND),
    (None, [], Code.NOT_FOUND),
]


def test_a_reply_that_is_not_what_it_says_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = await wire.attached()
            waiting = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task
            for wrong, parts, code in WRONG:
                if wrong is not None:
                    wrong.task_id = task.id
                with refused(code):
                    await wire.upload(wrong, *parts)
                assert not waiting.done()
                assert not list(consortium.spool.iterdir())
            await wire.upload(pb.UploadHeader(task_id=task.id, sha256=sha256(b"true"), size_bytes=4), b"true")
            assert (await waiting).read_bytes() == b"true"

    play(tmp_path, story)


def test_broken_upload_is_kept_while_its_task_is_open(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = await wire.attached()
            waiting = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task

            async def parts() -> object:
                yield pb.UploadPart(header=pb.UploadHeader(task_id=task.id, sha256=sha256(b"xx"), size_bytes=2))
                yield pb.UploadPart(data=b"x")
                await asyncio.sleep(60)

            upload = wire._channel.stream_unary(
                f"/{protocol.SERVICE}/Upload", pb.UploadPart.SerializeToString, pb.UploadReceipt.FromString
            )(parts())
            await until(lambda: any(path.stat().st_size for path in consortium.spool.iterdir()))
            upload.cancel()
            await asyncio.sleep(0.1)
            assert [path.read_bytes() for path in consortium.spool.iterdir()] == [b"x"]
            waiting.cancel()
            await until(lambda: not list(consortium.spool.iterdir()))

    play(tmp_path, story)


# --- files


def test_a_file_is_fetched_from_any_place_on_and_only_while_it_is_offered(tmp_path: Path) -> None:
    body = bytes(range(256)) * 10_000  # more than two chunks

    async def story(consortium: Consortium) -> None:
        (tmp_path / "file").write_bytes(body)
        blob = consortium.hub.offer(tmp_path / "file", sha256(body), len(body))
        async with consortium.wire(consortium.enrol("A")) as wire:
            for offset in (0, 1, protocol.CHUNK_BYTES, len(body) - 1, len(body)):
                assert await wire.download(blob.name, offset) == body[offset:]
            for name in ("", "../registry.sqlite", str(tmp_path / "registry.sqlite")):
                with refused(Code.NOT_FOUND, "no such file"):
                    await wire.download(name)
            consortium.hub.withdraw(blob)
            with refused(Code.NOT_FOUND, "no such file"):
                await wire.download(blob.name)

    play(tmp_path, story)


def test_withdrawing_one_offer_leaves_another_of_the_same_content(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        offers = []
        for name in ("one", "two"):
            (tmp_path / name).write_bytes(b"same")
            offers.append(consortium.hub.offer(tmp_path / name, sha256(b"same"), 4))
        consortium.hub.withdraw(offers[0])
        (tmp_path / "one").unlink()
        async with consortium.wire(consortium.enrol("A")) as wire:
            assert await wire.download(offers[1].name) == b"same"

    play(tmp_path, story)


def test_the_model_in_use_is_told_to_those_who_are_there_and_to_those_who_come(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        a = await consortium.join("A")
        consortium.hub.publish("m", pb.Blob(name="n"))
        b = await consortium.join("B")
        await until(lambda: a.work.models and b.work.models)
        assert a.work.models[0].id == b.work.models[0].id == "m"

    play(tmp_path, story)


# --- queries


def test_a_query_reaches_all_others_unread_and_their_answers_come_back(tmp_path: Path) -> None:
    seen: list[tuple[str, str, bytes]] = []

    def answering(name: str) -> Site:
        async def answer(from_site: str, body: bytes) -> bytes:
            seen.append((name, from_site, body))
            return name.encode() + b"\xff\0not text"

        return Site(answer)

    async def story(consortium: Consortium) -> None:
        asker = await consortium.join("A", answering("A"))
        for name in ("B", "C"):
            await consortium.join(name, answering(name))
        consortium.enrol("D")
        answers = await asker.session.ask(b"\xff\0no protobuf", 5)
        assert sorted(seen) == [(name, "A", b"\xff\0no protobuf") for name in ("B", "C")]
        assert {one.site: one.body for one in answers.answers} == {
            n: n.encode() + b"\xff\0not text" for n in ("B", "C")
        }
        assert (list(answers.missing), list(answers.late)) == (["D"], [])

    play(tmp_path, story)


def test_who_is_silent_is_late_and_who_is_lost_meanwhile_is_missing(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("B")) as b, consortium.wire(consortium.enrol("C")) as c:
            await b.attached()
            lost = await c.attached()
            async with consortium.wire(consortium.enrol("A")) as a:
                asking = asyncio.ensure_future(a.ask(b"q", deadline_ms=400))
                assert (await lost.read()).HasField("query")
                lost.cancel()
                answers = await asking
        assert (list(answers.missing), list(answers.late), list(answers.answers)) == (["C"], ["B"], [])

    play(tmp_path, story)


def test_a_question_does_not_wait_longer_than_it_must(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with (
            consortium.wire(consortium.enrol("B")) as b,
            consortium.wire(consortium.enrol("A")) as a,
            asyncio.timeout(2),
            b.answering(answered),
        ):
            answers = await a.ask(b"q", deadline_ms=2**32 - 1)
        assert [one.site for one in answers.answers] == ["B"]

    play(tmp_path, story)


def test_only_the_sites_named_are_asked_each_once_and_never_the_asker(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.join("A")
        await consortium.join("C", Site(never_asked))
        async with (
            consortium.wire(consortium.enrol("B")) as b,
            consortium.wire(consortium.enrol("Z")) as wire,
            b.answering(answered) as asked,
        ):
            answers = await wire.ask(b"q", "B", "B", "nobody", "Z")
            assert [one.site for one in answers.answers] == ["B"]
            assert list(answers.missing) == ["nobody"]
            assert len(asked) == 1
            assert not (await wire.ask(b"q", "Z")).answers
            assert len(asked) == 1
            with contextlib.suppress(grpc.aio.AioRpcError):  # asking it may be refused; flooding B it must not
                await wire.ask(b"q", *["B"] * 10_000)
            assert len(asked) <= 2
            assert consortium.hub.connected().keys() >= {"A", "B", "C"}

    play(tmp_path, story)


async def never_asked(from_site: str, body: bytes) -> bytes:
    raise AssertionError


def test_a_query_that_is_too_large_is_refused_and_nobody_sees_it(tmp_path: Path) -> None:
    limit = protocol.MAX_QUERY_BYTES + protocol.MAX_ENVELOPE_BYTES

    async def story(consortium: Consortium) -> None:
        async with (
            consortium.wire(consortium.enrol("B")) as b,
            consortium.wire(consortium.enrol("Z")) as wire,
            b.answering(answered) as asked,
        ):
            with refused(Code.INVALID_ARGUMENT, "too large"):
                await wire.ask(b"q" * (limit + 1), "B")
            assert not asked
            await wire.ask(b"q" * limit, "B")
            assert len(asked) == 1

    play(tmp_path, story)


def test_the_largest_query_and_the_largest_answer_pass_sealed_and_larger_ones_do_not(tmp_path: Path) -> None:
    async def answer(from_site: str, body: bytes) -> bytes:
        return b"a" * (protocol.MAX_ANSWER_BYTES + (body == b"more"))

    async def story(consortium: Consortium) -> None:
        asker = await consortium.join("A")
        for name in "BCDEF":  # together more than one message may hold
            await consortium.join(name, Site(answer))
        found = await asker.session.ask(b"q" * protocol.MAX_QUERY_BYTES, 10)
        assert sorted((one.site, len(one.body)) for one in found.answers) == [
            (name, protocol.MAX_ANSWER_BYTES) for name in "BCDEF"
        ]
        with pytest.raises(RefusedError, match="64 KiB"):
            await asker.session.ask(b"q" * (protocol.MAX_QUERY_BYTES + 1), 5)
        assert list((await asker.session.ask(b"more", 0.2, ["B"])).late) == ["B"]

    play(tmp_path, story)


def test_a_site_that_has_just_come_or_come_back_is_asked_at_once(tmp_path: Path) -> None:
    """Its card is unknown or an older one: the client asks once more without being told to."""

    async def story(consortium: Consortium) -> None:
        asker = await consortium.join("A")
        for _ in range(3):
            member = consortium.enrol("B")
            came = consortium.session(member)
            await until(lambda: consortium.hub.connected().get("B"))
            for _ in range(2):
                found = await asker.session.ask(b"q", 5)
                assert [(one.site, one.body) for one in found.answers] == [("B", b"answer to A")]
                assert not [*found.missing, *found.unreadable, *found.late]
            consortium.hub.dismiss("B")
            came.task.cancel()

    play(tmp_path, story)


def test_who_can_be_asked_anew_is_not_held_up_by_who_is_silent(tmp_path: Path) -> None:
    async def silent(from_site: str, body: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def story(consortium: Consortium) -> None:
        asker = await consortium.join("A")
        await consortium.join("S", Site(silent))
        assert list((await asker.session.ask(b"q", 0.2)).late) == ["S"]
        await consortium.join("B")
        found = await asker.session.ask(b"q", 0.5)
        assert ([one.site for one in found.answers], list(found.late)) == (["B"], ["S"])

    play(tmp_path, story)


def test_no_asking_site_takes_all_of_an_answering_one(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("B")) as b, consortium.wire(consortium.enrol("A")) as a:
            stream = await b.attached()
            greedy = [asyncio.create_task(a.ask(b"q", "B", deadline_ms=5000)) for _ in range(60)]
            await until(lambda: sum(one.done() for one in greedy) == 60 - protocol.MAX_OPEN_OF_ONE)
            assert all(list(one.result().busy) == ["B"] for one in greedy if one.done())
            async with consortium.wire(consortium.enrol("C")) as c:
                other = asyncio.create_task(c.ask(b"from C", "B", deadline_ms=5000))
                while (query := (await stream.read()).query).from_site != "C":
                    assert query.from_site == "A"
                await stream.write(pb.FromSite(answer=answered(query)))
                assert [one.site for one in (await other).answers] == ["B"]
            for one in greedy:
                one.cancel()
            await until(lambda: not consortium.hub._relay._open_at)

    play(tmp_path, story)


def test_a_site_with_too_many_queries_open_is_busy_to_all_and_soon_no_more(tmp_path: Path) -> None:
    per_site = protocol.MAX_OPEN_OF_ONE

    async def story(consortium: Consortium) -> None:
        async with contextlib.AsyncExitStack() as stack:
            b = await stack.enter_async_context(consortium.wire(consortium.enrol("B")))
            stream, asking = await b.attached(), list[asyncio.Task[pb.Answers]]()
            for number in range(protocol.MAX_OPEN_QUERIES // per_site):
                wire = await stack.enter_async_context(consortium.wire(consortium.enrol(f"A{number}")))
                asking += [asyncio.create_task(wire.ask(b"q", "B", deadline_ms=9000)) for _ in range(per_site)]
            for _ in range(protocol.MAX_OPEN_QUERIES):
                assert (await stream.read()).HasField("query")
            last = await stack.enter_async_context(consortium.wire(consortium.enrol("Z")))
            assert list((await last.ask(b"q", "B")).busy) == ["B"]
            for one in asking:
                one.cancel()
            await until(lambda: not consortium.hub._relay._open_at)
            assert list((await last.ask(b"q", "B", deadline_ms=50)).late) == ["B"]

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["deadline", "call ended"])
def test_a_query_that_nobody_waits_for_any_more_is_called_off_at_the_site(tmp_path: Path, how: str) -> None:
    outcomes = []

    async def slow(from_site: str, body: bytes) -> bytes:
        outcomes.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            outcomes.append("called off")
            raise
        return b""

    async def story(consortium: Consortium) -> None:
        asker = await consortium.join("A")
        answering = await consortium.join("B", Site(slow))
        asking = asyncio.create_task(asker.session.ask(b"q", 0.3 if how == "deadline" else 60))
        await until(lambda: outcomes)
        if how == "call ended":
            asking.cancel()
        await until(lambda: outcomes == ["begun", "called off"], within_s=5)
        await until(lambda: not answering.session.queries_open, within_s=5)
        assert not consortium.hub._relay._questions
        assert answering.session.connected

    play(tmp_path, story)


def test_answer_counts_once_from_the_asked_site_up_to_the_limit(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("B")) as b, consortium.wire(consortium.enrol("C")) as c:
            asked, other = await b.attached(), await c.attached()
            async with consortium.wire(consortium.enrol("A")) as a:
                asking = asyncio.ensure_future(a.ask(b"q", "B"))
                query = (await asked.read()).query
                await other.write(pb.FromSite(answer=pb.Answer(query_id=query.id, body=b"forged")))
                large = b"x" * (protocol.MAX_ANSWER_BYTES + protocol.MAX_ENVELOPE_BYTES + 1)
                await asked.write(pb.FromSite(answer=pb.Answer(query_id=query.id, body=large)))
                await asked.write(pb.FromSite(answer=pb.Answer(query_id="unknown", body=b"stray")))
                await asked.write(pb.FromSite(answer=pb.Answer(query_id=query.id, body=b"true")))
                await asked.write(pb.FromSite(answer=pb.Answer(query_id=query.id, body=b"twice")))
                answers = await asking
        assert [(one.site, one.body) for one in answers.answers] == [("B", b"true")]

    play(tmp_path, story)


def test_a_site_that_takes_nothing_off_its_stream_is_dropped_and_holds_up_nobody(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("slow")) as wire:
            await wire.attached()
            body = pb.Blob(name="x" * 100_000)
            for _ in range(2000):
                consortium.hub.publish("m", body)
            assert not consortium.hub.connected()

    play(tmp_path, story)


def test_a_site_without_training_cases_may_ask_and_is_given_no_task(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.join("A")
        await consortium.join("D", Site(cases=0))
        assert list(consortium.hub.connected()) == ["A", "D"]
        assert list(consortium.hub.present()) == ["A"]

    play(tmp_path, story)
