"""The tasks that sites have not answered yet.

A task outlives the connection over which it was sent. A site that reconnects reports the tasks that it still has; these
continue, and the others are sent again. A site that does not reconnect within GRACE_S is lost, with all its tasks.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet_server.clock import now
from ynet_server.hub.reply_errors import FAILED, LOST, PASSING, REFUSED
from ynet_server.hub.transfers import Arriving

GRACE_S = 60.0
"""Both ends notice a lost connection within 30 s, and a site retries at least every 15 s."""
MOST_GIVEN = 5
"""How often a task is sent. A site that has lost it each time, for example for want of memory, will lose it again."""

Send = Callable[[str, pb.ToSite], bool]
"""Queues a message for a site. Returns whether the site is connected."""


class TaskError(Exception):
    """A task that failed: the site refused, failed, or was lost. The text holds nothing confidential."""

    def __init__(self, reason: str, code: int = LOST) -> None:
        super().__init__(reason)
        self.code = code


class Doing(NamedTuple):
    """The newest task of a site, for display."""

    kind: str
    state: Literal["working", "answered", "failed", "called off"]
    since: float  # seconds since 1970


@dataclass(eq=False)
class OpenTask:
    """A message of the ServerApp that a site was sent."""

    id: str
    site: str
    kind: str
    content: pb.Blob
    files: Sequence[pb.Blob]  # with arrays that the content leaves out
    limit_bytes: int  # of its reply
    until: float  # in the loop's time
    done: asyncio.Future[Path]
    given: int = 0
    arriving: Arriving | None = None  # the part of its reply that has arrived

    def fail(self, error: TaskError) -> None:
        """Fail the task, unless it has ended already."""
        if not self.done.done():
            self.done.set_exception(error)


class OpenTasks:
    """The open tasks of all sites. Lives in the hub's event loop."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open: dict[str, OpenTask] = {}
        self.newest: dict[str, Doing] = {}  # of each site
        self._away: dict[str, asyncio.TimerHandle] = {}
        self._is_closed = False

    async def run(
        self,
        site: str,
        kind: str,
        content: pb.Blob,
        limit_bytes: int,
        within_s: float | None,
        files: Sequence[pb.Blob] = (),
    ) -> Path:
        """Send a task and wait for the reply. Returns the reply's file, which the caller must remove.

        The site is told how long the caller waits, `within_s`, and of the `files` that the content relies on.
        Cancelling this call cancels the task. Raises TaskError.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + (protocol.LONGEST_TASK_S if within_s is None else within_s)
        task = OpenTask(secrets.token_hex(16), site, kind, content, files, limit_bytes, until, loop.create_future())
        self._open[task.id] = task
        self.newest[site] = Doing(kind, "working", now())
        try:
            if not self._give(task) and site not in self._away:
                raise TaskError("the site is not connected")
            reply = await task.done
        except asyncio.CancelledError:
            self.newest[site] = Doing(kind, "called off", now())
            self._send(site, pb.ToSite(cancel=pb.Cancel(task_id=task.id)))
            raise
        except TaskError:
            self.newest[site] = Doing(kind, "failed", now())
            raise
        else:
            self.newest[site] = Doing(kind, "answered", now())
            return reply
        finally:
            del self._open[task.id]
            if task.arriving is not None:
                task.arriving.discard()

    def under_way(self) -> list[str]:
        """The kinds of the open tasks."""
        return [task.kind for task in self._open.values()]

    def find(self, task_id: str, site: str) -> OpenTask | None:
        """A site's open task with this id, if there is one."""
        task = self._open.get(task_id)
        return task if task is not None and task.site == site and not task.done.done() else None

    def expected(self) -> list[str]:
        """The sites that were lost a moment ago and may reconnect."""
        return list(self._away)

    def came(self, site: str, has: Sequence[str]) -> None:
        """Note that a site has connected with these tasks: cancel those that are not open, send those that it lacks."""
        if waiting := self._away.pop(site, None):
            waiting.cancel()
        has = has[: protocol.MAX_TASKS]
        for task_id in has:
            if self.find(task_id, site) is None:
                self._send(site, pb.ToSite(cancel=pb.Cancel(task_id=task_id)))
        for task in self._of(site):
            if task.id not in has:
                self._give(task)

    def lost(self, site: str, why: str, *, is_back_soon: bool) -> None:
        """Note that a site's connection has ended. Its tasks fail, now or when it does not reconnect in time."""
        if is_back_soon and not self._is_closed:
            self._away[site] = asyncio.get_running_loop().call_later(GRACE_S, self._give_up, site, why)
        else:
            self._give_up(site, why)

    def failed(self, site: str, failure: pb.TaskFailure) -> None:
        """Fail a task with the reason that its site reports."""
        if task := self.find(failure.task_id, site):
            reason = protocol.plain(failure.reason, protocol.MAX_REASON_CHARACTERS)
            code = PASSING if failure.passing else REFUSED if failure.refused else FAILED
            task.fail(TaskError(reason, code))

    def close(self) -> None:
        """Cancel all tasks, and wait for no site any more."""
        self._is_closed = True
        for task in self._open.values():
            self._send(task.site, pb.ToSite(cancel=pb.Cancel(task_id=task.id)))
        for site in {task.site for task in self._open.values()} | set(self._away):
            self._give_up(site, "the server stops")

    def _give(self, task: OpenTask) -> bool:
        if task.given == MOST_GIVEN:
            task.fail(TaskError("the site lost its work again and again"))
            return False
        left_s = max(0.1, task.until - asyncio.get_running_loop().time())
        message = pb.Task(id=task.id, kind=task.kind, content=task.content, within_s=left_s, files=task.files)
        is_sent = self._send(task.site, pb.ToSite(task=message))
        task.given += is_sent
        return is_sent

    def _give_up(self, site: str, why: str) -> None:
        if waiting := self._away.pop(site, None):
            waiting.cancel()
        for task in self._of(site):
            task.fail(TaskError(why))

    def _of(self, site: str) -> list[OpenTask]:
        return [task for task in self._open.values() if task.site == site and not task.done.done()]
