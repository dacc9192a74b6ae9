"""A home folder in one file: packed while its process runs, and unpacked only where every byte is as it was.

The file is a tar, sealed with a passphrase or not; its last member, the manifest, has the SHA-256 of every other.
What must be consistent in itself (databases; a key and its certificate) is laid aside first; of the rest, what names
something else is copied before what it names: heads before their logs, an update before the ledger that paid for it.
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
"""Of a file's path in a home folder, and of one backup."""


@dataclass(frozen=True, config=STRICT)
class File:
    """One file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True, config=STRICT)
class BackupManifest:
    """What a backup holds."""

    format: str
    kind: str  # `server` or `client`
    name: str  # of the federation, or the site
    made: float  # seconds since 1970
    version: str  # of the ynet that made it
    files: dict[str, File]


class Packed(NamedTuple):
    """What was written."""

    path: Path
    bytes: int
    manifest: BackupManifest
    is_sealed: bool


_MANIFEST = TypeAdapter(BackupManifest)
Lay = Callable[[Path], None]
"""Lays copies of what must be consistent in itself into a folder, by their paths in the home folder."""


def pack(home: Path, out: Path, about: BackupManifest, lay: Lay, passphrase: str | None) -> Packed:
    """Write the backup of a home folder to `out`, for its owner only; `about` has no files yet. Raises UserError."""
    if out.exists():
        raise UserError(f"the backup {out} was not made", "there is such a file already", "give another name")
    with _alone(home, out):
        return _pack(home, out, about, lay, passphrase)


@contextlib.contextmanager
def _alone(home: Path, out: Path) -> Iterator[None]:
    """One backup of a home at a time: each begins by throwing away what one that was killed has laid aside."""
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
    """Unpack a backup into an empty folder: all of it, once all is verified, and else nothing.

    `check` is given what was unpacked, raises UserError where it is no such home, and may change it. Raises UserError.
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
    """Empty a folder, which was empty before, when something fails. Raises UserError where the disk or the file did."""
    try:
        yield
    except BaseException as error:
        for path in sorted(home.iterdir(), key=lambda path: path.name == RESTORING):  # while it is there, none starts
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        if not isinstance(error, OSError | tarfile.TarError):
            raise
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no backup of ynet, or was cut off"
        do = "check the file and the disk, or take another copy"
        raise UserError("the backup was not restored", why, do) from None


def _write(file: IO[bytes], home: Path, aside: Path, about: BackupManifest, passphrase: str | None) -> BackupManifest:
    sealing = Sealing(file, passphrase) if passphrase is not None else None
    written: dict[str, File] = {}
    with tarfile.open(fileobj=cast(IO[bytes], sealing or file), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted({*files(home), *files(aside)}, key=turn):
            if not _is_short(name.as_posix()):
                why = f"{name.as_posix()[:80]}... lies too deep, or has a name that no file of ynet has"
                raise UserError("the backup was not made", why, "take that out of the folder")
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
    """Add one file as it is now; of a log, the whole lines. None where it went meanwhile."""
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
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes], digest: "hashlib._Hash") -> None:
        self._file, self._digest = file, digest

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data


def _whole_lines(file: IO[bytes], size: int) -> int:
    """How far the last whole line within `size` bytes goes; the file stands at its beginning afterwards."""
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
    """Unpack and verify. Raises UserError, OSError, TarError."""
    found: dict[str, File] = {}
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            is_file = member.isreg() and not member.issparse()
            content = tar.extractfile(member) if is_file and len(found) < MOST_FILES else None
            if content is None or not _is_inside(member.name) or member.name in found:
                raise UserError(what, "it holds what no backup of ynet holds", "take another copy")
            if member.name == MANIFEST:
                return _held_against(_manifest(content.read(MAX_MANIFEST_BYTES), what), found, what)
            for folder in (PurePosixPath(member.name).parents)[-2::-1]:
                (into / folder).mkdir(mode=0o700, exist_ok=True)
            found[member.name] = _lay_down(content, into / member.name)
    raise UserError(what, "it has no manifest: it was cut off", "take another copy")


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
    """Whether a path can be laid down, and taken away again, on any file system."""
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
        raise UserError(what, f"{wrong} is not as it was packed", "take another copy")
    return manifest


def _take_in(into: Path, home: Path) -> None:
    """Move what was verified to its place. While `into` exists, no process starts in `home`."""
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
