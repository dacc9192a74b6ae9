"""Reads YAML into frozen dataclasses. An unknown key is an error that names the nearest known one."""

import difflib
import reprlib
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ynet.errors import UserError

STRICT = ConfigDict(extra="forbid")
"""The pydantic configuration of every settings dataclass: no unknown key."""

MAX_FILE_BYTES = 1 << 20

_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError)
"""What the YAML loader raises: for example ValueError for the 99th of a month, KeyError for `!!bool x`."""

RENAMED: Mapping[str, str] = {
    "training.settle": "training.cooldown",
    "training.norm_gate": "training.update_norm_limit",
    "cohort.minimum": "cohort.min_sites",
    "cohort.least": "cohort.min_quorum",
    "cohort.late": "cohort.late_updates",
}
"""Plan keys that ynet 0.2.0 renamed, with their new names. An old key is refused; the error names the new one."""

REMOVED: Mapping[str, str] = {
    "disclosure.detail": "ynet 0.2.0 has no detail code: the code itself orders cases",
}
"""Settings that ynet 0.2.0 removed, with the reason. A file that has one is refused."""

T = TypeVar("T")

_short = reprlib.Repr()  # never writes out what aliases unfold into
_short.maxlevel, _short.maxstring, _short.maxother = 2, 60, 60


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a duplicate key; YAML would keep the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # a few nested ones fill the memory
                raise yaml.constructor.ConstructorError(None, None, "the key << is not allowed", key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a plain word", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file of at most 1 MiB. Raises UserError when there is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{what} {path} is too large", "it has more than 1 MiB", "give a settings file")
        loaded = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{what} {path} was not found", "there is no such file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise UserError(f"{what} {path} cannot be read", why, "check the file and its rights") from None
    except _NOT_YAML as error:
        raise UserError(f"{what} {path} is not YAML", " ".join(str(error).split()), "correct that line") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{what} {path} has no settings", "it is not a mapping of keys to values", "see configs/")
    return loaded


def parse(kind: type[T], values: dict[str, Any], source: str) -> T:
    """Check `values` against the dataclass `kind`. Raises UserError that names the key and the nearest known one."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise _explain(kind, error, source) from None


def _explain(kind: type[Any], error: ValidationError, source: str) -> UserError:
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(include_url=False), key=lambda fault: fault["type"] not in unknown)
    place = tuple(str(part) for part in first["loc"])
    key = ".".join(place)
    if first["type"] in unknown:
        if key in RENAMED:
            why = f"ynet 0.2.0 renamed it to {RENAMED[key]!r}"
            do = f"write {RENAMED[key]!r} in the plan's file; a plan that was frozen before is trained as a new plan"
            return UserError(f"{source}: the key {key!r} has a new name", why, do)
        if key in REMOVED:
            return UserError(f"{source}: the key {key!r} was removed", REMOVED[key], "delete the line")
        known = _keys_at(kind, place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1)
        do = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(sorted(known))}"
        return UserError(f"{source}: unknown key {key!r}", "nothing reads it", do)
    if first["type"] in ("missing", "missing_argument"):
        return UserError(f"{source}: {key!r} is missing", "it has no default", f"add {key!r}")
    why = first["msg"].removeprefix("Value error, ")
    shown = _short.repr(first.get("input"))
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    what = f"{source}: {key!r} is {shown}" if key else source
    return UserError(what, why, f"correct {key!r}" if key else "correct the values named above")


def _keys_at(kind: type[Any], place: tuple[str, ...]) -> list[str]:
    """The known keys of the dataclass reached from `kind` through the keys of `place`."""
    for part in place:
        inner = get_type_hints(kind).get(part)
        if isinstance(inner, type) and is_dataclass(inner):
            kind = inner
    return [field.name for field in fields(kind)]
