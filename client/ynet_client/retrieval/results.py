"""What a site's people are told: answers, hits and requests for a consult, as values of the Python API."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from ynet_client.retrieval.noise import Noise


class Outcome(StrEnum):
    """What became of a query at one other site. Each is its word: `Outcome.FOUND == "found"`."""

    FOUND = "found"
    EMPTY = "empty"  # asked, answered, and no case fits
    SUPPRESSED = "suppressed"  # fewer patients fit than the site speaks of
    REFUSED = "refused"  # by its policy
    OTHER_MODEL = "other_model"  # its gallery is of another model
    LATE = "late"  # no answer in time
    MISSING = "missing"  # not connected
    BUSY = "busy"  # too much to do
    UNREADABLE = "unreadable"  # it could not be opened, or not understood
    UNCONFIRMED = "unconfirmed"  # not asked: this site's admin has not confirmed it


@dataclass(frozen=True)
class Hit:
    """One case like the query, as its site tells it."""

    rank: int  # from 1
    site: str
    distance: int  # of the codes, in bits; where a site coarsens its distances, coarse
    detail: int | None  # of the detail codes, in bits; None where they were not compared
    label: str | None  # None where the site does not tell labels
    ties: int  # cases of that site at this distance, this one among them
    token: str  # hexadecimal: names the case to its own site; a consult is asked with it
    image: str | None  # of an own case: its path in the manifest


@dataclass(frozen=True)
class Answer:
    """What is known of cases like one image."""

    site: str  # who asked
    name: str  # of the image file; empty where bytes were given
    hits: tuple[Hit, ...]  # own and others', nearest first; of a noised query the others' alone
    own: tuple[Hit, ...]  # of a noised query: own cases, by the image's own code
    outcomes: Mapping[str, Outcome]  # by every other site that was asked
    reasons: Mapping[str, str]  # why, in words: of the sites that declined
    model: str  # the id of the model that encoded the image
    code: str  # the image's own, hexadecimal
    noise: Noise | None  # what was done to the code before it was sent
    note: str  # why no other site was asked, or empty


@dataclass(frozen=True)
class ConsultRequest:
    """A question to the people who have a case, and what they said."""

    id: str
    direction: Literal["sent", "received"]
    site: str  # the other one
    user: str  # who asked: a pseudonym
    token: str
    image: str | None  # where received: the own case that is meant
    note: str
    time: float  # seconds since 1970
    decision: Literal["open", "yes", "no", "unknown"]  # unknown: the owning site has the request no more
    text: str
    answered: float | None  # seconds since 1970


@dataclass(frozen=True)
class Consults:
    """All requests of a site, the newest first."""

    requests: tuple[ConsultRequest, ...]
    note: str  # which sites could not be asked for their answers, or empty


def read_answer(found: Mapping[str, Any]) -> Answer:
    """An answer, from what the running client says."""
    noise = found["noise"]
    return Answer(
        site=found["site"],
        name=found["name"],
        hits=_hits(found["hits"]),
        own=_hits(found["own"]),
        outcomes={site: Outcome(word) for site, word in found["outcomes"].items()},
        reasons=dict(found["declined"]),
        model=found["model"],
        code=found["code"],
        noise=Noise(**noise) if noise else None,
        note=found["note"],
    )


def read_consult(one: Mapping[str, Any]) -> ConsultRequest:
    """A request for a consult, from what the running client says."""
    return ConsultRequest(**{**one, "image": one.get("image")})


def _hits(hits: list[dict[str, Any]]) -> tuple[Hit, ...]:
    return tuple(Hit(**{**hit, "image": hit.get("image")}) for hit in hits)
