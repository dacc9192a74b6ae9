"""Verify a release of ynet with the Python standard library alone, and unpack what was verified.

    python3 -I verify_release.py ynet-0.2.0-offline-cp311-linux_x86_64.tar --key PUBLIC_KEY --into ynet-0.2.0

The public key is 64 hexadecimal digits, from the coordinator by telephone or on paper, not from where the archive came
from. Exit code 0: every byte is as it was signed; 1: refused, and nothing was unpacked; 2: wrong usage.

The archive has one valid form only. After the signature is checked, every byte that follows is either content, whose
SHA-256 is in the signed manifest, or computed from the manifest (headers, padding, end) and compared.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:  # else a file beside this one could replace a module
    sys.exit("refused: start it with `python3 -I`, so that no other file is imported")

import argparse
import hashlib
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

MANIFEST, SIGNATURE = "MANIFEST", "SIGNATURE"
TITLE = "ynet release manifest 1"
MTIME = 315532800  # 1980-01-01, the same in each release
BLOCK = 512
MOST_MANIFEST_BYTES = 1 << 20
PART = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
ENTRY = re.compile(rf"([0-9a-f]{{64}}) (0|[1-9][0-9]{{0,11}}) ({PART}(?:/{PART})?)", re.ASCII)


class Refused(Exception):  # noqa: N818
    """The release is not what was signed."""


class Entry(NamedTuple):
    """A file of a release: its line in the manifest."""

    sha256: str
    size: int
    name: str  # `file` or `folder/file`


class Manifest(NamedTuple):
    """What a release contains."""

    version: str
    commit: str
    entries: tuple[Entry, ...]  # sorted by name


# Ed25519, RFC 8032: verification only. It holds no secret, so its duration may depend on the numbers.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z
NEUTRAL: Point = (0, 1, 1, 0)


def add(p: Point, q: Point) -> Point:
    """Add two points (RFC 8032, 5.1.4)."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar: int, point: Point) -> Point:
    """Multiply a point by a scalar."""
    result = NEUTRAL
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def encode(point: Point) -> bytes:
    """Encode a point as 32 bytes."""
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(encoded: bytes) -> Point | None:
    """Decode 32 bytes (RFC 8032, 5.1.3); None for what is no point, or not in its one valid form."""
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * SQRT_MINUS_1 % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


BASE = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little")) or NEUTRAL


def is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Verify an Ed25519 signature: S < L, no key of small order, and R byte for byte as the equation gives it."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, s = decode(public_key), int.from_bytes(signature[32:], "little")
    if key is None or s >= L or encode(multiply(8, key)) == encode(NEUTRAL):
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    minus_key = (P - key[0], key[1], 1, P - key[3])
    k = int.from_bytes(digest, "little") % L
    return encode(add(multiply(s, BASE), multiply(k, minus_key))) == signature[:32]


# The manifest


def parse_manifest(signed: bytes) -> Manifest:
    """Read a manifest, which has one valid form. Raises Refused for any other."""
    try:
        title, version, commit, *lines, end = signed.decode("ascii").split("\n")
    except ValueError:
        raise Refused("the manifest is no manifest of a release") from None
    entries = tuple(Entry(one[1], int(one[2]), one[3]) for line in lines if (one := ENTRY.fullmatch(line)))
    head = re.fullmatch(rf"version ({PART})", version), re.fullmatch(r"commit ([0-9a-f]{40})", commit)
    if title != TITLE or end or len(entries) != len(lines) or not head[0] or not head[1]:
        raise Refused("the manifest has a line that this verifier does not know")
    names = [entry.name for entry in entries]
    if names != sorted(set(names)) or {MANIFEST, SIGNATURE} & set(names):
        raise Refused("the manifest is not sorted, or names a file twice")
    folders = {name.split("/")[0].casefold() for name in names if "/" in name}
    lower = [name.casefold() for name in (*names, MANIFEST, SIGNATURE)]
    if len(set(lower)) != len(lower) or folders & set(lower):
        raise Refused("names in the manifest differ only in case, or a folder has a file's name")
    return Manifest(head[0][1], head[1][1], entries)


def check_signature(public_key: bytes, manifest: bytes, signature: bytes) -> Manifest:
    """Check the signature, then read the manifest. Raises Refused."""
    if not re.fullmatch(rb"[0-9a-f]{128}\n", signature):
        raise Refused("the signature is damaged")
    if not is_signed(public_key, bytes.fromhex(signature.decode("ascii")), manifest):
        raise Refused("the signature is not of this public key and this manifest")
    return parse_manifest(manifest)


# The archive


def header(name: str, size: int) -> bytes:
    """Return the one valid tar header of a file."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, MTIME, 0o644
    return member.tobuf(tarfile.GNU_FORMAT)  # three blocks for a name of more than 100 letters


def padding(size: int) -> bytes:
    """Return the zeros that follow a file's content."""
    return bytes(-size % BLOCK)


def archive_size(sizes: Iterable[tuple[str, int]]) -> int:
    """Return the size of an archive of files of these names and sizes."""
    return sum(len(header(name, size)) + size + len(padding(size)) for name, size in sizes) + 2 * BLOCK


def expect(archive: BinaryIO, wanted: bytes, what: str) -> None:
    """Read bytes that must be as computed."""
    if archive.read(len(wanted)) != wanted:
        raise Refused(f"the archive is damaged at {what}")


def read_small(archive: BinaryIO, name: str) -> bytes:
    """Read the manifest or the signature: the size, which nobody has signed yet, is in the header."""
    first = archive.read(BLOCK)
    digits = re.fullmatch(rb"([0-7]{11})\0", first[124:136])
    size = int(digits[1], 8) if digits else MOST_MANIFEST_BYTES + 1
    if size > MOST_MANIFEST_BYTES or first != header(name, size):
        raise Refused(f"the archive does not begin with {MANIFEST} and {SIGNATURE}")
    content = archive.read(size)
    if len(content) != size:
        raise Refused("the archive is truncated")
    expect(archive, padding(size), name)
    return content


