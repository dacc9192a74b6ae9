"""The protocol's number and the limits that both sides hold each other to."""

VERSION = 1
SERVICE = "ynet.v1.Hub"

CHUNK_BYTES = 1 << 20
"""One part of a transfer; gRPC's own limit for a message is 4 MiB."""

MAX_QUERY_BYTES = 1_024
MAX_ANSWER_BYTES = 256 * 1_024
MAX_QUERY_S = 60.0
MAX_REASON_CHARACTERS = 500

PING_EVERY_MS = 20_000
"""Both sides ping an idle connection this often and give it up after PING_ANSWER_MS: a cut line is noticed."""
PING_ANSWER_MS = 10_000
