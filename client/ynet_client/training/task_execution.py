"""The messages of a run, each passed through the ClientApp and recorded in the audit log."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import RecordDict

from ynet import scores
from ynet.errors import RefusedError, UserError
from ynet.federation import protocol
from ynet.federation.content import Content
from ynet.federation.records import AWAITED, CONFIG, EVALUATE, FEATURES, MASK, METRICS, TRAIN
from ynet_client.audit import Audit
from ynet_client.training import app_call

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from ynet.learning.train import Progress
    from ynet_client.training.site_data import LocalSite

DONE = {TRAIN: "trained", FEATURES: "summed its features", EVALUATE: "evaluated", MASK: "masked the update"}
SHOWN_METRICS = ("loss", "seconds", "pieces")
IDLE = "waiting"


class CancelledTaskError(UserError):
    """The server no longer wants the result."""


class TaskExecution:
    """Runs messages one after the other. The ClientApp's state is kept between them."""

    def __init__(
        self,
        audit: Audit,
        count: Callable[[str, str, float], None],
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None],
    ) -> None:
        """Prepare to run messages.

        Args:
            audit: the log that gets an entry for each message.
            count: is called with kind, outcome and seconds of each message.
            say: shows a line to the site's people.
            progress: shows how far a training is: title, done, total.

        """
        self._audit, self._count, self._say, self._progress = audit, count, say, progress
        self._context = app_call.new_context()
        self.doing = IDLE
        """What runs now, for `ynet-client status`."""

    def run(
        self, site: "LocalSite", app: "ClientApp", kind: str, received: Path, cancelled: Callable[[], bool]
    ) -> Content:
        """Return the app's reply to a message in a file. Raises CancelledTaskError, and whatever the app raises."""
        records, outcome, begun = app_call.load(received), "failed", time.monotonic()
        try:
            reply = self._call(site, app, kind, records, cancelled)
            outcome = "awaited" if AWAITED in reply.configs.get(CONFIG, {}) else "done"
        except CancelledTaskError:
            outcome = "called off"
            raise
        except RefusedError:
            outcome = "refused"
            raise
        finally:
            about = f"{protocol.plain(kind, 40)}, round {_round(records)}, plan {_plan_id(records)}"
            self._count(kind, outcome, time.monotonic() - begun)
            self._audit.did(time.time(), "task", about, outcome)
        return reply

    def _call(
        self, site: "LocalSite", app: "ClientApp", kind: str, records: RecordDict, cancelled: Callable[[], bool]
    ) -> Content:
        number = _round(records)

        def report(progress: "Progress") -> None:
            if cancelled():
                raise CancelledTaskError("a task was called off", "the server no longer waits for it", "nothing to do")
            title = f"round {number}, epoch {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}"
            self._progress(title, progress.done, progress.total)

        site.report, self.doing = report, f"{protocol.plain(kind, 40)}, round {number}"
        try:
            reply = app_call.call(app, self._context, kind, records)
        finally:
            self.doing = IDLE
        if AWAITED not in reply.configs.get(CONFIG, {}) and kind in DONE:
            self._say(f"{DONE[kind]}, round {number}: {in_words(reply)}")
        return reply


def in_words(reply: Content) -> str:
    """Return the metrics of a reply as one line for the terminal."""
    metrics = reply.metrics.get(METRICS, {})
    words = [f"{key} {metrics[key]:.3f}" for key in SHOWN_METRICS if key in metrics]
    if "queries" in metrics:
        words += [f"{key} {scores.shown(metrics, key)}" for key in scores.RESTS_ON]
    return ", ".join(words) or "done"


def _round(records: RecordDict) -> int:
    number = records.config_records[CONFIG].get("server-round") if CONFIG in records.config_records else None
    return number if isinstance(number, int) else 0


def _plan_id(records: RecordDict) -> str:
    """Return the SHA-256 of the text that a message gives as its plan, valid or not."""
    text = records.config_records[CONFIG].get("plan") if CONFIG in records.config_records else None
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else "unknown"
