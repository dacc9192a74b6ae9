"""`ynet-server start` that also records every byte between the hub and its sites."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from ynet.runtime import terminal
from ynet.runtime.home import prepare
from ynet_server import settings as server_settings
from ynet_server.process import serve


class Recorder(grpc.aio.ServerInterceptor):
    """An interceptor that appends to a file: a line with method, direction and size, then the bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        read, write, method = handler.request_deserializer, handler.response_serializer, handler_call_details.method

        def received(data: bytes) -> Any:
            self._note(method, "in", data)
            return read(data)

        def sent(message: Any) -> bytes:
            data: bytes = write(message)
            self._note(method, "out", data)
            return data

        return handler._replace(request_deserializer=received, response_serializer=sent)

    def _note(self, method: str, direction: str, data: bytes) -> None:
        self._file.write(f"\n{method} {direction} {len(data)}\n".encode() + data)


def main() -> None:
    home, config, record = (Path(argument) for argument in sys.argv[1:])
    settings = server_settings.load(prepare(home), config)
    terminal.log_to(home / "server.log")
    asyncio.run(serve(home, settings, lambda line: print(line, flush=True), [Recorder(record)]))


if __name__ == "__main__":
    main()
