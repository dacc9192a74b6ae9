"""The current connection to the hub, for work that outlives a single connection."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from ynet.federation import protocol

AGAIN_S = 0.2
BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,  # also a fault of the hub; its details say so
        grpc.StatusCode.UNKNOWN,  # gRPC's code for a stream whose channel was closed
        grpc.StatusCode.ABORTED,  # the hub preferred a newer upload of the same reply
        grpc.StatusCode.OUT_OF_RANGE,  # an upload that broke off had added to the reply
    }
)
"""Codes after which a call is retried: the hub has not refused it."""

Call = Callable[[grpc.aio.Channel, bool], Awaitable[None]]
"""Makes a call over a channel. The second argument says whether this is a retry."""


class CurrentChannel:
    """The channel, available from the hub's welcome to the end of the connection."""

    def __init__(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._is_up = asyncio.Event()

    @property
    def channel(self) -> grpc.aio.Channel | None:
        """The channel; None while there is no connection."""
        return self._channel

    def up(self, channel: grpc.aio.Channel) -> None:
        """Set the channel: the hub has accepted the connection."""
        self._channel = channel
        self._is_up.set()

    def down(self) -> None:
        """Clear the channel: the connection has ended."""
        self._channel = None
        self._is_up.clear()

    async def opened(self) -> grpc.aio.Channel:
        """Wait for the channel and return it."""
        while self._channel is None:
            await self._is_up.wait()
        return self._channel

    async def persist(self, call: Call, *, is_once: bool = False) -> None:
        """Make a call, retried over new connections until it succeeds; `is_once`: over one connection only.

        Raises grpc.aio.AioRpcError when the hub refuses it.
        """
        is_again = False
        while True:
            channel = await self.opened()
            try:
                await call(channel, is_again)
            except grpc.aio.AioRpcError as error:
                if is_once or error.code() not in BROKEN or error.details() == protocol.SERVER_FAILED:
                    raise
            except grpc.aio.UsageError:  # the channel was closed just before the call
                if is_once:
                    raise
            except asyncio.CancelledError:
                if (own := asyncio.current_task()) is None or own.cancelling():
                    raise
                # otherwise the call was cancelled because its channel was closed
            else:
                return
            is_again = True
            await asyncio.sleep(AGAIN_S)
