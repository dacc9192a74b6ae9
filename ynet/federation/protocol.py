"""The protocol's number, and the limits that both sides hold each other to."""

VERSION = 1
SERVICE = "ynet.v1.Hub"

CHUNK_BYTES = 1 << 20
"""One part of a transfer; gRPC's own limit for a message is 4 MiB."""

MAX_QUERY_BYTES = 1_024
MAX_ANSWER_BYTES = 256 * 1_024
MAX_QUERY_S = 60.0
MAX_REASON_CHARACTERS = 500
MAX_BLOB_BYTES = (4096 << 20) + (1 << 20)
"""The largest model that a server may be set to take, and what a message holds beside it."""
MAX_TASKS = 32
MAX_OPEN_QUERIES = 256
"""What a site works on at a time."""

PING_EVERY_MS = 20_000
"""Both sides ping an idle connection this often and give it up after PING_ANSWER_MS: a cut line is noticed."""
PING_ANSWER_MS = 10_000


def plain(text: str, length: int) -> str:
    """A stranger's words as they may be shown on a terminal: no control characters, not too many."""
    return "".join(c if c.isprintable() else " " for c in text[:length])
