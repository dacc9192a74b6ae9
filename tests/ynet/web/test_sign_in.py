"""Pages behind a sign-in, asked over real TLS: who gets in, for how long, and what a stranger's page can do."""

import asyncio
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ynet.errors import UserError
from ynet.web import certificate, sessions
from ynet.web.accounts import FILE, Accounts, hashed
from ynet.web.attempts import MAX_KEPT, MOST_OF_ACCOUNT, MOST_OF_ADDRESS, MOST_OF_PAIR, WITHIN_S, Attempts
from ynet.web.https_server import HttpsServer
from ynet.web.sessions import IDLE_S, LONGEST_S, MAX_OF_ONE, Sessions
from ynet.web.web import Web, need, visitor_of

PASSWORD = "correct horse battery"
PAGE = {"accept": "text/html"}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Served:
    """An app on a free port."""

    def __init__(self, home: Path, web: Web, port: int) -> None:
        self.home, self.web, self.origin = home, web, f"https://127.0.0.1:{port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.origin, verify=False, trust_env=False)

    def sign_in(self, client: httpx.Client, name: str = "anna", password: str = PASSWORD, there: str = "") -> Response:
        form = {"name": name, "password": password, "next": there}
        return client.post("/login", data=form, headers={"origin": self.origin})  # type: ignore[return-value]

    def csrf(self, client: httpx.Client) -> dict[str, str]:
        token = client.get("/me", headers=PAGE).json()["csrf"]
        return {"origin": self.origin, "x-csrf": token}


async def me(request: Request) -> Response:
    visitor = visitor_of(request)
    return JSONResponse({"name": visitor.name, "role": visitor.role, "csrf": visitor.csrf})


async def change(request: Request) -> Response:
    return PlainTextResponse("changed")


async def for_admins(request: Request) -> Response:
    need(visitor_of(request), "admin")
    return PlainTextResponse("yes")


async def broken(request: Request) -> Response:
    raise UserError("it <b>broke</b>", "why", "do")


