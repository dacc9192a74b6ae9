"""The Flower ClientApp that runs a site's part of a run. It is always the installed one; the server sends no code."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from ynet import code_map, weights
from ynet.data.gaps import OWN_SPLIT
from ynet.errors import RefusedError
from ynet.federation.records import (
    ARRAYS,
    AWAITED,
    CASES,
    CONFIG,
    LEDGER,
    METRICS,
    MOMENTS,
    flat_weights,
    weights_record,
)
from ynet.fixed_arrays import of_encoder_file
from ynet.learning.model import YNet, arrays_of
from ynet.learning.model import build as build_network
from ynet.learning.train import Moments, TrainResult, train
from ynet.learning.train_private import train_privately
from ynet.plan import Plan
from ynet.weights import Flat
from ynet_client import settings as client_settings
from ynet_client.training import encoded_update, secure_aggregation
from ynet_client.training.answered_evaluations import Scores
from ynet_client.training.consent import Consent, shows_classes
from ynet_client.training.privacy_budget import Experiment, PrivateRound, Recorded
from ynet_client.training.received_weights import as_carried, loaded
from ynet_client.training.request import RoundRequest, read_request, refused
from ynet_client.training.secure_aggregation import Party, party_at
from ynet_client.training.site_data import LocalSite

PIECES = "pieces"
OPTIMIZER, FIRST, SECOND = "moments", "moments.first", "moments.second"

Locate = Callable[[Context], LocalSite]
Work = Callable[[LocalSite, Context, RoundRequest], RecordDict]

AWAITING = RecordDict({CONFIG: ConfigRecord({AWAITED: "admin"})})
"""The reply of a site whose admin has not decided on the plan yet."""


def build(locate: Locate, mods: Sequence[Mod] = ()) -> ClientApp:
    """Build the app for the site that `locate` returns for a context; `mods` are Flower's, around each handler."""
    app = ClientApp(mods=list(mods))

    def when_admitted(work: Work) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            request, site = read_request(message), locate(context)
            _check_labels_may_leave(site, request.plan)
            content = work(site, context, request) if site.admits(request.plan) else AWAITING
            return Message(content, reply_to=message)

        return handle

    app.query("initial")(when_admitted(_begin))
    app.train()(when_admitted(_train_round))
    app.query("features")(when_admitted(_features))
    app.evaluate()(when_admitted(_evaluate))

    def party_to(context: Context, request: RoundRequest) -> Party:
        site = locate(context)
        if not site.admits(request.plan):
            raise refused("the site's admin has not accepted this plan")
        return site.party

    secure_aggregation.add_to(app, party_to)
    return app


def _check_labels_may_leave(site: LocalSite, plan: Plan) -> None:
    """Raise RefusedError when a plan sums by class in the open, and the site's settings let no label leave."""
    if site.tells_classes or not shows_classes(plan):
        return
    why = "its code is made from each site's sums by class, which this site's settings do not let out"
    do = "train a plan with 'aggregation: secure' or 'network.code: trained', or set 'disclosure.labels: true'"
    raise RefusedError("a plan was refused", why, do)


def _begin(site: LocalSite, context: Context, request: RoundRequest) -> RecordDict:  # noqa: ARG001 (one form for all)
    """Return initial weights from the plan's seed, and the number of cases. The site's trained network is not used.

    The arrays of an encoder whose file is here are left out: the server has the same file.
    """
    arrays = arrays_of(build_network(request.plan))
    layout = weights.layout_of(arrays)
    config = ConfigRecord({"layout": weights.layout_to_json(layout)})
    metrics = MetricRecord({CASES: len(site.cases(request.plan)[0])})
    given = of_encoder_file(request.plan, arrays) if site.has_encoder(request.plan) else ()
    flat = weights.without(weights.flatten(arrays), layout, given)
    return RecordDict({ARRAYS: weights_record(flat), CONFIG: config, METRICS: metrics})


