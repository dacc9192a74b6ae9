"""A real PACS on loopback: Orthanc with its DICOMweb plug-in, and DCMTK's commands that use DICOM."""

import json
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from needs import needed

NEEDED = ("Orthanc", "libOrthancDicomWeb.so", "storescu", "getscu", "dcmdump")
READY_WITHIN_S = 60.0


class Orthanc:
    """An Orthanc process with its own folder and ports; a context manager."""

    def __init__(self, folder: Path, users: dict[str, str] | None = None) -> None:
        """`users`: passwords by name."""
        self._program = {name: needed(name) for name in NEEDED}
        self._folder, self._users = folder, users or {}
        self.http, self.dicom = _free_ports(2)
        self.url = f"http://127.0.0.1:{self.http}/dicom-web"

    def __enter__(self) -> "Orthanc":
        self._folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "Plugins": [self._program["libOrthancDicomWeb.so"]],
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "DicomAlwaysAllowGet": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(self._users),
            "RegisteredUsers": self._users,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps(config))
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            [self._program["Orthanc"], path],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self._folder,
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def call(self, path: str) -> Any:
        """Call Orthanc's own REST API."""
        auth = next(iter(self._users.items()), None)
        url = self.url.removesuffix("/dicom-web") + path
        return httpx.get(url, auth=auth, trust_env=False, timeout=10).json()

    def push(self, files: Sequence[Path]) -> None:
        """Send files by C-STORE with DCMTK; JPEG lossless is sent unchanged."""
        lossless = [path for path in files if b"1.2.840.10008.1.2.4.70" in path.read_bytes()[:400]]
        for flags, some in ((["-xs"], lossless), ([], [path for path in files if path not in lossless])):
            to = ["-aec", "ORTHANC", "127.0.0.1", str(self.dicom)]
            if some:
                subprocess.run(
                    [self._program["storescu"], "-R", *flags, *to, *map(str, some)], check=True, capture_output=True
                )

    def get(self, folder: Path, *keys: str) -> list[Path]:
        """Fetch the objects that match the keys, NAME=VALUE, by C-GET with DCMTK."""
        folder.mkdir(exist_ok=True)
        to = ["-aec", "ORTHANC", "127.0.0.1", str(self.dicom)]
        asked = [word for key in keys for word in ("-k", key)]
        subprocess.run(
            [self._program["getscu"], "-S", "-od", str(folder), *asked, *to], check=True, capture_output=True
        )
        return sorted(folder.iterdir())

    def _wait(self) -> None:
        until = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                assert self.call("/system")["DicomPort"] == self.dicom
                with socket.create_connection(("127.0.0.1", self.dicom), 1):
                    return
            except (httpx.TransportError, OSError):
                assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")
                assert time.monotonic() < until, (self._folder / "log").read_text(errors="replace")
                time.sleep(0.05)


@contextmanager
def tls_before(port: int, pem: Path) -> Iterator[int]:
    """Terminate TLS before a plain port, and return the port. Orthanc's own TLS crashes in Debian 12."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as near,
                socket.create_connection(("127.0.0.1", port)) as far,
            ):
                back = threading.Thread(target=pump, args=(far, near))
                back.start()
                pump(near, far)
                back.join()

    def pump(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                to.sendall(part)
        with suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False

    with Server(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
