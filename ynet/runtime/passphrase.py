"""A stream encrypted with a passphrase: scrypt derives the key, ChaCha20-Poly1305 encrypts the stream in parts.

A part's nonce is a random prefix, the part's number, and a flag for the last part (STREAM, Hoang et al., CRYPTO 2015).
So reordering, removing or truncating parts is detected.
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
"""scrypt's N, with r = 8 and p = 1: each guess takes 128 MiB of memory and a third of a second."""


class Sink(Protocol):
    """The target of an encrypted stream."""

    def write(self, data: bytes, /) -> int:
        """Write bytes; return their number."""


class Sealing:
    """Encrypts the bytes written to it. The stream is complete after `finish`."""

    def __init__(self, sink: Sink, passphrase: str) -> None:
        salt, prefix = os.urandom(SALT_BYTES), os.urandom(PREFIX_BYTES)
        self._sink, self._parts, self._held = sink, _Parts(passphrase, MAGIC + salt + prefix), bytearray()
        sink.write(MAGIC + salt + prefix)

    def write(self, data: bytes) -> int:
        """Encrypt some bytes."""
        self._held += data
        while len(self._held) > PART_BYTES:  # only `finish` knows the last part
            self._sink.write(self._parts.seal(bytes(self._held[:PART_BYTES]), is_last=False))
            del self._held[:PART_BYTES]
        return len(data)

    def finish(self) -> None:
        """Encrypt the rest and mark the end."""
        self._sink.write(self._parts.seal(bytes(self._held), is_last=True))


class Unsealing:
    """Decrypts a stream that `Sealing` wrote."""

    def __init__(self, file: BinaryIO, passphrase: str) -> None:
        """Read the header from the start of `file`.

        Raises:
            UserError: The file is not encrypted.
        """
        header = file.read(len(MAGIC) + SALT_BYTES + PREFIX_BYTES)
        if not header.startswith(MAGIC) or len(header) < len(MAGIC) + SALT_BYTES + PREFIX_BYTES:
            raise UserError("the file cannot be opened", "it is not encrypted", "give no passphrase")
        self._file, self._parts, self._held = file, _Parts(passphrase, header), io.BytesIO()
        self._next = file.read(PART_BYTES + TAG_BYTES)

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end.

        Raises:
            UserError: The passphrase is wrong, or the file was changed.
        """
        found = self._held.read(size)
        while len(found) < size and self._next:
            part, self._next = self._next, self._file.read(PART_BYTES + TAG_BYTES)
            self._held = io.BytesIO(self._parts.open(part, is_last=not self._next))
            found += self._held.read(size - len(found))
        return found


def is_sealed(file: BinaryIO) -> bool:
    """Return whether a file is encrypted. The file's position is 0 before and after."""
    begins = file.read(len(MAGIC))
    file.seek(0)
    return begins == MAGIC


class _Parts:
    """Encrypts or decrypts the parts of one stream, in order."""

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
            why = "the passphrase is wrong, or the file was changed or truncated"
            raise UserError("the file cannot be opened", why, "try the passphrase again, or another copy") from None

    def _nonce(self, is_last: bool) -> bytes:
        number, self._number = self._number, self._number + 1
        return self._header[-PREFIX_BYTES:] + number.to_bytes(4, "big") + bytes([is_last])
