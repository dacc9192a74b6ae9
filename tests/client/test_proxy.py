"""The choice of a proxy: one rule for enrolment, the connection and the doctor, with real proxies."""

import asyncio
import base64
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from connect_proxy import proxying
from loopback import Consortium, Site, play, until

from ynet.errors import UserError
from ynet.runtime.address import Address
from ynet.trust import identity, invitation
from ynet_client import proxy
from ynet_client.connection import doctor
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.membership import membership
from ynet_client.proxy import BY_ENVIRONMENT, ProxySettings, Way, ways
from ynet_server.authority import certificates, enrolment

HUB = "hub.example:8440"


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://p:1"}, ("HTTPS_PROXY", "p:1", "")),
        ({"HTTP_PROXY": "http://p:1"}, None),  # a web server sets it of a request's header
        ({"https_proxy": "http://p:3128"}, ("https_proxy", "p:3128", "")),
        ({"https_proxy": "http://p"}, ("https_proxy", "p:80", "")),
        ({"https_proxy": "http://p:3128/"}, ("https_proxy", "p:3128", "")),
        ({"http_proxy": "p:3128", "no_proxy": "other.org, example"}, None),
        ({"http_proxy": "p:3128", "no_proxy": "other.org"}, ("http_proxy", "p:3128", "")),
        ({"http_proxy": "http://u:s@p", "grpc_proxy": "g:2"}, ("grpc_proxy", "g:2", "")),
        ({"all_proxy": "http://u%40x:s%3A@[::1]:5"}, ("all_proxy", "[::1]:5", "u@x:s:")),
        ({"https_proxy": "p:1", "no_grpc_proxy": "other.org", "no_proxy": "*"}, ("https_proxy", "p:1", "")),
        ({"https_proxy": "p:1", "NO_PROXY": ".example"}, None),
    ],
)
def test_proxy_of_environment(environment: dict[str, str], found: tuple[str, str, str] | None) -> None:
    chosen = ways(ProxySettings(), environment)(HUB).proxy
    assert (None if chosen is None else (chosen.source, str(chosen.address), chosen.credentials)) == found


@pytest.mark.parametrize(
    ("target", "listed", "is_excepted"),
    [
        (HUB, "example", True),
        (HUB, "EXAMPLE", True),
        (HUB, ".example", True),
        (HUB, "*.example", True),
        (HUB, "ample", False),  # the end of a word is no domain
        (HUB, "hub.example:8440", True),
        (HUB, "hub.example:8441", False),
        (HUB, "a.example b.example\thub.example", True),
        (HUB, "10.0.0.0/8", False),
        (HUB, "", False),
        ("10.1.2.3:8440", "10.0.0.0/8", True),
        ("10.1.2.3:8440", "10.1.2.3", True),
        ("10.1.2.3:8440", "11.0.0.0/8,*", True),
        ("10.1.2.3:8440", "1.2.3", False),
        ("127.0.0.1:8440", "127.0.0.1/8", True),
        ("[fd00::7]:8440", "fd00::/8", True),
        ("[fd00::7]:8440", "fd00:0::7", True),
        ("[fd00::7]:8440", "[fd00::7]", True),
        ("[fd00::7]:8440", "[fd00::7]:8440", True),
        ("[fd00::7]:8440", "10.0.0.0/8", False),
    ],
)
def test_no_proxy_excepts_names_addresses_and_networks(target: str, listed: str, is_excepted: bool) -> None:
    way = ways(ProxySettings(), {"https_proxy": "http://p:1", "no_proxy": listed})(target)
    assert (way.proxy is None) == is_excepted


