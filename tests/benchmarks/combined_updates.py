"""Ways to combine the sites' updates, by the Dice that they reach: the segmentation branch on a frozen encoder's maps.

python tests/benchmarks/combined_updates.py --data DIR [DIR ...] --plan PLAN.yaml [--rounds 40] [--ways NAME,...]
    [--rates 1e-3,4e-3] [--seeds 1] [--out FILE.json]

DIR holds a folder for each site, with a `split` in its manifest. The plan trains the heads of a pretrained encoder of
YNET_HOME; each round is one pass over the training cases, at the plan's learning rate or at those of `--rates`, which
falls over the last fifth of the rounds. All ways see the same maps, and are scored on the test cases of all sites.
`pooled` trains one network on all cases, which is the aim; `alike` deals them at random to sites of the same sizes, so
that what it lacks is not for the unlikeness of the sites.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import find_sites
from ynet.learning import metrics
from ynet.learning.losses import bce, soft_dice
from ynet.learning.map_cache import MapCache
from ynet.learning.model import Segmentation, YNet, arrays_of, build, load_arrays
from ynet.network_size import stage_channels
from ynet.plan import Plan
from ynet.schedule import learning_rate
from ynet_client.training.site_data import LocalSite
from ynet_server import encoder_files

CACHE_BYTES, CHUNK = 4 << 30, 64
COOLDOWN = 0.2
BETAS, TINY = (0.9, 0.999), 1e-8


class Cases(NamedTuple):
    """The cases of one place, all in memory: maps of the plain images and then of their mirror images, by level."""

    maps: tuple[Tensor, ...]  # each (2, cases, channels, h, w), half precision
    mask: Tensor  # (cases, regions, size, size), uint8

    def batch(self, places: Tensor, flipped: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps and the masks of some cases, or of their mirror images."""
        mask = self.mask[places].float()
        return (
            [level[flipped.long(), places].float() for level in self.maps],
            torch.where(flipped.view(-1, 1, 1, 1), mask.flip(-1), mask),
        )


class Way(NamedTuple):
    """How a federation trains. The server moves by the mean update: with momentum, or by Adam's rule."""

    epochs: int = 1  # of a site in a round; there are fewer rounds by as much
    has_equal_steps: bool = False  # every site makes the same number of steps
    momentum: float = 0.0
    adam: float = 0.0  # the server's learning rate
    proximal: float = 0.0
    has_controls: bool = False  # SCAFFOLD's control variates (Karimireddy et al. 2020, option II), on the gradients
    shares_moments: bool = False  # the optimizers' moments are averaged, too


