"""The command line `ynet-lab`: a consortium on one machine, and attacks on its models."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.runtime.command_line import Json, show_examples
from ynet_lab.examples import EXAMPLES
from ynet_lab.own_data.layout import sites_in
from ynet_lab.tables import attack_table, model_table, skew_table

app = typer.Typer(name="ynet-lab", help="A consortium's experiments on one machine.", no_args_is_help=True)


def main() -> None:
    """Run the command line."""
    terminal.run(app)


@contextlib.contextmanager
def needs_extra(what: str) -> Iterator[None]:
    """Turn an ImportError of the extra `simulation` (torch, Ray, the client) into a UserError."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{what} cannot run", str(error), "pip install 'ynet[simulation]'") from None


@app.command()
def simulate(
    plan: Annotated[Path, typer.Option("--plan", help="The plan, YAML.")],
    data: Annotated[Path, typer.Option("--data", help="A folder of sites, each with a manifest.csv.")],
    report: Annotated[
        Path,
        typer.Option("--report", help="The folder for report.html, report.json and models; a run resumes there."),
    ],
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="How many times, each with another seed.")] = 1,
    models: Annotated[
        str, typer.Option("--models", help="Which: federated, pooled, alone (each site without the others).")
    ] = "federated,pooled,alone",
    validation: Annotated[
        bool, typer.Option("--validation", help="Score on held-back training patients instead of the test split.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a plan federated, pooled and alone at each site on this machine; report each model's scores.

    Needs the extra `simulation`.
    """
    with needs_extra("the simulation"):
        from ynet_lab import experiment, simulate

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
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**20, help="Seed of all random draws but the noise.")] = 1,
    shadow_pairs: Annotated[
        int, typer.Option("--shadow-pairs", min=2, max=128, help="Pairs of shadow models, for membership.")
    ] = 2,
    shadow_rounds: Annotated[
        int | None,
        typer.Option("--shadow-rounds", min=1, help="Their rounds, also the audit's. Default: the plan's."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, max=100_000, help="Steps of a gradient inversion.")] = 300,
    epsilon: Annotated[
        float,
        typer.Option("--epsilon", min=0.01, max=100, help="Of protected gradients, where the plan has none."),
    ] = 8.0,
    as_json: Json = False,
) -> None:
    """Attack a finished model before it is given away: measure what it reveals of its patients, at least.

    Needs the extra `simulation`.
    """
    with needs_extra("the attacks"):
        from ynet_lab import attack_figures, attack_run, attack_target

    chosen = [name for name in attack_figures.ATTACKS if name in attacks.split(",")]
    if unknown := set(attacks.split(",")) - set(chosen):
        known = ", ".join(attack_figures.ATTACKS)
        raise UserError(f"there is no attack {sorted(unknown)[0]!r}", f"there are {known}", "separate them by commas")
    made = attack_run.attack(
        model,
        data,
        report,
        attacks=chosen,
        seed=seed,
        effort=attack_target.Effort(shadow_pairs, shadow_rounds, steps, epsilon),
        say=lambda line: print(line, flush=True, file=sys.stderr),
    )
    print(f"report: {report / 'report.html'}", flush=True, file=sys.stderr)
    terminal.show(made, as_json=as_json, human=lambda: attack_table(made["attacks"]))


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder of hospitals, each with a manifest.csv. Default: synthetic."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan", help="A plan; its classes are replaced by the data's. Default: what `plan` writes for them."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The output folder; emptied first.")] = Path("demo-out"),
    report: Annotated[Path | None, typer.Option("--report", help="Write the figures there, JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Run a consortium on this machine: hospitals join over TLS, train, index, and query each other.

    With your own images it says how long it will take, and what the score at the end is worth. The patients of a single
    hospital are dealt to three pretend ones. Needs the extra `simulation`.
    """
    with needs_extra("the demonstration"):
        from ynet_lab import demo as demonstration

    figures = demonstration.run(data, plan, out)
    if report:
        report.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if as_json:
        print(json.dumps(figures))


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="What simulate wrote with --report; several: compared.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for report.html and report.json.")],
    as_json: Json = False,
) -> None:
    """Make the report of a finished experiment again, or compare several with the first.

    Reads the scores that simulate has kept: no data, no images, no training. Needs the extra `simulation`.
    """
    with needs_extra("the report"):
        from ynet_lab import report_run

    made = report_run.report(folders, out)
    print(f"report: {out / 'report.html'}", flush=True, file=sys.stderr)
    terminal.show(made, as_json=as_json, human=lambda: report_run.table(made))


@app.command()
def plan(
    data: Annotated[Path, typer.Argument(help="A folder of sites, each with a manifest.csv.")],
    out: Annotated[Path | None, typer.Option("--out", help="A new file for the plan. Default: print it.")] = None,
    as_json: Json = False,
) -> None:
    """Look at sites and write a plan for them, with a reason beside each value; say what to look at before training.

    Opens a sample of the images, and trains nothing. Weights of a pretrained encoder that an installed package has are
    put into the server's folder, as `ynet-server encoder add` does. Needs the extra `client`.
    """
    with needs_extra("the plan"):
        from ynet_lab.own_data import planned
        from ynet_server import encoder_files

    if out is not None and out.exists():
        raise UserError(f"{out} is not overwritten", "there is such a file", "name a new file with --out")
    sites = sites_in(data)
    made = planned.plan_for(data.resolve().name, sites, planned.pretrained(encoder_files.default_folder()))
    for one in made.concerns:
        print(f"warning: {one}", file=sys.stderr)
    if out is not None:
        out.write_text(made.text, "utf-8")
    lines = (
        made.text.rstrip() if out is None else f"{out}: plan {made.plan.id[:12]}; next: ynet-server plan check {out}"
    )
    terminal.show(made.to_json(out), as_json=as_json, human=lambda: lines)


@app.command()
def skew(
    data: Annotated[Path, typer.Argument(help="A folder of sites, each with a manifest.csv.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the re-cut sites.")],
    sites: Annotated[
        int | None, typer.Option("--sites", min=2, max=26, help="How many. Default: as many as the data have.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Largest to smallest, such as 40:1. Default: the data's sizes.")
    ] = None,
    missing: Annotated[int, typer.Option("--missing", min=0, help="Sites that lack a class each.")] = 0,
    alone: Annotated[int, typer.Option("--alone", min=0, help="Classes that one site alone has.")] = 0,
    appearance: Annotated[
        float, typer.Option("--appearance", min=0, max=1, help="How unlike the sites' images look.")
    ] = 0.0,
    fold: Annotated[
        str | None,
        typer.Option("--fold", help="Test on this fold of patients, such as 1/3. Default: the data's split."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**20)] = 1,
    as_json: Json = False,
) -> None:
    """Re-cut a federation: sites that lack classes, of unlike sizes and looks. Without options the sites are alike."""
    from ynet_lab import skew as cutting

    cut = cutting.Cut(
        sites or len(sites_in(data)),
        cutting.ratio_of(sizes),
        missing,
        alone,
        appearance,
        *cutting.fold_of(fold),
        seed=seed,
    )
    made = cutting.skew(data, out, cut)
    terminal.show(made, as_json=as_json, human=lambda: skew_table(made))


show_examples(app, EXAMPLES)
