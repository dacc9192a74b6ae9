"""Measure the cost of a secure sum for a site and the server, against sending plain weights.

python tests/benchmarks/secure_sum.py [--out FILE.json] [--parameters 5000000] [--sites 10] [--repeats 3]
"""

import argparse
import datetime as dt
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ynet import weights
from ynet.federation import content
from ynet.federation.content import Content
from ynet.federation.secure_sum import (
    Purpose,
    add_up,
    check_roster,
    fresh_keys,
    mask,
    roster_from_json,
    roster_to_json,
    to_wire,
    unmask,
)
from ynet.trust import identity
from ynet.trust.identity import Identity

CASES = 100


def member(authority: Identity, site: str, now: dt.datetime) -> Identity:
    key = identity.new_key()
    return Identity(key, identity.issue_site(authority, site, identity.signing_request(key, site), now))


def size_bytes(flat: np.ndarray) -> int:
    """Return the size of the file on the wire."""
    with tempfile.TemporaryDirectory() as folder:
        blocks = {f"block{i:05d}": block for i, block in enumerate(weights.blocks(flat))}
        return content.write(Path(folder) / "content", Content(arrays={"arrays": blocks})).size_bytes


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--parameters", type=int, default=5_000_000)
    arguments.add_argument("--sites", type=int, default=10)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    now = dt.datetime.now(dt.UTC)
    authority, purpose = identity.make_authority("benchmark", now), Purpose("run", 1, 0, "")
    names = [f"S{number:02d}" for number in range(options.sites)]
    members = {name: member(authority, name, now) for name in names}
    random = np.random.default_rng(1)
    values = {name: random.standard_normal(options.parameters).astype(np.float32) for name in names}

    offering, checking, masking, summing = [], [], [], []
    for _ in range(options.repeats):
        begun = time.perf_counter()
        keys = {name: fresh_keys(members[name], name, purpose) for name in names}
        offering.append((time.perf_counter() - begun) / len(names))
        roster = roster_to_json([one.offer for one in keys.values()])
        masked = {}
        for name in names:
            begun = time.perf_counter()
            offers = check_roster(roster_from_json(roster), purpose, authority.certificate, 3, now)
            checking.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            masked[name] = mask(keys[name], values[name], CASES, offers)
            masking.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        total = add_up(list(masked.values()))
        mean = unmask(total, [one.own_mask for one in keys.values()]) / (CASES * len(names))
        summing.append(time.perf_counter() - begun)
    error = float(np.abs(mean - np.mean(np.stack(list(values.values())), axis=0, dtype=np.float64)).max())
    plain = size_bytes(values[names[0]])
    sent = size_bytes(to_wire(masked[names[0]])) + len(json.dumps([roster]))
    figures = {
        "parameters": options.parameters,
        "sites": options.sites,
        "fresh_keys_s": round(statistics.median(offering), 5),
        "check_roster_s": round(statistics.median(checking), 5),
        "mask_s": round(statistics.median(masking), 3),
        "sum_at_the_server_s": round(statistics.median(summing), 3),
        "plain_bytes": plain,
        "bytes": sent,
        "bytes_over_plain": round(sent / plain, 3),
        "largest_error": error,
    }
    for key, value in figures.items():
        print(f"{key:24} {value:>14}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
