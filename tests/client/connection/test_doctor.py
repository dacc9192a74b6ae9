"""The doctor names the reason for a failed connection, at a real hub with the real fault."""

import asyncio
import datetime as dt
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from loopback import Consortium, control_server_in, play, until

from ynet.federation import protocol
from ynet.trust import identity
from ynet.trust.identity import Identity
from ynet_client.connection.doctor import STEPS, Step, examine, failure
from ynet_client.membership import membership
from ynet_client.membership.membership import KEY, Membership
from ynet_lab.trial import command
from ynet_server.authority import certificates, enrolment
from ynet_server.authority import renewal as renewals

DAY = dt.timedelta(days=1)


def home_of(consortium: Consortium, member: Membership) -> Path:
    home = consortium.folder / f"home-{member.site}"
    home.mkdir(exist_ok=True)
    (home / KEY).write_bytes(member.key)
    membership.keep(home, member)
    return home


@asynccontextmanager
async def enrolment_door(consortium: Consortium) -> AsyncIterator[str]:
    app = enrolment.application(consortium.registry, consortium.authority, "hub:1", lambda _: None)
    tls = certificates.tls(consortium.hub_identity, consortium.authority)
    door, port = await enrolment.serve(app, tls, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await door.end()


async def diagnosed(
    consortium: Consortium,
    member: Membership,
    later: dt.timedelta = dt.timedelta(0),
    environment: dict[str, str] | None = None,
) -> tuple[Step | None, dict[str, Step]]:
    """Return the first step that failed, and all steps by name."""
    home, now = home_of(consortium, member), dt.datetime.now(dt.UTC) + later
    steps = await asyncio.to_thread(examine, home, now, environment or {})
    assert tuple(step.step for step in steps) == STEPS
    return failure(steps), {step.step: step for step in steps}


def test_a_site_that_is_well_is_well_in_every_step_and_stays_connected(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        home = home_of(consortium, joined.session.member)
        async with enrolment_door(consortium) as address, control_server_in(home):
            bad, steps = await diagnosed(consortium, joined.session.member._replace(enrolment=address))
        assert bad is None
        assert {step.result for step in steps.values()} == {"good"}, steps
        assert steps["access"].found == "the server lets in site A"
        assert joined.session.connected
        assert len(joined.said) == 1

    play(tmp_path, story)


def test_without_the_enrolment_port_the_hub_itself_tells_the_time(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")._replace(enrolment="127.0.0.1:9")
        bad, steps = await diagnosed(consortium, member)
        assert (bad, steps["clock"].result) == (None, "good")

    play(tmp_path, story)


def test_bad_home_folder_fails_first(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    for home, spoil, words in (
        (tmp_path / "none", None, "does not exist"),
        (tmp_path, None, "no site has enrolled"),
        (tmp_path, ("client.yaml", "devce: cpu\n"), "unknown key 'devce'"),
        (tmp_path, ("membership.json", "{"), "cannot be read"),
    ):
        if spoil:
            (home / spoil[0]).write_text(spoil[1])
        first, *rest = examine(home, now)
        assert (first.step, first.result, first.exit_code) == ("home", "failed", 2)
        assert words in first.found
        assert {step.result for step in rest} == {"skipped"}
        (tmp_path / "client.yaml").unlink(missing_ok=True)


def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        bad, steps = await diagnosed(consortium, consortium.enrol("A")._replace(hub="nowhere.invalid:8440"))
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("name", 4)
        assert "nowhere.invalid is not known here (DNS)" in bad.found
        assert steps["port"].result == "skipped"
        assert steps["certificate"].result == "good"

    play(tmp_path, story)


def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        await consortium.stop()
        bad, _ = await diagnosed(consortium, member)
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("port", 4)
        assert "connection refused" in bad.found
        await consortium.open()

    play(tmp_path, story)


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a port; each connection is passed to `answer` in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def hangs_up(connection: socket.socket) -> None:
    connection.recv(100)


def speaks_http(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "words"), [(hangs_up, "TLS"), (speaks_http, "does not use TLS 1.3")], ids=["hangs up", "HTTP"]
)
def test_what_is_no_tls_is_not_ynets_server(
    tmp_path: Path, answer: Callable[[socket.socket], None], words: str
) -> None:
    async def story(consortium: Consortium) -> None:
        with listening(answer) as port:
            bad, steps = await diagnosed(consortium, consortium.enrol("A")._replace(hub=f"127.0.0.1:{port}"))
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("server", 2)
        assert words in bad.found
        assert "not ynet's server" in bad.found
        assert steps["access"].result == "skipped"

    play(tmp_path, story)


def opens_tls(shown: Identity, folder: Path, newest: ssl.TLSVersion) -> Callable[[socket.socket], None]:
    """A proxy that decrypts TLS."""
    (folder / "between.pem").write_bytes(shown.key + shown.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "between.pem")
    context.maximum_version = newest

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)

    return answer


def test_a_proxy_that_opens_tls_is_told_by_whose_certificate_it_shows(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        key = identity.new_key()
        other = identity.make_authority("of the firm", consortium.now)
        shown = identity.issue_site(other, "proxy", identity.signing_request(key, "proxy"), consortium.now)
        for newest, words in (
            (ssl.TLSVersion.TLSv1_3, "issued by CN=ynet authority of of the firm: a TLS-decrypting proxy"),
            (ssl.TLSVersion.TLSv1_2, "does not use TLS 1.3"),
        ):
            with listening(opens_tls(Identity(key, shown), tmp_path, newest)) as port:
                bad, _ = await diagnosed(consortium, consortium.enrol("A")._replace(hub=f"127.0.0.1:{port}"))
            assert bad is not None
            assert bad.step == "server"
            assert words in bad.found

    play(tmp_path, story)


def test_a_proxy_that_does_not_lead_to_the_hub(tmp_path: Path) -> None:
    def refuses(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    async def story(consortium: Consortium) -> None:
        with listening(refuses) as port:
            proxy = {"https_proxy": f"http://127.0.0.1:{port}"}
            bad, _ = await diagnosed(consortium, consortium.enrol("A"), environment=proxy)
            assert bad is not None
            assert (bad.step, bad.exit_code) == ("proxy", 4)
            assert f"the proxy 127.0.0.1:{port} (https_proxy) answers 403: it forbids this connection" in bad.found
            assert bad.do.endswith("export no_proxy=127.0.0.1")
            bad, _ = await diagnosed(consortium, consortium.enrol("A"), environment={**proxy, "no_proxy": "127.0.0.1"})
            assert bad is None

    play(tmp_path, story)


def test_a_dead_proxy_is_the_proxys_fault_and_not_the_hubs(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            dead = taken.getsockname()[1]
        environment = {"https_proxy": f"http://me:secret@127.0.0.1:{dead}"}
        bad, steps = await diagnosed(consortium, consortium.enrol("A"), environment=environment)
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("proxy", 4)
        assert f"the proxy 127.0.0.1:{dead} (https_proxy) cannot be reached: nobody listens there" in bad.found
        assert "secret" not in str(steps)
        assert steps["server"].result == "skipped"

    play(tmp_path, story)


def test_a_proxy_of_another_kind_is_named_without_its_password(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        environment = {"https_proxy": "socks5://me:secret@127.0.0.1:1"}
        bad, steps = await diagnosed(consortium, consortium.enrol("A"), environment=environment)
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("proxy", 2)
        assert "its URL is of the scheme socks5" in bad.found
        assert "secret" not in str(steps)

    play(tmp_path, story)


@pytest.mark.parametrize(("minutes", "words"), [(6, "6 minutes ahead of"), (-90, "90 minutes behind")])
def test_a_clock_that_is_wrong_comes_before_all_that_it_makes_look_wrong(
    tmp_path: Path, minutes: int, words: str
) -> None:
    async def story(consortium: Consortium) -> None:
        async with enrolment_door(consortium) as address:
            member = consortium.enrol("A")._replace(enrolment=address)
            bad, steps = await diagnosed(consortium, member, dt.timedelta(minutes=minutes))
            assert bad is not None
            assert (bad.step, bad.exit_code) == ("clock", 2)
            assert words in bad.found
            assert steps["access"].result == "good"
            assert (await diagnosed(consortium, member, dt.timedelta(minutes=4)))[0] is None

    play(tmp_path, story)


def test_another_authority_is_shown_beside_the_pinned_one(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        other = identity.make_authority("test", consortium.now)
        async with enrolment_door(consortium) as address:
            member = consortium.enrol("A")._replace(enrolment=address, authority=other.certificate)
            bad, steps = await diagnosed(consortium, member)
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("authority", 2)
        for certificate in (other.certificate, consortium.authority.certificate):
            assert identity.fingerprint(certificate).hex() in bad.found
        assert steps["access"].result == "skipped"

    play(tmp_path, story)


def test_a_certificate_that_ended_or_has_not_begun(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        today = consortium.now
        for age, words in ((91 * DAY, "ended on"), (-2 * DAY, "is not in force before")):
            consortium.now = today - age
            member = consortium.enrol("A")
            bad, steps = await diagnosed(consortium, member)
            assert bad is not None
            assert (bad.step, bad.exit_code) == ("certificate", 2)
            assert words in bad.found
            assert "ynet-server invite A --replace" in bad.do
            assert steps["access"].result == "failed"

    play(tmp_path, story)


def test_a_certificate_that_was_revoked_or_replaced_is_known_to_the_hub_alone(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        replaced = consortium.enrol("A")
        revoked = consortium.enrol("A")
        consortium.registry.revoke("A", 1.0)
        for member, words in ((replaced, "no longer in use"), (revoked, "was revoked")):
            bad, steps = await diagnosed(consortium, member)
            assert bad is not None
            assert (bad.step, bad.exit_code) == ("access", 2)
            assert words in bad.found
            assert "ynet-server invite A --replace" in bad.do
            assert steps["certificate"].result == "good"

    play(tmp_path, story)


def test_a_certificate_that_the_hubs_authority_did_not_issue_makes_it_hang_up(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        other = identity.make_authority("other", consortium.now)
        bad, _ = await diagnosed(consortium, consortium.enrol("A", authority=other))
        assert bad is not None
        assert bad.step == "access"
        assert "it is of another authority" in bad.found

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("oldest", "newest", "do"),
    [
        (protocol.VERSION + 1, protocol.VERSION + 2, "update this site's ynet"),
        (1, 1, "ask the coordinator to update the server's ynet"),
    ],
)
def test_a_server_with_no_common_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oldest: int, newest: int, do: str
) -> None:
    monkeypatch.setattr(renewals, "protocol", SimpleNamespace(SPOKEN=(oldest, newest), SERVICE=protocol.SERVICE))

    async def story(consortium: Consortium) -> None:
        bad, _ = await diagnosed(consortium, consortium.enrol("A"))
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("version", 2)
        assert f"the server speaks protocol {newest}" in bad.found
        assert do in bad.do

    play(tmp_path, story)


def test_a_server_one_version_on_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = protocol.Spoken(protocol.VERSION, protocol.VERSION + 1)
    monkeypatch.setattr(renewals, "protocol", SimpleNamespace(SPOKEN=spoken, SERVICE=protocol.SERVICE))

    async def story(consortium: Consortium) -> None:
        bad, steps = await diagnosed(consortium, consortium.enrol("A"))
        assert bad is None
        assert f"protocol {protocol.VERSION + 1}" in steps["version"].found
        assert f"this site protocol {protocol.VERSION}" in steps["version"].found

    play(tmp_path, story)


def test_a_hub_that_cannot_be_asked_yet_lets_the_site_in_all_the_same(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.stop()
        consortium.renews = False
        await consortium.open()
        bad, steps = await diagnosed(consortium, consortium.enrol("A"))
        assert bad is None
        assert "it has an older ynet" in steps["access"].found
        revoked = consortium.enrol("A")
        consortium.enrol("A")
        bad, _ = await diagnosed(consortium, revoked)
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("access", 2)

    play(tmp_path, story)


def test_doctor_command_shows_steps_and_first_failure(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home = home_of(consortium, consortium.enrol("A"))
        done = await asyncio.to_thread(command, "ynet_client", "doctor", "--json", home=home)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (json.loads(done.stdout)["ok"], done.stderr) == (True, "")
        await consortium.stop()
        done = await asyncio.to_thread(command, "ynet_client", "doctor", "--json", home=home)
        assert done.returncode == 4
        shown = json.loads(done.stdout)
        assert not shown["ok"]
        assert [set(step) for step in shown["steps"]] == [{"step", "result", "found", "do"}] * len(STEPS)
        assert [line.split(":")[0].strip() for line in done.stderr.splitlines()] == ["error", "why", "do"]
        await consortium.open()
        joined = consortium.session(membership.load(home) or consortium.enrol("A"))
        await until(lambda: joined.session.connected)

    play(tmp_path, story)