def copy(source: BinaryIO, entry: Entry, target: BinaryIO | None) -> None:
    """Copy a file's content while its SHA-256 is computed, so that the checked bytes are the written ones."""
    digest, left = hashlib.sha256(), entry.size
    while left and (part := source.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
        if target is not None:
            target.write(part)
    if left or digest.hexdigest() != entry.sha256:
        raise Refused(f"{entry.name} is not the signed file")


def verify_archive(path: Path, public_key: bytes, into: Path | None = None) -> Manifest:
    """Verify an archive in one pass, and write its files into the existing empty folder `into`. Raises Refused."""
    with path.open("rb") as archive:
        manifest, signature = read_small(archive, MANIFEST), read_small(archive, SIGNATURE)
        release = check_signature(public_key, manifest, signature)
        first = ((MANIFEST, len(manifest)), (SIGNATURE, len(signature)))
        if os.fstat(archive.fileno()).st_size != archive_size(
            (*first, *((one.name, one.size) for one in release.entries))
        ):
            raise Refused("the archive is longer or shorter than it was signed")
        for entry in release.entries:
            expect(archive, header(entry.name, entry.size), f"the header of {entry.name}")
            with create(into, entry.name) as target:
                copy(archive, entry, target)
            expect(archive, padding(entry.size), f"the end of {entry.name}")
        expect(archive, bytes(2 * BLOCK), "its end")
        if archive.read(1):
            raise Refused("the archive is longer than it was signed")
    for name, content in ((MANIFEST, manifest), (SIGNATURE, signature)):
        with create(into, name) as target:
            target.write(content)
    return release


def create(into: Path | None, name: str) -> BinaryIO:
    """Create a new file in a folder; without a folder, a file in memory that keeps nothing."""
    if into is None:
        return Nowhere()
    (into / name).parent.mkdir(exist_ok=True)
    return (into / name).open("xb")


class Nowhere(io.BytesIO):
    """A file that forgets what is written."""

    def write(self, content: object) -> int:  # noqa: ARG002
        """Forget it."""
        return 0


# A folder that was unpacked


def verify_folder(folder: Path, public_key: bytes) -> Manifest:
    """Verify an unpacked release: each file, none missing, none extra, no link. Raises Refused."""
    found = {str(path.relative_to(folder)): path for path in walk(folder)}
    if not {MANIFEST, SIGNATURE} <= set(found):
        raise Refused(f"{MANIFEST} or {SIGNATURE} is missing")
    if found[MANIFEST].lstat().st_size > MOST_MANIFEST_BYTES or found[SIGNATURE].lstat().st_size > BLOCK:
        raise Refused("the manifest or the signature is too long")
    with reading(found[MANIFEST]) as manifest, reading(found[SIGNATURE]) as signature:
        release = check_signature(public_key, manifest.read(), signature.read())
    wanted = {entry.name for entry in release.entries} | {MANIFEST, SIGNATURE}
    if missing := sorted(wanted - set(found)):
        raise Refused(f"missing: {missing[0]}")
    if extra := sorted(set(found) - wanted):
        raise Refused(f"not in the manifest: {extra[0]!a}")
    for entry in release.entries:
        with reading(found[entry.name]) as source:
            copy(source, entry, None)
            if source.read(1):
                raise Refused(f"{entry.name} is not the signed file")
    return release


def walk(folder: Path) -> Iterator[Path]:
    """List the files of a folder. Raises Refused for a link, an empty folder, and what is neither file nor folder."""
    inner = sorted(folder.iterdir())
    if not inner:
        raise Refused(f"an empty folder that is not in the manifest: {folder.name!a}")
    for path in inner:
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            yield from walk(path)
        elif stat.S_ISREG(kind):
            yield path
        else:
            raise Refused(f"neither a file nor a folder: {path.name!a}")


def reading(path: Path) -> BinaryIO:
    """Open a file that is no link."""
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb")


# The command


def unpack(path: Path, public_key: bytes, into: Path) -> Manifest:
    """Verify an archive and unpack it into a new folder, which exists only if everything is right. Raises Refused."""
    if os.path.lexists(into):
        raise Refused(f"{into} exists already: name a new folder")
    unfinished = Path(tempfile.mkdtemp(prefix=".unverified-", dir=into.parent))  # only this user may enter
    try:
        release = verify_archive(path, public_key, unfinished)
        unfinished.rename(into)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return release


def key_of(text: str) -> bytes:
    """Read a public key: 64 hexadecimal digits, with or without spaces."""
    digits = "".join(text.split()).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise argparse.ArgumentTypeError("a public key is 64 hexadecimal digits")
    return bytes.fromhex(digits)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Verify a release of ynet; unpack what was verified.")
    parser.add_argument("release", type=Path, help="the archive, or a folder that was unpacked from it")
    parser.add_argument("--key", type=key_of, required=True, help="the public key: 64 hexadecimal digits")
    parser.add_argument("--into", type=Path, help="unpack the archive into this new folder")
    given = parser.parse_args(arguments)
    if given.into and given.release.is_dir():
        parser.error("--into is for an archive")
    try:
        if given.into:
            release = unpack(given.release, given.key, given.into)
        else:
            release = (verify_folder if given.release.is_dir() else verify_archive)(given.release, given.key)
    except (Refused, OSError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    total = sum(entry.size for entry in release.entries)
    print(f"verified: ynet {release.version}, commit {release.commit}")
    print(f"{len(release.entries)} files, {total:,} bytes, signed by {given.key.hex()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
