"""What the models look at: one definition of features, filled by the same functions in the bidder and the trainer.

A feature belongs to a side, because the bid path computes each side at a different time: *request* features
(context and user) once per request, *campaign* features once per snapshot, *pair* features per candidate.
The order request, campaign, pair is the column order of every matrix and every logged vector.

Missing is NaN: an unknown context value, a category the vocabulary has never seen, and every user feature when
the user is None (contextual bid, or a store that could not be read). A user the store knows nothing of
(`dmp.schema.NOBODY`) is a fact and gives zeros. Never a feature: bid price, pacing, anything known only after
the auction. What a model froze of its training data, category codes and click rates, is its `Vocabulary`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from dmp import keys, realtime
from dmp.schema import Realtime, User
from dmp.taxonomy import INTERESTS, tag_id
from models.context import HOUR_US, NAN, Ad, Context
from models.pairs import pair_values

VERSION = 3  # bump when a function below changes what it returns
MAX_CATEGORIES = 1000  # LightGBM's native categoricals degrade above; rarer values become missing
MIN_CATEGORY_ROWS = 5  # a value seen fewer times teaches noise

Floats = npt.NDArray[np.float64]


class Feature(msgspec.Struct, frozen=True):
    """One column of the matrix. categorical: its value is a vocabulary code or NaN."""

    name: str
    kind: Literal["numeric", "categorical"]
    side: Literal["request", "campaign", "pair"]


_REQUEST = (
    "exchange:c site:c category:c tagid:c device_type:c os:c browser:c connection:c language:c "
    "country:c region:c city:c width height position instl floor_micros hour weekday n_imps "
    "place_hash place_rate place_rows content_category:c page_topic:c search_topic:c placement:c viewability rewarded "
    "user_interest:c user_last_category:c user_tags user_gender user_age user_recency user_frequency user_audiences "
    "user_shown_24h user_depth user_gap_h user_acts_24h"
)
_CAMPAIGN = "campaign:c creative:c advertiser:c ad_category:c ad_rate ad_rows"
_PAIR = (
    "interest_score target_sum target_max in_audiences shown_24h shown_7d hours_since_shown "
    "now_interest now_target retargeted preference category_match topic_match in_fence"
)


def _features(side: Literal["request", "campaign", "pair"], names: str) -> tuple[Feature, ...]:
    return tuple(
        Feature(name.removesuffix(":c"), "categorical" if name.endswith(":c") else "numeric", side)
        for name in names.split()
    )


_SIDES = (_features("request", _REQUEST), _features("campaign", _CAMPAIGN), _features("pair", _PAIR))
FEATURES: tuple[Feature, ...] = _SIDES[0] + _SIDES[1] + _SIDES[2]
"""Columns of every matrix, in order: request, campaign, pair."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
CATEGORICAL: tuple[int, ...] = tuple(i for i, feature in enumerate(FEATURES) if feature.kind == "categorical")
N_REQUEST, N_CAMPAIGN, N_PAIR = (len(side) for side in _SIDES)
_PAGE = ("category_match", "topic_match", "in_fence")  # pairs of ad and page: no user in them
USER_COLUMNS: tuple[int, ...] = tuple(
    i for i, name in enumerate(NAMES) if name.startswith("user_") or (FEATURES[i].side == "pair" and name not in _PAGE)
)
"""Columns that are NaN when the user is None."""

SIGNATURE: str = blake2b(
    f"{VERSION} {MAX_CATEGORIES} {_REQUEST} | {_CAMPAIGN} | {_PAIR}".encode(), digest_size=16
).hexdigest()
"""Names this definition; an artefact trained under another one is refused."""

_READER = ["device_type", "os", "browser", "connection", "language", "country", "region", "city", "hour", "weekday"]
READER_COLUMNS: tuple[int, ...] = tuple(i for i in range(N_REQUEST) if NAMES[i] in _READER)
NOW_COLUMNS: tuple[int, ...] = tuple(
    i for i in range(N_REQUEST) if NAMES[i] in ("floor_micros", "search_topic") or NAMES[i].startswith("user_")
)
PLACE_COLUMNS: tuple[int, ...] = tuple(i for i in range(N_REQUEST) if i not in READER_COLUMNS + NOW_COLUMNS)
"""The request features in three parts: what a placement has, what device and clock have, what only this request has."""

_CODES = {NAMES[column]: i for i, column in enumerate(CATEGORICAL)}
_SEARCH, _INTEREST, _LAST = (_CODES[name] for name in ("search_topic", "user_interest", "user_last_category"))
_in_columns = itemgetter(*np.argsort(PLACE_COLUMNS + READER_COLUMNS + NOW_COLUMNS).tolist())

