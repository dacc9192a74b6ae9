"""Compare DICOM files of public packages as decoded here and by pydicom.

python tests/benchmarks/dicom_files.py [--also FOLDER] [--out FILE.json] [--doc FILE.md]

The first, the middle and the last frame of every file of pydicom and the package pydicom-data, and of those in FOLDER
(for example, your own archive).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from side_by_side import OTHERWISE, Compared, compare, files, in_folder

BEGIN, END = "<!-- made by tests/benchmarks/dicom_files.py -->", "<!-- end -->"


def table(found: Sequence[Compared]) -> str:
    """Yield the counts of files by result, and the reasons."""
    lines = ["| here, and by pydicom | files |", "|---|---|"]
    lines += [_row("the same picture", sum(one.outcome == "agree" for one in found))]
    for one in found:
        if one.outcome == "differ":
            lines.append(_row(f"another picture: `{one.name}`: {OTHERWISE.get(one.name, 'not yet explained')}", 1))
    for outcome, words in (
        ("refused here", "refused here alone"),
        ("refused by pydicom", "read here alone"),
        ("refused by both", "refused by both"),
    ):
        reasons = Counter(one.here or f"`{one.name}`" for one in found if one.outcome == outcome)
        lines += [_row(f"{words}: {why}", count) for why, count in reasons.most_common()] or [_row(words, 0)]
    return "\n".join([*lines, _row("all", len(found))])


def _row(words: str, count: int) -> str:
    return f"| {words} | {count} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--also", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    given = parser.parse_args()
    found = [compare(path) for path in (*files(), *(in_folder(given.also) if given.also else ()))]
    print(table(found))
    if given.out:
        given.out.write_text(json.dumps([one._asdict() for one in found], indent=1) + "\n")
    if given.doc:
        before, rest = given.doc.read_text().split(BEGIN)
        given.doc.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
