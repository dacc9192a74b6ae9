"""`ynet-lab demo`: a consortium on one machine. Hospitals join over TLS, train, index, and query each other."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ynet import plan as plans
from ynet.data.manifest import Case, Manifest, find_sites, read
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet.learning.evaluate import K
from ynet.plan import Plan
from ynet.runtime import private_files
from ynet_lab.own_data.floors import floors_of
from ynet_lab.own_data.layout import sites_in
from ynet_lab.own_data.planned import bring, plan_for, pretrained
from ynet_lab.own_data.queries import chosen, last_dice, rate, trained_cases
from ynet_lab.own_data.remaining import RunLines, span
from ynet_lab.own_data.verdict import figures_of, random_precision, rounded, score_of, words
from ynet_lab.skew import Cut, skew
from ynet_lab.trial import INDEXED_WITHIN_S, Trial, command, environment
from ynet_server import encoder_files

PLANS = Path(__file__).with_name("plans")
"""The plans in an installed wheel; a checkout has them in configs/plans."""
SYNTHETIC = {"A": 180, "B": 120, "C": 60}
OWN_INDEXED_WITHIN_S = 24 * 3600.0
"""Nobody knows how many images one's own are."""
PRETEND = 3
"""Hospitals to which the patients of a single one are dealt."""
FOLLOW_EVERY_S = 0.5


class DemoData(NamedTuple):
    """What a demonstration begins with."""

    sites: Mapping[str, Path]  # the manifests
    plan: Path
    is_pretend: bool  # a single hospital's patients were dealt to several


def run(data: Path | None, plan: Path | None, out: Path) -> dict[str, Any]:
    """Run all steps in the order of a real consortium; return the figures.

    Args:
        data: A folder of sites; None: synthetic ones.
        plan: A template, whose classes are replaced by the data's; None: the demo's plan, or for `data` the one that
            `ynet-lab plan` writes.
        out: The folder of all files; emptied first.

    Raises:
        UserError: The data or the plan cannot be used, or the run fails.
    """
    begun = time.monotonic()
    if data is not None and data.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out} is not emptied", "the data lie in it", "name another folder with --out")
    if out.exists():
        shutil.rmtree(out)
    private_files.make_folder(out)
    prepared = synthetic(plan, out) if data is None else own(data, plan, out)
    agreed = plans.read(prepared.plan)
    manifests = {site: read(path, agreed.training.seed) for site, path in prepared.sites.items()}

    # The measurement needs answers for small groups, and a thousand queries of one user.
    disclosure = {"minimum_group": 0, "queries_per_day_and_site": 1_000_000, "queries_per_day_and_user": 1_000_000}
    policy = {"new_plans": "ask"}
    with Trial(out, prepared.sites, policy=policy, disclosure=disclosure, is_acquainted=False) as trial:
        begin(trial, agreed)
        print("training (ynet-server train)", flush=True)
        training = time.monotonic()
        model = train(trial, prepared.plan) if data is None else train_watched(trial, prepared.plan, agreed)
        figures: dict[str, Any] = {"sites": len(manifests), "training_s": round(time.monotonic() - training, 1)}
        with step("every site fetches the model and indexes its archive"):
            trial.wait_indexed(model, INDEXED_WITHIN_S if data is None else OWN_INDEXED_WITHIN_S)
        ask(trial, manifests, out)
        figures.update(measure(trial, manifests) if data is None else judge(trial, manifests, agreed))
        with step("stopping everything"):
            trial.stop_all()
    print(farewell(prepared, data, out))
    return {**figures, "all_s": round(time.monotonic() - begun, 1)}


def synthetic(plan: Path | None, out: Path) -> DemoData:
    """Make synthetic hospitals."""
    with step(f"making {sum(SYNTHETIC.values())} images of {len(SYNTHETIC)} synthetic hospitals"):
        make_federation(out / "data", SYNTHETIC, seed=1)
    sites = find_sites(out / "data")
    manifests = {site: read(path) for site, path in sites.items()}
    return DemoData(sites, write_plan(plan or shipped_plan("demo"), manifests, out / "plan.yaml"), is_pretend=False)


