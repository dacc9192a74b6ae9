"""An experiment: train a plan with several seeds, federated and without a federation, and score all models alike.

The folder of an experiment holds each model and its scores, so that an interrupted run resumes.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import find_sites, read
from ynet.errors import UserError
from ynet.learning import metrics
from ynet.learning.evaluate import EncodedCases, by_radius, encode, join, map10_per_class, of_classes, score
from ynet.learning.hashing import hamming
from ynet.learning.likeness import Attribute
from ynet.learning.model import YNet, build, load_arrays
from ynet.plan import Plan
from ynet.runtime import private_files
from ynet_client.training.site_data import LocalSite
from ynet_lab import report
from ynet_lab.figures import attributes
from ynet_lab.figures.baselines import baselines, by_codes, ceiling
from ynet_lab.figures.by_query import Values, by_attribute, by_query, columns, figures, intervals, precision_across
from ynet_lab.report_examples import examples
from ynet_lab.report_page import render
from ynet_lab.simulate import Kind, TrainingTask, Watch, open_sites, train_federated, train_reference
from ynet_server.rounds.run_folder import MODEL, RunFolder

Say = Callable[[str], None]
GPU_BYTES_EACH = 4 << 30
"""GPU memory per training; the plans of this repository take 1 GiB."""
EXPERIMENT, SCORES = "experiment.json", "scores.json"

Coded = Mapping[str, tuple[EncodedCases, EncodedCases]]
"""By site: its encoded gallery, and its encoded queries."""


def experiment(
    plan_file: Path, data: Path, out: Path, *, seeds: int, kinds: Sequence[Kind], is_validation: bool, say: Say
) -> dict[str, Any]:
    """Train and score the missing models, then write `report.json` and `report.html`; return the report.

    The references train in parallel, as many as the cores and the GPU's memory allow.

    Raises:
        UserError: The plan, the data or the folder cannot be used.
    """
    plan, names = plans.read(plan_file), list(find_sites(data))
    _claim(out, {"plan_id": plan.id, "sites": names, "split": "validation" if is_validation else "test"})
    tasks = [
        TrainingTask(seeded, data, out / folder, kind, site, plans.init_file(plan_file), is_validation)
        for seeded, folder, kind, site in _models(plan, seeds, kinds, data)
    ]
    todo = [task for task in tasks if not _is_scored(task)]
    say(f"{len(tasks)} models, {len(tasks) - len(todo)} are there already")
    _train_all(todo, say)
    sites = open_sites(tasks[0])
    floors = _floors(tasks[0], sites)
    results = [_result(task) for task in tasks]
    made = report.compose(plan, seeds, _census(plan, sites), floors, results, is_validation)
    private_files.write(out / "report.json", json.dumps(made, indent=1))
    shown = examples(_network(tasks[0]), tasks[0].plan, sites)
    private_files.write(out / "report.html", render(made, shown))
    return made


def _labelled(data: Path, plan: Plan) -> Sequence[str | None]:
    """Return the sites that can train a model alone: those with a labelled training case."""
    manifests = {name: read(path, plan.training.seed) for name, path in find_sites(data).items()}
    return [name for name, manifest in manifests.items() if any(case.label for case in manifest.train)]


def _models(plan: Plan, seeds: int, kinds: Sequence[Kind], data: Path) -> Iterator[tuple[Plan, str, Kind, str | None]]:
    """Yield the plan of each model, its folder's name, its kind and its site."""
    for kind in kinds:
        sites = _labelled(data, plan) if kind == "alone" else [None]
        for seed in range(1, seeds + 1):
            seeded = replace(plan, training=replace(plan.training, seed=seed))
            for site in sites:
                yield seeded, f"seed-{seed}/" + (f"alone-{site}" if site else kind), kind, site


def _claim(out: Path, what: Mapping[str, Any]) -> None:
    """Claim the folder for this experiment.

    Raises:
        UserError: It holds other files, or another experiment.
    """
    private_files.make_folder(out)
    note = out / EXPERIMENT
    if not note.exists() and any(out.iterdir()):
        raise UserError(f"{out} cannot take the report", "it holds other files", "name a new folder")
    if note.exists() and json.loads(note.read_text("utf-8")) != what:
        why = "it holds an experiment with another plan, other sites or another split"
        raise UserError(f"{out} cannot take the report", why, "name a new folder, or remove that one")
    private_files.write(note, json.dumps(what))


