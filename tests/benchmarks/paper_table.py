"""Rebuild the paper's table on its two sets, with its ablations and the floors that it leaves out.

python tests/benchmarks/paper_table.py --data DIR --work DIR [--sets origa jsrt] [--seeds 5] [--folds 5]
    [--without none segmentation rmac circle] [--sizes 36 64 128 256] [--only NAME ...] [--epochs N] [--no-training]
    [--out FILE.json] [--doc FILE.md]

DIR of the data holds a folder for each set, and in it the one site of that set. The work folder gets a copy of each
set, split as in the paper, and a file for each model: a run in parts resumes, and the main comparison is trained first.
`--only` trains the models whose names begin like that, such as `origa-paper-rmac`. The tables show what is there.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from learning import head, row, write_between
from paper_scores import PUBLISHED, ROWS, compared, floors_of, scored, variants
from paper_sets import SETS, make_folder
from paper_training import BITS, FULL, PAPER_SPLIT, WITHOUT, PaperSet, Run, runs, train_run

BEGIN, END = "<!-- paper figures -->", "<!-- end of paper figures -->"
TITLES = {"origa": "Fundus (ORIGA)", "jsrt": "JSRT"}


def main() -> None:
    given = read_arguments()
    torch.set_num_threads(1)
    sets = {}
    for name in given.sets:
        make_folder(name, given.data / name / name, given.work / name / name)
        sets[name] = PaperSet(given.work / name / name, name)
    if not given.no_training:
        train_all(given, sets)
    found = {name: of_set(name, sets[name], given) for name in sets}
    text = "\n".join(page(found))
    print(text)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if given.doc:
        write_between(given.doc, BEGIN, END, text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--without", nargs="+", choices=WITHOUT, default=list(WITHOUT))
    parser.add_argument("--sizes", nargs="+", type=int, choices=BITS, default=list(BITS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--epochs", type=int, help="instead of the plans' rounds")
    parser.add_argument("--no-training", action="store_true", help="use the models in the work folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    return parser.parse_args()


def train_all(given: argparse.Namespace, sets: dict[str, PaperSet]) -> None:
    """Train the models that are asked for and not there."""
    models = list(runs(given.sets, given.without, given.sizes, given.seeds, given.folds))
    todo = [run for run in models if run.name.startswith(tuple(given.only)) and not run.file(given.work).exists()]
    for number, run in enumerate(todo, start=1):
        print(f"{run.name} ({number} of {len(todo)})", flush=True)
        train_run(run, sets[run.data], given.work, given.epochs)


def of_set(name: str, of: PaperSet, given: argparse.Namespace) -> dict[str, Any]:
    """Return everything that the tables show of one set."""
    cases = of.cases(PAPER_SPLIT)
    rows = {}
    for title, without, shown, trained in variants(given.without, given.sizes):
        models = [Run(name, PAPER_SPLIT, without, trained, seed) for seed in range(1, given.seeds + 1)]
        if figures := scored(models, shown, given.work):
            rows[title] = figures
    return {
        "gallery": len(cases.held),
        "queries": len(cases.asked),
        "classes": of.plan.classes,
        "floors": floors_of(of, given.work / f"floors-{name}.json"),
        "rows": rows,
        "published": {title: values[name] for title, values in PUBLISHED.items()},
        "differences": {
            ROWS[part]: compared(name, part, given.seeds, given.folds, given.work)
            for part in given.without
            if part != FULL
        },
    }


def page(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the tables in Markdown."""
    for name, one in found.items():
        yield f"{TITLES[name]}: {one['gallery']} training images, {one['queries']} queries; mean ± standard deviation."
        yield ""
        yield from main_table(one)
        yield ""
    yield "Y-Net minus its ablation, 64 bits, with 95 % intervals by patients:"
    yield ""
    yield from difference_table(found)


def main_table(one: dict[str, Any]) -> Iterator[str]:
    """Yield a set's table: the floors, our rows, the paper's rivals."""
    yield from head("", "paper: mAP@10", "ours: mAP@10", "ours: macro mAP@10", "Dice", "distinct codes", "tie", "seeds")
    for title, values in one["floors"].items():
        numbers = (f"{values[key]:.3f}" for key in ("map10_over_k", "macro_map10"))
        yield row(f"floor: {title}", "", *numbers, "", "", "", "")
    for title in [*one["rows"], *(title for title in one["published"] if title not in one["rows"])]:
        paper = one["published"].get(title)
        figures = one["rows"].get(title)
        ours = our_cells(figures) if figures else [""] * 6
        yield row(title, "" if paper is None else f"{paper:.3f}", *ours)


def our_cells(figures: dict[str, Any]) -> list[str]:
    """Return the cells of one of our rows."""
    cells = [spread(figures[key]) for key in ("map10_over_k", "macro_map10", "dice", "distinct_share")]
    return [*cells, f"{figures['median_tie10']['mean']:.0f}", str(figures["seeds"])]


def spread(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.3f} ± {figure['std']:.3f}" if len(figure["values"]) > 1 else f"{figure['mean']:.3f}"


def difference_table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the differences of all sets."""
    columns = ("epochs", "queries", "Y-Net's Dice", "Y-Net's macro mAP@10", "mAP@10", "macro mAP@10")
    yield from head("set", "Y-Net minus", "paper", "from", *columns)
    for name, one in found.items():
        for title, values in one["differences"].items():
            for kind in ("seeds", "folds"):
                if part := values.get(kind):
                    cells = (interval(part[key]) for key in ("map10_over_k", "macro_map10"))
                    known = (f"{values['published']:+.3f}", f"{part['count']} {kind}", part["epochs"], part["queries"])
                    own = (f"{part[key]:.3f}" for key in ("dice_full", "macro_map10_full"))
                    yield row(TITLES[name], title, *map(str, known), *own, *cells)


def interval(figure: dict[str, float]) -> str:
    return f"{figure['mean']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"


if __name__ == "__main__":
    main()
