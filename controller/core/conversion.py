"""From a mapping of a configuration file to a frozen struct, or every problem of it in words for a person.

msgspec stops at the first problem and speaks of types of Python. Here each field is converted by itself, and one with a
problem gets its default, so that the others can still be checked.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_LONGEST_SECONDS = 366 * 24 * 3600
_SHOWN = 40
"""Characters of a value that are shown; a longer one is cut short."""

_MAY_BE_SECRET = re.compile(
    r"eyJ.*|(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_+/=~]{16,}|(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[\w+/=~-]{20,}", re.DOTALL
)
"""A text that looks drawn at random may be a credential that went into the wrong place; it is cut short too."""

_HUGE = 10**18


class Seconds(float):
    """A duration; in the configuration digits with s, m or h: 90s, 15m, 1h30m."""


_WORDS: Mapping[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Seconds: "a duration such as 90s, 15m or 12h",
}
"""What a type is called in a sentence; any other is a mapping."""


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """msgspec.structs.fields, which evaluates every annotation anew at each call."""
    return msgspec.structs.fields(struct)


def convert(type_: type[S] | UnionType, content: Any, path: str, problems: list[str]) -> S | None:
    """Convert a mapping to a struct; add every problem to `problems` as `path: problem`. None if it can't be one.

    Of a union, which is tagged by a key such as `credentials`, that key chooses the struct; the first is the default.
    """
    if not isinstance(content, Mapping):
        problems.append(f"{path or 'the file'}: must be a mapping of keys to values, but is {shown(content)}")
        return None
    prefix = f"{path}." if path else ""
    kinds: dict[Any, type[S]] = {kind.__struct_config__.tag: kind for kind in get_args(type_) or (type_,)}
    struct = next(iter(kinds.values()))
    key = struct.__struct_config__.tag_field if len(kinds) > 1 else None
    if key is not None:
        named = content.get(key, struct.__struct_config__.tag)
        if not isinstance(named, str) or named not in kinds:
            problems.append(f"{prefix}{key}: {one_of(kinds, named)}")
            return None
        struct = kinds[named]
    fields = {field.encode_name: field for field in fields_of(struct)}
    others = {field.encode_name for kind in kinds.values() for field in fields_of(kind)} - fields.keys()
    problems += _unknown(content, [*fields, *([key] if key else [])], others, prefix, struct)
    return struct(**dict(_values(content, fields, prefix, struct, problems)))


def _unknown(
    content: Mapping[Any, Any],
    known: Collection[str],
    others: Collection[str],
    prefix: str,
    struct: type[msgspec.Struct],
) -> Iterator[str]:
    for key, value in content.items():
        if key in others:
            if value is not None:
                yield f"{prefix}{key}: is not used with credentials {struct.__struct_config__.tag}; remove it"
        elif key not in known:
            yield f"{prefix}{shown(key).strip(chr(39))}: is not a known key{did_you_mean(key, known)}"


def _values(
    content: Mapping[str, Any],
    fields: Mapping[str, msgspec.structs.FieldInfo],
    prefix: str,
    struct: type[msgspec.Struct],
    problems: list[str],
) -> Iterator[tuple[str, Any]]:
    for key, field in fields.items():
        if field.required and content.get(key) is None:
            tag = struct.__struct_config__.tag
            problems.append(f"{prefix}{key}: is needed{f' with credentials {tag}' if tag else ''}")
            yield field.name, ""  # a text, as all that are required: so that the others can be checked
        elif key not in content:
            continue
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            if (inner := convert(field.type, content[key], f"{prefix}{key}", problems)) is not None:
                yield field.name, inner
        elif (item := _struct_of_items(field.type)) is not None and isinstance(content[key], list):
            items = (convert(item, each, f"{prefix}{key}[{i}]", problems) for i, each in enumerate(content[key]))
            yield field.name, tuple(each for each in items if each is not None)
        else:
            try:
                yield field.name, msgspec.convert(content[key], field.type, dec_hook=_decode)
            except msgspec.ValidationError as error:
                problems.append(f"{prefix}{key}{_problem(error, field.type, content[key])}")
                if field.required:
                    yield field.name, ""


def _struct_of_items(type_: Any) -> type[msgspec.Struct] | None:
    """Of a list of mappings, what each is converted to."""
    item = get_args(type_)[0] if get_origin(type_) is tuple else None
    return item if isinstance(item, type) and issubclass(item, msgspec.Struct) else None


def _problem(error: msgspec.ValidationError, type_: Any, value: Any) -> str:
    """What is wrong, and where inside the value."""
    if isinstance(error.__cause__, ValueError):  # of _decode
        return f": {error.__cause__}"
    if get_origin(type_) is Literal:
        return f": {one_of(get_args(type_), value)}"
    if found := re.search(r" - at `\$\[(\d+)\]", str(error)):  # an item of a list
        item = value[int(found[1])]
        return f"[{found[1]}]: must be {_words(get_args(type_)[0])}, but is {shown(item)}"
    if found := re.search(r"contains unknown field `(.*?)`", str(error)):
        return f".{found[1]}: is not a known key"
    return f": must be {_words(type_)}, but is {shown(value)}"


def _words(type_: Any) -> str:
    origin, inner = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return _words(inner[0])
    if origin is tuple:
        return "a list of texts" if _struct_of_items(type_) is None else "a list of mappings"
    if isinstance(type_, UnionType) or type(None) in inner:
        return _words(next(each for each in inner if each is not type(None)))
    return _WORDS.get(type_, "a mapping of texts to texts")


def _decode(type_: type, value: Any) -> Any:
    if type_ is not Seconds:
        raise NotImplementedError(type_)
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = shown(value)
        raise ValueError(f"must have a unit: write {number}s, {number}m or {number}h")  # noqa: TRY004 -- for msgspec
    if not isinstance(value, str) or not value or not (match := _DURATION.fullmatch(value)):
        raise ValueError(f"must be {_words(Seconds)}, but is {shown(value)}")
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError(f"must be more than 0 and at most 366 days, but is {shown(value)}")
    return Seconds(seconds)


def one_of(known: Collection[str], value: Any) -> str:
    """The problem of a value that is none of these."""
    return f"must be one of {', '.join(known)}, but is {shown(value)}{did_you_mean(value, known)}"


def did_you_mean(value: Any, known: Collection[str]) -> str:
    """A hint at the known word that is nearest; "" if none is near."""
    near = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def shown(value: Any) -> str:
    """A value as a person would write it in YAML, cut short where it is long."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case int() if abs(value) >= _HUGE:  # which may have more digits than Python would print
            return "a huge number"
        case int() | float():
            return str(value)
        case str():
            text = value.encode("unicode_escape").decode()
            is_shown = len(text) <= _SHOWN and not _MAY_BE_SECRET.fullmatch(text)
            return f"'{text}'" if is_shown else f"'{text[:4]}...'"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return f"'{value}'"  # a date
