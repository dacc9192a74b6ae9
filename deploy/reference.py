"""Write the pages of docs/reference that are made from the code: `make reference`.

Each page keeps the text that people wrote. Only the lines between `<!-- NAME: made by make reference -->` and
`<!-- end of NAME -->` are replaced. A test compares the pages with the code.
"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import click
import typer
import yaml
from pydantic import TypeAdapter

from ynet.encoders import ENCODERS
from ynet.plan import Plan
from ynet.strategy_options import DEFAULTS, ROBUST, STRATEGY_OPTIONS
from ynet_client.commands.cli import app as client_app
from ynet_client.settings import ClientSettings
from ynet_lab.cli import app as lab_app
from ynet_server.commands.cli import app as server_app
from ynet_server.settings import ServerSettings

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs/reference"
SOURCES = ("ynet", "server/ynet_server", "client/ynet_client", "lab/ynet_lab")
BEGIN, END = "<!-- {}: made by make reference -->", "<!-- end of {} -->"
TYPES = {"init": "path of a safetensors file, or null"}
"""Types of keys whose form in a file differs from their form in the code."""


def parts() -> Iterator[tuple[str, str, str]]:
    """Make each part of each page: the page's name, the part's name, its text."""
    yield "plan.md", "plan", "\n".join(keys(Plan))
    yield "plan.md", "encoders", "\n".join(encoders())
    yield "plan.md", "strategy options", "\n".join(strategies())
    yield "settings.md", "server.yaml", "\n".join(keys(ServerSettings, "server.yaml"))
    yield "settings.md", "client.yaml", "\n".join(keys(ClientSettings, "client.yaml"))
    for program, app in (("server", server_app), ("client", client_app), ("lab", lab_app)):
        yield f"{program}-commands.md", "commands", "\n".join(commands(f"ynet-{program}", app))
    yield "errors.md", "errors", "\n".join(errors())


def made() -> dict[str, str]:
    """Return each page's whole text, by name, as it must be."""
    pages: dict[str, str] = {}
    for page, name, text in parts():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = pages.get(page, (PAGES / page).read_text("utf-8")).partition(begin)
        pages[page] = f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}"
    return pages


# Keys of a plan and of settings


def keys(kind: type[Any], file: str = "") -> Iterator[str]:
    """Make the tables of a dataclass: one for its own keys, then one for each part of it."""
    schema = TypeAdapter(kind).json_schema()
    inner = {field.name: part for field in fields(kind) if (part := part_of(kind, field)) is not None}
    yield from table(kind, "", [field for field in fields(kind) if field.name not in inner], schema)
    for name, part in inner.items():
        yield f"### {file}: {name}\n" if file else f"## {name}\n"
        yield from (f"{text}\n" for text in paragraphs(inspect.getdoc(part) or ""))
        yield from table(part, f"{name}.", list(fields(part)), schema)


def part_of(kind: type[Any], field: "Field[Any]") -> type[Any] | None:
    """Return the dataclass that a field holds, or None."""
    held = get_type_hints(kind)[field.name]
    return held if isinstance(held, type) and is_dataclass(held) else None


def table(kind: type[Any], prefix: str, shown: Iterable["Field[Any]"], schema: dict[str, Any]) -> Iterator[str]:
    """Make the table of some keys; what a key needs beyond a phrase follows as a paragraph."""
    texts = explanations(kind)
    properties = schema["$defs"][kind.__name__]["properties"] if prefix else schema["properties"]
    more = []
    yield "| key | type | default | |\n|---|---|---|---|"
    for field in shown:
        key = prefix + field.name
        phrase, *rest = paragraphs(texts[field.name])
        shape = TYPES.get(key) or in_words(properties[field.name], schema.get("$defs", {}))
        yield f"| `{key}` | {shape} | {default(field)} | {phrase.removesuffix('.')} |"
        more += [f"**`{key}`**: {text}\n" for text in rest]
    yield ""
    yield from more


def explanations(kind: type[Any]) -> dict[str, str]:
    """Read the docstring below each field of a dataclass."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = node.body if isinstance(node, ast.ClassDef) else []
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value))
    return found


def paragraphs(text: str) -> list[str]:
    """Split a docstring at its empty lines, each paragraph in one line."""
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", text.strip())]


def default(field: "Field[Any]") -> str:
    """Return a field's default as YAML, or `required`."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "required"
    value = list(value) if isinstance(value, tuple) else value
    shown = yaml.safe_dump(value, default_flow_style=True, default_style='"' if value == "" else None)
    return f"`{shown.splitlines()[0]}`"


