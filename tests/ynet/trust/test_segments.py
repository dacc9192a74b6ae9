"""An audit log in several files: one chain, whose oldest part may be let go, and nothing else of it."""

import shutil
import threading
from pathlib import Path

import pytest

from ynet.trust import journal, segments
from ynet.trust.journal import AuditError, Journal
from ynet_server import audit
from ynet_server.audit import KIND, LOG, ServerEntry


class Small(Journal[ServerEntry]):
    """A log whose files hold a few entries each."""

    def __init__(self, home: Path, most_segments: int = 100) -> None:
        super().__init__(home, KIND, segment_bytes=1000, most_segments=most_segments)

    def ask(self, times: int) -> None:
        for _ in range(times):
            self.add(lambda before: ServerEntry(before.number + 1, 1.5, "asked", "A", "2 sites", before.digest))


def filled(home: Path, times: int, most_segments: int = 100) -> list[Path]:
    log = Small(home, most_segments)
    log.ask(times)
    log.close()
    return segments.listed(home / LOG)


def test_a_log_that_has_grown_is_several_files_and_one_chain(tmp_path: Path) -> None:
    aside = filled(tmp_path, 50)
    assert len(aside) > 5
    assert all(path.stat().st_size < 2000 for path in [*aside, tmp_path / LOG])
    assert audit.verify(tmp_path).number == 50
    assert [entry.number for entry in audit.read(tmp_path)] == list(range(1, 51))
    assert len(filled(tmp_path, 50)) > len(aside)
    assert audit.verify(tmp_path).number == 100


@pytest.mark.parametrize("which", [0, 2, -1])
def test_a_file_that_was_taken_out_is_found_out(tmp_path: Path, which: int) -> None:
    filled(tmp_path, 50)[which].unlink()
    with pytest.raises(AuditError, match=r"are missing|does not follow"):
        audit.verify(tmp_path)


def test_an_entry_edited_in_a_file_put_aside_is_found_out(tmp_path: Path) -> None:
    path = filled(tmp_path, 50)[1]
    path.write_bytes(path.read_bytes().replace(b"2 sites", b"3 sites", 1))
    with pytest.raises(AuditError, match="does not follow"):
        audit.verify(tmp_path)


def test_the_oldest_files_are_let_go_and_the_log_says_so(tmp_path: Path) -> None:
    assert len(filled(tmp_path, 200, most_segments=3)) == 3
    entries = list(audit.read(tmp_path))
    assert entries[0].number > 100
    assert audit.verify(tmp_path).number == entries[-1].number
    said = [entry.about for entry in entries if entry.action == "let-go"]
    assert f"{entries[0].number - 1} {entries[0].previous}" in said
    again = Small(tmp_path, 3)
    again.ask(1)
    again.close()
    assert audit.verify(tmp_path).number == entries[-1].number + 1


def test_one_file_more_than_was_let_go_is_found_out(tmp_path: Path) -> None:
    filled(tmp_path, 200, most_segments=3)[0].unlink()
    with pytest.raises(AuditError, match="does not record their deletion"):
        audit.verify(tmp_path)


def test_a_kill_between_putting_aside_and_beginning_anew_loses_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 20)
    newest = tmp_path / LOG
    last = list(audit.read(tmp_path))[-1].number
    if newest.stat().st_size:
        newest.rename(segments.path_of(newest, last))
    assert audit.verify(tmp_path).number == last
    filled(tmp_path, 5)
    assert audit.verify(tmp_path).number == last + 5


def test_a_log_is_read_whole_while_its_files_are_put_aside(tmp_path: Path) -> None:
    log = Small(tmp_path)
    writing = threading.Thread(target=lambda: log.ask(600))
    writing.start()
    while writing.is_alive():
        assert [entry.number for entry in audit.read(tmp_path)][:1] in ([], [1])
        audit.verify(tmp_path)
    log.close()
    assert audit.verify(tmp_path).number == 600


def test_a_copy_made_while_a_file_was_put_aside_is_whole_and_goes_on(tmp_path: Path) -> None:
    home, aside, copy = tmp_path / "home", tmp_path / "aside", tmp_path / "copy"
    home.mkdir()
    aside.mkdir()
    log = Small(home)
    log.ask(3)
    journal.lay(home, aside, KIND)
    log.ask(30)  # during the read
    log.close()
    shutil.copytree(home, copy)
    shutil.copytree(aside, copy, dirs_exist_ok=True)
    audit.verify(copy)
    kept = list(audit.read(copy))[-1].number
    assert kept >= 3
    filled(copy, 4)
    assert audit.verify(copy).number == kept + 4


def test_the_end_of_a_log_is_read_over_its_files(tmp_path: Path) -> None:
    filled(tmp_path, 50)
    assert len([line for line in segments.tail(tmp_path / LOG, 3000) if line]) > 10
