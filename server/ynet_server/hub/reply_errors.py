"""Why a site gave no reply, as the error codes of Flower's messages."""

FAILED, REFUSED, LOST, PASSING = 1001, 1002, 1003, 1004
"""The site tried and failed; it said no; it was lost, or late; it failed of what passes by itself."""

FLOWERS_LOST = frozenset({3, 4, 5})
"""Flower's own: message unavailable, reply unavailable, node unavailable (flwr.common.constant.ErrorCode)."""


def is_lost(code: int) -> bool:
    """Whether a site or its data were away: asking it again may help. Else it answered, and would answer the same."""
    return code in (LOST, PASSING) or code in FLOWERS_LOST
