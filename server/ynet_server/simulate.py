"""All sites on this machine, for experiments: Flower's simulation engine with the apps of the deployment.

The one file of the server that needs torch and the client (extra `simulation`). Beside the federated run stand two
references: one model on all sites' data (`pooled`), and each site by itself (`local`).
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from ynet import weights
from ynet.data.batch import CaseSource
from ynet.data.manifest import find_sites
from ynet.data.pooled import Pooled
from ynet.evaluate import evaluate
from ynet.federation.plan import Plan
from ynet.model import YNet, build, load_arrays
from ynet.train import train
from ynet_client import client_app
from ynet_client.local_site import LocalSite
from ynet_server.run_folder import MODEL, RunFolder
from ynet_server.server_app import federate

CACHE_BYTES = 2 << 30
Say = Callable[[str], None]


class Outcome(NamedTuple):
    """One trained model and what it scores."""

    name: str  # federated, pooled, or a site's name
    all_sites: dict[str, float]  # queries: every site's test split; gallery: every site's training split
    own: dict[str, dict[str, float]]  # each site's test split against its own training split


def simulate(plan: Plan, data: Path, out: Path, references: Iterable[str], say: Say) -> list[Outcome]:
    """The federated model, and of `references` (`pooled`, `local`) those asked for; each with its scores."""
    manifests = find_sites(data)
    sites = {name: LocalSite(path, "auto", CACHE_BYTES // len(manifests)) for name, path in manifests.items()}
    say(f"federated: {', '.join(sites)}")
    outcomes = [_score("federated", _federated(plan, manifests, out, say), plan, sites)]
    if "pooled" in references:
        say("pooled: one model on all sites' data")
        net = _trained(plan, Pooled([site.cases(plan)[0] for site in sites.values()]), say)
        outcomes.append(_score("pooled", net, plan, sites))
    if "local" in references:
        for name, site in sites.items():
            say(f"{name} by itself")
            outcomes.append(_score(name, _trained(plan, site.cases(plan)[0], say), plan, sites))
    return outcomes


def _federated(plan: Plan, manifests: Mapping[str, Path], out: Path, say: Say) -> YNet:
    shutil.rmtree(out, ignore_errors=True)
    folder = RunFolder(out).create(plan)
    failure: list[Exception] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's signature)
        try:
            federate(grid, folder)
        except Exception as error:  # noqa: BLE001 (carried out of Flower's thread, and raised there)
            failure.append(error)

    cores = os.cpu_count() or 1
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray warns until one has chosen
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=server,
        client_app=_client(tuple(manifests.values())),
        num_supernodes=len(manifests),
        backend_config={
            "init_args": {"num_cpus": cores, "include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 1.0 / cores if torch.cuda.is_available() else 0.0},
        },
    )
    if failure:
        raise failure[0]
    for event in folder.events():
        if event["kind"] == "round":
            say(f"round {event['round']}/{event['rounds']}: {event['seconds']:.1f} s")
    arrays, _ = weights.load(out / MODEL)
    net = build(plan)
    load_arrays(net, arrays)
    return net


def _client(manifests: tuple[Path, ...]) -> ClientApp:
    """The deployment's ClientApp; the node with partition k is the k-th site."""

    def locate(context: Context) -> LocalSite:
        torch.set_num_threads(1)
        return client_app.site_at(str(manifests[int(context.node_config["partition-id"])]), "auto", 1024)

    return client_app.build(locate)


def _trained(plan: Plan, cases: CaseSource, say: Say) -> YNet:
    net, generator = build(plan), torch.Generator().manual_seed(plan.training.seed)
    for number in range(1, plan.training.rounds + 1):
        result = train(net, cases, plan, number, device=torch.device("cpu"), generator=generator, on_progress=None)
        say(f"round {number}/{plan.training.rounds}: loss {result.loss:.3f}, {result.seconds:.1f} s")
    return net


def _score(name: str, net: YNet, plan: Plan, sites: Mapping[str, LocalSite]) -> Outcome:
    device = torch.device("cpu")
    cases = {site: local.cases(plan) for site, local in sites.items()}
    own = {site: evaluate(net, *pair, plan, device).to_metrics() for site, pair in cases.items() if len(pair[1])}
    gallery, queries = (Pooled([pair[part] for pair in cases.values()]) for part in (0, 1))
    return Outcome(name, evaluate(net, gallery, queries, plan, device).to_metrics(), own)


def as_json(outcomes: list[Outcome]) -> dict[str, Any]:
    """The outcomes as `--json` prints them."""
    return {"outcomes": [outcome._asdict() for outcome in outcomes]}
