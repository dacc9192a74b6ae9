"""Compute figures of the code's structure and compare them with the limits in structure.yaml.

python tests/structure.py [--write] [--list]

Prints a table; exit code 1 when a figure is worse than the file says. `--write` puts better figures into the file.
"""

import argparse
import ast
import re
import statistics
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import grimp
import structure_trips
import yaml

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).with_name("structure.yaml")
PACKAGES = {
    "ynet": ROOT / "ynet",
    "ynet_client": ROOT / "client/ynet_client",
    "ynet_server": ROOT / "server/ynet_server",
    "ynet_lab": ROOT / "lab/ynet_lab",
}
GENERATED = ("_pb2.py", "_pb2_grpc.py")
UNNAMED = ("__init__", "__main__")
"""Files that architecture.md need not name."""
WORDS = re.compile(r"\b(anew|of\s+which|likewise|meanwhile|goes\s+on|by\s+itself|stands\s+beside)\b", re.IGNORECASE)
"""Words that mark a sentence as a translation: each has a plainer one."""
TEXTS = ("*.md", "*.py", "*.js", "*.html", "*.css", "*.proto", "*.c", "*.yaml", "*.yml", "*.toml", "Makefile")
FOLDERS = ("docs", "configs", "deploy", "tests", *(str(folder.relative_to(ROOT)) for folder in PACKAGES.values()))


def figures() -> dict[str, float]:
    """Return each figure by name; for all of them less is better."""
    files = [path for folder in PACKAGES.values() for path in folder.rglob("*.py") if not path.name.endswith(GENERATED)]
    lengths = [len(path.read_text("utf-8").splitlines()) for path in files if path.name != "__init__.py"]
    graph = imports()
    return {
        "files in the fullest folder": max(Counter(path.parent for path in files).values()),
        "circles of modules": len(circles(graph)),
        "circles of rooms": len(circles(by_room(graph))),
        "exemptions in the import contracts": exemptions(),
        "modules that architecture.md does not name": len(unnamed(files)),
        "class names that occur more than once": len(repeated_classes(files)),
        **{name: len(structure_trips.stays(trip, PACKAGES)) for name, trip in structure_trips.TRIPS.items()},
        "unplain words": sum(unplain().values()),
        "lines of the longest file": max(lengths),
        "lines of the median file": int(statistics.median(lengths)),
    }


def imports() -> dict[str, set[str]]:
    """Return the project modules that each module imports, inside functions too, except under TYPE_CHECKING."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def by_room(graph: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """Return the imports between rooms: folders, and modules outside any folder of their package."""
    folders = {".".join(module.split(".")[:2]) for module in graph if module.count(".") > 1}

    def room(module: str) -> str:
        two = ".".join(module.split(".")[:2])
        return two if two in folders else module

    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        if "." in module:
            rooms.setdefault(room(module), set()).update({room(one) for one in imported} - {room(module)})
    return rooms


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """Return groups of nodes that reach each other (Tarjan's strongly connected components)."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            place = stack.index(node)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def exemptions() -> int:
    """Count the imports that a contract exempts."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    return sum(len(one.get("ignore_imports", ())) for one in tool["importlinter"]["contracts"])


def unnamed(files: list[Path]) -> list[str]:
    """Return modules that architecture.md's layout does not name."""
    text = (ROOT / "docs/explanation/architecture.md").read_text("utf-8")
    layout = text.partition("## Layout")[2].partition("\n## ")[0]
    words = set(re.findall(r"\w+", layout))
    return sorted(str(path.relative_to(ROOT)) for path in files if path.stem not in words and path.stem not in UNNAMED)


def repeated_classes(files: list[Path]) -> dict[str, int]:
    """Return class names that occur in more than one file."""
    names = Counter(name for path in files for name in set(_classes(path)))
    return {name: count for name, count in sorted(names.items()) if count > 1}


def _classes(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def unplain() -> dict[str, int]:
    """Files of the documentation and the source with words of WORDS, and how many; those that count them left out."""
    paths = [path for folder in FOLDERS for kind in TEXTS for path in (ROOT / folder).rglob(kind)]
    paths += [path for kind in TEXTS for path in ROOT.glob(kind)]
    counts = {
        str(path.relative_to(ROOT)): len(WORDS.findall(path.read_text("utf-8")))
        for path in sorted(paths)
        if path.is_file() and not path.name.endswith(GENERATED) and not path.name.startswith("structure")
    }
    return {name: count for name, count in counts.items() if count}


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put better figures into structure.yaml")
    parser.add_argument("--list", action="store_true", help="also list what is behind the figures that can be bettered")
    asked = parser.parse_args()
    kept, now = yaml.safe_load(KEPT.read_text("utf-8")) if KEPT.exists() else {}, figures()
    print(f"{'':45}{'at most':>8}{'now':>8}")
    for name, figure in now.items():
        print(f"{name:45}{kept.get(name, '-'):>8}{figure:>8}" + ("  worse" if figure > kept.get(name, figure) else ""))
    if asked.list:
        _list()
    if asked.write:
        better = {name: min(figure, kept.get(name, figure)) for name, figure in now.items()}
        KEPT.write_text(yaml.safe_dump(better, sort_keys=False), "utf-8")
    return int(any(figure > kept.get(name, figure) for name, figure in now.items()))


def _list() -> None:
    for name, trip in structure_trips.TRIPS.items():
        print(f"\n{name}:", *structure_trips.stays(trip, PACKAGES), sep="\n  ")
    print("\nunplain words:", *(f"{name}: {count}" for name, count in unplain().items()), sep="\n  ")
    files = [path for folder in PACKAGES.values() for path in folder.rglob("*.py") if not path.name.endswith(GENERATED)]
    repeated = repeated_classes(files)
    print(
        "\nclass names that occur more than once:",
        *(f"{name}: {count}" for name, count in repeated.items()),
        sep="\n  ",
    )


if __name__ == "__main__":
    sys.exit(main())
