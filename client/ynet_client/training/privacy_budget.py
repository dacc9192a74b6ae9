"""A site's privacy budget: each private round is recorded as spent before it is trained."""

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
from ynet_client.training.answered_evaluations import AnsweredEvaluations, Scores, check_asked_for
from ynet_client.training.ledger_report import spent

UPDATE = "update.safetensors"
VALUES = "values"


class PrivateRound(NamedTuple):
    """One round of a private plan."""

    plan: Plan
    round: int
    flat: Flat  # the weights at its beginning
    patients: int

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return hashlib.sha256(self.flat.tobytes()).hexdigest()


class Budget(Protocol):
    """Decides whether a private round may be trained, and with how much noise."""

    def reserve(self, private_round: PrivateRound) -> Mechanism:
        """Record a round as spent and return its noise mechanism. Raises RefusedError."""

    def keep(self, private_round: PrivateRound, update: Flat) -> None:
        """Store the update of a round before it leaves the site."""

    def kept(self, private_round: PrivateRound) -> Flat | None:
        """Return the stored update of the same round, if any: sending it again spends nothing."""

    def scores(self, private_round: PrivateRound, score: Callable[[], Scores]) -> Scores:
        """Return the scores of the weights after a round, if the plan releases them. Raises RefusedError."""

    @property
    def head(self) -> ChainHead | None:
        """The head of the ledger, for a witness; None without a ledger."""


class Mechanisms:
    """The noise mechanism of each plan, solved once, so that it stays the same during a run."""

    def __init__(self) -> None:
        self._solved: dict[tuple[str, int], Mechanism] = {}

    def of(self, plan: Plan, patients: int) -> Mechanism:
        """Return the plan's mechanism at a site with so many patients. Raises RefusedError."""
        _, delta = plan.privacy.bound
        if delta > 1 / patients:
            why = f"the plan's delta of {delta:g} is above 1 / {patients}, one over this site's patients"
            raise _refused(why, "ask the coordinator for a plan with a smaller delta")
        key = (plan.id, patients)
        if key not in self._solved:
            self._solved[key] = mechanism(plan, patients)
        return self._solved[key]


class Experiment:
    """The budget of an experiment on one machine, which releases nothing: nothing is recorded."""

    def __init__(self) -> None:
        self._mechanisms = Mechanisms()

    def reserve(self, private_round: PrivateRound) -> Mechanism:
        """Return the round's mechanism. Raises RefusedError."""
        return self._mechanisms.of(private_round.plan, private_round.patients)

    def keep(self, private_round: PrivateRound, update: Flat) -> None:
        """Store nothing."""

    def kept(self, private_round: PrivateRound) -> Flat | None:  # noqa: ARG002
        """Return None: nothing is stored."""
        return None

    def scores(self, private_round: PrivateRound, score: Callable[[], Scores]) -> Scores:
        """Compute the scores each time: they do not leave this machine. Raises RefusedError."""
        check_asked_for(private_round.plan, private_round.round)
        return score()

    @property
    def head(self) -> ChainHead | None:
        """None: there is no ledger."""
        return None


class Recorded:
    """The budget of a site, recorded in the ledger of its home folder."""

    def __init__(self, home: Path, settings: PrivacySettings) -> None:
        """Raises LedgerError when the ledger cannot be trusted."""
        self._home, self._settings, self._mechanisms = home, settings, Mechanisms()
        self._ledger: Ledger | None = None
        self._seen: ChainHead | None = None  # the newest head that a witness has

    @property
    def ledger(self) -> Ledger:
        """The site's ledger, opened at first use. Raises LedgerError."""
        if self._ledger is None:
            self._ledger = Ledger(self._home)
        if self._seen is not None:
            self._ledger.check_witness(self._seen)
        return self._ledger

    @property
    def head(self) -> ChainHead:
        """The head of the ledger. Raises LedgerError."""
        return self.ledger.head

    def check_witness(self, seen: ChainHead) -> None:
        """Compare the ledger, now and later, with a witness's head. Raises LedgerError when they differ."""
        if self._seen is None or seen.number >= self._seen.number:
            self._seen = seen
        _ = self.ledger

    def reserve(self, private_round: PrivateRound) -> Mechanism:
        """Record the round's steps on disk and return its mechanism. Raises RefusedError, LedgerError."""
        restored.check_vouched(self._home, is_witnessed=self._seen is not None)
        plan, data, (_, delta) = private_round.plan, self._settings.data, private_round.plan.privacy.bound
        found = self._mechanisms.of(plan, private_round.patients)
        begun = any(entry.plan == plan.id for entry in self.ledger.of(data))
        rest = (
            () if begun else (found.spends(plan.training.most_rounds - 1),)
        )  # a new run must fit into the budget as a whole

        def allows(entries: Sequence[LedgerEntry]) -> None:
            if sum(entry.plan == plan.id for entry in entries) > plan.training.most_rounds:
                raise BudgetExhaustedError(
                    "the plan's own epsilon is spent",
                    f"all {plan.training.most_rounds} rounds of it were trained at this site",
                    "train a plan with another name; it is accounted in addition",
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
            private_round.round,
            plan.training.most_rounds,
            private_round.digest,
            found.noise_multiplier,
            found.sampling_rate,
            found.steps,
            delta,
        )
        self.ledger.reserve(data, reservation, allows)
        return found

    def keep(self, private_round: PrivateRound, update: Flat) -> None:
        """Store the newest round's update and close its ledger entry."""
        about = {"plan": private_round.plan.id, "round": str(private_round.round), "weights": private_round.digest}
        weights.save(self._home / UPDATE, {VALUES: update}, about)
        self.ledger.close_entry()

    def kept(self, private_round: PrivateRound) -> Flat | None:
        """Return the stored update when it is of this round."""
        if not (self._home / UPDATE).exists():
            return None
        arrays, about = weights.load(self._home / UPDATE)
        same = {"plan": private_round.plan.id, "round": str(private_round.round), "weights": private_round.digest}
        if {key: about.get(key) for key in same} != same:
            return None
        self.ledger.close_entry()  # a kill may have come between storing the update and this
        return arrays[VALUES]

    def scores(self, private_round: PrivateRound, score: Callable[[], Scores]) -> Scores:
        """Return the scores of a round, for one set of weights only. Raises RefusedError, LedgerError."""
        entries = [entry for entry in self.ledger.entries if entry.plan == private_round.plan.id]
        witnessed = self._seen is not None
        return AnsweredEvaluations(self._home).answer(
            private_round.plan, private_round.round, private_round.digest, score, entries, is_witnessed=witnessed
        )


def _refused(why: str, do: str) -> RefusedError:
    return RefusedError("private training was refused", why, do)