_MALE, _FEMALE = tag_id("demographic.gender.male"), tag_id("demographic.gender.female")
_AGES = tuple(
    (tag_id(f"demographic.age.{name}"), float(i))
    for i, name in enumerate(("18_24", "25_34", "35_44", "45_54", "55_64", "65_plus"))
)
_RECENCY = tuple((tag_id(f"rfm.recency.{i}"), float(i)) for i in range(1, 6))
_FREQUENCY = tuple((tag_id(f"rfm.frequency.{i}"), float(i)) for i in range(1, 6))
_NO_USER_REQUEST = [NAN] * 12
_REQUEST_CODES = 18  # the categorical request columns

_rates_decoder = msgspec.msgpack.Decoder(dict[str, list[tuple[tuple[str, ...], float, float]]])


Category = str | int
Rate = tuple[float, float]
"""A smoothed click rate and ln(1 + impressions), a thousand at most, of the very key it was asked for."""


class Rates(msgspec.Struct, frozen=True):
    """Click rates of placements and ads as they stood on one day, each shrunk to its parent (`models.encoding`).

    Keys are chains, the most specific last: (exchange, domain or bundle, tagid) and (advertiser, campaign, creative).
    An unknown key has its parent's rate and no impressions of its own; the empty key is the rate of everything.
    Without that one nothing is known yet, and the rate is NaN.
    """

    places: dict[tuple[str, ...], Rate] = {}
    ads: dict[tuple[str, ...], Rate] = {}


def place_key(context: Context) -> tuple[str, ...]:
    return context.exchange, context.domain or context.bundle, context.tagid


def ad_key(ad: Ad) -> tuple[str, ...]:
    return ad.advertiser, ad.campaign, ad.creative


def encode_rates(rates: Rates) -> bytes:
    """The bytes of an artefact's `rates.bin`; keys of maps cannot be lists, so entries are (key, rate, impressions)."""
    tables = {"places": rates.places, "ads": rates.ads}
    return msgspec.msgpack.encode(
        {name: [(key, *rate) for key, rate in table.items()] for name, table in tables.items()}
    )


def decode_rates(data: bytes) -> Rates:
    """Read `rates.bin` back; raises msgspec.DecodeError on anything else."""
    tables = _rates_decoder.decode(data)
    return Rates(**{name: {key: (a, b) for key, a, b in tables.get(name, [])} for name in ("places", "ads")})


PLACE_HASHES = 1 << 12
_number = lru_cache(maxsize=65_536)(keys.number)


MAX_REMEMBERED = 100  # characters of a placement's name; longer ones may be sent to fill memory


def _place_hash(tagid: str) -> int:
    """Tells placements apart that are too many for a vocabulary; numeric, so two that collide only share a split."""
    return (_number if len(tagid) <= MAX_REMEMBERED else keys.number)(tagid) % PLACE_HASHES


def rate_of(table: Mapping[tuple[str, ...], Rate], key: tuple[str, ...]) -> Rate:
    """The rate of the longest known beginning of a key; impressions only when that is the whole key."""
    found = table.get(key)
    if found is not None:
        return found
    while key:
        key = key[:-1]
        found = table.get(key)
        if found is not None:
            return found[0], 0.0
    return NAN, 0.0


class Vocabulary:
    """What a model froze of its training data: categorical value -> code, and click rates. Unseen values are NaN.

    values: {feature name: values in code order}, as stored in the manifest (JSON keeps text and ints apart).
    rates: of placements and ads as of the end of training.
    """

    __slots__ = ("codes", "rates", "values")

    def __init__(self, values: Mapping[str, Sequence[Category]], rates: Rates | None = None) -> None:
        self.rates = Rates() if rates is None else rates
        self.values: dict[str, tuple[Category, ...]] = {NAMES[i]: tuple(values.get(NAMES[i], ())) for i in CATEGORICAL}
        self.codes: tuple[dict[Category, float], ...] = tuple(
            {value: float(code) for code, value in enumerate(known)} for known in self.values.values()
        )

    def with_rates(self, rates: Rates) -> "Vocabulary":
        """The same codes with other rates."""
        made = Vocabulary.__new__(Vocabulary)
        made.values, made.codes, made.rates = self.values, self.codes, rates
        return made

    def same(self, other: "Vocabulary") -> bool:
        """Whether two models read the very same numbers, so that features need filling once."""
        return self.values == other.values and self.rates == other.rates

    def jsonable(self) -> dict[str, list[Category]]:
        """What `Vocabulary(...)` takes back."""
        return {name: list(known) for name, known in self.values.items()}


