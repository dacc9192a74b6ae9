"""A home folder packed and unpacked: the same files, or nothing."""

import contextlib
import io
import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from ynet.errors import UserError
from ynet.runtime import backup_files, passphrase, unix_socket
from ynet.runtime.backup import FORMAT, MANIFEST, BackupManifest, Packed, pack, unpack
from ynet.runtime.backup_files import lay_databases
from ynet.runtime.home import RESTORING, prepare

ABOUT = BackupManifest(FORMAT, "server", "lungs", 1.0, "0.1.0", {})
WORD = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "COST", 2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = prepare(tmp_path / "home")
    (home / "runs/0001").mkdir(parents=True)
    (home / "spool").mkdir()
    for name in ("server.yaml", "runs/0001/model.safetensors", "audit.head", "lock", "control.json", "spool/query"):
        (home / name).write_bytes(name.encode() * 1000)
    unix_socket.listen(home).close()
    (home / "server.log.1").write_text("a fault")
    (home / "audit.jsonl").write_text('{"number": 1}\n{"number": 2}\n{"numb')
    with contextlib.closing(sqlite3.connect(home / "registry.sqlite")) as database:
        database.executescript("PRAGMA journal_mode=WAL; CREATE TABLE sites (name); INSERT INTO sites VALUES ('A');")
    return home


def packed(home: Path, out: Path, word: str | None = None) -> Packed:
    return pack(home, out, ABOUT, lambda aside: lay_databases(home, aside), word)


def nothing(_: Path, __: BackupManifest) -> None:
    """Everything is taken."""


def restored(file: Path, to: Path, word: str = WORD) -> BackupManifest:
    return unpack(file, to, "server", lambda: word, nothing)


@pytest.mark.parametrize("word", [None, WORD])
def test_what_is_unpacked_is_what_was_packed_for_its_owner_alone(home: Path, tmp_path: Path, word: str | None) -> None:
    made = packed(home, tmp_path / "b.tar", word)
    to = tmp_path / "to"
    assert restored(made.path, to) == made.manifest
    kept = ["audit.head", "audit.jsonl", "registry.sqlite", "runs/0001/model.safetensors", "server.yaml"]
    assert sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()) == kept
    for name in ("audit.head", "runs/0001/model.safetensors", "server.yaml"):
        assert (to / name).read_bytes() == (home / name).read_bytes()
    assert {path.stat().st_mode & 0o077 for path in (made.path, to, *to.rglob("*"))} == {0}


def test_of_a_log_that_is_being_written_the_whole_lines_are_kept(home: Path, tmp_path: Path) -> None:
    restored(packed(home, tmp_path / "b.tar").path, tmp_path / "to")
    assert (tmp_path / "to/audit.jsonl").read_text() == '{"number": 1}\n{"number": 2}\n'


def test_a_database_that_is_being_written_is_kept_as_it_was_last_committed(home: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "registry.sqlite", isolation_level=None)) as writer:
        writer.execute("INSERT INTO sites VALUES ('B')")  # in the write-ahead log alone
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO sites VALUES ('C')")
        restored(packed(home, tmp_path / "b.tar").path, tmp_path / "to")
        writer.execute("ROLLBACK")
    with contextlib.closing(sqlite3.connect(tmp_path / "to/registry.sqlite")) as copied:
        assert copied.execute("SELECT name FROM sites").fetchall() == [("A",), ("B",)]


def test_a_second_backup_waits_for_the_first_whose_copies_it_would_throw_away(home: Path, tmp_path: Path) -> None:
    def lay(aside: Path) -> None:
        lay_databases(home, aside)
        with pytest.raises(UserError, match="another is being made"):
            packed(home, tmp_path / "second.tar")

    with contextlib.closing(sqlite3.connect(home / "registry.sqlite", isolation_level=None)) as writer:
        writer.execute("INSERT INTO sites VALUES ('B')")  # in the write-ahead log alone
        restored(pack(home, tmp_path / "first.tar", ABOUT, lay, None).path, tmp_path / "to")
    assert not (tmp_path / "second.tar").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "to/registry.sqlite")) as copied:
        assert copied.execute("SELECT name FROM sites").fetchall() == [("A",), ("B",)]
    packed(home, tmp_path / "third.tar")


def test_heads_are_copied_before_their_logs_and_databases_before_both(home: Path, tmp_path: Path) -> None:
    with tarfile.open(packed(home, tmp_path / "b.tar").path) as tar:
        names = tar.getnames()
    assert names[0] == "registry.sqlite"
    assert names.index("audit.head") < names.index("server.yaml") < names.index("audit.jsonl")
    assert names[-1] == MANIFEST


