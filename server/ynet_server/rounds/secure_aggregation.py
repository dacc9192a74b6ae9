"""The server's side of secure aggregation: it adds the sites' masked updates, and never sees a single unmasked update.

The sum is on disk before the server asks for the sites' own masks. A site gives its mask away for only one sum of a
round, so that a restarted server must continue with that sum.
"""

import datetime as dt
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ynet import weights
from ynet.errors import RefusedError, UserError
from ynet.federation import secure_sum
from ynet.federation.records import ARRAYS, CONFIG, KEYS, MASK, OF, OPEN, flat_weights
from ynet.federation.secure_sum import Masked, Offer, Purpose
from ynet.plan import Plan
from ynet.plan_sections import MOST_SECURE
from ynet.weights import Flat
from ynet_server.rounds.conversation import Conversation, SiteReply
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.rounds.site_report import SiteReport

PENDING, TOTAL = "sum.safetensors", "total"
POLL_S = 0.5


class Sum(NamedTuple):
    """A sum of masked updates, before the sites' own masks are removed."""

    round: int
    attempt: int
    total: Masked
    sites: Mapping[int, SiteReport]  # by node


class TooFewError(Exception):
    """Fewer sites than the quorum are left for a sum."""

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} sites are left")
        self.left = left


class LostError(Exception):
    """A sum that cannot be unmasked, since a site in it does not send its mask. The text names the site."""


class SecureSums:
    """The secure sums of one run: of its updates, or of something else (`of`)."""

    def __init__(self, talk: Conversation, plan: Plan, folder: RunFolder, of: str = "") -> None:
        self._talk, self._plan, self._folder = talk, plan, folder
        self._of: dict[str, str | int] = {OF: of} if of else {}
        self._path = folder.path / (f"{of}-{PENDING}" if of else PENDING)

    def check_offer(self, reply: SiteReply, purpose: Purpose) -> None:
        """Check that the other sites will accept the key that a site offers. Raises LookupError, UserError.

        Without this check, one bad offer would make every other site refuse the sum.
        """
        offer = _offer(reply)
        name = self._talk.name_of(reply.node)
        if name not in (str(reply.node), offer.site):  # a node without a name is named by its number
            raise UserError("offer", "it is another site's", "")
        secure_sum.check_offer(offer, purpose, dt.datetime.now(dt.UTC))

    def collect(
        self, replies: Sequence[SiteReply], purpose: Purpose, reports: Mapping[int, SiteReport], size: int
    ) -> Sum:
        """Add the masked updates of all sites that trained, and restart without the sites that are lost.

        Raises TooFewError when fewer than the quorum are left.
        """
        number, attempt, offers = purpose.round, purpose.attempt, _offers(replies)
        while len(offers) >= self._folder.quorum():
            masked = self._masked(number, attempt, offers, size)
            if len(masked) == len(offers):
                made = Sum(number, attempt, secure_sum.add_up(list(masked.values())), {n: reports[n] for n in masked})
                self._keep(made)
                return made
            attempt += 1
            self._folder.event(
                "sum_restarted", round=number, without=[self._talk.name_of(n) for n in offers if n not in masked]
            )
            purpose = purpose._replace(attempt=attempt)
            config = {**self._of, "server-round": number, "attempt": attempt}
            replies = self._talk.ask(number, KEYS, masked, partial(self.check_offer, purpose=purpose), **config)
            offers = _offers(replies)
        raise TooFewError(len(offers))

    def _masked(self, number: int, attempt: int, offers: Mapping[int, Offer], size: int) -> dict[int, Masked]:
        roster = secure_sum.roster_to_json(list(offers.values()))
        config = {**self._of, "server-round": number, "attempt": attempt, "roster": roster}
        replies = self._talk.ask(number, MASK, offers, partial(_vector, size=size), **config)
        return {reply.node: _vector(reply, size) for reply in replies}

    def read(self, made: Sum) -> Flat:
        """Collect the sites' own masks and unmask the mean of their updates, weighted by cases. Raises LostError."""
        own: dict[int, bytes] = {}
        config, self._talk.refusal = {**self._of, "server-round": made.round, "attempt": made.attempt}, ""
        until = time.monotonic() + self._plan.cohort.round_deadline_s
        while missing := [node for node in made.sites if node not in own]:
            if self._talk.refusal or time.monotonic() > until:
                silent = ", ".join(made.sites[node].site for node in missing)
                raise LostError(f"its secure sum has {silent} in it, which gave no mask to read it with")
            asked = sorted(set(missing) & set(self._talk.present()))
            own |= {r.node: _mask(r) for r in self._talk.ask(made.round, OPEN, asked, _mask, **config)}
            if len(own) < len(made.sites):
                time.sleep(POLL_S)
        try:
            total = secure_sum.unmask(made.total, list(own.values()))
        except RefusedError as error:
            raise LostError(error.why) from None
        return (total / sum(report.cases for report in made.sites.values())).astype(np.float32)

    # --- on the disk

    def pending(self, number: int) -> Sum | None:
        """The round's sum that an earlier process saved, if any."""
        if not self._path.exists():
            return None
        arrays, metadata = weights.load(self._path)
        about: dict[str, Any] = json.loads(metadata["sum"])
        if about["round"] != number:
            return None
        sites = {int(node): SiteReport(*report) for node, report in about["sites"].items()}
        return Sum(number, about["attempt"], secure_sum.from_wire(arrays[TOTAL]), sites)

    def _keep(self, made: Sum) -> None:
        about = {"round": made.round, "attempt": made.attempt, "sites": made.sites}
        weights.save(self._path, {TOTAL: secure_sum.to_wire(made.total)}, {"sum": json.dumps(about)})

    def forget(self) -> None:
        """Remove the saved sum once what follows from it is saved."""
        self._path.unlink(missing_ok=True)


def _offer(reply: SiteReply) -> Offer:
    return secure_sum.offer_from_json(str(reply.content[CONFIG]["offer"]))


def _offers(replies: Sequence[SiteReply]) -> dict[int, Offer]:
    """The offers of checked replies, by node: each name and key once, at most MOST_SECURE."""
    offers: dict[int, Offer] = {}
    for reply in replies:
        offer = _offer(reply)
        is_taken = any(offer.site == other.site or offer.key == other.key for other in offers.values())
        if len(offers) < MOST_SECURE and not is_taken:
            offers[reply.node] = offer
    return offers


def _vector(reply: SiteReply, size: int) -> Masked:
    masked = secure_sum.from_wire(flat_weights(reply.content.array_records[ARRAYS]))
    if masked.shape != (size,):
        raise UserError("update", f"it has {len(masked)} values, and the network {size}", "")
    return masked


def _mask(reply: SiteReply) -> bytes:
    key = bytes.fromhex(str(reply.content[CONFIG]["mask"]))
    if len(key) != secure_sum.MASK_KEY_BYTES:
        raise ValueError("no key")
    return key