def in_words(given: dict[str, Any], kinds: dict[str, Any]) -> str:
    """Say a JSON schema's type and limits in words."""
    if choices := given.get("anyOf"):
        *first, last = (in_words(one, kinds) for one in choices)
        return f"{', '.join(first)}, or {last}"
    if "$ref" in given:
        return in_words(kinds[given["$ref"].rpartition("/")[2]], kinds)
    if "enum" in given:
        return ", ".join(f"`{value}`" for value in given["enum"])
    if "const" in given:
        return f"`{given['const']}`"
    if given.get("type") == "array":
        return listed(given, kinds)
    names = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`", "object": "map"}
    name = names.get(given["type"], given["type"])
    return ", ".join([name, *limits(given)])


def listed(given: dict[str, Any], kinds: dict[str, Any]) -> str:
    """Say the type of a list, how many items it has, and their type."""
    item = in_words(given.get("items") or next(iter(given.get("prefixItems", [])), {}), kinds)
    least, most = given.get("minItems"), given.get("maxItems")
    many = "" if most is None else f"{least or 0} to {most}: " if least != most else f"{most}: "
    return f"list of {many}{item}"


def limits(given: dict[str, Any]) -> Iterator[str]:
    """Say the limits of a number or a text."""
    whole = int(given["type"] == "integer")
    least = given["exclusiveMinimum"] + 1 if whole and "exclusiveMinimum" in given else given.get("minimum")
    most = given["exclusiveMaximum"] - 1 if whole and "exclusiveMaximum" in given else given.get("maximum")
    if least is not None and most is not None:
        yield f"{least:.10g} to {most:.10g}"
    elif least is not None:
        yield f"at least {least:.10g}"
    if not whole and "exclusiveMinimum" in given:
        yield f"above {given['exclusiveMinimum']:.10g}"
    if most is not None and least is None:
        yield f"at most {most:.10g}"
    if not whole and "exclusiveMaximum" in given:
        yield f"below {given['exclusiveMaximum']:.10g}"
    if "multipleOf" in given:
        yield f"a multiple of {given['multipleOf']}"
    if "maxLength" in given:
        yield f"{given.get('minLength', 0)} to {given['maxLength']} characters"


def encoders() -> Iterator[str]:
    """Make the table of timm's encoders."""
    yield "| encoder | channels of the maps | million parameters |"
    yield "|---|---|---|"
    for name, one in ENCODERS.items():
        yield f"| `{name}` | {', '.join(map(str, one.channels))} | {one.parameters / 1e6:.1f} |"


def strategies() -> Iterator[str]:
    """Make the table of what each strategy takes in `training.strategy_options`."""
    yield "| strategy | options | against hostile sites |"
    yield "|---|---|---|"
    for strategy, names in STRATEGY_OPTIONS.items():
        known = DEFAULTS.get(strategy, {})
        options = ", ".join(f"`{name}`" + (f" ({known[name]:g})" if name in known else "") for name in sorted(names))
        yield f"| `{strategy}` | {options or 'none'} | {'yes' if strategy in ROBUST else 'no'} |"


# Commands


def commands(program: str, app: typer.Typer) -> Iterator[str]:
    """Make a page with the help of each command of a program."""
    top = typer.main.get_command(app)
    yield top.help or ""
    for name, command in below(top, program):
        yield f"\n## {name}\n"
        yield (command.help or "").replace("\b", "").strip()
        context = click.Context(command, info_name=name)
        usage = command.collect_usage_pieces(context)
        yield f"\n```\n{name} {' '.join(usage)}\n```\n"
        rows = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
        if rows:
            yield "| option | |\n|---|---|"
            yield from (f"| `{cell(flag)}` | {cell(text)} |" for flag, text in rows)
        if command.epilog:
            first, *lines = [line.strip() for line in command.epilog.replace("\b", "").splitlines() if line.strip()]
            yield "\n".join([f"\n{first}\n", "```", *lines, "```"] if lines else [f"\n{first}"])


def cell(text: str) -> str:
    """Escape a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """List the commands under a group, in the order of its help, without hidden ones."""
    for word, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "hidden", False):
            continue
        if hasattr(inner, "commands"):
            yield from below(inner, f"{name} {word}")
        else:
            yield f"{name} {word}", inner


# Errors


def errors() -> Iterator[str]:
    """Make the table of every error that a user can correct, as the sources raise it."""
    yield "| it says | why | do |"
    yield "|---|---|---|"
    found = {row for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py")) for row in raised(path)}
    for row in sorted(found, key=lambda row: (re.sub(r"\W", "", row[0]).lower(), row)):
        yield "| " + " | ".join(cell(text) for text in row) + " |"


RAISED = {"UserError": "", "RefusedError": " (3)", "UnreachableError": " (4)"}


def raised(path: Path) -> Iterator[tuple[str, str, str]]:
    """Read what, why and do of each error that a file raises with texts of its own."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED:
            texts = [spoken(argument) for argument in node.args]
            if len(texts) == 3 and texts[0] and not texts[0].isupper():
                yield texts[0] + RAISED[node.func.id], texts[1], texts[2]


def spoken(node: ast.expr) -> str:
    """Return a text of the sources; what is filled in stands as its name in capitals."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(spoken(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return spoken(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr.upper()
    if isinstance(node, ast.Name):
        return node.id.upper()
    if isinstance(node, ast.BoolOp):
        return " / ".join(spoken(value) for value in node.values)
    return "..."


def main() -> None:
    """Write the pages, and name those that changed."""
    for name, text in made().items():
        page = PAGES / name
        if page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
