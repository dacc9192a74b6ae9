"""What a connection calls: the site's work, and the hooks that its owner may set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet_client import egress
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection import counted_channel, witness
from ynet_client.connection.download_limit import UNLIMITED, DownloadLimits
from ynet_client.connection.given_files import GivenFiles
from ynet_client.egress import Count
from ynet_client.membership import renewal, succession
from ynet_client.membership.peers import Confirmed, Everybody
from ynet_client.proxy import BY_ENVIRONMENT, Ways

EVERYBODY = Everybody()


class Work(Protocol):
    """What a site does with the messages that arrive. Each method runs in the event loop and must not block it."""

    def cases(self) -> int:
        """Return the number of training cases, for the greeting."""

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        """Return the reply to a message of a run, which is in a file. Raises RefusedError to refuse it."""

    async def answer(self, from_site: str, body: bytes) -> bytes:
        """Return the answer to a query. `from_site` is the site that sealed it, whatever the hub says."""

    async def witness(self, head: pb.LedgerHead) -> None:
        """Compare the privacy ledger with the head that the server saw. Raises LedgerError when they differ."""

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        """Adopt the model in use, which is new or announced again; `fetch` gets its file."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class SessionHooks:
    """What the owner of a session may add to it. The defaults record nothing, count nothing and admit everybody."""

    renew: renewal.Renew = renewal.never
    """Renews the site's certificate when it is due."""
    follow: succession.Follow = succession.unkept
    """Pins and drops authorities as the hub announces them."""
    exchange_heads: witness.Exchange = witness.exchange_nothing
    """Exchanges signed heads of the audit logs with the server."""
    sent: Count = egress.nowhere
    """Counts the bytes that leave, by class."""
    received: counted_channel.Count = counted_channel.uncounted
    """Counts the bytes that arrive, by method."""
    limits: DownloadLimits = UNLIMITED
    """Decide from a file's beginning whether the rest is fetched."""
    files: GivenFiles | None = None
    """Fetches the files that messages of runs rely on; without it, each message must carry all arrays."""
    peers: Confirmed = EVERYBODY
    """Says which other sites are asked and answered."""
    ways: Ways = BY_ENVIRONMENT
    """Chooses the proxy, if any, for an address."""
    copied: Callable[[], None] = _nothing
    """Is called when the server refused another process with this site's identity."""
