"""Why a site gave no reply, as the error codes of Flower's messages."""

FAILED, REFUSED, LOST, PASSING = 1001, 1002, 1003, 1004
"""The site failed; it refused; it was lost or late; it had a temporary fault."""

FLOWERS_LOST = frozenset({3, 4, 5})
"""Flower's own: message unavailable, reply unavailable, node unavailable (flwr.common.constant.ErrorCode)."""


def is_lost(code: int) -> bool:
    """Whether a site or its data were away, so that asking again may help."""
    return code in (LOST, PASSING) or code in FLOWERS_LOST
