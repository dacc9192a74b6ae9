"""A stream sealed with a passphrase: scrypt makes the key of it, ChaCha20-Poly1305 seals the stream part by part.

The nonce of a part is a random prefix, the part's number, and whether it is the last (STREAM, Hoang et al., CRYPTO
2015): parts cannot be exchanged, left out or cut off unnoticed.
"""

import io
import os
from typing import BinaryIO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ynet.errors import UserError

MAGIC = b"ynet sealed 1\n"
SALT_BYTES, PREFIX_BYTES, TAG_BYTES = 16, 7, 16
PART_BYTES = 1 << 20
COST = 1 << 17
"""scrypt's N, with r = 8 and p = 1: 128 MiB of memory, and a third of a second, for each guess."""


class Sink(Protocol):
    """What a sealed stream is written into."""

    def write(self, data: bytes, /) -> int:
        """Write bytes; how many."""


class Sealing:
    """Seals what is written to it; whole only after `finish`."""

    def __init__(self, sink: Sink, passphrase: str) -> None:
        salt, prefix = os.urandom(SALT_BYTES), os.urandom(PREFIX_BYTES)
        self._sink, self._parts, self._held = sink, _Parts(passphrase, MAGIC + salt + prefix), bytearray()
        sink.write(MAGIC + salt + prefix)

    def write(self, data: bytes) -> int:
        """Seal some bytes."""
        self._held += data
        while len(self._held) > PART_BYTES:  # the last part is told by `finish` alone
            self._sink.write(self._parts.seal(bytes(self._held[:PART_BYTES]), is_last=False))
            del self._held[:PART_BYTES]
        return len(data)

    def finish(self) -> None:
        """Seal what is left, and the end."""
        self._sink.write(self._parts.seal(bytes(self._held), is_last=True))


class Unsealing:
    """Reads what `Sealing` has written."""

    def __init__(self, file: BinaryIO, passphrase: str) -> None:
        """`file` stands at its beginning. Raises UserError when it is not sealed."""
        header = file.read(len(MAGIC) + SALT_BYTES + PREFIX_BYTES)
        if not header.startswith(MAGIC) or len(header) < len(MAGIC) + SALT_BYTES + PREFIX_BYTES:
            raise UserError("the file cannot be opened", "it is not sealed with a passphrase", "give no passphrase")
        self._file, self._parts, self._held = file, _Parts(passphrase, header), io.BytesIO()
        self._next = file.read(PART_BYTES + TAG_BYTES)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer at the end alone. Raises UserError: another passphrase, or another file."""
        found = self._held.read(size)
        while len(found) < size and self._next:
            part, self._next = self._next, self._file.read(PART_BYTES + TAG_BYTES)
            self._held = io.BytesIO(self._parts.open(part, is_last=not self._next))
            found += self._held.read(size - len(found))
        return found


def is_sealed(file: BinaryIO) -> bool:
    """Whether a file, which stands at its beginning and does so afterwards, is sealed."""
    begins = file.read(len(MAGIC))
    file.seek(0)
    return begins == MAGIC


class _Parts:
    """The parts of one stream, in their order."""

    def __init__(self, passphrase: str, header: bytes) -> None:
        salt = header[len(MAGIC) : len(MAGIC) + SALT_BYTES]
        key = Scrypt(salt=salt, length=32, n=COST, r=8, p=1).derive(passphrase.encode())
        self._cipher, self._header, self._number = ChaCha20Poly1305(key), header, 0

    def seal(self, part: bytes, *, is_last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(is_last), part, self._header)

    def open(self, part: bytes, *, is_last: bool) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(is_last), part, self._header)
        except InvalidTag:
            why = "the passphrase is another one, or the file was changed or cut off"
            raise UserError("the file cannot be opened", why, "try the passphrase again, or another copy") from None

    def _nonce(self, is_last: bool) -> bytes:
        number, self._number = self._number, self._number + 1
        return self._header[-PREFIX_BYTES:] + number.to_bytes(4, "big") + bytes([is_last])
