"""Which plans a site takes part in: what its policy allows, and what its admin has said yes to.

A plan is known by its id, the SHA-256 of all that is in it: one that changed is a new plan. Each that was ever seen
lies in the home folder, `plans/ID.json`, and the admin's word beside it, `ID.accepted` or `ID.declined`.
"""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ynet import plan as plans
from ynet.errors import RefusedError, UserError
from ynet.plan import Plan
from ynet.runtime.home import prepare, write_private
from ynet_client.settings import Policy

FOLDER = "plans"
PLAN_ID = re.compile(r"[0-9a-f]{64}")
MOST_KEPT = 1000
"""Plans that wait for a word: a server that sends new ones without end fills no disk."""

Word = Literal["accepted", "declined"]


class Seen(NamedTuple):
    """A plan that a server has sent."""

    plan: Plan
    word: Word | None


class Consent:
    """The plans of one site, and what is to become of them."""

    def __init__(
        self,
        home: Path,
        policy: Policy,
        tell: Callable[[Plan], None] = lambda _: None,
        note: Callable[[str, Word], None] = lambda *_: None,
    ) -> None:
        """`tell` is given each plan that waits for the admin's word, `note` the id of each that has it, and the word.

        Both once while the process lives.
        """
        self._folder, self._policy, self._tell, self._note = home / FOLDER, policy, tell, note
        self._lock, self._told, self._noted = threading.Lock(), set[str](), set[tuple[str, Word]]()

    def admits(self, plan: Plan) -> bool:
        """Whether the site takes part; False while its admin has not said. Raises RefusedError for a no."""
        check(plan, self._policy)
        word = self.word_of(plan.id) or ("accepted" if self._policy.new_plans == "accept" else None)
        if word and (plan.id, word) not in self._noted:
            self._noted.add((plan.id, word))
            self._note(plan.id, word)
        if word == "declined":
            raise _refused("the site's admin declined this plan")
        if word == "accepted":
            return True
        with self._lock:
            if plan.id not in self._told:
                self._keep(plan)
                self._told.add(plan.id)
                self._tell(plan)
        return False

    def takes_part(self, plan: Plan) -> bool:
        """Whether the site takes part, as far as that is said already; nothing is kept or told of it."""
        return not self.objection(plan)

    def objection(self, plan: Plan) -> str:
        """Why a model of this plan is not one that the site has agreed to; empty where it has."""
        try:
            check(plan, self._policy)
        except RefusedError as error:
            return f"its plan: {error.why}"
        word = self.word_of(plan.id) or ("accepted" if self._policy.new_plans == "accept" else None)
        return "" if word == "accepted" else f"its plan was {'declined' if word else 'never accepted'} here"

    def say(self, plan_id: str, word: Word) -> str:
        """Keep the admin's word about a plan; the plan's id. Raises UserError.

        Of a plan that was seen the first letters of the id will do, twelve or more.
        """
        found = plan_id if PLAN_ID.fullmatch(plan_id) else self._meant(plan_id)
        prepare(self._folder)
        write_private(self._folder / f"{found}.{word}", b"")
        (self._folder / f"{found}.{'accepted' if word == 'declined' else 'declined'}").unlink(missing_ok=True)
        return found

    def seen(self) -> Iterator[Seen]:
        """All plans that a server has sent, those first that wait for a word.

        One that was kept by another ynet, newer or older, is passed over where it would not be the same plan here.
        """
        files = sorted(self._folder.glob("*.json"), key=lambda path: (self.word_of(path.stem) or "", path.stem))
        for path in files:
            try:
                plan = plans.from_canonical(path.read_text("utf-8", errors="replace"))
            except UserError:
                continue
            if plan.id == path.stem:
                yield Seen(plan, self.word_of(path.stem))

    def _meant(self, letters: str) -> str:
        known = [path.stem for path in self._folder.glob("*.json")]
        found = [plan_id for plan_id in known if len(letters) >= 12 and plan_id.startswith(letters)]
        if len(found) != 1:
            do = "give the whole id, 64 letters and digits, or see `ynet-client plan list`"
            raise UserError(f"which plan {letters[:64]!r} is, is not clear", "no plan that was seen begins so", do)
        return found[0]

    def word_of(self, plan_id: str) -> Word | None:
        """What was said of a plan."""
        words: tuple[Word, ...] = ("declined", "accepted")
        return next((word for word in words if (self._folder / f"{plan_id}.{word}").exists()), None)

    def _keep(self, plan: Plan) -> None:
        prepare(self._folder)
        if (file := self._folder / f"{plan.id}.json").exists():
            return
        if sum(self.word_of(path.stem) is None for path in self._folder.glob("*.json")) >= MOST_KEPT:
            raise _refused("too many plans wait for a word of the site's admin")
        write_private(file, plan.canonical().encode())


def check(plan: Plan, policy: Policy) -> None:
    """Whether a site's policy lets it take part in a plan. Raises RefusedError with the reason, fit for strangers."""
    epochs = plan.training.rounds * plan.training.local_epochs
    for is_against, why in (
        (policy.recipes and plan.recipe not in policy.recipes, f"the recipe {plan.recipe!r}"),
        (policy.privacy == "required" and plan.privacy.mode == "off", "a plan without differential privacy"),
        (policy.aggregation == "secure" and plan.aggregation != "secure", "a plan without secure aggregation"),
        (plan.cohort.floor < policy.min_sites, f"rounds of fewer than {policy.min_sites} sites"),
        (epochs > policy.max_epochs, f"more than {policy.max_epochs} epochs"),
    ):
        if is_against:
            raise _refused(f"the site's policy does not allow {why}")


def in_none(_: Plan) -> bool:
    """As `takes_part`, of a site that only asks."""
    return False


def only_asks(_: Plan) -> bool:
    """As `admits`, of a site that only asks. Raises RefusedError."""
    raise _refused("this site only asks: it trains nothing")


def terms(plan: Plan) -> list[str]:
    """What a plan asks of a site, a line each."""
    training, private = plan.training, plan.privacy
    weights = {
        "plain": "in the open: the server sees this site's weights after each round",
        "secure": "secure: the server learns the sum of the sites' weights, and not this site's",
    }
    leave_once = "of each round that is evaluated, for one set of weights, without noise"
    scores = "of whatever weights the server asks for, without noise"
    if private.mode != "off":
        scores = leave_once
    counts = "; with them the test and training cases by class and by mask, rounded up to multiples of 5"
    scores = "none leave this site" if private.mode != "off" and private.scores == "none" else scores + counts
    return [
        f"plan {plan.name}, {plan.id}",
        f"  learns     {', '.join(plan.classes)}; codes of {plan.network.code_bits} bits; recipe {plan.recipe}",
        f"  work       {training.rounds} rounds x {training.local_epochs} epochs",
        f"  sites      at least {plan.cohort.floor} in each round",
        "  privacy    "
        + (
            "none: what leaves may tell of single patients"
            if private.mode == "off"
            else f"each patient's epsilon {private.epsilon:g} at delta {private.delta:g}, over the whole run"
        ),
        f"  weights    {weights[plan.aggregation]}",
        f"  scores     {scores}",
    ]


def _refused(why: str) -> RefusedError:
    do = "train with a plan that the site's policy allows, or talk to its admin"
    return RefusedError("a plan was refused", why, do)
