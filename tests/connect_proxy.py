"""An HTTP CONNECT proxy in its own process, as hospitals use between their machines and the internet.

It prints its port, then one line for each CONNECT with status and target.
"""

import argparse
import asyncio
import base64
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

REASONS = {200: "Connection established", 403: "Forbidden", 407: "Proxy Authentication Required", 502: "Bad Gateway"}


class Proxy:
    """A running proxy, as a test sees it."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._folder, self._arguments, self._logs, self.port = folder, arguments, list[Path](), 0
        self.start()

    def start(self) -> None:
        """Start the proxy; after `kill`, on the same port."""
        log = self._folder / f"proxy-{len(self._logs)}"
        command = [sys.executable, __file__, "--port", str(self.port), *self._arguments]
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        until = time.monotonic() + 20
        while not log.read_text().endswith("\n"):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        self.port = int(log.read_text().split()[0])
        self._logs.append(log)

    def asked(self) -> list[str]:
        """Return the requests so far with their status: `200 hub.example:8440`."""
        return [line for log in self._logs for line in log.read_text().splitlines()[1:]]

    def kill(self) -> None:
        """End the proxy and every connection through it."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def proxying(folder: Path, *arguments: str) -> Iterator[Proxy]:
    """Run a proxy inside the `with` block. `arguments`: see `main`."""
    folder.mkdir(exist_ok=True)
    proxy = Proxy(folder, arguments)
    try:
        yield proxy
    finally:
        proxy.kill()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(
    settings: argparse.Namespace, known: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split("\r\n")[0].split(" ")
        wanted = f"proxy-authorization:basic {base64.b64encode(settings.auth.encode()).decode()}".replace(" ", "")
        is_allowed = not settings.auth or wanted.lower() in head.lower().replace(" ", "")
        status = settings.refuse or (200 if is_allowed else 407)
        onward = None
        if method == "CONNECT" and status == 200:
            host, _, port = known.get(target, target).rpartition(":")
            host = known.get(host, host)
            try:
                onward = await asyncio.open_connection(host.strip("[]"), int(port))
            except OSError:
                status = 502
        print(status, target, flush=True)
        writer.write(f"HTTP/1.1 {status} {REASONS.get(status, 'No')}\r\n\r\n".encode())
        await writer.drain()
        if onward is not None:
            await asyncio.gather(_copy(reader, onward[1]), _copy(onward[0], writer))
    writer.close()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--auth", default="", help="required USER:PASSWORD")
    parser.add_argument("--refuse", type=int, default=0, help="answer every CONNECT with this status")
    parser.add_argument(
        "--knows", nargs="*", default=[], help="HOST:PORT=HOST:PORT, or HOST=HOST: names that only the proxy resolves"
    )
    settings = parser.parse_args()
    known = dict(one.split("=") for one in settings.knows)
    server = await asyncio.start_server(
        lambda reader, writer: _serve(settings, known, reader, writer), settings.host, settings.port
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
