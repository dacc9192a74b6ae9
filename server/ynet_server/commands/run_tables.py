"""A run's events and the list of runs, as text and tables."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ynet import scores
from ynet.runtime import terminal


def describe_event(event: Mapping[str, Any]) -> str:
    """One line for one event."""
    write = _LINES.get(event["kind"])
    return f"{terminal.clock(event['time'])}  {write(event) if write else event['kind']}"


@contextlib.contextmanager
def shown(*, is_quiet: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that shows events: as lines, and on a terminal with a progress bar of the rounds below.

    With `is_quiet`, nothing is shown.
    """
    if is_quiet:
        yield lambda _: None
    elif not sys.stdout.isatty():
        yield lambda event: print(describe_event(event), flush=True)  # noqa: T201
    else:
        columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, console=terminal.out, transient=True) as progress:
            bar = progress.add_task("rounds", total=None, visible=False)

            def show(event: Mapping[str, Any]) -> None:
                progress.console.print(describe_event(event), markup=False, soft_wrap=True)
                if event["kind"] == "round":
                    progress.update(bar, completed=event["round"], total=event["rounds"], visible=True)

            yield show


def run_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """All runs, the newest first."""
    lines = [
        (
            r["id"],
            r["status"],
            terminal.when(r["started"]),
            terminal.when(r["ended"]),
            r["plan"][:12],
            (r["model"] or "")[:12],
            r["reason"] or _waits(r.get("waits_for")) or (r.get("end") or {}).get("reason", ""),
        )
        for r in runs
    ]
    return terminal.rows("runs", ("run", "status", "started", "ended", "plan", "model", "why"), lines)


def _waits(waits: Mapping[str, Any] | None) -> str:
    """The sites that a run waits for."""
    if not waits:
        return ""
    names = ", ".join(waits["missing"]) or "sites"
    return f"waits for {names}: {waits['connected']} of {waits['needed']} are there"


def _round(event: Mapping[str, Any]) -> str:
    sites = "  ".join(f"{site}{_loss(values)}" for site, values in event["sites"].items())
    left_out = f"  left out by the strategy: {', '.join(event['left_out'])}" if event.get("left_out") else ""
    return f"round {event['round']}/{event['rounds']}  {event['seconds']:.1f} s  {sites}{left_out}"


def _missing(event: Mapping[str, Any]) -> str:
    return f"; missing: {', '.join(event['missing'])}" if event.get("missing") else ""


def _loss(values: Mapping[str, float]) -> str:
    pieces = f" (short of memory: in {values['pieces']:.0f} pieces)" if "pieces" in values else ""
    loss = f" loss {values['loss']:.3f}" if "loss" in values else ""  # a private plan reports none
    return f"{loss}{pieces}"


def _evaluated(event: Mapping[str, Any]) -> str:
    sites = "  ".join(f"{site} {_scored(values)}" for site, values in event["sites"].items())
    return f"scores after round {event['round']}  {sites}"


def _stopped(event: Mapping[str, Any]) -> str:
    best = f"; the best score is {event['score']:.4f}, after round {event['best']}" if "best" in event else ""
    return f"stopped after round {event['round']}: {event['reason']}{best}"


def _scored(values: Mapping[str, Any]) -> str:
    """A site's scores and the counts behind them, which are rounded up."""
    classes = scores.classes_shown(values)
    by_class = f" ({classes})" if classes else ""
    by_region = f" ({regions})" if (regions := scores.regions_shown(values)) else ""
    case, tie, dice = (scores.shown(values, name) for name in ("case_hit10", "median_tie10", "dice"))
    return f"mAP {scores.shown(values, 'macro_map10')}{by_class} case {case} tie {tie} Dice {dice}{by_region}"


_RESUMED = {"restart": "the server was restarted", "coordinator": "resumed by the coordinator"}
_LINES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "waiting": lambda e: f"waiting for sites: {e['connected']} of {e['needed']} are connected{_missing(e)}",
    "awaited": lambda e: f"site {e['site']} waits for its admin's yes to this plan",
    "started": lambda e: f"begun with {', '.join(e['sites'])}; {e['parameters']:,} parameters",
    "resumed": lambda e: f"{_RESUMED[e.get('by', 'restart')]}; the run continues after its last complete round",
    "round": _round,
    "code": lambda e: f"the code after round {e['round']} is made from {sum(e['sites'].values()):,} cases",
    "code_lost": lambda e: f"the code before round {e['round']} stays: {e['reason']}",
    "evaluated": _evaluated,
    "curve": lambda e: f"score after round {e['round']}: {e['score']:.4f}",
    "cooldown": lambda e: f"cool-down of {e['rounds']} rounds after round {e['round']}: {e['reason']}",
    "stopped": _stopped,
    "result_evaluated": lambda e: f"the weights of round {e['round']} are published; their {_evaluated(e)}",
    "site_failed": lambda e: f"site {e['site']} gave no result: {e['reason']}",
    "update_refused": lambda e: f"the update of site {e['site']} was refused: {e['reason']}",
    "late": lambda e: (
        f"the update of site {e['site']} of round {e['of']}, late, was {e['outcome']}"
        + (f": {e['reason']}" if e["reason"] else f" in round {e['round']}")
    ),
    "under_quorum": lambda e: (
        f"round {e['round']} had {e['updates']} of {e['quorum']} updates{_missing(e)}; it is held again"
    ),
    "quorum_changed": lambda e: f"the coordinator lets rounds close with {e['quorum']} updates from now on",
    "sum_restarted": lambda e: f"round {e['round']}: the secure sum is begun again without {', '.join(e['without'])}",
    "round_lost": lambda e: f"round {e['round']} changed nothing: {e['reason']}",
    "stalled": lambda e: f"stalled: {e['reason']}",
    "cancelled": lambda _: "cancelled by the coordinator",
    "finished": lambda e: f"finished: model {e['model'][:16]} is published",
    "failed": lambda e: f"failed: {e['reason']} ({e['do']})",
}
