"""The commands about plans: list what the server proposes, accept or decline it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ynet.runtime import terminal
from ynet.runtime.home import prepare
from ynet_client.commands import completion
from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of

app = typer.Typer(
    name="plan", help="The plans that the server proposes, and what this site decides.", no_args_is_help=True
)
PlanId = Annotated[
    str,
    typer.Argument(
        help="The plan's id, or a waiting model's; of one that has come, the first 12 letters or more.",
        autocompletion=completion.plans,
    ),
]


@app.command("list")
def list_(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Show the plans that the server has sent, their terms, this site's decisions, and models that wait for a yes."""
    from ynet_client.adoption.offered import OfferedModels
    from ynet_client.settings import Policy
    from ynet_client.training.consent import Consent, terms

    folder = home_of(home, site)
    seen = list(Consent(folder, Policy()).seen())
    models = [one._asdict() for one in OfferedModels(folder).listed()]
    plans_seen = [{"id": one.plan.id, "decision": one.decision, "plan": asdict(one.plan)} for one in seen]
    lines = ["\n".join([_heading(one.decision), *terms(one.plan)]) for one in seen]
    lines += ["\n".join([_heading(one["decision"]), *_model_lines(one)]) for one in models]
    shown = {"plans": plans_seen, "models": models}
    terminal.show(shown, as_json=as_json, human=lambda: "\n\n".join(lines) or "no plan has come yet")


@app.command()
def accept(plan_id: PlanId, site: Site = None, home: Home = None) -> None:
    """Take part in a plan, from now on; it may be one that has not come yet. Or take up a model that waits."""
    print(f"{_decide(home_of(home, site), plan_id, 'accepted')} is accepted")


@app.command()
def decline(plan_id: PlanId, site: Site = None, home: Home = None) -> None:
    """Take no part in a plan, from now on. Or do not take up a model that waits."""
    print(f"{_decide(home_of(home, site), plan_id, 'declined')} is declined")


def _decide(folder: Path, plan_id: str, decision: Literal["accepted", "declined"]) -> str:
    from ynet_client.adoption.offered import OfferedModels
    from ynet_client.settings import Policy
    from ynet_client.training.consent import Consent

    offers = OfferedModels(prepare(folder))
    if (model_id := offers.find(plan_id)) is not None:
        offers.say(model_id, decision)
        return f"model {model_id[:16]}"
    return f"plan {Consent(folder, Policy()).say(plan_id, decision)[:16]}"


def _heading(decision: str | None) -> str:
    return (decision or "waits for a decision").upper()


def _model_lines(model: dict[str, Any]) -> list[str]:
    return [f"model {model['id']}, of plan {model['name']}", *(f"  why        {why}" for why in model["why"])]
