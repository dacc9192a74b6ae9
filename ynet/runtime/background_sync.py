"""What is written is brought to the disk a moment later, by a thread of its own: disks are slow, and callers wait."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("ynet.runtime.background_sync")
SYNC_S = 1.0


class BackgroundSync:
    """Calls `sync` at most SYNC_S after something was written, and once more when it is closed.

    Where the disk takes nothing, it is tried again: a full disk must not end the thread that will write when it is not.
    """

    def __init__(self, sync: Callable[[], None], name: str) -> None:
        self._sync, self._is_dirty, self._is_closed = sync, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_synced, name=name, daemon=True)
        self._thread.start()

    def wrote(self) -> None:
        """Something is to be brought to the disk."""
        self._is_dirty.set()

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        self._is_closed.set()
        self._is_dirty.set()
        self._thread.join()
        self._try()  # what was written while the thread was in its last call

    def _try(self) -> None:
        try:
            self._sync()
        except OSError as error:
            log.error("%s could not be brought to the disk: %s", self._thread.name, error.strerror)
            self._is_dirty.set()

    def _keep_synced(self) -> None:
        while not self._is_closed.is_set():
            self._is_dirty.wait()
            self._is_closed.wait(SYNC_S)
            self._is_dirty.clear()
            self._try()
