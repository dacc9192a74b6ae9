"""A DICOMweb PACS on loopback that answers searches partially: tests choose what it omits and how it reports that."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Item = dict[str, Any]
LEVELS = {"series": ("0020000D", "0020000E"), "instances": ("0020000D", "0020000E", "00080018")}


def held(study: str, series: str, instance: str, date: str = "", modality: str = "MR", patient: str = "P") -> Item:
    """Make an object of the PACS, in the DICOM JSON model."""
    values = {"00100020": patient, "0020000D": study, "0020000E": series, "00080018": instance, "00080016": "1.4"}
    return {tag: {"Value": [value]} for tag, value in {**values, "00080020": date, "00080060": modality}.items()}


@dataclass
class PartialPacs:
    """The objects of the PACS, and how much of them it reports."""

    objects: list[Item]
    cap: int = 1000  # results in one answer, at most
    has_limit: bool = True  # whether `limit` is obeyed
    has_offset: bool = True
    has_dates: bool = True  # whether StudyDate is obeyed
    has_counts: bool = False  # whether series report their number of instances, and studies their number of series
    has_metadata: bool = False  # WADO-RS metadata, which no limit truncates
    counts_more: int = 0  # than there are
    warning: str = ""  # header of a partial answer
    warns_always: bool = False
    partial_status: int = 200  # of a partial answer
    rotates: bool = False  # another order for each page
    clamps: bool = False  # beyond the end the last page repeats
    zipped: bool = False
    hides: tuple[str, ...] = ()  # tags that no answer has
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        self.asked.append(path)
        parts = path.strip("/").split("/")[1:]
        level = parts[-1]
        if level == "metadata":
            if not self.has_metadata:
                return 404, {}, b""
            return 200, {}, json.dumps(self._told(self._within(parts), "instances")).encode()
        found = self._told([one for one in self._within(parts) if self._is_meant(one, query)], level)
        offset = int(query["offset"][0]) if self.has_offset else 0
        most = min(self.cap, int(query["limit"][0])) if self.has_limit else self.cap
        if self.clamps and found:
            offset = min(offset, (len(found) - 1) // most * most)
        if self.rotates:
            found = found[len(self.asked) % 3 :] + found[: len(self.asked) % 3]
        page = found[offset : offset + most]
        is_cut = len(found) > offset + len(page) or (not page and len(found) < offset)
        headers = {"warning": self.warning} if self.warning and (is_cut or self.warns_always) else {}
        if not page:
            return 204, headers, b""
        return self.partial_status if is_cut else 200, headers, json.dumps(page).encode()

    def _within(self, parts: list[str]) -> list[Item]:
        names = dict(zip(parts[::2], parts[1::2], strict=False))
        wanted = {"0020000D": names.get("studies"), "0020000E": names.get("series")}
        return [one for one in self.objects if all(uid in (None, one[tag]["Value"][0]) for tag, uid in wanted.items())]

    def _is_meant(self, one: Item, query: dict[str, list[str]]) -> bool:
        modality, (first, dash, last) = query.get("Modality"), query.get("StudyDate", ["-"])[0].partition("-")
        date = one["00080020"]["Value"][0]
        is_then = first <= date <= (last or "9") if dash else date == first
        return (modality is None or one["00080060"]["Value"] == modality) and (not self.has_dates or is_then)

    def _told(self, found: list[Item], level: str) -> list[Item]:
        reported: dict[tuple[str, ...], Item] = {}
        for one in found:
            reported.setdefault(tuple(one[tag]["Value"][0] for tag in LEVELS[level]), dict(one))
        for one in reported.values():
            if level == "series":
                del one["00080018"], one["00080016"]
                if self.has_counts:
                    study, series = one["0020000D"], one["0020000E"]
                    all_series = {each["0020000E"]["Value"][0] for each in self.objects if each["0020000D"] == study}
                    own = sum(each["0020000E"] == series for each in self.objects)
                    one["00201206"] = {"Value": [len(all_series)]}
                    one["00201209"] = {"Value": [own + self.counts_more]}
            for tag in self.hides:
                one.pop(tag, None)
        return list(reported.values())


@contextmanager
def served(pacs: PartialPacs) -> Iterator[str]:
    """Serve the PACS and yield the URL of its DICOMweb services."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parsed = urlsplit(self.path)
            status, headers, body = pacs.answer(parsed.path, parse_qs(parsed.query))
            if pacs.zipped and body:
                headers, body = {**headers, "content-encoding": "gzip"}, gzip.compress(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        finally:
            server.shutdown()
            thread.join()
