"""A site's veto: a new model that ranks the site's held-out cases much worse than the one in use is not adopted."""

from typing import NamedTuple

from ynet.data.cases import CaseCache
from ynet.data.manifest import Case, Manifest
from ynet.errors import RefusedError
from ynet.learning.evaluate import evaluate
from ynet.learning.model import YNet
from ynet.plan import Plan
from ynet_client.training.site_data import LocalSite

MOST_CASES = 1000
"""The largest number of training cases, and of test cases, that are used: the archive may have millions."""


class ActiveModel(NamedTuple):
    """A model that computes codes."""

    id: str
    plan: Plan
    net: YNet


def check(site: LocalSite, old: ActiveModel, new: ActiveModel, max_score_drop: float) -> str:
    """Raise RefusedError when `new`'s macro mAP@10 is more than `max_score_drop` below `old`'s, on the same cases.

    Returns why the two cannot be compared, so that the admin is asked; empty when they were.
    """
    if not site.trains:
        return "this site only asks, and has no cases to compare it on (max_score_drop)"
    if old.plan.classes != new.plan.classes:
        return "it has other classes than the model in use, so the two cannot be compared (max_score_drop)"
    if old.plan.image.channels != new.plan.image.channels:
        return "it reads images differently from the model in use, so the two cannot be compared (max_score_drop)"
    manifest = site.manifest(new.plan.training.seed)
    before, after = (score(site, manifest, model) for model in (old, new))
    if before is None or after is None:
        return "this site has no test cases to compare it on, or none that can be ranked (max_score_drop)"
    if before - after <= max_score_drop:
        return ""
    raise RefusedError(
        f"model {new.id[:16]} was not adopted",
        f"on this site's own test cases its macro mAP@10 is {after:.3f}, and that of the model in use {before:.3f}",
        "ask the coordinator for the reason; to adopt it anyway, raise `max_score_drop` (client.yaml)",
    )


def score(site: LocalSite, manifest: Manifest, model: ActiveModel) -> float | None:
    """Return a model's macro mAP@10 for the site's test cases as queries to its training cases.

    None when there are no such cases, or when every ranking is trivial: the training cases have one class only, or none
    of the test cases' classes.
    """
    gallery, queries = (_cases(manifest, part, model.plan) for part in (manifest.train, manifest.test))
    if not len(gallery) or not len(queries):
        return None
    return evaluate(model.net, gallery, queries, model.plan, site.device).macro_map10


def _cases(manifest: Manifest, cases: tuple[Case, ...], plan: Plan) -> CaseCache:
    """Return at most MOST_CASES of the cases, evenly spaced."""
    step = max(1, -(-len(cases) // MOST_CASES))
    return CaseCache(manifest, cases[::step], plan.image, plan.classes, 0, plan.regions)
