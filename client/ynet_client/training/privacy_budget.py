"""What training may spend of a site's patients' privacy: asked before every private round, and recorded first."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ynet import weights
from ynet.errors import RefusedError
from ynet.learning import accountant
from ynet.learning.dp_sgd import Mechanism, mechanism
from ynet.plan import Plan
from ynet.trust.ledger import BudgetExhaustedError, ChainHead, Ledger, LedgerEntry, Reservation
from ynet.weights import Flat
from ynet_client import restored
from ynet_client.settings import PrivacySettings
from ynet_client.training.answered_evaluations import Scored, Scores, check_asked_for
from ynet_client.training.ledger_report import spent

UPDATE = "update.safetensors"
VALUES = "values"


class Asked(NamedTuple):
    """One private round."""

    plan: Plan
    round: int
    flat: Flat  # the weights that it begins with
    patients: int

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return hashlib.sha256(self.flat.tobytes()).hexdigest()


class Budget(Protocol):
    """Who says whether a round may be trained, and how."""

    def reserve(self, asked: Asked) -> Mechanism:
        """What the round's steps do, once they are recorded as spent. Raises RefusedError."""

    def keep(self, asked: Asked, update: Flat) -> None:
        """Keep what the round made, before it leaves."""

    def kept(self, asked: Asked) -> Flat | None:
        """What the same round made before, if it did: sending it again spends nothing."""

    def scores(self, asked: Asked, score: Callable[[], Scores]) -> Scores:
        """What `score` says of the weights after a round, where the plan lets it leave. Raises RefusedError."""

    @property
    def head(self) -> ChainHead | None:
        """How far the ledger goes, for a witness; None where there is none."""


class Mechanisms:
    """The mechanism of each plan, solved once: noise that is changed during a run would be another run's."""

    def __init__(self) -> None:
        self._solved: dict[tuple[str, int], Mechanism] = {}

    def of(self, plan: Plan, patients: int) -> Mechanism:
        """The plan's mechanism at a site of so many patients. Raises RefusedError."""
        _, delta = plan.privacy.bound
        if delta > 1 / patients:
            why = f"the plan's delta of {delta:g} is above 1 / {patients}, one over this site's patients"
            raise _refused(why, "ask the coordinator for a plan with a smaller delta")
        key = (plan.id, patients)
        if key not in self._solved:
            self._solved[key] = mechanism(plan, patients)
        return self._solved[key]


class Experiment:
    """The budget of an experiment on one machine, from which nothing is released: nothing is recorded."""

    def __init__(self) -> None:
        self._mechanisms = Mechanisms()

    def reserve(self, asked: Asked) -> Mechanism:
        """The round's mechanism. Raises RefusedError."""
        return self._mechanisms.of(asked.plan, asked.patients)

    def keep(self, asked: Asked, update: Flat) -> None:
        """Nothing is kept."""

    def kept(self, asked: Asked) -> Flat | None:  # noqa: ARG002
        """Nothing was kept."""
        return None

    def scores(self, asked: Asked, score: Callable[[], Scores]) -> Scores:
        """Its scores, as often as they are asked for: they leave nobody's machine. Raises RefusedError."""
        check_asked_for(asked.plan, asked.round)
        return score()

    @property
    def head(self) -> ChainHead | None:
        """There is no ledger."""
        return None


class Recorded:
    """The budget of a site, with the ledger in its home folder."""

    def __init__(self, home: Path, settings: PrivacySettings) -> None:
        """Raises LedgerError when the ledger cannot be trusted."""
        self._home, self._settings, self._mechanisms = home, settings, Mechanisms()
        self._ledger: Ledger | None = None
        self._seen: ChainHead | None = None  # what a witness was told before

    @property
    def ledger(self) -> Ledger:
        """The site's ledger, opened when it is first needed. Raises LedgerError."""
        if self._ledger is None:
            self._ledger = Ledger(self._home)
        if self._seen is not None:
            self._ledger.check_witness(self._seen)
        return self._ledger

    @property
    def head(self) -> ChainHead:
        """How far the ledger goes. Raises LedgerError."""
        return self.ledger.head

    def check_witness(self, seen: ChainHead) -> None:
        """Hold the ledger, from now on, against what a witness saw of it. Raises LedgerError when it is another."""
        if self._seen is None or seen.number >= self._seen.number:
            self._seen = seen
        _ = self.ledger

    def reserve(self, asked: Asked) -> Mechanism:
        """The round's mechanism, its steps recorded on the disk. Raises RefusedError, LedgerError."""
        restored.check_vouched(self._home, is_witnessed=self._seen is not None)
        plan, data, (_, delta) = asked.plan, self._settings.data, asked.plan.privacy.bound
        found = self._mechanisms.of(plan, asked.patients)
        begun = any(entry.plan == plan.id for entry in self.ledger.of(data))
        rest = () if begun else (found.spends(plan.training.rounds - 1),)  # a run must fit whole when it begins

        def allows(entries: Sequence[LedgerEntry]) -> None:
            if sum(entry.plan == plan.id for entry in entries) > plan.training.rounds:
                raise BudgetExhaustedError(
                    "the plan's own epsilon is spent",
                    f"all {plan.training.rounds} rounds of it were trained at this site",
                    "train a plan of another name, which is accounted beside it",
                )
            would = accountant.epsilon([*spent(entries), *(steps for steps in rest if steps.steps)], delta)
            if would > self._settings.max_epsilon:
                had = accountant.epsilon(spent(entries[:-1]), delta)
                raise BudgetExhaustedError(
                    "the site's privacy budget does not cover this training",
                    f"{had:.2f} of {self._settings.max_epsilon:g} is spent, with this plan it would be {would:.2f}",
                    "train with a smaller epsilon, or let the site's admin raise privacy.max_epsilon",
                )

        reservation = Reservation(
            plan.id,
            asked.round,
            plan.training.rounds,
            asked.digest,
            found.noise_multiplier,
            found.sampling_rate,
            found.steps,
            delta,
        )
        self.ledger.reserve(data, reservation, allows)
        return found

    def keep(self, asked: Asked, update: Flat) -> None:
        """Keep the newest round's update; its entry is used up."""
        about = {"plan": asked.plan.id, "round": str(asked.round), "weights": asked.digest}
        weights.save(self._home / UPDATE, {VALUES: update}, about)
        self.ledger.close_entry()

    def kept(self, asked: Asked) -> Flat | None:
        """The newest round's update, when it is this round's."""
        if not (self._home / UPDATE).exists():
            return None
        arrays, about = weights.load(self._home / UPDATE)
        same = {"plan": asked.plan.id, "round": str(asked.round), "weights": asked.digest}
        if {key: about.get(key) for key in same} != same:
            return None
        self.ledger.close_entry()  # a kill may have come between keeping the update and this
        return arrays[VALUES]

    def scores(self, asked: Asked, score: Callable[[], Scores]) -> Scores:
        """One set of weights for each round is scored, ever. Raises RefusedError, LedgerError."""
        entries = [entry for entry in self.ledger.entries if entry.plan == asked.plan.id]
        witnessed = self._seen is not None
        return Scored(self._home).answer(asked.plan, asked.round, asked.digest, score, entries, is_witnessed=witnessed)


def _refused(why: str, do: str) -> RefusedError:
    return RefusedError("private training was refused", why, do)
