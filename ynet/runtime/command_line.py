"""What the command lines of all programs share: options, and examples in `--help`."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Any

import typer

Examples = Mapping[str, tuple[str, ...]]
"""Command lines by the command's words after the program's name, such as `plan check`."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def with_options(command: Callable[..., None], parameter: str, resolve: Callable[..., Any]) -> Callable[..., None]:
    """Return `command` with one parameter replaced by the parameters of `resolve`.

    The command receives what `resolve` returns. So two programs can share a command, though each has its own options
    for, say, its home folder.
    """
    own, options = (inspect.signature(one, eval_str=True).parameters for one in (command, resolve))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        resolved = resolve(**{name: given.pop(name) for name in options})
        command(**given, **{parameter: resolved})

    merged = chain.from_iterable(options.values() if name == parameter else (one,) for name, one in own.items())
    keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in merged]
    run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {one.name: one.annotation for one in keyword_only}
    return run


def show_examples(app: typer.Typer, examples: Examples) -> None:
    """Add examples to the help of their commands.

    Raises:
        KeyError: There is no such command.
    """
    commands = dict(_commands(app, ""))
    for name, lines in examples.items():
        title = "Example:" if len(lines) == 1 else "Examples:"
        commands[name].epilog = "\n\n".join([title, *lines])


def _commands(app: typer.Typer, prefix: str) -> Iterator[tuple[str, typer.models.CommandInfo]]:
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        yield f"{prefix}{name}", command
    for group in app.registered_groups:
        inner = group.typer_instance
        if inner is not None:
            own = group.name if isinstance(group.name, str) else inner.info.name
            yield from _commands(inner, f"{prefix}{own} " if isinstance(own, str) else prefix)
