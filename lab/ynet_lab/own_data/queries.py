"""Queries of a demonstration: which test cases are asked about, and how good the answers are."""

from collections import Counter
from collections.abc import Mapping, Sequence

from numpy.random import Generator

from ynet.data.manifest import Case, Manifest
from ynet.learning.evaluate import K
from ynet_client.retrieval.query import MAX_K
from ynet_lab.own_data.verdict import Rated, dice_of
from ynet_lab.trial import Trial

MOST_QUERIES = 1000
"""Test cases that are asked about; more are drawn from."""


def trained_cases(manifests: Mapping[str, Manifest]) -> Counter[str]:
    """Return the training cases of each class, over all sites; cases without a label are of no class."""
    return Counter(case.label for manifest in manifests.values() for case in manifest.train if case.label)


def chosen(manifests: Mapping[str, Manifest], random: Generator) -> dict[str, tuple[Case, ...]]:
    """Return the labelled test cases of each site, or a random part of them where there are very many."""
    every = [(site, case) for site, manifest in manifests.items() for case in manifest.test if case.label]
    drawn = sorted(random.permutation(len(every))[:MOST_QUERIES])
    return {site: tuple(every[at][1] for at in drawn if every[at][0] == site) for site in manifests}


def rate(trial: Trial, manifests: Mapping[str, Manifest], asked: Mapping[str, Sequence[Case]]) -> list[Rated]:
    """Query each labelled case at its site against all sites' training images; hits without a label do not count."""
    total = trained_cases(manifests)
    unlabelled = sum(not case.label for manifest in manifests.values() for case in manifest.train)
    most, rated = min(K + unlabelled, MAX_K), []
    for site, cases in asked.items():
        for case in (one for one in cases if one.label):
            found = trial.query(site, manifests[site].path_of(case.image), k=most, split="train")
            relevant = [hit["label"] == case.label for hit in found["hits"] if hit["label"]][:K]
            precision = average_precision(relevant, total[case.label])
            rated.append(Rated(case.label, f"{site}/{case.patient}", precision, sum(relevant)))
    return rated


def average_precision(relevant: list[bool], total: int) -> float:
    """Return AP@K of one ranked list, normalised by min(K, relevant items)."""
    hits, points = 0, 0.0
    for rank, is_relevant in enumerate(relevant, start=1):
        if is_relevant:
            hits += 1
            points += hits / rank
    return points / max(1, min(K, total))


def last_dice(trial: Trial) -> float | None:
    """Return the Dice of the run's last scores, over all sites."""
    number = trial.server_call("GET", "/runs")["runs"][0]["id"]
    events = trial.server_call("GET", f"/runs/{number}/events")["events"]
    scored = [event["sites"] for event in events if event["kind"] in ("evaluated", "result_evaluated")]
    return dice_of(scored[-1]) if scored else None
