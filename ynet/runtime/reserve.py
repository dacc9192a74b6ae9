"""A file that holds a part of the disk, for what must still be written when all the rest of it is full."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ynet.runtime import private_files

log = logging.getLogger("ynet.runtime.reserve")
FILE = "reserve"
RESERVE_BYTES = 16 << 20
FLOOR_BYTES = 128 << 20
"""With less than this free on the disk, what others ask for is refused before anything of it is written."""
LOOK_EVERY_S = 1.0


class Reserve:
    """The file in a home folder. Any thread may call."""

    def __init__(
        self,
        home: Path,
        reserve_bytes: int = RESERVE_BYTES,
        floor_bytes: int = FLOOR_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._reserve_bytes, self._floor_bytes, self._clock = home / FILE, reserve_bytes, floor_bytes, clock
        self._lock, self._due, self._is_low = threading.Lock(), clock(), False
        self.keep()

    def is_low(self) -> bool:
        """Whether little is free; looked up once a second at most."""
        with self._lock:
            if (now := self._clock()) >= self._due:
                self._due = now + LOOK_EVERY_S
                self._is_low = self._free() < self._floor_bytes
            return self._is_low

    def give_up(self) -> bool:
        """Make the room that the file holds; whether there was any. It is held again when there is enough."""
        with self._lock:
            if not self._path.exists() or not self._path.stat().st_size:
                return False
            self._path.unlink()
        log.error("the disk is full: the room that was kept for this is in use now; make more")
        return True

    def keep(self) -> None:
        """Hold the room, where it is not held and there is enough beside it."""
        with self._lock:
            if self._path.exists() and self._path.stat().st_size >= self._reserve_bytes:
                return
            if self._free() < self._floor_bytes + self._reserve_bytes:
                return
            try:
                with open(self._path, "wb", opener=private_files.opener) as file:
                    os.posix_fallocate(file.fileno(), 0, self._reserve_bytes)
            except OSError as error:
                log.warning("no room could be kept on the disk: %s", error.strerror)
                self._path.unlink(missing_ok=True)

    def _free(self) -> int:
        return shutil.disk_usage(self._path.parent).free
