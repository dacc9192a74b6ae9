"""A file that reserves disk space for writes that must succeed on a full disk."""

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
"""With less free space than this, requests of others are refused before they write anything."""
LOOK_EVERY_S = 1.0


class Reserve:
    """The reserve file of a home folder. Thread-safe."""

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
        """Return whether the disk has little free space; checked at most once a second."""
        with self._lock:
            if (now := self._clock()) >= self._due:
                self._due = now + LOOK_EVERY_S
                self._is_low = self._free() < self._floor_bytes
            return self._is_low

    def give_up(self) -> bool:
        """Free the reserved space; return whether there was any. `keep` reserves it again."""
        with self._lock:
            if not self._path.exists() or not self._path.stat().st_size:
                return False
            self._path.unlink()
        log.error("the disk is full: the reserved space is in use now; free some space")
        return True

    def keep(self) -> None:
        """Reserve the space where it is not reserved and enough is free."""
        with self._lock:
            if self._path.exists() and self._path.stat().st_size >= self._reserve_bytes:
                return
            if self._free() < self._floor_bytes + self._reserve_bytes:
                return
            try:
                with open(self._path, "wb", opener=private_files.opener) as file:
                    os.posix_fallocate(file.fileno(), 0, self._reserve_bytes)
            except OSError as error:
                log.warning("no disk space could be reserved: %s", error.strerror)
                self._path.unlink(missing_ok=True)

    def _free(self) -> int:
        return shutil.disk_usage(self._path.parent).free
