"""The Flower ClientApp: what a site does for a run. It is the installed one, always; the server sends no code."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from ynet import weights
from ynet.data.gaps import OWN_SPLIT
from ynet.errors import RefusedError, UserError
from ynet.federation.records import ARRAYS, AWAITED, CASES, CONFIG, LEDGER, METRICS, flat_weights, weights_record
from ynet.learning.evaluate import evaluate
from ynet.learning.model import YNet, arrays_of, load_arrays
from ynet.learning.model import build as build_network
from ynet.learning.train import Moments, TrainResult, train
from ynet.learning.train_private import train_privately
from ynet.network_size import network_values
from ynet.plan import Plan
from ynet.weights import Flat
from ynet_client import settings as client_settings
from ynet_client.training import encoded_update, secure_aggregation
from ynet_client.training.answered_evaluations import Scores
from ynet_client.training.consent import Consent
from ynet_client.training.privacy_budget import Asked, Experiment, Recorded
from ynet_client.training.request import Request, read_request, refused
from ynet_client.training.secure_aggregation import Party, party_at
from ynet_client.training.site_data import LocalSite

PIECES = "pieces"
MOMENTS, FIRST, SECOND = "moments", "moments.first", "moments.second"

Locate = Callable[[Context], LocalSite]
Work = Callable[[LocalSite, Context, Request], RecordDict]

AWAITING = RecordDict({CONFIG: ConfigRecord({AWAITED: "admin"})})
"""The reply of a site whose admin has not yet said whether it takes part."""


def build(locate: Locate, mods: Sequence[Mod] = ()) -> ClientApp:
    """The app for the site that `locate` finds for a context; `mods` are Flower's, around each message's work."""
    app = ClientApp(mods=list(mods))

    def when_admitted(work: Work) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            request, site = read_request(message), locate(context)
            content = work(site, context, request) if site.admits(request.plan) else AWAITING
            return Message(content, reply_to=message)

        return handle

    app.query("initial")(when_admitted(_begin))
    app.train()(when_admitted(_train_round))
    app.evaluate()(when_admitted(_evaluate))

    def party_to(context: Context, request: Request) -> Party:
        site = locate(context)
        if not site.admits(request.plan):
            raise refused("the site's admin has not accepted this plan")
        return site.party

    secure_aggregation.add_to(app, party_to)
    return app


def _begin(site: LocalSite, context: Context, request: Request) -> RecordDict:  # noqa: ARG001 (one form for all)
    """The weights that the plan's seed makes, and the site's cases. Never of the site's network: it was trained."""
    arrays = arrays_of(build_network(request.plan))
    config = ConfigRecord({"layout": weights.layout_to_json(weights.layout_of(arrays))})
    metrics = MetricRecord({CASES: len(site.cases(request.plan)[0])})
    return RecordDict({ARRAYS: weights_record(weights.flatten(arrays)), CONFIG: config, METRICS: metrics})


def _train_round(site: LocalSite, context: Context, request: Request) -> RecordDict:
    is_secure = request.plan.aggregation == "secure"
    if is_secure:
        secure_aggregation.check_unsummed(site.party, context, request)
    is_private = request.plan.privacy.mode != "off"
    update, metrics = (_train_privately if is_private else _train)(site, context, request)
    site.took_part.trained(request.plan)
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


def _evaluate(site: LocalSite, context: Context, request: Request) -> RecordDict:  # noqa: ARG001 (one form for all)
    net, plan = _loaded(site, request), request.plan
    site.took_part.evaluated(plan, request.round, weights.model_id(arrays_of(net), plan.id))
    gallery, queries = site.cases(plan)
    if not len(gallery) or not len(queries):
        raise RefusedError("no evaluation", "the site has no test cases, or none to train on", OWN_SPLIT)

    def score() -> Scores:
        found = evaluate(net, gallery, queries, plan, site.device)
        return {CASES: len(queries), **found.to_wire(tells_classes=site.tells_classes)}

    if plan.privacy.mode == "off":
        scores = score()
    else:
        asked = Asked(plan, request.round, weights.flatten(arrays_of(net)), len(site.patients(plan)))
        scores = site.budget.scores(asked, score)
    return RecordDict({METRICS: MetricRecord({**scores, CASES: int(scores[CASES])})})


def _train(site: LocalSite, context: Context, request: Request) -> tuple[Flat, MetricRecord]:
    """A round's update, and figures about it."""
    cases, _ = site.cases(request.plan)

    def anew(pieces: int) -> tuple[YNet, TrainResult]:
        net = _loaded(site, request)
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
            pieces=pieces,
        )

    net, result = site.pieces.run(request.plan, anew)
    _remember(context, request, result.moments)
    metrics = MetricRecord({CASES: len(cases), "loss": result.loss, "seconds": result.seconds, **_pieces(site)})
    return weights.flatten(arrays_of(net)), metrics


