"""The evaluations of private plans that a site has answered. Scores carry no noise, so each is computed once.

For each round that a plan evaluates, the site scores a single set of weights. It stores the answer with the digest of
the weights, and sends the stored answer when the same is asked again.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ynet import scores
from ynet.config import STRICT
from ynet.errors import RefusedError
from ynet.plan import Plan
from ynet.runtime.home import write_private
from ynet.trust.ledger import LedgerEntry
from ynet_client import restored

FILE = "scored.json"

Scores = scores.Wire


@dataclass(frozen=True)
class AnsweredEvaluation:
    """The answer for one round."""

    weights: str  # SHA-256 of the weights that were scored
    scores: Scores | None  # None: started, not sent yet


_ByPlan = dict[str, dict[int, AnsweredEvaluation]]
_ANSWERS: TypeAdapter[_ByPlan] = TypeAdapter(_ByPlan, config=STRICT)


class AnsweredEvaluations:
    """The evaluations of private plans that were answered from one home folder."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def answer(
        self,
        plan: Plan,
        number: int,
        digest: str,
        score: Callable[[], Scores],
        entries: Sequence[LedgerEntry],
        *,
        is_witnessed: bool,
    ) -> Scores:
        """Return the scores of the weights after a round: the stored ones if there are any.

        The round is marked as answered on disk before `score` is called, and the scores are stored before they are
        returned.

        Args:
            plan: the private plan.
            number: the round.
            digest: the SHA-256 of the weights.
            score: computes the scores.
            entries: the privacy ledger's entries for this plan.
            is_witnessed: whether a server has sent the ledger head that it saw last.

        Raises:
            RefusedError: other weights of this round were scored, or the plan does not evaluate the round.
        """
        check_asked_for(plan, number)
        with self._locked() as answers:
            given = answers.get(plan.id, {})
            if number not in given:
                self._check_new_round(plan, number, given, entries, is_witnessed=is_witnessed)
                given = {**given, number: AnsweredEvaluation(digest, None)}
                self._write({**answers, plan.id: given})
            if given[number].weights != digest:
                raise refused(f"round {number} of this plan was evaluated here with other weights")
            if (kept := given[number].scores) is not None:
                return kept
        made = score()
        with self._locked() as answers:
            self._write({**answers, plan.id: {**answers[plan.id], number: AnsweredEvaluation(digest, made)}})
        return made

    def _check_new_round(
        self,
        plan: Plan,
        number: int,
        given: Mapping[int, AnsweredEvaluation],
        entries: Sequence[LedgerEntry],
        *,
        is_witnessed: bool,
    ) -> None:
        """Raise RefusedError when a round without an answer must not be evaluated."""
        since = restored.at(self._home)
        if since is not None and (not is_witnessed or not entries or entries[0].time <= since):
            raise refused("this site's record of its evaluations is from a backup: it may have answered before")
        if given and number < max(given):
            raise refused(f"round {number} of this plan is over: round {max(given)} was evaluated here")
        if not plan.training.moving_average and (mismatched := _mismatched(given, entries)):
            raise refused(
                f"round {mismatched + 1} did not begin with the weights that were evaluated after {mismatched}"
            )

    @contextmanager
    def _locked(self) -> Iterator[_ByPlan]:
        """Read the answers under a lock between processes. Raises RefusedError."""
        with (self._home / f"{FILE}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield self._read()

    def _read(self) -> _ByPlan:
        path = self._home / FILE
        if not path.exists():
            return {}
        try:
            return _ANSWERS.validate_json(path.read_bytes())
        except ValidationError:
            why, do = "its record of answered evaluations cannot be read", f"restore {FILE} from a backup"
            raise RefusedError("no evaluation", why, do) from None

    def _write(self, answers: _ByPlan) -> None:
        plain = {
            plan: {str(number): asdict(answer) for number, answer in given.items()} for plan, given in answers.items()
        }
        write_private(self._home / FILE, json.dumps(plain, allow_nan=False).encode())


def check_asked_for(plan: Plan, number: int) -> None:
    """Raise RefusedError when a private plan does not evaluate after this round."""
    if plan.privacy.scores == "none":
        raise refused("the plan says that no scores leave a site")
    rounds, every = plan.training.most_rounds, plan.training.evaluate_every
    if number < 1 or (number % every and number != rounds):
        raise refused(f"the plan evaluates every {every} rounds and after round {rounds}, not after {number}")


def _mismatched(given: Mapping[int, AnsweredEvaluation], entries: Sequence[LedgerEntry]) -> int | None:
    """Return a round whose scored weights are not those that the next round began with, if any."""
    for number, answer in given.items():
        next_began = {entry.weights for entry in entries if entry.round == number + 1}
        if next_began and answer.weights not in next_began:
            return number
    return None


def refused(why: str) -> RefusedError:
    """Return the refusal of an evaluation. The server reads it."""
    return RefusedError("no evaluation", why, "train a plan of another name, or do without this site's scores")
