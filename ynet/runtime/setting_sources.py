"""The source of each setting: a default, a file and its line, a flag. Remembered files note it behind the value."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from platformdirs import user_config_path

from ynet.errors import UserError

DEFAULT = "default"
SYSTEM = Path("/etc/ynet")
_NOTE = "  # "


class Value(NamedTuple):
    """A setting."""

    key: str  # with dots
    value: Any
    source: str


class SettingsSource(NamedTuple):
    """The file that settings are read from."""

    file: Path | None  # None: all settings have their defaults
    is_remembered: bool  # the file in the home folder, with a note behind each value


def source_of(home: Path, name: str, config: Path | None) -> SettingsSource:
    """Find the settings file: `config`, else the remembered file in `home`, else the user's or the machine's file."""
    kept = home / name
    file = config or (kept if kept.exists() else _found(name))
    return SettingsSource(file, is_remembered=file == kept)


def values(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a settings dataclass with its value."""
    for name, value in vars(settings).items():
        if is_dataclass(value):
            yield from values(value, f"{prefix}{name}.")
        elif not name.startswith("_"):
            yield prefix + name, value


def sources(settings: Any, read_from: SettingsSource) -> dict[str, str]:
    """Return the source of each key's value.

    Raises:
        UserError: The file cannot be read.
    """
    file, is_remembered = read_from
    text = _read(file) if file else ""
    lines, rows = _lines(text), text.splitlines()
    usual = dict(values(type(settings)()))

    def source(key: str, value: Any) -> str:
        if key not in lines:
            return DEFAULT
        noted = rows[lines[key] - 1].rpartition(_NOTE)[::2] if is_remembered else ()
        note = noted[1] if noted and noted[0] else ""
        was_edited = note == DEFAULT and value != usual[key]  # by a person, in the remembered file
        return note if note and not was_edited else f"{file} line {lines[key]}"

    return {key: source(key, value) for key, value in values(settings)}


def remembered(settings: Any, known: Mapping[str, str]) -> bytes:
    """Format the settings as YAML with each value's source in a comment."""
    text = yaml.safe_dump(asdict(settings), width=1 << 20, allow_unicode=True, sort_keys=False)
    rows = text.splitlines()
    for key, line in _lines(text).items():
        if key in known:
            rows[line - 1] += _NOTE + known[key]
    return ("\n".join(rows) + "\n").encode()


def listed(settings: Any, read_from: SettingsSource) -> list[Value]:
    """List every key with its value and its source.

    Raises:
        UserError: The file cannot be read.
    """
    known = sources(settings, read_from)
    return [
        Value(key, list(value) if isinstance(value, tuple) else value, known[key]) for key, value in values(settings)
    ]


def _found(name: str) -> Path | None:
    """Find the user's settings file, else the machine's."""
    paths = [SYSTEM / name]
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        paths.insert(0, user_config_path("ynet", appauthor=False) / name)
    return next((path for path in paths if path.exists()), None)


def _lines(text: str) -> dict[str, int]:
    """Return the line number, from 1, of each key with a value."""

    def below(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if isinstance(value, yaml.MappingNode):
                yield from below(value, f"{name}.")
            else:
                yield name, key.start_mark.line + 1

    try:
        return dict(below(yaml.compose(text, Loader=yaml.SafeLoader), ""))
    except (yaml.YAMLError, RecursionError):
        return {}


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"settings {file} cannot be read", why, "check the file and its rights") from None
