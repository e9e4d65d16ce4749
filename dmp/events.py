"""Everything that happens, as one tagged union of records, and their bytes.

Behaviour comes from sites, apps and servers; advertising events come from our own bidder and its notices. The
stored form is concatenated MessagePack maps, each with a `kind`; fields are extended only at the end, with
defaults, so that a later release reads what an earlier one wrote. Unknown fields are ignored. The tags of a bid's
user are a map with integer keys, which some readers have to be told to allow.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import msgpack
import msgspec

from dmp.errors import BadEvents
from dmp.schema import ID_TYPES, IdType, Uid, User

CONSENT_PROFILE = 1  # may build a profile (TCF purpose 3)
CONSENT_MEASURE = 2  # may be joined to ads by id (purpose 7)
CONSENT_TRAIN = 4  # may train models with user features (purpose 10)
CONSENT_ALL = CONSENT_PROFILE | CONSENT_MEASURE | CONSENT_TRAIN


class _Behaviour(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", omit_defaults=True):
    """What every behaviour event has.

    event_id: unique at its source, the key of de-duplication. uid: pseudonym. time_us: when it happened, UTC
    microseconds. source: who reported it. consent: CONSENT_* bits; none unless stated, and then the event may be
    counted but builds no profile.
    category: free or standard label of what it was about. site: domain or app bundle. value_micros: money, in
    micros of the accounting currency.
    item: product id. brand: its maker's name. device: pc, phone, tablet, tv ... channel: web, app, email, store ...
    region: ISO 3166 code or another label of a place. due_us: end of a contract or date of a replacement, UTC
    microseconds, 0 for none. seller: who sold. address, ip: keyed marks (`dmp.pseudonym`), never the text itself.
    ids: every id of the person that the event told (`pack_ids`), b"" when it told `uid` alone.
    other: pseudonym of the person the act pays heed to: who is followed or quoted, whose invitation or shared link was
    taken up; b"" for none.
    """

    event_id: str
    uid: Uid
    time_us: int
    source: str = ""
    consent: int = 0
    category: str = ""
    site: str = ""
    value_micros: int = 0
    item: str = ""
    brand: str = ""
    device: str = ""
    channel: str = ""
    region: str = ""
    due_us: int = 0
    seller: str = ""
    address: str = ""
    ip: str = ""
    ids: bytes = b""
    other: bytes = b""


class View(_Behaviour, frozen=True, tag="view"):
    """A page or item was looked at; dwell_ms is 0 when unknown."""

    dwell_ms: int = 0


class Search(_Behaviour, frozen=True, tag="search"):
    """A query was typed."""

    query: str = ""


class Cart(_Behaviour, frozen=True, tag="cart"):
    """Something was put into a basket."""


class Purchase(_Behaviour, frozen=True, tag="purchase"):
    """Something was bought, for value_micros."""

    order_id: str = ""


class Install(_Behaviour, frozen=True, tag="install"):
    """An app (site = bundle) was installed."""


class Location(_Behaviour, frozen=True, tag="location"):
    """The user was seen at a place, degrees rounded as consent demands."""

    lat: float | None = None
    lon: float | None = None


class AppUse(_Behaviour, frozen=True, tag="app_use"):
    """An app (site = bundle) was in use."""

    seconds: int = 0


class Crm(_Behaviour, frozen=True, tag="crm"):
    """A customer record: gender "m", "f" or "", birth_year 0 when unknown."""

    gender: Literal["m", "f", ""] = ""
    birth_year: int = 0


class Conversion(_Behaviour, frozen=True, tag="conversion"):
    """An advertiser's goal was reached; bid_id ties it to one of our bids when the advertiser knows it."""

    campaign: str = ""
    bid_id: str = ""
    order_id: str = ""


class Bid(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="bid", omit_defaults=True):
    """One bid we sent, with all that is needed to learn from it.

    event_id: our bid id. Prices are CPM micros of `currency`. at: 1 first price, 2 second. model: version of the
    response model, "" for none. pctr: calibrated click probability the price was made with. vector: the feature
    vector, float64 little endian, in the order of `models.features.FEATURES`. context: MessagePack of
    `models.context.Context`. user: as read for this bid; None when the bid was contextual or may not train.
    ad: MessagePack of `models.context.Ad`, what was offered as the campaign stood then. arm: experiment and arm
    the campaign bids for, "layer:arm".
    pace: multiplier on value it was made with; worth_micros: value after it, CPM micro-USD. shading: what made a
    first-price bid ("model", "segment", "constant"), "" in other auctions. landscape: version behind it, chance: its
    probability of winning, 0 = not known. quality: mean ln click probability of the ads scored for the imp, 0 when
    there was no model or the user may not train. explored: ln of the factor a price was varied by, 0 for none;
    propensity: probability of having been varied, or not, as it was (`bidder.pricing.explored`).
    shadow: version of the challenger that scored this bid too, "" for most; shadow_pctr: its click probability.
    ip: keyed mark of the address (`dmp.pseudonym`), never the address; "" where the bid may not train.
    """

    event_id: str
    time_us: int
    exchange: str
    auction_id: str
    imp_id: str
    campaign: str
    creative: str
    advertiser: str = ""
    uid: Uid | None = None
    price_micros: int
    value_micros: int = 0
    floor_micros: int = 0
    currency: str = "USD"
    at: int = 2
    model: str = ""
    pctr: float = 0.0
    vector: bytes = b""
    context: bytes = b""
    user: User | None = None
    arm: str = ""
    ad: bytes = b""
    worth_micros: int = 0
    pace: float = 1.0
    shading: str = ""
    landscape: str = ""
    chance: float = 0.0
    quality: float = 0.0
    explored: float = 0.0
    propensity: float = 1.0
    shadow: str = ""
    shadow_pctr: float = 0.0
    ip: str = ""


