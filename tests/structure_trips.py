"""Which modules a reader opens to follow a query or a round: those that name a type which carries it."""

import ast
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple


class Trip(NamedTuple):
    """Something that passes through the code: in which packages, and the names of the classes that carry it."""

    packages: Set[str]
    carriers: Set[str]
    foreign: Set[str] = frozenset()  # carriers of another project, by their full names


TRIPS = {
    "stays of a query's trip": Trip({"ynet", "ynet_client"}, {"Query", "CodedQuery"}),
    "stays of a round's trip": Trip({"ynet_server"}, {"SiteReply"}, {"flwr.app.Message"}),
}
"""A `Query` is what a person asks: it goes from the command or page to the own search and to the wire.

A round's weights leave the server as Flower's messages and come back as the sites' replies.
"""


def stays(trip: Trip, packages: Mapping[str, Path]) -> list[str]:
    """Return the modules that define or name a carrier. Raises LookupError when no class has a carrier's name.

    A name counts for the class that it is imported from, so that two classes of one name in different modules, or a
    protobuf message, are told apart.
    """
    trees = {name: tree for package in sorted(trip.packages) for name, tree in _modules(package, packages[package])}
    defined = {f"{module}.{name}": name for module, tree in trees.items() for name in _classes(tree)}
    if not trip.carriers & set(defined.values()):
        raise LookupError(f"no class is called {min(trip.carriers)}: if it was renamed, put its name into {__file__}")
    carriers = {full for full, name in defined.items() if name in trip.carriers} | trip.foreign
    return sorted(module for module, tree in trees.items() if carriers & set(_named(module, tree)))


def _modules(package: str, folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        if "_pb2" not in path.name and path.name != "__init__.py":  # generated, or a list of names
            name = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
            yield name, ast.parse(path.read_text("utf-8"))


def _classes(tree: ast.Module) -> Iterator[str]:
    return (node.name for node in tree.body if isinstance(node, ast.ClassDef))


def _named(module: str, tree: ast.Module) -> Iterator[str]:
    """The full names of what a module defines, imports, or takes from a module that it imports."""
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.update({one.asname or one.name: f"{node.module}.{one.name}" for one in node.names})
    yield from (f"{module}.{name}" for name in _classes(tree))
    yield from imported.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            yield f"{imported[node.value.id]}.{node.attr}"
