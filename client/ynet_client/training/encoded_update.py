"""A site's update in its plan's encoding, with error feedback: the encoding error is added to the next update."""

import numpy as np
from flwr.app import ConfigRecord, Context

from ynet.federation import update_encoding
from ynet.federation.records import flat_weights, weights_record
from ynet.weights import Flat
from ynet_client.training.received_weights import layout_of_message
from ynet_client.training.request import RoundRequest
from ynet_client.training.site_data import LocalSite

LEFT_OUT, VALUES = "left-out", "left-out.values"  # in the node's state, never sent


def encode(site: LocalSite, context: Context, request: RoundRequest, update: Flat) -> Flat:
    """Encode the update of the arrays that the message carried.

    Every encoding but float32 encodes the difference to the received weights.
    """
    encoding = request.plan.training.update_encoding
    if encoding == "float32" or request.flat is None:
        return update
    layout = layout_of_message(site, request)
    difference = update - request.flat + _recall(context, request)
    encoded = update_encoding.encode(difference, layout, encoding)
    _remember(context, request, difference - update_encoding.decode(encoded, layout, encoding))
    return encoded


def _recall(context: Context, request: RoundRequest) -> Flat | np.float32:
    """Return the encoding error of the previous round; 0 when this process did not train it."""
    kept = context.state.config_records.get(LEFT_OUT)
    if kept is None or kept["plan"] != request.plan.id or kept["round"] != request.round - 1:
        return np.float32(0)
    return flat_weights(context.state.array_records[VALUES])


def _remember(context: Context, request: RoundRequest, left_out: Flat) -> None:
    if np.isfinite(left_out).all():
        context.state[LEFT_OUT] = ConfigRecord({"plan": request.plan.id, "round": request.round})
        context.state[VALUES] = weights_record(left_out)
