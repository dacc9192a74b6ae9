"""Case tokens: what names a case to its own site, and says nothing to any other.

A token is the case's number, enciphered with AES-128: a permutation of 16-byte blocks under a key of the site's own,
another for each gallery file and model. So tokens need no place of their own, no two cases share one, and one that was
given out under an older model, or by a gallery that was since built anew, opens to nothing.
"""

import hashlib
import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import UInt8, UInt32

from ynet.search.ranking import TOKEN_BYTES


class Tokens:
    """The tokens of one gallery's cases under one model. Any thread may call.

    `key` is that of AES-128: ynet/search/topk.c makes tokens of its own with it, the same.
    """

    def __init__(self, secret: bytes, salt: bytes, model_id: str) -> None:
        """`secret` is the site's, `salt` the gallery file's."""
        self.key = hmac.new(secret, b"token\0" + salt + model_id.encode(), hashlib.sha256).digest()[:TOKEN_BYTES]
        # Each block is another case's number, zeros behind it: what ECB is ill-famed for cannot happen.
        self._cipher = Cipher(algorithms.AES128(self.key), modes.ECB())  # noqa: S305

    def of(self, case_ids: UInt32[np.ndarray, " cases"]) -> UInt8[np.ndarray, "cases 16"]:
        """The tokens of some cases."""
        blocks = np.zeros((len(case_ids), TOKEN_BYTES // 4), "<u4")
        blocks[:, 0] = case_ids
        enciphered = self._cipher.encryptor().update(blocks.tobytes())
        return np.frombuffer(enciphered, np.uint8).reshape(len(case_ids), TOKEN_BYTES)

    def case_id(self, token: bytes) -> int | None:
        """The case that a token names; None for a token of another site, gallery or model."""
        if len(token) != TOKEN_BYTES:
            return None
        number, *rest = np.frombuffer(self._cipher.decryptor().update(token), "<u4").tolist()
        return None if any(rest) else int(number)