def _train_privately(site: LocalSite, context: Context, request: Request) -> tuple[Flat, MetricRecord]:
    """The same under differential privacy: recorded, trained, kept, in this order. The loss stays here.

    What the same round made before is sent again as it is: it spends nothing.
    """
    net, told = _loaded(site, request), dict[str, int]()
    cases, patients = site.cases(request.plan)[0], site.patients(request.plan)
    asked = Asked(request.plan, request.round, weights.flatten(arrays_of(net)), len(patients))
    begun = time.perf_counter()
    update = site.budget.kept(asked)
    if update is None:
        mechanism = site.budget.reserve(asked)

        def anew(pieces: int) -> TrainResult:
            return train_privately(
                _loaded(site, request),
                cases,
                patients,
                request.plan,
                request.round,
                mechanism,
                device=site.device,
                on_progress=site.report,
                moments=_recall(context, request),
                pieces=pieces,
            )

        result = site.pieces.run(request.plan, anew)
        update = weights.flatten(arrays_of(net))
        site.budget.keep(asked, update)
        _remember(context, request, result.moments)
        told = _pieces(site)
    return update, MetricRecord({CASES: len(cases), "seconds": time.perf_counter() - begun, **told})


def _pieces(site: LocalSite) -> dict[str, int]:
    """In how many pieces a batch was trained just now, where memory did not allow one."""
    return {PIECES: site.pieces.newest} if site.pieces.newest > 1 else {}


def _remember(context: Context, request: Request, moments: Moments) -> None:
    """Keep the optimizer's moments in the node's state, where Flower keeps what is a node's own."""
    context.state[MOMENTS] = ConfigRecord({"plan": request.plan.id, "round": request.round, "steps": moments.steps})
    context.state[FIRST], context.state[SECOND] = weights_record(moments.first), weights_record(moments.second)


def _recall(context: Context, request: Request) -> Moments | None:
    """The moments that the round before left, if this site took part in it and has lived since."""
    kept = context.state.config_records.get(MOMENTS)
    if kept is None or kept["plan"] != request.plan.id or kept["round"] != request.round - 1:
        return None
    first, second = (flat_weights(context.state.array_records[name]) for name in (FIRST, SECOND))
    return Moments(int(str(kept["steps"])), first, second)


def _loaded(site: LocalSite, request: Request) -> YNet:
    """The site's network with the weights that came: those of the plan's own network, or refused."""
    if request.flat is None:
        raise refused("it brings no weights")
    if request.flat.size != (needed := network_values(request.plan)):  # before anything is built for them
        raise refused(f"{request.flat.size} values came, {needed} are needed")
    net = site.network(request.plan)
    layout = weights.layout_of(arrays_of(net))
    try:
        load_arrays(net, weights.unflatten(request.flat, layout))
    except UserError as error:
        raise refused(error.why) from None
    return net


@cache
def site_at(manifest: str, device: str, cache_mb: int, is_validation: bool, party: Party) -> LocalSite:
    """The site whose manifest this is, in an experiment; the same one as long as the process lives."""
    return LocalSite(
        Path(manifest), device, cache_mb << 20, is_validation=is_validation, budget=Experiment(), party=lambda: party
    )


@cache
def node_at(manifest: str, device: str, cache_mb: int, home: str, max_epsilon: float | None) -> LocalSite:
    """The site of a node, the same one as long as the process lives."""
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
    do = "give the node's config a `home`, and say `ynet-client plan accept PLAN_ID --home HOME`"
    raise RefusedError("a plan was refused", "the site has no place to keep its admin's yes", do)


def from_node_config(context: Context) -> LocalSite:
    """The site that a SuperNode's --node-config describes.

    `manifest`, `home`, the site's folder, and if need be `device`, `cache-mb` and `max-epsilon`. In `home` are the
    settings, the plans that were accepted, the privacy ledger, and for secure sums the membership.
    """
    config = context.node_config
    if "manifest" not in config:
        raise RefusedError("no site", "the node's config names no manifest", "start it with --node-config manifest=...")
    max_epsilon = float(config["max-epsilon"]) if "max-epsilon" in config else None
    device, cache_mb = str(config.get("device", "auto")), int(config.get("cache-mb", 2048))
    return node_at(str(config["manifest"]), device, cache_mb, str(config.get("home", "")), max_epsilon)


app = build(from_node_config)