def own(data: Path, plan: Path | None, out: Path) -> DemoData:
    """Look at one's own images, and plan for them; say what may keep them from being learned."""
    sites, is_pretend = sites_in(data), False
    if len(sites) == 1:
        is_pretend = True
        with step(f"one hospital: its patients are dealt to {PRETEND} pretend hospitals, which are alike"):
            skew(data, out / "data", Cut(PRETEND, ratio=1.0))
        sites = find_sites(out / "data")
    manifests = {site: read(path) for site, path in sites.items()}  # every case needs a label now
    path, encoders, kept = out / "plan.yaml", out / "server" / encoder_files.FOLDER, [encoder_files.default_folder()]
    if plan is not None:
        write_plan(plan, manifests, path)
        if weights := plans.read(path).network.encoder_weights:
            bring(weights, encoders, kept)
        return DemoData(sites, path, is_pretend)
    with step(f"looking at {sum(len(one.cases) for one in manifests.values())} cases, and choosing a plan for them"):
        made = plan_for(data.resolve().name, sites, pretrained(encoders, kept))
        path.write_text(made.text, "utf-8")
    for one in made.concerns:
        print(f"  warning: {one}")
    print(f"  the plan, with a reason for each value: {path}", flush=True)
    return DemoData(sites, path, is_pretend)


def begin(trial: Trial, plan: Plan) -> None:
    """Start the server and the sites, which come to know each other and accept the plan."""
    with step("starting the server"):
        trial.start_server()
    with step(f"inviting and joining {', '.join(trial.sites)}: processes of their own, over mutual TLS"):
        trial.join_all()
    with step("the admins compare their sites' fingerprints (ynet-client sites), and confirm them (sites trust --all)"):
        for site in trial.sites:
            command("ynet_client", "sites", "trust", "--all", home=trial.home(site)).check_returncode()
    with step(f"each site's admin takes part in the plan (ynet-client plan accept {plan.id[:16]}...)"):
        for site in trial.sites:
            command("ynet_client", "plan", "accept", plan.id, home=trial.home(site)).check_returncode()


def farewell(prepared: DemoData, data: Path | None, out: Path) -> str:
    """Return what to do next."""
    lines = ["", f"Look at {out / 'query.png'}."]
    if prepared.is_pretend:
        lines.append(
            "The hospitals were pretend ones and alike. Real hospitals differ, and learn less from each other."
        )
    if data is not None:
        folder = out / "data" if prepared.is_pretend else data
        lines += [
            "To compare with each hospital alone and with all images in one place:",
            f"YNET_HOME={out / 'server'} ynet-lab simulate --plan {prepared.plan} --data {folder} --report REPORT",
        ]
    lines += [
        "Next, in earnest: ynet-server start, ynet-server invite SITE,",
        "ynet-client join --site=SITE --data manifest.csv --invitation -   (docs/how-to/operating.md)",
    ]
    return "\n".join(lines)


def shipped_plan(name: str) -> Path:
    """Return the path of a plan that comes with ynet."""
    folder = PLANS if PLANS.exists() else Path(__file__).parents[2] / "configs/plans"
    return folder / f"{name}.yaml"


def write_plan(template: Path, manifests: Mapping[str, Manifest], path: Path) -> Path:
    """Write the template with the data's classes and a cohort of all sites."""
    values = yaml.safe_load(template.read_text("utf-8"))
    classes = sorted({case.label for manifest in manifests.values() for case in manifest.cases if case.label})
    if classes != values["classes"]:
        values["training"].pop("class_weights", None)  # they belong to the template's classes
    values["classes"] = classes
    values["cohort"].update(min_sites=len(manifests), quorum=len(manifests))
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def train(trial: Trial, plan: Path) -> str:
    """Run `ynet-server train` with its output; return the model's id."""
    begun = time.monotonic()
    arguments = [sys.executable, "-m", "ynet_server", "train", "--plan", str(plan), "--home", str(trial.server_home)]
    subprocess.run(arguments, check=True, env=environment())
    print(f"  trained in {time.monotonic() - begun:.0f} s", flush=True)
    return str(trial.server_call("GET", "/models")["in_use"])


