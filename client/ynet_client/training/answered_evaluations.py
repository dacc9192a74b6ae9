"""Which evaluations of private plans a site has answered: scores are made of its cases, and no noise covers them.

Of each round that a plan evaluates, one set of weights is scored, ever. The answer is kept with the weights' digest
and sent again to whoever asks for the same.
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
class Answer:
    """What was answered for one round."""

    weights: str  # SHA-256 of the weights that were scored
    scores: Scores | None  # None: begun, and not sent yet


_Answers = dict[str, dict[int, Answer]]
_ANSWERS: TypeAdapter[_Answers] = TypeAdapter(_Answers, config=STRICT)


class Scored:
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
        """The scores of the weights with this digest after round `number`, or the same as before. Raises RefusedError.

        `score` makes them; `entries` are the ledger's of this plan; `is_witnessed`: a server has told how far it saw
        the ledger go. That the round is answered is on the disk before `score` is called, and the scores before they
        are returned.
        """
        check_asked_for(plan, number)
        with self._locked() as answers:
            given = answers.get(plan.id, {})
            if number not in given:
                self._check_anew(plan, number, given, entries, is_witnessed=is_witnessed)
                given = {**given, number: Answer(digest, None)}
                self._write({**answers, plan.id: given})
            if given[number].weights != digest:
                raise refused(f"round {number} of this plan was evaluated here with other weights")
            if (kept := given[number].scores) is not None:
                return kept
        made = score()
        with self._locked() as answers:
            self._write({**answers, plan.id: {**answers[plan.id], number: Answer(digest, made)}})
        return made

    def _check_anew(
        self,
        plan: Plan,
        number: int,
        given: Mapping[int, Answer],
        entries: Sequence[LedgerEntry],
        *,
        is_witnessed: bool,
    ) -> None:
        """Whether a round that was not evaluated yet may be. Raises RefusedError."""
        since = restored.at(self._home)
        if since is not None and (not is_witnessed or not entries or entries[0].time <= since):
            raise refused("this site's record of its evaluations is from a backup: it may have answered before")
        if given and number < max(given):
            raise refused(f"round {number} of this plan is over: round {max(given)} was evaluated here")
        if not plan.training.moving_average and (strange := _strange(given, entries)):
            raise refused(f"round {strange + 1} did not begin with the weights that were evaluated after {strange}")

    @contextmanager
    def _locked(self) -> Iterator[_Answers]:
        """What was answered, while no other process may change it. Raises RefusedError."""
        with (self._home / f"{FILE}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield self._read()

    def _read(self) -> _Answers:
        path = self._home / FILE
        if not path.exists():
            return {}
        try:
            return _ANSWERS.validate_json(path.read_bytes())
        except ValidationError:
            why, do = "its record of those that it answered cannot be read", f"restore {FILE} from a backup"
            raise RefusedError("no evaluation", why, do) from None

    def _write(self, answers: _Answers) -> None:
        plain = {
            plan: {str(number): asdict(answer) for number, answer in given.items()} for plan, given in answers.items()
        }
        write_private(self._home / FILE, json.dumps(plain, allow_nan=False).encode())


def check_asked_for(plan: Plan, number: int) -> None:
    """Whether a private plan has scores sent after a round. Raises RefusedError."""
    if plan.privacy.scores == "none":
        raise refused("the plan says that no scores leave a site")
    rounds, every = plan.training.rounds, plan.training.evaluate_every
    if number < 1 or (number % every and number != rounds):
        raise refused(f"the plan evaluates every {every} rounds and after round {rounds}, not after {number}")


def _strange(given: Mapping[int, Answer], entries: Sequence[LedgerEntry]) -> int | None:
    """A round that was evaluated with weights other than those with which the next one began here."""
    for number, answer in given.items():
        next_began = {entry.weights for entry in entries if entry.round == number + 1}
        if next_began and answer.weights not in next_began:
            return number
    return None


def refused(why: str) -> RefusedError:
    """The refusal of an evaluation, for the server's eyes."""
    return RefusedError("no evaluation", why, "train a plan of another name, or do without this site's scores")
