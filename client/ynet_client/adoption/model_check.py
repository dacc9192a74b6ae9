"""A site's veto: a new model that finds its own held-out cases much worse than the one in use is not taken up."""

from typing import NamedTuple

from ynet.data.cases import CaseCache
from ynet.data.manifest import Case, Manifest
from ynet.errors import RefusedError
from ynet.learning.evaluate import evaluate
from ynet.learning.model import YNet
from ynet.plan import Plan
from ynet_client.training.site_data import LocalSite

MOST_CASES = 1000
"""Of the training cases, and of the test cases, that are looked at: the archive may have millions."""


class ActiveModel(NamedTuple):
    """A model that codes are made with."""

    id: str
    plan: Plan
    net: YNet


def check(site: LocalSite, old: ActiveModel, new: ActiveModel, max_score_drop: float) -> str:
    """Raise RefusedError when `new`'s macro mAP@10 is more than `max_score_drop` under `old`'s.

    Both see the same cases. Where nothing can be compared, why: then the admin is asked, and never is it passed over.
    """
    if not site.trains:
        return "this site only asks, and has no cases to compare it on (max_score_drop)"
    if old.plan.classes != new.plan.classes:
        return "it knows other classes than the model in use, so that the two cannot be compared (max_score_drop)"
    if old.plan.image.channels != new.plan.image.channels:
        return "it reads images otherwise than the model in use, so that the two cannot be compared (max_score_drop)"
    manifest = site.manifest(new.plan.training.seed)
    before, after = (score(site, manifest, model) for model in (old, new))
    if before is None or after is None:
        return "this site has no test cases that tell it from the model in use: none, or none to rank (max_score_drop)"
    if before - after <= max_score_drop:
        return ""
    raise RefusedError(
        f"model {new.id[:16]} was not taken up",
        f"on this site's own test cases its macro mAP@10 is {after:.3f}, and that of the model in use {before:.3f}",
        "ask the coordinator how that came; to take it up all the same, raise `max_score_drop` (client.yaml)",
    )


def score(site: LocalSite, manifest: Manifest, model: ActiveModel) -> float | None:
    """A model's macro mAP@10 on the site's test cases, sought among its training cases.

    None where it has none, or where no ranking of them says anything: all training cases are of one class, or none of
    the test cases'.
    """
    gallery, queries = (_cases(manifest, part, model.plan) for part in (manifest.train, manifest.test))
    if not len(gallery) or not len(queries):
        return None
    return evaluate(model.net, gallery, queries, model.plan, site.device).macro_map10


def _cases(manifest: Manifest, cases: tuple[Case, ...], plan: Plan) -> CaseCache:
    """Some of the cases, spread evenly."""
    step = max(1, -(-len(cases) // MOST_CASES))
    return CaseCache(manifest, cases[::step], plan.image, plan.classes, 0)
