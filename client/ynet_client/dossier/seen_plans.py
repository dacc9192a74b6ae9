"""The plans that a home folder knows of: received, decided, trained, or behind a stored model; and what follows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ynet import plan as plans
from ynet import weights
from ynet.errors import UserError
from ynet.plan import Plan
from ynet_client.dossier.logged import LoggedUse, TrainedPlan
from ynet_client.settings import ClientSettings
from ynet_client.training import consent
from ynet_client.training.consent import PLAN_ID, Consent, Decision


@dataclass(frozen=True)
class KnownPlan:
    """A plan, and what this site does about it under its settings of today."""

    id: str
    plan: Plan | None  # None: its content is not in the home folder
    decision: Decision | None  # of the admin
    effect: str  # a phrase: trained, waits, refused and why
    trained: TrainedPlan | None = None
    models: tuple[str, ...] = ()  # stored models of this plan, by id

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `ynet-client dossier --json` prints it."""
        trained = self.trained
        return {
            "plan": self.id,
            "name": self.plan.name if self.plan else None,
            "decision": self.decision,
            "effect": self.effect,
            "privacy": self.plan.privacy.mode if self.plan else None,
            "epsilon": self.plan.privacy.epsilon if self.plan else None,
            "delta": self.plan.privacy.delta if self.plan else None,
            "aggregation": self.plan.aggregation if self.plan else None,
            "sends_scores": sends_scores(self.plan) if self.plan else None,
            "rounds_trained": trained.rounds if trained else 0,
            "first": trained.first if trained else None,
            "last": trained.last if trained else None,
        }


def known(home: Path, settings: ClientSettings, used: LoggedUse) -> Iterator[KnownPlan]:
    """Yield the plans of a home folder, those that were trained first; nothing is written."""
    agreed = Consent(home, settings.policy)
    contents = {one.plan.id: one.plan for one in agreed.seen()}
    models: dict[str, list[str]] = {}
    for model_id, of_model in _of_models(home / "models"):
        contents.setdefault(of_model.id, of_model)
        models.setdefault(of_model.id, []).append(model_id)
    decided = {path.stem for path in (home / consent.FOLDER).glob("*.*") if path.suffix in (".accepted", ".declined")}
    every = {one for one in {*contents, *decided, *used.plans} if PLAN_ID.fullmatch(one)}
    for plan_id in sorted(every, key=lambda one: (one not in used.plans, one)):
        plan, decision = contents.get(plan_id), agreed.decision_on(plan_id)
        made = KnownPlan(plan_id, plan, decision, "", used.plans.get(plan_id), tuple(models.get(plan_id, ())))
        yield replace(made, effect=_effect(made, settings, agreed))


def sends_scores(plan: Plan) -> bool:
    """Return whether scores leave the site under a plan."""
    return plan.privacy.mode == "off" or plan.privacy.scores != "none"


def _effect(one: KnownPlan, settings: ClientSettings, agreed: Consent) -> str:
    if not settings.trains:
        return "refused: this site only asks"
    if one.decision == "declined":
        return "refused: this site's admin declined it"
    if one.plan is None:
        return "trained if the policy allows it" if one.decision else "unknown: its content is not in the home folder"
    try:
        consent.check(one.plan, settings.policy)
    except UserError as error:
        return f"refused: {error.why}"
    if not settings.disclosure.labels and consent.shows_classes(one.plan):
        return "refused: its sums would tell the cases by class, and disclosure.labels is false"
    return "waits for the admin's decision" if agreed.objection(one.plan) else "trained when the server asks"


def _of_models(folder: Path) -> Iterator[tuple[str, Plan]]:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            yield path.stem, plans.from_canonical(weights.metadata_of(path).get("plan", ""))
        except UserError:
            continue  # another version's, or broken: the client fetches it again
