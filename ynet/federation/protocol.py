"""The protocol's versions, and the limits that both sides enforce."""

from typing import NamedTuple


class Spoken(NamedTuple):
    """The versions that one side speaks: from the oldest to the newest."""

    oldest: int
    newest: int


VERSION = 2
SPOKEN = Spoken(max(2, VERSION - 1), VERSION)
"""The versions of this ynet: the newest, and the one before. Version 1, whose hub could read queries, is dropped."""
SERVICE = "ynet.v1.Hub"

CHUNK_BYTES = 1 << 20
"""One part of a transfer; gRPC's own limit for a message is 4 MiB."""

SERVER_FAILED = "the server failed; its log says why"
"""The text that a site gets for a fault of the server. gRPC gives a broken connection the same status."""

MAX_QUERY_BYTES = 64 * 1_024
MAX_ANSWER_BYTES = 1 << 20
"""The largest query and answer of one site, before sealing."""
MAX_ENVELOPE_BYTES = 4 * 1_024
"""What sealing adds to a query or an answer at most: padding, the opening of a session, tags."""
MAX_CARD_BYTES = 8 * 1_024
PADDING_BYTES = 1_024
"""Queries and answers are padded to multiples of it before they are sealed."""
MAX_PADDED_BYTES = 64 * 1_024
"""The largest minimum to which an asking site may have answers padded, so that all answers have the same size."""
MAX_QUERY_S = 60.0
MAX_REASON_CHARACTERS = 500
MAX_LABEL = 64
"""Characters of a label, as in a plan."""
MAX_BLOB_BYTES = (4096 << 20) + (1 << 20)
"""The largest model that a server may be set to take, and what a message holds beside it."""
LONGEST_TASK_S = 7 * 86_400.0
"""A plan's longest deadline for a round, and the limit of a task without a deadline."""
MAX_TASKS = 32
MAX_OPEN_QUERIES = 256
"""The most tasks that a site works on at a time."""
MAX_OPEN_OF_ONE = 32
"""Queries that one site may have open at another, so that one asking site cannot use up an answering one."""

PING_EVERY_MS = 20_000
"""Both sides ping an idle connection this often, and drop it when no answer comes within PING_ANSWER_MS."""
PING_ANSWER_MS = 10_000


def plain(text: str, length: int) -> str:
    """A stranger's text made safe for a terminal: without control characters, and shortened."""
    return "".join(c if c.isprintable() else " " for c in text[:length])


def agreed(one: Spoken, other: Spoken) -> int | None:
    """The newest version that both sides speak."""
    version = min(one.newest, other.newest)
    return version if version >= max(one.oldest, other.oldest) else None


def told(newest: int, oldest: int) -> Spoken:
    """The versions that the other side reports; without an oldest version it speaks only its newest."""
    return Spoken(oldest or newest, newest)
