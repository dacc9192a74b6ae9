"""The Flower ServerApp: the rounds of one run, from the first weights to the model, on whatever Grid carries it."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from ynet import plan as plans
from ynet import weights
from ynet.federation.records import weights_record
from ynet.plan import Plan
from ynet.runtime import memory
from ynet.schedule import AUTO
from ynet.weights import Flat
from ynet_server import encoder_files
from ynet_server.rounds.attendance import Attendance
from ynet_server.rounds.carried_arrays import CarriedArrays
from ynet_server.rounds.code_moments import CodeMoments
from ynet_server.rounds.conversation import Conversation, round_config
from ynet_server.rounds.initial_weights import initial_state
from ynet_server.rounds.privacy_statement import statement
from ynet_server.rounds.reply_checks import ReplyChecks
from ynet_server.rounds.run_end import AutoRounds, FixedRounds, run_end
from ynet_server.rounds.run_folder import RunFolder, State
from ynet_server.rounds.site_report import scores
from ynet_server.rounds.strategies import carried, carry_on, strategy
from ynet_server.rounds.training_round import TrainingRounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the plan that the run's configuration names: `plan`, a YAML or JSON file, and `output`, a folder.

    A pretrained encoder is that of the server's home.
    """
    output, plan = Path(str(context.run_config["output"])), Path(str(context.run_config["plan"]))
    folder = RunFolder(output, encoders=encoder_files.default_folder())
    federate(grid, folder.create(plans.read(plan), plans.init_file(plan)))


def federate(
    grid: Grid,
    folder: RunFolder,
    name_of: Callable[[int], str] = str,
    cases_of: Callable[[int], int | None] = lambda _: None,
    after_round: Callable[[State], None] = lambda _: None,
) -> str:
    """Train the folder's plan with the sites on `grid`, resuming after the last complete round. Returns the model's id.

    `name_of` maps a node to its site's name; `cases_of` maps it to its known number of training cases, or to None.
    `after_round` is called with the state after each round. Raises UserError when the sites' networks differ, and when
    the weights are not finite.
    """
    plan = folder.plan()
    talk = Conversation(grid, plan, folder, name_of)
    checks = ReplyChecks(plan, name_of, cases_of)
    attendance = Attendance(plan, folder, talk, checks)
    arrays = CarriedArrays(grid, plan, folder)
    rounds = TrainingRounds(grid, plan, folder, talk, checks, attendance, arrays)
    code = CodeMoments(plan, folder, talk, checks, attendance, arrays)
    chosen, end = strategy(plan), run_end(plan, folder)
    with contextlib.closing(arrays), contextlib.closing(rounds.stale):
        state = folder.state() or initial_state(plan, folder, talk, attendance, checks)
        checks.cases.update(state.cases)
        arrays.begin(state)
        carry_on(chosen, arrays.gathered(state.carried))
        evaluate = partial(_evaluate, grid, talk, chosen, folder, arrays)
        if end.is_missing(state.round):
            state = code.renewed(state)
            end.add(state, evaluate(state.round, state.best))
        while not end.is_over(state.round):
            state = _round(rounds, chosen, state.round + 1, state, folder, end)
            if (is_due := end.is_due(state.round)) or end.is_last(state.round):
                state = code.renewed(state)
            after_round(state)
            if is_due:
                end.add(state, evaluate(state.round, state.best))
    if (result := end.result(state)).score is None:  # weights that were never evaluated
        result = end.result(code.renewed(state))
    found = evaluate(result.round, result.flat, is_final=True)
    card = {"plan": plan.name, "rounds": state.round, "sites": checks.cases, "scores": found, **end.card()}
    card["privacy"] = statement(plan, folder.events())
    model = folder.save_model(weights.unflatten(result.flat, state.layout), card)
    folder.event("finished", model=model)
    return model


def _round(
    rounds: TrainingRounds,
    chosen: FedAvg,
    number: int,
    state: State,
    folder: RunFolder,
    end: FixedRounds | AutoRounds,
) -> State:
    """Train one round and save the state after it."""
    plan = rounds.plan
    flat = rounds.train(chosen, number, state, end)
    average = moving_average(plan, number, state.average, flat)
    if average is not None:
        average = rounds.carried.kept(average, flat)
    state = State(number, flat, state.layout, rounds.checks.cases, average, rounds.carried.spread(carried(chosen)))
    folder.add_seen(rounds.filter.news())  # before the state, so that no update of a saved round can be replayed
    folder.save_state(state)
    rounds.sums.forget()
    memory.give_back()
    return state


def _evaluate(
    grid: Grid,
    talk: Conversation,
    chosen: FedAvg,
    folder: RunFolder,
    arrays: CarriedArrays,
    number: int,
    flat: Flat,
    *,
    is_final: bool = False,
) -> dict[str, dict[str, Any]]:
    """Each site's scores on its own test split; a score without cases is None, a site without scores is left out.

    Asks nobody under a private plan whose scores stay at the sites. With `rounds: auto` a site does not know the last
    round: `is_final` tells it that these are the weights that the run publishes.
    """
    plan = folder.plan()
    if plan.privacy.scores == "none":
        return {}
    is_told = is_final and plan.training.rounds == AUTO
    shown, layout = arrays.evaluated(flat)
    config = round_config(plan, layout, is_final=is_told)
    config.update(arrays.config())
    messages = chosen.configure_evaluate(number, weights_record(shown), config, grid)
    replies = talk.send(number, messages, lambda reply: scores(reply, plan.classes, plan.regions.names))
    by_site = {talk.name_of(reply.node): scores(reply, plan.classes, plan.regions.names) for reply in replies}
    folder.event("result_evaluated" if is_told else "evaluated", round=number, sites=by_site)
    return by_site


def moving_average(plan: Plan, number: int, average: Flat | None, flat: Flat) -> Flat | None:
    """The moving average of the weights after round `number`, counted from 1; None where the plan has none.

    The share that is kept is at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage, so that the first
    rounds count for more.
    """
    if not plan.training.moving_average:
        return None
    stays = min(plan.training.moving_average, (1 + number) / (10 + number))
    return flat if average is None else (stays * average + (1 - stays) * flat).astype(np.float32)