def train_watched(trial: Trial, path: Path, plan: Plan) -> str:
    """Train, and say how far it is and how long it may take; return the model's id. Raises UserError when it fails."""
    begun = time.monotonic()
    print("  The score is the mean of retrieval (macro mAP@10 within each site) and of Dice; 1 is perfect.", flush=True)
    started = trial.server_command("train", "--plan", path, "--detach", "--json")
    if started.returncode:
        raise UserError("the plan cannot be trained", started.stderr.strip(), "see the plan in the output folder")
    number, said, since = json.loads(started.stdout)["run"], RunLines(plan.training), 0
    while True:
        found = trial.server_call("GET", f"/runs/{number}/events", params={"since": since})
        since += len(found["events"])
        for event in found["events"]:
            for line in said.lines(event):
                print(line, flush=True)
        if found["run"]["status"] != "running" and not found["events"]:
            break
        trial.check_alive("server", *trial.sites)
        time.sleep(FOLLOW_EVERY_S)
    if found["run"]["status"] != "finished":
        raise UserError("the run ended without a model", str(found["run"]["reason"]), f"see the logs in {trial.folder}")
    print(f"  trained in {span(time.monotonic() - begun)}", flush=True)
    return str(trial.server_call("GET", "/models")["in_use"])


def ask(trial: Trial, manifests: Mapping[str, Manifest], out: Path) -> None:
    """Send one query from each site; print and draw the first one's answer."""
    for number, (site, manifest) in enumerate(manifests.items()):
        image = manifest.path_of(example(manifest).image)
        if number == 0:
            print(f"\nynet-client query {image.name}   (asked at {site})", flush=True)
            shown = command("ynet_client", "query", image, "--picture", out / "query.png", home=trial.home(site))
            print(shown.stdout + shown.stderr, flush=True)
        else:
            found = trial.query(site, image)
            print(f"asked at {site}: answered by {', '.join(found['answered'])}", flush=True)


def example(manifest: Manifest) -> Case:
    """Return a test case, with a lesion if there is one."""
    cases = manifest.test or manifest.train
    return next((case for case in cases if case.mask and case.label != "no_lesion"), cases[0])


def judge(trial: Trial, manifests: Mapping[str, Manifest], plan: Plan) -> dict[str, Any]:
    """Ask about the test cases; print the score, its floors and what it means; return the figures."""
    asked = chosen(manifests, np.random.default_rng(1))
    with step(f"asking about {sum(map(len, asked.values()))} test cases, each at its hospital, of all training cases"):
        begun = time.monotonic()
        rated = rate(trial, manifests, asked)
        each_s = (time.monotonic() - begun) / max(1, len(rated))
    with step("ranking the same cases without a network, for comparison"):
        floors = floors_of(plan, manifests, asked)
    score, dice = score_of(rated, trained_cases(manifests)), last_dice(trial)
    print("", *words(score, floors, dice), sep="\n", flush=True)
    found = figures_of(score, floors, plan.classes)
    return {"queries": len(rated), "query_ms": round(1000 * each_s, 1), **found, "dice": rounded(dice)}


def measure(trial: Trial, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Query every test image at its site against all sites' training images; return macro mAP@10 and the time."""
    total = trained_cases(manifests)
    begun = time.monotonic()
    rated = rate(trial, manifests, {site: manifest.test for site, manifest in manifests.items()})
    each_s = (time.monotonic() - begun) / len(rated)
    by_class: dict[str, list[float]] = {}
    for one in rated:
        if 0 < total[one.label] < total.total():  # else no ranking of the archives says anything
            by_class.setdefault(one.label, []).append(one.precision)
    mean = {label: sum(values) / len(values) for label, values in sorted(by_class.items())}
    macro = sum(mean.values()) / len(mean) if mean else None
    told = "none" if macro is None else f"{macro:.3f}"
    chance = sum(random_precision(count / total.total()) for count in total.values()) / len(total)
    print(
        f"{len(rated)} queries, each answered by all sites, {1000 * each_s:.0f} ms each:"
        f" macro mAP@{K} {told} ({', '.join(f'{label} {value:.3f}' for label, value in mean.items())});"
        f" a random ranking gives {chance:.3f}",
        flush=True,
    )
    return {
        "queries": len(rated),
        "query_ms": round(1000 * each_s, 1),
        "macro_map10": rounded(macro),
        "map10_by_class": {label: rounded(mean.get(label)) for label in sorted(total)},
        "queries_per_class": {label: len(by_class.get(label, ())) for label in sorted(total)},
        "macro_map10_random": round(chance, 4),
    }


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a step's title and its duration."""
    print(f"{title} ...", flush=True)
    begun = time.monotonic()
    yield
    print(f"  {time.monotonic() - begun:.1f} s", flush=True)
