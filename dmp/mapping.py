"""How the columns of somebody's log become behaviour events: a mapping, read from TOML.

    source = "shop"                       # name of the log, part of every event's identity
    id = [{column = "user", type = "cookie"}, {column = "idfa", type = "device"}]   # the first usable one counts
    time = {column = "ts", format = "epoch_ms"}                                     # or "iso", or strptime text
    kind = {column = "action", values = {pv = "view", buy = "purchase"}}
    consent = {value = 7}                 # `dmp.events` CONSENT_* bits; must be said, it is never assumed
    category = {column = "topic"}
    value = {column = "price", micros_per_unit = 10_000}                            # cents

Further entries: item, brand, device, channel, region, query, order_id, seller (texts); address, ip = {column = "c"}
(kept as keyed marks only); place = {lat = "y", lon = "x"}; due = {column = "ends", format = "%Y-%m-%d"};
other = {column = "followed", type = "login"} (the person the act pays heed to). Columns in
`optional` may be lacking in a log.

`explode` names a list column (or a text column cut at `explode_separator`): a row becomes one event per element, and
the other entries see the element in that column. Columns of JSON lines may be paths ("user.id").
"""

import difflib
import hashlib
import tomllib
import zoneinfo
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from dmp import events
from dmp.errors import ConfigError
from dmp.events import BEHAVIOUR
from dmp.pseudonym import MarkKind
from dmp.schema import IdType

PRESETS = ("ipinyou", "clickstream")
EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds per unit of a numeric time."""


class IdColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of raw ids; `type` is hashed with them (`dmp.pseudonym`)."""

    column: str
    type: IdType


class TimeColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When it happened.

    format: "iso", "epoch_s|ms|us", or a strptime text (%g: milliseconds, %f: microseconds). zone: IANA name of the
    clock of times that state no offset. earliest: ISO date; what is older is a bad time stamp, not history.
    """

    column: str
    format: str = "iso"
    zone: str = "UTC"
    earliest: str = "2000-01-01"


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text or number of an event.

    value: the same for all rows. column: where it stands, else. values: {text in the column: what it means}.
    default: for a text that is absent or not in `values`; without one, kinds and consents that are not known make a
    bad row, and other fields keep their text. take: "domain" keeps the host of a URL, whose path may identify.
    """

    column: str = ""
    value: str | int | None = None
    values: dict[str, str | int] = {}
    default: str | int | None = None
    take: Literal["text", "domain"] = "text"


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An amount; micros_per_unit: micros of the accounting currency in one unit of the column. Absent is 0."""

    column: str
    micros_per_unit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] = 1_000_000


class Keyed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text that may identify somebody: only its keyed mark is kept (P-60)."""

    column: str


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Degrees north and east, rounded to `decimals`: two are about a kilometre, the most that may be kept."""

    lat: str
    lon: str
    decimals: Annotated[int, msgspec.Meta(ge=0, le=2)] = 2


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the head of this file. format: "" is told by the file's name. header: for CSV without a line of names."""

    source: str
    id: Annotated[tuple[IdColumn, ...], msgspec.Meta(min_length=1)]
    time: TimeColumn
    kind: Field
    consent: Field
    event_id: Field = Field(value="")
    category: Field = Field(value="")
    site: Field = Field(value="")
    gender: Field = Field(value="")
    birth_year: Field = Field(value=0)
    value: Money | None = None
    explode: str = ""
    explode_separator: str = ""
    format: Literal["", "parquet", "csv", "jsonl"] = ""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    quoting: bool = True
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()
    item: Field = Field(value="")
    brand: Field = Field(value="")
    device: Field = Field(value="")
    channel: Field = Field(value="")
    region: Field = Field(value="")
    query: Field = Field(value="")
    order_id: Field = Field(value="")
    seller: Field = Field(value="")
    address: Keyed | None = None
    ip: Keyed | None = None
    place: Place | None = None
    due: TimeColumn | None = None
    optional: tuple[str, ...] = ()
    other: IdColumn | None = None


TEXTS = ("item", "brand", "device", "channel", "region", "query", "order_id", "seller")
"""Free texts of an event; a log that lacks one has no such column in its event files."""
KEYED: tuple[MarkKind, ...] = ("address", "ip")
_LATER = (*TEXTS, *KEYED, "place", "due", "optional", "other")
FIELDS = ("kind", "consent", "event_id", "category", "site", "gender", "birth_year", *TEXTS)
"""Entries that are a `Field`."""


