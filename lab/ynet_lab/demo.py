"""`ynet-lab demo`: a consortium on one machine. Hospitals join over TLS, train, index, and query each other."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ynet import plan as plans
from ynet.data.manifest import Case, Manifest, find_sites, read
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet_lab.trial import Trial, command, environment

PLANS = Path(__file__).with_name("plans")
"""The plans in an installed wheel; a checkout has them in configs/plans."""
SYNTHETIC = {"A": 180, "B": 120, "C": 60}
K = 10


def run(data: Path | None, plan: Path | None, out: Path) -> dict[str, Any]:
    """Run all steps in the order of a real consortium; return the figures."""
    begun = time.monotonic()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    if data is None:
        with step(f"making {sum(SYNTHETIC.values())} images of {len(SYNTHETIC)} synthetic hospitals"):
            data = out / "data"
            make_federation(data, SYNTHETIC, seed=1)
        plan = plan or shipped_plan("demo")
    manifests = {site: read(path) for site, path in find_sites(data).items()}
    if len(manifests) < 2:
        raise UserError(
            f"{data} holds no federation", "two or more folders with a manifest.csv are needed", "name another"
        )
    plan = write_plan(plan or shipped_plan("default"), manifests, out / "plan.yaml")

    # The measurement needs answers for small groups, and a thousand queries of one user.
    disclosure = {"minimum_group": 0, "queries_per_day_and_site": 1_000_000, "queries_per_day_and_user": 1_000_000}
    with Trial(out, find_sites(data), policy={"new_plans": "ask"}, disclosure=disclosure, is_acquainted=False) as trial:
        with step("starting the server"):
            trial.start_server()
        with step(f"inviting and joining {', '.join(trial.sites)}: processes of their own, over mutual TLS"):
            trial.join_all()
        with step(
            "the admins compare their sites' fingerprints (ynet-client sites), and confirm them (sites trust --all)"
        ):
            for site in trial.sites:
                command("ynet_client", "sites", "trust", "--all", home=trial.home(site)).check_returncode()
        plan_id = plans.read(plan).id
        with step(f"each site's admin takes part in the plan (ynet-client plan accept {plan_id[:16]}...)"):
            for site in trial.sites:
                command("ynet_client", "plan", "accept", plan_id, home=trial.home(site)).check_returncode()
        print("training (ynet-server train)", flush=True)
        training = time.monotonic()
        model = train(trial, plan)
        figures: dict[str, Any] = {"sites": len(manifests), "training_s": round(time.monotonic() - training, 1)}
        with step("every site fetches the model and indexes its archive"):
            trial.wait_indexed(model)
        ask(trial, manifests, out)
        figures.update(measure(trial, manifests))
        with step("stopping everything"):
            trial.stop_all()
    print(
        f"\nLook at {out / 'query.png'}. Next, in earnest: ynet-server start, ynet-server invite SITE,"
        "\nynet-client join --site=SITE --data manifest.csv --invitation -   (docs/how-to/operating.md)"
    )
    return {**figures, "all_s": round(time.monotonic() - begun, 1)}


def shipped_plan(name: str) -> Path:
    """Return the path of a plan that comes with ynet."""
    folder = PLANS if PLANS.exists() else Path(__file__).parents[2] / "configs/plans"
    return folder / f"{name}.yaml"


def write_plan(template: Path, manifests: Mapping[str, Manifest], path: Path) -> Path:
    """Write the template with the data's classes and a cohort of all sites."""
    values = yaml.safe_load(template.read_text("utf-8"))
    classes = sorted({case.label for manifest in manifests.values() for case in manifest.cases})
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


def measure(trial: Trial, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Query every test image at its site against all sites' training images; return macro mAP@10 and the time."""
    total: dict[str, int] = {}
    for manifest in manifests.values():
        for case in manifest.train:
            total[case.label] = total.get(case.label, 0) + 1
    by_class: dict[str, list[float]] = {}
    begun, asked = time.monotonic(), 0
    for site, manifest in manifests.items():
        for case in manifest.test:
            found = trial.query(site, manifest.path_of(case.image), k=K, split="train")
            relevant = [hit["label"] == case.label for hit in found["hits"]]
            if 0 < total.get(case.label, 0) < sum(total.values()):  # else no ranking of the archives says anything
                by_class.setdefault(case.label, []).append(average_precision(relevant, total[case.label]))
            asked += 1
    mean = {label: sum(values) / len(values) for label, values in sorted(by_class.items())}
    macro = sum(mean.values()) / len(mean) if mean else None
    told = "none" if macro is None else f"{macro:.3f}"
    share = [count / sum(total.values()) for count in total.values()]
    chance = sum(p * p + p * (1 - p) * sum(1 / i for i in range(1, K + 1)) / K for p in share) / len(share)
    each_s = (time.monotonic() - begun) / asked
    print(
        f"{asked} queries, each answered by all sites, {1000 * each_s:.0f} ms each:"
        f" macro mAP@{K} {told} ({', '.join(f'{label} {value:.3f}' for label, value in mean.items())});"
        f" a random ranking gives {chance:.3f}",
        flush=True,
    )
    return {
        "queries": asked,
        "query_ms": round(1000 * each_s, 1),
        "macro_map10": macro if macro is None else round(macro, 4),
        "map10_by_class": {label: round(mean[label], 4) if label in mean else None for label in sorted(total)},
        "queries_per_class": {label: len(by_class.get(label, ())) for label in sorted(total)},
        "macro_map10_random": round(chance, 4),
    }


def average_precision(relevant: list[bool], total: int) -> float:
    """Return AP@K of one ranked list, normalised by min(K, relevant items)."""
    hits, points = 0, 0.0
    for rank, is_relevant in enumerate(relevant, start=1):
        if is_relevant:
            hits += 1
            points += hits / rank
    return points / max(1, min(K, total))


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a step's title and its duration."""
    print(f"{title} ...", flush=True)
    begun = time.monotonic()
    yield
    print(f"  {time.monotonic() - begun:.1f} s", flush=True)