def _train_round(site: LocalSite, context: Context, request: RoundRequest) -> RecordDict:
    is_secure = request.plan.aggregation == "secure"
    if is_secure:
        secure_aggregation.check_unsummed(site.party, context, request)
    is_private = request.plan.privacy.mode != "off"
    update, metrics = (_train_privately if is_private else _train)(site, context, request)
    site.took_part.trained(request.plan)
    update = as_carried(update, site, request)
    reply, config = RecordDict({METRICS: metrics}), ConfigRecord()
    if is_secure:
        config = secure_aggregation.offer(site.party, context, request, update, int(str(metrics[CASES])))
    else:
        reply[ARRAYS] = weights_record(encoded_update.encode(site, context, request, update))
    if is_private and (head := site.budget.head):
        config[LEDGER] = head.to_text()
    if config:
        reply[CONFIG] = config
    return reply


def _features(site: LocalSite, context: Context, request: RoundRequest) -> RecordDict:
    """Return the moments of the features of the training cases, as means over the cases; masked in a secure plan."""
    plan, (cases, _) = request.plan, site.cases(request.plan)
    if plan.code_form != "moments":
        raise refused("the plan's code is not made from moments")
    if not len(cases):
        raise RefusedError("no moments", "the site has no training cases", OWN_SPLIT)
    request = request._replace(of=MOMENTS)
    is_secure = plan.aggregation == "secure"
    if is_secure:
        secure_aggregation.check_unsummed(site.party, context, request)
    found = code_map.flatten(site.gallery.moments(loaded(site, request), cases, plan, site.device), len(cases))
    reply = RecordDict({METRICS: MetricRecord({CASES: len(cases)})})
    if is_secure:
        reply[CONFIG] = secure_aggregation.offer(site.party, context, request, found, len(cases))
    else:
        reply[ARRAYS] = weights_record(found)
    return reply


def _evaluate(site: LocalSite, context: Context, request: RoundRequest) -> RecordDict:  # noqa: ARG001 (one form for all)
    net, plan = loaded(site, request), request.plan
    site.took_part.evaluated(plan, weights.model_id(arrays_of(net), plan.id), is_final=request.is_final)
    gallery, queries = site.cases(plan)
    if not len(gallery) or not len(queries):
        raise RefusedError("no evaluation", "the site has no test cases, or none to train on", OWN_SPLIT)

    def score() -> Scores:
        found = site.gallery.evaluate(net, gallery, queries, plan, site.device)
        return {CASES: len(queries), **found.to_wire(tells_classes=site.tells_classes)}

    if plan.privacy.mode == "off":
        scores = score()
    else:
        asked = PrivateRound(plan, request.round, weights.flatten(arrays_of(net)), len(site.patients(plan)))
        scores = site.budget.scores(asked, score)
    return RecordDict({METRICS: MetricRecord({**scores, CASES: int(scores[CASES])})})


def _train(site: LocalSite, context: Context, request: RoundRequest) -> tuple[Flat, MetricRecord]:
    """Train a round; return the update and its metrics."""
    cases, _ = site.cases(request.plan)

    def train_in(count: int) -> tuple[YNet, TrainResult]:
        net = loaded(site, request)
        return net, train(
            net,
            cases,
            request.plan,
            request.round,
            device=site.device,
            generator=site.generator(request.plan, request.round),
            on_progress=site.report,
            proximal_mu=request.proximal_mu,
            moments=_recall(context, request),
            micro_batches=count,
            cooldown=request.cooldown,
        )

    net, result = site.micro_batches.run(request.plan, train_in)
    _remember(context, request, result.moments)
    metrics = MetricRecord({CASES: len(cases), "loss": result.loss, "seconds": result.seconds, **_micro_batches(site)})
    return weights.flatten(arrays_of(net)), metrics


