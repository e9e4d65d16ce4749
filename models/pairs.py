"""Features of an ad together with a user and a page, by column for all candidates of a request.

The side of `models.features` that costs most on the bid path: what all candidates share is worked out once and stands
as one number, what differs is picked from columns made with the snapshot.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import repeat
from operator import itemgetter
from typing import Any

import msgspec

from dmp import keys, preference, realtime
from dmp.schema import Contact, Realtime, User
from models.context import HOUR_US, NAN, Ad, Context
from models.forest import kernel
from models.lookups import look_up

_number = lru_cache(maxsize=65_536)(keys.number)

Columns = list[float | list[float]]
"""Features of several ads by column: one number where it is the same for all of them, else a list of one for each."""


class Ads(msgspec.Struct, frozen=True):
    """What pair features ask of ads, by column: picking a column for some ads costs less than asking each of them.

    targets: tags each ad targets; target: the first one, 0 for none. targeted: whether any ad targets a tag; several:
    whether any targets more than one; fenced: whether any has geofences; about: all their interests and targets.
    """

    interests: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]
    scopes: tuple[int, ...]
    categories: tuple[str, ...]
    audiences: tuple[frozenset[int], ...]
    preferences: tuple[bytes, ...]
    fences: tuple[frozenset[int], ...]
    targeted: bool
    several: bool
    fenced: bool
    about: frozenset[int]


def columns_of(ads: Sequence[Ad]) -> Ads:
    """Ads as `pair_columns` wants them."""
    targets = tuple(ad.target_tags for ad in ads)
    return Ads(
        interests=tuple(ad.interest for ad in ads),
        targets=targets,
        target=tuple(own[0] if own else 0 for own in targets),
        scopes=tuple(_number(ad.campaign) for ad in ads),
        categories=tuple(ad.category for ad in ads),
        audiences=tuple(ad.audiences for ad in ads),
        preferences=tuple(ad.preference for ad in ads),
        fences=tuple(ad.fences for ad in ads),
        targeted=any(targets),
        several=any(len(own) > 1 for own in targets),
        fenced=any(ad.fences for ad in ads),
        about=frozenset(tag for ad in ads for tag in (ad.interest, *ad.target_tags)),
    )


def pair_values(ad: Ad, context: Context, user: User | None, now_us: int) -> list[float]:
    """The N_PAIR features of one ad: `pair_columns` of it alone."""
    return row_of(pair_columns(columns_of((ad,)), [0], context, user, now_us), 0)


def row_of(columns: Columns, position: int) -> list[float]:
    """The features of the ad at a position."""
    return [column[position] if isinstance(column, list) else column for column in columns]


Pick = Callable[[tuple[Any, ...]], Sequence[Any]]
"""Takes some ads' entries out of a column."""


def pair_columns(ads: Ads, positions: list[int], context: Context, user: User | None, now_us: int) -> Columns:
    """The N_PAIR features of the candidates of a request: how ad and user, ad and page fit together.

    positions: of the candidates among the ads, at least one.
    Scores are 0-100; those that begin with `now_` come from the user's last hours and days alone. retargeted: what the
    ad is about lies in the user's basket. preference: cosine, NaN where user or ad has no vector. Contact windows cover
    the running clock hour and the whole hours that touch the window.
    category_match: 1 same IAB category, 0.5 same top level ("IAB9" and "IAB9-30"), 0 neither, NaN when one is unknown.
    topic_match: what the ad is about was 2 searched for, 1 named by the page, 0 neither; NaN where nothing is said.
    in_fence: whether the device is inside a geofence of the ad, NaN for an ad without.
    """
    pick: Pick = itemgetter(*positions) if len(positions) > 1 else lambda column: (column[positions[0]],)
    columns: Columns = [NAN] * 11 if user is None else _user_columns(ads, positions, pick, user, now_us)
    page = context.category
    columns.append([*map(_matches(page).__getitem__, pick(ads.categories))] if page else NAN)
    columns.append(_topic_match(ads, positions, context) if context.topics or context.searched else NAN)
    columns.append(_in_fence(ads, context.fences, positions) if ads.fenced else NAN)
    return columns


PairColumns = Callable[[list[int], Context, User | None, int], Columns]
"""`pair_columns` of some ads: (positions, context, user, now_us)."""


def filler(ads: Ads) -> PairColumns:
    """`pair_columns` of these ads for many requests, in C where the kernel is there: the same numbers, in a third of
    the time. What is rare the kernel asks back for: real-time record, preferences, geofences.
    """
    compiled = kernel()
    if compiled is None:
        return partial(pair_columns, ads)
    made: PairColumns = compiled.Pairs(
        ads.interests,
        ads.target,
        ads.targets,
        ads.scopes,
        ads.categories,
        tuple(map(_head, ads.categories)),
        ads.audiences,
        ads.fenced,
        partial(_lately, ads),
        partial(_liked, ads),
        partial(_in_fence, ads),
    ).columns
    return made


