"""A site's part in secure aggregation: its update leaves masked, in exactly one sum per round.

A round has three steps. (1) After training the site stores its update and offers a fresh key. (2) The server sends the
roster of offers; the site checks it and sends the masked update. (3) When all masked updates have arrived, the server
asks each site for the key of its own mask. If one is missing, it asks the others for fresh keys and repeats step 2. A
site that has sent the key of its own mask refuses steps 1 and 2 for that round: the difference of two sums would be the
update of a single site.
"""

import datetime as dt
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ynet.errors import RefusedError
from ynet.federation import secure_sum
from ynet.federation.records import ARRAYS, CONFIG, flat_weights, weights_record
from ynet.federation.secure_sum import Keys, Purpose, refused, roster_from_json
from ynet.runtime.home import write_private
from ynet.trust.identity import Identity
from ynet.weights import Flat
from ynet_client import restored
from ynet_client.membership import membership
from ynet_client.settings import Policy
from ynet_client.training.consent import Consent
from ynet_client.training.request import RoundRequest, read_request

STATE, UPDATE = "sum", "sum.update"  # in the node's state, never sent; those of moments have `.moments` appended
OFFERED, MASKED, OPENED = "offered", "masked", "opened"
SUMMED = "summed.json"


class Party(NamedTuple):
    """A site's identity in a secure sum."""

    site: str
    own: Identity
    authority: bytes  # PEM; it must have issued the others' certificates
    home: Path | None  # holds which rounds were summed; None in an experiment, where the node's state holds it


FindParty = Callable[[Context, RoundRequest], Party]


def party_at(home: Path) -> Party | None:
    """Return the party of a home folder's membership; None when the site has not enrolled. Raises UserError."""
    member = membership.load(home)
    return member and Party(member.site, member.identity, member.authority, home)


def add_to(app: ClientApp, find: FindParty) -> None:
    """Add the handlers of the three messages of a secure sum to a ClientApp."""

    @app.query("keys")
    def keys(message: Message, context: Context) -> Message:
        request = read_request(message)
        made = renew(find(context, request), context, request)
        return Message(RecordDict({CONFIG: made}), reply_to=message)

    @app.query("mask")
    def mask(message: Message, context: Context) -> Message:
        request = read_request(message)
        masked = mask_update(find(context, request), context, request, dt.datetime.now(dt.UTC))
        return Message(RecordDict({ARRAYS: weights_record(masked)}), reply_to=message)

    @app.query("open")
    def open_(message: Message, context: Context) -> Message:
        request = read_request(message)
        key = give_own_mask(find(context, request), context, request)
        return Message(RecordDict({CONFIG: ConfigRecord({"mask": key.hex()})}), reply_to=message)


def check_unsummed(party: Party, context: Context, request: RoundRequest) -> None:
    """Raise RefusedError when the site's update of this round was summed already."""
    if party.home is not None:
        is_accepted = Consent(party.home, Policy()).decision_on(request.plan.id) == "accepted"
        restored.check_unsummed(party.home, request.plan.id, is_accepted=is_accepted)
    last = _last_summed(party, context, request)
    if request.round <= last:
        what = request.of or "update"
        raise refused(f"round {request.round} of this plan is over: this site's {what} of round {last} was summed")


def offer(party: Party, context: Context, request: RoundRequest, update: Flat, weight: int) -> ConfigRecord:
    """Store the update of a round, weighted by `weight`, and return the offer of a key that is sent instead."""
    context.state[_name(UPDATE, request)] = weights_record(update)
    return _keep(party, context, request, weight, request.begins)


def renew(party: Party, context: Context, request: RoundRequest) -> ConfigRecord:
    """Return an offer for the round's next attempt, after a site was lost. Raises RefusedError."""
    kept = _kept(context, request)
    if kept["stage"] == OPENED:
        raise refused("this site's update of the round was summed already")
    if request.attempt != kept["attempt"] + 1:
        raise refused(f"the next attempt is {kept['attempt'] + 1}, not {request.attempt}")
    return _keep(party, context, request, kept["weight"], kept["begins"])


