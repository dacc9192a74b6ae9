"""A Flower Grid over the hub's connections.

It uses public classes of Flower with one exception: a Message reads the run's id from TaskIdentity. SuperLink sets it;
outside of SuperLink this file does (Flower 1.41).
"""

import asyncio
import contextlib
import hashlib
import math
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from ynet.errors import UserError
from ynet.federation import content
from ynet.federation import hub_pb2 as pb
from ynet.federation.records import CONFIG, LEDGER, to_content, to_records
from ynet.trust.ledger import ChainHead
from ynet_server.hub.hub import Hub
from ynet_server.hub.reply_errors import FAILED, LOST
from ynet_server.hub.tasks import TaskError
from ynet_server.rounds.carried_arrays import GivenFile

LOOK_UP_EVERY_S = 0.25
LATE = "no answer before the deadline"


class LetGoError(Exception):
    """The run was cancelled, or the server stops. A missing answer is then no fault of a site."""


def node_id(site: str) -> int:
    """A site's node id in Flower: the first 63 bits of the SHA-256 of its name."""
    return int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big") >> 1


class _Sent(NamedTuple):
    message: Message
    future: Future[Path]


class HubGrid(Grid):
    """Flower's view of the connected sites. Used only by the thread that runs the ServerApp."""

    def __init__(
        self,
        hub: Hub,
        loop: asyncio.AbstractEventLoop,
        spool: Path,
        run_id: int,
        is_let_go: Callable[[], bool] = lambda: False,
    ) -> None:
        self._hub, self._loop, self._spool = hub, loop, spool
        self._sites: dict[int, str] = {}
        self._cases: dict[int, int] = {}
        self._sent: dict[str, _Sent] = {}
        self._run: Any = None
        self._files: list[pb.Blob] = []
        self._is_let_go = is_let_go
        TaskIdentity.run_id = run_id
        TaskIdentity.task_id = run_id
        TaskIdentity.node_id = 0

    def offer(self, files: Sequence[GivenFile]) -> None:
        """Offer files to the sites with each message from now on, in place of those offered before."""
        for blob in self._files:
            self._hub.withdraw(blob)
        self._files = [self._hub.offer(one.path, one.sha256, one.path.stat().st_size) for one in files]

    def name_of(self, node: int) -> str:
        """The site of a node that `get_node_ids` returned."""
        return self._sites[node]

    def cases_of(self, node: int) -> int:
        """The training cases that a site reported when this run first saw it."""
        return self._cases[node]

    def set_run(self, run: Any) -> None:
        """Keep Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """The description that `set_run` stored."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to one site."""
        return Message(content=content, message_type=message_type, dst_node_id=dst_node_id, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of the sites that can take a task now. Raises LetGoError."""
        self._check()
        present = self._hub.present()
        for site, state in present.items():
            self._sites[node_id(site)] = site
            self._cases.setdefault(node_id(site), state.cases)
        return [node_id(site) for site in present]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send each message to its site, and write a shared content once. Returns the messages' ids."""
        return self._push(messages, None)

    def _push(self, messages: Iterable[Message], within_s: float | None) -> list[str]:
        pushed, offers = [], _Offers(self._hub, self._loop, self._spool)
        for message in messages:
            metadata = message.metadata
            blob = offers.of(message.content)
            task = self._hub.task(self._sites[metadata.dst_node_id], metadata.message_type, blob, within_s, self._files)
            future = asyncio.run_coroutine_threadsafe(task, self._loop)
            offers.keep_until(blob, future)
            message_id = secrets.token_hex(8)
            self._sent[message_id] = _Sent(message, future)
            pushed.append(message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived, each once. A site that is lost, fails or refuses yields an error."""
        return [self._reply(self._sent.pop(i)) for i in message_ids if i in self._sent and self._sent[i].future.done()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, wait until every site has answered or `timeout` seconds have passed, and cancel the rest.

        Raises LetGoError.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        ids = self._push(messages, timeout)
        waited_for = {self._sent[i].future for i in ids}
        while waited_for and (left := until - time.monotonic()) > 0 and not self._is_let_go():
            waited_for = wait_for(waited_for, min(left, LOOK_UP_EVERY_S)).not_done
        for i in ids:
            self._sent[i].future.cancel()
        self._check()
        return list(self.pull_messages(ids))

    def send_and_keep(
        self, messages: Iterable[Message], *, timeout: float, open_s: float
    ) -> tuple[list[Message], dict[int, str]]:
        """As `send_and_receive`, but late tasks continue for `open_s` seconds. Also returns their ids by node.

        The answers hold an error for each late site. Raises LetGoError.
        """
        until = time.monotonic() + timeout
        ids = self._push(messages, open_s)
        waited_for = {self._sent[i].future for i in ids}
        while waited_for and (left := until - time.monotonic()) > 0 and not self._is_let_go():
            waited_for = wait_for(waited_for, min(left, LOOK_UP_EVERY_S)).not_done
        self._check()
        late = {i: self._sent[i].message for i in ids if not self._sent[i].future.done()}
        missing = [Message(Error(LOST, LATE), reply_to=message) for message in late.values()]
        answers = self.pull_messages(i for i in ids if i not in late)
        return [*answers, *missing], {message.metadata.dst_node_id: i for i, message in late.items()}

    def call_off(self, message_ids: Iterable[str]) -> None:
        """Cancel those of these messages that were not pulled yet, and remove their replies."""
        for message_id in message_ids:
            if (sent := self._sent.pop(message_id, None)) is not None and not sent.future.cancel():
                with contextlib.suppress(TaskError, CancelledError):
                    sent.future.result().unlink(missing_ok=True)

    def _check(self) -> None:
        if self._is_let_go():
            self.call_off(list(self._sent))
            raise LetGoError

    def _reply(self, sent: _Sent) -> Message:
        if sent.future.cancelled():
            return Message(Error(LOST, LATE), reply_to=sent.message)
        error = sent.future.exception()
        if isinstance(error, TaskError):
            return Message(Error(error.code, str(error)), reply_to=sent.message)
        path = sent.future.result()
        try:
            records = to_records(content.read(path))
            self._witness(self._sites[sent.message.metadata.dst_node_id], records)
            return Message(records, reply_to=sent.message)
        except UserError as refused:
            return Message(Error(FAILED, refused.why), reply_to=sent.message)
        finally:
            path.unlink(missing_ok=True)

    def _witness(self, site: str, records: RecordDict) -> None:
        """Store how far the site's privacy ledger goes, when the reply reports it."""
        if CONFIG in records.config_records and LEDGER in records.config_records[CONFIG]:
            with contextlib.suppress(ValueError, sqlite3.Error):  # an unreadable position proves nothing
                self._hub.saw_ledger(site, ChainHead.from_text(str(records.config_records[CONFIG][LEDGER])))


class _Offers:
    """The files of one push: one for each distinct content, withdrawn when the last task that needs it is done."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, spool: Path) -> None:
        self._hub, self._loop, self._spool = hub, loop, spool
        self._of: dict[int, tuple[RecordDict, pb.Blob, Path]] = {}
        self._users: dict[str, int] = {}

    def of(self, records: RecordDict) -> pb.Blob:
        if id(records) not in self._of:
            path = self._spool / f"out-{secrets.token_hex(8)}"
            written = content.write(path, to_content(records))
            self._of[id(records)] = (records, self._hub.offer(path, *written), path)
        return self._of[id(records)][1]

    def keep_until(self, blob: pb.Blob, future: "Future[Path]") -> None:
        self._users[blob.name] = self._users.get(blob.name, 0) + 1
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._release, blob))

    def _release(self, blob: pb.Blob) -> None:
        self._users[blob.name] -= 1
        if self._users[blob.name] == 0:
            self._hub.withdraw(blob)
            for key in [key for key, (_, offered, _) in self._of.items() if offered.name == blob.name]:
                self._of.pop(key)[2].unlink(missing_ok=True)
