"""The weights of a request: those that its message carries, and the fixed arrays that the site has by their files."""

from ynet import weights
from ynet.errors import UserError
from ynet.fixed_arrays import CODE, fixed_arrays
from ynet.learning.model import YNet, load_arrays
from ynet.network_size import network_values
from ynet.weights import Flat, Layout, LayoutEntry
from ynet_client.training.request import RoundRequest, refused
from ynet_client.training.site_data import LocalSite


def loaded(site: LocalSite, request: RoundRequest) -> YNet:
    """Load a request's weights into the site's network. Raises RefusedError when they do not fit."""
    if request.flat is None:
        raise refused("it brings no weights")
    size, needed = request.flat.size, network_values(request.plan)
    if size > needed or (size < needed and not request.layout):  # checked before memory is allocated
        raise refused(f"it has {size} values, the plan's network has {needed}")
    net = site.network(request.plan)
    carried = layout_of_message(site, request)
    others = _others(net, site, request, {entry.name for entry in carried})
    try:
        load_arrays(net, {**weights.unflatten(request.flat, carried), **others})
    except UserError as error:
        raise refused(error.why) from None
    return net


def _others(net: YNet, site: LocalSite, request: RoundRequest, carried: set[str]) -> dict[str, Flat]:
    """Return the arrays that the message leaves out: the site's own. A round does not use those of the code."""
    own = net.state_dict()
    missing = own.keys() - carried
    if not missing:
        return {}
    kept = site.fixed_arrays(request.plan, request.fixed)
    if lacking := sorted(name for name in missing - kept.keys() if not name.startswith(CODE)):
        raise refused(f"it leaves out {lacking[0][:80]!r}, which this site does not have")
    return {name: kept[name] if name in kept else own[name].cpu().numpy() for name in missing}


def layout_of_message(site: LocalSite, request: RoundRequest) -> Layout:
    """Return the layout of the arrays that a message carries: the network's, or the message's own.

    Raises RefusedError when that leaves out an array that is trained.
    """
    whole = _layout(site.network(request.plan))
    if request.flat is None or request.flat.size == sum(entry.size for entry in whole):
        return whole
    try:
        named = weights.layout_from_json(request.layout)
    except UserError as error:
        raise refused(error.why) from None
    left_out = {entry.name for entry in whole} - {entry.name for entry in named}
    if weights.layout_without(whole, left_out) != named:
        raise refused("its layout is not of the plan's network")
    if wrong := sorted(left_out - fixed_arrays(request.plan, [entry.name for entry in whole])):
        raise refused(f"it leaves out {wrong[0][:80]!r}, which is trained")
    return named


def as_carried(update: Flat, site: LocalSite, request: RoundRequest) -> Flat:
    """Return those arrays of an update that the request's message carried."""
    whole, carried = _layout(site.network(request.plan)), layout_of_message(site, request)
    return weights.without(update, whole, {entry.name for entry in whole} - {entry.name for entry in carried})


def _layout(net: YNet) -> Layout:
    return tuple(LayoutEntry(name, tuple(value.shape)) for name, value in net.state_dict().items())
