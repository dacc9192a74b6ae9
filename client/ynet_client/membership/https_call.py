"""One HTTPS request to the server's enrolment port, over the way that leads to it."""

import ssl
from http import HTTPStatus
from typing import NamedTuple

from ynet.trust.identity import HUB_NAME
from ynet_client.proxy import Way

MAX_BYTES = 1 << 20


class HttpReply(NamedTuple):
    """What came."""

    status: int
    date: str  # the header; empty where there is none
    content: bytes

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return self.status < HTTPStatus.BAD_REQUEST


def exchange(way: Way, tls: ssl.SSLContext, method: str, path: str, within_s: float, body: bytes = b"") -> HttpReply:
    """Ask for `path`. Raises OSError (of which ssl.SSLError and ProxyError are), http.client.HTTPException."""
    import http.client  # a tenth of a second that help and completion need not wait

    connection = http.client.HTTPConnection(HUB_NAME, timeout=within_s)
    with way.open(within_s) as plain:
        connection.sock = tls.wrap_socket(plain, server_hostname=HUB_NAME)
        try:
            connection.request(method, path, body or None, {"Host": str(way.target), "Connection": "close"})
            answer = connection.getresponse()
            content = answer.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise http.client.HTTPException("the answer is too large")
            return HttpReply(answer.status, answer.getheader("date", ""), content)
        finally:
            connection.close()
