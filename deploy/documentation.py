"""The hook of mkdocs (mkdocs.yml): adds the pages that are not files in docs/, and adapts links that leave docs/."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder that the navigation names by the folder's pages; leave out a folder that has none."""
    config.nav = expanded(config.nav or [])
    return config


def expanded(nav: list[Any]) -> list[Any]:
    """Return a navigation with its folders replaced by their pages."""
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith("/"):
            pages = sorted((ROOT / "docs" / entry).glob("*.md"), key=lambda page: (page.stem != "index", page.name))
            found += [f"{entry}{page.name}" for page in pages]
        elif isinstance(entry, dict):
            ((title, inner),) = entry.items()
            inner = expanded(inner) if isinstance(inner, list) else inner
            found += [{title: inner}] if inner else []
        else:
            found.append(entry)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page, which is the README, and the list of decisions."""
    pages = {"index.md": start(), "decisions/index.md": "\n".join(decisions())}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def start() -> str:
    """Return the README with its links as they are seen from docs/."""

    def adapted(found: re.Match[str]) -> str:
        words, target = found.groups()
        if not target.startswith("docs/"):
            return words
        return f"[{words}]({target.removeprefix('docs/').replace('decisions/', 'decisions/index.md')})"

    return LINK.sub(adapted, (ROOT / "README.md").read_text("utf-8"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Show a link to a file outside docs/ as the file's name: the site does not contain it."""
    outside = "../" * (page.file.src_uri.count("/") + 1)

    def adapted(found: re.Match[str]) -> str:
        text, target = found.groups()
        if not target.startswith(outside):
            return found.group(0)
        inside = target.removeprefix(outside)
        return text if inside in text else f"{text} (`{inside}`)"

    return LINK.sub(adapted, markdown)


def decisions() -> Iterator[str]:
    """List the decisions by their titles."""
    yield "# Decisions"
    yield ""
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        title = path.read_text("utf-8").splitlines()[0].lstrip("# ")
        yield f"- [{title}]({path.name})"