ROUTES = [
    Route("/me", me),
    Route("/change", change, methods=["POST"]),
    Route("/admins", for_admins),
    Route("/broken", broken),
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def served(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    (tmp_path / "app").mkdir()
    web = Web(tmp_path, "test", "Test", tmp_path / "app", clock=clock)
    web.accounts.add("anna", "radiologist", PASSWORD, 0.0)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    shown = certificate.present(tmp_path, "", "", "127.0.0.1", dt.datetime.now(dt.UTC))
    door = HttpsServer(web.application(ROUTES), shown.context, "127.0.0.1", 0, life_s=60)
    port = asyncio.run_coroutine_threadsafe(door.begin(), loop).result()
    yield Served(tmp_path, web, port)
    asyncio.run_coroutine_threadsafe(door.end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_without_a_session_a_page_leads_to_the_sign_in_and_a_call_is_answered_401(served: Served) -> None:
    with served.client() as client:
        page = client.get("/me?a=1", headers=PAGE)
        assert (page.status_code, page.headers["location"]) == (303, "/login?next=/me%3Fa%3D1")
        call = client.get("/me")
        assert (call.status_code, set(call.json()["error"])) == (401, {"what", "why", "do", "kind"})
        assert client.post("/change", headers={"origin": served.origin}).status_code == 401


def test_the_right_password_opens_a_session_whose_cookie_no_script_or_other_site_has(served: Served) -> None:
    with served.client() as client:
        answer = served.sign_in(client, " Anna ", there="/me")
        assert (answer.status_code, answer.headers["location"]) == (303, "/me")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-ynet-test=")
        for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
            assert word in cookie
        assert client.get("/me").json()["name"] == "anna"


def test_a_wrong_password_and_an_unknown_name_are_told_apart_by_nobody(served: Served) -> None:
    with served.client() as client:
        wrong, unknown = served.sign_in(client, "anna", "wrong" * 4), served.sign_in(client, "nobody", "wrong" * 4)
        assert wrong.status_code == unknown.status_code == 401
        assert wrong.text == unknown.text  # type: ignore[attr-defined]
        assert not client.cookies


def test_after_a_few_failures_even_the_right_password_waits_and_others_do_not(served: Served, clock: Clock) -> None:
    served.web.accounts.add("bert", "admin", PASSWORD, 0.0)
    with served.client() as client:
        for _ in range(MOST_OF_PAIR):
            assert served.sign_in(client, "anna", "wrong" * 4).status_code == 401
        waits = served.sign_in(client)
        assert (waits.status_code, waits.headers["retry-after"]) == (429, str(int(WITHIN_S) + 1))
        assert served.sign_in(client, "bert").status_code == 303
        clock.now += WITHIN_S
        assert served.sign_in(client).status_code == 303


def test_a_session_ends_when_it_is_idle_and_what_a_page_does_by_itself_is_no_use(served: Served, clock: Clock) -> None:
    with served.client() as client:
        served.sign_in(client)
        clock.now += IDLE_S - 1
        assert client.get("/me").status_code == 200
        clock.now += IDLE_S - 1
        assert client.get("/me", headers={"x-background": "1"}).status_code == 200
        clock.now += 1
        assert client.get("/me").status_code == 401


def test_a_session_ends_at_last_however_much_it_is_used(served: Served, clock: Clock) -> None:
    with served.client() as client:
        served.sign_in(client)
        for _ in range(int(LONGEST_S / (IDLE_S / 2)) - 1):
            clock.now += IDLE_S / 2
            assert client.get("/me").status_code == 200
        clock.now += IDLE_S / 2
        assert client.get("/me").status_code == 401


def test_after_signing_out_the_old_cookie_opens_nothing(served: Served) -> None:
    with served.client() as client:
        served.sign_in(client)
        stolen = dict(client.cookies)
        token = client.get("/me").json()["csrf"]
        done = client.post("/logout", data={"csrf": token}, headers={"origin": served.origin})
        assert (done.status_code, done.headers["location"]) == (303, "/login")
    with served.client() as client:
        client.cookies.update(stolen)
        assert client.get("/me").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://["},
        {"origin": "OWN", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_strangers_page_changes_nothing_and_signs_nobody_in(served: Served, headers: dict[str, str]) -> None:
    with served.client() as client:
        served.sign_in(client)
        token = client.get("/me").json()["csrf"]
        sent = {key: value.replace("OWN", served.origin) for key, value in headers.items()}
        assert client.post("/change", headers={**sent, "x-csrf": token}).status_code == 403
        assert client.post("/login", data={"name": "anna", "password": PASSWORD}, headers=sent).status_code == 403


def test_accounts_that_are_changed_at_the_same_moment_are_all_changed(tmp_path: Path) -> None:
    Accounts(tmp_path).add("gone", "viewer", PASSWORD, 0.0)
    changes = [lambda: Accounts(tmp_path).remove("gone")]
    changes += [lambda n=n: Accounts(tmp_path).add(f"user{n}", "viewer", PASSWORD, 0.0) for n in range(5)]  # type: ignore[misc]
    with ThreadPoolExecutor(len(changes)) as pool:
        for done in [pool.submit(change) for change in changes]:
            done.result()
    assert set(Accounts(tmp_path).all()) == {f"user{n}" for n in range(5)}


def test_what_changes_something_needs_the_sessions_own_token(served: Served) -> None:
    with served.client() as client, served.client() as other:
        served.sign_in(client)
        served.sign_in(other)
        theirs = served.csrf(other)
        assert client.post("/change", headers={"origin": served.origin}).status_code == 403
        assert client.post("/change", headers=theirs).status_code == 403
        assert client.post("/change", headers=served.csrf(client)).text == "changed"


def test_who_is_removed_or_gets_another_password_is_signed_out_at_once(served: Served) -> None:
    others_view = Accounts(served.home)  # as the command in another process
    with served.client() as client:
        served.sign_in(client)
        others_view.set_password("anna", "another long password")
        assert client.get("/me").status_code == 401
        assert served.sign_in(client, password="another long password").status_code == 303
        others_view.remove("anna")
        assert client.get("/me").status_code == 401


def test_a_role_that_is_missing_is_said_in_words(served: Served) -> None:
    with served.client() as client:
        served.sign_in(client)
        refused = client.get("/admins")
        assert (refused.status_code, refused.json()["error"]["kind"]) == (409, "refused")


@pytest.mark.parametrize("path", ["/login", "/me", "/nothing", "/broken", "/assets/x/../../etc/passwd"])
def test_every_answer_has_the_security_headers(served: Served, path: str) -> None:
    with served.client() as client:
        for _ in range(2):
            answer = client.get(path, headers=PAGE)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            served.sign_in(client)


def test_a_page_has_no_script_or_style_in_it_and_what_it_shows_is_escaped(served: Served) -> None:
    with served.client() as client:
        login = client.get("/login", params={"next": '/"><script>alert(1)</script>'}, headers=PAGE).text
        assert "<script>" not in login
        served.sign_in(client)
        shown = client.get("/broken", headers=PAGE).text
        assert "it &lt;b&gt;broke&lt;/b&gt;" in shown
        assert "style=" not in login + shown


@pytest.mark.parametrize("there", ["//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "evil", ""])
def test_after_the_sign_in_nobody_is_led_elsewhere(served: Served, there: str) -> None:
    with served.client() as client:
        assert served.sign_in(client, there=there).headers["location"] == "/"


@pytest.mark.parametrize(
    "name",
    ["..%2Faccounts.json", "../accounts.json", "%2e%2e/accounts.json", "..%5c..%5cweb.py", "/etc/passwd", "x\0.css"],
)
def test_no_path_leads_out_of_the_assets(served: Served, name: str) -> None:
    place = served.web.assets.place
    with served.client() as client:
        assert client.get(f"{place}/ynet.css").headers["cache-control"].startswith("public")
        assert client.get(httpx.URL(served.origin, raw_path=f"{place}/{name}".replace("\0", "%00").encode())).is_error


def test_a_form_that_is_too_large_is_not_read(served: Served) -> None:
    with served.client() as client:
        assert served.sign_in(client, password="x" * 100_000).status_code == 413


def test_the_log_has_no_name_that_nobody_has_for_it_may_be_a_password(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with served.client() as client:
        served.sign_in(client, "hunter22222222", "anna")
    assert "an unknown name" in caplog.text
    assert "hunter" not in caplog.text


# --- accounts, sessions and attempts by themselves


def test_the_file_of_accounts_holds_no_password_and_is_its_owners_alone(tmp_path: Path) -> None:
    Accounts(tmp_path).add("anna", "admin", PASSWORD, 1.0)
    assert PASSWORD not in (tmp_path / FILE).read_text()
    assert "$argon2id$" in (tmp_path / FILE).read_text()
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert hashed(PASSWORD) != hashed(PASSWORD)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("Anna", PASSWORD),
        ("", PASSWORD),
        ("../a", PASSWORD),
        ("anna", "short"),
        ("anna", "a" * 20),
        ("anna", "x" * 300),
    ],
)
def test_odd_names_and_weak_passwords_make_no_account(tmp_path: Path, name: str, password: str) -> None:
    accounts = Accounts(tmp_path)
    with pytest.raises(UserError):
        accounts.add(name, "viewer", password, 0.0)
    accounts.add("bert", "viewer", PASSWORD, 0.0)
    with pytest.raises(UserError):
        accounts.add("bert", "viewer", PASSWORD, 0.0)
    with pytest.raises(UserError):
        accounts.remove("nobody")


def test_a_spoilt_file_of_accounts_lets_nobody_in(tmp_path: Path) -> None:
    for text in ("", "[]", json.dumps({"accounts": [{"name": "a", "role": "king", "hash": "", "made": 0}]})):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            Accounts(tmp_path).all()


def test_an_account_has_a_few_sessions_and_the_oldest_goes_first(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path)
    sessions, anna = Sessions(accounts), accounts.add("anna", "admin", PASSWORD, 0.0)
    tokens = [sessions.begin(anna, 0.0) for _ in range(MAX_OF_ONE + 1)]
    assert sessions.find(tokens[0], 0.0) is None
    assert all(sessions.find(token, 0.0) for token in tokens[1:])


def test_failures_count_for_a_pair_an_address_and_an_account_and_are_bounded_in_memory() -> None:
    of_address, of_account, many = Attempts(), Attempts(), Attempts()
    assert not any(of_address.begin(f"a{number}", "10.0.0.1", 0.0) for number in range(MOST_OF_ADDRESS))
    assert of_address.begin("new", "10.0.0.1", 1.0) == WITHIN_S - 1
    assert not any(of_account.begin("anna", f"10.0.1.{number}", 0.0) for number in range(MOST_OF_ACCOUNT))
    assert of_account.begin("anna", "10.0.2.1", 0.0) > 0
    for number in range(MAX_KEPT):
        many.begin(f"a{number}", f"2001:db8:0:{number:x}::1", 0.0)
    assert len(many._failures) <= MAX_KEPT


def test_after_a_clock_that_was_put_back_nobody_waits_longer_than_a_quarter_of_an_hour() -> None:
    attempts, day = Attempts(), 86_400.0
    for number in range(9):
        attempts.begin("anna", "10.0.0.1", 90 * day + number)
    assert attempts.begin("anna", "10.0.0.1", 0.0) == WITHIN_S
    assert attempts.begin("anna", "10.0.0.1", WITHIN_S) == 0.0


def test_the_clock_of_sign_ins_is_not_the_one_that_people_set() -> None:
    assert abs(sessions.elapsed() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5


def test_a_success_is_no_failure_and_forgives_its_own_pair() -> None:
    attempts = Attempts()
    for _ in range(10 * MOST_OF_ACCOUNT):
        assert attempts.begin("anna", "10.0.0.1", 0.0) == 0
        attempts.succeeded("anna", "10.0.0.1")


def test_a_certificate_is_made_once_and_anew_for_another_host_or_when_its_end_is_near(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    first = certificate.present(tmp_path, "", "", "127.0.0.1", now)
    assert certificate.present(tmp_path, "", "", "127.0.0.1", now).fingerprint == first.fingerprint
    later = certificate.present(tmp_path, "", "", "127.0.0.1", now + certificate.LIFE - dt.timedelta(days=5))
    other = certificate.present(tmp_path, "", "", "pacs.example", now)  # `later` is not in force yet
    assert len({first.fingerprint, later.fingerprint, other.fingerprint}) == 3
    assert (tmp_path / certificate.FILE).stat().st_mode & 0o077 == 0


def test_an_intranets_own_certificate_is_used_and_a_bad_one_is_said(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    certificate.present(tmp_path, "", "", "127.0.0.1", now)
    pem = str(tmp_path / certificate.FILE)
    assert not certificate.present(tmp_path, pem, pem, "127.0.0.1", now).is_own
    (tmp_path / "bad.pem").write_text("no PEM")
    for names in ((pem, ""), (pem, str(tmp_path / "bad.pem")), (str(tmp_path / "none.pem"), pem)):
        with pytest.raises(UserError, match="certificate cannot be used"):
            certificate.present(tmp_path, *names, "127.0.0.1", now)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "https://127.0.0.1:1/"),
        ("localhost", "https://127.0.0.1:1/"),
        ("LOCALHOST", "https://127.0.0.1:1/"),
        ("0.0.0.0", "https://127.0.0.1:1/"),
        ("::", "https://[::1]:1/"),
        ("::1", "https://[::1]:1/"),
        ("ynet.hospital", "https://ynet.hospital:1/"),
    ],
)
def test_a_pages_address_is_that_of_its_socket_and_never_localhost(host: str, address: str) -> None:
    """A browser takes localhost for ::1, where another user of the machine may listen."""
    assert certificate.address(host, 1) == address
