"""The server's request to a site's ClientApp: arrays and a config of known keys. Anything else is refused."""

from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message

from ynet import __version__
from ynet import plan as plans
from ynet.errors import RefusedError, UserError
from ynet.federation import secure_sum
from ynet.federation.records import (
    ARRAYS,
    CONFIG,
    COOLDOWN_ROUND,
    COOLDOWN_ROUNDS,
    FINAL,
    FIXED,
    MOMENTS,
    OF,
    flat_weights,
)
from ynet.plan import Plan
from ynet.schedule import AUTO, Cooldown
from ynet.weights import Flat
from ynet_client.training.fixed_files import read_rest

OF_AUTO = frozenset({COOLDOWN_ROUND, COOLDOWN_ROUNDS, FINAL})
"""Keys that only a plan with `training.rounds: auto` has."""
KNOWN_KEYS = frozenset({"plan", "layout", "server-round", "proximal-mu", "attempt", "roster", OF, FIXED}) | OF_AUTO
MOST_ATTEMPTS = 1000


class RoundRequest(NamedTuple):
    """A valid request."""

    plan: Plan
    round: int
    proximal_mu: float
    flat: Flat | None
    attempt: int  # of a secure sum, from 1
    roster: str
    cooldown: Cooldown | None  # the round's place in the server's cool-down
    is_final: bool  # whether its weights are the result of the run
    layout: str  # of the arrays that it carries, as JSON
    fixed: str  # SHA-256 of the run's file of fixed arrays; empty where it has none
    of: str = ""  # what is summed in a secure sum: MOMENTS, or else updates

    @property
    def begins(self) -> str:
        """A digest of what is summed, weights, proximal_mu and cool-down. All sites of a sum must have the same."""
        return secure_sum.beginning(self.flat, self.proximal_mu, self.cooldown, self.fixed, self.of)


def read_request(message: Message) -> RoundRequest:
    """Read a request. Raises RefusedError when it holds anything but arrays and known settings."""
    content = message.content
    if set(content.metric_records) or set(content.config_records) != {CONFIG} or set(content.array_records) - {ARRAYS}:
        raise refused("it holds records that no round has")
    config = content.config_records[CONFIG]
    if unknown := set(config) - KNOWN_KEYS:
        raise refused(f"its config has the unknown key {sorted(unknown)[0][:40]!r}")
    if not isinstance(config.get("plan"), str):
        raise refused("it names no plan")
    try:
        plan = plans.from_canonical(str(config["plan"]))
    except UserError as error:
        raise refused(f"its plan cannot be read by ynet {__version__}, which this site has: {error.what}") from None
    mu = config.get("proximal-mu", 0.0)
    if not isinstance(mu, int | float) or not 0 <= mu <= 1000 or (mu and plan.training.strategy != "fedprox"):
        raise refused("its proximal-mu does not fit the plan")
    if plan.training.rounds != AUTO and (wrong := OF_AUTO & set(config)):
        raise refused(f"its config has the key {sorted(wrong)[0]!r}, which does not fit the plan")
    number = _whole(config, "server-round", 0, plan.training.most_rounds)
    return RoundRequest(
        plan,
        number,
        float(mu),
        _weights(content.array_records.get(ARRAYS)),
        _whole(config, "attempt", 1, MOST_ATTEMPTS),
        str(config.get("roster", "")),
        _cooldown(config, plan.training.most_rounds),
        config.get(FINAL, number == plan.training.rounds) is True,
        str(config.get("layout", "")),
        read_rest(config.get(FIXED)),
        _of(config),
    )


def _of(config: ConfigRecord) -> str:
    of = config.get(OF, "")
    if of not in ("", MOMENTS):
        raise refused("it asks for the sum of something unknown")
    return str(of)


def _cooldown(config: ConfigRecord, most: int) -> Cooldown | None:
    """Return the round's place in the cool-down; None outside of one."""
    if not {COOLDOWN_ROUND, COOLDOWN_ROUNDS} & set(config):
        return None
    rounds = _whole(config, COOLDOWN_ROUNDS, 1, most)
    return Cooldown(_whole(config, COOLDOWN_ROUND, 1, rounds), rounds)


def _weights(record: ArrayRecord | None) -> Flat | None:
    """Return the values of a message's blocks, shape (values,)."""
    if record is None:
        return None
    try:
        flat = flat_weights(record)
    except ValueError:
        flat = None
    if flat is None or flat.ndim != 1:
        raise refused("its weights are not in blocks of float32 values")
    return flat


def _whole(config: ConfigRecord, key: str, least: int, most: int) -> int:
    number = config.get(key, least)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise refused(f"its {key} is no whole number from {least} to {most}")
    return number


def refused(why: str) -> RefusedError:
    """Return the refusal of a message. The server reads it."""
    return RefusedError("a message of the server was refused", why, "ask the coordinator which ynet version to install")
