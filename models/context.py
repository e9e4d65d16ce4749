"""What a bid is made for, as the models see it and the bid log keeps it: where it would show, and which ad."""

import math
from typing import NamedTuple

import msgspec

NAN = math.nan  # what is not known
HOUR_US = 3_600_000_000


class Context(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where and when an ad would be shown; nothing in it identifies a person.

    Stored in the bid log as a MessagePack array: extend only at the end, with defaults. Empty text and -1 mean
    unknown, as does 0 for width, height, device_type and connection. domain or bundle: the site or the app.
    category: first IAB content category ("IAB9-30"). device_type, connection: OpenRTB lists 5.21 and 5.22.
    position: OpenRTB list 5.4, -1 unknown. country: ISO alpha-3. floor_micros: CPM micros in our accounting currency.
    at: 1 first price, 2 second price. hour: 0-23 and weekday: 0 = Monday, both local to the user, -1 unknown.
    n_imps: impressions offered in the request. content_category: first category of the content. topics: ids of the
    standard tags that the page's own words stand for, the most often named first; searched: those of search terms.
    fences: numbers of the campaigns' geofences the device is inside of. viewability: as the exchange measured it, 0 to
    1, -1 unknown. rewarded: 1 where the user gets something for watching. placement: of a video, AdCOM's plcmt.
    """

    exchange: str = ""
    domain: str = ""
    bundle: str = ""
    category: str = ""
    tagid: str = ""
    width: int = 0
    height: int = 0
    position: int = -1
    instl: int = 0
    device_type: int = 0
    os: str = ""
    browser: str = ""
    connection: int = 0
    language: str = ""
    country: str = ""
    region: str = ""
    city: str = ""
    floor_micros: int = 0
    at: int = 2
    hour: int = -1
    weekday: int = -1
    n_imps: int = 1
    content_category: str = ""
    topics: tuple[int, ...] = ()
    searched: tuple[int, ...] = ()
    fences: tuple[int, ...] = ()
    viewability: float = -1.0
    rewarded: int = 0
    placement: int = 0


class Reader(NamedTuple):
    """Device, place on earth and clock of who would see an ad, as in `Context`: the same for many people.

    region "USA-CA", city "USA-new york".
    """

    device_type: int
    os: str
    browser: str
    connection: int
    language: str
    country: str
    region: str
    city: str
    hour: int
    weekday: int


class Ad(msgspec.Struct, frozen=True, array_like=True):
    """One creative of one campaign as the models see it; stored like Context.

    category: IAB category of the advertised thing. interest: tag id (`interest.*`) the ad speaks to, 0 = none.
    target_tags: tag ids the campaign targets. audiences: numbers (`dmp.keys.number`) of the audiences it targets.
    preference: what it is about in the space of preferences, as `dmp.preference.pack` stores it, b"" for unknown.
    fences: numbers of the geofences it targets.
    """

    campaign: str
    creative: str
    advertiser: str = ""
    category: str = ""
    interest: int = 0
    width: int = 0
    height: int = 0
    target_tags: tuple[int, ...] = ()
    audiences: frozenset[int] = frozenset()
    preference: bytes = b""
    fences: frozenset[int] = frozenset()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Context)
_ad_decoder = msgspec.msgpack.Decoder(Ad)


def encode_context(context: Context) -> bytes:
    """The bytes of `dmp.events.Bid.context`."""
    return _encoder.encode(context)


def decode_context(data: bytes) -> Context:
    """Read `dmp.events.Bid.context` back; raises msgspec.DecodeError on anything else."""
    return _decoder.decode(data)


def encode_ad(ad: Ad) -> bytes:
    """The bytes of `dmp.events.Bid.ad`."""
    return _encoder.encode(ad)


def decode_ad(data: bytes) -> Ad:
    """Read `dmp.events.Bid.ad` back; raises msgspec.DecodeError on anything else."""
    return _ad_decoder.decode(data)
