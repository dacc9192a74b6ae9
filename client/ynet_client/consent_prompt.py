"""Show the site's admin the terms of a new plan, and on a terminal ask for a decision."""

import sys
import threading
from pathlib import Path

from ynet.plan import Plan
from ynet_client.display import Display
from ynet_client.settings import Policy
from ynet_client.training.consent import Consent, Decision, terms

_one_question = threading.Lock()


def put_to_the_admin(plan: Plan, home: Path, display: Display) -> None:
    """Show a plan's terms and return at once. The decision is stored when the admin makes it."""
    display.say("a plan that is new to this site waits for its admin's decision:")
    for line in terms(plan):
        display.say(line)
    display.say(f"decide by `ynet-client plan accept {plan.id[:16]} --home {home}`, or `plan decline`")
    if sys.stdin.isatty():
        threading.Thread(target=_ask, args=(plan, home, display), daemon=True).start()


def _ask(plan: Plan, home: Path, display: Display) -> None:
    with _one_question:
        consent = Consent(home, Policy())
        if consent.decision_on(plan.id):  # decided elsewhere, while the question about another plan was open
            return
        for line in terms(plan):
            display.say(line)
        display.say(f"does this site take part in {plan.name}, {plan.id[:16]}? yes or no:")
        for line in sys.stdin:
            if (answer := line.strip().lower()) in ("yes", "no"):
                decision: Decision = "accepted" if answer == "yes" else "declined"
                if not consent.decision_on(plan.id):
                    display.say(f"plan {consent.say(plan.id, decision)[:16]} is {decision}")
                return
            display.say("yes or no:")