def _train_privately(site: LocalSite, context: Context, request: RoundRequest) -> tuple[Flat, MetricRecord]:
    """Train a round under differential privacy: record the spending, train, store the update, in this order.

    A repeated round returns the stored update, which spends nothing. The loss does not leave the site.
    """
    net, extra = loaded(site, request), dict[str, int]()
    cases, patients = site.cases(request.plan)[0], site.patients(request.plan)
    asked = PrivateRound(request.plan, request.round, weights.flatten(arrays_of(net)), len(patients))
    begun = time.perf_counter()
    update = site.budget.kept(asked)
    if update is None:
        mechanism = site.budget.reserve(asked)

        def train_in(count: int) -> TrainResult:
            return train_privately(
                loaded(site, request),
                cases,
                patients,
                request.plan,
                request.round,
                mechanism,
                device=site.device,
                on_progress=site.report,
                moments=_recall(context, request),
                micro_batches=count,
            )

        result = site.micro_batches.run(request.plan, train_in)
        update = weights.flatten(arrays_of(net))
        site.budget.keep(asked, update)
        _remember(context, request, result.moments)
        extra = _micro_batches(site)
    return update, MetricRecord({CASES: len(cases), "seconds": time.perf_counter() - begun, **extra})


def _micro_batches(site: LocalSite) -> dict[str, int]:
    """Return the number of micro-batches of the last training, if memory required more than one."""
    return {PIECES: site.micro_batches.newest} if site.micro_batches.newest > 1 else {}


def _remember(context: Context, request: RoundRequest, moments: Moments) -> None:
    """Store the optimizer's moments in the node's state."""
    context.state[OPTIMIZER] = ConfigRecord({"plan": request.plan.id, "round": request.round, "steps": moments.steps})
    context.state[FIRST], context.state[SECOND] = weights_record(moments.first), weights_record(moments.second)


def _recall(context: Context, request: RoundRequest) -> Moments | None:
    """Return the moments of the previous round; None when this process did not train it."""
    kept = context.state.config_records.get(OPTIMIZER)
    if kept is None or kept["plan"] != request.plan.id or kept["round"] != request.round - 1:
        return None
    first, second = (flat_weights(context.state.array_records[name]) for name in (FIRST, SECOND))
    return Moments(int(str(kept["steps"])), first, second)


@cache
def site_at(manifest: str, device: str, cache_mb: int, is_validation: bool, party: Party) -> LocalSite:
    """Return the site of a manifest in an experiment, the same object for the life of the process."""
    return LocalSite(
        Path(manifest), device, cache_mb << 20, is_validation=is_validation, budget=Experiment(), party=lambda: party
    )


@cache
def node_at(manifest: str, device: str, cache_mb: int, home: str, max_epsilon: float | None) -> LocalSite:
    """Return the site of a SuperNode, the same object for the life of the process."""
    if not home:
        return LocalSite(Path(manifest), device, cache_mb << 20, admits=_without_a_home)
    settings = client_settings.read(Path(home))
    privacy = settings.privacy if max_epsilon is None else replace(settings.privacy, max_epsilon=max_epsilon)
    return LocalSite(
        Path(manifest),
        device,
        cache_mb << 20,
        budget=Recorded(Path(home), privacy),
        party=lambda: party_at(Path(home)),
        tells_classes=settings.disclosure.labels,
        admits=Consent(Path(home), settings.policy).admits,
    )


def _without_a_home(_: Plan) -> bool:
    do = "give the node's config a `home`, and run `ynet-client plan accept PLAN_ID --home HOME`"
    raise RefusedError("a plan was refused", "the site has no folder to store its admin's decision in", do)


def from_node_config(context: Context) -> LocalSite:
    """Return the site that a SuperNode's --node-config describes.

    Its keys are `manifest`, `home` (the site's folder), and optionally `device`, `cache-mb` and `max-epsilon`. `home`
    holds the settings, the accepted plans, the privacy ledger, and for secure sums the membership.
    """
    config = context.node_config
    if "manifest" not in config:
        raise RefusedError("no site", "the node's config names no manifest", "start it with --node-config manifest=...")
    max_epsilon = float(config["max-epsilon"]) if "max-epsilon" in config else None
    device, cache_mb = str(config.get("device", "auto")), int(config.get("cache-mb", 2048))
    return node_at(str(config["manifest"]), device, cache_mb, str(config.get("home", "")), max_epsilon)


app = build(from_node_config)