@pytest.mark.parametrize("word", [None, WORD])
def test_a_backup_that_was_changed_or_cut_leaves_nothing(home: Path, tmp_path: Path, word: str | None) -> None:
    whole = packed(home, tmp_path / "b.tar", word).path.read_bytes()
    content = whole.find(b"server.yamlserver.yaml") if word is None else len(whole) // 2
    bad = tmp_path / "bad.tar"
    for spoilt in (
        whole[:content] + bytes([whole[content] ^ 1]) + whole[content + 1 :],
        whole[: len(whole) // 2],
        whole[: whole.rfind(MANIFEST.encode())] if word is None else whole[:-20],
        b"",
    ):
        bad.write_bytes(spoilt)
        with pytest.raises(UserError):
            restored(bad, tmp_path / "to")
        assert not list((tmp_path / "to").iterdir())


def test_a_backup_is_restored_into_an_empty_folder_only(home: Path, tmp_path: Path) -> None:
    made = packed(home, tmp_path / "b.tar")
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError, match="is not empty"):
        restored(made.path, home)
    assert sorted(home.rglob("*")) == before


def test_a_backup_that_its_check_refuses_and_one_of_the_other_side_leave_nothing(home: Path, tmp_path: Path) -> None:
    made = packed(home, tmp_path / "b.tar")

    def refuse(_: Path, __: BackupManifest) -> None:
        raise UserError("it", "is", "bad")

    for kind, check in (("server", refuse), ("client", nothing)):
        with pytest.raises(UserError):
            unpack(made.path, tmp_path / "to", kind, lambda: WORD, check)
        assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    "name", ["../outside", "/tmp/outside", "a/../../outside", "./a", "a//b", "restoring.partial/a", "control.json"]
)
def test_a_backup_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError):
        restored(tmp_path / "b.tar", tmp_path / "to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "to"]


DEEP = "a/" * 3_000 + "file"


@pytest.mark.parametrize(
    "members",
    [
        [DEEP],
        ["a/" * 40 + "file"],
        ["long" * 100],
        ["f" * 5_000],
        ["a", "a"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a\udc80b"],
        ["a\nb"],
        ["a", "a\0b"],
    ],
)
def test_names_that_no_backup_has_are_said_in_three_lines_and_nothing_is_left(
    members: list[str], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "b.tar", "w", errors="surrogateescape") as tar:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError) as caught:
        restored(tmp_path / "b.tar", tmp_path / "to")
    assert len(str(caught.value).splitlines()) == 3
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE]
)
def test_what_is_no_file_is_refused_and_nothing_is_left(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        info = tarfile.TarInfo("a")
        info.type, info.linkname, info.devmajor, info.devminor = kind, "/dev/zero", 1, 5
        tar.addfile(info)
    with pytest.raises(UserError, match="content that no backup"):
        restored(tmp_path / "b.tar", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_sparse_file_that_claims_an_exabyte_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"GNU.sparse.size": str(1 << 60), "GNU.sparse.map": f"{(1 << 60) - 1},1"}
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="content that no backup"):
        restored(tmp_path / "b.tar", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_home_with_a_path_that_could_not_be_restored_is_not_packed(home: Path, tmp_path: Path) -> None:
    deep = home.joinpath(*["a"] * 40)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    with pytest.raises(UserError, match="was not made"):
        packed(home, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_links_and_what_the_manifest_does_not_name_are_refused(home: Path, tmp_path: Path) -> None:
    manifest = json.dumps({"format": FORMAT, "kind": "server", "name": "a", "made": 1, "version": "1", "files": {}})
    for member, content in ((tarfile.SYMTYPE, b""), (tarfile.REGTYPE, b"x")):
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            info = tarfile.TarInfo("more")
            info.type, info.linkname, info.size = member, "/etc/passwd", len(content)
            tar.addfile(info, io.BytesIO(content))
            last = tarfile.TarInfo(MANIFEST)
            last.size = len(manifest)
            tar.addfile(last, io.BytesIO(manifest.encode()))
        with pytest.raises(UserError):
            restored(tmp_path / "b.tar", tmp_path / "to")


def test_a_disk_that_fails_at_the_very_end_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, to = packed(home, tmp_path / "b.tar"), tmp_path / "to"
    move, moved = Path.rename, list[Path]()

    def third_fails(path: Path, target: Path) -> Path:
        if len(moved) == 2:
            raise OSError(5, "Input/output error")
        moved.append(path)
        return move(path, target)

    monkeypatch.setattr(Path, "rename", third_fails)
    with pytest.raises(UserError) as refused:
        restored(made.path, to)
    assert refused.value.why == "Input/output error"
    assert len(moved) == 2
    assert not list(to.iterdir())


def test_no_process_starts_in_a_folder_that_was_not_restored_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "home" / RESTORING).mkdir(parents=True)
    with pytest.raises(UserError, match="a restore in it was interrupted"):
        prepare(tmp_path / "home")


def test_a_failed_backup_leaves_no_file_and_no_backup_is_overwritten(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        packed(home, tmp_path / "nowhere/b.tar")
    packed(home, tmp_path / "b.tar")
    with pytest.raises(UserError, match="there is such a file"):
        packed(home, tmp_path / "b.tar")
    assert not (home / backup_files.ASIDE).exists()
