"""The tasks that the hub has sent. Work continues while the connection is lost; the reply is sent later."""

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
from ynet_client.connection.given_files import GivenFiles
from ynet_client.connection.transfers import ReplyFile
from ynet_client.egress import Class, Count
from ynet_client.training.patience import Patience

log = logging.getLogger("ynet.tasks")
LARGE_BYTES, MOST_LARGE = 16 << 20, 4
"""The size above which a message is large, and how many large messages a site accepts at a time."""

OF_KIND: dict[str, Class] = {
    records.INITIAL: "initial weights",
    records.TRAIN: "updates",
    records.FEATURES: "moments",
    records.EVALUATE: "figures",
    records.KEYS: "secure sums",
    records.MASK: "secure sums",
    records.OPEN: "secure sums",
}
"""The class that the reply to each kind of message is counted under."""

PASSING = "the site cannot read its data, or its disk is full, at the moment"
NOT_ALLOWED = "the site's data or settings do not allow it"
FAULT = "the site failed; its admin's log says why"
"""The only descriptions of a fault that are sent to the server."""

Work = Callable[[str, Path, Callable[[], bool]], Awaitable[Content]]
"""Returns the reply to a message of a run. Arguments: its kind, its file, and a function that says whether it was
cancelled. Raises RefusedError to refuse it."""


@dataclass(eq=False)
class _Running:
    is_kept: bool  # when the connection is lost: the hub waits
    is_cancelled: bool = False
    within_s: float = 0.0  # how long the hub waits for the reply
    is_large: bool = False  # its message is large, and was or is being fetched
    moving: "asyncio.Task[None] | None" = None  # its current transfer, or the wait before a retry

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
        files: GivenFiles | None = None,
    ) -> None:
        """`is_wanted` says from the beginning of a message whether the rest is fetched; `files` fetches its files."""
        self._is_wanted, self._files = is_wanted, files
        self._spool, self._work, self._channel, self._say, self._count = spool, work, channel, say, count
        self._running: dict[str, _Running] = {}
        self._patience = Patience(say)

    def held(self) -> list[str]:
        """Return the ids of the tasks, which the hub needs after a reconnect."""
        return [task_id for task_id, running in self._running.items() if not running.is_cancelled]

    def call_off(self, task_id: str) -> None:
        """Cancel a task: the hub no longer waits for it."""
        if running := self._running.get(task_id):
            running.call_off()

    def lost(self) -> None:
        """Handle the end of a connection: an older hub does not wait, so its tasks are cancelled."""
        for running in self._running.values():
            if not running.is_kept:
                running.call_off()

    def close(self) -> None:
        """Cancel all tasks: the site leaves."""
        for running in self._running.values():
            running.call_off()

    async def do(self, task: pb.Task, send: Callable[[pb.FromSite], None]) -> None:
        """Fetch a task's content, work on it, upload the reply. `send` sends a message over the stream."""
        if task.id in self._running:
            return  # the hub did not know that the site has it
        if len(self._running) >= protocol.MAX_TASKS:
            send(_failure(task, "the site has too much to do", refused=True))
            return
        running = self._running[task.id] = _Running(is_kept=task.within_s > 0)
        within_s = min(task.within_s, protocol.LONGEST_TASK_S) if running.is_kept else protocol.LONGEST_TASK_S
        running.within_s = within_s
        deadline = asyncio.get_running_loop().call_later(within_s, running.call_off)
        received, reply = (self._spool / f"{kind}-{secrets.token_hex(8)}" for kind in ("in", "out"))
        try:
            failure = await self._reply(task, running, received, reply)
            if failure is not None:
                await self._over(running, _sending(send, failure))
        except asyncio.CancelledError:
            if not running.is_cancelled:
                raise
        finally:
            deadline.cancel()
            del self._running[task.id]
            received.unlink(missing_ok=True)
            reply.unlink(missing_ok=True)
            memory.give_back()

    async def _reply(self, task: pb.Task, running: _Running, received: Path, reply: Path) -> pb.FromSite | None:
        """Do a task; return the failure to report, or None."""
        try:
            await self._over(running, self._fetching(task, running, received))
            if self._files is not None:
                for call in await self._files.missing(task, received, self._say, self._count):
                    await self._over(running, call)
            written = await self._patience.keep(
                partial(self._worked, task.kind, running, received, reply), running.within_s, partial(_pause, running)
            )
            if not running.is_cancelled:
                made = ReplyFile(task.id, reply, *written, OF_KIND.get(task.kind, "updates"))
                await self._over(running, self._uploading(made))
        except grpc.aio.AioRpcError as error:
            self._say(f"a transfer was broken off: {error.code().name.lower().replace('_', ' ')}")
            is_broken = error.code() in BROKEN  # otherwise the server has refused it
            return _failure(task, "a transfer was broken off", refused=False, passing=is_broken)
        except Exception as error:  # noqa: BLE001 (the server must learn of every failure)
            return self._failed(task, error)
        return None

    async def _worked(self, kind: str, running: _Running, received: Path, reply: Path) -> tuple[str, int]:
        """Do a task's work once and write its reply. Returns the file's digest and size."""
        answer = await self._work(kind, received, lambda: running.is_cancelled)
        return await asyncio.to_thread(content.write, reply, answer)

    def _failed(self, task: pb.Task, error: Exception) -> pb.FromSite:
        """Show a failure to the site's people; return what is reported to the server."""
        if isinstance(error, UserError):
            self._say(str(error))
        else:
            log.error("a task failed", exc_info=error)
            self._say("a task failed; this site's log says why")
        if disk_faults.may_pass(error):
            return _failure(task, PASSING, refused=False, passing=True)
        if isinstance(error, RefusedError):
            return _failure(task, error.why, refused=True)
        return _failure(task, NOT_ALLOWED if isinstance(error, UserError) else FAULT, refused=False)

    async def _over(self, running: _Running, call: Call) -> None:
        """Make a call to the hub, retried over new connections if the hub waits for the task."""
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
                log.info("the reply has arrived, or the hub no longer waits for it")

        return upload


def _without_arrays(path: Path) -> None:
    """Keep only the config of a message: the site takes no part in its plan and needs no weights to say so."""
    head = content.head(path)
    content.write(path, Content(configs=head.configs() if head else {}))


def _sending(send: Callable[[pb.FromSite], None], message: pb.FromSite) -> Call:
    async def call(_: grpc.aio.Channel, __: bool) -> None:
        send(message)

    return call


async def _pause(running: _Running, wait_s: float) -> None:
    """Wait before a retry. Raises CancelledError at once when the task is cancelled."""
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
