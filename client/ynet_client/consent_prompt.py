"""A new plan put before the site's admin: its terms as lines, and on a terminal the question."""

import sys
import threading
from pathlib import Path

from ynet.plan import Plan
from ynet_client.display import Display
from ynet_client.settings import Policy
from ynet_client.training.consent import Consent, Word, terms

_one_question = threading.Lock()


def put_to_the_admin(plan: Plan, home: Path, display: Display) -> None:
    """Show what a plan asks of the site. Comes back at once; the word is kept whenever it is said."""
    display.say("a plan that is new to this site waits for its admin's word:")
    for line in terms(plan):
        display.say(line)
    display.say(f"say `ynet-client plan accept {plan.id[:16]} --home {home}`, or `ynet-client plan decline`")
    if sys.stdin.isatty():
        threading.Thread(target=_ask, args=(plan, home, display), daemon=True).start()


def _ask(plan: Plan, home: Path, display: Display) -> None:
    with _one_question:
        consent = Consent(home, Policy())
        if consent.word_of(plan.id):  # said elsewhere, while another plan was asked about
            return
        for line in terms(plan):
            display.say(line)
        display.say(f"does this site take part in {plan.name}, {plan.id[:16]}? yes or no:")
        for line in sys.stdin:
            if (answer := line.strip().lower()) in ("yes", "no"):
                word: Word = "accepted" if answer == "yes" else "declined"
                if not consent.word_of(plan.id):
                    display.say(f"plan {consent.say(plan.id, word)[:16]} is {word}")
                return
            display.say("yes or no:")
