"""Measure what codes give away, by width and dial: the tables of docs/explanation/privacy.md.

python tests/benchmarks/code_attacks.py --set NAME MODEL DATA [--set ...] --work DIR [--out FILE.json] [--doc FILE.md]

MODEL is the folder of a finished model whose code is made from moments, as `ynet-lab simulate` leaves it; DATA holds
the sites that it was trained on. One pass keeps each case's feature in the work folder. The map of each width and dial
is computed from the training cases' features, as the server computes it. An interrupted run resumes. The work folder
has pictures of the data.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from answered_codes import chosen_codes
from code_attacks_table import write
from ynet import weights
from ynet.code_map import CodeMap
from ynet.data.manifest import find_sites
from ynet.learning.hashing import codebook
from ynet.learning.model import YNet, build, load_arrays
from ynet.plan import Plan
from ynet_client.training.site_data import LocalSite
from ynet_lab.attack_target import model_folder
from ynet_lab.attacks import coded_cases
from ynet_lab.attacks.code_suite import Suite, grey
from ynet_lab.attacks.coded_cases import CodedCases
from ynet_lab.attacks.picture_map import picture_bits
from ynet_server.rounds.run_folder import MODEL

CPU = torch.device("cpu")
WIDTHS = (64, 128, 256)
DRAWS = 200
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", nargs=3, action="append", required=True, metavar=("NAME", "MODEL", "DATA"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="", help="only rows whose name has this; several may run at the same time")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, model, data in given.set:
        plan, cases = kept(name, Path(model), Path(data), given.work)
        found[name] = measured(plan, cases, given.work / name, only=given.only, is_asked=name == given.set[-1][0])
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    write(found, given.doc)


def measured(plan: Plan, cases: CodedCases, work: Path, *, only: str, is_asked: bool) -> dict[str, Any]:
    """Attack all codes of one set; each row is kept in the work folder. `is_asked`: also by chosen codes."""
    work.mkdir(parents=True, exist_ok=True)
    suite, wide = Suite(cases, DRAWS, seed=1), widest(plan, cases, work / "map.npz")
    makers: dict[str, Callable[[], Row]] = {"floors": suite.floors}
    makers["feature"] = lambda: of_feature(suite, wide)
    if cases.trained.size:
        makers[f"trained-{plan.network.code_bits}"] = lambda: of_trained(suite, plan)
    makers["shown-64"] = lambda: of_pictures(suite)
    for bits in WIDTHS:
        for class_bits in dials(plan, bits):
            makers[f"moments-{bits}-{class_bits}"] = lambda at=(bits, class_bits): of_moments(suite, wide, plan, *at)
        if is_asked:
            makers[f"chosen-{bits}"] = lambda bits=bits: of_chosen(suite, wide, plan, bits)
    rows = {}
    for name, make in ((name, make) for name, make in makers.items() if only in name):
        path, start = work / f"{name}.json", time.process_time()
        if not path.exists():
            path.write_text(json.dumps(make()), "utf-8")
            say(f"{work.name}, {name}: {time.process_time() - start:.0f} s of processor time")
        rows[name] = json.loads(path.read_text("utf-8"))
    asked = ~cases.is_member
    counts = {
        "members": int(cases.is_member.sum()),
        "member_patients": len(np.unique(cases.patient[cases.is_member])),
        "others": int(asked.sum()),
        "other_patients": len(np.unique(cases.patient[asked])),
    }
    return {"counts": counts, "classes": len(plan.classes), "rows": rows}


def widest(plan: Plan, cases: CodedCases, path: Path) -> CodeMap:
    """Return the map of the widest code without class bits, from which all others follow."""
    if not path.exists():
        np.savez(path, **coded_cases.fitted(cases, plan, max(WIDTHS))._asdict())
    with np.load(path, allow_pickle=False) as kept:
        return CodeMap(**kept)


def dials(plan: Plan, bits: int) -> tuple[int, int, int]:
    """Return the class bits of three settings of the dial: none, the default, and all but 8."""
    default = replace(plan, network=replace(plan.network, code="moments", code_bits=bits, class_bits=None))
    return 0, default.class_bits, bits - 8


def of_moments(suite: Suite, wide: CodeMap, plan: Plan, bits: int, class_bits: int) -> Row:
    """Attack the codes from moments of one width and dial."""
    narrow = coded_cases.narrowed(wide, bits, class_bits, plan.network.codebook_seed)
    codes = coded_cases.values(suite.cases, narrow) > 0
    return suite.attack(suite.of_bits(codes, narrow.class_codes > 0)) | {"check": suite.check(codes)}


def of_pictures(suite: Suite) -> Row:
    """Check the codes of a map that was chosen to show pictures, from the values of which codes are made."""
    cases, feature = suite.cases, suite.cases.feature.astype(np.float64)
    return {"check": suite.check(picture_bits(feature, grey(cases.picture), cases.is_member, min(WIDTHS), seed=1))}


def of_chosen(suite: Suite, wide: CodeMap, plan: Plan, bits: int) -> Row:
    """Attack an archive of the members by chosen codes, at the default dial, from codes of the others."""
    narrow = coded_cases.narrowed(wide, bits, dials(plan, bits)[1], plan.network.codebook_seed)
    codes, cases = (coded_cases.values(suite.cases, narrow) > 0).astype(np.uint8), suite.cases
    return chosen_codes(codes[cases.is_member], codes[~cases.is_member])


def of_trained(suite: Suite, plan: Plan) -> Row:
    """Attack the codes of the hash layer."""
    codes = np.unpackbits(suite.cases.trained, axis=1) > 0
    targets = codebook(len(plan.classes), codes.shape[1], plan.network.codebook_seed).numpy() > 0
    return suite.attack(suite.of_bits(codes, targets)) | {"check": suite.check(codes)}


def of_feature(suite: Suite, wide: CodeMap) -> Row:
    """Attack the feature, which no site sends: a bound for codes. Linked by the values whose signs are the code."""
    cases, feature = suite.cases, suite.cases.feature.astype(np.float64)
    members = feature[cases.is_member]
    inputs = (feature - members.mean(0)) / (members.std(0) + 1e-6)
    to_class = (feature - wide.mean) @ wide.to_classes - wide.class_means[cases.label]
    values = coded_cases.values(cases, wide).astype(np.float64)
    return suite.attack(suite.of_values(values, inputs, (to_class**2).sum(1)))


def kept(name: str, model: Path, data: Path, work: Path) -> tuple[Plan, CodedCases]:
    """Return the plan and the cases, from the work folder where an earlier run left them."""
    plan, path = model_folder(model).plan(), work / f"{name}.npz"
    if not path.exists():
        say(f"{name}: encoding")
        coded_cases.save(path, encoded(plan, model, data))
    return plan, coded_cases.load(path)


def encoded(plan: Plan, model: Path, data: Path) -> CodedCases:
    """Encode all sites' cases: of each site the training cases, then the test cases."""
    nets = networks(plan, model)
    seen, labels, patients, is_member = [], [], list[tuple[str, str]](), []
    for name, path in find_sites(data).items():
        site = LocalSite(path, "cpu", 0)
        manifest, parts = site.manifest(plan.training.seed), site.cases(plan)
        for cases, rows, split in zip(parts, (manifest.train, manifest.test), ("train", "test"), strict=True):
            start = time.perf_counter()
            seen.append(coded_cases.see(*nets, cases, CPU))
            labels.append(cases.label.numpy())
            patients += [(name, row.patient) for row in rows]
            is_member.append(np.full(len(rows), split == "train"))
            say(f"  {name}: {len(rows)} {split} cases in {time.perf_counter() - start:.0f} s")
    columns = (np.concatenate(column) for column in zip(*seen, strict=True))
    numbers = np.unique(np.array(patients), axis=0, return_inverse=True)[1].ravel()
    return CodedCases(*columns, np.concatenate(labels), numbers, np.concatenate(is_member))


def networks(plan: Plan, model: Path) -> tuple[YNet, YNet | None]:
    """Load the model with its code from moments, and, where it has a hash layer, with the code of that."""
    arrays, nets = weights.load(model / MODEL)[0], []
    for form in ("moments", "trained") if plan.trains_code else ("moments",):
        net = build(replace(plan, network=replace(plan.network, code=form, class_bits=None)))
        load_arrays(net, {name: array for name, array in arrays.items() if name in net.state_dict()})
        nets.append(net)
    return nets[0], nets[1] if len(nets) > 1 else None


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
