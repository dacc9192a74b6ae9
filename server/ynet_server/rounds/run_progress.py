"""The course of a run as its events tell it, read on from where the last look came to: for the metrics and the page."""

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ynet_server.rounds.run_folder import EVENTS

MOST_POINTS = 256
"""Of one curve. Beyond, every second one is let go: a curve of ten thousand rounds is drawn as well from these."""
MOST_TROUBLES = 100
SCORES = ("macro_map10", "dice", "balanced_accuracy")
"""Of a site's evaluation, those that are followed over the rounds."""
TROUBLES = ("update_refused", "site_failed")


class Trouble(NamedTuple):
    """What a site sent that was not taken, or why it gave nothing."""

    time: float
    kind: str  # of the event
    round: int
    site: str
    reason: str


class Curve:
    """A value over the rounds: the newest always, the others thinned to MOST_POINTS."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, float]] = []
        self._stride, self._seen = 1, 0
        self._last: tuple[int, float] | None = None
        self._is_known = False

    def add(self, number: int, value: float | None) -> None:
        """The value after a round; None, and what is no number, is no point of it, and the newest value is none."""
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
        """The last value; None where it rested on nothing."""
        return self._last[1] if self._last and self._is_known else None


@dataclass
class Course:
    """What is known of one run."""

    round: int = 0  # the last whole one
    last_event: float = 0.0  # seconds since 1970
    last_round: float = 0.0  # when it was done, or the run began or was resumed
    seconds: float = 0.0  # of the last round
    sites: tuple[str, ...] = ()  # those whose networks it began with
    in_round: tuple[str, ...] = ()  # whose updates are in the last whole round
    waiting: Mapping[str, int] | None = None  # too few sites: connected, needed
    missing: tuple[str, ...] = ()  # whom it waits for: sites that took part before, and are not there or gave nothing
    awaited: set[str] = field(default_factory=set)  # sites whose admins have not said yes
    held_again: int = 0  # how often the round under way was under its quorum
    do: str = ""  # of a run that failed
    losses: dict[str, Curve] = field(default_factory=dict)
    scores: dict[str, dict[str, Curve]] = field(default_factory=lambda: {score: {} for score in SCORES})
    evaluated: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # the newest scores, with their counts
    troubles: "deque[Trouble]" = field(default_factory=lambda: deque(maxlen=MOST_TROUBLES))
    private: set[str] = field(default_factory=set)  # sites whose privacy ledgers have grown by it

    def add(self, event: Mapping[str, Any]) -> None:
        """The next event. One that lacks what it should have is passed over: a full disk may have cut it."""
        try:
            kind, self.last_event = str(event["kind"]), float(event["time"])
            if kind in TROUBLES:
                number, site, why = int(event["round"]), str(event["site"]), str(event["reason"])
                self.troubles.append(Trouble(self.last_event, kind, number, site, why))
            elif tell := _TOLD.get(kind):
                tell(self, event)
        except (KeyError, TypeError, ValueError, AttributeError):
            return


def _started(course: Course, event: Mapping[str, Any]) -> None:
    course.sites, course.waiting, course.last_round = tuple(event["sites"]), None, course.last_event
    course.missing = ()
    course.awaited.clear()


def _resumed(course: Course, _: Mapping[str, Any]) -> None:
    course.last_round, course.do, course.waiting = course.last_event, "", None
    course.missing = ()


def _round(course: Course, event: Mapping[str, Any]) -> None:
    course.round, course.seconds, course.last_round = int(event["round"]), float(event["seconds"]), course.last_event
    course.waiting, course.held_again, course.in_round = None, 0, tuple(event["sites"])
    course.missing = ()
    course.awaited -= set(event["sites"])
    course.private |= set(event.get("ledgers", ()))
    for site, figures in event["sites"].items():
        if "loss" in figures:
            course.losses.setdefault(site, Curve()).add(course.round, float(figures["loss"]))


def _evaluated(course: Course, event: Mapping[str, Any]) -> None:
    for site, figures in event["sites"].items():
        course.evaluated[site] = figures
        for score in SCORES:
            value = figures.get(score)
            curve = course.scores[score].setdefault(site, Curve())
            curve.add(int(event["round"]), None if value is None else float(value))


def _waiting(course: Course, event: Mapping[str, Any]) -> None:
    course.waiting = {"connected": int(event["connected"]), "needed": int(event["needed"])}
    course.missing = tuple(map(str, event.get("missing", ())))


def _under_quorum(course: Course, event: Mapping[str, Any]) -> None:
    course.held_again += 1
    course.waiting = {"connected": int(event["updates"]), "needed": int(event["quorum"])}
    course.missing = tuple(map(str, event.get("missing", ())))


def _awaited(course: Course, event: Mapping[str, Any]) -> None:
    course.awaited.add(str(event["site"]))


def _failed(course: Course, event: Mapping[str, Any]) -> None:
    course.do = str(event["do"])


_TOLD = {
    "started": _started,
    "resumed": _resumed,
    "round": _round,
    "evaluated": _evaluated,
    "waiting": _waiting,
    "under_quorum": _under_quorum,
    "awaited": _awaited,
    "failed": _failed,
}


class Courses:
    """The courses of runs, by their folders. Used in the server's event loop."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[Course, int]] = {}

    def of(self, folder: Path) -> Course:
        """The course of the run in `folder`, as far as it has come. Only what is new since the last call is read."""
        course, offset = self._read.get(folder, (Course(), 0))
        path = folder / EVENTS
        if path.exists() and path.stat().st_size > offset:
            with path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # what follows is still being written
            for line in whole.splitlines():
                course.add(_parsed(line))
            offset += len(whole)
        self._read[folder] = (course, offset)
        return course


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
