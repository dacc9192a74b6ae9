"""The call of a Flower ClientApp with one message, as Flower's own runtime does it."""

import time
from pathlib import Path

from flwr.app import Context, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from ynet.errors import RefusedError
from ynet.federation import content
from ynet.federation.content import Content
from ynet.federation.records import EVALUATE, FEATURES, INITIAL, KEYS, MASK, OPEN, TRAIN, to_content, to_records

KINDS = frozenset({INITIAL, TRAIN, FEATURES, EVALUATE, KEYS, MASK, OPEN})
LIFE_S = 7 * 86_400.0


def new_context() -> Context:
    """Create the state that a ClientApp keeps between messages."""
    return Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})


def load(path: Path) -> RecordDict:
    """Read a message's content in Flower's form. Raises RefusedError."""
    return to_records(content.read(path))


def call(app: ClientApp, context: Context, kind: str, received: RecordDict) -> Content:
    """Return the app's reply. Raises RefusedError for an unknown kind, and what the app raises."""
    if kind not in KINDS:
        raise RefusedError("a message of the server was refused", f"its kind {kind[:40]!r} is unknown", "update ynet")
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=LIFE_S,
        message_type=kind,
    )
    reply = app(Message(content=received, metadata=metadata), context)  # type: ignore[call-overload]
    return to_content(reply.content)
