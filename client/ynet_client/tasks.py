"""What the hub has given a site to do: it goes on while the connection is lost, and the reply follows afterwards."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from ynet import memory
from ynet.errors import RefusedError, UserError
from ynet.federation import content, protocol, records
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet_client import transfers
from ynet_client.egress import Class, Count
from ynet_client.link import Call, Link
from ynet_client.transfers import Reply
from ynet_client.wanted import Look, everything

log = logging.getLogger("ynet.tasks")
LARGE_BYTES, MOST_LARGE = 16 << 20, 4
"""Messages of more bytes than that are large; how many of them a site has at a time."""

OF_KIND: dict[str, Class] = {
    records.INITIAL: "initial weights",
    records.TRAIN: "updates",
    records.EVALUATE: "figures",
    records.KEYS: "secure sums",
    records.MASK: "secure sums",
    records.OPEN: "secure sums",
}
"""The class of a reply to each kind of message of a run."""

Work = Callable[[str, Path, Callable[[], bool]], Awaitable[Content]]
"""The reply to one message of a run: its kind, its file, whether it was called off. Raises RefusedError to say no."""


@dataclass(eq=False)
class _Running:
    is_kept: bool  # over a lost connection: the hub waits
    is_cancelled: bool = False
    is_large: bool = False  # its message is, and was or is being fetched
    moving: "asyncio.Task[None] | None" = None  # what goes over the line for it now

    def call_off(self) -> None:
        self.is_cancelled = True
        if self.moving is not None:
            self.moving.cancel()


class Tasks:
    """The tasks that a site works on, or has the replies to."""

    def __init__(
        self,
        spool: Path,
        work: Work,
        link: Link,
        say: Callable[[str], None],
        count: Count,
        look: Look = everything,
    ) -> None:
        """`look` says of a message's beginning whether the rest is wanted."""
        self._look = look
        self._spool, self._work, self._link, self._say, self._count = spool, work, link, say, count
        self._running: dict[str, _Running] = {}

    def held(self) -> list[str]:
        """What the site has, for the hub to know when it comes back."""
        return [task_id for task_id, running in self._running.items() if not running.is_cancelled]

    def call_off(self, task_id: str) -> None:
        """Nobody waits for it any more."""
        if running := self._running.get(task_id):
            running.call_off()

    def lost(self) -> None:
        """The connection has ended: an older hub has answered for its tasks already."""
        for running in self._running.values():
            if not running.is_kept:
                running.call_off()

    def close(self) -> None:
        """The site leaves: nothing is gone on with."""
        for running in self._running.values():
            running.call_off()

    async def do(self, task: pb.Task, tell: Callable[[pb.FromSite], None]) -> None:
        """Fetch a task's content, work on it, send the reply; `tell` puts a message on its way over the stream."""
        if task.id in self._running:
            return  # the hub did not know that it is here
        if len(self._running) >= protocol.MAX_TASKS:
            tell(_failure(task, "the site has too much to do", refused=True))
            return
        running = self._running[task.id] = _Running(is_kept=task.within_s > 0)
        within_s = min(task.within_s, protocol.LONGEST_TASK_S) if running.is_kept else protocol.LONGEST_TASK_S
        late = asyncio.get_running_loop().call_later(within_s, running.call_off)
        received, reply = (self._spool / f"{kind}-{secrets.token_hex(8)}" for kind in ("in", "out"))
        try:
            failure = await self._reply(task, running, received, reply)
            if failure is not None:
                await self._over(running, _telling(tell, failure))
        except asyncio.CancelledError:
            if not running.is_cancelled:
                raise
        finally:
            late.cancel()
            del self._running[task.id]
            received.unlink(missing_ok=True)
            reply.unlink(missing_ok=True)
            memory.give_back()

    async def _reply(self, task: pb.Task, running: _Running, received: Path, reply: Path) -> pb.FromSite | None:
        """Do the task; what is to be said when it came to nothing."""
        try:
            await self._over(running, self._fetching(task, running, received))
            answer = await self._work(task.kind, received, lambda: running.is_cancelled)
            written = await asyncio.to_thread(content.write, reply, answer)
            del answer
            if not running.is_cancelled:
                made = Reply(task.id, reply, *written, OF_KIND.get(task.kind, "updates"))
                await self._over(running, self._uploading(made))
        except UserError as error:
            self._say(str(error))
            is_refused = isinstance(error, RefusedError)
            public = error.why if is_refused else "the site's data or settings do not allow it"
            return _failure(task, public, refused=is_refused)
        except grpc.aio.AioRpcError as error:
            self._say(f"a transfer was broken off: {error.code().name.lower().replace('_', ' ')}")
            return _failure(task, "a transfer was broken off", refused=False)
        except Exception:
            log.exception("a task failed")
            self._say("a task failed; this site's log says why")
            return _failure(task, "the site failed; its admin's log says why", refused=False)
        return None

    async def _over(self, running: _Running, call: Call) -> None:
        """Do a call over the line: once, or over as many connections as it takes when the hub waits so long."""
        if running.is_cancelled:
            raise asyncio.CancelledError
        running.moving = asyncio.create_task(self._link.persist(call, is_once=not running.is_kept))
        try:
            await running.moving
        finally:
            running.moving.cancel()
            running.moving = None

    def _fetching(self, task: pb.Task, running: _Running, path: Path) -> Call:
        async def fetch(channel: grpc.aio.Channel, is_again: bool) -> None:
            if not await transfers.fetch(
                channel, task.content, path, self._count, is_again=is_again, look=partial(self._look_at, running)
            ):
                await asyncio.to_thread(_without_arrays, path)

        return fetch

    def _look_at(self, running: _Running, path: Path, size_bytes: int) -> bool | None:
        """Few messages are large, and few of those are here at a time. Raises RefusedError."""
        is_wanted = self._look(path, size_bytes)
        if is_wanted and size_bytes > LARGE_BYTES and not running.is_large:
            if sum(one.is_large for one in self._running.values()) >= MOST_LARGE:
                raise RefusedError("a transfer was refused", "the site has too much to do", "tell the coordinator")
            running.is_large = True
        return is_wanted

    def _uploading(self, reply: Reply) -> Call:
        async def upload(channel: grpc.aio.Channel, is_again: bool) -> None:
            try:
                await transfers.upload(channel, reply, self._count, is_again=is_again)
            except grpc.aio.AioRpcError as error:
                if not is_again or error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                log.info("the reply has arrived, or is waited for no longer")

        return upload


def _without_arrays(path: Path) -> None:
    """Of a plan in which the site takes no part: what it is told of it is enough to say so."""
    head = content.head(path)
    content.write(path, Content(configs=head.configs() if head else {}))


def _telling(tell: Callable[[pb.FromSite], None], message: pb.FromSite) -> Call:
    async def say(_: grpc.aio.Channel, __: bool) -> None:
        tell(message)

    return say


def _failure(task: pb.Task, reason: str, *, refused: bool) -> pb.FromSite:
    return pb.FromSite(failure=pb.TaskFailure(task_id=task.id, refused=refused, reason=reason))