def test_settings_go_before_the_environment(tmp_path: Path) -> None:
    environment, kept = {"https_proxy": "http://other:1", "no_proxy": "*"}, tmp_path / "credentials"
    kept.touch(0o600)
    kept.write_text("me:s:cret\n")
    chosen = ways(ProxySettings("http://p:3128", str(kept)), environment)(HUB).proxy
    assert chosen == proxy.Proxy("proxy.url", Address("p", 3128), "me:s:cret")
    assert "cret" not in str(chosen)
    assert ways(ProxySettings("none"), {"https_proxy": "http://other:1"})(HUB).proxy is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ProxySettings("http://me:secret@p:1"), "holds a password"),
        (ProxySettings("https://me:secret@p:1"), "of the scheme https"),
        (ProxySettings("socks5://p:1"), "of the scheme socks5"),
        (ProxySettings("http://p:secret"), "cannot be read"),
        (ProxySettings("http://"), "cannot be read"),
        (ProxySettings(credentials="/nowhere"), "names none"),
        (ProxySettings("http://p:1", "/nowhere"), "No such file"),
    ],
)
def test_proxy_that_cannot_be_used_is_refused_and_no_password_shown(settings: ProxySettings, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        ways(settings, {})(HUB)
    assert "secret" not in str(caught.value)


def test_proxys_credentials_that_others_may_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("me:secret")
    (tmp_path / "credentials").chmod(0o644)
    with pytest.raises(UserError, match="other users"):
        ways(ProxySettings("http://p:1", str(tmp_path / "credentials")), {})(HUB)


def test_ipv6_server_is_named_in_brackets_to_the_proxy(tmp_path: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server, proxying(tmp_path / "p") as between:
        target = Address("::1", server.getsockname()[1])
        Way(target, proxy.Proxy("https_proxy", Address("127.0.0.1", between.port))).open(5).close()
        assert between.asked() == [f"200 [::1]:{target.port}"]


async def _everything(consortium: Consortium, folder: Path, environment: dict[str, str], between: list[str]) -> None:
    """Enrol, connect and run the doctor, with host names that only the proxy resolves."""
    app = enrolment.application(consortium.registry, consortium.authority, HUB, lambda _: None)
    tls = certificates.tls(consortium.hub_identity, consortium.authority)
    door, port = await enrolment.serve(app, tls, "127.0.0.1", 0)
    known = [f"{HUB}=127.0.0.1:{consortium.port}", f"hub.example:8441=127.0.0.1:{port}"]
    with proxying(folder / "p", "--auth", "me:s:cret", "--knows", *known, *between) as running:
        where = {name: value.format(port=running.port) for name, value in environment.items()}
        way, secret, home = ways(ProxySettings(), where), invitation.new_secret(), folder / "home"
        home.mkdir(mode=0o700)
        consortium.registry.invite("A", secret, consortium.now.timestamp(), replace=False)
        fingerprint = identity.fingerprint(consortium.authority.certificate)
        text = invitation.Invitation("hub.example:8441", secret, fingerprint).to_text()
        member = await asyncio.to_thread(membership.enrol, home, "A", text, lambda *_: None, way)
        assert member.hub == HUB
        steps = await asyncio.to_thread(doctor.examine, home, consortium.now, where)
        assert doctor.failure(steps) is None
        assert "s:cret" not in str(steps)
        said: list[str] = []
        (folder / "of A").mkdir()
        session = Session(member, folder / "of A", Site(), said.append, SessionHooks(ways=way))
        task = consortium.run(session)
        await until(lambda: session.connected)
        name = next(iter(where))
        assert said == [f"connected to federation test at {HUB} through the proxy 127.0.0.1:{running.port} ({name})"]
        assert {*running.asked()} == {f"200 {HUB}", "200 hub.example:8441"}
        running.kill()
        await until(lambda: not session.connected)
        running.start()
        await until(lambda: session.connected, 20.0)
        task.cancel()
    await door.end()


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
def test_everything_goes_through_the_proxy_and_comes_back_when_it_was_killed(tmp_path: Path, variable: str) -> None:
    environment = {variable: "http://me:s%3Acret@127.0.0.1:{port}", "no_proxy": "10.0.0.0/8,other.example"}
    play(tmp_path, lambda consortium: _everything(consortium, tmp_path, environment, []), 60.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--auth", "me:other"], "the proxy answers 407: it asks for a user and a password"),
        (["--refuse", "403"], "the proxy answers 403: it forbids this connection"),
        ([], "the proxy answers 502: it does not reach the server"),
    ],
)
def test_session_says_that_the_proxy_refuses(tmp_path: Path, arguments: list[str], words: str) -> None:
    async def story(consortium: Consortium) -> None:
        with proxying(tmp_path / "p", *arguments) as between:
            said: list[str] = []
            where = {"https_proxy": f"http://me:secret@127.0.0.1:{between.port}"}
            member = consortium.enrol("A")._replace(hub="hub.invalid:8440")
            consortium.run(
                Session(member, tmp_path, Site(), said.append, SessionHooks(ways=ways(ProxySettings(), where)))
            )
            await until(lambda: said)
            assert f"no connection to hub.invalid:8440 through the proxy 127.0.0.1:{between.port}" in said[0]
            assert words in said[0]
            assert "secret" not in said[0]

    play(tmp_path, story)


@pytest.mark.parametrize("is_dead", [True, False])
def test_enrolment_names_the_proxy_that_is_to_blame(tmp_path: Path, is_dead: bool) -> None:
    text = invitation.Invitation("hub.invalid:8441", bytes(16), bytes(32)).to_text()
    with proxying(tmp_path / "p", "--refuse", "407") as between:
        if is_dead:
            between.kill()
        way = ways(ProxySettings(), {"https_proxy": f"http://me:secret@127.0.0.1:{between.port}"})
        with pytest.raises(UserError) as caught:
            membership.enrol(tmp_path, "A", text, ways=way)
    words = "cannot be reached: nobody listens there" if is_dead else "answers 407"
    assert f"the proxy 127.0.0.1:{between.port} (https_proxy) {words}" in caught.value.why
    assert caught.value.exit_code == 4
    assert "secret" not in str(caught.value)


def test_grpc_follows_the_decision_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        with proxying(tmp_path / "p") as between:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{between.port}")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            through = proxy.Proxy("proxy.url", Address("127.0.0.1", between.port))
            target = Address("127.0.0.1", consortium.port)
            choices: list[Callable[[str], Way]] = [lambda _: Way(target, through), lambda _: Way(target)]
            for choice, asked in zip(choices, (1, 1), strict=True):
                session = Session(member, tmp_path, Site(), print, SessionHooks(ways=choice))
                task = consortium.run(session)
                await until(lambda: session.connected)  # noqa: B023 (awaited here)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert len(between.asked()) == asked
            assert BY_ENVIRONMENT(str(target)) == Way(target)

    play(tmp_path, story)


def test_grpc_has_the_options_that_name_a_way() -> None:
    way = Way(Address("hub", 1), proxy.Proxy("x", Address("p", 2), "a:b"))
    proof = f"Proxy-Authorization:Basic {base64.b64encode(b'a:b').decode()}"
    assert way.grpc_target() == "p:2"
    assert dict(way.grpc_options()) == {
        "grpc.enable_http_proxy": 0,
        "grpc.http_connect_server": "hub:1",
        "grpc.http_connect_headers": proof,
    }
