"""One HTTPS request to the server's enrolment port, through the proxy if one is set."""

import ssl
from http import HTTPStatus
from typing import NamedTuple

from ynet.trust.identity import HUB_NAME
from ynet_client.proxy import Way

MAX_BYTES = 1 << 20


class HttpReply(NamedTuple):
    """The reply."""

    status: int
    date: str  # the header; empty when it is missing
    content: bytes

    @property
    def is_good(self) -> bool:
        """Whether the status is no error."""
        return self.status < HTTPStatus.BAD_REQUEST


def exchange(way: Way, tls: ssl.SSLContext, method: str, path: str, within_s: float, body: bytes = b"") -> HttpReply:
    """Send a request. Raises OSError (ssl.SSLError and ProxyError included) and http.client.HTTPException."""
    import http.client  # takes 0.1 s to load, which help and completion do not need

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
