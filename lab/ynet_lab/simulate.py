"""Simulate a consortium on one machine: Flower's simulation engine runs the apps of the deployment.

Two references are trained for comparison: one model on all sites' data (`pooled`), and one model per site (`alone`).
Each model is a `TrainingTask`: it trains in its own folder, resumes after the last complete round, and saves its model.
"""

import datetime as dt
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import torch
from flwr.app import Context, Error, Message
from flwr.app.typing import ConfigRecordValues
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from ynet import weights
from ynet.data.manifest import find_sites
from ynet.errors import UserError
from ynet.fixed_arrays import CODE
from ynet.learning.code_moments import fit
from ynet.learning.dp_sgd import Patients, mechanism
from ynet.learning.model import YNet, arrays_of, build, load_arrays
from ynet.learning.train import Moments, TrainResult, train
from ynet.learning.train_private import train_privately
from ynet.plan import Plan
from ynet.schedule import AUTO
from ynet.trust import identity
from ynet.trust.identity import Identity
from ynet_client.training import client_app
from ynet_client.training.secure_aggregation import Party
from ynet_client.training.site_data import LocalSite
from ynet_lab.concat import concat
from ynet_server import encoder_files
from ynet_server.hub.reply_errors import REFUSED
from ynet_server.rounds.run_end import run_end
from ynet_server.rounds.run_folder import MODEL, RunFolder, State
from ynet_server.rounds.server_app import federate, moving_average

CACHE_BYTES = 2 << 30
AUTO_WATCHED_EVERY = 5
"""Evaluations of a run with `training.rounds: auto` for each that scores all sites together."""
LINES = ("what", "why", "do")
"""The lines of a UserError in a site's reason."""
Kind = Literal["federated", "pooled", "alone"]
KINDS: tuple[Kind, ...] = ("federated", "pooled", "alone")

Watch = Callable[[YNet], Mapping[str, Any]]
"""Scores the network, after every `evaluate_every` rounds and after the last."""


class TrainingTask(NamedTuple):
    """One model to train."""

    plan: Plan
    data: Path
    folder: Path
    kind: Kind
    site: str | None  # the site, for kind `alone`
    init: Path | None  # the plan's initial weights
    is_validation: bool  # queries are held-back training patients instead of the test cases

    @property
    def name(self) -> str:
        """The model's name in a report."""
        return f"alone: {self.site}" if self.site else self.kind


def open_sites(task: TrainingTask) -> dict[str, LocalSite]:
    """Open the sites of the task's data, by name.

    Raises:
        UserError: The data cannot be read.
    """
    manifests = find_sites(task.data)
    limit = CACHE_BYTES // len(manifests)
    return {name: LocalSite(path, "auto", limit, is_validation=task.is_validation) for name, path in manifests.items()}


def folder_of(task: TrainingTask) -> RunFolder:
    """Make the task's folder, with the weights that the plan begins with; encoders are those of the server's home.

    Raises:
        UserError: The plan names weights that are not there.
    """
    return RunFolder(task.folder, encoders=encoder_files.default_folder()).create(task.plan, task.init)


def train_reference(task: TrainingTask, sites: Mapping[str, LocalSite], watch: Watch) -> YNet:
    """Train a model without a federation, on one site's training cases or on all sites'.

    With `training.rounds: auto` it ends by the rule of the federation, on the scores of these sites alone.
    """
    plan, folder = task.plan, folder_of(task)
    chosen = {name: site for name, site in sites.items() if task.site in (None, name)}
    first = next(iter(chosen.values()))
    cases, device = concat([site.cases(plan)[0] for site in chosen.values()]), first.device
    net, shown = build(plan).to(device), build(plan).to(device)
    state, end = folder.state() or _start(net, folder), run_end(plan, folder)
    load_arrays(net, weights.unflatten(state.flat, state.layout))
    patients = Patients.together([site.patients(plan) for site in chosen.values()])
    private = mechanism(plan, len(patients)) if plan.privacy.mode == "patient" else None

    def train_round(number: int, moments: Moments | None) -> TrainResult:
        if private is not None:
            return train_privately(net, cases, patients, plan, number, private, device=device, moments=moments)
        generator, cooldown = first.generator(plan, number), end.place(number)
        return train(net, cases, plan, number, device=device, generator=generator, moments=moments, cooldown=cooldown)

    def show(state: State) -> State:
        """Load the best weights into `shown`, with the code that follows from the chosen sites' features."""
        load_arrays(shown, weights.unflatten(state.best, state.layout))
        if shown.moment_code is None:
            return state
        fit(shown, plan, [site.gallery.moments(shown, site.cases(plan)[0], plan, device) for site in chosen.values()])
        return state.replaced({name: array for name, array in arrays_of(shown).items() if name.startswith(CODE)})

    if end.is_missing(state.round):
        state = show(state)
        end.add(state, own_scores(shown, plan, chosen))
    trained, moments = {name: len(site.cases(plan)[0]) for name, site in chosen.items()}, None
    while not end.is_over(state.round):
        number = state.round + 1
        result = train_round(number, moments)
        moments, flat = result.moments, weights.flatten(arrays_of(net))
        state = State(number, flat, state.layout, trained, moving_average(plan, number, state.average, flat))
        folder.save_state(state)
        loss = {task.name: {"loss": result.loss}}
        folder.event("round", round=number, rounds=end.rounds, seconds=round(result.seconds, 3), sites=loss)
        if is_watched(plan, number) or end.is_last(number):
            state = show(state)
            folder.event("scored", round=number, scores=dict(watch(shown)))
        if plan.training.rounds == AUTO and end.is_due(number):
            end.add(state, own_scores(shown, plan, chosen))
    if (ended := end.result(state)).score is None:  # weights that were never evaluated
        ended = end.result(show(state))
    best = weights.unflatten(ended.flat, state.layout)
    folder.save_model(best, {"plan": plan.name, "rounds": state.round, "kind": task.kind, **end.card()})
    folder.event("finished")
    load_arrays(shown, best)
    return shown


