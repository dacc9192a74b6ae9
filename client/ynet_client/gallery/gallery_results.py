"""The values that a gallery returns: single cases, sizes, statistics."""

from typing import NamedTuple, TypedDict


class CaseRow(NamedTuple):
    """One case as the gallery stores it."""

    id: int
    image: str
    label: str
    split: str
    attributes: dict[str, str]
    patient: int  # a number that has a meaning in this gallery only


class MissingCase(NamedTuple):
    """A case that has no code under a given model."""

    id: int
    image: str


class GroupSize(NamedTuple):
    """The number of cases and patients that a filter admits."""

    cases: int
    patients: int


class Forgotten(NamedTuple):
    """What the gallery knew of a patient."""

    pseudonym: str
    images: list[str]


class Stats(TypedDict):
    """The content of a gallery, as `ynet-client status` shows it."""

    cases: int
    patients: int
    indexed: int  # cases with a code under the model in use
    distinct_codes: int
    cases_per_label: dict[str, int]
    cases_per_split: dict[str, int]
    damaged: list[str]  # parts of the file that failed their checksum and must be encoded again


class Verified(TypedDict):
    """The result of `ynet-client index --verify`."""

    cases: int
    codes: int
    segments: int
    damaged: list[str]
