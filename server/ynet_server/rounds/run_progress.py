"""The progress of a run, read from its events step by step; for the metrics and the status page."""

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ynet_server.rounds.run_folder import EVENTS

MOST_POINTS = 256
"""Points of one curve. Beyond, every second one is dropped; a curve of ten thousand rounds looks the same."""
MOST_TROUBLES = 100
SCORES = ("macro_map10", "case_hit10", "median_tie10", "dice", "balanced_accuracy")
"""The scores of a site's evaluation that are followed over the rounds."""
TROUBLES = ("update_refused", "site_failed")


class Trouble(NamedTuple):
    """A refused update, or the reason why a site sent none."""

    time: float
    kind: str  # of the event
    round: int
    site: str
    reason: str


class Curve:
    """A value over the rounds: the newest one, and the others thinned to MOST_POINTS."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, float]] = []
        self._stride, self._seen = 1, 0
        self._last: tuple[int, float] | None = None
        self._is_known = False

    def add(self, number: int, value: float | None) -> None:
        """Add the value after a round. None and NaN add no point, and leave no newest value."""
        self._is_known = value is not None and math.isfinite(value)
        if value is None or not self._is_known:
            return
        self._last = (number, value)
        if self._seen % self._stride == 0:
            self._kept.append(self._last)
            if len(self._kept) > MOST_POINTS:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._seen += 1

    def points(self) -> list[tuple[int, float]]:
        """Rounds and values, in order."""
        return [*self._kept, self._last] if self._last and self._last != self._kept[-1] else list(self._kept)

    @property
    def newest(self) -> float | None:
        """The last value; None when it was missing."""
        return self._last[1] if self._last and self._is_known else None


@dataclass
class RunProgress:
    """The progress of one run."""

    round: int = 0  # the last complete one
    last_event: float = 0.0  # seconds since 1970
    last_round: float = 0.0  # when it was done, or the run began or was resumed
    seconds: float = 0.0  # of the last round
    sites: tuple[str, ...] = ()  # those whose networks it began with
    in_round: tuple[str, ...] = ()  # whose updates are in the last complete round
    waiting: Mapping[str, int] | None = None  # too few sites: connected, needed
    missing: tuple[str, ...] = ()  # sites that took part before and are awaited
    awaited: set[str] = field(default_factory=set)  # sites whose admins have not accepted the plan
    held_again: int = 0  # how often the round under way was under its quorum
    do: str = ""  # of a run that failed
    cooldown: Mapping[str, Any] | None = None  # the one that was called: after its `round`, for `rounds`, `reason`
    stopped: Mapping[str, Any] | None = None  # why it ended, with `auto`: `round`, `reason`, `best`
    losses: dict[str, Curve] = field(default_factory=dict)
    scores: dict[str, dict[str, Curve]] = field(default_factory=lambda: {score: {} for score in SCORES})
    evaluated: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # the newest scores, with their counts
    troubles: "deque[Trouble]" = field(default_factory=lambda: deque(maxlen=MOST_TROUBLES))
    private: set[str] = field(default_factory=set)  # sites whose privacy ledgers have grown by it

    def add(self, event: Mapping[str, Any]) -> None:
        """Add the next event. An event that lacks a value is skipped: a full disk may have cut it."""
        try:
            kind, self.last_event = str(event["kind"]), float(event["time"])
            if kind in TROUBLES:
                number, site, why = int(event["round"]), str(event["site"]), str(event["reason"])
                self.troubles.append(Trouble(self.last_event, kind, number, site, why))
            elif tell := _TOLD.get(kind):
                tell(self, event)
        except (KeyError, TypeError, ValueError, AttributeError):
            return


def _started(progress: RunProgress, event: Mapping[str, Any]) -> None:
    progress.sites, progress.waiting, progress.last_round = tuple(event["sites"]), None, progress.last_event
    progress.missing = ()
    progress.awaited.clear()


def _resumed(progress: RunProgress, _: Mapping[str, Any]) -> None:
    progress.last_round, progress.do, progress.waiting = progress.last_event, "", None
    progress.missing = ()


def _round(progress: RunProgress, event: Mapping[str, Any]) -> None:
    progress.round, progress.seconds = int(event["round"]), float(event["seconds"])
    progress.last_round = progress.last_event
    progress.waiting, progress.held_again, progress.in_round = None, 0, tuple(event["sites"])
    progress.missing = ()
    progress.awaited -= set(event["sites"])
    progress.private |= set(event.get("ledgers", ()))
    for site, figures in event["sites"].items():
        if "loss" in figures:
            progress.losses.setdefault(site, Curve()).add(progress.round, float(figures["loss"]))


def _evaluated(progress: RunProgress, event: Mapping[str, Any]) -> None:
    for site, figures in event["sites"].items():
        progress.evaluated[site] = figures
        for score in SCORES:
            value = figures.get(score)
            curve = progress.scores[score].setdefault(site, Curve())
            curve.add(int(event["round"]), None if value is None else float(value))


def _cooldown(progress: RunProgress, event: Mapping[str, Any]) -> None:
    whole = {"round": int(event["round"]), "rounds": int(event["rounds"])}
    progress.cooldown = {**whole, "reason": str(event["reason"])}


def _stopped(progress: RunProgress, event: Mapping[str, Any]) -> None:
    best = event.get("best")
    about = {"round": int(event["round"]), "reason": str(event["reason"])}
    progress.stopped = {**about, "best": None if best is None else int(best)}


def _waiting(progress: RunProgress, event: Mapping[str, Any]) -> None:
    progress.waiting = {"connected": int(event["connected"]), "needed": int(event["needed"])}
    progress.missing = tuple(map(str, event.get("missing", ())))


def _under_quorum(progress: RunProgress, event: Mapping[str, Any]) -> None:
    progress.held_again += 1
    progress.waiting = {"connected": int(event["updates"]), "needed": int(event["quorum"])}
    progress.missing = tuple(map(str, event.get("missing", ())))


def _awaited(progress: RunProgress, event: Mapping[str, Any]) -> None:
    progress.awaited.add(str(event["site"]))


def _failed(progress: RunProgress, event: Mapping[str, Any]) -> None:
    progress.do = str(event["do"])


_TOLD = {
    "started": _started,
    "resumed": _resumed,
    "round": _round,
    "evaluated": _evaluated,
    "cooldown": _cooldown,
    "stopped": _stopped,
    "waiting": _waiting,
    "under_quorum": _under_quorum,
    "awaited": _awaited,
    "failed": _failed,
}


class RunProgressReader:
    """Reads the progress of runs, by their folders. Used in the server's event loop."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[RunProgress, int]] = {}

    def of(self, folder: Path) -> RunProgress:
        """The progress of the run in `folder`. Reads only the events since the last call."""
        progress, offset = self._read.get(folder, (RunProgress(), 0))
        path = folder / EVENTS
        if path.exists() and path.stat().st_size > offset:
            with path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the rest is still being written
            for line in whole.splitlines():
                progress.add(_parsed(line))
            offset += len(whole)
        self._read[folder] = (progress, offset)
        return progress


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
