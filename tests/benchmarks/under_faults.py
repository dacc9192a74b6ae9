"""Run a federation of real processes under faults, and report every fault and its effect.

python tests/benchmarks/under_faults.py [--seeds 3] [--faults 24] [--out FILE.json] [--doc FILE.md]

Four synthetic hospitals behind lines that can be cut. For each seed three runs under faults of every kind: of a plan
without privacy (`learns`, 12 rounds), of a private one, and of one with secure sums; all sites ask, consult and forget
during the runs. For comparison, the plan `learns` also runs undisturbed with several seeds. Exit code 1 if a promise
was broken.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "story"))
sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))

from chaos.faults import KINDS, Fault, schedule
from chaos.lines import Lines
from chaos.storm import Asker, Federation, Run, broken_promises, left_over
from hospitals import small_plan
from learning import write_between
from ynet.data.synthetic import make_federation

SITES = {"A": 80, "B": 60, "C": 60, "D": 40}
COHORT = {"min_sites": 4, "quorum": 3, "round_deadline_s": 120}
LEARNS = {"image": 64, "width": 8, "rounds": 12, "local_epochs": 8, "batch_size": 16, "learning_rate": 4e-3}
PRIVATE = {"mode": "patient", "epsilon": 4.0, "delta": 5e-3}
SHARES = {"learns": 0.5, "private": 0.25, "secure": 0.25}  # of the faults
METRICS = ("macro_map10", "dice")
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--faults", type=int, default=24, help="for each seed")
    parser.add_argument("--undisturbed", type=int, default=3, help="runs in which nothing goes wrong")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = storms(Path(folder), options)
    print(table(found))
    if options.doc:
        write_between(options.doc, BEGIN, END, table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.exit(1 if found["broken"] else 0)


def storms(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run and return all measurements for the JSON."""
    make_federation(folder / "data", SITES, seed=1, size=64)
    shaken, broken, acknowledged = list[Run](), list[str](), 0
    with Lines() as lines:
        quiet = undisturbed(folder, options.undisturbed, lines)
        for seed in range(1, options.seeds + 1):
            print(f"seed {seed}", flush=True)
            federation = Federation(folder / f"trial-{seed}", folder / "data", lines)
            with federation.trial as trial:
                federation.open()
                first = federation.train(small_plan(folder / "first.yaml", rounds=1, cohort=COHORT))
                federation.calm(first)
                asker = Asker(trial, seed)
                asker.start()
                drawn = schedule(seed, options.faults, sorted(SITES), long_sleeps=1)
                runs = [federation.train(path, part) for path, part in parts(folder, drawn)]
                federation.calm(runs[-1])
                asker.end()
                broken += broken_promises(federation, [first, *runs], asker)
                acknowledged += asker.queries.total() + sum(map(len, asker.consults.values())) + len(asker.forgotten)
            broken += left_over(federation)
            shaken += runs
    return {
        "faults": {kind: of_kind(kind, shaken) for kind in KINDS},
        "runs": [{"plan": run.plan.name, "status": run.status, "seconds": round(run.seconds)} for run in shaken],
        "acknowledged": acknowledged,
        "broken": broken,
        "undisturbed": [scores(run) for run in quiet],
        "shaken": [scores(run) for run in shaken if run.plan.name == "learns"],
    }


def undisturbed(folder: Path, count: int, lines: Lines) -> list[Run]:
    federation = Federation(folder / "quiet", folder / "data", lines)
    with federation.trial:
        federation.open()
        return [federation.train(learning(folder, 1 + number)) for number in range(count)]


def parts(folder: Path, drawn: Sequence[Fault]) -> list[tuple[Path, Sequence[Fault]]]:
    """Return the three plans, each with its share of the faults."""
    private = small_plan(folder / "private.yaml", rounds=8, local_epochs=2, cohort=COHORT, privacy=PRIVATE)
    secure = small_plan(folder / "secure.yaml", rounds=8, local_epochs=4, cohort=COHORT, seed=3)
    named(private, "private")
    named(secure, "secure", "aggregation: secure\n")
    paths, begin, cut = [learning(folder, 1), private, secure], 0, list[Sequence[Fault]]()
    for share in SHARES.values():
        cut.append(drawn[begin : (begin := begin + round(share * len(drawn)))])
    return list(zip(paths, cut, strict=True))


def learning(folder: Path, seed: int) -> Path:
    path = small_plan(folder / f"learns-{seed}.yaml", seed=seed, cooldown=0.2, cohort=COHORT, **LEARNS)  # type: ignore[arg-type]
    return named(path, "learns")


def named(path: Path, name: str, more: str = "") -> Path:
    """Give a small plan another name, and optionally another line."""
    path.write_text(path.read_text("utf-8").replace("name: story", f"name: {name}") + more, "utf-8")
    return path


def scores(run: Run) -> dict[str, float]:
    """Return the last evaluation's means over the sites."""
    return {name: round(statistics.fmean(one[name] for one in run.scores.values()), 4) for name in METRICS}


def of_kind(kind: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Count a fault, and measure the time to the end of the next round."""
    struck = [(run, over) for run in runs for fault, over in run.struck if fault.kind == kind]
    waits = [wait for run, over in struck if (wait := run.next_round_s(over)) is not None]
    return {
        "count": len(struck),
        "during_a_run": len(waits),
        "next_round_s_median": round(statistics.median(waits), 1) if waits else None,
        "next_round_s_longest": round(max(waits), 1) if waits else None,
    }


def table(found: dict[str, Any]) -> str:
    lines = ["| fault | times | next round done after, median; longest, s |", "|---|---|---|"]
    for kind, one in found["faults"].items():
        waits = f"{one['next_round_s_median']}; {one['next_round_s_longest']}" if one["during_a_run"] else ""
        lines.append(f"| {kind} | {one['count']} | {waits} |")
    ended = Counter((run["plan"], run["status"]) for run in found["runs"])
    lines += ["", "; ".join(f"{count} runs of plan `{plan}` {status}" for (plan, status), count in ended.items()) + "."]
    lines += ["", "| the plan that learns, each run | macro mAP@10 | Dice |", "|---|---|---|"]
    for name in ("undisturbed", "shaken"):
        cells = (" ".join(f"{one[key]:.3f}" for one in found[name]) for key in METRICS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"Acknowledged under faults: {found['acknowledged']} queries, consults and deletions."]
    lines += [f"BROKEN: {problem}" for problem in found["broken"]] or [
        "No promise was broken, and nothing was left over."
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
