"""The commands of an experimenter: all sites on one machine, and attacks on what was trained there."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.runtime.command_line import show_examples
from ynet_lab.examples import EXAMPLES
from ynet_lab.tables import attack_table, model_table
from ynet_server.commands.options import Json

app = typer.Typer(name="ynet-lab", help="A consortium's experiments on one machine.", no_args_is_help=True)


def main() -> None:
    """Entry point."""
    terminal.run(app)


@app.command()
def simulate(
    plan: Annotated[Path, typer.Option("--plan", help="The plan, YAML.")],
    data: Annotated[Path, typer.Option("--data", help="A folder of sites, each with a manifest.csv.")],
    report: Annotated[
        Path, typer.Option("--report", help="The folder for report.html, report.json and the models; goes on there.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="How often, each time with another seed.")] = 1,
    models: Annotated[
        str, typer.Option("--models", help="Which: federated, pooled, alone (each site by itself).")
    ] = "federated,pooled,alone",
    validation: Annotated[
        bool, typer.Option("--validation", help="Score on held-back training patients; leave the test split alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a plan federated, pooled and each site alone on this machine, and report what each model scores.

    Needs the extra `simulation`.
    """
    try:
        from ynet_lab import experiment, simulate  # torch, Ray and the client: only here
    except ImportError as error:
        raise UserError("the simulation is not installed", str(error), "pip install 'ynet[simulation]'") from None

    kinds = [kind for kind in simulate.KINDS if kind in models.split(",")]
    if unknown := set(models.split(",")) - set(kinds):
        raise UserError(f"there is no model {sorted(unknown)[0]!r}", f"there are {', '.join(simulate.KINDS)}", "see -h")
    made = experiment.experiment(
        plan,
        data,
        report,
        seeds=seeds,
        kinds=kinds,
        is_validation=validation,
        say=lambda line: print(line, flush=True, file=sys.stderr),
    )
    print(f"report: {report / 'report.html'}", flush=True, file=sys.stderr)
    terminal.show(made, as_json=as_json, human=lambda: model_table(made["models"]))


@app.command()
def attack(
    model: Annotated[Path, typer.Option("--model", help="A finished model's folder, as simulate or a run leaves it.")],
    data: Annotated[Path, typer.Option("--data", help="The folder of sites that it was trained on.")],
    report: Annotated[Path, typer.Option("--report", help="The folder for report.html and report.json.")],
    attacks: Annotated[
        str, typer.Option("--attacks", help="Which: membership, gradient, code, audit.")
    ] = "membership,gradient,code,audit",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**20, help="Of all that is drawn but noise.")] = 1,
    shadow_pairs: Annotated[
        int, typer.Option("--shadow-pairs", min=2, max=128, help="Pairs of shadow models, for membership.")
    ] = 2,
    shadow_rounds: Annotated[
        int | None, typer.Option("--shadow-rounds", min=1, help="Theirs, and the audit's. Default: the plan's.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, max=100_000, help="To invert a gradient.")] = 300,
    epsilon: Annotated[
        float, typer.Option("--epsilon", min=0.01, max=100, help="Of protected gradients, where the plan has none.")
    ] = 8.0,
    as_json: Json = False,
) -> None:
    """Attack a finished model before it is given away: what can be learnt of its patients, at least.

    Needs the extra `simulation`.
    """
    try:
        from ynet_lab import attack_run as attacking  # torch and the client: only here
    except ImportError as error:
        raise UserError("the attacks are not installed", str(error), "pip install 'ynet[simulation]'") from None

    chosen = [name for name in attacking.ATTACKS if name in attacks.split(",")]
    if unknown := set(attacks.split(",")) - set(chosen):
        known = ", ".join(attacking.ATTACKS)
        raise UserError(f"there is no attack {sorted(unknown)[0]!r}", f"there are {known}", "separate them by commas")
    made = attacking.attack(
        model,
        data,
        report,
        attacks=chosen,
        seed=seed,
        effort=attacking.Effort(shadow_pairs, shadow_rounds, steps, epsilon),
        say=lambda line: print(line, flush=True, file=sys.stderr),
    )
    print(f"report: {report / 'report.html'}", flush=True, file=sys.stderr)
    terminal.show(made, as_json=as_json, human=lambda: attack_table(made["attacks"]))


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of hospitals, each with a manifest.csv. Default: made.")
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="A plan; its classes are replaced by the data's.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder for all that it makes; emptied first.")] = Path(
        "demo-out"
    ),
    report: Annotated[Path | None, typer.Option("--report", help="Write the figures there, JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Run a consortium on this machine: hospitals join over TLS, train, index, and one asks the others."""
    try:
        from ynet_lab import demo as demonstration  # torch: only here
    except ImportError as error:
        raise UserError("the demonstration is not installed", str(error), "pip install 'ynet[simulation]'") from None

    figures = demonstration.run(data, plan, out)
    if report:
        report.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if as_json:
        print(json.dumps(figures))


show_examples(app, EXAMPLES)
