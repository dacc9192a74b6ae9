"""The service manager's end of a notification socket, as in systemd."""

import socket
import threading
from pathlib import Path
from types import TracebackType

from ynet_lab.trial import READY_WITHIN_S


class Notified:
    """Receiver of the messages of a process; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, list[str]()
        self._came = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def __enter__(self) -> "Notified":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def wait(self, line: str) -> None:
        """Wait for a line with this beginning."""
        with self._came:
            if not self._came.wait_for(lambda: any(one.startswith(line) for one in self.lines), READY_WITHIN_S):
                raise TimeoutError(f"no {line}: {self.lines}")

    def _receive(self) -> None:
        while data := self._socket.recv(65536):
            with self._came:
                self.lines += data.decode().split("\n")
                self._came.notify_all()
