"""Write a draft as YAML, with each reason as a comment beside its value."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ynet_lab.own_data.draft import Draft, Reasoned

WIDTH = 120
"""A value and its reason that are longer together are on two lines, the reason first."""


def written(made: Draft, head: Sequence[str]) -> str:
    """Return the plan's file; `head` are the lines of the comment at its top."""
    lines = [f"# {line}" for line in head]
    for key, one in made.items():
        if isinstance(one, Reasoned):
            lines += _line("", key, one)
            continue
        lines.append(f"{key}:")
        for inner, choice in one.items():
            lines += _line("  ", inner, choice)
    return "\n".join(lines) + "\n"


def _line(indent: str, key: str, choice: Reasoned) -> Iterator[str]:
    text = f"{indent}{key}: {_scalar(choice.value)}"
    beside = f"{text}  # {choice.reason}"
    if len(beside) <= WIDTH:
        yield beside
    else:
        yield f"{indent}# {choice.reason}"
        yield text


def _scalar(value: Any) -> str:
    """Return a value as JSON, which YAML reads, and words without quotes where YAML reads a word."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, str) and value.isidentifier() and value.lower() not in _NOT_WORDS:
        return value
    return json.dumps(value)


_NOT_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