def _head(category: str) -> str:
    """The top level of an IAB category.

    >>> _head("IAB9-30"), _head("IAB9"), _head("")
    ('IAB9', 'IAB9', '')
    """
    return category.partition("-")[0]


def _in_fence(ads: Ads, inside: Sequence[int], positions: list[int]) -> list[float]:
    own = [ads.fences[position] for position in positions]
    return [NAN if not fences else 0.0 if fences.isdisjoint(inside) else 1.0 for fences in own]


class _Matches(dict[str, float]):
    """{category of an ad: how it matches one of a page}, filled as it is asked."""

    def __init__(self, page: str) -> None:
        self._page = page

    def __missing__(self, category: str) -> float:
        page = self._page
        if not category:
            match = NAN
        elif page == category:
            match = 1.0
        else:
            match = 0.5 if _head(category) == _head(page) else 0.0
        self[category] = match
        return match


_matches = lru_cache(maxsize=1_024)(_Matches)


def _summed(ads: Ads, positions: list[int], known: dict[int, int]) -> tuple[float | list[float], float | list[float]]:
    """(sum, maximum) of what is known of the targets of each candidate."""
    if not ads.several:
        column = look_up(known, ads.target, positions, 0) if ads.targeted else 0
        return column, column
    get = known.get
    scores = [[get(tag, 0) for tag in ads.targets[position]] for position in positions]
    return [*map(sum, scores)], [max(own) if own else 0 for own in scores]


def _topic_match(ads: Ads, positions: list[int], context: Context) -> float | list[float]:
    said = dict.fromkeys(context.topics, 1) | dict.fromkeys(context.searched, 2)
    if said.keys().isdisjoint(ads.about):
        return 0
    _, best = _summed(ads, positions, said)
    interests: list[float] = look_up(said, ads.interests, positions, 0)
    return [*map(max, interests, best)] if isinstance(best, list) else interests


def _user_columns(ads: Ads, positions: list[int], pick: Pick, user: User, now_us: int) -> Columns:
    """The pair features that a user is part of."""
    tags = user.tags
    total, strongest = _summed(ads, positions, tags)
    member: float | list[float] = 0
    if user.audiences:
        held = user.audiences
        member = [len(own & held) if own else 0 for own in pick(ads.audiences)]
    day: float | list[float]
    week: float | list[float]
    age: float | list[float]
    day, week, age = _NEVER
    if user.contacts:
        scopes = pick(ads.scopes)
        if not {contact.scope for contact in user.contacts}.isdisjoint(scopes):
            met = _met(user.contacts, now_us // HOUR_US)
            day, week, age = map(list, zip(*map(met.get, scopes, repeat(_NEVER)), strict=True))
    now: Columns = _NOTHING_NOW if user.realtime is None else _now_columns(ads, positions, user.realtime, now_us)
    liked = _liked(ads, user.vector, positions) if user.vector else NAN
    return [look_up(tags, ads.interests, positions, 0), total, strongest, member, day, week, age, *now, liked]


def _now_columns(ads: Ads, positions: list[int], record: Realtime, now_us: int) -> Columns:
    """now_interest, now_target and retargeted."""
    held, basket = _lately(ads, record, now_us)
    if not held and not basket:
        return _NOTHING_NOW
    _, target = _summed(ads, positions, held)
    retargeted: list[float] = look_up(dict.fromkeys(basket, True), ads.interests, positions, False)
    return [look_up(held, ads.interests, positions, 0), target, retargeted]


_NOTHING_NOW: Columns = [0.0, 0.0, 0.0]


def _lately(ads: Ads, record: Realtime, now_us: int) -> tuple[dict[int, int], frozenset[int]]:
    """Real-time tags that some ad is about, and what lies in the basket."""
    return realtime.realtime_tags(record, now_us, ads.about), realtime.carted(record, now_us)


_wanted = lru_cache(maxsize=16_384)(preference.unpack)


def _liked(ads: Ads, vector: bytes, positions: list[int]) -> float | list[float]:
    """Cosine of what the user likes and what each ad is about."""
    taste = preference.unpack(vector)
    if taste is None:
        return NAN
    own = [ads.preferences[position] for position in positions]
    return [float(preference.preference_match(taste, _wanted(wanted))) if wanted else NAN for wanted in own]


_NEVER = (0.0, 0.0, NAN)


def _met(contacts: Iterable[Contact], hour_now: int) -> dict[int, tuple[float, float, float]]:
    """{scope: (shown in 24 hours, shown in 7 days, hours since last shown)} of everything a user was shown."""
    met: dict[int, tuple[float, float, float]] = {}
    for contact in contacts:
        day, week, age = met.get(contact.scope, _NEVER)
        ago = float(hour_now - contact.hour)
        if ago <= 168:
            week += contact.count
            if ago <= 24:
                day += contact.count
        met[contact.scope] = day, week, min(ago, age)  # in this order NaN loses
    return met
