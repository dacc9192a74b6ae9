"""What the documentation's site has beside the pages in docs/: the README in parts, and references made of the code.

A hook of mkdocs (mkdocs.yml). Nothing is written twice: a key's explanation is the README's, its type and limits are
the dataclass's, a command's page is its `--help`, and the list of errors is read out of the sources.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import TypeAdapter

from ynet.plan import Plan
from ynet_client.commands.cli import app as client_app
from ynet_client.settings import ClientSettings
from ynet_lab.cli import app as lab_app
from ynet_server.commands.cli import app as server_app
from ynet_server.settings import ServerSettings

ROOT = Path(__file__).parent.parent
SOURCES = ("ynet", "server/ynet_server", "client/ynet_client", "lab/ynet_lab")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
OUTSIDE = {"README.md#interfaces": "reference/settings.md", "README.md#the-plan": "reference/plan.md"}
"""Where on the site that is which pages link to in the README."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    parts = readme_parts()
    pages = {
        "index.md": parts[""],
        "START.md": f"# {START}\n\n{parts[START]}",
        "reference/manifest.md": f"# The manifest\n\n{parts['Data: the manifest']}",
        "reference/plan.md": reference("The plan", {"| key |": Plan}, parts["The plan"].split("\n\n|")[0]),
        "reference/settings.md": reference(
            "Settings", {"| `server.yaml` |": ServerSettings, "| `client.yaml` |": ClientSettings}, ""
        ),
        "reference/interfaces.md": f"# Exit codes, folders, JSON\n\n{without_settings(parts['Interfaces'])}",
        "reference/server-commands.md": "\n".join(commands("ynet-server", server_app)),
        "reference/client-commands.md": "\n".join(commands("ynet-client", client_app)),
        "reference/lab-commands.md": "\n".join(commands("ynet-lab", lab_app)),
        "reference/errors.md": "\n".join(errors()),
        "decisions/index.md": "\n".join(decisions()),
    }
    for place, text in pages.items():
        content = from_root(text, place) if place in ("index.md", "START.md") or "reference/" in place else text
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Links that leave docs/ lead to what the site has of them, or become the name of a file."""
    depth = page.file.src_uri.count("/")

    def mended(found: re.Match[str]) -> str:
        text, target = found.groups()
        outside = "../" * (depth + 1)
        if not target.startswith(outside):
            return found.group(0)
        inside = target.removeprefix(outside)
        if inside in OUTSIDE:
            return f"[{text}]({'../' * depth}{OUTSIDE[inside]})"
        return text if inside in text else f"{text} (`{inside}`)"

    return LINK.sub(mended, markdown)


START = "From a clone to a first query on your own images"


def readme_parts() -> dict[str, str]:
    """The README's sections by heading; its beginning, with its title, under the empty one."""
    first, *rest = re.split(r"^## (.+)$", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    return {"": first, **{title: text.strip() for title, text in zip(rest[::2], rest[1::2], strict=True)}}


def without_settings(text: str) -> str:
    """The interfaces but for the settings, which have a page of their own."""
    before, _, rest = text.partition("**Settings.**")
    return before + "**JSON.**" + rest.partition("**JSON.**")[2]


def from_root(text: str, place: str) -> str:
    """The README's links as seen from a page of the site."""
    up = "../" * place.count("/")

    def mended(found: re.Match[str]) -> str:
        words, target = found.groups()
        if target.startswith("#"):
            return f"[{words}]({up}{OUTSIDE.get(f'README.md{target}', 'index.md')})"
        if not target.startswith("docs/"):
            return words
        return f"[{words}]({up}{target.removeprefix('docs/').replace('decisions', 'decisions/index.md')})"

    return LINK.sub(mended, text)


def reference(title: str, tables: dict[str, type[Any]], before: str) -> str:
    """A page with every key of some dataclasses: type, limits, default, explanation."""
    lines = [f"# {title}", "", before, ""]
    for head, kind in tables.items():
        text = explanations(head)
        file = re.search(r"`(.+)`", head)
        lines += [f"## {file[1]}" if file else "## Keys", "", "| key | type | default | |", "|---|---|---|---|"]
        lines += [f"| `{key}` | {shape} | {text[key][0] or 'none'} | {text[key][1]} |" for key, shape in shapes(kind)]
        lines.append("")
    return "\n".join(lines)


def explanations(head: str) -> dict[str, tuple[str, str]]:
    """Default and explanation of each key, out of the README's table that begins like this."""
    rows = table("README.md", head)
    return {key.strip("`"): (f"`{default}`" if default else "", text) for key, default, text in rows}


def table(page: str, head: str) -> list[list[str]]:
    """The cells of the rows of the one table of a page whose head begins like this."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith(head))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[one.strip() for one in row.strip("|").split("|")] for row in rows]


def shapes(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each key of a dataclass, and its type in words."""
    schema = TypeAdapter(kind).json_schema()
    for field in fields(kind):
        inner = get_type_hints(kind)[field.name]
        if is_dataclass(inner) and isinstance(inner, type):
            yield from shapes(inner, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, in_words(schema["properties"][field.name], schema.get("$defs", {}))


def in_words(given: dict[str, Any], kinds: dict[str, Any]) -> str:
    """A JSON schema's type as a reader of tables takes it."""
    if choices := given.get("anyOf"):
        return " or ".join(in_words(one, kinds) for one in choices)
    if "$ref" in given:
        return in_words(kinds[given["$ref"].rpartition("/")[2]], kinds)
    if "enum" in given:
        return ", ".join(f"`{value}`" for value in given["enum"])
    if "const" in given:
        return f"`{given['const']}`"
    if given.get("type") == "array":
        item = given.get("items") or next(iter(given.get("prefixItems", [])), {})
        return f"list of {in_words(item, kinds)}"
    names = {"string": "text", "number": "number", "integer": "whole number", "boolean": "`true`, `false`"}
    return names.get(given.get("type", ""), {"null": "nothing", "object": "map"}.get(given.get("type", ""), ""))


def commands(program: str, app: typer.Typer) -> Iterator[str]:
    """A page with the help of each command of a program."""
    top = typer.main.get_command(app)
    yield f"# {program}"
    yield ""
    yield top.help or ""
    for name, command in below(top, program):
        yield f"\n## {name}\n"
        yield (command.help or "").replace("\b", "").strip()
        context = click.Context(command, info_name=name)
        usage = command.collect_usage_pieces(context)
        yield f"\n```\n{name} {' '.join(usage)}\n```\n"
        rows = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
        if rows:
            yield "| | |\n|---|---|"
            yield from (f"| `{cell(flag)}` | {cell(text)} |" for flag, text in rows)
        if command.epilog:
            yield f"\n{command.epilog.strip()}"


def cell(text: str) -> str:
    """A text that ends no cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands under a group, in the order in which help shows them."""
    for word, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "hidden", False):
            continue
        if hasattr(inner, "commands"):
            yield from below(inner, f"{name} {word}")
        else:
            yield f"{name} {word}", inner


def errors() -> Iterator[str]:
    """Every error that a user can mend, as the sources raise it."""
    yield "# Errors by their text"
    yield ""
    yield "Every error of yours has three lines: what, why, do. This page is read out of the sources: names in capitals"
    yield "stand for what an error fills in. The commonest ones are [explained](../how-to/operating.md#errors)."
    yield ""
    yield "| it says | why | do |"
    yield "|---|---|---|"
    found = {row for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py")) for row in raised(path)}
    for row in sorted(found, key=lambda row: re.sub(r"\W", "", row[0]).lower()):
        yield "| " + " | ".join(cell(text) for text in row) + " |"


RAISED = {"UserError": "", "RefusedError": " (3)", "UnreachableError": " (4)"}


def raised(path: Path) -> Iterator[tuple[str, str, str]]:
    """What, why and do of each error that a file makes with texts of its own."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED:
            texts = [spoken(argument) for argument in node.args]
            if len(texts) == 3 and texts[0] and not texts[0].isupper():
                yield texts[0] + RAISED[node.func.id], texts[1], texts[2]


def spoken(node: ast.expr) -> str:
    """A text of the sources; what is filled in, by its name in capitals."""
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


def decisions() -> Iterator[str]:
    """The list of decisions, by their titles."""
    yield "# Decisions"
    yield ""
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        title = path.read_text("utf-8").splitlines()[0].lstrip("# ")
        yield f"- [{title}]({path.name})"
