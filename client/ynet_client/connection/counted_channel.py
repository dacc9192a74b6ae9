"""A channel to the hub that counts received messages before they are parsed."""

from collections.abc import Callable
from typing import Any, cast

import grpc

Count = Callable[[str, int], None]
"""Is called for each message that arrives, with the method's name and the size in bytes."""


def uncounted(_: str, __: int) -> None:
    """Count nothing."""


def around(channel: grpc.aio.Channel, count: Count) -> grpc.aio.Channel:
    """Wrap a channel with counting. The caller that opened it closes it."""
    return cast(grpc.aio.Channel, CountedChannel(channel, count))


class CountedChannel:
    """A `grpc.aio.Channel` whose four kinds of calls count what they receive."""

    def __init__(self, channel: grpc.aio.Channel, count: Count) -> None:
        self._channel, self._count = channel, count

    def unary_unary(self, method: str, write: Any, read: Any) -> Any:
        """Call the channel's method."""
        return self._channel.unary_unary(method, write, self._counted(method, read))

    def unary_stream(self, method: str, write: Any, read: Any) -> Any:
        """Call the channel's method."""
        return self._channel.unary_stream(method, write, self._counted(method, read))

    def stream_unary(self, method: str, write: Any, read: Any) -> Any:
        """Call the channel's method."""
        return self._channel.stream_unary(method, write, self._counted(method, read))

    def stream_stream(self, method: str, write: Any, read: Any) -> Any:
        """Call the channel's method."""
        return self._channel.stream_stream(method, write, self._counted(method, read))

    def _counted(self, method: str, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        name, count = method.rpartition("/")[2].lower(), self._count

        def reading(data: bytes) -> Any:
            count(name, len(data))
            return read(data)

        return reading