class _Notice(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", omit_defaults=True):
    """What an exchange or a browser tells about a bid.

    event_id: `<bid id>:<kind>`. price_micros: CPM, 0 when none was given.
    """

    event_id: str
    bid_id: str
    imp_id: str
    time_us: int
    campaign: str
    creative: str
    exchange: str = ""
    uid: Uid | None = None
    price_micros: int = 0


class Win(_Notice, frozen=True, tag="win"):
    """The auction was won; feeds price models, spends nothing."""


class Billing(_Notice, frozen=True, tag="billing"):
    """The impression is billable now."""


class Impression(_Notice, frozen=True, tag="impression"):
    """Our pixel saw the ad rendered."""


class Click(_Notice, frozen=True, tag="click"):
    """The ad was clicked."""


class Viewable(_Notice, frozen=True, tag="viewable"):
    """At least half of the ad was in view for a second, or two for a video (MRC)."""


class Progress(_Notice, frozen=True, tag="progress"):
    """A video or audio player reached a point: start, firstQuartile, midpoint, thirdQuartile, complete, or error.

    code: of an error (VAST 3.0, 2.4.2.3), 0 = none was told.
    """

    point: str = ""
    code: int = 0


class Loss(_Notice, frozen=True, tag="loss"):
    """The auction was lost; reason from OpenRTB 3.0, List: Loss Reason Codes."""

    reason: int = 0
    min_to_win_micros: int = 0


Behaviour = View | Search | Cart | Purchase | Install | Location | AppUse | Crm | Conversion
Notice = Win | Billing | Impression | Click | Loss | Viewable | Progress
Event = Behaviour | Bid | Notice


def pack_ids(ids: Iterable[tuple[IdType, Uid]]) -> bytes:
    """What `ids` of an event holds: for each id the number of its type (`dmp.schema.ID_TYPES`) and its 16 bytes.

    >>> pack_ids([("cookie", bytes(16))])
    b''
    """
    packed = [bytes((ID_TYPES.index(kind),)) + uid for kind, uid in ids]
    return b"".join(packed) if len(packed) > 1 else b""


def unpack_ids(packed: bytes) -> list[tuple[IdType, Uid]]:
    """Raises BadEvents for what `pack_ids` did not write."""
    parts = [packed[at : at + 17] for at in range(0, len(packed), 17)]
    if any(len(part) < 17 or part[0] >= len(ID_TYPES) for part in parts):
        raise BadEvents(f"ids of an event in {len(packed)} bytes are no list of types and pseudonyms")
    return [(ID_TYPES[part[0]], part[1:]) for part in parts]


def kind_of(struct: type[msgspec.Struct]) -> str:
    """The `kind` of an event's Struct, as stored."""
    return str(struct.__struct_config__.tag)


BEHAVIOUR: frozenset[str] = frozenset(map(kind_of, get_args(Behaviour)))
"""Kinds of what users did, as against what became of ads."""

KINDS: tuple[str, ...] = tuple(kind_of(member) for member in get_args(Event))

MAX_RECORD_BYTES = 4 * 1024**2  # a bid with all it can log takes about 10 kB
READ_BYTES = 1024**2

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_behaviour_decoder: msgspec.msgpack.Decoder[Behaviour] = msgspec.msgpack.Decoder(Behaviour)


def encode(event: Event) -> bytes:
    """One record."""
    return _encoder.encode(event)


def encode_map(fields: dict[str, Any]) -> bytes:
    """One record as its Struct would give it, without making that: from its `kind` and those of its fields that are not
    at their default, in the Struct's order.

    >>> click = {"event_id": "b:click", "bid_id": "b", "imp_id": "1", "time_us": 7, "campaign": "c", "creative": "k"}
    >>> decode(encode_map({"kind": "click", **click})) == Click(**click)
    True
    """
    return _encoder.encode(fields)


def decode(record: bytes) -> Event:
    """One record back; raises BadEvents when it is none."""
    try:
        return _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvents(f"not an event record: {error}") from None


def decode_behaviour(record: bytes) -> Behaviour:
    """One record back; raises BadEvents when it is none, or one of advertising."""
    try:
        return _behaviour_decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvents(f"not a behaviour record: {error}") from None


def read(file: BinaryIO) -> Iterator[Event]:
    """Records of an open file in order. A torn last record, left by a writer that was killed, ends the stream.

    Raises BadEvents on bytes that are no record.
    """
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=MAX_RECORD_BYTES + 2 * READ_BYTES)
    start = 0
    pending = b""
    while chunk := file.read(READ_BYTES):
        pending += chunk
        unpacker.feed(chunk)
        base = start
        while True:
            try:
                unpacker.skip()
            except msgpack.OutOfData:
                break
            except (ValueError, msgpack.UnpackException) as error:
                raise BadEvents(f"not event records at byte {start}: {error}") from None
            end = unpacker.tell()
            yield decode(pending[start - base : end - base])
            start = end
        pending = pending[start - base :]
        if len(pending) > MAX_RECORD_BYTES:  # a broken length must not pass the rest of the file off as a torn end
            raise BadEvents(f"not event records at byte {start}: no end within {MAX_RECORD_BYTES} bytes")


def read_file(path: Path) -> Iterator[Event]:
    """All records of one file; raises BadEvents naming the file."""
    with path.open("rb") as file:
        try:
            yield from read(file)
        except BadEvents as error:
            raise BadEvents(f"{path}: {error}") from None
