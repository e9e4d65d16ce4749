"""What people of the world did minutes before an ad was offered, as the real-time records a bidder reads.

Some want something new every day, which two weeks of behaviour do not tell (`world.WorldConfig.wishers`). They look for
it in the minutes before they are met elsewhere, others do this and that (`behaviour.lately`); the stream's own code
makes records of it, and the bidder's own functions turn those into columns.
"""

from collections import defaultdict
from functools import cache

import msgspec
import numpy as np

from dmp import realtime
from dmp.acts import Act, Subject
from dmp.draft import Draft
from dmp.schema import Realtime, User
from dmp.taxonomy import tag_id
from loadtest import behaviour
from loadtest.world import VERTICALS, Ints, World
from models import features
from models.context import Ad, Context
from models.features import Vocabulary
from models.pairs import Ads, columns_of, pair_columns, row_of

REQUEST_COLUMNS = ("user_depth", "user_gap_h", "user_acts_24h")
PAIR_COLUMNS = ("now_interest", "now_target", "retargeted")
CATEGORY_COLUMN = "user_last_category"
COLUMNS = (CATEGORY_COLUMN, *REQUEST_COLUMNS, *PAIR_COLUMNS)
"""The features that a real-time record fills."""
_NOW_NAMES = tuple(features.NAMES[i] for i in features.NOW_COLUMNS)
_PAIR_NAMES = features.NAMES[features.N_REQUEST + features.N_CAMPAIGN :]
_REQUEST_AT = tuple(map(_NOW_NAMES.index, REQUEST_COLUMNS))
_PAIR_AT = tuple(map(_PAIR_NAMES.index, PAIR_COLUMNS))
_KINDS = (realtime.VIEW, realtime.SEARCH, realtime.CART, realtime.PURCHASE)  # of `behaviour.KINDS`
_NOTHING = Vocabulary({})


def of_day(world: World, day: int) -> World:
    """The same people, with what they want on a day; a world without wishes as it is."""
    config = world.config
    if not config.wishers:
        return world
    rng = np.random.default_rng([config.seed, 13, day])
    wish = np.where(rng.random(config.users) < config.wishers, rng.integers(0, len(VERTICALS), config.users), -1)
    return msgspec.structs.replace(world, people=msgspec.structs.replace(world.people, wish=wish))


def records(world: World, time_us: int, wanted: Ints) -> dict[int, Realtime]:
    """{user: record} of those among `wanted` who did something in the minutes before a time. world: as of its day."""
    if not world.config.wishers:
        return {}
    acts = behaviour.lately(world, time_us, stream=time_us // realtime.HOUR_US)
    mine = np.isin(acts.user, wanted)
    subjects = [_subject(tag_id(f"interest.{name}")) for name, _ in VERTICALS]
    drafts: dict[int, Draft] = defaultdict(lambda: Draft(None))
    columns = (acts.user[mine], acts.kind[mine], acts.vertical[mine], acts.time_us[mine])
    for user, kind, vertical, at_us in zip(*(column.tolist() for column in columns), strict=True):
        known = _KINDS[kind]
        drafts[user].add(Act(at_us, known, realtime.WEIGHTS[known], subjects[vertical], 0))
    return {user: Realtime(draft.finish(bytes(8))) for user, draft in drafts.items()}


def _subject(tag: int) -> Subject:
    return Subject(tag, ((tag, 1.0),), ())


def values(record: Realtime, ad: Ad, time_us: int) -> tuple[int, list[float]]:
    """(tag of `CATEGORY_COLUMN`, `REQUEST_COLUMNS` and `PAIR_COLUMNS`) of a user with this record and an ad."""
    user = User(realtime=record)
    now = features.now_values(_NOTHING, Context(), user, time_us)
    pair = row_of(pair_columns(_alone(ad), [0], Context(), user, time_us), 0)
    return realtime.last_category(record), [*(now[at] for at in _REQUEST_AT), *(pair[at] for at in _PAIR_AT)]


@cache
def _alone(ad: Ad) -> Ads:
    return columns_of((ad,))
