"""A real PACS on loopback: Orthanc with its DICOMweb plug-in, and DCMTK's commands that speak to it by DICOM."""

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
READY_WITHIN_S = 60.0
APT = "install what the apt line of .ci/run names: dcmtk orthanc orthanc-dicomweb"


def needed() -> None:
    """Fails of what is not installed, and says how to."""
    missing = [str(path) for path in (PROGRAM, PLUGIN) if not path.exists()]
    missing += [name for name in ("storescu", "getscu", "dcmdump") if not shutil.which(name)]
    assert not missing, f"missing: {', '.join(missing)}. {APT}"


class Orthanc:
    """Started with `with`; its own folder, its own ports."""

    def __init__(self, folder: Path, users: dict[str, str] | None = None, pem: Path | None = None) -> None:
        """`users`: passwords by name. `pem`: certificate and key, for HTTPS."""
        needed()
        self._folder, self._users, self._pem = folder, users or {}, pem
        self.http, self.dicom = _free_ports(2)
        self.url = f"{'https' if pem else 'http'}://127.0.0.1:{self.http}/dicom-web"

    def __enter__(self) -> "Orthanc":
        self._folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "DicomAlwaysAllowGet": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(self._users),
            "RegisteredUsers": self._users,
            "SslEnabled": self._pem is not None,
            "SslCertificate": str(self._pem or ""),
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps(config))
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            [PROGRAM, path], stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self._folder
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
        """What Orthanc's own interface says."""
        auth = next(iter(self._users.items()), None)
        trust: Any = ssl.create_default_context(cafile=self._pem) if self._pem else False
        url = self.url.removesuffix("/dicom-web") + path
        return httpx.get(url, auth=auth, verify=trust, trust_env=False, timeout=10).json()

    def push(self, files: Sequence[Path], *flags: str) -> None:
        """C-STORE, by DCMTK."""
        to = ["-aec", "ORTHANC", "127.0.0.1", str(self.dicom)]
        subprocess.run(["storescu", "-R", *flags, *to, *map(str, files)], check=True, capture_output=True)

    def get(self, folder: Path, *keys: str) -> list[Path]:
        """C-GET, by DCMTK: what the keys, NAME=VALUE, find."""
        folder.mkdir(exist_ok=True)
        to = ["-aec", "ORTHANC", "127.0.0.1", str(self.dicom)]
        asked = [word for key in keys for word in ("-k", key)]
        subprocess.run(["getscu", "-S", "-od", str(folder), *asked, *to], check=True, capture_output=True)
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


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
