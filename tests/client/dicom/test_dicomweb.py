"""The DICOMweb client survives a slow, broken or hostile PACS; no answer or error repeats a name."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from dicoms import dataset, to_bytes
from partial_pacs import held
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet_client.dicom.dicomweb import PAGE, DicomWeb, Listed, read_query
from ynet_client.dicom.dicomweb_answers import wait_s
from ynet_client.dicom.pacs_connection import TRIES
from ynet_client.dicom.pacs_credentials import read_credentials

ONE = Listed("P", "1.1", "1.2", "1.3", "1.4")
Answer = Callable[[BaseHTTPRequestHandler], None]


class Pacs:
    """An HTTP server with answers set by the test; records its requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.accepted: list[str] = []
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
            pacs.accepted.append(self.headers["accept"])
            pacs.answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
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


def test_transient_fault_is_retried_and_lasting_fault_is_reported(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    server.answer = in_turn(server.said(503, Retry_After="1"), torn, server.said(200, b"file"))
    assert web.fetch(ONE) == b"file"
    server.answer = server.said(500, b"CANARY")
    server.asked.clear()
    with pytest.raises(UnreachableError, match="it answered 500") as error:
        web.fetch(ONE)
    assert "CANARY" not in str(error.value)
    assert len(server.asked) == TRIES


def test_fetch_accepts_bare_and_multipart_answers(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--no\r\n\r\n--x--\r\n"
    server.answer = server.said(200, body, Content_Type='multipart/related; type="application/dicom"; boundary=x')
    assert web.fetch(ONE) == b"DICM\r\n--no\r\n"
    for cut in (b"nothing", b"", body[:-6], body[:-20], body.replace(b"\r\n\r\n", b"\r\n")):
        server.answer = server.said(200, cut, Content_Type="multipart/related; boundary=x")
        with pytest.raises(UserError, match="not a multipart message, or it is truncated"):
            web.fetch(ONE)


def test_too_large_answer_is_not_read_to_its_end(pacs: tuple[Pacs, DicomWeb]) -> None:
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


def test_credentials_reach_no_other_host(pacs: tuple[Pacs, DicomWeb], tmp_path: Path) -> None:
    server, web = pacs
    server.answer = server.said(302, Location="http://127.0.0.1:1/")
    with pytest.raises(UserError, match="it answered 302"):
        web.fetch(ONE)
    with pytest.raises(UserError, match="unencrypted"):
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


def test_find_reads_all_pages_with_and_without_offset(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs

    def answer(has_pages: bool) -> Answer:
        def listed(handler: BaseHTTPRequestHandler) -> None:
            path, asked = urlsplit(handler.path).path, parse_qs(urlsplit(handler.path).query)
            many = PAGE + 7 if path.endswith(("/instances", "/metadata")) else 1
            has_page = has_pages and "offset" in asked
            first = int(asked["offset"][0]) if has_page else 0
            found = [
                {
                    "0020000D": {"Value": ["1.1"]},
                    "0020000E": {"Value": ["1.2"]},
                    "00080018": {"Value": [f"1.3.{number}"]},
                    "00080016": {"Value": ["1.4"]},
                }
                for number in range(first, min(many, first + PAGE) if has_page else many)
            ]
            server.said(200, json.dumps(found).encode())(handler)

        return listed

    for has_pages in (True, False):
        server.answer = answer(has_pages)
        assert len(list(web.find("Modality=MR"))) == PAGE + 7


def test_answer_without_list_or_valid_uids_is_refused(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    for body in (b"CANARY", b"{}", b"[1]", b"[" * 100_000):
        server.answer = server.said(200, body)
        with pytest.raises(UserError, match="not a JSON list") as error:
            list(web.find(""))
        assert "CANARY" not in str(error.value)
    for odd in ({"0020000D": {"Value": ["../CANARY"]}, "0020000E": {"Value": [["x"]]}}, {"0020000D": 7}):
        server.answer = server.said(200, json.dumps([odd]).encode())
        with pytest.raises(UserError, match="no valid UID") as error:
            list(web.find("PatientName=CANARY"))
        assert "CANARY" not in str(error.value)
    assert all(path.startswith("/dicom-web/series?") for path in server.asked)


def dicom_of(instance: str) -> bytes:
    return to_bytes(dataset(np.zeros((4, 4), np.uint8), SOPInstanceUID=instance))


def multipart(*files: bytes) -> bytes:
    parts = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return parts + b"--x--\r\n"


def test_fetch_returns_requested_file_of_several_parts(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    kind = 'multipart/related; type="application/dicom"; boundary="x"'
    one, other = dicom_of(ONE.instance), dicom_of("1.9")
    server.answer = server.said(200, multipart(other, one), Content_Type=kind)
    assert web.fetch(ONE) == one
    for files, what in (((other,), "another file"), ((other, dicom_of("1.8")), "no file"), ((one, one), "no file")):
        server.answer = server.said(200, multipart(*files), Content_Type=kind)
        with pytest.raises(UserError, match=what):
            web.fetch(ONE)


def test_missing_or_truncated_file_is_an_error(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    empty: Answer = lambda handler: (handler.send_response(204), handler.end_headers(), None)[-1]  # noqa: E731
    for answer, what in (
        (empty, "sent no file"),
        (server.said(200), "sent no file"),
        (server.said(206, b"half"), "a part of the file"),
    ):
        server.answer = answer
        with pytest.raises(UserError, match=what):
            web.fetch(ONE)


def test_refused_media_type_falls_back_and_is_remembered(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    for plain in ('multipart/related; type="application/dicom"', "application/dicom"):
        for status in (406, 400):

            def picky(handler: BaseHTTPRequestHandler, plain: str = plain, status: int = status) -> None:
                server.said(*((200, b"file") if handler.headers["accept"] == plain else (status,)))(handler)

            server.answer = picky
            assert web.fetch(ONE) == web.fetch(ONE) == b"file"
            assert server.accepted[-1] == server.accepted[-2] == plain
    server.answer = server.said(406)
    with pytest.raises(UnreachableError, match="it answered 406"):
        web.fetch(ONE)
    server.accepted.clear()
    with pytest.raises(UnreachableError, match="it answered 406"):
        list(web.find(""))
    assert server.accepted == ["application/dicom+json", "application/json"]


def test_retry_waits_as_long_as_retry_after_says() -> None:
    def waits(**headers: str) -> float:
        return wait_s(httpx.Response(503, headers={name.replace("_", "-"): text for name, text in headers.items()}), 7)

    assert waits(Retry_After="3") == 3
    assert waits(Retry_After="9999") == 60
    at = {"Date": "Mon, 30 Nov 2026 10:00:00 GMT"}
    assert waits(Retry_After="Mon, 30 Nov 2026 10:00:12 GMT", **at) == 12
    assert waits(Retry_After="Mon, 30 Nov 2026 09:00:00 GMT", **at) == 0
    for odd in ("", "-1", "soon", "Mon, 30 Nov 2026 10:00:12 GMT"):
        assert waits(Retry_After=odd) == 7


def test_instance_returns_no_other_object(pacs: tuple[Pacs, DicomWeb]) -> None:
    """A PACS may ignore the query and list everything that it holds."""
    server, web = pacs
    all_ = [held("1.1", "1.2", f"1.3.{number}") for number in range(4)]

    def deaf(handler: BaseHTTPRequestHandler) -> None:
        first = int(parse_qs(urlsplit(handler.path).query)["offset"][0])
        server.said(200, json.dumps(all_[first : first + 2]).encode())(handler)

    server.answer = deaf
    assert web.instance("1.3.3").instance == "1.3.3"
    with pytest.raises(UserError, match="has no object"):
        web.instance("1.3.9")


def test_receipt_with_failure_or_without_success_is_refused(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    failed, kept = {"00081198": {"Value": [{}]}}, {"00081199": {"Value": [{"00081155": {"Value": ["1.3"]}}]}}
    xml = b'<NativeDicomModel><DicomAttribute tag="00081198" keyword="FailedSOPSequence"/></NativeDicomModel>'
    for status, body, what in (
        (200, json.dumps(failed).encode(), "did not store"),
        (202, json.dumps({**failed, **kept}).encode(), "did not store"),
        (200, xml, "did not store"),
        (202, b"", "may not have stored"),
        (202, b"{}", "may not have stored"),
    ):
        server.answer = server.said(status, body)
        with pytest.raises(RefusedError, match=what):
            web.store(b"file")
    server.answer = server.said(409, json.dumps(failed).encode())
    with pytest.raises(UnreachableError, match="it answered 409"):
        web.store(b"file")
    server.answer = server.said(200, json.dumps(kept).encode())
    assert web.store(b"file") == ""
    kept["00081199"]["Value"][0]["00081196"] = {"Value": [0xB006]}
    server.answer = server.said(202, json.dumps(kept).encode())
    assert web.store(b"file") == "it left out data elements"


def test_query_with_unknown_attribute_is_refused() -> None:
    assert read_query("Modality=MR&StudyDate=20240101-20241231&00100020=x")[0] == ("Modality", "MR")
    with pytest.raises(UserError, match="did you mean Modality"):
        read_query("Modalty=CANARY")
    with pytest.raises(UserError, match="not NAME=VALUE"):
        read_query("MR")


def test_find_adds_all_drawings_of_the_patient_only(pacs: tuple[Pacs, DicomWeb]) -> None:
    server, web = pacs
    series = [
        ("P", "1.1", "1.1.1", "MR"),
        ("P", "1.1", "1.1.2", "RTSTRUCT"),
        ("P", "1.2", "1.2.1", "SEG"),
        ("P", "1.2", "1.2.2", "MR"),
        ("P2", "1.3", "1.3.1", "SEG"),
    ]
    heeds = ["Modality", "PatientID"]

    def listed(handler: BaseHTTPRequestHandler) -> None:
        path, asked = urlsplit(handler.path).path, parse_qs(urlsplit(handler.path).query)
        wanted = {name: asked[name][0] for name in heeds if name in asked}
        found = [
            {"00100020": {"Value": [who]}, "0020000D": {"Value": [study]}, "0020000E": {"Value": [one]}}
            | {"00080060": {"Value": [modality]}}
            for who, study, one, modality in series
            if wanted.get("Modality", modality) == modality and wanted.get("PatientID", who) == who
            if "/studies/" not in path or f"/studies/{study}/" in path
        ]
        if path.endswith("/instances"):
            name = path.split("/")[-2]
            is_image = ("MR", name) in [(modality, one) for _, _, one, modality in series]
            found = [{"00080018": {"Value": [f"{name}.1"]}} | ({"00080016": {"Value": ["1.4"]}} if is_image else {})]
        first = int(asked["offset"][0])
        server.said(200, json.dumps(found[first:]).encode())(handler)

    server.answer = listed
    for heeded in (heeds[:], ["Modality"]):
        heeds[:] = heeded
        found = [one for one in web.find("Modality=MR&PatientID=P") if one.patient == "P"]
        drawn = {one.series: one.sop_class for one in found if one.series not in ("1.1.1", "1.2.2")}
        assert drawn == {"1.1.2": RTStructureSetStorage, "1.2.1": SegmentationStorage}
        assert len(found) == len({one.instance for one in found}) == 4
