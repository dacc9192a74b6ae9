"""Files on their way between a site and the hub. A transfer that broke off goes on from where it came to."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc

from ynet.errors import PassingError, RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.runtime import private_files
from ynet.runtime.reserve import FLOOR_BYTES
from ynet_client.connection.download_limit import Look, everything
from ynet_client.egress import Class, Count, counted

AGAIN_PART_BYTES = 64 << 10
"""One part of a transfer that goes on: of a line that breaks often, what a part had sent when it broke is lost."""


class Reply(NamedTuple):
    """The reply to a task, in a file."""

    task_id: str
    path: Path
    sha256: str
    size_bytes: int
    name: Class


async def fetch(
    channel: grpc.aio.Channel,
    blob: pb.Blob,
    path: Path,
    count: Count,
    *,
    is_again: bool = False,
    look: Look = everything,
) -> bool:
    """Fetch a file, part by part, beginning after what `path` holds of it, and check its digest.

    `look` is shown what has come until it says whether the rest is wanted; whether it was. Raises
    grpc.aio.AioRpcError when it broke off, and UserError for what is not the file that was announced.
    """
    if blob.size_bytes > protocol.MAX_BLOB_BYTES:
        raise RefusedError("a transfer was refused", "it is larger than any model may be", "tell the coordinator")
    request = counted(pb.DownloadRequest.SerializeToString, lambda _: "requests", count)
    call = channel.unary_stream(f"/{protocol.SERVICE}/Download", request, pb.Chunk.FromString)
    size = path.stat().st_size if path.exists() else 0
    was_begun, part_bytes = size > 0, AGAIN_PART_BYTES if is_again or size else 0
    sha = await asyncio.to_thread(_digest, path) if size else hashlib.sha256()
    if size < blob.size_bytes or not size:
        is_wanted = look(path, blob.size_bytes) if size else None
        if is_wanted is False:
            return False
        _check_room(path, blob.size_bytes - size)
        with open(path, "ab", buffering=0, opener=private_files.opener) as file:
            async for chunk in call(pb.DownloadRequest(blob=blob.name, offset=size, part_bytes=part_bytes)):
                size += len(chunk.data)
                if size > blob.size_bytes:
                    break
                sha.update(chunk.data)
                file.write(chunk.data)
                if is_wanted is None and (is_wanted := look(path, blob.size_bytes)) is False:
                    return False
    if size == blob.size_bytes and sha.hexdigest() == blob.sha256:
        return True
    path.unlink()
    if was_begun:  # perhaps of another file
        return await fetch(channel, blob, path, count, is_again=True, look=look)
    raise UserError("a transfer failed", "what arrived is not what was announced", "it will be tried again")


async def upload(channel: grpc.aio.Channel, reply: Reply, count: Count, *, is_again: bool = False) -> None:
    """Send a reply, beginning after what the hub has of it. Raises grpc.aio.AioRpcError."""
    header = pb.UploadHeader(task_id=reply.task_id, sha256=reply.sha256, size_bytes=reply.size_bytes)
    part_bytes = protocol.CHUNK_BYTES
    if is_again:
        header.offset, part_bytes = await _arrived(channel, header, count), AGAIN_PART_BYTES
    part = counted(pb.UploadPart.SerializeToString, lambda _: reply.name, count)
    send = channel.stream_unary(f"/{protocol.SERVICE}/Upload", part, pb.UploadReceipt.FromString)

    async def parts() -> AsyncIterator[pb.UploadPart]:
        yield pb.UploadPart(header=header)
        with reply.path.open("rb", buffering=0) as file:
            file.seek(header.offset)
            while data := file.read(part_bytes):
                yield pb.UploadPart(data=data)

    await send(parts())


async def _arrived(channel: grpc.aio.Channel, header: pb.UploadHeader, count: Count) -> int:
    """How much of a reply the hub has; an older hub keeps nothing."""
    request = counted(pb.UploadHeader.SerializeToString, lambda _: "requests", count)
    ask = channel.unary_unary(f"/{protocol.SERVICE}/Resume", request, pb.Resumed.FromString)
    try:
        offset: int = (await ask(header)).offset
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return 0
    return min(offset, header.size_bytes)


def _check_room(path: Path, size_bytes: int) -> None:
    """Whether the disk takes a file, and has room left for what must be written. Raises PassingError."""
    if shutil.disk_usage(path.parent).free < size_bytes + FLOOR_BYTES:
        raise PassingError("a transfer was refused", "the site's disk has no room for it", "make room on the disk")


def _digest(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