def own_scores(net: YNet, plan: Plan, sites: Mapping[str, LocalSite]) -> dict[str, dict[str, Any]]:
    """Score each site's own test cases among its own training cases, as the sites of a federation do."""
    found = {}
    for name, site in sites.items():
        gallery, queries = site.cases(plan)
        if len(gallery) and len(queries):
            found[name] = site.gallery.evaluate(net, gallery, queries, plan, site.device).to_metrics()
    return found


def _start(net: YNet, folder: RunFolder) -> State:
    own = arrays_of(net)
    arrays = weights.begun_with(own, given) if (given := folder.init()) is not None else own
    return State(0, weights.flatten(arrays), weights.layout_of(arrays), {})


def train_federated(task: TrainingTask, watch: Watch) -> YNet:
    """Train the federated model; every site is a virtual node of Flower's simulation engine."""
    plan, folder = task.plan, folder_of(task)
    manifests = find_sites(task.data)
    net, failure = build(plan), list[Exception]()
    server = ServerApp()

    def after_round(state: State) -> None:
        if is_watched(plan, state.round) or run_end(plan, folder).is_last(state.round):
            load_arrays(net, weights.unflatten(state.best, state.layout))
            folder.event("scored", round=state.round, scores=dict(watch(net)))

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's signature)
        try:
            federate(grid, folder, after_round=after_round)
        except Exception as error:  # noqa: BLE001 (raised again outside of Flower's thread)
            failure.append(error)

    cores = os.cpu_count() or 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with _private_ray() as inner:
        own: dict[str, ConfigRecordValues] = {"num_cpus": cores, "include_dashboard": False, "_temp_dir": inner}
        run_simulation(
            server_app=server,
            client_app=_client(tuple(manifests.values()), task.is_validation),
            num_supernodes=len(manifests),
            backend_config={
                "init_args": {**own, "log_to_driver": False},
                "client_resources": {"num_cpus": 1, "num_gpus": 1.0 / cores if torch.cuda.is_available() else 0.0},
            },
        )
    if failure:
        raise _of_a_site(folder) or failure[0]
    arrays, _ = weights.load(task.folder / MODEL)
    load_arrays(net, arrays)
    return net


def _of_a_site(folder: RunFolder) -> UserError | None:
    """Return the UserError of the site that failed last; None where the failure was not a UserError."""
    reasons = [str(event["reason"]) for event in folder.events() if event["kind"] == "site_failed"]
    parts = reasons[-1].split("\n") if reasons else []
    return UserError(*parts) if len(parts) == len(LINES) else None


@contextmanager
def _private_ray() -> Iterator[str]:
    """Yield a private folder for Ray, and require a token on Ray's ports.

    By default Ray listens on every interface, executes what it receives, and lets all users read its folder. The
    workers get the token by their environment, which other users cannot read.
    """
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray warns until one has chosen
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_urlsafe(32))
    with TemporaryDirectory(prefix="ynet-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield str(Path(folder, "ray"))


def is_watched(plan: Plan, number: int) -> bool:
    """Return whether a round is followed by scores of all sites together; the last round is, too.

    With `training.rounds: auto` the sites' own scores are the curve, and fewer rounds are watched.
    """
    every = plan.training.evaluate_every * (AUTO_WATCHED_EVERY if plan.training.rounds == AUTO else 1)
    return number % every == 0


def _client(manifests: tuple[Path, ...], is_validation: bool) -> ClientApp:
    """Return the deployment's ClientApp. The node with partition k is the k-th site, with a certificate of its own."""
    now = dt.datetime.now(dt.UTC)
    authority = identity.make_authority("experiment", now)
    sites = [(str(path), _party(f"site-{k}", authority, now)) for k, path in enumerate(manifests)]
    names = [path.parent.name for path in manifests]

    def locate(context: Context) -> LocalSite:
        torch.set_num_threads(1)
        manifest, party = sites[int(context.node_config["partition-id"])]
        return client_app.site_at(manifest, "auto", 1024, is_validation=is_validation, party=party)

    def tell(message: Message, context: Context, work: ClientAppCallable) -> Message:
        """Reply with a site's UserError: a raised one would reach the server as Ray's error with a traceback."""
        try:
            return work(message, context)
        except UserError as error:
            what = f"site {names[int(context.node_config['partition-id'])]}: {error.what}"
            reason = "\n".join(line.replace("\n", " ") for line in (what, error.why, error.do))
            return Message(Error(REFUSED, reason), reply_to=message)

    return client_app.build(locate, [tell])


def _party(site: str, authority: Identity, now: dt.datetime) -> Party:
    key = identity.new_key()
    certificate = identity.issue_site(authority, site, identity.signing_request(key, site), now)
    return Party(site, Identity(key, certificate), authority.certificate, home=None)