Row = tuple[Context, User | None, Ad, int]
"""What one row of a matrix is made of: context, user as seen at bid time, ad, time of the bid in µs."""


def fit_vocabulary(rows: Iterable[Row], min_rows: int = MIN_CATEGORY_ROWS) -> Vocabulary:
    """Codes by falling frequency (ties by value), at most `MAX_CATEGORIES`, each seen in at least `min_rows` rows.

    Take training rows only: a value first seen in the test slice must stay unseen.
    """
    counts: list[Counter[Category]] = [Counter() for _ in CATEGORICAL]
    for context, user, ad, _ in rows:
        for counter, value in zip(counts, categories(context, user, ad), strict=True):
            counter[value] += 1
    return Vocabulary({NAMES[i]: known(counter, min_rows) for i, counter in zip(CATEGORICAL, counts, strict=True)})


def known(counts: Mapping[Category, int], min_rows: int = MIN_CATEGORY_ROWS) -> list[Category]:
    """The values of one categorical feature that get a code, in code order. counts: rows per value."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:MAX_CATEGORIES]
    return [value for value, n in ordered if n >= min_rows and value not in ("", 0)]


def categories(context: Context, user: User | None, ad: Ad) -> tuple[Category, ...]:
    """Raw values of the categorical features, in the order of CATEGORICAL; 0 and "" are missing."""
    return (
        context.exchange,
        context.domain or context.bundle,
        context.category,
        context.tagid,
        *reader_of(context)[:-2],  # the clock is no category
        context.content_category,
        context.topics[0] if context.topics else 0,
        context.searched[0] if context.searched else 0,
        context.placement,
        0 if user is None else top_interest(user.tags),
        0 if user is None or user.realtime is None else realtime.last_category(user.realtime),
        ad.campaign,
        ad.creative,
        ad.advertiser,
        ad.category,
    )


_INTEREST_RANK = {tag: rank for rank, tag in enumerate(INTERESTS)}


def top_interest(tags: Mapping[int, int]) -> int:
    """The interest tag with the highest score (first in the taxonomy on a tie), 0 when there is none."""
    rank = _INTEREST_RANK
    best = found = 0
    for tag, score in tags.items():
        if score >= best and score and tag in rank and (score > best or rank[tag] < rank[found]):
            best, found = score, tag
    return found


def request_values(vocabulary: Vocabulary, context: Context, user: User | None, now_us: int) -> list[float]:
    """The N_REQUEST request features. now_us: time of the bid, for contact windows."""
    return in_columns(
        place_values(vocabulary, place_of(context)),
        reader_values(vocabulary, reader_of(context)),
        now_values(vocabulary, context, user, now_us),
    )


def in_columns(place: list[float], reader: list[float], now: list[float]) -> list[float]:
    """The request features from their parts."""
    return list(_in_columns(place + reader + now))


Place = tuple[str, str, str, str, int, int, int, int, int, str, int, int, float, int]
Reader = tuple[int, str, str, int, str, str, str, str, int, int]


def place_of(context: Context) -> Place:
    """All that `place_values` looks at: the same for every request of a placement."""
    return (
        context.exchange,
        context.domain or context.bundle,
        context.tagid,
        context.category,
        context.width,
        context.height,
        context.position,
        context.instl,
        context.n_imps,
        context.content_category,
        context.topics[0] if context.topics else 0,
        context.placement,
        context.viewability,
        context.rewarded,
    )


def reader_of(context: Context) -> Reader:
    """All that `reader_values` looks at: device, place and clock, the same for many people."""
    return (
        context.device_type,
        context.os,
        context.browser,
        context.connection,
        context.language,
        context.country,
        context.region,
        context.city,
        context.hour,
        context.weekday,
    )


def place_values(vocabulary: Vocabulary, place: Place) -> list[float]:
    """The features of `PLACE_COLUMNS`."""
    (
        exchange,
        site,
        tagid,
        category,
        width,
        height,
        position,
        instl,
        n_imps,
        content,
        topic,
        placement,
        viewability,
        rewarded,
    ) = place
    codes = vocabulary.codes
    return [
        codes[_CODES["exchange"]].get(exchange, NAN),
        codes[_CODES["site"]].get(site, NAN),
        codes[_CODES["category"]].get(category, NAN),
        codes[_CODES["tagid"]].get(tagid, NAN),
        float(width) if width else NAN,
        float(height) if height else NAN,
        float(position) if position >= 0 else NAN,
        float(instl),
        float(n_imps),
        float(_place_hash(tagid)) if tagid else NAN,
        *rate_of(vocabulary.rates.places, (exchange, site, tagid)),
        codes[_CODES["content_category"]].get(content, NAN),
        codes[_CODES["page_topic"]].get(topic, NAN) if topic else NAN,
        codes[_CODES["placement"]].get(placement, NAN),
        viewability if viewability >= 0 else NAN,
        float(rewarded),
    ]


def reader_values(vocabulary: Vocabulary, reader: Reader) -> list[float]:
    """The features of `READER_COLUMNS`."""
    facts: tuple[str | int, ...] = reader[:-2]
    hour, weekday = reader[-2:]
    codes = [vocabulary.codes[_CODES[name]] for name in _READER[: len(facts)]]
    values = [known.get(fact, NAN) for known, fact in zip(codes, facts, strict=True)]
    values += (float(hour) if hour >= 0 else NAN, float(weekday) if weekday >= 0 else NAN)
    return values


def now_values(vocabulary: Vocabulary, context: Context, user: User | None, now_us: int) -> list[float]:
    """The features of `NOW_COLUMNS`: floor, search and user, which are another request's no more."""
    codes = vocabulary.codes
    values = [float(context.floor_micros), codes[_SEARCH].get(context.searched[0], NAN) if context.searched else NAN]
    if user is None:
        values += _NO_USER_REQUEST
        return values
    tags = user.tags
    shown = 0
    if user.contacts:
        # A campaign counts under its own scope, so this sums what all our campaigns showed.
        since = now_us // HOUR_US - 24
        shown = sum([contact.count for contact in user.contacts if contact.hour >= since])
    now = user.realtime
    category_now = NAN if now is None else codes[_LAST].get(realtime.last_category(now), NAN)
    if not tags:
        values += [NAN, category_now, 0.0, NAN, NAN, NAN, NAN, float(len(user.audiences)), float(shown)]
        values += _lately(now, now_us)
        return values
    get = tags.get
    male, female = get(_MALE, 0), get(_FEMALE, 0)
    values += [
        codes[_INTEREST].get(top_interest(tags), NAN),
        category_now,
        float(len(tags)),
        NAN if male == female else 1.0 if male > female else 0.0,
        _strongest(tags, _AGES),
        _strongest(tags, _RECENCY),
        _strongest(tags, _FREQUENCY),
        float(len(user.audiences)),
        float(shown),
    ]
    values += _lately(now, now_us)
    return values


