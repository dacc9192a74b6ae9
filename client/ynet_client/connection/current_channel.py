"""The connection to the hub of the moment, for work that outlives it."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from ynet.federation import protocol

AGAIN_S = 0.2
BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,  # also a fault of the hub, which says so
        grpc.StatusCode.UNKNOWN,  # how gRPC calls the end of a stream whose channel was closed
        grpc.StatusCode.ABORTED,  # the hub took an upload for the newer of two
        grpc.StatusCode.OUT_OF_RANGE,  # an upload that was lost had added to the reply meanwhile
    }
)
"""After these a call is worth another try; the hub has not said no."""

Call = Callable[[grpc.aio.Channel, bool], Awaitable[None]]
"""Does something over a channel; told whether it was tried before."""


class CurrentChannel:
    """Up from the hub's welcome to the end of the connection."""

    def __init__(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._is_up = asyncio.Event()

    @property
    def channel(self) -> grpc.aio.Channel | None:
        """The channel, while it is up."""
        return self._channel

    def up(self, channel: grpc.aio.Channel) -> None:
        """The hub has said welcome."""
        self._channel = channel
        self._is_up.set()

    def down(self) -> None:
        """The connection has ended."""
        self._channel = None
        self._is_up.clear()

    async def opened(self) -> grpc.aio.Channel:
        """The channel, once it is up."""
        while self._channel is None:
            await self._is_up.wait()
        return self._channel

    async def persist(self, call: Call, *, is_once: bool = False) -> None:
        """Do a call, over as many connections as it takes, or over this one.

        Raises grpc.aio.AioRpcError when the hub says no.
        """
        is_again = False
        while True:
            channel = await self.opened()
            try:
                await call(channel, is_again)
            except grpc.aio.AioRpcError as error:
                if is_once or error.code() not in BROKEN or error.details() == protocol.SERVER_FAILED:
                    raise
            except asyncio.CancelledError:
                if (own := asyncio.current_task()) is None or own.cancelling():
                    raise
                # else it is the call that was cancelled: its channel was closed
            else:
                return
            is_again = True
            await asyncio.sleep(AGAIN_S)
