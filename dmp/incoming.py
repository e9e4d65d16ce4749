"""What a site, an app or a server sends about its users -> behaviour events, each item judged by itself.

An item is one JSON object: `kind`, `event_id`, `id` with its `id_type` (see `dmp.schema.IdType`), `ids` with further
ids of the same person (a list of the same pairs), `other` (one such pair: whom the act pays heed to), what the event
may be used for (`consent` bits, or `gdpr` and `gdpr_consent` with the user's TC string; `us_privacy` and `gpp_sid` may
refuse it), and the fields of its kind as `dmp.events` has them. `time_us` may be left out and is then now. Fields we
do not know are dropped.

Nothing raw leaves this file: an id becomes its pseudonym; addresses become marks; an event id, which senders make
of what they have, is kept as a keyed digest, which also keeps two sources with the same numbers apart (P-60). An
event that may not build a profile is kept without any of them (P-16). Only a sender trusted with it may link ids: who
can say that two ids are one person's can also say so of strangers until nothing holds their person together.
"""

import re
from collections.abc import Container, Iterator
from typing import Any, Literal, get_args

import msgspec

from dmp import events, permission
from dmp.events import CONSENT_ALL, CONSENT_MEASURE, CONSENT_PROFILE, Behaviour
from dmp.naming import names_somebody
from dmp.permission import Basis
from dmp.pseudonym import KeyRing
from dmp.schema import ID_TYPES, NO_UID, IdType, Uid
from dmp.us_privacy import refuses

Format = Literal["json", "ndjson"]
MAX_ITEMS = 1_000  # of one request
MAX_TEXT_CHARS = 512
MAX_FURTHER_IDS = 7
MAX_NUMBER = 2**53 - 1  # what every JSON writer can say exactly
AHEAD_US = 300_000_000  # clocks of different machines agree to five minutes
BACK_US = 400 * 86_400_000_000  # older history comes as files (`tagbid dmp ingest`)
MAX_VALUE_MICROS = 10**15
RANGES: dict[str, tuple[float, float]] = {
    "value_micros": (0, MAX_VALUE_MICROS),
    "dwell_ms": (0, 86_400_000),
    "seconds": (0, 7 * 86_400),
    "birth_year": (0, 2_200),
    "lat": (-90, 90),
    "lon": (-180, 180),
    "consent": (0, CONSENT_ALL),
}
"""Numbers outside are units mistaken; other whole numbers are 0 to MAX_NUMBER."""
DEGREE_DECIMALS = 2  # about a kilometre: nobody has opted in to more (P-16)
MARKED: tuple[Literal["address", "ip"], ...] = ("address", "ip")
UNSTORED = {*MARKED, "event_id"}  # as text
_STRUCTS = {events.kind_of(member): member for member in get_args(Behaviour)}
_FIELDS = {kind: frozenset(field.name for field in msgspec.structs.fields(struct)) for kind, struct in _STRUCTS.items()}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/@?#]*@)?([^/:?#]+)", re.IGNORECASE)
_PAGE = re.compile("[/?#]")
_QUOTED = re.compile("'.*'", re.DOTALL)  # the item's own text in an error message
_items = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, Any])


class Unusable(Exception):
    """One item is no event. code: for machines; detail: what to do, without anything of the item's content."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


class Taken(msgspec.Struct):
    """A request's items. events: the good ones. refused: (place in the request from 0, why) of the others."""

    events: list[Behaviour]
    refused: list[tuple[int, Unusable]]


def take(
    body: bytes, form: Format, source: str, now_us: int, ring: KeyRing, us: Basis, may_link: bool = False
) -> Taken:
    """All items of a request body. Raises Unusable when the body as a whole cannot be read or has too many items.

    may_link: whether the sender may say of several ids that they are one person's.
    """
    taken = Taken([], [])
    for place, raw in enumerate(_split(body, form)):
        if place >= MAX_ITEMS:
            raise Unusable("too_many", f"more than {MAX_ITEMS:,} events; send them in parts")
        try:
            item = _decoded(raw)
            if not may_link:
                _names_one(item)
            taken.events.append(event(item, source, now_us, ring, us))
        except Unusable as why:
            taken.refused.append((place, why))
    return taken


def event(item: dict[str, Any], source: str, now_us: int, ring: KeyRing, us: Basis) -> Behaviour:
    """One item as an event; raises Unusable. source: who sent it, as authenticated, whatever the item says."""
    kind = item.get("kind")
    if not isinstance(kind, str) or kind not in _STRUCTS:
        raise Unusable("unknown_kind", f"kind is one of {', '.join(_STRUCTS)}")
    consent = _consent(item, us)
    said = (_FIELDS[kind] & item.keys()) - {"ids", "other"}
    fields = {name: _checked(name, item[name]) for name in said if item[name] is not None}
    given = fields.get("event_id")
    if not isinstance(given, str) or not given:
        raise Unusable("missing_event_id", "event_id is a text that is unique at its source; copies count once")
    named = bool(consent & CONSENT_PROFILE or (kind == "conversion" and consent & CONSENT_MEASURE))
    for name in MARKED:
        if isinstance(fields.get(name), str):
            fields[name] = ring.mark(name, fields[name]) if named else ""
    ids = _ids(item, ring) if named else []
    fields |= {
        "kind": kind,
        "event_id": ring.event_id(source, given),
        "uid": ids[0][1] if named else NO_UID,
        "ids": events.pack_ids(ids),
        "other": _other(item.get("other"), ring) if named else b"",
        "time_us": _time(fields.get("time_us", now_us), now_us),
        "source": source,
        "consent": consent,
    }
    try:
        made: Behaviour = msgspec.convert(fields, _STRUCTS[kind])
    except msgspec.ValidationError as error:
        raise Unusable("bad_type", f"a field is of another type: {_QUOTED.sub('that', str(error))}") from None
    return made


