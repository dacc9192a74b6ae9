"""A site's consent to plans: the policy must allow a plan, and the site admin must accept it.

A plan's id is the SHA-256 of its content, so a changed plan is a new plan. The home folder holds every plan that was
received, `plans/ID.json`, and the admin's decision on it, `ID.accepted` or `ID.declined`.
"""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ynet import plan as plans
from ynet.errors import RefusedError, UserError
from ynet.plan import Plan
from ynet.plan_sections import Network
from ynet.runtime.home import prepare, write_private
from ynet.schedule import AUTO
from ynet_client.settings import Policy
from ynet_client.training.fixed_files import encoder_bytes

FOLDER = "plans"
PLAN_ID = re.compile(r"[0-9a-f]{64}")
MOST_KEPT = 1000
"""The largest number of plans that wait for a decision, so that a hostile server cannot fill the disk."""

Decision = Literal["accepted", "declined"]


class SeenPlan(NamedTuple):
    """A plan that a server has sent."""

    plan: Plan
    decision: Decision | None


class Consent:
    """The plans that a site received, and its decisions on them."""

    def __init__(
        self,
        home: Path,
        policy: Policy,
        tell: Callable[[Plan], None] = lambda _: None,
        note: Callable[[str, Decision], None] = lambda *_: None,
    ) -> None:
        """Open the plans of a home folder.

        Args:
            home: the site's folder.
            policy: what the settings allow.
            tell: is called once per process with each plan that waits for a decision.
            note: is called once per process with the id of each decided plan, and the decision.
        """
        self._folder, self._policy, self._tell, self._note = home / FOLDER, policy, tell, note
        self._lock, self._told, self._noted = threading.Lock(), set[str](), set[tuple[str, Decision]]()

    def admits(self, plan: Plan) -> bool:
        """Return whether the site takes part; False while the decision is open. Raises RefusedError if not."""
        check(plan, self._policy)
        decision = self.decision_on(plan.id) or ("accepted" if self._policy.new_plans == "accept" else None)
        if decision and (plan.id, decision) not in self._noted:
            self._noted.add((plan.id, decision))
            self._note(plan.id, decision)
        if decision == "declined":
            raise _refused("the site's admin declined this plan")
        if decision == "accepted":
            return True
        with self._lock:
            if plan.id not in self._told:
                self._keep(plan)
                self._told.add(plan.id)
                self._tell(plan)
        return False

    def takes_part(self, plan: Plan) -> bool:
        """Return whether the site takes part, without side effects; False while the decision is open."""
        return not self.objection(plan)

    def objection(self, plan: Plan) -> str:
        """Return why the site has not agreed to this plan; empty when it has."""
        try:
            check(plan, self._policy)
        except RefusedError as error:
            return f"its plan: {error.why}"
        decision = self.decision_on(plan.id) or ("accepted" if self._policy.new_plans == "accept" else None)
        return "" if decision == "accepted" else f"its plan was {'declined' if decision else 'never accepted'} here"

    def say(self, plan_id: str, decision: Decision) -> str:
        """Store the admin's decision on a plan and return the plan's id.

        For a plan that was received, twelve or more first letters of the id are enough. Raises UserError.
        """
        found = plan_id if PLAN_ID.fullmatch(plan_id) else self._meant(plan_id)
        prepare(self._folder)
        write_private(self._folder / f"{found}.{decision}", b"")
        (self._folder / f"{found}.{'accepted' if decision == 'declined' else 'declined'}").unlink(missing_ok=True)
        return found

    def seen(self) -> Iterator[SeenPlan]:
        """Yield the plans that a server has sent, undecided ones first.

        A plan that another version of ynet stored is skipped when this version would read it as another plan.
        """
        files = sorted(self._folder.glob("*.json"), key=lambda path: (self.decision_on(path.stem) or "", path.stem))
        for path in files:
            try:
                plan = plans.from_canonical(path.read_text("utf-8", errors="replace"))
            except UserError:
                continue
            if plan.id == path.stem:
                yield SeenPlan(plan, self.decision_on(path.stem))

    def _meant(self, letters: str) -> str:
        known = [path.stem for path in self._folder.glob("*.json")]
        found = [plan_id for plan_id in known if len(letters) >= 12 and plan_id.startswith(letters)]
        if len(found) != 1:
            do = "give the whole id, 64 letters and digits, or see `ynet-client plan list`"
            raise UserError(f"the plan {letters[:64]!r} was not found", "no single plan has an id that begins so", do)
        return found[0]

    def decision_on(self, plan_id: str) -> Decision | None:
        """Return the decision on a plan; None while it is open."""
        decisions: tuple[Decision, ...] = ("declined", "accepted")
        return next((decision for decision in decisions if (self._folder / f"{plan_id}.{decision}").exists()), None)

    def _keep(self, plan: Plan) -> None:
        prepare(self._folder)
        if (file := self._folder / f"{plan.id}.json").exists():
            return
        if sum(self.decision_on(path.stem) is None for path in self._folder.glob("*.json")) >= MOST_KEPT:
            raise _refused("too many plans wait for a decision of the site's admin")
        write_private(file, plan.canonical().encode())


