"""Reads the releaser's private key, and signs a manifest with it."""

import getpass
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ynet.errors import UserError

MAKE = "make one outside the repository: (umask 077; openssl genpkey -algorithm ed25519 -out release-key.pem)"


def read_key(path: Path | None, repository: Path) -> Ed25519PrivateKey:
    """Read a private key in PEM; ask for its passphrase if it has one. Raises UserError."""
    if path is None:
        raise UserError("there is no key to sign the release", "KEY is not set", MAKE + "; then make release KEY=FILE")
    if path.resolve().is_relative_to(repository.resolve()):
        raise UserError("the key is not used", "it lies in the repository", "move it elsewhere")
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError("the key is not used", "others can read the file", f"chmod 600 {path}, or make a new key")
    try:
        pem = path.read_bytes()
        passphrase = getpass.getpass("passphrase of the key: ").encode() if b"ENCRYPTED" in pem else None
        key = load_pem_private_key(pem, passphrase)
    except (OSError, ValueError, TypeError) as error:
        raise UserError("the key cannot be read", type(error).__name__, MAKE) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError("the key cannot sign a release", "it is not an Ed25519 key", MAKE)
    return key


def sign(key: Ed25519PrivateKey, manifest: bytes) -> bytes:
    """Return the content of the file SIGNATURE."""
    return key.sign(manifest).hex().encode() + b"\n"


def public_digits(key: Ed25519PrivateKey) -> str:
    """Return the public key as people read it aloud: eight groups of eight digits."""
    digits = key.public_key().public_bytes_raw().hex()
    return " ".join(digits[start : start + 8] for start in range(0, 64, 8))