def persons(event: Behaviour) -> set[Uid]:
    """Every id an event names."""
    return _own(event) | ({event.other} if event.other else set())


def without(event: Behaviour, gone: Container[Uid]) -> Behaviour:
    """The event as it is kept when some ids may not be known: without any id of its own, or without the other's."""
    if any(uid in gone for uid in _own(event)):
        return msgspec.structs.replace(event, uid=NO_UID, consent=0, ids=b"", other=b"", address="", ip="")
    return msgspec.structs.replace(event, other=b"") if event.other and event.other in gone else event


def _own(event: Behaviour) -> set[Uid]:
    return {event.uid, *(uid for _, uid in events.unpack_ids(event.ids))}


def _split(body: bytes, form: Format) -> Iterator[bytes | msgspec.Raw]:
    if form == "ndjson":
        return (line for line in body.split(b"\n") if line.strip())
    if body.lstrip()[:1] != b"[":
        return iter((body,))
    try:
        return iter(_items.decode(body))
    except (msgspec.DecodeError, RecursionError):
        raise Unusable("malformed", "the body is no JSON; to save what can be read, send one event a line") from None


def _decoded(raw: bytes | msgspec.Raw) -> dict[str, Any]:
    try:
        return _object.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unusable("malformed", "this is no JSON object") from None


def _consent(item: dict[str, Any], us: Basis) -> int:
    consent, gdpr, text = item.get("consent"), item.get("gdpr"), item.get("gdpr_consent")
    if consent is not None and not (type(consent) is int and 0 <= consent <= CONSENT_ALL):
        raise Unusable(
            "unknown_consent", f"consent is a number of bits, 0 to {CONSENT_ALL}: 1 profile, 2 measure, 4 train"
        )
    if gdpr not in (None, 0, 1) or not isinstance(text, str | None):
        raise Unusable("unknown_consent", "gdpr is 0 or 1, and gdpr_consent the TC string")
    if refuses(item.get("us_privacy"), item.get("gpp_sid")):
        return 0
    return permission.stated(consent, gdpr, text or "", us)


def _names_one(item: dict[str, Any]) -> None:
    """Raises Unusable for an item that says of several ids that they are one person's."""
    if item.get("ids"):
        raise Unusable("may_not_link", "this key may not link ids: leave `ids` out, or ask for one with events.link")


def _ids(item: dict[str, Any], ring: KeyRing) -> list[tuple[IdType, Uid]]:
    """The item's own id, then the further ones, each once."""
    further = item.get("ids") or []
    if (
        not isinstance(further, list)
        or len(further) > MAX_FURTHER_IDS
        or not all(isinstance(one, dict) for one in further)
    ):
        raise Unusable("bad_id", f"ids is a list of at most {MAX_FURTHER_IDS} objects with id and id_type")
    return list(dict.fromkeys(_id(one, ring) for one in (item, *further)))


def _other(one: Any, ring: KeyRing) -> Uid:
    """The pseudonym of somebody else; b"" for nobody."""
    if one is None:
        return b""
    if not isinstance(one, dict):
        raise Unusable("bad_id", "other is an object with id and id_type")
    return _id(one, ring)[1]


def _id(one: dict[str, Any], ring: KeyRing) -> tuple[IdType, Uid]:
    id_type, raw = one.get("id_type", "cookie"), one.get("id")
    if not isinstance(id_type, str) or id_type not in ID_TYPES:
        raise Unusable("unknown_id_type", f"id_type is one of {', '.join(ID_TYPES)}")
    if raw is None:
        raise Unusable("missing_id", "say whose event this is: id and id_type")
    uid = ring.uid(id_type, raw) if isinstance(raw, str) else None
    if uid is None:
        raise Unusable("bad_id", "id is no id of its type: blank, all zeros, a placeholder, or malformed")
    return id_type, uid


def _time(time_us: Any, now_us: int) -> int:
    """When it happened; a clock a little ahead of ours is set to ours, so that no record is from the future."""
    if type(time_us) is not int:
        raise Unusable("bad_time", "time_us is a whole number: microseconds since 1970, UTC")
    if time_us > now_us + AHEAD_US:
        raise Unusable("future", "time_us is ahead of our clock: is it in microseconds, and UTC?")
    if time_us < now_us - BACK_US:
        raise Unusable("too_old", "time_us is more than 400 days ago: is it in microseconds? ingest history as files")
    return min(time_us, now_us)


def _checked(name: str, value: Any) -> Any:
    """A field's value as it may be stored; its type is left to the event's Struct."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS:
            raise Unusable("too_long", f"{name} has more than {MAX_TEXT_CHARS} characters")
        if _UNPRINTABLE.search(value):
            raise Unusable("bad_text", f"{name} holds control characters")
        if name == "site" and (place := _PAGE.search(value)):
            host = _HOST.match(value)
            value = (host.group(1) if host else value[: place.start()]).lower()
        if name not in UNSTORED and names_somebody(value):
            raise Unusable("holds_id", f"{name} holds an e-mail address or a device id, which must not be stored")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = RANGES.get(name, (0, MAX_NUMBER))
        if not low <= value <= high:
            raise Unusable("bad_number", f"{name} is {low:,} to {high:,}")
        if name in ("lat", "lon"):
            return round(value, DEGREE_DECIMALS)
    return value