def load(name: str) -> Mapping:
    """A mapping from a file, or a preset by its name; raises ConfigError with every problem."""
    if name in PRESETS:
        return parse(files("dmp").joinpath(f"{name}.toml").read_text(encoding="utf-8"), name)
    try:
        return parse(Path(name).read_text(encoding="utf-8"), name)
    except FileNotFoundError:
        raise ConfigError(name, [f"no such mapping file; presets: {', '.join(PRESETS)}"]) from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(name, [str(error)]) from None


def parse(text: str, origin: str) -> Mapping:
    """A mapping from TOML text; raises ConfigError with every problem."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(origin, [str(error)]) from None
    kinds = {field.name: field for field in msgspec.structs.fields(Mapping)}
    problems = [f"{name} is missing" for name, field in kinds.items() if field.required and name not in raw]
    for name, value in raw.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            problems.append(f"unknown key {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see the handbook"))
            continue
        try:
            msgspec.convert(value, kinds[name].type)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {error}")
    if not problems:
        mapping = msgspec.convert(raw, Mapping)
        problems = _faults(mapping)
        if not problems:
            return mapping
    raise ConfigError(origin, problems)


def _faults(mapping: Mapping) -> list[str]:
    """What is wrong in a mapping whose types are right."""
    faults = []
    for entry, time in (("time", mapping.time), ("due", mapping.due)):
        if time is None:
            continue
        try:
            zoneinfo.ZoneInfo(time.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            faults.append(f"{entry}.zone: {time.zone!r} is no IANA time zone")
        if time.format not in ("iso", *EPOCH_UNITS) and "%" not in time.format:
            faults.append(f"{entry}.format: {time.format!r} is none of iso, {', '.join(EPOCH_UNITS)}, strptime text")
    if mapping.due is not None and mapping.due.zone != mapping.time.zone:
        faults.append("due.zone: must be that of time")
    for name in FIELDS:
        field: Field = getattr(mapping, name)
        if (field.value is None) == (not field.column):
            faults.append(f"{name}: say either a column or a value for all rows")
    for name, allowed in (("kind", BEHAVIOUR), ("gender", {"m", "f", ""})):
        field = getattr(mapping, name)
        wrong = [v for v in (field.value, field.default, *field.values.values()) if v is not None and v not in allowed]
        faults += [f"{name}: {value!r} is none of {', '.join(sorted(allowed))}" for value in wrong]
    said = (mapping.consent.value, mapping.consent.default, *mapping.consent.values.values())
    faults += [
        f"consent: {value!r} is not 0..{events.CONSENT_ALL}"
        for value in said
        if value is not None and not (isinstance(value, int) and 0 <= value <= events.CONSENT_ALL)
    ]
    # P-60: an id column that is also a category or a site would be written as it stands.
    ids = {entry.column for entry in _id_columns(mapping)} | set(keyed_columns(mapping).values())
    faults += [
        f"{name!r} holds ids; nothing else may be read from it" for name in value_columns(mapping) if name in ids
    ]
    if mapping.explode_separator and not mapping.explode:
        faults.append("explode_separator: say which column with explode")
    needed = {entry.column for entry in mapping.id} | {mapping.explode}
    needed |= {mapping.time.column, mapping.kind.column, mapping.consent.column}
    faults += [f"optional: {name!r} must be there" for name in mapping.optional if name in needed]
    return faults


def keyed_columns(mapping: Mapping) -> dict[MarkKind, str]:
    """{field: column} of what is kept as marks only."""
    given = {name: getattr(mapping, name) for name in KEYED}
    return {name: entry.column for name, entry in given.items() if entry is not None}


def _id_columns(mapping: Mapping) -> tuple[IdColumn, ...]:
    return mapping.id if mapping.other is None else (*mapping.id, mapping.other)


def value_columns(mapping: Mapping) -> tuple[str, ...]:
    """The columns read besides the ids, in a fixed order, each once."""
    named = [mapping.time.column, *(getattr(mapping, name).column for name in FIELDS)]
    named += [mapping.value.column if mapping.value else "", mapping.explode]
    named += [mapping.due.column if mapping.due else ""]
    named += [mapping.place.lat, mapping.place.lon] if mapping.place else []
    return tuple(dict.fromkeys(filter(None, named)))


def columns(mapping: Mapping) -> tuple[str, ...]:
    """All columns read from a log: ids, then the rest."""
    ids = [*(entry.column for entry in _id_columns(mapping)), *keyed_columns(mapping).values()]
    return tuple(dict.fromkeys([*ids, *value_columns(mapping)]))


def signature(mapping: Mapping) -> str:
    """16 hex characters that change with the meaning of a mapping."""
    said = msgspec.to_builtins(mapping)
    for field in msgspec.structs.fields(Mapping):  # as an earlier release signed it, which did not know these
        if field.name in _LATER and getattr(mapping, field.name) == field.default:
            del said[field.name]
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()[:16]
