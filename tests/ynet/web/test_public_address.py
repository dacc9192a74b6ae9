"""A page's own names: behind a real reverse proxy it works under the outer one, and under no name of a stranger's."""

import asyncio
import datetime as dt
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError
from reverse_proxy import proxied
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ynet.web import certificate
from ynet.web.attempts import MOST_OF_PAIR
from ynet.web.https_server import HttpsServer
from ynet.web.public_address import OuterName, PublicAddress, TrustedProxy, names_of_machine
from ynet.web.web import Web, visitor_of

PASSWORD = "correct horse battery"
OUTER = "ynet.hospital.example"


async def me(request: Request) -> Response:
    return PlainTextResponse(visitor_of(request).csrf)


async def change(request: Request) -> Response:
    return PlainTextResponse("changed")


@contextmanager
def page(folder: Path, outside: PublicAddress, host: str = "127.0.0.1") -> Iterator[int]:
    """A page with one account; its port."""
    web = Web(folder, "test", "Test", folder, outside=outside)
    web.accounts.add("anna", "radiologist", PASSWORD, 0.0)
    shown = certificate.present(folder, "", "", host, dt.datetime.now(dt.UTC))
    app = web.application([Route("/me", me), Route("/change", change, methods=["POST"])])
    door, loop = HttpsServer(app, shown.context, host, 0, life_s=60), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(door.begin(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(door.end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def behind(folder: Path, outside: PublicAddress, *arguments: str, name: str = OUTER) -> Iterator[httpx.Client]:
    """A browser's part, at the outer name of a proxy before the page."""
    (folder / "proxy").mkdir()
    certificate.present(folder / "proxy", "", "", OUTER, dt.datetime.now(dt.UTC))
    with (
        page(folder, outside) as port,
        proxied(folder / "proxy" / certificate.FILE, f"127.0.0.1:{port}", *arguments) as outer,
        httpx.Client(base_url=f"https://127.0.0.1:{outer}", verify=False, trust_env=False) as client,
    ):
        client.headers["host"] = name
        yield client


def sign_in(client: httpx.Client, origin: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
    return client.post("/login", data={"name": "anna", "password": password}, headers={"origin": origin, **headers})


@pytest.mark.parametrize("arguments", [[], ["--own-host"]], ids=["hands on the host", "says its own"])
def test_page_behind_a_proxy_works_under_its_outer_name(tmp_path: Path, arguments: list[str]) -> None:
    with behind(tmp_path, PublicAddress(OUTER), *arguments) as client:
        answer = sign_in(client, f"https://{OUTER}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        token = client.get("/me").text
        assert client.post("/change", headers={"origin": f"https://{OUTER}", "x-csrf": token}).text == "changed"
        for other in ("https://evil.example", f"https://{OUTER}.evil.example", f"http://{OUTER}", "null"):
            assert client.post("/change", headers={"origin": other, "x-csrf": token}).status_code == 403
        assert client.post("/change", headers={"x-csrf": token}).status_code == 403


def test_page_behind_a_proxy_that_no_setting_names_is_not_found_by_its_name(tmp_path: Path) -> None:
    with behind(tmp_path, PublicAddress()) as client:
        answer = client.get("/login")
        assert answer.status_code == 421
        assert "outer_name" in answer.json()["error"]["do"]


@pytest.mark.parametrize("name", ["evil.example", "ynet.hospital.example.evil.example", "evil.example:8450", "x@y", ""])
@pytest.mark.parametrize("outside", [PublicAddress(), PublicAddress(OUTER, names=("*.hospital.example",))])
def test_name_that_an_attacker_turned_to_this_machine_is_refused(
    tmp_path: Path, name: str, outside: PublicAddress
) -> None:
    with page(tmp_path, outside) as port, httpx.Client(verify=False, trust_env=False) as client:
        for path, method in (("/login", "GET"), ("/login", "POST"), ("/me", "GET")):
            headers = {"host": name, "origin": f"https://{name}"}
            answer = client.request(method, f"https://127.0.0.1:{port}{path}", headers=headers)
            assert answer.status_code == 421


def test_page_listens_and_is_asked_at_an_ipv6_address(tmp_path: Path) -> None:
    with page(tmp_path, PublicAddress(), "::1") as port:
        address = certificate.address("::1", port)
        assert address == f"https://[::1]:{port}/"
        with httpx.Client(base_url=address, verify=False, trust_env=False) as client:
            assert sign_in(client, f"https://[::1]:{port}").status_code == 303
            assert sign_in(client, "https://[::2]").status_code == 403


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:8450", True),
        ("[::1]:8450", True),
        ("[::1]", True),
        ("10.1.2.3", True),  # no name leads elsewhere
        ("LOCALHOST:8450", True),
        (OUTER, True),
        (f"{OUTER.upper()}.:443", True),
        ("page.clinic.example", True),
        ("a.page.clinic.example", False),
        ("clinic.example", False),
        ("localhost.evil.example", False),
        ("", False),
        (":8450", False),
    ],
)
def test_own_names(host: str, is_own: bool) -> None:
    assert PublicAddress(f"{OUTER}:8443", names=("*.clinic.example",)).is_own(host) == is_own


def test_page_of_the_network_is_called_as_its_machine_is() -> None:
    assert names_of_machine("127.0.0.1") == names_of_machine("::1") == names_of_machine("localhost") == ()
    own = PublicAddress(names=names_of_machine("0.0.0.0"))
    assert own.is_own(f"{socket.gethostname()}:8450")
    assert not own.is_own(f"{socket.gethostname()}.evil.example")


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "asker"),
    [
        ((), "10.0.0.1", ["1.2.3.4"], "10.0.0.1"),  # anybody may write it
        (("10.0.0.0/8",), "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # what stands before, the asker wrote
        (("10.0.0.0/8",), "10.0.0.1", ["1.2.3.4", "10.0.0.2"], "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ["<script>"], "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", [], "10.0.0.1"),
        (("10.0.0.0/8",), "192.0.2.1", ["1.2.3.4"], "192.0.2.1"),
        (("::1/128",), "::1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_asker_behind_trusted_proxies(proxies: tuple[str, ...], peer: str, forwarded: list[str], asker: str) -> None:
    assert PublicAddress(proxies=proxies).asker(peer, forwarded) == asker


def test_failed_sign_ins_from_one_address_leave_another_behind_the_trusted_proxy_alone(tmp_path: Path) -> None:
    with behind(tmp_path, PublicAddress(OUTER, ("127.0.0.1/32",))) as client:
        stranger, anna = {"x-test-from": "192.0.2.1"}, {"x-test-from": "192.0.2.2"}
        for _ in range(MOST_OF_PAIR):
            assert sign_in(client, f"https://{OUTER}", "wrong", **stranger).status_code == 401
        assert sign_in(client, f"https://{OUTER}", **stranger).status_code == 429
        forged = sign_in(client, f"https://{OUTER}", **stranger, **{"x-forwarded-for": "192.0.2.9"})
        assert forged.status_code == 429  # the proxy's own word comes after it
        assert sign_in(client, f"https://{OUTER}", **anna).status_code == 303


@pytest.mark.parametrize(
    ("given", "kept"),
    [(OUTER, OUTER), ("Ynet.Example:8443", "ynet.example:8443"), ("a.b:443", "a.b"), ("[::1]:8443", "[::1]:8443")],
)
def test_outer_name_is_a_host_or_a_host_and_port(given: str, kept: str) -> None:
    assert TypeAdapter(OuterName).validate_python(given) == kept


@pytest.mark.parametrize("given", ["https://a.b", "a.b/ynet", "a b", "a.b:port", "::1:443:x"])
def test_outer_name_that_is_a_url_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="HOST"):
        TypeAdapter(OuterName).validate_python(given)


@pytest.mark.parametrize("given", ["proxy.example", "10.0.0.0/33", ""])
def test_trusted_proxy_that_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="neither"):
        TypeAdapter(TrustedProxy).validate_python(given)
