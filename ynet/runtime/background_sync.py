"""Sync files to disk in a background thread, so that callers do not wait for slow disks."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("ynet.runtime.background_sync")
SYNC_S = 1.0


class BackgroundSync:
    """Calls `sync` within SYNC_S of each write, and once more on close.

    A failed sync is tried again: a full disk must not end the thread.
    """

    def __init__(self, sync: Callable[[], None], name: str) -> None:
        self._sync, self._is_dirty, self._is_closed = sync, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_synced, name=name, daemon=True)
        self._thread.start()

    def wrote(self) -> None:
        """Request a sync."""
        self._is_dirty.set()

    def close(self) -> None:
        """Stop the thread; return once everything is on the disk."""
        self._is_closed.set()
        self._is_dirty.set()
        self._thread.join()
        self._try()  # writes during the thread's last call

    def _try(self) -> None:
        try:
            self._sync()
        except OSError as error:
            log.error("%s could not be synced to the disk: %s", self._thread.name, error.strerror)
            self._is_dirty.set()

    def _keep_synced(self) -> None:
        while not self._is_closed.is_set():
            self._is_dirty.wait()
            self._is_closed.wait(SYNC_S)
            self._is_dirty.clear()
            self._try()
