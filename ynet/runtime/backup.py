"""Backups: pack a home folder into one file while its process runs, and unpack it after verifying every byte.

The file is a tar archive, optionally encrypted with a passphrase. Its last member, the manifest, has the SHA-256 of
every other member. Files that must be consistent with each other (databases; a key and its certificate) are copied
aside first. Of the other files, those that refer to others are copied first: heads before their logs, an update before
the ledger entry that it belongs to.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ynet.config import STRICT
from ynet.errors import UserError
from ynet.runtime import private_files
from ynet.runtime.backup_files import ASIDE, files, is_kept, turn
from ynet.runtime.home import RESTORING, prepare
from ynet.runtime.passphrase import Sealing, Unsealing, is_sealed

MANIFEST, FORMAT = "manifest.json", "ynet backup 1"
MAX_MANIFEST_BYTES = 64 << 20
PART_BYTES = 1 << 20
MOST_LEVELS, MOST_NAME_BYTES, MOST_FILES = 32, 1_024, 500_000
"""Limits of a file's path in a home folder, and the number of files in a backup."""


@dataclass(frozen=True, config=STRICT)
class File:
    """One file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True, config=STRICT)
class BackupManifest:
    """The content of a backup."""

    format: str
    kind: str  # `server` or `client`
    name: str  # of the federation, or the site
    made: float  # seconds since 1970
    version: str  # of ynet
    files: dict[str, File]


class Packed(NamedTuple):
    """A written backup."""

    path: Path
    bytes: int
    manifest: BackupManifest
    is_sealed: bool


_MANIFEST = TypeAdapter(BackupManifest)
Lay = Callable[[Path], None]
"""Copies the files that must be consistent with each other into a folder, under their relative paths."""


def pack(home: Path, out: Path, about: BackupManifest, lay: Lay, passphrase: str | None) -> Packed:
    """Write the backup of a home folder to `out`, for its owner only; `about` has no files yet.

    Raises:
        UserError: `out` exists, another backup is being made, or the disk is full.
    """
    if out.exists():
        raise UserError(f"the backup {out} was not made", "there is such a file already", "give another name")
    with _alone(home, out):
        return _pack(home, out, about, lay, passphrase)


@contextlib.contextmanager
def _alone(home: Path, out: Path) -> Iterator[None]:
    """Allow one backup of a home at a time: each deletes the copies of an interrupted one."""
    folder = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"the backup {out} was not made", "another is being made", "wait until it is done") from None
    finally:
        os.close(folder)


def _pack(home: Path, out: Path, about: BackupManifest, lay: Lay, passphrase: str | None) -> Packed:
    aside = home / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    partial = out.with_name(out.name + ".partial")
    try:
        lay(aside)
        with open(partial, "wb", opener=private_files.opener) as file:
            partial.chmod(0o600)
            manifest = _write(file, home, aside, about, passphrase)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    except OSError as error:
        raise UserError(f"the backup {out} was not made", error.strerror or "", "check the disk") from None
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
    return Packed(out, out.stat().st_size, manifest, passphrase is not None)


def unpack(
    file: Path, home: Path, kind: str, passphrase: Callable[[], str], check: Callable[[Path, BackupManifest], None]
) -> BackupManifest:
    """Verify a backup and unpack it into an empty folder, completely or not at all.

    `check` receives the unpacked folder and the manifest. It may change the folder, and raises UserError to reject it.

    Raises:
        UserError: The folder is not empty, or the backup is broken, of another kind or rejected.
    """
    what = f"the backup {file} was not restored"
    if home.exists() and any(home.iterdir()):
        raise UserError(what, f"the folder {home} is not empty", "choose another --home, or move that folder away")
    prepare(home)
    into = home / RESTORING
    into.mkdir(mode=0o700)
    with _all_or_nothing(home):
        with file.open("rb") as opened:
            source = Unsealing(opened, passphrase()) if is_sealed(opened) else opened
            manifest = _read(cast(IO[bytes], source), into, what)
        if manifest.kind != kind:
            raise UserError(what, f"it is a {manifest.kind}'s", f"restore it with ynet-{manifest.kind}")
        check(into, manifest)
        _take_in(into, home)
    return manifest


@contextlib.contextmanager
def _all_or_nothing(home: Path) -> Iterator[None]:
    """Empty the folder again when something fails.

    Raises:
        UserError: The disk or the file failed.
    """
    try:
        yield
    except BaseException as error:
        for path in sorted(home.iterdir(), key=lambda path: path.name == RESTORING):  # last
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        if not isinstance(error, OSError | tarfile.TarError):
            raise
        why = (error.strerror if isinstance(error, OSError) else None) or "it is not a backup of ynet, or truncated"
        do = "check the file and the disk, or take another copy"
        raise UserError("the backup was not restored", why, do) from None


def _write(file: IO[bytes], home: Path, aside: Path, about: BackupManifest, passphrase: str | None) -> BackupManifest:
    sealing = Sealing(file, passphrase) if passphrase is not None else None
    written: dict[str, File] = {}
    with tarfile.open(fileobj=cast(IO[bytes], sealing or file), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted({*files(home), *files(aside)}, key=turn):
            if not _is_short(name.as_posix()):
                why = f"{name.as_posix()[:80]}... is too deep, or has a name that no file of ynet has"
                raise UserError("the backup was not made", why, "move it out of the folder")
            laid = aside / name
            if one := _add(tar, name.as_posix(), laid if laid.exists() else home / name):
                written[name.as_posix()] = one
        values = {key: value for key, value in vars(about).items() if not key.startswith("_")}
        manifest = BackupManifest(**{**values, "files": written})
        content = _MANIFEST.dump_json(manifest, indent=1)
        tar.addfile(_header(MANIFEST, len(content), about.made), io.BytesIO(content))
    if sealing:
        sealing.finish()
    return manifest


def _add(tar: tarfile.TarFile, name: str, path: Path) -> File | None:
    """Add one file in its current state; of a log, only complete lines. None where the file has disappeared."""
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return None
    with opened:
        size = os.fstat(opened.fileno()).st_size
        if path.suffix == ".jsonl":
            size = _whole_lines(opened, size)
        digest = hashlib.sha256()
        tar.addfile(_header(name, size, os.fstat(opened.fileno()).st_mtime), cast(IO[bytes], _Hashing(opened, digest)))
    return File(size, digest.hexdigest())


class _Hashing:
    """A file that hashes the bytes that are read."""

    def __init__(self, file: IO[bytes], digest: "hashlib._Hash") -> None:
        self._file, self._digest = file, digest

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data


def _whole_lines(file: IO[bytes], size: int) -> int:
    """Return the end of the last complete line within `size` bytes. Leaves the file's position at 0."""
    end = size
    while end:
        start = max(0, end - PART_BYTES)
        file.seek(start)
        if newline := file.read(end - start).rfind(b"\n") + 1:
            end = start + newline
            break
        end = start
    file.seek(0)
    return end