def _train_all(todo: Sequence[TrainingTask], say: Say) -> None:
    """Train the federated models one after the other, each on all cores; then the references in parallel."""
    for number, task in enumerate(federated := [task for task in todo if task.kind == "federated"], start=1):
        say(f"seed {task.plan.training.seed}, {task.name}: training ({number} of {len(federated)})")
        _train_and_score(task)
        say(_told(task))
    references = [task for task in todo if task.kind != "federated"]
    if not references:
        return
    at_once = _at_once()
    threads = max(1, (os.cpu_count() or 1) // at_once)
    with ProcessPoolExecutor(at_once, get_context("spawn"), _begin_worker, (threads,)) as pool:
        say(f"{len(references)} references, {at_once} at a time")
        waiting = {pool.submit(_train_and_score, task): task for task in references}
        for number, done in enumerate(as_completed(waiting), start=1):
            done.result()
            say(f"{_told(waiting[done])} ({number} of {len(references)})")


def _at_once() -> int:
    """Return the number of parallel trainings: one per core, and on a GPU as many as fit into its free memory.

    One network of this size keeps a large GPU busy for a third of the time.
    """
    cores = os.cpu_count() or 1
    if not torch.cuda.is_available():
        return cores
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(cores, free // GPU_BYTES_EACH))


def _begin_worker(threads: int) -> None:
    """Initialise a worker. It ends with its parent process; otherwise it would keep training after a kill."""
    torch.set_num_threads(threads)
    parent = parent_process()
    if parent:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _train_and_score(task: TrainingTask) -> None:
    sites = open_sites(task)
    watch = _watch(task.plan, sites)
    net = train_federated(task, watch) if task.kind == "federated" else train_reference(task, sites, watch)
    events = RunFolder(task.folder).events()
    rounds = [event for event in events if event["kind"] == "round"]
    found = {
        **_scores(_coded(net, task.plan, sites, keeps_feature=True), task.plan, sites),
        "curve": _curve(events),
        "end": _end(events),
        "seconds": sum(event["seconds"] for event in rounds),
    }
    private_files.write(task.folder / SCORES, json.dumps(found))


def _watch(plan: Plan, sites: Mapping[str, LocalSite]) -> Watch:
    def watch(net: YNet) -> Mapping[str, Any]:
        return score(*_together(_coded(net, plan, sites)), plan).to_metrics()

    return watch


def _coded(net: YNet, plan: Plan, sites: Mapping[str, LocalSite], *, keeps_feature: bool = False) -> Coded:
    found = {}
    for number, (name, site) in enumerate(sites.items()):
        parts = site.cases(plan)
        if all(map(len, parts)):
            held, asked = (encode(net, one, site.device, site=number, keeps_feature=keeps_feature) for one in parts)
            found[name] = (held, asked)
    if not found:
        raise UserError("nothing can be scored", "no site has both training and test cases", "see the split column")
    return found


def _together(coded: Coded) -> tuple[EncodedCases, EncodedCases]:
    """Join all sites' galleries, and all sites' queries."""
    galleries, queries = zip(*coded.values(), strict=True)
    return join(galleries), join(queries)


def _attributes(coded: Coded, plan: Plan, sites: Mapping[str, LocalSite]) -> dict[str, Attribute]:
    """Return what likeness compares, in the order of `_together`."""
    manifests = [sites[name].manifest(plan.training.seed) for name in coded]
    held = [case for one in manifests for case in one.train]
    asked = [case for one in manifests for case in one.test]
    return {**attributes.of_masks(*_together(coded)), **attributes.of_manifests(held, asked)}


def _floors(task: TrainingTask, sites: Mapping[str, LocalSite]) -> dict[str, Values]:
    """Score rankings without a network. A network encodes the cases only for what is known of them."""
    coded = _coded(_network(task).to(next(iter(sites.values())).device), task.plan, sites)
    sources = [sites[name].cases(task.plan) for name in coded]
    return baselines(*_together(coded), _attributes(coded, task.plan, sites), sources)


def _scores(coded: Coded, plan: Plan, sites: Mapping[str, LocalSite]) -> dict[str, Any]:
    """Score all sites together, each site within and across, and each pair of sites."""
    held, asked = _together(coded)
    within = {name: score(*pair, plan).to_metrics() for name, pair in coded.items()}
    cross = {}
    for name, (_, queries) in coded.items():
        others = [gallery for other, (gallery, _) in coded.items() if other != name]
        cross[name] = _across(join(others), queries, plan) if others else None
    matrix = {
        asking: {answering: _pair(coded[answering][0], coded[asking][1]) for answering in coded} for asking in coded
    }
    radius = [point._asdict() for point in by_radius(held, asked, plan.network.code_bits)]
    compared = _attributes(coded, plan, sites)
    rated = by_query(held, asked, by_codes(held, asked), compared)
    overall = {**score(held, asked, plan).to_metrics(), "likeness": figures(rated)["likeness"]}
    per_class = map10_per_class(held, asked, plan.classes)
    return {
        "overall": overall,
        "intervals": intervals(rated),
        "queries": columns(rated, precision_across(held, asked)),
        "likeness_by_attribute": by_attribute(rated),
        "ceiling": ceiling(held, asked, compared),
        "within": within,
        "cross": cross,
        "matrix": matrix,
        "radius": radius,
        "map10_per_class": per_class,
    }


def _pair(held: EncodedCases, asked: EncodedCases) -> float | None:
    """Return macro mAP@10 of one site's queries against another's gallery; None where no query can be ranked."""
    return metrics.macro(of_classes(hamming(asked.codes, held.codes), held.label, asked.label).ap, asked.label)


def _across(held: EncodedCases, asked: EncodedCases, plan: Plan) -> dict[str, Any]:
    """Score one site's queries against the other sites' galleries, which hold no case of its patients."""
    found = score(held, asked, plan)
    return replace(found, case_hit1=None, case_hit10=None, siblings=0).to_metrics()


def _curve(events: Sequence[Mapping[str, Any]]) -> list[dict[str, float | None]]:
    """Return the loss of every round, and the scores where there are any."""
    scores = {event["round"]: event["scores"] for event in events if event["kind"] == "scored"}
    curve = []
    for event in events:
        if event["kind"] != "round":
            continue
        losses = [site["loss"] for site in event["sites"].values() if "loss" in site]
        found = scores.get(event["round"], {})
        curve.append(
            {
                "round": event["round"],
                "loss": float(np.mean(losses)) if losses else None,
                **{metric: found.get(metric) for metric in report.CURVES},
            }
        )
    return curve


def _end(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return why a training with `training.rounds: auto` ended, and its best round; None for other plans."""
    found = [event for event in events if event["kind"] == "stopped"]
    return {key: found[-1].get(key) for key in ("round", "best", "reason")} if found else None


_TOLD = {"macro_map10": "macro mAP@10", "case_hit10": "case@10", "dice": "Dice"}


def _is_scored(task: TrainingTask) -> bool:
    """Return whether a model's scores exist, with the four figures (older versions wrote none)."""
    path = task.folder / SCORES
    return path.exists() and "siblings" in json.loads(path.read_text("utf-8"))["overall"]


def _result(task: TrainingTask) -> report.ModelResult:
    found = json.loads((task.folder / SCORES).read_text("utf-8"))
    return report.ModelResult(task.name, task.kind, task.site, task.plan.training.seed, found)


def _told(task: TrainingTask) -> str:
    overall = _result(task).found["overall"]
    told = [f"{text} {'none' if overall[key] is None else format(overall[key], '.3f')}" for key, text in _TOLD.items()]
    counts = [f"{overall[key]} of {overall['queries']} queries" for key in ("ranked", "siblings", "masks")]
    over = ", ".join(f"{text} over {count}" for text, count in zip(told, counts, strict=True))
    return f"seed {task.plan.training.seed}, {task.name}: {over}"


def _census(plan: Plan, sites: Mapping[str, LocalSite]) -> list[report.SiteLabels]:
    found = []
    for name, site in sites.items():
        gallery, queries = site.cases(plan)
        found.append(report.SiteLabels(name, gallery.label.numpy(), queries.label.numpy()))
    return found


def _network(task: TrainingTask) -> YNet:
    arrays, _ = weights.load(task.folder / MODEL)
    net = build(task.plan)
    load_arrays(net, arrays)
    return net
