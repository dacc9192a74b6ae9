"""The protocol's versions, and the limits that both sides hold each other to."""

from typing import NamedTuple


class Spoken(NamedTuple):
    """The versions that one side speaks: from the oldest to the newest."""

    oldest: int
    newest: int


VERSION = 2
SPOKEN = Spoken(max(2, VERSION - 1), VERSION)
"""This ynet's: the newest, and the one before. Before 2 the hub could read queries: nothing speaks that any more."""
SERVICE = "ynet.v1.Hub"

CHUNK_BYTES = 1 << 20
"""One part of a transfer; gRPC's own limit for a message is 4 MiB."""

SERVER_FAILED = "the server failed; its log says why"
"""What a site is told of a fault of the server. gRPC gives a line that broke in a part the same status."""

MAX_QUERY_BYTES = 64 * 1_024
MAX_ANSWER_BYTES = 1 << 20
"""Of one site's query and answer, as the sites read them."""
MAX_ENVELOPE_BYTES = 4 * 1_024
"""What sealing adds to a query or an answer at most: padding, the opening of a session, tags."""
MAX_CARD_BYTES = 8 * 1_024
PADDING_BYTES = 1_024
"""Queries and answers are padded to multiples of it before they are sealed."""
MAX_PADDED_BYTES = 64 * 1_024
"""An asking site may have answers padded to this at least: a small answer, or none, then looks like any other."""
MAX_QUERY_S = 60.0
MAX_REASON_CHARACTERS = 500
MAX_LABEL = 64
"""Characters of a label, as in a plan."""
MAX_BLOB_BYTES = (4096 << 20) + (1 << 20)
"""The largest model that a server may be set to take, and what a message holds beside it."""
LONGEST_TASK_S = 7 * 86_400.0
"""A plan's longest deadline for a round; a task that names none is worked on no longer."""
MAX_TASKS = 32
MAX_OPEN_QUERIES = 256
"""What a site works on at a time."""
MAX_OPEN_OF_ONE = 32
"""Queries that one site may have open at another: no asking site takes all of an answering one."""

PING_EVERY_MS = 20_000
"""Both sides ping an idle connection this often and give it up after PING_ANSWER_MS: a cut line is noticed."""
PING_ANSWER_MS = 10_000


def plain(text: str, length: int) -> str:
    """A stranger's words as they may be shown on a terminal: no control characters, not too many."""
    return "".join(c if c.isprintable() else " " for c in text[:length])


def agreed(one: Spoken, other: Spoken) -> int | None:
    """The newest version that both sides speak."""
    version = min(one.newest, other.newest)
    return version if version >= max(one.oldest, other.oldest) else None


def told(newest: int, oldest: int) -> Spoken:
    """What the other side says that it speaks; one that names no oldest version speaks its newest alone."""
    return Spoken(oldest or newest, newest)
