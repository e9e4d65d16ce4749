"""Reading an object that breaks its types: field by field, keeping what is clear.

One real request in eighteen breaks the standard's types and is still meant to be answered. null, "" and [] are
absent. Text that spells a number is that number, a whole number where text belongs is its text, a bool is 0 or 1,
one value where a list belongs is a list of one, "a,b" where a list of text belongs is two. What is still wrong is
unknown; but when it is a restriction (its annotation carries `extra={"strict": True}`) the nearest enclosing Struct
with a field `unusable` or `refuse` records where it is, and nothing may be bid on what that Struct stands for.
"""

import types
import typing
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T", bound=Struct)
_BLAME = ("unusable", "refuse")
_ABSENT = object()


class Unreadable(Exception):
    """A restriction whose value nobody can tell the meaning of; the message is its path."""


class _Plan(Struct, frozen=True):
    """How one field is read: as a Struct, a list (frozen: a tuple) of `items`, else as msgspec reads `annotation`."""

    annotation: Any
    strict: bool
    struct: type[Struct] | None = None
    items: "_Plan | None" = None
    frozen: bool = False


def _plan(annotation: Any, strict: bool = False) -> _Plan:
    inner = annotation
    while True:
        origin = typing.get_origin(inner)
        if origin is Annotated:
            strict = strict or any(
                bool((meta.extra or {}).get("strict")) for meta in inner.__metadata__ if isinstance(meta, msgspec.Meta)
            )
            inner = typing.get_args(inner)[0]
        elif origin in (types.UnionType, typing.Union):
            parts = [part for part in typing.get_args(inner) if part is not types.NoneType]
            strict = strict or any(_plan(part).strict for part in parts)
            if len(parts) > 1:
                return _Plan(annotation, strict)
            inner = parts[0]
        elif origin in (list, tuple):
            items = _plan(typing.get_args(inner)[0], strict)
            return _Plan(annotation, strict, items=items, frozen=origin is tuple)
        elif isinstance(inner, type) and issubclass(inner, Struct):
            return _Plan(annotation, strict, struct=inner)
        else:
            return _Plan(annotation, strict)


@cache
def _fields(struct: type[Struct]) -> tuple[tuple[str, str, _Plan], ...]:
    """(attribute, key in JSON, plan) of every field that is read."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return tuple(
        (field.name, field.encode_name, _plan(hints[field.name]))
        for field in msgspec.structs.fields(struct)
        if field.name not in _BLAME
    )


def read(struct: type[T], raw: dict[str, Any]) -> T:
    """The Struct that `raw` spells. Raises Unreadable where a restriction is unreadable and no Struct can record it.

    A required text field that is missing or unreadable is "" in a Struct that records it.
    """
    blame = next((name for name in _BLAME if name in struct.__struct_fields__), None)
    found: dict[str, Any] = {}
    problem = ""
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    for name, key, plan in _fields(struct):
        value = _ABSENT
        bad = key if name in required else ""
        try:
            value = _value(plan, raw.get(key))
        except Unreadable as error:
            bad = f"{key}.{error}" if str(error) else key
        if value is not _ABSENT:
            found[name] = value
        elif bad:
            if blame is None:
                raise Unreadable(bad)
            problem = problem or bad
            if name in required:
                found[name] = ""
    if blame is not None and problem:
        found[blame] = problem
    return struct(**found)


def _value(plan: _Plan, raw: Any) -> Any:
    if raw is None or raw in ("", []):
        return _ABSENT
    if plan.struct is not None:
        if isinstance(raw, dict):
            return read(plan.struct, raw)
    elif plan.items is not None:
        return _list(plan, plan.items, raw)
    else:
        for candidate in _spellings(raw):
            try:
                return msgspec.convert(candidate, plan.annotation, strict=False)
            except msgspec.ValidationError:
                continue
    if plan.strict:
        raise Unreadable
    return _ABSENT


def _spellings(raw: Any) -> tuple[Any, ...]:
    """What a plain value may have meant, likeliest first."""
    if isinstance(raw, bool):
        return (raw, int(raw))
    if isinstance(raw, float) and raw.is_integer():
        return (raw, int(raw), str(int(raw)))
    return (raw, str(raw)) if isinstance(raw, int) else (raw,)


def _list(plan: _Plan, items: _Plan, raw: Any) -> Any:
    if isinstance(raw, str) and items.struct is None:
        raw = [part.strip() for part in raw.split(",")]
    elif not isinstance(raw, list):
        raw = [raw]
    text = items.struct is None and "str" in str(items.annotation)
    found = []
    for item in raw:
        if plan.strict and text and not isinstance(item, str | None):
            raise Unreadable  # a number in a block list may stand for anything
        value = _value(items, item)
        if value is not _ABSENT:
            found.append(value)
    limit = next((meta.max_length for meta in _metas(plan.annotation) if meta.max_length is not None), None)
    if limit is not None and len(found) > limit:
        raise Unreadable
    return (tuple(found) if plan.frozen else found) or _ABSENT


def _metas(annotation: Any) -> list[msgspec.Meta]:
    """The constraints on a list that may be optional."""
    parts = [annotation, *typing.get_args(annotation)]
    return [meta for part in parts for meta in getattr(part, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
