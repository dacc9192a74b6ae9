"""Transfers of files: downloads from any offset, and replies that may arrive over several connections."""

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.runtime import private_files

MAX_TRANSFERS = 32
"""Downloads that one site may have under way at a time: each holds a file open."""
LEAST_PART_BYTES = 4_096

Context = grpc.aio.ServicerContext


class OfferedFile(NamedTuple):
    """A file that sites may fetch by its random name."""

    path: Path
    blob: pb.Blob


class OfferedFiles:
    """The files that sites may fetch."""

    def __init__(self) -> None:
        self._offers: dict[str, OfferedFile] = {}
        self._under_way: Counter[str] = Counter()

    def add(self, path: Path, sha256: str, size_bytes: int) -> pb.Blob:
        """Let sites fetch a file."""
        blob = pb.Blob(name=secrets.token_hex(16), sha256=sha256, size_bytes=size_bytes)
        self._offers[blob.name] = OfferedFile(path, blob)
        return blob

    def withdraw(self, blob: pb.Blob) -> None:
        """Let sites fetch it no longer."""
        self._offers.pop(blob.name, None)

    async def send(self, site: str, request: pb.DownloadRequest, context: Context) -> AsyncIterator[pb.Chunk]:
        """Send an offered file, starting at `offset`; it is read from disk part by part."""
        offer = self._offers.get(request.blob)
        if offer is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such file any more")
            return
        await limit(self._under_way[site] >= MAX_TRANSFERS, "transfers", context)
        asked = max(request.part_bytes, LEAST_PART_BYTES) if request.part_bytes else protocol.CHUNK_BYTES
        with more(self._under_way, site), offer.path.open("rb", buffering=0) as file:
            file.seek(min(request.offset, offer.blob.size_bytes))
            while data := file.read(min(asked, protocol.CHUNK_BYTES)):
                yield pb.Chunk(data=data)


class Arriving:
    """The arrived part of a reply, in a file. Only the newest upload adds to it, since a lost one may look alive."""

    def __init__(self, spool: Path, header: pb.UploadHeader) -> None:
        self.path, self.size = spool / f"in-{secrets.token_hex(8)}", 0
        self._announced, self._sha = (header.sha256, header.size_bytes), hashlib.sha256()
        self._adding: asyncio.Task[None] | None = None

    def is_of(self, header: pb.UploadHeader) -> bool:
        """Whether it is the reply that a header announces."""
        return self._announced == (header.sha256, header.size_bytes)

    def stop(self) -> None:
        """Cancel the upload that adds to it."""
        if self._adding is not None:
            self._adding.cancel()
            self._adding = None

    async def add(self, parts: AsyncIterator[pb.UploadPart]) -> bool:
        """Add an upload's parts, up to the announced size. Returns False when another upload has replaced this one."""
        self.stop()
        adding = self._adding = asyncio.create_task(self._write(parts))
        try:
            await adding
        except asyncio.CancelledError:
            if self._adding is not adding:
                return False
            raise
        finally:
            adding.cancel()
        return True

    @property
    def is_short(self) -> bool:
        """Whether a part of it has not arrived yet."""
        return self.size < self._announced[1]

    def whole(self) -> Path | None:
        """Its file, when size and digest are those announced."""
        if (self._sha.hexdigest(), self.size) != self._announced:
            return None
        return self.path.rename(self.path.with_suffix(".whole"))

    def discard(self) -> None:
        """Cancel the upload and remove the file."""
        self.stop()
        self.path.unlink(missing_ok=True)

    async def _write(self, parts: AsyncIterator[pb.UploadPart]) -> None:
        with open(self.path, "ab", buffering=0, opener=private_files.opener) as file:
            async for part in parts:
                self.size += len(part.data)
                if self.size > self._announced[1]:
                    return
                self._sha.update(part.data)
                if file.write(part.data) != len(part.data):
                    raise OSError("the disk is full")


@contextmanager
def more(under_way: "Counter[str]", site: str, amount: int = 1) -> Iterator[None]:
    """Count something of a site while the block runs."""
    under_way[site] += amount
    try:
        yield
    finally:
        under_way[site] -= amount


async def limit(is_reached: bool, of: str, context: Context) -> None:
    """End the call when a limit is reached."""
    if is_reached:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"too many {of} at a time")
