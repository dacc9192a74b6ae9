"""Fetches the files that messages of runs rely on: each once, resumed after whatever interrupted it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import grpc

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet_client.connection import transfers
from ynet_client.connection.current_channel import Call
from ynet_client.egress import Count
from ynet_client.training.fixed_files import FixedFile, FixedFiles


class GivenFiles:
    """The files that a site fetches. Lives in the event loop."""

    def __init__(self, files: FixedFiles, fetched: Callable[[str], None] = lambda _: None) -> None:
        """`fetched` is told of each file that has arrived: what it is, its SHA-256 and its size."""
        self._files, self._fetched = files, fetched
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by SHA-256

    async def missing(self, task: pb.Task, received: Path, say: Callable[[str], None], count: Count) -> list[Call]:
        """Return the calls that fetch what a received message needs, of the files that its task names.

        Raises RefusedError when one is larger than the plan's network allows.
        """
        lacking = await asyncio.to_thread(self._files.lacking, task.kind, received)
        offered = {blob.sha256: blob for blob in task.files}
        return [self._fetching(file, offered[file.sha256], say, count) for file in lacking if file.sha256 in offered]

    def _fetching(self, file: FixedFile, blob: pb.Blob, say: Callable[[str], None], count: Count) -> Call:
        if blob.size_bytes > file.most_bytes:
            why = f"the file of the {file.what} is larger than its plan's network"
            raise RefusedError("a transfer was refused", why, "tell the coordinator")
        size = f"{blob.size_bytes / 1e6:.1f} MB"
        partial = self._files.partial(file)

        async def fetch(channel: grpc.aio.Channel, is_again: bool) -> None:
            async with self._locks[file.sha256]:
                if self._files.path(file).exists():
                    return
                if not is_again:
                    say(f"fetching the {file.what}, {size}" + ("; a part of it is here" if partial.exists() else ""))
                await transfers.fetch(channel, blob, partial, count, is_again=is_again)
                await asyncio.to_thread(self._files.store, file)
                self._fetched(f"{file.what} {file.sha256}, {blob.size_bytes} bytes")
                say(f"the {file.what} has arrived, {size}")

        return fetch
