"""Examples at the end of each command's `--help`."""

from collections.abc import Iterator, Mapping

import typer

Examples = Mapping[str, tuple[str, ...]]
"""By the command's words after the program's name, such as `plan check`: whole command lines."""


def show(app: typer.Typer, examples: Examples) -> None:
    """Put each command's examples below its help. Raises KeyError for a command that is none."""
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