def check(plan: Plan, policy: Policy) -> None:
    """Raise RefusedError when a site's policy forbids a plan. The reason names nothing private."""
    epochs = plan.training.most_rounds * plan.training.local_epochs
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
    """Take part in no plan: `takes_part` of a site that only asks."""
    return False


def only_asks(_: Plan) -> bool:
    """Refuse every plan: `admits` of a site that only asks. Raises RefusedError."""
    raise _refused("this site only asks: it trains nothing")


def shows_classes(plan: Plan) -> bool:
    """Return whether a plan shows the server a site's own sums by class."""
    return plan.code_form == "moments" and plan.aggregation != "secure"


def terms(plan: Plan) -> list[str]:
    """Return what a plan asks of a site, one line each."""
    training, private = plan.training, plan.privacy
    weights = {
        "plain": "in the open: the server sees this site's weights after each round",
        "secure": "secure: the server learns the sum of the sites' weights, and not this site's",
    }
    leave_once = "of each round that is evaluated, for one set of weights, without noise"
    scores = "of whatever weights the server asks for, without noise"
    if private.mode != "off":
        scores = leave_once
    work = f"{training.most_rounds} rounds x {training.local_epochs} epochs"
    if training.rounds == AUTO:
        work = f"at most {work}: the run ends when the sites' scores no longer rise"
    counts = "; with them the cases by class, by mask and of patients with several, rounded up to multiples of 5"
    scores = "none leave this site" if private.mode != "off" and private.scores == "none" else scores + counts
    return [
        f"plan {plan.name}, {plan.id}",
        f"  learns     {', '.join(plan.classes)}; codes of {plan.network.code_bits} bits; recipe {plan.recipe}",
        *_encoder_terms(plan.network),
        f"  work       {work}",
        f"  sites      at least {plan.cohort.floor} in each round",
        "  privacy    "
        + (
            "none: what leaves may tell of single patients"
            if private.mode == "off"
            else f"each patient's epsilon {private.epsilon:g} at delta {private.delta:g}, over the whole run"
        ),
        f"  weights    {weights[plan.aggregation]}",
        *([f"  code       {_MOMENTS[plan.aggregation]}"] if plan.code_form == "moments" else []),
        f"  scores     {scores}",
    ]


_MOMENTS = {
    "plain": "from moments: the server sees sums over this site's training cases, of features and of cases by class",
    "secure": "from moments: the server learns the sums over all sites' training cases, and not this site's",
}


def _encoder_terms(network: Network) -> list[str]:
    """Return the line about the file of a pretrained encoder; none where the plan names no file."""
    if network.encoder_weights is None:
        return []
    size = f"{encoder_bytes(network) / 1e6:.0f} MB"
    about = f"{network.encoder}, {size}, fetched once from the server; SHA-256 {network.encoder_weights}"
    return [f"  encoder    {about}"]


def _refused(why: str) -> RefusedError:
    do = "train with a plan that the site's policy allows, or talk to its admin"
    return RefusedError("a plan was refused", why, do)