_NOTHING_LATELY = (0.0, NAN, 0.0)


def _lately(now: Realtime | None, now_us: int) -> tuple[float, float, float]:
    """Depth of the session, hours since the user was last seen, acts of the last day."""
    if now is None:
        return _NOTHING_LATELY
    gap_h = max(0, now_us - realtime.last_seen_us(now)) / HOUR_US
    return float(realtime.session_depth(now, now_us)), gap_h, float(sum(realtime.counts(now, now_us, 23)))


def _strongest(tags: Mapping[int, int], buckets: tuple[tuple[int, float], ...]) -> float:
    """The value of the bucket tag with the highest score, NaN when the user has none of them."""
    best, value = 0, NAN
    for tag, bucket in buckets:
        if tag in tags and tags[tag] > best:
            best, value = tags[tag], bucket
    return value


def campaign_values(vocabulary: Vocabulary, ad: Ad) -> list[float]:
    """The N_CAMPAIGN campaign features."""
    campaign, creative, advertiser, category = vocabulary.codes[_REQUEST_CODES:]
    return [
        campaign.get(ad.campaign, NAN),
        creative.get(ad.creative, NAN),
        advertiser.get(ad.advertiser, NAN),
        category.get(ad.category, NAN),
        *rate_of(vocabulary.rates.ads, ad_key(ad)),
    ]


def row(vocabulary: Vocabulary, context: Context, user: User | None, ad: Ad, now_us: int) -> list[float]:
    """All features of one (context, user, ad): what the bidder logs and the trainer learns from."""
    values = request_values(vocabulary, context, user, now_us)
    values += campaign_values(vocabulary, ad)
    values += pair_values(ad, context, user, now_us)
    return values


def matrix(vocabulary: Vocabulary, rows: Iterable[Row]) -> Floats:
    """X: float64 (rows, len(FEATURES))."""
    flat: list[float] = []
    for context, user, ad, now_us in rows:
        flat += row(vocabulary, context, user, ad, now_us)
    return np.array(flat, dtype=np.float64).reshape(-1, len(FEATURES))
