"""What the hub has given a site to do: it goes on while the connection is lost, and the reply follows afterwards."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from ynet.errors import RefusedError, UserError
from ynet.federation import content, protocol, records
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.runtime import disk_faults, memory
from ynet_client.connection import transfers
from ynet_client.connection.current_channel import BROKEN, Call, CurrentChannel
from ynet_client.connection.download_limit import IsWanted, accept_all
from ynet_client.connection.transfers import ReplyFile
from ynet_client.egress import Class, Count
from ynet_client.training.patience import Patience

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

PASSING = "the site cannot reach its data, or its disk is full, at the moment"
NOT_ALLOWED = "the site's data or settings do not allow it"
FAULT = "the site failed; its admin's log says why"
"""All that the server is told of a fault at the site."""

Work = Callable[[str, Path, Callable[[], bool]], Awaitable[Content]]
"""The reply to one message of a run: its kind, its file, whether it was called off. Raises RefusedError to say no."""


@dataclass(eq=False)
class _Running:
    is_kept: bool  # over a lost connection: the hub waits
    is_cancelled: bool = False
    within_s: float = 0.0  # how long its reply is waited for
    is_large: bool = False  # its message is, and was or is being fetched
    moving: "asyncio.Task[None] | None" = None  # what goes over the line for it now, or waits for another try

    def call_off(self) -> None:
        self.is_cancelled = True
        if self.moving is not None:
            self.moving.cancel()


class ReceivedTasks:
    """The tasks that a site works on, or has the replies to."""

    def __init__(
        self,
        spool: Path,
        work: Work,
        channel: CurrentChannel,
        say: Callable[[str], None],
        count: Count,
        is_wanted: IsWanted = accept_all,
    ) -> None:
        """`is_wanted` says from the beginning of a message whether the rest is fetched."""
        self._is_wanted = is_wanted
        self._spool, self._work, self._channel, self._say, self._count = spool, work, channel, say, count
        self._running: dict[str, _Running] = {}
        self._patience = Patience(say)

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
        running.within_s = within_s
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
            written = await self._patience.keep(
                partial(self._worked, task.kind, running, received, reply), running.within_s, partial(_pause, running)
            )
            if not running.is_cancelled:
                made = ReplyFile(task.id, reply, *written, OF_KIND.get(task.kind, "updates"))
                await self._over(running, self._uploading(made))
        except grpc.aio.AioRpcError as error:
            self._say(f"a transfer was broken off: {error.code().name.lower().replace('_', ' ')}")
            is_broken = error.code() in BROKEN  # else the server has said no
            return _failure(task, "a transfer was broken off", refused=False, passing=is_broken)
        except Exception as error:  # noqa: BLE001 (whatever it was, the server is told that it failed)
            return self._failed(task, error)
        return None

    async def _worked(self, kind: str, running: _Running, received: Path, reply: Path) -> tuple[str, int]:
        """Do a task's work once, and write its reply; the file's digest and size."""
        answer = await self._work(kind, received, lambda: running.is_cancelled)
        return await asyncio.to_thread(content.write, reply, answer)

    def _failed(self, task: pb.Task, error: Exception) -> pb.FromSite:
        """Tell this site's people what went wrong; what the server is told of it."""
        if isinstance(error, UserError):
            self._say(str(error))
        else:
            log.error("a task failed", exc_info=error)
            self._say("a task failed; this site's log says why")
        if disk_faults.may_pass(error):
            return _failure(task, PASSING, refused=False, passing=True)
        if isinstance(error, RefusedError):
            return _failure(task, error.why, refused=True)
        is_theirs = isinstance(error, UserError)
        return _failure(task, NOT_ALLOWED if is_theirs else FAULT, refused=False)

    async def _over(self, running: _Running, call: Call) -> None:
        """Do a call over the line: once, or over as many connections as it takes when the hub waits so long."""
        if running.is_cancelled:
            raise asyncio.CancelledError
        running.moving = asyncio.create_task(self._channel.persist(call, is_once=not running.is_kept))
        try:
            await running.moving
        finally:
            running.moving.cancel()
            running.moving = None

    def _fetching(self, task: pb.Task, running: _Running, path: Path) -> Call:
        async def fetch(channel: grpc.aio.Channel, is_again: bool) -> None:
            if not await transfers.fetch(
                channel,
                task.content,
                path,
                self._count,
                is_again=is_again,
                is_wanted=partial(self._is_message_wanted, running),
            ):
                await asyncio.to_thread(_without_arrays, path)

        return fetch

    def _is_message_wanted(self, running: _Running, path: Path, size_bytes: int) -> bool | None:
        """Apply the limit, and refuse a large message when the site has too many. Raises RefusedError."""
        is_wanted = self._is_wanted(path, size_bytes)
        if is_wanted and size_bytes > LARGE_BYTES and not running.is_large:
            if sum(one.is_large for one in self._running.values()) >= MOST_LARGE:
                raise RefusedError("a transfer was refused", "the site has too much to do", "tell the coordinator")
            running.is_large = True
        return is_wanted

    def _uploading(self, reply: ReplyFile) -> Call:
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


async def _pause(running: _Running, wait_s: float) -> None:
    """Wait before another try; a task that is called off meanwhile ends at once, by CancelledError."""
    if running.is_cancelled:
        raise asyncio.CancelledError
    running.moving = asyncio.create_task(asyncio.sleep(wait_s))
    try:
        await running.moving
    finally:
        running.moving.cancel()
        running.moving = None


def _failure(task: pb.Task, reason: str, *, refused: bool, passing: bool = False) -> pb.FromSite:
    failure = pb.TaskFailure(task_id=task.id, refused=refused, reason=reason, passing=passing)
    return pb.FromSite(failure=failure)