def mask_update(party: Party, context: Context, request: RoundRequest, now: dt.datetime) -> Flat:
    """Return the update, masked for a roster, in its wire form; once per key. Raises RefusedError."""
    kept = _kept(context, request)
    if kept["stage"] != OFFERED or kept["attempt"] != request.attempt:
        raise refused("these keys were used already, or are of another attempt")
    keys = Keys(
        Purpose(request.plan.id, request.round, request.attempt, kept["begins"]),
        secure_sum.offer_from_json(kept["offer"]),
        kept["secret"],
        kept["own_mask"],
    )
    roster = roster_from_json(request.roster)
    secure_sum.check_roster(roster, keys.purpose, party.authority, request.plan.cohort.floor, now)
    context.state[_name(STATE, request)] = ConfigRecord(
        {**kept, "stage": MASKED, "secret": b""}
    )  # even if the masking fails
    update = flat_weights(context.state.array_records[_name(UPDATE, request)])
    return secure_sum.to_wire(secure_sum.mask(keys, update, kept["weight"], roster))


def give_own_mask(party: Party, context: Context, request: RoundRequest) -> bytes:
    """Return the key of the site's own mask, which opens the sum, and delete the update. Raises RefusedError."""
    kept = _kept(context, request)
    if kept["stage"] not in (MASKED, OPENED) or kept["attempt"] != request.attempt:
        raise refused("nothing was masked for this attempt")
    _record_summed(party, _recorded_as(request), request.round, is_again=kept["stage"] == OPENED)
    context.state[_name(STATE, request)] = ConfigRecord({**kept, "stage": OPENED})
    if (update := _name(UPDATE, request)) in context.state:
        del context.state[update]
    key: bytes = kept["own_mask"]
    return key


def _keep(party: Party, context: Context, request: RoundRequest, weight: int, begins: str) -> ConfigRecord:
    """Store fresh keys in the node's state and return the public offer."""
    purpose = Purpose(request.plan.id, request.round, request.attempt, begins)
    keys = secure_sum.fresh_keys(party.own, party.site, purpose)
    text = secure_sum.offer_to_json(keys.offer)
    kept: dict[str, Any] = {
        "plan": request.plan.id,
        "round": request.round,
        "attempt": request.attempt,
        "stage": OFFERED,
        "weight": weight,
        "begins": begins,
        "offer": text,
        "secret": keys.secret,
        "own_mask": keys.own_mask,
    }
    context.state[_name(STATE, request)] = ConfigRecord(kept)
    return ConfigRecord({"offer": text})


def _kept(context: Context, request: RoundRequest) -> dict[str, Any]:
    kept = context.state.config_records.get(_name(STATE, request))
    if kept is None or kept["plan"] != request.plan.id or kept["round"] != request.round:
        raise refused("this site has no update of that round; it may have restarted since")
    return dict(kept)


def _last_summed(party: Party, context: Context, request: RoundRequest) -> int:
    """Return the last round of a plan whose sum includes this site; 0 for none."""
    kept = context.state.config_records.get(_name(STATE, request))
    here = int(str(kept["round"])) if kept and kept["plan"] == request.plan.id and kept["stage"] == OPENED else 0
    return max(here, _recorded(party).get(_recorded_as(request), 0))


def _name(name: str, request: RoundRequest) -> str:
    """Return a name in the node's state; a sum of moments does not touch the same round's sum of updates."""
    return f"{name}.{request.of}" if request.of else name


def _recorded_as(request: RoundRequest) -> str:
    """Return the key in SUMMED: the plan's id, with what is summed if that is not updates."""
    return f"{request.plan.id}.{request.of}" if request.of else request.plan.id


def _recorded(party: Party) -> dict[str, int]:
    if party.home is None or not (party.home / SUMMED).exists():
        return {}
    try:
        return {str(plan): int(number) for plan, number in json.loads((party.home / SUMMED).read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError):
        raise RefusedError(
            "a secure sum was refused",
            "the site's record of its sums cannot be read",
            f"restore {SUMMED} in the site's home folder from a backup",
        ) from None


def _record_summed(party: Party, key: str, number: int, *, is_again: bool) -> None:
    """Record on disk that a round is summed. Raises RefusedError when another run summed it."""
    if party.home is None:
        return
    with (party.home / f"{SUMMED}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        recorded = _recorded(party)
        if recorded.get(key, 0) < number:
            write_private(party.home / SUMMED, json.dumps({**recorded, key: number}).encode())
        elif not is_again:
            raise refused("this site's update of the round was summed already")