WAYS: Mapping[str, Way] = {
    "pooled": Way(),
    "fedavg": Way(),
    "alike": Way(),
    "equal steps": Way(has_equal_steps=True),
    "2 local epochs": Way(epochs=2),
    "4 local epochs": Way(epochs=4),
    "fedavgm 0.5": Way(momentum=0.5),
    "fedadam 1e-3": Way(adam=1e-3),
    "fedprox 0.01": Way(proximal=0.01),
    "scaffold": Way(has_controls=True),
    "shared moments": Way(shares_moments=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rates", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = plans.read(given.plan)
    rates = [float(one) for one in given.rates.split(",") if one] or [plan.training.learning_rate]
    found: dict[str, Any] = json.loads(given.out.read_text("utf-8")) if given.out and given.out.exists() else {}
    for data in given.data:
        held, asked = opened(plan, data)
        for rate, name, seed in product(rates, given.ways.split(","), range(1, given.seeds + 1)):
            at_rate = replace(plan, training=replace(plan.training, learning_rate=rate))
            federation = Federation(at_rate, divided(held, name, seed), WAYS[name], seed)
            dice = scored(federation.trained(given.rounds), joined(asked))
            key = f"{data.name}, {given.rounds} rounds, learning rate {rate:g}"
            found.setdefault(key, {}).setdefault(name, []).append(round(dice, 4))
            print(f"{key}, {name}, seed {seed}: Dice {dice:.4f}", flush=True)
            if given.out:
                given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def divided(held: Sequence[Cases], name: str, seed: int) -> Sequence[Cases]:
    """Return the training cases of each site that a way trains at."""
    if name not in ("pooled", "alike"):
        return held
    every = joined(held)
    if name == "pooled":
        return [every]
    order = torch.randperm(len(every.mask), generator=torch.Generator().manual_seed(seed))
    parts = order.split([len(site.mask) for site in held])
    return [Cases(tuple(level[:, part] for level in every.maps), every.mask[part]) for part in parts]


def opened(plan: Plan, data: Path) -> tuple[list[Cases], list[Cases]]:
    """Compute the maps of the training and of the test cases of each site, under the plan's pretrained encoder."""
    net = build(plan)
    load_arrays(
        net, weights.begun_with(arrays_of(net), encoder_files.arrays(encoder_files.default_folder(), plan.network))
    )
    pairs = [LocalSite(path, "cpu", CACHE_BYTES).cases(plan) for path in find_sites(data).values()]
    return tuple([mapped(net, pair[part]) for pair in pairs] for part in (0, 1))  # type: ignore[return-value]


def mapped(net: YNet, source: Any) -> Cases:
    if not isinstance(source, MapCache):
        raise SystemExit("the plan must have training.trained: heads")
    read, sides = source.reader(net), []
    for is_mirrored in (False, True):
        parts = [
            read(places, torch.full((len(places),), is_mirrored)) for places in torch.arange(len(source)).split(CHUNK)
        ]
        sides.append([torch.cat(level).half() for level in zip(*(part.maps for part in parts), strict=True)])
        masks = torch.cat([part.batch.mask for part in parts])
    return Cases(tuple(torch.stack(level) for level in zip(*sides, strict=True)), masks.flip(-1).to(torch.uint8))


def joined(sites: Sequence[Cases]) -> Cases:
    levels = zip(*(site.maps for site in sites), strict=True)
    return Cases(tuple(torch.cat(level, 1) for level in levels), torch.cat([site.mask for site in sites]))


class Federation:
    """Sites that train one segmentation branch in one way, each with an optimizer (AdamW) of its own."""

    def __init__(self, plan: Plan, sites: Sequence[Cases], way: Way, seed: int) -> None:
        torch.manual_seed(seed)
        self.plan, self.sites, self.way = plan, sites, way
        self.branch = Segmentation(stage_channels(plan), plan.regions.count)
        self.random = torch.Generator().manual_seed(seed)
        size = sum(p.numel() for p in self.branch.parameters())
        self.first, self.second = (torch.zeros(len(sites), size) for _ in range(2))
        self.steps = [0] * len(sites)
        self.controls, self.control = torch.zeros(len(sites), size), torch.zeros(size)
        self.velocity, self.square = torch.zeros(size), torch.zeros(size)

    def trained(self, rounds: int) -> Segmentation:
        rounds = math.ceil(rounds / self.way.epochs)
        run = replace(self.plan.training, rounds=rounds, schedule="trapezoid", cooldown=COOLDOWN)
        plan = replace(self.plan, training=run)
        counts = torch.tensor([float(len(site.mask)) for site in self.sites])
        share = counts / counts.sum()
        flat = parameters_to_vector(self.branch.parameters()).detach()
        for number in range(1, rounds + 1):
            rate = learning_rate(plan, number)
            ends = torch.stack([self.local(place, flat, rate) for place in range(len(counts))])
            if self.way.shares_moments:
                self.first[:], self.second[:] = share @ self.first, share @ self.second
            if self.way.has_controls:
                self.control = share @ self.controls
            flat = self.moved(flat, share @ ends - flat, number)
        vector_to_parameters(flat, self.branch.parameters())
        return self.branch

    def local(self, place: int, begin: Tensor, rate: float) -> Tensor:
        """Train at one site for a round; return its weights."""
        site, size, flat = self.sites[place], self.plan.training.batch_size, begin.clone()
        mean = torch.zeros_like(begin)
        for steps, batch in enumerate(self.batches(place, size), start=1):
            vector_to_parameters(flat, self.branch.parameters())
            maps, mask = site.batch(batch, torch.rand(len(batch), generator=self.random) < 0.5)
            logits = F.interpolate(self.branch(maps), mask.shape[-2:], mode="bilinear")
            loss = (bce(logits, mask) + 1 - soft_dice(logits, mask)).mean()
            gradient = parameters_to_vector(torch.autograd.grad(loss, list(self.branch.parameters())))
            gradient = gradient + self.way.proximal * (flat - begin) + self.control - self.controls[place]
            self.steps[place] += 1
            self.first[place].lerp_(gradient, 1 - BETAS[0])
            self.second[place].lerp_(gradient**2, 1 - BETAS[1])
            first, second = (
                m[place] / (1 - b ** self.steps[place]) for m, b in zip((self.first, self.second), BETAS, strict=True)
            )
            flat = flat * (1 - rate * self.plan.training.weight_decay) - rate * first / (second.sqrt() + TINY)
            if self.way.has_controls:
                mean += (gradient - mean) / steps
        if self.way.has_controls:
            self.controls[place] += mean - self.control
        return flat

    def batches(self, place: int, size: int) -> list[Tensor]:
        """Draw the batches of a site's round."""
        cases = len(self.sites[place].mask)
        orders = [torch.randperm(cases, generator=self.random).split(size) for _ in range(self.way.epochs)]
        found = [batch for order in orders for batch in order]
        if not self.way.has_equal_steps:
            return found
        steps = round(np.mean([math.ceil(len(site.mask) / size) for site in self.sites]))
        while len(found) < steps:
            found += torch.randperm(cases, generator=self.random).split(size)
        return found[:steps]

    def moved(self, flat: Tensor, change: Tensor, number: int) -> Tensor:
        """Return the server's weights after a round."""
        way = self.way
        if way.adam:
            self.velocity.lerp_(change, 0.1)
            self.square.lerp_(change**2, 0.01)
            first, second = self.velocity / (1 - 0.9**number), self.square / (1 - 0.99**number)
            return flat + way.adam * first / (second.sqrt() + 1e-4)
        self.velocity = way.momentum * self.velocity + change
        return flat + self.velocity


def scored(branch: Segmentation, asked: Cases) -> float:
    """Return the mean Dice of the cases with a lesion, from the image and its mirror image."""
    found = []
    with torch.inference_mode():
        for places in torch.arange(len(asked.mask)).split(CHUNK):
            logits = torch.zeros(())
            for is_mirrored in (False, True):
                maps, _ = asked.batch(places, torch.full((len(places),), is_mirrored))
                seen = branch(maps)
                logits = logits + (seen.flip(-1) if is_mirrored else seen)
            mask = asked.mask[places].float()
            predicted = F.interpolate(logits, mask.shape[-2:], mode="bilinear") > 0
            found.append(torch.stack([one.sum((1, 2, 3)) for one in (predicted * mask, predicted, mask)]))
    return metrics.overlap(*torch.cat(found, 1).double().numpy()).dice or 0.0


if __name__ == "__main__":
    main()
