"""The weights that a run begins with: every site builds the plan's network, and all layouts must agree."""

import itertools

import numpy as np

from ynet import weights
from ynet.errors import UserError
from ynet.federation.records import ARRAYS, CONFIG, INITIAL, flat_weights
from ynet.fixed_arrays import of_encoder_file
from ynet.plan import Plan
from ynet.weights import Arrays, Flat, Layout
from ynet_server.rounds.attendance import Attendance
from ynet_server.rounds.conversation import Conversation, SiteReply
from ynet_server.rounds.reply_checks import ReplyChecks
from ynet_server.rounds.run_folder import RunFolder, State


def initial_state(
    plan: Plan, folder: RunFolder, talk: Conversation, attendance: Attendance, checks: ReplyChecks
) -> State:
    """Ask the sites for their first weights, take one set, and save it as the state before round 1.

    Where the plan has an `init`, its arrays replace those of the same names. Raises UserError when the sites build
    different networks, and when too few sites answer.
    """
    replies = _replies(plan, folder, talk, attendance, checks)
    layout = _common_layout(replies)
    given = folder.init()
    flat = _with_encoder(plan, flat_weights(replies[0].content.array_records[ARRAYS]), layout, given or {})
    if given is not None:
        flat = weights.flatten(weights.begun_with(weights.unflatten(flat, layout), given))
    folder.event(
        "started",
        sites=[talk.name_of(reply.node) for reply in replies],
        parameters=int(flat.size),
        given=sum(array.size for array in (given or {}).values()),
    )
    state = State(0, flat, layout, checks.cases)
    folder.save_state(state)
    return state


def _with_encoder(plan: Plan, sent: Flat, layout: Layout, given: Arrays) -> Flat:
    """A site's first weights, with the encoder's arrays where the site left out those that it has by their file."""
    total = sum(entry.size for entry in layout)
    if sent.size == total:
        return sent
    names = of_encoder_file(plan, [entry.name for entry in layout])
    begun = weights.unflatten(np.zeros(total, np.float32), layout)
    if lacking := sorted(names - set(given)):
        why = f"a site left out {lacking[0][:80]!r}, and the server's encoder file does not have it"
        raise UserError("the run cannot start", why, "add the encoder again: ynet-server encoder add")
    begun = weights.begun_with(begun, {name: given[name] for name in names})
    return weights.completed(sent, weights.flatten(begun), layout, names)


def _replies(
    plan: Plan, folder: RunFolder, talk: Conversation, attendance: Attendance, checks: ReplyChecks
) -> list[SiteReply]:
    """Good replies of at least `cohort.min_sites` sites, in the order of the nodes; asks until there are as many."""
    needed = plan.cohort.min_sites
    asked, refused, reported, good = list[int](), 0, -1, dict[int, SiteReply]()
    for tried in itertools.count():
        nodes = attendance.wait_for(lambda: needed)
        if nodes != asked:
            asked, refused = nodes, 0
        talk.refusal = ""
        found = talk.ask(0, INITIAL, [node for node in nodes if node not in good], checks.initial)
        good = {node: good[node] for node in nodes if node in good} | {reply.node: reply for reply in found}
        if len(good) >= needed:
            return [good[node] for node in sorted(good)]
        refused += bool(talk.refusal)
        attendance.give_up_if(refused, "the run's beginning", len(good), needed)
        if len(good) != reported:
            reported = len(good)
            folder.event("waiting", connected=len(good), needed=needed, missing=attendance.missing(good))
        attendance.wait_before(tried)
    raise AssertionError


def _common_layout(replies: list[SiteReply]) -> Layout:
    layouts = {str(reply.content[CONFIG]["layout"]) for reply in replies}
    if len(layouts) > 1:
        raise UserError(
            "the run cannot start",
            "the sites build different networks from one plan",
            "install the same ynet everywhere (ynet-server sites shows the versions)",
        )
    return weights.layout_from_json(layouts.pop())
