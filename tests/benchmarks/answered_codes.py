"""The attack by chosen codes on an archive: for code_attacks.py."""

from typing import Any

import numpy as np

from ynet_client.retrieval.query import MAX_K
from ynet_client.settings import Disclosure
from ynet_lab.attacks.answering import site_of, some_tokens
from ynet_lab.attacks.chosen_codes import Bits, determine, sweep

STEPS = (1, 4, 8)
TARGETS = 20
DAY = Disclosure().queries_per_day_and_site


def chosen_codes(held: Bits, own: Bits) -> dict[str, Any]:
    """Attack an archive of the `held` codes, rows of bits, from the attacker's `own`; figures by step.

    One case is determined alone, for some of the attacker's own cases the nearest one. Then as many cases as the
    default quota of a day allows, together.
    """
    return {str(step): _by_step(held, own, step) for step in STEPS}


def _by_step(held: Bits, own: Bits, step: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    starts, tokens = own[random.permutation(len(own))], some_tokens(len(held), random)
    ask = site_of(np.packbits(held, axis=1), tokens, step, MAX_K)
    truth = {token.tobytes(): code for token, code in zip(tokens, held, strict=True)}
    tried = []
    for start in starts[:TARGETS]:
        token = next(iter(ask([np.packbits(start).tobytes()])[0]))
        found = determine(ask, start, token, step, MAX_K, random)
        tried.append((found.code is not None and np.array_equal(found.code, truth[token]), found.queries))
    together: dict[bytes, Bits] = {}
    sweeps = DAY // (held.shape[1] + 1)
    for start in starts[:sweeps]:
        together |= sweep(ask, start, step, MAX_K)
    right = sum(np.array_equal(code, truth[token]) for token, code in together.items())
    is_right, queries = np.array(tried).T
    return {
        "targets": len(tried),
        "determined": float(is_right.mean()),
        "queries_median": float(np.median(queries)),
        "queries_most": int(queries.max()),
        "held": len(held),
        "in_a_day": int(right),
        "in_a_day_wrong": len(together) - int(right),
        "queries_in_a_day": min(sweeps, len(starts)) * (held.shape[1] + 1),
    }
