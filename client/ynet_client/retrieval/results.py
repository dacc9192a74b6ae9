"""Answers and requests for a consult, as the Python API and the commands get them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from ynet.search.hit import Hit
from ynet_client.retrieval.noise import Noise


class Outcome(StrEnum):
    """The outcome of a query at one other site. Each equals its name: `Outcome.FOUND == "found"`."""

    FOUND = "found"
    EMPTY = "empty"  # it answered, and no case fits
    SUPPRESSED = "suppressed"  # too few patients fit for an answer
    REFUSED = "refused"  # by its policy
    OTHER_MODEL = "other_model"  # its gallery has codes of another model
    LATE = "late"  # no answer in time
    MISSING = "missing"  # not connected
    BUSY = "busy"  # too much to do
    UNREADABLE = "unreadable"  # its answer could not be opened or read
    UNCONFIRMED = "unconfirmed"  # not asked: this site's admin has not confirmed it


@dataclass(frozen=True)
class Answer:
    """The cases like one image, and the outcome at every site. Commands and Python get it as JSON from the client."""

    site: str  # the one that asked
    name: str  # of the image file; empty where bytes were given
    hits: tuple[Hit, ...]  # own and others', nearest first; of a noised query only others'
    own: tuple[Hit, ...]  # of a noised query: own cases, by the image's own code
    outcomes: Mapping[str, Outcome]  # of every other site that was asked
    reasons: Mapping[str, str]  # in words, of the sites that declined
    codes: Mapping[str, str]  # of a refusal its code, of another model its id
    answered: Mapping[str, int]  # hits of each other site that answered
    model: str  # the id of the model that encoded the image
    code: str  # the image's own, hexadecimal
    noise: Noise | None  # what was done to the code before it was sent
    note: str  # why no other site was asked, or empty

    def of(self, *outcomes: Outcome) -> list[str]:
        """Return the sites with one of these outcomes."""
        return [site for site, outcome in self.outcomes.items() if outcome in outcomes]

    def to_json(self) -> dict[str, Any]:
        """Return the answer as `ynet-client query --json` prints it."""
        return {
            "site": self.site,
            "name": self.name,
            "model": self.model,
            "code": self.code,
            "hits": [hit.to_json() for hit in self.hits],
            "own": [hit.to_json() for hit in self.own],
            "noise": self.noise._asdict() if self.noise else None,
            "answered": dict(self.answered),
            "outcomes": dict(self.outcomes),
            "missing": self.of(Outcome.MISSING),
            "late": self.of(Outcome.LATE),
            "busy": self.of(Outcome.BUSY),
            "suppressed": self.of(Outcome.SUPPRESSED),
            "refused": {site: self.codes[site] for site in self.of(Outcome.REFUSED)},
            "other_model": {site: self.codes[site] for site in self.of(Outcome.OTHER_MODEL)},
            "unconfirmed": self.of(Outcome.UNCONFIRMED),
            "declined": dict(self.reasons),
            "note": self.note,
        }

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> "Answer":
        """Read what `to_json` wrote."""
        noise = shown["noise"]
        return cls(
            site=shown["site"],
            name=shown["name"],
            hits=tuple(map(Hit.from_json, shown["hits"])),
            own=tuple(map(Hit.from_json, shown["own"])),
            outcomes={site: Outcome(word) for site, word in shown["outcomes"].items()},
            reasons=dict(shown["declined"]),
            codes={**shown["refused"], **shown["other_model"]},
            answered=dict(shown["answered"]),
            model=shown["model"],
            code=shown["code"],
            noise=Noise(**noise) if noise else None,
            note=shown["note"],
        )


@dataclass(frozen=True)
class ConsultRequest:
    """A question to the people who have a case, and their answer."""

    id: str
    direction: Literal["sent", "received"]
    site: str  # the other one
    user: str  # who asked: a pseudonym
    token: str
    image: str | None  # where received: the own case that is meant
    note: str
    time: float  # seconds since 1970
    decision: Literal["open", "yes", "no", "unknown"]  # unknown: the owning site no longer has the request
    text: str
    answered: float | None  # seconds since 1970


@dataclass(frozen=True)
class Consults:
    """All requests of a site, the newest first."""

    requests: tuple[ConsultRequest, ...]
    note: str  # which sites could not be asked for their answers, or empty


def read_consult(one: Mapping[str, Any]) -> ConsultRequest:
    """Read a request for a consult from the client's JSON."""
    return ConsultRequest(**{**one, "image": one.get("image")})
