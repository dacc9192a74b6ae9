"""Draw the first ten hits of random queries under two codes of one network: the trained one, and the one from moments.

python tests/benchmarks/hits_picture.py --model FOLDER --data DIR --out FILE.png [--queries 10] [--seed 1]

FOLDER is that of a finished model, as `ynet-lab simulate` or a run leaves it, of a plan with `network.code: moments`.
Each row has the query, its hits by the trained code, and its hits by the code from moments, among the training cases
and the other queries; equal distances are in a random order. A green frame: the query's class. A blue dot: another
image of the query's patient.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from ynet import plan as plans
from ynet import weights
from ynet.data import images
from ynet.data.manifest import Case, Manifest, find_sites
from ynet.learning.evaluate import encode, join
from ynet.learning.hashing import hamming
from ynet.learning.model import YNet, build, load_arrays
from ynet.plan import Plan
from ynet_client.retrieval.picture import shown
from ynet_client.training.site_data import LocalSite
from ynet_server.rounds.run_folder import MODEL, PLAN

HITS, SIDE, GAP, BLOCK, HEAD = 10, 88, 6, 28, 30
SAME, OTHER, PATIENT = (38, 160, 90), (205, 205, 205), (40, 90, 220)


class Shown(NamedTuple):
    """A case that may be drawn."""

    manifest: Manifest
    case: Case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = plans.from_canonical((given.model / PLAN).read_text("utf-8"))
    net = build(plan)
    load_arrays(net, weights.load(given.model / MODEL)[0])
    sites = {name: LocalSite(path, "cpu", 1 << 30) for name, path in find_sites(given.data).items()}
    manifests = [site.manifest(plan.training.seed) for site in sites.values()]
    cases = [Shown(one, case) for split in ("train", "test") for one in manifests for case in getattr(one, split)]
    queries, random = sum(len(one.test) for one in manifests), np.random.default_rng(given.seed)
    chosen = len(cases) - queries + random.choice(queries, min(given.queries, queries), replace=False)
    after = coded(net, plan, sites)
    net.moment_code = None
    blocks = [nearest(codes, chosen, random) for codes in (coded(net, plan, sites), after)]
    drawn(plan, [cases[place] for place in chosen], cases, blocks).save(given.out)


def coded(net: YNet, plan: Plan, sites: dict[str, LocalSite]) -> npt.NDArray[np.uint8]:
    """Encode the training cases of all sites, then their queries."""
    parts = [[encode(net, one, site.device) for one in site.cases(plan)] for site in sites.values()]
    return join([one[split] for split in (0, 1) for one in parts]).codes


def nearest(
    codes: npt.NDArray[np.uint8], chosen: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the places of the first hits of each chosen case."""
    distances = hamming(codes[chosen], codes)
    distances[np.arange(len(chosen)), chosen] = 8 * codes.shape[1] + 1  # not itself
    found: npt.NDArray[np.int64] = np.lexsort((random.random(distances.shape), distances))[:, :HITS]
    return found


def drawn(
    plan: Plan, asked: Sequence[Shown], held: Sequence[Shown], blocks: Sequence[npt.NDArray[np.int64]]
) -> Image.Image:
    step, block = SIDE + GAP, HITS * (SIDE + GAP) + BLOCK
    sheet = Image.new("RGB", (step + BLOCK + 2 * block, HEAD + len(asked) * step + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for left, title in ((GAP, "query"), (step + BLOCK, "trained code"), (step + BLOCK + block, "code from moments")):
        pen.text((left, 6), title, fill="black", font=font)
    for row, query in enumerate(asked):
        top = HEAD + row * step
        sheet.paste(picture(plan, query), (GAP, top))
        for left, hit in placed(step, block, held, [one[row] for one in blocks]):
            sheet.paste(picture(plan, hit), (left, top))
            is_same = hit.case.label == query.case.label
            pen.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline=SAME if is_same else OTHER, width=3)
            if hit.manifest is query.manifest and hit.case.patient == query.case.patient:
                pen.ellipse((left + SIDE - 18, top + 4, left + SIDE - 4, top + 18), fill=PATIENT)
    return sheet


def placed(
    step: int, block: int, held: Sequence[Shown], hits: Sequence[npt.NDArray[np.int64]]
) -> Iterator[tuple[int, Shown]]:
    """Yield the hits of a row with their places from the left."""
    for number, places in enumerate(hits):
        for rank, place in enumerate(places):
            yield step + BLOCK + number * block + rank * step, held[place]


def picture(plan: Plan, one: Shown) -> Image.Image:
    """Return a case's image as a square."""
    found = shown(images.decode(one.manifest.path_of(one.case.image), plan.image.channels), 2 * SIDE)
    side = min(found.size)
    left, top = (found.width - side) // 2, (found.height - side) // 2
    return found.convert("RGB").crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


if __name__ == "__main__":
    main()
