"""File transfers between a site and the hub. An interrupted transfer resumes."""

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
from ynet_client.connection.download_limit import IsWanted, accept_all
from ynet_client.egress import Class, Count, counted

AGAIN_PART_BYTES = 64 << 10
"""The size of one part of a resumed transfer. A part that breaks off is sent again, so it is small."""


class ReplyFile(NamedTuple):
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
    is_wanted: IsWanted = accept_all,
) -> bool:
    """Fetch a file to `path`, resuming after what `path` already holds, and check its digest.

    Args:
        channel: the connection to the hub.
        blob: the announced file.
        path: where it is written.
        count: counts the bytes of the request.
        is_again: this is a second attempt, so parts are small.
        is_wanted: is shown the partial file until it decides.

    Returns:
        False when `is_wanted` declined the rest of the file.

    Raises:
        grpc.aio.AioRpcError: the transfer broke off.
        UserError: what arrived is not the announced file.

    """
    if blob.size_bytes > protocol.MAX_BLOB_BYTES:
        raise RefusedError("a transfer was refused", "it is larger than any model may be", "tell the coordinator")
    request = counted(pb.DownloadRequest.SerializeToString, lambda _: "requests", count)
    call = channel.unary_stream(f"/{protocol.SERVICE}/Download", request, pb.Chunk.FromString)
    size = path.stat().st_size if path.exists() else 0
    was_begun, part_bytes = size > 0, AGAIN_PART_BYTES if is_again or size else 0
    sha = await asyncio.to_thread(_digest, path) if size else hashlib.sha256()
    if size < blob.size_bytes or not size:
        decision = is_wanted(path, blob.size_bytes) if size else None
        if decision is False:
            return False
        _check_room(path, blob.size_bytes - size)
        with open(path, "ab", buffering=0, opener=private_files.opener) as file:
            async for chunk in call(pb.DownloadRequest(blob=blob.name, offset=size, part_bytes=part_bytes)):
                size += len(chunk.data)
                if size > blob.size_bytes:
                    break
                sha.update(chunk.data)
                file.write(chunk.data)
                if decision is None and (decision := is_wanted(path, blob.size_bytes)) is False:
                    return False
    if size == blob.size_bytes and sha.hexdigest() == blob.sha256:
        return True
    path.unlink()
    if was_begun:  # `path` may have held a part of another file
        return await fetch(channel, blob, path, count, is_again=True, is_wanted=is_wanted)
    raise UserError("a transfer failed", "what arrived is not what was announced", "it will be tried again")


async def upload(channel: grpc.aio.Channel, reply: ReplyFile, count: Count, *, is_again: bool = False) -> None:
    """Send a reply; `is_again`: resume after what the hub has of it. Raises grpc.aio.AioRpcError."""
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
    """Return how many bytes of a reply the hub has; an older hub keeps none."""
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
    """Raise PassingError when the disk has no room for a file and the reserve."""
    if shutil.disk_usage(path.parent).free < size_bytes + FLOOR_BYTES:
        raise PassingError("a transfer was refused", "the site's disk has no room for it", "make room on the disk")


def _digest(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
