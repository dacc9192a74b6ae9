"""Why a site gave no reply, as the error codes of Flower's messages."""

FAILED, REFUSED, LOST = 1001, 1002, 1003
"""The site tried and failed; it said no; it was lost, or late."""

FLOWERS_LOST = frozenset({3, 4, 5})
"""Flower's own: message unavailable, reply unavailable, node unavailable (flwr.common.constant.ErrorCode)."""


def is_lost(code: int) -> bool:
    """Whether a site was away, so that asking it again may help; else it answered, and would answer the same."""
    return code == LOST or code in FLOWERS_LOST
