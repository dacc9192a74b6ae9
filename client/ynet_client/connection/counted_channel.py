"""A channel to the hub that counts what comes over it, before it is read."""

from collections.abc import Callable
from typing import Any, cast

import grpc

Count = Callable[[str, int], None]
"""Told of each message as it arrives: the method's name and the size in bytes."""


def uncounted(_: str, __: int) -> None:
    """Of a site that does not count."""


def around(channel: grpc.aio.Channel, count: Count) -> grpc.aio.Channel:
    """A channel with the counting around its calls; whoever opened it closes it."""
    return cast(grpc.aio.Channel, CountedChannel(channel, count))


class CountedChannel:
    """The four sorts of calls of a `grpc.aio.Channel`, which it leaves to that one."""

    def __init__(self, channel: grpc.aio.Channel, count: Count) -> None:
        self._channel, self._count = channel, count

    def unary_unary(self, method: str, write: Any, read: Any) -> Any:
        """As the channel's."""
        return self._channel.unary_unary(method, write, self._counted(method, read))

    def unary_stream(self, method: str, write: Any, read: Any) -> Any:
        """As the channel's."""
        return self._channel.unary_stream(method, write, self._counted(method, read))

    def stream_unary(self, method: str, write: Any, read: Any) -> Any:
        """As the channel's."""
        return self._channel.stream_unary(method, write, self._counted(method, read))

    def stream_stream(self, method: str, write: Any, read: Any) -> Any:
        """As the channel's."""
        return self._channel.stream_stream(method, write, self._counted(method, read))

    def _counted(self, method: str, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        name, count = method.rpartition("/")[2].lower(), self._count

        def reading(data: bytes) -> Any:
            count(name, len(data))
            return read(data)

        return reading
