"""Wrap gRPC handlers: one place knows their four kinds; the hub's interceptors say what happens around a call."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NamedTuple

import grpc

Context = grpc.aio.ServicerContext


Stream = Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]
"""Wraps the messages of one direction of a call: returns those to pass on."""


def unchanged(messages: AsyncIterator[Any], _: Context) -> AsyncIterator[Any]:
    """Pass all messages on."""
    return messages


class Around(NamedTuple):
    """What happens around the calls of one method."""

    call: Callable[[Context], AbstractAsyncContextManager[None]]  # entered before the handler, left after it
    requests: Stream = unchanged  # of a call that streams requests only
    responses: Stream = unchanged  # of a call that streams responses
    received: Callable[[int], None] | None = None  # called with the size in bytes of each request
    sent: Callable[[int], None] | None = None  # called with the size in bytes of each response


class AroundCalls(grpc.aio.ServerInterceptor):
    """An interceptor that is written as what happens around a call."""

    @abstractmethod
    def around(self, method: str) -> Around | None:
        """What happens around calls of `method`, by its last name; None leaves the handler as it is."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler that follows."""
        handler: Any = await continuation(handler_call_details)
        around = self.around(str(handler_call_details.method).rpartition("/")[2])
        return handler if handler is None or around is None else wrapped(handler, around)


def wrapped(handler: Any, around: Around) -> Any:
    """The handler with `around` in place, whichever of the four kinds it is."""
    kind = next(name for name in _KINDS if getattr(handler, name) is not None)
    inner = getattr(handler, kind)
    if around.received is not None:
        handler = handler._replace(request_deserializer=_measured_read(handler.request_deserializer, around.received))
    if around.sent is not None:
        handler = handler._replace(response_serializer=_measured_write(handler.response_serializer, around.sent))
    if handler.response_streaming:

        async def streaming(request: Any, context: Context) -> AsyncIterator[Any]:
            async with (
                around.call(context),
                aclosing(inner(request, context)) as made,
                aclosing(around.responses(made, context)) as responses,  # type: ignore[type-var]
            ):
                async for response in responses:
                    yield response

        return handler._replace(**{kind: streaming})

    async def single(request: Any, context: Context) -> Any:
        async with around.call(context):
            return await inner(around.requests(request, context) if handler.request_streaming else request, context)

    return handler._replace(**{kind: single})


_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def _measured_read(read: Callable[[bytes], Any], measure: Callable[[int], None]) -> Callable[[bytes], Any]:
    def reading(data: bytes) -> Any:
        measure(len(data))
        return read(data)

    return reading


def _measured_write(write: Callable[[Any], bytes], measure: Callable[[int], None]) -> Callable[[Any], bytes]:
    def writing(message: Any) -> bytes:
        data = write(message)
        measure(len(data))
        return data

    return writing
