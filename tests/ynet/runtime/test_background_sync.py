"""What is written is on the disk a moment later, and all of it at the end."""

import threading

from ynet.runtime.background_sync import BackgroundSync


def test_what_is_written_while_the_disk_is_busy_is_on_it_when_it_is_closed() -> None:
    written, on_disk = [1], list[int]()
    busy, goes_on = threading.Event(), threading.Event()

    def sync() -> None:
        found = list(written)
        busy.set()
        assert goes_on.wait(10)
        on_disk[:] = found

    synced = BackgroundSync(sync, "test")
    synced.wrote()
    assert busy.wait(10)
    written.append(2)
    synced.wrote()
    closing = threading.Thread(target=synced.close)
    closing.start()
    goes_on.set()
    closing.join(10)
    assert not closing.is_alive()
    assert on_disk == [1, 2]