def _header(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, mtime
    return info


def _read(source: IO[bytes], into: Path, what: str) -> BackupManifest:
    """Unpack and verify.

    Raises:
        UserError: The content is not a backup's, or was changed.
        OSError: The disk failed.
        TarError: It is not a tar archive.
    """
    found: dict[str, File] = {}
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            is_file = member.isreg() and not member.issparse()
            content = tar.extractfile(member) if is_file and len(found) < MOST_FILES else None
            if content is None or not _is_inside(member.name) or member.name in found:
                raise UserError(what, "it has content that no backup of ynet has", "take another copy")
            if member.name == MANIFEST:
                return _held_against(_manifest(content.read(MAX_MANIFEST_BYTES), what), found, what)
            for folder in (PurePosixPath(member.name).parents)[-2::-1]:
                (into / folder).mkdir(mode=0o700, exist_ok=True)
            found[member.name] = _lay_down(content, into / member.name)
    raise UserError(what, "it has no manifest: it is truncated", "take another copy")


def _is_inside(name: str) -> bool:
    if not _is_short(name):
        return False
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and "\0" not in name
        and str(path) == name != "."
        and is_kept(path)
    )


def _is_short(name: str) -> bool:
    """Return whether a path is short enough for any file system."""
    size = len(name.encode(errors="surrogateescape"))
    return size <= MOST_NAME_BYTES and name.count("/") < MOST_LEVELS and name.isprintable()


def _lay_down(content: IO[bytes], path: Path) -> File:
    digest, size = hashlib.sha256(), 0
    with open(path, "xb", opener=private_files.opener) as file:
        while part := content.read(PART_BYTES):
            digest.update(part)
            size += file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return File(size, digest.hexdigest())


def _manifest(content: bytes, what: str) -> BackupManifest:
    try:
        if json.loads(content).get("format") != FORMAT:
            raise UserError(what, "it is of another format", "restore it with the ynet that wrote it, or a newer one")
        return _MANIFEST.validate_json(content)
    except (ValidationError, ValueError, AttributeError, RecursionError):
        raise UserError(what, "its manifest cannot be read", "take another copy") from None


def _held_against(manifest: BackupManifest, found: dict[str, File], what: str) -> BackupManifest:
    if wrong := next((name for name in {**manifest.files, **found} if manifest.files.get(name) != found.get(name)), ""):
        raise UserError(what, f"{wrong} was changed after it was packed", "take another copy")
    return manifest


def _take_in(into: Path, home: Path) -> None:
    """Move the verified files into `home`. While `into` exists, no process starts in `home`."""
    for path in sorted(into.iterdir()):
        path.rename(home / path.name)
    for folder in (*_folders(home), home.parent):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    into.rmdir()


def _folders(home: Path) -> Iterator[Path]:
    return (Path(folder) for folder, _, _ in os.walk(home))
