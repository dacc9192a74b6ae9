"""A reverse proxy in its own process: HTTPS in, HTTPS to one page, as hospitals put before their pages.

It writes X-Forwarded-For as nginx's $proxy_add_x_forwarded_for does. It forwards the Host header or, with --own-host,
its own name for the page, which is nginx's default. It prints its port. A request with X-Test-From is forwarded as one
from that address.
"""

import argparse
import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def proxied(certificate: Path, to: str, *arguments: str) -> Iterator[int]:
    """Run a proxy before `to` (host:port) with this certificate and key (PEM), and yield its port."""
    log = certificate.with_name(f"proxy-{time.monotonic_ns()}")
    command = [sys.executable, __file__, str(certificate), to, *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 20
        while not log.read_text().endswith("\n"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield int(log.read_text().split()[0])
    finally:
        process.kill()
        process.wait()


def rewritten(head: str, peer: str, own_host: str) -> str:
    """Return the head of a request as the page receives it."""
    first, *lines = head.split("\r\n")
    fields = [line.partition(": ")[::2] for line in lines if line]
    forwarded = [value for name, value in fields if name.lower() == "x-forwarded-for"]
    kept = [(name, value) for name, value in fields if name.lower() not in ("x-forwarded-for", "connection")]
    if own_host:
        kept = [(name, own_host if name.lower() == "host" else value) for name, value in kept]
    kept += [("X-Forwarded-For", ", ".join([*forwarded, peer])), ("Connection", "close")]
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in kept), "", ""])


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def _serve(settings: argparse.Namespace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    host, _, port = settings.to.rpartition(":")
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
        onward, page = await asyncio.open_connection(host.strip("[]"), int(port), ssl=unverified)
        claimed = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("x-test-from: ")]
        peer = claimed[0] if claimed else writer.get_extra_info("peername")[0]
        page.write(rewritten(head, peer, settings.to if settings.own_host else "").encode("latin-1"))
        up = asyncio.create_task(_copy(reader, page))
        await _copy(onward, writer)
        up.cancel()
        page.close()
    writer.close()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("certificate")
    parser.add_argument("to")
    parser.add_argument("--own-host", action="store_true")
    settings = parser.parse_args()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(settings.certificate)
    server = await asyncio.start_server(
        lambda reader, writer: _serve(settings, reader, writer), "127.0.0.1", 0, ssl=tls
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
