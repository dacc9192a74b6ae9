"""Case tokens: a token identifies a case to its own site and reveals nothing to others.

A token is the case's number, encrypted with AES-128 under a key of the site that differs for each gallery file and
model. So tokens need no storage, no two cases share one, and a token of an older model or of a rebuilt gallery decrypts
to no case.
"""

import hashlib
import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import UInt8, UInt32

from ynet.search.ranking import TOKEN_BYTES


class Tokens:
    """The tokens of one gallery's cases under one model. Any thread may call.

    `key` is the AES-128 key; ynet/search/topk.c computes the same tokens with it.
    """

    def __init__(self, secret: bytes, salt: bytes, model_id: str) -> None:
        """`secret` is the site's, `salt` the gallery file's."""
        self.key = hmac.new(secret, b"token\0" + salt + model_id.encode(), hashlib.sha256).digest()[:TOKEN_BYTES]
        # Every block is a different number followed by zeros, so ECB's weakness, equal blocks, cannot occur.
        self._cipher = Cipher(algorithms.AES128(self.key), modes.ECB())  # noqa: S305

    def of(self, case_ids: UInt32[np.ndarray, " cases"]) -> UInt8[np.ndarray, "cases 16"]:
        """Return the tokens of some cases."""
        blocks = np.zeros((len(case_ids), TOKEN_BYTES // 4), "<u4")
        blocks[:, 0] = case_ids
        enciphered = self._cipher.encryptor().update(blocks.tobytes())
        return np.frombuffer(enciphered, np.uint8).reshape(len(case_ids), TOKEN_BYTES)

    def case_id(self, token: bytes) -> int | None:
        """Return the number of a token's case; None for a token of another site, gallery or model."""
        if len(token) != TOKEN_BYTES:
            return None
        number, *rest = np.frombuffer(self._cipher.decryptor().update(token), "<u4").tolist()
        return None if any(rest) else int(number)
