"""What the models look at: one definition of features, filled by the same functions in the bidder and the trainer.

A feature belongs to a side, because the bid path computes each side at a different time: *request* features
(context and user) once per request, *campaign* features once per snapshot, *pair* features per candidate.
The order request, campaign, pair is the column order of every matrix and every logged vector.

Missing is NaN: an unknown context value, a category the vocabulary has never seen, and every user feature when
the user is None (contextual bid, or a store that could not be read). A user the store knows nothing of
(`dmp.schema.NOBODY`) is a fact and gives zeros. Never a feature: bid price, pacing, anything known only after
the auction. `models.columns` names them; what a model froze of its training data is its `models.vocabulary`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from dmp import keys, realtime
from dmp.schema import Realtime, User
from dmp.taxonomy import INTERESTS, tag_id
from models.columns import CATEGORICAL as CATEGORICAL
from models.columns import CODES, READER
from models.columns import FEATURES as FEATURES
from models.columns import MAX_CATEGORIES as MAX_CATEGORIES
from models.columns import N_CAMPAIGN as N_CAMPAIGN
from models.columns import N_PAIR as N_PAIR
from models.columns import N_REQUEST as N_REQUEST
from models.columns import NAMES as NAMES
from models.columns import NOW_COLUMNS as NOW_COLUMNS
from models.columns import PLACE_COLUMNS as PLACE_COLUMNS
from models.columns import READER_COLUMNS as READER_COLUMNS
from models.columns import SIGNATURE as SIGNATURE
from models.columns import USER_COLUMNS as USER_COLUMNS
from models.context import HOUR_US, NAN, Ad, Context
from models.forest import kernel
from models.pairs import pair_values
from models.vocabulary import MIN_CATEGORY_ROWS
from models.vocabulary import Category as Category
from models.vocabulary import Rate as Rate
from models.vocabulary import Rates as Rates
from models.vocabulary import Vocabulary as Vocabulary
from models.vocabulary import decode_rates as decode_rates
from models.vocabulary import encode_rates as encode_rates
from models.vocabulary import known as known
from models.vocabulary import rate_of as rate_of

Floats = npt.NDArray[np.float64]

_SEARCH, _INTEREST, _LAST = (CODES[name] for name in ("search_topic", "user_interest", "user_last_category"))
_in_columns = itemgetter(*np.argsort(PLACE_COLUMNS + READER_COLUMNS + NOW_COLUMNS).tolist())

_MALE, _FEMALE = tag_id("demographic.gender.male"), tag_id("demographic.gender.female")
_AGES = tuple(
    (tag_id(f"demographic.age.{name}"), float(i))
    for i, name in enumerate(("18_24", "25_34", "35_44", "45_54", "55_64", "65_plus"))
)
_RECENCY = tuple((tag_id(f"rfm.recency.{i}"), float(i)) for i in range(1, 6))
_FREQUENCY = tuple((tag_id(f"rfm.frequency.{i}"), float(i)) for i in range(1, 6))
_INTEREST_RANK = {tag: rank for rank, tag in enumerate(INTERESTS)}
_KNOWN_TAGS = [
    *((tag, 0, rank, 0.0) for tag, rank in _INTEREST_RANK.items()),
    (_MALE, 1, 0, 0.0),
    (_FEMALE, 2, 0, 0.0),
    *(
        (tag, kind, place, value)
        for kind, buckets in ((3, _AGES), (4, _RECENCY), (5, _FREQUENCY))
        for place, (tag, value) in enumerate(buckets)
    ),
]
"""All tags that `now_values` looks at, as the kernel takes them: (tag, kind, place among its kind, value)."""
_NO_USER_REQUEST = [NAN] * 12
_REQUEST_CODES = 18  # the categorical request columns


def place_key(context: Context) -> tuple[str, ...]:
    return context.exchange, context.domain or context.bundle, context.tagid


def ad_key(ad: Ad) -> tuple[str, ...]:
    return ad.advertiser, ad.campaign, ad.creative


PLACE_HASHES = 1 << 12
_number = lru_cache(maxsize=65_536)(keys.number)


MAX_REMEMBERED = 100  # characters of a placement's name; longer ones may be sent to fill memory


def _place_hash(tagid: str) -> int:
    """Tells placements apart that are too many for a vocabulary; numeric, so two that collide only share a split."""
    return (_number if len(tagid) <= MAX_REMEMBERED else keys.number)(tagid) % PLACE_HASHES


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
        codes[CODES["exchange"]].get(exchange, NAN),
        codes[CODES["site"]].get(site, NAN),
        codes[CODES["category"]].get(category, NAN),
        codes[CODES["tagid"]].get(tagid, NAN),
        float(width) if width else NAN,
        float(height) if height else NAN,
        float(position) if position >= 0 else NAN,
        float(instl),
        float(n_imps),
        float(_place_hash(tagid)) if tagid else NAN,
        *rate_of(vocabulary.rates.places, (exchange, site, tagid)),
        codes[CODES["content_category"]].get(content, NAN),
        codes[CODES["page_topic"]].get(topic, NAN) if topic else NAN,
        codes[CODES["placement"]].get(placement, NAN),
        viewability if viewability >= 0 else NAN,
        float(rewarded),
    ]


def reader_values(vocabulary: Vocabulary, reader: Reader) -> list[float]:
    """The features of `READER_COLUMNS`."""
    facts: tuple[str | int, ...] = reader[:-2]
    hour, weekday = reader[-2:]
    codes = [vocabulary.codes[CODES[name]] for name in READER[: len(facts)]]
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
    category_now = NAN
    session = _NOTHING_LATELY
    if user.realtime is not None:
        category, *session = _lately(user.realtime, now_us)
        category_now = codes[_LAST].get(category, NAN)
    if not tags:
        values += (NAN, category_now, 0.0, NAN, NAN, NAN, NAN, float(len(user.audiences)), float(shown), *session)
        return values
    get = tags.get
    male, female = get(_MALE, 0), get(_FEMALE, 0)
    values += (
        codes[_INTEREST].get(top_interest(tags), NAN),
        category_now,
        float(len(tags)),
        NAN if male == female else 1.0 if male > female else 0.0,
        _strongest(tags, _AGES),
        _strongest(tags, _RECENCY),
        _strongest(tags, _FREQUENCY),
        float(len(user.audiences)),
        float(shown),
        *session,
    )
    return values


NowValues = Callable[[Context, User | None, int], list[float]]
"""`now_values` by one vocabulary: (context, user, now_us)."""


def now_filler(vocabulary: Vocabulary) -> NowValues:
    """`now_values` by this vocabulary for many requests, in C where the kernel is there: the same numbers, in a third
    of the time. The real-time record is read by Python.
    """
    compiled = kernel()
    if compiled is None:
        return partial(now_values, vocabulary)
    codes = vocabulary.codes
    made: NowValues = compiled.Now(codes[_SEARCH], codes[_INTEREST], codes[_LAST], _KNOWN_TAGS, _lately).values
    return made


_NOTHING_LATELY = [0.0, NAN, 0.0]


def _lately(now: Realtime, now_us: int) -> tuple[int, float, float, float]:
    """Tag of the latest act, depth of the session, hours since the user was last seen, acts of the last day."""
    gap_h = max(0, now_us - realtime.last_seen_us(now)) / HOUR_US
    depth = float(realtime.session_depth(now, now_us))
    return realtime.last_category(now), depth, gap_h, float(sum(realtime.counts(now, now_us, 23)))


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
