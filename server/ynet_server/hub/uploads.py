"""Uploads of replies: a reply may arrive over several connections, and each upload resumes after the last one."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from ynet.federation import hub_pb2 as pb
from ynet_server.hub.peers import calling_site
from ynet_server.hub.tasks import OpenTask, OpenTasks
from ynet_server.hub.transfers import Arriving

Context = grpc.aio.ServicerContext


class Uploads:
    """The service's methods Resume and Upload. Lives in the hub's event loop."""

    def __init__(self, tasks: OpenTasks, spool: Path) -> None:
        self._tasks, self._spool = tasks, spool

    async def resume(self, header: pb.UploadHeader, context: Context) -> pb.Resumed:
        """How many bytes of a reply have arrived."""
        task = await self._awaited(header, context)
        if task.arriving is None or not task.arriving.is_of(header):
            return pb.Resumed()
        task.arriving.stop()
        return pb.Resumed(offset=task.arriving.size)

    async def upload(self, parts: AsyncIterator[pb.UploadPart], context: Context) -> pb.UploadReceipt:
        """Write the reply to a task to disk part by part, and complete the task once the digest is right."""
        parts = aiter(parts)
        header = (await anext(parts, pb.UploadPart())).header
        task = await self._awaited(header, context)
        arriving = await self._arriving(task, header, context)
        try:
            if not await arriving.add(parts):
                await context.abort(
                    grpc.StatusCode.ABORTED, "another upload of this reply has begun, or nobody waits for it"
                )
        except OSError:
            arriving.discard()
            task.arriving = None
            raise
        if not arriving.is_short and not task.done.done() and (whole := arriving.whole()):
            task.done.set_result(whole)
            return pb.UploadReceipt()
        if not arriving.is_short:
            arriving.discard()
            task.arriving = None
        await context.abort(grpc.StatusCode.DATA_LOSS, "the reply did not arrive whole")
        raise AssertionError

    async def _awaited(self, header: pb.UploadHeader, context: Context) -> OpenTask:
        """The task that a reply belongs to. Ends the call when there is none, or the reply is too large for it."""
        task = self._tasks.find(header.task_id, calling_site())
        if task is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody waits for this reply any more")
            raise AssertionError
        if header.size_bytes > task.limit_bytes:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the reply is larger than the server takes")
        return task

    async def _arriving(self, task: OpenTask, header: pb.UploadHeader, context: Context) -> Arriving:
        """The file that an upload adds to: the one of the same reply, or a new one."""
        found = task.arriving
        if header.offset:
            if found is None or not found.is_of(header) or found.size != header.offset:
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "that is not where the reply broke off")
                raise AssertionError
            return found
        if found is not None:
            found.discard()
        task.arriving = made = Arriving(self._spool, header)
        return made
