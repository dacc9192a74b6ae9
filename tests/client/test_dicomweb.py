"""A PACS that is slow, broken or hostile is borne, and no answer or error repeats a name."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet_client.dicomweb import PAGE, TRIES, DicomWeb, Listed, read_credentials, read_query

ONE = Listed("P", "1.1", "1.2", "1.3", "1.4")
Answer = Callable[[BaseHTTPRequestHandler], None]


class Pacs:
    """An HTTP server that does what a test says; and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Answer = lambda _: None

    def said(self, status: int, body: bytes = b"", **headers: str) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return answer


@pytest.fixture
def pacs() -> Iterator[tuple[Pacs, DicomWeb]]:
    pacs = Pacs()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pacs.asked.append(self.path)
            pacs.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with DicomWeb(f"http://127.0.0.1:{server.server_port}/dicom-web", {"a": "b"}, None, lambda _: None) as web:
            yield pacs, web
        server.shutdown()
        thread.join()


def in_turn(*answers: Answer) -> Answer:
    left = list(answers)
    return lambda handler: left.pop(0)(handler)


def torn(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")


def test_a_fault_that_passes_is_outlasted_and_one_that_stays_is_said(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    server.answer = in_turn(server.said(503, Retry_After="1"), torn, server.said(200, b"file"))
    assert web.fetch(ONE) == b"file"
    server.answer = server.said(500, b"CANARY")
    server.asked.clear()
    with pytest.raises(UnreachableError, match="it answered 500") as error:
        web.fetch(ONE)
    assert "CANARY" not in str(error.value)
    assert len(server.asked) == TRIES


def test_a_file_of_several_kinds_of_answer_is_found_in_it(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--no\r\n\r\n--x--\r\n"
    server.answer = server.said(200, body, Content_Type='multipart/related; type="application/dicom"; boundary=x')
    assert web.fetch(ONE) == b"DICM\r\n--no\r\n"
    server.answer = server.said(200, b"nothing", Content_Type="multipart/related; boundary=x")
    with pytest.raises(UserError, match="no multipart message"):
        web.fetch(ONE)


def test_an_answer_that_is_too_large_is_not_read_to_its_end(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        try:
            while sent < 4 * MAX_FILE_BYTES:
                handler.wfile.write(bytes(1 << 20))
                sent += 1 << 20
        except OSError:
            pass

    server.answer = endless
    with pytest.raises(UserError, match="more than the 64 MiB allowed"):
        web.fetch(ONE)
    assert sent < 2 * MAX_FILE_BYTES


def test_credentials_go_nowhere_else(pacs: tuple[Pacs, DicomWeb], tmp_path: Path) -> None:
    server, web = pacs
    server.answer = server.said(302, Location="http://127.0.0.1:1/")
    with pytest.raises(UserError, match="it answered 302"):
        web.fetch(ONE)
    with pytest.raises(UserError, match="in the clear"):
        DicomWeb("http://pacs.example/dicom-web", {"authorization": "x"}, None)
    for own in ("127.0.0.1", "127.0.0.2", "localhost", "[::1]"):
        DicomWeb(f"http://{own}:1/dicom-web", {"authorization": "x"}, None)
    with pytest.raises(UserError, match="holds credentials"):
        DicomWeb("https://me:CANARY@pacs.example/dicom-web", {}, None)
    file = tmp_path / "credentials"
    file.write_text("token\n")
    file.chmod(0o600)
    assert read_credentials({}, file) == {"authorization": "Bearer token"}
    assert read_credentials({"YNET_DICOMWEB_USER": "a", "YNET_DICOMWEB_PASSWORD": "b"}, None) == {
        "authorization": "Basic YTpi"
    }
    server.answer = server.said(401, b"CANARY")
    with pytest.raises(RefusedError, match="YNET_DICOMWEB_TOKEN"):
        web.fetch(ONE)


def test_what_is_found_is_read_in_pages_whether_the_pacs_knows_of_pages_or_not(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs

    def answer(has_pages: bool) -> Answer:
        def listed(handler: BaseHTTPRequestHandler) -> None:
            path, asked = urlsplit(handler.path).path, parse_qs(urlsplit(handler.path).query)
            many = PAGE + 7 if path.endswith("/instances") else 0 if "SEG" in asked.get("Modality", []) else 1
            first = int(asked["offset"][0]) if has_pages else 0
            found = [
                {
                    "0020000D": {"Value": ["1.1"]},
                    "0020000E": {"Value": ["1.2"]},
                    "00080018": {"Value": [f"1.3.{number}"]},
                }
                for number in range(first, min(many, first + PAGE) if has_pages else many)
            ]
            server.said(200, json.dumps(found).encode())(handler)

        return listed

    for has_pages in (True, False):
        server.answer = answer(has_pages)
        assert len(list(web.find("Modality=MR"))) == PAGE + 7


def test_what_is_no_list_or_has_odd_numbers_in_it_is_refused_or_passed_over(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    for body in (b"CANARY", b"{}", b"[1]", b"[" * 100_000):
        server.answer = server.said(200, body)
        with pytest.raises(UserError, match="no list in JSON") as error:
            list(web.find(""))
        assert "CANARY" not in str(error.value)
    odd = [{"0020000D": {"Value": ["../CANARY"]}, "0020000E": {"Value": [["x"]]}}, {"0020000D": 7}]
    server.answer = server.said(200, json.dumps(odd).encode())
    assert list(web.find("PatientName=CANARY")) == []
    assert all(path.startswith("/dicom-web/series?") for path in server.asked)


def test_a_query_is_of_dicoms_attributes() -> None:
    assert read_query("Modality=MR&StudyDate=20240101-20241231&00100020=x")[0] == ("Modality", "MR")
    with pytest.raises(UserError, match="did you mean Modality"):
        read_query("Modalty=CANARY")
    with pytest.raises(UserError, match="not NAME=VALUE"):
        read_query("MR")
