"""What a failed call to the hub means for the site: a permanent refusal, or a reason to try again."""

import re

import grpc

from ynet import __version__
from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet_client.proxy import refusal

PERMANENT = {
    grpc.StatusCode.UNAUTHENTICATED: "ask the coordinator for a new invitation, and join with it",
    grpc.StatusCode.FAILED_PRECONDITION: "update this site's ynet to the server's version, and join again",
}
"""The codes after which a retry is useless, each with what the site admin does."""
SERVER_IS_BEHIND = "ask the coordinator to update the server's ynet; until then, install the server's version here"
PROXY_REFUSED = re.compile(r"HTTP proxy returned response code (\d{3})")


def reason_to_retry(error: grpc.aio.AioRpcError) -> str:
    """Return why a connection failed, in a few words. Raises RefusedError when a retry is useless."""
    do, details = PERMANENT.get(error.code()), error.details() or ""
    if do is None:
        return _name(error)
    if "update the server" in details:
        do = SERVER_IS_BEHIND
    if "only asks" in details:
        do = "join with training cases (--trains --data MANIFEST.csv), or talk to the coordinator"
    if "revoked" in details:
        do = "ask the coordinator why; a new invitation (ynet-server invite SITE --replace) lets the site in again"
    why = protocol.plain(details or "it gave no reason", 500)
    raise RefusedError("the server does not let this site in", why, do)


def check_version(welcome: pb.Welcome) -> None:
    """Raise RefusedError when the hub chose a protocol version that this site did not offer."""
    if not protocol.SPOKEN.oldest <= welcome.protocol <= protocol.SPOKEN.newest:
        why = f"the server chose protocol {welcome.protocol}, which this site (ynet {__version__}) did not offer"
        raise RefusedError("the server cannot be understood", why, "tell the coordinator")


def _name(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.ALREADY_EXISTS:
        return protocol.plain(error.details() or "this site is already connected from elsewhere", 500)
    if refused := PROXY_REFUSED.search(error.details() or ""):
        return f"the proxy answers {refusal(int(refused[1]))}"
    return error.code().name.lower().replace("_", " ")
